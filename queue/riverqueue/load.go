package riverqueue

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/jackc/pgx/v5"
)

// ticket is a River job that this process has: it stands for a delivery that is ready.
// A ticket is used once. When the delivery is to be handed out again, it gets another
// job; so whatever an old job still brings about, on a process that has been given up,
// finds that it counts no more.
type ticket struct {
	id, seq   int64
	lane      int32 // of one that Release has freed; else 0
	partition int16
	size      int64
}

// item is a delivery that was loaded for a ticket.
type item struct {
	ticket
	d       callhook.Delivery
	lane    int32
	hash    int64
	due     time.Time
	found   fate
	blocked bool // by an earlier one of its call
}

// fate is what has become of what a ticket stands for.
type fate int

const (
	here    fate = iota // it is to be handed out
	erased              // it is gone
	another             // it has another ticket
	leased              // another process works the partition now
)

const loadSQL = `
SELECT i.n, d.ticket IS NOT DISTINCT FROM i.ticket, p.owner IS NOT DISTINCT FROM $3, d.lane, d.call_hash, d.id, d.call, d.ordered, d.attempts, d.rejections, d.postponed,
	d.enqueued, coalesce(d.due, '-infinity'), d.meta, coalesce(d.log, ''), coalesce(array_to_string(d.numbers, E'\x1f'), ''), d.body, d.record, l.lane, l.tenant, l.agent, l.webhook,
	` + blockedSQL + `
FROM unnest($1::int8[], $2::int8[]) WITH ORDINALITY AS i(seq, ticket, n)
JOIN {s}.callhook_deliveries d ON d.seq = i.seq
JOIN {s}.callhook_lanes l ON l.id = d.lane
JOIN {s}.callhook_partitions p ON p.partition = d.partition`

// blockedSQL says whether d waits for earlier ones of its call and lane.
const blockedSQL = `EXISTS (
		SELECT FROM {s}.callhook_deliveries e
		WHERE e.call_hash = d.call_hash AND e.lane = d.lane AND e.seq < d.seq AND e.state <> 'dead' AND (e.attempts = 0 OR d.ordered))`

// loader reads the deliveries of tickets, many at a time, and bounds what is in memory
// of them.
type loader struct {
	q       *Queue
	ctx     context.Context // ends when Consume gives up
	pending gatherer[*loading]

	mu   sync.Mutex
	room *sync.Cond
	out  int64 // bytes that are loaded
}

type loading struct {
	ticket
	item *item
	done chan struct{}
}

const (
	// maxOut bounds the bodies that are in memory. One alone may be larger.
	maxOut = 128 << 20
	// usualSize is taken for what is not worth saying.
	usualSize = 4 << 10
)

// load returns what a ticket stands for, or nil when Consume has given up. The caller
// says when it is done with it by unload.
func (ld *loader) load(t ticket) *item {
	l := &loading{ticket: t, done: make(chan struct{})}
	ld.pending.give(l, ld.run)
	<-l.done
	return l.item
}

func (ld *loader) unload(t ticket) {
	ld.mu.Lock()
	ld.out -= max(t.size, usualSize)
	ld.room.Broadcast()
	ld.mu.Unlock()
}

func (ld *loader) run(all []*loading) {
	for len(all) > 0 {
		n := ld.take(all)
		ld.read(all[:n])
		all = all[n:]
	}
}

// take waits until there is room, and returns how many may be read now.
func (ld *loader) take(all []*loading) (n int) {
	ld.mu.Lock()
	defer ld.mu.Unlock()
	var batch int64
	for n < len(all) && n < maxRows && batch < maxBytes {
		size := max(all[n].size, usualSize)
		for ld.out > 0 && ld.out+size > maxOut {
			if n > 0 {
				return n
			}
			ld.room.Wait()
		}
		ld.out += size
		batch += size
		n++
	}
	return n
}

// read reads a batch, however often it takes.
func (ld *loader) read(batch []*loading) {
	var items []*item
	err := insist(ld.ctx, ld.q.log, "load deliveries", func(ctx context.Context) (err error) {
		items, err = ld.query(ctx, batch)
		return err
	})
	for i, l := range batch {
		if err == nil {
			l.item = items[i]
		}
		close(l.done)
	}
}

func (ld *loader) query(ctx context.Context, batch []*loading) ([]*item, error) {
	seqs, tickets := make([]int64, len(batch)), make([]int64, len(batch))
	items := make([]*item, len(batch))
	for i, l := range batch {
		seqs[i], tickets[i] = l.seq, l.id
		items[i] = &item{ticket: l.ticket, lane: l.ticket.lane, found: erased}
	}
	rows, err := ld.q.o.Pool.Query(ctx, ld.q.sql.load, seqs, tickets, ld.q.id)
	if err != nil {
		return nil, err
	}
	var (
		n, enqueued         int64
		mine, owned         bool
		row                 scanned
		lane                int32
		hash                int64
		due                 infinite
		blocked             bool
		bad                 []error
		attempts, rejs, pos int
	)
	_, err = pgx.ForEachRow(rows, []any{
		&n, &mine, &owned, &lane, &hash, &row.id, &row.call, &row.ordered, &attempts, &rejs, &pos,
		&enqueued, &due, &row.meta, &row.log, &row.numbers, &row.body, &row.record, &row.lane, &row.tenant, &row.agent, &row.webhook, &blocked,
	}, func() error {
		it := items[n-1]
		it.lane, it.hash, it.due, it.blocked, it.found = lane, hash, due.Time, blocked, here
		switch {
		case !owned:
			it.found = leased
		case !mine:
			it.found = another
		}
		row.attempts, row.rejections, row.postponed, row.enqueued = attempts, rejs, pos, enqueued
		d, err := row.delivery()
		if err != nil {
			bad = append(bad, damaged(it.seq, err))
			d.BuildError = "riverqueue: " + err.Error() // a handler makes a dead letter of it
		}
		d.Seq = it.seq
		it.d = d
		row.body, row.record = nil, nil
		return nil
	})
	if err == nil && len(bad) > 0 {
		ld.q.log.Error("riverqueue: what was stored cannot be read", "error", errors.Join(bad...))
	}
	return items, err
}

// insist repeats what a database that is away or busy does not do, until ctx ends.
func insist(ctx context.Context, log interface{ Warn(string, ...any) }, what string, f func(context.Context) error) error {
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		once, cancel := context.WithTimeout(ctx, statementTimeout)
		err := f(once)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
		log.Warn("riverqueue: trying again to "+what, "error", err)
		if !pause(ctx, wait) {
			return err
		}
	}
}
