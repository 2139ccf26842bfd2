package callhook

import (
	"math/bits"
	"math/rand/v2"
	"sync"
	"time"
)

// breaker spares callers an endpoint that does not answer, or too slowly: while it
// is open no lookup waits. After a pause one lookup probes the endpoint; when that
// works, two may run at once, then four, and so on.
type breaker struct {
	mu     sync.Mutex
	failed uint32 // the last outcomes, a bit each
	slow   uint32
	n      int // of them
	open   bool
	since  time.Time // when it opened
	until  time.Time // when the next probe may go
	tries  int       // probes that failed
	ramp   int       // how many lookups may run at once; zero for no bound
	going  int
	epoch  int // how often it opened: what began before is no probe
	begun  int // of those going, the ones of this epoch
}

const (
	breakerWindow = 20
	breakerLeast  = 5   // outcomes before it opens
	breakerShare  = 0.5 // of them failed
	slowShare     = 0.8 // of them failed or slow
	slowPart      = 0.8 // of the budget makes a lookup slow
	rampEnd       = 32
	// Callers wait for probes, so the pauses are shorter than those of deliveries.
	breakerPause, maxBreakerPause = time.Second, 30 * time.Second
)

// enter reports whether a lookup may run. If so, leave tells how it went.
func (b *breaker) enter(now time.Time) (epoch int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open && (now.Before(b.until) || b.begun > 0) || b.ramp > 0 && b.begun >= b.ramp {
		return 0, false
	}
	b.going++
	b.begun++
	return b.epoch, true
}

// verdict is what a lookup told about its endpoint.
type verdict int

const (
	unclear verdict = iota // nothing: the caller hung up, or the answer was about the caller
	fine
	sluggish
	broken
)

// leave counts a lookup and reports whether the breaker opened or closed by it.
func (b *breaker) leave(v verdict, epoch int, now time.Time) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.going--
	if epoch != b.epoch { // it was under way when the breaker opened
		return false
	}
	b.begun--
	switch {
	case v == unclear:
		return false
	case b.open && v == broken:
		b.tries++
		b.pause(now)
		return false
	case b.open: // the endpoint is back
		b.open, b.ramp, b.tries = false, 2, 0
		b.failed, b.slow, b.n = 0, 0, 0
		return true
	}
	const mask = 1<<breakerWindow - 1
	b.failed, b.slow = b.failed<<1&mask, b.slow<<1&mask
	if v == broken {
		b.failed |= 1
	} else if b.ramp > 0 {
		if b.ramp++; b.ramp >= rampEnd {
			b.ramp = 0
		}
	}
	if v != fine {
		b.slow |= 1
	}
	b.n = min(b.n+1, breakerWindow)
	failed, slow := bits.OnesCount32(b.failed), bits.OnesCount32(b.slow)
	// While it closes one failure is enough.
	if b.ramp > 0 && v == broken || b.n >= breakerLeast && (float64(failed) >= breakerShare*float64(b.n) || b.n == breakerWindow && float64(slow) >= slowShare*float64(b.n)) {
		b.open, b.since, b.ramp = true, now, 0
		b.epoch, b.begun = b.epoch+1, 0
		b.pause(now)
		return true
	}
	return false
}

func (b *breaker) pause(now time.Time) {
	d := min(breakerPause<<min(b.tries, 10), maxBreakerPause)
	b.until = now.Add(min(time.Duration(float64(d)*(0.8+0.4*rand.Float64())), maxBreakerPause))
}

// state returns where it stands, as of a lane.
func (b *breaker) state(ref LaneRef) LaneState {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := LaneState{LaneRef: ref, InFlight: b.going}
	if b.open {
		s.Trouble, s.Since, s.Until = ReasonDown, b.since, b.until
	}
	return s
}

// idle reports whether no lookup runs.
func (b *breaker) idle() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.going == 0
}
