package callhooktest

import (
	"testing"

	"github.com/callhook-go/callhook"
)

// TestQueue checks that an engine does what [callhook.Queue] says, and what
// [callhook.Inspector] says if it is one.
//
// open opens the queue that is kept in the folder dir, and creates it if there is
// none; it ends the test if it cannot. It is called again for the same folder
// after Close, and, as after a crash, for a copy of the folder that was made while
// the queue was open. The suite closes what open returns. The subtests run in
// parallel, each with a folder of its own. An engine in memory ignores dir.
func TestQueue(t *testing.T, open func(t *testing.T, dir string) callhook.Queue) {
	q := open(t, t.TempDir())
	limits := q.Limits()
	_, inspects := q.(callhook.Inspector)
	if err := q.Close(); err != nil {
		t.Fatalf("Close of a queue that was only opened: %v", err)
	}
	s := suite{t, open}
	s.group("Enqueue", enqueuePromises)
	s.group("Consume", consumePromises)
	s.group("RetryAt", retryPromises)
	s.group("Park and Release", parkPromises)
	s.group("Order", orderPromises)
	if limits.Ordered {
		s.group("Ordered", orderedPromises)
	}
	s.group("Ending", endingPromises)
	if limits.Durable {
		s.group("Restart", restartPromises)
	}
	if limits.Durable && limits.Ordered {
		s.group("Ordered restart", orderedRestartPromises)
	}
	if inspects {
		s.group("Inspector", inspectPromises)
		s.group("Replay", replayPromises)
		s.group("Erase", erasePromises)
	}
	if inspects && limits.Durable {
		s.group("Inspector restart", inspectRestartPromises)
	}
	if limits.Shared {
		s.group("Shared", sharedPromises(inspects))
	}
}

// promise is one sentence of the contract, and what finds out whether it is kept.
type promise struct {
	says  string
	check func(tr *trial)
}

type suite struct {
	t    *testing.T
	open func(t *testing.T, dir string) callhook.Queue
}

func (s suite) group(name string, promises []promise) {
	s.t.Run(name, func(t *testing.T) {
		for _, p := range promises {
			t.Run(p.says, func(t *testing.T) {
				t.Parallel()
				tr := newTrial(t, s.open, t.TempDir(), newLedger())
				p.check(tr)
				tr.end()
			})
		}
	})
}
