package sqlitequeue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/ncruces/go-sqlite3"
)

// mendBatch is how many are erased or replayed in one transaction.
const mendBatch = 256

// Replay implements [callhook.Inspector]. A replayed one gets a new Seq: in its
// call it comes after what was enqueued meanwhile. One that is damaged is not
// replayed.
func (q *Queue) Replay(ctx context.Context, f callhook.Filter) (int, error) {
	switch f.State {
	case "":
		f.State = callhook.StateDead
	case callhook.StateDead, callhook.StateDelivered:
	default:
		return 0, fmt.Errorf("sqlitequeue: %w: only dead letters and those delivered are replayed, not those with State %q", callhook.ErrFilter, f.State)
	}
	return q.mend(ctx, "replaying", f, (*txn).replay, false)
}

// Erase implements [callhook.Inspector]. When it returns without an error, nothing of
// what was erased, or had arrived before, is in the database or in its log any more,
// also when it found nothing; unless another program was reading: then the log holds
// it until that has ended. What stays is the ID, the call's id, the lane and the
// times, for four days. The package comment says more.
func (q *Queue) Erase(ctx context.Context, f callhook.Filter) (int, error) {
	if len(f.IDs) == 0 && f.Call == "" && f.Number == "" {
		return 0, fmt.Errorf("sqlitequeue: %w: Erase needs IDs, a Call or a Number", callhook.ErrFilter)
	}
	return q.mend(ctx, "erasing", f, (*txn).erase, true)
}

// mend finds deliveries and does something to each that still matches.
func (q *Queue) mend(ctx context.Context, what string, f callhook.Filter, do func(*txn, *row) (bool, error), erases bool) (int, error) {
	var seqs []int64
	err := q.read(ctx, what, func(d *db) error {
		return q.search(d, f, func(r *row) bool {
			seqs = append(seqs, r.d.Seq)
			return true
		})
	})
	if err != nil {
		return 0, err
	}
	slices.SortFunc(seqs, func(a, b int64) int { return cmp.Compare(a, b) }) // as they were enqueued
	done := 0
	o := &op{step: func(t *txn) (bool, error) {
		part := seqs[:min(len(seqs), mendBatch)]
		if f.Limit > 0 {
			part = part[:min(len(part), f.Limit-done)]
		}
		n := 0
		for _, seq := range part {
			ok, err := t.mendOne(seq, f, do)
			if err != nil {
				return false, err
			}
			if ok {
				n++
			}
		}
		t.after = append(t.after, func() { done += n })
		seqs = seqs[len(part):]
		return len(seqs) > 0 && ctx.Err() == nil && (f.Limit <= 0 || done+n < f.Limit), nil
	}, wipe: erases}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return 0, errClosed
	}
	if len(seqs) == 0 && !erases { // what arrived is gone from the tables, but not from the log
		return 0, nil
	}
	q.perform(o)
	for !o.done {
		q.written.Wait()
	}
	if o.err != nil {
		return done, q.storeError(what, o.err)
	}
	if err := ctx.Err(); err != nil && len(seqs) > 0 {
		return done, fmt.Errorf("sqlitequeue: %s ended early, after %d: %w", what, done, err)
	}
	return done, nil
}

// mendOne does something to a delivery if it still matches.
func (t *txn) mendOne(seq int64, f callhook.Filter, do func(*txn, *row) (bool, error)) (bool, error) {
	st := t.db.loadOne
	if err := st.BindInt64(1, seq); err != nil {
		return false, err
	}
	var r *row
	if st.Step() {
		r = t.q.scan(st, true)
	}
	if err := errors.Join(st.Err(), st.Reset()); err != nil || r == nil || r.forgotten {
		return false, err
	}
	if t.q.laneByID(r.laneID) == nil {
		return false, nil
	}
	t.q.mu.Lock()
	t.q.expose(r)
	t.q.mu.Unlock()
	if r.damage == nil && !matches(f, r.d) {
		return false, nil
	}
	return do(t, r)
}

func (q *Queue) laneByID(id int64) *lane {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.byID[id]
}

// erase takes out what is stored of a delivery.
func (t *txn) erase(r *row) (bool, error) {
	d, l := r.d, t.q.laneByID(r.laneID)
	n, key := t.touch(l), chainKey{l.id, d.Call}
	numbers := d.Numbers
	if r.damage != nil {
		var err error
		if numbers, err = t.numbersOf(d.Seq); err != nil {
			return false, err
		}
	}
	if r.state == dead || r.state == delivered {
		return true, t.forget(d.Seq, key, r.state, r.at, 0, string(d.Reason), numbers)
	}
	*n.of(r.state)--
	n.erased++
	size := r.size
	if r.damage != nil {
		var err error
		if size, err = t.sizeOf(d.Seq); err != nil {
			return false, err
		}
	}
	t.takes(l, -size)
	if err := t.forget(d.Seq, key, erased, t.now, 0, "", numbers); err != nil {
		return false, err
	}
	t.after = append(t.after, func() { t.q.forgetOne(l, r) })
	return true, t.unblock(key, l)
}

// numbersOf finds the hashes of one whose own list cannot be trusted.
func (t *txn) numbersOf(seq int64) (hashes []string, err error) {
	st, err := t.db.stmt("SELECT hash FROM numbers WHERE seq = ?")
	if err != nil {
		return nil, err
	}
	if err := st.BindInt64(1, seq); err != nil {
		return nil, err
	}
	for st.Step() {
		hashes = append(hashes, st.ColumnText(0))
	}
	return hashes, errors.Join(st.Err(), st.Reset())
}

// forgetOne takes an erased one out of what is in memory of its lane. Where it had
// been released and nobody has seen it yet, another goes instead: whoever released it
// waits for one.
func (q *Queue) forgetOne(l *lane, r *row) {
	if q.forgotten(l, r) {
		l.release(1)
		q.feed(l)
		q.spawn()
	}
}

// forgotten reports whether it had been released and was not handed out.
func (q *Queue) forgotten(l *lane, r *row) (released bool) {
	seq := r.d.Seq
	if it := q.active[seq]; it != nil {
		it.erased = true // a handler may have it: its verdict is dropped
		if !it.inHandler {
			q.ready.drop(func(o *item) bool { return o == it })
			q.leave(it)
		}
		return !it.inHandler
	}
	ln, at := &l.fresh, seq
	switch r.state {
	case parked:
		ln, at = &l.tried, r.at
	case ready:
	default:
		return false // it stood in no line
	}
	if l.recalled.drop(func(s int64) bool { return s == seq }) > 0 {
		return true
	}
	if i := slices.Index(l.returned, seq); i >= 0 && ln == &l.fresh {
		l.returned.removeAt(i)
		return false
	}
	for i, it := range ln.window.all() {
		if it.seq == seq {
			ln.window.drop(func(o *item) bool { return o == it })
			q.window -= it.size
			ln.count--
			if i < ln.want {
				ln.want--
				return true
			}
			return false
		}
	}
	if at > ln.cursor {
		ln.remove(1)
	}
	return false
}

// replay makes a settled one ready again, as if it were enqueued now.
func (t *txn) replay(r *row) (bool, error) {
	if r.damage != nil || r.state != dead && r.state != delivered || r.d.Reason == ReasonDamaged {
		return false, nil
	}
	d, l := r.d, t.q.laneByID(r.laneID)
	n := t.touch(l)
	*n.of(r.state)--
	key := chainKey{l.id, d.Call}
	t.w.chains.set(d.Seq, key, gone)
	last, err := t.before(t.seq+1, key)
	if err != nil {
		return false, err
	}
	state, is := ready, first
	if last == waits || last == first || last == tried && d.Ordered {
		state, is = blocked, waits
	}
	*n.of(state)++
	old := d.Seq
	t.seq++
	t.w.chains.add(t.seq, key, is)
	n.lastSeq = t.seq
	d.Seq, d.EnqueuedAt, d.Reason = t.seq, time.UnixMicro(t.now), ""
	d.Attempts, d.Rejections, d.Postponed = 0, 0, 0
	meta, err := encodeMeta(d, l)
	if err != nil {
		return false, err
	}
	log, err := encodeLog(d.Log)
	if err != nil {
		return false, err
	}
	t.takes(l, sizeOf(d, meta, log))
	sum := sumOf(frozenSum(d, meta), 0, 0, 0, "", log)
	err = t.exec(`UPDATE deliveries SET seq = ?2, state = ?3, at_us = 0, attempts = 0, rejections = 0, postponed = 0, reason = NULL, enqueued_ns = ?4, meta = ?5,
		log = ?6, sum = ?7 WHERE seq = ?1`, func(st *sqlite3.Stmt) error {
		return errors.Join(st.BindInt64(1, old), st.BindInt64(2, d.Seq), st.BindText(3, state), bindTime(st, 4, d.EnqueuedAt),
			st.BindRawText(5, meta), st.BindRawText(6, log), st.BindInt64(7, sum))
	})
	if st := t.db.deleteCall; err == nil {
		err = errors.Join(st.BindText(1, key.call), st.BindInt64(2, key.lane), st.BindInt64(3, old), st.Exec())
	}
	for _, table := range []string{"bodies", "numbers"} {
		if err == nil && (table == "bodies" || len(d.Numbers) > 0) {
			err = t.exec("UPDATE "+table+" SET seq = ?2 WHERE seq = ?1", func(st *sqlite3.Stmt) error {
				return errors.Join(st.BindInt64(1, old), st.BindInt64(2, d.Seq))
			})
		}
	}
	if err != nil {
		return false, err
	}
	if state == ready {
		t.placed = append(t.placed, placement{lane: l, seq: d.Seq})
	}
	return true, nil
}

// exec runs a statement that is not used all the time.
func (t *txn) exec(sql string, bind func(*sqlite3.Stmt) error) error {
	st, err := t.db.stmt(sql)
	if err != nil {
		return err
	}
	return errors.Join(bind(st), st.Exec())
}
