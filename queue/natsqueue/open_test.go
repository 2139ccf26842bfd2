package natsqueue_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/natsqueue"
)

// TestOpenErrors: what is wrong is said by Open, with what to do.
func TestOpenErrors(t *testing.T) {
	t.Parallel()
	bare, err := startServer(t.TempDir(), func(o *server.Options) { o.JetStream = false })
	if err != nil {
		t.Fatal(err)
	}
	defer bare.Shutdown()
	srv, leave, err := enter(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	without, nc := connect(t, bare.ClientURL()), connect(t, srv.ClientURL())
	defer without.Close()
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"ORDERS.>"}}); err != nil {
		t.Fatal(err)
	}
	for _, o := range []natsqueue.Options{{}, {Name: "EDITED"}, {Name: "KEEPING"}, {Name: "FLEETING", Storage: jetstream.MemoryStorage, Partitions: 3}} {
		o.Conn = nc
		q, err := natsqueue.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if durable := q.Limits().Durable; durable == (o.Storage == jetstream.MemoryStorage) {
			t.Errorf("Limits().Durable is %t with storage %s", durable, o.Storage)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	}
	edit := func(name string, change func(*jetstream.StreamConfig)) {
		t.Helper()
		stream, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		config := stream.CachedInfo().Config
		change(&config)
		if _, err := js.UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	edit("EDITED", func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour })
	edit("KEEPING", func(c *jetstream.StreamConfig) { c.DenyDelete = true })

	for name, tt := range map[string]struct {
		o    natsqueue.Options
		want error
		says string
	}{
		"no connection":         {natsqueue.Options{}, natsqueue.ErrOptions, "Conn is nil"},
		"a name":                {natsqueue.Options{Conn: nc, Name: "a.b"}, natsqueue.ErrOptions, `"a.b" cannot be the Name`},
		"a lease":               {natsqueue.Options{Conn: nc, Lease: time.Millisecond}, natsqueue.ErrOptions, "Lease is 1ms"},
		"partitions":            {natsqueue.Options{Conn: nc, Partitions: -1}, natsqueue.ErrOptions, "from 1 to 4096"},
		"no JetStream":          {natsqueue.Options{Conn: without}, natsqueue.ErrNoJetStream, "start the server with -js"},
		"other partitions":      {natsqueue.Options{Conn: nc, Partitions: 7}, natsqueue.ErrOptions, "has 32 partitions and Partitions is 7"},
		"other replicas":        {natsqueue.Options{Conn: nc, Replicas: 3}, natsqueue.ErrOptions, "nats stream edit CALLHOOK --replicas 3"},
		"other storage":         {natsqueue.Options{Conn: nc, Name: "FLEETING"}, natsqueue.ErrOptions, "is kept in Memory and Storage says File"},
		"another's stream":      {natsqueue.Options{Conn: nc, Name: "ORDERS"}, natsqueue.ErrForeign, "choose another Name"},
		"a stream that forgets": {natsqueue.Options{Conn: nc, Name: "EDITED"}, natsqueue.ErrForeign, "no max-age"},
		"a stream that keeps":   {natsqueue.Options{Conn: nc, Name: "KEEPING"}, natsqueue.ErrForeign, "messages may be deleted"},
		"too many replicas":     {natsqueue.Options{Conn: nc, Name: "THREE", Replicas: 3}, nil, "opening the stream THREE (3 replicas)"},
	} {
		q, err := natsqueue.Open(t.Context(), tt.o)
		if err == nil {
			q.Close()
		}
		if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: the error is %v, want one that is %v and says %q", name, err, tt.want, tt.says)
		}
	}
	if _, err := natsqueue.OpenConfigs(t.Context(), natsqueue.ConfigOptions{Conn: without}); !errors.Is(err, natsqueue.ErrNoJetStream) {
		t.Errorf("OpenConfigs without JetStream: %v, want ErrNoJetStream", err)
	}
	if _, err := natsqueue.OpenConfigs(t.Context(), natsqueue.ConfigOptions{Conn: nc, Bucket: "a.b"}); !errors.Is(err, natsqueue.ErrOptions) {
		t.Errorf("OpenConfigs with a bucket that cannot be: %v, want ErrOptions", err)
	}
	q, err := natsqueue.Open(t.Context(), natsqueue.Options{Conn: nc, Name: "FLEETING", Storage: jetstream.MemoryStorage})
	if err != nil {
		t.Fatalf("with zero Partitions the stream's number is taken: %v", err)
	}
	q.Close()
}

// TestTooLarge: what the server would not take is an error of Enqueue, and what Limits
// allow it takes.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	q := open(t, t.TempDir(), natsqueue.Options{})
	defer q.Close()
	d := delivery("crm", "a")
	d.Body = make([]byte, q.Limits().MaxBody)
	if err := q.Enqueue(t.Context(), d); err != nil {
		t.Errorf("Enqueue of a body of Limits().MaxBody: %v", err)
	}
	d = delivery("crm", "b")
	d.Body = make([]byte, 1<<20)
	if err := q.Enqueue(t.Context(), d); err == nil || !strings.Contains(err.Error(), "max_payload is 1048576: raise that") {
		t.Errorf("Enqueue of a body of a mebibyte: %v, want an error that names max_payload", err)
	}
}

// TestDeadLetterTooLarge: a dead letter's log makes way for its body.
func TestDeadLetterTooLarge(t *testing.T) {
	t.Parallel()
	q := open(t, t.TempDir(), natsqueue.Options{})
	defer q.Close()
	d := delivery("crm", "a")
	d.Body = make([]byte, q.Limits().MaxBody)
	if err := q.Enqueue(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	c := consume(t, q, func(d *callhook.Delivery) callhook.Verdict {
		for range 10 {
			d.Log = append(d.Log, callhook.Attempt{Status: 422, Reply: strings.Repeat("\xff<", 20_000)})
		}
		return callhook.Dead(callhook.ReasonRejected)
	})
	defer c.stop()
	var dead *callhook.Delivery
	until(t, "it is dead", func() bool {
		var err error
		dead, err = q.(callhook.Inspector).Get(t.Context(), "a")
		return err == nil && dead.State == callhook.StateDead
	})
	if len(dead.Body) != q.Limits().MaxBody || len(dead.Log) != 10 || dead.Log[0].Reply != "" {
		t.Errorf("the dead letter has a body of %d bytes and %d in its log, want %d and 10 without their replies", len(dead.Body), len(dead.Log), q.Limits().MaxBody)
	}
}

// TestFull: over MaxBytes nothing more is taken, what is pending goes on, and makes
// room.
func TestFull(t *testing.T) {
	t.Parallel()
	q := open(t, t.TempDir(), natsqueue.Options{MaxBytes: 1 << 20, Lease: 500 * time.Millisecond})
	defer q.Close()
	n := 0
	fill := func() error {
		for {
			d := delivery("crm", fmt.Sprint("d", n))
			d.Body = make([]byte, 50_000)
			if err := q.Enqueue(t.Context(), d); err != nil {
				return err
			}
			n++
		}
	}
	if err := fill(); !errors.Is(err, callhook.ErrQueueFull) {
		t.Fatalf("Enqueue over MaxBytes: %v, want ErrQueueFull", err)
	}
	if n < 15 || n > 20 {
		t.Errorf("%d bodies of 50 KB were taken with MaxBytes of 1 MiB, want 20 or a few less", n)
	}
	c := consume(t, q, func(*callhook.Delivery) callhook.Verdict { return callhook.Delivered() })
	defer c.stop()
	until(t, "there is room again", func() bool { return q.Enqueue(t.Context(), delivery("crm", "again")) == nil })
	until(t, "all are delivered", func() bool {
		counts, err := q.(callhook.Inspector).Counts(t.Context())
		return err == nil && counts.Delivered == int64(n+1)
	})
}

// TestServerFull: when the server itself takes no more the error says so, and nothing
// is repeated for it.
func TestServerFull(t *testing.T) {
	t.Parallel()
	srv, err := startServer(t.TempDir(), func(o *server.Options) { o.JetStreamMaxStore = 1 << 20 })
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Shutdown()
	nc := connect(t, srv.ClientURL())
	defer nc.Close()
	q, err := natsqueue.Open(t.Context(), natsqueue.Options{Conn: nc, Lease: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	for n := 0; err == nil && n < 1000; n++ {
		d := delivery("crm", fmt.Sprint("d", n))
		d.Body = make([]byte, 50_000)
		err = q.Enqueue(t.Context(), d)
	}
	if !errors.Is(err, callhook.ErrQueueFull) {
		t.Errorf("Enqueue when the server is full: %v, want ErrQueueFull", err)
	}
}

// TestConnectionClosed: a connection that has given up for good is an error.
func TestConnectionClosed(t *testing.T) {
	t.Parallel()
	srv, leave, err := enter(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	nc := connect(t, srv.ClientURL())
	q, err := natsqueue.Open(t.Context(), natsqueue.Options{Conn: nc})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	begun := make(chan struct{})
	if err := q.Enqueue(t.Context(), delivery("crm", "a")); err != nil {
		t.Fatal(err)
	}
	go func() {
		ended <- q.Consume(t.Context(), func(context.Context, *callhook.Delivery) callhook.Verdict {
			close(begun)
			return callhook.Delivered()
		})
	}()
	<-begun
	nc.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, nats.ErrConnectionClosed) || !strings.Contains(err.Error(), "MaxReconnects(-1)") {
			t.Errorf("Consume returned %v, want ErrConnectionClosed and what to do", err)
		}
	case <-time.After(patience):
		t.Error("Consume does not return when the connection is closed")
	}
	if err := q.Enqueue(t.Context(), delivery("crm", "b")); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("Enqueue returned %v, want ErrConnectionClosed", err)
	}
	if err := q.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}
