package callhook_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callhook-go/callhook"
)

type contextKey struct{}

// TestConsumeEnds: Consume hands nothing out once its context has ended, waits for
// what is in flight, whose context lives on, and may be called again.
func TestConsumeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := callhook.NewMemoryQueue(nil)
		for i := range 3 {
			enqueue(t, q, item(fmt.Sprint("msg_", i), "w", fmt.Sprint(i)))
		}
		var finished atomic.Int64
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), contextKey{}, "value"))
		handle := func(ctx context.Context, d *callhook.Delivery) callhook.Verdict {
			time.Sleep(10 * time.Second)
			if ctx.Err() != nil || ctx.Value(contextKey{}) != "value" {
				t.Errorf("the handler's context: %v, value %v", ctx.Err(), ctx.Value(contextKey{}))
			}
			finished.Add(1)
			switch d.ID {
			case "msg_0":
				return callhook.Delivered()
			case "msg_1":
				return callhook.RetryAt(time.Now().Add(time.Second))
			}
			return callhook.Park()
		}
		start := time.Now()
		time.AfterFunc(time.Second, cancel)
		time.AfterFunc(5*time.Second, func() { enqueue(t, q, item("msg_3", "w", "3")) })
		if err := q.Consume(ctx, handle); err != nil {
			t.Errorf("Consume: %v", err)
		}
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("Consume returned after %s, want 10s", took)
		}
		if n := finished.Load(); n != 3 {
			t.Errorf("%d handlers had returned, want 3", n)
		}
		time.Sleep(time.Hour)
		if n := finished.Load(); n != 3 {
			t.Errorf("%d were handed out after Consume had ended", n-3)
		}
		if err := q.Consume(ctx, handle); err != nil || finished.Load() != 3 {
			t.Errorf("Consume with an ended context: %v, %d handed out", err, finished.Load()-3)
		}
		counts(t, q, 1, 0, 3)
		if _, err := q.Release(t.Context(), "", 10); err != nil {
			t.Fatal(err)
		}
		stop := consume(t, q, func(context.Context, *callhook.Delivery) callhook.Verdict { return callhook.Delivered() })
		synctest.Wait()
		stop()
		counts(t, q, 4, 0, 0)
	})
}

// TestOneConsumeAtATime: a second is refused, also while the first waits for what
// is in flight.
func TestOneConsumeAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := callhook.NewMemoryQueue(nil)
		enqueue(t, q, item("msg_1", "w", "c"))
		handle := func(context.Context, *callhook.Delivery) callhook.Verdict {
			time.Sleep(10 * time.Second)
			return callhook.Delivered()
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- q.Consume(ctx, handle) }()
		for _, after := range []string{"under way", "about to end"} {
			time.Sleep(time.Second)
			if err := q.Consume(t.Context(), handle); err == nil {
				t.Errorf("a second Consume while the first is %s returned nil", after)
			}
			cancel()
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		counts(t, q, 1, 0, 0)
	})
}

// TestMemoryRetryTimes: what is to be tried again comes back at its time, the
// earliest first, also when Consume begins anew in between.
func TestMemoryRetryTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := callhook.NewMemoryQueue(nil)
		start := time.Now()
		waits := map[string]time.Duration{"a": time.Hour, "b": time.Second, "c": time.Minute, "d": 90 * time.Second, "e": -time.Second, "f": time.Second}
		var mu sync.Mutex
		got := map[string]time.Duration{}
		handle := func(_ context.Context, d *callhook.Delivery) callhook.Verdict {
			mu.Lock()
			defer mu.Unlock()
			if d.Attempts++; d.Attempts == 1 {
				return callhook.RetryAt(start.Add(waits[d.ID]))
			}
			got[d.ID] = time.Since(start)
			return callhook.Delivered()
		}
		stop := consume(t, q, handle)
		for id := range waits {
			enqueue(t, q, item(id, "w", id))
		}
		time.Sleep(70 * time.Second)
		stop()
		time.Sleep(50 * time.Second) // d is due meanwhile
		stop = consume(t, q, handle)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		want := map[string]time.Duration{"a": time.Hour, "b": time.Second, "c": time.Minute, "d": 2 * time.Minute, "e": 0, "f": time.Second}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		stop()
	})
}

// TestMemoryDeadLetters: dead letters are listed with their reasons and logs, the
// newest first, as copies, for 30 days and up to MaxDead.
func TestMemoryDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := callhook.NewMemoryQueue(&callhook.MemoryOptions{MaxDead: 5})
		handle := func(_ context.Context, d *callhook.Delivery) callhook.Verdict {
			if d.Call == "pending" {
				return callhook.RetryAt(time.Now().Add(1000 * time.Hour))
			}
			d.Attempts++
			d.Log = append(d.Log, callhook.Attempt{At: time.Now(), Status: 422, Error: "refused " + d.ID, Reply: "no"})
			return callhook.Dead([]callhook.Reason{callhook.ReasonRejected, callhook.ReasonTooLarge}[len(d.Call)%2])
		}
		stop := consume(t, q, handle)
		for i, call := range []string{"c", "pending", "cc", "ccc", "cccc"} {
			d := item(fmt.Sprint("msg_", i), fmt.Sprint("w", i%2), call)
			d.Values = map[string]string{"call.id": call}
			enqueue(t, q, d)
			time.Sleep(time.Second)
		}
		stop()
		type letter struct {
			ID     string
			State  callhook.State
			Reason callhook.Reason
			Error  string
		}
		letters := func(f callhook.Filter) (out []letter) {
			for _, d := range list(t, q, f) {
				l := letter{ID: d.ID, State: d.State, Reason: d.Reason}
				d, err := q.Get(t.Context(), d.ID)
				if err != nil {
					t.Fatal(err)
				}
				if len(d.Log) > 0 {
					l.Error = d.Log[0].Error
				}
				out = append(out, l)
			}
			return out
		}
		dead, rejected, large := callhook.StateDead, callhook.ReasonRejected, callhook.ReasonTooLarge
		m0, m1 := letter{"msg_0", dead, large, "refused msg_0"}, letter{"msg_1", callhook.StateWaiting, "", ""}
		m2, m3, m4 := letter{"msg_2", dead, rejected, "refused msg_2"}, letter{"msg_3", dead, large, "refused msg_3"}, letter{"msg_4", dead, rejected, "refused msg_4"}
		for _, tt := range []struct {
			filter callhook.Filter
			want   []letter
		}{
			{callhook.Filter{}, []letter{m4, m3, m2, m1, m0}},
			{callhook.Filter{State: dead}, []letter{m4, m3, m2, m0}},
			{callhook.Filter{Reason: rejected}, []letter{m4, m2}},
			{callhook.Filter{Call: "ccc"}, []letter{m3}},
			{callhook.Filter{Webhook: "w1"}, []letter{m3, m1}},
			{callhook.Filter{Agent: "a", Limit: 2}, []letter{m4, m3}},
			{callhook.Filter{Limit: -1}, []letter{m4, m3, m2, m1, m0}},
			{callhook.Filter{Agent: "b"}, nil},
			{callhook.Filter{Tenant: "t"}, nil},
			{callhook.Filter{State: callhook.StateDelivered}, nil},
		} {
			if diff := cmp.Diff(tt.want, letters(tt.filter)); diff != "" {
				t.Errorf("%+v (-want +got)\n%s", tt.filter, diff)
			}
		}

		get := func() *callhook.Delivery {
			d, err := q.Get(t.Context(), "msg_4")
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		mine := get() // a copy
		mine.Body[0], mine.Values["call.id"], mine.Log[0].Error = 'x', "x", "x"
		if theirs := get(); string(theirs.Body) != `{}` || theirs.Values["call.id"] != "cccc" || theirs.Log[0].Error != "refused msg_4" {
			t.Errorf("Get gives what the queue goes on using: %+v", theirs)
		}

		stop = consume(t, q, handle)
		for i := range 3 {
			enqueue(t, q, item(fmt.Sprint("msg_1", i), "w0", "c"))
			time.Sleep(time.Second)
		}
		if got := len(letters(callhook.Filter{State: dead})); got != 5 {
			t.Errorf("%d dead letters are kept, want MaxDead, 5", got)
		}
		time.Sleep(30 * 24 * time.Hour)
		enqueue(t, q, item("msg_20", "w0", "c"))
		synctest.Wait()
		if got := letters(callhook.Filter{State: dead}); len(got) != 1 {
			t.Errorf("after 30 days there are %v, want the last alone", got)
		}
		counts(t, q, 0, 8, 1)
		stop()
	})
}

// TestListOfMany: the newest are found among many.
func TestListOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := callhook.NewMemoryQueue(nil)
		const n = 5000
		for i := range n {
			enqueue(t, q, item(fmt.Sprintf("msg_%04d", i), "w", fmt.Sprint(i)))
			time.Sleep(time.Millisecond)
		}
		for limit, want := range map[int]int{0: 100, 1: 1, 100: 100, 2500: 2500, 10_000: n} {
			got := list(t, q, callhook.Filter{Limit: limit})
			if len(got) != want {
				t.Errorf("limit %d gives %d, want %d", limit, len(got), want)
			}
			for i, d := range got {
				if d.ID != fmt.Sprintf("msg_%04d", n-1-i) {
					t.Fatalf("limit %d: %s is at %d", limit, d.ID, i)
				}
			}
		}
	})
}

// TestMemoryForgets: what is settled leaves nothing behind but its ID, and that for
// a time.
func TestMemoryForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := callhook.NewMemoryQueue(&callhook.MemoryOptions{MaxRemembered: 100})
		stop := consume(t, q, func(ctx context.Context, d *callhook.Delivery) callhook.Verdict {
			switch d.Attempts++; d.Attempts {
			case 1:
				return callhook.RetryAt(time.Now().Add(time.Minute))
			case 2:
				return callhook.Park()
			}
			return callhook.Delivered()
		})
		for i := range 1000 {
			enqueue(t, q, item(fmt.Sprint("msg_", i), fmt.Sprint("w", i%50), fmt.Sprint("c", i%300)))
		}
		time.Sleep(time.Hour)
		for range 100 {
			if _, err := q.Release(t.Context(), "", 1000); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		for range 100 {
			_, _ = q.Release(t.Context(), "", 1000)
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		want := map[string]int{"items": 0, "ready": 0, "waiting": 0, "lanes": 50, "chains": 0, "dead": 0, "remembered": 100, "ages": 100, "bytes": 0, "starting": 0}
		if diff := cmp.Diff(want, callhook.QueueSizes(q)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		counts(t, q, 1000, 0, 0)
		stop()
	})
}

// TestMemoryTogether: every method from many goroutines at once, for the race
// detector, while handlers write to what they are given.
func TestMemoryTogether(t *testing.T) {
	q := callhook.NewMemoryQueue(&callhook.MemoryOptions{})
	const n = 300
	ctx, cancel := context.WithCancel(t.Context())
	var settled atomic.Int64
	handle := func(_ context.Context, d *callhook.Delivery) callhook.Verdict {
		d.Attempts++
		d.Log = append(d.Log, callhook.Attempt{At: time.Now(), Reply: strings.Repeat("x", d.Attempts)})
		switch {
		case d.Attempts < 3:
			return callhook.RetryAt(time.Now())
		case d.Attempts < 5:
			return callhook.Park()
		}
		if settled.Add(1) == 4*n {
			cancel()
		}
		if d.Call[len(d.Call)-1] == '7' {
			return callhook.Dead(callhook.ReasonRejected)
		}
		return callhook.Delivered()
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range n {
				d := item(fmt.Sprintf("msg_%d_%d", g, i), fmt.Sprint("w", i%3), fmt.Sprint("c", i))
				if err := q.Enqueue(t.Context(), d, d); err != nil {
					t.Error(err)
				}
				_ = d.ID // a caller may look at what it enqueued
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				for _, d := range list(t, q, callhook.Filter{}) {
					d.Log = append(d.Log, callhook.Attempt{})
				}
				_, _ = q.Counts(ctx)
				_, _ = q.Release(ctx, "", 3)
			}
		})
	}
	if err := q.Consume(ctx, handle); err != nil {
		t.Error(err)
	}
	wg.Wait()
	counts(t, q, 4*n*9/10, 4*n/10, 0)
}

// TestMemoryQuota: over its bound a tenant's events are refused whole and others' are
// not; what is repeated is no error, and what is settled, given up or erased makes
// room.
func TestMemoryQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := callhook.NewMemoryQueue(&callhook.MemoryOptions{MaxTenantBytes: 10_000})
		of := func(tenant, id string, size int) *callhook.Delivery { // takes size
			d := item(id, tenant+id, id) // in a lane of its own
			d.Tenant, d.Body = tenant, make([]byte, size-512)
			return d
		}
		refused := func(ds ...*callhook.Delivery) {
			t.Helper()
			if err := q.Enqueue(t.Context(), ds...); !errors.Is(err, callhook.ErrQuota) || !strings.Contains(err.Error(), "MaxTenantBytes is 10000") {
				t.Fatalf("Enqueue: %v, want %v with the bound", err, callhook.ErrQuota)
			}
		}
		a, b := of("acme", "a", 4000), of("acme", "b", 4000)
		enqueue(t, q, a, b)
		refused(of("acme", "c", 2001))
		refused(of("acme", "c", 1000), of("acme", "d", 1001)) // all or nothing
		enqueue(t, q, of("acme", "c", 1500), a, b)            // of which one is new
		enqueue(t, q, of("beta", "x", 10_000))
		refused(of("beta", "y", 600))
		enqueue(t, q, a, of("acme", "c", 1500), b)
		counts(t, q, 0, 0, 4)

		// Attempts go on, and their logs count.
		state := map[string]callhook.Verdict{}
		stop := consume(t, q, func(_ context.Context, d *callhook.Delivery) callhook.Verdict {
			d.Attempts++
			if v, ok := state[d.ID]; ok {
				return v
			}
			d.Log = append(d.Log, callhook.Attempt{Reply: strings.Repeat("r", 400)})
			return callhook.Park()
		})
		synctest.Wait()
		stop()
		refused(of("acme", "d", 600))
		enqueue(t, q, a, b)
		state["a"], state["b"] = callhook.Delivered(), callhook.Dead(callhook.ReasonRejected)
		stop = consume(t, q, func(_ context.Context, d *callhook.Delivery) callhook.Verdict {
			if v, ok := state[d.ID]; ok {
				return v
			}
			return callhook.Park()
		})
		if _, err := q.Release(t.Context(), "", -1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		counts(t, q, 1, 1, 2)
		enqueue(t, q, of("acme", "d", 10_000-1500-560)) // room of what was delivered and given up
		refused(of("acme", "e", 600))
		enqueue(t, q, a, b, of("acme", "d", 10_000))

		// What is erased makes room and stays known; what is replayed is not refused.
		stop()
		if n, err := q.Erase(t.Context(), callhook.Filter{IDs: []string{"d"}}); n != 1 || err != nil {
			t.Fatalf("Erase: %d, %v", n, err)
		}
		enqueue(t, q, of("acme", "e", 7000), of("acme", "d", 10_000))
		if n, err := q.Replay(t.Context(), callhook.Filter{}); n != 1 || err != nil {
			t.Fatalf("Replay: %d, %v", n, err)
		}
		refused(of("acme", "f", 600))
		if n, err := q.Erase(t.Context(), callhook.Filter{IDs: []string{"e"}}); n != 1 || err != nil {
			t.Fatalf("Erase: %d, %v", n, err)
		}
		refused(of("acme", "f", 10_000-1500-560-4000-560+1)) // b and c, each with its log
		enqueue(t, q, of("acme", "f", 10_000-1500-560-4000-560))
		want := callhook.Counts{Accepted: 7, Delivered: 1, Pending: 4, Erased: 2}
		if got, err := q.Counts(t.Context()); got != want || err != nil {
			t.Errorf("counts: %+v, %v, want %+v", got, err, want)
		}
	})
}

// TestMemoryFullOfWhatIsKnown: a queue that its logs have filled takes what it knows.
func TestMemoryFullOfWhatIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := callhook.NewMemoryQueue(&callhook.MemoryOptions{MaxBytes: 1000})
		d := item("msg_1", "w", "c")
		enqueue(t, q, d)
		stop := consume(t, q, func(_ context.Context, d *callhook.Delivery) callhook.Verdict {
			d.Log = append(d.Log, callhook.Attempt{Reply: strings.Repeat("r", 1000)})
			return callhook.RetryAt(time.Now().Add(time.Hour))
		})
		defer stop()
		synctest.Wait()
		enqueue(t, q, d)
		if err := q.Enqueue(t.Context(), item("msg_2", "w", "c")); !errors.Is(err, callhook.ErrQueueFull) {
			t.Errorf("Enqueue: %v, want %v", err, callhook.ErrQueueFull)
		}
	})
}
