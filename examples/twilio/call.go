package main

import (
	"cmp"
	"context"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/callhook-go/callhook"
)

// call is what the server knows of one call. Twilio tells it in requests that come
// when they come: twice when an answer was lost, and the later before the earlier.
// The events that callhook is given are each raised once, and in order.
type call struct {
	sid string

	mu      sync.Mutex
	record  callhook.Call
	whole   bool            // the server knows it from its beginning, so that it can count its changes
	next    int             // the SequenceNumber that Twilio's next status callback should have
	told    map[string]bool // the changes that were raised, or are pending
	dialled map[string]int  // the transfers by the session of the agent that asked for them
	inTalk  bool            // an agent has the call, and Twilio will tell when that is over
	pending []event         // what is not stored yet
	changed chan struct{}   // closed when something was told
}

// event is a verb that is to be called with the call as it was then.
type event struct {
	raise  func(context.Context, *callhook.Call) error
	record callhook.Call
}

func newCall(sid string, agent callhook.ConfigRef) *call {
	return &call{
		sid:    sid,
		record: callhook.Call{ID: sid, ProviderCallID: sid, TenantID: agent.Tenant, AgentID: agent.Agent},
		told:   map[string]bool{}, dialled: map[string]int{}, changed: make(chan struct{}),
	}
}

// change is one change of a call's status.
type change struct {
	key    string // tells it from the call's others, and is the same when Twilio repeats it
	status callhook.Status
	reason string
	at     time.Time
	late   bool // later ones were told already
}

// tell raises a change, once, and carries it over into the record. The caller holds mu.
//
// Sequence counts the changes. The server can count those of a call that it knows from
// its beginning and without a gap; others are told apart by status and time, which
// Twilio repeats as they were, to whichever process.
func (c *call) tell(hooks *callhook.Hooks, ch change) {
	if c.told[ch.key] {
		return
	}
	c.told[ch.key] = true
	r := c.record
	r.PreviousStatus, r.Status, r.StatusReason, r.StatusAt = r.Status, ch.status, ch.reason, ch.at
	late := ch.late || c.told[ended]
	switch {
	case late:
		r.Sequence, r.PreviousStatus = 0, "" // nobody knows
	case c.whole:
		r.Sequence++
	default:
		r.Sequence = 0
	}
	if !late {
		c.record = r
	}
	c.pending = append(c.pending, event{hooks.CallStatus, r})
	close(c.changed)
	c.changed = make(chan struct{})
}

// ended is the key of the call's end.
const ended = "ended"

// end raises the call's end. It may be called again. The caller holds mu.
func (c *call) end(hooks *callhook.Hooks) {
	if c.told[ended] {
		return
	}
	c.told[ended] = true
	c.pending = append(c.pending, event{hooks.PostCall, c.record})
}

// store calls the verbs of what is pending, in order. What cannot be stored stays
// pending: until Twilio says something again, since an error is answered with a 503,
// which it repeats. The caller holds mu.
func (c *call) store(ctx context.Context) error {
	for len(c.pending) > 0 {
		if err := c.pending[0].raise(ctx, &c.pending[0].record); err != nil {
			return err
		}
		c.pending = c.pending[1:]
	}
	return nil
}

// turn waits, at most for patience, until it is the turn of the status callback with
// this SequenceNumber: Twilio counts them from 0 and sends them at once, each in a
// request of its own. The last one also waits for the end of the agent's session and
// for what becomes of a transfer, which belong into the call's data. The caller holds
// mu, which is free in between. waits is called when it has to.
func (c *call) turn(ctx context.Context, sequence int, last bool, patience time.Duration, waits func()) {
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for waited := false; sequence > c.next || last && (c.inTalk || c.transferring()); waited = true {
		if !waited {
			waits()
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-patient.Done():
		}
		c.mu.Lock()
		if patient.Err() != nil {
			return
		}
	}
}

func (c *call) transferring() bool {
	n := len(c.record.Transfers)
	return n > 0 && c.record.Transfers[n-1].Status == callhook.StatusTransferStarted
}

// learn takes over what Twilio says of the call in each of its requests
// (https://www.twilio.com/docs/voice/twiml#request-parameters). What is not named here
// is not kept: the CallToken, with which one could place calls, the account, and where
// the numbers are registered. The caller holds mu.
func (c *call) learn(form url.Values) {
	r := &c.record
	r.From, r.To = form.Get("From"), form.Get("To")
	if callhook.Withheld(r.From) {
		// Twilio has +266696687, ANONYMOUS on a keypad, and other words for it
		// (https://help.twilio.com/articles/223179988). For callhook it is no number.
		r.From = ""
	}
	r.ForwardedFrom = cmp.Or(form.Get("ForwardedFrom"), r.ForwardedFrom)
	r.FromName = cmp.Or(form.Get("CallerName"), r.FromName)
	r.FromVerified = cmp.Or(attestation(form.Get("StirVerstat")), r.FromVerified)
	r.Direction = callhook.Inbound
	if strings.HasPrefix(form.Get("Direction"), "outbound") { // outbound-api, outbound-dial
		r.Direction = callhook.Outbound
	}
	switch {
	case strings.HasPrefix(r.From, "client:"):
		r.Channel = "web"
	case strings.HasPrefix(r.From, "sip:"), strings.HasPrefix(r.From, "sips:"):
		r.Channel = "sip"
	default:
		r.Channel = "phone"
	}
}

// attestation returns the level of a number that was verified, "" for any other:
// TN-Validation-Passed-A, and the same with -Diverted or -Passthrough, is A
// (https://www.twilio.com/docs/voice/trusted-calling-with-shakenstir). A level whose
// verification failed says nothing.
func attestation(stirVerstat string) string {
	level, ok := strings.CutPrefix(stirVerstat, "TN-Validation-Passed-")
	if level, _, _ = strings.Cut(level, "-"); !ok || level != "A" && level != "B" && level != "C" {
		return ""
	}
	return level
}

// statuses are Twilio's CallStatus in callhook's words
// (https://www.twilio.com/docs/voice/api/call-resource#call-status-values). Initiated,
// when Twilio begins to dial, is none of callhook's, and a runtime may have its own.
var statuses = map[string]callhook.Status{
	"queued":      callhook.StatusQueued,
	"initiated":   "initiated",
	"ringing":     callhook.StatusRinging,
	"in-progress": callhook.StatusInProgress,
	"completed":   callhook.StatusCompleted,
	"busy":        callhook.StatusBusy,
	"failed":      callhook.StatusFailed,
	"no-answer":   callhook.StatusNoAnswer,
	"canceled":    callhook.StatusCanceled,
}

// transferStatuses are what a <Dial>'s DialCallStatus says of the transfer
// (https://www.twilio.com/docs/voice/twiml/dial#dialcallstatus-values): canceled is the
// caller who hung up before anybody answered.
var transferStatuses = map[string]callhook.Status{
	"completed": callhook.StatusTransferConnected,
	"answered":  callhook.StatusTransferConnected,
	"busy":      callhook.StatusTransferFailed,
	"no-answer": callhook.StatusTransferFailed,
	"failed":    callhook.StatusTransferFailed,
	"canceled":  callhook.StatusTransferCanceled,
}
