package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"
)

// agent takes calls: it hands each SIP request to the call that it belongs to.
type agent struct {
	options
	id     string // in callhook's config
	hooks  *callhook.Hooks
	client *sipgo.Client
	conn   *net.UDPConn
	addr   *net.UDPAddr    // conn's
	ending context.Context // ends when calls are to end

	free    chan struct{} // lines: one goes in for each call that is taken
	mu      sync.Mutex
	calls   map[string]*call // by dialog
	running sync.WaitGroup   // calls
}

// confirmTimeout is how long the other side may take to confirm a BYE or a REFER.
const confirmTimeout = 3 * time.Second

// serve takes calls until ctx ends, and returns when the last of them is over.
func serve(ctx context.Context, o options, hooks *callhook.Hooks, id string) error {
	addr, err := net.ResolveUDPAddr("udp4", o.listen)
	if err != nil {
		return err
	}
	if addr.IP == nil || addr.IP.IsUnspecified() {
		return fmt.Errorf("cannot listen on %q: callers are told the address, so it must be one that they reach, like 192.0.2.5:5060", o.listen)
	}
	conn, err := net.ListenUDP("udp4", addr)
	if err != nil {
		return err
	}
	defer conn.Close()

	quiet := slog.New(slog.DiscardHandler) // what sipgo logs holds whole messages, and so phone numbers
	ua, err := sipgo.NewUA(sipgo.WithUserAgent("callhook-sipagent"),
		sipgo.WithUserAgentTransportLayerOptions(sip.WithTransportLayerLogger(quiet)),
		sipgo.WithUserAgentTransactionLayerOptions(sip.WithTransactionLayerLogger(quiet),
			sip.WithTransactionLayerUnhandledResponseHandler(func(*sip.Response) {})))
	if err != nil {
		return err
	}
	defer ua.Close()
	server, err := sipgo.NewServer(ua, sipgo.WithServerLogger(quiet))
	if err != nil {
		return err
	}
	client, err := sipgo.NewClient(ua, sipgo.WithClientLogger(quiet), sipgo.WithClientAddr(conn.LocalAddr().String()))
	if err != nil {
		return err
	}
	ending, end := context.WithCancel(ctx)
	defer end()
	a := &agent{
		options: o, id: id, hooks: hooks, client: client, conn: conn, addr: conn.LocalAddr().(*net.UDPAddr),
		ending: ending, free: make(chan struct{}, max(o.lines, 0)), calls: map[string]*call{},
	}
	server.OnInvite(a.invite)
	server.OnAck(a.within((*call).ack))
	server.OnBye(a.within((*call).bye))
	server.OnInfo(a.within((*call).info))
	server.OnNotify(a.within((*call).notify))
	server.OnOptions(func(req *sip.Request, tx sip.ServerTransaction) { respond(tx, req, sip.StatusOK, "OK") })

	served := make(chan error, 1)
	go func() { served <- server.ServeUDP(conn) }()
	o.log.Info("listening", "addr", a.addr.String(), "agent", id)
	if o.listening != nil {
		o.listening(a.addr.String())
	}
	select {
	case <-ctx.Done():
	case err = <-served:
		err = fmt.Errorf("the SIP socket failed, callers cannot be heard any more (%v)", err)
		served <- nil
	}

	end() // calls hang up, and no new ones come
	a.mu.Lock()
	calls := len(a.calls)
	a.mu.Unlock()
	o.log.Info("ending", "calls", calls)
	unconfirmed := time.AfterFunc(confirmTimeout+time.Second, func() { _ = ua.Close() }) // ends all waiting
	a.running.Wait()
	unconfirmed.Stop()
	conn.Close()
	<-served
	return err
}

// invite handles an INVITE, and returns when its call is over.
func (a *agent) invite(req *sip.Request, tx sip.ServerTransaction) {
	if to := req.To(); to == nil || to.Params.Has("tag") { // hold, or a refresh: the session stays as it is
		respond(tx, req, sip.StatusNotAcceptableHere, "Not Acceptable Here")
		return
	}
	c, err := newCall(a, req, tx)
	if err != nil {
		respond(tx, req, sip.StatusBadRequest, "Bad Request")
		return
	}
	a.mu.Lock()
	ending := a.ending.Err() != nil
	if !ending {
		a.calls[c.dialog.ID] = c
		a.running.Add(1)
	}
	a.mu.Unlock()
	if ending {
		respond(tx, req, sip.StatusServiceUnavailable, "Service Unavailable")
		return
	}
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.calls, c.dialog.ID)
		a.running.Done()
	}()
	select {
	case a.free <- struct{}{}:
		defer func() { <-a.free }()
		c.run()
	default:
		c.refuse(sip.StatusBusyHere, "Busy Here", callhook.StatusBusy, "all lines are busy")
	}
}

// within handles a request that must be part of a call.
func (a *agent) within(handle func(*call, *sip.Request, sip.ServerTransaction)) sipgo.RequestHandler {
	return func(req *sip.Request, tx sip.ServerTransaction) {
		id, err := sip.DialogIDFromRequestUAS(req)
		a.mu.Lock()
		c := a.calls[id]
		a.mu.Unlock()
		switch {
		case err == nil && c != nil:
			handle(c, req, tx)
		case !req.IsAck(): // which has no response
			respond(tx, req, sip.StatusCallTransactionDoesNotExists, "Call/Transaction Does Not Exist")
		}
	}
}

// respond answers a request. A response that is lost is asked for again.
func respond(tx sip.ServerTransaction, req *sip.Request, code int, reason string) {
	_ = tx.Respond(sip.NewResponseFromRequest(req, code, reason, nil))
}
