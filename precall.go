package callhook

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/callhook-go/callhook/internal/egress"
	"github.com/callhook-go/callhook/internal/template"
)

// PreCallResult is what a lookup gave. Its Variables can always be used.
type PreCallResult struct {
	// Variables are the conversation's: declared defaults, over them the call's,
	// over them the reply's. Never nil.
	Variables Variables
	// Secrets are those that the config declares secret, kept apart so that they
	// do not reach a prompt or a payload.
	Secrets Variables
	// Revision is that of the config that was used.
	Revision int
	// Outcome says in a word how it went.
	Outcome Outcome
	// Err says why no reply was used, where that is not as it should be: with
	// timeout and failed always, with skipped when the agent has no config
	// ([ErrNoConfig]), and with empty when there was more than one match
	// ([ErrNotUnique]). It is nil otherwise.
	Err error
	// Changes tell what became of every variable and directive. They hold no
	// values.
	Changes []Change
	// Directives are what the reply asked for and the config allows.
	Directives Directives
	// Dialect is the shape that the reply was recognized as; empty for none, and
	// where the config says what the reply means.
	Dialect string
	// Status is the HTTP status of the answer; zero for none.
	Status int
	// Reply is the endpoint's answer, when it was JSON.
	Reply json.RawMessage
	// Elapsed is how long the verb took.
	Elapsed time.Duration
	// Attempts is how many requests were made.
	Attempts int
	// Late is for an answer that comes after the time was up. It is never nil, and
	// closed when nothing (more) comes; no webhook waits for late answers yet, so
	// it is closed always.
	Late <-chan *PreCallResult

	replied bool
}

// Outcome says in a word how a lookup went.
type Outcome string

// The outcomes of a lookup. Cached, stale and open are for what lookups cannot do
// yet.
const (
	OutcomeApplied Outcome = "applied" // the reply gave variables
	OutcomeEmpty   Outcome = "empty"   // the reply gave none: nobody by that number
	OutcomeCached  Outcome = "cached"  // an earlier reply was used
	OutcomeStale   Outcome = "stale"   // an old reply was used, since no new one came
	OutcomeTimeout Outcome = "timeout" // no reply came in time
	OutcomeFailed  Outcome = "failed"  // the request or its answer failed
	OutcomeOpen    Outcome = "open"    // not asked: the endpoint is known to be down
	OutcomeSkipped Outcome = "skipped" // not asked: no lookup is configured for this call
)

// StatusError is the error of an answer that is neither a success nor a 404.
type StatusError struct {
	Status int // the HTTP status
}

// Error tells the status.
func (e *StatusError) Error() string {
	return fmt.Sprintf("callhook: the endpoint answered %d %s", e.Status, http.StatusText(e.Status))
}

// Apply writes the variables and the config's revision into the call, so that
// later events carry them. Secret variables are taken out of it.
func (r *PreCallResult) Apply(c *Call) {
	if c == nil {
		return
	}
	c.Variables = maps.Clone(r.Variables)
	if r.Revision != 0 {
		c.ConfigRevision = r.Revision
	}
}

// closed is the Late of lookups that wait for no late answer.
var closed = func() chan *PreCallResult { c := make(chan *PreCallResult); close(c); return c }()

// preCall is a compiled [PreCallWebhook].
type preCall struct {
	*endpoint
	template   *template.Node // the request's body; nil for none
	payload    *body          // or the envelope
	directions []Direction
	response   response
}

func (c *compiler) preCall(w *PreCallWebhook) *preCall {
	const at = "pre_call"
	c.paths = nil
	p := &preCall{endpoint: c.endpoint(&w.Endpoint, TypePreCall, at, w.Query, http.MethodPost, http.MethodGet)}
	switch {
	case len(w.Body) == 0 && p.method == http.MethodPost:
		p.payload = c.payload(new(Payload), TypePreCall, at, defaultMaxBytes)
	case p.method == http.MethodGet && len(w.Body) > 0:
		c.fault(at+".body", `a GET has no body: use "query", or "method": "POST"`)
	case len(w.Body) > 0:
		p.template = template.ParseJSON(w.Body, c.scope(TypePreCall), func(place string, err error) { c.fault(at+".body"+place, "%s", err) })
	}
	for i, d := range w.Directions {
		if !slices.Contains([]Direction{Inbound, Outbound, Web}, d) {
			c.fault(fmt.Sprintf("%s.directions[%d]", at, i), "%q is not a direction: use inbound, outbound or web", d)
		}
	}
	if p.directions = w.Directions; len(p.directions) == 0 {
		p.directions = []Direction{Inbound}
	}
	p.response = c.response(&w.Response, at+".response")
	p.paths = c.paths
	return p
}

// PreCall asks the agent's pre-call webhook who is calling. It returns within the
// webhook's timeout (default 2s, which covers DNS, connect, TLS, headers, body
// and every attempt) and within ctx, whatever the endpoint does, and always with
// variables that can be used. It has no error to check, so that no runtime ends
// a call over it; [PreCallResult.Err] says why it fell back, if it did.
//
// It looks up inbound calls unless the config says otherwise, makes one more
// attempt only when the connection could not be made and there is time left, and
// treats what comes back as untrusted text. It is safe for concurrent use.
func (h *Hooks) PreCall(ctx context.Context, call *Call) *PreCallResult {
	start := time.Now()
	res := &PreCallResult{Variables: Variables{}, Outcome: OutcomeSkipped, Late: closed}
	if call != nil && call.Variables != nil {
		res.Variables = maps.Clone(call.Variables)
	}
	if h.trace.PreCallStart != nil {
		ctx = h.begin(ctx, func() context.Context { return h.trace.PreCallStart(ctx, call) })
	}
	if err := h.survive(func() { h.personalise(ctx, call, start, res) }); err != nil {
		res.Outcome, res.Err = OutcomeFailed, err
	}
	res.Elapsed = time.Since(start)
	h.stats.preCall(res)
	if h.trace.PreCallDone != nil {
		_ = h.survive(func() { h.trace.PreCallDone(ctx, call, res) })
	}
	return res
}

// personalise fills in res, first with what there is without an answer.
func (h *Hooks) personalise(ctx context.Context, call *Call, start time.Time, res *PreCallResult) {
	if res.Err = call.check("PreCall"); res.Err != nil {
		res.Outcome = OutcomeFailed
		return
	}
	a, err := h.agents.find(ctx, ConfigRef{call.TenantID, call.AgentID, call.ConfigRevision})
	if err != nil {
		res.Err = err
		if !errors.Is(err, ErrNoConfig) {
			res.Outcome = OutcomeFailed
		}
		return
	}
	res.Revision = a.config.Revision
	a.merge(call.Variables, nil, res)
	p := a.preCall
	if p == nil || p.paused || !slices.Contains(p.directions, cmp.Or(call.Direction, Inbound)) {
		return
	}
	if h.closed.Load() {
		res.Outcome, res.Err = OutcomeFailed, ErrClosed
		return
	}
	ctx, cancel := context.WithDeadline(ctx, start.Add(p.timeout))
	defer cancel()
	deadline, _ := ctx.Deadline() // the caller's, where that is earlier
	answer, err := h.lookUp(ctx, a, call, res)
	var refusal *StatusError
	switch {
	case err == nil:
		res.Changes = nil
		a.merge(call.Variables, answer.entries, res)
		res.Changes = append(res.Changes, answer.changes...)
		res.Directives, res.Dialect, res.Reply = answer.directives, answer.dialect, answer.raw
		if res.Outcome = OutcomeEmpty; res.replied {
			res.Outcome = OutcomeApplied
		}
	case errors.Is(err, ErrNotUnique):
		res.Outcome, res.Err, res.Reply = OutcomeEmpty, err, answer.raw
	case !time.Now().Before(deadline) && !errors.As(err, &refusal): // ctx itself may be a moment behind
		res.Outcome = OutcomeTimeout
		res.Err = fmt.Errorf("callhook: no answer within %s: %w", deadline.Sub(start).Round(time.Millisecond), context.DeadlineExceeded)
	default:
		res.Outcome, res.Err = OutcomeFailed, err
	}
}

// body builds the request's body; nil for a GET.
func (p *preCall) body(r *rendering) ([]byte, error) {
	switch {
	case p.payload != nil:
		return p.payload.build(r, 0)
	case p.template != nil:
		return p.template.Append(make([]byte, 0, 512), r)
	}
	return nil, nil
}

// lookUp makes the request and understands the reply.
func (h *Hooks) lookUp(ctx context.Context, a *agent, call *Call, res *PreCallResult) (answer reading, err error) {
	p := a.preCall
	secrets, err := p.resolve(ctx, h.secrets)
	if err != nil {
		return answer, err
	}
	r := a.render(call, p.ref.Webhook, EventInbound, call.StartedAt, "inbound")
	body, err := p.body(r)
	if err != nil {
		return answer, err
	}
	req, err := p.request(ctx, r.event.ID, body, r.text, secrets)
	if err != nil {
		return answer, err
	}
	resp, err := h.exchange(ctx, req, res)
	if err != nil {
		return answer, err
	}
	defer resp.Body.Close()
	res.Status = resp.StatusCode
	if resp.StatusCode == http.StatusNotFound { // nobody by that number
		egress.Drain(resp)
		return answer, nil
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		egress.Drain(resp)
		return answer, &StatusError{resp.StatusCode}
	}
	reply, truncated, err := egress.ReadBody(resp, maxReplyBytes)
	if err != nil {
		return answer, transportError(err)
	}
	if truncated {
		return answer, fmt.Errorf("%w: it is larger than %d bytes", ErrBadReply, maxReplyBytes)
	}
	return p.response.read(ctx, resp.Header.Get("Content-Type"), reply)
}

// exchange makes the request, and makes it once more when no connection could be
// made and most of the time is left.
func (h *Hooks) exchange(ctx context.Context, req *http.Request, res *PreCallResult) (*http.Response, error) {
	start := time.Now()
	deadline, _ := ctx.Deadline()
	for {
		res.Attempts++
		resp, err := h.client.Do(req)
		if err == nil {
			return resp, nil
		}
		if res.Attempts > 1 || ctx.Err() != nil || !egress.IsConnectError(err) || time.Since(start) > deadline.Sub(start)/2 {
			return nil, transportError(err)
		}
		if req.GetBody != nil {
			req.Body, _ = req.GetBody()
		}
	}
}

// TransportError is the error of a request that got no answer. Its text holds
// neither the URL nor a secret.
type TransportError struct{ err error }

func transportError(err error) error { return &TransportError{err} }

// Error tells what happened, like "connection refused" or "timed out".
func (e *TransportError) Error() string { return "callhook: " + egress.Describe(e.err) }

// Unwrap returns the error of the transport.
func (e *TransportError) Unwrap() error { return e.err }
