package riverqueue

import (
	"context"
	"fmt"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/jackc/pgx/v5"
)

// Replay implements [callhook.Inspector]. What is replayed counts as enqueued now, and
// so comes after what its calls have pending.
func (q *Queue) Replay(ctx context.Context, f callhook.Filter) (int, error) {
	switch {
	case q.closed.Load():
		return 0, errClosed
	case f.State != "" && f.State != callhook.StateDead:
		return 0, fmt.Errorf("riverqueue: %w: what is %s cannot be replayed: dead letters can", callhook.ErrFilter, f.State)
	}
	f.State = callhook.StateDead
	w := q.where(f)
	statement := in(q.o.Schema, "WITH found AS ("+w.query("d.seq", max(f.Limit, 0))+"), ") + in(q.o.Schema, fmt.Sprintf(replaySQL, len(w.args)+1))
	var n int
	err := again(ctx, func() error {
		return q.o.Pool.QueryRow(ctx, statement, append(w.args, nanos(time.Now()))...).Scan(&n)
	})
	return n, storeError("replaying", err)
}

// The ORDER BY has them numbered in the order in which they were enqueued first.
const replaySQL = `next AS (
	SELECT seq, nextval('{s}.callhook_seq') AS next FROM (SELECT seq FROM found ORDER BY seq) f
), stored AS (
	UPDATE {s}.callhook_deliveries d SET seq = n.next, ticket = nextval('{s}.river_job_id_seq'), state = 'ready', attempts = 0, rejections = 0, postponed = 0,
		enqueued = $%d, stored_at = now(), reason = NULL, dead_at = NULL, meta = (meta::jsonb - 'enqueued_at')::text
	FROM next n WHERE d.seq = n.seq AND d.state = 'dead'
	RETURNING d.seq, d.key, d.ticket, d.partition, d.lane, d.due, ` + sizeSQL + `
), ` + jobsFrom + `, ids AS (
	UPDATE {s}.callhook_ids i SET seq = s.seq, at = now() FROM stored s WHERE i.key = s.key
), sums AS (
	UPDATE {s}.callhook_lanes l SET dead = l.dead - s.n FROM (SELECT lane, count(*) AS n FROM stored GROUP BY lane) s WHERE l.id = s.lane
), told AS (` + notifySQL + `)
SELECT count(*) FROM stored, (SELECT count(*) FROM told) t`

// Erase implements [callhook.Inspector].
func (q *Queue) Erase(ctx context.Context, f callhook.Filter) (int, error) {
	switch {
	case q.closed.Load():
		return 0, errClosed
	case len(f.IDs) == 0 && f.Call == "" && f.Number == "":
		return 0, fmt.Errorf("riverqueue: %w selects everything: say whose data to erase, by IDs, Call or Number", callhook.ErrFilter)
	}
	w := q.where(f)
	find := in(q.o.Schema, w.query("d.seq, d.lane, d.call_hash", max(f.Limit, 0)))
	var n int
	err := again(ctx, func() error {
		return pgx.BeginFunc(ctx, q.o.Pool, func(tx pgx.Tx) error {
			var seqs, hashes []int64
			var lanes []int32
			rows, err := tx.Query(ctx, find, w.args...)
			if err != nil {
				return err
			}
			var seq, hash int64
			var lane int32
			if _, err := pgx.ForEachRow(rows, []any{&seq, &lane, &hash}, func() error {
				seqs, lanes, hashes = append(seqs, seq), append(lanes, lane), append(hashes, hash)
				return nil
			}); err != nil || len(seqs) == 0 {
				n = 0
				return err
			}
			b := new(pgx.Batch)
			b.Queue(q.sql.lockLanes, lanes) // whoever works one may be about to have others wait for these
			b.Queue(in(q.o.Schema, eraseSQL), seqs).QueryRow(func(row pgx.Row) error { return row.Scan(&n) })
			b.Queue(q.sql.advance, hashes, lanes)
			return tx.SendBatch(ctx, b).Close()
		})
	})
	return n, storeError("erasing", err)
}

// eraseSQL deletes deliveries and their jobs. The job of one that was released stays:
// whoever gets it finds nothing, and frees the next of the lane instead.
const eraseSQL = `
WITH gone AS (
	DELETE FROM {s}.callhook_deliveries WHERE seq = ANY($1::int8[]) RETURNING key, lane, ticket, state, stored_at
), settled AS (
	SELECT * FROM gone WHERE state <> 'dead'
), jobs AS (
	DELETE FROM {s}.river_job j USING gone g WHERE j.id = g.ticket AND j.state <> 'running' AND NOT j.args ? 'lane'
), sums AS (
	UPDATE {s}.callhook_lanes l SET erased = l.erased + s.n FROM (SELECT lane, count(*) AS n FROM settled GROUP BY lane) s WHERE l.id = s.lane
), aged AS (` + agedSQL + `)
SELECT count(*) FROM gone`
