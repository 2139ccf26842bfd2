package callhooktest

import (
	"context"
	"fmt"
	"hash/fnv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/callhook-go/callhook"
)

var consumePromises = []promise{
	{"many are handed out at once, of many lanes", manyLanesAtOnce},
	{"many are handed out at once, of one lane", oneLaneAtOnce},
	{"what is enqueued by many while it runs arrives, once", manyProducers},
	{"ten thousand lanes of one delivery each are served", manyLanes},
	{"a lane that hangs or is parked keeps no other waiting", lanesApart},
	{"what is dead is never handed out again, and nothing waits for it", deadIsOver},
	{"each verdict's Done is called once, when it was carried out", doneOnce},
	{"a second Consume at the same time is an error and disturbs nothing", oneConsume},
}

var retryPromises = []promise{
	{"a delivery comes at its time, not before and not much later", retryAtTime},
	{"the earlier of two times comes first", retryInOrder},
	{"thousands wait for their times", retryThousands},
	{"a time that passes while nobody consumes is not forgotten", retryPassed},
}

// barrier checks that so many handlers can be under way together.
func barrier(tr *trial, ds []*callhook.Delivery) {
	tr.Helper()
	tr.enqueue(ds...)
	r := tr.byHand()
	for _, v := range r.take(len(ds)) {
		v.verdict <- callhook.Delivered()
	}
	tr.until("all are settled", func() bool { return r.done.Load() == int64(len(ds)) })
}

// An endpoint takes a second to answer, and there are many endpoints.
func manyLanesAtOnce(tr *trial) {
	var ds []*callhook.Delivery
	for i := range 64 {
		ds = append(ds, delivery(fmt.Sprint("hook", i), "call", fmt.Sprint("d", i)))
	}
	barrier(tr, ds)
}

// How many of a lane may be under way is callhook's to say, which parks the rest.
func oneLaneAtOnce(tr *trial) { barrier(tr, deliveries("crm", "d", 64)) }

// A runtime raises events from the goroutines of its calls while attempts are
// made, and some fail. callhook keeps each lane to its concurrency meanwhile.
func manyProducers(tr *trial) {
	const producers, calls, perCall = 16, 20, 5
	var settled atomic.Int64
	p := newPorter(tr, 4, func(d *callhook.Delivery) callhook.Verdict {
		d.Attempts++
		h := fnv.New32a()
		fmt.Fprint(h, d.ID)
		switch roll := h.Sum32() % 20; {
		case roll < 2 && d.Attempts == 1:
			return callhook.RetryAt(time.Now().Add(5 * time.Millisecond))
		case roll == 2 && d.Attempts == 1:
			d.Attempts = 0 // like a lane that is held: it does not count
			d.Postponed++
			if d.Postponed < 3 {
				return callhook.Park()
			}
			d.Attempts = 1
		case roll == 3:
			settled.Add(1)
			return callhook.Dead(callhook.ReasonRejected)
		}
		settled.Add(1)
		return callhook.Delivered()
	})
	p.begin()
	var wg sync.WaitGroup
	for n := range producers {
		wg.Go(func() {
			for call := range calls {
				var ids []string
				for e := range perCall {
					ids = append(ids, fmt.Sprintf("d%d_%d_%d", n, call, e))
				}
				ds := events(fmt.Sprint("hook", n%8), fmt.Sprintf("call%d_%d", n, call), ids...)
				tr.note.raised(ds...)
				for _, part := range [][]*callhook.Delivery{ds[:2], ds[2:]} {
					if err := tr.q.Enqueue(tr.Context(), part...); err != nil {
						tr.Errorf("Enqueue: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
	p.until(producers * calls * perCall)
}

// An operator has that many customers, each with a webhook.
func manyLanes(tr *trial) {
	const n = 10_000
	ds := make([]*callhook.Delivery, n)
	for i := range ds {
		ds[i] = delivery(fmt.Sprint("hook", i), "call", fmt.Sprint("d", i))
	}
	tr.enqueue(ds...)
	r := tr.consume(func(*callhook.Delivery) callhook.Verdict { return callhook.Delivered() })
	tr.until("all are settled", func() bool { return r.done.Load() == n })
}

// One customer's endpoint that hangs and another's that is down for hours are no
// business of the third's.
func lanesApart(tr *trial) {
	const hanging, parked = 50, 5_000
	letGo := make(chan struct{})
	var hang, rest atomic.Int64
	healthy := make(chan string, 100)
	r := tr.consume(func(d *callhook.Delivery) callhook.Verdict {
		switch d.Webhook {
		case "hangs":
			hang.Add(1)
			select {
			case <-letGo:
			case <-tr.Context().Done():
			}
			return callhook.Park()
		case "down":
			return callhook.Park().Then(func() { rest.Add(1) })
		}
		return callhook.Delivered().Then(func() { healthy <- d.ID })
	})
	tr.enqueue(deliveries("hangs", "hangs", hanging)...)
	tr.until("all of the lane that hangs are in their handlers", func() bool { return hang.Load() == hanging })
	tr.enqueue(deliveries("down", "down", parked)...)
	tr.until("the lane that is down has some parked", func() bool { return rest.Load() > 0 })
	for i := range 20 {
		tr.enqueue(delivery("healthy", fmt.Sprint("call", i), fmt.Sprint("healthy", i)))
		select {
		case <-healthy:
		case <-time.After(patience):
			tr.Fatalf("a lane's delivery was not settled within %s while another lane hangs and a third has thousands parked", patience)
		}
	}
	close(letGo)
	r.stop()
}

// A receiver that refused an event must not get it again, and the rest of the
// call goes on.
func deadIsOver(tr *trial) {
	tr.enqueue(events("crm", "call", "a", "b", "c")...)
	r := tr.byHand()
	r.next("a").answer(callhook.Dead(callhook.ReasonBuildFailed)) // without an attempt
	r.next("b").attempt(callhook.Dead(callhook.ReasonRejected))
	r.next("c").attempt(callhook.Delivered())
	tr.releases(lane("crm"), -1, 0)
	tr.releases("", -1, 0)
	r.quiet("it was settled")
	r.stop()
	r = tr.byHand()
	r.quiet("it was settled")
}

// A lane counts its own by Done: one that is missing stops the lane, one too many
// lets it send more than its endpoint takes.
func doneOnce(tr *trial) {
	verdicts := map[string]callhook.Verdict{
		"delivered": callhook.Delivered(),
		"dead":      callhook.Dead(callhook.ReasonExpired),
		"parked":    callhook.Park(),
		"soon":      callhook.RetryAt(time.Now()),
		"later":     callhook.RetryAt(farAway()),
	}
	var mu sync.Mutex
	calls := map[string]int{}
	var first atomic.Int64
	r := tr.consume(func(d *callhook.Delivery) callhook.Verdict {
		if d.Attempts++; d.Attempts > 1 {
			return callhook.Delivered() // without a Done
		}
		return verdicts[d.ID].Then(func() {
			mu.Lock()
			calls[d.Webhook]++
			mu.Unlock()
			first.Add(1)
		})
	})
	for id := range verdicts {
		tr.enqueue(delivery(id, "call", id))
	}
	tr.until("the Done of every verdict was called", func() bool { return first.Load() >= int64(len(verdicts)) })
	time.Sleep(glance)
	r.stop()
	for id := range verdicts {
		if calls[id] != 1 {
			tr.Errorf("the Done of the verdict %q was called %d times, want once", id, calls[id])
		}
	}
}

// Two Runs by mistake would take the deliveries of one node from each other.
func oneConsume(tr *trial) {
	tr.enqueue(delivery("crm", "call", "a"))
	r := tr.byHand()
	a := r.next("a")
	second := func(when string) {
		tr.Helper()
		ended := make(chan error, 1)
		go func() {
			ended <- tr.q.Consume(tr.Context(), func(_ context.Context, d *callhook.Delivery) callhook.Verdict {
				tr.Errorf("%s was handed out by the second Consume", d.ID)
				return callhook.Park()
			})
		}()
		select {
		case err := <-ended:
			if err == nil {
				tr.Errorf("a second Consume while the first %s returned nil, want an error", when)
			}
		case <-time.After(patience):
			tr.Fatalf("a second Consume while the first %s did not return: it is an error", when)
		}
	}
	second("runs")
	a.attempt(callhook.Delivered())
	tr.enqueue(delivery("crm", "call", "b"))
	b := r.next("b")
	r.cancel()
	second("waits for those in flight")
	b.attempt(callhook.Delivered())
	r.wait()
}

// The endpoint said when to come again, and minutes of backoff are not hours.
func retryAtTime(tr *trial) {
	waits := map[string]time.Duration{"long ago": -time.Hour, "past": -time.Second, "now": 0, "soon": 70 * time.Millisecond, "later": 140 * time.Millisecond}
	at := map[string]time.Time{}
	for id := range waits {
		tr.enqueue(delivery("crm", "call "+id, id))
	}
	tr.enqueue(delivery("crm", "call never", "never"), delivery("crm", "call zero", "zero"))
	r := tr.byHand()
	for id, v := range r.take(len(waits) + 2) {
		switch id {
		case "never":
			v.attempt(callhook.RetryAt(time.Now().AddDate(10, 0, 0)))
		case "zero":
			v.attempt(callhook.RetryAt(time.Time{}))
		default:
			at[id] = time.Now().Add(waits[id])
			v.attempt(callhook.RetryAt(at[id]))
		}
	}
	for range len(waits) + 1 {
		v := r.next("zero", "long ago", "past", "now", "soon", "later")
		checkTime(tr, v.ID, at[v.ID])
		v.attempt(callhook.Delivered())
	}
	r.quiet("it waits for 10 years")
}

// checkTime checks that now is when something was to be handed out.
func checkTime(tr *trial, id string, at time.Time) {
	tr.Helper()
	now := time.Now().Round(0)
	if early := at.Round(0).Sub(now); early > 0 {
		tr.Errorf("%s was handed out %s before the time of its RetryAt", id, early)
	}
	if late := now.Sub(at.Round(0)); late > tr.limits.Resolution+patience/2 && late < time.Hour/2 {
		tr.Errorf("%s was handed out %s after the time of its RetryAt; Limits.Resolution is %s", id, late, tr.limits.Resolution)
	}
}

// A lane that comes back gets what failed first before what failed last.
func retryInOrder(tr *trial) {
	apart := max(time.Second, 2*tr.limits.Resolution) // a machine that has much to do may be late by less
	tr.enqueue(delivery("crm", "call a", "late"), delivery("crm", "call b", "early"))
	r := tr.byHand()
	both := r.take(2)
	now := time.Now()
	both["late"].attempt(callhook.RetryAt(now.Add(2 * apart)))
	both["early"].attempt(callhook.RetryAt(now.Add(apart)))
	r.next("early").attempt(callhook.Delivered())
	r.next("late").attempt(callhook.Delivered())
}

// An hour of outage leaves thousands, each with a time of its own.
func retryThousands(tr *trial) {
	const n = 3_000
	var mu sync.Mutex
	at := map[string]time.Time{}
	r := tr.consume(func(d *callhook.Delivery) callhook.Verdict {
		mu.Lock()
		defer mu.Unlock()
		if d.Attempts++; d.Attempts > 1 {
			checkTime(tr, d.ID, at[d.ID])
			return callhook.Delivered()
		}
		at[d.ID] = time.Now().Add(time.Duration(len(at)%150) * time.Millisecond)
		return callhook.RetryAt(at[d.ID])
	})
	tr.enqueue(deliveries("crm", "d", n)...)
	tr.until("all have come back", func() bool { return r.done.Load() == 2*n })
}

// A deployment takes longer than the shortest retry.
func retryPassed(tr *trial) {
	tr.enqueue(deliveries("crm", "d", 3)...)
	r := tr.byHand()
	all := r.take(3)
	r.cancel()
	time.Sleep(notice)
	now := time.Now()
	all["d0"].attempt(callhook.RetryAt(now))
	all["d1"].attempt(callhook.RetryAt(now.Add(3 * glance)))
	all["d2"].attempt(callhook.RetryAt(now.Add(glance)))
	r.wait()
	time.Sleep(time.Until(now.Add(2 * glance)))
	r = tr.byHand()
	for range 3 {
		v := r.next("d0", "d1", "d2")
		if v.ID == "d1" {
			checkTime(tr, v.ID, now.Add(3*glance))
		}
		v.attempt(callhook.Delivered())
	}
}
