package callhooktest

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/tidwall/gjson"
)

// Endpoint is a fake of a customer's endpoint: it answers as it was told, and
// records what it is sent. It has two doors, which may be used together. In memory
// it is reached through a [Network], which also works in a bubble of
// [testing/synctest], where a test of three days of retries takes a millisecond.
// On loopback it is reached at the URL that [Endpoint.Listen] returns.
//
// At both it speaks HTTP and, to whoever begins a TLS handshake, HTTPS with a
// certificate that [RootCAs] vouches for. Its methods are safe for concurrent use.
// Change its fields before the first request.
type Endpoint struct {
	// Keys are signing keys as in a config's "secrets", like [Key]. With them, a
	// request that none of them signed fails the test, see [Endpoint.Received].
	Keys []string
	// HTTP2 lets clients speak HTTP/2 over TLS.
	HTTP2 bool
	// ClientCerts refuses clients who do not show a certificate that
	// [ClientCertificate] made.
	ClientCerts bool

	t      testing.TB
	server *http.Server
	conns  chan net.Conn // on their way to server
	closed chan struct{}
	ended  sync.WaitGroup

	mu       sync.Mutex
	script   []Answer
	next     int // of script
	requests []*Request
	opened   int
	senders  []*Hooks
	open     map[net.Conn]bool
	changed  chan struct{} // closed when something was recorded
	listener net.Listener
}

// Answer is what an [Endpoint] does with one request. The zero value is an empty
// answer with status 200.
type Answer struct {
	// Status is the HTTP status. Zero means 200.
	Status int
	// Header is added to the answer's. Without a Content-Type, a body that begins
	// like JSON is application/json.
	Header http.Header
	// Body is what it says.
	Body string
	// Delay is how long it takes until it answers.
	Delay time.Duration
	// Fault is how it misbehaves instead, see [Hostile].
	Fault Fault
	// Func makes the answer of the request, when it is not nil; Delay comes on top of
	// that one's, and everything else is ignored.
	Func func(*Request) Answer
	// Stream writes the body instead of Body, until it returns or w fails.
	Stream func(w io.Writer)
}

// Reply returns an answer with a status and a body.
func Reply(status int, body string) Answer { return Answer{Status: status, Body: body} }

// ReplyFunc returns an answer that f makes of each request, which is recorded
// already. Many may run at once.
func ReplyFunc(f func(*Request) Answer) Answer { return Answer{Func: f} }

// Request is one that an [Endpoint] got, as it was when its body had been read.
type Request struct {
	At     time.Time // when it was read
	Method string
	Host   string
	URL    *url.URL // path and query
	Proto  string   // "HTTP/1.1" or "HTTP/2.0"
	TLS    bool
	Client string // the name in the client's certificate; empty for none
	Header http.Header
	Body   []byte
	// Event is the body, where it is a callhook event, as it is unless the payload is
	// a template or flat; otherwise nil.
	Event *callhook.Event
	// Signature is nil when one of [Endpoint].Keys signed it, or when there are none,
	// and otherwise an error of [callhook.Verify].
	Signature error
}

// ID returns the webhook-id, which is the same each time an event is sent.
func (r *Request) ID() string { return r.Header.Get(callhook.HeaderID) }

// Text returns what stands at a path in the body's JSON, like "data.call.from", as
// text: a string's own, anything else as it is written, "" for nothing. Paths are
// those of [github.com/tidwall/gjson].
func (r *Request) Text(path string) string { return gjson.GetBytes(r.Body, path).String() }

// String shows the request in a line or two.
func (r *Request) String() string {
	body := r.Body
	if len(body) > 300 {
		body = append(body[:300:300], "…"...)
	}
	s := fmt.Sprintf("%s %s %s", r.At.Format("15:04:05.000"), r.Method, r.URL)
	if id := r.ID(); id != "" {
		s += " " + id
	}
	if r.Signature != nil {
		s += " (" + strings.TrimPrefix(r.Signature.Error(), "callhook: ") + ")"
	}
	if len(body) > 0 {
		s += "\n     " + string(body)
	}
	return s
}

// NewEndpoint returns an endpoint that gives the answers, one to each request, and
// then the last one again and again; without any it answers 200. It ends with the
// test. One that is used in a bubble must be made in it.
func NewEndpoint(t testing.TB, answers ...Answer) *Endpoint {
	e := &Endpoint{
		t: t, script: slices.Clone(answers),
		conns: make(chan net.Conn), closed: make(chan struct{}), changed: make(chan struct{}), open: map[net.Conn]bool{},
	}
	if len(e.script) == 0 {
		e.script = []Answer{{}}
	}
	e.server = &http.Server{Handler: e, ErrorLog: silent, MaxHeaderBytes: 1 << 20}
	e.ended.Go(func() { _ = e.server.Serve(door{e}) })
	t.Cleanup(e.end)
	return e
}

// Then has the endpoint give these answers from the next request on, and then the
// last one again and again.
func (e *Endpoint) Then(answers ...Answer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.script, e.next = slices.Clone(answers), 0
	if len(e.script) == 0 {
		e.script = []Answer{{}}
	}
}

// ServeHTTP answers one request. It lets an endpoint be part of a server of the
// test's own, where it cannot misbehave before a request is read.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return // the client gave up
	}
	req := e.record(r, body)
	a := e.take()
	for depth := 0; a.Func != nil && depth < 10; depth++ {
		delay := a.Delay
		a = a.Func(req)
		a.Delay += delay
	}
	if a.Delay > 0 {
		wait := time.NewTimer(a.Delay)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler) // to return would be to answer 200
		case <-e.closed:
			panic(http.ErrAbortHandler)
		}
	}
	if a.Fault != "" {
		e.misbehave(w, r, a.Fault)
		return
	}
	e.answer(w, a)
}

// maxBody bounds what a request may carry: as much as a config's max_bytes allows.
const maxBody = 17 << 20

func (e *Endpoint) answer(w http.ResponseWriter, a Answer) {
	for name, values := range a.Header {
		w.Header()[http.CanonicalHeaderKey(name)] = values
	}
	if a.Body != "" && w.Header().Get("Content-Type") == "" && strings.ContainsAny(a.Body[:1], `{["`) {
		w.Header().Set("Content-Type", "application/json")
	}
	if e.peek().Fault.connects() {
		w.Header().Set("Connection", "close") // the next answer is given to a connection
	}
	w.WriteHeader(cmp.Or(a.Status, http.StatusOK))
	if a.Stream != nil {
		a.Stream(w)
		return
	}
	_, _ = io.WriteString(w, a.Body)
}

// record keeps a request.
func (e *Endpoint) record(r *http.Request, body []byte) *Request {
	u := *r.URL
	req := &Request{
		At: time.Now(), Method: r.Method, Host: r.Host, URL: &u, Proto: r.Proto, Header: r.Header.Clone(), Body: body,
		Event: eventOf(body),
	}
	if r.TLS != nil {
		if req.TLS = true; len(r.TLS.PeerCertificates) > 0 {
			req.Client = r.TLS.PeerCertificates[0].Subject.CommonName
		}
	}
	if len(e.Keys) > 0 {
		req.Signature = callhook.Verify(r.Header, body, e.Keys...)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.requests = append(e.requests, req)
	e.tell()
	return req
}

// tell wakes whoever waits for something to be recorded.
func (e *Endpoint) tell() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// take returns the next answer of the script.
func (e *Endpoint) take() Answer {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.script[min(e.next, len(e.script)-1)]
	e.next++
	return a
}

func (e *Endpoint) peek() Answer {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.script[min(e.next, len(e.script)-1)]
}

// sentBy notes whose deliveries may come, to ask why they do not.
func (e *Endpoint) sentBy(h *Hooks) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.senders = append(e.senders, h)
}

// Requests returns what came until now.
func (e *Endpoint) Requests() []*Request {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.requests)
}

// Connections returns how many connections were made to the endpoint until now.
func (e *Endpoint) Connections() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.opened
}

// Received waits until the endpoint has got n requests in all, and returns them.
// The test fails, and shows what did come, when they do not come in time, when there
// are more than n, and when one was not signed by any of Keys. In a bubble it waits for
// eight days of its clock, longer than deliveries are tried, and elsewhere for
// ten seconds.
//
// Whether there will be no more it cannot know: end [Hooks], or in a bubble sleep,
// and call it again.
func (e *Endpoint) Received(t testing.TB, n int) []*Request {
	t.Helper()
	var got []*Request
	waited := await(func() (bool, <-chan struct{}) {
		e.mu.Lock()
		defer e.mu.Unlock()
		got = slices.Clone(e.requests)
		return len(got) >= n, e.changed
	})
	if len(got) != n {
		why := ""
		e.mu.Lock()
		senders := slices.Clone(e.senders)
		e.mu.Unlock()
		for _, h := range senders {
			if waiting := h.waiting(); len(waiting) > 0 && len(got) < n {
				why += list(waiting)
			}
		}
		t.Fatalf("the endpoint got %s, want %d%s%s%s", count(len(got), "request"), n, waited, list(got), why)
	}
	for _, r := range got {
		if r.Signature != nil {
			t.Fatalf("a request is not signed by any of the endpoint's Keys: %v%s", r.Signature, list(got))
		}
	}
	return got
}
