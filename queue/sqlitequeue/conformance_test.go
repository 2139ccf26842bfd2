package sqlitequeue_test

import (
	"path/filepath"
	"testing"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

func TestConformance(t *testing.T) {
	callhooktest.TestQueue(t, func(t *testing.T, dir string) callhook.Queue {
		q, err := sqlitequeue.Open(filepath.Join(dir, "queue.db"), nil)
		if err != nil {
			t.Fatal(err)
		}
		return q
	})
}
