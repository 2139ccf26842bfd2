package callhook

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Lint returns warnings about what is valid and probably not meant. It stops
// nothing. A config that is not valid is linted as far as it can be read.
func (c *Config) Lint() []Fault {
	k := &compiler{config: *c}
	a := k.agent(c)
	l := new(linter)
	if c.PreCall != nil {
		l.endpoint(&c.PreCall.Endpoint, "pre_call")
		if len(a.preCall.paths) == 0 && c.PreCall.Method == "GET" {
			l.warn("pre_call", "nothing of the call is sent, so the reply is the same for every caller: put {{call.from}} into the query")
		}
	}
	for i := range c.CallStatus {
		l.endpoint(&c.CallStatus[i].Endpoint, fmt.Sprintf("call_status[%d]", i))
		l.shape(&c.CallStatus[i].Endpoint, &c.CallStatus[i].Payload, fmt.Sprintf("call_status[%d]", i))
	}
	for i := range c.PostCall {
		w, at := &c.PostCall[i], fmt.Sprintf("post_call[%d]", i)
		l.endpoint(&w.Endpoint, at)
		l.shape(&w.Endpoint, &w.Payload, at)
		if w.On == OnAnalyzed || len(w.Payload.Fields) == 0 && len(w.Payload.Template) == 0 {
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
	if strings.HasPrefix(e.URL, "http://") && !localURL(e.URL) {
		l.warn(at+".url", "http:// sends the call's data and the headers in the clear: use https://")
	}
	if strings.Contains(e.URL, "/webhook-test/") {
		l.warn(at+".url", "an n8n test URL answers only while its editor listens: use the production URL (/webhook/)")
	}
	for _, name := range slices.Sorted(maps.Keys(e.Headers)) {
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

func (l *linter) shape(e *Endpoint, p *Payload, at string) {
	if u, err := url.Parse(e.URL); err == nil && u.Hostname() == "hooks.zapier.com" && !p.Flat && len(p.Template) == 0 {
		l.warn(at+".payload", `Zapier cannot nest: it shows a__b for objects and pulls lists apart; use "flat": true`)
	}
}

func secretive(header string) bool {
	h := strings.ToLower(header)
	return h == "authorization" || h == "cookie" || strings.Contains(h, "key") && h != "idempotency-key" ||
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
