package callhooktest

import (
	"fmt"
	"slices"
	"time"

	"github.com/callhook-go/callhook"
)

var orderPromises = []promise{
	{"first attempts of one call in one lane go in the order raised", callsInOrder},
	{"a first attempt that has not counted keeps the call's later ones waiting", uncountedWaits},
	{"a first attempt that failed lets the next go", countedLetsGo},
	{"other calls, and the call's other lanes, go on meanwhile", othersPass},
	{"one call's events that come in many calls of Enqueue stay in order", orderAcrossCalls},
	{"a Release keeps the order", releaseKeepsOrder},
	{"the order holds when Consume ends and begins again", orderAcrossConsume},
}

var orderedPromises = []promise{
	{"an Ordered one waits until all earlier ones of its call and lane are settled", orderedWaits},
	{"other calls pass an Ordered one that waits for its retry", orderedOthersPass},
	{"an Ordered one waits for those that are not, and they not for it once it was tried", orderedMixed},
	{"long calls stay strictly in order while retries and parks go on", orderedLoad},
	{"a Release keeps the strict order", releaseKeepsOrdered},
}

// A receiver that writes a call's states into its own database gets "completed"
// after "ringing" whenever all is well. The ledger looks at every hand-out.
func callsInOrder(tr *trial) {
	const calls, each = 30, 6
	var ds []*callhook.Delivery
	for few := range calls / 5 {
		for e := range each {
			for c := few * 5; c < few*5+5; c++ {
				ds = append(ds, delivery(fmt.Sprint("hook", c%3), fmt.Sprint("call", c), fmt.Sprintf("d%d_%d", c, e)))
			}
		}
	}
	tr.enqueue(ds[:10]...)
	r := tr.consume(func(d *callhook.Delivery) callhook.Verdict {
		time.Sleep(time.Millisecond)
		if d.Attempts++; d.Attempts == 1 && len(d.ID)%2 == 0 {
			return callhook.RetryAt(time.Now().Add(time.Millisecond))
		}
		return callhook.Delivered()
	})
	for part := range slices.Chunk(ds[10:], 17) {
		tr.enqueue(part...)
	}
	tr.until("all are settled", func() bool { return len(tr.note.open()) == 0 })
	r.stop()
}

// A lane that is paused or misses a secret makes no attempt: the call's first
// event is still the first when the lane goes on.
func uncountedWaits(tr *trial) {
	tr.enqueue(events("crm", "call", "a", "b", "c")...)
	r := tr.byHand()
	a := r.next("a")
	r.quiet("a is earlier in its call, and its first attempt is under way")
	a.Postponed++
	a.answer(callhook.RetryAt(time.Now().Add(2 * glance)))
	r.next("a").answer(callhook.Park()) // and not b, while it waits
	r.quiet("a is earlier in its call, and is parked without Attempts")
	tr.releases(lane("crm"), 1, 1)
	r.next("a").answer(callhook.RetryAt(time.Now()))
	r.next("a").attempt(callhook.Delivered())
	b := r.next("b")
	r.quiet("b is earlier in its call, and its first attempt is under way")
	b.answer(callhook.Dead(callhook.ReasonBuildFailed))
	r.next("c").attempt(callhook.Delivered())
}

// One event that a receiver chokes on must not hold up the rest of its call for
// days, unless somebody asked for that.
func countedLetsGo(tr *trial) {
	tr.enqueue(events("crm", "call", "a", "b", "c", "d", "e")...)
	r := tr.byHand()
	r.next("a").attempt(callhook.RetryAt(farAway()))
	r.next("b").attempt(callhook.RetryAt(farAway()))
	r.next("c").attempt(callhook.Dead(callhook.ReasonRejected))
	r.next("d").attempt(callhook.Delivered())
	// The last parks with an attempt, and then its lane may keep back what comes.
	e := r.next("e")
	e.attempt(callhook.Park())
	tr.releases(lane("crm"), -1, 3)
	delivered(tr, r, "a", "b", "e")
}

// What a call waits for is its own, and in the same lane.
func othersPass(tr *trial) {
	tr.enqueue(events("crm", "call", "a", "b")...)
	tr.enqueue(events("n8n", "call", "n", "o")...)
	tr.enqueue(delivery("crm", "other", "x"), delivery("crm", "", "y"))
	r := tr.byHand()
	first := r.take(4)
	for _, id := range []string{"a", "n", "x", "y"} {
		if first[id] == nil {
			tr.Fatalf("%s was not among the first to be handed out: nothing of its call and lane is earlier", id)
		}
	}
	first["x"].attempt(callhook.Delivered())
	first["y"].attempt(callhook.Delivered())
	first["n"].attempt(callhook.Delivered())
	r.next("o").attempt(callhook.Delivered())
	tr.enqueue(delivery("crm", "third", "z"))
	r.next("z").attempt(callhook.Delivered())
	first["a"].attempt(callhook.Delivered())
	r.next("b").attempt(callhook.Delivered())
}

// Each status of a call is raised by itself, while earlier ones are in any state.
func orderAcrossCalls(tr *trial) {
	one := func(id string) { tr.Helper(); tr.enqueue(delivery("crm", "call", id)) }
	one("a")
	r := tr.byHand()
	a := r.next("a")
	one("b")
	r.quiet("a's first attempt is under way")
	a.answer(callhook.RetryAt(time.Now().Add(2 * glance)))
	one("c")
	a = r.next("a") // and not b, while it waits
	one("d")
	a.attempt(callhook.RetryAt(farAway()))
	r.next("b").attempt(callhook.Delivered())
	r.next("c").attempt(callhook.Delivered())
	r.next("d").attempt(callhook.Delivered())
	one("e") // a has been tried
	r.next("e").attempt(callhook.Delivered())
}

// A lane that comes up again after an outage begins with each call's first.
func releaseKeepsOrder(tr *trial) {
	tr.enqueue(events("crm", "call", "a", "b", "c")...)
	tr.enqueue(events("crm", "other", "x", "y")...)
	r := tr.byHand()
	both := r.take(2)
	both["a"].answer(callhook.Park())
	both["x"].answer(callhook.RetryAt(farAway()))
	if freed := tr.release(lane("crm"), -1); freed < 2 {
		tr.Errorf("Release(lane, -1) returned %d, want at least a, which was parked, and x, which waited", freed)
	}
	both = r.take(2)
	if both["a"] == nil || both["x"] == nil {
		tr.Fatalf("not both a and x were handed out first: each is the first of its call")
	}
	r.quiet("the first of its call is in flight without Attempts")
	both["a"].attempt(callhook.Delivered())
	r.next("b").attempt(callhook.Delivered())
	r.next("c").attempt(callhook.Delivered())
	both["x"].attempt(callhook.Delivered())
	r.next("y").attempt(callhook.Delivered())
}

// A deployment in the middle of a call is none in the middle of its events.
func orderAcrossConsume(tr *trial) {
	tr.enqueue(events("crm", "call", "a", "b")...)
	r := tr.byHand()
	a := r.next("a")
	r.cancel()
	time.Sleep(notice)
	a.answer(callhook.RetryAt(time.Now().Add(glance)))
	r.wait()
	tr.enqueue(delivery("crm", "call", "c"))
	r = tr.byHand()
	r.next("a").attempt(callhook.Delivered())
	r.next("b").attempt(callhook.Delivered())
	r.next("c").attempt(callhook.Delivered())
}

// A receiver that keeps a journal asked for it: nothing of the call until the one
// before has arrived or was given up.
func orderedWaits(tr *trial) {
	tr.enqueue(ordered(events("crm", "call", "a", "b", "c"))...)
	r := tr.byHand()
	a := r.next("a")
	r.quiet("a is in flight")
	a.attempt(callhook.RetryAt(time.Now().Add(2 * glance)))
	tr.enqueue(ordered(events("crm", "call", "d"))...)
	a = r.next("a") // and not b, while it waits
	a.attempt(callhook.Park())
	r.quiet("a is parked")
	tr.releases(lane("crm"), 1, 1)
	r.next("a").attempt(callhook.Dead(callhook.ReasonRejected))
	r.next("b").attempt(callhook.Delivered())
	r.next("c").attempt(callhook.RetryAt(time.Now()))
	r.next("c").attempt(callhook.Delivered())
	r.next("d").attempt(callhook.Delivered())
}

// Only that call waits: the webhook has a thousand others.
func orderedOthersPass(tr *trial) {
	tr.enqueue(ordered(events("crm", "call", "a", "b"))...)
	tr.enqueue(ordered(events("n8n", "call", "n"))...)
	r := tr.byHand()
	both := r.take(2)
	both["a"].attempt(callhook.RetryAt(farAway()))
	both["n"].attempt(callhook.Delivered())
	for i := range 5 {
		call := fmt.Sprint("other", i)
		tr.enqueue(ordered(events("crm", call, call+"x", call+"y"))...)
		r.next(call + "x").attempt(callhook.Delivered())
		r.next(call + "y").attempt(callhook.Delivered())
	}
	if freed := tr.release(lane("crm"), -1); freed < 1 {
		tr.Errorf("Release(lane, -1) returned %d, want 1: a waited for a time", freed)
	}
	a := r.next("a")
	r.quiet("a is in flight")
	a.attempt(callhook.Delivered())
	r.next("b").attempt(callhook.Delivered())
}

// A webhook was made ordered while a call was under way.
func orderedMixed(tr *trial) {
	ds := events("crm", "call", "a", "b", "c", "d")
	ordered(ds[1:2])
	ordered(ds[3:])
	tr.enqueue(ds...)
	r := tr.byHand()
	r.next("a").attempt(callhook.RetryAt(time.Now().Add(2 * glance)))
	// b is Ordered and a not settled, and b has no Attempts, so that c waits too.
	r.next("a").attempt(callhook.Delivered())
	r.next("b").attempt(callhook.RetryAt(farAway()))
	r.next("c").attempt(callhook.Delivered()) // not Ordered, and b was tried
	r.quiet("d is Ordered and b not settled")
	tr.release(lane("crm"), -1)
	r.next("b").attempt(callhook.Delivered())
	r.next("d").attempt(callhook.Delivered())
}

// The ledger looks at every hand-out while everything happens at once.
func orderedLoad(tr *trial) {
	const calls, each = 40, 12
	p := newPorter(tr, 4, func(d *callhook.Delivery) callhook.Verdict {
		switch n := len(d.Log) + int(d.ID[len(d.ID)-1]); {
		case n%7 == 0 || n%11 == 3:
			d.Log = append(d.Log, callhook.Attempt{})
			d.Attempts += n % 2
			return callhook.RetryAt(time.Now().Add(time.Millisecond))
		case n%5 == 0:
			d.Log = append(d.Log, callhook.Attempt{})
			return callhook.Park()
		case n%13 == 2:
			return callhook.Dead(callhook.ReasonRejected)
		}
		d.Attempts++
		return callhook.Delivered()
	})
	p.begin()
	var ds []*callhook.Delivery
	for e := range each {
		for c := range calls {
			ds = append(ds, delivery(fmt.Sprint("hook", c%4), fmt.Sprint("call", c), fmt.Sprintf("d%d_%d", c, e)))
		}
	}
	for part := range slices.Chunk(ordered(ds), 25) {
		tr.enqueue(part...)
	}
	p.until(calls * each)
}

// A lane that is up again must not send a call's second event beside its first.
func releaseKeepsOrdered(tr *trial) {
	tr.enqueue(ordered(events("crm", "call", "a", "b", "c"))...)
	r := tr.byHand()
	r.next("a").attempt(callhook.Park())
	for _, n := range []int{5, -1} {
		if freed := tr.release(lane("crm"), n); freed < 1 {
			tr.Errorf("Release(lane, %d) returned %d, want 1: a was parked", n, freed)
		}
		a := r.next("a")
		r.quiet("a is in flight")
		if n > 0 {
			a.attempt(callhook.RetryAt(farAway()))
			r.quiet("a waits for its retry")
			continue
		}
		a.attempt(callhook.Delivered())
	}
	r.next("b").attempt(callhook.Delivered())
	r.next("c").attempt(callhook.Delivered())
}
