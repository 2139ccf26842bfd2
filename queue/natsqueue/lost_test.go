package natsqueue_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/natsqueue"
)

func openAt(t *testing.T, url string, o natsqueue.Options) (*natsqueue.Queue, *nats.Conn) {
	t.Helper()
	o.Conn, o.Logger = connect(t, url), logger()
	q, err := natsqueue.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return q, o.Conn
}

// subjects returns those of a kind that the stream has, without the words before the ID.
func subjects(t *testing.T, url, kind string) (all []string) {
	t.Helper()
	nc := connect(t, url)
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "CALLHOOK")
	if err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter("CALLHOOK."+kind+".>"))
	if err != nil {
		t.Fatal(err)
	}
	for s := range info.State.Subjects {
		all = append(all, strings.SplitN(s, ".", 4)[3])
	}
	return all
}

func counts(t *testing.T, q callhook.Queue) callhook.Counts {
	t.Helper()
	c, err := q.(callhook.Inspector).Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// forget has a node that was stopped go on with what it had at another time, as a
// machine that lost its power before it synced.
func (n *node) forget(old string) {
	n.t.Helper()
	n.dir = old
	n.start()
}

// kept returns a copy of what a node has that is stopped, and starts it again.
func (n *node) kept() (old string) {
	n.t.Helper()
	n.stop()
	old = filepath.Join(n.t.TempDir(), "old")
	if err := os.CopyFS(old, os.DirFS(n.dir)); err != nil {
		n.t.Fatal(err)
	}
	n.start()
	return old
}

// enqueueAll raises events until each is accepted, some of which a server is away for.
func enqueueAll(t *testing.T, q callhook.Queue, name string, n int) {
	var producers sync.WaitGroup
	defer producers.Wait()
	for i := range n {
		producers.Go(func() {
			for {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				err := q.Enqueue(ctx, delivery("crm", fmt.Sprint(name, i)))
				cancel()
				if err == nil || t.Context().Err() != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
}

// TestLostEnd: a server loses the end of its stream, and gives the sequences of what is
// gone to what is stored next. What is accepted from then on is handed out; it is not
// taken for what was there before, nor swept away in its place.
func TestLostEnd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		first, new int
		away       bool // the new ones are raised while the server is away
	}{
		{"much, which is being swept away", 400, 50, false},
		{"little, which is stored anew at once", 3, 60, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			q, nc := openAt(t, n.srv.ClientURL(), natsqueue.Options{Partitions: 1, Lease: time.Second})
			defer nc.Close()
			defer q.Close()
			var settled, arrived atomic.Int64
			gate := make(chan struct{})
			handler := func(d *callhook.Delivery) callhook.Verdict {
				switch {
				case strings.HasPrefix(d.ID, "first"):
					<-gate
					return callhook.Delivered().Then(func() { settled.Add(1) })
				case !c.away && d.Attempts == 1: // so that they are there while others are swept,
					return callhook.RetryAt(time.Now().Add(9 * time.Second)) // and requests of before are given up after five
				}
				arrived.Add(1)
				return callhook.Delivered()
			}
			old := n.kept()
			consumer := consume(t, q, handler)
			defer consumer.stop()
			enqueueAll(t, q, "first", c.first)
			until(t, "all are in flight", func() bool { return consumer.times(fmt.Sprint("first", c.first-1)) == 1 })
			close(gate)
			until(t, "they are settled", func() bool { return settled.Load() == int64(c.first) })
			if c.away {
				until(t, "they are swept", func() bool { return len(subjects(t, n.srv.ClientURL(), "pending")) == 0 })
			}
			n.stop()
			if !c.away {
				n.forget(old)
			} else {
				time.AfterFunc(500*time.Millisecond, func() { n.forget(old) })
			}
			enqueueAll(t, q, "new", c.new)
			until(t, "what was accepted since has arrived", func() bool { return arrived.Load() >= int64(c.new) })
		})
	}
}

// cutter is between clients and a server. It ends a connection when the server has what
// a client sent, and before the answer comes.
type cutter struct {
	net.Listener
	mu   sync.Mutex
	text string // that is sent
	cuts int
}

func newCutter(t *testing.T, url string) *cutter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	c := &cutter{Listener: l}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", strings.TrimPrefix(url, "nats://"))
			if err != nil {
				_ = in.Close()
				continue
			}
			go c.serve(in, out)
		}
	}()
	return c
}

func (c *cutter) serve(in, out net.Conn) {
	defer in.Close()
	defer out.Close()
	var mute atomic.Bool
	go func() {
		defer in.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := out.Read(buf)
			if err != nil || mute.Load() {
				return
			}
			_, _ = in.Write(buf[:n])
		}
	}()
	buf := make([]byte, 1<<20)
	for {
		n, err := in.Read(buf)
		if err != nil {
			return
		}
		c.mu.Lock()
		cut := c.text != "" && strings.Contains(string(buf[:n]), c.text)
		if cut {
			c.text = ""
			c.cuts++
			mute.Store(true)
		}
		c.mu.Unlock()
		_, _ = out.Write(buf[:n])
		if cut {
			time.Sleep(100 * time.Millisecond) // so that the server has it
			return
		}
	}
}

func (c *cutter) cut(text string) { c.mu.Lock(); c.text = text; c.mu.Unlock() }
func (c *cutter) wasCut() bool    { c.mu.Lock(); defer c.mu.Unlock(); return c.cuts > 0 }

// TestLostAnswer: the server has stored what became of a delivery, and its answer never
// comes. The delivery is settled once, and nothing of it is left for who comes next.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
		verdict    func(*callhook.Delivery) callhook.Verdict
		handed     int
		want       callhook.Counts
	}{
		{"delivered", "HPUB CALLHOOK.done.", func(*callhook.Delivery) callhook.Verdict { return callhook.Delivered() }, 1, callhook.Counts{Accepted: 1, Delivered: 1}},
		{"dead", "Nats-Batch-Commit: 1", func(*callhook.Delivery) callhook.Verdict { return callhook.Dead(callhook.ReasonRejected) }, 1, callhook.Counts{Accepted: 1, Dead: 1}},
		{"tried again", "HPUB CALLHOOK.state.", func(d *callhook.Delivery) callhook.Verdict {
			if d.Attempts == 1 {
				return callhook.RetryAt(time.Now().Add(time.Second))
			}
			return callhook.Delivered()
		}, 2, callhook.Counts{Accepted: 1, Delivered: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			between := newCutter(t, n.srv.ClientURL())
			q, nc := openAt(t, "nats://"+between.Addr().String(), natsqueue.Options{Partitions: 1, Lease: time.Second})
			defer nc.Close()
			first := consume(t, q, c.verdict)
			between.cut(c.text)
			if err := q.Enqueue(t.Context(), delivery("crm", "a")); err != nil {
				t.Fatal(err)
			}
			until(t, "the connection was cut", between.wasCut)
			until(t, "it is settled", func() bool { got, err := q.Counts(t.Context()); return err == nil && got == c.want })
			until(t, "nothing of it is left", func() bool { return len(subjects(t, n.srv.ClientURL(), "pending")) == 0 })
			first.stop()
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
			if times := first.times("a"); times != c.handed {
				t.Errorf("it was handed out %d times, want %d", times, c.handed)
			}
			next, nc2 := openAt(t, n.srv.ClientURL(), natsqueue.Options{Lease: time.Second})
			defer nc2.Close()
			defer next.Close()
			if got := counts(t, next); got != c.want {
				t.Errorf("who comes next counts %+v, want %+v", got, c.want)
			}
			second := consume(t, next, c.verdict)
			if err := next.Enqueue(t.Context(), delivery("crm", "b")); err != nil {
				t.Fatal(err)
			}
			until(t, "another is handed out", func() bool { return second.times("b") > 0 })
			second.stop()
			if second.times("a") > 0 {
				t.Error("it was handed out again")
			}
		})
	}
}

// TestLooksWhileMoving: while partitions move from one process to another, both see all
// that there is, and Erase finds it.
func TestLooksWhileMoving(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	later := func(*callhook.Delivery) callhook.Verdict { return callhook.RetryAt(time.Now().Add(time.Hour)) }
	a := open(t, dir, natsqueue.Options{Lease: time.Second})
	defer a.Close()
	b := open(t, dir, natsqueue.Options{Lease: time.Second})
	defer b.Close()
	defer consume(t, a, later).stop()
	const all = 200
	var ds []*callhook.Delivery
	for i := range all {
		ds = append(ds, delivery(fmt.Sprint("lane", i), fmt.Sprint("d", i)))
	}
	if err := a.Enqueue(t.Context(), ds...); err != nil {
		t.Fatal(err)
	}
	until(t, "all are counted", func() bool { return counts(t, b).Pending == all })
	erased := 0
	for range 4 {
		moves := consume(t, b, later)
		for end := time.Now().Add(time.Second); time.Now().Before(end); {
			if c := counts(t, b); c != (callhook.Counts{Accepted: all, Pending: int64(all - erased), Erased: int64(erased)}) {
				t.Fatalf("%d are erased of %d: %+v", erased, all, c)
			}
			n, err := b.(callhook.Inspector).Erase(t.Context(), callhook.Filter{IDs: []string{fmt.Sprint("d", erased)}})
			if n != 1 || err != nil {
				t.Fatalf("Erase of one that is pending: %d, %v", n, err)
			}
			if erased++; erased == all {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		moves.stop()
	}
}

// TestCountsOfLatecomers: who looks for the first time while another delivers counts each
// once, and so does who looks when the IDs of what was delivered are forgotten.
func TestCountsOfLatecomers(t *testing.T) {
	natsqueue.CheckpointAfter(t, 500*time.Millisecond)
	dir := t.TempDir()
	q := open(t, dir, natsqueue.Options{Lease: time.Second})
	defer q.Close()
	defer consume(t, q, func(*callhook.Delivery) callhook.Verdict { return callhook.Delivered() }).stop()
	accepted := make(chan int64)
	enough := make(chan struct{})
	go func() {
		n := int64(0)
		for ; ; n++ {
			select {
			case <-enough:
				accepted <- n
				return
			default:
			}
			if err := q.Enqueue(t.Context(), delivery(fmt.Sprint("lane", n%9), fmt.Sprint("d", n))); err != nil {
				t.Error(err)
			}
		}
	}()
	var late []callhook.Queue
	for range 5 {
		l := open(t, dir, natsqueue.Options{Lease: time.Second})
		defer l.Close()
		counts(t, l)
		late = append(late, l)
	}
	close(enough)
	want := <-accepted
	until(t, "all are delivered", func() bool { return counts(t, q).Pending == 0 })
	for i, l := range late {
		if c := counts(t, l); c != (callhook.Counts{Accepted: want, Delivered: want}) {
			t.Errorf("of %d, latecomer %d counts %+v", want, i, c)
		}
	}
	stream, err := jetStreamOf(t, q).Stream(t.Context(), "CALLHOOK")
	if err != nil {
		t.Fatal(err)
	}
	until(t, "it is in the lanes' counts, which are not forgotten", func() bool {
		l := open(t, dir, natsqueue.Options{Lease: time.Second})
		defer l.Close()
		if err := stream.Purge(t.Context(), jetstream.WithPurgeSubject("CALLHOOK.done.>")); err != nil {
			t.Fatal(err)
		}
		return counts(t, l).Delivered == want
	})
}

// TestErasedLetter: of what was a dead letter, and of what was replayed, nothing is on
// the server's disk once it is erased.
func TestErasedLetter(t *testing.T) {
	t.Parallel()
	for _, replay := range []bool{false, true} {
		n := newNode(t)
		q, nc := openAt(t, n.srv.ClientURL(), natsqueue.Options{Lease: time.Second})
		c := consume(t, q, func(*callhook.Delivery) callhook.Verdict { return callhook.Dead(callhook.ReasonRejected) })
		d := delivery("crm", "a")
		d.Body = []byte("the caller's secret is 42")
		if err := q.Enqueue(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		until(t, "it is dead", func() bool { return counts(t, q).Dead == 1 })
		c.stop()
		if replay {
			if n, err := q.Replay(t.Context(), callhook.Filter{}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
		if n, err := q.Erase(t.Context(), callhook.Filter{IDs: []string{"a"}}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		until(t, fmt.Sprint("nothing is left, replayed: ", replay), func() bool { return len(holding(t, n.dir, "the caller's secret")) == 0 })
		if err := q.Close(); err != nil {
			t.Error(err)
		}
		nc.Close()
	}
}

// TestRefused: what could not be handed out, or could not die, is not accepted; and who
// consumes by a connection that was closed is told so.
func TestRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	q, nc := openAt(t, n.srv.ClientURL(), natsqueue.Options{Lease: time.Second})
	defer q.Close()
	long := delivery("crm", "long")
	long.Call = strings.Repeat("c", 61<<10)
	for _, c := range []struct {
		d    *callhook.Delivery
		want string
	}{
		{delivery("crm", ""), "natsqueue: a delivery of the lane acme/bot/crm has no ID"},
		{long, "natsqueue: the names, numbers and call of long take"},
	} {
		if err := q.Enqueue(t.Context(), c.d); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	if left := subjects(t, n.srv.ClientURL(), "pending"); len(left) > 0 {
		t.Errorf("%v are in the stream", slices.Sorted(slices.Values(left)))
	}
	nc.Close()
	err := q.Consume(t.Context(), func(context.Context, *callhook.Delivery) callhook.Verdict { return callhook.Delivered() })
	if err == nil || !strings.Contains(err.Error(), "connect with nats.MaxReconnects(-1)") {
		t.Errorf("Consume: %v", err)
	}
}
