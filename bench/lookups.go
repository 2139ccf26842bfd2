package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/failsafe-go/failsafe-go/hedgepolicy"
	failsafetimeout "github.com/failsafe-go/failsafe-go/timeout"
	"github.com/hashicorp/go-retryablehttp"
)

// asker makes one lookup: a GET whose answer is JSON with variables. An error is
// what a caller would have to live with.
type asker func(ctx context.Context, i int) error

// askers are what a runtime could make its lookups with. Each is given the time that
// a lookup may take, and when to hedge (zero for never).
var askers = []struct {
	name string
	open func(url string, budget, hedge time.Duration) (asker, func(), error)
}{
	{"callhook PreCall", askCallhook},
	{"http.Client{Timeout}", func(url string, budget, _ time.Duration) (asker, func(), error) {
		client := &http.Client{Timeout: budget, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
		return askPlain(url, client.Do), client.CloseIdleConnections, nil
	}},
	// Its attempts have the deadline, as its documentation has it; the retries come on
	// top of it.
	{"retryablehttp, 1 retry", func(url string, budget, _ time.Duration) (asker, func(), error) {
		client := retryablehttp.NewClient()
		client.Logger, client.RetryMax, client.RetryWaitMin, client.RetryWaitMax = nil, 1, 10*time.Millisecond, 50*time.Millisecond
		client.HTTPClient.Timeout = budget
		do := func(req *http.Request) (*http.Response, error) {
			r, err := retryablehttp.FromRequest(req)
			if err != nil {
				return nil, err
			}
			return client.Do(r)
		}
		return askPlain(url, do), client.HTTPClient.CloseIdleConnections, nil
	}},
	{"failsafehttp, timeout and hedge", func(url string, budget, hedge time.Duration) (asker, func(), error) {
		inner := &http.Transport{MaxIdleConnsPerHost: 100}
		if hedge == 0 {
			client := &http.Client{Transport: failsafehttp.NewRoundTripper(inner, failsafetimeout.New[*http.Response](budget))}
			return askPlain(url, client.Do), inner.CloseIdleConnections, nil
		}
		client := &http.Client{Transport: failsafehttp.NewRoundTripper(inner, failsafetimeout.New[*http.Response](budget), hedgepolicy.NewWithDelay[*http.Response](hedge))}
		return askPlain(url, client.Do), inner.CloseIdleConnections, nil
	}},
}

// askCallhook has as many agents as lookups are made in a row, where budget is all
// that bounds them: an endpoint that times out again and again is not waited for any
// more.
func askCallhook(url string, budget, hedge time.Duration) (asker, func(), error) {
	return askAgents(url, budget, hedge, 2000)
}

func askAgents(url string, budget, hedge time.Duration, agents int) (asker, func(), error) {
	var configs []*callhook.Config
	for i := range agents {
		configs = append(configs, &callhook.Config{AgentID: agent(i), PreCall: &callhook.PreCallWebhook{
			Endpoint: callhook.Endpoint{URL: url, Method: "GET", Timeout: callhook.Duration(budget)},
			Query:    map[string]string{"phone": "{{call.from}}"}, HedgeAfter: callhook.Duration(hedge), HedgeShare: 0.2,
		}})
	}
	hooks, err := callhook.New(callhook.Options{Configs: callhook.Static(configs...), AllowNets: loopback})
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context, i int) error {
		call := &callhook.Call{ID: callID(i), AgentID: agent(i % agents), Direction: callhook.Inbound, From: fmt.Sprintf("+4420%08d", i)}
		if res := hooks.PreCall(ctx, call); res.Outcome != callhook.OutcomeApplied {
			return fmt.Errorf("%s: %w", res.Outcome, res.Err)
		}
		return nil
	}, func() { hooks.Close() }, nil
}

func askPlain(url string, do func(*http.Request) (*http.Response, error)) asker {
	return func(ctx context.Context, i int) error {
		req, err := http.NewRequestWithContext(ctx, "GET", url+"?phone="+fmt.Sprintf("%%2B4420%08d", i), nil)
		if err != nil {
			return err
		}
		resp, err := do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var v struct{ Variables map[string]any }
		if err := json.NewDecoder(io.LimitReader(resp.Body, 256<<10)).Decode(&v); err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		return nil
	}
}

const adaReply = `{"variables":{"customer_name":"Ada","company":"Analytical Engines"}}`

// stalls are the ways in which an endpoint keeps a caller waiting: each returns the
// URL of one that does, and what ends it.
var stalls = []struct {
	name string
	open func() (url string, end func(), err error)
}{
	{"DNS", silentDNS},
	{"connect", fullBacklog},
	{"TLS", stalled("https", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })},
	{"headers", stalled("http", func(c net.Conn) { drip(c, "HTTP/1.1 200 OK\r\n", "X") })},
	{"body", stalled("http", dripBody)},
	{"endless 1xx", stalled("http", func(c net.Conn) { drip(c, "", "HTTP/1.1 103 Early Hints\r\n\r\n") })},
}

// stalled serves each connection with f.
func stalled(scheme string, f func(net.Conn)) func() (string, func(), error) {
	return func() (string, func(), error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", nil, err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() { defer c.Close(); f(c) }()
			}
		}()
		return scheme + "://" + l.Addr().String() + "/", func() { l.Close() }, nil
	}
}

// silentDNS has every client's resolver ask a server that never answers.
func silentDNS() (string, func(), error) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	system := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	return "http://crm.example.com/", func() { net.DefaultResolver = system; conn.Close() }, nil
}

// lookupTable measures what a caller hears of an endpoint, whoever asks it.
func (b *bench) lookupTable(ctx context.Context) (string, error) {
	const budget = 200 * time.Millisecond
	titles := []string{"lookup by", "median", "allocations", "5 % of replies 1 s late: p50 / p99", "hedged after 20 ms: p50 / p99"}
	for _, s := range stalls {
		titles = append(titles, "worst over 200 ms: "+s.name)
	}
	titles = append(titles, "no answer, 1,000 callers at once: waited in all", "no answer, 1,000 callers, 20 at a time: waited in all")
	var w strings.Builder
	writeRow(&w, titles)
	writeRow(&w, strings.Split("---"+strings.Repeat(",---:", len(titles)-1), ","))
	for _, a := range askers {
		cells := []string{a.name}
		for _, measure := range []func() (string, error){
			func() (string, error) { return b.lookupCost(ctx, a.open) },
			func() (string, error) { return b.lookupTail(ctx, a.open, 0) },
			func() (string, error) { return b.lookupTail(ctx, a.open, 20*time.Millisecond) },
		} {
			text, err := measure()
			if err != nil {
				return "", fmt.Errorf("%s: %w", a.name, err)
			}
			cells = append(cells, strings.Split(text, "|")...)
		}
		for _, s := range stalls {
			worst, err := b.lookupStall(ctx, a.open, s.open, budget)
			if err != nil {
				return "", fmt.Errorf("%s, %s: %w", a.name, s.name, err)
			}
			cells = append(cells, worst)
		}
		for _, atOnce := range []int{1000, 20} {
			waited, err := b.lookupHang(ctx, a.name, a.open, budget, atOnce)
			if err != nil {
				return "", fmt.Errorf("%s: %w", a.name, err)
			}
			cells = append(cells, waited)
		}
		writeRow(&w, cells)
	}
	return w.String(), nil
}

type openAsker = func(url string, budget, hedge time.Duration) (asker, func(), error)

func (b *bench) lookupCost(ctx context.Context, open openAsker) (string, error) {
	crm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, adaReply) }))
	defer crm.Close()
	ask, end, err := open(crm.URL, 2*time.Second, 0)
	if err != nil {
		return "", err
	}
	defer end()
	var took []time.Duration
	for i := range 500 + 20*b.samples {
		start := time.Now()
		if err := ask(ctx, i); err != nil {
			return "", err
		}
		took = append(took, time.Since(start))
	}
	i := 0
	allocations := testing.AllocsPerRun(200, func() { i++; _ = ask(ctx, i) })
	return fmt.Sprintf("%s|%.0f", short(median(took)), allocations), nil
}

func (b *bench) lookupTail(ctx context.Context, open openAsker, hedge time.Duration) (string, error) {
	var requests atomic.Int64
	crm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1)%20 == 0 {
			select {
			case <-time.After(time.Second):
			case <-r.Context().Done():
			}
		}
		_, _ = io.WriteString(w, adaReply)
	}))
	defer crm.Close()
	ask, end, err := open(crm.URL, 2*time.Second, hedge)
	if err != nil {
		return "", err
	}
	defer end()
	n := 200 + 2*b.samples
	took := make([]time.Duration, n)
	failed := together(n, 20, func(i int) error {
		start := time.Now()
		err := ask(ctx, i)
		took[i] = time.Since(start)
		return err
	})
	if failed != nil {
		return "", failed
	}
	sorted := ascending(took)
	return short(percentile(sorted, 50)) + " / " + short(percentile(sorted, 99)), nil
}

// lookupStall returns how much longer than its budget a lookup took at worst.
func (b *bench) lookupStall(ctx context.Context, open openAsker, stall func() (string, func(), error), budget time.Duration) (string, error) {
	url, healed, err := stall()
	if err != nil {
		return "", err
	}
	defer healed()
	ask, end, err := open(url, budget, 0)
	if err != nil {
		return "", err
	}
	defer end()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second) // what has no end of its own
	defer cancel()
	n := max(b.samples, 10)
	took := make([]time.Duration, n)
	failed := together(n, 10, func(i int) error {
		start := time.Now()
		if ask(ctx, i) == nil {
			return errors.New("an endpoint that stalls gave an answer")
		}
		took[i] = time.Since(start)
		return nil
	})
	if failed != nil {
		return "", failed
	}
	worst := percentile(ascending(took), 100)
	if worst >= 4900*time.Millisecond {
		return "no end", nil
	}
	return short(worst - budget), nil
}

// lookupHang has 1,000 callers at one agent whose endpoint never answers, so many at
// once.
func (b *bench) lookupHang(ctx context.Context, name string, open openAsker, budget time.Duration, atOnce int) (string, error) {
	hang := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer hang.Close()
	if name == askers[0].name {
		open = func(url string, budget, hedge time.Duration) (asker, func(), error) {
			return askAgents(url, budget, hedge, 1)
		}
	}
	ask, end, err := open(hang.URL, budget, 0)
	if err != nil {
		return "", err
	}
	defer end()
	callers := 1000
	if b.quick {
		callers = 100
	}
	var waited atomic.Int64
	_ = together(callers, atOnce, func(i int) error {
		start := time.Now()
		_ = ask(ctx, i)
		waited.Add(int64(time.Since(start)))
		return nil
	})
	return short(time.Duration(waited.Load())), nil
}

// together calls f for 0 to n-1, so many at once, and returns an error of one.
func together(n, atOnce int, f func(i int) error) error {
	var next atomic.Int64
	var mu sync.Mutex
	var failed error
	var all sync.WaitGroup
	for range atOnce {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(i); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	return failed
}
