package callhook

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Preview is the request that a webhook would send.
type Preview struct {
	Method string      // GET, POST, PUT or PATCH
	URL    string      // with the call's data in it
	Header http.Header // all that callhook sets, in canonical form
	Body   []byte      // JSON; nil for GET
	// Notes tell what the request does not show: that production would send none for
	// this call, and why, or that the recording's link ends before the retries do.
	Notes []string
}

// Preview returns the request that the webhook of this name would send for the
// call, with secrets shown as "***". It sends nothing. For a post-call webhook
// the event is the one that it waits for. Without a call (nil) a sample is taken that
// the webhook would be told of, see [SampleCall].
//
// The error is a [*ConfigError] for a config that is not valid, wraps
// [ErrInvalidCall] for a call without id or agent, and tells otherwise what of the
// request cannot be built.
func (c *Config) Preview(name string, call *Call) (*Preview, error) {
	t, err := newTrial(c, name, call)
	if err != nil {
		return nil, err
	}
	if err := t.build(0); err != nil {
		return nil, err
	}
	return t.preview()
}

// trial is one request of one webhook that is shown, or sent by hand.
type trial struct {
	*endpoint
	agent     *agent
	lookup    *preCall // or
	delivery  *webhook
	call      *Call
	rendering *rendering
	body      []byte
	envelope  bool // the body is one
	usual     bool // with what is sent where nothing is selected
}

// newTrial finds the webhook of a config that need not be in production.
func newTrial(c *Config, name string, call *Call) (*trial, error) {
	a, err := compile(c)
	if err != nil {
		return nil, err
	}
	t := &trial{agent: a}
	if p := a.preCall; p != nil && p.ref.Webhook == name {
		t.endpoint, t.lookup, t.envelope = p.endpoint, p, p.payload != nil
		if call == nil {
			call = a.sample(TypePreCall, nil, p.directions)
		}
	}
	found := func(w *webhook, p *Payload) {
		if w.name != name {
			return
		}
		t.endpoint, t.delivery, t.envelope = w.endpoint, w, len(p.Template) == 0
		t.usual = t.envelope && len(p.Fields) == 0
		if call == nil {
			call = a.sample(w.typ, w.statuses, nil)
		}
	}
	for i, w := range a.status {
		found(w, &c.CallStatus[i].Payload)
	}
	for i, w := range a.postCall {
		found(w, &c.PostCall[i].Payload)
	}
	if t.endpoint == nil {
		return nil, fmt.Errorf("callhook: the config has no webhook %.80q", name)
	}
	t.call = call
	return t, call.check("a webhook")
}

// build builds the body. limit is the queue's, zero for none.
func (t *trial) build(limit int) (err error) {
	defer func() {
		if p := recover(); p != nil { // MarshalJSON of a type of the host's
			err = fmt.Errorf("callhook: the payload cannot be built: panic: %s", panicText(p))
		}
	}()
	if t.lookup != nil {
		if t.rendering == nil {
			t.rendering = t.agent.render(t.call, t.ref.Webhook, EventInbound, t.call.StartedAt, "inbound")
		}
		t.body, err = t.lookup.body(t.rendering)
		return err
	}
	if t.rendering == nil {
		t.rendering = t.agent.rendering(t.call, t.delivery)
	}
	t.body, err = t.delivery.body.build(t.rendering, limit)
	return err
}

// preview shows the request.
func (t *trial) preview() (*Preview, error) {
	secrets := t.masked()
	h, err := t.header(t.body, t.rendering.text, secrets)
	if err != nil {
		return nil, err
	}
	u, err := t.url.render(t.rendering.text, secrets)
	if err != nil {
		return nil, err
	}
	for name, values := range h { // what is written out in the config too
		for i, v := range values {
			if secretive(name) && !strings.Contains(v, mask) {
				scheme, _, ok := strings.Cut(v, " ")
				if values[i] = mask; ok {
					values[i] = scheme + " " + mask
				}
			}
		}
	}
	setSignature(h, t.rendering.event.ID, time.Now(), t.body, nil)
	if len(t.signers) > 0 {
		h.Set(HeaderSignature, mask)
	}
	shown := maskedURL(strings.ReplaceAll(u.String(), url.PathEscape(mask), mask))
	return &Preview{Method: t.method, URL: shown, Header: h, Body: t.body, Notes: t.notes()}, nil
}

// notes tells what production would do differently, and what it would run into.
func (t *trial) notes() (notes []string) {
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	c := t.call
	switch p, w := t.lookup, t.delivery; {
	case p != nil && p.paused:
		note("the webhook is paused: no call is looked up")
	case p != nil && !slices.Contains(p.directions, cmp.Or(c.Direction, Inbound)):
		note("this call would not be looked up: it is %s, and the webhook's directions are %s", c.Direction, join(p.directions))
	case p != nil && p.skipWithheld && Withheld(c.customer()):
		note("this call would not be looked up: its number is withheld, and the webhook skips such callers")
	case w == nil:
	case w.paused:
		note("the webhook is paused: its events wait until it is not")
	case w.typ == TypeCallStatus && len(w.statuses) > 0 && !slices.Contains(w.statuses, c.Status):
		note("nothing would be sent for this call: its status is %.64q, and the webhook's statuses are %s", c.Status, join(w.statuses))
	case w.typ == TypePostCall && c.EndedAt.IsZero():
		note("nothing would be sent for this call yet: it has not ended")
	case w.on == OnAnalyzed && c.AnalyzedAt.IsZero():
		note("nothing would be sent for this call yet: it has not been analyzed")
	}
	if w := t.delivery; w != nil && len(notes) == 0 && c.Recording != nil && !c.Recording.ExpiresAt.IsZero() && w.typ == TypePostCall &&
		(t.usual || slices.ContainsFunc(w.paths, func(p string) bool { return strings.HasPrefix(p+".", "call.recording.") })) {
		if left := c.Recording.ExpiresAt.Sub(t.rendering.event.Timestamp); left < time.Duration(w.retry.MaxAge) {
			note("the recording's link works for %s after the event, and the event may be delivered as late as %s after it: keep the recording longer, or say so in retry.max_age",
				Duration(max(0, left.Round(time.Second))), w.retry.MaxAge)
		}
	}
	return notes
}
