package platforms

import "time"

// window counts requests against a limit in a time that moves along.
type window struct{ begun []time.Time }

// take reports whether one more request is within the limit, and if so counts it. It
// returns how many may follow, and how long it is until there is room again.
func (w *window) take(limit int, in time.Duration) (left int, wait time.Duration, ok bool) {
	now := time.Now()
	for len(w.begun) > 0 && now.Sub(w.begun[0]) >= in {
		w.begun = w.begun[1:]
	}
	if ok = len(w.begun) < limit; ok {
		w.begun = append(w.begun, now)
	}
	if len(w.begun) > 0 {
		wait = in - now.Sub(w.begun[0])
	}
	return limit - len(w.begun), wait, ok
}
