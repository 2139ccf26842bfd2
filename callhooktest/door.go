package callhooktest

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"sync"

	"github.com/callhook-go/callhook"
)

// Network is a network of fake endpoints in memory: what stands behind each host of
// a config's URLs, without its port. Its Dial is for [callhook.Options].Dial.
//
//	network := callhooktest.Network{"crm.example.com": crm, "n8n.example.com": n8n}
//
// It must not be changed while it is in use.
type Network map[string]*Endpoint

// Dial connects to the endpoint behind a host. The error of a host that is not in
// the network is that of a name that does not exist.
func (n Network) Dial(ctx context.Context, _, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e := n[host]
	if e == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}}
	}
	client, server := connect(host)
	e.enter(server)
	return client, nil
}

// Listen opens the endpoint's door on loopback, on a port that the system picks, and
// returns its URL, like "http://127.0.0.1:41873". The same port serves https. Hooks
// reaches it with 127.0.0.0/8 in [callhook.Options].AllowNets. It does not work in a
// bubble.
func (e *Endpoint) Listen() string {
	e.t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.listener == nil {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			e.t.Fatalf("an endpoint cannot listen on loopback: %v", err)
		}
		e.listener = l
		e.ended.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				e.enter(c)
			}
		})
	}
	return "http://" + e.listener.Addr().String()
}

// enter takes a connection in.
func (e *Endpoint) enter(c net.Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.closed:
		c.Close()
		return
	default:
	}
	c = &tracked{Conn: c, of: e}
	e.opened++
	e.open[c] = true
	e.tell()
	e.ended.Go(func() { e.admit(c) })
}

// admit finds out what a connection is to be, and hands it to the server or lets it
// suffer.
func (e *Endpoint) admit(c net.Conn) {
	if f := e.connectFault(); f != "" {
		defer c.Close()
		f.connected(e, c)
		return
	}
	var first [1]byte
	if _, err := io.ReadFull(c, first[:]); err != nil {
		c.Close()
		return
	}
	c = &begun{Conn: c, head: bytes.NewReader(first[:])}
	if first[0] == 0x16 { // a TLS handshake
		c = tls.Server(c, e.tls(""))
	}
	select {
	case e.conns <- c:
	case <-e.closed:
		c.Close()
	}
}

// connectFault takes the next answer if a connection has to suffer it.
func (e *Endpoint) connectFault() Fault {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.script[min(e.next, len(e.script)-1)].Fault
	if !f.connects() {
		return ""
	}
	e.next++
	return f
}

func (e *Endpoint) end() {
	close(e.closed)
	e.mu.Lock()
	if e.listener != nil {
		e.listener.Close()
	}
	var open []net.Conn
	for c := range e.open {
		open = append(open, c)
	}
	e.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
	_ = e.server.Close()
	e.ended.Wait()
}

// door is where the server gets its connections from.
type door struct{ e *Endpoint }

func (d door) Accept() (net.Conn, error) {
	select {
	case c := <-d.e.conns:
		return c, nil
	case <-d.e.closed:
		return nil, net.ErrClosed
	}
}

func (d door) Close() error   { return nil }
func (d door) Addr() net.Addr { return memoryAddr("endpoint") }

// tracked is a connection that the end of the endpoint closes.
type tracked struct {
	net.Conn
	of   *Endpoint
	once sync.Once
	err  error
}

func (c *tracked) Close() error {
	c.once.Do(func() {
		c.of.mu.Lock()
		delete(c.of.open, c)
		c.of.mu.Unlock()
		c.err = c.Conn.Close()
	})
	return c.err
}

// begun is a connection of which some bytes were read already.
type begun struct {
	net.Conn
	head *bytes.Reader
}

func (c *begun) Read(p []byte) (int, error) {
	if c.head.Len() > 0 {
		return c.head.Read(p)
	}
	return c.Conn.Read(p)
}

var silent = log.New(io.Discard, "", 0)

// eventOf returns the event that a body is, nil for none.
func eventOf(body []byte) *callhook.Event {
	var e callhook.Event
	if json.Unmarshal(body, &e) != nil || e.ID == "" || e.Type.Webhook() == "" || e.Data.Call == nil {
		return nil
	}
	return &e
}

var errNoHijack = errors.New("the endpoint misbehaves below HTTP/1.1, and the request came by HTTP/2: leave Endpoint.HTTP2 out")
