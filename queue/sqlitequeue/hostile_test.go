package sqlitequeue_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// TestHostile holds every verb to its promise at every endpoint that misbehaves: a
// cell each, in memory on a bubble's clock, where what takes how long is exact, and on
// loopback with the deliveries in a file. Beside each cell another agent's calls go to
// an endpoint that is well, and must not notice.
func TestHostile(t *testing.T) {
	faults := callhooktest.Hostile()
	for _, fault := range faults {
		if _, ok := promised[fault]; !ok {
			t.Errorf("it is not written what is promised at an endpoint with: %s", fault)
		}
	}
	if len(promised) > len(faults) {
		t.Errorf("promises for %d misbehaviours, and there are %d", len(promised), len(faults))
	}
	each := func(t *testing.T, faults []callhooktest.Fault, run func(t *testing.T, f callhooktest.Fault, v verb)) {
		for _, fault := range faults {
			for _, v := range verbs {
				t.Run(string(fault)+"/"+v.name, func(t *testing.T) {
					t.Parallel()
					run(t, fault, v)
				})
			}
		}
	}
	peak, spoken := watchHeap(t), listen(t)
	var happened results
	inMemory := func(http2 bool) func(*testing.T, callhooktest.Fault, verb) {
		return func(t *testing.T, f callhooktest.Fault, v verb) {
			synctest.Test(t, func(t *testing.T) {
				c := &cell{fault: f, verb: v, http2: http2, network: callhooktest.Network{}, results: &happened}
				c.world = newWorld(t, callhook.NewMemoryQueue(nil), c.network.Dial)
				c.run(t)
				c.leavesNothing(t)
			})
		}
	}
	t.Run("memory", func(t *testing.T) { each(t, faults, inMemory(false)) })
	t.Run("memory, HTTP2", func(t *testing.T) { // what can be said by any HTTP
		each(t, faults[slices.Index(faults, callhooktest.FaultGzipBomb):], inMemory(true))
	})
	t.Run("SQLite", func(t *testing.T) {
		before := runtime.NumGoroutine()
		t.Cleanup(func() { wantFewer(t, before) }) // after all that follows has ended
		q, err := sqlitequeue.Open(filepath.Join(t.TempDir(), "queue.db"), &sqlitequeue.Options{KeepDelivered: time.Hour, Unsynced: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = q.Close() })
		w := newWorld(t, q, func(ctx context.Context, network, address string) (net.Conn, error) {
			if !strings.HasPrefix(address, "127.0.0.1:") {
				return nil, fmt.Errorf("%s is not loopback", address)
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		})
		each(t, faults, func(t *testing.T, f callhooktest.Fault, v verb) {
			(&cell{fault: f, verb: v, world: w, results: &happened}).run(t)
		})
	})
	happened.log(t)
	live, heap := peak()
	process := ""
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		process = regexp.MustCompile(`VmHWM:.*`).FindString(string(status))
	}
	if live > 256<<20 {
		t.Errorf("%d MiB were in use at once", live>>20)
	}
	for _, line := range spoken() {
		t.Errorf("an endpoint made the process log: %s", line)
	}
	t.Logf("at most %d MiB in use, endpoints included, and %d MiB with what was not collected yet; of the process %s", live>>20, heap>>20, process)
}

// verb is what is done at an endpoint that misbehaves.
type verb struct {
	name    string
	promise func(promise) string
}

var verbs = []verb{
	{"pre-call", func(p promise) string { return p.preCall }},
	{"status", func(p promise) string { return p.delivery }},
	{"post-call", func(p promise) string { return p.delivery }},
	{reads, func(p promise) string { return p.reading }},
}

const reads = "post-call that reads the answer"

// cell is one verb at one misbehaviour.
type cell struct {
	*world
	fault   callhooktest.Fault
	verb    verb
	http2   bool                 // the endpoint offers it
	network callhooktest.Network // where it is in memory, in a bubble; nil on loopback
	address string
	results *results
}

func (c *cell) run(t *testing.T) {
	hostile := callhooktest.NewEndpoint(t, callhooktest.Answer{Fault: c.fault})
	hostile.HTTP2 = c.http2
	well := callhooktest.NewEndpoint(t, callhooktest.Reply(200, `{"variables":{"customer_name":"Grace"}}`))
	elsewhere := callhooktest.NewEndpoint(t)
	promise := promised[c.fault]
	want := c.verb.promise(promise)
	hangs := strings.Contains(want, "@timeout")
	timeout := 5 * time.Second
	var url, wellURL string
	if c.network != nil {
		if c.verb.name == "pre-call" {
			timeout = 2 * time.Second
		}
		url, wellURL, c.address = "https://hostile.example.com", "http://well.example.com", "hostile.example.com:443"
		c.network["hostile.example.com"], c.network["well.example.com"] = hostile, well
		c.network["127.0.0.1"], c.network["169.254.169.254"] = elsewhere, elsewhere
	} else {
		if timeout = 10 * time.Second; hangs {
			timeout = 500 * time.Millisecond
		}
		url, wellURL = strings.Replace(hostile.Listen(), "http:", "https:", 1), well.Listen()
		c.address = strings.TrimPrefix(url, "https://")
	}
	c.forget(c.address) // a port may come again
	agent := string(c.fault) + ", " + c.verb.name
	attempts := c.agent(t, agent, url, c.verb.name, timeout)
	neighbour := "beside " + agent
	neighbours := c.agent(t, neighbour, wellURL, "", 10*time.Second)

	meanwhile := make(chan struct{})
	go func() { defer close(meanwhile); c.neighbour(t, neighbour, "meanwhile", neighbours) }()
	start, got := time.Now(), ""
	if c.verb.name == "pre-call" {
		got = c.preCall(t, agent)
	} else {
		got = c.deliver(t, agent, attempts)
	}
	took := time.Since(start)
	<-meanwhile
	c.neighbour(t, neighbour, "right after", neighbours)

	if c.network == nil {
		if hangs && took < timeout {
			t.Errorf("it gave up after %s, and had %s", took, timeout)
		}
	} else {
		got += during(took, timeout)
	}
	if !keeps(want, got, c.network != nil) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	n := c.wires(c.address)
	if most := int64(max(promise.conns, 1+strings.Count(got[:min(len(got), 10)], "x2"))); n.made.Load() > most {
		t.Errorf("it took %d connections, want at most %d", n.made.Load(), most)
	}
	if most := int64(max(promise.wire, maxWire)); n.read.Load() > most {
		t.Errorf("%d bytes were read, want at most %d", n.read.Load(), most)
	}
	if n := elsewhere.Connections(); n > 0 {
		t.Error("a redirect was followed")
	}
	for _, r := range hostile.Requests() {
		if r.URL.Path == "/redirected" || r.URL.RawQuery != "" {
			t.Errorf("a redirect was followed to %s", r.URL)
		}
		if r.Header["Cookie"] != nil {
			t.Error("a cookie was sent back")
		}
	}
	if !c.http2 {
		c.results.add(c, got)
	}
}

// during says how long something took, on a clock that is exact.
func during(took, timeout time.Duration) string {
	switch {
	case took == 0:
		return ""
	case took == timeout:
		return " @timeout"
	case took == 250*time.Millisecond:
		return " @grace"
	case took < 100*time.Millisecond: // a flood has its pauses
		return " @soon"
	}
	return " @" + took.String()
}

var (
	inTime  = regexp.MustCompile(` @\w+$`)
	heldFor = regexp.MustCompile(`^held [^:]+:`)
)

// keeps reports whether what was got is what was promised.
func keeps(want, got string, exact bool) bool {
	all := strings.Split(want, "; or ")
	if exact {
		return slices.Contains(all, got)
	}
	return slices.ContainsFunc(all, func(want string) bool {
		return got == heldFor.ReplaceAllString(inTime.ReplaceAllString(want, ""), "held:")
	})
}

// preCall makes a lookup and says what came of it.
func (c *cell) preCall(t *testing.T, agent string) string {
	pre := c.hooks.PreCall(t.Context(), callOf(agent, callhook.TypePreCall))
	name := fmt.Sprint(pre.Variables["customer_name"])
	said := pre.Variables.Expand("{{customer_name}}")
	switch {
	case pre.Outcome != callhook.OutcomeApplied && name != "customer":
		t.Errorf("customer_name is %q without a reply, want the default", name)
	case !utf8.ValidString(name), said == "", strings.Contains(said, "{{"), strings.Contains(said, "}}"), strings.Contains(said, "${"):
		t.Errorf("customer_name is %q, and the agent would say %q", name, said)
	case len(pre.Variables) > 201:
		t.Errorf("there are %d variables", len(pre.Variables))
	}
	got := string(pre.Outcome)
	if pre.Attempts != 1 {
		got += fmt.Sprintf(" x%d", pre.Attempts)
	}
	switch {
	case pre.Outcome == callhook.OutcomeApplied:
		return got + " " + name
	case pre.Outcome == callhook.OutcomeTimeout && errors.Is(pre.Err, context.DeadlineExceeded):
		return got
	case pre.Err == nil:
		return got + " without an error"
	}
	return got + ": " + strings.TrimPrefix(pre.Err.Error(), "callhook: ")
}

// deliver raises an event and says what came of the first attempt to deliver it.
func (c *cell) deliver(t *testing.T, agent string, attempts <-chan attempt) string {
	raise, of := c.hooks.PostCall, callhook.TypePostCall
	if c.verb.name == "status" {
		raise, of = c.hooks.CallStatus, callhook.TypeCallStatus
	}
	if err := raise(t.Context(), callOf(agent, of)); err != nil {
		t.Fatal(err)
	}
	a := <-attempts
	if len(a.Reply) > 1<<10 || !utf8.ValidString(a.Reply) {
		t.Errorf("the log keeps %d bytes of the answer: %q", len(a.Reply), a.Reply)
	}
	text := strings.TrimPrefix(a.Error, "callhook: ")
	stored := c.stored(t, a.id, a.State)
	switch counts := [2]int{a.attempts, a.postponed}; {
	case a.State == callhook.StateDelivered && counts == [2]int{1, 0} && stored == callhook.StateDelivered && text == "":
		return "delivered"
	case a.State == callhook.StateWaiting && counts == [2]int{1, 0} && stored == callhook.StateWaiting && a.Verdict.At.After(time.Now()):
		return "tried again: " + text
	case a.State == callhook.StateParked && counts == [2]int{0, 1} && c.network == nil: // it may go again already
		return "held: " + text
	case a.State == callhook.StateParked && counts == [2]int{0, 1} && stored == callhook.StateParked:
		for _, l := range c.hooks.Lanes() {
			if l.Agent == agent && l.Trouble == callhook.ReasonPostponed {
				return fmt.Sprintf("held %s: %s", time.Until(l.Until), text)
			}
		}
	}
	return fmt.Sprintf("%s %s, stored as %s, %d attempts, %d postponed: %s", a.State, a.Reason, stored, a.attempts, a.postponed, text)
}

// stored waits until the queue has a delivery in a state, and returns the one in which
// it has it then.
func (c *cell) stored(t *testing.T, id string, want callhook.State) callhook.State {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if c.network != nil {
			synctest.Wait()
		}
		d, err := c.queue.Get(t.Context(), id)
		switch {
		case errors.Is(err, callhook.ErrNoDelivery): // memory does not keep what was delivered
			return callhook.StateDelivered
		case err != nil:
			t.Fatal(err)
		case d.State == want || time.Now().After(deadline) || c.network == nil && want == callhook.StateParked:
			return d.State
		}
	}
}

// neighbour makes the calls of an agent whose endpoint is well.
func (c *cell) neighbour(t *testing.T, agent, when string, attempts <-chan attempt) {
	start := time.Now()
	if pre := c.hooks.PreCall(t.Context(), callOf(agent, callhook.TypePreCall)); pre.Outcome != callhook.OutcomeApplied {
		t.Errorf("%s a lookup of another agent: %v", when, pre)
	}
	call := callOf(agent, callhook.TypePostCall)
	call.ID = when
	if err := c.hooks.PostCall(t.Context(), call); err != nil {
		t.Errorf("%s an event of another agent: %v", when, err)
		return
	}
	if a := <-attempts; a.State != callhook.StateDelivered {
		t.Errorf("%s an event of another agent was not delivered: %+v", when, a)
	}
	if took := time.Since(start); c.network != nil && took > 0 {
		t.Errorf("%s another agent waited for %s", when, took)
	}
}

// leavesNothing ends Hooks, and wants its connections to end by themselves. That no
// goroutine is left is seen by the end of the bubble.
func (c *cell) leavesNothing(t *testing.T) {
	synctest.Wait() // a stream that was given up is being reset
	c.hooks.End()
	start, n := time.Now(), c.wires(c.address)
	for n.open.Load() > 0 && time.Since(start) < time.Minute {
		time.Sleep(time.Second)
	}
	if open := n.open.Load(); open > 0 || time.Since(start) > 35*time.Second { // a ping, and the wait for its answer, take 30
		t.Errorf("%d connections were open %s after the end", open, time.Since(start))
	}
}
