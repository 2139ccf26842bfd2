package callhook_test

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
)

// lent is a queue whose lanes are another process's at times, which parks what comes.
type lent struct {
	callhook.Queue
	away     atomic.Bool
	released atomic.Int64
}

func (q *lent) Limits() callhook.Limits {
	l := q.Queue.Limits()
	l.Shared = true
	return l
}

func (q *lent) Consume(ctx context.Context, handle callhook.Handler) error {
	return q.Queue.Consume(ctx, func(ctx context.Context, d *callhook.Delivery) callhook.Verdict {
		if q.away.Load() {
			return callhook.Park()
		}
		return handle(ctx, d)
	})
}

func (q *lent) Release(ctx context.Context, lane string, n int) (int, error) {
	q.released.Add(1)
	if q.away.Load() {
		return 0, nil // they are the other's
	}
	return q.Queue.Release(ctx, lane, n)
}

// comesBack is what a queue does with lanes that are taken over.
func (q *lent) comesBack(t *testing.T) {
	t.Helper()
	q.away.Store(false)
	if n, err := q.Queue.Release(t.Context(), "", 1); n != 1 || err != nil {
		t.Fatalf("the queue released %d, %v, want 1", n, err)
	}
}

// TestLaneComesBack: what another process has parked in a lane that this one had, and
// has again, goes, though this one knew that nothing was parked.
func TestLaneComesBack(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before func(t *testing.T, h *callhook.Hooks) // of what the lane had while it was this process's
		had    int64
		slow   time.Duration
	}{
		{"it was never here", func(*testing.T, *callhook.Hooks) {}, 0, 0},
		{"nothing was parked here", func(t *testing.T, h *callhook.Hooks) { raise(t, h, ended("before")); time.Sleep(time.Minute) }, 1, 0},
		{"it was looked at just now", func(t *testing.T, h *callhook.Hooks) { raise(t, h, ended("before")); synctest.Wait() }, 1, 0},
		{"some were parked here", func(t *testing.T, h *callhook.Hooks) {
			for _, id := range names("before", 30) {
				raise(t, h, ended(id))
			}
			time.Sleep(time.Minute)
		}, 30, 100 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				n.handle("x.test", func(http.ResponseWriter, *http.Request) { time.Sleep(tt.slow) })
				q := &lent{Queue: callhook.NewMemoryQueue(nil)}
				o := callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", `"concurrency": 2`)), Dial: n.Dial, Queue: q}
				run(t, o, func(h *callhook.Hooks) {
					tt.before(t, h)
					q.away.Store(true)
					for _, id := range names("meanwhile", 20) {
						raise(t, h, ended(id))
					}
					synctest.Wait()
					counts(t, q.Queue, tt.had, 0, 20)
					q.comesBack(t)
					time.Sleep(5 * time.Second)
					counts(t, q.Queue, tt.had+20, 0, 0)
				})
			})
		})
	}
}

// TestSharedLaneAsksSeldom: that another may have parked some costs a lane that is
// busy one Release in a second.
func TestSharedLaneAsksSeldom(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		n.handle("x.test", func(http.ResponseWriter, *http.Request) {})
		q := &lent{Queue: callhook.NewMemoryQueue(nil)}
		o := callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", "")), Dial: n.Dial, Queue: q}
		run(t, o, func(h *callhook.Hooks) {
			const seconds = 10
			for i := range 100 * seconds {
				raise(t, h, ended(fmt.Sprint("c", i)))
				time.Sleep(10 * time.Millisecond)
			}
			time.Sleep(time.Minute)
			if n := q.released.Load(); n > seconds+5 {
				t.Errorf("%d releases in %d seconds", n, seconds)
			}
			counts(t, q.Queue, 100*seconds, 0, 0)
		})
	})
}
