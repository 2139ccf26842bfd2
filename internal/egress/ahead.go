package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	aheadTime   = time.Minute // how long a connection that was made ahead is kept
	maxAhead    = 256         // of all endpoints
	maxAheadOne = 1           // of one: where it is dead, the next attempt is not to meet another that is
)

// ahead keeps connections that were made before anybody needed them. net/http has no way to put one into its pool, so it is
// given one when it dials.
type ahead struct {
	mu    sync.Mutex
	conns map[aheadKey][]*aheadConn
	n     int
}

type aheadKey struct {
	addr   string
	secure bool
}

type aheadConn struct {
	net.Conn
	timer *time.Timer
}

// Connect resolves the host of u, connects and, for https, does the TLS handshake, and keeps the connection for a minute
// for the next exchange that would dial. It does nothing if enough are kept already. Its errors are those of Do.
func (c *Client) Connect(ctx context.Context, u *url.URL) error {
	secure := u.Scheme == "https"
	key := aheadKeyOf(net.JoinHostPort(u.Hostname(), portOf(u)), secure)
	if !c.ahead.room(key) {
		return nil
	}
	done := make(chan error, 1)
	go func() { // Options.Dial may not heed ctx
		conn, err := c.connectNow(&exchange{Context: ctx}, "tcp", key.addr, secure)
		if err == nil && (ctx.Err() != nil || !c.ahead.put(key, conn)) {
			conn.Close()
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// aheadKeyOf spells an address in one way, as Transport does not.
func aheadKeyOf(addr string, secure bool) aheadKey { return aheadKey{strings.ToLower(addr), secure} }

func (a *ahead) room(key aheadKey) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hasRoom(key)
}

func (a *ahead) hasRoom(key aheadKey) bool { return a.n < maxAhead && len(a.conns[key]) < maxAheadOne }

// put reports whether it keeps conn.
func (a *ahead) put(key aheadKey, conn net.Conn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.hasRoom(key) { // others were faster
		return false
	}
	if a.conns == nil {
		a.conns = map[aheadKey][]*aheadConn{}
	}
	kept := &aheadConn{Conn: conn}
	kept.timer = time.AfterFunc(aheadTime, func() {
		if a.remove(key, kept) {
			conn.Close()
		}
	})
	a.conns[key] = append(a.conns[key], kept)
	a.n++
	return true
}

// take returns the connection that was kept last, nil for none.
func (a *ahead) take(addr string, secure bool) net.Conn {
	key := aheadKeyOf(addr, secure)
	for {
		a.mu.Lock()
		conns := a.conns[key]
		a.mu.Unlock()
		if len(conns) == 0 {
			return nil
		}
		if kept := conns[len(conns)-1]; a.remove(key, kept) {
			kept.timer.Stop()
			return kept.Conn
		}
	}
}

// remove reports whether it was the one that took kept out.
func (a *ahead) remove(key aheadKey, kept *aheadConn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, c := range a.conns[key] {
		if c == kept {
			rest := append(append([]*aheadConn(nil), a.conns[key][:i]...), a.conns[key][i+1:]...)
			if a.conns[key] = rest; len(rest) == 0 {
				delete(a.conns, key)
			}
			a.n--
			return true
		}
	}
	return false
}

func (a *ahead) close() {
	a.mu.Lock()
	all := a.conns
	a.conns, a.n = nil, 0
	a.mu.Unlock()
	for _, conns := range all {
		for _, c := range conns {
			c.timer.Stop()
			c.Close()
		}
	}
}

func (e *exchange) tookAhead() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ahead = true
}

// onAhead marks the error of a connection that was made ahead and closed by the endpoint before it was used: as with one from
// the pool, trying again at once is right.
func (e *exchange) onAhead(err error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ahead && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || closedIdle(err) || e.closedHTTP2(err)) {
		return &aheadError{err}
	}
	return err
}

// closedHTTP2 recognises how HTTP/2 says it: an error that it keeps to itself, or one that a cut in the middle of an answer has
// too.
func (e *exchange) closedHTTP2(err error) bool {
	switch err.Error() {
	case "http2: client conn could not be established", "http2: client conn is closed":
		return true
	}
	return errors.Is(err, io.ErrUnexpectedEOF) && !e.start.IsZero() && e.timing.FirstByte == 0
}

// aheadError is the error of a connection that was made ahead and died before it was used.
type aheadError struct{ err error }

func (e *aheadError) Error() string { return e.err.Error() }
func (e *aheadError) Unwrap() error { return e.err }
