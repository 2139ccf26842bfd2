package egress_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook/internal/egress"
	"github.com/google/go-cmp/cmp"
)

// The tests with a bubble run a real Transport over net.Pipe, on a clock that jumps: what took how long is exact, a pipe
// buffers nothing, so that what the endpoint could write is what the client read, and a bubble does not end while one of its
// goroutines is left.

const patience = 2 * time.Second // of every request in a bubble

// endpoint is the other side of a pipe.
type endpoint struct {
	net.Conn
	sent *atomic.Int64   // bytes of the response that the client has read
	over <-chan struct{} // closed at the end of the test
}

func (e endpoint) Write(p []byte) (int, error) {
	n, err := e.Conn.Write(p)
	e.sent.Add(int64(n))
	return n, err
}

// repeat writes s until the client is gone.
func (e endpoint) repeat(s string, every time.Duration) {
	for {
		if _, err := io.WriteString(e, s); err != nil {
			return
		}
		if every > 0 {
			select {
			case <-time.After(every):
			case <-e.over:
				return
			}
		}
	}
}

// say writes s, in which \n stands for CRLF.
func (e endpoint) say(s string) { io.WriteString(e, strings.ReplaceAll(s, "\n", "\r\n")) }

func (e endpoint) stall() { io.Copy(io.Discard, e) }

// say answers with s and leaves the connection open.
func say(s string) func(endpoint) { return func(e endpoint) { e.say(s); e.stall() } }

// pipes is a dialler whose connections lead to serve, which gets control when a whole request (or, where raw, anything) is
// awaited.
func pipes(t *testing.T, raw bool, sent *atomic.Int64, serve func(endpoint)) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			if !raw {
				req, err := http.ReadRequest(bufio.NewReader(server))
				if err != nil {
					return
				}
				io.Copy(io.Discard, req.Body)
			}
			serve(endpoint{server, sent, t.Context().Done()})
		}()
		return client, nil
	}
}

func TestHostileEndpoints(t *testing.T) {
	type result struct {
		Status    int
		Body      string // "a…5" for five times the letter
		Truncated bool
		Err       string
		Timeout   bool // errors.Is(err, context.DeadlineExceeded)
		After     time.Duration
	}
	timedOut := result{Err: "timed out", Timeout: true, After: patience}
	tooLarge := result{Err: "response headers too large"}
	malformed := result{Err: "malformed HTTP response"}
	cut := result{Status: 200, Body: "a…1000", Truncated: true}
	const ok = "HTTP/1.1 200 OK\n"
	tests := map[string]struct {
		https    bool
		endpoint func(endpoint)
		want     result
	}{
		"never answers":           {endpoint: endpoint.stall, want: timedOut},
		"never shakes hands":      {https: true, endpoint: endpoint.stall, want: timedOut},
		"never reads":             {https: true, endpoint: func(e endpoint) { <-e.over }, want: timedOut},
		"drips TLS":               {https: true, endpoint: func(e endpoint) { go e.stall(); e.repeat("\x16", 900*time.Millisecond) }, want: timedOut},
		"drips its headers":       {endpoint: func(e endpoint) { e.say(ok); e.repeat("X", 300*time.Millisecond) }, want: timedOut},
		"drips whole headers":     {endpoint: func(e endpoint) { e.say(ok); e.repeat("X: y\r\n", 300*time.Millisecond) }, want: timedOut},
		"drips 1xx":               {endpoint: func(e endpoint) { e.repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 300*time.Millisecond) }, want: timedOut},
		"drips its body":          {endpoint: func(e endpoint) { e.say(ok + "\n"); e.repeat("a", 900*time.Millisecond) }, want: result{200, "a…3", false, "timed out", true, patience}},
		"stalls in its body":      {endpoint: say(ok + "Content-Length: 9\n\naaaa"), want: result{200, "a…4", false, "timed out", true, patience}},
		"stalls in a gzip header": {endpoint: say(ok + "Content-Encoding: gzip\nContent-Length: 99\n\n\x1f\x8b"), want: result{200, "", false, "timed out", true, patience}},

		"endless body":           {endpoint: func(e endpoint) { e.say(ok + "\n"); e.repeat("aaaaaaaa", 0) }, want: cut},
		"endless chunks":         {endpoint: func(e endpoint) { e.say(ok + "Transfer-Encoding: chunked\n\n"); e.repeat("1\r\na\r\n", 0) }, want: cut},
		"endless chunk size":     {endpoint: func(e endpoint) { e.say(ok + "Transfer-Encoding: chunked\n\n"); e.repeat("0", 0) }, want: result{Status: 200, Err: "malformed HTTP response"}},
		"endless chunk padding":  {endpoint: func(e endpoint) { e.say(ok + "Transfer-Encoding: chunked\n\n"); e.repeat("1;"+pad+"\r\na\r\n", 0) }, want: result{200, "a…16", false, "malformed HTTP response", false, 0}},
		"endless trailer":        {endpoint: func(e endpoint) { e.say(ok + "Transfer-Encoding: chunked\n\n0\n"); e.repeat("X: y\r\n", 0) }, want: result{Status: 200, Err: "malformed HTTP response"}},
		"endless headers":        {endpoint: func(e endpoint) { e.say(ok); e.repeat("X: y\r\n", 0) }, want: tooLarge},
		"endless header line":    {endpoint: func(e endpoint) { e.say(ok + "X: "); e.repeat(pad, 0) }, want: tooLarge},
		"ten megabytes of it":    {endpoint: func(e endpoint) { e.say(ok + "X: " + strings.Repeat("y", 10<<20) + "\n\n") }, want: tooLarge},
		"endless 1xx":            {endpoint: func(e endpoint) { e.repeat("HTTP/1.1 100 Continue\r\n\r\n", 0) }, want: tooLarge},
		"endless status line":    {endpoint: func(e endpoint) { e.say("HTTP/1.1 200 "); e.repeat(pad, 0) }, want: tooLarge},
		"gzip bomb":              {endpoint: func(e endpoint) { e.say(ok + "Content-Encoding: gzip\n\n"); e.Write(bomb); e.stall() }, want: cut},
		"broken gzip":            {endpoint: say(ok + "Content-Encoding: gzip\nContent-Length: 12\n\nnot gzip, no"), want: result{Status: 200, Err: "malformed gzip in the response"}},
		"switches protocols":     {endpoint: say("HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: x\n\n"), want: result{Err: "unexpected protocol switch"}},
		"101 without an upgrade": {endpoint: say("HTTP/1.1 101 Switching Protocols\n\n"), want: result{Err: "unexpected protocol switch"}},
		"not HTTP":               {endpoint: say("220 mail.example.com ESMTP\n"), want: malformed},
		"lengths that differ":    {endpoint: say(ok + "Content-Length: 1\nContent-Length: 2\n\naa"), want: result{Err: "malformed HTTP response"}},
		"negative length":        {endpoint: say(ok + "Content-Length: -1\n\naa"), want: malformed},
		"hangs up at once":       {endpoint: func(endpoint) {}, want: result{Err: "connection closed without a response"}},
		"no TLS": {https: true, endpoint: func(e endpoint) { e.Read(make([]byte, 4096)); e.say(ok); e.stall() },
			want: result{Err: "TLS: the endpoint answered in plain HTTP"}},
		"hangs up in TLS": {https: true, endpoint: func(e endpoint) { e.Read(make([]byte, 4096)) }, want: result{Err: "connection closed during the TLS handshake"}},
		"hangs up in its headers": {endpoint: func(e endpoint) { e.say(ok + "X: ") },
			want: result{Err: "connection closed in the middle of the response"}},
		"hangs up in its body": {endpoint: func(e endpoint) { e.say(ok + "Content-Length: 5\n\naaa") },
			want: result{200, "a…3", false, "connection closed in the middle of the response", false, 0}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var sent atomic.Int64
				c := egress.New(egress.Options{Dial: pipes(t, test.https, &sent, test.endpoint)})
				defer c.CloseIdle()
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				scheme := map[bool]string{false: "http", true: "https"}[test.https]
				req, _ := http.NewRequestWithContext(ctx, "POST", scheme+"://crm.example.com/lookup", strings.NewReader("{}"))
				var got result
				start := time.Now()
				resp, err := c.Do(req)
				if err == nil {
					got.Status = resp.StatusCode
					var body []byte
					body, got.Truncated, err = egress.ReadBody(resp, 1000)
					if len(body) > 0 {
						got.Body = fmt.Sprintf("%c…%d", body[0], len(body))
					}
					resp.Body.Close()
				}
				got.After = time.Since(start)
				got.Err, got.Timeout = egress.Describe(err), errors.Is(err, context.DeadlineExceeded)
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("%v (-want +got):\n%s", err, diff)
				}
				if n := sent.Load(); n > 80<<10 {
					t.Errorf("the client read %d bytes", n)
				}
			})
		})
	}
}

var (
	pad  = strings.Repeat("y", 1000)
	bomb = func() []byte {
		var b bytes.Buffer
		zw := gzip.NewWriter(&b)
		zw.Write(bytes.Repeat([]byte("a"), 1<<20))
		zw.Close()
		return b.Bytes()
	}()
)

func TestHostileHTTP2(t *testing.T) {
	flood := func(w http.ResponseWriter, r *http.Request) {
		switch w.Header().Set("X", pad); r.URL.Path {
		case "/headers":
			for i := range 100 {
				w.Header().Set(fmt.Sprint("X-", i), pad)
			}
		case "/1xx":
			for r.Context().Err() == nil {
				w.WriteHeader(http.StatusEarlyHints)
			}
		case "/body":
			for r.Context().Err() == nil {
				w.Write([]byte(pad))
			}
		case "/stall":
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	}
	s := newServer(t, flood, http2TLS)
	c := newClient(t, egress.Options{AllowNets: loopback, RootCAs: s.roots()})
	want := map[string]string{
		"/headers": "HTTP/2 error", // far too large: the connection goes, too,
		"/1xx":     "response headers too large",
		"/body":    "1000 true ",
		"/stall":   "0 false timed out",
	}
	got := map[string]string{}
	for path := range want {
		timeout := time.Minute
		if path == "/stall" {
			timeout = 50 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", s.URL+path, nil)
		resp, err := c.Do(req)
		if err != nil {
			got[path] = egress.Describe(err)
			continue
		}
		body, truncated, err := egress.ReadBody(resp, 1000)
		got[path] = fmt.Sprintf("%d %v %s", len(body), truncated, egress.Describe(err))
		egress.Drain(resp)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDrainGivesUpOnAStalledBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent atomic.Int64
		c := egress.New(egress.Options{Dial: pipes(t, false, &sent, say("HTTP/1.1 200 OK\nContent-Length: 9\n\naaaa"))})
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://crm.example.com", nil)
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		egress.Drain(resp)
		if diff := cmp.Diff(200*time.Millisecond, time.Since(start)); diff != "" {
			t.Errorf("Drain took (-want +got):\n%s", diff)
		}
	})
}

// dials is a dialler that never connects, and reports how long each of its dials went on.
func dials(ended chan<- time.Duration) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		start := time.Now()
		<-ctx.Done()
		ended <- time.Since(start)
		return nil, ctx.Err()
	}
}

func TestDialEndsWithItsExchange(t *testing.T) {
	tests := map[string]struct {
		timeout, hangUp time.Duration // zero: none
		want            time.Duration
		err             error
	}{
		"deadline":    {timeout: patience, want: patience, err: context.DeadlineExceeded},
		"cancelled":   {timeout: patience, hangUp: time.Second, want: time.Second, err: context.Canceled},
		"no deadline": {want: 15 * time.Second, err: context.DeadlineExceeded},
		"a long one":  {timeout: time.Hour, want: 15 * time.Second, err: context.DeadlineExceeded},
	}
	for name, test := range tests {
		for _, scheme := range []string{"http", "https"} {
			t.Run(name+", "+scheme, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ended := make(chan time.Duration, 1)
					c := egress.New(egress.Options{Dial: dials(ended)})
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if test.timeout > 0 {
						ctx, cancel = context.WithTimeout(ctx, test.timeout)
						defer cancel()
					}
					if test.hangUp > 0 {
						time.AfterFunc(test.hangUp, cancel)
					}
					start := time.Now()
					req, _ := http.NewRequestWithContext(ctx, "GET", scheme+"://crm.example.com", nil)
					if _, err := c.Do(req); !errors.Is(err, test.err) {
						t.Errorf("err = %v, want %v", err, test.err)
					}
					if diff := cmp.Diff([2]time.Duration{test.want, test.want}, [2]time.Duration{time.Since(start), <-ended}); diff != "" {
						t.Errorf("Do and the dial took (-want +got):\n%s", diff)
					}
				})
			})
		}
	}
}

// A request whose own dial hangs may be served by a connection that became free. The dial may then still be of use to others, but
// not for ever.
func TestDialOutlivesAnExchangeThatSucceeded(t *testing.T) {
	for name, end := range map[string]struct {
		by   func(*egress.Client)
		want time.Duration
	}{
		"until its deadline": {func(*egress.Client) {}, patience},
		"until CloseIdle":    {func(c *egress.Client) { c.CloseIdle() }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := make(chan time.Duration, 1)
				free, waiting := make(chan struct{}), make(chan struct{})
				hang := dials(ended)
				pipe := func() (net.Conn, error) {
					client, server := net.Pipe()
					go func() {
						defer server.Close()
						r := bufio.NewReader(server)
						for range 2 {
							if _, err := http.ReadRequest(r); err != nil {
								return
							}
							<-free
							io.WriteString(server, "HTTP/1.1 204 No Content\r\n\r\n")
						}
						server.Read(make([]byte, 1))
					}()
					return client, nil
				}
				first := true
				c := egress.New(egress.Options{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
					if first {
						first = false
						return pipe()
					}
					close(waiting)
					return hang(ctx, network, addr)
				}})
				defer c.CloseIdle()
				exchange := func() {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					req, _ := http.NewRequestWithContext(ctx, "GET", "http://crm.example.com", nil)
					resp, err := c.Do(req)
					if err != nil {
						t.Error(err)
						return
					}
					egress.Drain(resp)
				}
				done := make(chan struct{})
				go func() { exchange(); done <- struct{}{} }()
				synctest.Wait()
				go func() { exchange(); done <- struct{}{} }()
				<-waiting
				close(free)
				<-done
				<-done
				synctest.Wait()
				select {
				case <-ended:
					t.Fatal("the dial ended with its exchange")
				default:
				}
				end.by(c)
				if diff := cmp.Diff(end.want, <-ended); diff != "" {
					t.Errorf("the dial took (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// Only the window between taking a connection from the pool and writing to it shows this error.
func TestPooledConnectionThatWasClosed(t *testing.T) {
	for method, want := range map[string]string{"POST": "connection closed", "GET": ""} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var server net.Conn
				var dialled int
				c := egress.New(egress.Options{Dial: func(context.Context, string, string) (client net.Conn, err error) {
					dialled++
					client, server = net.Pipe()
					go func(conn net.Conn) {
						r := bufio.NewReader(conn)
						for {
							req, err := http.ReadRequest(r)
							if err != nil {
								return
							}
							io.Copy(io.Discard, req.Body)
							io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
						}
					}(server)
					return client, nil
				}})
				defer c.CloseIdle()
				exchange := func(ctx context.Context) error {
					req, _ := http.NewRequestWithContext(ctx, method, "http://crm.example.com", strings.NewReader("{}"))
					resp, err := c.Do(req)
					if err == nil {
						egress.Drain(resp)
					}
					return err
				}
				if err := exchange(t.Context()); err != nil {
					t.Fatal(err)
				}
				closed := false
				err := exchange(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
					if !closed {
						closed = true
						server.Close()
						synctest.Wait() // until Transport has seen it
					}
				}}))
				if diff := cmp.Diff(want, egress.Describe(err)); diff != "" {
					t.Errorf("%v (-want +got):\n%s", err, diff)
				}
				if diff := cmp.Diff(want != "", egress.IsConnectError(err)); diff != "" {
					t.Errorf("IsConnectError(%v) (-want +got):\n%s", err, diff)
				}
				if diff := cmp.Diff(map[string]int{"POST": 1, "GET": 2}[method], dialled); diff != "" {
					t.Errorf("dials (-want +got):\n%s", diff)
				}
				server.Close()
			})
		})
	}
}

func TestNoGoroutineIsLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("failures", func(t *testing.T) {
		silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel connects, nobody answers
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		s := newServer(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, http2TLS)
		slow := dns(t, nil)
		for _, o := range []egress.Options{{}, {AllowNets: loopback, RootCAs: s.roots(), Resolver: slow}} {
			c := newClient(t, o)
			for _, url := range []string{
				"http://" + silent.Addr().String(), "https://" + silent.Addr().String(), "http://" + refusing(t), s.URL, "http://slow.test",
			} {
				if o.Resolver == nil && strings.Contains(url, "slow") {
					continue // would ask a real name server
				}
				for range 5 {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
					req, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
					if _, err := c.Do(req); err == nil {
						t.Errorf("%s: no error", url)
					}
					cancel()
				}
			}
		}
	})
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
}
