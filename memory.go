package callhook

import (
	"cmp"
	"container/heap"
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
)

// MemoryOptions are the options of [NewMemoryQueue]. The zero value is the default.
type MemoryOptions struct {
	// MaxBytes bounds what pending deliveries and dead letters take together:
	// bodies, values, records, logs of attempts and 512 bytes each. Over it dead letters
	// go, the oldest first, and then Enqueue returns [ErrQueueFull]. Zero means 256 MiB.
	MaxBytes int64
	// MaxTenantBytes bounds what one tenant's pending deliveries take together: bodies,
	// values, records, logs of attempts and 512 bytes each, as MaxBytes counts them.
	// Over it Enqueue of that tenant's events returns [ErrQuota], while other tenants
	// and what is pending go on; dead letters do not count, and what is replayed is not
	// refused. Zero means no bound.
	MaxTenantBytes int64
	// MaxRemembered is how many IDs of settled deliveries are remembered, for at
	// most four days each. Zero means 1,000,000 (about 70 MiB when full).
	MaxRemembered int
	// MaxDead is how many dead letters are kept, for at most 30 days each: the
	// oldest go first. Zero means 10,000.
	MaxDead int
}

const (
	rememberFor = 4 * 24 * time.Hour
	keepDead    = 30 * 24 * time.Hour
	maxStarting = 8 // goroutines that were started and have no delivery yet
)

// NewMemoryQueue returns a queue in memory: what [New] takes when it is given none.
func NewMemoryQueue(o *MemoryOptions) *MemoryQueue {
	q := &MemoryQueue{
		items:    map[string]*item{},
		lanes:    map[string]*memoryLane{},
		chains:   map[chainKey]*chain{},
		settled:  map[idKey]int64{},
		tenants:  map[string]*memoryTenant{},
		maxBytes: 256 << 20, maxRemembered: 1_000_000, maxDead: 10_000,
	}
	if o != nil {
		q.maxBytes = cmp.Or(o.MaxBytes, q.maxBytes)
		q.maxRemembered = cmp.Or(o.MaxRemembered, q.maxRemembered)
		q.maxDead = cmp.Or(o.MaxDead, q.maxDead)
		q.maxTenantBytes = o.MaxTenantBytes
	}
	return q
}

// MemoryQueue is a [Queue] in memory, and an [Inspector]. What is pending is lost
// when the process ends, so it serves tests, and runtimes for which losing events
// in a crash is right. It keeps order, and starts no goroutine but for deliveries
// that are handed out.
type MemoryQueue struct {
	maxBytes, maxTenantBytes int64
	maxRemembered, maxDead   int

	mu         sync.Mutex
	closed     bool
	seq        int64
	items      map[string]*item // pending ones and dead letters
	ready      fifo[*item]
	waiting    timers // by RetryAt
	timer      *time.Timer
	lanes      map[string]*memoryLane
	chains     map[chainKey]*chain
	dead       fifo[*item]     // the oldest first
	settled    map[idKey]int64 // remembered IDs, with Unix seconds
	settledAge fifo[remembered]
	bytes      int64 // of pending deliveries and dead letters
	deadBytes  int64 // of those, the dead letters'
	tenants    map[string]*memoryTenant

	consuming bool    // a Consume is under way
	handle    Handler // its own; nil once it is to end
	ctx       context.Context
	starting  int // goroutines that have not taken a delivery yet
	done      sync.WaitGroup
}

type remembered struct {
	id idKey
	at int64 // Unix seconds
}

// idKey stands for an ID without a pointer, so that a million of them cost the
// garbage collector nothing.
type idKey [16]byte

func keyOf(id string) (k idKey) {
	if text, ok := strings.CutPrefix(id, "msg_"); ok && len(text) == idEncoding.EncodedLen(len(k)) {
		if n, err := idEncoding.Decode(k[:], []byte(text)); err == nil && n == len(k) {
			return k
		}
	}
	sum := sha256.Sum256([]byte(id)) // not one of ours
	return idKey(sum[:16])
}

// item is a delivery and where it stands.
type item struct {
	Delivery
	lane     *memoryLane
	tenant   *memoryTenant
	size     int64
	deadAt   time.Time
	index    int  // in waiting
	fresh    bool // counts as one of its chain's that had no attempt
	blocked  bool // waits for an earlier one of its call
	released bool // by Release: it is handed out although its lane has parked ones
	erased   bool
}

// size is about what d takes.
func (d *Delivery) size() int64 {
	n := 512 + len(d.Body) + len(d.BuildError) + len(d.Record)
	for k, v := range d.Values {
		n += len(k) + len(v)
	}
	for k, v := range d.TraceContext {
		n += len(k) + len(v)
	}
	for i := range d.Log {
		n += 160 + len(d.Log[i].Error) + len(d.Log[i].Reply)
	}
	return int64(n)
}

// memoryLane holds what a lane has parked: what had attempts apart.
type memoryLane struct {
	ref     LaneRef
	counts  Counts
	pending fifo[*item] // as enqueued, and what is settled meanwhile
	fresh   fifo[*item] // as enqueued
	retries fifo[*item]
	freed   int                // by Release, to tell every fourth
	waiting map[*item]struct{} // those with a time
}

func (l *memoryLane) parked() int { return l.fresh.len() + l.retries.len() }

func (l *memoryLane) park(it *item) {
	it.State, it.RetryAt = StateParked, time.Time{}
	if it.Attempts == 0 {
		l.fresh.insert(it, func(a, b *item) bool { return a.Seq < b.Seq })
	} else {
		l.retries.push(it)
	}
}

// unpark takes out the next that Release frees.
func (l *memoryLane) unpark() *item {
	l.freed++
	if l.retries.len() > 0 && (l.fresh.len() == 0 || l.freed%4 == 0) {
		return l.retries.pop()
	}
	return l.fresh.pop()
}

type chainKey struct{ lane, call string }

// chain keeps the order of one call's deliveries in one lane.
type chain struct {
	going   int         // those that were let go and are not settled
	fresh   int         // of them, those without attempts
	blocked fifo[*item] // the others, as enqueued
}

func (c *chain) open(it *item) bool { return c.fresh == 0 && (!it.Ordered || c.going == 0) }

// Limits implements [Queue].
func (q *MemoryQueue) Limits() Limits {
	return Limits{Ordered: true, Remember: rememberFor}
}

// Enqueue implements [Queue]. It stores all of ds or, with [ErrQueueFull] or
// [ErrQuota], none.
func (q *MemoryQueue) Enqueue(ctx context.Context, ds ...*Delivery) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ErrQueueClosed
	}
	q.forget(time.Now())
	if err := q.overQuota(ds); err != nil {
		return err
	}
	var size int64
	for _, d := range ds {
		if !q.knows(d.ID) {
			size += d.size()
		}
	}
	if size > 0 { // repeating what is known is never refused
		if q.bytes-q.deadBytes+size > q.maxBytes {
			return ErrQueueFull
		}
		for q.bytes+size > q.maxBytes {
			q.dropDead()
		}
	}
	for _, d := range ds {
		if q.knows(d.ID) {
			continue
		}
		q.seq++
		it := &item{Delivery: *d, size: d.size(), lane: q.lane(d), tenant: q.tenant(d.Tenant)}
		it.Seq = q.seq
		q.items[d.ID] = it
		it.lane.counts.Accepted++
		q.add(it)
	}
	q.spawn()
	return nil
}

func (q *MemoryQueue) knows(id string) bool {
	if _, held := q.items[id]; held {
		return true
	}
	_, settled := q.settled[keyOf(id)]
	return settled
}

func (q *MemoryQueue) lane(d *Delivery) *memoryLane {
	l := q.lanes[d.Lane]
	if l == nil {
		l = &memoryLane{ref: LaneRef{d.Tenant, d.Agent, d.Webhook}}
		q.lanes[d.Lane] = l
	}
	return l
}

// add makes it pending: ready, if its call's order lets it.
func (q *MemoryQueue) add(it *item) {
	q.takes(it, it.size)
	it.lane.counts.Pending++
	it.lane.pending.push(it)
	key := chainKey{it.Lane, it.Call}
	c := q.chains[key]
	if c == nil {
		c = new(chain)
		q.chains[key] = c
	}
	if c.blocked.len() > 0 || !c.open(it) {
		it.State, it.RetryAt, it.blocked = StateWaiting, time.Time{}, true
		c.blocked.push(it)
		return
	}
	q.letGo(c, it)
}

func (q *MemoryQueue) letGo(c *chain, it *item) {
	it.blocked = false
	c.going++
	if it.fresh = it.Attempts == 0; it.fresh {
		c.fresh++
	}
	q.makeReady(it)
}

// advance lets the later deliveries of its call go, if they may now. settled: it
// is not pending any more.
func (q *MemoryQueue) advance(it *item, settled bool) {
	key := chainKey{it.Lane, it.Call}
	c := q.chains[key]
	if it.fresh && (settled || it.Attempts > 0) {
		it.fresh = false
		c.fresh--
	}
	if settled {
		c.going--
	}
	for c.blocked.len() > 0 && c.open(c.blocked.peek()) {
		q.letGo(c, c.blocked.pop())
	}
	if c.going == 0 && c.blocked.len() == 0 {
		delete(q.chains, key)
	}
}

// makeReady hands it out as soon as can be, or parks it with others of its lane.
func (q *MemoryQueue) makeReady(it *item) {
	if it.lane.parked() > 0 && !it.released {
		it.lane.park(it)
		return
	}
	it.State, it.RetryAt = StateReady, time.Time{}
	q.ready.push(it)
}

// spawn starts goroutines for what is ready, a few at a time. The caller holds q.mu.
func (q *MemoryQueue) spawn() {
	for q.handle != nil && q.starting < min(q.ready.len(), maxStarting) {
		q.starting++
		q.done.Add(1)
		go q.work()
	}
}

// work hands out deliveries until none is ready.
func (q *MemoryQueue) work() {
	defer q.done.Done()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.starting--
	for q.handle != nil && q.ready.len() > 0 {
		it := q.ready.pop()
		switch {
		case it.erased:
			continue
		case it.lane.parked() > 0 && !it.released:
			it.lane.park(it)
			continue
		}
		it.State, it.released = StateInFlight, false
		q.spawn()
		handle, ctx := q.handle, q.ctx
		d := it.Delivery // the handler's own, so that others may read meanwhile
		q.mu.Unlock()
		v := handle(ctx, &d)
		q.mu.Lock()
		if !it.erased {
			it.Attempts, it.Rejections, it.Postponed, it.Log = d.Attempts, d.Rejections, d.Postponed, d.Log
			q.takes(it, -it.size)
			it.size = it.Delivery.size() // its log has grown
			q.takes(it, it.size)
			q.settle(it, v)
		}
		if v.done != nil {
			q.mu.Unlock()
			v.Done()
			q.mu.Lock()
		}
	}
}

// settle carries out a verdict. The caller holds q.mu.
func (q *MemoryQueue) settle(it *item, v Verdict) {
	now := time.Now()
	switch v.State {
	case StateDelivered, StateDead:
		it.lane.counts.Pending--
		it.State, it.Reason = v.State, v.Reason
		q.takes(it, -it.size)
		q.remember(it.ID, now)
		if v.State == StateDelivered {
			it.lane.counts.Delivered++
			delete(q.items, it.ID)
		} else {
			it.lane.counts.Dead++
			it.deadAt = now
			q.dead.push(it)
			q.bytes += it.size
			q.deadBytes += it.size
		}
		q.trim(it.lane)
		q.forget(now)
	case StateParked:
		it.lane.park(it)
	default:
		q.wait(it, v.At)
		q.schedule(now)
	}
	q.advance(it, v.State == StateDelivered || v.State == StateDead)
	q.spawn()
}

func (q *MemoryQueue) wait(it *item, at time.Time) {
	it.State, it.RetryAt = StateWaiting, at
	heap.Push(&q.waiting, it)
	if it.lane.waiting == nil {
		it.lane.waiting = map[*item]struct{}{}
	}
	it.lane.waiting[it] = struct{}{}
}

// unwait takes out what waits for a time.
func (q *MemoryQueue) unwait(it *item) {
	heap.Remove(&q.waiting, it.index)
	delete(it.lane.waiting, it)
}

func (q *MemoryQueue) remember(id string, now time.Time) {
	r := remembered{keyOf(id), now.Unix()}
	q.settled[r.id] = r.at
	q.settledAge.push(r)
}

// trim drops what is settled from the beginning of the lane's pending ones, so
// that the first is the oldest.
func (q *MemoryQueue) trim(l *memoryLane) {
	for l.pending.len() > 0 && !l.pending.peek().isPending() {
		l.pending.pop()
	}
	if l.pending.len() > 64+2*int(l.counts.Pending) { // behind one that waits for long
		l.pending.remove(func(it *item) bool { return !it.isPending() })
	}
}

func (it *item) isPending() bool {
	return it.State != StateDelivered && it.State != StateDead && !it.erased
}

// forget drops IDs and dead letters that are old or too many.
func (q *MemoryQueue) forget(now time.Time) {
	for q.settledAge.len() > 0 {
		first := q.settledAge.peek()
		if len(q.settled) <= q.maxRemembered && now.Sub(time.Unix(first.at, 0)) < rememberFor {
			break
		}
		q.settledAge.pop()
		if q.settled[first.id] == first.at { // and not settled again since
			delete(q.settled, first.id)
		}
	}
	for q.dead.len() > 0 {
		first := q.dead.peek()
		if q.dead.len() <= q.maxDead && now.Sub(first.deadAt) < keepDead {
			break
		}
		q.dropDead()
	}
}

// dropDead forgets the oldest dead letter.
func (q *MemoryQueue) dropDead() {
	it := q.dead.pop()
	q.bytes -= it.size
	q.deadBytes -= it.size
	delete(q.items, it.ID)
}

// schedule sets the one timer of the queue to the next delivery that waits.
func (q *MemoryQueue) schedule(now time.Time) {
	if len(q.waiting) == 0 || q.handle == nil {
		return
	}
	wait := q.waiting[0].RetryAt.Sub(now)
	if q.timer == nil {
		q.timer = time.AfterFunc(wait, q.wake)
		return
	}
	q.timer.Reset(wait)
}

// wake makes ready what has waited long enough.
func (q *MemoryQueue) wake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for len(q.waiting) > 0 && !q.waiting[0].RetryAt.After(now) {
		it := q.waiting[0]
		q.unwait(it)
		q.makeReady(it)
	}
	q.schedule(now)
	q.spawn()
}

var errConsuming = errors.New("callhook: the queue is consumed already: one Run at a time")

// Consume implements [Queue]. Its error is [ErrQueueClosed], or that it runs already.
func (q *MemoryQueue) Consume(ctx context.Context, handle Handler) error {
	q.mu.Lock()
	switch {
	case q.closed:
		q.mu.Unlock()
		return ErrQueueClosed
	case q.consuming:
		q.mu.Unlock()
		return errConsuming
	case ctx.Err() != nil:
		q.mu.Unlock()
		return nil
	}
	q.consuming, q.handle, q.ctx = true, handle, context.WithoutCancel(ctx)
	q.schedule(time.Now())
	q.spawn()
	q.mu.Unlock()

	<-ctx.Done()

	q.mu.Lock()
	q.handle, q.ctx = nil, nil
	if q.timer != nil {
		q.timer.Stop()
		q.timer = nil
	}
	q.mu.Unlock()
	q.done.Wait()
	q.mu.Lock()
	q.consuming = false
	q.mu.Unlock()
	return nil
}

// Release implements [Queue].
func (q *MemoryQueue) Release(_ context.Context, name string, n int) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return 0, ErrQueueClosed
	}
	freed := 0
	if l := q.lanes[name]; l != nil {
		freed = q.release(l, n)
	} else if name == "" {
		for _, l := range q.lanes {
			freed += q.release(l, n)
		}
	}
	q.spawn()
	return freed, nil
}

func (q *MemoryQueue) release(l *memoryLane, n int) (freed int) {
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
		return cmp.Or(cmp.Compare(min(a.Attempts, 1), min(b.Attempts, 1)), cmp.Compare(a.Seq, b.Seq))
	})
	for _, it := range all {
		q.makeReady(it)
	}
	return len(all)
}

// Close implements [Queue]. What is pending is gone; Close may be called again.
func (q *MemoryQueue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	return nil
}
