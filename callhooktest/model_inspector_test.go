package callhooktest_test

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/callhook-go/callhook"
)

// matching returns what a filter finds, the last enqueued first.
func (q *model) matching(f callhook.Filter) (found []*record) {
	for _, r := range q.items {
		d := &r.Delivery
		is := func(want, got string) bool { return want == "" || want == got }
		if (f.IDs == nil || slices.Contains(f.IDs, d.ID)) && is(string(f.State), string(d.State)) &&
			is(f.Tenant, d.Tenant) && is(f.Agent, d.Agent) && is(f.Webhook, d.Webhook) && is(f.Call, d.Call) &&
			(f.Number == "" || slices.Contains(d.Numbers, f.Number)) && is(string(f.Reason), string(d.Reason)) &&
			(f.Since.IsZero() || !d.EnqueuedAt.Before(f.Since)) && (f.Until.IsZero() || d.EnqueuedAt.Before(f.Until)) &&
			(f.Before == 0 || d.Seq < f.Before) {
			found = append(found, r)
		}
	}
	slices.SortFunc(found, func(a, b *record) int {
		if q.fault == "oldest first" {
			a, b = b, a
		}
		return cmp.Compare(b.Delivery.Seq, a.Delivery.Seq)
	})
	if f.Limit > 0 {
		found = found[:min(len(found), f.Limit)]
	}
	return found
}

func (q *model) List(_ context.Context, f callhook.Filter) (ds []*callhook.Delivery, _ error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil, callhook.ErrQueueClosed
	}
	f.Limit = cmp.Or(f.Limit, 100)
	for _, r := range q.matching(f) {
		d := clone(&r.Delivery)
		d.Body, d.Record, d.Log = nil, nil, nil
		ds = append(ds, &d)
	}
	return ds, nil
}

func (q *model) Get(_ context.Context, id string) (*callhook.Delivery, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil, callhook.ErrQueueClosed
	}
	r := q.items[id]
	if r == nil {
		return nil, callhook.ErrNoDelivery
	}
	if q.fault == "shares" {
		d := r.Delivery
		return &d, nil
	}
	d := clone(&r.Delivery)
	return &d, nil
}

func (q *model) Counts(ctx context.Context) (sum callhook.Counts, _ error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return sum, callhook.ErrQueueClosed
	}
	for _, l := range q.lanes {
		sum.Accepted += l.counts.Accepted
		sum.Delivered += l.counts.Delivered
		sum.Dead += l.counts.Dead
		sum.Pending += l.counts.Pending
		sum.Erased += l.counts.Erased
	}
	return sum, nil
}

func (q *model) Lanes(_ context.Context, f callhook.Filter) (ls []callhook.LaneCounts, _ error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil, callhook.ErrQueueClosed
	}
	oldest := map[string]time.Time{}
	for _, chain := range q.chains {
		for _, r := range chain {
			d := &r.Delivery
			if at, ok := oldest[d.Lane]; !ok || d.EnqueuedAt.Before(at) {
				oldest[d.Lane] = d.EnqueuedAt
			}
		}
	}
	for name, l := range q.lanes {
		if cmp.Or(f.Tenant, l.ref.Tenant) == l.ref.Tenant && cmp.Or(f.Agent, l.ref.Agent) == l.ref.Agent && cmp.Or(f.Webhook, l.ref.Webhook) == l.ref.Webhook {
			ls = append(ls, callhook.LaneCounts{LaneRef: l.ref, Counts: l.counts, Oldest: oldest[name]})
		}
	}
	slices.SortFunc(ls, func(a, b callhook.LaneCounts) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Agent, b.Agent), cmp.Compare(a.Webhook, b.Webhook))
	})
	return ls, nil
}

func (q *model) Replay(_ context.Context, f callhook.Filter) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return 0, callhook.ErrQueueClosed
	}
	n, most := 0, f.Limit
	f.Limit = 0
	for _, r := range slices.Backward(q.matching(f)) {
		d, l := &r.Delivery, q.lane(&r.Delivery)
		switch {
		case most > 0 && n == most:
			continue
		case d.State == callhook.StateDead:
			l.counts.Dead--
		case d.State == callhook.StateDelivered && f.State == callhook.StateDelivered:
			l.counts.Delivered--
		default:
			continue
		}
		n++
		l.counts.Pending++
		d.Reason, d.EnqueuedAt = "", time.Now()
		if q.fault != "goes on counting" {
			d.Attempts, d.Rejections, d.Postponed = 0, 0, 0
		}
		key := [2]string{d.Lane, d.Call}
		if q.chains[key] = append(q.chains[key], r); q.mayGo(r) {
			q.readied(r)
		} else {
			r.blocked, d.State = true, callhook.StateWaiting
		}
		q.save(r)
	}
	q.dispatch()
	return n, nil
}

func (q *model) Erase(_ context.Context, f callhook.Filter) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return 0, callhook.ErrQueueClosed
	}
	if len(f.IDs) == 0 && f.Call == "" && f.Number == "" {
		return 0, callhook.ErrFilter
	}
	found := q.matching(f)
	for _, r := range found {
		d, l := &r.Delivery, q.lane(&r.Delivery)
		delete(q.items, d.ID)
		if q.fault == "forgets erased" {
			delete(q.known, d.ID)
		}
		r.Erased = true
		*d = callhook.Delivery{ID: d.ID, Seq: d.Seq, State: d.State, Tenant: d.Tenant, Agent: d.Agent, Webhook: d.Webhook, Lane: d.Lane, Call: d.Call}
		if d.State != callhook.StateDead && d.State != callhook.StateDelivered {
			d.State = ""
			l.counts.Pending--
			l.counts.Erased++
			if r.timer != nil {
				r.timer.Stop()
				r.timer = nil
			}
			l.parked = slices.DeleteFunc(l.parked, func(o *record) bool { return o == r })
			q.unchain(r)
		}
		q.save(r)
	}
	q.dispatch()
	return len(found), nil
}
