package natsqueue

import (
	"cmp"
	"container/heap"
	"context"
	"slices"
	"time"

	"github.com/callhook-go/callhook"
)

// line decides what of the partitions that this process owns goes when. All of it is
// in memory; Queue.mu guards it.
type line struct {
	ready   fifo[*item]
	waiting heapOf // by time
	timer   *time.Timer
	orders  int64 // counts what was parked with attempts

	consuming bool             // a Consume is under way
	handle    callhook.Handler // nil when nothing may be handed out
	handling  context.Context  // the handlers'
	endedAt   time.Time        // when the last was to end
	running   int              // goroutines that hand out
	starting  int              // of them, those that have none in a handler yet
}

func (n *line) begin() { n.waiting.less = func(a, b *item) bool { return a.at.Before(b.at) } }

// heapOf holds items, the least first. An item is in one at a time.
type heapOf struct {
	items []*item
	less  func(a, b *item) bool
}

func (h *heapOf) Len() int           { return len(h.items) }
func (h *heapOf) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }
func (h *heapOf) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].index, h.items[j].index = i, j
}
func (h *heapOf) Push(x any) { x.(*item).index = len(h.items); h.items = append(h.items, x.(*item)) }
func (h *heapOf) Pop() any {
	last := len(h.items) - 1
	it := h.items[last]
	h.items[last], it.index = nil, -1
	h.items = h.items[:last]
	return it
}

func (h *heapOf) take() *item     { return heap.Pop(h).(*item) }
func (h *heapOf) add(it *item)    { heap.Push(h, it) }
func (h *heapOf) remove(it *item) { heap.Remove(h, it.index) }
func (h *heapOf) has(it *item) bool {
	return it.index >= 0 && it.index < len(h.items) && h.items[it.index] == it
}

// chain keeps the order of one call's deliveries in one lane.
type chain struct {
	going, fresh int // those that were let go; of them, those without attempts
	blocked      fifo[*item]
}

func (c *chain) open(it *item) bool { return c.fresh == 0 && (!it.ordered || c.going == 0) }

func (c *chain) letGo(it *item) {
	it.blocked, it.chained = false, true
	c.going++
	if it.fresh = it.attempts == 0; it.fresh {
		c.fresh++
	}
}

// own begins to hand out what is pending of a partition. first: of what is parked in
// each lane one goes by itself.
func (q *Queue) own(p *part, first bool) {
	p.owned, p.draining = true, false
	for _, l := range p.lanes {
		l.begin()
	}
	q.sweep(p, p.left...)
	p.left = nil
	for _, l := range p.lanes {
		l.trim()
		all := slices.Clone(l.all.all[l.all.head:])
		// The order in which they were parked is that of the messages that say so.
		var parked, others []*item
		for _, it := range all {
			switch {
			case it.gone:
			case it.stored == callhook.StateParked:
				parked = append(parked, it)
			default:
				others = append(others, it)
			}
		}
		slices.SortFunc(parked, func(a, b *item) int { return cmp.Compare(a.last, b.last) })
		for _, it := range all {
			if !it.gone {
				q.link(it)
			}
		}
		for _, it := range slices.Concat(parked, others) {
			if !it.blocked {
				q.settleIn(it)
			}
		}
		if first {
			q.release(l, 1)
		}
	}
	q.pump()
}

func (l *lane) begin() { l.waiting, l.chains, l.freed = map[*item]struct{}{}, map[string]*chain{}, 0 }

// disown gives a partition up: another process has it, or is to.
func (q *Queue) disown(p *part) {
	p.owned, p.draining = false, false
	for _, l := range p.lanes {
		for it := range l.waiting {
			q.waiting.remove(it)
		}
		for _, it := range l.all.all[l.all.head:] {
			it.index, it.blocked, it.chained, it.fresh, it.released, it.state = -1, false, false, false, false, ""
		}
		l.fresh.items, l.tried.items, l.waiting, l.chains = nil, nil, nil, nil
	}
	q.ready.keep(func(it *item) bool { return it.lane.part != p })
	if !q.follow.everything {
		q.empty(p)
	}
}

// place takes up a delivery that became pending.
func (q *Queue) place(it *item) {
	if q.link(it) {
		q.settleIn(it)
	}
}

// link adds a delivery to its call's, and says whether their order lets it go.
func (q *Queue) link(it *item) bool {
	chains := it.lane.chains
	c := chains[it.call]
	if c == nil {
		c = new(chain)
		chains[it.call] = c
	}
	if c.blocked.len() > 0 || !c.open(it) {
		it.state, it.blocked = callhook.StateWaiting, true
		c.blocked.push(it)
		return false
	}
	c.letGo(it)
	return true
}

// settleIn puts one that may go where its last verdict says.
func (q *Queue) settleIn(it *item) {
	switch {
	case it.stored == callhook.StateParked:
		q.park(it)
	case it.stored == callhook.StateWaiting && it.at.After(time.Now()):
		q.wait(it)
	default:
		q.makeReady(it)
	}
}

// displace takes one that is not pending any more out of wherever it stands, and lets
// what waited for it go.
func (q *Queue) displace(it *item) {
	if it.blocked {
		it.lane.chains[it.call].blocked.keep(func(o *item) bool { return o != it })
	} else {
		q.unplace(it)
	}
	it.state, it.blocked, it.released = "", false, false
	q.advance(it, true)
}

// unplace takes one that its call lets go out of wherever it stands.
func (q *Queue) unplace(it *item) {
	switch l := it.lane; {
	case it.state == callhook.StateWaiting:
		q.unwait(it)
	case l.fresh.has(it):
		l.fresh.remove(it)
	case l.tried.has(it):
		l.tried.remove(it)
	case it.state == callhook.StateReady:
		q.ready.keep(func(o *item) bool { return o != it })
	}
}

// advance lets later ones of its call go, if they may now. settled: it is not pending
// any more.
func (q *Queue) advance(it *item, settled bool) {
	c := it.lane.chains[it.call]
	if c == nil {
		return
	}
	if it.fresh && (settled || it.attempts > 0) {
		it.fresh = false
		c.fresh--
	}
	if settled && it.chained {
		it.chained = false
		c.going--
	}
	for c.blocked.len() > 0 && c.open(c.blocked.peek()) {
		next := c.blocked.pop()
		c.letGo(next)
		q.settleIn(next)
	}
	if c.going == 0 && c.blocked.len() == 0 {
		delete(it.lane.chains, it.call)
	}
}

// makeReady parks what becomes ready in a lane with parked ones, which writes nothing:
// after a crash it is ready.
func (q *Queue) makeReady(it *item) {
	if it.lane.parked() > 0 && !it.released {
		q.park(it)
		return
	}
	it.state = callhook.StateReady
	q.ready.push(it)
}

func (l *lane) parked() int { return l.fresh.Len() + l.tried.Len() }

func (q *Queue) park(it *item) {
	it.state = callhook.StateParked
	if it.attempts <= 0 {
		it.lane.fresh.add(it)
		return
	}
	q.orders++
	it.order = q.orders
	it.lane.tried.add(it)
}

func (q *Queue) wait(it *item) {
	it.state = callhook.StateWaiting
	q.waiting.add(it)
	it.lane.waiting[it] = struct{}{}
	q.schedule()
}

func (q *Queue) unwait(it *item) {
	q.waiting.remove(it)
	delete(it.lane.waiting, it)
}

// schedule sets the one timer to the next that waits for a time. A clock that is set
// is noticed within a minute.
func (q *Queue) schedule() {
	if q.waiting.Len() == 0 || q.handle == nil {
		return
	}
	wait := min(time.Until(q.waiting.items[0].at), time.Minute)
	if q.timer == nil {
		q.timer = time.AfterFunc(wait, q.wake)
		return
	}
	q.timer.Reset(wait)
}

func (q *Queue) stopTimer() {
	if q.timer != nil {
		q.timer.Stop()
		q.timer = nil
	}
}

func (q *Queue) wake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.handle == nil {
		return
	}
	for now := time.Now(); q.waiting.Len() > 0 && !q.waiting.items[0].at.After(now); {
		it := q.waiting.items[0]
		q.unwait(it)
		q.makeReady(it)
	}
	q.schedule()
	q.pump()
}

// Release implements [callhook.Queue]. It writes nothing: what it freed is parked again
// after a crash. Of other processes' lanes it frees none. Where nobody consumes it
// makes this process the owner for a while; and after a start it waits until it
// is known which lanes are whose, at most for Options.Lease.
func (q *Queue) Release(ctx context.Context, name string, n int) (int, error) {
	if err := q.check(ctx); err != nil {
		return 0, err
	}
	part := -1
	if name != "" {
		part = q.partOf(name)
	}
	if err := q.seat.settled(ctx, part); err != nil {
		if closed := q.check(ctx); closed != nil {
			return 0, closed
		}
		return 0, q.failed("releasing", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	freed := 0
	for _, p := range q.parts {
		if !p.owned || p.draining || part >= 0 && p.n != part {
			continue
		}
		if name == "" {
			for _, l := range p.lanes {
				freed += q.release(l, n)
			}
		} else if l := p.lanes[name]; l != nil {
			freed += q.release(l, n)
		}
	}
	q.pump()
	return freed, nil
}

func (q *Queue) release(l *lane, n int) (freed int) {
	if n >= 0 {
		for ; freed < n && l.parked() > 0; freed++ {
			it := l.unpark()
			it.released = true
			q.makeReady(it)
		}
		return freed
	}
	var all []*item
	for l.parked() > 0 {
		all = append(all, l.unpark())
	}
	for it := range l.waiting {
		q.unwait(it)
		all = append(all, it)
	}
	slices.SortFunc(all, func(a, b *item) int {
		return cmp.Or(cmp.Compare(min(a.attempts, 1), min(b.attempts, 1)), cmp.Compare(a.seq, b.seq))
	})
	for _, it := range all {
		q.makeReady(it)
	}
	return len(all)
}

// unpark takes out the next that Release frees.
func (l *lane) unpark() *item {
	l.freed++
	if l.tried.Len() > 0 && (l.fresh.Len() == 0 || l.freed%4 == 0) {
		return l.tried.take()
	}
	return l.fresh.take()
}
