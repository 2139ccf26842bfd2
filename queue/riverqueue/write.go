package riverqueue

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/jackc/pgx/v5"
)

// writer carries out what becomes of deliveries that this process has, many by one
// transaction, one transaction after the other. So it also decides what depends on
// what came before: of a lane that it works, whether something is parked, and of a
// call, whether something earlier is left.
type writer struct {
	c       *consumer
	ctx     context.Context // ends when Consume gives up
	pending gatherer[*op]
	parked  int64 // the last number of those parked
}

// op is one of these things to do.
type op struct {
	what what
	item *item
	to   callhook.Verdict // of settle
	yes  bool             // of block and keep: it is not to be handed out now
	err  error
	done chan struct{}

	// Of release: n of each lane of these partitions, or of one.
	partitions []int16
	lane       int32
	n, freed   int
	freedBy    map[int32]int
	looked     int   // of all, in one round
	last, next int64 // where the round begins, and the next
}

type what int

const (
	settle  what = iota // a verdict
	block               // it waits for its call's earlier ones, if there are any
	keep                // it is parked with the others of its lane, if there are any
	back                // it is ready as before
	drop                // its ticket stands for nothing
	release             // of lanes, or of one
)

// do carries out an op and returns when it is stored.
func (w *writer) do(o *op) *op {
	o.done = make(chan struct{})
	w.pending.give(o, w.run)
	<-o.done
	return o
}

func (w *writer) run(all []*op) {
	for batch := range slices.Chunk(all, maxRows) {
		err := insist(w.ctx, w.c.q.log, "store verdicts", func(ctx context.Context) error {
			return again(ctx, func() error { return w.store(ctx, batch) })
		})
		for _, o := range batch {
			o.err = err
			close(o.done)
		}
	}
}

// store is one transaction. The order of its statements matters: what is settled lets
// others of its call go, and a release finds all that was parked before.
func (w *writer) store(ctx context.Context, all []*op) error {
	by := map[what][]*op{}
	for _, o := range all {
		if o.what == keep && !w.c.backlog(o.item.lane) {
			o.yes = false // it was released meanwhile
			continue
		}
		by[o.what] = append(by[o.what], o)
	}
	b := new(pgx.Batch)
	if len(by[settle]) == 0 && len(by[back]) == 0 {
		b.Queue("SELECT set_config('synchronous_commit', 'off', true)") // what was released need not be remembered
	}
	w.settle(b, by[settle])
	w.blocks(b, by[block])
	w.keeps(b, by[keep])
	w.backs(b, by[back])
	w.drops(b, by[drop])
	w.releases(b, by[release])
	if b.Len() == 0 {
		return nil
	}
	if err := w.c.q.o.Pool.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	w.remember(by)
	return nil
}

// remember notes which lanes have parked ones now.
func (w *writer) remember(by map[what][]*op) {
	for _, o := range by[keep] {
		if !o.yes {
			w.c.clearBacklog(o.item.lane)
		}
	}
	for _, o := range by[settle] {
		if o.to.State == callhook.StateParked {
			w.c.setBacklog(o.item)
		}
	}
	for _, o := range by[release] {
		w.c.afterRelease(o)
	}
}

func (w *writer) settle(b *pgx.Batch, all []*op) {
	if len(all) == 0 {
		return
	}
	n := len(all)
	seqs, tickets, states, dues := make([]int64, n), make([]int64, n), make([]string, n), make([]*time.Time, n)
	attempts, rejections, postponed := make([]int32, n), make([]int32, n), make([]int32, n)
	logs, reasons, parked := make([]string, n), make([]string, n), make([]int64, n)
	hashes, lanes := make([]int64, n), make([]int32, n)
	now := time.Now()
	for i, o := range all {
		d, v := &o.item.d, o.to
		seqs[i], tickets[i], hashes[i], lanes[i] = o.item.seq, o.item.id, o.item.hash, o.item.lane
		attempts[i], rejections[i], postponed[i] = bounded(d.Attempts), bounded(d.Rejections), bounded(d.Postponed)
		reasons[i] = text(string(v.Reason))
		if v.State != callhook.StateDelivered {
			logs[i], _ = encodeLog(d.Log)
		}
		switch v.State {
		case callhook.StateDelivered, callhook.StateDead:
			states[i] = string(v.State)
		case callhook.StateParked:
			states[i], parked[i] = "parked", w.nextParked(now)
		default:
			states[i] = "ready"
			if v.At.After(now) {
				at := due(v.At)
				states[i], dues[i] = "waiting", &at
			}
		}
	}
	b.Queue(w.c.q.sql.settle, seqs, tickets, states, dues, attempts, rejections, postponed, logs, reasons, parked)
	b.Queue(w.c.q.sql.advance, hashes, lanes)
}

// due is a time as Postgres has it, not before it.
func due(at time.Time) time.Time {
	if at.Year() > 9000 {
		at = time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return at.Add(time.Microsecond - 1).Truncate(time.Microsecond)
}

func bounded(n int) int32 { return int32(min(max(n, math.MinInt32), math.MaxInt32)) }

// nextParked numbers what is parked, in the order of the times.
func (w *writer) nextParked(now time.Time) int64 {
	w.parked = max(w.parked+1, now.UnixMicro())
	return w.parked
}

func (w *writer) blocks(b *pgx.Batch, all []*op) {
	if len(all) == 0 {
		return
	}
	by, seqs, tickets := w.tickets(all)
	b.Queue(w.c.q.sql.lockLanes, lanesOf(all)) // somebody may erase what it waits for
	b.Queue(w.c.q.sql.block, seqs, tickets).Query(func(rows pgx.Rows) error { return said(rows, by) })
}

func (w *writer) keeps(b *pgx.Batch, all []*op) {
	if len(all) == 0 {
		return
	}
	by, seqs, tickets := w.tickets(all)
	parked, now := make([]int64, len(all)), time.Now()
	for i := range all {
		parked[i] = w.nextParked(now)
	}
	b.Queue(w.c.q.sql.lockLanes, lanesOf(all)) // somebody may erase those that are parked
	b.Queue(w.c.q.sql.keep, seqs, tickets, parked).Query(func(rows pgx.Rows) error { return said(rows, by) })
}

func (w *writer) backs(b *pgx.Batch, all []*op) {
	if len(all) > 0 {
		_, seqs, tickets := w.tickets(all)
		released := make([]bool, len(all))
		for i, o := range all {
			released[i] = o.item.ticket.lane != 0
		}
		b.Queue(w.c.q.sql.back, seqs, tickets, released)
	}
}

func (w *writer) drops(b *pgx.Batch, all []*op) {
	if len(all) > 0 {
		_, _, tickets := w.tickets(all)
		b.Queue(w.c.q.sql.drop, tickets)
	}
}

func lanesOf(all []*op) []int32 {
	lanes := make([]int32, len(all))
	for i, o := range all {
		lanes[i] = o.item.lane
	}
	return lanes
}

func (w *writer) tickets(all []*op) (by map[int64]*op, seqs, tickets []int64) {
	by = map[int64]*op{}
	for _, o := range all {
		o.yes = false
		by[o.item.id] = o
		seqs, tickets = append(seqs, o.item.seq), append(tickets, o.item.id)
	}
	return by, seqs, tickets
}

// said reads the tickets of those for which the answer is yes.
func said(rows pgx.Rows, by map[int64]*op) error {
	var id int64
	_, err := pgx.ForEachRow(rows, []any{&id}, func() error {
		by[id].yes = true
		return nil
	})
	return err
}

// releases adds those of all lanes that were asked for, each lane's together.
func (w *writer) releases(b *pgx.Batch, all []*op) {
	for _, o := range all {
		o.queue(b, &w.c.q.sql)
	}
}

const settleSQL = `
WITH v AS (
	SELECT * FROM unnest($1::int8[], $2::int8[], $3::text[], $4::timestamptz[], $5::int4[], $6::int4[], $7::int4[], $8::text[], $9::text[], $10::int8[])
		AS v(seq, ticket, state, due, attempts, rejections, postponed, log, reason, parked)
), gone AS (
	DELETE FROM {s}.callhook_deliveries d USING v
	WHERE d.seq = v.seq AND d.ticket = v.ticket AND v.state = 'delivered'
	RETURNING d.lane, d.key, d.stored_at
), stored AS (
	UPDATE {s}.callhook_deliveries d
	SET state = v.state, due = v.due, attempts = v.attempts, rejections = v.rejections, postponed = v.postponed, log = nullif(v.log, ''),
		reason = nullif(v.reason, ''), parked = nullif(v.parked, 0), dead_at = CASE WHEN v.state = 'dead' THEN now() END,
		ticket = CASE WHEN v.state IN ('ready', 'waiting') THEN nextval('{s}.river_job_id_seq') END
	FROM v WHERE d.seq = v.seq AND d.ticket = v.ticket AND v.state <> 'delivered'
	RETURNING d.seq, d.ticket, d.partition, d.lane, d.due, d.state, d.key, d.stored_at, ` + sizeSQL + `
), ` + jobsFrom + `, settled AS (
	SELECT lane, key, stored_at, 1 AS delivered, 0 AS dead FROM gone
	UNION ALL SELECT lane, key, stored_at, 0, 1 FROM stored WHERE state = 'dead'
), sums AS (
	UPDATE {s}.callhook_lanes l SET delivered = l.delivered + s.delivered, dead = l.dead + s.dead
	FROM (SELECT lane, sum(delivered) AS delivered, sum(dead) AS dead FROM settled GROUP BY lane) s WHERE l.id = s.lane
), aged AS (` + agedSQL + `
), used AS (
	DELETE FROM {s}.river_job WHERE id = ANY($2::int8[])
) ` + notifySQL

// agedSQL has the IDs of what took long to be settled remembered from now on. What is
// settled within a day is remembered for long enough from when it was stored.
const agedSQL = `
	UPDATE {s}.callhook_ids i SET at = now() FROM settled s WHERE s.stored_at < now() - interval '1 day' AND i.key = s.key`

// advanceSQL lets go what waited for earlier ones of its call that are tried or
// settled now.
const advanceSQL = `
WITH c AS (SELECT DISTINCT call_hash, lane FROM unnest($1::int8[], $2::int4[]) AS c(call_hash, lane)),
stored AS (
	UPDATE {s}.callhook_deliveries d SET state = 'ready', ticket = nextval('{s}.river_job_id_seq') FROM c
	WHERE d.call_hash = c.call_hash AND d.lane = c.lane AND d.state = 'blocked' AND NOT ` + blockedSQL + `
	RETURNING d.seq, d.ticket, d.partition, d.lane, d.due, ` + sizeSQL + `
), ` + jobsFrom + ` ` + notifySQL

const lockLanesSQL = `SELECT FROM {s}.callhook_lanes WHERE id = ANY($1::int4[]) ORDER BY id FOR NO KEY UPDATE`

// oldTicketsSQL are those that count no more: as when the same was stored before, and
// the answer lost.
const oldTicketsSQL = `SELECT t.ticket FROM unnest($1::int8[], $2::int8[]) AS t(seq, ticket)
JOIN {s}.callhook_deliveries d ON d.seq = t.seq WHERE d.ticket IS DISTINCT FROM t.ticket`

const blockSQL = `
WITH b AS (
	UPDATE {s}.callhook_deliveries d SET state = 'blocked', ticket = NULL, due = NULL
	FROM unnest($1::int8[], $2::int8[]) AS t(seq, ticket)
	WHERE d.seq = t.seq AND d.ticket = t.ticket AND ` + blockedSQL + `
	RETURNING t.ticket
), used AS (DELETE FROM {s}.river_job j USING b WHERE j.id = b.ticket)
SELECT ticket FROM b UNION ` + oldTicketsSQL

const keepSQL = `
WITH k AS (
	UPDATE {s}.callhook_deliveries d SET state = 'parked', ticket = NULL, due = NULL, parked = t.parked
	FROM unnest($1::int8[], $2::int8[], $3::int8[]) AS t(seq, ticket, parked)
	WHERE d.seq = t.seq AND d.ticket = t.ticket AND (
		EXISTS (SELECT FROM {s}.callhook_deliveries p WHERE p.lane = d.lane AND p.state = 'parked' AND p.attempts = 0)
		OR EXISTS (SELECT FROM {s}.callhook_deliveries p WHERE p.lane = d.lane AND p.state = 'parked' AND p.attempts > 0))
	RETURNING t.ticket
), used AS (DELETE FROM {s}.river_job j USING k WHERE j.id = k.ticket)
SELECT ticket FROM k UNION ` + oldTicketsSQL

const backSQL = `
WITH stored AS (
	UPDATE {s}.callhook_deliveries d SET ticket = nextval('{s}.river_job_id_seq')
	FROM unnest($1::int8[], $2::int8[], $3::bool[]) AS t(seq, ticket, released)
	WHERE d.seq = t.seq AND d.ticket = t.ticket
	RETURNING d.seq, d.ticket, d.partition, d.lane, d.due, ` + sizeSQL + `
), ` + releasedFrom + `, used AS (DELETE FROM {s}.river_job WHERE id = ANY($2::int8[]))
` + notifySQL

const dropSQL = `DELETE FROM {s}.river_job WHERE id = ANY($1::int8[])`
