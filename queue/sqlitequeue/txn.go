package sqlitequeue

import (
	"errors"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/ncruces/go-sqlite3"
)

// txn is a transaction, and what is to follow from it in memory once it is
// committed.
type txn struct {
	q       *Queue
	w       *writer
	db      *db
	now     int64 // Unix microseconds
	seq     int64 // the last, unless it is rolled back
	dirty   []*lane
	placed  []placement
	settled []*item
	after   []func()
	fresh   int // how many are new
	indexed int // of the index's batch
	mark    int64
}

// placement is a delivery that became ready, or parked when its lane has parked
// ones.
type placement struct {
	lane   *lane
	seq    int64
	tried  bool    // it stands in the line of those
	record *record // a new one, that is in memory
}

// begin starts a transaction.
func (q *Queue) begin() (*txn, error) {
	t := &txn{q: q, w: &q.w, db: q.w.db, now: q.now().UnixMicro(), seq: q.w.seq}
	if t.db == nil {
		return t, errPanic
	}
	return t, t.db.begin.Exec()
}

// rollBack undoes a transaction.
func (t *txn) rollBack() {
	if t.db != nil {
		_ = safely(func() error {
			for _, st := range t.db.all {
				_ = st.Reset()
			}
			if !t.db.c.GetAutocommit() {
				return t.db.rollback.Exec()
			}
			return nil
		})
	}
	for _, l := range t.dirty {
		l.dirty = false
		l.tenant.next = l.tenant.bytes
	}
	t.w.chains.rolledBack()
}

// end writes the counts and commits.
func (t *txn) end() error {
	if err := t.index(t.fresh); err != nil {
		return err
	}
	for _, l := range t.dirty {
		if l.n.bytes = max(0, l.n.bytes); l.n.pending() == 0 {
			l.n.bytes = 0 // whatever a damaged one was taken for
		}
		if !l.stored {
			st := t.db.insertLane
			err := errors.Join(st.BindInt64(1, l.id), st.BindText(2, l.name), st.BindText(3, l.Tenant), st.BindText(4, l.Agent), st.BindText(5, l.Webhook))
			if err = errors.Join(err, st.Exec()); err != nil {
				return err
			}
		}
		st := t.db.setCounts
		err := st.BindInt64(1, l.id)
		for i, n := range l.n.columns() {
			err = errors.Join(err, st.BindInt64(i+2, *n))
		}
		if err = errors.Join(err, st.Exec()); err != nil {
			return err
		}
	}
	return t.db.commit.Exec()
}

// apply makes what is in memory follow. The caller holds the mutex.
func (t *txn) apply() {
	t.w.seq = t.seq
	t.w.chains.committed()
	t.w.chains.wereIndexed(t)
	for _, l := range t.dirty {
		t.q.total.add(&l.c, &l.n)
		l.tenant.bytes += l.n.bytes - l.c.bytes
		l.c, l.dirty, l.stored = l.n, false, true
	}
	for _, l := range t.dirty {
		l.tenant.next = l.tenant.bytes
	}
	if len(t.settled) > 0 {
		t.q.noteSettled()
	}
	for _, it := range t.settled {
		if it.finished {
			continue
		}
		t.q.leave(it)
		if it.erased {
			continue
		}
		switch {
		case it.verdict.State == callhook.StateDelivered || it.verdict.State == callhook.StateDead:
		case it.verdict.State != callhook.StateParked:
			if at := it.at; it.lane.nextDue == 0 || at < it.lane.nextDue {
				t.q.dues.set(it.lane, at)
			}
		case it.state == parked:
			it.lane.tried.add(1, false)
		default:
			it.lane.rest(it.seq)
		}
	}
	for i := range t.placed {
		t.q.place(&t.placed[i])
	}
	for _, f := range t.after {
		f()
	}
	t.q.feedStarved()
	t.q.schedule()
	t.q.spawn()
}

// rest parks a fresh one.
func (l *lane) rest(seq int64) {
	if seq > l.fresh.cursor {
		l.fresh.add(1, false)
		return
	}
	l.returned.add(seq)
}

// place makes ready what became so, unless its lane has parked ones: then it is
// parked.
func (q *Queue) place(p *placement) {
	l := p.lane
	park := l.hasParked()
	switch {
	case p.tried:
		l.tried.add(1, !park)
	case p.record != nil && !park && q.handle != nil && l.fresh.count == 0 && l.recalled.len() == 0 && q.room(l, cost(p.record.d)):
		l.fresh.cursor = p.seq // it need not be read back
		q.handOut(p.record.item(p.seq))
		return
	case p.seq > l.fresh.cursor:
		l.fresh.add(1, !park)
	case park:
		l.returned.add(p.seq)
	default:
		l.recalled.push(p.seq)
	}
	if !park {
		q.feed(l)
	}
}

// item returns a new delivery as one that is handed out.
func (r *record) item(seq int64) *item {
	r.d.Seq, r.d.State = seq, callhook.StateReady
	return &item{
		d: r.d, lane: r.lane, seq: seq, at: seq, was: ready, state: ready, frozen: r.frozen, size: cost(r.d),
		logSum: r.sum(), stored: r.size, logSize: len(r.log),
	}
}

func (r *record) sum() int64 {
	return sumOf(r.frozen, int64(r.d.Attempts), int64(r.d.Rejections), int64(r.d.Postponed), "", r.log)
}

// touch returns the counts of a lane to change.
func (t *txn) touch(l *lane) *counts {
	if !l.dirty {
		l.dirty = true
		l.n = l.c
		t.dirty = append(t.dirty, l)
	}
	return &l.n
}

// takes notes that the pending ones of a lane take so much more.
func (t *txn) takes(l *lane, bytes int64) {
	t.touch(l).bytes += bytes
	l.tenant.next += bytes
}

// sizeOf asks the database what a delivery counts for.
func (t *txn) sizeOf(seq int64) (int64, error) {
	st, err := t.db.stmt("SELECT " + sizeInSQL + " FROM deliveries d LEFT JOIN bodies b ON b.seq = d.seq WHERE d.seq = ?")
	if err != nil {
		return 0, err
	}
	if err := st.BindInt64(1, seq); err != nil {
		return 0, err
	}
	size, _, err := value(st)
	return size, err
}

// insert stores a delivery unless its ID is remembered.
func (t *txn) insert(r *record) error {
	d, l := r.d, r.lane
	seq, key := t.seq+1, chainKey{l.id, d.Call}
	// While the last one of the call has attempts, all have: it was handed out.
	last, err := t.before(seq, key)
	if err != nil {
		return err
	}
	state, at, is := ready, int64(0), first
	switch {
	case last == waits || last == first || last == tried && d.Ordered:
		state, is = blocked, waits
	case d.Attempts > 0:
		state, at, is = parked, t.parkTime(), tried
	}
	st := t.db.insert
	err = errors.Join(st.BindInt64(1, seq), st.BindInt64(2, l.id), st.BindText(3, d.ID), st.BindText(4, d.Call), st.BindText(5, state), st.BindInt64(6, at),
		st.BindInt64(7, int64(d.Attempts)), st.BindInt64(8, int64(d.Rejections)), st.BindInt64(9, int64(d.Postponed)), st.BindBool(10, d.Ordered),
		bindTime(st, 11, d.EnqueuedAt), st.BindRawText(12, r.meta), st.BindRawText(13, r.log), st.BindInt64(14, r.sum()))
	if err != nil {
		return err
	}
	if err := st.Exec(); err != nil {
		return err
	}
	if t.db.c.Changes() == 0 {
		return nil
	}
	t.seq = seq
	t.fresh++
	t.w.chains.add(seq, key, is)
	st = t.db.insertBody
	err = errors.Join(st.BindInt64(1, seq), st.BindBlob(2, d.Body), st.BindBlob(3, d.Record))
	if err = errors.Join(err, st.Exec()); err != nil {
		return err
	}
	for _, hash := range d.Numbers {
		st := t.db.insertNumber
		if err := errors.Join(st.BindText(1, hash), st.BindInt64(2, seq), st.Exec()); err != nil {
			return err
		}
	}
	n := t.touch(l)
	n.accepted++
	*n.of(state)++
	n.lastSeq = seq
	t.takes(l, r.size)
	if state != blocked {
		t.placed = append(t.placed, placement{lane: l, seq: seq, tried: state == parked, record: r})
	}
	return nil
}

// parkTime returns a time for one that is parked, later than all before.
func (t *txn) parkTime() int64 {
	t.w.parkClock = max(t.w.parkClock+1, t.now)
	return t.w.parkClock
}

// carryOut stores a verdict.
func (t *txn) carryOut(it *item) error {
	t.settled = append(t.settled, it)
	if it.erased {
		return nil
	}
	d, l, v := it.d, it.lane, &it.verdict
	n, key := t.touch(l), chainKey{it.lane.id, it.d.Call}
	*n.of(it.was)--
	if v.State == callhook.StateDelivered {
		n.delivered++
		t.takes(l, -it.stored)
		if t.q.o.KeepDelivered <= 0 {
			if err := t.forget(it.seq, key, delivered, t.now, d.Attempts, "", d.Numbers); err != nil {
				return err
			}
			return t.unblock(key, l)
		}
		it.log, _ = encodeLog(d.Log)
		it.logSum = sumOf(it.frozen, int64(d.Attempts), int64(d.Rejections), int64(d.Postponed), "", it.log)
		t.w.chains.set(it.seq, key, kept)
		if err := t.store(it, delivered, t.now, "", it.logSum); err != nil {
			return err
		}
		return t.unblock(key, l)
	}
	switch v.State {
	case callhook.StateDead:
		n.dead++
		t.takes(l, -it.stored)
		sum := sumOf(it.frozen, int64(d.Attempts), int64(d.Rejections), int64(d.Postponed), string(v.Reason), it.log)
		t.w.chains.set(it.seq, key, kept)
		if err := t.store(it, dead, t.now, string(v.Reason), sum); err != nil {
			return err
		}
		return t.unblock(key, l)
	case callhook.StateParked:
		it.state, it.at = ready, 0
		if d.Attempts > 0 {
			it.state, it.at = parked, t.parkTime()
		}
		*n.of(it.state)++
		t.takes(l, int64(len(it.log)-it.logSize))
		if err := t.store(it, it.state, it.at, "", it.logSum); err != nil {
			return err
		}
	default:
		n.waiting++
		t.takes(l, int64(len(it.log)-it.logSize))
		it.at = t.now
		if !v.At.IsZero() {
			it.at = max(1, v.At.Add(999).UnixMicro()) // not a moment before
		}
		if err := t.store(it, waiting, it.at, "", it.logSum); err != nil {
			return err
		}
	}
	if (it.attempts > 0) == (d.Attempts > 0) {
		return nil
	}
	t.w.chains.set(it.seq, key, standingOf(waiting, int64(d.Attempts)))
	return t.unblock(key, l)
}

// store stores what attempts change.
func (t *txn) store(it *item, state string, at int64, reason string, sum int64) error {
	st, d := t.db.settle, it.d
	err := errors.Join(st.BindInt64(1, it.seq), st.BindText(2, state), st.BindInt64(3, at), st.BindInt64(4, int64(d.Attempts)),
		st.BindInt64(5, int64(d.Rejections)), st.BindInt64(6, int64(d.Postponed)), bindText(st, 7, reason), st.BindRawText(8, it.log), st.BindInt64(9, sum))
	if err != nil {
		return err
	}
	return st.Exec()
}

// forget reduces a delivery to what is remembered of it.
func (t *txn) forget(seq int64, key chainKey, state string, at int64, attempts int, reason string, numbers []string) error {
	st := t.db.forget
	err := errors.Join(st.BindInt64(1, seq), st.BindText(2, state), st.BindInt64(3, at), st.BindInt64(4, int64(attempts)), bindText(st, 5, reason))
	if err = errors.Join(err, st.Exec()); err != nil {
		return err
	}
	t.w.chains.set(seq, key, gone)
	return t.deleteBody(seq, numbers)
}

// deleteBody deletes what is stored beside a delivery.
func (t *txn) deleteBody(seq int64, numbers []string) error {
	st := t.db.deleteBody
	if err := errors.Join(st.BindInt64(1, seq), st.Exec()); err != nil {
		return err
	}
	for _, hash := range numbers {
		st := t.db.deleteNumber
		if err := errors.Join(st.BindText(1, hash), st.BindInt64(2, seq), st.Exec()); err != nil {
			return err
		}
	}
	return nil
}

// unblock lets later ones of a call go, if they may now.
func (t *txn) unblock(key chainKey, l *lane) error {
	n := t.touch(l)
	for n.blocked > 0 {
		st := t.db.firstBlocked
		if err := errors.Join(st.BindText(1, key.call), st.BindInt64(2, l.id)); err != nil {
			return err
		}
		found := st.Step()
		seq, ordered, attempts := st.ColumnInt64(0), st.ColumnBool(1), st.ColumnInt64(2)
		if err := errors.Join(st.Err(), st.Reset()); err != nil || !found {
			return err
		}
		last, err := t.before(seq, key)
		if err != nil || last == first || last == waits || last == tried && ordered {
			return err
		}
		t.w.chains.set(seq, key, standingOf(ready, attempts))
		if err := t.awake(l, seq, attempts > 0, blocked); err != nil || attempts <= 0 {
			return err
		}
	}
	return nil
}

// awake makes one that waited, for a time or for its call, one that may go.
func (t *txn) awake(l *lane, seq int64, tried bool, from string) error {
	state, at := ready, int64(0)
	if tried {
		state, at = parked, t.parkTime()
	}
	st := t.db.setState
	if err := errors.Join(st.BindInt64(1, seq), st.BindText(2, state), st.BindInt64(3, at), st.Exec()); err != nil {
		return err
	}
	n := t.touch(l)
	*n.of(from)--
	*n.of(state)++
	t.placed = append(t.placed, placement{lane: l, seq: seq, tried: tried})
	return nil
}

// awakeDue makes those of a lane that have waited long enough ones that may go, at
// most so many, and returns when the next is due.
func (t *txn) awakeDue(l *lane, until int64, limit int) (woken int, next int64, err error) {
	st := t.db.due
	if err := errors.Join(st.BindInt64(1, l.id), st.BindInt64(2, until), st.BindInt(3, limit)); err != nil {
		return 0, 0, err
	}
	type due struct {
		seq   int64
		tried bool
	}
	var found []due
	for st.Step() {
		found = append(found, due{st.ColumnInt64(0), st.ColumnInt64(1) > 0})
	}
	if err := errors.Join(st.Err(), st.Reset()); err != nil {
		return 0, 0, err
	}
	for _, d := range found {
		if err := t.awake(l, d.seq, d.tried, waiting); err != nil {
			return 0, 0, err
		}
	}
	next, err = t.w.nextDue(l)
	return len(found), next, err
}

// nextDue returns when the first waiting one of a lane is due, zero for none.
func (w *writer) nextDue(l *lane) (int64, error) {
	st := w.db.nextDue
	if err := st.BindInt64(1, l.id); err != nil {
		return 0, err
	}
	at, _, err := value(st)
	return at, err
}

// bindTime binds a time in nanoseconds, or NULL when they cannot say it.
func bindTime(st *sqlite3.Stmt, param int, t time.Time) error {
	if !nanos(t) {
		return st.BindNull(param)
	}
	return st.BindInt64(param, t.UnixNano())
}

// bindText binds a text, or NULL for none.
func bindText(st *sqlite3.Stmt, param int, s string) error {
	if s == "" {
		return st.BindNull(param)
	}
	return st.BindText(param, s)
}
