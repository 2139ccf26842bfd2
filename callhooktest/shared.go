package callhooktest

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/callhook-go/callhook"
)

// sharedPromises are those of a queue that several processes consume.
func sharedPromises(inspects bool) []promise {
	if inspects {
		return slices.Concat(sharedConsumePromises, sharedInspectPromises)
	}
	return sharedConsumePromises
}

var sharedConsumePromises = []promise{
	{"what one enqueues another hands out", sharedEnqueue},
	{"several share the lanes, and each delivery is handed out once", sharedLanes},
	{"the order of calls holds, and a lane is one's, while others come and go", sharedOrder},
	{"what one that ends was handed goes on with another, as it was stored last", sharedEnd},
	{"of a lane that is taken over one that was parked goes by itself", sharedTakeover},
	{"Release frees only what the releaser's own lanes have", sharedRelease},
	{"a lane that had parked ones goes on with whoever has it then", sharedDrain},
}

var sharedInspectPromises = []promise{
	{"an Inspector sees what all have enqueued and settled", sharedInspect},
	{"an Inspector replays and erases what another hands out", sharedMend},
}

// beside opens the queue of the same folder once more, as another process does.
func (tr *trial) beside() *trial {
	tr.Helper()
	other := newTrial(tr.T, tr.open, tr.dir, tr.note)
	other.patience += tr.limits.Redeliver
	return other
}

// stocks enqueues n deliveries in each of so many lanes, each of a call of its own.
func (tr *trial) stocks(prefix string, lanes, n int) int {
	tr.Helper()
	var ds []*callhook.Delivery
	for i := range lanes {
		ds = append(ds, deliveries(fmt.Sprint("hook", i), fmt.Sprint(prefix, i, "_"), n)...)
	}
	tr.enqueue(ds...)
	return len(ds)
}

// counted consumes with a handler that attempts and delivers, and counts.
func (tr *trial) counted(settled *atomic.Int64) *atomic.Int64 {
	tr.Helper()
	own := new(atomic.Int64)
	tr.consume(func(d *callhook.Delivery) callhook.Verdict {
		d.Attempts++
		own.Add(1)
		return callhook.Delivered().Then(func() { settled.Add(1) })
	})
	return own
}

// A node that takes calls is not the one that delivers.
func sharedEnqueue(tr *trial) {
	other := tr.beside()
	tr.enqueue(delivery("crm", "call", "before"))
	r := other.byHand()
	r.next("before").attempt(callhook.Delivered())
	tr.enqueue(events("crm", "call", "a", "b")...)
	other.enqueue(events("crm", "call", "a", "before", "c")...)
	r.next("a").attempt(callhook.Delivered())
	r.next("b").attempt(callhook.Delivered())
	r.next("c").attempt(callhook.Delivered())
	r.quiet("its ID is known, whoever enqueues it")
	other.end()
}

// Three nodes deliver what there is; the ledger sees what any of them hands out.
func sharedLanes(tr *trial) {
	const lanes = 200
	var settled atomic.Int64
	all := []*trial{tr, tr.beside(), tr.beside()}
	var own []*atomic.Int64
	for _, one := range all {
		own = append(own, one.counted(&settled))
	}
	want := 0
	tr.until("each of three has been handed something", func() bool {
		want += all[want%3].stocks(fmt.Sprint("r", want, "_"), lanes, 1)
		time.Sleep(glance)
		return !slices.ContainsFunc(own, func(n *atomic.Int64) bool { return n.Load() == 0 })
	})
	want += tr.stocks("last", lanes, 5)
	tr.until("all are settled", func() bool { return settled.Load() == int64(want) })
	for _, one := range all[1:] {
		one.end()
	}
}

// Nodes are added and taken away in the middle of calls.
func sharedOrder(tr *trial) {
	const calls, each = 60, 6
	var settled atomic.Int64
	has := holders{all: map[string]holder{}}
	join := func(one *trial) {
		one.consume(func(d *callhook.Delivery) callhook.Verdict {
			if !has.enter(d.Lane, one) {
				tr.Errorf("%s is in the handlers of two at the same time", d.Lane)
			}
			defer has.leave(d.Lane)
			time.Sleep(time.Millisecond)
			if d.Attempts++; d.Attempts == 1 && (len(d.ID)+int(d.ID[len(d.ID)-1]))%3 == 0 {
				return callhook.RetryAt(time.Now().Add(time.Millisecond))
			}
			return callhook.Delivered().Then(func() { settled.Add(1) })
		})
	}
	join(tr)
	var others []*trial
	for e := range each {
		switch {
		case e%2 == 0:
			others = append(others, tr.beside())
			join(others[len(others)-1])
		default:
			others[0].end()
			others = others[1:]
		}
		for c := range calls {
			d := delivery(fmt.Sprint("hook", c%20), fmt.Sprint("call", c), fmt.Sprintf("d%d_%d", c, e))
			d.Ordered = tr.limits.Ordered && c%2 == 0
			tr.enqueue(d)
		}
		time.Sleep(glance)
	}
	tr.until("all are settled", func() bool { return settled.Load() == calls*each })
	for _, other := range others {
		other.end()
	}
}

// holders is in whose handlers deliveries of each lane are.
type holders struct {
	mu  sync.Mutex
	all map[string]holder
}

type holder struct {
	who *trial
	n   int
}

// enter reports whether nobody else has the lane.
func (h *holders) enter(lane string, who *trial) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.all[lane]
	alone := now.n == 0 || now.who == who
	h.all[lane] = holder{who, now.n + 1}
	return alone
}

func (h *holders) leave(lane string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all[lane] = holder{h.all[lane].who, h.all[lane].n - 1}
}

// A deployment of one node of two.
func sharedEnd(tr *trial) {
	r := tr.byHand()
	tr.enqueue(deliveries("crm", "d", 4)...)
	tr.enqueue(events("crm", "call", "first", "second")...)
	all := r.take(5)
	all["d0"].attempt(callhook.Delivered())
	all["d1"].attempt(callhook.RetryAt(time.Now().Add(glance)))
	all["d1"] = r.next("d1")
	other := tr.beside()
	r2 := other.byHand()
	r.cancel()
	time.Sleep(notice)
	all["d1"].attempt(callhook.RetryAt(time.Now()))
	all["d2"].answer(callhook.RetryAt(time.Now()))
	all["d3"].attempt(callhook.Dead(callhook.ReasonRejected))
	r2.quiet("one of its call is in another's handler")
	all["first"].answer(callhook.RetryAt(time.Now()))
	r.wait()
	attempts := map[string]int{"d1": 2, "d2": 0, "first": 0}
	for _, v := range r2.take(3) {
		if want, ok := attempts[v.ID]; !ok || v.Attempts != want {
			tr.Errorf("%s was handed out by another with %d Attempts, want those of %v as they were stored", v.ID, v.Attempts, attempts)
		}
		v.attempt(callhook.Delivered())
	}
	r2.next("second").attempt(callhook.Delivered())
	other.end()
}

// The one who knew what it had parked is gone, and the other has never seen the lane.
func sharedTakeover(tr *trial) {
	r := tr.byHand()
	parkAll(tr, r, deliveries("tried", "t", 3), 0, 1, 2)
	parkAll(tr, r, deliveries("single", "s", 1), 0)
	r.stop()
	other := tr.beside()
	r2 := other.byHand()
	v := r2.take(2)
	if v["t0"] == nil || v["s0"] == nil {
		tr.Errorf("of two lanes that were taken over not the longest parked of each went by itself, t0 and s0")
	}
	r2.quiet("one of each lane goes by itself, not more")
	other.releases(lane("tried"), 5, 2)
	for _, w := range r2.take(2) {
		w.attempt(callhook.Delivered())
	}
	for _, w := range v {
		w.attempt(callhook.Delivered())
	}
	other.end()
}

// A customer's endpoint came up, as one node knows, and another's did not.
func sharedRelease(tr *trial) {
	const lanes = 60
	other := tr.beside()
	var parks atomic.Bool
	var parked, settled atomic.Int64
	var has, got [2]atomic.Int64
	for i, one := range []*trial{tr, other} {
		one.consume(func(d *callhook.Delivery) callhook.Verdict {
			if parks.Load() {
				has[i].Add(1)
				return callhook.Park().Then(func() { parked.Add(1) })
			}
			d.Attempts++
			got[i].Add(1)
			return callhook.Delivered().Then(func() { settled.Add(1) })
		})
	}
	want := 0
	tr.until("both have been handed something", func() bool {
		want += tr.stocks(fmt.Sprint("r", want, "_"), lanes, 1)
		tr.until("all are settled", func() bool { return settled.Load() == int64(want) })
		return got[0].Load() > 0 && got[1].Load() > 0
	})
	parks.Store(true)
	tr.stocks("parked", lanes, 1)
	tr.until("all are parked", func() bool { return parked.Load() == lanes })
	parks.Store(false)
	before := got[1].Load()
	freed := tr.release("", -1)
	tr.until("all that were released are settled", func() bool { return settled.Load() == int64(want+freed) })
	time.Sleep(glance)
	if n := has[0].Load(); int64(freed) != n || got[1].Load() != before {
		tr.Errorf(`Release("", -1) by one of two that consume returned %d, and the other was handed %d, want %d, which the one had parked, and none`,
			freed, got[1].Load()-before, n)
	}
	other.releases("", -1, lanes-freed)
	tr.until("all are settled", func() bool { return settled.Load() == int64(want+lanes) })
	other.end()
}

// An outage of an hour ends while one node of two is taken away.
func sharedDrain(tr *trial) {
	const lanes, each = 8, 60
	other := tr.beside()
	attempt := func(d *callhook.Delivery) callhook.Verdict {
		d.Attempts++
		time.Sleep(time.Millisecond)
		return callhook.Delivered()
	}
	first, second := newPorter(tr, 3, attempt), newPorter(other, 3, attempt)
	tr.stocks("d", lanes, each)
	first.begin()
	second.begin()
	settled := func() int64 { return first.settled.Load() + second.settled.Load() }
	tr.until("some are settled", func() bool { return settled() > lanes })
	first.run.stop()
	tr.until("all are settled", func() bool { return settled() == lanes*each })
	other.end()
}

// Support asks the node that it can reach.
func sharedInspect(tr *trial) {
	r, flying, all := stocked(tr)
	other := tr.beside()
	other.wantCounts("as another sees them", callhook.Counts{Accepted: 7, Delivered: 1, Dead: 2, Pending: 4})
	if got := other.list(callhook.Filter{State: callhook.StateDead}); !slices.Equal(got, []string{"expired", "rejected"}) {
		tr.Errorf("another's List of dead letters returned %v, want expired and rejected", got)
	}
	if got := other.list(callhook.Filter{Call: "call1"}); !slices.Equal(got, []string{"parked", "waiting"}) {
		tr.Errorf("another's List of a call returned %v, want parked and waiting", got)
	}
	for _, id := range []string{"waiting", "rejected", "flying"} {
		d, err := other.inspector().Get(tr.Context(), id)
		if err != nil {
			tr.Errorf("another's Get(%q): %v", id, err)
			continue
		}
		want := *all[id]
		want.Attempts = d.Attempts
		if diff := diff(&want, d); diff != "" {
			tr.Errorf("another's Get(%q) does not return it as it was stored: %s", id, diff)
		}
	}
	landed(r, flying)
	other.enqueue(delivery("ops", "call", "new"))
	r.next("new").attempt(callhook.Dead(callhook.ReasonRejected))
	other.wantCounts("after more was enqueued and settled", callhook.Counts{Accepted: 8, Delivered: 1, Dead: 3, Pending: 4})
	other.end()
}

// A customer wants to be forgotten, and says so to whichever node answers.
func sharedMend(tr *trial) {
	r, flying, _ := stocked(tr)
	other := tr.beside()
	tr.note.replayed("rejected")
	other.replay(callhook.Filter{Call: "call2"}, 1)
	v := r.next("rejected")
	if v.Attempts != 0 {
		tr.Errorf("a dead letter that another has replayed has %d Attempts, want 0", v.Attempts)
	}
	other.replay(callhook.Filter{Call: "call2"}, 0)
	v.attempt(callhook.Delivered())
	erased := []string{"waiting", "parked", "expired", "flying"}
	tr.note.erased(erased...)
	other.erase(callhook.Filter{IDs: erased}, 4)
	r.next("blocked").attempt(callhook.RetryAt(farAway())) // it waited for one that was erased
	flying.attempt(callhook.RetryAt(time.Now()))
	tr.releases("", -1, 1)
	r.next("blocked").attempt(callhook.Delivered())
	r.quiet("it was erased")
	for _, one := range []*trial{tr, other} {
		one.wantCounts("after another has erased and replayed", callhook.Counts{Accepted: 7, Delivered: 3, Dead: 1, Erased: 3})
		for _, id := range erased {
			if one.holds(id) {
				tr.Errorf("Get(%q) returns it after another has erased it", id)
			}
		}
	}
	other.end()
}
