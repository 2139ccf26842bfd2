package natsqueue_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/natsqueue"
)

const patience = 30 * time.Second

// until waits for something that has to happen.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it took longer than %s until %s", patience, what)
		}
	}
}

// delivery returns one of a call of its own.
func delivery(lane, id string) *callhook.Delivery {
	now := time.Now()
	return &callhook.Delivery{
		ID: id, Tenant: "acme", Agent: "bot", Webhook: lane, Lane: "acme/bot/" + lane, Type: callhook.TypePostCall, Event: callhook.EventEnded,
		Call: "call_" + id, At: now, EnqueuedAt: now, Body: []byte(`{"id":"` + id + `"}`),
	}
}

// node is a server that can be stopped and started again at the same address.
type node struct {
	t    *testing.T
	dir  string
	port int
	srv  *server.Server
}

func newNode(t *testing.T) *node {
	n := &node{t: t, dir: t.TempDir(), port: server.RANDOM_PORT}
	n.start()
	t.Cleanup(n.stop)
	return n
}

func (n *node) start() {
	n.t.Helper()
	var err error
	until(n.t, "the server starts again", func() bool { // its port may be taken for a moment
		n.srv, err = startServer(n.dir, func(o *server.Options) { o.Port = n.port })
		return err == nil
	})
	var host string
	if _, err := fmt.Sscanf(n.srv.ClientURL(), "nats://127.0.0.1:%d%s", &n.port, &host); n.port <= 0 {
		n.t.Fatal(err)
	}
}

func (n *node) stop() {
	n.srv.Shutdown()
	n.srv.WaitForShutdown()
}

// consumer is a Consume under way, whose handler does what the test says.
type consumer struct {
	mu     sync.Mutex
	handed map[string]int
	stop   func()
}

func consume(t *testing.T, q callhook.Queue, handle func(d *callhook.Delivery) callhook.Verdict) *consumer {
	t.Helper()
	c := &consumer{handed: map[string]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- q.Consume(ctx, func(_ context.Context, d *callhook.Delivery) callhook.Verdict {
			c.mu.Lock()
			c.handed[d.ID]++
			c.mu.Unlock()
			d.Attempts++
			return handle(d)
		})
	}()
	c.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Consume: %v", err)
			}
		case <-time.After(patience):
			t.Error("Consume does not return")
		}
	})
	return c
}

func (c *consumer) times(id string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.handed[id]
}

// TestServerRestarts: a server goes away while attempts are under way, for longer than
// a lease, and comes back. Nothing is lost and nothing repeated, and all goes on.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	nc := connect(t, n.srv.ClientURL())
	defer nc.Close()
	const lease = 500 * time.Millisecond
	q, err := natsqueue.Open(t.Context(), natsqueue.Options{Conn: nc, Lease: lease, Logger: logger()})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	configs, err := natsqueue.OpenConfigs(t.Context(), natsqueue.ConfigOptions{Conn: nc})
	if err != nil {
		t.Fatal(err)
	}
	news := make(chan callhook.ConfigRef, 100)
	watching, unwatch := context.WithCancel(t.Context())
	defer unwatch()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for watching.Err() == nil { // as Hooks does
			if err := configs.Store.Watch(watching, func(ref callhook.ConfigRef) { news <- ref }); err != nil {
				time.Sleep(10 * time.Millisecond)
			}
		}
	}()
	hear := func(want callhook.ConfigRef) {
		t.Helper()
		for {
			select {
			case got := <-news:
				if got == want {
					return
				}
			case <-time.After(patience):
				t.Fatalf("the store's Watch does not tell of %+v", want)
			}
		}
	}
	hear(callhook.ConfigRef{})

	hold := make(chan struct{})
	var settled sync.WaitGroup
	settled.Add(1)
	c := consume(t, q, func(d *callhook.Delivery) callhook.Verdict {
		switch {
		case d.ID == "flying":
			<-hold
			return callhook.Delivered().Then(settled.Done)
		case d.ID == "waiting" && d.Attempts == 1:
			return callhook.RetryAt(time.Now().Add(3 * lease))
		case d.ID == "parked" && d.Attempts == 1:
			return callhook.Park()
		}
		return callhook.Delivered()
	})
	for _, id := range []string{"flying", "waiting", "parked"} {
		if err := q.Enqueue(t.Context(), delivery(id, id)); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "three are handed out", func() bool { return c.times("flying")+c.times("waiting")+c.times("parked") == 3 })
	until(t, "two have been tried", func() bool {
		tried, err := q.List(t.Context(), callhook.Filter{})
		n := 0
		for _, d := range tried {
			n += d.Attempts
		}
		return err == nil && n == 2
	})
	n.stop()
	close(hold) // its verdict has to wait for the server
	down, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	if err := q.Enqueue(down, delivery("down", "down")); err == nil {
		t.Error("Enqueue returned nil while the server is away")
	}
	cancel()
	time.Sleep(2 * lease)
	n.start()
	settled.Wait()
	for _, id := range []string{"after", "down"} {
		until(t, "the server takes what is enqueued", func() bool { return q.Enqueue(t.Context(), delivery(id, id)) == nil })
	}
	until(t, "what came after is handed out, and what waited", func() bool {
		return c.times("after") == 1 && c.times("down") == 1 && c.times("waiting") == 2
	})
	until(t, "the parked one is released", func() bool {
		freed, err := q.Release(t.Context(), "acme/bot/parked", 1)
		return err == nil && freed == 1
	})
	until(t, "all are settled", func() bool {
		counts, err := q.Counts(t.Context())
		return err == nil && counts == callhook.Counts{Accepted: 5, Delivered: 5}
	})
	if n := c.times("flying"); n != 1 {
		t.Errorf("the one whose verdict had to wait for the server was handed out %d times, want once", n)
	}
	ref := callhook.ConfigRef{Agent: "reception"}
	until(t, "the server takes a config", func() bool {
		_, err := configs.Store.Put(t.Context(), ref, []byte("{}"), "")
		return err == nil
	})
	hear(ref)
	c.stop()
	unwatch()
	<-watched
}

// TestServerForgets: a server that does not sync loses the end of its stream with the
// power. What it has still arrives, and what comes then.
func TestServerForgets(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	nc := connect(t, n.srv.ClientURL())
	defer nc.Close()
	q, err := natsqueue.Open(t.Context(), natsqueue.Options{Conn: nc, Lease: 500 * time.Millisecond, Logger: logger()})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if err := q.Enqueue(t.Context(), delivery("crm", "early")); err != nil {
		t.Fatal(err)
	}
	n.stop()
	old := filepath.Join(t.TempDir(), "old")
	if err := os.CopyFS(old, os.DirFS(n.dir)); err != nil {
		t.Fatal(err)
	}
	n.start()
	c := consume(t, q, func(d *callhook.Delivery) callhook.Verdict { return callhook.Delivered() })
	for i := range 50 {
		id := fmt.Sprint("lost", i)
		until(t, "the server takes what is enqueued", func() bool { return q.Enqueue(t.Context(), delivery("crm", id)) == nil })
	}
	until(t, "all are delivered", func() bool {
		counts, err := q.Counts(t.Context())
		return err == nil && counts == callhook.Counts{Accepted: 51, Delivered: 51}
	})
	n.stop()
	n.dir = old
	n.start()
	until(t, "the server takes what is enqueued", func() bool { return q.Enqueue(t.Context(), delivery("crm", "late")) == nil })
	until(t, "what it has and what came then is handed out", func() bool { return c.times("early") == 2 && c.times("late") == 1 })
	until(t, "the counts are those of what it has", func() bool {
		counts, err := q.Counts(t.Context())
		return err == nil && counts == callhook.Counts{Accepted: 2, Delivered: 2}
	})
	c.stop()
}
