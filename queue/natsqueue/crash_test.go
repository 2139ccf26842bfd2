package natsqueue_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/natsqueue"
)

const (
	// crashes is how often TestCrash kills a process, unless this says otherwise.
	crashes    = "CALLHOOK_CRASHES"
	crashLease = 2 * time.Second
	agents     = 24
)

// TestCrash: of three processes that raise and deliver events on one server, one is
// killed at a random moment and another started, again and again. Whatever any of
// them had accepted arrives, in the order of its call, and what arrives twice is what
// was being answered when its process was killed.
func TestCrash(t *testing.T) {
	rounds := 3
	if text := os.Getenv(crashes); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("%s: %v", crashes, err)
		}
		rounds = n
	}
	// It is the clients that die here: syncing each write would only slow the server down.
	srv, err := startServer(t.TempDir(), func(o *server.Options) { o.SyncAlways = false })
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Shutdown()
	ledger := &crashLedger{calls: map[string][]exchange{}, lanes: map[string]time.Time{}}
	receiver := httptest.NewServer(ledger)
	defer receiver.Close()

	accepted := new(acceptances)
	var nodes []*crasher
	for n := range 3 {
		nodes = append(nodes, startCrasher(t, receiver.URL, srv.ClientURL(), fmt.Sprint("first", n), accepted))
	}
	for _, p := range nodes {
		p.await(t, "open")
	}
	var killed []kill
	for round := range rounds {
		ledger.until(t, "all lanes have something delivered", time.Now())
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		victim := nodes[0]
		nodes = nodes[1:]
		from := time.Now()
		if err := victim.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		victim.end(t)
		killed = append(killed, kill{from, time.Now()})
		took := ledger.until(t, "all lanes go on after a kill", time.Now())
		t.Logf("kill %d: with a lease of %s all lanes go on after %s", round+1, crashLease, took.Round(10*time.Millisecond))
		nodes = append(nodes, startCrasher(t, receiver.URL, srv.ClientURL(), fmt.Sprint("round", round), accepted))
		nodes[len(nodes)-1].await(t, "open")
	}
	for _, p := range nodes { // they stop raising, and end when nothing is pending
		fmt.Fprintln(p.in, "finish")
	}
	for _, p := range nodes {
		p.end(t)
	}

	ledger.mu.Lock()
	defer ledger.mu.Unlock()
	lost, repeated, unexplained := 0, 0, 0
	for event := range accepted.all {
		call, number, _ := strings.Cut(event, " ")
		if !slices.ContainsFunc(ledger.calls[call], func(e exchange) bool { return fmt.Sprint(e.number) == number }) {
			if lost++; lost < 10 {
				t.Errorf("event %s of call %s was accepted and never arrived", number, call)
			}
		}
	}
	for call, all := range ledger.calls {
		last := map[int]exchange{}
		for i, e := range all {
			if i > 0 && e.number < all[i-1].number {
				t.Errorf("of call %s event %d arrived after %d: it is ordered", call, e.number, all[i-1].number)
			}
			if before, ok := last[e.number]; ok {
				if repeated++; !inFlight(before, e, killed) {
					if unexplained++; unexplained < 10 {
						t.Errorf("event %d of %s was answered at %s and came again at %s: no process was killed between soon after the answer",
							e.number, call, before.answered, e.arrived)
					}
				}
			}
			last[e.number] = e
		}
	}
	t.Logf("%d kills: %d accepted, %d lost, %d arrived twice, all but %d of them being answered at a kill", rounds, len(accepted.all), lost, repeated, unexplained)
	if len(accepted.all) == 0 {
		t.Error("nothing was accepted: the test shows nothing")
	}
}

// kill is when a process was killed: between from and to.
type kill struct{ from, to time.Time }

// exchange is when a request came and when it was answered, which may be after the
// end of who sent it.
type exchange struct {
	number            int
	arrived, answered time.Time
}

// inFlight reports whether a process was killed so soon after an answer that it
// cannot be expected to have written it down, and before the repetition.
func inFlight(first, again exchange, killed []kill) bool {
	const writing = time.Second // milliseconds, on a machine that does nothing else
	for _, k := range killed {
		if !first.arrived.After(k.to) && k.from.Sub(first.answered) < writing && !again.arrived.Before(k.from) {
			return true
		}
	}
	return false
}

// crashLedger is the receiver: it writes down every event that it has accepted, and
// sometimes fails or takes its time.
type crashLedger struct {
	mu    sync.Mutex
	calls map[string][]exchange // those that were answered well, as they were
	lanes map[string]time.Time  // when each agent's last one came
}

// until waits until something came of every lane after a time.
func (l *crashLedger) until(t *testing.T, what string, after time.Time) time.Duration {
	t.Helper()
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		l.mu.Lock()
		n := 0
		for _, at := range l.lanes {
			if at.After(after) {
				n++
			}
		}
		l.mu.Unlock()
		if n == agents {
			return time.Since(after)
		}
		if time.Since(start) > time.Minute {
			t.Fatalf("it took more than a minute until %s: %d of %d do", what, n, agents)
		}
	}
}

func (l *crashLedger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	arrived := time.Now()
	body, err := io.ReadAll(r.Body)
	var event struct {
		Data struct {
			Call struct {
				ID       string `json:"id"`
				Agent    string `json:"agent_id"`
				Sequence int    `json:"sequence"`
			} `json:"call"`
		} `json:"data"`
	}
	if err != nil || json.Unmarshal(body, &event) != nil || event.Data.Call.ID == "" {
		return // killed while it sent
	}
	call := event.Data.Call
	switch rand.IntN(20) {
	case 0:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case 1:
		time.Sleep(50 * time.Millisecond)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lanes[call.Agent] = arrived
	l.calls[call.ID] = append(l.calls[call.ID], exchange{call.Sequence, arrived, time.Now()})
}

// acceptances are the events that the processes said were stored: call and number.
type acceptances struct {
	mu  sync.Mutex
	all map[string]bool
}

func (a *acceptances) add(event string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all == nil {
		a.all = map[string]bool{}
	}
	a.all[event] = true
}

// crasher is a process that may be killed.
type crasher struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	read  sync.WaitGroup
}

// startCrasher starts this test's binary as crasherMain, and notes what that says it
// has accepted.
func startCrasher(t *testing.T, receiver, server, name string, accepted *acceptances) *crasher {
	t.Helper()
	p := &crasher{cmd: exec.Command(os.Args[0], "-test.run=^$"), lines: make(chan string, 1)}
	p.cmd.Env = append(os.Environ(), "CALLHOOK_CRASHER="+receiver+" "+server+" "+name)
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	p.read.Go(func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			if event, ok := strings.CutPrefix(s.Text(), "accepted "); ok {
				accepted.add(event)
			} else {
				p.lines <- s.Text()
			}
		}
		close(p.lines)
	})
	return p
}

func (p *crasher) await(t *testing.T, line string) {
	t.Helper()
	for got := range p.lines {
		if got == line {
			return
		}
	}
	t.Fatalf("the process ended before it said %q", line)
}

func (p *crasher) end(t *testing.T) {
	t.Helper()
	go func() {
		for range p.lines {
		}
	}()
	p.read.Wait()
	if err := p.cmd.Wait(); err != nil && !strings.Contains(err.Error(), "killed") {
		t.Fatal(err)
	}
}

// crasherMain raises the events of calls and delivers them, until it is killed or told
// to finish; then it only delivers, until nothing is pending.
func crasherMain(args string) error {
	var receiver, server, name string
	if _, err := fmt.Sscan(args, &receiver, &server, &name); err != nil {
		return err
	}
	nc, err := nats.Connect(server, nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer nc.Close()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	q, err := natsqueue.Open(ctx, natsqueue.Options{Conn: nc, Lease: crashLease, Logger: logger()})
	if err != nil {
		return err
	}
	defer q.Close()
	var configs []*callhook.Config
	for n := range agents {
		config, err := callhook.ParseConfig(fmt.Appendf(nil, `{"agent_id": "a%d", "call_status": [{"name": "one", "url": %q, "ordered": true,
			"retry": {"initial": "50ms"}, "payload": {"fields": ["call.id", "call.agent_id", "call.sequence"]}}]}`, n, receiver))
		if err != nil {
			return err
		}
		configs = append(configs, config)
	}
	hooks, err := callhook.New(callhook.Options{Configs: callhook.Static(configs...), Queue: q, Logger: slog.New(slog.DiscardHandler),
		AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	if err != nil {
		return err
	}
	defer hooks.Close()
	fmt.Println("open")
	ended := make(chan error, 1)
	go func() { ended <- hooks.Run(ctx) }()

	raising, enough := context.WithCancel(ctx)
	defer enough()
	var out sync.Mutex
	var producers sync.WaitGroup
	for producer := range 4 {
		producers.Go(func() {
			for i := 0; raising.Err() == nil; i++ {
				call := &callhook.Call{ID: fmt.Sprintf("%s_%d_%d", name, producer, i), AgentID: fmt.Sprintf("a%d", (i*4+producer)%agents)}
				for number, status := range []callhook.Status{"ringing", "in_progress", "completed"} {
					call.Status, call.Sequence = status, int64(number+1)
					if err := hooks.CallStatus(ctx, call); err != nil {
						fmt.Fprintln(os.Stderr, err)
						return
					}
					out.Lock()
					fmt.Println("accepted", call.ID, number+1)
					out.Unlock()
				}
				time.Sleep(40 * time.Millisecond)
			}
		})
	}
	if bufio.NewScanner(os.Stdin).Scan() {
		enough()
		producers.Wait()
		for pending := int64(1); pending > 0; time.Sleep(20 * time.Millisecond) {
			counts, err := q.Counts(ctx)
			if err != nil {
				return err
			}
			pending = counts.Pending
		}
	}
	stop()
	return <-ended
}

// init makes the process that is to be killed out of this test's binary.
func init() {
	args := os.Getenv("CALLHOOK_CRASHER")
	if args == "" {
		return
	}
	if err := crasherMain(args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
