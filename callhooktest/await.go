package callhooktest

import (
	"fmt"
	"strings"
	"testing/synctest"
	"time"
)

// How long assertions wait for what has to happen, which only a test that fails
// waits for.
const (
	realTime   = 10 * time.Second
	bubbleTime = 8 * 24 * time.Hour
)

// await waits until look says so. What look returns besides is closed when it is to
// be asked again. await returns words for a message when it gave up.
func await(look func() (bool, <-chan struct{})) string {
	long := realTime
	if inBubble() {
		long = bubbleTime
	}
	timer := time.NewTimer(long)
	defer timer.Stop()
	for {
		ok, changed := look()
		if ok {
			return ""
		}
		select {
		case <-changed:
		case <-timer.C:
			if ok, _ := look(); ok {
				return ""
			}
			return fmt.Sprintf(" after %s", long)
		}
	}
}

// inBubble reports whether the caller runs in a bubble of testing/synctest.
func inBubble() (yes bool) {
	defer func() {
		if p := recover(); p != nil {
			// Elsewhere Wait panics; where another goroutine of the bubble waits already it
			// panics with other words.
			yes = !strings.Contains(fmt.Sprint(p), "not in a bubble")
		}
	}()
	synctest.Wait()
	return true
}

func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// list shows things below a message, a number each.
func list[T any](things []T) string {
	var b strings.Builder
	for i, thing := range things {
		fmt.Fprintf(&b, "\n  %d. %v", i+1, thing)
	}
	return b.String()
}
