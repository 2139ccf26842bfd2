package callhook_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/google/go-cmp/cmp"
)

const lkDeclared = `{"name": "customer_name", "default": "there"}`

var lkAda, lkBob = reply(200, `{"variables":{"customer_name":"Ada"}}`, isJSON), reply(200, `{"variables":{"customer_name":"Bob"}}`, isJSON)

// lkSlow answers after a time, unless nobody waits any more.
func lkSlow(d time.Duration, answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-time.After(d):
			answer(w, r)
		case <-r.Context().Done():
		}
	}
}

// lkInTwo answers with a status after a time, and with the body after another.
func lkInTwo(head time.Duration, code int, rest time.Duration, body string) http.HandlerFunc {
	return lkSlow(head, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		w.(http.Flusher).Flush()
		lkSlow(rest, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })(w, r)
	})
}

// lkSource is a source in which a config can be published.
type lkSource struct {
	atomic.Pointer[callhook.Config]
}

func (s *lkSource) Config(context.Context, callhook.ConfigRef) (*callhook.Config, error) {
	return s.Load(), nil
}

// lkHooks returns hooks for an agent whose endpoint is x, with more members of its
// pre_call.
func lkHooks(t *testing.T, n *network, x http.Handler, preCall string, options func(*callhook.Options)) *callhook.Hooks {
	t.Helper()
	n.handle("crm.test", x.ServeHTTP)
	o := callhook.Options{Configs: callhook.Static(lookup{declared: lkDeclared, preCall: preCall}.agent(t)), Dial: n.Dial,
		Secrets: func(context.Context, callhook.SecretRef) (string, error) { return secret, nil }}
	if options != nil {
		options(&o)
	}
	h, err := callhook.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

var lkCallers atomic.Int64

// lkCaller returns a call from a number that nobody has called from.
func lkCaller() *callhook.Call {
	call := inbound()
	n := lkCallers.Add(1)
	call.ID, call.From = fmt.Sprint("c", n), fmt.Sprintf("+4479%08d", n)
	return call
}

// lkFrom returns a call from a number.
func lkFrom(number string) *callhook.Call {
	call := inbound()
	call.From = number
	return call
}

// lkMany makes so many lookups at once, each for another caller, and counts how they
// went.
func lkMany(t *testing.T, h *callhook.Hooks, n int) map[callhook.Outcome]int {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[callhook.Outcome]int{}
	for range n {
		wg.Go(func() {
			res := h.PreCall(t.Context(), lkCaller())
			mu.Lock()
			defer mu.Unlock()
			out[res.Outcome]++
		})
	}
	wg.Wait()
	synctest.Wait()
	return out
}

// lkGoroutines counts those that lookups have started and that have not ended.
func lkGoroutines() int {
	buf := make([]byte, 4<<20)
	stacks := string(buf[:runtime.Stack(buf, true)])
	return strings.Count(stacks, "created by github.com/callhook-go/callhook.(*lookups)") +
		strings.Count(stacks, "created by github.com/callhook-go/callhook.(*Hooks).ask")
}

// lkGot is what matters of a result.
type lkGot struct {
	Outcome  callhook.Outcome
	Elapsed  time.Duration
	Name     any
	Requests int
}

func lkOf(res *callhook.PreCallResult, x *endpoint) lkGot {
	return lkGot{res.Outcome, res.Elapsed, res.Variables["customer_name"], len(x.requests())}
}

// TestLookupOutcomes: a runtime that looks at Outcome sees each of them, with what
// it says: these are the ones that a host bases its metrics on.
func TestLookupOutcomes(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newSwitchable(lkAda)
		h := lkHooks(t, n, x, `"cache": "1m", "stale_for": "1h"`, nil)
		ask := func(call *callhook.Call) *callhook.PreCallResult {
			res := h.PreCall(t.Context(), call)
			checkResult(t, res)
			synctest.Wait()
			return res
		}
		var got []callhook.Outcome
		ada := lkFrom("+442079460001")
		got = append(got, ask(ada).Outcome, ask(ada).Outcome)
		x.set(status(404))
		got = append(got, ask(lkCaller()).Outcome)
		x.set(status(401))
		got = append(got, ask(lkCaller()).Outcome)
		x.set(never)
		got = append(got, ask(lkCaller()).Outcome)
		time.Sleep(2 * time.Minute)
		got = append(got, ask(ada).Outcome)
		x.set(status(500))
		for range 20 {
			ask(lkCaller())
		}
		got = append(got, ask(lkCaller()).Outcome, ask(ada).Outcome)
		outbound := inbound()
		outbound.Direction = callhook.Outbound
		got = append(got, ask(outbound).Outcome)
		if diff := cmp.Diff([]callhook.Outcome{"applied", "cached", "empty", "failed", "timeout", "stale", "open", "stale", "skipped"}, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		var total int64
		for _, n := range h.Stats().PreCall {
			total += n
		}
		if total != 29 || len(h.Stats().PreCall) != 8 {
			t.Errorf("counted %v", h.Stats().PreCall)
		}
	})
}

// TestLookupShared: a redial storm from one number is one request, and everybody has
// the answer and nobody another's variables.
func TestLookupShared(t *testing.T) {
	const body = `{"variables":{"customer_name":"Ada","tags":["x"],"account":{"tier":"gold"}},"metadata":{"crm":{"id":1}}}`
	for _, cached := range []bool{false, true} {
		t.Run(map[bool]string{false: "in flight", true: "kept"}[cached], func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x := newEndpoint(lkSlow(time.Second, reply(200, body, isJSON)))
				h := lkHooks(t, n, x, `"response": {"directives": ["metadata"]}, "cache": "1m"`, nil)
				if cached {
					h.PreCall(t.Context(), inbound())
				}
				var wg sync.WaitGroup
				for i := range 20 {
					wg.Go(func() {
						call := inbound()
						call.ID, call.Variables = fmt.Sprint(i), callhook.Variables{"mine": i, "list": []any{i}}
						res := h.PreCall(t.Context(), call)
						account, _ := res.Variables["account"].(map[string]any)
						crm, _ := res.Directives.Metadata["crm"].(map[string]any)
						if len(account) != 1 || account["tier"] != "gold" || len(crm) != 1 || string(res.Reply) != body || res.Variables["mine"] != i || len(res.Variables) != 5 {
							t.Errorf("call %d: %s: %v, %v", i, res, res.Variables, res.Directives)
						}
						// What a runtime may do with its own result.
						account["tier"], crm["id"] = call.ID, call.ID
						account["note"], crm["note"] = call.ID, call.ID
						res.Variables["tags"].([]any)[0] = call.ID
						res.Variables["customer_name"] = call.ID
						res.Directives.Metadata[call.ID] = call.ID
						for j := range res.Reply {
							res.Reply[j] = byte(i)
						}
						for j := range res.Changes {
							res.Changes[j].Name = call.ID
						}
						call.Variables["mine"] = "changed"
					})
				}
				wg.Wait()
				if n := len(x.requests()); n != 1 {
					t.Errorf("%d requests, want 1", n)
				}
			})
		})
	}
}

// TestLookupSharedNotUnique: a reply that is nobody's is each caller's own too.
func TestLookupSharedNotUnique(t *testing.T) {
	const body = `{"n": 2}`
	bubble(t, func(t *testing.T, n *network) {
		h := lkHooks(t, n, newEndpoint(lkSlow(time.Second, reply(200, body, isJSON))), `"response": {"unique": "n"}`, nil)
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				res := h.PreCall(t.Context(), inbound())
				if string(res.Reply) != body {
					t.Errorf("reply %q", res.Reply)
				}
				clear(res.Reply)
			})
		}
		wg.Wait()
	})
}

// TestLookupSharedOneHangsUp: whoever gives up, even who asked first, takes the
// answer from nobody; when all have, the endpoint is told.
func TestLookupSharedOneHangsUp(t *testing.T) {
	for _, stay := range []int{2, 1, 0} {
		t.Run(fmt.Sprintf("%d stay", stay), func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				gone := make(chan time.Time, 1)
				x := newEndpoint(func(w http.ResponseWriter, r *http.Request) {
					lkSlow(time.Second, lkAda)(w, r)
					if r.Context().Err() != nil {
						gone <- time.Now()
					}
				})
				h := lkHooks(t, n, x, "", nil)
				start := time.Now()
				var wg sync.WaitGroup
				for i := range 3 {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					want := lkGot{callhook.OutcomeApplied, time.Second, "Ada", 1}
					if i < 3-stay {
						want = lkGot{callhook.OutcomeFailed, time.Duration(i+1) * 100 * time.Millisecond, "there", 1}
						time.AfterFunc(want.Elapsed, cancel)
					}
					wg.Go(func() {
						res := h.PreCall(ctx, inbound())
						if diff := cmp.Diff(want, lkOf(res, x)); diff != "" {
							t.Errorf("caller %d (-want +got)\n%s", i, diff)
						}
						if canceled := errors.Is(res.Err, context.Canceled); canceled != (i < 3-stay) {
							t.Errorf("caller %d: %v", i, res.Err)
						}
					})
					synctest.Wait()
				}
				wg.Wait()
				synctest.Wait()
				select {
				case at := <-gone:
					if stay > 0 || at.Sub(start) != 300*time.Millisecond {
						t.Errorf("the request was given up after %s", at.Sub(start))
					}
				default:
					if stay == 0 {
						t.Error("the request goes on for nobody")
					}
				}
				if sizes := callhook.LookupSizes(h); sizes["flights"] != 0 || lkGoroutines() != 0 {
					t.Errorf("%v, %d goroutines", sizes, lkGoroutines())
				}
			})
		})
	}
}

// TestLookupSharedTime: who joins late has a whole budget, whatever becomes of the
// request that was joined.
func TestLookupSharedTime(t *testing.T) {
	for _, tt := range []struct {
		name    string
		preCall string
		answers []http.HandlerFunc
		first   lkGot
		second  lkGot // who came after 1.5s
	}{
		{"the first's time is up", ``, []http.HandlerFunc{never, lkSlow(300*time.Millisecond, lkAda)},
			lkGot{"timeout", 2 * time.Second, "there", 0}, lkGot{"applied", 800 * time.Millisecond, "Ada", 2}},
		{"both are", ``, []http.HandlerFunc{never},
			lkGot{"timeout", 2 * time.Second, "there", 0}, lkGot{"timeout", 2 * time.Second, "there", 2}},
		{"it goes on for late answers", `"late_for": "5s"`, []http.HandlerFunc{lkSlow(2300*time.Millisecond, lkAda)},
			lkGot{"timeout", 2 * time.Second, "there", 0}, lkGot{"applied", 800 * time.Millisecond, "Ada", 1}},
		{"it fails", ``, []http.HandlerFunc{lkSlow(1900*time.Millisecond, status(500)), lkAda},
			lkGot{"failed", 1900 * time.Millisecond, "there", 0}, lkGot{"failed", 400 * time.Millisecond, "there", 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x := newEndpoint(tt.answers...)
				h := lkHooks(t, n, x, tt.preCall, nil)
				var wg sync.WaitGroup
				wg.Go(func() {
					got := lkOf(h.PreCall(t.Context(), inbound()), x)
					got.Requests = 0
					if diff := cmp.Diff(tt.first, got); diff != "" {
						t.Errorf("the first (-want +got)\n%s", diff)
					}
				})
				time.Sleep(1500 * time.Millisecond)
				if diff := cmp.Diff(tt.second, lkOf(h.PreCall(t.Context(), inbound()), x)); diff != "" {
					t.Errorf("the second (-want +got)\n%s", diff)
				}
				wg.Wait()
			})
		})
	}
}

// TestLookupNotStuck: a request that has outlived its budget, and is still listened
// to for a late answer, does not hold who calls again.
func TestLookupNotStuck(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint(never, lkAda)
		h := lkHooks(t, n, x, `"late_for": "1m"`, nil)
		h.PreCall(t.Context(), inbound())
		time.Sleep(time.Second)
		if diff := cmp.Diff(lkGot{"applied", 0, "Ada", 2}, lkOf(h.PreCall(t.Context(), inbound()), x)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

// TestLookupSharedWithWhom: what one caller is told never reaches one of another
// tenant, agent, config or number, nor anybody who hides theirs.
func TestLookupSharedWithWhom(t *testing.T) {
	config := func(t *testing.T, tenant, agent, more string) *callhook.Config {
		return parse(t, fmt.Sprintf(`{"tenant_id": %q, "agent_id": %q, "pre_call": {"url": "http://crm.test/", "cache": "1h", "directions": ["inbound", "outbound", "web"]%s}}`, tenant, agent, more))
	}
	call := func(tenant, agent string, direction callhook.Direction, from, to string, vars ...any) *callhook.Call {
		c := &callhook.Call{ID: fmt.Sprint(lkCallers.Add(1)), TenantID: tenant, AgentID: agent, Direction: direction, From: from, To: to}
		if len(vars) > 0 {
			c.Variables = callhook.Variables{"account": vars[0]}
		}
		return c
	}
	const a, b = "+442079460001", "+442079460002"
	byAccount := `, "cache_key": "{{call.variables.account}}"`
	in, out := callhook.Inbound, callhook.Outbound
	for _, tt := range []struct {
		name   string
		more   string
		calls  []*callhook.Call
		shared bool
	}{
		{"the same caller", "", []*callhook.Call{call("x", "1", in, a, b), call("x", "1", in, a, b)}, true},
		{"inbound is what no direction means", "", []*callhook.Call{call("x", "1", in, a, b), call("x", "1", "", a, b)}, true},
		{"tenants", "", []*callhook.Call{call("x", "1", in, a, b), call("y", "1", in, a, b)}, false},
		{"agents", "", []*callhook.Call{call("x", "1", in, a, b), call("x", "2", in, a, b)}, false},
		{"callers", "", []*callhook.Call{call("x", "1", in, a, b), call("x", "1", in, b, b)}, false},
		{"called numbers", "", []*callhook.Call{call("x", "1", in, a, b), call("x", "1", in, a, a)}, false},
		{"directions", "", []*callhook.Call{call("x", "1", in, a, b), call("x", "1", out, a, b)}, false},
		{"anonymous", "", []*callhook.Call{call("x", "1", in, "anonymous", b), call("x", "1", in, "anonymous", b)}, false},
		{"no number", "", []*callhook.Call{call("x", "1", in, "", b), call("x", "1", in, "", b)}, false},
		{"ANONYMOUS on a keypad", "", []*callhook.Call{call("x", "1", in, "+266696687", b), call("x", "1", in, "+266696687", b)}, false},
		{"calls out to nobody", "", []*callhook.Call{call("x", "1", out, a, "Unknown"), call("x", "1", out, a, "Unknown")}, false},
		{"web calls", "", []*callhook.Call{call("x", "1", callhook.Web, "", ""), call("x", "1", callhook.Web, "", "")}, false},
		{"cache_key", byAccount, []*callhook.Call{call("x", "1", in, a, b, "7"), call("x", "1", in, b, a, "7")}, true},
		{"another cache_key", byAccount, []*callhook.Call{call("x", "1", in, a, b, "7"), call("x", "1", in, a, b, "8")}, false},
		{"a cache_key of nothing", byAccount, []*callhook.Call{call("x", "1", in, a, b), call("x", "1", in, a, b)}, false},
		{"cache_key, anonymous", byAccount, []*callhook.Call{call("x", "1", in, "anonymous", b, "7"), call("x", "1", in, "anonymous", b, "7")}, false},
		{"cache_key, tenants", byAccount, []*callhook.Call{call("x", "1", in, a, b, "7"), call("y", "1", in, a, b, "7")}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x := newEndpoint(lkSlow(time.Second, lkAda))
				n.handle("crm.test", x.ServeHTTP)
				h := lkHooks(t, n, x, "", func(o *callhook.Options) {
					o.Configs = callhook.Static(config(t, "x", "1", tt.more), config(t, "x", "2", tt.more), config(t, "y", "1", tt.more))
				})
				want, outcome := 2, callhook.OutcomeApplied
				if tt.shared {
					want, outcome = 1, callhook.OutcomeCached
				}
				var wg sync.WaitGroup
				for _, c := range tt.calls {
					wg.Go(func() {
						if res := h.PreCall(t.Context(), c); res.Outcome != callhook.OutcomeApplied {
							t.Error(res)
						}
					})
				}
				wg.Wait()
				if n := len(x.requests()); n != want {
					t.Errorf("%d requests in flight, want %d", n, want)
				}
				for _, c := range tt.calls {
					if res := h.PreCall(t.Context(), c); tt.shared && res.Outcome != outcome {
						t.Errorf("then %s, want %s", res, outcome)
					}
				}
				if withheld := callhook.Withheld(tt.calls[0].From); withheld && (callhook.LookupSizes(h)["replies"] != 0 || len(x.requests()) != 4) {
					t.Errorf("%v are kept, %d requests", callhook.LookupSizes(h), len(x.requests()))
				}
			})
		})
	}
	// A config that is published forgets what the one before was told.
	bubble(t, func(t *testing.T, n *network) {
		x, source := newEndpoint(lkAda), new(lkSource)
		h := lkHooks(t, n, x, "", func(o *callhook.Options) { o.Configs = source })
		for i, more := range []string{`"cache": "1h"`, `"cache": "2h"`, `"cache": "2h"`} {
			source.Store(lookup{preCall: more}.agent(t))
			time.Sleep(2 * time.Second) // for whoever reads the source now and then
			h.PreCall(t.Context(), inbound())
			if n := len(x.requests()); n != min(i+1, 2) {
				t.Errorf("%d requests after publishing %d times", n, i+1)
			}
		}
	})
}

// TestLookupCache goes through the life of a reply: how long it serves, when it is
// asked for again, and what serves when that fails.
func TestLookupCache(t *testing.T) {
	type step struct {
		at     time.Duration    // from the start
		set    http.HandlerFunc // before it
		want   callhook.Outcome
		name   string // the customer's
		asked  int    // requests in all, afterwards
		status int
		err    bool
	}
	const s, m = time.Second, time.Minute
	for _, tt := range []struct {
		name    string
		preCall string
		steps   []step
	}{
		{"nothing is kept", ``, []step{{0, lkAda, "applied", "Ada", 1, 200, false}, {0, lkBob, "applied", "Bob", 2, 200, false}, {0, status(500), "failed", "there", 3, 500, true}}},
		{"cache", `"cache": "1m"`, []step{{0, lkAda, "applied", "Ada", 1, 200, false}, {m - 1, lkBob, "cached", "Ada", 1, 200, false},
			{m, nil, "applied", "Bob", 2, 200, false}, {2*m - 1, nil, "cached", "Bob", 2, 200, false}}},
		{"a cached reply does not live longer for being used", `"cache": "1m"`, []step{{0, lkAda, "applied", "Ada", 1, 200, false},
			{30 * s, lkBob, "cached", "Ada", 1, 200, false}, {59 * s, nil, "cached", "Ada", 1, 200, false}, {61 * s, nil, "applied", "Bob", 2, 200, false}}},
		{"without stale_for a failure is one", `"cache": "1m"`, []step{{0, lkAda, "applied", "Ada", 1, 200, false}, {m, status(500), "failed", "there", 2, 500, true}}},
		{"failures are not kept", `"cache": "1m", "stale_for": "1m"`, []step{{0, status(500), "failed", "there", 1, 500, true}, {0, lkAda, "applied", "Ada", 2, 200, false}}},
		{"that nobody is known is kept", `"cache": "1m"`, []step{{0, status(404), "empty", "there", 1, 404, false}, {s, lkAda, "cached", "there", 1, 404, false}}},
		{"stale while it is refreshed", `"cache": "1m", "stale_for": "1h"`, []step{{0, lkAda, "applied", "Ada", 1, 200, false},
			{m, lkBob, "stale", "Ada", 2, 200, false}, {m, nil, "cached", "Bob", 2, 200, false}, {2*m - 1, nil, "cached", "Bob", 2, 200, false}}},
		{"stale as long as refreshing fails", `"cache": "1m", "stale_for": "1m"`, []step{{0, lkAda, "applied", "Ada", 1, 200, false},
			{m, status(500), "stale", "Ada", 2, 200, false}, {m + s, nil, "stale", "Ada", 3, 200, false}, {2 * m, nil, "failed", "there", 4, 500, true}}},
		{"refreshed to nobody", `"cache": "1m", "stale_for": "1m"`, []step{{0, lkAda, "applied", "Ada", 1, 200, false},
			{m, status(404), "stale", "Ada", 2, 200, false}, {m + s, nil, "cached", "there", 2, 404, false}}},
		{"stale_for alone asks each time", `"stale_for": "1m"`, []step{{0, lkAda, "applied", "Ada", 1, 200, false}, {s, lkBob, "applied", "Bob", 2, 200, false},
			{2 * s, status(500), "stale", "Bob", 3, 200, true}, {3 * s, status(401), "stale", "Bob", 4, 200, true}, {4 * s, never, "stale", "Bob", 5, 200, true},
			{5*s + m, status(500), "failed", "there", 6, 500, true}}},
		{"stale_for alone when the endpoint is down", `"stale_for": "1h"`, []step{{0, lkAda, "applied", "Ada", 1, 200, false},
			{0, status(500), "stale", "Ada", 2, 200, true}, {0, nil, "stale", "Ada", 3, 200, true}, {0, nil, "stale", "Ada", 4, 200, true},
			{0, nil, "stale", "Ada", 5, 200, true}, {0, nil, "stale", "Ada", 5, 200, true}, {0, nil, "stale", "Ada", 5, 200, true}}},
		{"two people are nobody, and no failure", `"stale_for": "1h", "response": {"unique": "n", "variables": {"customer_name": "name"}}`, []step{
			{0, reply(200, `{"name": "Ada"}`), "applied", "Ada", 1, 200, false}, {0, reply(200, `{"n": 2, "name": "Bob"}`), "empty", "there", 2, 200, true},
			{0, status(500), "stale", "Ada", 3, 200, true}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, n *network) {
				x := newSwitchable(lkAda)
				h := lkHooks(t, n, x, tt.preCall, nil)
				start := time.Now()
				for i, st := range tt.steps {
					time.Sleep(time.Until(start.Add(st.at)))
					if st.set != nil {
						x.set(st.set)
					}
					res := h.PreCall(t.Context(), inbound())
					synctest.Wait()
					got := step{st.at, st.set, res.Outcome, fmt.Sprint(res.Variables["customer_name"]), len(x.requests()), res.Status, res.Err != nil}
					if fmt.Sprint(got.want, got.name, got.asked, got.status, got.err) != fmt.Sprint(st.want, st.name, st.asked, st.status, st.err) {
						t.Fatalf("step %d: %s %s, %d requests, status %d, %v; want %+v", i, res.Outcome, got.name, got.asked, res.Status, res.Err, st)
					}
					checkResult(t, res)
					if slices.Contains([]callhook.Outcome{"cached"}, res.Outcome) && (res.Attempts != 0 || res.Elapsed != 0) {
						t.Errorf("step %d: %s", i, res)
					}
				}
			})
		})
	}
}

// TestLookupRefreshOnce: a thousand callers on a stale reply are one request, that no
// caller waits for and no caller's hanging up ends.
func TestLookupRefreshOnce(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newSwitchable(lkAda)
		h := lkHooks(t, n, x, `"cache": "1m", "stale_for": "1h"`, nil)
		h.PreCall(t.Context(), inbound())
		x.set(lkSlow(1900*time.Millisecond, lkBob))
		time.Sleep(time.Minute)
		for range 10 {
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if res := h.PreCall(ctx, inbound()); res.Outcome != callhook.OutcomeStale || res.Elapsed != 0 || res.Err != nil || res.Variables["customer_name"] != "Ada" {
						t.Errorf("%s, %v", res, res.Variables)
					}
				})
			}
			wg.Wait()
			time.Sleep(100 * time.Millisecond)
		}
		if n := len(x.requests()); n != 2 {
			t.Errorf("%d requests, want 2", n)
		}
		time.Sleep(time.Second)
		if diff := cmp.Diff(lkGot{"cached", 0, "Bob", 2}, lkOf(h.PreCall(t.Context(), inbound()), x.endpoint)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

// TestLookupCacheBounds: strangers who call from ever new numbers, or an endpoint that
// answers at length, do not fill the memory; who called last is remembered.
func TestLookupCacheBounds(t *testing.T) {
	const entries, bytes = 10_000, 32 << 20
	bubble(t, func(t *testing.T, n *network) {
		x := newSwitchable(lkAda)
		h := lkHooks(t, n, x, `"cache": "1h"`, nil)
		first, second := lkCaller(), lkCaller()
		h.PreCall(t.Context(), first)
		h.PreCall(t.Context(), second)
		callhook.KeepReplies(h, entries-2, 10)
		if n := callhook.LookupSizes(h)["replies"]; n != entries {
			t.Fatalf("%d replies are kept", n)
		}
		if res := h.PreCall(t.Context(), first); res.Outcome != callhook.OutcomeCached { // used, and so not the oldest
			t.Error(res)
		}
		h.PreCall(t.Context(), lkCaller())
		got := []callhook.Outcome{h.PreCall(t.Context(), first).Outcome, h.PreCall(t.Context(), second).Outcome}
		if diff := cmp.Diff([]callhook.Outcome{"cached", "applied"}, got); diff != "" {
			t.Errorf("the one used last, and the one before (-want +got)\n%s", diff)
		}
		if n := callhook.LookupSizes(h)["replies"]; n != entries {
			t.Errorf("%d replies are kept, want %d", n, entries)
		}
		callhook.KeepReplies(h, 100, 500<<10)
		if sizes := callhook.LookupSizes(h); sizes["bytes"] > bytes || sizes["bytes"] < bytes/2 || sizes["replies"] > 30 {
			t.Errorf("kept %v", sizes)
		}
		callhook.KeepReplies(h, 1, 2<<20)
		if sizes := callhook.LookupSizes(h); sizes["replies"] < 10 {
			t.Errorf("one that is far too large drove the others out: %v", sizes)
		}
		time.Sleep(time.Hour + 2*time.Minute)
		if sizes := callhook.LookupSizes(h); sizes["replies"] != 0 || sizes["bytes"] != 0 {
			t.Errorf("what serves nobody any more is kept: %v", sizes)
		}
		h.PreCall(t.Context(), first)
		h.Close()
		if sizes := callhook.LookupSizes(h); sizes["replies"] != 0 || sizes["bytes"] != 0 {
			t.Errorf("kept after Close: %v", sizes)
		}
	})
}

// TestLookupKeepsNoCall: a reply that is kept for a day does not keep what else was
// known of the call, its secrets least of all.
func TestLookupKeepsNoCall(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		h := lkHooks(t, n, newEndpoint(lkAda), `"cache": "24h"`, nil)
		var freed atomic.Int64
		func() {
			for range 10 {
				call := lkCaller()
				token := new(strings.Builder)
				runtime.AddCleanup(token, func(int) { freed.Add(1) }, 0)
				call.Secrets = callhook.Variables{"token": token}
				h.PreCall(t.Context(), call)
			}
		}()
		for range 20 {
			synctest.Wait()
			runtime.GC()
		}
		if n := freed.Load(); n == 0 {
			t.Errorf("the secrets of %d of 10 calls were freed, with %v kept", n, callhook.LookupSizes(h))
		}
	})
}

// TestForget: who asks to be forgotten is, in whatever way the number is written, and
// a reply that is on its way does not bring them back.
func TestForget(t *testing.T) {
	config := func(t *testing.T, tenant string) *callhook.Config {
		return parse(t, fmt.Sprintf(`{"tenant_id": %q, "agent_id": "reception", "pre_call": {"url": "http://crm.test/", "cache": "1h", "stale_for": "1h"}}`, tenant))
	}
	call := func(tenant, from, to string) *callhook.Call {
		c := lkFrom(from)
		c.TenantID, c.To = tenant, to
		return c
	}
	const ada, bob, office = "+442079460001", "+442079460002", "+442079460999"
	e164 := func(number string) string {
		if rest, ok := strings.CutPrefix(number, "020 "); ok {
			return "+4420" + strings.ReplaceAll(rest, " ", "")
		}
		return number
	}
	for _, tt := range []struct {
		name      string
		forget    [2]string
		normalize func(string) string
		n         int
		left      int // of three replies
	}{
		{name: "as the call has it", forget: [2]string{"x", ada}, n: 1, left: 2},
		{name: "as people write it", forget: [2]string{"x", "+44 (20) 7946-0001"}, n: 1, left: 2},
		{name: "as the host's function reads it", forget: [2]string{"x", "020 7946 0001"}, normalize: e164, n: 1, left: 2},
		{name: "who was called", forget: [2]string{"x", office}, n: 2, left: 1},
		{name: "another tenant's", forget: [2]string{"y", bob}, n: 0, left: 3},
		{name: "nobody", forget: [2]string{"x", ""}, n: 0, left: 3},
		{name: "nobody's number", forget: [2]string{"x", "+"}, n: 0, left: 3},
		{name: "no tenant", forget: [2]string{"", ada}, n: 0, left: 3},
		{name: "a part of a number", forget: [2]string{"x", ada[:len(ada)-1]}, n: 0, left: 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x := newEndpoint(lkAda)
				h := lkHooks(t, n, x, "", func(o *callhook.Options) {
					o.Configs, o.NormalizeNumber = callhook.Static(config(t, "x"), config(t, "y")), tt.normalize
					o.NumberKey = []byte("0123456789abcdef")
				})
				for _, c := range []*callhook.Call{call("x", ada, office), call("x", bob, office), call("y", ada, office)} {
					h.PreCall(t.Context(), c)
				}
				got, err := h.Forget(t.Context(), tt.forget[0], tt.forget[1])
				if left := callhook.LookupSizes(h)["replies"]; got != tt.n || err != nil || left != tt.left {
					t.Errorf("%d forgotten, %d left, %v", got, left, err)
				}
			})
		})
	}
	t.Run("in flight", func(t *testing.T) {
		bubble(t, func(t *testing.T, n *network) {
			x := newEndpoint(lkSlow(time.Second, lkAda))
			h := lkHooks(t, n, x, "", func(o *callhook.Options) {
				o.Configs, o.NumberKey = callhook.Static(config(t, "x")), []byte("0123456789abcdef")
			})
			var wg sync.WaitGroup
			wg.Go(func() {
				if res := h.PreCall(t.Context(), call("x", ada, office)); res.Outcome != callhook.OutcomeApplied {
					t.Error(res)
				}
			})
			synctest.Wait()
			if n, err := h.Forget(t.Context(), "x", ada); n != 0 || err != nil {
				t.Error(n, err)
			}
			wg.Wait()
			if sizes := callhook.LookupSizes(h); sizes["replies"] != 0 {
				t.Errorf("kept after all: %v", sizes)
			}
			if res := h.PreCall(t.Context(), call("x", ada, office)); res.Outcome != callhook.OutcomeApplied {
				t.Errorf("a new call is looked up as ever: %s", res)
			}
			if sizes := callhook.LookupSizes(h); sizes["replies"] != 1 {
				t.Errorf("what was asked later is kept as ever: %v", sizes)
			}
		})
	})
	t.Run("while it is refreshed", func(t *testing.T) {
		bubble(t, func(t *testing.T, n *network) {
			x := newSwitchable(lkAda)
			h := lkHooks(t, n, x, "", func(o *callhook.Options) {
				o.Configs, o.NumberKey = callhook.Static(config(t, "x")), []byte("0123456789abcdef")
			})
			h.PreCall(t.Context(), call("x", ada, office))
			time.Sleep(90 * time.Minute)
			x.set(lkSlow(time.Second, lkBob))
			h.PreCall(t.Context(), call("x", ada, office))
			if n, err := h.Forget(t.Context(), "x", ada); n != 1 || err != nil {
				t.Error(n, err)
			}
			time.Sleep(2 * time.Second)
			if sizes := callhook.LookupSizes(h); sizes["replies"] != 0 {
				t.Errorf("the refresh brought them back: %v", sizes)
			}
		})
	})
	t.Run("deliveries", func(t *testing.T) { // what the queue has of them goes too
		for _, number := range []string{"+442079460001", "020 7946 0001"} {
			bubble(t, func(t *testing.T, n *network) {
				n.handle("ops.test", status(204))
				h, err := callhook.New(callhook.Options{Configs: callhook.Static(hook(t, "http://ops.test/", "")), Dial: n.Dial,
					NumberKey: []byte("0123456789abcdef"), NormalizeNumber: e164})
				if err != nil {
					t.Fatal(err)
				}
				defer h.Close()
				c := ended("c1")
				c.From = number
				raise(t, h, c)
				if n, err := h.Forget(t.Context(), "", "020 7946 0001"); n != 1 || err != nil {
					t.Errorf("%d forgotten of a call from %s, %v", n, number, err)
				}
			})
		}
	})
}

// TestHedge: a second request hides one slow reply in twenty, and is made when it may
// help and not before.
func TestHedge(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name     string
		preCall  string
		answers  []http.HandlerFunc
		want     lkGot
		attempts [2]int // and hedges
		status   int
		second   time.Duration // when it was sent
	}{
		{name: "fast enough", answers: []http.HandlerFunc{lkSlow(9*ms, lkAda), lkBob}, want: lkGot{"applied", 9 * ms, "Ada", 1}, attempts: [2]int{1, 0}, status: 200},
		{name: "the second is faster", answers: []http.HandlerFunc{lkSlow(200*ms, lkAda), lkSlow(2*ms, lkBob)}, want: lkGot{"applied", 12 * ms, "Bob", 2}, attempts: [2]int{2, 1}, status: 200, second: 10 * ms},
		{name: "the first is faster after all", answers: []http.HandlerFunc{lkSlow(20*ms, lkAda), lkSlow(50*ms, lkBob)}, want: lkGot{"applied", 20 * ms, "Ada", 2}, attempts: [2]int{2, 1}, status: 200, second: 10 * ms},
		{name: "a failure before it is time ends it", answers: []http.HandlerFunc{status(500), lkBob}, want: lkGot{"failed", 0, "there", 1}, attempts: [2]int{1, 0}, status: 500},
		{name: "a first that fails waits for the second", answers: []http.HandlerFunc{lkSlow(20*ms, status(500)), lkSlow(50*ms, lkBob)}, want: lkGot{"applied", 60 * ms, "Bob", 2}, attempts: [2]int{2, 1}, status: 200, second: 10 * ms},
		{name: "a second that fails waits for the first", answers: []http.HandlerFunc{lkSlow(100*ms, lkAda), lkSlow(ms, status(500))}, want: lkGot{"applied", 100 * ms, "Ada", 2}, attempts: [2]int{2, 1}, status: 200, second: 10 * ms},
		{name: "both fail", answers: []http.HandlerFunc{lkSlow(100*ms, status(502)), lkSlow(ms, status(500))}, want: lkGot{"failed", 100 * ms, "there", 2}, attempts: [2]int{2, 1}, status: 502, second: 10 * ms},
		{name: "both are cut off", answers: []http.HandlerFunc{lkSlow(100*ms, cutOff), cutOff}, want: lkGot{"failed", 100 * ms, "there", 2}, attempts: [2]int{2, 1}, second: 10 * ms},
		{name: "both are silent", answers: []http.HandlerFunc{never}, want: lkGot{"timeout", 2000 * ms, "there", 2}, attempts: [2]int{2, 1}, second: 10 * ms},
		{name: "nobody is an answer", answers: []http.HandlerFunc{never, status(404)}, want: lkGot{"empty", 10 * ms, "there", 2}, attempts: [2]int{2, 1}, status: 404, second: 10 * ms},
		{name: "two are an answer", preCall: `"response": {"unique": "n"}`, answers: []http.HandlerFunc{never, reply(200, `{"n":2}`)}, want: lkGot{"empty", 10 * ms, "there", 2}, attempts: [2]int{2, 1}, status: 200, second: 10 * ms},
		{name: "the headers of the loser come last", answers: []http.HandlerFunc{lkInTwo(20*ms, 201, 20*ms, `{"variables":{"customer_name":"Ada"}}`), lkInTwo(20*ms, 203, time.Second, `{}`)},
			want: lkGot{"applied", 40 * ms, "Ada", 2}, attempts: [2]int{2, 1}, status: 201, second: 10 * ms},
		{name: "not twice by one lookup", answers: []http.HandlerFunc{never, never, lkBob}, want: lkGot{"timeout", 2000 * ms, "there", 2}, attempts: [2]int{2, 1}, second: 10 * ms},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x := newEndpoint(tt.answers...)
				var under atomic.Int64
				h := lkHooks(t, n, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					under.Add(1)
					defer under.Add(-1)
					x.ServeHTTP(w, r)
				}), strings.TrimSuffix(`"method": "GET", "hedge_after": "10ms", "cache": "1h", `+tt.preCall, ", "), nil)
				start := time.Now()
				res := h.PreCall(t.Context(), inbound())
				if diff := cmp.Diff(tt.want, lkOf(res, x)); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
				if res.Attempts != tt.attempts[0] || res.Hedges != tt.attempts[1] || res.Status != tt.status {
					t.Errorf("%d attempts, %d hedges, status %d; want %v and %d", res.Attempts, res.Hedges, res.Status, tt.attempts, tt.status)
				}
				if got := x.requests(); len(got) > 1 && got[1].At.Sub(start) != tt.second {
					t.Errorf("the second was sent after %s", got[1].At.Sub(start))
				}
				synctest.Wait()
				if n := lkGoroutines(); n != 0 || under.Load() != 0 {
					t.Errorf("%d goroutines and %d requests outlive the lookup", n, under.Load())
				}
				if res.Outcome == callhook.OutcomeApplied || res.Outcome == callhook.OutcomeEmpty && res.Err == nil {
					if again := h.PreCall(t.Context(), inbound()); again.Outcome != callhook.OutcomeCached || again.Status != tt.status {
						t.Errorf("then %s, want cached and %d", again, tt.status)
					}
				}
			})
		})
	}
}

// TestHedgeShare: hedging does not double the load of an endpoint that is slow for
// everybody, which is when it can bear it least.
func TestHedgeShare(t *testing.T) {
	slow := lkSlow(300*time.Millisecond, lkAda)
	for _, tt := range []struct {
		name    string
		preCall string
		before  int // fast lookups first
		lookups int // then slow ones
		most    int // requests beyond one each
		least   int
	}{
		{"a tenth of all", ``, 0, 200, 21, 19},
		{"all at once", ``, 0, -100, 11, 5},
		{"not more than ten are saved up", ``, 200, -20, 10, 10},
		{"as the config says", `"hedge_share": 0.5`, 0, 100, 51, 49},
		{"each", `"hedge_share": 1`, 0, 100, 100, 100},
		{"hardly any", `"hedge_share": 0.001`, 0, 200, 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, n *network) {
				x := newSwitchable(lkAda)
				h := lkHooks(t, n, x, strings.TrimSuffix(`"idempotent": true, "hedge_after": "100ms", `+tt.preCall, ", "), nil)
				for range tt.before {
					h.PreCall(t.Context(), lkCaller())
				}
				x.set(slow)
				all := max(tt.lookups, -tt.lookups)
				if tt.lookups < 0 {
					lkMany(t, h, all)
				} else {
					for range all {
						h.PreCall(t.Context(), lkCaller())
					}
				}
				if more := len(x.requests()) - tt.before - all; more > tt.most || more < tt.least {
					t.Errorf("%d more requests than %d lookups, want %d to %d", more, all, tt.least, tt.most)
				}
			})
		})
	}
}

// TestHedgeIsSafe: a POST is sent twice only where the config says that it may be.
func TestHedgeIsSafe(t *testing.T) {
	for more, ok := range map[string]bool{`"hedge_after": "1s"`: false, `"hedge_after": "1s", "method": "POST"`: false,
		`"hedge_after": "1s", "idempotent": true`: true, `"hedge_after": "1s", "method": "GET"`: true} {
		if err := (lookup{preCall: more}).agent(t).Validate(); (err == nil) != ok {
			t.Errorf("%s: %v", more, err)
		}
	}
}

// TestLate: what the endpoint says too late is still worth something in the running
// conversation, once, by the same rules, and only if it was asked for.
func TestLate(t *testing.T) {
	const ms = time.Millisecond
	hangUp := func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(time.Second, cancel)
		return ctx, cancel
	}
	half := func(ctx context.Context) (context.Context, context.CancelFunc) {
		return context.WithTimeout(ctx, 500*ms)
	}
	for _, tt := range []struct {
		name    string
		preCall string
		answer  http.HandlerFunc
		context func(context.Context) (context.Context, context.CancelFunc)
		want    callhook.Outcome
		late    string        // its outcome, and the customer's name
		closed  time.Duration // from the start
	}{
		{"in time", `"late_for": "5s"`, lkSlow(1999*ms, lkAda), nil, "applied", "", 1999 * ms},
		{"late", `"late_for": "5s"`, lkSlow(3000*ms, lkAda), nil, "timeout", "applied Ada 3s", 3000 * ms},
		{"late, and nobody", `"late_for": "5s"`, lkSlow(3000*ms, status(404)), nil, "timeout", "empty there 3s", 3000 * ms},
		{"late, and only in part", `"late_for": "5s"`, lkInTwo(0, 200, 2500*ms, `{"variables":{"customer_name":"Ada"}}`), nil, "timeout", "applied Ada 2.5s", 2500 * ms},
		{"later than that", `"late_for": "5s"`, lkSlow(8000*ms, lkAda), nil, "timeout", "", 7000 * ms},
		{"never", `"late_for": "1m"`, never, nil, "timeout", "", 62 * time.Second},
		{"late, and a failure", `"late_for": "5s"`, lkSlow(3000*ms, status(500)), nil, "timeout", "", 3000 * ms},
		{"late, and no JSON", `"late_for": "5s"`, lkSlow(3000*ms, reply(200, `{`, isJSON)), nil, "timeout", "", 3000 * ms},
		{"late, and two of them", `"late_for": "5s", "response": {"unique": "n"}`, lkSlow(3000*ms, reply(200, `{"n":2}`, isJSON)), nil, "timeout", "", 3000 * ms},
		{"cut off", `"late_for": "5s"`, lkSlow(3000*ms, cutOff), nil, "timeout", "", 3000 * ms},
		{"not wanted", ``, lkSlow(3000*ms, lkAda), nil, "timeout", "", 2000 * ms},
		{"the caller hung up", `"late_for": "5s"`, lkSlow(3000*ms, lkAda), hangUp, "failed", "", 1000 * ms},
		{"the caller had less time", `"late_for": "5s"`, lkSlow(1000*ms, lkAda), half, "timeout", "applied Ada 1s", 1000 * ms},
		{"the first is late, the hedge too", `"late_for": "5s", "idempotent": true, "hedge_after": "1s"`, lkSlow(3000*ms, lkAda), nil, "timeout", "applied Ada 3s", 3000 * ms},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				h := lkHooks(t, n, newEndpoint(tt.answer), tt.preCall, nil)
				ctx, start := t.Context(), time.Now()
				if tt.context != nil {
					var cancel context.CancelFunc
					ctx, cancel = tt.context(ctx)
					defer cancel()
				}
				res := h.PreCall(ctx, inbound())
				if res.Outcome != tt.want || res.Elapsed > 2*time.Second {
					t.Errorf("%s, want %s", res, tt.want)
				}
				var got string
				for late := range res.Late {
					got += fmt.Sprint(late.Outcome, " ", late.Variables["customer_name"], " ", late.Elapsed)
					checkResult(t, late)
					if late.Status == 0 || late.Attempts == 0 || late.Revision != 3 || late.Missing != nil {
						t.Errorf("late: %+v", late)
					}
				}
				if got != tt.late || time.Since(start) != tt.closed {
					t.Errorf("late %q after %s; want %q after %s", got, time.Since(start), tt.late, tt.closed)
				}
				synctest.Wait()
				if n := lkGoroutines(); n != 0 || callhook.LookupSizes(h)["late"] != 0 {
					t.Errorf("%d goroutines, %v", n, callhook.LookupSizes(h))
				}
			})
		})
	}
}

// TestLateIsMerged: a late answer is worth what one in time would have been, for the
// call as it was when it was looked up, whatever the runtime did with it since.
func TestLateIsMerged(t *testing.T) {
	const body = `{"variables":{"customer_name":"Ada","tier":"gold","pin":"1234","call":"x","account":{"id":1}},"metadata":{"crm":1},"directives":{"language":"fr"}}`
	lookupOf := func(preCall string, d time.Duration) *callhook.PreCallResult {
		var out *callhook.PreCallResult
		bubble(t, func(t *testing.T, n *network) {
			h := lkHooks(t, n, newEndpoint(lkSlow(d, reply(200, body, isJSON))), "", func(o *callhook.Options) {
				o.Configs = callhook.Static(lookup{declared: lkDeclared + `,{"name":"tier","default":"standard","locked":true},{"name":"pin","secret":true},{"name":"city"}`,
					preCall: preCall + `"response": {"directives": ["metadata"], "required": ["city", "customer_name"]}`}.agent(t))
			})
			call := inbound()
			nested := map[string]any{"a": "b", "list": []any{"x"}}
			call.Variables = callhook.Variables{"nested": nested, "plan": "basic"}
			out = h.PreCall(t.Context(), call)
			// The conversation goes on.
			nested["a"], nested["list"].([]any)[0] = "changed", "changed"
			call.Variables["plan"], call.From, call.Variables["new"] = "changed", "changed", true
			out.Variables["plan"] = "changed"
			if late, ok := <-out.Late; ok {
				out = late
			}
		})
		return out
	}
	want := lookupOf("", 0)
	for name, res := range map[string]*callhook.PreCallResult{"in time": want, "late": lookupOf(`"late_for": "5s", `, 3*time.Second)} {
		got := fmt.Sprint(res.Secrets, res.Outcome, res.Changes, res.Directives, res.Missing, res.Status, res.Dialect, string(res.Reply), res.Revision)
		if wanted := fmt.Sprint(want.Secrets, "applied", want.Changes, want.Directives, []string{"city"}, 200, "callhook", body, 3); got != wanted {
			t.Errorf("%s: %s\nwant %s", name, got, wanted)
		}
	}
	late := lookupOf(`"late_for": "5s", `, 3*time.Second)
	wanted := callhook.Variables{"customer_name": "Ada", "tier": "standard", "plan": "basic", "account": map[string]any{"id": json.Number("1")},
		"nested": map[string]any{"a": "b", "list": []any{"x"}}}
	if diff := cmp.Diff(wanted, late.Variables); diff != "" {
		t.Errorf("the late variables (-want +got)\n%s", diff)
	}
}

// TestLateShared: each of two callers has a late answer of its own, and the next one
// has it from the cache.
func TestLateShared(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint(lkSlow(3*time.Second, reply(200, `{"variables":{"customer_name":"Ada","account":{"id":1}}}`, isJSON)))
		h := lkHooks(t, n, x, `"late_for": "5s", "cache": "1h"`, nil)
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				call := inbound()
				call.Variables = callhook.Variables{"mine": i}
				res := h.PreCall(t.Context(), call)
				late := <-res.Late
				if res.Outcome != callhook.OutcomeTimeout || late == nil || late.Variables["mine"] != i || len(late.Variables["account"].(map[string]any)) != 1 {
					t.Errorf("%s, late %v", res, late)
					return
				}
				late.Variables["account"].(map[string]any)[fmt.Sprint(i)] = i
				clear(late.Reply)
			})
		}
		wg.Wait()
		if diff := cmp.Diff(lkGot{"cached", 0, "Ada", 1}, lkOf(h.PreCall(t.Context(), inbound()), x)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

// TestLateIsBounded: an endpoint that hangs does not collect callers without end, and
// who ends the process waits for none.
func TestLateIsBounded(t *testing.T) {
	const most = 192
	bubble(t, func(t *testing.T, n *network) {
		h := lkHooks(t, n, newEndpoint(never), `"late_for": "1m"`, nil)
		results := make([]*callhook.PreCallResult, most+20)
		var wg sync.WaitGroup
		for i := range results {
			wg.Go(func() { results[i] = h.PreCall(t.Context(), lkCaller()) })
		}
		wg.Wait()
		synctest.Wait()
		count := func() (waiting int) {
			for _, res := range results {
				select {
				case late, open := <-res.Late:
					if open {
						t.Errorf("late: %s", late)
					}
				default:
					waiting++
				}
			}
			return waiting
		}
		if n, goroutines := count(), lkGoroutines(); n != most || goroutines != most {
			t.Errorf("%d wait, with %d goroutines; want %d", n, goroutines, most)
		}
		h.Close()
		synctest.Wait()
		if n, goroutines := count(), lkGoroutines(); n != 0 || goroutines != 0 {
			t.Errorf("%d wait after Close, with %d goroutines", n, goroutines)
		}
	})
}

// TestLookupEndsInTime: neither a vault nor a dialler nor both legs of a hedge that do
// not heed their context keep a caller waiting, nor does a panic end the call.
func TestLookupEndsInTime(t *testing.T) {
	sleep := func(context.Context, callhook.SecretRef) (string, error) {
		time.Sleep(30 * time.Second)
		return "x", nil
	}
	boom := func(context.Context, callhook.SecretRef) (string, error) { panic("boom") }
	var asked atomic.Int64
	for _, tt := range []struct {
		name    string
		preCall string
		secrets callhook.SecretFunc
		dial    func(context.Context) (net.Conn, error)
		want    lkGot
		says    string
	}{
		{name: "secrets", secrets: sleep, want: lkGot{"timeout", 2 * time.Second, "there", 0}},
		{name: "secrets, hedged", preCall: `, "idempotent": true, "hedge_after": "1s"`, secrets: sleep, want: lkGot{"timeout", 2 * time.Second, "there", 0}},
		{name: "secrets, late", preCall: `, "late_for": "5s"`, secrets: sleep, want: lkGot{"timeout", 2 * time.Second, "there", 0}},
		{name: "dial", dial: func(context.Context) (net.Conn, error) { time.Sleep(30 * time.Second); return nil, io.EOF }, want: lkGot{"timeout", 2 * time.Second, "there", 0}},
		{name: "dial, hedged", preCall: `, "idempotent": true, "hedge_after": "1s"`, dial: func(context.Context) (net.Conn, error) { time.Sleep(30 * time.Second); return nil, io.EOF },
			want: lkGot{"timeout", 2 * time.Second, "there", 0}},
		{name: "a panic", secrets: boom, want: lkGot{"failed", 0, "there", 0}, says: "callhook: panic: a string"},
		{name: "a panic, hedged", preCall: `, "idempotent": true, "hedge_after": "1s"`, secrets: boom, want: lkGot{"failed", 0, "there", 0}, says: "callhook: panic: a string"},
		{name: "a panic of the hedge alone", preCall: `, "idempotent": true, "hedge_after": "1s"`, secrets: func(context.Context, callhook.SecretRef) (string, error) {
			if asked.Add(1) == 2 {
				panic("boom")
			}
			return "x", nil
		}, want: lkGot{"applied", 1500 * time.Millisecond, "Ada", 1}},
		{name: "a panic, late", preCall: `, "late_for": "5s"`, secrets: func(context.Context, callhook.SecretRef) (string, error) { time.Sleep(3 * time.Second); panic("boom") },
			want: lkGot{"timeout", 2 * time.Second, "there", 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x := newEndpoint(lkSlow(1500*time.Millisecond, lkAda))
				h := lkHooks(t, n, x, `"headers": {"X": "${KEY}"}`+tt.preCall, func(o *callhook.Options) {
					if tt.secrets != nil {
						o.Secrets = tt.secrets
					}
					if tt.dial != nil {
						o.Dial = dial(n, tt.dial)
					}
				})
				res := h.PreCall(t.Context(), inbound())
				if diff := cmp.Diff(tt.want, lkOf(res, x)); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
				if tt.says != "" && (res.Err == nil || res.Err.Error() != tt.says) {
					t.Errorf("Err %v, want %s", res.Err, tt.says)
				}
				for late := range res.Late {
					t.Errorf("late: %s", late)
				}
				time.Sleep(time.Minute)
			})
		})
	}
}

// TestLookupGoroutines: a lookup that is over has left nothing behind, but for one
// that listens for a late answer, as long as it does.
func TestLookupGoroutines(t *testing.T) {
	for _, tt := range []struct {
		name    string
		preCall string
		answer  http.HandlerFunc
		cancel  time.Duration
		left    int
	}{
		{"applied", ``, lkAda, 0, 0},
		{"hedged", `"idempotent": true, "hedge_after": "1s"`, lkSlow(1500*time.Millisecond, lkAda), 0, 0},
		{"failed", ``, status(500), 0, 0},
		{"timeout", ``, never, 0, 0},
		{"timeout, hedged", `"idempotent": true, "hedge_after": "1s"`, never, 0, 0},
		{"timeout in the body", ``, stall(200, `{`), 0, 0},
		{"hung up", ``, never, time.Second, 0},
		{"hung up, hedged", `"idempotent": true, "hedge_after": "500ms"`, never, time.Second, 0},
		{"hung up, late", `"late_for": "10s"`, never, time.Second, 0},
		{"late", `"late_for": "10s"`, never, 0, 1},
		{"late, hedged", `"late_for": "10s", "idempotent": true, "hedge_after": "1s"`, never, 0, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				h := lkHooks(t, n, newEndpoint(tt.answer), tt.preCall, nil)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tt.cancel > 0 {
					time.AfterFunc(tt.cancel, cancel)
				}
				h.PreCall(ctx, inbound())
				synctest.Wait()
				if n := lkGoroutines(); n != tt.left {
					t.Errorf("%d goroutines, want %d", n, tt.left)
				}
				time.Sleep(10*time.Second + time.Millisecond)
				synctest.Wait()
				if n := lkGoroutines(); n != 0 {
					t.Errorf("%d goroutines when late_for is over", n)
				}
			})
		})
	}
}

// TestLookupCloses: Close ends what is under way, in the background too.
func TestLookupCloses(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newSwitchable(lkAda)
		h := lkHooks(t, n, x, `"cache": "1m", "stale_for": "1h"`, nil)
		h.PreCall(t.Context(), inbound())
		x.set(never)
		time.Sleep(2 * time.Minute)
		if res := h.PreCall(t.Context(), inbound()); res.Outcome != callhook.OutcomeStale {
			t.Error(res)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if res := h.PreCall(t.Context(), lkCaller()); res.Outcome != callhook.OutcomeFailed || res.Elapsed != time.Second {
				t.Errorf("under way when Close came: %s", res)
			}
		})
		time.Sleep(time.Second)
		h.Close()
		wg.Wait()
		synctest.Wait()
		if n := lkGoroutines(); n != 0 {
			t.Errorf("%d goroutines after Close", n)
		}
	})
}

// lkServer is a server on a real socket that counts connections.
type lkServer struct {
	*httptest.Server
	mu       sync.Mutex
	accepted int
	open     map[net.Conn]bool
	closed   chan struct{} // told each time that one is
}

func newLKServer(t *testing.T, f http.HandlerFunc) *lkServer {
	s := &lkServer{Server: httptest.NewUnstartedServer(f), open: map[net.Conn]bool{}, closed: make(chan struct{}, 1000)}
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch state {
		case http.StateNew:
			s.accepted++
			s.open[c] = true
		case http.StateClosed, http.StateHijacked:
			delete(s.open, c)
			s.closed <- struct{}{}
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func (s *lkServer) counts() (accepted, open int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted, len(s.open)
}

// drop closes every connection, as an endpoint does that was idle for long.
func (s *lkServer) drop() {
	s.mu.Lock()
	all := make([]net.Conn, 0, len(s.open))
	for c := range s.open {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.Close()
	}
	for range all {
		<-s.closed
	}
}

func lkWarm(t *testing.T, url string) *callhook.Hooks {
	t.Helper()
	h, err := callhook.New(callhook.Options{AllowNets: loopback,
		Configs: callhook.Static(parse(t, fmt.Sprintf(`{"agent_id": "reception", "pre_call": {"url": %q}}`, url)))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

var lkRef = callhook.ConfigRef{Agent: "reception"}

// lkEventually waits for what another goroutine does at once.
func lkEventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 2000 {
		if f() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("never: %s", what)
}

// TestWarm: a call that is about to be made does not wait for a handshake, and one
// whose connection died meanwhile does not fail over it.
func TestWarm(t *testing.T) {
	t.Run("used by the next lookup", func(t *testing.T) {
		s := newLKServer(t, lkAda)
		h := lkWarm(t, s.URL)
		if err := h.Warm(t.Context(), lkRef); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			res := h.PreCall(t.Context(), lkCaller())
			if accepted, _ := s.counts(); res.Outcome != callhook.OutcomeApplied || accepted != 1 || res.Attempts != 1 ||
				res.Timing.DNS+res.Timing.Connect+res.Timing.TLS != 0 || res.Timing.FirstByte <= 0 {
				t.Errorf("%s, %d connections", res, accepted)
			}
		}
	})
	t.Run("in capitals", func(t *testing.T) {
		s := newLKServer(t, lkAda)
		h := lkWarm(t, strings.Replace(s.URL, "127.0.0.1", "LocalHost", 1))
		if err := h.Warm(t.Context(), lkRef); err != nil {
			t.Skip("there is no localhost here: ", err)
		}
		h.PreCall(t.Context(), lkCaller())
		if accepted, _ := s.counts(); accepted != 1 {
			t.Errorf("%d connections, want 1", accepted)
		}
	})
	for _, warm := range []int{1, 2} {
		t.Run(fmt.Sprintf("warmed %d times, and died meanwhile", warm), func(t *testing.T) {
			s := newLKServer(t, lkAda)
			h := lkWarm(t, s.URL)
			for range warm {
				if err := h.Warm(t.Context(), lkRef); err != nil {
					t.Fatal(err)
				}
			}
			lkEventually(t, "accepted", func() bool { n, _ := s.counts(); return n == 1 })
			s.drop()
			res := h.PreCall(t.Context(), lkCaller())
			if accepted, _ := s.counts(); res.Outcome != callhook.OutcomeApplied || accepted != 2 || res.Attempts != 2 {
				t.Errorf("%s, %d connections", res, accepted)
			}
		})
	}
	t.Run("bounded, and closed by Close", func(t *testing.T) {
		s := newLKServer(t, lkAda)
		h := lkWarm(t, s.URL)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if err := h.Warm(t.Context(), lkRef); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		lkEventually(t, "one is kept", func() bool { n, open := s.counts(); return n >= 1 && open == 1 })
		h.Close()
		lkEventually(t, "none is kept", func() bool { _, open := s.counts(); return open == 0 })
		if err := h.Warm(t.Context(), lkRef); !errors.Is(err, callhook.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// TestWarmFor: what Warm cannot do it tells, in bounded time, and it asks nobody for
// what is not needed.
func TestWarmFor(t *testing.T) {
	is := func(target error) func(error) bool { return func(err error) bool { return errors.Is(err, target) } }
	transport := func(text string) func(error) bool {
		return func(err error) bool {
			_, ok := errors.AsType[*callhook.TransportError](err)
			return ok && strings.HasPrefix(err.Error(), "callhook: ") && strings.Contains(err.Error(), text)
		}
	}
	for _, tt := range []struct {
		name    string
		preCall string
		ref     callhook.ConfigRef
		options func(*callhook.Options)
		want    func(error) bool
		takes   time.Duration
		dials   int
	}{
		{name: "an agent", ref: lkRef, want: is(nil), dials: 1},
		{name: "of a revision", ref: callhook.ConfigRef{Agent: "reception", Revision: 3}, want: is(nil), dials: 1},
		{name: "nobody", ref: callhook.ConfigRef{Agent: "x"}, want: is(callhook.ErrNoConfig)},
		{name: "paused", preCall: `"paused": true`, ref: lkRef, want: is(nil)},
		{name: "no lookup", ref: lkRef, options: func(o *callhook.Options) { o.Configs = callhook.Static(parse(t, `{"agent_id": "reception"}`)) }, want: is(nil)},
		{name: "the source fails", ref: lkRef, options: func(o *callhook.Options) { o.Configs = broken{} }, want: is(errBroken)},
		{name: "refused", ref: lkRef, options: func(o *callhook.Options) { o.Dial = dial(nil, refuse) }, want: transport("connection refused")},
		{name: "a dialler that hangs", ref: lkRef, options: func(o *callhook.Options) { o.Dial = dial(nil, hang) }, want: is(context.DeadlineExceeded), takes: 10 * time.Second},
		{name: "a dialler that does not heed its context", ref: lkRef, options: func(o *callhook.Options) {
			o.Dial = dial(nil, func(context.Context) (net.Conn, error) { time.Sleep(time.Hour); return nil, io.EOF })
		}, want: is(context.DeadlineExceeded), takes: 10 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				dials := 0
				h := lkHooks(t, n, newEndpoint(lkAda), tt.preCall, func(o *callhook.Options) {
					own := o.Dial
					o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
						dials++
						return own(ctx, network, addr)
					}
					if tt.options != nil {
						tt.options(o)
					}
				})
				start := time.Now()
				err := h.Warm(t.Context(), tt.ref)
				if !tt.want(err) || time.Since(start) != tt.takes || dials != tt.dials {
					t.Errorf("%v after %s, %d dials", err, time.Since(start), dials)
				}
				time.Sleep(time.Hour)
			})
		})
	}
	for _, closes := range []bool{false, true} {
		t.Run(map[bool]string{false: "many at once", true: "Close comes between"}[closes], func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				h := lkHooks(t, n, newEndpoint(lkAda), "", func(o *callhook.Options) {
					own := o.Dial
					o.Dial = dial(nil, after(time.Second, func(ctx context.Context) (net.Conn, error) { return own(ctx, "tcp", "crm.test:80") }))
				})
				var wg sync.WaitGroup
				for range 5 {
					wg.Go(func() {
						if err := h.Warm(t.Context(), lkRef); errors.Is(err, callhook.ErrClosed) != closes {
							t.Error(err)
						}
					})
				}
				time.Sleep(500 * time.Millisecond)
				want := 1
				if closes {
					h.Close()
					want = 0
				}
				wg.Wait()
				open := 0
				for i := 0; i < len(n.conns); i += 2 { // the client's ends
					_ = n.conns[i].SetDeadline(time.Now().Add(-1))
					if _, err := n.conns[i].Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
						open++
					}
				}
				if len(n.conns) != 10 || open != want {
					t.Errorf("%d of %d connections are open, want %d", open, len(n.conns)/2, want)
				}
			})
		})
	}
	t.Run("kept for a minute", func(t *testing.T) {
		bubble(t, func(t *testing.T, n *network) {
			h := lkHooks(t, n, newEndpoint(lkAda), "", nil)
			for range 3 {
				if err := h.Warm(t.Context(), lkRef); err != nil {
					t.Fatal(err)
				}
			}
			conns := func() int { n.mu.Lock(); defer n.mu.Unlock(); return len(n.conns) / 2 }
			if got := conns(); got != 1 {
				t.Errorf("%d connections of one endpoint", got)
			}
			time.Sleep(time.Minute + time.Millisecond)
			if _, err := n.conns[0].Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("it is open after a minute: %v", err)
			}
			h.PreCall(t.Context(), lkCaller())
			if got := conns(); got != 2 {
				t.Errorf("%d connections, want a new one", got)
			}
		})
	})
}

// TestLookupKeptConnection: an endpoint that closes a connection at the moment that it
// is used again costs nobody their lookup, though it is a POST.
func TestLookupKeptConnection(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		var heard []string
		closing := func(context.Context) (net.Conn, error) {
			client, server := net.Pipe()
			go func() {
				defer server.Close()
				r := bufio.NewReader(server)
				for i := range 2 {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					body, _ := io.ReadAll(req.Body)
					heard = append(heard, fmt.Sprint(req.Method, " ", len(body) > 0, " ", req.Header["Idempotency-Key"]))
					if i == 0 {
						_, _ = io.WriteString(server, "HTTP/1.1 204 No Content\r\n\r\n")
					}
				}
			}()
			return client, nil
		}
		x := newEndpoint(lkAda)
		h := lkHooks(t, n, x, "", func(o *callhook.Options) {
			own := o.Dial
			o.Dial = dial(nil, closing, func(ctx context.Context) (net.Conn, error) { return own(ctx, "tcp", "crm.test:80") })
		})
		if res := h.PreCall(t.Context(), lkCaller()); res.Outcome != callhook.OutcomeEmpty {
			t.Fatal(res)
		}
		res := h.PreCall(t.Context(), lkCaller())
		if diff := cmp.Diff(lkGot{"applied", 0, "Ada", 1}, lkOf(res, x)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		synctest.Wait()
		if diff := cmp.Diff([]string{"POST true []", "POST true []"}, heard); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if got := x.requests(); len(got) != 1 || len(got[0].Body) == 0 {
			t.Errorf("it was sent again as %v", got)
		}
	})
}

// TestResultString: the line that hosts log, in its forms.
func TestResultString(t *testing.T) {
	const ms = time.Millisecond
	golden(t, filepath.Join("testdata", "golden", "precall_string.txt"), []byte(strings.Join([]string{
		(&callhook.PreCallResult{Outcome: callhook.OutcomeSkipped, Elapsed: 1234}).String(),
		(&callhook.PreCallResult{Outcome: callhook.OutcomeSkipped, Err: callhook.ErrNoConfig}).String(),
		(&callhook.PreCallResult{Outcome: callhook.OutcomeApplied, Elapsed: 187600 * time.Microsecond, Status: 200, Dialect: "retell", Attempts: 2, Hedges: 1,
			Timing: callhook.Timing{DNS: 3 * ms, Connect: 21 * ms, TLS: 40 * ms, FirstByte: 180 * ms, Body: 60 * time.Microsecond},
			Changes: []callhook.Change{{Name: "a", Action: callhook.ActionSet}, {Name: "b", Action: callhook.ActionOverrode}, {Name: "c", Action: callhook.ActionSet},
				{Name: "d", Action: callhook.ActionDropped, Reason: callhook.ReasonTooLong}, {Name: "e", Action: callhook.ActionDropped, Reason: callhook.ReasonLocked},
				{Name: "f", Action: callhook.ActionDropped, Reason: callhook.ReasonTooLong}}, Missing: []string{"x", "y"}}).String(),
		(&callhook.PreCallResult{Outcome: callhook.OutcomeCached, Elapsed: 40 * time.Microsecond, Status: 200}).String(),
		(&callhook.PreCallResult{Outcome: callhook.OutcomeTimeout, Elapsed: 2 * time.Second, Attempts: 1, Err: fmt.Errorf("callhook: no answer within 2s: %w", context.DeadlineExceeded)}).String(),
		(&callhook.PreCallResult{Outcome: callhook.OutcomeFailed, Status: 503, Attempts: 1, Err: &callhook.StatusError{Status: 503}}).String(),
		(&callhook.PreCallResult{Outcome: callhook.OutcomeOpen}).String(),
		(&callhook.PreCallResult{Outcome: callhook.OutcomeFailed, Err: errors.New("vault:\nforged line\r\x1b[31m\u2028x")}).String(),
	}, "\n")+"\n"))
}

// TestResultStringIsDiscreet: whatever a call or a reply says, the line does not, nor
// does it become two.
func TestResultStringIsDiscreet(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	n := 0
	private := func() string {
		n++
		return fmt.Sprintf("%d%s%d", 7000+rnd.IntN(1000), string(rune('p'+rnd.IntN(9))), 100_000+n)
	}
	check := func(res *callhook.PreCallResult, texts ...string) {
		t.Helper()
		line := res.String()
		if bad, ok := oneOf(line, texts...); ok {
			t.Errorf("it says %q: %s", bad, line)
		}
		if strings.ContainsAny(line, "\n\r\x1b") || len(line) > 2000 {
			t.Errorf("not a line: %q", line)
		}
	}
	for range 200 {
		s := make([]string, 12)
		for i := range s {
			s[i] = private()
		}
		check(&callhook.PreCallResult{Outcome: callhook.OutcomeApplied, Status: 200, Dialect: "flat", Attempts: 1,
			Variables:  callhook.Variables{s[0]: s[1], "x": map[string]any{s[2]: s[3]}},
			Secrets:    callhook.Variables{s[4]: s[5]},
			Directives: callhook.Directives{FirstMessage: s[6], TransferTo: s[7], Metadata: callhook.Object{s[8]: s[9]}},
			Changes:    []callhook.Change{{Name: s[10], Action: callhook.ActionDropped, Reason: callhook.ReasonInvalidName, From: callhook.OriginReply}},
			Missing:    []string{s[11]}, Reply: json.RawMessage(`"` + s[3] + `"`)}, s...)
	}
	// And in earnest, along every way that something can go wrong.
	for name, l := range map[string]lookup{
		"a path that climbs":  {config: parse(t, `{"agent_id":"reception","pre_call":{"method":"GET","url":"http://crm.test/{{call.variables.path}}"}}`)},
		"a filter":            {preCall: `"headers": {"X": "{{call.variables.private | date: \"%Y\"}}"}, "cache_key": "{{call.from}}"`},
		"not JSON":            {answer: reply(200, `{"private": PRIVATE`, isJSON)},
		"not HTTP":            {answer: hangUp("HTTP/1.1 PRIVATE PRIVATE\r\n\r\n")},
		"a header":            {answer: hangUp("HTTP/1.1 200 OK\r\nPRIVATE\r\n\r\n")},
		"a chunk":             {answer: hangUp("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nPRIVATE\r\n")},
		"a length":            {answer: hangUp("HTTP/1.1 200 OK\r\nContent-Length: PRIVATE\r\n\r\n")},
		"a status":            {answer: status(500, "X: PRIVATE")},
		"a place to go":       {answer: status(302, "Location: http://PRIVATE.test/")},
		"names":               {answer: reply(200, `{"variables":{"PRIVATE":1,"PRIVATE x":2,"call":3,"private":"PRIVATE"}}`, isJSON)},
		"two":                 {answer: reply(200, `[{"PRIVATE":1},{"PRIVATE":2}]`, isJSON)},
		"directives":          {answer: reply(200, `{"variables":{},"directives":{"transfer_to":"PRIVATE","language":"PRIVATE"}}`, isJSON), preCall: `"response": {"directives": ["transfer_to"]}`},
		"a secret that isn't": {preCall: `"secrets": ["${KEY}"]`, answer: lkAda, options: func(o *callhook.Options) { o.Secrets = secretsOf(map[string]string{"KEY": "PRIVATE"}) }},
	} {
		t.Run(name, func(t *testing.T) {
			l.call = inbound()
			l.call.From, l.call.Variables = "+447700900123", callhook.Variables{"private": "PRIVATE", "path": "../PRIVATE"}
			if l.answer == nil {
				l.answer = lkAda
			}
			check(l.run(t), "PRIVATE", "private", "447700900123", "crm.test", secret)
		})
	}
}

// TestMissing: an agent that cannot do without a variable learns that it has none,
// wherever it might have come from, and the call goes on.
func TestMissing(t *testing.T) {
	const required = `"response": {"required": ["customer_name", "city", "pin"]}`
	for _, tt := range []struct {
		name     string
		declared string
		answer   http.HandlerFunc
		vars     callhook.Variables
		want     []string
	}{
		{"nothing has one", ``, status(204), nil, []string{"customer_name", "city", "pin"}},
		{"the reply", ``, reply(200, `{"variables":{"customer_name":"Ada","city":"London","pin":0}}`), nil, nil},
		{"the reply has null and nothing", ``, reply(200, `{"variables":{"customer_name":null,"city":"","pin":"1"}}`), nil, []string{"customer_name", "city"}},
		{"the reply is refused", `{"name":"city","type":"number"},{"name":"pin","max_length":3}`, reply(200, `{"variables":{"customer_name":"Ada","city":"London","pin":"1234"}}`), nil, []string{"city", "pin"}},
		{"the call", ``, status(204), callhook.Variables{"city": "Paris"}, []string{"customer_name", "pin"}},
		{"a default", `{"name":"pin","default":"0"}`, status(204), nil, []string{"customer_name", "city"}},
		{"a secret", `{"name":"pin","secret":true}`, reply(200, `{"variables":{"pin":"1"}}`), nil, []string{"customer_name", "city"}},
		{"the endpoint failed", ``, status(500), callhook.Variables{"city": "Paris"}, []string{"customer_name", "pin"}},
		{"nobody is asked", ``, nil, nil, []string{"customer_name", "city", "pin"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := lookup{declared: tt.declared, preCall: required, answer: tt.answer, call: inbound()}
			if l.call.Variables = tt.vars; tt.answer == nil {
				l.call.Direction = callhook.Outbound
			}
			res := l.run(t)
			if diff := cmp.Diff(tt.want, res.Missing); diff != "" {
				t.Errorf("%s (-want +got)\n%s", res, diff)
			}
		})
	}
}

// TestMaxLength: a field that somebody filled with a novel does not get into the
// prompt, in any script; a shorter one does.
func TestMaxLength(t *testing.T) {
	for _, tt := range []struct{ declared, value, want, reason string }{
		{`"max_length": 3`, `"Ada"`, "Ada", ""},
		{`"max_length": 3`, `"Adam"`, "there", "too_long"},
		{`"max_length": 3`, `"Äöü"`, "Äöü", ""},
		{`"max_length": 3`, `"日本語"`, "日本語", ""},
		{`"max_length": 3`, `"日本語で"`, "there", "too_long"},
		{`"max_length": 3`, `"  Ada  "`, "Ada", ""},
		{`"max_length": 3`, `"A\u202ed\u0000a"`, "Ada", ""},
		{`"max_length": 3, "type": "string"`, `123`, "123", ""},
		{`"max_length": 3, "type": "string"`, `1234`, "there", "too_long"},
		{`"max_length": 0`, `"` + strings.Repeat("x", 4096) + `"`, strings.Repeat("x", 4096), ""},
		{`"max_length": 0`, `"` + strings.Repeat("x", 4097) + `"`, "there", "too_long"},
		{`"max_length": 4096`, `"` + strings.Repeat("ü", 2048) + `"`, strings.Repeat("ü", 2048), ""},
	} {
		res, err := callhook.ReadReply(lookup{declared: `{"name":"customer_name","default":"there",` + tt.declared + `}`}.agent(t), "application/json", []byte(`{"variables":{"customer_name":`+tt.value+`}}`))
		if err != nil {
			t.Fatal(err)
		}
		got := changes(res, callhook.ActionDropped)
		if res.Variables["customer_name"] != tt.want || (len(got) > 0) != (tt.reason != "") || tt.reason != "" && got[0] != "customer_name dropped "+tt.reason {
			t.Errorf("%s, %.40s: %v, %v", tt.declared, tt.value, res.Variables, got)
		}
	}
}

// TestWithheld: whoever hides their number is nobody's cached acquaintance, and whoever
// does not is not taken for one who does.
func TestWithheld(t *testing.T) {
	for _, number := range []string{"", " ", "anonymous", "Anonymous", "ANONYMOUS", "Restricted", "private", "Unavailable", "unknown", "blocked", "+266696687",
		"+7378742833", "+2562533", "+8566696", "+86282452253", "+464", "sip:anonymous@anonymous.invalid", "sips:Anonymous@example.com", "anonymous@anonymous.invalid",
		"Private Number", "No Caller ID", "null"} {
		if !callhook.Withheld(number) {
			t.Errorf("%q is withheld", number)
		}
	}
	for _, number := range []string{"+442079460123", "sip:ada@example.com", "sip:anonymous.ada@example.com", "1", "0", "+1266696687", "2666966871", "ada", "unknown@", "+44"} {
		if number != "unknown@" && callhook.Withheld(number) {
			t.Errorf("%q is not withheld", number)
		}
	}
	for _, tt := range []struct {
		withheld string
		from     string
		want     callhook.Outcome
	}{{"", "anonymous", "applied"}, {"send", "anonymous", "applied"}, {"skip", "anonymous", "skipped"}, {"skip", "", "skipped"}, {"skip", "+442079460123", "applied"}} {
		res := lookup{preCall: fmt.Sprintf(`"withheld": %q`, tt.withheld), answer: lkAda, call: lkFrom(tt.from)}.run(t)
		if res.Outcome != tt.want || res.Err != nil {
			t.Errorf("%q, %q: %s", tt.withheld, tt.from, res)
		}
	}
}

// TestNormalizeNumber: one caller is one key in the CRM and in the cache however the
// carrier writes the number, and the runtime's record stays its own.
func TestNormalizeNumber(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint(lkAda)
		n.handle("crm.test", x.ServeHTTP)
		config := parse(t, `{"agent_id": "reception", "pre_call": {"url": "http://crm.test/pre", "query": {"n": "{{call.from}}"}, "cache": "1h", "body": {"from": "{{call.from}}", "to": "{{call.to}}", "fwd": "{{call.forwarded_from}}"}},
			"call_status": [{"url": "http://crm.test/status", "payload": {"template": {"from": "{{call.from}}", "to": "{{call.to}}", "fwd": "{{call.forwarded_from}}"}}}],
			"post_call": [{"url": "http://crm.test/post", "payload": {"template": {"from": "{{call.from}}", "to": "{{call.to}}", "fwd": "{{call.forwarded_from}}"}}}]}`)
		var panics atomic.Bool
		o := callhook.Options{Configs: callhook.Static(config), Dial: n.Dial, NormalizeNumber: func(number string) string {
			if panics.Load() {
				panic("boom")
			}
			if strings.EqualFold(number, "anonymous") || number == "" {
				t.Errorf("asked to normalize %q", number)
			}
			return "+44" + strings.TrimPrefix(strings.ReplaceAll(number, " ", ""), "0")
		}}
		run(t, o, func(h *callhook.Hooks) {
			call := inbound()
			call.From, call.To, call.ForwardedFrom = "020 7946 0123", "020 7946 0999", "Anonymous"
			call.Status, call.Sequence, call.EndedAt = callhook.StatusCompleted, 1, time.Now()
			before := fmt.Sprintf("%+v", *call)
			got := []callhook.Outcome{h.PreCall(t.Context(), call).Outcome}
			call.From = "02079460123"
			got = append(got, h.PreCall(t.Context(), call).Outcome)
			call.From = "020 7946 0123"
			if diff := cmp.Diff([]callhook.Outcome{"applied", "cached"}, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if err := h.CallStatus(t.Context(), call); err != nil {
				t.Error(err)
			}
			if err := h.PostCall(t.Context(), call); err != nil {
				t.Error(err)
			}
			if after := fmt.Sprintf("%+v", *call); after != before {
				t.Errorf("the call was changed: %s", after)
			}
			time.Sleep(time.Second)
			const want = `{"from":"+442079460123","to":"+442079460999","fwd":"Anonymous"}`
			for _, r := range x.requests() {
				if string(r.Body) != want || strings.HasPrefix(r.URL, "/pre") && r.URL != "/pre?n=%2B442079460123" {
					t.Errorf("%s got %s, want %s", r.URL, r.Body, want)
				}
			}
			if len(x.requests()) != 3 {
				t.Errorf("%d requests", len(x.requests()))
			}
			panics.Store(true)
			call.ID, call.From = "c2", "020 1"
			if res := h.PreCall(t.Context(), call); res.Outcome != callhook.OutcomeApplied || !strings.Contains(string(x.requests()[3].Body), `"020 1"`) {
				t.Errorf("when the function panics: %s", res)
			}
		})
	})
}
