package callhook

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Preview is the request that a webhook would send.
type Preview struct {
	Method string      // GET, POST, PUT or PATCH
	URL    string      // with the call's data in it
	Header http.Header // all that callhook sets, in canonical form
	Body   []byte      // JSON; nil for GET
}

// Preview returns the request that the webhook of this name would send for the
// call, with secrets shown as "***". It sends nothing. For a post-call webhook
// the event is the one that it waits for. The error is a [*ConfigError] for a
// config that is not valid.
func (c *Config) Preview(name string, call *Call) (*Preview, error) {
	a, err := compile(c)
	if err != nil {
		return nil, err
	}
	if err := call.check("Preview"); err != nil {
		return nil, err
	}
	var (
		e    *endpoint
		r    *rendering
		body []byte
	)
	if p := a.preCall; p != nil && p.ref.Webhook == name {
		e, r = p.endpoint, a.render(call, name, EventInbound, call.StartedAt, "inbound")
		body, err = p.body(r)
	}
	for _, w := range append(append([]*webhook(nil), a.status...), a.postCall...) {
		if w.name == name {
			e, r = w.endpoint, a.rendering(call, w)
			body, err = w.body.build(r, 0)
		}
	}
	if e == nil {
		return nil, fmt.Errorf("callhook: the config has no webhook %q", name)
	}
	if err != nil {
		return nil, err
	}
	secrets := e.masked()
	h, err := e.header(body, r.text, secrets)
	if err != nil {
		return nil, err
	}
	u, err := e.url.render(r.text, secrets)
	if err != nil {
		return nil, err
	}
	setSignature(h, r.event.ID, time.Now(), body, nil)
	if len(e.signers) > 0 {
		h.Set(HeaderSignature, mask)
	}
	shown := strings.ReplaceAll(u.String(), url.PathEscape(mask), mask)
	return &Preview{Method: e.method, URL: shown, Header: h, Body: body}, nil
}
