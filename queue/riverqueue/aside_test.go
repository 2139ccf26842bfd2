//go:build unix

package riverqueue_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/riverqueue"
)

// What stands in line for a lane that takes nothing is put aside, while somebody
// erases of it and others' deliveries come; and all of it comes out again, in order,
// once the lane takes something.
func TestBacklogAside(t *testing.T) {
	pool, _ := database(t)
	q := open(t, riverqueue.Options{Pool: pool, Partitions: 1})
	const calls = 700
	refused := delivery("hook0", "", "").Lane
	var pending []*callhook.Delivery
	for turn := range 3 { // so that the deliveries of a call do not stand together
		for call := range calls {
			d := delivery("hook0", fmt.Sprint("call", call), fmt.Sprintf("msg_%04d_%d", call, turn))
			d.Ordered = call%2 == 0
			pending = append(pending, d)
		}
	}
	for len(pending) > 0 {
		enqueue(t, q, pending[:100]...)
		pending = pending[100:]
	}

	l := newLedger(t)
	deliver := l.handler(0, func() {})
	var taking atomic.Bool
	var others atomic.Int64
	var mu sync.Mutex
	parked := 0
	stop := consume(t, q, func(d *callhook.Delivery) callhook.Verdict {
		switch {
		case d.Lane != refused:
			others.Add(1)
			return callhook.Delivered()
		case !taking.Load():
			mu.Lock()
			parked++
			mu.Unlock()
			return callhook.Park()
		}
		v := deliver(d)
		return v.Then(func() {
			v.Done()
			if _, err := q.Release(context.Background(), refused, 1); err != nil {
				t.Error(err)
			}
		})
	})
	erased := 0
	for call := 0; call < calls; call += 7 {
		n, err := q.Erase(context.Background(), callhook.Filter{Call: fmt.Sprint("call", call)})
		if err != nil {
			t.Fatal(err)
		}
		erased += n
		enqueue(t, q, event(1))
	}
	if erased != calls/7*3 {
		t.Errorf("%d were erased, want %d", erased, calls/7*3)
	}
	until(t, "all are parked or wait for earlier ones, and others have come", func() bool {
		var left int
		if err := pool.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM callhook.callhook_deliveries WHERE state NOT IN ('parked', 'blocked'))"+
			" + (SELECT count(*) FROM callhook.river_job)").Scan(&left); err != nil {
			t.Fatal(err)
		}
		return left == 0 && others.Load() == calls/7
	})
	mu.Lock()
	t.Logf("%d of %d were handed out before they were put aside", parked, calls*3-erased)
	mu.Unlock()

	taking.Store(true)
	if _, err := q.Release(t.Context(), refused, 8); err != nil {
		t.Fatal(err)
	}
	until(t, "all have come", func() bool { return l.count() == calls*3-erased })
	stop()
	if l.repeated > 0 {
		t.Errorf("%d came twice", l.repeated)
	}
	l.check()
}
