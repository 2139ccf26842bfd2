package sqlitequeue_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// atkQueue checks what a queue hands out: each delivery to one handler at a time,
// those of a call in order, and none that is settled.
type atkQueue struct {
	*sqlitequeue.Queue
	*atkLedger
}

type atkLedger struct {
	mu     sync.Mutex
	faults []string
	order  map[string][]string
	state  map[string]*atkDelivery
	handed int
}

type atkDelivery struct {
	call                      string
	busy, tried, settled, odd bool // odd: its order is not looked at any more
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
	return q.Queue.Enqueue(ctx, ds...)
}

func (q *atkQueue) Consume(ctx context.Context, handle callhook.Handler) error {
	return q.Queue.Consume(ctx, func(ctx context.Context, d *callhook.Delivery) callhook.Verdict {
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
	s := q.state[d.ID]
	if s.busy {
		q.faults = append(q.faults, d.ID+" is in two handlers")
	}
	if s.settled && !s.odd {
		q.faults = append(q.faults, d.ID+" was settled and is handed out")
	}
	s.busy = true
	for _, id := range q.order[s.call] {
		if id == d.ID {
			break
		}
		if e := q.state[id]; !e.odd && !s.odd && !e.settled && (!e.tried || d.Ordered) {
			q.faults = append(q.faults, fmt.Sprintf("%s of %s is handed out before %s", d.ID, s.call, id))
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

// atkConfigs is a source whose configs change.
type atkConfigs struct {
	mu sync.Mutex
	of map[string]*callhook.Config
}

func (c *atkConfigs) Config(_ context.Context, ref callhook.ConfigRef) (*callhook.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cfg := c.of[ref.Agent]; cfg != nil {
		return cfg, nil
	}
	return nil, callhook.ErrNoConfig
}

// TestStorm drives webhooks over files through whatever can befall them; once all is
// well again, everything is delivered, dead or erased.
func TestStorm(t *testing.T) {
	seeds, _ := strconv.Atoi(os.Getenv("ATK_SEEDS"))
	for seed := range uint64(max(seeds, 1)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { t.Parallel(); atkStorm(t, seed) })
	}
}

func atkStorm(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 3))
	var answers [3]atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		i, _ := strconv.Atoi(strings.Split(req.URL.Path, "/")[1])
		switch code := answers[i].Load(); code {
		case 1:
			time.Sleep(30 * time.Millisecond)
		case 0:
		default:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(int(code))
		}
	}))
	defer server.Close()
	one := func(of ...string) string { return of[r.IntN(len(of))] }
	names := []string{"a", "b", "c"}
	c, revision := &atkConfigs{of: map[string]*callhook.Config{}}, 0
	publish := func(agent string, healthy bool) {
		revision++
		var lists [2][]string
		for _, name := range []string{"x", "y"} {
			more := one(``, `, "concurrency": 1`, `, "rate": "200/s"`, `, "ordered": true`) + `, "retry": {"initial": "100ms", "max_interval": "1s", "max_attempts": 6}`
			if !healthy {
				more += one(``, ``, ``, `, "paused": true`)
			}
			kind := r.IntN(2)
			lists[kind] = append(lists[kind], fmt.Sprintf(`{"name": %q, "url": "%s/%d/%d"%s}`, name, server.URL, r.IntN(len(answers)), revision, more))
		}
		cfg, err := callhook.ParseConfig([]byte(fmt.Sprintf(`{"agent_id": %q, "revision": %d, "call_status": [%s], "post_call": [%s]}`,
			agent, revision, strings.Join(lists[0], ","), strings.Join(lists[1], ","))))
		if err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		c.of[agent] = cfg
		c.mu.Unlock()
	}
	for _, agent := range names {
		publish(agent, false)
	}

	path := filepath.Join(t.TempDir(), "queue.db")
	ledger := &atkLedger{order: map[string][]string{}, state: map[string]*atkDelivery{}}
	var q *atkQueue
	var h *callhook.Hooks
	var cancel context.CancelFunc
	done := make(chan error, 1)
	run := func() {
		ctx, end := context.WithCancel(t.Context())
		cancel = end
		go func(h *callhook.Hooks) { done <- h.Run(ctx) }(h)
	}
	limit := 1 + r.IntN(8)
	open := func() {
		store, err := sqlitequeue.Open(path, &sqlitequeue.Options{Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
		if err != nil {
			t.Fatal(err)
		}
		q = &atkQueue{store, ledger}
		h, err = callhook.New(callhook.Options{Configs: c, Queue: q, Concurrency: limit, AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
		if err != nil {
			t.Fatal(err)
		}
		run()
	}
	stop := func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	shut := func() {
		stop()
		if err := errors.Join(h.Close(), q.Close()); err != nil {
			t.Error(err)
		}
	}
	resume := func() {
		for _, agent := range names {
			for _, webhook := range []string{"x", "y"} {
				if _, err := h.Resume(t.Context(), callhook.LaneRef{Agent: agent, Webhook: webhook}); err != nil {
					t.Error(err)
				}
			}
		}
	}
	mend := func(f callhook.Filter, do func(context.Context, callhook.Filter) (int, error)) {
		f.Limit = 1000
		found, err := q.List(t.Context(), f)
		if err != nil || len(found) == 0 {
			return
		}
		for _, d := range found {
			f.IDs = append(f.IDs, d.ID)
		}
		q.odd(f.IDs...)
		if _, err := do(t.Context(), f); err != nil {
			t.Error(err)
		}
	}
	open()
	for i := range 80 {
		switch r.IntN(14) {
		case 0, 1, 2, 3, 4, 5:
			agent := one(names...)
			for range 1 + r.IntN(15) {
				call := &callhook.Call{ID: fmt.Sprint("c", i-r.IntN(3)), AgentID: agent, Status: "ringing", Sequence: int64(1 + r.IntN(20)), EndedAt: time.Now()}
				if err := errors.Join(h.CallStatus(t.Context(), call), h.PostCall(t.Context(), call)); err != nil {
					t.Error(err)
				}
			}
		case 6, 7:
			answers[r.IntN(len(answers))].Store([]int64{0, 0, 1, 1, 500, 429, 410, 400}[r.IntN(8)])
		case 8, 9:
			publish(one(names...), false)
		case 10:
			mend(callhook.Filter{Call: fmt.Sprint("c", i-r.IntN(5))}, q.Erase)
		case 11:
			mend(callhook.Filter{State: callhook.StateDead, Agent: one(names...)}, q.Replay)
		case 12:
			if stop(); r.IntN(2) == 0 {
				run()
			} else {
				if err := errors.Join(h.Close(), q.Close()); err != nil {
					t.Error(err)
				}
				open()
			}
		case 13:
			resume()
		}
		time.Sleep(time.Duration(r.IntN(10)) * time.Millisecond)
	}
	for i := range answers {
		answers[i].Store(0)
	}
	for _, agent := range names {
		publish(agent, true)
	}
	deadline := time.Now().Add(10 * time.Second)
	var n callhook.Counts
	for i := 0; ; i++ {
		if i%100 == 0 { // what waits for a time or for a publish need not wait here
			resume()
		}
		var err error
		if n, err = q.Counts(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n.Pending == 0 || time.Now().After(deadline) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if n.Pending > 0 || n.Accepted != n.Delivered+n.Dead+n.Erased {
		left, _ := q.List(t.Context(), callhook.Filter{Limit: 1000})
		for _, d := range left {
			if d.State != callhook.StateDead {
				t.Logf("%s %s %s %s attempts %d retry at %s", d.ID, d.Lane, d.Call, d.State, d.Attempts, d.RetryAt)
			}
		}
		t.Errorf("left: %+v, lanes %+v", n, h.Lanes())
	}
	shut()
	ledger.mu.Lock()
	defer ledger.mu.Unlock()
	for _, fault := range ledger.faults[:min(len(ledger.faults), 10)] {
		t.Error(fault)
	}
	t.Logf("%+v, handed out %d times", n, ledger.handed)
}

// TestUnblockedBehindTheWindow: one that waited for its call, and became ready after
// later ones were loaded, is handed out once, and so are they, when Consume ends and
// begins again.
func TestUnblockedBehindTheWindow(t *testing.T) {
	q, err := sqlitequeue.Open(filepath.Join(t.TempDir(), "queue.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	enqueue := func(id, call string) {
		d := &callhook.Delivery{ID: id, Agent: "a", Webhook: "w", Lane: "/a/w", Call: call, Body: []byte("{}"), EnqueuedAt: time.Now()}
		if err := q.Enqueue(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	gate, parked := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	handed := map[string]int{}
	handle := func(_ context.Context, d *callhook.Delivery) callhook.Verdict {
		mu.Lock()
		handed[d.ID]++
		first := handed[d.ID] == 1
		mu.Unlock()
		switch {
		case d.ID == "a1":
			<-gate
		case d.ID == "p" && first:
			return callhook.Park().Then(func() { close(parked) })
		}
		d.Attempts++
		return callhook.Delivered()
	}
	consume := func(f func()) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- q.Consume(ctx, handle) }()
		f()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	await := func(n int64) {
		var c callhook.Counts
		for end := time.Now().Add(2 * time.Second); c.Delivered != n && time.Now().Before(end); time.Sleep(time.Millisecond) {
			c, _ = q.Counts(t.Context())
		}
		if c.Delivered != n {
			t.Errorf("%d were delivered, want %d; %d are pending", c.Delivered, n, c.Pending)
		}
	}
	consume(func() {
		enqueue("a1", "a")
		enqueue("p", "p")
		<-parked
		for i := range 6 {
			enqueue(fmt.Sprint("f", i), fmt.Sprint("f", i))
		}
		enqueue("a2", "a") // waits for a1
		for i := range 20 {
			enqueue(fmt.Sprint("g", i), fmt.Sprint("g", i))
		}
		for i := range 4 {
			if n, err := q.Release(t.Context(), "/a/w", 1); n != 1 || err != nil {
				t.Errorf("Release: %d, %v", n, err)
			}
			await(int64(1 + i))
		}
		close(gate)
		await(5)
	})
	consume(func() {
		if _, err := q.Release(t.Context(), "/a/w", -1); err != nil {
			t.Error(err)
		}
		await(29)
	})
	for id, n := range handed {
		if n != 1 && id != "p" {
			t.Errorf("%s was handed out %d times", id, n)
		}
	}
}

// TestErasedBeforeItCame: whoever released one waits for one, also when it is erased
// before a handler has seen it.
func TestErasedBeforeItCame(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	q, err := sqlitequeue.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b", "c"} {
		d := &callhook.Delivery{ID: "msg_" + id, Agent: "a", Webhook: "w", Lane: "/a/w", Call: id, EnqueuedAt: time.Now()}
		if err := q.Enqueue(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if q, err = sqlitequeue.Open(path, nil); err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if n, err := q.Release(t.Context(), "", 1); n != 1 || err != nil { // as Run begins
		t.Fatalf("Release: %d, %v", n, err)
	}
	if n, err := q.Erase(t.Context(), callhook.Filter{Call: "a"}); n != 1 || err != nil {
		t.Fatalf("Erase: %d, %v", n, err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	var first string
	if err := q.Consume(ctx, func(_ context.Context, d *callhook.Delivery) callhook.Verdict {
		first = d.Call
		stop()
		return callhook.Delivered()
	}); err != nil {
		t.Fatal(err)
	}
	if first != "b" {
		t.Errorf("%q was handed out, want b", first)
	}
}
