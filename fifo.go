package callhook

import (
	"slices"
	"sort"
)

// timers is a heap of items by RetryAt.
type timers []*item

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].RetryAt.Before(t[j].RetryAt) }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i]; t[i].index, t[j].index = i, j }
func (t *timers) Push(x any) {
	x.(*item).index = len(*t)
	*t = append(*t, x.(*item))
}
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
	if f.head++; f.head == len(f.items) && cap(f.items) <= 64 {
		f.items, f.head = f.items[:0], 0
	} else if f.head > 64 && f.head*2 > len(f.items) {
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	return e
}

// insert puts e where less says, which is mostly at one of the ends.
func (f *fifo[E]) insert(e E, less func(a, b E) bool) {
	n := sort.Search(f.len(), func(i int) bool { return less(e, f.items[f.head+i]) })
	if n < f.len()/2 && f.head > 0 {
		f.head--
		copy(f.items[f.head:], f.items[f.head+1:f.head+1+n])
		f.items[f.head+n] = e
		return
	}
	f.items = slices.Insert(f.items, f.head+n, e)
}

// remove takes out those for which drop holds.
func (f *fifo[E]) remove(drop func(E) bool) {
	f.items = f.items[:f.head+len(slices.DeleteFunc(f.items[f.head:], drop))]
}
