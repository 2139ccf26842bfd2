package sqlitequeue

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/callhook-go/callhook"
)

// One goroutine writes, with one connection. It takes all that waits, enqueues and
// verdicts alike, into one transaction, and while that goes to the disk the next
// one gathers. It lives only while there is something to do.

// Bounds of one transaction.
const (
	maxGroupRows  = 2048
	maxGroupBytes = 4 << 20
	// gatherFor is how long verdicts wait for others when nothing else is to be
	// written, unless they are gatherRows.
	gatherFor  = time.Millisecond
	gatherRows = 32
	dueBatch   = 512
)

// enqueue is a call of Enqueue.
type enqueue struct {
	records []*record
	next    int // the first that is not stored
	size    int64
	err     error
	done    chan struct{}
}

// op is something rare that the writer does, a step in each transaction.
type op struct {
	step func(t *txn) (more bool, err error)
	wipe bool // what it deleted must be gone from the log too
	err  error
	done bool
}

// writer is what belongs to the goroutine that writes.
type writer struct {
	db            *db
	seq           int64 // the last
	laneID        int64 // the last; the mutex guards it
	parkClock     int64 // Unix microseconds, but never the same twice
	err           error // the last of the database
	failures      int   // in a row
	notBefore     time.Time
	used          int64 // bytes of the database when they were last looked at
	added         int64 // since then, about
	gathered      bool  // it has waited for more verdicts
	chains        chains
	house         house
	checkpointing checkpointing
}

// Enqueue implements [callhook.Queue]. It returns when ds are on disk. When ctx ends
// before that, they may be stored or not.
func (q *Queue) Enqueue(ctx context.Context, ds ...*callhook.Delivery) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("sqlitequeue: nothing was stored: %w", err)
	}
	if len(ds) == 0 {
		return nil
	}
	e := &enqueue{records: make([]*record, 0, len(ds)), done: make(chan struct{})}
	for _, d := range ds {
		if n := len(d.Body); n > maxBody || len(d.Record) > maxBody {
			return fmt.Errorf("sqlitequeue: the body of %s has %d bytes and its record %d, and Limits().MaxBody is %d: nothing was stored", d.ID, n, len(d.Record), maxBody)
		}
		r, err := newRecord(d, q.laneOf(d))
		if err != nil {
			return fmt.Errorf("sqlitequeue: the delivery %s cannot be stored: %w", d.ID, err)
		}
		e.records = append(e.records, r)
		e.size += r.size
	}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return errClosed
	}
	q.enqueues.push(e)
	q.kick()
	q.mu.Unlock()
	select {
	case <-e.done:
		return e.err
	case <-ctx.Done():
		return fmt.Errorf("sqlitequeue: it was not waited for the disk, so enqueue the same again: %w", ctx.Err())
	}
}

// laneOf returns the lane of a delivery.
func (q *Queue) laneOf(d *callhook.Delivery) *lane {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lanes[d.Lane]
	if l == nil {
		q.w.laneID++
		l = &lane{name: d.Lane, id: q.w.laneID, LaneRef: callhook.LaneRef{Tenant: d.Tenant, Agent: d.Agent, Webhook: d.Webhook}}
		q.know(l)
	}
	return l
}

// kick has the writer run. The caller holds q.mu.
func (q *Queue) kick() {
	if q.writing {
		select {
		case q.gather <- struct{}{}:
		default:
		}
		return
	}
	if q.closed {
		return
	}
	q.writing = true
	go q.write()
}

// perform has the writer do something. The caller holds q.mu.
func (q *Queue) perform(o *op) {
	q.ops.push(o)
	q.kick()
}

// group is what goes into one transaction.
type group struct {
	enqueues []*enqueue
	upTo     []int // of each, the end of the part that is in the group
	settles  []*item
	lanes    []*lane // with due ones
}

// write does what is to be done until nothing is.
func (q *Queue) write() {
	var g group
	var loads []*lane
	for {
		q.gatherEnqueues()
		q.mu.Lock()
		select {
		case <-q.gather:
		default:
		}
		loads = loads[:0]
		for n := 0; q.loads.len() > 0 && n < 64; n++ {
			loads = append(loads, q.loads.pop())
		}
		var o *op
		if q.ops.len() > 0 {
			o = q.ops.pop()
		}
		pause := q.take(&g)
		if o == nil && len(loads) == 0 && len(g.settles) == 0 && len(g.enqueues) == 0 && len(g.lanes) == 0 {
			if pause > 0 {
				q.mu.Unlock()
				q.await(pause)
				continue
			}
			if !q.closed && q.w.house.due(q.now()) {
				q.mu.Unlock()
				q.housekeep()
				continue
			}
			if q.houseRang {
				q.houseRang = false
				q.wakeHouse()
			}
			q.writing = false
			q.written.Broadcast()
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		for _, l := range loads {
			q.loadLane(l)
		}
		if o != nil {
			q.operate(o)
		}
		if len(g.settles)+len(g.enqueues)+len(g.lanes) > 0 {
			q.commit(&g)
		}
		if now := q.now(); q.w.house.due(now) && !now.Before(q.w.house.stepAt) {
			q.housekeep()
		}
		q.broadcast()
	}
}

// gatherEnqueues lets those who waited for the last transaction bring what goes
// into the next, as long as more comes. It takes some microseconds.
func (q *Queue) gatherEnqueues() {
	for before := -1; ; {
		runtime.Gosched()
		q.mu.Lock()
		n := q.enqueues.len()
		q.mu.Unlock()
		if n <= before {
			return
		}
		before = n
	}
}

// take fills a group with what waits. It returns how long to wait when that is
// better than a small transaction, or than to try again at once what has failed.
func (q *Queue) take(g *group) time.Duration {
	g.enqueues, g.upTo, g.settles, g.lanes = g.enqueues[:0], g.upTo[:0], g.settles[:0], g.lanes[:0]
	rows, bytes := 0, int64(0)
	for _, e := range q.enqueues.all() {
		to := e.next
		for ; to < len(e.records) && (rows == 0 || rows < maxGroupRows && bytes < maxGroupBytes); to++ {
			rows++
			bytes += e.records[to].size
		}
		if to == e.next {
			break
		}
		g.enqueues, g.upTo = append(g.enqueues, e), append(g.upTo, to)
	}
	us := q.now().UnixMicro()
	due := q.handle != nil && len(q.dues) > 0 && q.dues[0].nextDue <= us
	if wait := time.Until(q.w.notBefore); q.w.failures > 0 && !q.closed && wait > 0 && wait <= maxPause {
		if due || len(q.settles) > 0 {
			return wait
		}
		return 0
	}
	for i := 0; due && len(q.dues) > 0 && q.dues[0].nextDue <= us && i < 64; i++ {
		l := q.dues[0]
		q.dues.set(l, 0)
		g.lanes = append(g.lanes, l)
	}
	if len(q.settles) == 0 {
		return 0
	}
	if q.closed && q.w.failures > 3 {
		return 0
	}
	n := min(len(q.settles), maxGroupRows)
	if n < gatherRows && len(g.enqueues) == 0 && len(g.lanes) == 0 && !q.w.gathered && q.handle != nil {
		q.w.gathered = true
		return gatherFor
	}
	q.w.gathered = false
	g.settles = append(g.settles, q.settles[:n]...)
	return 0
}

// await waits for more to write, at most so long.
func (q *Queue) await(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return
		case <-q.gather:
			q.mu.Lock()
			enough := len(q.settles) >= gatherRows && q.w.failures == 0 || q.enqueues.len() > 0 || q.ops.len() > 0 || q.loads.len() > 0 || q.handle == nil
			q.mu.Unlock()
			if enough {
				return
			}
		}
	}
}
