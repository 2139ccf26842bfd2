package sqlitequeue_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
)

// world is Hooks with agents that come as cells need them.
type world struct {
	hooks *callhooktest.Hooks
	queue callhook.Inspector

	mu       sync.Mutex
	configs  map[string]*callhook.Config
	attempts map[string]chan attempt // by agent
	traffic  map[string]*traffic     // by address
}

type attempt struct {
	id                  string
	attempts, postponed int // that count afterwards
	callhook.Attempt
	callhook.Verdict
}

// traffic is of the connections to one address, at the client's end.
type traffic struct{ made, open, read atomic.Int64 }

func newWorld(t *testing.T, q inspected, dial func(context.Context, string, string) (net.Conn, error)) *world {
	w := &world{queue: q, configs: map[string]*callhook.Config{}, attempts: map[string]chan attempt{}, traffic: map[string]*traffic{}}
	w.hooks = callhooktest.NewHooks(t, callhook.Options{
		Configs: w, Queue: q,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			at := w.wires(address)
			at.made.Add(1)
			at.open.Add(1)
			return &counted{Conn: c, of: at}, nil
		},
		Trace: &callhook.Trace{AttemptDone: func(_ context.Context, d *callhook.Delivery, a callhook.Attempt, v callhook.Verdict) {
			w.mu.Lock()
			to := w.attempts[d.Agent]
			w.mu.Unlock()
			select {
			case to <- attempt{d.ID, d.Attempts, d.Postponed, a, v}:
			default: // another attempt, which nobody looks at
			}
		}},
	}, nil)
	return w
}

type inspected interface {
	callhook.Queue
	callhook.Inspector
}

// Config makes a world the source of its configs.
func (w *world) Config(_ context.Context, ref callhook.ConfigRef) (*callhook.Config, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.configs[ref.Agent]; c != nil {
		return c, nil
	}
	return nil, callhook.ErrNoConfig
}

// agent adds one, and returns what becomes of its attempts.
func (w *world) agent(t *testing.T, name, url, verb string, timeout time.Duration) <-chan attempt {
	success := ""
	if verb == reads {
		success = `"success": {"path": "ok", "equals": true},`
	}
	c, err := callhook.ParseConfig(fmt.Appendf(nil, `{
		"agent_id": %q,
		"variables": [{"name": "customer_name", "default": "customer"}],
		"pre_call": {"url": "%[2]s/lookup", "timeout": %[3]q},
		"call_status": [{"name": "ops", "url": "%[2]s/status", "timeout": %[3]q, "retry": {"initial": "1h"}}],
		"post_call": [{"name": "n8n", "url": "%[2]s/calls", "timeout": %[3]q, %[4]s "retry": {"initial": "1h"}}]
	}`, name, url, timeout, success))
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.configs[name], w.attempts[name] = c, make(chan attempt, 10)
	return w.attempts[name]
}

func (w *world) wires(address string) *traffic {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.traffic[address] == nil {
		w.traffic[address] = new(traffic)
	}
	return w.traffic[address]
}

func (w *world) forget(address string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.traffic, address)
}

type counted struct {
	net.Conn
	of   *traffic
	once sync.Once
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.of.read.Add(int64(n))
	return n, err
}

func (c *counted) Close() error {
	c.once.Do(func() { c.of.open.Add(-1) })
	return c.Conn.Close()
}

func callOf(agent string, of callhook.Type) *callhook.Call {
	call := callhook.SampleCall(of)
	call.TenantID, call.AgentID, call.ConfigRevision, call.Variables = "", agent, 0, nil
	return call
}

// results are what came of each cell.
type results struct {
	mu    sync.Mutex
	cells map[resultKey]string
}

type resultKey struct {
	fault  callhooktest.Fault
	verb   string
	memory bool
}

func (r *results) add(c *cell, got string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cells == nil {
		r.cells = map[resultKey]string{}
	}
	n := c.wires(c.address)
	r.cells[resultKey{c.fault, c.verb.name, c.network != nil}] = fmt.Sprintf("%s (%d, %d KiB)", got, n.made.Load(), n.read.Load()>>10)
}

// log shows them as a table, and what differs on loopback below it.
func (r *results) log(t *testing.T) {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "\nmisbehaviour")
	for _, v := range verbs {
		fmt.Fprint(w, "\t", v.name)
	}
	for _, f := range callhooktest.Hostile() {
		for _, memory := range []bool{true, false} {
			fmt.Fprintf(w, "\n%s", f)
			if !memory {
				fmt.Fprint(w, " [SQLite]")
			}
			for _, v := range verbs {
				fmt.Fprintf(w, "\t%.60s", r.cells[resultKey{f, v.name, memory}])
			}
		}
	}
	w.Flush()
	t.Log(b.String())
}

// watchHeap looks at the heap until the function that it returns is called, which
// returns the most that was in use after a collection, and the most that there was.
func watchHeap(t *testing.T) func() (live, all uint64) {
	var live, all uint64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}}
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			metrics.Read(samples)
			live, all = max(live, samples[0].Value.Uint64()), max(all, samples[1].Value.Uint64())
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	end := sync.OnceFunc(func() { close(stop); <-stopped })
	t.Cleanup(end)
	return func() (uint64, uint64) { end(); return live, all }
}

// listen keeps what is written to the process's log, by whichever package.
func listen(t *testing.T) (spoken func() []string) {
	var lines said
	was := log.Writer()
	log.SetOutput(&lines)
	t.Cleanup(func() { log.SetOutput(was) })
	return func() []string {
		lines.mu.Lock()
		defer lines.mu.Unlock()
		return lines.all
	}
}

type said struct {
	mu  sync.Mutex
	all []string
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, string(p))
	return len(p), nil
}

// wantFewer waits until there are no more goroutines than there were.
func wantFewer(t *testing.T, before int) {
	for deadline := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Errorf("%d goroutines are left, and there were %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
			return
		}
	}
}
