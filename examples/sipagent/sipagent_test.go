package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const ada = "+442079460123"

func TestAnswered(t *testing.T) {
	customer := newCustomer(t)
	agent := startAgent(t, customer, nil)
	caller := sipp(t, agent, "answered", 1, "-d", "1100", "-key", "from", "+442079460555")
	agent.end(t)

	if diff := cmp.Diff([]string{"Hi Ada!"}, caller.greetings); diff != "" {
		t.Errorf("greetings (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{ada}, customer.lookups); diff != "" {
		t.Errorf("looked up, not the identity that the network asserts (-want +got):\n%s", diff)
	}
	customer.told(t, history{
		statuses: []string{"ringing", "in_progress", "completed"},
		data: data{
			From: ada, FromVerified: "A", Status: "completed", EndedBy: "caller",
			EndReason: `Q.850;cause=16;text="Normal call clearing"`, Transcript: "Agent: Hi Ada!", Variables: variables{"Ada"},
		},
	})
	for _, h := range customer.calls {
		if d := h.data; d.Duration < 1 || d.Talk < 1 || d.Talk > d.Duration {
			t.Errorf("duration %v s, of which talk %v s, of a call in which the caller listened for 1.1 s", d.Duration, d.Talk)
		}
	}
}

func TestCanceled(t *testing.T) {
	customer := newCustomer(t)
	customer.slow = make(chan struct{}) // so that it rings until the caller has given up
	defer close(customer.slow)
	agent := startAgent(t, customer, func(o *options, config *string) { *config = strings.ReplaceAll(*config, "500ms", "10s") })
	sipp(t, agent, "canceled", 1, "-key", "from", ada)
	agent.end(t)

	customer.told(t, history{
		statuses: []string{"ringing", "canceled"},
		data:     data{From: ada, Status: "canceled", EndedBy: "caller", EndReason: `SIP;cause=487;text="Caller gave up"`},
	})
}

func TestBusy(t *testing.T) {
	customer := newCustomer(t)
	agent := startAgent(t, customer, func(o *options, _ *string) { o.lines = 1 })
	var talking sync.WaitGroup
	talking.Go(func() { sipp(t, agent, "hung_up_on", 1, "-key", "from", ada) })
	customer.await(t, "in_progress")
	sipp(t, agent, "busy", 1, "-key", "from", "+442079460777")
	agent.end(t)
	talking.Wait()

	customer.told(t,
		history{
			statuses: []string{"busy"},
			data:     data{From: "+442079460777", Status: "busy", EndedBy: "system", EndReason: "all lines are busy"},
		},
		history{
			statuses: []string{"ringing", "in_progress", "completed"},
			data: data{
				From: ada, Status: "completed", EndedBy: "system", EndReason: "the agent is ending",
				Transcript: "Agent: Hi Ada!", Variables: variables{"Ada"},
			},
		})
}

func TestWithheld(t *testing.T) {
	customer := newCustomer(t)
	agent := startAgent(t, customer, nil)
	caller := sipp(t, agent, "withheld", 1, "-d", "200")
	agent.end(t)

	if diff := cmp.Diff([]string{"Hi there!"}, caller.greetings); diff != "" {
		t.Errorf("greetings (-want +got):\n%s", diff)
	}
	if len(customer.lookups) != 0 {
		t.Errorf("looked up %q, and the config skips callers who withhold their number", customer.lookups)
	}
	customer.told(t, history{
		statuses: []string{"ringing", "in_progress", "completed"},
		data:     data{Status: "completed", EndedBy: "caller", EndReason: "hung up", Transcript: "Agent: Hi there!"},
	})
	for _, body := range customer.bodies {
		if strings.Contains(body, ada[1:]) {
			t.Errorf("a webhook tells the number that the caller withheld: %s", body)
		}
	}
}

// TestTransferAccepted: a caller listens to the whole greeting, and dials 0.
func TestTransferAccepted(t *testing.T) {
	customer := newCustomer(t)
	agent := startAgent(t, customer, func(o *options, _ *string) { o.transferTo = "sip:desk@192.0.2.7" })
	phone := newPhone(t, '0', len("Hi Ada!")*8) // packets of 20 ms, a byte taking 160 ms
	sipp(t, agent, "transfer_accepted", 1, "-key", "from", ada, "-key", "rtp_port", phone.port())
	agent.end(t)

	if got := phone.heard(t); got != "Hi Ada!" {
		t.Errorf("the audio says %q, want %q", got, "Hi Ada!")
	}
	customer.told(t, history{
		statuses: []string{"ringing", "in_progress", "transfer_started", "transfer_connected", "completed"},
		data: data{
			From: ada, Status: "completed", EndedBy: "agent", EndReason: "transferred",
			Transfers:  []transferred{{To: "sip:desk@192.0.2.7", Status: "transfer_connected"}},
			Transcript: "Agent: Hi Ada!", Variables: variables{"Ada"},
		},
	})
}

func TestTransferRefused(t *testing.T) {
	customer := newCustomer(t)
	agent := startAgent(t, customer, func(o *options, _ *string) { o.transferTo = "sip:desk@192.0.2.7" })
	sipp(t, agent, "transfer_refused", 1, "-key", "from", ada)
	agent.end(t)

	customer.told(t, history{
		statuses: []string{
			"ringing", "in_progress", "transfer_started", "transfer_failed: 603 Decline",
			"transfer_started", "transfer_failed: 486 Busy Here", "completed",
		},
		data: data{
			From: ada, Status: "completed", EndedBy: "caller", EndReason: `Q.850;cause=16;text="Normal call clearing"`,
			Transfers: []transferred{
				{To: "sip:desk@192.0.2.7", Status: "transfer_failed", Reason: "603 Decline"},
				{To: "sip:desk@192.0.2.7", Status: "transfer_failed", Reason: "486 Busy Here"},
			},
			Transcript: "Agent: Hi Ada!", Variables: variables{"Ada"},
		},
	})
}

// TestSlowCRM: fifty callers at once do not wait for a CRM that does not answer.
func TestSlowCRM(t *testing.T) {
	const callers, budget = 50, 500 * time.Millisecond // as agent.json has it
	customer := newCustomer(t)
	customer.slow = make(chan struct{})
	defer close(customer.slow)
	agent := startAgent(t, customer, nil)
	res := sipp(t, agent, "many", callers, "-d", "1000")
	agent.end(t)

	if diff := cmp.Diff(slices.Repeat([]string{"Hi there!"}, callers), res.greetings); diff != "" {
		t.Errorf("greetings (-want +got):\n%s", diff)
	}
	if len(res.waits) != callers {
		t.Fatalf("%d answers were timed, want %d", len(res.waits), callers)
	}
	slices.Sort(res.waits)
	t.Logf("of a budget of %v callers waited %v to %v, the median %v; %d lookups were sent",
		budget, res.waits[0], res.waits[callers-1], res.waits[callers/2], len(customer.lookups))
	if longest := res.waits[callers-1]; longest < budget/2 || longest > budget+5*time.Second {
		t.Errorf("a caller waited %v, want about the lookup's budget, %v", longest, budget)
	}
	want := slices.Repeat([]history{{
		statuses: []string{"ringing", "in_progress", "completed"},
		data:     data{Status: "completed", EndedBy: "caller", EndReason: "hung up", Transcript: "Agent: Hi there!"},
	}}, callers)
	for i := range want {
		want[i].From = "+4479" + strconv.Itoa(i+1)
	}
	customer.told(t, want...)
}

// TestEndsWhileRinging: whoever rings when the agent ends is turned away at once, and
// that is told too.
func TestEndsWhileRinging(t *testing.T) {
	customer := newCustomer(t)
	customer.slow = make(chan struct{})
	defer close(customer.slow)
	agent := startAgent(t, customer, func(_ *options, config *string) { *config = strings.ReplaceAll(*config, "500ms", "10s") })
	var ringing sync.WaitGroup
	ringing.Go(func() { sipp(t, agent, "turned_away", 1, "-key", "from", ada) })
	customer.await(t, "ringing")
	agent.end(t)
	ringing.Wait()

	customer.told(t, history{
		statuses: []string{"ringing", "rejected"},
		data:     data{From: ada, Status: "rejected", EndedBy: "system", EndReason: "the agent is ending"},
	})
}

func TestRefusesToRun(t *testing.T) {
	for _, test := range []struct{ name, listen, config, want string }{
		{"no address", "0.0.0.0:0", "agent.json", "cannot listen on"},
		{"no config", "127.0.0.1:0", "nobody.json", "nobody.json"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := run(t.Context(), options{listen: test.listen, config: test.config, log: slog.New(slog.DiscardHandler)})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("run: %v, want an error about %q", err, test.want)
			}
		})
	}
}

// running is an agent that takes calls.
type running struct {
	addr  string
	stop  context.CancelFunc
	ended chan error
}

// startAgent starts the agent with the config that the example ships, and the
// customer's addresses in it.
func startAgent(t *testing.T, c *customer, change func(o *options, config *string)) *running {
	t.Helper()
	if _, err := exec.LookPath("sipp"); err != nil {
		t.Skip("SIPp, which makes the calls, is not on this machine: apt-get install sip-tester")
	}
	shipped, err := os.ReadFile("agent.json")
	if err != nil {
		t.Fatal(err)
	}
	config := strings.NewReplacer("https://crm.example.com", c.URL, "https://ops.example.com", c.URL).Replace(string(shipped))
	listening := make(chan string, 1)
	o := options{
		listen: "127.0.0.1:0", config: filepath.Join(t.TempDir(), "agent.json"),
		allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, greeting: `Hi {{customer_name | default: "there"}}!`,
		lines: 100, longest: time.Minute, log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		listening: func(addr string) { listening <- addr },
	}
	if change != nil {
		change(&o, &config)
	}
	if err := os.WriteFile(o.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &running{ended: make(chan error, 1)}
	var ctx context.Context
	ctx, a.stop = context.WithCancel(context.Background())
	t.Cleanup(a.stop)
	go func() { a.ended <- run(ctx, o) }()
	select {
	case a.addr = <-listening:
	case err := <-a.ended:
		t.Fatalf("run: %v", err)
	}
	return a
}

// end ends the agent, which hangs up and delivers what is stored, and leaves nothing
// running.
func (a *running) end(t *testing.T) {
	t.Helper()
	a.stop()
	select {
	case err := <-a.ended:
		if err != nil {
			t.Errorf("run: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("run has not returned:\n%s", goroutines())
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := goroutines()
		if left == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("goroutines of the agent are left:\n%s", left)
		}
	}
}

// goroutines returns the stacks of those that the agent, sipgo or callhook have.
func goroutines() string {
	var all, own strings.Builder
	_ = pprof.Lookup("goroutine").WriteTo(&all, 2)
	for stack := range strings.SplitSeq(all.String(), "\n\n") {
		if strings.Contains(stack, "_test.go") || strings.Contains(stack, "testing.") {
			continue
		}
		if strings.Contains(stack, "sipgo") || strings.Contains(stack, "callhook") {
			own.WriteString(stack + "\n\n")
		}
	}
	return own.String()
}

// caller is what SIPp saw.
type caller struct {
	greetings []string        // of the calls that were answered
	waits     []time.Duration // from the INVITE to its 200
}

// sipp plays a scenario so many times at once, each to its end, with SIPp.
func sipp(t *testing.T, a *running, scenario string, calls int, args ...string) caller {
	t.Helper()
	folder, err := filepath.Abs("testdata")
	if err != nil {
		t.Error(err)
	}
	n := strconv.Itoa(calls)
	cmd := exec.CommandContext(t.Context(), "sipp", append([]string{
		a.addr, "-i", "127.0.0.1", "-sf", filepath.Join(folder, scenario+".xml"), "-m", n, "-l", n, "-r", n, "-rp", "50", "-nostdin",
		"-timeout", "30s", "-timeout_error", "-recv_timeout", "15000",
		"-trace_err", "-error_file", "errors", "-trace_logs", "-log_file", "log", "-trace_rtt", "-rtt_freq", "1",
	}, append(args, "-key", "rtp_port", "9")...)...) // the first counts; 9 is discard
	cmd.Dir = t.TempDir()
	if out, err := cmd.CombinedOutput(); err != nil {
		unexpected, _ := os.ReadFile(filepath.Join(cmd.Dir, "errors"))
		t.Errorf("%s: %v\n%s\n%s", scenario, err, unexpected, out)
	}
	var c caller
	log, _ := os.ReadFile(filepath.Join(cmd.Dir, "log")) // none where nothing was logged
	for line := range strings.Lines(string(log)) {
		if greeting, ok := strings.CutPrefix(line, "greeting="); ok {
			c.greetings = append(c.greetings, strings.TrimSpace(greeting))
		}
	}
	files, _ := filepath.Glob(filepath.Join(cmd.Dir, "*_rtt.csv"))
	for _, file := range files {
		times, err := os.ReadFile(file) // Date_ms;response_time_ms;rtd_name
		if err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(string(times)) {
			if f := strings.Split(line, ";"); len(f) == 3 {
				if ms, err := strconv.ParseFloat(f[1], 64); err == nil {
					c.waits = append(c.waits, time.Duration(ms*float64(time.Millisecond)))
				}
			}
		}
	}
	return c
}

// customer is the customer's systems: a CRM that knows Ada, and receivers that
// remember what they are told.
type customer struct {
	*httptest.Server
	slow chan struct{} // if not nil, lookups are answered when it is closed

	mu      sync.Mutex
	lookups []string
	ids     map[string]int // requests by webhook-id
	bodies  []string
	calls   map[string]*history
}

// history is what is told of a call: each status, with its reason, and its data.
type history struct {
	statuses []string
	data
}

type data struct {
	ID           string        `json:"id"`
	From         string        `json:"from"`
	FromVerified string        `json:"from_verified"`
	Status       string        `json:"status"`
	StatusReason string        `json:"status_reason"`
	Sequence     int           `json:"sequence"`
	EndReason    string        `json:"end_reason"`
	EndedBy      string        `json:"ended_by"`
	Duration     float64       `json:"duration_seconds"`
	Talk         float64       `json:"talk_seconds"`
	Transfers    []transferred `json:"transfers"`
	Transcript   string        `json:"transcript_text"`
	Variables    variables     `json:"variables"`
}

type variables struct {
	CustomerName string `json:"customer_name"`
}

type transferred struct {
	To     string `json:"to"`
	Status string `json:"status"`
	Reason string `json:"reason"`
}

func newCustomer(t *testing.T) *customer {
	c := &customer{ids: map[string]int{}, calls: map[string]*history{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /lookup", c.lookup)
	mux.HandleFunc("POST /status", c.event)
	mux.HandleFunc("POST /calls", c.event)
	c.Server = httptest.NewServer(mux)
	t.Cleanup(c.Close)
	return c
}

func (c *customer) lookup(w http.ResponseWriter, r *http.Request) {
	phone := r.URL.Query().Get("phone")
	c.mu.Lock()
	c.lookups = append(c.lookups, phone)
	c.mu.Unlock()
	if c.slow != nil {
		select {
		case <-c.slow:
		case <-r.Context().Done():
		}
	}
	if phone != ada {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"contact":{"first_name":"Ada"}}`)
}

func (c *customer) event(_ http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var event struct {
		ID   string `json:"id"`
		Type string `json:"type"`
		Data struct {
			Call data `json:"call"`
		} `json:"data"`
	}
	if err == nil {
		err = json.Unmarshal(body, &event)
	}
	if err != nil {
		panic(err) // the agent gets no answer, and the event is missed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ids[r.Header.Get("webhook-id")]++
	c.bodies = append(c.bodies, string(body))
	call := event.Data.Call
	h := c.calls[call.ID]
	if h == nil {
		h = &history{}
		c.calls[call.ID] = h
	}
	if event.Type == "call.ended" {
		h.data = call
		return
	}
	status := call.Status
	if strings.HasSuffix(status, "_failed") {
		status += ": " + call.StatusReason
	}
	if call.Sequence != len(h.statuses)+1 {
		status += " out of order, as number " + strconv.Itoa(call.Sequence)
	}
	h.statuses = append(h.statuses, status)
}

// await waits until some call has the status.
func (c *customer) await(t *testing.T, status string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		c.mu.Lock()
		for _, h := range c.calls {
			if slices.Contains(h.statuses, status) {
				c.mu.Unlock()
				return
			}
		}
		c.mu.Unlock()
	}
	t.Fatalf("no call has become %s", status)
}

// told checks that exactly these calls were told, each event once and in order.
// What differs each time is not compared.
func (c *customer) told(t *testing.T, want ...history) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var got []history
	events := 0
	for _, h := range c.calls {
		g := *h
		g.ID, g.Duration, g.Talk = "", 0, 0
		got = append(got, g)
	}
	byNumber := func(a, b history) int { return strings.Compare(a.From, b.From) }
	slices.SortFunc(got, byNumber)
	want = slices.SortedFunc(slices.Values(want), byNumber)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(history{})); diff != "" {
		t.Errorf("the customer was told (-want +got):\n%s", diff)
	}
	for _, h := range want {
		events += len(h.statuses) + 1
	}
	for id, n := range c.ids {
		if n != 1 {
			t.Errorf("webhook-id %s came %d times", id, n)
		}
	}
	if len(c.ids) != events || len(c.bodies) != events {
		t.Errorf("%d requests with %d webhook-ids, want %d", len(c.bodies), len(c.ids), events)
	}
}
