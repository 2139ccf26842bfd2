package callhook_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callhook-go/callhook"
)

// switchable is an endpoint that answers with what is set.
type switchable struct {
	*endpoint
	answer      atomic.Pointer[http.HandlerFunc]
	mu          sync.Mutex
	now, before int // requests under way, and the most since the last look
}

func newSwitchable(f http.HandlerFunc) *switchable {
	s := new(switchable)
	s.set(f)
	s.endpoint = newEndpoint(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.now++
		s.before = max(s.before, s.now)
		s.mu.Unlock()
		(*s.answer.Load())(w, r)
		s.mu.Lock()
		s.now--
		s.mu.Unlock()
	})
	return s
}

func (s *switchable) set(f http.HandlerFunc) { s.answer.Store(&f) }

// most returns the most requests that were under way at once since it was asked last.
func (s *switchable) most() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.before
	s.before = s.now
	return n
}

// TestLaneDown: an endpoint that fails is left alone but for a probe now and then,
// each with another delivery; once it answers, everything goes, slowly at first.
func TestLaneDown(t *testing.T) {
	failures := map[string]struct {
		answer http.HandlerFunc
		lasts  time.Duration
	}{
		"500": {answer: status(500)}, "401": {answer: status(401)}, "a redirect": {answer: status(302, "Location: http://elsewhere.test/")},
		"the connection ends":     {answer: cutOff},
		"no answer, ever":         {answer: silent, lasts: 15 * time.Second},
		"an answer after 14 s":    {answer: func(w http.ResponseWriter, r *http.Request) { time.Sleep(14 * time.Second); status(500)(w, r) }, lasts: 14 * time.Second},
		"now and then a success":  {answer: everyNth(6, status(500))},
		"two of three about them": {answer: everyOther(status(500), status(400))},
	}
	for name, tt := range failures {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x, w := newSwitchable(tt.answer), new(watch)
				n.handle("x.test", x.ServeHTTP)
				var mu sync.Mutex
				var down, up []time.Time
				trace := w.trace()
				trace.LaneDown = func(l callhook.LaneState) { mu.Lock(); defer mu.Unlock(); down = append(down, time.Now()) }
				trace.LaneUp = func(l callhook.LaneState) { mu.Lock(); defer mu.Unlock(); up = append(up, time.Now()) }
				o := callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", `"concurrency": 8`)), Dial: n.Dial, Trace: trace}
				run(t, o, func(h *callhook.Hooks) {
					const calls = 400
					for _, id := range names("c", calls) {
						raise(t, h, ended(id))
					}
					time.Sleep(6 * time.Hour)
					synctest.Wait()
					if len(down) == 0 {
						t.Fatal("the lane did not go down")
					}
					if name == "now and then a success" || name == "two of three about them" {
						return // it comes up now and then
					}
					got := x.requests()
					if len(got) < 6*12 || len(got) > 6*13+30 {
						t.Errorf("%d requests in six hours, want one in five minutes and a few at first", len(got))
					}
					for i := 20; i < len(got); i++ {
						if p := got[i].At.Sub(got[i-1].At); p > 5*time.Minute+tt.lasts {
							t.Errorf("probe %d came %s after the one before", i, p)
						}
					}
					ids := map[string]int{}
					for i, r := range got {
						id := r.Header.Get("webhook-id")
						if i >= 20 && got[i-1].Header.Get("webhook-id") == id {
							t.Errorf("probe %d is the same delivery as the one before", i)
						}
						ids[id]++
					}
					if len(ids) < len(got)*2/3 {
						t.Errorf("%d probes were made with %d deliveries", len(got), len(ids))
					}
					if want := []callhook.LaneState{{LaneRef: callhook.LaneRef{Agent: "a", Webhook: "w"}, Trouble: callhook.ReasonDown, Since: down[0]}}; len(h.Lanes()) != 1 ||
						h.Lanes()[0].LaneRef != want[0].LaneRef || h.Lanes()[0].Trouble != want[0].Trouble || !h.Lanes()[0].Since.Equal(down[0]) {
						t.Errorf("Lanes: %+v, want %+v", h.Lanes(), want)
					}
					balance(t, h, 0, 0, calls)

					x.most()
					x.set(func(w http.ResponseWriter, r *http.Request) { time.Sleep(time.Second); status(200)(w, r) })
					probe := len(got)
					for len(x.requests()) == probe {
						time.Sleep(10 * time.Millisecond)
					}
					time.Sleep(500 * time.Millisecond)
					most := []int{x.most()}
					for range 4 {
						time.Sleep(time.Second)
						synctest.Wait()
						most = append(most, x.most())
					}
					if diff := cmp.Diff([]int{1, 2, 4, 8, 8}, most); diff != "" {
						t.Errorf("requests at once in each second after it came up (-want +got)\n%s", diff)
					}
					time.Sleep(time.Duration(calls/8+5) * time.Second)
					synctest.Wait()
					balance(t, h, calls, 0, 0)
					if len(up) != 1 || len(down) != 1 {
						t.Errorf("it went down at %v and up at %v, want once each", down, up)
					}
				})
			})
		})
	}
}

// everyNth answers well every n-th time.
func everyNth(n int64, otherwise http.HandlerFunc) http.HandlerFunc {
	var i atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		if i.Add(1)%n != 0 {
			otherwise(w, r)
		}
	}
}

func everyOther(a, b http.HandlerFunc) http.HandlerFunc {
	var i atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		if i.Add(1)%3 != 0 {
			a(w, r)
		} else {
			b(w, r)
		}
	}
}

// TestLaneStaysUp: what is not the endpoint's fault does not take its lane down.
func TestLaneStaysUp(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"400": status(400), "413": status(413), "half of them fail": everyNth(2, status(500)), "three in a row": everyNth(4, status(500)),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x := newEndpoint(answer)
				n.handle("x.test", x.ServeHTTP)
				down := 0
				o := callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", `"concurrency": 1, "retry": {"max_attempts": 2}`)), Dial: n.Dial,
					Trace: &callhook.Trace{LaneDown: func(callhook.LaneState) { down++ }}}
				run(t, o, func(h *callhook.Hooks) {
					for _, id := range names("c", 100) {
						raise(t, h, ended(id))
						time.Sleep(time.Second)
					}
					time.Sleep(time.Hour)
					synctest.Wait()
					if down > 0 {
						t.Errorf("it went down %d times", down)
					}
				})
			})
		})
	}
}

// TestOneFailingDelivery: a delivery alone in its lane is tried on its own
// schedule, however often it fails.
func TestOneFailingDelivery(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint(status(500))
		n.handle("x.test", x.ServeHTTP)
		run(t, callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", "")), Dial: n.Dial}, func(h *callhook.Hooks) {
			raise(t, h, ended("c1"))
			time.Sleep(80 * time.Hour)
			synctest.Wait()
			balance(t, h, 0, 1, 0)
			if got := len(x.requests()); got < 25 || got > 40 {
				t.Errorf("%d requests in three days, want what the schedule says, about 30", got)
			}
		})
	})
}

// TestDownLaneExpires: behind an endpoint that is down for good nothing waits much
// longer than max_age, though few requests are made.
func TestDownLaneExpires(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint(status(500))
		n.handle("x.test", x.ServeHTTP)
		run(t, callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", "")), Dial: n.Dial}, func(h *callhook.Hooks) {
			const calls = 2000
			for _, id := range names("c", calls) {
				raise(t, h, ended(id))
			}
			time.Sleep(72*time.Hour + 6*time.Minute)
			synctest.Wait()
			balance(t, h, 0, calls, 0)
			if got := len(x.requests()); got > 72*13+30 {
				t.Errorf("%d requests", got)
			}
		})
	})
}

// TestDeadEndpointsTakeNothing: hundreds of endpoints that never answer do not hold
// up those that do, though fewer attempts run at once than they would take.
func TestDeadEndpointsTakeNothing(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		dead, fine := newEndpoint(silent), newEndpoint(func(http.ResponseWriter, *http.Request) { time.Sleep(100 * time.Millisecond) })
		n.handle("dead.test", dead.ServeHTTP)
		n.handle("fine.test", fine.ServeHTTP)
		configs := []*callhook.Config{parse(t, `{"agent_id": "fine", "post_call": [{"name": "w", "url": "http://fine.test/"}]}`)}
		const lanes = 300
		for i := range lanes {
			configs = append(configs, parse(t, fmt.Sprintf(`{"tenant_id": "t%d", "agent_id": "a", "post_call": [{"name": "w", "url": "http://dead.test/"}]}`, i%50)))
			configs[i+1].AgentID = fmt.Sprint("dead", i)
		}
		o := callhook.Options{Configs: callhook.Static(configs...), Dial: n.Dial, Concurrency: 64}
		run(t, o, func(h *callhook.Hooks) {
			call := ended("first")
			call.AgentID = "fine"
			raise(t, h, call)
			time.Sleep(time.Second)
			for i := range lanes {
				for j := range 10 {
					c := ended(fmt.Sprint(j))
					c.TenantID, c.AgentID = fmt.Sprint("t", i%50), fmt.Sprint("dead", i)
					raise(t, h, c)
				}
			}
			for i := range 600 {
				time.Sleep(100 * time.Millisecond)
				c := ended(fmt.Sprint("c", i))
				c.AgentID = "fine"
				raise(t, h, c)
				before := len(fine.requests())
				synctest.Wait()
				if got := len(fine.requests()); got != before+1 && got != i+2 {
					t.Fatalf("call %d waits at an endpoint that answers", i)
				}
			}
		})
	})
}

// TestDeadBacklogAtTheStart: a process begins with few attempts, and finds the backlog of
// an endpoint that does not answer. Webhooks of which it knows nothing either are not
// held up.
func TestDeadBacklogAtTheStart(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		fine := newEndpoint(func(http.ResponseWriter, *http.Request) { time.Sleep(10 * time.Millisecond) })
		n.handle("dead.test", newEndpoint(silent).ServeHTTP)
		n.handle("fine.test", fine.ServeHTTP)
		configs := []*callhook.Config{parse(t, `{"agent_id": "dead", "post_call": [{"name": "w", "url": "http://dead.test/", "concurrency": 16}]}`)}
		const lanes = 9
		for i := range lanes {
			configs = append(configs, parse(t, fmt.Sprintf(`{"agent_id": "fine%d", "post_call": [{"name": "w", "url": "http://fine.test/"}]}`, i)))
		}
		raiseOf := func(h *callhook.Hooks, agent, id string) {
			call := ended(id)
			call.AgentID = agent
			raise(t, h, call)
		}
		o := callhook.Options{Configs: callhook.Static(configs...), Dial: n.Dial, Concurrency: 16, Queue: callhook.NewMemoryQueue(nil)}
		before, err := callhook.New(o)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			raiseOf(before, "dead", fmt.Sprint(i))
		}
		run(t, o, func(h *callhook.Hooks) {
			time.Sleep(time.Second)
			for i := range lanes {
				raiseOf(h, fmt.Sprint("fine", i), "first")
			}
			time.Sleep(time.Second)
			if got := len(fine.requests()); got != lanes {
				t.Errorf("%d of %d webhooks had their event after a second", got, lanes)
			}
		})
	})
}

// TestFairTurns: when all attempts are taken, a tenant with little waits for its
// turn and not for another's backlog, and so does a webhook beside another of its
// tenant.
func TestFairTurns(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		var mu sync.Mutex
		var order []string
		n.handle("x.test", func(_ http.ResponseWriter, r *http.Request) {
			mu.Lock()
			order = append(order, r.URL.Path[1:])
			mu.Unlock()
			time.Sleep(time.Second)
		})
		var configs []*callhook.Config
		for _, lane := range []string{"big/a", "big/b", "big/c", "small/a"} {
			configs = append(configs, parse(t, fmt.Sprintf(`{"tenant_id": %q, "agent_id": %q, "post_call": [{"name": "w", "url": "http://x.test/%s"}]}`,
				lane[:len(lane)-2], lane[len(lane)-1:], lane)))
		}
		o := callhook.Options{Configs: callhook.Static(configs...), Dial: n.Dial, Concurrency: 4}
		run(t, o, func(h *callhook.Hooks) {
			event := func(tenant, agent string, i int) {
				c := ended(fmt.Sprint(i))
				c.TenantID, c.AgentID = tenant, agent
				raise(t, h, c)
			}
			for _, lane := range [][2]string{{"big", "b"}, {"big", "c"}, {"small", "a"}} { // lanes that are not proven get less
				event(lane[0], lane[1], 1000)
			}
			time.Sleep(2 * time.Second)
			for i := range 100 {
				event("big", "a", i)
			}
			time.Sleep(10500 * time.Millisecond)
			for i := range 50 {
				event("big", "b", i)
				event("big", "c", i)
				event("small", "a", i)
			}
			mu.Lock()
			before := len(order)
			mu.Unlock()
			time.Sleep(20 * time.Second)
			synctest.Wait()
			mu.Lock()
			turns := map[string]int{}
			for _, lane := range order[before:] {
				turns[lane]++
			}
			mu.Unlock()
			if s := turns["small/a"]; s < 36 || s > 44 {
				t.Errorf("of 80 turns the small tenant got %d, want half: %v", s, turns)
			}
			if b, c := turns["big/b"], turns["big/c"]; b < 10 || c < 10 {
				t.Errorf("of 80 turns the webhooks of the big tenant got %v", turns)
			}
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			balance(t, h, 253, 0, 0)
		})
	})
}

// TestPublishFrees: a config that is published anew lifts a stop, a hold, a pause
// and the pause between probes, without an event that would tell of it.
func TestPublishFrees(t *testing.T) {
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		config string
	}{
		"gone": {status(410), ""}, "held": {status(429, "Retry-After: 3600"), ""}, "down": {status(500), ""}, "paused": {status(500), `"paused": true`},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x := newSwitchable(tt.answer)
				n.handle("x.test", x.ServeHTTP)
				s := newSource(hook(t, "http://x.test/", tt.config))
				run(t, callhook.Options{Configs: s, Dial: n.Dial}, func(h *callhook.Hooks) {
					const calls = 50
					for _, id := range names("c", calls) {
						raise(t, h, ended(id))
					}
					time.Sleep(30 * time.Minute)
					x.set(status(200))
					s.set(hook(t, "http://x.test/mended", ""))
					time.Sleep(11 * time.Second)
					synctest.Wait()
					balance(t, h, calls, 0, 0)
				})
			})
		})
	}
}

// TestWebhookRemovedWithBacklog: what waits for a webhook that was removed goes to
// the dead letters, whatever its lane waited for, and no request is made.
func TestWebhookRemovedWithBacklog(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{"gone": status(410), "held": status(429, "Retry-After: 3600"), "down": status(500)} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x := newEndpoint(answer)
				n.handle("x.test", x.ServeHTTP)
				s, w := newSource(hook(t, "http://x.test/", "")), new(watch)
				run(t, callhook.Options{Configs: s, Dial: n.Dial, Trace: w.trace()}, func(h *callhook.Hooks) {
					const calls = 200
					for _, id := range names("c", calls) {
						raise(t, h, ended(id))
					}
					time.Sleep(time.Minute)
					requests := len(x.requests())
					s.set(parse(t, `{"agent_id": "a"}`))
					time.Sleep(4 * time.Hour)
					synctest.Wait()
					balance(t, h, 0, calls, 0)
					if got := h.Stats().Dead[callhook.ReasonWebhookRemoved]; got != calls {
						t.Errorf("%d are dead since the webhook was removed, want %d", got, calls)
					}
					if got := len(x.requests()); got != requests {
						t.Errorf("%d requests after the webhook was removed", got-requests)
					}
					if got := h.Lanes(); len(got) > 0 {
						t.Errorf("lanes in trouble: %+v", got)
					}
				})
			})
		})
	}
}

// TestResume: it frees a lane whatever it waits for, and makes due what is to be
// tried again later.
func TestResume(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{"gone": status(410), "held": status(429, "Retry-After: 3600"), "down": status(500), "a few that failed": nil} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				calls := 50
				if answer == nil {
					answer, calls = status(500), 3
				}
				x := newSwitchable(answer)
				n.handle("x.test", x.ServeHTTP)
				run(t, callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", "")), Dial: n.Dial}, func(h *callhook.Hooks) {
					for _, id := range names("c", calls) {
						raise(t, h, ended(id))
					}
					time.Sleep(30 * time.Minute)
					x.set(status(200))
					if _, err := h.Resume(t.Context(), callhook.LaneRef{Agent: "a", Webhook: "w"}); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Second)
					synctest.Wait()
					balance(t, h, int64(calls), 0, 0)
				})
			})
		})
	}
}

// TestManyLanesDown: thousands of lanes that are down cost no goroutine, and each
// is probed.
func TestManyLanesDown(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		const lanes = 2000
		var mu sync.Mutex
		at := map[string][]time.Time{}
		n.handle("x.test", func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			at[r.URL.Path] = append(at[r.URL.Path], time.Now())
			mu.Unlock()
			w.WriteHeader(500)
		})
		var configs []*callhook.Config
		for i := range lanes {
			c := hook(t, fmt.Sprintf("http://x.test/%d", i), "")
			c.AgentID = fmt.Sprint(i)
			configs = append(configs, c)
		}
		run(t, callhook.Options{Configs: callhook.Static(configs...), Dial: n.Dial}, func(h *callhook.Hooks) {
			for i := range lanes {
				for _, id := range names("c", 6) {
					c := ended(id)
					c.AgentID = fmt.Sprint(i)
					raise(t, h, c)
				}
			}
			time.Sleep(30 * time.Minute)
			synctest.Wait()
			idle(t)
			mu.Lock()
			defer mu.Unlock()
			for path, times := range at {
				slices.SortFunc(times, time.Time.Compare)
				if last := times[len(times)-1]; time.Since(last) > 5*time.Minute+time.Second {
					t.Errorf("%s was probed last %s ago", path, time.Since(last))
				}
			}
			if len(at) != lanes {
				t.Errorf("%d lanes were tried", len(at))
			}
			balance(t, h, 0, 0, int64(6*lanes))
		})
	})
}
