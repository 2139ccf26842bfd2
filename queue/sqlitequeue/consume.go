package sqlitequeue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/callhook-go/callhook"
)

var errConsuming = errors.New("sqlitequeue: the queue is consumed already: one Run at a time")

// patience is how long a Consume that is to end waits for a disk that takes no
// verdicts.
var patience = 10 * time.Second

// Consume implements [callhook.Queue]. It uses the caller's goroutine, one for each
// delivery handed out, and one that writes while there is something to write.
// Besides [callhook.ErrQueueClosed], its error says that it runs already, or how
// many verdicts could not be stored: those deliveries come again.
func (q *Queue) Consume(ctx context.Context, handle callhook.Handler) error {
	q.mu.Lock()
	switch {
	case q.closed:
		q.mu.Unlock()
		return errClosed
	case q.consuming:
		q.mu.Unlock()
		return errConsuming
	case ctx.Err() != nil:
		q.mu.Unlock()
		return nil
	}
	ending, end := context.WithCancel(ctx)
	defer end()
	q.consuming, q.handle, q.ctx, q.end = true, handle, context.WithoutCancel(ctx), end
	for _, l := range q.lanes {
		q.feed(l)
	}
	q.spawn()
	q.schedule()
	q.mu.Unlock()

	<-ending.Done()

	q.mu.Lock()
	q.handle, q.ctx = nil, nil
	q.stopTimer()
	q.mu.Unlock()
	q.workers.Wait()
	err := q.drain()
	q.dones.Wait()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.consuming, q.end = false, nil
	if q.closed {
		return errors.Join(errClosed, err)
	}
	return err
}

// drain waits until all verdicts are stored, and puts back what was loaded.
func (q *Queue) drain() error {
	deadline := time.Now().Add(patience)
	wake := time.AfterFunc(patience, q.broadcast)
	defer wake.Stop()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.kick()
	for len(q.settles) > 0 && q.writing && time.Now().Before(deadline) {
		q.written.Wait()
	}
	var err error
	if n := len(q.settles); n > 0 {
		if !q.closed {
			err = fmt.Errorf("sqlitequeue: %d verdicts could not be stored in %s, so those deliveries come again: %w", n, q.path, q.w.err)
		}
		given := q.settles
		q.settles = nil
		for _, it := range given {
			q.leave(it)
			it.finished = true
		}
		q.dones.Add(1)
		go q.finish(given)
	}
	if q.closed {
		return err
	}
	op := &op{step: q.w.unload}
	q.perform(op)
	for !op.done {
		q.written.Wait()
	}
	return err
}

func (q *Queue) broadcast() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.written.Broadcast()
}

// feed hands out what is ready of a lane and in memory, and has loaded what is
// not. The caller holds q.mu.
func (q *Queue) feed(l *lane) {
	if q.handle == nil {
		return
	}
	for ln := l.next(); ln != nil; ln = l.next() {
		it := ln.window.peek()
		if !q.room(l, it.size) {
			q.starve(l)
			return
		}
		ln.window.pop()
		q.window -= it.size
		ln.remove1()
		l.serve++
		q.handOut(it)
	}
	if l.recalled.len() > 0 || l.fresh.missing() > 0 || l.tried.missing() > 0 {
		if !q.room(l, itemOverhead) {
			q.starve(l)
			return
		}
		q.load(l)
		return
	}
	// The lane goes on: what comes next is loaded before it is wanted.
	if q.busy < 128 {
		fresh, tried := q.ahead(l)
		if l.fresh.window.len() < fresh/4 && l.fresh.count > l.fresh.window.len() || l.tried.window.len() < tried/4 && l.tried.count > l.tried.window.len() {
			q.load(l)
		}
	}
}

// ahead is how many of a lane's lines to load before they are wanted; none where
// enough are in memory. Whoever has something loaded because of it finds that it is:
// otherwise the writer would look again and again.
func (q *Queue) ahead(l *lane) (fresh, tried int) {
	if q.window >= maxWindow {
		return 0, 0
	}
	// With many lanes the next of one is far from those of the others on disk.
	fresh = min(l.fetch, 1024/max(8, q.busy))
	tried = fresh / 4
	if l.fresh.window.len() > fresh/2 {
		fresh = 0
	}
	if l.tried.window.len() > tried/2 {
		tried = 0
	}
	return fresh, tried
}

// remove1 takes the first, which is ready, out of the line.
func (ln *line) remove1() { ln.count--; ln.want-- }

// room reports whether so many bytes more may be handed out. No lane takes all of
// the room from the others.
func (q *Queue) room(l *lane, size int64) bool {
	switch {
	case q.out == 0:
		return true
	case l.out == 0:
		return q.out+size <= 2*maxOut
	}
	return q.out+size <= maxOut && l.out+size <= maxOut/2
}

func (q *Queue) starve(l *lane) {
	if !l.starved {
		l.starved = true
		q.starved.push(l)
	}
}

// load has the writer load what is ready of a lane.
func (q *Queue) load(l *lane) {
	if !l.loading {
		l.loading = true
		q.loads.push(l)
		q.kick()
	}
}

// handOut gives a delivery to a goroutine.
func (q *Queue) handOut(it *item) {
	q.active[it.seq] = it
	q.out += it.size
	if it.lane.out == 0 {
		q.busy++
	}
	it.lane.out += it.size
	q.ready.push(it)
}

// leave forgets a delivery that was handed out.
func (q *Queue) leave(it *item) {
	delete(q.active, it.seq)
	q.out -= it.size
	if it.lane.out -= it.size; it.lane.out == 0 {
		q.busy--
	}
}

// feedStarved goes on where there was no memory.
func (q *Queue) feedStarved() {
	if q.out > maxOut*3/4 {
		return
	}
	for n := q.starved.len(); n > 0; n-- {
		l := q.starved.pop()
		l.starved = false
		q.feed(l)
	}
}

// spawn starts goroutines for what is ready. The caller holds q.mu.
func (q *Queue) spawn() {
	for q.handle != nil && q.starting < q.ready.len() {
		q.running++
		q.starting++
		q.workers.Add(1)
		go q.work()
	}
}

// work hands out deliveries until none is ready.
func (q *Queue) work() {
	defer q.workers.Done()
	q.mu.Lock()
	q.starting--
	for q.handle != nil && q.ready.len() > 0 {
		it := q.ready.pop()
		it.inHandler = true
		handle, ctx := q.handle, q.ctx
		q.mu.Unlock()
		it.d.State = callhook.StateInFlight
		it.verdict = handle(ctx, it.d)
		q.judged(it)
		q.mu.Lock()
	}
	q.running--
	q.mu.Unlock()
}

// judged takes a verdict. One that parks what was not touched is carried out here:
// on disk nothing changes.
func (q *Queue) judged(it *item) {
	d := it.d
	if v := it.verdict.State; v != callhook.StateDelivered {
		it.log, _ = encodeLog(d.Log)
		sum := sumOf(it.frozen, int64(d.Attempts), int64(d.Rejections), int64(d.Postponed), "", it.log)
		if v == callhook.StateParked && d.Attempts <= 0 && it.was == ready && sum == it.logSum {
			q.mu.Lock()
			q.leave(it)
			if !it.erased {
				it.lane.rest(it.seq)
			}
			q.feedStarved()
			q.spawn()
			q.mu.Unlock()
			it.verdict.Done()
			return
		}
		it.logSum = sum
	}
	q.mu.Lock()
	if q.closed {
		q.leave(it)
		q.mu.Unlock()
		it.verdict.Done()
		return
	}
	q.settles = append(q.settles, it)
	q.kick()
	q.mu.Unlock()
}

// finish tells the handlers that their verdicts were carried out.
func (q *Queue) finish(items []*item) {
	defer q.dones.Done()
	for _, it := range items {
		it.verdict.Done()
	}
}
