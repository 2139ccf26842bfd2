package callhook_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callhook-go/callhook"
)

// counted is a queue that counts what it is told, and fails when told to.
type counted struct {
	callhook.Queue
	callhook.Inspector
	handed, parks, released atomic.Int64
	failRelease             atomic.Int64 // so many calls of Release fail
	lag                     time.Duration
	failEnqueue             func(n int) error
	enqueues                atomic.Int64
}

func count(q callhook.Queue) *counted {
	return &counted{Queue: q, Inspector: q.(callhook.Inspector)}
}

func (q *counted) Consume(ctx context.Context, handle callhook.Handler) error {
	return q.Queue.Consume(ctx, func(ctx context.Context, d *callhook.Delivery) callhook.Verdict {
		q.handed.Add(1)
		v := handle(ctx, d)
		if v.State == callhook.StateParked {
			q.parks.Add(1)
		}
		return v
	})
}

func (q *counted) Release(ctx context.Context, lane string, n int) (int, error) {
	if lane != "" && q.failRelease.Add(-1) >= 0 {
		return 0, errors.New("the disk is full")
	}
	q.released.Add(1)
	time.Sleep(q.lag)
	return q.Queue.Release(ctx, lane, n)
}

// Enqueue stores all but the last when failEnqueue says so.
func (q *counted) Enqueue(ctx context.Context, ds ...*callhook.Delivery) error {
	n := int(q.enqueues.Add(1))
	if q.failEnqueue != nil {
		if err := q.failEnqueue(n); err != nil {
			return errors.Join(err, q.Queue.Enqueue(ctx, ds[:len(ds)-1]...))
		}
	}
	return q.Queue.Enqueue(ctx, ds...)
}

// TestBacklogCostsOneParkEach: a lane that is full parks what has to wait about
// once each, however many requests end at the same time.
func TestBacklogCostsOneParkEach(t *testing.T) {
	for _, tt := range []struct {
		limit int
		lag   time.Duration // of the queue's Release
	}{{1, 0}, {8, 0}, {64, 0}, {8, 50 * time.Millisecond}} {
		limit := tt.limit
		t.Run(fmt.Sprint(limit, tt.lag), func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				n.handle("x.test", func(w http.ResponseWriter, _ *http.Request) { time.Sleep(time.Second) })
				q := count(callhook.NewMemoryQueue(nil))
				q.lag = tt.lag
				o := callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", fmt.Sprintf(`"concurrency": %d`, limit))), Dial: n.Dial, Queue: q}
				run(t, o, func(h *callhook.Hooks) {
					const calls = 1000
					for _, id := range names("c", calls) {
						raise(t, h, ended(id))
					}
					time.Sleep(time.Duration(calls/limit+50) * time.Second)
					synctest.Wait()
					balance(t, h, calls, 0, 0)
					if got := q.parks.Load(); got > calls*5/4 {
						t.Errorf("%d parks for %d deliveries", got, calls)
					}
				})
			})
		})
	}
}

// TestLaneStaysFull: as long as something waits, a lane makes as many requests at
// once as it may, whatever their pace and the queue's.
func TestLaneStaysFull(t *testing.T) {
	even := func(*rand.Rand) time.Duration { return time.Second }
	uneven := func(r *rand.Rand) time.Duration { return time.Duration(r.IntN(2000)) * time.Millisecond }
	tail := func(r *rand.Rand) time.Duration {
		if r.IntN(20) == 0 {
			return 10 * time.Second
		}
		return 100 * time.Millisecond
	}
	for _, tt := range []struct {
		name  string
		limit int
		takes func(*rand.Rand) time.Duration
		lag   time.Duration // of the queue's Release
		busy  int           // so many answers ask to come a second later
	}{
		{"even", 8, even, 0, 0}, {"uneven", 8, uneven, 0, 0}, {"a few that take long", 8, tail, 0, 0}, {"one at a time", 1, uneven, 0, 0}, {"many", 64, uneven, 0, 0},
		{"a slow queue", 8, uneven, 20 * time.Millisecond, 0}, {"after a hold", 8, uneven, 0, 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				r, mu := rand.New(rand.NewPCG(5, 5)), sync.Mutex{}
				var work time.Duration
				var last time.Time
				busy := tt.busy
				n.handle("x.test", func(w http.ResponseWriter, req *http.Request) {
					mu.Lock()
					takes, code := tt.takes(r), 200
					if busy > 0 {
						busy, code = busy-1, 429
					}
					work += takes
					mu.Unlock()
					time.Sleep(takes)
					mu.Lock()
					last = time.Now()
					mu.Unlock()
					status(code, "Retry-After: 1")(w, req)
				})
				q := count(callhook.NewMemoryQueue(nil))
				q.lag = tt.lag
				o := callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", fmt.Sprintf(`"concurrency": %d`, tt.limit))), Dial: n.Dial, Queue: q}
				run(t, o, func(h *callhook.Hooks) {
					const calls = 600
					start := time.Now()
					for _, id := range names("c", calls) {
						raise(t, h, ended(id))
					}
					time.Sleep(time.Hour)
					synctest.Wait()
					balance(t, h, calls, 0, 0)
					ideal := work / time.Duration(tt.limit)
					if took := last.Sub(start); took > ideal*11/10+10*time.Second {
						t.Errorf("it took %s, and %s would have been possible", took, ideal)
					}
				})
			})
		})
	}
}

// TestRate: requests begin no faster than the rate, and no slower where the
// endpoint takes its time.
func TestRate(t *testing.T) {
	for _, tt := range []struct {
		rate  string
		takes time.Duration
		calls int
		want  time.Duration // between requests
	}{
		{"5/s", 0, 21, 200 * time.Millisecond},
		{"5/s", time.Second, 21, 200 * time.Millisecond},
		{"60/m", 5 * time.Second, 11, time.Second},
		{"3600/h", 20 * time.Second, 5, time.Second},
	} {
		t.Run(fmt.Sprintf("%s taking %s", tt.rate, tt.takes), func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x := newEndpoint(func(w http.ResponseWriter, _ *http.Request) { time.Sleep(tt.takes) })
				n.handle("x.test", x.ServeHTTP)
				config := hook(t, "http://x.test/", `"concurrency": 8, "timeout": "30s", "rate": "`+tt.rate+`"`)
				run(t, callhook.Options{Configs: callhook.Static(config), Dial: n.Dial}, func(h *callhook.Hooks) {
					for _, id := range names("c", tt.calls) {
						raise(t, h, ended(id))
					}
					time.Sleep(10 * time.Minute)
					synctest.Wait()
					got := x.requests()
					for i := 1; i < len(got); i++ {
						if p := got[i].At.Sub(got[i-1].At); p < tt.want || p > tt.want+time.Millisecond {
							t.Errorf("request %d came %s after the one before, want %s", i, p, tt.want)
						}
					}
					balance(t, h, int64(tt.calls), 0, 0)
				})
			})
		})
	}
}

// TestRateAfterRest: a lane that rested does not catch up.
func TestRateAfterRest(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint()
		n.handle("x.test", x.ServeHTTP)
		run(t, callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", `"rate": "1/s"`)), Dial: n.Dial}, func(h *callhook.Hooks) {
			raise(t, h, ended("c1"))
			time.Sleep(time.Minute)
			start := time.Now()
			raise(t, h, ended("c2"), ended("c3"), ended("c4"))
			time.Sleep(time.Minute)
			synctest.Wait()
			var at []time.Duration
			for _, r := range x.requests()[1:] {
				at = append(at, r.At.Sub(start))
			}
			if diff := cmp.Diff([]time.Duration{0, time.Second, 2 * time.Second}, at); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	})
}

// TestNobodyStarves: ten thousand deliveries in a lane that takes one at a time all
// arrive, and another lane's do not wait for them.
func TestNobodyStarves(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x, other := newEndpoint(status(200)), newEndpoint()
		n.handle("x.test", x.ServeHTTP)
		n.handle("other.test", other.ServeHTTP)
		config := parse(t, `{"agent_id": "a", "call_status": [{"name": "other", "url": "http://other.test/"}],
			"post_call": [{"name": "w", "url": "http://x.test/", "concurrency": 1, "payload": {"template": "{{call.id}}"}}]}`)
		run(t, callhook.Options{Configs: callhook.Static(config), Dial: n.Dial}, func(h *callhook.Hooks) {
			const calls = 10_000
			want := names("c", calls)
			for _, id := range want {
				raise(t, h, ended(id))
			}
			call := ended("late")
			call.Status, call.Sequence = callhook.StatusCompleted, 1
			if err := h.CallStatus(t.Context(), call); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			time.Sleep(time.Second)
			synctest.Wait()
			if got := other.requests(); len(got) != 1 || !got[0].At.Equal(start) {
				t.Errorf("the other lane's delivery waited: %v", got)
			}
			got := map[string]bool{}
			for _, r := range x.requests() {
				got[string(r.Body[1:len(r.Body)-1])] = true
			}
			for _, id := range want {
				if !got[id] {
					t.Errorf("%s did not arrive", id)
				}
			}
			balance(t, h, calls+1, 0, 0)
		})
	})
}

// TestGoneLaneDies: behind a 410 nothing waits longer than max_age, and nobody asks
// whether it is still gone.
func TestGoneLaneDies(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint(status(410))
		n.handle("x.test", x.ServeHTTP)
		run(t, callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", "")), Dial: n.Dial}, func(h *callhook.Hooks) {
			const calls = 1000
			for _, id := range names("c", calls) {
				raise(t, h, ended(id))
			}
			time.Sleep(71 * time.Hour)
			synctest.Wait()
			balance(t, h, 0, 0, calls)
			time.Sleep(3 * time.Hour)
			synctest.Wait()
			balance(t, h, 0, calls, 0)
			if got := len(x.requests()); got > 8 {
				t.Errorf("%d requests in three days, want those that were under way when the first was answered", got)
			}
		})
	})
}

// TestReleaseFails: a queue that cannot release for a while strands nothing.
func TestReleaseFails(t *testing.T) {
	for _, failures := range []int64{1, 2, 3, 10, 50} {
		t.Run(fmt.Sprint(failures), func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				n.handle("x.test", func(w http.ResponseWriter, _ *http.Request) { time.Sleep(10 * time.Millisecond) })
				q := count(callhook.NewMemoryQueue(nil))
				q.failRelease.Store(failures)
				o := callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", `"concurrency": 3`)), Dial: n.Dial, Queue: q}
				run(t, o, func(h *callhook.Hooks) {
					const calls = 20
					for _, id := range names("c", calls) {
						raise(t, h, ended(id))
					}
					time.Sleep(5 * time.Minute)
					synctest.Wait()
					balance(t, h, calls, 0, 0)
				})
			})
		})
	}
}

// TestRunEndsInAHold: Run ends while lanes are held and rate-limited, leaves no
// timer that acts later, and the next Run goes on at once.
func TestRunEndsInAHold(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		held, rated := newEndpoint(status(429, "Retry-After: 60"), status(200)), newEndpoint()
		n.handle("held.test", held.ServeHTTP)
		n.handle("rated.test", rated.ServeHTTP)
		config := parse(t, `{"agent_id": "a", "post_call": [{"name": "held", "url": "http://held.test/", "concurrency": 1}, {"name": "rated", "url": "http://rated.test/", "rate": "1/m"}]}`)
		q := count(callhook.NewMemoryQueue(nil))
		h, err := callhook.New(callhook.Options{Configs: callhook.Static(config), Dial: n.Dial, Queue: q})
		if err != nil {
			t.Fatal(err)
		}
		consume := func(d time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			if err := h.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		}
		raise(t, h, ended("c1"), ended("c2"), ended("c3"))
		consume(10 * time.Second)
		released := q.released.Load()
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := q.released.Load(); got != released {
			t.Errorf("%d releases after Run had ended", got-released)
		}
		if held, rated := len(held.requests()), len(rated.requests()); held != 1 || rated != 1 {
			t.Errorf("%d and %d requests, want 1 and 1", held, rated)
		}
		consume(5 * time.Minute)
		balance(t, h, 6, 0, 0)
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestLaneStorm: endpoints that answer anything, in lanes with every kind of limit,
// and configs that are published meanwhile: in the end all is delivered or dead.
func TestLaneStorm(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				r, pace := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2))
				var mu sync.Mutex
				calm := false
				n.handle("x.test", func(w http.ResponseWriter, req *http.Request) {
					mu.Lock()
					k, takes := r.IntN(12), time.Duration(r.IntN(400))*time.Millisecond
					if calm {
						k = 0
					}
					mu.Unlock()
					time.Sleep(takes)
					switch k {
					case 1:
						status(429)(w, req)
					case 2:
						status(429, "Retry-After: 3")(w, req)
					case 3:
						status(503, "Retry-After: 1")(w, req)
					case 4:
						status(410)(w, req)
					case 5:
						status(500)(w, req)
					case 6:
						cutOff(w, req)
					case 7:
						stall(200, "x")(w, req)
					}
				})
				text := `{"agent_id": "a", "revision": %d, "post_call": [
					{"name": "one", "url": "http://x.test/", "concurrency": 1}, {"name": "many", "url": "http://x.test/", "concurrency": 20},
					{"name": "rated", "url": "http://x.test/", "rate": "20/s"}, {"name": "ordered", "url": "http://x.test/", "ordered": true},
					{"name": "paused", "url": "http://x.test/", "paused": %t}, {"name": "none", "url": "http://nobody.test/", "retry": {"max_age": "1h"}}]}`
				source := newSource(parse(t, fmt.Sprintf(text, 1, true)))
				q := count(callhook.NewMemoryQueue(nil))
				run(t, callhook.Options{Configs: source, Dial: n.Dial, Queue: q}, func(h *callhook.Hooks) {
					const calls = 60
					for i := range calls {
						raise(t, h, ended(fmt.Sprint(i)))
						time.Sleep(time.Duration(pace.IntN(300)) * time.Millisecond)
						if i%10 == 0 {
							source.set(parse(t, fmt.Sprintf(text, i+2, i < 40)))
						}
						q.failRelease.Store(int64(pace.IntN(3)))
					}
					mu.Lock()
					calm = true
					mu.Unlock()
					q.failRelease.Store(0)
					for range 6 { // a 410 stops a lane until somebody acts
						for _, name := range []string{"one", "many", "rated", "ordered", "paused", "none"} {
							if _, err := h.Resume(t.Context(), callhook.LaneRef{Agent: "a", Webhook: name}); err != nil {
								t.Error(err)
							}
						}
						time.Sleep(time.Hour)
					}
					synctest.Wait()
					balance(t, h, 5*calls, calls, 0)
				})
			})
		})
	}
}
