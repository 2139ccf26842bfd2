package riverqueue

import (
	"context"
	"slices"
	"time"
)

// look puts right what River's jobs of this process's partitions need: those that are
// due within seconds become available, and those that somebody has taken without
// handing their deliveries out are replaced. That is a job whose fetch was lost with
// its connection, and one that was cancelled by hand.
func (c *consumer) look(ctx context.Context) {
	ps := c.undrained()
	if len(ps) == 0 {
		return
	}
	hands := []int64{} // nil would be NULL
	c.mu.Lock()
	for id := range c.hands {
		hands = append(hands, id)
	}
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	names := queueNames(ps)
	_, err := c.q.o.Pool.Exec(ctx, c.q.sql.recover, names, hands, lookEvery, c.q.id)
	for err == nil {
		tag, failed := c.q.o.Pool.Exec(ctx, c.q.sql.promote, names)
		if err = failed; tag.RowsAffected() < promoteMost {
			break
		}
	}
	if err != nil && ctx.Err() == nil {
		c.q.log.Warn("riverqueue: River's jobs cannot be looked at; trying again", "error", err)
	}
}

const promoteMost = 10_000

// recoverSQL gives the deliveries of jobs that nobody has in hand others. $2 are those
// that somebody has; a job that was fetched within $3 may be on its way there. What is
// not $4's is left alone.
const recoverSQL = `
WITH lost AS (
	DELETE FROM {s}.river_job
	WHERE queue = ANY(ARRAY(SELECT '` + queuePrefix + `' || partition FROM {s}.callhook_partitions WHERE owner = $4 AND '` + queuePrefix + `' || partition = ANY($1::text[])))
		AND kind = '` + kind + `' AND (state IN ('cancelled', 'completed', 'discarded')
		OR state = 'running' AND id <> ALL($2::int8[]) AND attempted_at <= clock_timestamp() - $3::interval)
	RETURNING id, (args ->> 'seq')::int8 AS seq
), stored AS (
	UPDATE {s}.callhook_deliveries d SET state = 'ready', due = NULL, ticket = nextval('{s}.river_job_id_seq')
	FROM lost WHERE d.seq = lost.seq AND d.ticket = lost.id
	RETURNING d.seq, d.ticket, d.partition, d.lane, d.due, ` + sizeSQL + `
), ` + releasedFrom + ` ` + notifySQL

const promoteSQL = `UPDATE {s}.river_job SET state = 'available' WHERE id IN (
	SELECT id FROM {s}.river_job
	WHERE state IN ('scheduled', 'retryable') AND queue = ANY($1::text[]) AND priority = 1 AND scheduled_at < now() + interval '` + lookAheadSQL + `'
	LIMIT 10000 FOR UPDATE SKIP LOCKED)`

// house is what one of the consumers does now and then for all.
type house struct{ next time.Time }

const houseEvery = 10 * time.Minute

func (h *house) keep(ctx context.Context, c *consumer) {
	now := time.Now()
	switch {
	case h.next.IsZero():
		h.next = now.Add(houseEvery / 20)
	case now.After(h.next):
		h.next = now.Add(houseEvery)
		if ps := c.undrained(); slices.Contains(ps, 0) {
			c.q.purge(ctx)
		}
		c.q.heal(ctx, c.undrained())
	}
}

// purge forgets IDs and dead letters that are old.
func (q *Queue) purge(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, p := range []struct {
		statement string
		after     time.Duration
	}{{q.sql.purgeDead, q.o.KeepDead}, {q.sql.purgeIDs, remember + 24*time.Hour}} {
		for n := int64(purgeMost); n == purgeMost; {
			tag, err := q.o.Pool.Exec(ctx, p.statement, p.after)
			if n = tag.RowsAffected(); err != nil {
				if ctx.Err() == nil {
					q.log.Warn("riverqueue: what is old cannot be deleted; trying again later", "error", err)
				}
				return
			}
		}
	}
}

const purgeMost = 5000

const purgeDeadSQL = `DELETE FROM {s}.callhook_deliveries WHERE seq IN (
	SELECT seq FROM {s}.callhook_deliveries WHERE state = 'dead' AND dead_at < now() - $1::interval LIMIT 5000)`

const purgeIDsSQL = `DELETE FROM {s}.callhook_ids WHERE key IN (
	SELECT key FROM {s}.callhook_ids i WHERE at < now() - $1::interval
	AND NOT EXISTS (SELECT FROM {s}.callhook_deliveries d WHERE d.seq = i.seq) LIMIT 5000)`

// heal gives a job to deliveries that have none, since somebody has deleted it by hand.
func (q *Queue) heal(ctx context.Context, ps []int16) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if tag, err := q.o.Pool.Exec(ctx, q.sql.heal, ps); err != nil {
		if ctx.Err() == nil {
			q.log.Warn("riverqueue: deliveries without a job cannot be looked for; trying again later", "error", err)
		}
	} else if n := tag.RowsAffected(); n > 0 {
		q.log.Warn("riverqueue: deliveries had no River job, as when somebody deletes jobs by hand: they have one again")
	}
}

const healSQL = `
WITH lost AS (
	SELECT seq, ticket FROM {s}.callhook_deliveries d
	WHERE partition = ANY($1::int2[]) AND state IN ('ready', 'waiting') AND NOT EXISTS (SELECT FROM {s}.river_job j WHERE j.id = d.ticket)
), stored AS (
	UPDATE {s}.callhook_deliveries d SET ticket = nextval('{s}.river_job_id_seq')
	FROM lost WHERE d.seq = lost.seq AND d.ticket = lost.ticket
	RETURNING d.seq, d.ticket, d.partition, d.lane, d.due, ` + sizeSQL + `
), ` + jobsFrom + ` ` + notifySQL
