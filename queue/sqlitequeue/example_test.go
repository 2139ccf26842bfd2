package sqlitequeue_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// What one process has accepted, the next one on the same file delivers.
func Example() {
	dir, err := os.MkdirTemp("", "callhook")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "callhook.db")

	// A node raises an event; callhook.Hooks makes the delivery from it.
	queue, err := sqlitequeue.Open(path, nil)
	if err != nil {
		log.Fatal(err)
	}
	now := time.Now()
	err = queue.Enqueue(context.Background(), &callhook.Delivery{
		ID: "msg_1", Agent: "reception", Webhook: "crm", Lane: "/reception/crm", Type: callhook.TypePostCall,
		Event: callhook.EventEnded, Call: "call-1", At: now, EnqueuedAt: now, Body: []byte(`{"type":"call.ended"}`),
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := queue.Close(); err != nil {
		log.Fatal(err)
	}

	// It starts again. Hooks.Run does what follows.
	if queue, err = sqlitequeue.Open(path, nil); err != nil {
		log.Fatal(err)
	}
	defer queue.Close()
	ctx, stop := context.WithCancel(context.Background())
	n, err := queue.Release(ctx, "", 1) // one of each lane, to see whether its endpoint is up
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("released:", n)
	err = queue.Consume(ctx, func(ctx context.Context, d *callhook.Delivery) callhook.Verdict {
		fmt.Printf("sending %s: %s\n", d.ID, d.Body)
		return callhook.Delivered().Then(stop)
	})
	if err != nil {
		log.Fatal(err)
	}
	counts, err := queue.Counts(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("accepted %d, delivered %d, pending %d\n", counts.Accepted, counts.Delivered, counts.Pending)
	// Output:
	// released: 1
	// sending msg_1: {"type":"call.ended"}
	// accepted 1, delivered 1, pending 0
}
