package sqlitequeue_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// engines are what tenants share.
var engines = []struct {
	name string
	open func(t testing.TB, synced bool) callhook.Queue
}{
	{"memory", func(t testing.TB, _ bool) callhook.Queue {
		q := callhook.NewMemoryQueue(&callhook.MemoryOptions{MaxBytes: 1 << 30})
		t.Cleanup(func() { _ = q.Close() })
		return q
	}},
	{"sqlite", func(t testing.TB, synced bool) callhook.Queue {
		q, err := sqlitequeue.Open(filepath.Join(t.TempDir(), "queue.db"), &sqlitequeue.Options{Unsynced: !synced})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = q.Close() })
		return q
	}},
}

// tenants are one whose endpoints are all dead, and one whose endpoint is well.
type tenants struct {
	agents, webhooks int // of the dead one
	configs          []*callhook.Config
}

// newTenants makes their configs. url is the endpoint of the nth lane of the dead one.
func newTenants(t testing.TB, agents, webhooks int, well string, url func(n int) string) *tenants {
	t.Helper()
	x := &tenants{agents: agents, webhooks: webhooks}
	config := func(tenant, agent string, urls ...string) {
		c := &callhook.Config{TenantID: tenant, AgentID: agent}
		for i, url := range urls {
			w := callhook.PostCallWebhook{}
			w.Name, w.URL = fmt.Sprint("hook", i), url
			c.PostCall = append(c.PostCall, w)
		}
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		x.configs = append(x.configs, c)
	}
	config("well", "bot", well)
	for a := range agents {
		var urls []string
		for w := range webhooks {
			urls = append(urls, url(a*webhooks+w))
		}
		config("dead", fmt.Sprint("bot", a), urls...)
	}
	return x
}

// flood raises events of the dead tenant until each lane has so many pending.
func (x *tenants) flood(t testing.TB, h *callhooktest.Hooks, each int) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= each*x.agents {
					return
				}
				if err := h.PostCall(context.Background(), ended("dead", fmt.Sprint("bot", i%x.agents), fmt.Sprint("dead", i))); err != nil {
					t.Errorf("PostCall of the dead tenant: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func (x *tenants) lanes() int { return x.agents * x.webhooks }

func ended(tenant, agent, id string) *callhook.Call {
	return &callhook.Call{ID: id, TenantID: tenant, AgentID: agent, Direction: callhook.Inbound, Status: callhook.StatusCompleted, EndedAt: time.Now(),
		Summary: "The caller asked for an appointment."}
}

// journey measures how long after it was raised an event of the tenant that is well
// is on its way to the endpoint.
type journey struct {
	mu     sync.Mutex
	raised map[string]time.Time // by call
	took   []time.Duration
	down   map[string]int // lanes of each tenant that were ever down
}

func newJourney() *journey { return &journey{raised: map[string]time.Time{}, down: map[string]int{}} }

func (j *journey) trace() *callhook.Trace {
	return &callhook.Trace{
		AttemptStart: func(ctx context.Context, d *callhook.Delivery) context.Context {
			j.mu.Lock()
			defer j.mu.Unlock()
			if at, ok := j.raised[d.Call]; ok {
				j.took = append(j.took, time.Since(at))
			}
			return ctx
		},
		LaneDown: func(l callhook.LaneState) {
			j.mu.Lock()
			defer j.mu.Unlock()
			j.down[l.Tenant]++
		},
	}
}

// raise raises an event of the tenant that is well.
func (j *journey) raise(t testing.TB, h *callhooktest.Hooks, id string) {
	j.mu.Lock()
	j.raised[id] = time.Now()
	j.mu.Unlock()
	if err := h.PostCall(context.Background(), ended("well", "bot", id)); err != nil {
		t.Errorf("PostCall: %v", err)
	}
}

// times takes what was measured so far, the shortest first.
func (j *journey) times() []time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	took := j.took
	j.took = nil
	slices.Sort(took)
	return took
}

// TestDeadTenant: a tenant with 200 lanes that are down, which refuse, fail or never
// answer, and 10,000 deliveries pending, is not noticed by another: none of its
// events waits for those, and its lane is never in trouble.
func TestDeadTenant(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				well := callhooktest.NewEndpoint(t)
				network := callhooktest.Network{
					"well.example.com":  well,
					"fails.example.com": callhooktest.NewEndpoint(t, callhooktest.Reply(503, "busy")),
					"hangs.example.com": callhooktest.NewEndpoint(t, callhooktest.Answer{Fault: callhooktest.FaultHang}),
				}
				x := newTenants(t, 50, 4, "http://well.example.com/", func(n int) string {
					return "http://" + []string{"fails", "hangs", "is-not"}[n%3] + ".example.com/" + fmt.Sprint(n)
				})
				j := newJourney()
				h := callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(x.configs...), Queue: e.open(t, false), Trace: j.trace()}, network)
				const each, before, during, after = 50, 5, 200, 200
				raised := 0
				raise := func(n int, every time.Duration) {
					for range n {
						j.raise(t, h, fmt.Sprint("well", raised))
						raised++
						time.Sleep(every)
					}
				}
				raise(before, time.Second)
				// While the other's lanes are on their way down, and when they are.
				flooded := make(chan bool)
				go func() {
					x.flood(t, h, each)
					close(flooded)
				}()
				raise(during, 100*time.Millisecond)
				<-flooded
				time.Sleep(time.Minute)
				raise(after, 997*time.Millisecond)

				well.Received(t, raised)
				lanes, err := h.Queue.(callhook.Inspector).Lanes(t.Context(), callhook.Filter{})
				if err != nil {
					t.Fatal(err)
				}
				for _, l := range lanes {
					want := callhook.Counts{Accepted: each, Pending: each}
					if l.Tenant == "well" {
						want = callhook.Counts{Accepted: int64(raised), Delivered: int64(raised)}
					}
					if l.Counts != want {
						t.Errorf("%v has %+v, want %+v", l.LaneRef, l.Counts, want)
					}
				}
				if len(lanes) != 1+x.lanes() {
					t.Errorf("%d lanes, want %d", len(lanes), 1+x.lanes())
				}
				j.mu.Lock()
				down := map[string]int{"well": j.down["well"], "dead": j.down["dead"]}
				j.mu.Unlock()
				if down["well"] > 0 || down["dead"] < x.lanes() {
					t.Errorf("lanes were down: %v, want all %d of one and none of the other", down, x.lanes())
				}
				for _, l := range h.Lanes() {
					if l.Tenant == "well" && l.Trouble != "" {
						t.Errorf("the lane that is well is in trouble: %+v", l)
					}
				}
				took := j.times()
				if len(took) != raised {
					t.Errorf("%d attempts for %d events", len(took), raised)
				}
				if last := took[len(took)-1]; last > 0 {
					t.Errorf("an event waited for %s, want none: %v", last, took[max(0, len(took)-10):])
				}
			})
		})
	}
}

// BenchmarkDeadTenant measures how long after it was raised an event is on its way to
// its endpoint, at 100 events a second, without another tenant, and beside one with
// 1,000 lanes that are down and 100,000 deliveries pending. The ratio is that of the
// two.
func BenchmarkDeadTenant(b *testing.B) {
	for _, e := range engines {
		b.Run(e.name, func(b *testing.B) {
			closed, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			_ = closed.Close()
			fails := callhooktest.NewEndpoint(b, callhooktest.Reply(503, "busy")).Listen()
			x := newTenants(b, 100, 10, callhooktest.NewEndpoint(b).Listen(), func(n int) string {
				if n%2 == 0 {
					return fmt.Sprint("http://", closed.Addr(), "/", n)
				}
				return fmt.Sprint(fails, "/", n)
			})
			j := newJourney()
			h := callhooktest.NewHooks(b, callhook.Options{Configs: callhook.Static(x.configs...), Queue: e.open(b, true), Trace: j.trace()}, nil)
			n := 0
			measure := func() (p50, p99 float64) {
				tick := time.NewTicker(10 * time.Millisecond)
				defer tick.Stop()
				from := n
				for range 1000 {
					<-tick.C
					j.raise(b, h, fmt.Sprint("well", n))
					n++
				}
				for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
					j.mu.Lock()
					done := len(j.took) == n-from
					j.mu.Unlock()
					if done {
						break
					}
					if time.Now().After(deadline) {
						b.Fatal("not all events were sent")
					}
				}
				took := j.times()
				return float64(took[len(took)/2].Microseconds()), float64(took[len(took)*99/100].Microseconds())
			}
			measure() // warm
			for b.Loop() {
				p50, p99 := measure()
				x.flood(b, h, 100)
				for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
					j.mu.Lock()
					down := j.down["dead"]
					j.mu.Unlock()
					if down >= x.lanes() {
						break
					}
					if time.Now().After(deadline) {
						b.Fatalf("%d of %d lanes are down", down, x.lanes())
					}
				}
				beside50, beside99 := measure()
				counts, err := h.Queue.(callhook.Inspector).Counts(b.Context())
				if err != nil || counts.Pending < int64(100*x.lanes()) {
					b.Fatalf("%d are pending, want at least %d: %v", counts.Pending, 100*x.lanes(), err)
				}
				b.ReportMetric(p50, "alone-p50-us")
				b.ReportMetric(p99, "alone-p99-us")
				b.ReportMetric(beside50, "beside-p50-us")
				b.ReportMetric(beside99, "beside-p99-us")
				b.ReportMetric(beside50/p50, "p50-ratio")
				b.ReportMetric(beside99/p99, "p99-ratio")
			}
			j.mu.Lock()
			defer j.mu.Unlock()
			if j.down["well"] > 0 {
				b.Errorf("the lane that is well was down %d times", j.down["well"])
			}
		})
	}
}

// TestLoadedEnough: with many lanes under way the writer loads of each what comes
// next, and then rests.
func TestLoadedEnough(t *testing.T) {
	q := open(t, &sqlitequeue.Options{Unsynced: true})
	const lanes, each, rounds = 50, 200, 120
	for range each {
		var ds []*callhook.Delivery
		for i := range lanes {
			ds = append(ds, event(i))
		}
		enqueue(t, q, ds...)
	}
	if err := q.Close(); err != nil { // everything is parked when it is opened again
		t.Fatal(err)
	}
	q = reopen(t, q.Path(), &sqlitequeue.Options{Unsynced: true})
	came, answer := make(chan bool, lanes), make(chan bool)
	var mu sync.Mutex
	under := map[string]bool{}
	stop := consume(t, q, func(d *callhook.Delivery) callhook.Verdict {
		mu.Lock()
		first := !under[d.Lane]
		under[d.Lane] = true
		mu.Unlock()
		came <- true
		if first { // and is under way all the time
			<-answer
		}
		return callhook.Delivered()
	})
	defer stop()
	defer close(answer)
	for range rounds {
		if n, err := q.Release(t.Context(), "", 1); n != lanes || err != nil {
			t.Fatalf("Release: %d, %v", n, err)
		}
		for range lanes {
			<-came
		}
	}
	rested := make(chan bool)
	go func() {
		q.Settle()
		close(rested)
	}()
	select {
	case <-rested:
	case <-time.After(10 * time.Second):
		t.Error("the writer does not rest")
	}
}
