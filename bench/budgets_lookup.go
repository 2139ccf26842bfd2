package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
)

var (
	errNotBuilt = errors.New("not built yet")
	errNoRow    = errors.New("a row that it needs was not measured")
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// lookupBudgets are those of PreCall.
func (b *bench) lookupBudgets(ctx context.Context, add addBudget) {
	add("PreCall beside http.Client with the same request", "≤ +20 µs, ≤ +70 allocations", func() (string, bool, error) {
		return b.preCall(ctx)
	})
	add("PreCall, breaker open", "p50 ≤ 50 µs", func() (string, bool, error) { return b.breaker(ctx) })
	for _, stall := range []struct {
		name string
		url  func(net.Listener) string
		f    func(net.Conn)
	}{
		{"an endpoint that drips its body", func(l net.Listener) string { return "http://" + l.Addr().String() + "/" }, dripBody},
		{"a stalled TLS handshake", func(l net.Listener) string { return "https://" + l.Addr().String() + "/" },
			func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }},
	} {
		add("PreCall over its deadline, "+stall.name, "p99 ≤ 5 ms", func() (string, bool, error) {
			return b.overshoot(ctx, stall.url, stall.f)
		})
	}
	add("hedge, 5 % slow replies", "p99 ≤ 1.5 × (delay + fast reply)", func() (string, bool, error) { return b.hedge(ctx) })
}

// preCall takes turns with a plain client, as BenchmarkPreCall of the module does.
func (b *bench) preCall(ctx context.Context) (string, bool, error) {
	crm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"variables":{"customer_name":"Ada","company":"Analytical Engines","next_appointment":"2026-03-03T10:00:00Z"}}`)
	}))
	defer crm.Close()
	config := &callhook.Config{AgentID: "a", PreCall: &callhook.PreCallWebhook{Endpoint: callhook.Endpoint{URL: crm.URL}}}
	hooks, err := callhook.New(callhook.Options{Configs: callhook.Static(config), AllowNets: loopback})
	if err != nil {
		return "", false, err
	}
	defer hooks.Close()
	call := &callhook.Call{ID: "c1", AgentID: "a", Direction: callhook.Inbound, From: "+442079460123", StartedAt: time.Now()}
	preview, err := config.Preview("pre_call", call)
	if err != nil {
		return "", false, err
	}
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	var fault error
	ours := func() {
		if res := hooks.PreCall(ctx, call); res.Outcome != callhook.OutcomeApplied {
			fault = fmt.Errorf("PreCall: %s: %w", res.Outcome, res.Err)
		}
	}
	plain := func() {
		req, err := http.NewRequestWithContext(ctx, "POST", crm.URL, bytes.NewReader(preview.Body))
		if err != nil {
			fault = err
			return
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			fault = err
			return
		}
		var v struct{ Variables map[string]any }
		if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
			fault = err
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	a, p := b.turns(20, ours, plain)
	allocs := testing.AllocsPerRun(200, ours) - testing.AllocsPerRun(200, plain)
	if fault != nil {
		return "", false, fault
	}
	over := a - p
	return fmt.Sprintf("%+.1f µs, %+.0f allocations (%s and %s)", float64(over)/1e3, allocs, short(a), short(p)),
		over <= 20*time.Microsecond && allocs <= 70, nil
}

// turns runs both in turn, batch times each, and returns the median time of one.
func (b *bench) turns(batch int, ours, peer func()) (time.Duration, time.Duration) {
	var a, p []time.Duration
	measure := func(f func()) time.Duration {
		start := time.Now()
		for range batch {
			f()
		}
		return average(time.Since(start), batch)
	}
	for range b.samples {
		a = append(a, measure(ours))
		p = append(p, measure(peer))
	}
	return median(a), median(p)
}

// breaker makes lookups at an endpoint that fails until it is asked no more.
func (b *bench) breaker(ctx context.Context) (string, bool, error) {
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	defer broken.Close()
	hooks, err := callhook.New(callhook.Options{AllowNets: loopback, Configs: callhook.Static(&callhook.Config{AgentID: "a",
		PreCall: &callhook.PreCallWebhook{Endpoint: callhook.Endpoint{URL: broken.URL}}})})
	if err != nil {
		return "", false, err
	}
	defer hooks.Close()
	var took []time.Duration
	for i := range 200 + 10*b.samples {
		// Numbers differ, since lookups of one caller may share a reply.
		call := &callhook.Call{ID: callID(i), AgentID: "a", Direction: callhook.Inbound, From: fmt.Sprintf("+4420%08d", i)}
		start := time.Now()
		if res := hooks.PreCall(ctx, call); res.Outcome == callhook.OutcomeOpen {
			took = append(took, time.Since(start))
		}
	}
	if len(took) == 0 {
		return "", false, errNotBuilt
	}
	sorted := ascending(took)
	p50 := percentile(sorted, 50)
	return fmt.Sprintf("%s (p99 %s)", short(p50), short(percentile(sorted, 99))), p50 <= 50*time.Microsecond, nil
}

// hedge makes lookups at an endpoint that is slow for every twentieth request.
func (b *bench) hedge(ctx context.Context) (string, bool, error) {
	const delay, slow = 50 * time.Millisecond, time.Second
	var requests atomic.Int64
	crm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1)%20 == 0 {
			select {
			case <-time.After(slow):
			case <-r.Context().Done():
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"variables":{"customer_name":"Ada"}}`)
	}))
	defer crm.Close()
	config, err := callhook.ParseConfig(fmt.Appendf(nil, `{"agent_id": "a", "pre_call": {"url": %q, "method": "GET", "query": {"phone": "{{call.from}}"}, "hedge_after": %q}}`, crm.URL, delay))
	if err != nil {
		return "", false, errNotBuilt // the config does not know it
	}
	hooks, err := callhook.New(callhook.Options{AllowNets: loopback, Configs: callhook.Static(config)})
	if err != nil {
		return "", false, err
	}
	defer hooks.Close()
	var took []time.Duration
	for i := range 200 + b.samples {
		call := &callhook.Call{ID: callID(i), AgentID: "a", Direction: callhook.Inbound, From: fmt.Sprintf("+4420%08d", i)}
		start := time.Now()
		res := hooks.PreCall(ctx, call)
		took = append(took, time.Since(start))
		if res.Outcome != callhook.OutcomeApplied {
			return "", false, fmt.Errorf("PreCall: %s: %w", res.Outcome, res.Err)
		}
	}
	sorted := ascending(took)
	p50, p99 := percentile(sorted, 50), percentile(sorted, 99)
	return fmt.Sprintf("%s (delay %s, fast reply %s)", short(p99), short(delay), short(p50)), 2*p99 <= 3*(delay+p50), nil
}

// overshoot makes lookups with 300 ms at an endpoint that stalls, ten at once.
func (b *bench) overshoot(ctx context.Context, url func(net.Listener) string, stall func(net.Conn)) (string, bool, error) {
	const budget, together = 300 * time.Millisecond, 10
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", false, err
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); stall(c) }()
		}
	}()
	// An agent for each lookup: an endpoint that times out again and again is
	// not waited for any more.
	n := max(b.samples/together, 1) * together
	var configs []*callhook.Config
	for i := range n {
		configs = append(configs, &callhook.Config{AgentID: agent(i),
			PreCall: &callhook.PreCallWebhook{Endpoint: callhook.Endpoint{URL: url(l), Timeout: callhook.Duration(budget)}}})
	}
	hooks, err := callhook.New(callhook.Options{AllowNets: loopback, Configs: callhook.Static(configs...)})
	if err != nil {
		return "", false, err
	}
	defer hooks.Close()
	var mu sync.Mutex
	var over []time.Duration
	for from := 0; from < n; from += together {
		var all sync.WaitGroup
		for i := range together {
			all.Go(func() {
				start := time.Now()
				res := hooks.PreCall(ctx, &callhook.Call{ID: callID(from + i), AgentID: agent(from + i), Direction: callhook.Inbound})
				took := time.Since(start) - budget
				mu.Lock()
				defer mu.Unlock()
				if over = append(over, took); res.Outcome != callhook.OutcomeTimeout {
					err = fmt.Errorf("PreCall: %s: %w", res.Outcome, res.Err)
				}
			})
		}
		all.Wait()
	}
	if err != nil {
		return "", false, err
	}
	p99 := percentile(ascending(over), 99)
	return fmt.Sprintf("%s (of %d)", short(p99), len(over)), p99 <= 5*time.Millisecond, nil
}

// dripBody answers a byte of the body each 10 ms.
func dripBody(c net.Conn) { drip(c, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", " ") }

// drip begins an answer and goes on each 10 ms. The request is read first: an answer
// before its question would be dropped, and the connection with it.
func drip(c net.Conn, head, drop string) {
	_, err := http.ReadRequest(bufio.NewReader(c))
	if err == nil {
		_, err = io.WriteString(c, head)
	}
	for err == nil {
		time.Sleep(10 * time.Millisecond)
		_, err = io.WriteString(c, drop)
	}
}
