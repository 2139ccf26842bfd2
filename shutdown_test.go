package callhook_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
)

// TestRunEndsInEveryPhase: wherever a delivery stands when Run's context ends, the
// attempt is finished, nothing is lost or sent twice, and the next Run goes on.
func TestRunEndsInEveryPhase(t *testing.T) {
	slow := func(d time.Duration, ctx context.Context) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	for _, tt := range []struct {
		name     string
		webhook  string
		answers  []http.HandlerFunc
		secrets  time.Duration // how long resolving takes
		dial     time.Duration
		ends     time.Duration // when Run's context ends
		returns  time.Duration // when Run has to return
		requests int
	}{
		{name: "before anything", ends: 0, returns: 0, requests: 1},
		{name: "while a secret is resolved", secrets: 2 * time.Second, ends: time.Second, returns: 2 * time.Second, requests: 1},
		{name: "while it dials", dial: 2 * time.Second, ends: time.Second, returns: 2 * time.Second, requests: 1},
		{name: "while the endpoint thinks", answers: []http.HandlerFunc{func(http.ResponseWriter, *http.Request) { time.Sleep(2 * time.Second) }},
			ends: time.Second, returns: 2 * time.Second, requests: 1},
		{name: "while the endpoint is silent", webhook: `"timeout": "3s"`, answers: []http.HandlerFunc{silent, status(200)}, ends: time.Second, returns: 3 * time.Second, requests: 2},
		{name: "while the body comes", webhook: `"success": {"path": "ok", "equals": true}`, answers: []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"ok":`)
			w.(http.Flusher).Flush()
			time.Sleep(2 * time.Second)
			fmt.Fprint(w, `true}`)
		}}, ends: time.Second, returns: 2 * time.Second, requests: 1},
		{name: "while it waits for the next attempt", answers: []http.HandlerFunc{status(500), status(200)}, ends: time.Second, returns: time.Second, requests: 2},
		{name: "while the lane is held", answers: []http.HandlerFunc{status(429), status(200)}, ends: 500 * time.Millisecond, returns: 500 * time.Millisecond, requests: 2},
		{name: "while the lane is full", webhook: `"concurrency": 1`, answers: []http.HandlerFunc{func(http.ResponseWriter, *http.Request) { time.Sleep(2 * time.Second) }, status(200)},
			ends: time.Second, returns: 2 * time.Second, requests: 2},
		{name: "while the rate is kept", webhook: `"rate": "1/m"`, ends: time.Second, returns: time.Second, requests: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x := newEndpoint(tt.answers...)
				n.handle("x.test", x.ServeHTTP)
				if tt.webhook != "" {
					tt.webhook += ", "
				}
				config := hook(t, "http://x.test/", tt.webhook+`"secrets": ["${KEY}"]`)
				h, err := callhook.New(callhook.Options{
					Configs: callhook.Static(config),
					Secrets: func(ctx context.Context, _ callhook.SecretRef) (string, error) {
						slow(tt.secrets, ctx)
						return secret, ctx.Err()
					},
					Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
						slow(tt.dial, ctx)
						if ctx.Err() != nil {
							return nil, ctx.Err()
						}
						return n.Dial(ctx, network, addr)
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				consume := func(d time.Duration) time.Duration {
					ctx, cancel := context.WithTimeout(t.Context(), d)
					defer cancel()
					start := time.Now()
					if err := h.Run(ctx); err != nil {
						t.Errorf("Run: %v", err)
					}
					return time.Since(start)
				}
				calls := int64(1)
				raise(t, h, ended("c1"))
				if strings.Contains(tt.name, "full") || strings.Contains(tt.name, "rate") {
					raise(t, h, ended("c2"))
					calls = 2
				}
				if took := consume(tt.ends); took != tt.returns {
					t.Errorf("Run returned after %s, want %s", took, tt.returns)
				}
				idle(t)
				time.Sleep(time.Hour)
				if tt.returns != consume(tt.ends) && tt.ends == 0 {
					t.Error("Run with an ended context took time")
				}
				consume(2 * time.Minute)
				balance(t, h, calls, 0, 0)
				if got := len(x.requests()); got != tt.requests {
					t.Errorf("%d requests, want %d", got, tt.requests)
				}
				if err := h.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// idle fails the test when a goroutine of callhook's runs: outside attempts there
// are none.
func idle(t testing.TB) {
	t.Helper()
	synctest.Wait()
	var b bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&b, 2)
	for _, g := range strings.Split(b.String(), "\n\n") {
		if _, ours := oneOf(g, "callhook.(*MemoryQueue).work", "callhook.(*lanes)", "callhook.(*Hooks).handle"); ours {
			t.Errorf("a goroutine is left:\n%s", g)
		}
	}
}

// TestIdle: what waits, is held or is parked costs no goroutine, and what has been
// delivered leaves no lane behind.
func TestIdle(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		failing, held := newEndpoint(status(500)), newEndpoint(status(429, "Retry-After: 3600"))
		n.handle("failing.test", failing.ServeHTTP)
		n.handle("held.test", held.ServeHTTP)
		n.handle("fine.test", newEndpoint().ServeHTTP)
		config := parse(t, `{"agent_id": "a", "post_call": [{"name": "failing", "url": "http://failing.test/"}, {"name": "held", "url": "http://held.test/"},
			{"name": "fine", "url": "http://fine.test/"}, {"name": "rated", "url": "http://fine.test/", "rate": "100/s"}]}`)
		run(t, callhook.Options{Configs: callhook.Static(config), Dial: n.Dial}, func(h *callhook.Hooks) {
			for _, id := range names("c", 100) {
				raise(t, h, ended(id))
			}
			time.Sleep(time.Minute)
			idle(t)
			balance(t, h, 200, 0, 200)
			if got := callhook.LaneCount(h); got > 2 {
				t.Errorf("%d lanes are not at rest, want the held one and perhaps the failing one", got)
			}
		})
	})
}

// TestStress: many calls, events and webhooks at once, endpoints that fail at
// random: each webhook gets exactly its events, once each, and all is accounted for.
func TestStress(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		const calls, events = 200, 20
		var mu sync.Mutex
		dice := rand.New(rand.NewPCG(42, 42))
		got := map[string]map[string]int{"good": {}, "bad": {}, "few": {}} // answered 200, by webhook and ID
		answer := func(name string, w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			if name == "bad" {
				switch dice.IntN(6) {
				case 0:
					w.WriteHeader(500)
					return
				case 1:
					w.WriteHeader(429)
					return
				case 2:
					w.Header().Set("Retry-After", "1")
					w.WriteHeader(503)
					return
				}
			}
			got[name][r.Header.Get(callhook.HeaderID)]++
		}
		for name := range got {
			n.handle(name+".test", func(w http.ResponseWriter, r *http.Request) { answer(name, w, r) })
		}
		config := parse(t, `{"agent_id": "a", "call_status": [
			{"name": "good", "url": "http://good.test/", "payload": {"fields": ["call.id"]}},
			{"name": "bad", "url": "http://bad.test/", "concurrency": 32, "payload": {"fields": ["call.id"]}},
			{"name": "few", "url": "http://few.test/", "concurrency": 2, "statuses": ["in_progress"], "payload": {"fields": ["call.id"]}}]}`)
		ids := map[string]bool{}
		trace := &callhook.Trace{Enqueued: func(_ context.Context, d *callhook.Delivery) {
			mu.Lock()
			defer mu.Unlock()
			ids[d.ID] = true
		}}
		run(t, callhook.Options{Configs: callhook.Static(config), Dial: n.Dial, Trace: trace}, func(h *callhook.Hooks) {
			var wg sync.WaitGroup
			for c := range calls {
				wg.Go(func() {
					for e := range events {
						status := callhook.StatusRinging
						if e%2 == 0 {
							status = callhook.StatusInProgress
						}
						call := &callhook.Call{ID: fmt.Sprint("c", c), AgentID: "a", Status: status, Sequence: int64(e + 1)}
						for range 1 + e%2 { // some are raised twice
							if err := h.CallStatus(t.Context(), call); err != nil {
								t.Error(err)
							}
						}
					}
				})
			}
			wg.Wait()
			time.Sleep(24 * time.Hour)
			synctest.Wait()
			const want = calls * events
			balance(t, h, 2*want+want/2, 0, 0)
			idle(t)
			for name, n := range map[string]int{"good": want, "bad": want, "few": want / 2} {
				if len(got[name]) != n {
					t.Errorf("%s got %d events, want %d", name, len(got[name]), n)
				}
				for id, times := range got[name] {
					if times != 1 || !ids[id] {
						t.Errorf("%s got %s %d times; raised: %v", name, id, times, ids[id])
					}
				}
			}
		})
	})
}
