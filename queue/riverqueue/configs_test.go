//go:build unix

package riverqueue_test

import (
	"context"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/riverqueue"
)

// TestConfigsReconnect: a node whose connection breaks hears of what was published
// meanwhile, and of what comes then.
func TestConfigsReconnect(t *testing.T) {
	t.Parallel()
	pool, name := database(t)
	configs, err := riverqueue.OpenConfigs(t.Context(), riverqueue.Options{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	other, err := riverqueue.OpenConfigs(t.Context(), riverqueue.Options{Pool: connect(t, name)})
	if err != nil {
		t.Fatal(err)
	}
	news := make(chan callhook.ConfigRef, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { // as Hooks.Run does
		defer close(ended)
		for ctx.Err() == nil {
			if err := configs.Store.Watch(ctx, func(ref callhook.ConfigRef) { news <- ref }); err != nil {
				time.Sleep(10 * time.Millisecond)
			}
		}
	}()
	hears := func(want callhook.ConfigRef) {
		t.Helper()
		timeout := time.After(20 * time.Second)
		for {
			select {
			case got := <-news:
				if got == want {
					return
				}
			case <-timeout:
				t.Fatalf("Watch does not tell of %+v", want)
			}
		}
	}
	put := func(agent string) callhook.ConfigRef {
		t.Helper()
		ref := callhook.ConfigRef{Tenant: "acme", Agent: agent}
		if _, err := other.Store.Put(t.Context(), ref, []byte("doc"), ""); err != nil {
			t.Fatal(err)
		}
		return ref
	}
	hears(callhook.ConfigRef{})
	hears(put("first"))
	if _, _, err := other.Store.Get(t.Context(), callhook.ConfigRef{}); err != nil {
		t.Fatal(err)
	}
	if err := server.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '" + name + "' AND query LIKE 'LISTEN%'"); err != nil {
		t.Fatal(err)
	}
	hears(callhook.ConfigRef{})
	hears(put("second"))
	cancel()
	<-ended
}
