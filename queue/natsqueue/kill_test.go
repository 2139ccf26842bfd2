package natsqueue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/internal/crashtest"
	"github.com/callhook-go/callhook/queue/natsqueue"
)

// A server that is to be killed says its address.
func init() {
	crashtest.Role("server", func(args []string) error {
		srv, err := startServer(args[1], func(o *server.Options) { o.SyncAlways = false })
		if err != nil {
			return err
		}
		crashtest.Say(srv.ClientURL())
		crashtest.Told()
		return nil
	})
}

// holding returns the files of a folder that have a text.
func holding(t *testing.T, dir, text string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(text)) {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestServerKilled: a server is killed long after deliveries were settled, in every way
// in which that can be. None of it is back when it starts again.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const each = 40
	o := natsqueue.Options{Lease: time.Second, Logger: logger()}
	enter := func(url string) (*natsqueue.Queue, jetstream.Stream) {
		o.Conn = connect(t, url)
		q, err := natsqueue.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		js, err := jetstream.New(o.Conn)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := js.Stream(t.Context(), "CALLHOOK")
		if err != nil {
			t.Fatal(err)
		}
		return q, stream
	}
	left := func(stream jetstream.Stream) (n int) {
		for _, kind := range []string{"pending", "state", "dead"} {
			info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter("CALLHOOK."+kind+".>"))
			if err != nil {
				t.Fatal(err)
			}
			n += len(info.State.Subjects)
		}
		return n
	}

	srv := crashtest.Start(t, nil, "server", "first", dir)
	q, stream := enter(srv.Line(t))
	var settled atomic.Int64
	c := consume(t, q, func(d *callhook.Delivery) callhook.Verdict {
		settle := func() { settled.Add(1) }
		switch { // it was attempted once already
		case d.Webhook == "tried" && d.Attempts < 3:
			return callhook.RetryAt(time.Now())
		case d.Webhook == "dies":
			return callhook.Dead(callhook.ReasonRejected).Then(settle)
		case d.Webhook == "erased":
			return callhook.RetryAt(time.Now().Add(time.Hour)).Then(settle)
		}
		return callhook.Delivered().Then(settle)
	})
	var erased []string
	const secret = "what nobody is to read again"
	for _, lane := range []string{"fine", "tried", "dies", "erased"} {
		for i := range each {
			d := delivery(lane, fmt.Sprint(lane, i))
			if lane == "erased" {
				d.Body = []byte(secret)
			}
			if err := q.Enqueue(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			if lane == "erased" {
				erased = append(erased, d.ID)
			}
		}
	}
	until(t, "all have their verdicts", func() bool { return settled.Load() == 4*each })
	if files := holding(t, dir, secret); len(files) == 0 {
		t.Error("what is to be erased is in no file: the test shows nothing")
	}
	if n, err := q.Erase(t.Context(), callhook.Filter{IDs: erased}); n != each || err != nil {
		t.Fatalf("Erase returned %d, %v", n, err)
	}
	if files := holding(t, dir, secret); len(files) > 0 {
		t.Errorf("what was erased is in %v", files)
	}
	if n, err := q.Replay(t.Context(), callhook.Filter{Webhook: "dies"}); n != each || err != nil {
		t.Fatalf("Replay returned %d, %v", n, err)
	}
	until(t, "what was replayed has died again", func() bool { return settled.Load() == 5*each })
	if n, err := q.Erase(t.Context(), callhook.Filter{Call: "call_dies0"}); n != 1 || err != nil {
		t.Fatalf("Erase of a dead letter returned %d, %v", n, err)
	}
	// What is superseded goes by itself.
	until(t, "all that is settled is swept away", func() bool { return left(stream) == each-1 })
	want, err := q.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.stop()
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	o.Conn.Close()

	srv.Kill(t)
	q, stream = enter(crashtest.Start(t, nil, "server", "second", dir).Line(t))
	defer func() { q.Close(); o.Conn.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- q.Consume(ctx, func(_ context.Context, d *callhook.Delivery) callhook.Verdict {
			if d.ID != "new" {
				t.Errorf("%s was handed out again, with %d attempts", d.ID, d.Attempts)
			}
			return callhook.Delivered()
		})
	}()
	if err := q.Enqueue(t.Context(), delivery("fine", "new")); err != nil {
		t.Fatal(err)
	}
	want.Accepted++
	want.Delivered++
	until(t, "the counts are what they were, and one more", func() bool {
		got, err := q.Counts(t.Context())
		return err == nil && got == want
	})
	until(t, "nothing is left but dead letters", func() bool { return left(stream) == each-1 })
	cancel()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
