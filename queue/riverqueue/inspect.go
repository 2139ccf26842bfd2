package riverqueue

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// List implements [callhook.Inspector].
func (q *Queue) List(ctx context.Context, f callhook.Filter) ([]*callhook.Delivery, error) {
	w := q.where(f)
	out, err := q.read(ctx, w.query(listColumns, cmp.Or(max(f.Limit, 0), 100)), w.args...)
	return out, storeError("listing deliveries", err)
}

// Get implements [callhook.Inspector]. Those that arrived are not kept.
func (q *Queue) Get(ctx context.Context, id string) (*callhook.Delivery, error) {
	w := q.where(callhook.Filter{IDs: []string{id}})
	out, err := q.read(ctx, w.query(wholeColumns, 1), w.args...)
	if err != nil {
		return nil, storeError("reading a delivery", err)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("riverqueue: %w", callhook.ErrNoDelivery)
	}
	return out[0], nil
}

func (q *Queue) read(ctx context.Context, statement string, args ...any) ([]*callhook.Delivery, error) {
	if q.closed.Load() {
		return nil, callhook.ErrQueueClosed
	}
	rows, err := q.o.Pool.Query(ctx, in(q.o.Schema, statement), args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []*callhook.Delivery
	for rows.Next() {
		var row scanned
		var seq int64
		var state, reason string
		var due infinite
		if err := rows.Scan(&seq, &state, &reason, &due, &row.id, &row.call, &row.ordered, &row.attempts, &row.rejections, &row.postponed, &row.enqueued,
			&row.meta, &row.log, &row.numbers, &row.body, &row.record, &row.lane, &row.tenant, &row.agent, &row.webhook); err != nil {
			return nil, err
		}
		d, err := row.delivery()
		if err != nil {
			return nil, damaged(seq, err)
		}
		d.Seq, d.State, d.Reason, d.RetryAt = seq, callhook.State(state), callhook.Reason(plain(reason)), due.Time
		out = append(out, &d)
	}
	return out, rows.Err()
}

// stateSQL is a delivery's state as callhook names it. One that is ready and waits for
// an earlier one of its call may not have been looked at yet.
const stateSQL = `CASE
	WHEN d.state IN ('dead', 'parked') THEN d.state
	WHEN d.state = 'blocked' OR ` + blockedSQL + ` THEN 'waiting'
	WHEN j.state = 'running' THEN 'in_flight'
	WHEN d.state = 'waiting' AND d.due > now() THEN 'waiting'
	ELSE 'ready' END`

const (
	fromSQL = ` FROM {s}.callhook_deliveries d
JOIN {s}.callhook_lanes l ON l.id = d.lane
LEFT JOIN {s}.river_job j ON j.id = d.ticket`
	commonColumns = `d.seq, s.state, coalesce(d.reason, ''), CASE WHEN s.state = 'waiting' THEN coalesce(d.due, '-infinity') ELSE '-infinity' END, d.id, d.call, d.ordered,
	d.attempts, d.rejections, d.postponed, d.enqueued, d.meta`
	numbersColumn = `coalesce(array_to_string(d.numbers, E'\x1f'), '')`
	listColumns   = commonColumns + `, '', ` + numbersColumn + `, NULL::bytea, NULL::bytea, l.lane, l.tenant, l.agent, l.webhook`
	wholeColumns  = commonColumns + `, coalesce(d.log, ''), ` + numbersColumn + `, d.body, d.record, l.lane, l.tenant, l.agent, l.webhook`
)

// where is what a filter selects.
type where struct {
	terms []string
	args  []any
}

func (w *where) add(term string, arg any) {
	w.args = append(w.args, arg)
	w.terms = append(w.terms, strings.ReplaceAll(term, "?", fmt.Sprint("$", len(w.args))))
}

func (q *Queue) where(f callhook.Filter) *where {
	w := new(where)
	if len(f.IDs) > 0 {
		keys := make([]pgtype.UUID, len(f.IDs))
		for i, id := range f.IDs {
			keys[i] = keyOf(id)
		}
		w.add("d.seq IN (SELECT seq FROM {s}.callhook_ids WHERE key = ANY(?::uuid[]))", keys)
	}
	for _, t := range []struct{ term, value string }{
		{"l.tenant = ?", f.Tenant}, {"l.agent = ?", f.Agent}, {"l.webhook = ?", f.Webhook}, {"d.call = ?", f.Call},
		{"d.numbers @> ARRAY[?::text]", f.Number}, {"d.reason = ?", string(f.Reason)}, {"s.state = ?", string(f.State)},
	} {
		if t.value != "" {
			w.add(t.term, text(t.value))
		}
	}
	if f.Call != "" {
		w.add("d.call_hash = ?", hashOf(f.Call))
	}
	switch f.State { // what can use an index
	case callhook.StateDead, callhook.StateParked:
		w.terms = append(w.terms, fmt.Sprintf("d.state = '%s'", f.State))
	case "":
	default:
		w.terms = append(w.terms, "d.state <> 'dead'")
	}
	if !f.Since.IsZero() {
		w.add("d.enqueued >= ?", nanos(f.Since))
	}
	if !f.Until.IsZero() {
		w.add("d.enqueued < ?", nanos(f.Until))
	}
	if f.Before != 0 {
		w.add("d.seq < ?", f.Before)
	}
	return w
}

// query returns the statement for at most so many, the last enqueued first; a limit
// of zero is none.
func (w *where) query(columns string, limit int) string {
	s := "SELECT " + columns + fromSQL + " CROSS JOIN LATERAL (SELECT " + stateSQL + " AS state OFFSET 0) s"
	if len(w.terms) > 0 {
		s += " WHERE " + strings.Join(w.terms, " AND ")
	}
	s += " ORDER BY d.seq DESC"
	if limit > 0 {
		s += fmt.Sprint(" LIMIT ", limit)
	}
	return s
}

// Counts implements [callhook.Inspector]. It counts what is pending, and reads the sums
// of what is not: with a million pending it takes some tenths of a second.
func (q *Queue) Counts(ctx context.Context) (callhook.Counts, error) {
	var c callhook.Counts
	if q.closed.Load() {
		return c, errClosed
	}
	err := q.o.Pool.QueryRow(ctx, in(q.o.Schema, countsSQL)).Scan(&c.Delivered, &c.Dead, &c.Erased, &c.Pending)
	c.Accepted = c.Delivered + c.Dead + c.Erased + c.Pending
	return c, storeError("counting deliveries", err)
}

const countsSQL = `SELECT coalesce(sum(delivered), 0)::int8, coalesce(sum(dead), 0)::int8, coalesce(sum(erased), 0)::int8,
	(SELECT count(*) FROM {s}.callhook_deliveries WHERE state <> 'dead') FROM {s}.callhook_lanes`

// Lanes implements [callhook.Inspector].
func (q *Queue) Lanes(ctx context.Context, f callhook.Filter) ([]callhook.LaneCounts, error) {
	if q.closed.Load() {
		return nil, errClosed
	}
	rows, err := q.o.Pool.Query(ctx, in(q.o.Schema, lanesSQL), text(f.Tenant), text(f.Agent), text(f.Webhook))
	if err != nil {
		return nil, storeError("counting lanes", err)
	}
	var out []callhook.LaneCounts
	var l callhook.LaneCounts
	var oldest int64
	_, err = pgx.ForEachRow(rows, []any{&l.Tenant, &l.Agent, &l.Webhook, &l.Delivered, &l.Dead, &l.Erased, &l.Pending, &oldest}, func() error {
		c := l
		c.Tenant, c.Agent, c.Webhook = plain(c.Tenant), plain(c.Agent), plain(c.Webhook)
		if c.Accepted = c.Delivered + c.Dead + c.Erased + c.Pending; c.Accepted == 0 {
			return nil // it was named in a transaction that was rolled back
		}
		if c.Pending > 0 {
			c.Oldest = time.Unix(0, oldest)
		}
		out = append(out, c)
		return nil
	})
	slices.SortFunc(out, func(a, b callhook.LaneCounts) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Agent, b.Agent), cmp.Compare(a.Webhook, b.Webhook))
	})
	return out, storeError("counting lanes", err)
}

const lanesSQL = `
SELECT l.tenant, l.agent, l.webhook, l.delivered, l.dead, l.erased, coalesce(p.n, 0), coalesce(p.oldest, 0)
FROM {s}.callhook_lanes l
LEFT JOIN (SELECT lane, count(*) AS n, min(enqueued) AS oldest FROM {s}.callhook_deliveries WHERE state <> 'dead' GROUP BY lane) p ON p.lane = l.id
WHERE ($1::text = '' OR l.tenant = $1) AND ($2::text = '' OR l.agent = $2) AND ($3::text = '' OR l.webhook = $3)`
