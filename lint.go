package callhook

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/callhook-go/callhook/internal/suggest"
)

// Lint returns warnings about what is valid and probably not meant. It stops
// nothing. A config that is not valid is linted as far as it can be read.
func (c *Config) Lint() []Fault {
	if c == nil {
		return nil
	}
	k := &compiler{config: *c}
	a := k.agent(c)
	l := new(linter)
	for i, v := range c.Variables {
		if v.Secret && v.Default != nil {
			l.warn(fmt.Sprintf("variables[%d].default", i), "a secret is written here, where everybody who sees the config can read it: let the reply or the call give it")
		}
	}
	if c.PreCall != nil {
		l.endpoint(&c.PreCall.Endpoint, "pre_call")
		l.query(c.PreCall.Query, "pre_call.query")
		for _, name := range slices.Sorted(maps.Keys(c.PreCall.Query)) {
			l.example(c.PreCall.Query[name], "pre_call.query."+name)
		}
		l.template(c.PreCall.Body, "pre_call.body")
		if a.preCall != nil && len(a.preCall.paths) == 0 && c.PreCall.Method == "GET" {
			l.warn("pre_call", "nothing of the call is sent, so the reply is the same for every caller: put {{call.from}} into the query")
		}
	}
	for i := range c.CallStatus {
		l.endpoint(&c.CallStatus[i].Endpoint, fmt.Sprintf("call_status[%d]", i))
		for j, s := range c.CallStatus[i].Statuses {
			if hint := suggest.DidYouMean(string(s), texts(knownStatuses)); hint != "" && !slices.Contains(knownStatuses, s) {
				l.warn(fmt.Sprintf("call_status[%d].statuses[%d]", i, j), "%q is a status of the runtime's own, if it has one%s", s, hint)
			}
		}
		l.shape(&c.CallStatus[i].Endpoint, &c.CallStatus[i].Payload, fmt.Sprintf("call_status[%d]", i))
	}
	for i := range c.PostCall {
		w, at := &c.PostCall[i], fmt.Sprintf("post_call[%d]", i)
		l.endpoint(&w.Endpoint, at)
		l.shape(&w.Endpoint, &w.Payload, at)
		if i >= len(a.postCall) || w.On == OnAnalyzed || len(w.Payload.Fields) == 0 && len(w.Payload.Template) == 0 {
			continue
		}
		for _, path := range slices.Compact(slices.Sorted(slices.Values(a.postCall[i].paths))) {
			for _, late := range []string{"call.summary", "call.sentiment", "call.successful", "call.evaluation", "call.analyzed_at"} {
				if path == late || strings.HasPrefix(path, late+".") {
					l.warn(at+".payload", `%s is seldom ready when the call ends: use "on": "analyzed", or expect null`, path)
				}
			}
		}
	}
	return l.warnings
}

type linter struct{ warnings []Fault }

func (l *linter) warn(at, format string, args ...any) {
	l.warnings = append(l.warnings, Fault{at, fmt.Sprintf(format, args...)})
}

func (l *linter) endpoint(e *Endpoint, at string) {
	if u, err := url.Parse(e.URL); err == nil {
		query := map[string]string{}
		for name, values := range u.Query() {
			query[name] = strings.Join(values, "")
		}
		l.query(query, at+".url")
	}
	l.example(e.URL, at+".url")
	if strings.HasPrefix(e.URL, "http://") && !localURL(e.URL) {
		l.warn(at+".url", "http:// sends the call's data and the headers in the clear: use https://")
	}
	if strings.Contains(e.URL, "/webhook-test/") {
		l.warn(at+".url", "an n8n test URL answers only while its editor listens: use the production URL (/webhook/)")
	}
	for _, name := range slices.Sorted(maps.Keys(e.Headers)) {
		l.example(e.Headers[name], at+".headers."+name)
		if v := e.Headers[name]; secretive(name) && v != "" && !strings.Contains(v, "${") {
			l.warn(at+".headers."+name, "a secret seems to be written here, where everybody who sees the config can read it: refer to it as ${NAME}")
		}
	}
	for i, s := range e.Secrets {
		if !strings.Contains(s, "${") {
			l.warn(fmt.Sprintf("%s.secrets[%d]", at, i), "a key is written here, where everybody who sees the config can read it: refer to it as ${NAME}")
		}
	}
}

// example warns of what an example left for its reader to fill in.
func (l *linter) example(text, at string) {
	if i := strings.Index(text, "YOUR_"); i >= 0 {
		name := text[i:]
		if end := strings.IndexFunc(name, func(r rune) bool { return (r < 'A' || r > 'Z') && r != '_' }); end >= 0 {
			name = name[:end]
		}
		l.warn(at, "%s comes from an example: write your own value", name)
	}
}

// query warns of secrets in the values of a query.
func (l *linter) query(values map[string]string, at string) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if v := values[name]; secretive(name) && v != "" && !strings.Contains(v, "${") && !strings.Contains(v, "{{") {
			l.warn(at, "the value of %s seems to be a secret, which everybody who sees the config can read: refer to it as ${NAME}", name)
		}
	}
}

// template warns of what stands in a JSON template and is not replaced.
func (l *linter) template(t json.RawMessage, at string) {
	l.example(string(t), at)
	if i := bytes.Index(t, []byte("${")); i >= 0 {
		l.warn(at, "${…} is sent as it stands: a secret can be referred to in the URL, in headers and in secrets, but not in a body")
	}
}

func (l *linter) shape(e *Endpoint, p *Payload, at string) {
	l.template(p.Template, at+".payload.template")
	if u, err := url.Parse(e.URL); err == nil && u.Hostname() == "hooks.zapier.com" && !p.Flat && len(p.Template) == 0 {
		l.warn(at+".payload", `Zapier cannot nest: it shows a__b for objects and pulls lists apart; use "flat": true`)
	}
}

func secretive(header string) bool {
	h := strings.ToLower(header)
	return h == "authorization" || h == "cookie" || strings.HasSuffix(h, "key") && h != "idempotency-key" ||
		strings.Contains(h, "token") || strings.Contains(h, "secret") || strings.Contains(h, "password")
}

func localURL(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && (addr.IsLoopback() || addr.IsPrivate())
}
