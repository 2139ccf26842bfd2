package callhook_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callhook-go/callhook"
)

// TestOneAttemptAtOnce: with Options.Concurrency 1 everything is delivered, also
// behind endpoints that fail.
func TestOneAttemptAtOnce(t *testing.T) {
	for _, limit := range []int{1, 2, 3} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				n.handle("x.test", func(w http.ResponseWriter, _ *http.Request) { time.Sleep(time.Second) })
				n.handle("y.test", silent)
				config := parse(t, `{"agent_id": "a", "post_call": [{"name": "w", "url": "http://x.test/"}, {"name": "silent", "url": "http://y.test/", "timeout": "1s", "retry": {"max_attempts": 3}}]}`)
				run(t, callhook.Options{Configs: callhook.Static(config), Dial: n.Dial, Concurrency: limit}, func(h *callhook.Hooks) {
					for _, id := range names("c", 20) {
						raise(t, h, ended(id))
					}
					time.Sleep(24 * time.Hour)
					synctest.Wait()
					balance(t, h, 20, 20, 0)
				})
			})
		})
	}
}

// TestNoSecretWhileDown: an endpoint that is down and whose secret cannot be
// resolved when its probe is due is left alone all the same.
func TestNoSecretWhileDown(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newSwitchable(status(500))
		n.handle("x.test", x.ServeHTTP)
		var broken atomic.Bool
		var asked atomic.Int64
		o := callhook.Options{
			Configs: callhook.Static(hook(t, "http://x.test/", `"secrets": ["${KEY}"]`)), Dial: n.Dial,
			Secrets: func(ctx context.Context, _ callhook.SecretRef) (string, error) {
				if !broken.Load() {
					return secret, nil
				}
				if asked.Add(1) > 10_000 {
					<-ctx.Done()
				}
				return "", errors.New("the vault is sealed")
			},
		}
		run(t, o, func(h *callhook.Hooks) {
			const calls = 50
			for _, id := range names("c", calls) {
				raise(t, h, ended(id))
			}
			time.Sleep(time.Minute)
			broken.Store(true)
			time.Sleep(time.Hour)
			synctest.Wait()
			if got := asked.Load(); got > 70 {
				t.Errorf("the secret was asked for %d times in an hour", got)
			}
			broken.Store(false)
			x.set(status(200))
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			balance(t, h, calls, 0, 0)
		})
	})
}

// atkLate is a queue whose Release answers late.
type atkLate struct {
	*callhook.MemoryQueue
	after func(lane string, n int)
}

func (q *atkLate) Release(ctx context.Context, lane string, n int) (int, error) {
	freed, err := q.MemoryQueue.Release(ctx, lane, n)
	q.after(lane, n)
	return freed, err
}

// TestParkedWhileLooking: what is parked while the lane looks for others that need
// no attempt is not forgotten, however slowly the queue answers.
func TestParkedWhileLooking(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		n.handle("x.test", func(w http.ResponseWriter, _ *http.Request) { time.Sleep(2 * time.Second) })
		s := newSource(parse(t, `{"agent_id": "a", "call_status": [{"name": "w", "url": "http://x.test/", "concurrency": 1}]}`))
		q := &atkLate{callhook.NewMemoryQueue(nil), func(string, int) { time.Sleep(5 * time.Second) }}
		h, err := callhook.New(callhook.Options{Configs: s, Dial: n.Dial, Queue: q})
		if err != nil {
			t.Fatal(err)
		}
		// One of a webhook that is another type by now: it is settled without an attempt.
		c := &callhook.Call{ID: "old", AgentID: "a", Status: "ringing", Sequence: 1}
		if err := h.CallStatus(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		s.set(hook(t, "http://x.test/", `"concurrency": 1`))
		time.Sleep(2 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- h.Run(ctx) }()
		time.Sleep(5500 * time.Millisecond)
		raise(t, h, ended("c1"))
		time.Sleep(100 * time.Millisecond)
		raise(t, h, ended("c2"))
		time.Sleep(time.Hour)
		synctest.Wait()
		balance(t, h, 2, 1, 0)
		cancel()
		<-done
		h.Close()
	})
}

// TestWebhookChangesType: a lane's hold is kept when its webhook has become one of
// the other type.
func TestWebhookChangesType(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newSwitchable(status(200))
		n.handle("x.test", x.ServeHTTP)
		s := newSource(parse(t, `{"agent_id": "a", "call_status": [{"name": "w", "url": "http://x.test/"}]}`))
		run(t, callhook.Options{Configs: s, Dial: n.Dial}, func(h *callhook.Hooks) {
			if err := h.CallStatus(t.Context(), &callhook.Call{ID: "c1", AgentID: "a", Status: "ringing", Sequence: 1}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			x.set(status(429, "Retry-After: 3600"))
			s.set(hook(t, "http://x.test/", ""))
			time.Sleep(2 * time.Second)
			raise(t, h, ended("c1"), ended("c2"))
			time.Sleep(59 * time.Minute)
			synctest.Wait()
			if got := len(x.requests()); got > 3 {
				t.Errorf("%d requests in an hour in which the endpoint asked for none", got)
			}
			x.set(status(200))
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			balance(t, h, 3, 0, 0)
		})
	})
}

// TestLaneUpAfterPause: a lane that was down, was paused meanwhile and is free again
// is told to be.
func TestLaneUpAfterPause(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{"down": status(500), "gone": status(410)} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x := newSwitchable(answer)
				n.handle("x.test", x.ServeHTTP)
				s := newSource(hook(t, "http://x.test/", ""))
				var mu sync.Mutex
				var told []string
				tell := func(l callhook.LaneState) { mu.Lock(); defer mu.Unlock(); told = append(told, string(l.Trouble)) }
				run(t, callhook.Options{Configs: s, Dial: n.Dial, Trace: &callhook.Trace{LaneDown: tell, LaneUp: tell}}, func(h *callhook.Hooks) {
					for _, id := range names("c", 20) {
						raise(t, h, ended(id))
					}
					time.Sleep(10 * time.Minute)
					s.set(hook(t, "http://x.test/", `"paused": true`))
					time.Sleep(10 * time.Minute)
					x.set(status(200))
					s.set(hook(t, "http://x.test/", ""))
					time.Sleep(10 * time.Minute)
					synctest.Wait()
					balance(t, h, 20, 0, 0)
					mu.Lock()
					defer mu.Unlock()
					if diff := cmp.Diff([]string{name, ""}, told); diff != "" {
						t.Errorf("what was told (-want +got)\n%s", diff)
					}
				})
			})
		})
	}
}

// atkQueue is a memory queue that is slow and fails now and then, and that checks what
// it hands out: each delivery to one handler at a time, and those of a call in order.
type atkQueue struct {
	*callhook.MemoryQueue
	mu     sync.Mutex
	r      *rand.Rand
	calm   bool // it neither lags nor fails
	faults []string
	order  map[string][]string // the IDs of a call in a lane, as enqueued
	state  map[string]*atkDelivery
	at     time.Time // of the last handed out
	burst  int       // so many were since
	handed int
}

type atkDelivery struct {
	call                      string
	busy, tried, settled, odd bool // odd: its order is not looked at any more
}

func newAtkQueue(r *rand.Rand) *atkQueue {
	return &atkQueue{MemoryQueue: callhook.NewMemoryQueue(nil), r: r, order: map[string][]string{}, state: map[string]*atkDelivery{}}
}

func (q *atkQueue) fault(format string, args ...any) {
	if len(q.faults) < 10 {
		q.faults = append(q.faults, fmt.Sprintf(format, args...))
	}
}

// chance reports true n times of a hundred, unless all is calm.
func (q *atkQueue) chance(n int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.calm && q.r.IntN(100) < n
}

func (q *atkQueue) Enqueue(ctx context.Context, ds ...*callhook.Delivery) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, d := range ds {
		if q.state[d.ID] == nil {
			key := d.Lane + " " + d.Call
			q.state[d.ID] = &atkDelivery{call: key}
			q.order[key] = append(q.order[key], d.ID)
		}
	}
	return q.MemoryQueue.Enqueue(ctx, ds...)
}

func (q *atkQueue) Release(ctx context.Context, lane string, n int) (int, error) {
	if lane != "" && q.chance(5) {
		return 0, errors.New("the disk is full")
	}
	if q.chance(20) {
		time.Sleep(300 * time.Millisecond)
	}
	freed, err := q.MemoryQueue.Release(ctx, lane, n)
	if q.chance(20) {
		time.Sleep(700 * time.Millisecond)
	}
	return freed, err
}

func (q *atkQueue) Consume(ctx context.Context, handle callhook.Handler) error {
	return q.MemoryQueue.Consume(ctx, func(ctx context.Context, d *callhook.Delivery) callhook.Verdict {
		q.begin(d)
		v := handle(ctx, d)
		q.mu.Lock()
		defer q.mu.Unlock()
		s := q.state[d.ID]
		s.busy, s.tried = false, d.Attempts > 0
		s.settled = v.State == callhook.StateDelivered || v.State == callhook.StateDead
		return v
	})
}

func (q *atkQueue) begin(d *callhook.Delivery) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.handed++
	if now := time.Now(); now.Equal(q.at) {
		q.burst++
	} else {
		q.at, q.burst = now, 0
	}
	if q.burst > 50_000 {
		panic("deliveries go round and round in " + d.Lane)
	}
	s := q.state[d.ID]
	if s.busy {
		q.fault("%s is in two handlers", d.ID)
	}
	if s.settled && !s.odd {
		q.fault("%s was settled or erased and is handed out", d.ID)
	}
	s.busy = true
	for _, id := range q.order[s.call] {
		if id == d.ID {
			break
		}
		if e := q.state[id]; !e.odd && !s.odd && !e.settled && (!e.tried || d.Ordered) {
			q.fault("%s of %s is handed out before %s", d.ID, s.call, id)
		}
	}
}

// odd says that deliveries are replayed or erased: their order is theirs.
func (q *atkQueue) odd(ids ...string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, id := range ids {
		for _, other := range q.order[q.state[id].call] {
			q.state[other].odd = true
		}
	}
}

// atkSource is a source whose configs change, that is slow and fails; atkWatched
// tells of changes too.
type atkSource struct {
	source
	slow atomic.Int64
}

func (s *atkSource) Config(ctx context.Context, ref callhook.ConfigRef) (*callhook.Config, error) {
	if d := s.slow.Load(); d > 0 {
		time.Sleep(time.Duration(d))
	}
	return s.source.Config(ctx, ref)
}

type atkWatched struct {
	*atkSource
	changes chan callhook.ConfigRef
}

func (s *atkWatched) Watch(ctx context.Context, changed func(callhook.ConfigRef)) error {
	changed(callhook.ConfigRef{})
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case ref := <-s.changes:
			changed(ref)
		}
	}
}

// atkStorm is what TestStorm drives.
type atkStorm struct {
	t        *testing.T
	r        *rand.Rand
	q        *atkQueue
	s        *atkSource
	w        *atkWatched // nil for none
	h        *callhook.Hooks
	hosts    [5]*switchable
	sealed   atomic.Bool
	explodes atomic.Bool
	revision int
	calls    int

	mu   sync.Mutex
	down map[callhook.LaneRef]bool

	cancel context.CancelFunc
	done   chan error
	users  sync.WaitGroup
}

var atkAnswers = []http.HandlerFunc{
	status(200), status(200), status(200), status(500), status(500), status(429), status(429, "Retry-After: 40"), status(410), status(400), status(413),
	status(413, "Retry-After: 20"), silent, cutOff, status(503, "Retry-After: 5"), everyNth(3, status(500)),
	func(w http.ResponseWriter, _ *http.Request) { time.Sleep(1500 * time.Millisecond) },
}

func (a *atkStorm) one(of ...string) string { return of[a.r.IntN(len(of))] }

// agent picks one of six agents of two tenants.
func (a *atkStorm) agent() (tenant, agent string) {
	return a.one("t1", "t2"), a.one("a", "b", "c")
}

// config makes a config of webhooks named x, y and z, each of one type or the other.
func (a *atkStorm) config(tenant, agent string, healthy bool) *callhook.Config {
	a.revision++
	var lists [2][]string
	for _, name := range []string{"x", "y", "z"} {
		if !healthy && a.r.IntN(10) == 0 {
			continue
		}
		host := a.r.IntN(len(a.hosts))
		more := a.one(``, ``, `, "concurrency": 1`, `, "concurrency": 3`, `, "rate": "5/s"`, `, "rate": "30/m", "concurrency": 2`, `, "ordered": true`, `, "ordered": true, "concurrency": 2`)
		if !healthy {
			more += a.one(``, ``, ``, `, "paused": true`, `, "secrets": ["${KEY}"]`, `, "secrets": ["${KEY}"]`)
		}
		more += a.one(`, "retry": {"max_interval": "10m"}`, `, "retry": {"max_interval": "5m", "max_attempts": 4}`, `, "retry": {"max_age": "30m", "max_interval": "5m"}`)
		kind := a.r.IntN(2)
		lists[kind] = append(lists[kind], fmt.Sprintf(`{"name": %q, "url": "http://h%d.test/%d", "timeout": "2s"%s}`, name, host, a.revision, more))
	}
	return parse(a.t, fmt.Sprintf(`{"tenant_id": %q, "agent_id": %q, "revision": %d, "call_status": [%s], "post_call": [%s]}`,
		tenant, agent, a.revision, strings.Join(lists[0], ","), strings.Join(lists[1], ",")))
}

func (a *atkStorm) publish(tenant, agent string, healthy bool) {
	a.s.set(a.config(tenant, agent, healthy))
	if a.w != nil {
		a.w.changes <- callhook.ConfigRef{Tenant: tenant, Agent: agent}
	}
}

func (a *atkStorm) raise() {
	tenant, agent := a.agent()
	a.calls++
	for i := range 1 + a.r.IntN(12) {
		call := &callhook.Call{ID: fmt.Sprint("c", a.calls-a.r.IntN(2)), TenantID: tenant, AgentID: agent, Status: "ringing", Sequence: int64(1 + a.r.IntN(30) + i), EndedAt: time.Now()}
		if a.r.IntN(2) == 0 {
			_ = a.h.CallStatus(a.t.Context(), call)
		} else {
			_ = a.h.PostCall(a.t.Context(), call)
		}
	}
}

func (a *atkStorm) start() {
	ctx, cancel := context.WithCancel(a.t.Context())
	a.cancel, a.done = cancel, make(chan error, 1)
	go func() { a.done <- a.h.Run(ctx) }()
}

func (a *atkStorm) stop() {
	a.cancel()
	if err := <-a.done; err != nil {
		a.t.Errorf("Run: %v", err)
	}
	a.mu.Lock()
	clear(a.down)
	a.mu.Unlock()
	if faults := callhook.AtRest(a.h, nil); len(faults) > 0 {
		a.t.Errorf("after Run: %q", faults)
	}
}

// erase takes out the deliveries of a call.
func (a *atkStorm) erase() {
	call := fmt.Sprint("c", 1+a.r.IntN(max(1, a.calls)))
	found, err := a.q.List(a.t.Context(), callhook.Filter{Call: call, Limit: 1000})
	if err != nil {
		a.t.Error(err)
	}
	var ids []string
	for _, d := range found {
		ids = append(ids, d.ID)
	}
	a.q.odd(ids...)
	if _, err := a.q.Erase(a.t.Context(), callhook.Filter{Call: call}); err != nil {
		a.t.Error(err)
	}
}

func (a *atkStorm) replay() {
	tenant, agent := a.agent()
	f := callhook.Filter{Tenant: tenant, Agent: agent, State: callhook.StateDead, Limit: 1000}
	found, err := a.q.List(a.t.Context(), f)
	if err != nil || len(found) == 0 {
		return
	}
	for _, d := range found {
		f.IDs = append(f.IDs, d.ID)
	}
	a.q.odd(f.IDs...)
	if _, err := a.q.Replay(a.t.Context(), f); err != nil {
		a.t.Error(err)
	}
}

func (a *atkStorm) resume() {
	tenant, agent := a.agent()
	ref := callhook.LaneRef{Tenant: tenant, Agent: agent, Webhook: a.one("x", "y", "z")}
	a.users.Go(func() { _, _ = a.h.Resume(a.t.Context(), ref) })
}

func (a *atkStorm) told(l callhook.LaneState) {
	a.mu.Lock()
	if l.Trouble == "" && !a.down[l.LaneRef] {
		a.t.Errorf("%v is told to be up, and was not down", l.LaneRef)
	}
	a.down[l.LaneRef] = l.Trouble != ""
	a.mu.Unlock()
	if a.explodes.Load() {
		panic("told")
	}
}

func (a *atkStorm) step() {
	switch a.r.IntN(16) {
	case 0, 1, 2, 3, 4:
		a.raise()
	case 5, 6:
		a.hosts[a.r.IntN(len(a.hosts))].set(atkAnswers[a.r.IntN(len(atkAnswers))])
	case 7, 8:
		tenant, agent := a.agent()
		a.publish(tenant, agent, false)
	case 9:
		a.resume()
	case 10:
		a.erase()
	case 11:
		a.replay()
	case 12:
		a.stop()
		if a.r.IntN(2) == 0 {
			time.Sleep(time.Duration(a.r.IntN(100)) * time.Second)
			a.resume()
			a.raise()
		}
		a.start()
	case 13:
		a.s.slow.Store(int64(a.r.IntN(3)) * int64(400*time.Millisecond))
		if a.r.IntN(2) == 0 {
			a.s.fail(errors.New("the database is away"))
		} else {
			a.s.fail(nil)
		}
	case 14:
		a.sealed.Store(a.r.IntN(2) == 0)
	case 15:
		a.explodes.Store(a.r.IntN(2) == 0)
	}
	switch a.r.IntN(4) {
	case 0:
		time.Sleep(time.Duration(a.r.IntN(1000)) * time.Millisecond)
	case 1:
		time.Sleep(time.Duration(a.r.IntN(60)) * time.Second)
	case 2:
		time.Sleep(time.Duration(a.r.IntN(600)) * time.Second)
	}
}

// TestStorm drives many webhooks through whatever can befall them; once all is well
// again, everything is delivered, dead or erased, and nothing is left behind.
func TestStorm(t *testing.T) {
	seeds, _ := strconv.Atoi(os.Getenv("ATK_SEEDS"))
	for seed := range uint64(max(seeds, 2)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) { atkRun(t, n, seed) })
		})
	}
}

func atkRun(t *testing.T, n *network, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 7))
	a := &atkStorm{t: t, r: r, q: newAtkQueue(rand.New(rand.NewPCG(seed, 8))), s: &atkSource{}, down: map[callhook.LaneRef]bool{}}
	a.s.configs = map[callhook.ConfigRef]*callhook.Config{}
	for i := range a.hosts {
		a.hosts[i] = newSwitchable(status(200))
		n.handle(fmt.Sprintf("h%d.test", i), a.hosts[i].ServeHTTP)
	}
	explode := func(what string) {
		if a.explodes.Load() {
			panic(what)
		}
	}
	o := callhook.Options{
		Configs: a.s, Dial: n.Dial, Queue: a.q, Concurrency: 1 + r.IntN(8),
		Secrets: func(context.Context, callhook.SecretRef) (string, error) {
			explode("secret")
			if a.sealed.Load() {
				return "", errors.New("the vault is sealed")
			}
			return secret, nil
		},
		Trace: &callhook.Trace{
			Enqueued:     func(context.Context, *callhook.Delivery) { explode("enqueued") },
			AttemptStart: func(ctx context.Context, _ *callhook.Delivery) context.Context { explode("start"); return ctx },
			AttemptDone:  func(context.Context, *callhook.Delivery, callhook.Attempt, callhook.Verdict) { explode("done") },
			Dead:         func(context.Context, *callhook.Delivery, callhook.Reason) { explode("dead") },
			LaneDown:     a.told, LaneUp: a.told,
		},
	}
	if r.IntN(2) == 0 {
		a.w = &atkWatched{a.s, make(chan callhook.ConfigRef, 10_000)}
		o.Configs = a.w
	}
	var err error
	if a.h, err = callhook.New(o); err != nil {
		t.Fatal(err)
	}
	everyAgent := func(f func(tenant, agent string)) {
		for _, tenant := range []string{"t1", "t2"} {
			for _, agent := range []string{"a", "b", "c"} {
				f(tenant, agent)
			}
		}
	}
	everyAgent(func(tenant, agent string) { a.publish(tenant, agent, false) })
	a.start()
	for range 200 {
		a.step()
	}
	a.users.Wait()

	// All is well again.
	a.q.mu.Lock()
	a.q.calm = true
	a.q.mu.Unlock()
	for _, host := range a.hosts {
		host.set(status(200))
	}
	a.sealed.Store(false)
	a.explodes.Store(false)
	a.s.slow.Store(0)
	a.s.fail(nil)
	everyAgent(func(tenant, agent string) { a.publish(tenant, agent, true) })
	time.Sleep(24 * time.Hour)
	everyAgent(func(tenant, agent string) { // what waits for nothing notices with the next event
		call := &callhook.Call{ID: "last", TenantID: tenant, AgentID: agent, Status: "ringing", Sequence: 1, EndedAt: time.Now()}
		if err := errors.Join(a.h.CallStatus(t.Context(), call), a.h.PostCall(t.Context(), call)); err != nil {
			t.Error(err)
		}
	})
	time.Sleep(time.Minute)
	synctest.Wait()
	c, _ := a.q.Counts(t.Context())
	if c.Pending > 0 || c.Accepted != c.Delivered+c.Dead+c.Erased {
		left, _ := a.q.List(t.Context(), callhook.Filter{Limit: 1000})
		for _, d := range left {
			if d.State != callhook.StateDead {
				t.Logf("%s %s %s %s attempts %d retry at %s", d.ID, d.Lane, d.Call, d.State, d.Attempts, d.RetryAt)
			}
		}
		t.Errorf("left: %+v, lanes %+v", c, a.h.Lanes())
	}
	if faults := callhook.AtRest(a.h, a.q.MemoryQueue); len(faults) > 0 {
		t.Errorf("left: %q", faults)
	}
	if lanes := a.h.Lanes(); len(lanes) > 0 {
		t.Errorf("lanes in trouble: %+v", lanes)
	}
	a.mu.Lock()
	for l, down := range a.down {
		if down {
			t.Errorf("%v is not told to be up", l)
		}
	}
	a.mu.Unlock()
	a.stop()
	a.h.Close()
	idle(t)
	a.q.mu.Lock()
	defer a.q.mu.Unlock()
	for _, fault := range a.q.faults {
		t.Error(fault)
	}
	t.Logf("%+v, handed out %d times", c, a.q.handed)
}

// TestErasedBeforeItCame: what Run releases to find out which lanes there are may be
// erased before it comes; the rest of its lane goes all the same.
func TestErasedBeforeItCame(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newSwitchable(status(410))
		n.handle("x.test", x.ServeHTTP)
		var erase atomic.Bool
		q := &atkLate{MemoryQueue: callhook.NewMemoryQueue(nil)}
		q.after = func(lane string, _ int) {
			if lane == "" && erase.CompareAndSwap(true, false) {
				if n, err := q.Erase(t.Context(), callhook.Filter{Call: "c0"}); n != 1 || err != nil {
					t.Errorf("Erase: %d, %v", n, err)
				}
			}
		}
		o := callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", "")), Dial: n.Dial, Queue: q}
		run(t, o, func(h *callhook.Hooks) {
			for _, id := range names("c", 5) {
				raise(t, h, ended(id))
			}
			time.Sleep(time.Second)
			balance(t, h, 0, 0, 5)
		})
		x.set(status(200))
		erase.Store(true)
		run(t, o, func(h *callhook.Hooks) {
			raise(t, h, ended("c5"))
			time.Sleep(time.Hour)
			synctest.Wait()
			balance(t, h, 5, 0, 0)
		})
	})
}

// TestToldInOrder: that a lane went down and came up is told in that order, also by
// a function that takes its time.
func TestToldInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newSwitchable(status(410))
		n.handle("x.test", x.ServeHTTP)
		var mu sync.Mutex
		var told []string
		tell := func(l callhook.LaneState) {
			if l.Trouble != "" {
				time.Sleep(time.Second)
			}
			mu.Lock()
			defer mu.Unlock()
			told = append(told, string(l.Trouble))
		}
		o := callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", "")), Dial: n.Dial, Trace: &callhook.Trace{LaneDown: tell, LaneUp: tell}}
		run(t, o, func(h *callhook.Hooks) {
			raise(t, h, ended("c1"))
			time.Sleep(500 * time.Millisecond)
			x.set(status(200))
			if _, err := h.Resume(t.Context(), callhook.LaneRef{Agent: "a", Webhook: "w"}); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if diff := cmp.Diff([]string{"gone", ""}, told); diff != "" {
				t.Errorf("what was told (-want +got)\n%s", diff)
			}
		})
	})
}

// TestSlowSourceHoldsUpNobody: lanes that wait and whose configs are slow to come do
// not hold up the pace of another.
func TestSlowSourceHoldsUpNobody(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		held, fine := newEndpoint(status(429, "Retry-After: 3600")), newEndpoint()
		n.handle("held.test", held.ServeHTTP)
		n.handle("fine.test", fine.ServeHTTP)
		s := &atkPicky{}
		s.configs = map[callhook.ConfigRef]*callhook.Config{}
		s.set(hook(t, "http://fine.test/", `"rate": "10/s"`))
		const lanes = 100
		for i := range lanes {
			c := hook(t, "http://held.test/", "")
			c.AgentID = fmt.Sprint("held", i)
			s.set(c)
		}
		run(t, callhook.Options{Configs: s, Dial: n.Dial}, func(h *callhook.Hooks) {
			for i := range lanes {
				c := ended("c")
				c.AgentID = fmt.Sprint("held", i)
				raise(t, h, c)
			}
			time.Sleep(time.Second)
			s.slow.Store(int64(300 * time.Millisecond))
			for _, id := range names("c", 600) {
				raise(t, h, ended(id))
			}
			time.Sleep(60 * time.Second)
			synctest.Wait()
			if got := len(fine.requests()); got < 590 {
				t.Errorf("%d requests in a minute, want 600", got)
			}
		})
	})
}

// atkPicky is slow for others than agent "a".
type atkPicky struct{ atkSource }

func (s *atkPicky) Config(ctx context.Context, ref callhook.ConfigRef) (*callhook.Config, error) {
	if ref.Agent == "a" {
		return s.source.Config(ctx, ref)
	}
	return s.atkSource.Config(ctx, ref)
}
