package riverqueue

import (
	"context"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Each partition is worked by one consumer at a time, which owns it. Consumers say by
// a beat that they live; and each holds an advisory lock, of its own number, on a
// connection that it also listens on, so that its end is seen when that breaks. One is
// taken for dead when it has not beaten for Options.Lease, or for a fifth of that and
// its lock is free. The clock is that of Postgres.

// keep keeps the share of the partitions that is this process's, until ctx ends.
func (c *consumer) keep(ctx context.Context) {
	ticker := time.NewTicker(c.q.o.Lease / 10)
	defer ticker.Stop()
	var aside sync.WaitGroup
	defer aside.Wait()
	aside.Go(func() { c.tend(ctx) })
	var steady steady
	for ctx.Err() == nil {
		m, err := c.balance(ctx, steady.enough(c.q.o.Lease/5))
		steady.note(err, c.q.o.Lease/5)
		if err != nil && ctx.Err() == nil {
			c.q.log.Warn("riverqueue: the share of the partitions is not known; trying again", "error", err)
		}
		if err == nil {
			if len(m.lost) > 0 {
				c.q.log.Warn("riverqueue: others have taken partitions over: this process did not stir for too long", "partitions", len(m.lost))
			}
			if leave := slices.Concat(m.lost, m.surplus); len(leave) > 0 {
				c.drain(leave)
				aside.Go(func() { c.handOver(ctx, leave) })
			}
			if len(m.taken) > 0 {
				c.takeOver(ctx, m)
			}
		}
		select {
		case <-ticker.C:
		case <-c.kick:
		case <-ctx.Done():
		}
	}
}

// tend does for the partitions what takes its time.
func (c *consumer) tend(ctx context.Context) {
	var house house
	for pause(ctx, lookEvery) {
		c.look(ctx)
		house.keep(ctx, c)
	}
}

// lookEvery is how often the jobs of the partitions are looked at.
const lookEvery = 5 * time.Second

// beat says that this process lives while it is at work at something that may take
// longer than a lease, until the function that it returns is called.
func (c *consumer) beat(ctx context.Context) (enough func()) {
	ctx, cancel := context.WithCancel(ctx)
	var beating sync.WaitGroup
	beating.Go(func() {
		for pause(ctx, c.q.o.Lease/10) {
			if _, err := c.q.o.Pool.Exec(ctx, c.q.sql.beat, c.q.id); err != nil && ctx.Err() == nil {
				c.q.log.Warn("riverqueue: Postgres does not hear that this process lives; trying again", "error", err)
			}
		}
	})
	return func() { cancel(); beating.Wait() }
}

// moves are what a look at the partitions has come to.
type moves struct {
	taken   []int16
	fresh   []int16 // of those taken, those that another had before
	surplus []int16 // to hand over
	lost    []int16 // others have them
}

// steady is how long this process has been beating without a gap. Only then it takes
// others for dead: when Postgres was away for all of them, each gets the time to come
// back.
type steady struct{ since, last time.Time }

func (s *steady) enough(d time.Duration) bool {
	return !s.since.IsZero() && time.Since(s.since) >= d && time.Since(s.last) < d
}

func (s *steady) note(err error, gap time.Duration) {
	now := time.Now()
	if s.since.IsZero() || err != nil || now.Sub(s.last) > gap {
		s.since = now
	}
	s.last = now
}

// balance beats, clears away who is dead, and takes what is this process's share.
func (c *consumer) balance(ctx context.Context, steady bool) (m moves, err error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	o, sql, id := c.q.o, c.q.sql, c.q.id
	err = pgx.BeginFunc(ctx, o.Pool, func(tx pgx.Tx) error {
		m = moves{}
		var members []int64
		owners, last := map[int16]int64{}, map[int16]int64{}
		b := new(pgx.Batch)
		b.Queue("SELECT set_config('synchronous_commit', 'off', true), pg_advisory_xact_lock(hashtextextended('callhook.balance.' || $1, 0))", o.Schema)
		b.Queue(sql.register, id, processName())
		if steady {
			b.Queue(sql.dead, id, o.Lease, o.Lease/5)
		}
		b.Queue(sql.disown)
		b.Queue(sql.members).Query(func(rows pgx.Rows) (err error) {
			members, err = pgx.CollectRows(rows, pgx.RowTo[int64])
			return err
		})
		b.Queue(sql.owners).Query(func(rows pgx.Rows) error {
			var p int16
			var owner, before int64
			_, err := pgx.ForEachRow(rows, []any{&p, &owner, &before}, func() error {
				owners[p], last[p] = owner, before
				return nil
			})
			return err
		})
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return err
		}
		share := shareOf(len(owners), slices.Index(members, id), len(members))
		mine := c.undrained()
		kept := mine[:0]
		for _, p := range mine {
			if owners[p] != id {
				m.lost = append(m.lost, p)
				continue
			}
			kept = append(kept, p)
		}
		if n := len(kept) - share; n > 0 {
			m.surplus = slices.Clone(kept[len(kept)-n:])
			return nil
		}
		for p := range int16(len(owners)) {
			switch forgotten := owners[p] == id; { // an answer was lost, or nobody heard that the last Consume has ended
			case c.owns(p), owners[p] != 0 && !forgotten, len(kept)+len(m.taken) >= share && !forgotten:
			default:
				if m.taken = append(m.taken, p); last[p] != id || forgotten {
					m.fresh = append(m.fresh, p)
				}
			}
		}
		if len(m.taken) == 0 {
			return nil
		}
		_, err := tx.Exec(ctx, sql.take, id, m.taken)
		return err
	})
	return m, err
}

// shareOf is how many of n the one at the place i of so many gets.
func shareOf(n, i, of int) int {
	if i < 0 || of == 0 {
		return 0
	}
	share := n / of
	if i < n%of {
		share++
	}
	return share
}

func processName() string {
	host, _ := os.Hostname()
	return text(host) + ":" + strconv.Itoa(os.Getpid())
}

func (c *consumer) undrained() (out []int16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, part := range c.parts {
		if !part.draining {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

// takeOver works partitions that were taken. What whoever had them before left in
// flight is ready again, and of each lane that has some one is freed: nobody else
// would.
func (c *consumer) takeOver(ctx context.Context, m moves) {
	c.mu.Lock()
	for _, p := range m.taken {
		c.parts[p] = new(part)
	}
	c.mu.Unlock()
	defer c.beat(ctx)()
	err := insist(ctx, c.q.log, "take partitions over", func(ctx context.Context) error {
		_, err := c.q.o.Pool.Exec(ctx, c.q.sql.recover, queueNames(m.taken), []int64{}, time.Duration(0), c.q.id)
		return err
	})
	if err != nil {
		return // ctx has ended
	}
	if len(m.fresh) > 0 {
		c.write.do(&op{what: release, partitions: m.fresh, n: 1})
	}
	err = insist(ctx, c.q.log, "start River", func(context.Context) error { return c.start(m.taken) })
	if err == nil {
		c.look(ctx)
	}
}

// drain has nothing more of partitions handed out.
func (c *consumer) drain(ps []int16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range ps {
		if part := c.parts[p]; part != nil {
			part.draining = true
		}
	}
}

func (c *consumer) forget(ps []int16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range ps {
		delete(c.parts, p)
		for lane, of := range c.backlogs {
			if of == p {
				delete(c.backlogs, lane)
			}
		}
	}
}

// handOver lets go partitions that are drained, each as soon as nothing of it is in
// flight, until ctx ends.
func (c *consumer) handOver(ctx context.Context, ps []int16) {
	for left := ps; len(left) > 0 && ctx.Err() == nil; {
		gone := c.stop(left)
		if len(gone) > 0 && c.free(ctx, gone) != nil {
			return
		}
		left = slices.DeleteFunc(slices.Clone(left), func(p int16) bool { return slices.Contains(gone, p) })
		if len(left) > 0 {
			pause(ctx, 20*time.Millisecond)
		}
	}
}

// free gives partitions back of which nothing is in flight here. Those that others
// have already are theirs.
func (c *consumer) free(ctx context.Context, ps []int16) error {
	err := insist(ctx, c.q.log, "hand partitions over", func(ctx context.Context) error {
		b := new(pgx.Batch)
		b.Queue(c.q.sql.recover, queueNames(ps), []int64{}, time.Duration(0), c.q.id)
		b.Queue(c.q.sql.free, c.q.id, ps)
		return c.q.o.Pool.SendBatch(ctx, b).Close()
	})
	if err == nil {
		c.forget(ps)
	}
	return err
}

// end hands all partitions over, and leaves.
func (c *consumer) end() {
	ps := c.owned()
	c.drain(ps)
	c.handOver(c.trying, ps)
	within := func(f func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(c.ctx, 5*time.Second)
		defer cancel()
		return f(ctx)
	}
	if c.client != nil {
		if err := within(c.client.Stop); err != nil {
			c.q.log.Warn("riverqueue: River does not stop", "error", err)
		}
	}
	if err := within(func(ctx context.Context) error { _, err := c.q.o.Pool.Exec(ctx, c.q.sql.leave, c.q.id); return err }); err != nil {
		c.q.log.Warn("riverqueue: Postgres does not hear that this consumer has ended: the others wait for its lease", "error", err)
	}
}

// connect keeps the connection that shows that this process lives, and on which it is
// told that partitions are free or others have come.
func (c *consumer) connect(ctx context.Context) {
	for ctx.Err() == nil {
		err := c.listen(ctx)
		if ctx.Err() != nil {
			return
		}
		c.q.log.Warn("riverqueue: the connection to Postgres was lost; trying again", "error", err)
		pause(ctx, 200*time.Millisecond)
	}
}

func (c *consumer) listen(ctx context.Context) error {
	conn, err := dedicated(ctx, c.q.o.Pool)
	if err != nil {
		return err
	}
	defer hangUp(conn)
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", c.q.id); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "LISTEN "+ident(c.q.o.Schema+".callhook")); err != nil {
		return err
	}
	return listenTo(ctx, conn, func(string) {
		select {
		case c.kick <- struct{}{}:
		default:
		}
	})
}

const registerSQL = `
WITH r AS (
	INSERT INTO {s}.callhook_consumers (id, name, beat) VALUES ($1, $2, clock_timestamp())
	ON CONFLICT (id) DO UPDATE SET beat = clock_timestamp() RETURNING xmax = 0 AS new
) SELECT pg_notify('{channel}.callhook', '') FROM r WHERE new`

const beatSQL = `UPDATE {s}.callhook_consumers SET beat = clock_timestamp() WHERE id = $1`

const deadSQL = `DELETE FROM {s}.callhook_consumers WHERE id <> $1
AND (beat < clock_timestamp() - $2::interval OR beat < clock_timestamp() - $3::interval AND pg_try_advisory_xact_lock_shared(id))`

const disownSQL = `UPDATE {s}.callhook_partitions p SET owner = NULL
WHERE owner IS NOT NULL AND NOT EXISTS (SELECT FROM {s}.callhook_consumers c WHERE c.id = p.owner)`

const membersSQL = `SELECT id FROM {s}.callhook_consumers ORDER BY id`

const ownersSQL = `SELECT partition, coalesce(owner, 0), coalesce(last, 0) FROM {s}.callhook_partitions`

const takeSQL = `UPDATE {s}.callhook_partitions SET owner = $1, last = $1 WHERE partition = ANY($2::int2[]) AND (owner IS NULL OR owner = $1)`

const freeSQL = `
WITH f AS (
	UPDATE {s}.callhook_partitions SET owner = NULL WHERE partition = ANY($2::int2[]) AND owner = $1 RETURNING 1
) SELECT pg_notify('{channel}.callhook', '') FROM (SELECT count(*) AS n FROM f) f WHERE n > 0`

const leaveSQL = `
WITH c AS (DELETE FROM {s}.callhook_consumers WHERE id = $1 RETURNING id),
f AS (UPDATE {s}.callhook_partitions SET owner = NULL WHERE owner = $1)
SELECT pg_notify('{channel}.callhook', '') FROM c`
