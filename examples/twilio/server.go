package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/mail"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/callhook-go/callhook"
)

// server answers Twilio's webhooks.
type server struct {
	hooks       *callhook.Hooks
	publicURL   string            // under which Twilio reaches the server
	relayURL    string            // the agent's WebSocket
	token       string            // signs Twilio's requests
	greeting    string            // with placeholders
	unreachable string            // what the agent says when a transfer has failed
	transfers   map[string]string // numbers by name
	patience    time.Duration     // how long a status callback waits for one before it
	log         *slog.Logger

	calls calls
	late  sync.WaitGroup
}

// lookupTime bounds the lookup, whatever the config says: Twilio gives up on a webhook
// after 15 seconds (error 11200), and the caller hears it ring all the while.
const lookupTime = 8 * time.Second

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /voice", s.signed(s.voice))
	mux.HandleFunc("POST /status", s.signed(s.status))
	mux.HandleFunc("POST /connect-ended", s.signed(s.connectEnded))
	mux.HandleFunc("POST /dial-answered", s.signed(s.dialAnswered))
	mux.HandleFunc("POST /dial-ended", s.signed(s.dialEnded))
	return mux
}

// signed lets only requests through that Twilio has signed. One that is sent again by
// somebody who has seen it does no harm: what it tells was told.
func (s *server) signed(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		if err := r.ParseForm(); err != nil {
			http.Error(w, "not a form", http.StatusBadRequest)
			return
		}
		signature := r.Header.Values("X-Twilio-Signature")
		if len(signature) != 1 || !signedBy(s.token, s.publicURL+r.RequestURI, r.PostForm, signature[0]) {
			s.log.Warn("a request is not signed by Twilio: check the auth token and -public-url", "path", r.URL.Path)
			http.Error(w, "not signed by Twilio", http.StatusForbidden)
			return
		}
		if r.PostForm.Get("CallSid") == "" {
			http.Error(w, "no CallSid", http.StatusBadRequest)
			return
		}
		next(w, r)
	}
}

// voice takes a call: it asks who is calling, and joins caller and agent.
func (s *server) voice(w http.ResponseWriter, r *http.Request) {
	form := r.PostForm
	c, begun := s.calls.get(form.Get("CallSid"), time.Now())
	c.mu.Lock()
	c.learn(form)
	if begun {
		c.whole = c.record.Direction == callhook.Inbound && form.Get("CallStatus") == "ringing"
		c.record.Status = statuses[form.Get("CallStatus")]
	}
	if c.record.StartedAt.IsZero() {
		c.record.StartedAt = time.Now()
	}
	asked := c.record
	c.mu.Unlock()

	ctx, cancel := context.WithTimeout(r.Context(), lookupTime)
	defer cancel()
	pre := s.hooks.PreCall(ctx, &asked)
	s.log.Info("a call arrives", "call", asked.ID, "lookup", pre.String())

	c.mu.Lock()
	defer c.mu.Unlock()
	pre.Apply(&c.record)
	if c.record.Direction == callhook.Inbound && c.record.AnsweredAt.IsZero() {
		// <Connect> answers the call. Of inbound calls Twilio only tells the end.
		c.record.AnsweredAt = time.Now()
		c.record.PreviousStatus, c.record.Status = c.record.Status, callhook.StatusInProgress
	}
	s.late.Go(func() { // an answer that comes after the time still belongs to the call
		for late := range pre.Late {
			c.mu.Lock()
			late.Apply(&c.record)
			c.mu.Unlock()
		}
	})
	s.talk(w, c, s.greeting)
}

// talk joins caller and agent. The caller holds c.mu.
func (s *server) talk(w http.ResponseWriter, c *call, greeting string) {
	said := c.record.Variables.Expand(greeting)
	if len(said) > maxGreeting {
		said = callhook.Variables{}.Expand(greeting)
	}
	params, left := parameters(c.record.Variables)
	if left > 0 {
		s.log.Warn("variables are too large for TwiML and were left out", "call", c.sid, "variables", left)
	}
	c.inTalk = true
	s.answer(w, response{Connect: &connect{
		Action: s.publicURL + "/connect-ended",
		Relay:  relay{URL: s.relayURL, Greeting: said, Parameters: params},
	}})
}

// handoff is what this server and its agent have agreed on for the handoffData of the
// agent's end message. It names a destination and not a number: what a caller talks a
// model into must not choose where calls go, and who pays for them.
type handoff struct {
	Transfer string `json:"transfer"` // one of server.transfers
	Reason   string `json:"reason"`
}

// connectEnded is told when the agent's session is over: because the agent has ended
// it, perhaps to transfer the call, because the caller hung up, or because it failed.
func (s *server) connectEnded(w http.ResponseWriter, r *http.Request) {
	form := r.PostForm
	c, _ := s.calls.get(form.Get("CallSid"), time.Now())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.learn(form)
	c.inTalk = false
	defer s.store(c, r) // an error must not keep the caller waiting: what is pending goes with the next request
	switch form.Get("SessionStatus") {
	case "ended":
		var h handoff
		if err := json.Unmarshal([]byte(form.Get("HandoffData")), &h); err != nil || h.Transfer == "" {
			c.record.EndedBy, c.record.EndReason = "agent", h.Reason
			s.answer(w, response{})
			return
		}
		to, ok := s.transfers[h.Transfer]
		if !ok {
			s.log.Warn("the agent wants to transfer to somebody unknown: see -transfer", "call", c.sid, "to", h.Transfer)
			s.talk(w, c, s.unreachable)
			return
		}
		s.transfer(w, c, to, form.Get("SessionId"), h.Reason)
	case "failed":
		s.log.Error("the agent's session failed", "call", c.sid, "code", form.Get("ErrorCode"), "error", form.Get("ErrorMessage"))
		c.record.EndedBy, c.record.EndReason, c.record.Error = "system", "agent_failed", form.Get("ErrorMessage")
		s.answer(w, response{Say: "I am sorry, something went wrong. Please call again."})
	default: // completed: the caller hung up
		c.record.EndedBy = "caller"
		s.answer(w, response{})
	}
}

// transfer dials a number for the caller. For the same session, when Twilio repeats
// itself, it is the same transfer.
func (s *server) transfer(w http.ResponseWriter, c *call, to, session, reason string) {
	i, repeated := c.dialled[session]
	if !repeated {
		now := time.Now()
		i = len(c.record.Transfers)
		c.dialled[session] = i
		c.record.Transfers = append(slices.Clone(c.record.Transfers), callhook.Transfer{
			To: to, Type: "cold", Status: callhook.StatusTransferStarted, Reason: reason, StartedAt: now,
		})
		c.tell(s.hooks, change{key: fmt.Sprint("transfer ", i), status: callhook.StatusTransferStarted, reason: reason, at: now})
	}
	which := "?transfer=" + strconv.Itoa(i)
	s.answer(w, response{Dial: &dial{
		Action: s.publicURL + "/dial-ended" + which, Timeout: 30,
		Number: number{Callback: s.publicURL + "/dial-answered" + which, Events: "answered", Number: to},
	}})
}

// dialAnswered is told when somebody takes the transferred call.
func (s *server) dialAnswered(w http.ResponseWriter, r *http.Request) {
	c, _ := s.calls.get(r.PostForm.Get("ParentCallSid"), time.Now()) // CallSid is that of the call to them
	c.mu.Lock()
	defer c.mu.Unlock()
	s.transferred(c, r, callhook.StatusTransferConnected, "", timestamp(r.PostForm))
	s.done(w, s.store(c, r))
}

// dialEnded is told when the transfer is over, or has failed: then the caller gets the
// agent back.
func (s *server) dialEnded(w http.ResponseWriter, r *http.Request) {
	form := r.PostForm
	c, _ := s.calls.get(form.Get("CallSid"), time.Now())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.learn(form)
	said := form.Get("DialCallStatus")
	status, ok := transferStatuses[said]
	if !ok {
		status = callhook.StatusTransferFailed
	}
	reason := ""
	if status != callhook.StatusTransferConnected {
		reason = strings.ReplaceAll(said, "-", "_")
	}
	s.transferred(c, r, status, reason, time.Now())
	defer s.store(c, r)
	if status == callhook.StatusTransferFailed {
		s.talk(w, c, s.unreachable)
		return
	}
	if status == callhook.StatusTransferConnected {
		c.record.EndReason = "transferred"
	}
	s.answer(w, response{})
}

// transferred says what became of a transfer, once.
func (s *server) transferred(c *call, r *http.Request, status callhook.Status, reason string, at time.Time) {
	i, err := strconv.Atoi(r.URL.Query().Get("transfer")) // signed, like all of the URL
	key := fmt.Sprint("transfer ", i, " over")
	if err != nil || c.told[key] {
		return
	}
	c.record.Transfers = slices.Clone(c.record.Transfers)
	if i >= 0 && i < len(c.record.Transfers) { // else the server has forgotten it
		t := &c.record.Transfers[i]
		t.Status, t.EndedAt = status, at
		if reason != "" {
			t.Reason = reason
		}
	}
	c.tell(s.hooks, change{key: key, status: status, reason: reason, at: at})
}

// status is told how the call stands. When it is over, its data is sent.
func (s *server) status(w http.ResponseWriter, r *http.Request) {
	form := r.PostForm
	status, ok := statuses[form.Get("CallStatus")]
	if !ok {
		s.log.Warn("Twilio tells a status that is not known", "status", form.Get("CallStatus"))
		s.done(w, nil)
		return
	}
	c, begun := s.calls.get(form.Get("CallSid"), time.Now())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.learn(form)
	n, err := strconv.Atoi(form.Get("SequenceNumber"))
	if err != nil {
		n = c.next
	}
	if begun { // an outbound call's first word; of an inbound one voice would know
		c.whole = c.record.Direction == callhook.Outbound && n == 0 && !status.Terminal()
	}
	c.turn(r.Context(), n, status.Terminal(), s.patience, func() {
		s.log.Info("a status callback waits for one before it", "call", c.sid, "sequence", n)
	})
	late := n < c.next
	c.whole = c.whole && n <= c.next
	c.next = max(c.next, n+1)

	at, rec := timestamp(form), &c.record
	switch {
	case status.Terminal():
		s.hungUp(rec, form, status, at)
	case status == callhook.StatusInProgress:
		rec.AnsweredAt = at
	case rec.StartedAt.IsZero():
		rec.StartedAt = at
	}
	c.tell(s.hooks, change{
		key:    fmt.Sprint("status ", n, " ", status),
		status: status, reason: cause(form), at: at, late: late,
	})
	if status.Terminal() {
		c.end(s.hooks)
	}
	s.done(w, s.store(c, r))
}

// hungUp takes over when and why a call ended. Twilio's times are whole seconds.
func (s *server) hungUp(rec *callhook.Call, form url.Values, status callhook.Status, at time.Time) {
	for _, before := range []time.Time{rec.StartedAt, rec.AnsweredAt} {
		if at.Before(before) {
			at = before
		}
	}
	rec.EndedAt = at
	if talked, err := strconv.Atoi(form.Get("CallDuration")); err == nil && talked > 0 && rec.AnsweredAt.IsZero() {
		rec.AnsweredAt = at.Add(-time.Duration(talked) * time.Second)
	}
	if rec.StartedAt.IsZero() {
		rec.StartedAt = rec.AnsweredAt
	}
	if rec.EndReason == "" {
		rec.EndReason = string(status)
	}
}

// cause is the SIP status of a call that did not come about; of others it says nothing.
func cause(form url.Values) string {
	if code := form.Get("SipResponseCode"); code != "" && code != "200" {
		return "SIP " + code
	}
	return ""
}

// timestamp is when Twilio says that it happened.
func timestamp(form url.Values) time.Time {
	if at, err := mail.ParseDate(form.Get("Timestamp")); err == nil { // RFC 2822
		return at
	}
	return time.Now()
}

// store stores what is pending. The caller holds c.mu.
func (s *server) store(c *call, r *http.Request) error {
	err := c.store(r.Context())
	if err != nil {
		s.log.Error("an event was not stored and stays pending", "call", c.sid, "error", err)
	}
	return err
}

// done answers a callback that wants no TwiML. After a 503 Twilio repeats it, where its
// URL says so: see README.md.
func (s *server) done(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, "not stored, please repeat", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// answer writes TwiML.
func (s *server) answer(w http.ResponseWriter, doc response) {
	raw, err := doc.document()
	if err != nil {
		s.log.Error("no TwiML", "error", err)
		http.Error(w, "no TwiML", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/xml")
	_, _ = w.Write(raw)
}
