package callhooktest

import (
	"fmt"
	"slices"
	"time"

	"github.com/callhook-go/callhook"
)

var restartPromises = []promise{
	{"what is pending at Close is there when it is opened again", pendingSurvives},
	{"what is pending in a crash is there when it is opened again", pendingSurvivesCrash},
	{"what was in flight in a crash comes again, as it was last stored", inFlightAgain},
	{"what Enqueue has stored survives a crash at that moment", enqueuedSurvives},
	{"what is settled does not come back, and its ID stays remembered", settledSurvives},
	{"the time of a RetryAt holds across a restart and a crash", timeSurvives},
	{"one of each lane and then as each has room frees everything", everythingResumes},
	{"the order of a call holds across a restart and a crash", orderSurvives},
}

var orderedRestartPromises = []promise{
	{"the strict order of a call holds across a restart and a crash", orderedSurvives},
}

// resume consumes as after a restart, when what is pending may be ready or parked.
func (tr *trial) resume() *run {
	tr.Helper()
	tr.release("", 1000)
	return tr.byHand()
}

// every has a delivery in every state, each in a lane of its own and named for it,
// and returns the run, with what is in flight still in its handler.
func every(tr *trial) (*run, *visit) {
	tr.Helper()
	for _, id := range []string{"waiting", "parked", "tried", "delivered", "dead"} {
		d := full(id)
		d.Ordered = false
		d.Webhook, d.Lane, d.Call = id, lane(id), "call"
		tr.enqueue(d)
	}
	tr.enqueue(events("flying", "call", "flying", "blocked")...)
	r := tr.byHand()
	all := r.take(6)
	at := time.Now()
	for _, v := range all {
		v.Attempts++
		v.Rejections, v.Postponed = 5, 6
		v.Log = append(v.Log, callhook.Attempt{At: at, Elapsed: time.Second, Status: 503, Error: "busy"})
	}
	all["waiting"].answer(callhook.RetryAt(at.Add(3 * notice)))
	all["parked"].answer(callhook.Park())
	all["tried"].answer(callhook.Park())
	all["delivered"].answer(callhook.Delivered())
	all["dead"].answer(callhook.Dead(callhook.ReasonMaxAttempts))
	return r, all["flying"]
}

// comesBack checks that what [every] left pending comes back whole, and more.
func comesBack(tr *trial, more ...string) {
	tr.Helper()
	for _, id := range []string{"waiting", "dead", "delivered"} {
		tr.enqueue(delivery(id, "call", id)) // which is known
	}
	r := tr.resume()
	for left := append(more, "waiting", "parked", "tried", "flying", "blocked"); len(left) > 0; {
		v := r.next(left...)
		left = slices.DeleteFunc(left, func(id string) bool { return id == v.ID })
		if v.ID == "waiting" || v.ID == "parked" || v.ID == "tried" {
			want := full(v.ID)
			want.Ordered = false
			want.Webhook, want.Lane, want.Call = v.ID, lane(v.ID), "call"
			want.Attempts, want.Rejections, want.Postponed = 4, 5, 6
			want.Log = append(want.Log, callhook.Attempt{Elapsed: time.Second, Status: 503, Error: "busy"})
			if len(v.Log) == 3 {
				want.Log[2].At = v.Log[2].At
			}
			if diff := diff(want, v.Delivery); diff != "" {
				tr.Errorf("%s did not come back as its handler left it: %s", v.ID, diff)
			}
		}
		v.attempt(callhook.Delivered())
		tr.release(v.Lane, 1)
	}
}

// A deployment.
func pendingSurvives(tr *trial) {
	r, flying := every(tr)
	r.cancel()
	time.Sleep(notice)
	flying.answer(callhook.RetryAt(time.Now()))
	r.wait()
	tr.enqueue(delivery("ready", "call", "ready"))
	tr.restart()
	comesBack(tr, "ready")
}

// A power cut.
func pendingSurvivesCrash(tr *trial) {
	r, flying := every(tr)
	after := tr.crash()
	comesBack(after)
	after.end()
	flying.attempt(callhook.Delivered()) // the first goes on, and knows nothing of it
	delivered(tr, r, "waiting", "blocked")
}

// A request had gone out, and nobody knows what came of it.
func inFlightAgain(tr *trial) {
	tr.enqueue(deliveries("crm", "d", 20)...)
	tr.enqueue(delivery("other", "call", "tried"))
	r := tr.byHand()
	all := r.take(21)
	all["tried"].Log = []callhook.Attempt{{Status: 500}}
	all["tried"].attempt(callhook.RetryAt(time.Now()))
	all["tried"] = r.next("tried")
	for id, v := range all {
		v.Postponed = 7 // which is not stored before the verdict is
		if id == "tried" {
			v.Attempts, v.Log = 9, append(v.Log, callhook.Attempt{Status: 501})
		}
	}
	after := tr.crash()
	again := after.resume()
	check := func(when string) map[string]*visit {
		tr.Helper()
		all := again.take(21)
		for id, v := range all {
			attempts := 0
			if id == "tried" {
				attempts = 1
			}
			if v.Attempts != attempts || len(v.Log) != attempts || v.Postponed != 0 {
				tr.Errorf("%s came back %s with Attempts %d, %d in its Log and Postponed %d, want %[3]d, %[3]d and 0, as last stored", id, when, v.Attempts, len(v.Log), v.Postponed)
			}
		}
		return all
	}
	check("after a crash")
	again.quiet("it is in flight")
	last := after.crash()
	again = last.resume()
	for _, v := range check("after a second crash") {
		v.attempt(callhook.Delivered())
	}
	again.quiet("it was delivered")
	for _, v := range all {
		v.attempt(callhook.Delivered())
	}
	for _, r := range after.runs {
		r.abandon()
	}
	last.end()
}

// Enqueue returned nil, so that the runtime has forgotten about it.
func enqueuedSurvives(tr *trial) {
	tr.enqueue(deliveries("crm", "a", 50)...)
	r := tr.byHand()
	all := r.take(50)
	tr.enqueue(deliveries("n8n", "b", 50)...)
	tr.enqueue(events("crm", "call_a0", "c", "d")...)
	b := r.take(50)
	after := tr.crash()
	p := newPorter(after, 10, func(d *callhook.Delivery) callhook.Verdict {
		d.Attempts++
		return callhook.Delivered()
	})
	p.begin()
	p.until(102)
	for _, vs := range []map[string]*visit{all, b} {
		for _, v := range vs {
			v.answer(callhook.Delivered())
		}
	}
	delivered(tr, r, "c", "d")
}

// A receiver that has answered "got it" must not see the event a second time when
// the node restarts, and neither when its runtime raises it again then.
func settledSurvives(tr *trial) {
	const n = 30
	r := tr.byHand()
	tr.enqueue(deliveries("crm", "d", n)...)
	i := 0
	for _, v := range r.take(n) {
		if i++; i%3 == 0 {
			v.attempt(callhook.Dead(callhook.ReasonRejected))
			continue
		}
		v.attempt(callhook.Delivered())
	}
	nothing := func(tr *trial, when string) {
		tr.Helper()
		tr.enqueue(deliveries("crm", "d", n)...)
		tr.releases("", -1, 0)
		r := tr.byHand()
		r.quiet("it was settled before " + when)
		tr.enqueue(deliveries("crm", "d", n)...)
		tr.enqueue(delivery("crm", "last", when))
		delivered(tr, r, when)
		r.stop()
	}
	after := tr.crash()
	nothing(after, "the crash")
	after.end()
	tr.restart()
	nothing(tr, "the restart")
	tr.restart()
	nothing(tr, "another restart")
}

// A receiver that asked to be left alone for a while did not ask until the next
// deployment.
func timeSurvives(tr *trial) {
	r := tr.byHand()
	tr.enqueue(delivery("crm", "call", "soon"), delivery("n8n", "call", "later"))
	both := r.take(2)
	r.cancel()
	time.Sleep(notice)
	at := time.Now().Add(2 * notice)
	for id, v := range both {
		if id == "soon" {
			v.attempt(callhook.RetryAt(at))
			continue
		}
		v.attempt(callhook.RetryAt(farAway()))
	}
	r.wait()
	after := tr.crash()
	check := func(tr *trial) {
		tr.Helper()
		r := tr.resume()
		v := r.next("soon")
		checkTime(tr, "soon", at)
		v.attempt(callhook.Delivered())
		r.quiet("its time is far away")
		tr.releases("", -1, 1)
		delivered(tr, r, "later")
	}
	check(after)
	after.end()
	tr.restart()
	check(tr)
}

// Run begins with one of each lane, and each lane goes on by itself.
func everythingResumes(tr *trial) {
	const lanes, each = 6, 60
	attempt := func(d *callhook.Delivery) callhook.Verdict {
		d.Attempts++
		return callhook.Delivered()
	}
	n := 0
	first := tr.consume(func(d *callhook.Delivery) callhook.Verdict {
		if d.Webhook == "hook0" && len(d.ID)%2 == 0 {
			d.Attempts++
		}
		return callhook.Park()
	})
	for i := range lanes {
		ds := deliveries(fmt.Sprint("hook", i), fmt.Sprint("d", i, "_"), each)
		for part := range slices.Chunk(ds, 20) {
			tr.enqueue(part...)
			n += len(part)
		}
	}
	time.Sleep(glance)
	first.stop()
	tr.enqueue(deliveries("new", "n", 10)...)
	n += 10
	after := tr.crash()
	p := newPorter(after, 3, attempt)
	p.begin()
	p.until(int64(n))
	after.end()
	tr.restart()
	p = newPorter(tr, 3, attempt)
	p.begin()
	p.until(int64(n))
}

// A crash must not make a call's second event overtake its first.
func orderSurvives(tr *trial) {
	tr.enqueue(events("crm", "flying", "f1", "f2")...)
	tr.enqueue(events("crm", "waiting", "w1", "w2")...)
	tr.enqueue(events("n8n", "parked", "p1", "p2")...)
	tr.enqueue(events("ops", "tried", "t1", "t2")...)
	r := tr.byHand()
	all := r.take(4)
	all["w1"].answer(callhook.RetryAt(farAway()))
	all["p1"].answer(callhook.Park())
	all["t1"].attempt(callhook.RetryAt(farAway()))
	t2 := r.next("t2")
	after := tr.crash()
	check := func(tr *trial) {
		tr.Helper()
		r := tr.resume()
		tr.release(lane("crm"), -1)
		inTurn(tr, r, "f1", "f2", "w1", "w2", "p1", "p2", "t2")
		tr.enqueue(delivery("ops", "tried", "t3"))
		r.next("t3").attempt(callhook.Delivered())
		tr.releases(lane("ops"), -1, 1)
		r.next("t1").attempt(callhook.Delivered())
	}
	check(after)
	after.end()
	r.cancel()
	all["f1"].answer(callhook.Park())
	t2.answer(callhook.Park())
	r.wait()
	tr.restart()
	check(tr)
}

// inTurn settles these as they come; the ledger knows what must not come yet.
func inTurn(tr *trial, r *run, ids ...string) {
	tr.Helper()
	for left := slices.Clone(ids); len(left) > 0; {
		v := r.next(left...)
		time.Sleep(glance / 6) // for one that comes too early
		v.attempt(callhook.Delivered())
		tr.release(v.Lane, 1)
		left = slices.DeleteFunc(left, func(id string) bool { return id == v.ID })
	}
}

// A journal stays one, whatever happens to the node.
func orderedSurvives(tr *trial) {
	tr.enqueue(ordered(events("crm", "flying", "f1", "f2"))...)
	tr.enqueue(ordered(events("n8n", "waiting", "w1", "w2"))...)
	tr.enqueue(ordered(events("ops", "parked", "p1", "p2"))...)
	r := tr.byHand()
	all := r.take(3)
	all["f1"].attempt(callhook.RetryAt(time.Now()))
	all["w1"].attempt(callhook.RetryAt(farAway()))
	all["p1"].attempt(callhook.Park())
	f1 := r.next("f1")
	check := func(tr *trial) {
		tr.Helper()
		tr.enqueue(ordered(events("ops", "parked", "p3"))...)
		r := tr.resume()
		tr.release(lane("n8n"), -1)
		inTurn(tr, r, "f1", "f2", "w1", "w2", "p1", "p2", "p3")
	}
	after := tr.crash()
	check(after)
	after.end()
	r.cancel()
	f1.attempt(callhook.Park())
	r.wait()
	tr.restart()
	check(tr)
}
