package callhook

import (
	"math/bits"
	"math/rand/v2"
	"slices"
	"time"
)

// health tells from the outcomes of attempts whether an endpoint is down.
type health struct {
	proven  bool    // the last outcomes were good
	failed  []idKey // different deliveries that failed since the last success
	recent  uint32  // the last outcomes, a bit each: 1 for a failure
	counted int     // of them
}

const (
	// An endpoint is down after so many different deliveries failed in a row, or
	// so many of the last attempts.
	failuresInRow  = 5
	windowOutcomes = 20
	windowFailures = 16
)

func (h *health) success() {
	h.proven, h.failed = true, nil
	h.outcome(0)
}

// failure counts a failed attempt of a delivery and reports whether the endpoint
// is down.
func (h *health) failure(id string) bool {
	h.outcome(1)
	if key := keyOf(id); !slices.Contains(h.failed, key) {
		h.failed = append(h.failed, key)
	}
	h.proven = h.proven && len(h.failed) < 2
	return len(h.failed) >= failuresInRow || h.counted == windowOutcomes && bits.OnesCount32(h.recent) >= windowFailures
}

func (h *health) outcome(failed uint32) {
	h.recent = (h.recent<<1 | failed) & (1<<windowOutcomes - 1)
	h.counted = min(h.counted+1, windowOutcomes)
}

// reset forgets failures.
func (h *health) reset() { h.failed, h.recent, h.counted = nil, 0, 0 }

// clean reports whether there are none to forget.
func (h *health) clean() bool { return len(h.failed) == 0 }

// probePause returns how long to wait before the next probe of an endpoint that
// is down, after so many that failed: 5 s, then twice as long each time, give or
// take 20 %, at most 5 minutes.
func probePause(tries int) time.Duration {
	const least, most = 5 * time.Second, 5 * time.Minute
	d := min(least<<min(tries, 10), most)
	return min(time.Duration(float64(d)*(0.8+0.4*rand.Float64())), most)
}
