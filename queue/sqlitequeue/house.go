package sqlitequeue

import (
	"errors"
	"time"

	"github.com/ncruces/go-sqlite3"
)

// house is what the writer does beside its work, in small steps: forget what was
// kept long enough, and give back space. A timer wakes it for that, an hour after
// it last looked for what is old, and a moment after something was settled.
type house struct {
	purgeAt time.Time
	cursor  int64 // of the look for what is old
	settled bool  // something was, since the last look at the space
	shrink  bool  // there is more to give back
	lookAt  time.Time
	wipe    bool // the log is to be emptied
	wipeAt  time.Time
	stepAt  time.Time // not before, while others wait
}

const (
	purgeEvery = time.Hour
	purgeBatch = 1024
	lookAfter  = time.Second
	stepEvery  = 50 * time.Millisecond
	// minFree is how many pages may be free before some are given back, and at most
	// a quarter of all are left.
	minFree = 256
)

// due reports whether there is something to do now.
func (h *house) due(now time.Time) bool {
	return !now.Before(h.purgeAt) || h.shrink || h.settled && !now.Before(h.lookAt) || h.wipe && !now.Before(h.wipeAt)
}

// housekeep does a step.
func (q *Queue) housekeep() {
	h, now := &q.w.house, q.now()
	h.stepAt = now.Add(stepEvery)
	var err error
	switch {
	case h.wipe && !now.Before(h.wipeAt):
		q.wipe(wipeGlance)
	case !now.Before(h.purgeAt):
		err = q.purge(now)
	default:
		err = q.giveBack()
	}
	if err != nil {
		q.log.Warn("sqlitequeue: what is old cannot be deleted yet", "path", q.path, "error", err)
		h.purgeAt, h.settled, h.shrink, h.cursor = now.Add(time.Minute), false, false, 0
	}
	q.mu.Lock()
	q.wakeHouse()
	q.mu.Unlock()
}

// wakeHouse sets the timer for what is to be done later. The caller holds q.mu.
func (q *Queue) wakeHouse() {
	h := &q.w.house
	if q.closed || q.total.accepted == 0 {
		return
	}
	at := h.purgeAt
	if h.settled && h.lookAt.Before(at) {
		at = h.lookAt
	}
	if h.wipe && h.wipeAt.Before(at) {
		at = h.wipeAt
	}
	wait := max(0, min(at.Sub(q.now()), purgeEvery))
	if q.houseTimer == nil {
		q.houseTimer = time.AfterFunc(wait, func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.houseRang = true
			q.kick()
		})
		return
	}
	q.houseTimer.Reset(wait)
}

// noteSettled has the space looked at soon. The caller holds q.mu.
func (q *Queue) noteSettled() {
	if h := &q.w.house; !h.settled {
		h.settled, h.lookAt = true, q.now().Add(lookAfter)
		q.wakeHouse()
	}
}

// purge looks at some of the deliveries, from the first, and forgets those that
// were kept long enough. Which are old is told by when they were settled; it stops
// where all were enqueued too lately for that.
func (q *Queue) purge(now time.Time) error {
	h := &q.w.house
	var next int64
	end := false
	err := q.transact(func(t *txn) error {
		rows, err := t.oldest(h.cursor)
		if err != nil {
			return err
		}
		end = len(rows) < purgeBatch
		young := true
		for _, r := range rows {
			next = r.seq
			if r.enqueued <= now.Add(-q.shortest()).UnixNano() {
				young = false
			}
			if err := t.purgeOne(r, now); err != nil {
				return err
			}
		}
		end = end || young
		return nil
	})
	if err != nil {
		return err
	}
	if h.cursor = next; end {
		h.cursor, h.purgeAt = 0, now.Add(min(purgeEvery, max(time.Minute, q.shortest()/8)))
	}
	return nil
}

// shortest is the shortest time for which something settled is kept.
func (q *Queue) shortest() time.Duration {
	d := min(remember, q.o.KeepDead)
	if q.o.KeepDelivered > 0 {
		d = min(d, q.o.KeepDelivered)
	}
	return d
}

// aged is what purge looks at.
type aged struct {
	seq, lane, at, enqueued int64
	state, call             string
	meta                    []byte
	attempts                int
	reason                  string
}

func (t *txn) oldest(after int64) (rows []aged, err error) {
	st, err := t.db.stmt(`SELECT seq, lane_id, at_us, coalesce(enqueued_ns, 0), state, call, meta, attempts, reason FROM deliveries WHERE seq > ? ORDER BY seq LIMIT ?`)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(st.BindInt64(1, after), st.BindInt(2, purgeBatch)); err != nil {
		return nil, err
	}
	for st.Step() {
		r := aged{seq: st.ColumnInt64(0), lane: st.ColumnInt64(1), at: st.ColumnInt64(2), enqueued: st.ColumnInt64(3), state: st.ColumnText(4),
			attempts: st.ColumnInt(7), reason: st.ColumnText(8)}
		if r.call = st.ColumnText(5); st.ColumnType(6) != sqlite3.NULL {
			r.meta = st.ColumnBlob(6, nil)
		}
		rows = append(rows, r)
	}
	return rows, errors.Join(st.Err(), st.Reset())
}

// purgeOne forgets one if it was kept long enough.
func (t *txn) purgeOne(r aged, now time.Time) error {
	keep := time.Duration(0)
	switch r.state {
	case delivered:
		keep = t.q.o.KeepDelivered
	case dead:
		keep = t.q.o.KeepDead
	case erased:
	default:
		return nil // pending
	}
	age := now.Sub(time.UnixMicro(r.at))
	if r.meta != nil && age > keep {
		var numbers []string
		if d, err := decodeMeta(r.meta); err == nil {
			numbers = d.Numbers
		} else if numbers, err = t.numbersOf(r.seq); err != nil {
			return err
		}
		if err := t.forget(r.seq, chainKey{r.lane, r.call}, r.state, r.at, r.attempts, r.reason, numbers); err != nil {
			return err
		}
		r.meta = nil
	}
	if r.meta != nil || age <= remember {
		return nil
	}
	if t.w.chains.on {
		st := t.db.deleteCall
		if err := errors.Join(st.BindText(1, r.call), st.BindInt64(2, r.lane), st.BindInt64(3, r.seq), st.Exec()); err != nil {
			return err
		}
	}
	return t.exec("DELETE FROM deliveries WHERE seq = ?", func(st *sqlite3.Stmt) error { return st.BindInt64(1, r.seq) })
}

// giveBack gives some of the free pages back to the file system when there are
// many.
func (q *Queue) giveBack() error {
	h := &q.w.house
	h.settled, h.shrink = false, false
	if q.w.db == nil {
		return nil
	}
	return safely(func() error {
		d := q.w.db
		pages, _, err := value(d.pages)
		if err != nil {
			return err
		}
		free, _, err := value(d.free)
		if err != nil || free <= minFree || free*4 <= pages {
			return err
		}
		h.shrink = true
		if err := d.c.Exec("PRAGMA incremental_vacuum(128)"); err != nil {
			return err
		}
		q.checkpoint()
		return nil
	})
}
