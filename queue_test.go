package callhook_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/callhook-go/callhook"
)

// item returns a delivery for tests of a queue alone.
func item(id, lane, call string) *callhook.Delivery {
	return &callhook.Delivery{ID: id, Agent: "a", Webhook: lane, Type: callhook.TypePostCall, Event: callhook.EventEnded, Call: call,
		Lane: "/a/" + lane, Body: []byte(`{}`), EnqueuedAt: time.Now()}
}

func enqueue(t testing.TB, q callhook.Queue, ds ...*callhook.Delivery) {
	t.Helper()
	if err := q.Enqueue(t.Context(), ds...); err != nil {
		t.Fatal(err)
	}
}

// consume hands deliveries to handle until stop is called, which returns when
// Consume has.
func consume(t testing.TB, q callhook.Queue, handle callhook.Handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- q.Consume(ctx, handle) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Consume: %v", err)
		}
	}
}

// counts fails the test unless the queue's counts balance and are these.
func counts(t testing.TB, q callhook.Queue, delivered, dead, pending int64) {
	t.Helper()
	got, err := q.(callhook.Inspector).Counts(t.Context())
	want := callhook.Counts{Accepted: delivered + dead + pending, Delivered: delivered, Dead: dead, Pending: pending}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("counts (-want +got)\n%s%v", diff, err)
	}
}

// TestMemoryIdempotent: an ID is one delivery, whenever it is enqueued again.
func TestMemoryIdempotent(t *testing.T) {
	for _, tt := range []struct {
		name    string
		verdict func() callhook.Verdict
		consume bool
		after   time.Duration
		handled int
	}{
		{"before it is handed out", callhook.Delivered, false, 0, 1},
		{"while it is pending", func() callhook.Verdict { return callhook.RetryAt(time.Now().Add(time.Hour)) }, true, time.Minute, 1},
		{"while it is parked", callhook.Park, true, time.Minute, 1},
		{"after it was delivered", callhook.Delivered, true, time.Minute, 1},
		{"after it died", func() callhook.Verdict { return callhook.Dead(callhook.ReasonRejected) }, true, time.Minute, 1},
		{"four days after it was delivered", callhook.Delivered, true, 96*time.Hour - time.Minute, 1},
		{"later still", callhook.Delivered, true, 97 * time.Hour, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := callhook.NewMemoryQueue(nil)
				handled := 0
				enqueue(t, q, item("msg_1", "w", "c"), item("msg_1", "w", "c"))
				if !tt.consume {
					enqueue(t, q, item("msg_1", "w", "c"))
				}
				stop := consume(t, q, func(context.Context, *callhook.Delivery) callhook.Verdict {
					handled++
					return tt.verdict()
				})
				time.Sleep(tt.after)
				enqueue(t, q, item("msg_1", "w", "c"))
				synctest.Wait()
				if handled != tt.handled {
					t.Errorf("handed out %d times, want %d", handled, tt.handled)
				}
				got, _ := q.Counts(t.Context())
				if got.Accepted != int64(tt.handled) {
					t.Errorf("%d were accepted, want %d", got.Accepted, tt.handled)
				}
				stop()
			})
		})
	}
}

// TestTwoNodes: an event that two nodes raise is delivered once, whichever of them
// delivers.
func TestTwoNodes(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint()
		n.handle("x.test", x.ServeHTTP)
		q := callhook.NewMemoryQueue(nil)
		o := callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", "")), Dial: n.Dial, Queue: q}
		other, err := callhook.New(o)
		if err != nil {
			t.Fatal(err)
		}
		run(t, o, func(h *callhook.Hooks) {
			call := ended("c1")
			raise(t, h, call)
			raise(t, other, call)
			time.Sleep(time.Second)
			raise(t, other, call)
			time.Sleep(time.Second)
			synctest.Wait()
			if got := len(x.requests()); got != 1 {
				t.Errorf("%d requests, want 1", got)
			}
			balance(t, h, 1, 0, 0)
		})
		if err := other.Close(); err != nil {
			t.Error(err)
		}
		enqueue(t, q, item("msg_2", "w", "c")) // closing Hooks does not close a queue that it was given
	})
}

// TestMemoryOrder: first attempts of one call in one lane go in the order raised,
// and with Ordered each waits until the one before is settled, whatever becomes of
// them and however many workers there are.
func TestMemoryOrder(t *testing.T) {
	for _, ordered := range []bool{false, true} {
		for seed := range uint64(5) {
			t.Run(fmt.Sprintf("ordered %v seed %d", ordered, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					const calls, events = 60, 12
					q := callhook.NewMemoryQueue(nil)
					var mu sync.Mutex
					r, parked := rand.New(rand.NewPCG(seed, 7)), 0
					next := map[string]int{}     // by lane and call: whose turn it is
					inFlight := map[string]int{} // first attempts
					handle := func(_ context.Context, d *callhook.Delivery) callhook.Verdict {
						var index int
						fmt.Sscanf(d.ID[strings.LastIndexByte(d.ID, '-')+1:], "%d", &index)
						key := d.Lane + d.Call
						mu.Lock()
						defer mu.Unlock()
						first := d.Attempts == 0
						if first {
							if inFlight[key]++; inFlight[key] > 1 {
								t.Errorf("%s: two first attempts at once", d.ID)
							}
							if index != next[key] {
								t.Errorf("%s is handed out while %d is due", d.ID, next[key])
							}
						} else if ordered && index != next[key] {
							t.Errorf("%s is handed out again while %d is due", d.ID, next[key])
						}
						takes, dice := time.Duration(r.IntN(50))*time.Millisecond, r.IntN(10)
						mu.Unlock()
						time.Sleep(takes)
						mu.Lock()
						if first {
							inFlight[key]--
						}
						settled := func() {
							if ordered || first {
								next[key]++
							}
							d.Attempts++
						}
						switch dice {
						case 0, 1: // not attempted
							parked++
							return callhook.Park()
						case 2: // not attempted either
							return callhook.RetryAt(time.Now().Add(takes))
						case 3, 4:
							if !ordered && first {
								next[key]++
							}
							d.Attempts++
							return callhook.RetryAt(time.Now().Add(10 * takes))
						case 5:
							settled()
							return callhook.Dead(callhook.ReasonRejected)
						}
						settled()
						return callhook.Delivered()
					}
					stop := consume(t, q, handle)
					for e := range events {
						for c := range calls {
							d := item(fmt.Sprintf("msg_%d-%d", c, e), fmt.Sprint("w", c%3), fmt.Sprint("c", c))
							d.Ordered = ordered
							enqueue(t, q, d)
						}
						if e%3 == 0 {
							time.Sleep(20 * time.Millisecond)
						}
					}
					for range 2000 { // what was parked is released now and then
						time.Sleep(50 * time.Millisecond)
						if _, err := q.Release(t.Context(), "", 100); err != nil {
							t.Fatal(err)
						}
					}
					synctest.Wait()
					got, _ := q.Counts(t.Context())
					if got.Pending != 0 || got.Accepted != calls*events || parked == 0 {
						t.Errorf("counts %+v, parked %d times", got, parked)
					}
					stop()
				})
			})
		}
	}
}

// TestHooksOrder: the same through Hooks, with several webhooks and many calls at
// once.
func TestHooksOrder(t *testing.T) {
	for _, tt := range []struct {
		name, webhook string
		strict        bool
	}{{"first attempts", "", false}, {"ordered", `"ordered": true, `, true}} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				const calls, events = 40, 8
				x := newEndpoint()
				r, mu := rand.New(rand.NewPCG(1, 1)), sync.Mutex{}
				n.handle("x.test", func(w http.ResponseWriter, req *http.Request) {
					mu.Lock()
					k, takes := r.IntN(5), time.Duration(r.IntN(30))*time.Millisecond
					mu.Unlock()
					x.ServeHTTP(w, req)
					time.Sleep(takes)
					if k == 0 {
						w.WriteHeader(500)
					}
				})
				x.answers = append(x.answers, func(http.ResponseWriter, *http.Request) {})
				config := parse(t, `{"agent_id": "a", "call_status": [{"name": "w", "url": "http://x.test/", `+tt.webhook+`"concurrency": 64,
					"payload": {"template": {"call": "{{call.id}}", "sequence": "{{call.sequence}}"}}}]}`)
				run(t, callhook.Options{Configs: callhook.Static(config), Dial: n.Dial}, func(h *callhook.Hooks) {
					var wg sync.WaitGroup
					for c := range calls {
						wg.Go(func() {
							for e := range events {
								call := &callhook.Call{ID: fmt.Sprint("c", c), AgentID: "a", Status: callhook.StatusInProgress, Sequence: int64(e + 1)}
								if err := h.CallStatus(t.Context(), call); err != nil {
									t.Error(err)
								}
							}
						})
					}
					wg.Wait()
					time.Sleep(time.Hour)
					synctest.Wait()
					balance(t, h, calls*events, 0, 0)
					last, seen := map[string]int{}, map[string]bool{}
					for _, req := range x.requests() {
						var body struct {
							Call     string
							Sequence int
						}
						mustJSON(t, req.Body, &body)
						id := req.Header.Get(callhook.HeaderID)
						if tt.strict && body.Sequence < last[body.Call] || !seen[id] && body.Sequence != last[body.Call]+1 {
							t.Errorf("%s: %d came after %d", body.Call, body.Sequence, last[body.Call])
						}
						seen[id] = true
						last[body.Call] = max(last[body.Call], body.Sequence)
					}
				})
			})
		})
	}
}

// TestMemoryFull: over its bound a queue takes nothing of an event, dead letters
// make room, and what is settled does too.
func TestMemoryFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := callhook.NewMemoryQueue(&callhook.MemoryOptions{MaxBytes: 100_000})
		big := func(id string) *callhook.Delivery {
			d := item(id, "w", id)
			d.Body = make([]byte, 30_000)
			return d
		}
		full := func(ds ...*callhook.Delivery) {
			t.Helper()
			before := callhook.QueueSizes(q)
			err := q.Enqueue(t.Context(), ds...)
			if diff := cmp.Diff(callhook.ErrQueueFull, err, cmpopts.EquateErrors()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(before, callhook.QueueSizes(q)); diff != "" {
				t.Errorf("the queue changed (-want +got)\n%s", diff)
			}
		}
		enqueue(t, q, big("msg_1"), big("msg_2"))
		full(big("msg_3"), big("msg_4"))
		enqueue(t, q, big("msg_3"))
		full(big("msg_4"))
		enqueue(t, q, big("msg_1"), big("msg_2"), big("msg_3")) // nothing new
		counts(t, q, 0, 0, 3)

		stop := consume(t, q, func(_ context.Context, d *callhook.Delivery) callhook.Verdict {
			if d.ID == "msg_1" {
				return callhook.Delivered()
			}
			return callhook.Dead(callhook.ReasonRejected)
		})
		synctest.Wait()
		stop()
		counts(t, q, 1, 2, 0)
		enqueue(t, q, big("msg_5"), big("msg_6")) // one dead letter goes
		if got := list(t, q, callhook.Filter{State: callhook.StateDead}); len(got) != 1 {
			t.Errorf("%d dead letters are kept, want 1", len(got))
		}
		full(big("msg_7"), big("msg_8"))
		counts(t, q, 1, 2, 2)

		// What a log of attempts takes counts too.
		q = callhook.NewMemoryQueue(&callhook.MemoryOptions{MaxBytes: 100_000})
		for i := range 10 {
			enqueue(t, q, item(fmt.Sprint("msg_", i), "w", fmt.Sprint(i)))
		}
		stop = consume(t, q, func(_ context.Context, d *callhook.Delivery) callhook.Verdict {
			for range 10 {
				d.Log = append(d.Log, callhook.Attempt{Reply: strings.Repeat("x", 1024)})
			}
			return callhook.RetryAt(time.Now().Add(time.Hour))
		})
		synctest.Wait()
		stop()
		full(item("msg_10", "w", "c"))
	})
}

// TestMemoryClosed: a closed queue takes nothing and hands nothing out.
func TestMemoryClosed(t *testing.T) {
	q := callhook.NewMemoryQueue(nil)
	enqueue(t, q, item("msg_1", "w", "c"))
	for range 2 {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := q.Enqueue(t.Context(), item("msg_2", "w", "c")); !errors.Is(err, callhook.ErrQueueClosed) {
		t.Errorf("Enqueue: %v, want %v", err, callhook.ErrQueueClosed)
	}
	if err := q.Consume(t.Context(), nil); !errors.Is(err, callhook.ErrQueueClosed) {
		t.Errorf("Consume: %v, want %v", err, callhook.ErrQueueClosed)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := q.Enqueue(ctx, item("msg_2", "w", "c")); err == nil {
		t.Error("Enqueue with an ended context returned nil")
	}
}
