// Package egress is the only place in callhook that opens a connection.
//
// URLs are typed in by strangers, and the machine that calls them sits in somebody's network. So every connection is judged
// by the address that is really dialled, after DNS; redirects are handed back and never followed; there is no proxy, no
// cookie and no setting taken from the environment; and whatever an endpoint sends, one exchange costs a bounded amount of
// memory and ends when its context does.
//
// A [Client] makes exactly one exchange per call of [Client.Do]. What an answer means, and whether to try again, is decided
// elsewhere; [IsConnectError] and [Describe] are what it is decided and logged with.
package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"sync"
	"time"
)

const (
	// connectTimeout bounds DNS, TCP and TLS together. It is a backstop for exchanges without a deadline of their own: see
	// exchange.
	connectTimeout = 15 * time.Second

	maxHeaderBytes = 64 << 10 // of all response headers of one exchange together, 1xx answers included
	idleTimeout    = 90 * time.Second
	pingTimeout    = 15 * time.Second // twice this finds a pooled HTTP/2 connection that died silently

	// An HTTP/2 endpoint may send this much before anybody reads; the defaults are 4 MiB and 1 GiB.
	streamWindow = 64 << 10
	connWindow   = 1 << 20

	drainBytes = 64 << 10
	drainTime  = 200 * time.Millisecond
)

// Options says what a [Client] may reach. The zero value reaches the public internet and nothing else.
type Options struct {
	// AllowNets are networks that may be dialled besides the public internet, such as 10.1.0.0/16 or fd00::/8; an IPv4 network
	// may be written in its IPv6 form. An address in none of them is judged as if the list were empty. A NAT64 address of
	// 64:ff9b::/96 is the IPv4 address inside it: public ones are reached without any entry, and private ones are opened by an
	// IPv4 network and never by an IPv6 one.
	AllowNets []netip.Prefix

	// Ports are the only ones that may be connected to, also at addresses in AllowNets and through Dial. Empty means every port
	// except those of the Fetch standard's list, at which mail servers and other services listen that an HTTP request can talk
	// into doing things: https://fetch.spec.whatwg.org/#port-blocking.
	Ports []uint16

	// Dial replaces the dialler and with it the guard of addresses, for tests and tunnels: AllowNets and Resolver are then unused.
	// TLS is still done by the Client, on the connection that Dial returns. It has to return when ctx ends: a Dial that
	// does not cannot keep Do waiting, but keeps its goroutine. Nil means a guarded [net.Dialer].
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// Resolver looks names up. Nil means the system's.
	Resolver *net.Resolver

	// RootCAs are the authorities that endpoints' certificates are checked against. Nil means the system's.
	RootCAs *x509.CertPool
}

// Client makes HTTP exchanges and keeps the connections for the next. It is safe for concurrent use.
type Client struct {
	transport *http.Transport
	resolver  *net.Resolver
	custom    func(ctx context.Context, network, addr string) (net.Conn, error) // Options.Dial
	guard     *guard
	tls       *tls.Config
	ahead     ahead
}

// New returns a Client. It opens nothing and starts no goroutine. What an exchange starts ends with it, except for connections
// kept for the next (until they were idle for 90 s, or [Client.CloseIdle]), dials that may still be of use to others (see
// exchange: 15 s at most) and a question that a name server does not answer (5 s, unless resolv.conf says otherwise).
func New(o Options) *Client {
	c := &Client{
		resolver: o.Resolver,
		custom:   o.Dial,
		guard:    newGuard(o),
		tls:      &tls.Config{RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}},
	}
	c.transport = &http.Transport{
		Proxy: nil, // a proxy would be the only address that the guard sees
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return c.connect(ctx, network, addr, false)
		},
		// The handshake is done here and not by Transport, which would let it run on after the request that wanted it failed.
		// For the same reason an httptrace.ClientTrace sees TLSHandshakeStart and TLSHandshakeDone only after it.
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return c.connect(ctx, network, addr, true)
		},
		ForceAttemptHTTP2:      true, // off by default for whoever brings a dialler
		MaxIdleConns:           1024,
		MaxIdleConnsPerHost:    256, // many lanes send to one host: the default of 2 would dial for nearly every request
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream:     streamWindow,
			MaxReceiveBufferPerConnection: connWindow,
			SendPingTimeout:               pingTimeout,
			PingTimeout:                   pingTimeout,
			WriteByteTimeout:              pingTimeout,
		},
	}
	return c
}

var errUpgrade = errors.New("the endpoint switched protocols unasked")

// Do makes one HTTP exchange. Redirects are returned like any answer. The caller finishes with the response by [Drain] or
// by closing its Body.
//
// The request's context is the one total deadline: it ends DNS, connecting, TLS, waiting for the headers and reading the
// body. An exchange that ran out of it fails with an error for which errors.Is(err, context.DeadlineExceeded) holds, or with
// the context's cause if it has one. Other errors: a [*BlockedError] for an address or a port that is forbidden, and whatever net and
// net/http report; [Describe] makes them fit for a log.
//
// Do sends again only where net/http does, on another connection: when an HTTP/2 endpoint says that it has not processed the
// request, and when a pooled connection turns out to be dead. Then, if nothing had been written, it takes an empty body or GetBody
// (which [http.NewRequest] sets for the readers of bytes and strings), and otherwise also that the request is a GET, HEAD, OPTIONS
// or TRACE or has an Idempotency-Key header; an empty one (req.Header["Idempotency-Key"] = nil) says so without being sent.
func (c *Client) Do(req *http.Request) (*http.Response, error) {
	return c.DoTimed(req, new(Timing))
}

// Timing says where the time of an exchange went, and to which address it went.
type Timing struct {
	DNS, Connect, TLS time.Duration // of a connection made for it; zero on a kept one
	FirstByte         time.Duration // from the start to the first byte of the answer; zero for none
	Remote            string        // the address and port at the other end; empty for no connection
}

// DoTimed is [Client.Do] and fills in t, also when it fails.
func (c *Client) DoTimed(req *http.Request, t *Timing) (*http.Response, error) {
	ex := &exchange{Context: req.Context(), start: time.Now()}
	traced := httptrace.WithClientTrace(ex, &httptrace.ClientTrace{GotConn: ex.gotConn, GotFirstResponseByte: ex.firstByte})
	resp, err := c.do(traced, ex, req)
	ex.mu.Lock() // a dial that nobody waits for may go on
	*t = ex.timing
	ex.mu.Unlock()
	return resp, err
}

func (c *Client) do(ctx context.Context, ex *exchange, req *http.Request) (*http.Response, error) {
	resp, err := c.transport.RoundTrip(req.WithContext(ctx))
	if err != nil {
		if context.Cause(ex) != ErrSuperseded { // another exchange may use what it was dialling
			ex.fail()
		}
		return nil, ex.onAhead(err)
	}
	resp.Request = req
	if resp.StatusCode == http.StatusSwitchingProtocols {
		// The body is now the bare connection, whose reads end with no context. Nobody here asks for an upgrade.
		resp.Body.Close()
		return nil, errUpgrade
	}
	return resp, nil
}

// ErrSuperseded is the cause with which to cancel the context of an exchange whose answer is not wanted any more, while its
// connection may be: a dial under way goes on, and what it gives is kept for the next exchange.
var ErrSuperseded = errors.New("another request was faster")

// CloseIdle closes the connections that are not in use and ends dials that nobody waits for. The Client stays usable.
func (c *Client) CloseIdle() {
	c.ahead.close()
	c.transport.CloseIdleConnections()
}

// exchange is one call of Do as the dials that it starts see it.
//
// Transport cuts a dial loose from the request that wanted it, since a later request can use the connection. That is right
// when the request succeeded on another connection meanwhile, and wrong when it failed: an endpoint that swallows packets
// would collect a dialling goroutine per attempt. So a dial ends at once when its exchange fails, and in any case at the
// exchange's deadline, at most connectTimeout after it began. Knowing the deadline also lets net.Dialer share it among the
// addresses of a name, instead of spending all of it on the first.
type exchange struct {
	context.Context // the request's

	mu     sync.Mutex
	failed bool
	dials  []context.CancelFunc
	start  time.Time // where the timing is wanted
	timing Timing
	ahead  bool // its connection had been made ahead
}

// note writes down what took how long.
func (e *exchange) note(f func(t *Timing)) {
	if e.start.IsZero() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	f(&e.timing)
}

func (e *exchange) gotConn(info httptrace.GotConnInfo) {
	if w := watchedOf(info.Conn); w != nil {
		w.begin()
	}
	e.note(func(t *Timing) {
		t.Remote = info.Conn.RemoteAddr().String()
		if info.Reused {
			t.DNS, t.Connect, t.TLS = 0, 0, 0
		}
	})
}

func (e *exchange) firstByte() {
	e.note(func(t *Timing) { t.FirstByte = time.Since(e.start) })
}

// timed returns a context in which the net package tells how long DNS takes. begun
// is when connecting began, which is after it.
func (e *exchange) timed(ctx context.Context, begun *time.Time) context.Context {
	if e.start.IsZero() {
		return ctx
	}
	*begun = time.Now()
	looked := *begun
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSDone: func(httptrace.DNSDoneInfo) {
			e.note(func(t *Timing) { t.DNS = time.Since(looked); *begun = time.Now() })
		},
		ConnectDone: func(_, addr string, _ error) { e.note(func(t *Timing) { t.Remote = addr }) },
	})
}

type exchangeKey struct{}

// Value makes the exchange travel with the values of its context, which is all that Transport hands to a dial.
func (e *exchange) Value(key any) any {
	if _, ok := key.(exchangeKey); ok {
		return e
	}
	return e.Context.Value(key)
}

func (e *exchange) fail() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failed = true
	for _, cancel := range e.dials {
		cancel()
	}
}

// dialContext gives the dial that ctx comes from its end.
func dialContext(ctx context.Context) (context.Context, context.CancelFunc, error) {
	deadline := time.Now().Add(connectTimeout)
	e := ctx.Value(exchangeKey{}).(*exchange) // there is one: only Do uses the transport
	if d, ok := e.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.dials) == maxDials { // net/http sends again, without a pause, what an HTTP/2 endpoint says it has not processed
		return nil, nil, errDials
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	if e.failed {
		cancel()
	}
	e.dials = append(e.dials, cancel)
	return ctx, cancel, nil
}

// connect dials addr and, where secure, does the TLS handshake.
func (c *Client) connect(ctx context.Context, network, addr string, secure bool) (net.Conn, error) {
	if conn := c.ahead.take(addr, secure); conn != nil {
		ctx.Value(exchangeKey{}).(*exchange).tookAhead()
		return conn, nil
	}
	return c.connectNow(ctx, network, addr, secure)
}

func (c *Client) connectNow(ctx context.Context, network, addr string, secure bool) (net.Conn, error) {
	ctx, cancel, err := dialContext(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	ex := ctx.Value(exchangeKey{}).(*exchange)
	host, _, _ := net.SplitHostPort(addr)
	var begun time.Time
	conn, err := c.dial(ex.timed(ctx, &begun), network, addr)
	ex.note(func(t *Timing) { t.Connect = time.Since(begun) })
	if err == nil {
		conn = watch(conn)
	}
	http2 := false
	if err == nil && secure {
		begun := time.Now()
		cfg := c.tls.Clone()
		cfg.ServerName = host
		tc := tls.Client(conn, cfg)
		if err = tc.HandshakeContext(ctx); err != nil {
			conn.Close()
		}
		ex.note(func(t *Timing) { t.TLS = time.Since(begun) })
		conn, http2 = tc, tc.ConnectionState().NegotiatedProtocol == "h2"
	}
	switch {
	case err == nil && http2:
		return conn, nil // as *tls.Conn: Transport asks it for the negotiated protocol
	case err == nil:
		return &http1Conn{Conn: conn}, nil
	}
	// A dial that runs out of time says so in three ways, depending on which timer was first.
	if d, ok := ctx.Deadline(); ok && !time.Now().Before(d) {
		err = context.DeadlineExceeded
	}
	return nil, &connectError{err}
}

func (c *Client) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	if err := c.guard.before(addr); err != nil {
		return nil, err
	}
	if c.custom == nil {
		return c.guard.dial(ctx, c.resolver, network, addr)
	}
	defer func() {
		if p := recover(); p != nil { // on a goroutine of net/http's, where it would end the process
			conn, err = nil, fmt.Errorf("Options.Dial panicked: %v", p)
		}
	}()
	conn, err = c.custom(ctx, network, addr)
	if conn == nil && err == nil {
		err = errors.New("Options.Dial returned no connection")
	}
	return conn, err
}

// connectError marks an error as having happened before a request could be sent.
type connectError struct{ err error }

func (e *connectError) Error() string { return e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

// ReadBody reads the body of resp up to limit bytes, counted after decompression, and says whether there was more. What was
// read before an error is returned with it. The body is not closed: see [Drain]. Memory grows with what really arrives, up to
// limit and one byte, whatever Content-Length says. A limit below zero means zero.
func ReadBody(resp *http.Response, limit int64) (body []byte, truncated bool, err error) {
	limit = max(limit, 0)
	size := int64(512)
	if resp.ContentLength >= 0 {
		size = min(resp.ContentLength, 4<<10) + 1 // one more, so that the end is seen without growing
	}
	most := limit
	if most+1 > most { // the byte that shows that there is more
		most++
	}
	buf := make([]byte, 0, min(size, most))
	for {
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, min(2*int64(cap(buf)), most)), buf...)
		}
		n, err := resp.Body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case int64(len(buf)) > limit:
			return buf[:limit], true, nil
		case err == io.EOF:
			return buf, false, nil
		case err != nil:
			return buf, false, err
		}
	}
}

// Drain finishes with resp: what little is left of its body is read, so that the connection can be used again, and the body is
// closed, which closes the connection if more than 64 KiB are left or they do not come within 200 ms (or the request's
// context). After [ReadBody] reached the end it costs next to nothing.
func Drain(resp *http.Response) {
	// An HTTP/2 connection outlives a stream that is cut off; one that the endpoint is about to close is not worth reading.
	if resp.ProtoMajor == 1 && !resp.Close && resp.ContentLength <= drainBytes {
		stalled := time.AfterFunc(drainTime, func() { resp.Body.Close() })
		io.CopyN(io.Discard, resp.Body, drainBytes)
		stalled.Stop()
	}
	resp.Body.Close()
}
