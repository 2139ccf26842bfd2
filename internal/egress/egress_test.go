package egress_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callhook-go/callhook/internal/egress"
	"github.com/google/go-cmp/cmp"
)

// TestMain sets a proxy that does not exist: net/http reads the environment once, at the first request that wants it.
func TestMain(m *testing.M) {
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY"} {
		os.Setenv(name, "http://proxy.invalid:3128")
	}
	os.Exit(m.Run())
}

var loopback = prefixes("127.0.0.0/8", "::1/128")

func prefixes(s ...string) (p []netip.Prefix) {
	for _, s := range s {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

// do sends a GET; a test that hangs ends after a minute.
func do(t *testing.T, c *egress.Client, url string) (*http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.Do(req)
}

// fetch sends a GET and gives the status and the body, of which at most 1 KiB is read, as one text.
func fetch(t *testing.T, c *egress.Client, url string) string {
	t.Helper()
	resp, err := do(t, c, url)
	if err != nil {
		return egress.Describe(err)
	}
	defer egress.Drain(resp)
	body, _, err := egress.ReadBody(resp, 1<<10)
	if err != nil {
		return egress.Describe(err)
	}
	return resp.Status + " " + string(body)
}

// server is an httptest.Server that counts the connections it accepts.
type server struct {
	*httptest.Server
	conns atomic.Int32
}

func newServer(t *testing.T, h http.HandlerFunc, start func(*httptest.Server)) *server {
	t.Helper()
	s := &server{Server: httptest.NewUnstartedServer(h)}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.conns.Add(1)
		}
	}
	start(s.Server)
	t.Cleanup(s.Close)
	return s
}

func plain(s *httptest.Server) { s.Start() }

func http1TLS(s *httptest.Server) { s.StartTLS() }

func http2TLS(s *httptest.Server) { s.EnableHTTP2 = true; s.StartTLS() }

func (s *server) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	if s.Certificate() != nil {
		pool.AddCert(s.Certificate())
	}
	return pool
}

// named is the server's URL with its host replaced by a name.
func (s *server) named(name string) string {
	u, err := url.Parse(s.URL)
	if err != nil {
		panic(err)
	}
	u.Host = net.JoinHostPort(name, u.Port())
	return u.String()
}

func newClient(t *testing.T, o egress.Options) *egress.Client {
	t.Helper()
	c := egress.New(o)
	t.Cleanup(c.CloseIdle)
	return c
}

func hello(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }

// dns is a name server for the names given, each with an IPv4 address; "" fails the lookup and other names do not exist. A nil map
// never answers.
func dns(t *testing.T, names map[string]string) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := dnsAnswer(buf[:n], names); names != nil {
				conn.WriteTo(answer, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "udp", conn.LocalAddr().String())
		if err == nil {
			t.Cleanup(func() { c.Close() }) // a lookup that was given up would wait 5 s for its answer
		}
		return c, err
	}}
}

// dnsAnswer answers a query with one question (RFC 1035, section 4).
func dnsAnswer(query []byte, names map[string]string) []byte {
	const header = 12
	var labels []string
	i := header
	for query[i] != 0 {
		n := int(query[i])
		labels = append(labels, string(query[i+1:i+1+n]))
		i += 1 + n
	}
	question := query[header : i+5] // with type and class
	isA := binary.BigEndian.Uint16(query[i+1:]) == 1
	addr, known := names[strings.Join(labels, ".")]
	flags, answers := uint16(0x8180), uint16(0)
	switch {
	case !known:
		flags |= 3 // NXDOMAIN
	case addr == "":
		flags |= 2 // SERVFAIL
	case isA:
		answers = 1
	}
	out := append([]byte(nil), query[:2]...)
	for _, v := range []uint16{flags, 1, answers, 0, 0} {
		out = binary.BigEndian.AppendUint16(out, v)
	}
	out = append(out, question...)
	if answers == 1 {
		out = append(out, 0xc0, header, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
		out = append(out, netip.MustParseAddr(addr).AsSlice()...)
	}
	return out
}

func TestRedirectsAreReturned(t *testing.T) {
	var requests atomic.Int32
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		http.SetCookie(w, &http.Cookie{Name: "session", Value: "1"})
		if got := r.Header.Get("Cookie"); got != "" {
			t.Errorf("a cookie was sent: %s", got)
		}
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}, plain)
	c := newClient(t, egress.Options{AllowNets: loopback})
	for range 2 {
		resp, err := do(t, c, s.URL)
		if err != nil {
			t.Fatal(err)
		}
		egress.Drain(resp)
		if diff := cmp.Diff("307 /elsewhere", resp.Status[:4]+resp.Header.Get("Location")); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}
	}
	if diff := cmp.Diff(int32(2), requests.Load()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestProxyFromTheEnvironmentIsIgnored(t *testing.T) {
	s := newServer(t, hello, plain)
	// By its name, since requests to loopback addresses never take a proxy.
	c := newClient(t, egress.Options{AllowNets: loopback, Resolver: dns(t, map[string]string{"direct.test": "127.0.0.1"})})
	if diff := cmp.Diff("200 OK hello", fetch(t, c, s.named("direct.test"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestResponseNamesTheCallersRequest(t *testing.T) {
	s := newServer(t, hello, plain)
	c := newClient(t, egress.Options{AllowNets: loopback})
	req, _ := http.NewRequestWithContext(t.Context(), "POST", s.URL, strings.NewReader("{}"))
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	egress.Drain(resp)
	if resp.Request != req {
		t.Error("resp.Request is not the request passed to Do")
	}
}

func TestReadBody(t *testing.T) {
	tests := map[string]struct {
		body      string
		declared  int64 // Content-Length
		limit     int64
		want      string
		truncated bool
	}{
		"empty":                       {},
		"nothing wanted":              {body: "x", declared: 1, truncated: true},
		"negative limit":              {body: "x", declared: 1, limit: -5, truncated: true},
		"shorter than the limit":      {body: "hello", declared: 5, limit: 10, want: "hello"},
		"exactly the limit":           {body: "hello", declared: 5, limit: 5, want: "hello"},
		"longer than the limit":       {body: "hello", declared: 5, limit: 4, want: "hell", truncated: true},
		"unknown length":              {body: strings.Repeat("a", 5000), declared: -1, limit: 6000, want: strings.Repeat("a", 5000)},
		"unknown length, too long":    {body: strings.Repeat("a", 5000), declared: -1, limit: 4999, want: strings.Repeat("a", 4999), truncated: true},
		"claims a terabyte":           {body: "hello", declared: 1 << 40, limit: 1 << 30, want: "hello"},
		"no limit":                    {body: "hello", declared: -1, limit: 1<<63 - 1, want: "hello"},
		"no limit, claims everything": {body: "hello", declared: 1<<63 - 1, limit: 1<<63 - 1, want: "hello"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			resp := &http.Response{ContentLength: test.declared, Body: io.NopCloser(strings.NewReader(test.body))}
			body, truncated, err := egress.ReadBody(resp, test.limit)
			if diff := cmp.Diff(test.want, string(body)); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			if truncated != test.truncated || err != nil {
				t.Errorf("truncated = %v, err = %v; want %v, nil", truncated, err, test.truncated)
			}
			if most := max(8<<10, 2*len(test.body)); cap(body) > most {
				t.Errorf("%d bytes were allocated for a body of %d", cap(body), len(test.body))
			}
		})
	}
}

func TestGzipIsBoundedAfterDecompression(t *testing.T) {
	var bomb bytes.Buffer
	zw := gzip.NewWriter(&bomb)
	zw.Write(make([]byte, 1<<20))
	zw.Close()
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if diff := cmp.Diff("gzip", r.Header.Get("Accept-Encoding")); diff != "" {
			t.Errorf("Accept-Encoding (-want +got):\n%s", diff)
		}
		w.Header().Set("Content-Encoding", "gzip")
		if r.URL.Path == "/bomb" {
			w.Write(bomb.Bytes())
			return
		}
		zw := gzip.NewWriter(w)
		io.WriteString(zw, "unpacked")
		zw.Close()
	}, plain)
	c := newClient(t, egress.Options{AllowNets: loopback})
	for range 2 {
		if diff := cmp.Diff("200 OK unpacked", fetch(t, c, s.URL)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	resp, err := do(t, c, s.URL+"/bomb")
	if err != nil {
		t.Fatal(err)
	}
	body, truncated, err := egress.ReadBody(resp, 64<<10)
	egress.Drain(resp)
	if len(body) != 64<<10 || cap(body) > 64<<10+1 || !truncated || err != nil {
		t.Errorf("body of %d in %d bytes, truncated = %v, err = %v", len(body), cap(body), truncated, err)
	}
	if diff := cmp.Diff(int32(1), s.conns.Load()); diff != "" {
		t.Errorf("connections (-want +got):\n%s", diff)
	}
}

func TestConnectionsAreReused(t *testing.T) {
	send := func(n int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, n)) }
	}
	read := func(resp *http.Response) { egress.ReadBody(resp, 4<<10); resp.Body.Close() }
	drain := func(resp *http.Response) { egress.Drain(resp) }
	readAndDrain := func(resp *http.Response) { egress.ReadBody(resp, 4<<10); egress.Drain(resp) }
	tests := map[string]struct {
		start  func(*httptest.Server)
		answer http.HandlerFunc
		finish func(*http.Response)
		want   int32 // connections for three requests
	}{
		"no body":                   {plain, send(0), drain, 1},
		"read to the end":           {plain, send(1000), read, 1},
		"unread":                    {plain, send(1000), drain, 1},
		"unread, chunked":           {plain, send(20_000), drain, 1},
		"truncated":                 {plain, send(20_000), readAndDrain, 1},
		"truncated, not drained":    {plain, send(20_000), read, 3},
		"too much to drain":         {plain, send(10 << 20), readAndDrain, 3},
		"too much, and it says so":  {plain, declared(1 << 30), drain, 3},
		"the rest does not come":    {plain, declared(2000), drain, 3},
		"TLS":                       {http1TLS, send(20_000), readAndDrain, 1},
		"HTTP/2":                    {http2TLS, send(1000), drain, 1},
		"HTTP/2, too much to drain": {http2TLS, send(10 << 20), readAndDrain, 1},
		"HTTP/2, the rest stalls":   {http2TLS, declared(2000), drain, 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, test.answer, test.start)
			c := newClient(t, egress.Options{AllowNets: loopback, RootCAs: s.roots()})
			for range 3 {
				resp, err := do(t, c, s.URL)
				if err != nil {
					t.Fatal(err)
				}
				test.finish(resp)
			}
			if diff := cmp.Diff(test.want, s.conns.Load()); diff != "" {
				t.Errorf("connections (-want +got):\n%s", diff)
			}
		})
	}
}

// declared answers with a Content-Length of n, sends one byte and waits until the client gives up.
func declared(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "2000")
		if n != 2000 {
			w.Header().Set("Content-Length", "1073741824")
		}
		w.Write([]byte("x"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
}

func TestFailuresElsewhereLeaveConnectionsAlone(t *testing.T) {
	for name, start := range map[string]func(*httptest.Server){"HTTP/1.1": plain, "HTTP/2": http2TLS} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					<-r.Context().Done()
				}
				io.WriteString(w, r.Proto)
			}, start)
			c := newClient(t, egress.Options{AllowNets: loopback, RootCAs: s.roots(), Resolver: dns(t, map[string]string{})})
			want := "200 OK " + map[string]string{"HTTP/1.1": "HTTP/1.1", "HTTP/2": "HTTP/2.0"}[name]
			healthy := func() {
				t.Helper()
				if diff := cmp.Diff(want, fetch(t, c, s.URL)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
			healthy()
			for _, url := range []string{"http://" + refusing(t), "http://nobody.test", "http://10.0.0.1"} {
				if _, err := do(t, c, url); err == nil {
					t.Errorf("%s: no error", url)
				}
				healthy()
			}
			if name == "HTTP/2" { // even a request to the same endpoint that runs out of time costs its stream only
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
				defer cancel()
				req, _ := http.NewRequestWithContext(ctx, "GET", s.URL+"/slow", nil)
				if _, err := c.Do(req); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("slow request: %v", err)
				}
				healthy()
			}
			if diff := cmp.Diff(int32(1), s.conns.Load()); diff != "" {
				t.Errorf("connections (-want +got):\n%s", diff)
			}
		})
	}
}

// refusing returns an address at which nobody listens, and nobody can while the test runs: one end of a connection has it.
func refusing(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.LocalAddr().String()
}
