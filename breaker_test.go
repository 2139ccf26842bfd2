package callhook_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/google/go-cmp/cmp"
)

// lkTold remembers when a lookup's endpoint was said to be down and up.
type lkTold struct {
	mu       sync.Mutex
	down, up []callhook.LaneState
}

func (l *lkTold) trace() *callhook.Trace {
	add := func(to *[]callhook.LaneState) func(callhook.LaneState) {
		return func(s callhook.LaneState) {
			l.mu.Lock()
			defer l.mu.Unlock()
			*to = append(*to, s)
		}
	}
	return &callhook.Trace{LaneDown: add(&l.down), LaneUp: add(&l.up)}
}

func (l *lkTold) counts() [2]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return [2]int{len(l.down), len(l.up)}
}

// lkFail opens the breaker of an endpoint that is there.
func lkFail(t *testing.T, h *callhook.Hooks, x *switchable) {
	t.Helper()
	x.set(status(500))
	for range 5 {
		if res := h.PreCall(t.Context(), lkCaller()); res.Outcome != callhook.OutcomeFailed {
			t.Fatalf("%s, want failed", res)
		}
	}
	if res := h.PreCall(t.Context(), lkCaller()); res.Outcome != callhook.OutcomeOpen {
		t.Fatalf("%s after 5 failures, want open", res)
	}
	synctest.Wait() // until it was told
}

// lkDown are the webhooks that Lanes calls down.
func lkDown(h *callhook.Hooks) (out []callhook.LaneState) {
	for _, l := range h.Lanes() {
		if l.Trouble != "" {
			out = append(out, l)
		}
	}
	return out
}

// TestBreakerOpens: callers are spared an endpoint that fails or is slow, and no
// other: what a caller does, or hears about itself, says nothing of the endpoint.
func TestBreakerOpens(t *testing.T) {
	hungUp := func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(time.Second, cancel)
		return ctx, cancel
	}
	shorter := func(ctx context.Context) (context.Context, context.CancelFunc) {
		return context.WithTimeout(ctx, 1900*time.Millisecond)
	}
	many := func(n int, f http.HandlerFunc) []http.HandlerFunc { return slices.Repeat([]http.HandlerFunc{f}, n) }
	slow, quick := lkSlow(1700*time.Millisecond, lkAda), lkSlow(1500*time.Millisecond, lkAda)
	for _, tt := range []struct {
		name    string
		preCall string
		answers []http.HandlerFunc
		context func(context.Context) (context.Context, context.CancelFunc)
		options func(*callhook.Options)
		opens   bool
	}{
		{name: "5 failures", answers: many(5, status(500)), opens: true},
		{name: "4 failures", answers: many(4, status(500))},
		{name: "503", answers: many(5, status(503, "Retry-After: 1")), opens: true},
		{name: "no answer in time", answers: many(5, never), opens: true},
		{name: "a body that never ends", answers: many(5, stall(200, `{"variables":`)), opens: true},
		{name: "connections cut off", answers: many(5, cutOff), opens: true},
		{name: "redirects", answers: many(5, status(302, "Location: http://crm.test/x")), opens: true},
		{name: "half of the last 20", answers: append(many(10, lkAda), many(10, status(500))...), opens: true},
		{name: "less than half of the last 20", answers: append(many(10, lkAda), many(9, status(500))...)},
		{name: "failures and successes in turn", answers: slices.Repeat([]http.HandlerFunc{lkAda, lkAda, status(500)}, 20)},
		{name: "20 slow ones", answers: many(20, slow), opens: true},
		{name: "19 slow ones", answers: many(19, slow)},
		{name: "16 slow ones of 20", answers: append(many(4, lkAda), many(16, slow)...), opens: true},
		{name: "15 slow ones of 20", answers: append(many(5, lkAda), many(15, slow)...)},
		{name: "not that slow", answers: many(40, quick)},
		{name: "400", answers: many(30, status(400))},
		{name: "401", answers: many(30, status(401))},
		{name: "404", answers: many(30, status(404))},
		{name: "429", answers: many(30, status(429))},
		{name: "nothing about anybody", answers: many(30, status(204))},
		{name: "two by one number", preCall: `"response": {"unique": "n"}`, answers: many(30, reply(200, `{"n": 2}`, isJSON))},
		{name: "callers hang up", answers: many(30, never), context: hungUp},
		{name: "callers have less time than the webhook", answers: many(30, never), context: shorter},
		{name: "no secret", preCall: `"headers": {"X": "${KEY}"}`, answers: many(30, lkAda), options: func(o *callhook.Options) { o.Secrets = callhook.EnvSecrets("LK_NONE_") }},
		{name: "the config source takes the time", answers: many(30, lkSlow(300*time.Millisecond, lkAda)), options: func(o *callhook.Options) { o.Configs = slowly{o.Configs, 1900 * time.Millisecond} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, n *network) {
				x := newSwitchable(lkAda)
				h := lkHooks(t, n, x, tt.preCall, tt.options)
				for i, answer := range tt.answers {
					x.set(answer)
					ctx, cancel := t.Context(), context.CancelFunc(func() {})
					if tt.context != nil {
						ctx, cancel = tt.context(ctx)
					}
					if res := h.PreCall(ctx, lkCaller()); res.Outcome == callhook.OutcomeOpen {
						t.Fatalf("%s at the lookup %d of %d", res, i+1, len(tt.answers))
					}
					cancel()
					synctest.Wait()
				}
				x.set(lkAda)
				asked := len(x.requests())
				start := time.Now()
				res := h.PreCall(t.Context(), lkCaller())
				if opened := res.Outcome == callhook.OutcomeOpen; opened != tt.opens {
					t.Fatalf("then %s, want open: %t", res, tt.opens)
				}
				if tt.opens && (len(x.requests()) != asked || time.Since(start) != 0 || res.Attempts != 0 || res.Err != nil || res.Variables["customer_name"] != "there") {
					t.Errorf("%s, %d requests, variables %v", res, len(x.requests())-asked, res.Variables)
				}
			})
		})
	}
}

// TestBreakerRecovers: while the endpoint is down one lookup at a time asks it, at
// pauses that grow; when it is back the others come slowly, so that it stays up.
func TestBreakerRecovers(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x, told := newSwitchable(lkAda), new(lkTold)
		h := lkHooks(t, n, x, "", func(o *callhook.Options) { o.Trace = told.trace() })
		opened := time.Now()
		lkFail(t, h, x)
		lane := callhook.LaneRef{Agent: "reception", Webhook: "pre_call"}
		if down := lkDown(h); len(down) != 1 || down[0].LaneRef != lane || down[0].Trouble != callhook.ReasonDown || !down[0].Since.Equal(opened) ||
			!cmp.Equal(down, told.down) || down[0].Until.Sub(opened) > 1200*time.Millisecond {
			t.Errorf("Lanes tells %+v, LaneDown %+v", down, told.down)
		}

		x.set(lkSlow(200*time.Millisecond, status(500)))
		last, seen := opened, len(x.requests())
		for _, pause := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
			for len(x.requests()) == seen {
				if pause *= 1; time.Since(last) > 40*time.Second {
					t.Fatalf("no probe within %s", time.Since(last))
				}
				go h.PreCall(t.Context(), lkCaller())
				time.Sleep(50 * time.Millisecond)
				synctest.Wait()
			}
			at := x.requests()[seen].At
			least, most := pause*time.Second*8/10, min(pause*time.Second*12/10, 30*time.Second)
			if gap := at.Sub(last); gap < least || gap > most+100*time.Millisecond {
				t.Errorf("a probe after %s, want %s to %s", gap, least, most)
			}
			var wg sync.WaitGroup
			for range 20 { // while it is under way nobody else asks
				wg.Go(func() {
					if res := h.PreCall(t.Context(), lkCaller()); res.Outcome != callhook.OutcomeOpen || res.Elapsed != 0 {
						t.Errorf("%s beside a probe", res)
					}
				})
			}
			wg.Wait()
			time.Sleep(200 * time.Millisecond)
			if last, seen = at.Add(200*time.Millisecond), seen+1; len(x.requests()) != seen {
				t.Fatalf("%d requests, want %d", len(x.requests()), seen)
			}
		}
		if told.counts() != [2]int{1, 0} {
			t.Errorf("down and up were told %v times", told.counts())
		}

		x.set(lkSlow(100*time.Millisecond, lkAda))
		time.Sleep(31 * time.Second)
		x.most()
		var most []int
		for range 6 {
			outcomes := lkMany(t, h, 100)
			most = append(most, x.most())
			if outcomes[callhook.OutcomeApplied] != most[len(most)-1] || outcomes[callhook.OutcomeApplied]+outcomes[callhook.OutcomeOpen] != 100 {
				t.Errorf("outcomes %v for %d requests", outcomes, most)
			}
		}
		if diff := cmp.Diff([]int{1, 2, 4, 8, 16, 100}, most); diff != "" {
			t.Errorf("requests at once (-want +got)\n%s", diff)
		}
		if told.counts() != [2]int{1, 1} || len(lkDown(h)) != 0 {
			t.Errorf("down and up were told %v times, Lanes tells %v", told.counts(), h.Lanes())
		}
	})
}

// TestBreakerReopens: an endpoint that fails again while it is being tried is left
// alone at once, and not after five more callers waited.
func TestBreakerReopens(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x, told := newSwitchable(lkAda), new(lkTold)
		h := lkHooks(t, n, x, "", func(o *callhook.Options) { o.Trace = told.trace() })
		lkFail(t, h, x)
		time.Sleep(2 * time.Second)
		x.set(lkAda)
		got := lkMany(t, h, 1)
		x.set(status(500))
		got[callhook.OutcomeFailed] += lkMany(t, h, 1)[callhook.OutcomeFailed]
		got[callhook.OutcomeOpen] += lkMany(t, h, 1)[callhook.OutcomeOpen]
		want := map[callhook.Outcome]int{callhook.OutcomeApplied: 1, callhook.OutcomeFailed: 1, callhook.OutcomeOpen: 1}
		if diff := cmp.Diff(want, got); diff != "" || told.counts() != [2]int{2, 1} {
			t.Errorf("told %v, (-want +got)\n%s", told.counts(), diff)
		}
	})
}

// TestBreakerProbeSaysNothing: a probe whose caller hangs up, or who is refused, is
// neither a success nor a failure, and the next caller probes.
func TestBreakerProbeSaysNothing(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{"hangs up": never, "refused": lkSlow(500*time.Millisecond, status(401))} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x := newSwitchable(lkAda)
				h := lkHooks(t, n, x, "", nil)
				lkFail(t, h, x)
				time.Sleep(2 * time.Second)
				x.set(answer)
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				if res := h.PreCall(ctx, lkCaller()); res.Outcome != callhook.OutcomeFailed {
					t.Errorf("the probe: %s", res)
				}
				synctest.Wait()
				if len(lkDown(h)) != 1 {
					t.Errorf("Lanes: %v", h.Lanes())
				}
				x.set(lkAda)
				if res := h.PreCall(t.Context(), lkCaller()); res.Outcome != callhook.OutcomeApplied {
					t.Errorf("the next: %s", res)
				}
			})
		})
	}
}

// TestBreakerStragglers: what was under way when it opened is no probe: it delays
// none, makes no pause longer, and does not bring the crowd back.
func TestBreakerStragglers(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lands []time.Duration // when stragglers end
		with  http.HandlerFunc
	}{
		{"that fail", []time.Duration{3 * time.Second, 5500 * time.Millisecond, 8 * time.Second}, status(500)},
		{"that work", []time.Duration{1200 * time.Millisecond, 1300 * time.Millisecond, 8 * time.Second}, lkAda},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x, told := newSwitchable(lkAda), new(lkTold)
				h := lkHooks(t, n, x, `"timeout": "10s"`, func(o *callhook.Options) { o.Trace = told.trace() })
				start := time.Now()
				var wg sync.WaitGroup
				for _, d := range tt.lands {
					x.set(lkSlow(d, tt.with))
					wg.Go(func() { h.PreCall(t.Context(), lkCaller()) })
					synctest.Wait()
				}
				time.Sleep(time.Second)
				lkFail(t, h, x)
				asked := len(x.requests())
				for time.Since(start) < 9*time.Second {
					h.PreCall(t.Context(), lkCaller())
					time.Sleep(50 * time.Millisecond)
				}
				wg.Wait()
				var gaps []time.Duration
				last := start.Add(time.Second)
				for i, r := range x.requests()[asked:] {
					gap := r.At.Sub(last)
					if pause := time.Second << i; gap < pause*8/10 || gap > pause*12/10+50*time.Millisecond {
						t.Errorf("probe %d came after %s, want about %s", i+1, gap, pause)
					}
					gaps, last = append(gaps, gap), r.At
				}
				if len(gaps) < 2 || told.counts() != [2]int{1, 0} {
					t.Errorf("probes after %v, down and up were told %v times", gaps, told.counts())
				}
			})
		})
	}
}

// TestBreakerOfOneConfig: whoever publishes a new URL does not wait for a pause that
// the old one earned, and what is shown is about the new one.
func TestBreakerOfOneConfig(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newSwitchable(lkAda)
		source := new(lkSource)
		source.Store(lookup{}.agent(t))
		h := lkHooks(t, n, x, "", func(o *callhook.Options) { o.Configs = source })
		lkFail(t, h, x)
		x.set(lkAda)
		source.Store(lookup{preCall: `"timeout": "1s"`}.agent(t))
		time.Sleep(2 * time.Second) // for whoever reads the source now and then
		if got := lkMany(t, h, 50); got[callhook.OutcomeApplied] != 50 {
			t.Errorf("after publishing: %v", got)
		}
		if down := lkDown(h); len(down) != 0 {
			t.Errorf("Lanes tells of the old config: %+v", down)
		}
	})
}

// TestBreakerForgets: a process that publishes for years does not remember each
// config that ever had a failure.
func TestBreakerForgets(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newSwitchable(status(500))
		source := new(lkSource)
		h := lkHooks(t, n, x, "", func(o *callhook.Options) { o.Configs = source })
		for i := range 50 {
			source.Store(lookup{preCall: fmt.Sprintf(`"timeout": "%dms"`, 1000+i)}.agent(t))
			h.PreCall(t.Context(), lkCaller())
			time.Sleep(time.Hour)
		}
		if n := callhook.LookupSizes(h)["lanes"]; n > 5 {
			t.Errorf("%d lanes are remembered", n)
		}
	})
}

// TestBreakerSharedCountsOnce: twenty callers by one number are one failure.
func TestBreakerSharedCountsOnce(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newSwitchable(lkSlow(time.Second, status(500)))
		h := lkHooks(t, n, x, "", nil)
		for range 4 {
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() { h.PreCall(t.Context(), inbound()) })
			}
			wg.Wait()
		}
		x.set(lkAda)
		if res := h.PreCall(t.Context(), lkCaller()); res.Outcome != callhook.OutcomeApplied {
			t.Errorf("after 4 failures: %s", res)
		}
	})
}

// TestBreakerWithLate: waiting for late answers makes nobody wait longer: five
// callers in vain are enough, and probes are as soon as without.
func TestBreakerWithLate(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newSwitchable(never)
		h := lkHooks(t, n, x, `"late_for": "1m"`, nil)
		for range 5 {
			if res := h.PreCall(t.Context(), lkCaller()); res.Outcome != callhook.OutcomeTimeout {
				t.Fatal(res)
			}
		}
		if res := h.PreCall(t.Context(), lkCaller()); res.Outcome != callhook.OutcomeOpen {
			t.Fatalf("the sixth caller: %s", res)
		}
		x.set(lkAda)
		time.Sleep(1300 * time.Millisecond)
		if res := h.PreCall(t.Context(), lkCaller()); res.Outcome != callhook.OutcomeApplied {
			t.Fatalf("the probe: %s", res)
		}
		if res := h.PreCall(t.Context(), lkCaller()); res.Outcome != callhook.OutcomeApplied {
			t.Fatalf("the one after it: %s", res)
		}
	})
}

// TestBreakerOutlivesHungSecrets: a vault that does not heed its context cannot keep
// the one place of the probe for ever.
func TestBreakerOutlivesHungSecrets(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newSwitchable(lkAda)
		var hang atomic.Bool
		h := lkHooks(t, n, x, `"headers": {"X": "${KEY}"}`, func(o *callhook.Options) {
			o.Secrets = func(context.Context, callhook.SecretRef) (string, error) {
				if hang.Load() {
					time.Sleep(time.Hour)
				}
				return "x", nil
			}
		})
		lkFail(t, h, x)
		x.set(lkAda)
		hang.Store(true)
		time.Sleep(2 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if res := h.PreCall(ctx, lkCaller()); res.Outcome != callhook.OutcomeFailed || res.Elapsed != time.Second {
			t.Errorf("the probe that hangs, given up: %s", res)
		}
		if res := h.PreCall(t.Context(), lkCaller()); res.Outcome != callhook.OutcomeTimeout || res.Elapsed != 2*time.Second {
			t.Errorf("the probe that hangs: %s", res)
		}
		hang.Store(false)
		time.Sleep(3 * time.Second)
		if res := h.PreCall(t.Context(), lkCaller()); res.Outcome != callhook.OutcomeApplied {
			t.Errorf("when the vault is back: %s", res)
		}
		time.Sleep(time.Hour)
	})
}

// TestBreakerTracePanics: a panic of the host's Trace ends no lookup.
func TestBreakerTracePanics(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newSwitchable(lkAda)
		boom := func(callhook.LaneState) { panic("boom") }
		h := lkHooks(t, n, x, "", func(o *callhook.Options) { o.Trace = &callhook.Trace{LaneDown: boom, LaneUp: boom} })
		lkFail(t, h, x)
		x.set(lkAda)
		time.Sleep(2 * time.Second)
		if res := h.PreCall(t.Context(), lkCaller()); res.Outcome != callhook.OutcomeApplied {
			t.Error(res)
		}
	})
}
