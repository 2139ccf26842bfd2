package natsqueue_test

import (
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/queue/natsqueue"
)

func TestConformance(t *testing.T) {
	callhooktest.TestQueue(t, func(t *testing.T, dir string) callhook.Queue {
		return open(t, dir, natsqueue.Options{Lease: 2 * time.Second})
	})
}

func TestConfigStore(t *testing.T) {
	callhooktest.TestConfigStore(t, func(t *testing.T, dir string) callhook.ConfigStore {
		t.Helper()
		srv, leave, err := enter(dir)
		if err != nil {
			t.Fatal(err)
		}
		nc := connect(t, srv.ClientURL())
		t.Cleanup(func() { nc.Close(); leave() })
		configs, err := natsqueue.OpenConfigs(t.Context(), natsqueue.ConfigOptions{Conn: nc})
		if err != nil {
			t.Fatal(err)
		}
		return configs.Store
	})
}
