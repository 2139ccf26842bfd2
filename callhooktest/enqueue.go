package callhooktest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/callhook-go/callhook"
)

var enqueuePromises = []promise{
	{"a delivery is handed out as it was enqueued", handedOutAsEnqueued},
	{"a body keeps its bytes, whatever they are", bodiesKept},
	{"a large body keeps its bytes", largeBodyKept},
	{"what the handler changed is there at the next hand-out", changesKept},
	{"an ID that comes twice in one call is stored once", onceInOneCall},
	{"an ID that many enqueue at the same time is stored once", onceForMany},
	{"an ID that is pending is ignored, in whatever state", pendingIgnored},
	{"an ID that was settled is ignored", settledIgnored},
	{"a call of which a part was stored can be repeated", partRepeated},
	{"a call whose context has ended can be repeated", endedContextRepeated},
	{"thousands in one call are stored", thousandsAtOnce},
	{"nothing in a call is no error", nothingEnqueued},
	{"what is enqueued while nobody consumes is kept", keptForConsume},
}

// full returns a delivery with every field set that the caller sets.
func full(id string) *callhook.Delivery {
	zone := time.FixedZone("", 5*3600+45*60)
	return &callhook.Delivery{
		ID: id, Tenant: "Ünïted/Ltd. 'a' *>", Agent: `re"ception\n%`, Webhook: "n8n",
		Lane: "%C3%9Cn%C3%AFted%2FLtd%2E%20%27a%27%20%2A%3E/re%22ception%5Cn%25/n8n",
		Type: callhook.TypeCallStatus, Event: callhook.EventStatus, Call: "call/1 – ☎\t.*>" + id,
		At:           time.Date(2031, 2, 3, 4, 5, 6, 789012345, zone),
		Ordered:      true,
		Body:         []byte(`{"n":1.10,"big":12345678901234567890,"text":"<&>\u2028 ☎"}` + "\n"),
		Values:       map[string]string{"{{ call.from }}": "+44 20", "": "no key", `"'{{`: "\x00\u2028<&>", "empty": ""},
		TraceContext: map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b,c=☎"},
		Sealed:       `a key's "name" – 2031/1`,
		// No queue acts on BuildError: a handler does.
		BuildError: "callhook: the \"payload\"\ncannot be built",
		EnqueuedAt: time.Date(2026, 2, 3, 4, 5, 6, 123456789, zone),
		Numbers:    []string{"aGFzaA==", "b/+-_"},
		Record:     json.RawMessage(`{"id":"call","big":12345678901234567890,"ratio":1.10,"none":null,"text":"☎"}`),
		ReplayOf:   "msg_before",
		Attempts:   3, Rejections: 2, Postponed: 1,
		Log: []callhook.Attempt{
			{At: time.Date(2031, 2, 3, 4, 5, 7, 1, time.UTC), Elapsed: 123456789, Timing: callhook.Timing{DNS: 1, Connect: 2, TLS: 3, FirstByte: 4, Body: 5},
				Remote: "[2001:db8::1]:443", Status: 503, Error: "callhook: 503 \"busy\"", Reply: "<html>\u2028☎\x00", ClockSkew: -2 * time.Hour},
			{Elapsed: time.Nanosecond, Error: "no route"},
		},
	}
}

// A delivery is signed, judged and shown by what is stored: a field that is lost or
// rounded sends something else than what was promised, or to somebody else.
func handedOutAsEnqueued(tr *trial) {
	sparse := delivery("sparse", "call", "sparse")
	sparse.Tenant, sparse.Body = "", nil
	raise := map[string]func() *callhook.Delivery{
		"full":    func() *callhook.Delivery { d := full("full"); d.Ordered = tr.limits.Ordered; return d },
		"sparse":  func() *callhook.Delivery { d := *sparse; return &d },
		"emptied": emptied,
	}
	for _, d := range raise {
		tr.enqueue(d())
	}
	inspector, _ := tr.q.(callhook.Inspector)
	r := tr.byHand()
	for id, v := range r.take(len(raise)) {
		want := raise[id]()
		if diff := diff(want, v.Delivery); diff != "" {
			tr.Errorf("%s is not handed out as it was enqueued: %s", id, diff)
		}
		if inspector == nil {
			v.answer(callhook.Delivered())
			continue
		}
		v.answer(callhook.RetryAt(farAway()))
		if got, err := inspector.Get(tr.Context(), id); err != nil {
			tr.Errorf("Get(%q): %v", id, err)
		} else if diff := diff(want, got); diff != "" {
			tr.Errorf("Get does not return %s as it was enqueued: %s", id, diff)
		}
	}
}

// emptied has what is empty but not nil.
func emptied() *callhook.Delivery {
	d := delivery("emptied", "call", "emptied")
	d.At, d.EnqueuedAt = time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 1, 1, 0, 0, 0, 1, time.UTC)
	d.Body, d.Values, d.Numbers, d.Log = []byte{}, map[string]string{}, []string{}, []callhook.Attempt{}
	return d
}

// diff says which field that a queue stores differs; nil and empty are equal, and
// so are times in other zones. Seq, State, RetryAt and Reason are the queue's own.
func diff(want, got *callhook.Delivery) string {
	var out []byte
	field := func(name string, equal bool, want, got any) {
		if !equal {
			out = fmt.Appendf(out, "\n\t%s is %.200q, want %.200q", name, fmt.Sprint(got), fmt.Sprint(want))
		}
	}
	is := func(name string, want, got any) { field(name, want == got, want, got) }
	at := func(name string, want, got time.Time) { field(name, want.Equal(got), want, got) }
	is("ID", want.ID, got.ID)
	is("Tenant", want.Tenant, got.Tenant)
	is("Agent", want.Agent, got.Agent)
	is("Webhook", want.Webhook, got.Webhook)
	is("Type", want.Type, got.Type)
	is("Event", want.Event, got.Event)
	is("Call", want.Call, got.Call)
	at("At", want.At, got.At)
	is("Lane", want.Lane, got.Lane)
	is("Ordered", want.Ordered, got.Ordered)
	field("Body", bytes.Equal(want.Body, got.Body), want.Body, got.Body)
	field("Values", maps.Equal(want.Values, got.Values), want.Values, got.Values)
	is("Sealed", want.Sealed, got.Sealed)
	is("BuildError", want.BuildError, got.BuildError)
	at("EnqueuedAt", want.EnqueuedAt, got.EnqueuedAt)
	field("Numbers", slices.Equal(want.Numbers, got.Numbers), want.Numbers, got.Numbers)
	is("Record", string(want.Record), string(got.Record))
	field("TraceContext", maps.Equal(want.TraceContext, got.TraceContext), want.TraceContext, got.TraceContext)
	is("ReplayOf", want.ReplayOf, got.ReplayOf)
	is("Attempts", want.Attempts, got.Attempts)
	is("Rejections", want.Rejections, got.Rejections)
	is("Postponed", want.Postponed, got.Postponed)
	is("len(Log)", len(want.Log), len(got.Log))
	for i := range min(len(want.Log), len(got.Log)) {
		w, g := want.Log[i], got.Log[i]
		at(fmt.Sprintf("Log[%d].At", i), w.At, g.At)
		w.At, g.At = time.Time{}, time.Time{}
		is(fmt.Sprintf("Log[%d]", i), w, g)
	}
	return string(out)
}

// A body may be sealed, so it is any bytes, and its signature is over every one.
func bodiesKept(tr *trial) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	bodies := map[string][]byte{
		"none":    nil,
		"empty":   {},
		"zero":    {0},
		"newline": []byte("\n"),
		"every":   every,
		"utf8":    []byte("\xef\xbb\xbf{\"a\":\"\xff\xfe\"}"),
	}
	for id, body := range bodies {
		d := delivery(id, "call", id)
		d.Body = slices.Clone(body)
		tr.enqueue(d)
	}
	r := tr.byHand()
	for id, v := range r.take(len(bodies)) {
		if !bytes.Equal(v.Body, bodies[id]) {
			tr.Errorf("the body %q was handed out as %q", bodies[id], v.Body)
		}
		v.answer(callhook.Delivered())
	}
}

// A transcript of an hour is a quarter of a megabyte, and what an engine takes at
// most is what it says in its Limits.
func largeBodyKept(tr *trial) {
	largest := 10_000_000
	if most := tr.limits.MaxBody; most > 0 {
		largest = min(largest, most)
	}
	bodies := map[string][]byte{}
	for id, size := range map[string]int{"quarter": min(256<<10, largest), "largest": largest} {
		body := make([]byte, 0, size+100)
		for n := 0; len(body) < size; n++ { // no two parts of it are alike
			body = append(fmt.Append(body, n), "\xff\x00 a transcript of many words, \n"...)
		}
		bodies[id] = body[:size]
		d := delivery(id, "call", id)
		d.Body = slices.Clone(bodies[id])
		tr.enqueue(d)
	}
	r := tr.byHand()
	for range 2 { // they come back from where the engine keeps them, too
		for id, v := range r.take(len(bodies)) {
			if want := bodies[id]; !bytes.Equal(v.Body, want) {
				tr.Errorf("a body of %d bytes was handed out as %d other bytes (Limits.MaxBody is %d)", len(want), len(v.Body), tr.limits.MaxBody)
			}
			v.attempt(callhook.RetryAt(time.Now()))
		}
	}
	for _, v := range r.take(len(bodies)) {
		v.answer(callhook.Delivered())
	}
}

// Retries are counted, limited and shown by what the last attempt left behind.
func changesKept(tr *trial) {
	tr.enqueue(delivery("crm", "call", "a"))
	want := delivery("crm", "call", "a")
	r := tr.byHand()
	for round := range 12 {
		v := r.next("a")
		want.EnqueuedAt, want.At = v.EnqueuedAt, v.At
		if diff := diff(want, v.Delivery); diff != "" {
			tr.Fatalf("at hand-out %d it is not as the handler left it: %s", round, diff)
		}
		at := time.Now()
		for _, d := range []*callhook.Delivery{want, v.Delivery} {
			d.Attempts++
			d.Rejections += 2
			d.Postponed += 3
			d.Log = append(d.Log, callhook.Attempt{At: at, Elapsed: time.Duration(round), Status: 500 + round, Error: "busy", Reply: "\"no\""})
			d.Log = slices.Clone(d.Log[max(0, len(d.Log)-10):])
		}
		if round%2 == 0 {
			v.answer(callhook.RetryAt(at))
			continue
		}
		v.answer(callhook.Park())
		tr.releases(want.Lane, 1, 1)
	}
	r.next("a").answer(callhook.Delivered())
}

// Whatever hands a runtime's event in twice, the receiver's workflow runs once.
func onceInOneCall(tr *trial) {
	tr.enqueue(events("crm", "call", "a", "a", "b", "a", "b")...)
	delivered(tr, tr.byHand(), "a", "b")
}

// delivered settles these, each of which comes once, whatever their order.
func delivered(tr *trial, r *run, ids ...string) {
	tr.Helper()
	for left := slices.Clone(ids); len(left) > 0; {
		v := r.next(left...)
		v.attempt(callhook.Delivered())
		left = slices.DeleteFunc(left, func(id string) bool { return id == v.ID })
	}
	r.quiet("it had been delivered")
}

// Two nodes may hear of the same event at the same moment.
func onceForMany(tr *trial) {
	const ids = 40
	for _, d := range deliveries("crm", "d", ids) {
		tr.note.raised(d)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for ds := range slices.Chunk(deliveries("crm", "d", ids), 5) {
				if err := tr.q.Enqueue(tr.Context(), ds...); err != nil {
					tr.Errorf("Enqueue: %v", err)
				}
			}
		})
	}
	r := tr.byHand() // in the middle of it
	for _, v := range r.take(ids) {
		v.answer(callhook.Delivered())
	}
	wg.Wait()
	r.quiet("it had been delivered")
}

// An event that is raised again while its delivery is under way must neither go
// out twice nor change what goes out.
func pendingIgnored(tr *trial) {
	again := func() {
		tr.Helper()
		for _, id := range []string{"flying", "waiting", "parked", "blocked"} {
			d := delivery(id, "call", id)
			if id == "blocked" {
				d = delivery("flying", "call", id) // behind flying, which has no Attempts yet
			}
			d.Body = []byte("another body")
			tr.enqueue(d)
		}
	}
	tr.enqueue(delivery("waiting", "call", "waiting"), delivery("parked", "call", "parked"))
	tr.enqueue(events("flying", "call", "flying", "blocked")...)
	again() // ready
	r := tr.byHand()
	first := r.take(3)
	first["waiting"].attempt(callhook.RetryAt(time.Now().Add(4 * glance)))
	first["parked"].attempt(callhook.Park())
	again()
	time.Sleep(5 * glance)
	tr.releases(lane("parked"), 5, 1)
	first["flying"].attempt(callhook.RetryAt(time.Now()))
	for id, v := range r.take(4) {
		if want := `{"id":"` + id + `"}`; string(v.Body) != want {
			tr.Errorf("%s was enqueued again when it was pending, and its body is %q now, want %q", id, v.Body, want)
		}
		v.attempt(callhook.Delivered())
	}
	again()
	r.quiet("its ID is known")
}

// An event that a node hears of late, or again after a restart, was answered by
// the receiver long ago.
func settledIgnored(tr *trial) {
	if tr.limits.Remember <= 0 {
		tr.Errorf("Limits.Remember is %s: a queue remembers the IDs of what is settled at least as long as callhook tries, which is 4 days by default", tr.limits.Remember)
	}
	tr.enqueue(events("crm", "call", "arrived", "gone", "other")...)
	r := tr.byHand()
	r.next("arrived").attempt(callhook.Delivered())
	r.next("gone").attempt(callhook.Dead(callhook.ReasonRejected))
	tr.enqueue(events("crm", "call", "arrived", "gone")...)
	r.next("other").attempt(callhook.Delivered())
	tr.enqueue(events("crm", "call", "arrived", "gone", "last")...)
	delivered(tr, r, "last")
	tr.enqueue(events("elsewhere", "call", "arrived", "gone", "other")...) // the ID is what counts
	r.quiet("it was settled, and its ID is remembered")
}

// A verb that got an error is called again with the same call, and does not know
// which of its webhooks were stored.
func partRepeated(tr *trial) {
	tr.enqueue(events("crm", "call", "a")...)
	tr.enqueue(events("crm", "call", "a", "b")...)
	r := tr.byHand()
	r.next("a").attempt(callhook.Delivered())
	tr.enqueue(events("crm", "call", "a", "b", "c")...)
	delivered(tr, r, "b", "c")
}

// A context that ends ends the call, not the event: whether a part was stored or
// none, after a repetition everything is there, once.
func endedContextRepeated(tr *trial) {
	ended, cancel := context.WithCancel(tr.Context())
	cancel()
	ds := func() []*callhook.Delivery { return deliveries("crm", "d", 5) }
	tr.note.raised(ds()...)
	soon := func(what string, f func() error) {
		tr.Helper()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = f() // an error or not: it may have been quick
		}()
		select {
		case <-done:
		case <-time.After(patience):
			tr.Fatalf("%s with a context that had ended did not return within %s", what, patience)
		}
	}
	soon("Enqueue", func() error { return tr.q.Enqueue(ended, ds()...) })
	soon("Release", func() error { _, err := tr.q.Release(ended, lane("crm"), 1); return err })
	tr.enqueue(ds()...)
	r := tr.byHand()
	for _, v := range r.take(5) {
		v.answer(callhook.Delivered())
	}
	r.quiet("it had been delivered")
}

// An import or a repair hands in what a day brought; no database's limit of
// parameters or bytes in one statement shows.
func thousandsAtOnce(tr *trial) {
	const n = 3_000
	tr.enqueue(deliveries("crm", "d", n)...)
	r := tr.byHand()
	for _, v := range r.take(n) {
		v.verdict <- callhook.Delivered()
	}
	tr.until("all are settled", func() bool { return r.done.Load() == n })
}

// An agent with no webhooks for an event raises nothing.
func nothingEnqueued(tr *trial) {
	if err := tr.q.Enqueue(tr.Context()); err != nil {
		tr.Errorf("Enqueue of nothing: %v", err)
	}
}

// A node that takes calls may start before the one that delivers.
func keptForConsume(tr *trial) {
	tr.enqueue(events("crm", "call", "a", "b")...)
	tr.enqueue(delivery("crm", "other", "c"))
	time.Sleep(glance)
	delivered(tr, tr.byHand(), "a", "b", "c")
}
