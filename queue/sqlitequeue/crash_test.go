package sqlitequeue_test

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
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// crashes is how often TestCrash kills its process, unless this says otherwise.
const crashes = "CALLHOOK_CRASHES"

// TestCrash: a process that raises and delivers events is killed at random moments
// and started again on the same file. Whatever it had accepted arrives, and what
// arrives twice is what was being answered when it was killed.
func TestCrash(t *testing.T) {
	rounds := 4
	if text := os.Getenv(crashes); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("%s: %v", crashes, err)
		}
		rounds = n
	}
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	ledger := &crashLedger{answered: map[string][]exchange{}, rand: r}
	receiver := httptest.NewServer(ledger)
	defer receiver.Close()
	db := filepath.Join(t.TempDir(), "queue.db")

	accepted := map[string]bool{}
	var killed []kill
	var slowest time.Duration
	for round := range rounds {
		known := len(accepted)
		p := startCrasher(t, receiver.URL, db, fmt.Sprint("round", round), accepted)
		opened := p.await(t, "open")
		ledger.mu.Lock()
		before, waiting := ledger.requests, known > ledger.arrived
		ledger.mu.Unlock()
		if waiting { // something was left to do: how soon does it go on?
			for ledger.count() == before && time.Since(opened) < 10*time.Second {
				time.Sleep(time.Millisecond)
			}
			slowest = max(slowest, time.Since(opened))
		}
		time.Sleep(time.Duration(20+r.IntN(600)) * time.Millisecond)
		from := time.Now()
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		p.end(t)
		killed = append(killed, kill{from, time.Now()})
	}
	p := startCrasher(t, receiver.URL, db, "", accepted)
	p.end(t) // it ends by itself when nothing is pending

	ledger.mu.Lock()
	defer ledger.mu.Unlock()
	lost, repeated, unexplained := 0, 0, 0
	for call := range accepted {
		if len(ledger.answered[call]) == 0 {
			lost++
			if lost < 10 {
				t.Errorf("%s was accepted and never arrived", call)
			}
		}
	}
	for call, all := range ledger.answered {
		slices.SortFunc(all, func(a, b exchange) int { return a.arrived.Compare(b.arrived) })
		for i := 1; i < len(all); i++ {
			repeated++
			if !inFlight(all[i-1], all[i], killed) {
				if unexplained++; unexplained < 10 {
					t.Errorf("%s was answered at %s and came again at %s: no process was killed between soon after the answer", call, all[i-1].answered, all[i].arrived)
				}
			}
		}
	}
	t.Logf("%d kills: %d accepted, %d lost, %d arrived twice, all but %d of them being answered at a kill; first request after a restart within %s",
		rounds, len(accepted), lost, repeated, unexplained, slowest.Round(time.Millisecond))
	if len(accepted) == 0 {
		t.Error("nothing was accepted: the test shows nothing")
	}
}

// kill is when a process was killed: between from and to.
type kill struct{ from, to time.Time }

// exchange is when a request came and when it was answered, which may be after the
// end of who sent it.
type exchange struct{ arrived, answered time.Time }

// inFlight reports whether a process was killed so soon after an answer that it
// cannot be expected to have written it down, and before the repetition.
func inFlight(first, again exchange, killed []kill) bool {
	const writing = 500 * time.Millisecond // milliseconds, on a machine that does nothing else
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
	mu       sync.Mutex
	rand     *rand.Rand
	requests int
	arrived  int                   // different calls
	answered map[string][]exchange // by call, each that was answered well
}

func (l *crashLedger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.requests
}

func (l *crashLedger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	arrived := time.Now()
	body, err := io.ReadAll(r.Body)
	var event struct {
		Data struct {
			Call struct{ ID string }
		}
	}
	if err != nil || json.Unmarshal(body, &event) != nil {
		return // killed while it sent
	}
	l.mu.Lock()
	l.requests++
	fate := rand.IntN(20)
	l.mu.Unlock()
	switch fate {
	case 0:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case 1:
		time.Sleep(50 * time.Millisecond)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.answered[event.Data.Call.ID]) == 0 {
		l.arrived++
	}
	l.answered[event.Data.Call.ID] = append(l.answered[event.Data.Call.ID], exchange{arrived, time.Now()})
}

// crasher is a process that is to be killed.
type crasher struct {
	cmd      *exec.Cmd
	lines    chan string
	accepted map[string]bool
	read     sync.WaitGroup
	mu       sync.Mutex
}

// startCrasher starts this test's binary as crasherMain. It adds what the process
// says it has accepted.
func startCrasher(t *testing.T, url, db, round string, accepted map[string]bool) *crasher {
	t.Helper()
	p := &crasher{cmd: exec.Command(os.Args[0], "-test.run=^$"), lines: make(chan string, 1), accepted: accepted}
	p.cmd.Env = append(os.Environ(), "CALLHOOK_CRASHER="+url+" "+db+" "+round)
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.read.Go(func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			if call, ok := strings.CutPrefix(s.Text(), "accepted "); ok {
				p.mu.Lock()
				p.accepted[call] = true
				p.mu.Unlock()
			} else {
				p.lines <- s.Text()
			}
		}
		close(p.lines)
	})
	return p
}

func (p *crasher) await(t *testing.T, line string) time.Time {
	t.Helper()
	for got := range p.lines {
		if got == line {
			return time.Now()
		}
	}
	t.Fatalf("the process ended before it said %q", line)
	return time.Time{}
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

// crasherMain raises events as fast as it can and delivers them, until it is
// killed; without a round it only delivers, until nothing is pending.
func crasherMain(args string) error {
	var url, db, round string
	if n, err := fmt.Sscan(args, &url, &db, &round); n < 2 {
		return err
	}
	q, err := sqlitequeue.Open(db, nil)
	if err != nil {
		return err
	}
	fmt.Println("open")
	defer q.Close()
	config, err := callhook.ParseConfig(fmt.Appendf(nil, `{"agent_id": "a", "post_call": [
		{"name": "one", "url": %[1]q, "retry": {"initial": "50ms"}, "payload": {"fields": ["call.id"]}}]}`, url))
	if err != nil {
		return err
	}
	hooks, err := callhook.New(callhook.Options{Configs: callhook.Static(config), Queue: q, AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	if err != nil {
		return err
	}
	defer hooks.Close()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- hooks.Run(ctx) }()
	if round == "" {
		for pending := int64(1); pending > 0; time.Sleep(10 * time.Millisecond) {
			counts, err := q.Counts(ctx)
			if err != nil {
				return err
			}
			if pending = counts.Pending; counts.Accepted != counts.Delivered+counts.Dead+counts.Pending+counts.Erased {
				return fmt.Errorf("the accounts do not balance: %+v", counts)
			}
		}
		stop()
		return <-ended
	}
	var out sync.Mutex
	for producer := range 4 {
		go func() {
			for i := 0; ; i++ {
				call := &callhook.Call{ID: fmt.Sprintf("%s_%d_%d", round, producer, i), AgentID: "a", EndedAt: time.Now()}
				if err := hooks.PostCall(ctx, call); err != nil {
					fmt.Fprintln(os.Stderr, err)
					return
				}
				out.Lock()
				fmt.Println("accepted", call.ID)
				out.Unlock()
			}
		}()
	}
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
