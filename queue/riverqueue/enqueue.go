package riverqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// WithTx returns a ctx with which events are stored in a transaction of the caller's:
// they go out once it is committed, and never when it is rolled back.
//
//	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
//		if _, err := tx.Exec(ctx, "UPDATE calls SET ended_at = $1 WHERE id = $2", call.EndedAt, call.ID); err != nil {
//			return err
//		}
//		return hooks.PostCall(riverqueue.WithTx(ctx, tx), call)
//	})
//
// The transaction is of the same database, not necessarily of the same pool, and used
// only until the verb returns. An error of the verb has aborted it. While it is open,
// an event that is raised a second time waits for its end, and nothing else does. The
// first event of a webhook ever makes another connection for a moment, beside the pool's.
func WithTx(ctx context.Context, tx pgx.Tx) context.Context {
	return context.WithValue(ctx, txKey{}, tx)
}

type txKey struct{}

// Enqueue implements [callhook.Queue]. What several goroutines enqueue at the same time
// is stored by one transaction. See [WithTx] for the caller's own.
func (q *Queue) Enqueue(ctx context.Context, ds ...*callhook.Delivery) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if q.closed.Load() {
		return errClosed
	}
	if len(ds) == 0 {
		return nil
	}
	tx, _ := ctx.Value(txKey{}).(pgx.Tx)
	rows, err := q.rows(ctx, tx, ds)
	if err == nil {
		if tx != nil {
			err = q.insert(ctx, tx, rows, 0)
		} else {
			err = q.enqueues.do(ctx, rows)
		}
	}
	return storeError("storing deliveries", err)
}

// row is a delivery as it is stored.
type row struct {
	*callhook.Delivery
	key       pgtype.UUID
	lane      *lane
	meta, log string
}

func (q *Queue) rows(ctx context.Context, tx pgx.Tx, ds []*callhook.Delivery) ([]row, error) {
	lanes, err := q.lanes.of(ctx, tx, ds)
	if err != nil {
		return nil, err
	}
	rows := make([]row, len(ds))
	for i, d := range ds {
		r := row{Delivery: d, key: keyOf(d.ID), lane: lanes[i]}
		if r.meta, err = encodeMeta(d, r.lane); err == nil {
			r.log, err = encodeLog(d.Log)
		}
		if err != nil {
			return nil, fmt.Errorf("delivery %s cannot be stored: %w", d.ID, err)
		}
		rows[i] = r
	}
	return rows, nil
}

// What one statement stores at most.
const (
	maxRows  = 1000
	maxBytes = 8 << 20
)

// insert stores rows in one transaction's statements. Of a transaction of its own it may
// bound how long that waits for others.
func (q *Queue) insert(ctx context.Context, db interface {
	SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
}, rows []row, wait time.Duration) error {
	seen := make(map[pgtype.UUID]bool, len(rows))
	rows = slices.DeleteFunc(slices.Clone(rows), func(r row) bool {
		again := seen[r.key]
		seen[r.key] = true
		return again
	})
	var b pgx.Batch
	if wait > 0 {
		b.Queue("SELECT set_config('lock_timeout', $1, true)", strconv.FormatInt(wait.Milliseconds(), 10))
	}
	for len(rows) > 0 {
		n, size := 0, 0
		for n < len(rows) && n < maxRows && (n == 0 || size < maxBytes) {
			size += len(rows[n].Body) + len(rows[n].Record) + len(rows[n].meta) + len(rows[n].log)
			n++
		}
		b.Queue(q.sql.enqueue, columns(rows[:n])...)
		rows = rows[n:]
	}
	return db.SendBatch(ctx, &b).Close()
}

// columns are the rows as arguments of the statement.
func columns(rows []row) []any {
	n := len(rows)
	keys, ids, lanes, partitions := make([]pgtype.UUID, n), make([]string, n), make([]int32, n), make([]int16, n)
	hashes, calls, ordered := make([]int64, n), make([]string, n), make([]bool, n)
	attempts, rejections, postponed, enqueued := make([]int32, n), make([]int32, n), make([]int32, n), make([]int64, n)
	metas, logs, numbers, bodies, records := make([]string, n), make([]string, n), make([]string, n), make([][]byte, n), make([][]byte, n)
	for i, r := range rows {
		keys[i], ids[i], lanes[i], partitions[i] = r.key, text(r.ID), r.lane.id, r.lane.partition
		hashes[i], calls[i], ordered[i] = hashOf(r.Call), text(r.Call), r.Ordered
		attempts[i], rejections[i], postponed[i], enqueued[i] = int32(r.Attempts), int32(r.Rejections), int32(r.Postponed), nanos(r.EnqueuedAt)
		metas[i], logs[i], bodies[i], records[i] = r.meta, r.log, r.Body, r.Record
		if len(r.Numbers) > 0 {
			all := make([]string, len(r.Numbers))
			for j, number := range r.Numbers {
				all[j] = text(number)
			}
			numbers[i] = strings.Join(all, unit)
		}
	}
	return []any{keys, ids, lanes, partitions, hashes, calls, ordered, attempts, rejections, postponed, enqueued, metas, logs, numbers, bodies, records}
}

const enqueueSQL = `
WITH input AS (
	SELECT t.*, nextval('{s}.callhook_seq') AS seq
	FROM unnest($1::uuid[], $2::text[], $3::int4[], $4::int2[], $5::int8[], $6::text[], $7::bool[], $8::int4[], $9::int4[], $10::int4[],
		$11::int8[], $12::text[], $13::text[], $14::text[], $15::bytea[], $16::bytea[])
		AS t(key, id, lane, partition, call_hash, call, ordered, attempts, rejections, postponed, enqueued, meta, log, numbers, body, record)
), new AS (
	INSERT INTO {s}.callhook_ids (key, seq) SELECT key, seq FROM input ORDER BY key
	ON CONFLICT (key) DO NOTHING RETURNING key
), stored AS (
	INSERT INTO {s}.callhook_deliveries (seq, key, ticket, call_hash, enqueued, lane, attempts, rejections, postponed, partition, ordered, state,
		id, call, meta, log, numbers, body, record)
	SELECT seq, key, nextval('{s}.river_job_id_seq'), call_hash, enqueued, lane, attempts, rejections, postponed, partition, ordered, 'ready',
		id, call, meta, nullif(log, ''), string_to_array(nullif(numbers, ''), E'\x1f'), body, record
	FROM input JOIN new USING (key) ORDER BY seq
	RETURNING seq, ticket, partition, lane, NULL::timestamptz AS due, ` + sizeSQL + `
), ` + jobsFrom + `
` + notifySQL

// jobsFrom makes the River jobs of deliveries that were stored or changed, which are
// the CTE named stored. A job is but a pointer: it says which delivery is ready, the
// queue says in which partition, and it is gone when the delivery has had its handler.
// One that was released names its lane too. What is due within seconds is available
// already: River hands it out at its time.
const jobsFrom = `jobs AS (
	INSERT INTO {s}.river_job (id, kind, queue, args, max_attempts, state, scheduled_at)
	SELECT ticket, '` + kind + `', '` + queuePrefix + `' || partition,
		jsonb_strip_nulls(jsonb_build_object('seq', seq, 'size', CASE WHEN size > 16384 THEN size END)), 25,
		(CASE WHEN due > now() + interval '` + lookAheadSQL + `' THEN 'scheduled' ELSE 'available' END)::{s}.river_job_state, coalesce(due, now())
	FROM stored WHERE ticket IS NOT NULL
)`

// releasedFrom is the same for those that Release has freed.
const releasedFrom = `jobs AS (
	INSERT INTO {s}.river_job (id, kind, queue, args, max_attempts)
	SELECT ticket, '` + kind + `', '` + queuePrefix + `' || partition,
		jsonb_strip_nulls(jsonb_build_object('seq', seq, 'lane', lane, 'size', CASE WHEN size > 16384 THEN size END)), 25
	FROM stored
)`

// notifySQL tells River's producers of the jobs.
const notifySQL = `SELECT pg_notify('{channel}.river_insert', json_build_object('queue', queue)::text)
FROM (SELECT DISTINCT '` + queuePrefix + `' || partition AS queue FROM stored WHERE ticket IS NOT NULL AND (due IS NULL OR due <= now())) q`

const (
	sizeSQL      = "coalesce(octet_length(body), 0) + coalesce(octet_length(record), 0) AS size"
	kind         = "callhook"
	queuePrefix  = "callhook_"
	lookAheadSQL = "10 seconds"
)

// enqueue is what one call of Enqueue stores.
type enqueue struct {
	rows  []row
	err   error
	done  chan struct{}
	moved atomic.Bool // the caller has: its ctx has ended
}

// enqueues gathers what is enqueued while a transaction goes to the disk for the
// next one. Its goroutine lives while there is something to store.
type enqueues struct {
	q       *Queue
	pending gatherer[*enqueue]
}

func (es *enqueues) do(ctx context.Context, rows []row) error {
	e := &enqueue{rows: rows, done: make(chan struct{})}
	es.pending.give(e, es.run)
	select {
	case <-e.done:
		return e.err
	case <-ctx.Done():
		e.moved.Store(true)
		return ctx.Err() // it may be stored: whoever repeats it is ignored
	}
}

func (es *enqueues) run(all []*enqueue) {
	all = slices.DeleteFunc(all, func(e *enqueue) bool { return e.moved.Load() })
	for len(all) > 0 {
		n, rows := 0, 0
		for n < len(all) && (n == 0 || rows+len(all[n].rows) <= maxRows) {
			rows += len(all[n].rows)
			n++
		}
		es.store(all[:n])
		all = all[n:]
	}
}

// store stores what many have enqueued, or, when the database refuses it, what each
// has: it may be the fault of one. One that waits for others, as for a transaction of a
// caller's in which the same event was raised, goes on waiting by itself.
func (es *enqueues) store(all []*enqueue) {
	var rows []row
	for _, e := range all {
		rows = append(rows, e.rows...)
	}
	err := es.insert(rows, lockWait)
	pg, refused := errors.AsType[*pgconn.PgError](err)
	switch {
	case refused && len(all) > 1:
		for _, e := range all {
			es.store([]*enqueue{e})
		}
	case refused && pg.Code == "55P03": // lock_not_available
		go func() { settleAll(all, es.insert(rows, 0)) }()
	default:
		settleAll(all, err)
	}
}

func settleAll(all []*enqueue, err error) {
	for _, e := range all {
		e.err = err
		close(e.done)
	}
}

// insert stores rows in a transaction of their own, which waits for others for so long;
// zero is for as long as it may take.
func (es *enqueues) insert(rows []row, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), statementTimeout)
	defer cancel()
	return again(ctx, func() error { return es.q.insert(ctx, es.q.o.Pool, rows, wait) })
}

// lockWait is how long those who enqueue at the same time wait for one of them. It is
// less than what Postgres takes to look for a deadlock.
const lockWait = 200 * time.Millisecond

// statementTimeout bounds a transaction of the queue's own.
const statementTimeout = 30 * time.Second

// again repeats what two transactions kept each other from: a deadlock, and a
// connection of the pool that had broken before anything was sent on it.
func again(ctx context.Context, f func() error) (err error) {
	for range 5 {
		err = f()
		pg, ok := errors.AsType[*pgconn.PgError](err)
		if err == nil || !(ok && (pg.Code == "40P01" || pg.Code == "40001")) && !pgconn.SafeToRetry(err) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// storeError says what was tried, and tells a disk that is full.
func storeError(what string, err error) error {
	if err == nil || errors.Is(err, callhook.ErrQueueClosed) {
		return err
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pg.Code {
		case "53100":
			return fmt.Errorf("riverqueue: %s: %w: the disk of Postgres is full, make room: %w", what, callhook.ErrQueueFull, err)
		case "42P01", "42703":
			return fmt.Errorf("riverqueue: %s: %w: %w", what, ErrNotMigrated, err)
		}
	}
	return fmt.Errorf("riverqueue: %s: %w", what, err)
}

// byKey orders what is inserted, so that two transactions do not wait for each other.
func byKey(a, b pgtype.UUID) int { return cmp.Compare(string(a.Bytes[:]), string(b.Bytes[:])) }
