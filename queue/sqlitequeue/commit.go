package sqlitequeue

import (
	"slices"
	"time"

	"github.com/ncruces/go-sqlite3"
)

// Pauses between attempts to store what the disk refuses.
const (
	minPause = 20 * time.Millisecond
	maxPause = time.Second
	// maxTries is how often a verdict is tried that a damaged page refuses: then it is
	// left, and the delivery comes again after the next Open.
	maxTries = 5
)

// commit stores a group. When that fails, the parts that are to blame fail alone.
func (q *Queue) commit(g *group) {
	err := q.attempt(g)
	if err == nil {
		if len(g.settles)+len(g.lanes) > 0 {
			q.committed()
		}
		return
	}
	switch faultOf(err) {
	case faultFull:
		q.checkpointNow(sqlite3.CHECKPOINT_PASSIVE) // the log is written from its beginning then, which needs no room
	case faultBusy:
		q.putBack(g, err)
		q.refuse(g, err)
		return
	}
	// Verdicts by themselves: what was new may have been too much.
	if len(g.enqueues) > 0 {
		rest := &group{settles: g.settles, lanes: g.lanes}
		if len(rest.settles)+len(rest.lanes) > 0 {
			if err := q.attempt(rest); err != nil {
				q.each(rest, err)
			} else {
				q.committed()
			}
		}
		for i, e := range g.enqueues {
			one := &group{enqueues: []*enqueue{e}, upTo: []int{g.upTo[i]}}
			if err := q.attempt(one); err != nil {
				q.refuse(one, err)
			}
		}
		return
	}
	q.each(g, err)
}

// each tries verdicts one by one, unless there is no hope.
func (q *Queue) each(g *group, err error) {
	if f := faultOf(err); f == faultFull || f == faultBusy {
		q.putBack(g, err)
		return
	}
	for _, l := range g.lanes {
		if err := q.attempt(&group{lanes: []*lane{l}}); err != nil {
			q.putBack(&group{lanes: []*lane{l}}, err)
		}
	}
	var lost []*item
	failed := 0
	for _, it := range g.settles {
		err := q.attempt(&group{settles: []*item{it}})
		if err == nil {
			continue
		}
		f := faultOf(err)
		if failed++; f == faultFull || f == faultBusy || f == faultOther && failed > 3 {
			q.putBack(&group{settles: []*item{it}}, err) // as are those after it
			break
		}
		if it.tries++; f == faultOther || it.tries < maxTries {
			q.putBack(&group{settles: []*item{it}}, err)
			continue
		}
		q.log.Error("sqlitequeue: a verdict cannot be stored; the delivery comes again after the next start", "path", q.path, "seq", it.seq, "error", err)
		lost = append(lost, it)
	}
	if len(lost) == 0 {
		return
	}
	q.mu.Lock()
	for _, it := range lost {
		q.leave(it)
	}
	q.dropSettles(lost)
	q.feedStarved()
	q.spawn()
	q.dones.Add(1)
	q.mu.Unlock()
	go q.finish(lost)
}

// committed notes that the disk takes what is written.
func (q *Queue) committed() {
	if q.w.failures == 0 {
		return
	}
	q.log.Info("sqlitequeue: verdicts are stored again", "path", q.path)
	q.w.failures, q.w.err = 0, nil
}

// putBack leaves verdicts where they are, to try again after a pause.
func (q *Queue) putBack(g *group, err error) {
	if len(g.settles)+len(g.lanes) == 0 {
		return
	}
	if q.w.failures == 0 {
		q.log.Error("sqlitequeue: verdicts cannot be stored yet; trying again", "path", q.path, "error", err)
	}
	pause := min(maxPause, minPause<<min(q.w.failures, 10))
	q.w.failures++
	q.w.err = err
	q.w.notBefore = time.Now().Add(pause)
	if len(g.lanes) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range g.lanes {
		if l.nextDue == 0 {
			q.dues.set(l, q.now().Add(pause).UnixMicro())
		}
	}
	q.schedule()
}

// refuse gives callers of Enqueue an error.
func (q *Queue) refuse(g *group, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range g.enqueues {
		e.err = q.storeError("enqueueing", err)
		q.enqueues.drop(func(o *enqueue) bool { return o == e })
		close(e.done)
	}
}

// dropSettles takes verdicts that are done out of those that wait.
func (q *Queue) dropSettles(done []*item) {
	same := len(done) <= len(q.settles)
	for i := 0; same && i < len(done); i++ {
		same = q.settles[i] == done[i]
	}
	var rest []*item
	if same { // as it is unless something failed
		rest = append(q.settles[:0], q.settles[len(done):]...)
	} else {
		gone := make(map[*item]bool, len(done))
		for _, it := range done {
			gone[it] = true
		}
		rest = q.settles[:0]
		for _, it := range q.settles {
			if !gone[it] {
				rest = append(rest, it)
			}
		}
	}
	clear(q.settles[len(rest):])
	q.settles = rest
}

// attempt stores a group in one transaction and lets what follows happen.
func (q *Queue) attempt(g *group) error {
	var t *txn
	refused := map[*enqueue]error{}
	err := safely(func() (err error) {
		if t, err = q.begin(); err != nil {
			return err
		}
		for _, it := range g.settles {
			if err := t.carryOut(it); err != nil {
				return err
			}
		}
		for _, l := range g.lanes {
			_, next, err := t.awakeDue(l, t.now, dueBatch)
			if err != nil {
				return err
			}
			t.after = append(t.after, func() {
				if next != 0 {
					q.dues.set(l, next)
				}
			})
		}
		for i, e := range g.enqueues {
			if e.next == 0 {
				why, err := t.refusal(e)
				if err != nil {
					return err
				}
				if why != nil {
					refused[e] = why
					continue
				}
			}
			for _, r := range e.records[e.next:g.upTo[i]] {
				if err := t.insert(r); err != nil {
					return err
				}
			}
		}
		return t.end()
	})
	if err != nil {
		q.abandon(t, err)
		return err
	}
	q.mu.Lock()
	t.apply()
	for i, e := range g.enqueues {
		e.err = refused[e]
		if e.next = g.upTo[i]; e.next < len(e.records) && e.err == nil {
			continue
		}
		if q.enqueues.peek() == e {
			q.enqueues.pop()
		} else {
			q.enqueues.drop(func(o *enqueue) bool { return o == e })
		}
		close(e.done)
	}
	done := slices.DeleteFunc(t.settled, func(it *item) bool { return it.finished })
	if len(done) > 0 {
		q.dropSettles(g.settles)
		q.dones.Add(1)
	}
	q.mu.Unlock()
	if len(done) > 0 {
		go q.finish(done)
	}
	q.checkpoint()
	return nil
}

// abandon undoes a transaction that failed. After a panic of the engine the
// connection is not used any more.
func (q *Queue) abandon(t *txn, err error) {
	if t != nil {
		t.rollBack()
	}
	if q.w.db != nil && !errIsPanic(err) {
		return
	}
	old := q.w.db
	q.w.db = nil
	_ = old.close()
	fresh, err := connect(q.path, !q.o.Unsynced, false)
	if err == nil {
		err = safely(fresh.prepareAll)
	}
	if err != nil {
		q.log.Error("sqlitequeue: the database cannot be opened again", "path", q.path, "error", err)
		_ = fresh.close()
		return
	}
	q.w.db = fresh
}

// transact does something in a transaction of its own.
func (q *Queue) transact(f func(t *txn) error) error {
	var t *txn
	err := safely(func() (err error) {
		if t, err = q.begin(); err != nil {
			return err
		}
		if err := f(t); err != nil {
			return err
		}
		return t.end()
	})
	if err != nil {
		q.abandon(t, err)
		return err
	}
	q.mu.Lock()
	t.apply()
	q.mu.Unlock()
	q.checkpoint()
	return nil
}

// operate does a step of something rare.
func (q *Queue) operate(o *op) {
	more := false
	err := q.transact(func(t *txn) (err error) {
		more, err = o.step(t)
		return err
	})
	if err == nil && !more && o.wipe {
		q.wipe(wipeWait)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if err == nil && more {
		q.ops.push(o)
		return
	}
	o.err, o.done = err, true
}
