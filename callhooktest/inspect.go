package callhooktest

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/callhook-go/callhook"
)

var inspectPromises = []promise{
	{"List finds by every field of the Filter, the last enqueued first", listByField},
	{"List goes on page by page", listPages},
	{"List returns copies, without body, record and log", listCopies},
	{"Get returns a delivery whole, as a copy", getWhole},
	{"Get of one that is in flight shows it as it was stored", getInFlight},
	{"Get of one that the queue does not hold is ErrNoDelivery", getNone},
	{"Counts and Lanes tell what there is and was", countsAndLanes},
	{"Oldest is the oldest that is pending", oldest},
	{"Counts and Lanes balance at every moment", balanced},
}

// inspector is the queue as one.
func (tr *trial) inspector() callhook.Inspector { return tr.q.(callhook.Inspector) }

// list returns the IDs of what a filter finds.
func (tr *trial) list(f callhook.Filter) (ids []string) {
	tr.Helper()
	ds, err := tr.inspector().List(tr.Context(), f)
	if err != nil {
		tr.Fatalf("List(%s): %v", show(f), err)
	}
	for _, d := range ds {
		ids = append(ids, d.ID)
	}
	return ids
}

// show writes the fields of a filter that select something.
func show(f callhook.Filter) string {
	var fields []string
	for field, v := range reflect.ValueOf(f).Fields() {
		if !v.IsZero() {
			fields = append(fields, fmt.Sprintf("%s: %v", field.Name, v))
		}
	}
	return strings.Join(fields, ", ")
}

// holds reports whether the queue holds a delivery.
func (tr *trial) holds(id string) bool {
	tr.Helper()
	d, err := tr.inspector().Get(tr.Context(), id)
	if err != nil {
		tr.wantErr("Get("+id+")", err, callhook.ErrNoDelivery)
		return false
	}
	if d.ID != id {
		tr.Errorf("Get(%q) returned %q", id, d.ID)
	}
	return true
}

// counts returns the counts, which balance.
func (tr *trial) counts() callhook.Counts {
	tr.Helper()
	c, err := tr.inspector().Counts(tr.Context())
	if err != nil {
		tr.Fatalf("Counts: %v", err)
	}
	balances(tr, "Counts", c)
	return c
}

func balances(tr *trial, what string, c callhook.Counts) {
	tr.Helper()
	if c.Accepted != c.Delivered+c.Dead+c.Pending+c.Erased || min(c.Accepted, c.Delivered, c.Dead, c.Pending, c.Erased) < 0 {
		tr.Errorf("%s do not balance: %+v, want Accepted = Delivered + Dead + Pending + Erased, and none below zero", what, c)
	}
}

// wantCounts checks the counts, and that those of the lanes add up to them.
func (tr *trial) wantCounts(when string, want callhook.Counts) {
	tr.Helper()
	if got := tr.counts(); got != want {
		tr.Errorf("Counts %s are %+v, want %+v", when, got, want)
	}
	var sum callhook.Counts
	for _, l := range tr.lanes(callhook.Filter{}) {
		sum.Accepted += l.Accepted
		sum.Delivered += l.Delivered
		sum.Dead += l.Dead
		sum.Pending += l.Pending
		sum.Erased += l.Erased
	}
	if sum != want {
		tr.Errorf("the counts of all Lanes %s add up to %+v, want %+v", when, sum, want)
	}
}

// lanes returns the counts of lanes, which balance and are in order.
func (tr *trial) lanes(f callhook.Filter) []callhook.LaneCounts {
	tr.Helper()
	ls, err := tr.inspector().Lanes(tr.Context(), f)
	if err != nil {
		tr.Fatalf("Lanes: %v", err)
	}
	for _, l := range ls {
		balances(tr, fmt.Sprintf("the counts of lane %+v", l.LaneRef), l.Counts)
	}
	if !slices.IsSortedFunc(ls, func(a, b callhook.LaneCounts) int {
		return slices.Compare([]string{a.Tenant, a.Agent, a.Webhook}, []string{b.Tenant, b.Agent, b.Webhook})
	}) {
		tr.Errorf("Lanes are not in the order of tenant, agent and webhook: %+v", ls)
	}
	return ls
}

// stocked has deliveries in many states, which were enqueued a minute apart, and
// returns the run with one in flight.
func stocked(tr *trial) (*run, *visit, map[string]*callhook.Delivery) {
	tr.Helper()
	start := time.Now().Add(-time.Hour)
	all := map[string]*callhook.Delivery{}
	for i, line := range []string{
		"waiting acme/bot/crm call1 n1",
		"parked acme/bot/n8n call1 n1 n2",
		"rejected acme/sales/crm call2 n2",
		"expired beta/bot/crm call3",
		"delivered beta/bot/crm call4 n3",
		"flying /bot/crm call5 n3",
		"blocked /bot/crm call5 n3",
	} {
		words := strings.Fields(line)
		names := strings.Split(words[1], "/")
		raise := func() *callhook.Delivery {
			d := full(words[0])
			d.Ordered, d.Attempts = false, 0
			d.Lane, d.Tenant, d.Agent, d.Webhook = words[1], names[0], names[1], names[2]
			d.Call, d.Numbers = words[2], slices.Clone(words[3:])
			d.EnqueuedAt = start.Add(time.Duration(i) * time.Minute)
			return d
		}
		all[words[0]] = raise()
		tr.enqueue(raise())
	}
	r := tr.byHand()
	first := r.take(6)
	first["waiting"].attempt(callhook.RetryAt(farAway()))
	first["parked"].attempt(callhook.Park())
	first["rejected"].attempt(callhook.Dead(callhook.ReasonRejected))
	first["expired"].attempt(callhook.Dead(callhook.ReasonExpired))
	first["delivered"].attempt(callhook.Delivered())
	return r, first["flying"], all
}

// landed lets what [stocked] left in flight rest, and what waited for it.
func landed(r *run, flying *visit) {
	r.tr.Helper()
	flying.attempt(callhook.RetryAt(farAway()))
	r.next("blocked").attempt(callhook.RetryAt(farAway()))
}

// Support looks for a call, a customer or a fault, and what happened last is what
// it looks for.
func listByField(tr *trial) {
	_, flying, all := stocked(tr)
	at := func(id string) time.Time { return all[id].EnqueuedAt }
	keeps := tr.holds("delivered") // as an engine likes
	for _, tt := range []struct {
		name string
		f    callhook.Filter
		want string
	}{
		{"nothing", callhook.Filter{}, "blocked flying delivered expired rejected parked waiting"},
		{"ready", callhook.Filter{State: callhook.StateReady}, ""},
		{"in flight", callhook.Filter{State: callhook.StateInFlight}, "flying"},
		{"waiting", callhook.Filter{State: callhook.StateWaiting}, "blocked waiting"},
		{"parked", callhook.Filter{State: callhook.StateParked}, "parked"},
		{"delivered", callhook.Filter{State: callhook.StateDelivered}, "delivered"},
		{"dead", callhook.Filter{State: callhook.StateDead}, "expired rejected"},
		{"tenant", callhook.Filter{Tenant: "acme"}, "rejected parked waiting"},
		{"agent", callhook.Filter{Agent: "bot"}, "blocked flying delivered expired parked waiting"},
		{"webhook", callhook.Filter{Webhook: "crm"}, "blocked flying delivered expired rejected waiting"},
		{"lane", callhook.Filter{Tenant: "acme", Agent: "bot", Webhook: "crm"}, "waiting"},
		{"part of a name", callhook.Filter{Tenant: "acm"}, ""},
		{"call", callhook.Filter{Call: "call1"}, "parked waiting"},
		{"number", callhook.Filter{Number: "n2"}, "rejected parked"},
		{"part of a number", callhook.Filter{Number: "n"}, ""},
		{"reason", callhook.Filter{Reason: callhook.ReasonRejected}, "rejected"},
		{"since", callhook.Filter{Since: at("delivered")}, "blocked flying delivered"},
		{"until", callhook.Filter{Until: at("rejected")}, "parked waiting"},
		{"since and until", callhook.Filter{Since: at("parked"), Until: at("expired")}, "rejected parked"},
		{"since a nanosecond later", callhook.Filter{Since: at("flying").Add(1)}, "blocked"},
		{"ids", callhook.Filter{IDs: []string{"waiting", "nobody", "flying", "expired", "waiting"}}, "flying expired waiting"},
		{"ids and state", callhook.Filter{IDs: []string{"waiting", "expired"}, State: callhook.StateDead}, "expired"},
		{"number and tenant", callhook.Filter{Number: "n2", Tenant: "acme", Agent: "bot"}, "parked"},
		{"call and reason", callhook.Filter{Call: "call1", Reason: callhook.ReasonRejected}, ""},
		{"tenant and limit", callhook.Filter{Tenant: "acme", Limit: 2}, "rejected parked"},
	} {
		want := strings.Fields(tt.want)
		if !keeps {
			want = slices.DeleteFunc(want, func(id string) bool { return id == "delivered" })
		}
		if got := tr.list(tt.f); !slices.Equal(got, want) {
			tr.Errorf("List(%s) returned %v, want %v: by %s", show(tt.f), got, want, tt.name)
		}
	}
	landed(tr.runs[0], flying)
}

// A page shows so many at a time, while more come in.
func listPages(tr *trial) {
	const n = 150
	for part := range slices.Chunk(deliveries("crm", "d", n), 20) {
		tr.enqueue(part...)
	}
	if got := tr.list(callhook.Filter{}); len(got) != 100 || got[0] != "d149" || got[99] != "d50" {
		tr.Errorf("List without a Limit returned %d, want 100: d149 to d50, not %v", len(got), got)
	}
	if got := tr.list(callhook.Filter{Limit: 1000}); len(got) != n {
		tr.Errorf("List with Limit 1000 returned %d, want %d", len(got), n)
	}
	f := callhook.Filter{Limit: 7, State: callhook.StateReady}
	var got []string
	for {
		ds, err := tr.inspector().List(tr.Context(), f)
		if err != nil {
			tr.Fatalf("List(%s): %v", show(f), err)
		}
		if len(ds) == 0 {
			break
		}
		for _, d := range ds {
			if f.Before != 0 && d.Seq >= f.Before || d.Seq <= 0 {
				tr.Fatalf("List(%s) returned one whose Seq is %d: they go down, and are above zero", show(f), d.Seq)
			}
			f.Before = d.Seq
			got = append(got, d.ID)
		}
		tr.enqueue(delivery("crm", "new", fmt.Sprint("new", len(got))))
	}
	var want []string
	for i := range n {
		want = append(want, fmt.Sprint("d", n-1-i))
	}
	if !slices.Equal(got, want) {
		tr.Errorf("page by page List returned %v, want %v", got, want)
	}
}

// A list of a thousand calls must not read a thousand transcripts, and whoever
// shows it must not change what is sent.
func listCopies(tr *trial) {
	r, flying, all := stocked(tr)
	for range 2 {
		ds, err := tr.inspector().List(tr.Context(), callhook.Filter{})
		if err != nil {
			tr.Fatalf("List: %v", err)
		}
		for _, d := range ds {
			want := *all[d.ID]
			if len(d.Body)+len(d.Record)+len(d.Log) > 0 {
				tr.Errorf("List returned %s with Body, Record or Log, want it without", d.ID)
			}
			want.Body, want.Record, want.Log, want.Attempts = nil, nil, nil, d.Attempts
			if diff := diff(&want, d); diff != "" {
				tr.Errorf("List does not return %s as it was enqueued: %s", d.ID, diff)
			}
			attempts := 1
			if d.ID == "flying" || d.ID == "blocked" {
				attempts = 0
			}
			if d.Attempts != attempts {
				tr.Errorf("List returned %s with %d Attempts, want %d", d.ID, d.Attempts, attempts)
			}
			checkState(tr, "List", d)
			d.Tenant, d.Call, d.Lane, d.Attempts, d.State = "changed", "changed", "changed", 100, "changed"
			d.Values["changed"], d.Values["empty"] = "changed", "changed"
			for i := range d.Numbers {
				d.Numbers[i] = "changed"
			}
		}
	}
	landed(r, flying)
}

// checkState checks the fields that are the queue's, of a delivery of [stocked].
func checkState(tr *trial, from string, d *callhook.Delivery) {
	tr.Helper()
	states := map[string]callhook.State{
		"waiting": callhook.StateWaiting, "blocked": callhook.StateWaiting, "parked": callhook.StateParked, "flying": callhook.StateInFlight,
		"rejected": callhook.StateDead, "expired": callhook.StateDead, "delivered": callhook.StateDelivered,
	}
	reasons := map[string]callhook.Reason{"rejected": callhook.ReasonRejected, "expired": callhook.ReasonExpired}
	if d.State != states[d.ID] || d.Reason != reasons[d.ID] {
		tr.Errorf("%s returned %s with State %q and Reason %q, want %q and %q", from, d.ID, d.State, d.Reason, states[d.ID], reasons[d.ID])
	}
	if wait := time.Until(d.RetryAt); d.ID == "waiting" && (wait < 50*time.Minute || wait > time.Hour+tr.limits.Resolution) {
		tr.Errorf("%s returned %s with RetryAt in %s, want in an hour", from, d.ID, wait)
	}
	if d.ID != "waiting" && !d.RetryAt.IsZero() {
		tr.Errorf("%s returned %s with RetryAt %s, want none: it waits for no time", from, d.ID, d.RetryAt)
	}
}

// Support looks at one event to see what was sent and what came back.
func getWhole(tr *trial) {
	r, flying, all := stocked(tr)
	for range 2 {
		for id, want := range all {
			d, err := tr.inspector().Get(tr.Context(), id)
			if err != nil {
				if id != "delivered" {
					tr.Errorf("Get(%q): %v", id, err)
				}
				continue
			}
			want := *want
			want.Attempts = d.Attempts
			if diff := diff(&want, d); diff != "" {
				tr.Errorf("Get(%q) does not return it as it was stored: %s", id, diff)
			}
			checkState(tr, "Get", d)
			d.Body[2], d.Record[2], d.Values["empty"], d.Log[0].Error = '!', '!', "changed", "changed" // still JSON
			for i := range d.Numbers {
				d.Numbers[i] = "changed"
			}
		}
	}
	landed(r, flying)
}

// What a handler does to a delivery is its own until it gives the verdict.
func getInFlight(tr *trial) {
	tr.enqueue(delivery("crm", "call", "a"))
	r := tr.byHand()
	a := r.next("a")
	a.Log = append(a.Log, callhook.Attempt{Error: "first"})
	a.attempt(callhook.RetryAt(time.Now()))
	a = r.next("a")
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 50 {
			a.Attempts++
			a.Log = append(a.Log[:1:1], callhook.Attempt{Error: fmt.Sprint(i)})
			a.Log[0].Error = "changed"
			time.Sleep(100 * time.Microsecond)
		}
	})
	for range 50 {
		d, err := tr.inspector().Get(tr.Context(), "a")
		if err != nil {
			tr.Fatalf("Get: %v", err)
		}
		if d.Attempts != 1 || len(d.Log) != 1 || d.Log[0].Error != "first" || d.State != callhook.StateInFlight {
			tr.Fatalf("Get returned %q with Attempts %d and Log %v while it is in flight, want %q with 1 and the first alone, as stored", d.State, d.Attempts, d.Log, callhook.StateInFlight)
		}
		tr.list(callhook.Filter{})
	}
	wg.Wait()
	a.Log[0].Error = "first"
	a.answer(callhook.Park())
	if d, err := tr.inspector().Get(tr.Context(), "a"); err != nil || d.Attempts != 51 || len(d.Log) != 2 || d.Log[0].Error != "first" {
		tr.Errorf("Get after the verdict returned %+v, %v, want 51 Attempts and a Log of 2", d, err)
	}
}

// A page about an event that is over says so.
func getNone(tr *trial) {
	_, err := tr.inspector().Get(tr.Context(), "nobody")
	tr.wantErr("Get of an unknown ID", err, callhook.ErrNoDelivery)
	_, err = tr.inspector().Get(tr.Context(), "")
	tr.wantErr("Get of no ID", err, callhook.ErrNoDelivery)
}

// An operator watches the numbers, and each of them has to be found somewhere.
func countsAndLanes(tr *trial) {
	tr.wantCounts("of an empty queue", callhook.Counts{})
	r, flying, all := stocked(tr)
	tr.wantCounts("of 7 deliveries", callhook.Counts{Accepted: 7, Delivered: 1, Dead: 2, Pending: 4})
	tr.enqueue(delivery("crm", "call1", "waiting"), delivery("crm", "call4", "delivered"), delivery("crm", "call2", "rejected"))
	tr.wantCounts("after events that are known", callhook.Counts{Accepted: 7, Delivered: 1, Dead: 2, Pending: 4})
	lane := func(name, oldest string, c callhook.Counts) callhook.LaneCounts {
		names := strings.Split(name, "/")
		l := callhook.LaneCounts{LaneRef: callhook.LaneRef{Tenant: names[0], Agent: names[1], Webhook: names[2]}, Counts: c}
		if oldest != "" {
			l.Oldest = all[oldest].EnqueuedAt
		}
		return l
	}
	want := []callhook.LaneCounts{
		lane("/bot/crm", "flying", callhook.Counts{Accepted: 2, Pending: 2}),
		lane("acme/bot/crm", "waiting", callhook.Counts{Accepted: 1, Pending: 1}),
		lane("acme/bot/n8n", "parked", callhook.Counts{Accepted: 1, Pending: 1}),
		lane("acme/sales/crm", "", callhook.Counts{Accepted: 1, Dead: 1}),
		lane("beta/bot/crm", "", callhook.Counts{Accepted: 2, Delivered: 1, Dead: 1}),
	}
	for _, tt := range []struct {
		f    callhook.Filter
		want []callhook.LaneCounts
	}{
		{callhook.Filter{}, want},
		{callhook.Filter{Tenant: "acme"}, want[1:4]},
		{callhook.Filter{Agent: "sales"}, want[3:4]},
		{callhook.Filter{Webhook: "n8n"}, want[2:3]},
		{callhook.Filter{Tenant: "beta", Agent: "bot", Webhook: "crm"}, want[4:]},
		{callhook.Filter{Tenant: "nobody"}, nil},
	} {
		got := tr.lanes(tt.f)
		if !slices.EqualFunc(got, tt.want, func(a, b callhook.LaneCounts) bool {
			return a.LaneRef == b.LaneRef && a.Counts == b.Counts && a.Oldest.Equal(b.Oldest)
		}) {
			tr.Errorf("Lanes(%s) returned\n\t%+v, want\n\t%+v", show(tt.f), got, tt.want)
		}
	}
	flying.attempt(callhook.Delivered())
	r.next("blocked").attempt(callhook.Dead(callhook.ReasonRejected))
	tr.wantCounts("at the end", callhook.Counts{Accepted: 7, Delivered: 2, Dead: 3, Pending: 2})
}

// The age of the oldest is what an alarm is set on.
func oldest(tr *trial) {
	ds := deliveries("crm", "d", 4)
	var at []time.Time
	for i, d := range ds {
		d.EnqueuedAt = time.Now().Add(time.Duration(i-10) * time.Minute)
		at = append(at, d.EnqueuedAt)
	}
	check := func(when string, want time.Time) {
		tr.Helper()
		ls := tr.lanes(callhook.Filter{})
		if len(ls) != 1 || !ls[0].Oldest.Equal(want) {
			tr.Errorf("Lanes %s returned %+v, want one whose Oldest is %s", when, ls, want)
		}
	}
	tr.enqueue(ds...)
	check("at first", at[0])
	r := tr.byHand()
	all := r.take(4)
	check("with all in flight", at[0])
	all["d1"].attempt(callhook.Delivered())
	check("with the second delivered", at[0])
	all["d0"].attempt(callhook.Dead(callhook.ReasonRejected))
	check("with the first two settled", at[2])
	all["d2"].attempt(callhook.RetryAt(farAway()))
	all["d3"].attempt(callhook.Park())
	check("with the last two at rest", at[2])
	tr.releases(lane("crm"), -1, 2)
	delivered(tr, r, "d2", "d3")
	check("with none pending", time.Time{})
}

// A sum that is wrong for a moment is an alarm in the night. Everything goes on at
// once, erasing and replaying too, and so without a ledger.
func balanced(tr *trial) {
	const n = 600
	in := tr.inspector()
	var ids []string
	ctx, cancel := context.WithCancel(tr.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- tr.q.Consume(ctx, func(_ context.Context, d *callhook.Delivery) callhook.Verdict {
			d.Attempts++
			switch turn := int(d.ID[len(d.ID)-1]) + d.Attempts; {
			case turn%5 == 0:
				return callhook.Dead(callhook.ReasonRejected)
			case turn%3 == 0 && d.Attempts < 5:
				return callhook.RetryAt(time.Now().Add(time.Millisecond))
			case turn%7 == 0 && d.Attempts < 5:
				return callhook.Park()
			}
			return callhook.Delivered()
		})
	}()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	loop := func(f func() error) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
				if err := f(); err != nil {
					tr.Errorf("while all goes on: %v", err)
					return
				}
			}
		})
	}
	loop(func() error {
		c, err := in.Counts(ctx)
		balances(tr, "Counts", c)
		return err
	})
	loop(func() error {
		ls, err := in.Lanes(ctx, callhook.Filter{})
		for _, l := range ls {
			balances(tr, fmt.Sprintf("the counts of lane %+v", l.LaneRef), l.Counts)
			if (l.Pending == 0) != l.Oldest.IsZero() {
				tr.Errorf("lane %+v has %d pending, and its Oldest is %s", l.LaneRef, l.Pending, l.Oldest)
			}
		}
		return err
	})
	turn := 0
	loop(func() error {
		turn++
		_, err := in.Erase(ctx, callhook.Filter{IDs: []string{fmt.Sprint("d3_", turn), fmt.Sprint("d2_", 2*turn)}})
		return err
	})
	loop(func() error { _, err := in.Replay(ctx, callhook.Filter{Limit: 3}); return err })
	loop(func() error { _, err := in.List(ctx, callhook.Filter{Limit: 20}); return err })
	loop(func() error { _, err := tr.q.Release(ctx, "", -1); return err })
	for i := range 6 {
		ds := deliveries(fmt.Sprint("hook", i), fmt.Sprint("d", i, "_"), n/6)
		for _, d := range ds {
			ids = append(ids, d.ID)
		}
		for part := range slices.Chunk(ds, 10) {
			if err := tr.q.Enqueue(ctx, part...); err != nil {
				tr.Errorf("Enqueue: %v", err)
			}
			time.Sleep(time.Millisecond)
		}
	}
	close(stop)
	wg.Wait()
	for deadline := time.Now().Add(tr.patience); tr.counts().Pending > 0 && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		tr.release("", -1)
	}
	cancel()
	if err := <-ended; err != nil {
		tr.Errorf("Consume: %v", err)
	}
	c := tr.counts()
	if c.Accepted != int64(len(ids)) || c.Pending != 0 {
		tr.Errorf("Counts at the end are %+v, want %d Accepted and none Pending", c, len(ids))
	}
	tr.wantCounts("at the end", c)
}
