package callhook

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// MemoryOptions are the options of [NewMemoryQueue]. The zero value is the default.
type MemoryOptions struct {
	// MaxBytes bounds what pending deliveries and dead letters take together:
	// bodies, logs of attempts and about 512 bytes each. Over it dead letters go,
	// the oldest first, and then Enqueue returns [ErrQueueFull]. Zero means 256 MiB.
	MaxBytes int64
	// Workers is how many deliveries are handed out at once. Zero means 1024. Each
	// costs a goroutine and a connection while its attempt lasts; none wait idle.
	Workers int
	// MaxRemembered is how many IDs of settled deliveries are remembered, for at
	// most four days each. Zero means 1,000,000 (about 60 MiB when full).
	MaxRemembered int
	// MaxDead is how many dead letters are kept, for at most 30 days each: the
	// oldest go first. Zero means 10,000.
	MaxDead int
}

const (
	rememberFor = 4 * 24 * time.Hour
	keepDead    = 30 * 24 * time.Hour
)

// NewMemoryQueue returns a queue in memory: what [New] takes when it is given none.
func NewMemoryQueue(o *MemoryOptions) *MemoryQueue {
	q := &MemoryQueue{
		pending:  map[string]*item{},
		lanes:    map[string]*memoryLane{},
		chains:   map[chainKey][]*item{},
		settled:  map[idKey]struct{}{},
		maxBytes: 256 << 20, workers: 1024, maxRemembered: 1_000_000, maxDead: 10_000,
	}
	if o != nil {
		q.maxBytes = cmp.Or(o.MaxBytes, q.maxBytes)
		q.workers = cmp.Or(o.Workers, q.workers)
		q.maxRemembered = cmp.Or(o.MaxRemembered, q.maxRemembered)
		q.maxDead = cmp.Or(o.MaxDead, q.maxDead)
	}
	return q
}

// MemoryQueue is a [Queue] in memory, and an [Inspector]. What is pending is lost
// when the process ends, so it serves tests, and runtimes for which losing events
// in a crash is right. It keeps order, and starts no goroutine but for attempts
// under way.
type MemoryQueue struct {
	maxBytes               int64
	workers                int
	maxRemembered, maxDead int

	mu         sync.Mutex
	closed     bool
	pending    map[string]*item
	ready      fifo[*item]
	waiting    timers // by RetryAt
	timer      *time.Timer
	lanes      map[string]*memoryLane
	chains     map[chainKey][]*item // pending deliveries of one call in one lane, as raised
	dead       fifo[*item]
	settled    map[idKey]struct{} // remembered IDs
	settledAge fifo[remembered]
	bytes      int64 // of pending deliveries and dead letters
	deadBytes  int64 // of those, the dead letters'
	counts     Counts

	consuming bool    // a Consume is under way
	handle    Handler // its own; nil once it is to end
	ctx       context.Context
	running   int // workers
	starting  int // of those, the ones that have not taken a delivery yet
	done      sync.WaitGroup
}

type chainKey struct{ lane, call string }

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
	size    int64
	deadAt  time.Time
	blocked bool // waits for an earlier one of its call
}

// size is about what d takes.
func (d *Delivery) size() int64 {
	n := 512 + len(d.Body) + len(d.BuildError)
	for k, v := range d.Values {
		n += len(k) + len(v)
	}
	for i := range d.Log {
		n += 96 + len(d.Log[i].Error) + len(d.Log[i].Reply)
	}
	return int64(n)
}

type memoryLane struct {
	parked   fifo[*item]
	inFlight int
	credit   int // releases that found nothing parked yet
}

// Limits implements [Queue].
func (q *MemoryQueue) Limits() Limits {
	return Limits{Ordered: true, Remember: rememberFor}
}

// Enqueue implements [Queue]. It stores all of ds or, with [ErrQueueFull], none.
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
	var size int64
	for _, d := range ds {
		if !q.knows(d.ID) {
			size += d.size()
		}
	}
	if q.bytes-q.deadBytes+size > q.maxBytes {
		return ErrQueueFull
	}
	for q.bytes+size > q.maxBytes {
		q.dropDead()
	}
	for _, d := range ds {
		if q.knows(d.ID) {
			continue
		}
		it := &item{Delivery: *d, size: d.size()}
		q.pending[d.ID] = it
		q.bytes += it.size
		q.counts.Accepted++
		q.counts.Pending++
		key := chainKey{d.Lane, d.Call}
		chain := append(q.chains[key], it)
		q.chains[key] = chain
		if it.blocked = !eligible(chain, len(chain)-1); !it.blocked {
			q.makeReady(it)
		} else {
			it.State = StateWaiting
		}
	}
	q.spawn()
	return nil
}

func (q *MemoryQueue) knows(id string) bool {
	_, pending := q.pending[id]
	_, settled := q.settled[keyOf(id)]
	return pending || settled
}

// eligible reports whether the i-th of a call's deliveries may go.
func eligible(chain []*item, i int) bool {
	if i > 0 && chain[i].Ordered {
		return false
	}
	for _, earlier := range chain[:i] {
		if earlier.Attempts == 0 {
			return false
		}
	}
	return true
}

func (q *MemoryQueue) makeReady(it *item) {
	it.State, it.RetryAt = StateReady, time.Time{}
	q.ready.push(it)
}

// spawn starts workers for what is ready. The caller holds q.mu.
func (q *MemoryQueue) spawn() {
	for q.handle != nil && q.starting < q.ready.len() && q.running < q.workers {
		q.running++
		q.starting++
		q.done.Add(1)
		go q.work()
	}
}

// work hands out deliveries until none is ready.
func (q *MemoryQueue) work() {
	defer q.done.Done()
	q.mu.Lock()
	q.starting--
	for q.handle != nil && q.ready.len() > 0 {
		it := q.ready.pop()
		it.State = StateInFlight
		lane := q.lane(it.Lane)
		lane.inFlight++
		handle, ctx := q.handle, q.ctx
		d := it.Delivery // the handler's own, so that List may read meanwhile
		q.mu.Unlock()
		v := handle(ctx, &d)
		q.mu.Lock()
		d.State, d.Body = it.State, it.Body
		it.Delivery = d
		q.bytes -= it.size
		it.size = d.size() // its log has grown
		q.bytes += it.size
		lane.inFlight--
		q.settle(it, lane, v)
		if lane.inFlight == 0 {
			lane.credit = 0
			if lane.parked.len() == 0 {
				delete(q.lanes, it.Lane)
			}
		}
	}
	q.running--
	q.mu.Unlock()
}

func (q *MemoryQueue) lane(name string) *memoryLane {
	l := q.lanes[name]
	if l == nil {
		l = new(memoryLane)
		q.lanes[name] = l
	}
	return l
}

// settle carries out a verdict. The caller holds q.mu.
func (q *MemoryQueue) settle(it *item, lane *memoryLane, v Verdict) {
	now := time.Now()
	switch v.State {
	case StateDelivered, StateDead:
		delete(q.pending, it.ID)
		q.counts.Pending--
		it.State, it.Reason = v.State, v.Reason
		id := keyOf(it.ID)
		q.settled[id] = struct{}{}
		q.settledAge.push(remembered{id, now.Unix()})
		if v.State == StateDelivered {
			q.counts.Delivered++
			q.bytes -= it.size
		} else {
			q.counts.Dead++
			it.deadAt = now
			q.dead.push(it)
			q.deadBytes += it.size
		}
		q.forget(now)
	case StateParked:
		if lane.credit > 0 {
			lane.credit--
			q.makeReady(it)
			break
		}
		it.State = StateParked
		lane.parked.push(it)
	default:
		it.State, it.RetryAt = StateWaiting, v.At
		heap.Push(&q.waiting, it)
		q.schedule(now)
	}
	if v.State != StateParked || it.Attempts > 0 {
		q.advance(it)
	}
	q.spawn()
}

// advance lets the later deliveries of the call go, if they may now.
func (q *MemoryQueue) advance(it *item) {
	key := chainKey{it.Lane, it.Call}
	chain := q.chains[key]
	if it.State == StateDelivered || it.State == StateDead {
		chain = slices.DeleteFunc(chain, func(e *item) bool { return e == it })
		if len(chain) == 0 {
			delete(q.chains, key)
			return
		}
		q.chains[key] = chain
	}
	for i, e := range chain {
		if e.blocked && eligible(chain, i) {
			e.blocked = false
			q.makeReady(e)
		}
	}
}

// forget drops IDs and dead letters that are old or too many.
func (q *MemoryQueue) forget(now time.Time) {
	for q.settledAge.len() > 0 {
		first := q.settledAge.peek()
		if q.settledAge.len() <= q.maxRemembered && now.Sub(time.Unix(first.at, 0)) < rememberFor {
			break
		}
		q.settledAge.pop()
		delete(q.settled, first.id)
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
		q.makeReady(heap.Pop(&q.waiting).(*item))
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
func (q *MemoryQueue) Release(_ context.Context, name string, n int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	release := func(l *memoryLane) {
		left := n
		for ; left > 0 && l.parked.len() > 0; left-- {
			q.makeReady(l.parked.pop())
		}
		l.credit = min(l.credit+left, l.inFlight)
	}
	if name == "" {
		for l := range maps.Values(q.lanes) {
			release(l)
		}
	} else if l := q.lanes[name]; l != nil {
		release(l)
	}
	q.spawn()
	return nil
}

// Close implements [Queue]. What is pending is gone; Close may be called again.
func (q *MemoryQueue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	return nil
}

// Counts implements [Inspector].
func (q *MemoryQueue) Counts(context.Context) (Counts, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.counts, nil
}

// List implements [Inspector]: pending deliveries and dead letters.
func (q *MemoryQueue) List(_ context.Context, f Filter) ([]*Delivery, error) {
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	var found []*item
	newest := func() {
		slices.SortFunc(found, func(a, b *item) int {
			return cmp.Or(b.EnqueuedAt.Compare(a.EnqueuedAt), cmp.Compare(a.ID, b.ID))
		})
		found = found[:min(len(found), limit)]
	}
	add := func(it *item) {
		if f.matches(&it.Delivery) {
			found = append(found, it)
		}
		if len(found)-1000 >= limit { // a million may match
			newest()
		}
	}
	for _, it := range q.pending {
		add(it)
	}
	q.dead.each(add)
	newest()
	out := make([]*Delivery, len(found))
	for i, it := range found {
		d := it.Delivery
		d.Body, d.Values, d.Log = bytes.Clone(d.Body), maps.Clone(d.Values), slices.Clone(d.Log)
		out[i] = &d
	}
	return out, nil
}

func (f *Filter) matches(d *Delivery) bool {
	return (f.State == "" || f.State == d.State) && (f.Tenant == "" || f.Tenant == d.Tenant) && (f.Agent == "" || f.Agent == d.Agent) &&
		(f.Webhook == "" || f.Webhook == d.Webhook) && (f.Call == "" || f.Call == d.Call) && (f.Reason == "" || f.Reason == d.Reason)
}

// timers is a heap of items by RetryAt.
type timers []*item

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].RetryAt.Before(t[j].RetryAt) }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *timers) Push(x any)        { *t = append(*t, x.(*item)) }
func (t *timers) Pop() any {
	last := len(*t) - 1
	it := (*t)[last]
	(*t)[last] = nil
	*t = (*t)[:last]
	return it
}

// fifo is a queue whose space is reused.
type fifo[E any] struct {
	items []E
	head  int
}

func (f *fifo[E]) len() int { return len(f.items) - f.head }
func (f *fifo[E]) push(e E) { f.items = append(f.items, e) }
func (f *fifo[E]) peek() E  { return f.items[f.head] }

func (f *fifo[E]) pop() E {
	var zero E
	e := f.items[f.head]
	f.items[f.head] = zero
	if f.head++; f.head > 64 && f.head*2 > len(f.items) {
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	return e
}

func (f *fifo[E]) each(do func(E)) {
	for _, e := range f.items[f.head:] {
		do(e)
	}
}
