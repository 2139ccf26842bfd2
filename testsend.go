package callhook

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/callhook-go/callhook/internal/egress"
	"github.com/callhook-go/callhook/internal/template"
	"github.com/tidwall/gjson"
)

// HeaderTest is set to "true" in each request of [Hooks.TestSend], and in no other.
const HeaderTest = "callhook-test"

// TestResult is what came of [Hooks.TestSend].
type TestResult struct {
	// Request is what was sent, byte for byte, but for secrets, which are "***".
	Request *Preview
	// Attempt tells when it was sent, to which address, where the time went, and the
	// status and the beginning of the answer, without the request's secrets.
	Attempt
	// OK says that production would go on as it should: the event would count as
	// delivered, or the lookup as answered.
	OK bool
	// Meaning says in a few words what production would make of the answer.
	Meaning string
	// PreCall is what a lookup would give the agent; nil for other webhooks.
	PreCall *PreCallResult
}

// TestSend sends the request of one webhook of a config once, and returns the whole
// exchange: to try out a draft. The config must be valid, and need not be published.
// Without a call (nil) it takes a sample that the webhook would be told of, see
// [SampleCall].
//
// The request is made as in production: to the same addresses and no other, signed,
// with the secrets that [Options.Secrets] gives for the config, within the webhook's
// timeout and within ctx. So whoever may test a draft can send those secrets to its
// URL, as with publishing: a resolver looks at [SecretRef] Origin. It is marked: by the header callhook-test: true in each
// case, and where the body is the envelope by "test": true beside its type too. Its id
// is new each time, so that a receiver does not take the real event for a repetition.
//
// It is not tried again, not stored, cached or shared, and waits for nothing that the
// webhook's lane waits for. No breaker, count or trace hears of it, and a webhook that
// is paused is tried all the same.
//
// What the endpoint does is no error; the errors are those of [Config.Preview], and
// [ErrClosed].
func (h *Hooks) TestSend(ctx context.Context, cfg *Config, webhook string, call *Call) (*TestResult, error) {
	if h.closed.Load() {
		return nil, ErrClosed
	}
	t, err := newTrial(cfg, webhook, call)
	if err != nil {
		return nil, err
	}
	t.call = h.normal(t.call)
	if err := t.mark(h.queue.Limits().MaxBody); err != nil {
		return nil, err
	}
	r := new(TestResult)
	if r.Request, err = t.preview(); err != nil {
		return nil, err
	}
	err = h.survive(func() {
		if t.lookup != nil {
			h.tryLookup(ctx, t, r)
		} else {
			h.tryDelivery(ctx, t, r)
		}
	})
	if err != nil { // a function of the host's panicked
		r.Error = plainText(err)
		r.OK, r.Meaning = false, r.Error
	}
	if c, size := utf8.DecodeRuneInString(r.Meaning); size > 0 {
		r.Meaning = string(unicode.ToUpper(c)) + r.Meaning[size:] + "."
	}
	return r, nil
}

// mark builds the request as one that is only a test.
func (t *trial) mark(limit int) error {
	if err := t.build(limit); err != nil { // for the event
		return err
	}
	t.rendering.event.ID = deliveryID("test", rand.Text())
	t.rendering.below = nil
	if err := t.build(limit); err != nil {
		return err
	}
	if t.envelope && len(t.body) > 0 && !gjson.GetBytes(t.body, "test").Exists() {
		t.body = append(t.body[:len(t.body)-1:len(t.body)-1], `,"test":true}`...)
	}
	t.headers = append(t.headers[:len(t.headers):len(t.headers)], header{canonicalTest, []template.Part{{Literal: "true"}}})
	return nil
}

// send makes the request, on a connection of its own. The error of one that could
// not be sent wraps errUnsent.
func (h *Hooks) send(ctx context.Context, t *trial, a *Attempt) (resp *http.Response, hidden func() []string, err error) {
	req, err := h.prepare(ctx, t.endpoint, outgoing{id: t.rendering.event.ID, body: t.body, values: t.rendering.text, call: t.call.ID, secrets: t.endpoint.givenBy(t.call)})
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errUnsent, err)
	}
	client := req.client.Fresh()
	var timing egress.Timing
	resp, err = client.DoTimed(req.Request, &timing)
	a.Timing = Timing{DNS: timing.DNS, Connect: timing.Connect, TLS: timing.TLS, FirstByte: timing.FirstByte}
	a.Remote = timing.Remote
	if err != nil {
		client.CloseIdle()
		return nil, nil, transportError(err)
	}
	resp.Body = &lastBody{resp.Body, client}
	t.answered(resp.StatusCode)
	a.Status, a.ClockSkew = resp.StatusCode, clockSkew(resp.Header, time.Now())
	return resp, req.hidden, nil
}

var errUnsent = errors.New("nothing was sent")

// lastBody closes the connection after the only answer on it.
type lastBody struct {
	io.ReadCloser
	client *egress.Client
}

func (b *lastBody) Close() error { defer b.client.CloseIdle(); return b.ReadCloser.Close() }

// tryDelivery sends t once, as [Hooks.attempt] does a delivery.
func (h *Hooks) tryDelivery(ctx context.Context, t *trial, r *TestResult) {
	w := t.delivery
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	r.At = time.Now()
	defer func() { r.Elapsed = time.Since(r.At) }()
	resp, hidden, err := h.send(ctx, t, &r.Attempt)
	if err != nil {
		r.Error = plainText(err)
		var blocked *egress.BlockedError
		switch {
		case errors.Is(err, errUnsent):
			r.Meaning = r.Error + ". In production its events would wait until that is mended"
		case errors.As(err, &blocked) && blocked.Literal:
			r.Meaning = r.Error + ": nothing is ever sent there. In production each event would be a dead letter at once"
		default:
			r.Meaning = r.Error + ". " + w.again()
		}
		return
	}
	defer resp.Body.Close()
	now, matters := time.Now(), w.success.reads(resp.StatusCode)
	reply, err := readReply(resp, matters, cancel)
	r.Body, r.Reply = time.Since(now), excerpt(reply, hidden)
	if err != nil && matters {
		r.Error = plainText(transportError(err))
		r.Meaning = r.Error + ". " + w.again()
		return
	}
	m := judge(w, resp.StatusCode, resp.Header, reply, now)
	if m.kind == success {
		r.OK, r.Meaning = true, "the endpoint took it: in production the event would be delivered"
		return
	}
	r.Error = m.text(resp.StatusCode)
	r.Meaning = r.Error + ". " + w.would(m)
}

// would says what production does after an answer that is no success.
func (w *webhook) would(m meaning) string {
	switch m.kind {
	case rejected:
		return fmt.Sprintf("It refuses this event: in production it would be tried %d times in an hour, and then be a dead letter", maxRejections)
	case tooLarge:
		if m.retryAfter == 0 {
			return "The request is too large for it: in production it would be a dead letter at once. Select fewer fields, or set max_bytes"
		}
	case gone:
		return "It says that it is gone: in production the webhook would rest until its config changes, or somebody resumes it"
	case postponed:
		pause := "a while"
		if m.retryAfter > 0 {
			pause = Duration(m.retryAfter).String()
		}
		return "In production the webhook would rest for " + pause + ", and its events would wait"
	}
	return w.again()
}

func (w *webhook) again() string {
	if w.retry.MaxAttempts == 1 {
		return "In production the event would be a dead letter at once, since max_attempts is 1"
	}
	s := fmt.Sprintf("In production it would be tried again after %s, then in longer pauses, for %s", w.retry.Initial, w.retry.MaxAge)
	if w.retry.MaxAttempts > 0 {
		s += fmt.Sprintf(" or %d attempts", w.retry.MaxAttempts)
	}
	return s
}

// tryLookup asks once, as [Hooks.PreCall] does.
func (h *Hooks) tryLookup(ctx context.Context, t *trial, r *TestResult) {
	p := t.lookup
	r.At = time.Now()
	res := &PreCallResult{Revision: t.agent.config.Revision, Outcome: OutcomeFailed, Late: closed}
	var answer reading
	var repeated []string // secrets that the reply repeats
	defer func() {
		t.agent.merge(t.call.Variables, answer, res)
		for name, v := range res.Variables {
			if raw, err := json.Marshal(v); len(repeated) > 0 && err == nil && hide(string(raw), repeated) != string(raw) {
				res.Variables[name] = mask
			}
		}
		r.Elapsed = time.Since(r.At)
		res.Elapsed, res.Timing, res.Status, r.PreCall = r.Elapsed, r.Timing, r.Status, res
		r.OK, r.Meaning = t.verdict(res, r)
	}()
	within, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	fail := func(err error) {
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			err = fmt.Errorf("callhook: no answer within %s: %w", Duration(p.timeout), context.DeadlineExceeded)
			res.Outcome = OutcomeTimeout
		}
		res.Err, r.Error = err, strings.TrimSuffix(plainText(err), ": "+context.DeadlineExceeded.Error())
	}
	resp, hidden, err := h.send(within, t, &r.Attempt)
	if !errors.Is(err, errUnsent) {
		res.Attempts = 1
	}
	if err != nil {
		fail(err)
		return
	}
	defer resp.Body.Close()
	defer func(headers time.Time) { r.Body = time.Since(headers) }(time.Now())
	ok := resp.StatusCode >= 200 && resp.StatusCode <= 299
	if !ok {
		reply, _ := readReply(resp, false, cancel)
		r.Reply = excerpt(reply, hidden)
		if resp.StatusCode == http.StatusNotFound {
			res.Outcome = OutcomeEmpty
			return
		}
		fail(&StatusError{resp.StatusCode})
		return
	}
	reply, truncated, err := egress.ReadBody(resp, maxReplyBytes)
	r.Reply = excerpt(reply, hidden)
	switch {
	case err != nil:
		fail(transportError(err))
		return
	case truncated:
		fail(fmt.Errorf("%w: it is larger than %d bytes", ErrBadReply, maxReplyBytes))
		return
	}
	found, err := p.response.read(within, resp.Header.Get("Content-Type"), reply)
	switch {
	case errors.Is(err, ErrNotUnique):
		res.Outcome, res.Err, res.Reply, r.Error = OutcomeEmpty, err, found.raw, plainText(err)
	case err != nil:
		fail(err)
	default:
		answer, res.Outcome = found, OutcomeEmpty // unless variables come out of it
	}
	if secrets := hidden(); hide(string(reply), secrets) != string(reply) { // it repeats one
		answer.raw = json.RawMessage(`"` + mask + `"`)
		repeated = secrets
	}
}

// verdict says what a lookup's answer would mean.
func (t *trial) verdict(res *PreCallResult, r *TestResult) (ok bool, meaning string) {
	const defaults = "the agent would begin with what it knows and the defaults"
	switch res.Outcome {
	case OutcomeApplied:
		var set, dropped []string
		for _, c := range res.Changes {
			switch {
			case c.From != OriginReply:
			case c.Action == ActionDropped:
				dropped = append(dropped, fmt.Sprintf("%s (%s)", c.Name, c.Reason))
			default:
				set = append(set, c.Name)
			}
		}
		meaning = "the answer gives " + some(set)
		if len(dropped) > 0 {
			meaning += "; not taken: " + some(dropped)
		}
	case OutcomeEmpty:
		switch {
		case res.Err != nil:
			meaning = "there is more than one match, so none is used: " + defaults
		case r.Status == http.StatusNotFound:
			meaning = "404 means that nobody has this number: " + defaults + ". If every number gives that, the URL is wrong"
		case started(gjson.Parse(r.Reply)) || strings.EqualFold(strings.TrimSpace(r.Reply), "accepted"):
			meaning = "the answer says only that a workflow was started: let the workflow answer with its result, or " + defaults
		default:
			meaning = "nothing in the answer is a variable: " + defaults + `. Say in "response" where the values are, if there are any`
		}
	default:
		return false, r.Error + ": " + defaults
	}
	if len(res.Missing) > 0 {
		meaning += "; no value for " + some(res.Missing) + ", which response.required asks for"
	}
	return res.Err == nil, meaning
}

// some joins a few names.
func some(names []string) string {
	const few = 8
	if n := len(names); n > few {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), n-few)
	}
	return strings.Join(names, ", ")
}
