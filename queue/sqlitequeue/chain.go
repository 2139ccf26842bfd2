package sqlitequeue

import (
	"cmp"
	"errors"
	"slices"
	"sync"

	"github.com/ncruces/go-sqlite3"
)

// What is pending of one call in one lane has an order. To find it on disk takes an
// index by call, and calls are random: each delivery would write a page of that
// index for itself, which is more than all else that it takes. So the last ones are
// known in memory, and most are settled before they are written to the index, the
// table calls; those that stay go there in the order of their calls, some with each
// transaction. What the table has is told by one number, the mark: it holds all
// deliveries up to there that are kept whole, and what comes after is read when
// the queue is opened.

// lag is how far the index may be behind.
type lag struct {
	unindexed int   // how many deliveries that are kept whole
	behind    int64 // how many in all
	save      int64 // how far the mark moves until it is stored
	step      int   // how many are indexed with a transaction, besides twice as many as it has new ones
}

var usualLag = lag{8192, 65_536, 16_384, 64}

// standing is how an entry stands to the later ones of its call.
type standing uint8

const (
	gone  standing = iota
	kept           // settled, but kept whole
	first          // without attempts: all later ones wait
	tried          // with attempts: those that are ordered wait
	waits          // it waits itself
)

// entry is a delivery that the index does not have yet.
type entry struct {
	seq int64
	key chainKey
	is  standing
}

type chainKey struct {
	lane int64
	call string
}

// chains are the deliveries behind the mark. They are the writer's, which locks
// them, so that others may look for a call.
type chains struct {
	lag lag

	mu      sync.Mutex
	of      map[chainKey][]*entry // as enqueued
	entries fifo[*entry]          // all, as enqueued; those that are gone go when they are the first
	live    int
	undo    []undo

	mark  int64 // as stored
	on    bool  // the index has something
	batch []*entry
	next  int   // of batch
	upTo  int64 // the mark once the batch is indexed
}

type undo struct {
	e     *entry
	was   standing
	added bool
}

// add notes a delivery that was inserted.
func (c *chains) add(seq int64, key chainKey, is standing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := &entry{seq: seq, key: key, is: is}
	c.of[key] = append(c.of[key], e)
	c.entries.push(e)
	c.live++
	c.undo = append(c.undo, undo{e: e, added: true})
}

// find returns the entry of a delivery, nil when only the index has it.
func (c *chains) find(seq int64, key chainKey) *entry {
	of := c.of[key]
	i, ok := slices.BinarySearchFunc(of, seq, func(e *entry, seq int64) int { return cmp.Compare(e.seq, seq) })
	if !ok {
		return nil
	}
	return of[i]
}

// set notes how a delivery stands now. In the index one that is gone stays until
// nothing is remembered of it: to take it out at once would write a page for each.
func (c *chains) set(seq int64, key chainKey, is standing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.find(seq, key)
	if e == nil {
		return
	}
	c.undo = append(c.undo, undo{e: e, was: e.is})
	if e.is != gone && is == gone {
		c.live--
	}
	e.is = is
}

// before returns how the last pending one before seq stands; gone if memory has
// none.
func (c *chains) before(seq int64, key chainKey) standing {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.of[key]
	for i := len(of) - 1; i >= 0; i-- {
		if e := of[i]; e.seq < seq && e.is > kept {
			return e.is
		}
	}
	return gone
}

// committed forgets how it was before the transaction.
func (c *chains) committed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, u := range c.undo {
		if u.e.is == gone {
			c.drop(u.e.key)
		}
	}
	c.undo = c.undo[:0]
	for c.entries.len() > 0 && c.entries.peek().is == gone {
		c.entries.pop()
	}
}

// rolledBack makes it as it was before the transaction.
func (c *chains) rolledBack() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.undo) - 1; i >= 0; i-- {
		u := c.undo[i]
		is := u.was
		if u.added {
			is = gone
		}
		if u.e.is == gone && is != gone {
			c.live++
		} else if u.e.is != gone && is == gone {
			c.live--
		}
		u.e.is = is
		if is == gone {
			c.drop(u.e.key)
		}
	}
	c.undo = c.undo[:0]
}

// drop takes out of a chain what is gone, as far as that is its beginning or end.
func (c *chains) drop(key chainKey) {
	of := c.of[key]
	for len(of) > 0 && of[0].is == gone {
		of = of[1:]
	}
	for len(of) > 0 && of[len(of)-1].is == gone {
		of = of[:len(of)-1]
	}
	if len(of) == 0 {
		delete(c.of, key)
		return
	}
	c.of[key] = of
}

// ofCall returns the deliveries of a call that the index may not have.
func (c *chains) ofCall(call string) (seqs []int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries.all() {
		if e.key.call == call && e.is != gone {
			seqs = append(seqs, e.seq)
		}
	}
	return seqs
}

// clean returns the mark that could be stored: all up to there is indexed or gone.
func (c *chains) clean(last int64) int64 {
	if c.entries.len() == 0 {
		return last
	}
	return c.entries.peek().seq - 1
}

// begin prepares a batch for the index if it is too far behind.
func (c *chains) begin(last int64) {
	if c.next < len(c.batch) || c.entries.len() == 0 {
		return
	}
	upTo := last
	if c.live <= c.lag.unindexed {
		if last-c.entries.peek().seq < c.lag.behind {
			return
		}
		upTo = last - c.lag.behind/2
	}
	c.batch, c.next, c.upTo = c.batch[:0], 0, upTo
	for _, e := range c.entries.all() {
		if e.seq > upTo {
			break
		}
		if e.is != gone {
			c.batch = append(c.batch, e)
		}
	}
	slices.SortFunc(c.batch, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.key.call, b.key.call), cmp.Compare(a.key.lane, b.key.lane), cmp.Compare(a.seq, b.seq))
	})
}

// index writes some of what is behind to the index. It is the last that a
// transaction does.
func (t *txn) index(fresh int) error {
	c := &t.w.chains
	c.mu.Lock()
	defer c.mu.Unlock()
	mark := c.mark
	if c.next < len(c.batch) {
		to := min(len(c.batch), c.next+c.lag.step+2*fresh)
		for _, e := range c.batch[c.next:to] {
			if e.is == gone {
				continue
			}
			st := t.db.insertCall
			err := errors.Join(st.BindText(1, e.key.call), st.BindInt64(2, e.key.lane), st.BindInt64(3, e.seq))
			if err = errors.Join(err, st.Exec()); err != nil {
				return err
			}
		}
		t.indexed = to
		if to == len(c.batch) {
			mark = c.upTo
		}
	} else if clean := c.clean(t.seq); clean-c.mark >= c.lag.save {
		mark = clean
	}
	if mark != c.mark {
		st := t.db.setMark
		if err := errors.Join(st.BindInt64(1, mark), st.Exec()); err != nil {
			return err
		}
	}
	t.mark = mark
	return nil
}

// wereIndexed notes what index did, once it is committed, and prepares what is
// next.
func (c *chains) wereIndexed(t *txn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.begin(t.seq)
	if t.indexed > 0 {
		c.on = true
		c.next = t.indexed
	}
	if t.mark <= c.mark {
		return
	}
	c.mark = t.mark
	if c.next < len(c.batch) || c.upTo != c.mark {
		return
	}
	for _, e := range c.batch {
		if e.is != gone {
			e.is = gone // as far as memory is concerned
			c.live--
		}
		c.drop(e.key)
	}
	c.batch, c.next = nil, 0
	for c.entries.len() > 0 && c.entries.peek().seq <= c.mark {
		c.entries.pop()
	}
}

// before returns how the last pending one of a call before seq stands, gone for
// none.
func (t *txn) before(seq int64, key chainKey) (standing, error) {
	c := &t.w.chains
	if is := c.before(seq, key); is != gone || !c.on {
		return is, nil
	}
	st := t.db.earlier
	if err := errors.Join(st.BindText(1, key.call), st.BindInt64(2, key.lane), st.BindInt64(3, seq)); err != nil {
		return gone, err
	}
	is := gone
	if st.Step() {
		is = standingOf(string(st.ColumnRawText(1)), st.ColumnInt64(0))
	}
	if err := errors.Join(st.Err(), st.Reset()); err != nil || is != gone {
		return is, err
	}
	if st.Status(sqlite3.STMTSTATUS_VM_STEP, true) < manySteps {
		return gone, nil
	}
	st = t.db.deleteCalls
	return gone, errors.Join(st.BindText(1, key.call), st.BindInt64(2, key.lane), st.Exec())
}

// manySteps is the effort of looking at some dozens of settled ones in the index.
const manySteps = 500

// standingOf returns how one in a state stands to the later ones of its call.
func standingOf(state string, attempts int64) standing {
	switch {
	case state == dead || state == delivered:
		return kept
	case state == blocked:
		return waits
	case attempts > 0:
		return tried
	}
	return first
}

// load reads what the index does not have.
func (c *chains) load(d *db) error {
	c.of = map[chainKey][]*entry{}
	var err error
	if c.mark, err = number(d.c, "SELECT value FROM settings WHERE name = 'calls_to'"); err != nil {
		return err
	}
	n, err := number(d.c, "SELECT EXISTS (SELECT 1 FROM calls)")
	if err != nil {
		return err
	}
	c.on = n > 0
	st, err := d.stmt("SELECT seq, lane_id, call, state, attempts FROM deliveries WHERE seq > ? AND meta IS NOT NULL ORDER BY seq")
	if err != nil {
		return err
	}
	if err := st.BindInt64(1, c.mark); err != nil {
		return err
	}
	for st.Step() {
		c.add(st.ColumnInt64(0), chainKey{st.ColumnInt64(1), st.ColumnText(2)}, standingOf(st.ColumnText(3), st.ColumnInt64(4)))
	}
	c.undo = nil
	return errors.Join(st.Err(), st.Reset())
}
