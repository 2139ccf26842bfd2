package natsqueue_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
)

func TestContract(t *testing.T) {
	t.Parallel()
	callhooktest.TestQueue(t, func(t *testing.T, dir string) callhook.Queue { return opened(t, dir) })
}

func opened(t *testing.T, dir string) *queue {
	t.Helper()
	q, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// The server refuses a batch for the one message whose ID it knows.
func TestKnownAmongMany(t *testing.T) {
	t.Parallel()
	q := opened(t, t.TempDir())
	defer q.Close()
	const n = 4 * minBatch
	ds := make([]*callhook.Delivery, n)
	for i := range ds {
		ds[i] = &callhook.Delivery{ID: fmt.Sprint("d", i), Call: fmt.Sprint("call", i), Lane: "lane"}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	came := make(chan string, 2*n)
	ended := make(chan error)
	go func() {
		ended <- q.Consume(ctx, func(_ context.Context, d *callhook.Delivery) callhook.Verdict {
			came <- d.ID
			return callhook.Delivered()
		})
	}()
	for _, part := range [][]*callhook.Delivery{ds[n/2 : n/2+1], ds, ds[1:]} {
		if err := q.Enqueue(ctx, part...); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for range n {
		select {
		case id := <-came:
			seen[id] = true
		case <-time.After(10 * time.Second):
			t.Fatalf("%d of %d came", len(seen), n)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(seen) != n || len(came) > 0 {
		t.Errorf("%d came, and %d too many, want %d", len(seen), len(came), n)
	}
}
