//go:build unix

package riverqueue_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/riverqueue"
	"github.com/jackc/pgx/v5/pgxpool"
)

// TestCrash: processes that deliver are killed at random moments and others take over.
// Whatever was accepted arrives; what arrives twice is what was being answered when its
// process was killed; and the events of a call arrive in order.
func TestCrash(t *testing.T) {
	t.Parallel()
	s := newScene(t)

	accepted, stopRaising := raiseStatuses(t, s.hooks)
	workers := []*process{startWorker(t, s.endpoint, s.database, 0), startWorker(t, s.endpoint, s.database, 0)}
	var killed []kill
	var slowest time.Duration
	for range 3 {
		for _, w := range workers {
			w.delivers(t, s.seen)
		}
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		i := rand.IntN(len(workers))
		from := time.Now()
		workers[i].kill(t)
		killed = append(killed, kill{from, time.Now()})
		s.seen.mu.Lock()
		had := s.seen.ofDead(workers[i].name)
		s.seen.mu.Unlock()
		until(t, "its lanes go on elsewhere", func() bool {
			s.seen.mu.Lock()
			defer s.seen.mu.Unlock()
			return s.seen.elsewhere(had, workers[i].name)
		})
		slowest = max(slowest, time.Since(from))
		workers[i] = startWorker(t, s.endpoint, s.database, 0)
	}
	stopRaising()
	arrivesAndBalances(t, s.queue, s.seen, int(accepted.Load()))
	for _, w := range workers {
		w.end(t)
	}
	s.seen.mu.Lock()
	defer s.seen.mu.Unlock()
	repeated := 0
	for event, all := range s.seen.answered {
		slices.SortFunc(all, func(a, b exchange) int { return a.arrived.Compare(b.arrived) })
		for i := 1; i < len(all); i++ {
			if repeated++; !inFlight(all[i-1], all[i], killed) {
				t.Errorf("%s was answered at %s and came again at %s: no process was killed soon after the answer", event, all[i-1].answered, all[i].arrived)
			}
		}
	}
	for call, sequence := range s.seen.firsts {
		if !slices.IsSorted(sequence) {
			t.Errorf("the events of %s came in the order %v", call, sequence)
		}
	}
	t.Logf("%d kills: %d accepted, %d arrived twice; the lanes of one that was killed went on within %s", len(killed), accepted.Load(), repeated, slowest.Round(time.Millisecond))
}

// scene is what processes that deliver are watched by: who receives, and who raises.
type scene struct {
	database string
	endpoint string
	seen     *receiver
	queue    *riverqueue.Queue
	hooks    *callhook.Hooks
}

func newScene(t *testing.T) *scene {
	pool, name := database(t)
	s := &scene{database: name, seen: &receiver{answered: map[string][]exchange{}}}
	endpoint := httptest.NewServer(s.seen)
	t.Cleanup(endpoint.Close)
	s.endpoint = endpoint.URL
	config, err := crashConfig(s.endpoint, "nobody")
	if err != nil {
		t.Fatal(err)
	}
	s.queue = open(t, riverqueue.Options{Pool: pool})
	if s.hooks, err = callhook.New(callhook.Options{Configs: callhook.Static(config...), Queue: s.queue}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.hooks.Close() })
	return s
}

// TestFrozen: a process that does not stir for longer than its lease, and then goes on
// as if nothing had been. Others have gone on with its lanes, what it comes to does not
// count, and it gets a share again.
func TestFrozen(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	accepted, stopRaising := raiseStatuses(t, s.hooks)
	const lease = 2 * time.Second
	frozen, other := startWorker(t, s.endpoint, s.database, lease), startWorker(t, s.endpoint, s.database, lease)
	frozen.delivers(t, s.seen)
	other.delivers(t, s.seen)
	if err := frozen.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.seen.mu.Lock()
	had := s.seen.ofDead(frozen.name)
	s.seen.mu.Unlock()
	until(t, "its lanes go on elsewhere", func() bool {
		s.seen.mu.Lock()
		defer s.seen.mu.Unlock()
		return s.seen.elsewhere(had, frozen.name)
	})
	if err := frozen.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.seen.mu.Lock()
	s.seen.sent[frozen.name] = -20 // what it had under way does not count
	s.seen.mu.Unlock()
	frozen.delivers(t, s.seen)
	stopRaising()
	arrivesAndBalances(t, s.queue, s.seen, int(accepted.Load()))
	frozen.end(t)
	other.end(t)
}

// raiseStatuses raises the events of calls, four each, until it is stopped.
func raiseStatuses(t *testing.T, hooks *callhook.Hooks) (accepted *atomic.Int64, stop func()) {
	accepted = new(atomic.Int64)
	enough := make(chan struct{})
	var raising sync.WaitGroup
	raising.Go(func() {
		for n := 0; ; n++ {
			call := &callhook.Call{ID: fmt.Sprint("call", n), AgentID: fmt.Sprint("agent", n%crashAgents), Status: callhook.StatusRinging}
			for call.Sequence = 1; call.Sequence <= 4; call.Sequence++ {
				call.StatusAt = time.Now()
				if err := hooks.CallStatus(context.Background(), call); err != nil {
					t.Errorf("CallStatus: %v", err)
					return
				}
				accepted.Add(1)
			}
			select {
			case <-enough:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	stop = sync.OnceFunc(func() {
		close(enough)
		raising.Wait()
	})
	t.Cleanup(stop)
	return accepted, stop
}

// arrivesAndBalances waits until all that was accepted has arrived, and is counted so.
func arrivesAndBalances(t *testing.T, q *riverqueue.Queue, seen *receiver, accepted int) {
	t.Helper()
	until(t, "all have arrived", func() bool {
		seen.mu.Lock()
		defer seen.mu.Unlock()
		return len(seen.answered) == accepted
	})
	until(t, "all are settled", func() bool {
		counts, err := q.Counts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return counts == callhook.Counts{Accepted: int64(accepted), Delivered: int64(accepted)}
	})
}

const crashAgents = 30

// crashConfig returns the configs of all agents, whose requests name the worker.
func crashConfig(url, worker string) (all []*callhook.Config, err error) {
	for i := range crashAgents {
		c, err := callhook.ParseConfig(fmt.Appendf(nil, `{"agent_id": "agent%d", "call_status": [
			{"name": "one", "url": %q, "headers": {"X-Worker": %q}, "ordered": true, "retry": {"initial": "50ms"}, "payload": {"fields": ["call.id", "call.agent_id", "call.sequence"]}}]}`, i, url, worker))
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// kill is when a process was killed: between from and to.
type kill struct{ from, to time.Time }

// exchange is when a request came and when it was answered.
type exchange struct{ arrived, answered time.Time }

// inFlight reports whether a process was killed so soon after an answer that it cannot
// be expected to have written it down, and before the repetition.
func inFlight(first, again exchange, killed []kill) bool {
	const writing = time.Second // milliseconds, on a machine that does nothing else
	for _, k := range killed {
		if !first.arrived.After(k.to) && k.from.Sub(first.answered) < writing && !again.arrived.Before(k.from) {
			return true
		}
	}
	return false
}

// receiver writes down every event that it has accepted, and sometimes fails or takes
// its time.
type receiver struct {
	mu       sync.Mutex
	answered map[string][]exchange
	firsts   map[string][]int64 // by call, the sequence of what came first
	worker   map[string]string  // by agent, who sent its last event
	sent     map[string]int     // by worker
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	arrived := time.Now()
	body, err := io.ReadAll(req.Body)
	var event struct {
		Data struct {
			Call struct {
				ID       string
				Agent    string `json:"agent_id"`
				Sequence int64
			}
		}
	}
	if err != nil || json.Unmarshal(body, &event) != nil {
		return // killed while it sent
	}
	c := event.Data.Call
	key := fmt.Sprint(c.ID, ":", c.Sequence)
	r.mu.Lock()
	if r.firsts == nil {
		r.firsts, r.worker, r.sent = map[string][]int64{}, map[string]string{}, map[string]int{}
	}
	if !slices.Contains(r.firsts[c.ID], c.Sequence) {
		r.firsts[c.ID] = append(r.firsts[c.ID], c.Sequence)
	}
	name := req.Header.Get("X-Worker")
	r.worker[c.Agent] = name
	r.sent[name]++
	r.mu.Unlock()
	switch rand.IntN(20) {
	case 0:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case 1:
		time.Sleep(50 * time.Millisecond)
	}
	r.mu.Lock()
	r.answered[key] = append(r.answered[key], exchange{arrived, time.Now()})
	r.mu.Unlock()
}

// ofDead returns the agents whose lanes a worker had.
func (r *receiver) ofDead(worker string) (agents []string) {
	for agent, w := range r.worker {
		if w == worker {
			agents = append(agents, agent)
		}
	}
	return agents
}

// elsewhere reports whether another has sent for each of them.
func (r *receiver) elsewhere(agents []string, worker string) bool {
	return !slices.ContainsFunc(agents, func(a string) bool { return r.worker[a] == worker })
}

// process is a worker that is to be killed.
type process struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
}

var workers sync.Mutex
var lastWorker int

func startWorker(t *testing.T, url, database string, lease time.Duration) *process {
	t.Helper()
	workers.Lock()
	lastWorker++
	p := &process{name: fmt.Sprint("worker", lastWorker), cmd: exec.Command(os.Args[0], "-test.run=^$")}
	workers.Unlock()
	p.cmd.Env = append(os.Environ(), "RIVERQUEUE_WORKER="+strings.Join([]string{p.name, url, lease.String(), server.url(database)}, "\n"))
	p.cmd.Stderr = os.Stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	return p
}

func (p *process) delivers(t *testing.T, r *receiver) {
	t.Helper()
	until(t, p.name+" delivers", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.sent[p.name] > 0
	})
}

func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait()
}

// end asks it to end.
func (p *process) end(t *testing.T) {
	t.Helper()
	_ = p.in.Close()
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("%s: %v", p.name, err)
	}
}

// workerMain delivers until its input ends.
func workerMain(args string) error {
	words := strings.SplitN(args, "\n", 4)
	name, url, database := words[0], words[1], words[3]
	lease, err := time.ParseDuration(words[2])
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	pool, err := pgxpool.New(ctx, database)
	if err != nil {
		return err
	}
	defer pool.Close()
	q, err := riverqueue.Open(ctx, riverqueue.Options{Pool: pool, Lease: lease})
	if err != nil {
		return err
	}
	defer q.Close()
	config, err := crashConfig(url, name)
	if err != nil {
		return err
	}
	hooks, err := callhook.New(callhook.Options{
		Configs: callhook.Static(config...), Queue: q, AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	if err != nil {
		return err
	}
	defer hooks.Close()
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadByte()
		stop()
	}()
	return hooks.Run(ctx)
}

// init makes the process that is to be killed out of this test's binary.
func init() {
	args := os.Getenv("RIVERQUEUE_WORKER")
	if args == "" {
		return
	}
	if err := workerMain(args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
