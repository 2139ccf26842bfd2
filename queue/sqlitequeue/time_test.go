package sqlitequeue_test

import (
	"context"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// TestClock: the time of a RetryAt is a time of day. A clock that is set forward
// makes it due, one that is set back lets it wait, and neither stops anything.
func TestClock(t *testing.T) {
	var now clock
	q := open(t, nil)
	q.SetNow(now.Now)
	var mu sync.Mutex
	retries := map[string]time.Duration{}
	handed := make(chan string, 100)
	stop := consume(t, q, func(d *callhook.Delivery) callhook.Verdict {
		d.Attempts++
		mu.Lock()
		defer mu.Unlock()
		id, v := d.ID, callhook.Delivered()
		if d.Attempts == 1 {
			v = callhook.RetryAt(now.Now().Add(retries[id]))
		}
		return v.Then(func() { handed <- id })
	})
	raise := func(after time.Duration) string {
		d := event(0)
		mu.Lock()
		retries[d.ID] = after
		mu.Unlock()
		enqueue(t, q, d)
		if id := <-handed; id != d.ID {
			t.Fatalf("%s was handed out, want %s", id, d.ID)
		}
		return d.ID
	}
	hour, minutes := raise(time.Hour), raise(10*time.Minute)
	now.set(30 * time.Minute)
	q.Wake()
	if id := <-handed; id != minutes {
		t.Errorf("half an hour later %s was handed out, want the one for ten minutes", id)
	}
	now.set(-time.Hour) // back
	q.Wake()
	soon := raise(time.Millisecond)
	if id := <-handed; id != soon {
		t.Errorf("with the clock set back %s was handed out, want the one for a millisecond", id)
	}
	now.set(2 * time.Hour)
	q.Wake()
	if id := <-handed; id != hour {
		t.Errorf("two hours later %s was handed out, want the one for an hour", id)
	}
	now.set(-24 * time.Hour)
	settled := raise(time.Millisecond)
	if id := <-handed; id != settled {
		t.Errorf("%s was handed out, want %s", id, settled)
	}
	stop()
	wantCounts(t, q, callhook.Counts{Accepted: 4, Delivered: 4})
}

// engine counts the goroutines of this package and of the database.
func engine() (n int, stacks string) {
	buf := make([]byte, 1<<20)
	all := string(buf[:runtime.Stack(buf, true)])
	for g := range strings.SplitSeq(all, "\n\n") {
		if strings.Contains(g, "sqlitequeue.(*") && !strings.Contains(g, "sqlitequeue_test.engine") {
			n++
			stacks += g + "\n\n"
		}
	}
	return n, stacks
}

// wantGoroutines waits until there are so many.
func wantGoroutines(t *testing.T, when string, want int) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		n, stacks := engine()
		if n == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s there are %d goroutines, want %d\n%s", when, n, want, stacks)
		}
	}
}

// TestIdle: a queue with nothing to do has no goroutine, but for whoever calls
// Consume, whatever waits or is parked.
func TestIdle(t *testing.T) {
	q := open(t, nil)
	wantGoroutines(t, "after Open", 0)
	var ds []*callhook.Delivery
	for i := range 500 {
		ds = append(ds, event(i%50))
	}
	enqueue(t, q, ds...)
	wantGoroutines(t, "after Enqueue", 0)
	var done atomic.Int64
	stop := consume(t, q, func(d *callhook.Delivery) callhook.Verdict {
		v := callhook.Park()
		if d.Webhook > "hook2" {
			v = callhook.RetryAt(time.Now().Add(time.Hour))
		}
		return v.Then(func() { done.Add(1) })
	})
	for done.Load() < 500 {
		runtime.Gosched()
	}
	// The one that calls Consume, and in this test the function that it runs in.
	wantGoroutines(t, "while 500 wait or are parked", 1)
	stop()
	wantGoroutines(t, "after Consume", 0)
	if _, err := q.List(t.Context(), callhook.Filter{}); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	wantGoroutines(t, "after Close", 0)
}

// TestCloseWhileConsuming: Consume ends, and a verdict that comes too late is dropped:
// its delivery comes again.
func TestCloseWhileConsuming(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue.db")
	q := reopen(t, path, nil)
	d := event(0)
	enqueue(t, q, d)
	inHandler, answer := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	var done atomic.Int64
	go func() {
		ended <- q.Consume(context.Background(), func(context.Context, *callhook.Delivery) callhook.Verdict {
			close(inHandler)
			<-answer
			return callhook.Delivered().Then(func() { done.Add(1) })
		})
	}()
	<-inHandler
	for range 2 {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	}
	close(answer)
	if err := <-ended; err == nil || done.Load() != 1 {
		t.Errorf("Consume of a queue that was closed: %v; Done was called %d times, want an error and once", err, done.Load())
	}
	if got := deliverAll(t, reopen(t, path, nil), 1); got[d.ID] == "" {
		t.Error("it did not come again")
	}
}

// TestEverythingAtOnce: producers, handlers that give any verdict, releases, lists and
// a Consume that ends and begins again, until all is settled.
func TestEverythingAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue.db")
	q := reopen(t, path, sqlitequeue.SmallIndex(&sqlitequeue.Options{Unsynced: true}))
	const n = 800
	produced := make(chan struct{})
	go func() { defer close(produced); produce(t, q, n, 8, 20) }()
	var handled atomic.Int64
	handle := func(d *callhook.Delivery) callhook.Verdict {
		d.Attempts++
		switch i := handled.Add(1); {
		case d.Attempts > 3:
			return callhook.Delivered()
		case i%4 == 0:
			return callhook.Park()
		case i%4 == 1:
			return callhook.RetryAt(time.Now().Add(time.Duration(i%5) * time.Millisecond))
		case i%16 == 2:
			return callhook.Dead(callhook.ReasonRejected)
		case i%16 == 3:
			d.Attempts = 0
			return callhook.Park()
		}
		return callhook.Delivered()
	}
	for {
		stop := consume(t, q, handle)
		for range 50 {
			if _, err := q.Release(t.Context(), "", 7); err != nil {
				t.Fatal(err)
			}
			if _, err := q.List(t.Context(), callhook.Filter{Limit: 5, State: callhook.StateParked}); err != nil {
				t.Fatal(err)
			}
		}
		stop()
		c, err := q.Counts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-produced:
			if c.Pending == 0 {
				if c.Accepted != n {
					t.Errorf("counts %+v, want %d accepted", c, n)
				}
				sum := sqlitequeue.Query(t, path, `SELECT (SELECT count(*) FROM deliveries WHERE state NOT IN ('delivered', 'dead'))
					+ (SELECT count(*) FROM bodies) - (SELECT count(*) FROM deliveries WHERE state = 'dead')
					+ (SELECT sum(ready + parked + waiting + blocked) FROM counts)`)
				if sum != 0 {
					t.Errorf("the database has %d too many", sum)
				}
				return
			}
		default:
		}
	}
}
