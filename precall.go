package callhook

import (
	"bytes"
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
	// timeout and failed always, with stale unless a newer one is being looked for,
	// with skipped when the agent has no config ([ErrNoConfig]), and with empty when
	// there was more than one match ([ErrNotUnique]). It is nil otherwise.
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
	// Attempts is how many requests were made, and Hedges how many of them were
	// second ones beside a slow first. Timing is that of the request whose answer
	// was used. A request may be shared with other calls.
	Attempts, Hedges int
	Timing           Timing
	// Missing names the variables that response.required asks for and that have no
	// value, neither from the reply nor from the call nor a default.
	Missing []string
	// Late is for an answer that comes after the time was up, where the webhook has
	// "late_for": it gets at most one result, merged by the same rules, and is
	// closed when nothing (more) comes. It is never nil, and need not be read.
	Late <-chan *PreCallResult `json:"-"`
}

// String returns one line for a log: the outcome and how it came about, without
// anything that the call or the reply said.
func (r *PreCallResult) String() string {
	b := fmt.Appendf(nil, "%s in %s", r.Outcome, r.Elapsed.Round(100*time.Microsecond))
	if r.Status != 0 {
		b = fmt.Appendf(b, ", status %d", r.Status)
	}
	if r.Dialect != "" {
		b = fmt.Appendf(b, ", dialect %s", r.Dialect)
	}
	if r.Attempts > 0 {
		b = fmt.Appendf(b, ", attempts %d", r.Attempts)
	}
	if r.Hedges > 0 {
		b = fmt.Appendf(b, " (hedges %d)", r.Hedges)
	}
	for _, part := range []struct {
		name string
		took time.Duration
	}{{"dns", r.Timing.DNS}, {"connect", r.Timing.Connect}, {"tls", r.Timing.TLS}, {"first byte", r.Timing.FirstByte}, {"body", r.Timing.Body}} {
		if part.took > 0 {
			b = fmt.Appendf(b, ", %s %s", part.name, part.took.Round(100*time.Microsecond))
		}
	}
	counts := map[Action]int{}
	reasons := map[Reason]int{}
	for _, c := range r.Changes {
		if c.From == OriginDefault || c.From == OriginCall {
			continue // what the reply did is told
		}
		counts[c.Action]++
		if c.Reason != "" {
			reasons[c.Reason]++
		}
	}
	for _, action := range []Action{ActionSet, ActionOverrode, ActionDropped} {
		if n := counts[action]; n > 0 {
			b = fmt.Appendf(b, ", %s %d", action, n)
		}
	}
	for i, reason := range slices.Sorted(maps.Keys(reasons)) {
		b = fmt.Appendf(b, "%s%s %d", []string{" (", ", "}[min(i, 1)], reason, reasons[reason])
		if i == len(reasons)-1 {
			b = append(b, ')')
		}
	}
	if n := len(r.Missing); n > 0 {
		b = fmt.Appendf(b, ", missing %d", n)
	}
	if r.Err != nil {
		b = fmt.Appendf(b, ": %s", clean(plainText(r.Err))) // the host's may have more than a line
	}
	return string(b)
}

// Outcome says in a word how a lookup went.
type Outcome string

// The outcomes of a lookup.
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
// later events carry them. Secret variables go to its Secrets.
func (r *PreCallResult) Apply(c *Call) {
	if c == nil {
		return
	}
	c.Variables = maps.Clone(r.Variables)
	if len(r.Secrets) > 0 {
		secrets := maps.Clone(c.Secrets)
		if secrets == nil {
			secrets = Variables{}
		}
		maps.Copy(secrets, r.Secrets)
		c.Secrets = secrets
	}
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

	hedgeAfter      time.Duration
	hedgeShare      float64
	cache, staleFor time.Duration
	cacheKey        []template.Part
	lateFor         time.Duration
	skipWithheld    bool
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
	c.patience(p, w, at)
	p.paths = c.paths
	return p
}

// PreCall asks the agent's pre-call webhook who is calling. It returns within the
// webhook's timeout (default 2s, which covers DNS, connect, TLS, headers, body
// and every attempt) and within ctx, whatever the endpoint does, and always with
// variables that can be used. It has no error to check, so that no runtime ends
// a call over it; [PreCallResult.Err] says why it fell back, if it did. Where this
// process has never had the agent's config, it is waited for first, at most 2 s: see
// [ConfigSource].
//
// It looks up inbound calls unless the config says otherwise, makes one more
// attempt only when the connection could not be made and there is time left, and
// treats what comes back as untrusted text. Calls that ask the same at the same
// time share one request. An endpoint that fails, or seldom answers in time, is
// not asked for a while: see [OutcomeOpen]. It is safe for concurrent use.
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

// personalise fills in res.
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
	answered := false
	defer func() {
		if !answered { // also after a panic
			a.merge(call.Variables, reading{}, res)
		}
	}()
	p := a.preCall
	if p == nil || p.paused || !slices.Contains(p.directions, cmp.Or(call.Direction, Inbound)) || p.skipWithheld && Withheld(call.customer()) {
		return
	}
	if h.closed.Load() {
		res.Outcome, res.Err = OutcomeFailed, ErrClosed
		return
	}
	ctx, cancel := context.WithDeadline(ctx, start.Add(p.timeout))
	defer cancel()
	answer, err := h.lookUp(ctx, a, h.normal(call), res, start)
	switch {
	case err == nil:
		answered = true
		a.merge(call.Variables, answer, res)
	case errors.Is(err, ErrNotUnique):
		res.Outcome, res.Err, res.Reply = OutcomeEmpty, err, bytes.Clone(answer.raw)
	case res.Outcome == OutcomeSkipped: // nothing said more
		res.Outcome, res.Err = OutcomeFailed, err
	}
}

// lookUp returns the reply about the call, and sets the outcome and what led to it.
func (h *Hooks) lookUp(ctx context.Context, a *agent, call *Call, res *PreCallResult, start time.Time) (reading, error) {
	p := a.preCall
	q, err := p.question(a, call)
	if err != nil {
		return reading{}, err
	}
	var kept *cached
	if q.key != "" && p.cache+p.staleFor > 0 {
		kept = h.lookups.cache.get(lookupKey{p, q.key}, start)
	}
	if kept != nil {
		switch fresh, _ := kept.age(start); {
		case fresh:
			res.Outcome, res.Status = OutcomeCached, kept.status
			return kept.answer, nil
		case p.cache > 0: // it serves while somebody looks
			_, _, res.Err = h.lookups.join(ctx, q, true)
			res.Outcome, res.Status = OutcomeStale, kept.status
			return kept.answer, nil
		}
	}
	answer, err := h.wait(ctx, a, call, q, res, start)
	if err != nil && kept != nil && !errors.Is(err, ErrNotUnique) {
		res.Outcome, res.Err, res.Status = OutcomeStale, err, kept.status
		return kept.answer, nil
	}
	return answer, err
}

// wait asks, or joins who asks already, until there is an answer or the time is up.
func (h *Hooks) wait(ctx context.Context, a *agent, call *Call, q *question, res *PreCallResult, start time.Time) (reading, error) {
	deadline, _ := ctx.Deadline() // the caller's, where that is earlier
	if err := ctx.Err(); err != nil && time.Now().Before(deadline) {
		return reading{}, &TransportError{err} // the caller has hung up
	}
	for {
		f, joined, err := h.lookups.join(ctx, q, false)
		if err != nil {
			if errors.Is(err, errOpen) {
				res.Outcome = OutcomeOpen
			}
			return reading{}, err
		}
		select {
		case <-f.done:
			h.lookups.leave(f, false, nil)
			var refusal *StatusError
			late := !time.Now().Before(deadline) // ctx itself may be a moment behind
			switch {
			case f.err == nil || errors.As(f.err, &refusal):
			case late:
				h.overdue(f, res, start, deadline)
				return reading{}, res.Err
			case joined && errors.Is(f.err, context.DeadlineExceeded):
				continue // the time of who asked is up, and ours is not
			}
			res.took(f)
			if f.err == nil {
				res.Outcome = OutcomeEmpty // unless variables come out of it
			}
			return f.answer, f.err
		case <-ctx.Done():
			h.overdue(f, res, start, deadline)
			if hungUp := time.Now().Before(deadline); hungUp {
				h.lookups.leave(f, false, nil)
				res.Outcome, res.Err = OutcomeFailed, &TransportError{ctx.Err()}
				return reading{}, res.Err
			}
			then, late := h.awaits(a, call, start)
			budget := a.preCall.timeout // it was the endpoint that took it, and not the config source
			overdue := time.Since(start) >= budget && float64(time.Since(f.start)) > slowPart*float64(budget)
			if !h.lookups.leave(f, overdue, then) {
				late = closed
			}
			res.Late = late
			return reading{}, res.Err
		}
	}
}

// errOpen says that the endpoint was not asked, where an old reply is used instead.
// Else the outcome says it.
var errOpen = errors.New("callhook: the endpoint is down and was not asked")

// overdue says that the time is up.
func (h *Hooks) overdue(f *flight, res *PreCallResult, start, deadline time.Time) {
	res.Outcome = OutcomeTimeout
	res.saw(f)
	if code := res.Status; code != 0 && code != http.StatusNotFound && (code < 200 || code > 299) { // it only was not read to its end
		res.Outcome, res.Err = OutcomeFailed, &StatusError{code}
		return
	}
	res.Err = fmt.Errorf("callhook: no answer within %s: %w", deadline.Sub(start).Round(time.Millisecond), context.DeadlineExceeded)
}

func (r *PreCallResult) saw(f *flight) {
	r.Attempts, r.Hedges, r.Status = int(f.attempts.Load()), int(f.hedges.Load()), int(f.status.Load())
}

// took takes over what a request that ended tells of itself.
func (r *PreCallResult) took(f *flight) {
	r.saw(f)
	r.Status = f.found.status // and not that of the request that was slower
	r.Timing = Timing{f.timing.DNS, f.timing.Connect, f.timing.TLS, f.timing.FirstByte, f.body}
}

// awaits returns what makes a result of a late answer, merged as one in time would
// have been, and where it arrives; nil where the config does not want it.
func (h *Hooks) awaits(a *agent, call *Call, start time.Time) (then func(*flight), late chan *PreCallResult) {
	if a.preCall.lateFor == 0 {
		return nil, closed
	}
	late = make(chan *PreCallResult, 1)
	variables := unshared(map[string]any(call.Variables)).(map[string]any) // the call goes on
	return func(f *flight) {
		defer close(late)
		if f.err != nil {
			return
		}
		r := &PreCallResult{Revision: a.config.Revision, Outcome: OutcomeEmpty, Late: closed}
		r.took(f)
		if h.survive(func() { a.merge(variables, f.answer, r) }) == nil {
			r.Elapsed = time.Since(start)
			late <- r
		}
	}, late
}

// patience compiles what says how long a reply is worth waiting for, and how long it
// is worth keeping.
func (c *compiler) patience(p *preCall, w *PreCallWebhook, at string) {
	within := func(d Duration, most time.Duration, at string) time.Duration {
		if d < 0 || time.Duration(d) > most {
			c.fault(at, "%s is not possible: it must be more than 0 and at most %s", d, Duration(most))
		}
		return time.Duration(d)
	}
	most := p.timeout
	if most < 0 { // a fault of its own
		most = time.Minute
	}
	p.hedgeAfter = within(w.HedgeAfter, most, at+".hedge_after")
	if p.hedgeAfter > 0 && p.method != http.MethodGet && !w.Idempotent {
		c.fault(at+".hedge_after", `it may send a POST twice: say "idempotent": true if that does no harm, or leave it out`)
	}
	if p.hedgeShare = w.HedgeShare; p.hedgeShare == 0 {
		p.hedgeShare = hedgeShare
	} else if !(p.hedgeShare > 0 && p.hedgeShare <= 1) {
		c.fault(at+".hedge_share", "%g is not possible: it must be more than 0 and at most 1, the share of lookups that may be sent twice", p.hedgeShare)
	}
	p.cache = within(w.Cache, 24*time.Hour, at+".cache")
	p.staleFor = within(w.StaleFor, 24*time.Hour, at+".stale_for")
	p.lateFor = within(w.LateFor, maxLateTime, at+".late_for")
	if w.CacheKey != "" {
		parts, err := template.ParseText(w.CacheKey, c.scope(TypePreCall), template.Options{})
		if err != nil {
			c.fault(at+".cache_key", "%s", err)
		}
		p.cacheKey = parts
	}
	switch w.Withheld {
	case "", WithheldSend:
	case WithheldSkip:
		p.skipWithheld = true
	default:
		c.fault(at+".withheld", `%.40q is not possible: "send" looks up callers without a number too, "skip" does not`, w.Withheld)
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

// TransportError is the error of a request that got no answer. Its text holds
// neither the URL nor a secret.
type TransportError struct{ err error }

func transportError(err error) error { return &TransportError{err} }

// Error tells what happened, like "connection refused" or "timed out".
func (e *TransportError) Error() string { return "callhook: " + egress.Describe(e.err) }

// Unwrap returns the error of the transport.
func (e *TransportError) Unwrap() error { return e.err }
