//go:build unix

package callhook_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
)

// The benchmarks compare with a peer in one run: "ratio" is ours by the peer's,
// medians of rounds that alternate. DESIGN has the budgets.

// compare runs ours and peer in turn, batch times each a round.
func compare(b *testing.B, batch int, ours, peer func()) {
	var a, p []time.Duration
	time1 := func(f func()) time.Duration {
		start := time.Now()
		for range batch {
			f()
		}
		return time.Since(start) / time.Duration(batch)
	}
	for b.Loop() {
		a = append(a, time1(ours))
		p = append(p, time1(peer))
	}
	slices.Sort(a)
	slices.Sort(p)
	b.ReportMetric(float64(a[len(a)/2].Nanoseconds()), "ours-ns")
	b.ReportMetric(float64(p[len(p)/2].Nanoseconds()), "peer-ns")
	b.ReportMetric(float64(a[len(a)/2])/float64(p[len(p)/2]), "ratio")
	b.ReportMetric(testing.AllocsPerRun(200, ours), "ours-allocs")
	b.ReportMetric(testing.AllocsPerRun(200, peer), "peer-allocs")
	b.ReportMetric(0, "ns/op") // of both together: says nothing
}

var twelve = []string{"call.id", "call.from", "call.to", "call.direction", "call.status", "call.started_at", "call.ended_at",
	"call.duration_seconds", "call.summary", "call.variables.customer_name", "call.collected", "call.recording.url"}

// BenchmarkPayload: 12 fields of a call of 19 KB beside encoding/json of the whole
// call. Budget: ratio at most 1.5.
func BenchmarkPayload(b *testing.B) {
	call := loadCall(b, "answered_inbound")
	type plain callhook.Call // without our MarshalJSON
	for _, bench := range []struct {
		name   string
		fields []string
	}{
		{"12fields", twelve},
		{"default", nil},
	} {
		b.Run(bench.name, func(b *testing.B) {
			config := &callhook.Config{AgentID: "a", PostCall: []callhook.PostCallWebhook{{Endpoint: callhook.Endpoint{URL: "https://x.example.com/"}}}}
			for _, f := range bench.fields {
				p := &config.PostCall[0].Payload
				p.Fields = append(p.Fields, callhook.PayloadField{Path: f})
			}
			build := callhook.Builder(config)
			compare(b, 20, func() {
				if _, err := build(call); err != nil {
					b.Fatal(err)
				}
			}, func() {
				if _, err := json.Marshal((*plain)(call)); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

// BenchmarkSign: 2 KB, one secret, beside crypto/hmac alone. Budget: ratio at
// most 1.2, 4 allocations.
func BenchmarkSign(b *testing.B) {
	body := bytes.Repeat([]byte("x"), 2<<10)
	sign := callhook.Signer(secret)
	raw, _ := base64.StdEncoding.DecodeString(secret[len("whsec_"):])
	now := time.Now()
	header := make(http.Header, 4)
	compare(b, 200, func() { sign(header, "msg_1", now, body) }, func() {
		m := hmac.New(sha256.New, raw)
		m.Write([]byte("msg_1." + strconv.FormatInt(now.Unix(), 10) + "."))
		m.Write(body)
		_ = m.Sum(nil)
	})
}

// BenchmarkPreCall: a lookup beside a plain http.Client that makes the same
// request and decodes the reply. Budget: at most 20 µs and 70 allocations more.
func BenchmarkPreCall(b *testing.B) {
	crm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"variables":{"customer_name":"Ada","company":"Analytical Engines","next_appointment":"2026-03-03T10:00:00Z"}}`)
	}))
	defer crm.Close()
	config := &callhook.Config{AgentID: "a", PreCall: &callhook.PreCallWebhook{Endpoint: callhook.Endpoint{URL: crm.URL}}}
	hooks, err := callhook.New(callhook.Options{Configs: callhook.Static(config), AllowNets: loopback})
	if err != nil {
		b.Fatal(err)
	}
	defer hooks.Close()
	call := &callhook.Call{ID: "c1", AgentID: "a", Direction: callhook.Inbound, From: "+442079460123", StartedAt: time.Now()}
	preview, err := config.Preview("pre_call", call)
	if err != nil {
		b.Fatal(err)
	}
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{}}
	compare(b, 10, func() {
		if res := hooks.PreCall(context.Background(), call); res.Outcome != callhook.OutcomeApplied {
			b.Fatal(res.Outcome, res.Err)
		}
	}, func() {
		req, _ := http.NewRequest("POST", crm.URL, bytes.NewReader(preview.Body))
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		var v struct{ Variables map[string]any }
		if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	})
}

// BenchmarkMemoryQueue: from PostCall to the answer, bodies built, beside a pool of
// goroutines that sign and post bodies that are there already. "ratio" is our rate
// by theirs. Budget: at least 0.8.
func BenchmarkMemoryQueue(b *testing.B) {
	b.Run("12fields", func(b *testing.B) { benchmarkMemoryQueue(b, twelve) })
	b.Run("1field", func(b *testing.B) { benchmarkMemoryQueue(b, twelve[:1]) })
}

func benchmarkMemoryQueue(b *testing.B, fields []string) {
	const workers, events = 16, 2000
	var got atomic.Int64
	round := make(chan struct{}, 1) // each time that all events of a round arrived
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if got.Add(1)%events == 0 {
			round <- struct{}{}
		}
	}))
	defer server.Close()
	call := loadCall(b, "answered_inbound")
	config := &callhook.Config{TenantID: call.TenantID, AgentID: call.AgentID, PostCall: []callhook.PostCallWebhook{{
		Endpoint:        callhook.Endpoint{URL: server.URL, Secrets: []string{secret}},
		DeliveryOptions: callhook.DeliveryOptions{Concurrency: workers},
	}}}
	for _, f := range fields {
		p := &config.PostCall[0].Payload
		p.Fields = append(p.Fields, callhook.PayloadField{Path: f})
	}
	preview, err := config.Preview("post_call", call)
	if err != nil {
		b.Fatal(err)
	}
	hooks, err := callhook.New(callhook.Options{Configs: callhook.Static(config), AllowNets: loopback})
	if err != nil {
		b.Fatal(err)
	}
	defer hooks.Close()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- hooks.Run(ctx) }()
	n := 0
	ours := func() {
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				c := *call
				for i := range events / workers {
					c.ID = fmt.Sprintf("call_%d_%d_%d", n, w, i)
					if err := hooks.PostCall(ctx, &c); err != nil {
						b.Error(err)
					}
				}
			})
		}
		wg.Wait()
		n++
		<-round
	}
	client := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	sign := callhook.Signer(secret)
	peer := func() {
		jobs := make(chan int, events)
		for i := range events {
			jobs <- i
		}
		close(jobs)
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for i := range jobs {
					req, _ := http.NewRequest("POST", server.URL, bytes.NewReader(preview.Body))
					req.Header.Set("Content-Type", "application/json")
					sign(req.Header, "msg_"+strconv.Itoa(i), time.Now(), preview.Body)
					resp, err := client.Do(req)
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		}
		wg.Wait()
		<-round
	}
	ours()
	peer()
	var a, p []time.Duration
	for b.Loop() {
		start := time.Now()
		ours()
		a = append(a, time.Since(start))
		start = time.Now()
		peer()
		p = append(p, time.Since(start))
	}
	stop()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	slices.Sort(a)
	slices.Sort(p)
	b.ReportMetric(events/a[len(a)/2].Seconds(), "ours/s")
	b.ReportMetric(events/p[len(p)/2].Seconds(), "peer/s")
	b.ReportMetric(float64(p[len(p)/2])/float64(a[len(a)/2]), "ratio")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkOvershoot: how much longer than its budget of 300 ms a lookup takes
// when an endpoint stalls. Budget: p99 at most 5 ms.
func BenchmarkOvershoot(b *testing.B) {
	const budget = 300 * time.Millisecond
	for _, stall := range []struct {
		name string
		url  func(b *testing.B) string
	}{
		{"dns", silentDNS}, {"connect", fullBacklog}, {"tls", silentTLS},
		{"header", drip("HTTP/1.1 200 OK\r\n", "X")}, {"body", drip("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", " ")},
	} {
		b.Run(stall.name, func(b *testing.B) {
			const agents = 1000 // in turn: an endpoint that times out again and again is not asked for a while
			var configs []*callhook.Config
			url := stall.url(b)
			for i := range agents {
				configs = append(configs, &callhook.Config{AgentID: fmt.Sprint(i), PreCall: &callhook.PreCallWebhook{
					Endpoint: callhook.Endpoint{URL: url, Timeout: callhook.Duration(budget)}}})
			}
			hooks, err := callhook.New(callhook.Options{Configs: callhook.Static(configs...), AllowNets: loopback})
			if err != nil {
				b.Fatal(err)
			}
			defer hooks.Close()
			var over []time.Duration
			for i := 0; b.Loop(); i++ {
				call := &callhook.Call{ID: "c1", AgentID: fmt.Sprint(i % agents), Direction: callhook.Inbound}
				start := time.Now()
				res := hooks.PreCall(context.Background(), call)
				over = append(over, time.Since(start)-budget)
				// Failed: the resolver shared an earlier lookup of the name, and gave up on it.
				if res.Outcome != callhook.OutcomeTimeout && (stall.name != "dns" || res.Outcome != callhook.OutcomeFailed) {
					b.Fatal(res.Outcome, res.Err)
				}
			}
			slices.Sort(over)
			b.ReportMetric(float64(over[len(over)/2].Microseconds())/1000, "p50-ms-over")
			b.ReportMetric(float64(over[len(over)*99/100].Microseconds())/1000, "p99-ms-over")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// silentDNS makes the resolver ask a server that never answers.
func silentDNS(b *testing.B) string {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	system := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	b.Cleanup(func() { net.DefaultResolver = system; conn.Close() })
	return "http://crm.example.com/"
}

// fullBacklog is a port whose listener accepts nothing and has no room left, so
// that connecting to it hangs.
func fullBacklog(b *testing.B) string {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		b.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		b.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		b.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for range 16 {
		c, err := net.DialTimeout("tcp", addr, 100*time.Millisecond)
		if err != nil {
			return "http://" + addr + "/"
		}
		b.Cleanup(func() { c.Close() })
	}
	b.Fatal("the backlog does not fill up")
	return ""
}

// accept serves each connection with f until the benchmark ends.
func accept(b *testing.B, f func(net.Conn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); f(c) }()
		}
	}()
	return l.Addr().String()
}

func silentTLS(b *testing.B) string {
	return "https://" + accept(b, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }) + "/"
}

func drip(head, drop string) func(b *testing.B) string {
	return func(b *testing.B) string {
		return "http://" + accept(b, func(c net.Conn) {
			// An answer before its question would be dropped, and the connection with it.
			_, err := http.ReadRequest(bufio.NewReader(c))
			if err == nil {
				_, err = io.WriteString(c, head)
			}
			for err == nil {
				time.Sleep(10 * time.Millisecond)
				_, err = io.WriteString(c, drop)
			}
		}) + "/"
	}
}
