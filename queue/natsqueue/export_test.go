package natsqueue

import (
	"testing"
	"time"
)

// Owned returns how many partitions a process hands out.
func Owned(q *Queue) (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range q.parts {
		if p.owned && !p.draining {
			n++
		}
	}
	return n
}

// LeaveUnswept has a queue do no more of what follows a delivery than what has to be:
// as if its process died there.
func LeaveUnswept(q *Queue) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sweeper.unswept = true
}

// CheckpointAfter has all be counted sooner, until the test ends.
func CheckpointAfter(t testing.TB, d time.Duration) {
	was := checkpointAfter
	checkpointAfter = d
	t.Cleanup(func() { checkpointAfter = was })
}
