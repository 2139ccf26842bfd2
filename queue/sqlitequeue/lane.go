package sqlitequeue

import (
	"container/heap"
	"slices"

	"github.com/callhook-go/callhook"
)

// A lane's pending deliveries stand on disk in two lines: the fresh, which were
// not tried yet, in the order enqueued, and the tried, the longest parked first. Of
// each line the first so many are ready and the rest is parked, so that neither
// parking a million nor releasing one of them writes anything. Some of the front
// of a line are in memory, its window, so that Release need not wait for a query.
//
// Beside the lines stand those that were handed out once and came back: parked
// ones of them are kept by number, in returned, and ready ones in recalled.

// lane is what is in memory of a lane. The queue's mutex guards it, but for what
// is the writer's.
type lane struct {
	callhook.LaneRef
	name string
	id   int64

	c      counts // as committed
	tenant *tenant

	fresh, tried line
	returned     seqs        // fresh ones that were parked by a handler
	recalled     fifo[int64] // ready ones that are not in a line
	turn         int         // of the next Release: every fourth is a tried one
	serve        int         // the same, of what is handed out
	nextDue      int64       // Unix microseconds: when the first waiting one is due; zero for none
	heapIndex    int         // in the queue's heap of lanes by nextDue, from 1; zero when it is not there
	out          int64       // bytes handed out, or about to be
	fetch        int         // how many to load beyond those that are ready
	loading      bool        // it stands in the queue's loads
	starved      bool        // it has ready ones, and stands in the queue's starved until there is memory

	// The writer's own.
	n      counts // as they are once the transaction under way is committed
	dirty  bool
	stored bool // it has a row
}

// tenant is what the pending deliveries of a tenant's lanes take. It is the writer's.
type tenant struct {
	bytes int64 // as committed
	next  int64 // once the transaction under way is committed
}

// line is one of a lane's two lines.
type line struct {
	cursor int64 // seq or at_us of the last that was taken into memory
	count  int   // how many stand in it, those in window included
	want   int   // how many of these are ready: the first
	window fifo[*item]
}

func (ln *line) parked() int { return ln.count - ln.want }

// missing is how many ready ones are not in memory.
func (ln *line) missing() int { return max(0, ln.want-ln.window.len()) }

// add puts n more at the end of the line.
func (ln *line) add(n int, ready bool) {
	ln.count += n
	if ready {
		ln.want += n
	}
}

// remove takes n out of the line.
func (ln *line) remove(n int) {
	ln.count = max(0, ln.count-n)
	ln.want = min(ln.want, ln.count)
}

// hasParked reports whether something of the lane is parked: what comes then is
// parked too.
func (l *lane) hasParked() bool {
	return l.returned.Len() > 0 || l.fresh.parked() > 0 || l.tried.parked() > 0
}

// release makes n parked ones ready, all of them with n below zero.
func (l *lane) release(n int) int {
	if n < 0 {
		n = l.returned.Len() + l.fresh.parked() + l.tried.parked()
		slices.Sort(l.returned)
		for _, seq := range l.returned {
			l.recalled.push(seq)
		}
		l.returned, l.fresh.want, l.tried.want = nil, l.fresh.count, l.tried.count
		return n
	}
	freed := 0
	for ; freed < n; freed++ {
		fresh, tried := l.returned.Len()+l.fresh.parked(), l.tried.parked()
		switch {
		case fresh+tried == 0:
			return freed
		case tried > 0 && (fresh == 0 || l.turn%4 == 3):
			l.tried.want++
		case l.returned.Len() > 0: // it is earlier than all of the line
			l.recalled.push(heap.Pop(&l.returned).(int64))
		default:
			l.fresh.want++
		}
		l.turn++
	}
	return freed
}

// next returns the line of which the next one in memory is to go, nil for none.
func (l *lane) next() *line {
	fresh := l.fresh.want > 0 && l.fresh.window.len() > 0
	tried := l.tried.want > 0 && l.tried.window.len() > 0
	switch {
	case tried && (!fresh || l.serve%4 == 3):
		return &l.tried
	case fresh:
		return &l.fresh
	}
	return nil
}

// counts are those of a lane, or of all.
type counts struct {
	accepted, delivered, dead, erased, ready, parked, waiting, blocked, lastSeq int64

	bytes int64 // of the pending ones
}

func (c *counts) pending() int64 { return c.ready + c.parked + c.waiting + c.blocked }

// in is how many pending ones are in a state as callers see it, at most; in any
// for none.
func (c *counts) in(s callhook.State) int64 {
	switch s {
	case callhook.StateWaiting:
		return c.waiting + c.blocked
	case callhook.StateReady, callhook.StateParked:
		return c.ready + c.parked
	}
	return c.pending()
}

// of returns the count of a state as the database names it.
func (c *counts) of(state string) *int64 {
	switch state {
	case ready:
		return &c.ready
	case parked:
		return &c.parked
	case waiting:
		return &c.waiting
	case blocked:
		return &c.blocked
	case delivered:
		return &c.delivered
	case dead:
		return &c.dead
	}
	return &c.erased
}

// add adds what lies between two counts of a lane.
func (c *counts) add(from, to *counts) {
	c.accepted += to.accepted - from.accepted
	c.delivered += to.delivered - from.delivered
	c.dead += to.dead - from.dead
	c.erased += to.erased - from.erased
	c.ready += to.ready - from.ready
	c.parked += to.parked - from.parked
	c.waiting += to.waiting - from.waiting
	c.blocked += to.blocked - from.blocked
}

func (c *counts) export() callhook.Counts {
	return callhook.Counts{Accepted: c.accepted, Delivered: c.delivered, Dead: c.dead, Pending: c.pending(), Erased: c.erased}
}

// The states in the database.
const (
	ready     = "ready"
	parked    = "parked"
	waiting   = "waiting"
	blocked   = "blocked"
	delivered = "delivered"
	dead      = "dead"
	erased    = "erased"
)

// item is a delivery in memory.
type item struct {
	d      *callhook.Delivery
	lane   *lane
	seq    int64
	at     int64  // of the line it stood in: its seq or at_us
	was    string // its state in the database when it was handed out: ready or parked
	state  string // and then
	frozen uint32
	size   int64 // about what it takes in memory

	attempts int   // as stored
	logSum   int64 // the checksum, as stored
	stored   int64 // what it counts for, as stored, see sizeOf
	logSize  int   // of that, the log

	inHandler bool // a handler has it, or its verdict is being carried out
	erased    bool // meanwhile: its verdict is dropped

	// Once there is a verdict:
	verdict  callhook.Verdict
	log      []byte
	tries    int  // to store it
	finished bool // it was given up: its Done was called
}

const itemOverhead = 1536

// cost is about what a delivery takes in memory while it is handed out, the
// goroutine's stack included.
func cost(d *callhook.Delivery) int64 {
	return int64(itemOverhead + len(d.Body) + len(d.Record) + len(d.BuildError))
}

// seqs is a heap.
type seqs []int64

func (s *seqs) add(seq int64)  { heap.Push(s, seq) }
func (s *seqs) removeAt(i int) { heap.Remove(s, i) }

func (s seqs) Len() int           { return len(s) }
func (s seqs) Less(i, j int) bool { return s[i] < s[j] }
func (s seqs) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }
func (s *seqs) Push(x any)        { *s = append(*s, x.(int64)) }
func (s *seqs) Pop() any {
	last := len(*s) - 1
	x := (*s)[last]
	*s = (*s)[:last]
	return x
}

// dues is a heap of lanes by nextDue.
type dues []*lane

func (d dues) Len() int           { return len(d) }
func (d dues) Less(i, j int) bool { return d[i].nextDue < d[j].nextDue }
func (d dues) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].heapIndex, d[j].heapIndex = i+1, j+1
}
func (d *dues) Push(x any) {
	l := x.(*lane)
	*d = append(*d, l)
	l.heapIndex = len(*d)
}
func (d *dues) Pop() any {
	last := len(*d) - 1
	l := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	l.heapIndex = 0
	return l
}

// set makes l due at a time, zero for never.
func (d *dues) set(l *lane, at int64) {
	l.nextDue = at
	switch {
	case at == 0 && l.heapIndex > 0:
		heap.Remove(d, l.heapIndex-1)
	case at == 0:
	case l.heapIndex > 0:
		heap.Fix(d, l.heapIndex-1)
	default:
		heap.Push(d, l)
	}
}

// fifo is a queue whose space is reused.
type fifo[E any] struct {
	items []E
	head  int
}

func (f *fifo[E]) len() int { return len(f.items) - f.head }
func (f *fifo[E]) push(e E) { f.items = append(f.items, e) }
func (f *fifo[E]) peek() E  { return f.items[f.head] }
func (f *fifo[E]) all() []E { return f.items[f.head:] }

func (f *fifo[E]) pop() E {
	var zero E
	e := f.items[f.head]
	f.items[f.head] = zero
	switch f.head++; {
	case f.head == len(f.items):
		f.items, f.head = f.items[:0], 0
		if cap(f.items) > 4096 {
			f.items = nil
		}
	case f.head > 64 && f.head*2 > len(f.items):
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	return e
}

// drop removes what is to go and returns how many that were.
func (f *fifo[E]) drop(gone func(E) bool) int {
	kept := f.items[:0]
	for _, e := range f.items[f.head:] {
		if !gone(e) {
			kept = append(kept, e)
		}
	}
	n := len(f.items) - f.head - len(kept)
	clear(f.items[len(kept):])
	f.items, f.head = kept, 0
	return n
}
