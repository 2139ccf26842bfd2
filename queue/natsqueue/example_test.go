package natsqueue_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/natsqueue"
)

// What one process has raised, another delivers.
func Example() {
	dir, err := os.MkdirTemp("", "callhook")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	server, err := startServer(dir) // yours runs already
	if err != nil {
		log.Fatal(err)
	}
	defer server.Shutdown()

	open := func() *natsqueue.Queue {
		nc, err := nats.Connect(server.ClientURL(), nats.MaxReconnects(-1))
		if err != nil {
			log.Fatal(err)
		}
		queue, err := natsqueue.Open(context.Background(), natsqueue.Options{Conn: nc})
		if err != nil {
			log.Fatal(err)
		}
		return queue
	}

	// A node that takes calls raises an event; callhook.Hooks makes the delivery from it.
	calls := open()
	defer calls.Close()
	now := time.Now()
	err = calls.Enqueue(context.Background(), &callhook.Delivery{
		ID: "msg_1", Agent: "reception", Webhook: "crm", Lane: "/reception/crm", Type: callhook.TypePostCall,
		Event: callhook.EventEnded, Call: "call-1", At: now, EnqueuedAt: now, Body: []byte(`{"type":"call.ended"}`),
	})
	if err != nil {
		log.Fatal(err)
	}

	// Another delivers. Hooks.Run does what follows.
	delivers := open()
	defer delivers.Close()
	ctx, stop := context.WithCancel(context.Background())
	err = delivers.Consume(ctx, func(ctx context.Context, d *callhook.Delivery) callhook.Verdict {
		fmt.Printf("sending %s: %s\n", d.ID, d.Body)
		return callhook.Delivered().Then(stop)
	})
	if err != nil {
		log.Fatal(err)
	}
	counts, err := calls.Counts(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("accepted %d, delivered %d, pending %d\n", counts.Accepted, counts.Delivered, counts.Pending)
	// Output:
	// sending msg_1: {"type":"call.ended"}
	// accepted 1, delivered 1, pending 0
}
