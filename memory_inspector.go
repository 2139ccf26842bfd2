package callhook

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// List implements [Inspector]. It looks at all that the queue holds.
func (q *MemoryQueue) List(_ context.Context, f Filter) ([]*Delivery, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	found := q.find(f, cmp.Or(max(f.Limit, 0), 100))
	out := make([]*Delivery, len(found))
	for i, it := range found {
		d := it.Delivery
		d.Body, d.Record, d.Log = nil, nil, nil
		d.Values, d.Numbers = maps.Clone(d.Values), slices.Clone(d.Numbers)
		out[i] = &d
	}
	return out, nil
}

// find returns what matches f, the last enqueued first; with a limit of zero all.
func (q *MemoryQueue) find(f Filter, limit int) (found []*item) {
	newest := func() {
		slices.SortFunc(found, func(a, b *item) int { return cmp.Compare(b.Seq, a.Seq) })
		if limit > 0 {
			found = found[:min(len(found), limit)]
		}
	}
	add := func(it *item) {
		if it == nil || !f.matches(&it.Delivery) {
			return
		}
		found = append(found, it)
		if limit > 0 && len(found)-1000 >= limit { // a million may match
			newest()
		}
	}
	if len(f.IDs) > 0 {
		for _, id := range f.IDs {
			add(q.items[id])
		}
	} else {
		for _, it := range q.items {
			add(it)
		}
	}
	newest()
	return slices.Compact(found) // an ID may be named twice
}

// matches reports whether d is one of those that f selects, but for IDs and Limit.
func (f *Filter) matches(d *Delivery) bool {
	return (f.State == "" || f.State == d.State) &&
		(f.Tenant == "" || f.Tenant == d.Tenant) && (f.Agent == "" || f.Agent == d.Agent) && (f.Webhook == "" || f.Webhook == d.Webhook) &&
		(f.Call == "" || f.Call == d.Call) && (f.Reason == "" || f.Reason == d.Reason) &&
		(f.Number == "" || slices.Contains(d.Numbers, f.Number)) &&
		(f.Since.IsZero() || !d.EnqueuedAt.Before(f.Since)) && (f.Until.IsZero() || d.EnqueuedAt.Before(f.Until)) &&
		(f.Before == 0 || d.Seq < f.Before)
}

// Get implements [Inspector].
func (q *MemoryQueue) Get(_ context.Context, id string) (*Delivery, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	it := q.items[id]
	if it == nil {
		return nil, ErrNoDelivery
	}
	d := it.Delivery
	d.Body, d.Record, d.Log = bytes.Clone(d.Body), bytes.Clone(d.Record), slices.Clone(d.Log)
	d.Values, d.Numbers = maps.Clone(d.Values), slices.Clone(d.Numbers)
	return &d, nil
}

// Counts implements [Inspector].
func (q *MemoryQueue) Counts(context.Context) (sum Counts, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range q.lanes {
		sum.Accepted += l.counts.Accepted
		sum.Delivered += l.counts.Delivered
		sum.Dead += l.counts.Dead
		sum.Pending += l.counts.Pending
		sum.Erased += l.counts.Erased
	}
	return sum, nil
}

// Lanes implements [Inspector].
func (q *MemoryQueue) Lanes(_ context.Context, f Filter) ([]LaneCounts, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var out []LaneCounts
	for _, l := range q.lanes {
		if !f.selects(l.ref) {
			continue
		}
		c := LaneCounts{LaneRef: l.ref, Counts: l.counts}
		q.trim(l)
		if l.pending.len() > 0 {
			c.Oldest = l.pending.peek().EnqueuedAt
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b LaneCounts) int { return a.LaneRef.compare(b.LaneRef) })
	return out, nil
}

func (f *Filter) selects(l LaneRef) bool {
	return (f.Tenant == "" || f.Tenant == l.Tenant) && (f.Agent == "" || f.Agent == l.Agent) && (f.Webhook == "" || f.Webhook == l.Webhook)
}

func (l LaneRef) compare(m LaneRef) int {
	return cmp.Or(cmp.Compare(l.Tenant, m.Tenant), cmp.Compare(l.Agent, m.Agent), cmp.Compare(l.Webhook, m.Webhook))
}

// Replay implements [Inspector]. Deliveries that arrived are not kept.
func (q *MemoryQueue) Replay(_ context.Context, f Filter) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return 0, ErrQueueClosed
	case f.State != "" && f.State != StateDead:
		return 0, fmt.Errorf("%w: what is %s cannot be replayed: dead letters can", ErrFilter, f.State)
	}
	f.State = StateDead
	found := q.find(f, f.Limit)
	q.unkeep(found)
	for _, it := range slices.Backward(found) {
		it.lane.counts.Dead--
		it.Attempts, it.Rejections, it.Postponed, it.Reason = 0, 0, 0, ""
		it.EnqueuedAt = time.Now()
		q.add(it)
	}
	q.spawn()
	return len(found), nil
}

// Erase implements [Inspector].
func (q *MemoryQueue) Erase(_ context.Context, f Filter) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return 0, ErrQueueClosed
	case len(f.IDs) == 0 && f.Call == "" && f.Number == "":
		return 0, fmt.Errorf("%w selects everything: say whose data to erase, by IDs, Call or Number", ErrFilter)
	}
	found := q.find(f, f.Limit)
	q.unkeep(found)
	for _, it := range found {
		q.erase(it)
	}
	q.spawn()
	return len(found), nil
}

// unkeep takes those found out of the dead letters that are kept.
func (q *MemoryQueue) unkeep(found []*item) {
	gone := map[*item]bool{}
	for _, it := range found {
		if it.State == StateDead {
			gone[it] = true
			q.bytes -= it.size
			q.deadBytes -= it.size
		}
	}
	if len(gone) > 0 {
		q.dead.remove(func(it *item) bool { return gone[it] })
	}
}

func (q *MemoryQueue) erase(it *item) {
	delete(q.items, it.ID)
	is := func(other *item) bool { return other == it }
	it.erased = true
	if it.State == StateDead {
		return
	}
	blocked := it.blocked
	switch {
	case blocked:
		q.chains[chainKey{it.Lane, it.Call}].blocked.remove(is)
	case it.State == StateWaiting:
		q.unwait(it)
	case it.State == StateParked:
		it.lane.retries.remove(is)
		it.lane.fresh.remove(is)
	}
	if it.State == StateReady && it.released { // another goes instead: somebody counts on it
		q.release(it.lane, 1)
	}
	q.takes(it, -it.size)
	it.lane.counts.Pending--
	it.lane.counts.Erased++
	q.remember(it.ID, time.Now())
	q.trim(it.lane)
	if !blocked {
		q.advance(it, true)
	}
}
