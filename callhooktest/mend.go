package callhooktest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/callhook-go/callhook"
)

var replayPromises = []promise{
	{"a dead letter goes again as it is, its attempts and its age start over", replayStartsOver},
	{"Replay takes the dead letters that match, and at most Limit", replayMatching},
	{"dead letters of one call go again in the order raised", replayInOrder},
	{"Replay leaves what is pending alone", replayPending},
	{"those delivered that the queue keeps can be replayed", replayDelivered},
	{"a replay while nobody consumes is kept", replayIdle},
}

var erasePromises = []promise{
	{"a delivery is erased in whatever state, and its ID stays remembered", eraseEveryState},
	{"an attempt under way goes on, and its verdict changes nothing", eraseInFlight},
	{"Erase takes all that match, and at most Limit", eraseMatching},
	{"Erase without IDs, Call or Number is ErrFilter", eraseTooMuch},
	{"what waited for one that is erased goes", eraseFirst},
}

func (tr *trial) replay(f callhook.Filter, want int) {
	tr.Helper()
	if n, err := tr.inspector().Replay(tr.Context(), f); err != nil || n != want {
		tr.Fatalf("Replay(%s) returned %d, %v, want %d", show(f), n, err, want)
	}
}

func (tr *trial) erase(f callhook.Filter, want int) {
	tr.Helper()
	if n, err := tr.inspector().Erase(tr.Context(), f); err != nil || n != want {
		tr.Fatalf("Erase(%s) returned %d, %v, want %d", show(f), n, err, want)
	}
}

// The receiver has mended its workflow: it gets what it refused, and tells by the
// ID whether it has it already.
func replayStartsOver(tr *trial) {
	first := full("a")
	first.Ordered = false
	first.Attempts, first.Rejections, first.Postponed, first.Log = 0, 0, 0, nil
	tr.enqueue(first)
	r := tr.byHand()
	for round := range 3 {
		a := r.next("a")
		a.Attempts, a.Rejections, a.Postponed = 5, 4, 3
		a.Log = []callhook.Attempt{{Status: 422}}
		a.answer(callhook.Dead(callhook.ReasonRejected))
		tr.wantCounts("of a dead letter", callhook.Counts{Accepted: 1, Dead: 1})
		before := time.Now().Round(0)
		if round == 1 { // with nobody to take it, to look at it
			r.stop()
		}
		tr.note.replayed("a")
		tr.replay(callhook.Filter{IDs: []string{"a"}}, 1)
		if round == 1 {
			d, err := tr.inspector().Get(tr.Context(), "a")
			if err != nil || d.State != callhook.StateReady || d.Reason != "" {
				tr.Errorf("Get of a dead letter that was replayed returned %+v, %v, want State %q and no Reason", d, err, callhook.StateReady)
			}
			r = tr.byHand()
		}
		tr.wantCounts("of a dead letter that was replayed", callhook.Counts{Accepted: 1, Pending: 1})
		a = r.next("a")
		if a.Attempts != 0 || a.Rejections != 0 || a.Postponed != 0 {
			tr.Errorf("a replayed dead letter has Attempts %d, Rejections %d, Postponed %d, want none: it starts over", a.Attempts, a.Rejections, a.Postponed)
		}
		if a.EnqueuedAt.Before(before.Truncate(time.Millisecond)) || a.EnqueuedAt.After(time.Now().Add(time.Second)) {
			tr.Errorf("a replayed dead letter's EnqueuedAt is %s, want now: its age starts over", a.EnqueuedAt)
		}
		want := full("a")
		want.Ordered, want.Attempts, want.Rejections, want.Postponed = false, 0, 0, 0
		want.EnqueuedAt, want.Log = a.EnqueuedAt, a.Log // which may be kept
		if diff := diff(want, a.Delivery); diff != "" {
			tr.Errorf("a dead letter is not replayed as it was: %s", diff)
		}
		tr.enqueue(full("a"))
		a.answer(callhook.RetryAt(time.Now()))
	}
	r.next("a").attempt(callhook.Delivered())
	r.quiet("it was delivered")
	tr.replay(callhook.Filter{IDs: []string{"a"}}, 0)
	tr.wantCounts("at the end", callhook.Counts{Accepted: 1, Delivered: 1})
}

// deadLetters makes dead letters: two of each of three tenants.
func deadLetters(tr *trial) *run {
	tr.Helper()
	for i := range 6 {
		d := delivery("crm", fmt.Sprint("call", i/2), fmt.Sprint("d", i))
		d.Tenant = fmt.Sprint("tenant", i%3)
		d.Lane = d.Tenant + "/bot/crm"
		d.Numbers = []string{fmt.Sprint("n", i/3)}
		tr.enqueue(d)
	}
	r := tr.byHand()
	for id, v := range r.take(6) {
		reason := callhook.ReasonRejected
		if id == "d5" {
			reason = callhook.ReasonExpired
		}
		v.attempt(callhook.Dead(reason))
	}
	return r
}

// A customer's receiver was broken, or everybody's was.
func replayMatching(tr *trial) {
	r := deadLetters(tr)
	kill := func(f callhook.Filter, want ...string) {
		tr.Helper()
		tr.note.replayed("d0", "d1", "d2", "d3", "d4", "d5")
		tr.replay(f, len(want))
		tr.wantCounts("after a replay", callhook.Counts{Accepted: 6, Dead: 6 - int64(len(want)), Pending: int64(len(want))})
		all := r.take(len(want))
		for _, id := range want {
			if all[id] == nil {
				tr.Errorf("Replay(%s) did not bring %s back", show(f), id)
			}
		}
		for id, v := range all {
			reason := callhook.ReasonRejected
			if id == "d5" {
				reason = callhook.ReasonExpired
			}
			v.attempt(callhook.Dead(reason))
		}
	}
	kill(callhook.Filter{Tenant: "tenant1"}, "d1", "d4")
	kill(callhook.Filter{Reason: callhook.ReasonExpired}, "d5")
	kill(callhook.Filter{Call: "call1"}, "d2", "d3")
	kill(callhook.Filter{Number: "n0"}, "d0", "d1", "d2")
	kill(callhook.Filter{State: callhook.StateDead, Tenant: "tenant0", Number: "n1"}, "d3")
	kill(callhook.Filter{IDs: []string{"d0", "d5", "nobody"}}, "d0", "d5")
	kill(callhook.Filter{Tenant: "nobody"})
	kill(callhook.Filter{}, "d0", "d1", "d2", "d3", "d4", "d5")
	tr.note.replayed("d0", "d1", "d2", "d3", "d4", "d5")
	tr.replay(callhook.Filter{Limit: 4}, 4)
	for _, v := range r.take(4) {
		v.attempt(callhook.Delivered())
	}
	r.quiet("Limit was 4")
	tr.replay(callhook.Filter{Limit: 4}, 2)
	for _, v := range r.take(2) {
		v.attempt(callhook.Delivered())
	}
}

// A receiver that had refused a whole call learns its states as they came.
func replayInOrder(tr *trial) {
	ids := []string{"a", "b", "c", "d"}
	tr.enqueue(events("crm", "call", ids...)...)
	r := tr.byHand()
	for _, id := range ids {
		r.next(id).attempt(callhook.Dead(callhook.ReasonRejected))
	}
	tr.note.replayed(ids...)
	tr.replay(callhook.Filter{IDs: []string{"c", "b", "d", "a"}}, 4)
	for _, id := range ids {
		v := r.next(id)
		r.quiet("the one before has no Attempts yet")
		v.attempt(callhook.Delivered())
	}
}

// Whoever asks twice, or for too much, sends nothing twice.
func replayPending(tr *trial) {
	_, flying, _ := stocked(tr)
	r := tr.runs[0]
	tr.replay(callhook.Filter{IDs: []string{"waiting", "parked", "flying", "blocked", "delivered"}}, 0)
	r.quiet("it was no dead letter")
	tr.note.replayed("rejected")
	tr.replay(callhook.Filter{Call: "call2"}, 1)
	tr.replay(callhook.Filter{Call: "call2"}, 0)
	rejected := r.next("rejected")
	tr.replay(callhook.Filter{Call: "call2"}, 0)
	r.quiet("it is replayed already")
	rejected.attempt(callhook.Dead(callhook.ReasonRejected))
	landed(r, flying)
	tr.wantCounts("at the end", callhook.Counts{Accepted: 7, Delivered: 1, Dead: 2, Pending: 4})
}

// A receiver lost what it had got.
func replayDelivered(tr *trial) {
	tr.enqueue(delivery("crm", "call", "a"), delivery("crm", "other", "b"))
	r := tr.byHand()
	both := r.take(2)
	both["a"].attempt(callhook.Delivered())
	both["b"].attempt(callhook.Dead(callhook.ReasonRejected))
	want := 0
	if f := (callhook.Filter{State: callhook.StateDelivered}); tr.holds("a") {
		want = 1
		tr.note.replayed("a")
		tr.replay(f, want)
	} else if n, err := tr.inspector().Replay(tr.Context(), f); n != 0 || err != nil && !errors.Is(err, callhook.ErrFilter) {
		tr.Errorf("Replay(%s) returned %d, %v from a queue that keeps none, want 0, and no error or ErrFilter", show(f), n, err)
	}
	tr.wantCounts("after a replay", callhook.Counts{Accepted: 2, Delivered: 1 - int64(want), Dead: 1, Pending: int64(want)})
	if want == 1 {
		a := r.next("a")
		if a.Attempts != 0 {
			tr.Errorf("one that had been delivered was replayed with %d Attempts, want 0: they start over", a.Attempts)
		}
		a.attempt(callhook.Delivered())
	}
	r.quiet("it was settled")
	tr.wantCounts("at the end", callhook.Counts{Accepted: 2, Delivered: 1, Dead: 1})
}

// Whoever replays may do so on a node that does not deliver.
func replayIdle(tr *trial) {
	deadLetters(tr).stop()
	tr.note.replayed("d0", "d1", "d2", "d3", "d4", "d5")
	tr.replay(callhook.Filter{}, 6)
	if got := tr.list(callhook.Filter{State: callhook.StateReady}); len(got) != 6 {
		tr.Errorf("List of ready ones after a replay returned %v, want all 6", got)
	}
	r := tr.byHand()
	delivered(tr, r, "d0", "d1", "d2", "d3", "d4", "d5")
}

// Somebody wants to be forgotten, and neither what waits nor a late repetition may
// bring the call back.
func eraseEveryState(tr *trial) {
	tr.enqueue(delivery("idle", "call", "ready"))
	tr.erase(callhook.Filter{IDs: []string{"ready"}}, 1)
	tr.note.erased("ready")
	tr.enqueue(delivery("idle", "call", "ready"))
	tr.wantCounts("after one that was ready is erased", callhook.Counts{Accepted: 1, Erased: 1})

	r, flying, _ := stocked(tr)
	want := callhook.Counts{Accepted: 8, Delivered: 1, Dead: 2, Pending: 4, Erased: 1}
	for _, id := range []string{"waiting", "parked", "rejected", "expired", "delivered", "blocked", "flying"} {
		held := 0
		if tr.holds(id) {
			held = 1
		} else if id != "delivered" {
			tr.Errorf("Get(%q) says that the queue does not hold it", id)
		}
		tr.note.erased(id)
		tr.erase(callhook.Filter{IDs: []string{id}}, held)
		if id != "rejected" && id != "expired" && id != "delivered" {
			want.Pending--
			want.Erased++
		}
		tr.wantCounts("after "+id+" was erased", want)
		if tr.holds(id) {
			tr.Errorf("Get(%q) returns it after it was erased", id)
		}
		if slices.Contains(tr.list(callhook.Filter{}), id) {
			tr.Errorf("List shows %s after it was erased", id)
		}
		tr.erase(callhook.Filter{IDs: []string{id}}, 0)
		tr.enqueue(delivery("again", "call", id))
		tr.wantCounts("after "+id+" was erased and raised again", want)
		tr.replay(callhook.Filter{IDs: []string{id}}, 0)
	}
	flying.attempt(callhook.RetryAt(time.Now()))
	tr.releases("", -1, 0)
	r.quiet("it was erased")
	tr.wantCounts("at the end", want)
}

// An erased delivery's request may be on its way: whatever comes of it, the queue
// holds nothing of it.
func eraseInFlight(tr *trial) {
	verdicts := []callhook.Verdict{
		callhook.Delivered(), callhook.Dead(callhook.ReasonRejected), callhook.Park(), callhook.RetryAt(time.Now()), callhook.RetryAt(farAway()),
	}
	for i := range verdicts {
		tr.enqueue(delivery(fmt.Sprint("hook", i), "call", fmt.Sprint("d", i)))
	}
	r := tr.byHand()
	all := r.take(len(verdicts))
	for i, verdict := range verdicts {
		id := fmt.Sprint("d", i)
		tr.note.erased(id)
		tr.erase(callhook.Filter{IDs: []string{id}}, 1)
		v := all[id]
		if v.ctx.Err() != nil {
			tr.Error("the handler's ctx has ended: an attempt under way is not stopped")
		}
		v.Log = append(v.Log, callhook.Attempt{Status: 200})
		v.attempt(verdict)
		if tr.holds(id) {
			tr.Errorf("Get returns one that was erased while it was in flight after its verdict (%s)", verdict.State)
		}
		tr.wantCounts(fmt.Sprintf("after %d were erased in flight, the last with the verdict %s", i+1, verdict.State),
			callhook.Counts{Accepted: int64(len(verdicts)), Pending: int64(len(verdicts) - i - 1), Erased: int64(i + 1)})
	}
	tr.releases("", -1, 0)
	tr.releases("", 5, 0)
	r.quiet("it was erased")
}

// By a call or by a phone number.
func eraseMatching(tr *trial) {
	r, flying, _ := stocked(tr)
	tr.enqueue(deliveries("ops", "d", 3)...)
	for _, v := range r.take(3) {
		v.attempt(callhook.RetryAt(farAway()))
	}
	keeps := 0
	if tr.holds("delivered") {
		keeps = 1
	}
	erase := func(f callhook.Filter, want int, ids ...string) {
		tr.Helper()
		tr.note.erased(ids...)
		tr.erase(f, want)
		for _, id := range ids {
			if tr.holds(id) {
				tr.Errorf("Get(%q) returns it after Erase(%s)", id, show(f))
			}
		}
	}
	erase(callhook.Filter{Call: "nobody"}, 0)
	erase(callhook.Filter{Number: "n"}, 0)
	erase(callhook.Filter{Call: "call1", State: callhook.StateDead}, 0)
	erase(callhook.Filter{Number: "n2", State: callhook.StateDead}, 1, "rejected")
	erase(callhook.Filter{Number: "n2"}, 1, "parked")
	erase(callhook.Filter{Number: "n3"}, 2+keeps, "flying", "blocked", "delivered")
	erase(callhook.Filter{Call: "call1", Tenant: "beta"}, 0)
	erase(callhook.Filter{Call: "call1", Tenant: "acme"}, 1, "waiting")
	tr.wantCounts("of 10, when 4 pending ones were erased and a dead one", callhook.Counts{Accepted: 10, Delivered: 1, Dead: 2, Pending: 3, Erased: 4})
	tr.erase(callhook.Filter{IDs: []string{"d0", "d1", "d2"}, Limit: 2}, 2)
	tr.erase(callhook.Filter{IDs: []string{"d0", "d1", "d2"}, Limit: 2}, 1)
	tr.note.erased("d0", "d1", "d2")
	tr.wantCounts("when no pending one is left", callhook.Counts{Accepted: 10, Delivered: 1, Dead: 2, Erased: 7})
	flying.attempt(callhook.Delivered())
	tr.releases("", -1, 0)
	r.quiet("it was erased")
}

// A slip must not empty the queue.
func eraseTooMuch(tr *trial) {
	tr.enqueue(deliveries("crm", "d", 3)...)
	for _, f := range []callhook.Filter{
		{}, {IDs: []string{}}, {IDs: []string{}, Tenant: "acme"}, {State: callhook.StateReady}, {Tenant: "acme"}, {Tenant: "acme", Agent: "bot", Webhook: "crm"},
		{Reason: callhook.ReasonRejected}, {Since: time.Now().Add(-time.Hour)}, {Before: 1 << 40}, {Limit: 1},
	} {
		n, err := tr.inspector().Erase(tr.Context(), f)
		tr.wantErr(fmt.Sprintf("Erase(%s)", show(f)), err, callhook.ErrFilter)
		if n != 0 {
			tr.Errorf("Erase(%s) returned %d, want 0", show(f), n)
		}
	}
	tr.wantCounts("after nothing was erased", callhook.Counts{Accepted: 3, Pending: 3})
}

// The rest of a call goes on.
func eraseFirst(tr *trial) {
	tr.enqueue(events("crm", "call", "a", "b", "c")...)
	tr.enqueue(ordered(events("n8n", "call", "x", "y"))...)
	r := tr.byHand()
	both := r.take(2)
	both["a"].answer(callhook.RetryAt(farAway()))
	both["x"].attempt(callhook.RetryAt(farAway()))
	tr.note.erased("a", "x")
	tr.erase(callhook.Filter{IDs: []string{"a", "x"}}, 2)
	both = r.take(2)
	if both["b"] == nil || both["y"] == nil {
		tr.Fatal("not both b and y were handed out: what they waited for was erased")
	}
	both["y"].attempt(callhook.Delivered())
	tr.note.erased("b")
	tr.erase(callhook.Filter{IDs: []string{"b"}}, 1) // in flight
	both["b"].answer(callhook.RetryAt(time.Now()))
	r.next("c").attempt(callhook.Delivered())
	tr.wantCounts("at the end", callhook.Counts{Accepted: 5, Delivered: 2, Erased: 3})
}
