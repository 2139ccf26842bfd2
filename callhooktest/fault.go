package callhooktest

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"time"
)

// Fault is a way in which an endpoint misbehaves below what a status and a body can
// say.
type Fault string

// The faults of a connection: it suffers them before a request is read, which is
// therefore not recorded.
const (
	FaultNoAnswerToTLS      Fault = "TLS that stalls"
	FaultHangUp             Fault = "hangs up at once"
	FaultReset              Fault = "resets the connection at once"
	FaultExpiredCertificate Fault = "an expired certificate"
	FaultUnknownAuthority   Fault = "a certificate that nobody vouches for"
	FaultWrongHost          Fault = "a certificate of another host"
)

// The faults of an answer: they need HTTP/1.1.
const (
	FaultHang        Fault = "never answers"
	FaultDripHeaders Fault = "drips its headers"
	FaultDripBody    Fault = "drips its body"
	FaultHangUpAfter Fault = "hangs up instead of answering"
	FaultResetAfter  Fault = "resets the connection instead of answering"
)

// connects reports whether a connection suffers it.
func (f Fault) connects() bool { return connectionFaults[f] != nil }

func (f Fault) speaksHTTP2() bool { return false }

// connected lets a connection suffer the fault.
func (f Fault) connected(e *Endpoint, c net.Conn) { connectionFaults[f](e, c) }

var connectionFaults = map[Fault]func(*Endpoint, net.Conn){
	FaultNoAnswerToTLS:      func(_ *Endpoint, c net.Conn) { _, _ = io.Copy(io.Discard, c) },
	FaultHangUp:             func(*Endpoint, net.Conn) {},
	FaultReset:              func(_ *Endpoint, c net.Conn) { reset(c) },
	FaultExpiredCertificate: shakeHands(FaultExpiredCertificate),
	FaultUnknownAuthority:   shakeHands(FaultUnknownAuthority),
	FaultWrongHost:          shakeHands(FaultWrongHost),
}

func shakeHands(f Fault) func(*Endpoint, net.Conn) {
	return func(e *Endpoint, c net.Conn) { _, _ = io.Copy(io.Discard, tls.Server(c, e.tls(f))) }
}

// dripEvery is the pause between two bytes of what drips.
const dripEvery = 100 * time.Millisecond

var answerFaults = map[Fault]func(*Endpoint, net.Conn){
	FaultHang:        func(_ *Endpoint, c net.Conn) { _, _ = io.Copy(io.Discard, c) },
	FaultDripHeaders: func(e *Endpoint, c net.Conn) { e.drip(c, "HTTP/1.1 200 OK\r\n", "X") },
	FaultDripBody:    func(e *Endpoint, c net.Conn) { e.drip(c, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", " ") },
	FaultHangUpAfter: func(*Endpoint, net.Conn) {},
	FaultResetAfter:  func(_ *Endpoint, c net.Conn) { reset(c) },
}

// misbehave does to a request what f says.
func (e *Endpoint) misbehave(w http.ResponseWriter, r *http.Request, f Fault) {
	do := answerFaults[f]
	if do == nil {
		e.t.Errorf("callhooktest: there is no fault %q that an answer can have", f)
		panic(http.ErrAbortHandler)
	}
	h, ok := w.(http.Hijacker)
	if !ok {
		e.t.Errorf("callhooktest: fault %q: %v", f, errNoHijack)
		panic(http.ErrAbortHandler)
	}
	c, _, err := h.Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	do(e, c)
}

// drip writes head and then each byte of s again and again, slowly.
func (e *Endpoint) drip(c net.Conn, head, s string) {
	if _, err := io.WriteString(c, head); err != nil {
		return
	}
	tick := time.NewTicker(dripEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-e.closed:
			return
		}
		if _, err := io.WriteString(c, s); err != nil {
			return
		}
	}
}

// reset closes a connection so that what was sent may be lost, where it is TCP.
func reset(c net.Conn) {
	for {
		switch u := c.(type) {
		case interface{ NetConn() net.Conn }:
			c = u.NetConn()
		case *begun:
			c = u.Conn
		case *tracked:
			c = u.Conn
		case *net.TCPConn:
			_ = u.SetLinger(0)
			u.Close()
			return
		default:
			c.Close()
			return
		}
	}
}
