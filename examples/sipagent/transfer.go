package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/emiago/sipgo/sip"
)

// transfer asks the caller's phone to call somebody else: a REFER (RFC 3515), for what
// RFC 5589 calls a blind transfer. The phone tells with NOTIFY how that goes. The call
// here ends when the other one is answered; where it is not, the agent goes on.
func (c *call) transfer(ctx context.Context, to string) {
	c.record.Transfers = append(c.record.Transfers, callhook.Transfer{
		To: to, Type: "cold", Status: callhook.StatusTransferStarted, StartedAt: time.Now(),
	})
	c.change(callhook.StatusTransferStarted, "")
	refer := c.request(sip.REFER)
	refer.AppendHeader(sip.NewHeader("Refer-To", "<"+to+">"))
	refer.AppendHeader(sip.NewHeader("Referred-By", fmt.Sprintf("<sip:%s@%s>", c.agent.id, c.agent.addr)))
	wait, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	res, err := c.dialog.Do(wait, refer)
	switch {
	case ctx.Err() != nil: // the call is over
	case err != nil:
		c.settle(callhook.StatusTransferFailed, "the phone did not answer the REFER")
	case !res.IsSuccess():
		c.settle(callhook.StatusTransferFailed, plain(fmt.Sprint(res.StatusCode, " ", res.Reason)))
	}
}

// note is what a NOTIFY tells of a transfer.
type note struct {
	response string // that the caller's phone got, like "486 Busy Here"
	last     bool   // it tells no more
}

func (c *call) notify(req *sip.Request, tx sip.ServerTransaction) {
	respond(tx, req, sip.StatusOK, "OK")
	// The body is the first line of a response, message/sipfrag (RFC 3420).
	line, _, _ := strings.Cut(string(req.Body()), "\n")
	_, response, _ := strings.Cut(line, " ")
	select {
	case c.notes <- note{plain(response), strings.HasPrefix(value(req, "Subscription-State"), "terminated")}:
	default: // no phone tells so much
	}
}

// told hears how the transfer goes, and returns whether the caller was connected.
func (c *call) told(n note) bool {
	switch {
	case c.transferring() == nil:
		return false
	case n.response >= "3":
		c.settle(callhook.StatusTransferFailed, n.response)
	case n.response >= "2":
		c.settle(callhook.StatusTransferConnected, "")
		return true
	case n.last:
		c.settle(callhook.StatusTransferFailed, "the phone did not tell how it went")
	}
	return false
}

// transferring returns the transfer that is under way, nil for none.
func (c *call) transferring() *callhook.Transfer {
	if n := len(c.record.Transfers); n > 0 && c.record.Transfers[n-1].EndedAt.IsZero() {
		return &c.record.Transfers[n-1]
	}
	return nil
}

// settle tells how the transfer that is under way came out.
func (c *call) settle(status callhook.Status, reason string) {
	t := c.transferring()
	t.Status, t.Reason, t.EndedAt = status, reason, time.Now()
	c.change(status, reason)
}
