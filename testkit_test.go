package callhook_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
)

// secret signs in tests: the one of the Standard Webhooks specification.
const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// network is a set of endpoints in memory, by host. Its Dial makes real HTTP run
// over net.Pipe, so that a synctest bubble can hold it.
type network struct {
	mu    sync.Mutex
	hosts map[string]http.Handler
	conns []net.Conn
	wg    sync.WaitGroup
}

// newNetwork returns a network that ends with the test.
func newNetwork(t *testing.T) *network {
	n := &network{hosts: map[string]http.Handler{}}
	t.Cleanup(n.close)
	return n
}

func (n *network) close() {
	n.mu.Lock()
	for _, c := range n.conns {
		c.Close()
	}
	n.mu.Unlock()
	n.wg.Wait()
}

// handle serves host, like "crm.test".
func (n *network) handle(host string, h http.HandlerFunc) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[host+":80"] = h
}

func (n *network) Dial(_ context.Context, _, addr string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[addr]
	if h == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	client, server := net.Pipe()
	n.conns = append(n.conns, client, server)
	n.wg.Go(func() {
		_ = (&http.Server{Handler: h}).Serve(&oneConn{conn: server, done: make(chan struct{})})
	})
	return client, nil
}

// oneConn is a listener with one connection to accept.
type oneConn struct {
	conn net.Conn
	once sync.Once
	done chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	var c net.Conn
	l.once.Do(func() { c = &closeConn{l.conn, sync.OnceFunc(func() { close(l.done) })} })
	if c != nil {
		return c, nil
	}
	<-l.done
	return nil, net.ErrClosed
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

type closeConn struct {
	net.Conn
	closed func()
}

func (c *closeConn) Close() error { defer c.closed(); return c.Conn.Close() }

// received is a request as an endpoint got it.
type received struct {
	At     time.Time
	Method string
	URL    string
	Header http.Header
	Body   []byte
}

// endpoint records requests and answers each with the next of its answers, the
// last one again and again.
type endpoint struct {
	mu      sync.Mutex
	answers []http.HandlerFunc
	got     []received
}

func newEndpoint(answers ...http.HandlerFunc) *endpoint { return &endpoint{answers: answers} }

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	e.mu.Lock()
	e.got = append(e.got, received{time.Now(), r.Method, r.URL.String(), r.Header.Clone(), body})
	answer := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
	if n := len(e.answers); n > 0 {
		answer = e.answers[0]
		if n > 1 {
			e.answers = e.answers[1:]
		}
	}
	e.mu.Unlock()
	answer(w, r)
}

func (e *endpoint) requests() []received {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]received(nil), e.got...)
}

// status answers with a status and header fields "Name: value".
func status(code int, header ...string) http.HandlerFunc { return reply(code, "", header...) }

// reply answers with a body too.
func reply(code int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for _, h := range header {
			name, value, _ := strings.Cut(h, ": ")
			w.Header().Set(name, value)
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

// run starts hooks in a bubble and ends it, with everything it started, when f
// has returned.
func run(t *testing.T, o callhook.Options, f func(h *callhook.Hooks)) {
	t.Helper()
	h, err := callhook.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	f(h)
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run returned %v, want nil", err)
	}
	if err := h.Close(); err != nil {
		t.Errorf("Close returned %v, want nil", err)
	}
}

// bubble runs f in a synctest bubble with a network.
func bubble(t *testing.T, f func(t *testing.T, n *network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newNetwork(t)) })
}

// parse returns a config from its JSON.
func parse(t testing.TB, text string) *callhook.Config {
	t.Helper()
	c, err := callhook.ParseConfig([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// loadCall returns a call of testdata/calls.
func loadCall(t testing.TB, name string) *callhook.Call {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "calls", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	c := new(callhook.Call)
	if err := json.Unmarshal(data, c); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return c
}

// balance fails the test unless the counts balance and are these.
func balance(t *testing.T, h *callhook.Hooks, delivered, dead, pending int64) {
	t.Helper()
	q := h.Stats().Queue
	if q.Accepted != q.Delivered+q.Dead+q.Pending+q.Erased {
		t.Errorf("accepted %d is not delivered %d + dead %d + pending %d + erased %d", q.Accepted, q.Delivered, q.Dead, q.Pending, q.Erased)
	}
	if q.Delivered != delivered || q.Dead != dead || q.Pending != pending {
		t.Errorf("delivered %d, dead %d, pending %d; want %d, %d, %d", q.Delivered, q.Dead, q.Pending, delivered, dead, pending)
	}
}
