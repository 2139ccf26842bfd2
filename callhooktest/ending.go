package callhooktest

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/callhook-go/callhook"
)

var endingPromises = []promise{
	{"Consume returns nil once ctx has ended and those in flight are stored", consumeEnds},
	{"nothing is handed out once ctx has ended", nothingAfterEnd},
	{"Consume with a context that has ended hands out nothing", consumeEnded},
	{"Consume may be called again, and goes on", consumeAgain},
	{"the end of Consume loses nothing of a load", endsUnderLoad},
	{"what is enqueued while Consume ends is kept", enqueuedAtEnd},
	{"after Close every method says so", closed},
	{"Limits do not change", limitsStay},
}

// A deployment asks the process to end: requests under way are finished, and what
// they came to is known afterwards.
func consumeEnds(tr *trial) {
	for i := range 4 { // each in a lane of its own, so that none is kept back
		id := fmt.Sprint("d", i)
		tr.enqueue(delivery(id, "call", id))
	}
	ctx, cancel := context.WithCancel(tr.Context())
	defer cancel()
	inFlight, answer := make(chan struct{}, 4), make(chan struct{})
	var stored atomic.Int64
	handle := func(ctx context.Context, d *callhook.Delivery) callhook.Verdict {
		inFlight <- struct{}{}
		select {
		case <-answer:
		case <-tr.Context().Done():
		}
		if err := ctx.Err(); err != nil {
			tr.Errorf("the handler's ctx has ended (%v): it outlives the ctx of Consume", err)
		}
		done := func() { stored.Add(1) }
		d.Attempts++
		switch d.ID {
		case "d0":
			return callhook.Delivered().Then(done)
		case "d1":
			return callhook.Dead(callhook.ReasonRejected).Then(done)
		case "d2":
			return callhook.RetryAt(time.Now()).Then(done)
		}
		return callhook.Park().Then(done)
	}
	ended := make(chan error, 1)
	go func() { ended <- tr.q.Consume(ctx, handle) }()
	for range 4 {
		select {
		case <-inFlight:
		case <-time.After(patience):
			tr.Fatalf("not all were handed out within %s", patience)
		}
	}
	cancel()
	select {
	case err := <-ended:
		tr.Fatalf("Consume returned %v while 4 were in flight: it waits for them", err)
	case <-time.After(glance):
	}
	close(answer)
	select {
	case err := <-ended:
		if err != nil {
			tr.Errorf("Consume returned %v, want nil", err)
		}
	case <-time.After(patience):
		tr.Fatalf("Consume did not return within %s after those in flight were done", patience)
	}
	if n := stored.Load(); n != 4 {
		tr.Errorf("Consume returned when the Done of %d verdicts had been called, want all 4", n)
	}
	tr.releases(lane("d3"), 5, 1)
	r := tr.byHand()
	for id, v := range r.take(2) {
		if (id != "d2" && id != "d3") || v.Attempts != 1 {
			tr.Errorf("%s was handed out with %d Attempts, want d2, to be retried, and d3, parked and released, with 1", id, v.Attempts)
		}
		v.attempt(callhook.Delivered())
	}
	r.quiet("it was settled before Consume ended")
}

// What begins after the end was asked for makes the end take another timeout.
func nothingAfterEnd(tr *trial) {
	tr.enqueue(events("crm", "call", "a", "b")...)
	r := tr.byHand()
	a := r.next("a")
	r.cancel()
	time.Sleep(notice)
	tr.enqueue(delivery("crm", "other", "c"))
	r.quiet("ctx had ended")
	a.attempt(callhook.Delivered()) // b may go, but for the end
	r.wait()
	r.quiet("Consume has returned")
	r = tr.byHand()
	delivered(tr, r, "b", "c")
}

// A process that is told to end before it began does.
func consumeEnded(tr *trial) {
	tr.enqueue(delivery("crm", "call", "a"))
	ctx, cancel := context.WithCancel(tr.Context())
	cancel()
	var handed atomic.Int64
	ended := make(chan error, 1)
	go func() {
		ended <- tr.q.Consume(ctx, func(context.Context, *callhook.Delivery) callhook.Verdict {
			handed.Add(1)
			return callhook.Park()
		})
	}()
	select {
	case err := <-ended:
		if err != nil {
			tr.Errorf("Consume returned %v, want nil", err)
		}
	case <-time.After(patience):
		tr.Fatalf("Consume with a ctx that had ended did not return within %s", patience)
	}
	if n := handed.Load(); n > 0 {
		tr.Errorf("Consume with a ctx that had ended handed out %d", n)
	}
	delivered(tr, tr.byHand(), "a")
}

// A node may stop delivering for a while, and a test does it all the time.
func consumeAgain(tr *trial) {
	for round := range 5 {
		id := fmt.Sprint("d", round)
		tr.enqueue(events("crm", "call", id, id+"x")...)
		r := tr.byHand()
		delivered(tr, r, id, id+"x")
		r.stop()
	}
}

// The end comes in the middle of everything.
func endsUnderLoad(tr *trial) {
	const n = 600
	attempt := func(d *callhook.Delivery) callhook.Verdict {
		if d.Attempts++; d.Attempts == 1 && len(d.ID)%2 == 0 {
			return callhook.RetryAt(time.Now().Add(2 * time.Millisecond))
		}
		return callhook.Delivered()
	}
	p := newPorter(tr, 8, attempt)
	for i := range 6 {
		tr.enqueue(deliveries(fmt.Sprint("hook", i), fmt.Sprint("d", i, "_"), n/6)...)
	}
	for range 8 {
		p.begin()
		time.Sleep(3 * time.Millisecond)
		p.run.stop()
		settled := p.settled.Load()
		p = newPorter(tr, 8, attempt)
		p.settled.Store(settled)
	}
	p.begin()
	p.until(n)
}

// Calls go on while a node ends.
func enqueuedAtEnd(tr *trial) {
	tr.enqueue(delivery("crm", "call", "a"))
	r := tr.byHand()
	a := r.next("a")
	r.cancel()
	time.Sleep(notice)
	tr.enqueue(delivery("crm", "other", "b"))
	tr.releases(lane("crm"), 1, 0)
	a.answer(callhook.Park())
	if freed := tr.release(lane("crm"), 5); freed < 1 {
		tr.Errorf("Release returned %d while Consume ends, want 1: a was parked", freed)
	}
	r.wait()
	delivered(tr, tr.byHand(), "a", "b")
}

// A runtime that uses a queue after its end is told what is wrong with it.
func closed(tr *trial) {
	tr.enqueue(delivery("crm", "call", "a"))
	limits := tr.q.Limits()
	for i := range 2 {
		if err := tr.q.Close(); err != nil {
			tr.Errorf("Close for the %d. time: %v, want nil: it may be called again", i+1, err)
		}
	}
	ctx := tr.Context()
	tr.wantErr("Enqueue after Close", tr.q.Enqueue(ctx, delivery("crm", "call", "b")), callhook.ErrQueueClosed)
	_, err := tr.q.Release(ctx, "", 1)
	tr.wantErr("Release after Close", err, callhook.ErrQueueClosed)
	ended := make(chan error, 1)
	go func() {
		ended <- tr.q.Consume(ctx, func(context.Context, *callhook.Delivery) callhook.Verdict {
			tr.Error("a delivery was handed out after Close")
			return callhook.Park()
		})
	}()
	select {
	case err := <-ended:
		tr.wantErr("Consume after Close", err, callhook.ErrQueueClosed)
	case <-time.After(patience):
		tr.Fatal("Consume after Close does not return, want ErrQueueClosed")
	}
	if got := tr.q.Limits(); got != limits {
		tr.Errorf("Limits after Close are %+v, want %+v as before", got, limits)
	}
}

// callhook asks once what it can rely on.
func limitsStay(tr *trial) {
	limits := tr.limits
	if limits.MaxBody < 0 || limits.Remember < 0 || limits.Redeliver < 0 || limits.Resolution < 0 {
		tr.Errorf("Limits are %+v: none can be below zero", limits)
	}
	r := tr.byHand()
	tr.enqueue(delivery("crm", "call", "a"))
	r.next("a").attempt(callhook.Delivered())
	r.stop()
	if got := tr.q.Limits(); got != limits {
		tr.Errorf("Limits have become %+v, were %+v", got, limits)
	}
}
