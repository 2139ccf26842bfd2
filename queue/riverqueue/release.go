package riverqueue

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Release implements [callhook.Queue]. Of lanes that another process works it frees
// none.
func (q *Queue) Release(ctx context.Context, name string, n int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if q.closed.Load() {
		return 0, errClosed
	}
	freed, err := q.release(ctx, name, n)
	return freed, storeError("releasing", err)
}

func (q *Queue) release(ctx context.Context, name string, n int) (freed int, err error) {
	left, lane := q.others(nil), int32(0)
	if name != "" {
		l, err := q.lanes.known(ctx, name)
		if err != nil || l == nil {
			return 0, err
		}
		left, lane = []int16{l.partition}, l.id
	}
	for range takeOverLooks {
		q.mu.Lock()
		c := q.consumer
		q.mu.Unlock()
		mine, others := divide(left, c.owned())
		if len(mine) > 0 {
			more, err := (&op{what: release, n: n, partitions: mine, lane: lane}).rounds(c.write.do)
			if freed += more; err != nil {
				return freed, err
			}
		}
		more, others, err := q.releaseUnowned(ctx, &op{what: release, n: n, partitions: others, lane: lane})
		if freed += more; err != nil || len(others) == 0 {
			return freed, err
		}
		// What has just become this process's will be taken over in a moment.
		if left, err = q.which(ctx, q.sql.mine, others, q.id); err != nil || len(left) == 0 {
			return freed, err
		}
		select {
		case <-time.After(takeOverPause):
		case <-ctx.Done():
			return freed, ctx.Err()
		}
	}
	return freed, nil
}

// divide returns those of the partitions that are among these, and the others.
func divide(ps, these []int16) (among, others []int16) {
	for _, p := range ps {
		if slices.Contains(these, p) {
			among = append(among, p)
		} else {
			others = append(others, p)
		}
	}
	return among, others
}

// rounds carries a release out; one of all in several transactions, each of which goes
// on where the one before has ended.
func (o *op) rounds(do func(*op) *op) (freed int, err error) {
	for {
		do(o)
		freed += o.freed
		if o.err != nil || o.n >= 0 || o.looked < releaseMost {
			return freed, o.err
		}
		o.last = o.next
	}
}

// releaseUnowned releases of the partitions that nobody works at present, and returns
// the others.
func (q *Queue) releaseUnowned(ctx context.Context, o *op) (freed int, others []int16, err error) {
	if len(o.partitions) == 0 {
		return 0, nil, nil
	}
	unowned, err := q.which(ctx, q.sql.unowned, o.partitions)
	if o.partitions, others = divide(o.partitions, unowned); err != nil || len(unowned) == 0 {
		return 0, others, err
	}
	freed, err = o.rounds(func(o *op) *op {
		o.err = again(ctx, func() error {
			b := new(pgx.Batch)
			b.Queue(q.sql.lockParts, o.partitions, o.lane)
			o.queue(b, &q.sql)
			return q.o.Pool.SendBatch(ctx, b).Close()
		})
		return o
	})
	return freed, others, err
}

// which returns the partitions that a statement selects.
func (q *Queue) which(ctx context.Context, statement string, args ...any) ([]int16, error) {
	rows, err := q.o.Pool.Query(ctx, statement, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int16])
}

// How long a release waits for its partition to be taken over by this process.
const (
	takeOverPause = 20 * time.Millisecond
	takeOverLooks = 250
)

// others returns the partitions that are not among these.
func (q *Queue) others(mine []int16) (out []int16) {
	for p := range int16(q.partitions) {
		if !slices.Contains(mine, p) {
			out = append(out, p)
		}
	}
	return out
}

// unownedSQL are the partitions that nobody works: whoever had one has left, or is not
// connected.
const unownedSQL = `SELECT partition FROM {s}.callhook_partitions
WHERE partition = ANY($1::int2[]) AND (owner IS NULL OR pg_try_advisory_xact_lock_shared(owner))`

// mineSQL are the partitions that are one process's.
const mineSQL = `SELECT partition FROM {s}.callhook_partitions WHERE partition = ANY($1::int2[]) AND owner = $2`

// lockPartsSQL keeps whoever comes back to work them from parking more meanwhile.
const lockPartsSQL = `SELECT FROM {s}.callhook_lanes WHERE partition = ANY($1::int2[]) AND ($2::int4 = 0 OR id = $2) ORDER BY id FOR NO KEY UPDATE`

// queue adds the release to a transaction.
func (o *op) queue(b *pgx.Batch, sql *statements) {
	statement, from := sql.release, int64(o.n)
	if o.n < 0 {
		statement, from = sql.releaseAll, o.last
	}
	o.freed, o.looked, o.freedBy = 0, 0, map[int32]int{}
	b.Queue(statement, o.partitions, o.lane, from).Query(func(rows pgx.Rows) error {
		var lane int32
		var n int
		var last int64
		_, err := pgx.ForEachRow(rows, []any{&lane, &n, &last}, func() error {
			if lane == 0 {
				o.looked, o.next = n, last
				return nil
			}
			o.freedBy[lane] = n
			o.freed += n
			return nil
		})
		return err
	})
}

// releaseMost is how many a transaction looks at that is to free all.
const releaseMost = 10_000

// releaseSQL frees $3 of each lane in the partitions $1, or of the lane $2 alone. Its
// order is that of a row of places, of which every fourth is for one with attempts; a
// lane's turn says where in it the lane stands. Each that is parked has its place, and
// those with the first places go: where one kind has run out the other moves up.
const releaseSQL = `
WITH l AS (
	SELECT id, turn FROM {s}.callhook_lanes WHERE partition = ANY($1::int2[]) AND ($2::int4 = 0 OR id = $2)
), picked AS (
	SELECT l.id AS lane, p.seq FROM l, LATERAL (
		SELECT seq, k + (k - 1) / 3 AS place FROM (
			SELECT seq, l.turn + row_number() OVER (ORDER BY seq) AS k FROM (
				SELECT seq FROM {s}.callhook_deliveries
				WHERE lane = l.id AND state = 'parked' AND attempts = 0 ORDER BY seq LIMIT $3::int8) f) f
		UNION ALL
		SELECT seq, 4 * row_number() OVER (ORDER BY parked, seq) FROM (
			SELECT seq, parked FROM {s}.callhook_deliveries
			WHERE lane = l.id AND state = 'parked' AND attempts > 0 ORDER BY parked, seq LIMIT $3::int8) t
		ORDER BY place LIMIT $3::int8
	) p
), stored AS (
	UPDATE {s}.callhook_deliveries d SET state = 'ready', parked = NULL, ticket = nextval('{s}.river_job_id_seq')
	FROM picked p WHERE d.seq = p.seq AND d.state = 'parked'
	RETURNING d.seq, d.ticket, d.partition, d.lane, d.due, ` + sizeSQL + `
), ` + releasedFrom + `, freed AS (
	SELECT lane, count(*)::int4 AS n FROM stored GROUP BY lane
), turned AS (
	UPDATE {s}.callhook_lanes l SET turn = (l.turn + f.n) % 4 FROM freed f WHERE f.lane = l.id
), told AS (` + notifySQL + `)
SELECT lane, n, 0::int8 FROM freed, (SELECT count(*) FROM told) t`

// releaseAllSQL frees all that are parked or wait for a time, as far as it comes from
// the one behind $3. One that waits gives up its job, if River has not handed that out.
// The row of lane 0 says how many it has looked at, and which was the last.
const releaseAllSQL = `
WITH looked AS (
	SELECT d.seq, d.ticket FROM {s}.callhook_deliveries d JOIN {s}.callhook_lanes l ON l.id = d.lane
	WHERE l.partition = ANY($1::int2[]) AND ($2::int4 = 0 OR l.id = $2) AND d.seq > $3
		AND (d.state = 'parked' OR d.state = 'waiting' AND d.due > now())
	ORDER BY d.seq LIMIT 10000
), waiting AS (
	DELETE FROM {s}.river_job j USING looked l WHERE j.id = l.ticket AND j.state <> 'running' RETURNING l.seq
), picked AS (
	SELECT seq FROM looked WHERE ticket IS NULL UNION ALL SELECT seq FROM waiting ORDER BY seq
), stored AS (
	UPDATE {s}.callhook_deliveries d SET state = 'ready', parked = NULL, due = NULL, ticket = nextval('{s}.river_job_id_seq')
	FROM picked p WHERE d.seq = p.seq AND d.state IN ('parked', 'waiting')
	RETURNING d.seq, d.ticket, d.partition, d.lane, d.due, ` + sizeSQL + `
), ` + releasedFrom + `, told AS (` + notifySQL + `)
SELECT lane, count(*)::int4, 0::int8 FROM stored, (SELECT count(*) FROM told) t GROUP BY lane
UNION ALL SELECT 0, count(*)::int4, coalesce(max(seq), 0) FROM looked`

// afterRelease notes which lanes have nothing parked now. The caller is the writer.
func (c *consumer) afterRelease(o *op) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, partition := range c.backlogs {
		if o.lane != 0 && o.lane != id || o.lane == 0 && !slices.Contains(o.partitions, partition) {
			continue
		}
		if o.n < 0 || o.freedBy[id] < o.n {
			delete(c.backlogs, id)
		}
	}
}
