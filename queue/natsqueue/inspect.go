package natsqueue

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/callhook-go/callhook"
)

// List implements [callhook.Inspector]. What other processes have in flight or parked
// without an attempt is shown as ready.
func (q *Queue) List(ctx context.Context, f callhook.Filter) ([]*callhook.Delivery, error) {
	f.Limit = cmp.Or(max(f.Limit, 0), 100)
	all, err := q.find(ctx, f)
	if err != nil {
		return nil, err
	}
	ds, err := q.readMany(ctx, all)
	for _, d := range ds {
		d.Body, d.Record, d.Log = nil, nil, nil
	}
	return ds, err
}

// Get implements [callhook.Inspector].
func (q *Queue) Get(ctx context.Context, id string) (*callhook.Delivery, error) {
	all, err := q.find(ctx, callhook.Filter{IDs: []string{id}})
	if err != nil {
		return nil, err
	}
	ds, err := q.readMany(ctx, all)
	if err == nil && len(ds) == 0 {
		err = fmt.Errorf("natsqueue: %w", callhook.ErrNoDelivery)
	}
	if err != nil {
		return nil, err
	}
	return ds[0], nil
}

// found is a delivery as it was when it was looked for.
type found struct {
	it      *item
	seq     uint64 // of the message that holds it
	last    uint64 // of its last verdict's
	state   callhook.State
	retryAt time.Time
	tries   int
}

// find returns what f selects of all that there is, the last enqueued first.
func (q *Queue) find(ctx context.Context, f callhook.Filter) (all []found, err error) {
	err = q.follow.look(ctx, func() { all = q.selected(f) })
	return all, err
}

func (q *Queue) selected(f callhook.Filter) (all []found) {
	now := time.Now()
	add := func(it *item) {
		if it == nil {
			return
		}
		state, at := it.standing(now)
		if (f.State == "" || f.State == state) && matches(&f, it) {
			w := found{it: it, seq: it.seq, last: it.last, state: state, retryAt: at}
			if state == callhook.StateDead {
				w.seq, w.last = it.last, 0
			}
			all = append(all, w)
		}
	}
	dead := func(it *item) *item {
		if it != nil && now.After(it.until) {
			delete(q.dead, it.id)
			return nil
		}
		return it
	}
	newest := func() {
		slices.SortFunc(all, func(a, b found) int { return cmp.Compare(b.it.seq, a.it.seq) })
		all = slices.CompactFunc(all, func(a, b found) bool { return a.it == b.it }) // an ID may be named twice
		if f.Limit > 0 {
			all = all[:min(len(all), f.Limit)]
		}
	}
	if len(f.IDs) > 0 {
		for _, id := range f.IDs {
			add(q.items[id])
			add(dead(q.dead[id]))
		}
	} else {
		if f.State != callhook.StateDead {
			for _, it := range q.items {
				if add(it); f.Limit > 0 && len(all) > f.Limit+1000 {
					newest()
				}
			}
		}
		for _, it := range q.dead {
			if add(dead(it)); f.Limit > 0 && len(all) > f.Limit+1000 {
				newest()
			}
		}
	}
	newest()
	return all
}

// standing is where a delivery stands, and when it is tried again.
func (it *item) standing(now time.Time) (callhook.State, time.Time) {
	switch {
	case it.state == callhook.StateWaiting && it.blocked:
		return callhook.StateWaiting, time.Time{}
	case it.state == callhook.StateWaiting:
		return callhook.StateWaiting, it.at
	case it.state != "":
		return it.state, time.Time{}
	case it.stored == callhook.StateWaiting && it.at.After(now): // another process has it
		return callhook.StateWaiting, it.at
	case it.stored == callhook.StateParked:
		return callhook.StateParked, time.Time{}
	}
	return callhook.StateReady, time.Time{}
}

// matches reports whether f selects it, leaving out IDs, State and Limit.
func matches(f *callhook.Filter, it *item) bool {
	l := it.lane
	return selects(f, l.LaneRef) && (f.Call == "" || f.Call == it.call) && (f.Number == "" || slices.Contains(it.numbers, f.Number)) &&
		(f.Reason == "" || f.Reason == it.reason) && (f.Since.IsZero() || !it.enqueuedAt.Before(f.Since)) &&
		(f.Until.IsZero() || it.enqueuedAt.Before(f.Until)) && (f.Before <= 0 || int64(it.seq) < f.Before)
}

func selects(f *callhook.Filter, l callhook.LaneRef) bool {
	return (f.Tenant == "" || f.Tenant == l.Tenant) && (f.Agent == "" || f.Agent == l.Agent) && (f.Webhook == "" || f.Webhook == l.Webhook)
}

// readMany reads deliveries, leaving out those that have gone meanwhile.
func (q *Queue) readMany(ctx context.Context, all []found) ([]*callhook.Delivery, error) {
	ds := make([]*callhook.Delivery, len(all))
	errs := make([]error, len(all))
	parallel(len(all), func(i int) { ds[i], errs[i] = q.readFound(ctx, &all[i]) })
	for _, err := range errs {
		if err != nil {
			return nil, q.failed("reading", err)
		}
	}
	return slices.DeleteFunc(ds, func(d *callhook.Delivery) bool { return d == nil }), nil
}

// readFound returns nil for one that has gone.
func (q *Queue) readFound(ctx context.Context, w *found) (*callhook.Delivery, error) {
	for {
		d, err := q.readAt(ctx, w)
		if err == nil || !errors.Is(err, jetstream.ErrMsgNotFound) {
			return d, err
		}
		// It was settled meanwhile, or tried, or is on its way to the server that was asked.
		q.mu.Lock()
		it := q.items[w.it.id]
		if it == nil {
			it = q.dead[w.it.id]
		}
		if it == nil {
			q.mu.Unlock()
			return nil, nil
		}
		again := found{it: it, seq: it.seq, last: it.last}
		if again.state, again.retryAt = it.standing(time.Now()); again.state == callhook.StateDead {
			again.seq, again.last = it.last, 0
		}
		same := again == *w
		q.mu.Unlock()
		if same {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(5 * time.Millisecond):
			}
			if w.tries++; w.tries > 200 {
				return nil, nil
			}
			continue
		}
		*w = again
	}
}

func (q *Queue) readAt(ctx context.Context, w *found) (*callhook.Delivery, error) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	raw, err := q.stream.GetMsg(ctx, w.seq)
	if err != nil {
		return nil, err
	}
	d, err := decode(raw.Header, raw.Data)
	if err != nil {
		return nil, err
	}
	if w.last > 0 {
		if raw, err = q.stream.GetMsg(ctx, w.last); err != nil {
			return nil, err
		}
		if err := decodeProgress(raw.Data, d); err != nil {
			return nil, err
		}
	}
	d.Seq, d.State, d.RetryAt = int64(w.it.seq), w.state, w.retryAt
	if w.state == callhook.StateDead {
		d.Reason = w.it.reason
	}
	return d, nil
}

// Counts implements [callhook.Inspector].
func (q *Queue) Counts(ctx context.Context) (sum callhook.Counts, err error) {
	err = q.follow.look(ctx, func() {
		for _, p := range q.parts {
			for _, l := range p.lanes {
				c := l.counts()
				sum.Accepted += c.Accepted
				sum.Delivered += c.Delivered
				sum.Dead += c.Dead
				sum.Pending += c.Pending
				sum.Erased += c.Erased
			}
		}
	})
	return sum, err
}

func (l *lane) counts() callhook.Counts {
	c := callhook.Counts{Delivered: l.tally.Delivered + int64(len(l.since)), Dead: l.tally.Dead, Erased: l.tally.Erased, Pending: int64(l.pending)}
	c.Accepted = c.Delivered + c.Dead + c.Erased + c.Pending
	return c
}

// Lanes implements [callhook.Inspector].
func (q *Queue) Lanes(ctx context.Context, f callhook.Filter) ([]callhook.LaneCounts, error) {
	var out []callhook.LaneCounts
	err := q.follow.look(ctx, func() {
		for _, p := range q.parts {
			for _, l := range p.lanes {
				c := callhook.LaneCounts{LaneRef: l.LaneRef, Counts: l.counts()}
				if !selects(&f, l.LaneRef) || c.Accepted == 0 {
					continue
				}
				l.trim()
				if l.all.len() > 0 {
					c.Oldest = l.all.peek().enqueuedAt
				}
				out = append(out, c)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(out, func(a, b callhook.LaneCounts) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Agent, b.Agent), cmp.Compare(a.Webhook, b.Webhook))
	})
	return out, nil
}

// Replay implements [callhook.Inspector]. Deliveries that arrived are not kept. Any
// process may replay what another hands out.
func (q *Queue) Replay(ctx context.Context, f callhook.Filter) (int, error) {
	if err := q.check(ctx); err != nil {
		return 0, err
	}
	if f.State != "" && f.State != callhook.StateDead {
		return 0, fmt.Errorf("%w: what is %s cannot be replayed: dead letters can", callhook.ErrFilter, f.State)
	}
	f.State = callhook.StateDead
	all, err := q.find(ctx, f)
	if err != nil {
		return 0, err
	}
	slices.Reverse(all)
	n := 0
	for part := range slices.Chunk(all, 50) {
		var changes []*change
		for i := range part {
			w := &part[i]
			d, err := q.readAt(ctx, w)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				continue // somebody else has replayed or erased it
			}
			if err != nil {
				return n, q.failed("replaying", err)
			}
			d.Attempts, d.Rejections, d.Postponed, d.EnqueuedAt = 0, 0, 0, time.Now()
			c := &change{it: w.it, place: q.placeOf(d.ID, d.Lane), state: stateReplayed, wasDead: true, last: w.seq, write: rand.Text()}
			c.main = nats.NewMsg(q.subject(kindPending, c.place))
			q.fit(c.main, d, func(d *callhook.Delivery) error { return encode(c.main, d, index{Write: c.write}) })
			changes = append(changes, c)
		}
		made, err := q.make(ctx, changes)
		if n += made; err != nil {
			return n, q.failed("replaying", err)
		}
	}
	// Whoever hands them out sees them as it sees new ones.
	return n, nil
}

// Erase implements [callhook.Inspector]. When it has returned nil the server has
// overwritten what was erased in its files; see the package's documentation for what it
// has not.
func (q *Queue) Erase(ctx context.Context, f callhook.Filter) (int, error) {
	if err := q.check(ctx); err != nil {
		return 0, err
	}
	if len(f.IDs) == 0 && f.Call == "" && f.Number == "" {
		return 0, fmt.Errorf("%w selects everything: say whose data to erase, by IDs, Call or Number", callhook.ErrFilter)
	}
	all, err := q.find(ctx, f)
	if err != nil {
		return 0, err
	}
	var changes []*change
	for _, w := range all {
		c := &change{it: w.it, place: q.placeOf(w.it.id, w.it.lane.name), state: stateErased, last: w.last, write: rand.Text()}
		if c.wasDead = w.state == callhook.StateDead; c.wasDead {
			c.last = w.seq
		}
		changes = append(changes, c)
	}
	q.mu.Lock()
	breaks := q.follow.breaks
	q.mu.Unlock()
	n, err := q.make(ctx, changes)
	if err != nil {
		return n, q.failed("erasing", err)
	}
	errs := make([]error, len(changes))
	parallel(len(changes), func(i int) { // it would be swept soon, but then nobody could rely on it
		c := changes[i]
		rest := leftover{id: c.it.id, seq: c.it.seq, last: c.last, erase: true}
		for errs[i] = errDoubt; c.err == nil && errs[i] == errDoubt && ctx.Err() == nil; {
			if errs[i] = rest.remove(q, breaks, false); errs[i] == errDoubt {
				time.Sleep(5 * time.Millisecond)
			}
		}
		if c.err != nil {
			errs[i] = nil
		}
	})
	if err := errors.Join(errs...); err != nil {
		return n, q.failed("overwriting what was erased, which goes on by itself,", err)
	}
	return n, nil
}

// make has changes written, and returns how many were.
func (q *Queue) make(ctx context.Context, changes []*change) (n int, err error) {
	q.judge.do(ctx, changes...)
	for _, c := range changes {
		select {
		case <-c.done:
			switch {
			case c.err == nil:
				n++
			case !errors.Is(c.err, errGone):
				err = c.err
			}
		default:
			err = ctx.Err()
		}
	}
	return n, err
}
