package main

import (
	"context"
	"crypto/rand"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/callhook-go/callhook"
	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"
)

// call is one call, from its INVITE to its end.
type call struct {
	agent  *agent
	invite sip.ServerTransaction
	dialog *sipgo.DialogServerSession
	log    *slog.Logger
	record callhook.Call          // what callhook is told; only the goroutine of run touches it
	hungUp atomic.Pointer[string] // why the caller hung up, once they have
	digits chan byte              // that the caller dials
	notes  chan note              // of how a transfer goes
}

// newCall begins the call that an INVITE asks for.
func newCall(a *agent, req *sip.Request, tx sip.ServerTransaction) (*call, error) {
	c := &call{agent: a, invite: tx, digits: make(chan byte, 16), notes: make(chan note, 16)}
	// The id is the agent's own: a Call-ID is the caller's to choose, even twice the
	// same, and callhook tells an event of a call once.
	c.record = callhook.Call{
		ID: "call_" + rand.Text(), AgentID: a.id, Direction: callhook.Inbound, Channel: "sip", StartedAt: time.Now(),
	}
	identify(&c.record, req)
	c.log = a.log.With("call", c.record.ID)
	tx.OnCancel(c.hangUp) // comes before sipgo's own, which ends the dialog
	ua := sipgo.DialogUA{Client: a.client, ContactHDR: sip.ContactHeader{
		Address: sip.Uri{Scheme: "sip", User: a.id, Host: a.addr.IP.String(), Port: a.addr.Port},
	}}
	var err error
	c.dialog, err = ua.ReadInvite(req, tx)
	return c, err
}

// run takes the call from its first ring to its end.
func (c *call) run() {
	offer, err := parseOffer(c.dialog.InviteRequest.Body())
	if err != nil {
		c.refuse(sip.StatusNotAcceptableHere, "Not Acceptable Here", callhook.StatusFailed, err.Error())
		return
	}
	_ = c.dialog.Respond(sip.StatusRinging, "Ringing", nil)
	c.change(callhook.StatusRinging, "")

	// The lookup takes its budget at most, and ends when the caller hangs up.
	ctx, cancel := context.WithCancel(c.dialog.Context())
	defer cancel()
	defer context.AfterFunc(c.agent.ending, cancel)()
	pre := c.agent.hooks.PreCall(ctx, &c.record)
	pre.Apply(&c.record)
	c.log.Info("lookup", "result", pre)
	if ctx.Err() != nil {
		c.refuse(sip.StatusServiceUnavailable, "Service Unavailable", callhook.StatusRejected, "the agent is ending")
		return
	}

	audio, err := openAudio(c.agent.addr.IP, offer)
	if err != nil {
		c.refuse(sip.StatusInternalServerError, "Server Internal Error", callhook.StatusFailed, err.Error())
		return
	}
	defer audio.conn.Close()
	greeting := plain(pre.Variables.Expand(c.agent.greeting))
	c.log.Debug("greeting", "text", greeting)
	ok := sip.NewSDPResponseFromRequest(c.dialog.InviteRequest, offer.answer(audio.conn.LocalAddr()))
	ok.AppendHeader(sip.NewHeader("X-Greeting", greeting)) // for people who look at it
	answered := time.Now()
	if err := c.dialog.WriteResponse(ok); err != nil { // it waits for the ACK
		c.sayBye()
		c.end(callhook.StatusFailed, "the answer was not confirmed", "system")
		return
	}
	c.record.AnsweredAt = answered
	c.change(callhook.StatusInProgress, "")
	reason, by := c.talk(ctx, audio, greeting)
	c.sayBye()
	c.end(callhook.StatusCompleted, reason, by)
}

// talk greets the caller and does what they ask for, which is to be transferred when
// they dial 0. It returns why the call is over and who ended it.
func (c *call) talk(ctx context.Context, audio *audio, greeting string) (reason, by string) {
	talking, hush := context.WithCancel(ctx)
	var streams sync.WaitGroup
	said := callhook.Turn{Role: "agent", Text: greeting, Start: time.Since(c.record.StartedAt).Seconds()}
	streams.Go(func() {
		audio.say(talking, greeting)
		said.End = time.Since(c.record.StartedAt).Seconds()
	})
	streams.Go(func() { audio.listen(c.dialed) })
	defer func() {
		hush()
		audio.conn.Close()
		streams.Wait()
		c.record.Transcript = []callhook.Turn{said}
	}()

	longest := time.After(c.agent.longest)
	var patience <-chan time.Time
	for {
		select {
		case digit := <-c.digits:
			if digit == '0' && c.agent.transferTo != "" && c.transferring() == nil {
				c.transfer(ctx, c.agent.transferTo)
				patience = time.After(time.Minute)
			}
		case n := <-c.notes:
			if c.told(n) {
				return "transferred", "agent"
			}
		case <-patience:
			c.told(note{last: true})
		case <-longest:
			return "it lasted too long", "system"
		case <-ctx.Done():
			if c.transferring() != nil {
				c.settle(callhook.StatusTransferCanceled, "the call ended meanwhile")
			}
			if why := c.hungUp.Load(); why != nil {
				return *why, "caller"
			}
			return "the agent is ending", "system"
		}
	}
}

// change tells the call's new status.
func (c *call) change(status callhook.Status, reason string) {
	r := &c.record
	r.PreviousStatus, r.Status, r.StatusReason = r.Status, status, reason
	r.StatusAt = time.Now()
	r.Sequence++
	c.raise(c.agent.hooks.CallStatus)
}

// end tells that the call is over, and delivers its data.
func (c *call) end(status callhook.Status, reason, by string) {
	if why := c.hungUp.Load(); why != nil && c.record.AnsweredAt.IsZero() {
		status, reason, by = callhook.StatusCanceled, *why, "caller"
	}
	c.record.EndedAt, c.record.EndReason, c.record.EndedBy = time.Now(), reason, by
	c.change(status, reason)
	c.raise(c.agent.hooks.PostCall)
	c.log.Info("over", "status", status, "by", by)
}

// raise calls a verb, and again if the event could not be stored: that never makes two
// of it.
func (c *call) raise(verb func(context.Context, *callhook.Call) error) {
	err := verb(context.Background(), &c.record)
	if err != nil {
		err = verb(context.Background(), &c.record)
	}
	if err != nil {
		c.log.Error("an event is lost", "error", err)
	}
}

// refuse ends a call that is not answered, and returns when the caller has
// acknowledged it. Where they have canceled it, sipgo has responded.
func (c *call) refuse(code int, text string, status callhook.Status, reason string) {
	if c.hungUp.Load() == nil {
		_ = c.dialog.Respond(code, text, nil)
		c.end(status, reason, "system")
		return
	}
	c.end(status, reason, "system")
	select {
	case <-c.invite.Acks():
	case <-c.invite.Done():
	case <-time.After(confirmTimeout):
	}
}

// sayBye hangs up, unless the caller has.
func (c *call) sayBye() {
	if c.hungUp.Load() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), confirmTimeout)
	defer cancel()
	bye := c.request(sip.BYE)
	bye.AppendHeader(sip.NewHeader("Reason", `Q.850;cause=16;text="Normal call clearing"`))
	if err := c.dialog.WriteBye(ctx, bye); err != nil {
		c.log.Warn("the caller did not confirm that the call is over")
	}
}

// request makes a request to the caller within the call. It leaves from the socket on
// which the agent listens, and so passes a firewall.
func (c *call) request(method sip.RequestMethod) *sip.Request {
	req := sip.NewRequest(method, c.dialog.InviteRequest.Contact().Address)
	req.Laddr = sip.Addr{IP: c.agent.addr.IP, Port: c.agent.addr.Port}
	return req
}

func (c *call) ack(req *sip.Request, tx sip.ServerTransaction) { _ = c.dialog.ReadAck(req, tx) }

func (c *call) bye(req *sip.Request, tx sip.ServerTransaction) {
	c.hangUp(req)
	_ = c.dialog.ReadBye(req, tx)
}

// hangUp hears that the caller hangs up, and why, with a BYE or a CANCEL.
func (c *call) hangUp(req *sip.Request) {
	why := "hung up"
	for _, h := range req.GetHeaders("Reason") { // RFC 3326, like Q.850;cause=16;text="Normal call clearing"
		if why == "hung up" || strings.HasPrefix(h.Value(), "Q.850") {
			why = plain(h.Value())
		}
	}
	c.hungUp.CompareAndSwap(nil, &why)
}

// info hears a digit that a phone sends beside the audio: "Signal=0" in
// application/dtmf-relay, or "0" in application/dtmf.
func (c *call) info(req *sip.Request, tx sip.ServerTransaction) {
	respond(tx, req, sip.StatusOK, "OK")
	body := strings.TrimSpace(strings.TrimPrefix(string(req.Body()), "Signal="))
	if body != "" && strings.HasPrefix(value(req, "Content-Type"), "application/dtmf") {
		c.dialed(body[0])
	}
}

func (c *call) dialed(digit byte) {
	select {
	case c.digits <- digit:
	default: // nobody dials so fast
	}
}

// plain makes one line of at most 200 bytes of a text from outside: in a SIP message a
// line break in it would begin a header of its own.
func plain(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
	return strings.TrimSpace(strings.ToValidUTF8(text[:min(len(text), 200)], ""))
}
