package sqlitequeue

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/ncruces/go-sqlite3"
)

// row is a delivery as it was read.
type row struct {
	d         *callhook.Delivery
	laneID    int64
	at        int64
	state     string
	frozen    uint32
	sum       int64
	size      int64 // what it counts for, if it is whole and not damaged
	logSize   int
	forgotten bool // only its ID is remembered
	damage    error
}

var errSum = errors.New("it does not match its checksum")

// scan reads a delivery that a query for columns gives, with its body if the query
// gives that too. What is wrong with it is the row's damage.
func (q *Queue) scan(st *sqlite3.Stmt, whole bool) *row {
	d := &callhook.Delivery{
		Seq: st.ColumnInt64(0), ID: st.ColumnText(2), Call: st.ColumnText(3), Attempts: st.ColumnInt(6), Rejections: st.ColumnInt(7),
		Postponed: st.ColumnInt(8), Ordered: st.ColumnBool(9), Reason: callhook.Reason(st.ColumnText(11)),
	}
	r := &row{d: d, laneID: st.ColumnInt64(1), state: st.ColumnText(4), at: st.ColumnInt64(5), sum: st.ColumnInt64(14)}
	if st.ColumnType(10) != sqlite3.NULL {
		d.EnqueuedAt = time.Unix(0, st.ColumnInt64(10))
	}
	q.mu.Lock()
	l := q.byID[r.laneID]
	q.mu.Unlock()
	if l == nil {
		r.damage = fmt.Errorf("there is no lane %d", r.laneID)
		return r
	}
	d.Lane, d.Tenant, d.Agent, d.Webhook = l.name, l.Tenant, l.Agent, l.Webhook
	meta := st.ColumnRawText(12)
	if meta == nil {
		r.forgotten = true
		return r
	}
	meta = append([]byte(nil), meta...)
	if err := applyMeta(d, meta); err != nil {
		r.damage = err
		return r
	}
	log := append([]byte(nil), st.ColumnRawText(13)...)
	if !whole {
		return r
	}
	if len(log) > 0 {
		if err := json.Unmarshal(log, &d.Log); err != nil {
			r.damage = err
			return r
		}
	}
	d.Body = blob(st, 15)
	d.Record = blob(st, 16)
	if err := st.Err(); err != nil {
		r.damage = err
		return r
	}
	r.size, r.logSize = sizeOf(d, meta, log), len(log)
	r.frozen = frozenSum(d, meta)
	if sumOf(r.frozen, int64(d.Attempts), int64(d.Rejections), int64(d.Postponed), string(d.Reason), log) != r.sum {
		r.damage = errSum
	}
	return r
}

// blob returns a copy of a column, and nil for NULL alone.
func blob(st *sqlite3.Stmt, col int) []byte {
	if st.ColumnType(col) == sqlite3.NULL {
		return nil
	}
	return append([]byte{}, st.ColumnRawBlob(col)...)
}

// item returns a row as one that can be handed out.
func (r *row) item(l *lane) *item {
	return &item{
		d: r.d, lane: l, seq: r.d.Seq, at: r.at, was: r.state, state: r.state, frozen: r.frozen, size: cost(r.d),
		attempts: r.d.Attempts, logSum: r.sum, stored: r.size, logSize: r.logSize,
	}
}

// loadLane reads what is ready of a lane and some more.
func (q *Queue) loadLane(l *lane) {
	if q.w.db == nil {
		if q.abandon(nil, errPanic); q.w.db == nil {
			q.await(maxPause)
		}
	}
	q.mu.Lock()
	l.loading = false
	if q.handle == nil {
		q.mu.Unlock()
		return
	}
	fresh, tried := l.fresh.missing(), l.tried.missing()
	freshAhead, triedAhead := q.ahead(l)
	if q.window < maxWindow {
		l.fetch = min(max(2*l.fetch, 4), 128)
	}
	limit := func(ln *line, missing, ahead int) int {
		return min(ln.count-ln.window.len(), missing+ahead, 256)
	}
	freshLimit, triedLimit := limit(&l.fresh, fresh, freshAhead), limit(&l.tried, tried, triedAhead)
	var recalled []int64
	for bytes := int64(0); l.recalled.len() > 0 && len(recalled) < 64 && q.room(l, bytes+itemOverhead); bytes += itemOverhead {
		recalled = append(recalled, l.recalled.pop())
	}
	freshCursor, triedCursor := l.fresh.cursor, l.tried.cursor
	q.mu.Unlock()

	for _, seq := range recalled {
		q.loadRecalled(l, seq)
	}
	q.loadLine(l, &l.fresh, q.loadStmt(true), freshCursor, freshLimit, fresh)
	q.loadLine(l, &l.tried, q.loadStmt(false), triedCursor, triedLimit, tried)

	q.mu.Lock()
	q.feed(l)
	q.spawn()
	q.mu.Unlock()
}

func (q *Queue) loadStmt(fresh bool) *sqlite3.Stmt {
	switch {
	case q.w.db == nil:
		return nil
	case fresh:
		return q.w.db.loadFresh
	}
	return q.w.db.loadTried
}

// loadLine takes the next of a line into its window.
func (q *Queue) loadLine(l *lane, ln *line, st *sqlite3.Stmt, cursor int64, limit, need int) {
	if limit <= 0 || st == nil {
		return
	}
	fresh := ln == &l.fresh
	var rows []*row
	var bytes int64
	more := false
	err := safely(func() error {
		if err := errors.Join(st.BindInt64(1, l.id), st.BindInt64(2, cursor), st.BindInt(3, limit)); err != nil {
			return err
		}
		for st.Step() {
			r := q.scan(st, true)
			rows = append(rows, r)
			if bytes += cost(r.d); len(rows) < limit && (bytes > maxWindow/3 && len(rows) >= need || bytes > maxOut/4) {
				more = true
				break
			}
		}
		return errors.Join(st.Err(), st.Reset())
	})
	if err != nil {
		q.loadFailed(l, ln, cursor, limit, err)
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range rows {
		at := r.d.Seq
		if !fresh {
			at = r.at
		}
		ln.cursor = at
		if r.damage != nil {
			ln.remove(1)
			q.setAside(l, r.d.Seq, r.damage)
			continue
		}
		it := r.item(l)
		it.at = at
		ln.window.push(it)
		q.window += it.size
	}
	if len(rows) < limit && !more {
		// Fewer than were counted: some are damaged beyond being found.
		if missing := ln.count - ln.window.len(); missing > 0 {
			q.log.Error("sqlitequeue: deliveries that were counted are not found in the database; check it with PRAGMA integrity_check",
				"path", q.path, "lane", l.id, "missing", missing)
			ln.remove(missing)
		}
	}
}

// loadRecalled reads one by its number and hands it out.
func (q *Queue) loadRecalled(l *lane, seq int64) {
	r, err := q.readOne(seq)
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case err != nil:
		q.setAside(l, seq, err)
	case r == nil || r.state != ready && r.state != parked: // it was erased
	case r.damage != nil:
		q.setAside(l, seq, r.damage)
	default:
		q.handOut(r.item(l))
	}
}

// readOne reads a delivery by its number; nil when there is none.
func (q *Queue) readOne(seq int64) (r *row, err error) {
	err = safely(func() error {
		if q.w.db == nil {
			return errPanic
		}
		st := q.w.db.loadOne
		if err := st.BindInt64(1, seq); err != nil {
			return err
		}
		if st.Step() {
			r = q.scan(st, true)
		}
		return errors.Join(st.Err(), st.Reset())
	})
	return r, err
}

// loadFailed goes on where the database cannot be read: one by one, so that only
// what cannot be read is set aside.
func (q *Queue) loadFailed(l *lane, ln *line, cursor int64, limit int, err error) {
	q.log.Error("sqlitequeue: deliveries cannot be read; trying one by one", "path", q.path, "lane", l.id, "error", err)
	if errIsPanic(err) {
		q.abandon(nil, err)
	}
	fresh := ln == &l.fresh
	type place struct{ seq, at int64 }
	var found []place
	err = safely(func() error {
		if q.w.db == nil {
			return errPanic
		}
		sql := `SELECT seq, at_us FROM deliveries INDEXED BY deliveries_pending WHERE lane_id = ? AND state = 'ready' AND at_us = 0 AND seq > ? ORDER BY seq LIMIT ?`
		if !fresh {
			sql = `SELECT seq, at_us FROM deliveries INDEXED BY deliveries_pending WHERE lane_id = ? AND state = 'parked' AND at_us > ? ORDER BY at_us, seq LIMIT ?`
		}
		st, err := q.w.db.stmt(sql)
		if err != nil {
			return err
		}
		if err := errors.Join(st.BindInt64(1, l.id), st.BindInt64(2, cursor), st.BindInt(3, limit)); err != nil {
			return err
		}
		for st.Step() {
			found = append(found, place{st.ColumnInt64(0), st.ColumnInt64(1)})
		}
		return errors.Join(st.Err(), st.Reset())
	})
	if err != nil && len(found) == 0 {
		if errIsPanic(err) {
			q.abandon(nil, err)
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		missing := ln.count - ln.window.len()
		q.log.Error("sqlitequeue: the lane's line cannot be read; what is left of it comes again after the file was repaired", "path", q.path,
			"lane", l.id, "missing", missing, "error", err)
		ln.remove(missing)
		return
	}
	for _, p := range found {
		r, err := q.readOne(p.seq)
		if errIsPanic(err) {
			q.abandon(nil, err)
		}
		q.mu.Lock()
		at := p.seq
		if !fresh {
			at = p.at
		}
		ln.cursor = at
		if err == nil && r != nil && r.damage == nil {
			it := r.item(l)
			it.at = at
			ln.window.push(it)
			q.window += it.size
		} else {
			ln.remove(1)
			if r != nil {
				err = errors.Join(err, r.damage)
			}
			q.setAside(l, p.seq, err)
		}
		q.mu.Unlock()
	}
}

func errIsPanic(err error) bool { return errors.Is(err, errPanic) }

// setAside makes a damaged delivery a dead letter. The caller holds q.mu.
func (q *Queue) setAside(l *lane, seq int64, why error) {
	q.log.Error("sqlitequeue: a damaged delivery is set aside as a dead letter", "path", q.path, "seq", seq, "lane", l.id, "error", why)
	q.perform(&op{step: func(t *txn) (bool, error) { return false, t.setAside(l, seq) }})
}

// setAside is its transaction.
func (t *txn) setAside(l *lane, seq int64) error {
	st, err := t.db.stmt("SELECT state, call FROM deliveries WHERE seq = ?")
	if err != nil {
		return err
	}
	if err := st.BindInt64(1, seq); err != nil {
		return err
	}
	found := st.Step()
	state, call := st.ColumnText(0), st.ColumnText(1)
	if err := errors.Join(st.Err(), st.Reset()); err != nil || !found {
		return err
	}
	n := t.touch(l)
	switch state {
	case delivered, dead, erased:
		return nil
	case ready, parked, waiting, blocked:
		*n.of(state)--
		size, err := t.sizeOf(seq)
		if err != nil {
			return err
		}
		t.takes(l, -size)
	default: // it says nonsense; it stood in a line
		n.ready--
	}
	n.dead++
	st, err = t.db.stmt("UPDATE deliveries SET state = 'dead', at_us = ?2, reason = ?3, meta = coalesce(meta, '{}') WHERE seq = ?1")
	if err != nil {
		return err
	}
	if err := errors.Join(st.BindInt64(1, seq), st.BindInt64(2, t.now), st.BindText(3, string(ReasonDamaged)), st.Exec()); err != nil {
		return err
	}
	key := chainKey{l.id, call}
	t.w.chains.set(seq, key, kept)
	return t.unblock(key, l)
}

// unload puts back what was loaded and not handed out, as Consume ends.
func (w *writer) unload(t *txn) (bool, error) {
	q := t.q
	t.after = append(t.after, func() {
		for q.ready.len() > 0 {
			it := q.ready.pop()
			q.leave(it)
			it.lane.recalled.push(it.seq)
		}
		for _, l := range q.lanes {
			// Between those in the window others may have become ready that are in no
			// line: the cursor cannot go back.
			for i, it := range l.fresh.window.all() {
				l.fresh.count--
				if i < l.fresh.want {
					l.recalled.push(it.seq)
				} else {
					l.returned.add(it.seq)
				}
			}
			l.fresh.want = max(0, l.fresh.want-l.fresh.window.len())
			l.fresh.window = fifo[*item]{}
			if l.tried.window.len() > 0 {
				l.tried.cursor = l.tried.window.peek().at - 1
				l.tried.window = fifo[*item]{}
			}
		}
		q.window = 0
	})
	return false, nil
}

// lastParked makes sure that what will be parked comes after what is.
func (w *writer) lastParked(l *lane) error {
	st, err := w.db.stmt("SELECT max(at_us) FROM deliveries INDEXED BY deliveries_pending WHERE lane_id = ? AND state = 'parked'")
	if err != nil {
		return err
	}
	if err := st.BindInt64(1, l.id); err != nil {
		return err
	}
	at, _, err := value(st)
	w.parkClock = max(w.parkClock, at)
	return err
}
