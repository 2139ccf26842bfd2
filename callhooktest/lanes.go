package callhooktest

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/callhook-go/callhook"
)

var parkPromises = []promise{
	{"what is parked rests until a Release", parkedRests},
	{"Release makes exactly n ready and says how many it found", releaseExactly},
	{"Release takes those without Attempts first, the earliest first, and every fourth has Attempts", releaseOrder},
	{"Release of many takes every fourth with Attempts", releaseShare},
	{"Release takes what there is when one kind has run out", releaseOneKind},
	{"Release with n below zero frees all, also those that wait for a time", releaseAll},
	{"Release of no lane in particular frees n of every lane", releaseEveryLane},
	{"Release never touches another lane, however alike the names", releaseOnlyLane},
	{"Release of a lane that is not known finds none", releaseUnknown},
	{"Release works while nobody consumes", releaseIdle},
	{"a Release by a verdict's Done finds what the verdict parked", releaseByDone},
	{"a lane with parked ones loses none of those that come meanwhile", keptBackOrNot},
	{"a lane without parked ones hands out what comes, again and again", nothingKeptBack},
	{"a lane with thousands drains through its concurrency", drains},
}

// parkAll has n deliveries of a lane in their handlers together, and parks them all,
// so that all are parked whether or not the engine keeps back what comes later.
// Those at the places in tried are parked with an attempt. It returns when every
// verdict was carried out, in the order given.
func parkAll(tr *trial, r *run, ds []*callhook.Delivery, tried ...int) {
	tr.Helper()
	ids := make([]string, len(ds))
	for i, d := range ds {
		ids[i] = d.ID
	}
	tr.enqueue(ds...)
	all := r.take(len(ids))
	for i, id := range ids {
		v := all[id]
		if v == nil {
			tr.Fatalf("%s was not handed out with the others of its lane", id)
		}
		if slices.Contains(tried, i) {
			v.Attempts++
		}
		v.answer(callhook.Park())
	}
}

// What is parked waits for an endpoint that is down, for days if need be: each
// hand-out meanwhile would be work for nothing.
func parkedRests(tr *trial) {
	r := tr.byHand()
	parkAll(tr, r, deliveries("crm", "d", 3), 1)
	r.quiet("it is parked")
	r.stop()
	r = tr.byHand()
	r.quiet("it is parked, also when Consume begins again")
	tr.releases(lane("crm"), 3, 3)
	delivered(tr, r, "d0", "d1", "d2")
}

// callhook counts on the answer: it is how a lane knows what is coming and when
// nothing is left.
func releaseExactly(tr *trial) {
	r := tr.byHand()
	parkAll(tr, r, deliveries("crm", "d", 8), 2, 5)
	left := 8
	for _, step := range []struct{ n, want int }{{0, 0}, {1, 1}, {3, 3}, {10, 4}, {1, 0}, {-1, 0}} {
		tr.releases(lane("crm"), step.n, step.want)
		for _, v := range r.take(step.want) {
			v.attempt(callhook.Delivered())
			left--
		}
		if step.want < 4 {
			r.quiet(fmt.Sprintf("Release(lane, %d) frees no more than that, and %d are parked", step.n, left))
		}
	}
}

// mixed parks 20 deliveries, of which 6 have Attempts, out of the order in which
// they were enqueued. It returns the two kinds in the order of their turns.
func mixed(tr *trial, r *run) (fresh, tried []string) {
	tr.Helper()
	ds := deliveries("crm", "d", 20)
	tr.enqueue(ds...)
	all := r.take(len(ds))
	for _, i := range []int{19, 3, 12, 0, 7, 15, 1, 18, 4, 10, 13, 2, 16, 8, 5, 17, 9, 11, 6, 14} {
		id := ds[i].ID
		if i%3 == 0 && i > 0 {
			all[id].Attempts++
			tried = append(tried, id) // the longest parked first
		}
		all[id].answer(callhook.Park())
	}
	for _, d := range ds { // the earliest enqueued first
		if !slices.Contains(tried, d.ID) {
			fresh = append(fresh, d.ID)
		}
	}
	return fresh, tried
}

// What is new is worth more than what failed before, but a lane that is always
// busy must come back to those, though it frees them one by one.
func releaseOrder(tr *trial) {
	r := tr.byHand()
	fresh, tried := mixed(tr, r)
	var got []string
	for range 16 {
		tr.releases(lane("crm"), 1, 1)
		v := r.next(slices.Concat(fresh, tried)...)
		got = append(got, v.ID)
		v.attempt(callhook.Delivered())
	}
	checkKinds(tr, got, fresh, tried)
	for i := range len(got) - 3 {
		n := 0
		for _, id := range got[i : i+4] {
			if slices.Contains(tried, id) {
				n++
			}
		}
		if n != 1 {
			tr.Errorf("of 4 in a row that Release(lane, 1) freed, %v, %d have Attempts, want 1: every fourth; those with Attempts are %v, and all were %v", got[i:i+4], n, tried, got)
			break
		}
	}
	tr.releases(lane("crm"), -1, 4)
	for _, v := range r.take(4) {
		v.attempt(callhook.Delivered())
	}
}

// checkKinds checks that each kind was freed in its order.
func checkKinds(tr *trial, got, fresh, tried []string) {
	tr.Helper()
	check := func(what string, kind []string) {
		tr.Helper()
		var of []string
		for _, id := range got {
			if slices.Contains(kind, id) {
				of = append(of, id)
			}
		}
		if !slices.Equal(of, kind[:len(of)]) {
			tr.Errorf("those %s were released in the order %v, want %v", what, of, kind[:len(of)])
		}
	}
	check("without Attempts (the earliest enqueued first)", fresh)
	check("with Attempts (the longest parked first)", tried)
}

// A lane that has room for many frees them by one call.
func releaseShare(tr *trial) {
	r := tr.byHand()
	fresh, tried := mixed(tr, r)
	tr.releases(lane("crm"), 16, 16)
	all := r.take(16)
	want := slices.Concat(fresh[:12], tried[:4])
	for _, id := range want {
		if all[id] == nil {
			tr.Errorf("Release(lane, 16) did not free %s; want the 12 earliest without Attempts %v, and the 4 longest parked with Attempts %v", id, fresh[:12], tried[:4])
		}
	}
	for _, v := range all {
		v.attempt(callhook.Delivered())
	}
}

// A lane's turn is not lost when there is nothing of the kind whose turn it is.
func releaseOneKind(tr *trial) {
	r := tr.byHand()
	parkAll(tr, r, deliveries("fresh", "f", 6))
	parkAll(tr, r, deliveries("tried", "t", 6), 0, 1, 2, 3, 4, 5)
	for _, name := range []string{"fresh", "tried"} {
		for i := range 6 {
			tr.releases(lane(name), 1, 1)
			r.next(fmt.Sprint(name[:1], i)).attempt(callhook.Delivered())
		}
		tr.releases(lane(name), 1, 0)
	}
}

// Once an endpoint is up again everything that waits for it is due.
func releaseAll(tr *trial) {
	r := tr.byHand()
	ds := append(deliveries("crm", "d", 6), deliveries("other", "o", 2)...)
	tr.enqueue(ds...)
	all := r.take(len(ds))
	for i, d := range ds {
		if i%2 == 0 {
			all[d.ID].attempt(callhook.RetryAt(farAway()))
			continue
		}
		all[d.ID].answer(callhook.Park())
	}
	tr.releases(lane("crm"), -1, 6)
	delivered(tr, r, "d0", "d1", "d2", "d3", "d4", "d5")
	tr.releases("", -1, 2)
	delivered(tr, r, "o0", "o1")
}

// After a restart nobody knows yet which lanes have parked ones; one of each tells.
func releaseEveryLane(tr *trial) {
	r := tr.byHand()
	for _, name := range []string{"one", "two", "three", "four"} {
		parkAll(tr, r, deliveries(name, name+"_", len(name)))
	}
	parkAll(tr, r, deliveries("single", "single_", 1))
	for _, step := range []struct {
		n    int
		want map[string]int
	}{
		{1, map[string]int{"one": 1, "two": 1, "three": 1, "four": 1, "single": 1}},
		{2, map[string]int{"one": 2, "two": 2, "three": 2, "four": 2}},
		{5, map[string]int{"three": 2, "four": 1}},
		{5, nil},
	} {
		want := 0
		for _, n := range step.want {
			want += n
		}
		tr.releases("", step.n, want)
		got := map[string]int{}
		for _, v := range r.take(want) {
			got[v.Webhook]++
			v.attempt(callhook.Delivered())
		}
		for name, n := range step.want {
			if got[name] != n {
				tr.Errorf(`Release("", %d) freed %v, want %v: n of every lane, or what it has`, step.n, got, step.want)
				break
			}
		}
	}
	r.quiet("nothing was parked any more")
}

// A lane that comes back must not wake one that is down.
func releaseOnlyLane(tr *trial) {
	names := []string{
		"acme/bot/crm", "acme/bot/crm2", "acme/bot/cr", "acme/bot/", "acme/bot", "acme/bot/crm/", "acme/bot/CRM", "Acme/bot/crm",
		"acme/bot/crm ", "acme/bot/cr_", "acme/bot/%", "acme/bot/*", "acme/*/crm", "acme/bot/>", "acme.bot.crm", "acme/bot/crm.*",
		"acme%2Fbot/crm", "/acme/bot/crm", "acme/bot/\u00e7rm", "acme/bot/c\u0327rm",
	}
	r := tr.byHand()
	for i, name := range names {
		ds := deliveries("crm", fmt.Sprint("lane", i, "_"), 2)
		for _, d := range ds {
			d.Lane = name
		}
		parkAll(tr, r, ds, 1)
	}
	for i, name := range names {
		for _, n := range []int{1, -1} {
			tr.releases(name, n, 1)
			v := r.take(1)
			for id, v := range v {
				if !strings.HasPrefix(id, fmt.Sprint("lane", i, "_")) {
					tr.Errorf("Release(%q, %d) freed one of the lane %q", name, n, v.Lane)
				}
				v.attempt(callhook.Delivered())
			}
		}
	}
	r.quiet("nothing was parked any more")
}

// A webhook that was never used is no error.
func releaseUnknown(tr *trial) {
	for _, n := range []int{1, 0, -1} {
		tr.releases("acme/bot/nobody", n, 0)
		tr.releases("", n, 0)
	}
	r := tr.byHand()
	parkAll(tr, r, deliveries("crm", "d", 1))
	tr.releases("acme/bot/nobody", 5, 0)
	tr.releases("acme/bot/nobody", -1, 0)
	r.quiet("another lane was released")
	tr.releases(lane("crm"), 5, 1)
	delivered(tr, r, "d0")
}

// Run releases before it consumes, and an operator may at any time.
func releaseIdle(tr *trial) {
	r := tr.byHand()
	parkAll(tr, r, deliveries("crm", "d", 4), 0)
	r.stop()
	tr.releases(lane("crm"), 2, 2)
	tr.releases("", 1, 1)
	r = tr.byHand()
	for _, v := range r.take(3) {
		v.attempt(callhook.Delivered())
	}
	r.quiet("it is parked")
	tr.releases(lane("crm"), 1, 1)
	r.next("d0", "d1", "d2", "d3").attempt(callhook.Delivered())
}

// The last of a lane parks when another has just made room, and releases itself: if
// that came too early and found nothing, the lane would rest for ever.
func releaseByDone(tr *trial) {
	const lanes, perLane, rounds = 8, 2, 63 // some 1,000 in all
	var settled, missed atomic.Int64
	var ending [lanes]atomic.Bool // one was delivered: its Done takes the turn of the other
	r := tr.consume(func(d *callhook.Delivery) callhook.Verdict {
		name := d.Lane
		end := &ending[d.ID[1]-'0']
		release := func() int {
			n, err := tr.q.Release(tr.Context(), name, 1)
			if err != nil {
				tr.Errorf("Release: %v", err)
			}
			return n
		}
		if d.Attempts++; d.Attempts > rounds {
			end.Store(true)
			return callhook.Delivered().Then(func() { settled.Add(1); release() })
		}
		return callhook.Park().Then(func() {
			if release() != 1 && !end.Load() {
				missed.Add(1)
			}
		})
	})
	for i := range lanes {
		tr.enqueue(deliveries(fmt.Sprint("hook", i), fmt.Sprint("d", i, "_"), perLane)...)
	}
	tr.until("all were released by their own Done, and settled", func() bool {
		return missed.Load() > 0 || settled.Load() == lanes*perLane
	})
	if n := missed.Load(); n > 0 {
		tr.Errorf("%d times a Release by the Done of a Park freed nothing: from Done on it finds what was parked", n)
	}
	if settled.Load() == lanes*perLane {
		r.stop()
	}
}

// An engine may park by itself what comes to a lane with parked ones, and may as
// well hand it out: callhook parks it then. Either way all are there.
func keptBackOrNot(tr *trial) {
	p := newPorter(tr, 3, func(d *callhook.Delivery) callhook.Verdict {
		d.Attempts++
		return callhook.Delivered()
	})
	r := tr.byHand()
	parkAll(tr, r, deliveries("crm", "a", 5), 0, 1)
	r.stop()
	r = tr.consume(func(*callhook.Delivery) callhook.Verdict { return callhook.Park() })
	tr.enqueue(deliveries("crm", "b", 5)...)
	time.Sleep(glance)
	r.stop()
	p.begin()
	tr.enqueue(deliveries("crm", "c", 5)...)
	p.until(15)
}

// Most lanes are healthy most of the time: nobody releases anything for them, also
// not for those which were down once.
func nothingKeptBack(tr *trial) {
	r := tr.byHand()
	for round := range 5 {
		parkAll(tr, r, deliveries("crm", fmt.Sprint("parked", round, "_"), 3), 1)
		tr.releases(lane("crm"), 3+round%2, 3)
		for _, v := range r.take(3) {
			v.attempt(callhook.Delivered())
		}
		if round%2 == 0 {
			tr.releases(lane("crm"), 1, 0)
		}
		tr.enqueue(deliveries("crm", fmt.Sprint("new", round, "_"), 4)...)
		for _, v := range r.take(4) {
			v.attempt(callhook.Delivered())
		}
	}
}

// An outage of an hour ends, and the endpoint takes 5 at a time.
func drains(tr *trial) {
	const n = 1_500
	p := newPorter(tr, 5, func(d *callhook.Delivery) callhook.Verdict {
		d.Attempts++
		return callhook.Delivered()
	})
	for ds := range slices.Chunk(deliveries("crm", "d", n), 100) {
		tr.enqueue(ds...)
	}
	p.begin()
	p.until(n)
}
