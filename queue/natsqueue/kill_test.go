package natsqueue_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/natsqueue"
)

// serverFolder says to a process that it is a server, and where it keeps its streams.
const serverFolder = "NATSQUEUE_SERVER_FOLDER"

// A process that was told a folder is a server, until its input ends.
func init() {
	dir := os.Getenv(serverFolder)
	if dir == "" {
		return
	}
	srv, err := startServer(dir, func(o *server.Options) { o.SyncAlways = false })
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(srv.ClientURL())
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// startProcess starts a server in a process of its own, and returns its address and
// what kills it.
func startProcess(t *testing.T, dir string) (url string, kill func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), serverFolder+"="+dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = in.Close()
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		kill()
		t.Fatalf("the server does not start: %v", err)
	}
	return strings.TrimSpace(line), kill
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

	url, kill := startProcess(t, dir)
	q, stream := enter(url)
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

	kill()
	url, kill = startProcess(t, dir)
	defer kill()
	q, stream = enter(url)
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
