package sqlitequeue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/ncruces/go-sqlite3"
)

// Looking inside uses a connection of its own, which reads beside the writer. It
// is opened when it is first needed.

// Counts implements [callhook.Inspector]. They are at hand: nothing is counted.
func (q *Queue) Counts(context.Context) (callhook.Counts, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return callhook.Counts{}, errClosed
	}
	return q.total.export(), nil
}

// read runs f with the connection for reading, in one transaction.
func (q *Queue) read(ctx context.Context, what string, f func(d *db) error) error {
	q.readMu.Lock()
	defer q.readMu.Unlock()
	q.mu.Lock()
	closed := q.closed
	q.mu.Unlock()
	if closed {
		return errClosed
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("sqlitequeue: %s: %w", what, err)
	}
	if q.reader == nil {
		var err error
		if q.reader, err = connect(q.path, !q.o.Unsynced, true); err != nil {
			return q.storeError(what, err)
		}
	}
	d := q.reader
	err := safely(func() error {
		defer d.c.SetInterrupt(d.c.SetInterrupt(ctx))
		if err := d.c.Exec("BEGIN"); err != nil {
			return err
		}
		return f(d)
	})
	if !errIsPanic(err) {
		err = errors.Join(err, safely(func() error { return d.c.Exec("ROLLBACK") }))
	}
	if err != nil { // it may have stopped anywhere
		_ = d.close()
		q.reader = nil
		if ctx.Err() != nil {
			return fmt.Errorf("sqlitequeue: %s: %w", what, ctx.Err())
		}
		return q.storeError(what, err)
	}
	return nil
}

// List implements [callhook.Inspector].
func (q *Queue) List(ctx context.Context, f callhook.Filter) ([]*callhook.Delivery, error) {
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	var out []*callhook.Delivery
	err := q.read(ctx, "listing", func(d *db) error {
		return q.search(d, f, func(r *row) bool {
			r.d.Log = nil
			out = append(out, r.d)
			return len(out) < limit
		})
	})
	return out, err
}

// Get implements [callhook.Inspector].
func (q *Queue) Get(ctx context.Context, id string) (*callhook.Delivery, error) {
	var found *row
	err := q.read(ctx, "reading a delivery", func(d *db) error {
		st, err := d.stmt("SELECT " + columns + ", b.body, b.record FROM deliveries d LEFT JOIN bodies b ON b.seq = d.seq WHERE d.id = ?")
		if err != nil {
			return err
		}
		if err := st.BindText(1, id); err != nil {
			return err
		}
		if st.Step() {
			found = q.scan(st, true)
		}
		return errors.Join(st.Err(), st.Reset())
	})
	switch {
	case err != nil:
		return nil, err
	case found == nil || found.forgotten || found.state == erased:
		return nil, fmt.Errorf("sqlitequeue: %w: %s", callhook.ErrNoDelivery, id)
	}
	if found.damage != nil {
		return nil, fmt.Errorf("sqlitequeue: the record of %s in %s is damaged: %w", id, q.path, found.damage)
	}
	q.mu.Lock()
	q.expose(found)
	q.mu.Unlock()
	return found.d, nil
}

// expose sets the state of a delivery as callers see it. The caller holds q.mu.
func (q *Queue) expose(r *row) {
	d := r.d
	switch r.state {
	case waiting:
		d.State, d.RetryAt = callhook.StateWaiting, time.UnixMicro(r.at)
	case blocked:
		d.State = callhook.StateWaiting
	case ready, parked:
		d.State = q.standing(r)
	default:
		d.State = callhook.State(r.state)
	}
}

// standing is the state of one that waits for no time: what is in memory knows.
func (q *Queue) standing(r *row) callhook.State {
	if it := q.active[r.d.Seq]; it != nil {
		if it.inHandler {
			return callhook.StateInFlight
		}
		return callhook.StateReady
	}
	l := q.byID[r.laneID]
	if slices.Contains(l.recalled.all(), r.d.Seq) {
		return callhook.StateReady
	}
	ln, at := &l.fresh, r.d.Seq
	if r.state == parked {
		ln, at = &l.tried, r.at
	}
	switch {
	case ln.want == 0 || at <= ln.cursor && ln.window.len() == 0:
		return callhook.StateParked
	case ln.want >= ln.count:
		return callhook.StateReady
	}
	// Some are ready and some are not. Behind the window nobody counts them.
	for i, it := range ln.window.all() {
		if it.seq == r.d.Seq && i < ln.want {
			return callhook.StateReady
		}
	}
	return callhook.StateParked
}

// search visits what matches f, the last enqueued first, until visit returns false.
func (q *Queue) search(d *db, f callhook.Filter, visit func(*row) bool) error {
	lanes := q.lanesOf(f)
	if lanes != nil && len(lanes) == 0 {
		return nil
	}
	s := &scanning{q: q, db: d, f: f, lanes: lanes, visit: visit}
	var recent []int64
	if f.Call != "" {
		recent = q.w.chains.ofCall(f.Call) // before the database is read: what leaves it meanwhile is there
	}
	switch {
	case f.IDs != nil:
		return s.byIDs()
	case f.Number != "":
		return s.rows(`SELECT `+columns+` FROM numbers n CROSS JOIN deliveries d ON d.seq = n.seq WHERE n.hash = ?1 AND n.seq < ?2 ORDER BY n.seq DESC`, f.Number)
	case f.Call != "":
		return s.byCall(recent)
	case f.State == callhook.StateDead || f.State == callhook.StateDelivered:
		return s.kept(string(f.State))
	case f.Reason != "" && f.State == "":
		return s.kept(dead)
	case f.State == callhook.StateInFlight:
		return s.inFlight()
	case (f.State != "" || lanes != nil) && q.few(lanes, f.State):
		return s.pending()
	}
	return s.rows(`SELECT `+columns+` FROM deliveries d NOT INDEXED WHERE d.meta IS NOT NULL AND d.seq < ?2
		AND (?1 IS NULL OR d.state IN (SELECT value FROM json_each(?1))) ORDER BY d.seq DESC`, statesOf(f.State))
}

// statesOf names the states in the database of one that callers see, as JSON.
func statesOf(s callhook.State) string {
	switch s {
	case callhook.StateWaiting:
		return `["waiting","blocked"]`
	case callhook.StateReady, callhook.StateParked:
		return `["ready","parked"]`
	}
	return ""
}

// lanesOf returns the lanes that f selects, nil for all.
func (q *Queue) lanesOf(f callhook.Filter) map[int64]*lane {
	if f.Tenant == "" && f.Agent == "" && f.Webhook == "" {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	found := map[int64]*lane{}
	for _, l := range q.lanes {
		if selects(f, l.LaneRef) {
			found[l.id] = l
		}
	}
	return found
}

func selects(f callhook.Filter, l callhook.LaneRef) bool {
	return (f.Tenant == "" || f.Tenant == l.Tenant) && (f.Agent == "" || f.Agent == l.Agent) && (f.Webhook == "" || f.Webhook == l.Webhook)
}

// few reports whether lanes have so few pending ones in a state that sorting them is quicker
// than looking for them.
func (q *Queue) few(lanes map[int64]*lane, s callhook.State) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if lanes == nil {
		return q.total.in(s) <= 50_000
	}
	n := int64(0)
	for _, l := range lanes {
		n += l.c.in(s)
	}
	return n <= 50_000
}

// scanning is a search under way.
type scanning struct {
	q     *Queue
	db    *db
	f     callhook.Filter
	lanes map[int64]*lane
	visit func(*row) bool
}

func (s *scanning) before() int64 {
	if s.f.Before > 0 {
		return s.f.Before
	}
	return 1 << 62
}

// rows visits what a query finds, whose parameters are a text and the Seq before
// which to look.
func (s *scanning) rows(sql, text string) error {
	st, err := s.db.stmt(sql)
	if err != nil {
		return err
	}
	if err := errors.Join(bindText(st, 1, text), st.BindInt64(2, s.before())); err != nil {
		return err
	}
	for st.Step() {
		if s.lanes != nil && s.lanes[st.ColumnInt64(1)] == nil {
			continue
		}
		if !s.see(st) {
			break
		}
	}
	return errors.Join(st.Err(), st.Reset())
}

// see visits the row that a statement is at, if it matches.
func (s *scanning) see(st *sqlite3.Stmt) bool {
	if st.ColumnType(12) == sqlite3.NULL { // only its ID is remembered
		return true
	}
	r := s.q.scan(st, false)
	s.q.mu.Lock()
	if s.q.byID[r.laneID] != nil {
		s.q.expose(r)
	}
	s.q.mu.Unlock()
	if !matches(s.f, r.d) {
		return true
	}
	return s.visit(r)
}

// matches reports whether f selects d, leaving out its Number and Limit.
func matches(f callhook.Filter, d *callhook.Delivery) bool {
	return (f.IDs == nil || slices.Contains(f.IDs, d.ID)) && (f.State == "" || f.State == d.State) &&
		selects(f, callhook.LaneRef{Tenant: d.Tenant, Agent: d.Agent, Webhook: d.Webhook}) &&
		(f.Call == "" || f.Call == d.Call) && (f.Number == "" || slices.Contains(d.Numbers, f.Number)) &&
		(f.Reason == "" || f.Reason == d.Reason) && (f.Since.IsZero() || !d.EnqueuedAt.Before(f.Since)) &&
		(f.Until.IsZero() || d.EnqueuedAt.Before(f.Until)) && (f.Before <= 0 || d.Seq < f.Before)
}

// bySeq visits deliveries by their numbers, the highest first.
func (s *scanning) bySeq(seqs []int64) error {
	slices.SortFunc(seqs, func(a, b int64) int { return cmp.Compare(b, a) })
	seqs = slices.Compact(seqs)
	st, err := s.db.stmt("SELECT " + columns + " FROM deliveries d WHERE d.seq = ?")
	if err != nil {
		return err
	}
	for _, seq := range seqs {
		if seq >= s.before() {
			continue
		}
		if err := st.BindInt64(1, seq); err != nil {
			return err
		}
		more := true
		if st.Step() && (s.lanes == nil || s.lanes[st.ColumnInt64(1)] != nil) {
			more = s.see(st)
		}
		if err := errors.Join(st.Err(), st.Reset()); err != nil || !more {
			return err
		}
	}
	return nil
}

// collect appends the numbers that a statement gives.
func collect(st *sqlite3.Stmt, seqs []int64) ([]int64, error) {
	for st.Step() {
		seqs = append(seqs, st.ColumnInt64(0))
	}
	return seqs, errors.Join(st.Err(), st.Reset())
}

func (s *scanning) byIDs() error {
	st, err := s.db.stmt("SELECT seq FROM deliveries WHERE id = ?")
	if err != nil {
		return err
	}
	var seqs []int64
	for _, id := range s.f.IDs {
		if err := st.BindText(1, id); err != nil {
			return err
		}
		if seqs, err = collect(st, seqs); err != nil {
			return err
		}
	}
	return s.bySeq(seqs)
}

func (s *scanning) byCall(recent []int64) error {
	st, err := s.db.stmt("SELECT seq FROM calls WHERE call = ?")
	if err != nil {
		return err
	}
	if err := st.BindText(1, s.f.Call); err != nil {
		return err
	}
	seqs, err := collect(st, recent)
	if err != nil {
		return err
	}
	return s.bySeq(seqs)
}

func (s *scanning) kept(state string) error {
	return s.rows(`SELECT `+columns+` FROM deliveries d INDEXED BY deliveries_kept WHERE d.meta IS NOT NULL
		AND (d.state = 'dead' OR d.state = 'delivered') AND d.state = ?1 AND d.seq < ?2 ORDER BY d.seq DESC`, state)
}

func (s *scanning) inFlight() error {
	s.q.mu.Lock()
	var seqs []int64
	for seq, it := range s.q.active {
		if it.inHandler && (s.lanes == nil || s.lanes[it.lane.id] != nil) {
			seqs = append(seqs, seq)
		}
	}
	s.q.mu.Unlock()
	return s.bySeq(seqs)
}

// pending visits by way of the indexes of what is pending, and of what is kept.
func (s *scanning) pending() error {
	var seqs []int64
	waits := s.f.State == "" || s.f.State == callhook.StateWaiting
	var states []string
	if s.f.State != callhook.StateWaiting {
		states = append(states, ready, parked)
	}
	if waits {
		states = append(states, waiting)
	}
	lanes := s.lanes
	if lanes == nil {
		s.q.mu.Lock()
		lanes = map[int64]*lane{}
		for _, l := range s.q.lanes {
			if l.c.pending() > 0 {
				lanes[l.id] = l
			}
		}
		s.q.mu.Unlock()
	}
	st, err := s.db.stmt(`SELECT seq FROM deliveries INDEXED BY deliveries_pending WHERE lane_id = ?1
		AND (state = 'ready' OR state = 'parked' OR state = 'waiting') AND state = ?2`)
	if err != nil {
		return err
	}
	for id := range lanes {
		for _, state := range states {
			if err := errors.Join(st.BindInt64(1, id), st.BindText(2, state)); err != nil {
				return err
			}
			if seqs, err = collect(st, seqs); err != nil {
				return err
			}
		}
	}
	other := func(sql string) error {
		st, err := s.db.stmt(sql)
		if err != nil {
			return err
		}
		for st.Step() {
			if lanes[st.ColumnInt64(1)] != nil {
				seqs = append(seqs, st.ColumnInt64(0))
			}
		}
		return errors.Join(st.Err(), st.Reset())
	}
	if waits {
		if err := other("SELECT seq, lane_id FROM deliveries INDEXED BY deliveries_blocked WHERE state = 'blocked'"); err != nil {
			return err
		}
	}
	if s.f.State == "" {
		if err := other(`SELECT seq, lane_id FROM deliveries INDEXED BY deliveries_kept WHERE meta IS NOT NULL AND (state = 'dead' OR state = 'delivered')`); err != nil {
			return err
		}
	}
	return s.bySeq(seqs)
}

// Lanes implements [callhook.Inspector].
func (q *Queue) Lanes(ctx context.Context, f callhook.Filter) ([]callhook.LaneCounts, error) {
	var out []callhook.LaneCounts
	err := q.read(ctx, "counting", func(d *db) error {
		out = nil
		oldest, err := q.oldest(d)
		if err != nil {
			return err
		}
		st, err := d.stmt(`SELECT l.id, l.tenant, l.agent, l.webhook, c.accepted, c.delivered, c.dead, c.erased, c.ready + c.parked + c.waiting + c.blocked
			FROM lanes l JOIN counts c ON c.lane_id = l.id WHERE c.accepted > 0`)
		if err != nil {
			return err
		}
		for st.Step() {
			l := callhook.LaneCounts{LaneRef: callhook.LaneRef{Tenant: st.ColumnText(1), Agent: st.ColumnText(2), Webhook: st.ColumnText(3)}}
			if !selects(f, l.LaneRef) {
				continue
			}
			l.Accepted, l.Delivered, l.Dead, l.Erased, l.Pending = st.ColumnInt64(4), st.ColumnInt64(5), st.ColumnInt64(6), st.ColumnInt64(7), st.ColumnInt64(8)
			if l.Pending > 0 {
				l.Oldest = oldest[st.ColumnInt64(0)]
			}
			out = append(out, l)
		}
		return errors.Join(st.Err(), st.Reset())
	})
	slices.SortFunc(out, func(a, b callhook.LaneCounts) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Agent, b.Agent), cmp.Compare(a.Webhook, b.Webhook))
	})
	return out, err
}

// oldest returns when the first pending one of each lane was enqueued.
func (q *Queue) oldest(d *db) (map[int64]time.Time, error) {
	first := map[int64]int64{}
	for _, sql := range []string{
		`SELECT c.lane_id, (SELECT min(seq) FROM deliveries d INDEXED BY deliveries_pending WHERE d.lane_id = c.lane_id AND d.state = 'ready' AND d.at_us = 0)
			FROM counts c WHERE c.ready > 0`,
		`SELECT c.lane_id, (SELECT min(seq) FROM deliveries d INDEXED BY deliveries_pending WHERE d.lane_id = c.lane_id AND d.state = 'parked')
			FROM counts c WHERE c.parked > 0`,
		`SELECT c.lane_id, (SELECT min(seq) FROM deliveries d INDEXED BY deliveries_pending WHERE d.lane_id = c.lane_id AND d.state = 'waiting')
			FROM counts c WHERE c.waiting > 0`,
		`SELECT lane_id, min(seq) FROM deliveries INDEXED BY deliveries_blocked WHERE state = 'blocked' GROUP BY lane_id`,
	} {
		st, err := d.stmt(sql)
		if err != nil {
			return nil, err
		}
		for st.Step() {
			id, seq := st.ColumnInt64(0), st.ColumnInt64(1)
			if seq > 0 && (first[id] == 0 || seq < first[id]) {
				first[id] = seq
			}
		}
		if err := errors.Join(st.Err(), st.Reset()); err != nil {
			return nil, err
		}
	}
	st, err := d.stmt("SELECT " + columns + " FROM deliveries d WHERE d.seq = ?")
	if err != nil {
		return nil, err
	}
	at := make(map[int64]time.Time, len(first))
	for id, seq := range first {
		if err := st.BindInt64(1, seq); err != nil {
			return nil, err
		}
		if st.Step() {
			at[id] = q.scan(st, false).d.EnqueuedAt
		}
		if err := errors.Join(st.Err(), st.Reset()); err != nil {
			return nil, err
		}
	}
	return at, nil
}
