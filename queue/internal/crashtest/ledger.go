package crashtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
)

// Agents is how many there are, with a lane each.
const Agents = 24

// Options are those of a [callhook.Hooks] whose agents send to a ledger, in order, the
// status of calls. Each request says which process has sent it.
func Options(url, process string, q callhook.Queue) (callhook.Options, error) {
	var configs []*callhook.Config
	for n := range Agents {
		config, err := callhook.ParseConfig(fmt.Appendf(nil, `{"agent_id": "agent%d", "call_status": [{"name": "one", "url": %q, "headers": {"X-Process": %q},
			"ordered": true, "retry": {"initial": "50ms"}, "payload": {"fields": ["call.id", "call.agent_id", "call.sequence"]}}]}`, n, url, process))
		if err != nil {
			return callhook.Options{}, err
		}
		configs = append(configs, config)
	}
	return callhook.Options{Configs: callhook.Static(configs...), Queue: q, AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, nil
}

// Work delivers, and raises events as [Raise] does, until the test asks this process to
// come to an end; then it delivers what is pending, and returns. It says a line when it
// begins.
func Work(o callhook.Options, name string, producers int, rest time.Duration) error {
	hooks, err := callhook.New(o)
	if err != nil {
		return err
	}
	defer hooks.Close()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	raising, enough := context.WithCancel(ctx)
	go func() {
		Told()
		enough()
	}()
	Say("open")
	ended := make(chan error, 1)
	go func() { ended <- hooks.Run(ctx) }()
	if err := Raise(raising, hooks, name, producers, rest, func(event string) { Say(accepted + event) }); err != nil {
		return err
	}
	<-raising.Done()
	for pending := int64(1); pending > 0; time.Sleep(10 * time.Millisecond) {
		counts, err := o.Queue.(callhook.Inspector).Counts(ctx)
		if err != nil {
			return err
		}
		pending = counts.Pending
	}
	stop()
	return <-ended
}

// Raise raises the events of calls, three each, until ctx ends, from so many goroutines
// that rest after each call, and notes each that was accepted.
func Raise(ctx context.Context, hooks *callhook.Hooks, name string, producers int, rest time.Duration, note func(event string)) error {
	errs := make(chan error, producers)
	for producer := range producers {
		go func() { errs <- raise(ctx, hooks, fmt.Sprint(name, "_", producer), producer, producers, rest, note) }()
	}
	var err error
	for range producers {
		err = errors.Join(err, <-errs)
	}
	return err
}

func raise(ctx context.Context, hooks *callhook.Hooks, name string, agent, step int, rest time.Duration, note func(event string)) error {
	for i := 0; ctx.Err() == nil; i++ {
		call := &callhook.Call{ID: fmt.Sprint(name, "_", i), AgentID: fmt.Sprint("agent", (agent+i*step)%Agents)}
		for number, status := range []callhook.Status{callhook.StatusRinging, callhook.StatusInProgress, callhook.StatusCompleted} {
			call.Status, call.Sequence, call.StatusAt = status, int64(number+1), time.Now()
			if err := hooks.CallStatus(context.WithoutCancel(ctx), call); err != nil {
				return err
			}
			note(fmt.Sprint(call.ID, " ", call.Sequence))
		}
		select {
		case <-time.After(rest):
		case <-ctx.Done():
		}
	}
	return nil
}

// accepted begins what a process says of an event.
const accepted = "accepted "

// Kill is when a process was killed: between From and To.
type Kill struct {
	Process  string
	From, To time.Time
}

// exchange is an event that was answered well: who sent it, when it came, and when it was
// answered, which may be after the end of who sent it.
type exchange struct {
	process           string
	number            int
	arrived, answered time.Time
}

// writing is how long it takes at most to write an answer down: milliseconds, on a
// machine that does nothing else.
const writing = time.Second

// inFlight reports whether a process was killed so soon after an answer that it cannot
// be expected to have written it down, and before the repetition. What it had sent itself
// may be read soon after nothing is left of it.
func inFlight(first, again exchange, kills []Kill) bool {
	for _, k := range kills {
		late := k.To
		if first.process == k.Process || again.process == k.Process {
			late = late.Add(writing)
		}
		if !first.arrived.After(late) && k.From.Sub(first.answered) < writing && !again.arrived.Before(k.From) {
			return true
		}
	}
	return false
}

// Ledger notes what was accepted, and receives it: it writes down each event that it
// answers well, and sometimes fails or takes its time.
type Ledger struct {
	URL string

	mu       sync.Mutex
	accepted map[string]bool
	arrived  map[string]bool
	calls    map[string][]exchange
	lanes    map[string]lane // by agent
	requests map[string]int  // by process
}

// lane is who has sent the last event of one, and when.
type lane struct {
	process string
	at      time.Time
}

// NewLedger returns one that receives at its URL until the test ends.
func NewLedger(t testing.TB) *Ledger {
	l := &Ledger{accepted: map[string]bool{}, arrived: map[string]bool{}, calls: map[string][]exchange{}, lanes: map[string]lane{}, requests: map[string]int{}}
	s := httptest.NewServer(http.HandlerFunc(l.receive))
	t.Cleanup(s.Close)
	l.URL = s.URL
	return l
}

func (l *Ledger) receive(w http.ResponseWriter, r *http.Request) {
	at := time.Now()
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
	call, process := event.Data.Call, r.Header.Get("X-Process")
	l.mu.Lock()
	l.requests[process]++
	l.mu.Unlock()
	switch rand.IntN(20) {
	case 0:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case 1:
		time.Sleep(50 * time.Millisecond)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lanes[call.Agent] = lane{process, at}
	l.arrived[fmt.Sprint(call.ID, " ", call.Sequence)] = true
	l.calls[call.ID] = append(l.calls[call.ID], exchange{process, call.Sequence, at, time.Now()})
}

// Accept notes an event that was accepted.
func (l *Ledger) Accept(event string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accepted[event] = true
}

// Accepted and Arrived are how many different events were.
func (l *Ledger) Accepted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.accepted)
}

func (l *Ledger) Arrived() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.arrived)
}

// Requests is how many a process has sent.
func (l *Ledger) Requests(process string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.requests[process]
}

// Lanes returns the agents whose last events a process has sent.
func (l *Ledger) Lanes(process string) (agents []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for agent, lane := range l.lanes {
		if lane.process == process {
			agents = append(agents, agent)
		}
	}
	return agents
}

// GoOn waits until something has come of each of these agents after a time, and not
// from a process, and returns how long after the time that was. No agents means all.
func (l *Ledger) GoOn(t testing.TB, what string, after time.Time, process string, agents ...string) time.Duration {
	t.Helper()
	if len(agents) == 0 {
		for n := range Agents {
			agents = append(agents, fmt.Sprint("agent", n))
		}
	}
	Until(t, what, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, agent := range agents {
			if lane := l.lanes[agent]; !lane.at.After(after) || lane.process == process {
				return false
			}
		}
		return true
	})
	return time.Since(after)
}

// Until waits until something holds, for a minute at most.
func Until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for start := time.Now(); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatalf("it took more than a minute until %s", what)
		}
	}
}

// Check checks that what was accepted has arrived, that the events of a call came in
// order, whatever came again, and from each process, and that what came twice was being
// answered when a process was killed.
func (l *Ledger) Check(t testing.TB, kills []Kill) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	lost, repeated, unexplained := 0, 0, 0
	for event := range l.accepted {
		if !l.arrived[event] {
			if lost++; lost < 10 {
				call, number, _ := strings.Cut(event, " ")
				t.Errorf("event %s of call %s was accepted and never arrived", number, call)
			}
		}
	}
	for call, all := range l.calls {
		slices.SortFunc(all, func(a, b exchange) int { return a.arrived.Compare(b.arrived) })
		highest, last, from := 0, map[int]exchange{}, map[string]int{}
		for _, e := range all {
			before, again := last[e.number]
			if !again && e.number < highest || e.number < from[e.process] {
				t.Errorf("of call %s event %d arrived after %d, from %s after %d: it is ordered", call, e.number, highest, e.process, from[e.process])
			}
			highest, from[e.process] = max(highest, e.number), e.number
			if again {
				if repeated++; !inFlight(before, e, kills) {
					if unexplained++; unexplained < 10 {
						t.Errorf("event %d of %s was answered at %s and came again at %s: no process was killed between soon after the answer",
							e.number, call, before.answered, e.arrived)
					}
				}
			}
			last[e.number] = e
		}
	}
	if len(l.accepted) == 0 {
		t.Error("nothing was accepted: the test shows nothing")
	}
	t.Logf("%d kills: %d accepted, %d lost, %d arrived twice, all but %d of them being answered at a kill", len(kills), len(l.accepted), lost, repeated, unexplained)
}
