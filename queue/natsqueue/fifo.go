package natsqueue

// fifo is a queue in memory.
type fifo[T any] struct {
	all  []T
	head int
}

func (f *fifo[T]) len() int { return len(f.all) - f.head }
func (f *fifo[T]) push(v T) { f.all = append(f.all, v) }
func (f *fifo[T]) peek() T  { return f.all[f.head] }

func (f *fifo[T]) pop() T {
	var zero T
	v := f.all[f.head]
	f.all[f.head] = zero
	if f.head++; f.head > 32 && f.head*2 >= len(f.all) {
		n := copy(f.all, f.all[f.head:])
		clear(f.all[n:])
		f.all, f.head = f.all[:n], 0
	}
	return v
}

// keep drops those for which f is false.
func (f *fifo[T]) keep(is func(T) bool) {
	kept := f.all[:0]
	for _, v := range f.all[f.head:] {
		if is(v) {
			kept = append(kept, v)
		}
	}
	clear(f.all[len(kept):])
	f.all, f.head = kept, 0
}
