package callhook

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/callhook-go/callhook/internal/suggest"
	"github.com/callhook-go/callhook/internal/template"
)

// Lint returns warnings about what is valid and probably not meant, each with its
// place and what would be better. It stops nothing. A config that is not valid is
// linted as far as it can be read.
//
// What only the runtime can know it does not tell: [Hooks.Check] does of secrets, and
// [Config.Preview] of a recording whose link ends before the retries do.
func (c *Config) Lint() []Fault {
	if c == nil {
		return nil
	}
	k := &compiler{config: *c}
	l := &linter{config: c, agent: k.agent(c)}
	if max(len(c.CallStatus), len(c.PostCall)) > 10*maxWebhooks || len(c.Variables) > 10*maxDeclared {
		return nil // which Validate says
	}
	l.variables()
	if c.PreCall != nil {
		l.preCall(c.PreCall, l.agent.preCall)
	}
	for i := range c.CallStatus {
		w, at := &c.CallStatus[i], fmt.Sprintf("call_status[%d]", i)
		l.endpoint(&w.Endpoint, at)
		for j, s := range w.Statuses {
			if hint := suggest.DidYouMean(string(s), texts(knownStatuses)); hint != "" && !slices.Contains(knownStatuses, s) {
				l.warn(fmt.Sprintf("%s.statuses[%d]", at, j), "%q is a status of the runtime's own, if it has one%s", s, hint)
			}
		}
		l.shape(&w.Endpoint, &w.Payload, TypeCallStatus, at)
		for j := range i {
			if other := &c.CallStatus[j]; sameTarget(&w.Endpoint, &other.Endpoint) && overlap(w.Statuses, other.Statuses) {
				l.twice(at, fmt.Sprintf("call_status[%d]", j))
				break
			}
		}
		if i < len(l.agent.status) {
			l.paths(l.agent.status[i].paths, at)
		}
	}
	for i := range c.PostCall {
		w, at := &c.PostCall[i], fmt.Sprintf("post_call[%d]", i)
		l.endpoint(&w.Endpoint, at)
		l.shape(&w.Endpoint, &w.Payload, TypePostCall, at)
		for j := range i {
			if other := &c.PostCall[j]; sameTarget(&w.Endpoint, &other.Endpoint) && cmp.Or(w.On, OnEnded) == cmp.Or(other.On, OnEnded) {
				l.twice(at, fmt.Sprintf("post_call[%d]", j))
				break
			}
		}
		if i >= len(l.agent.postCall) {
			continue
		}
		paths := l.agent.postCall[i].paths
		l.paths(paths, at)
		if w.On == OnAnalyzed || len(w.Payload.Fields) == 0 && len(w.Payload.Template) == 0 {
			continue
		}
		for _, path := range slices.Compact(slices.Sorted(slices.Values(paths))) {
			for _, late := range []string{"call.summary", "call.sentiment", "call.successful", "call.evaluation", "call.analyzed_at"} {
				if path == late || strings.HasPrefix(path, late+".") {
					l.warn(at+".payload", `%s is seldom ready when the call ends: use "on": "analyzed", or expect null`, path)
				}
			}
		}
	}
	return l.warnings
}

type linter struct {
	config   *Config
	agent    *agent // as far as it could be compiled
	warnings []Fault
	hints    int // looked for
}

func (l *linter) warn(at, format string, args ...any) {
	l.warnings = append(l.warnings, Fault{at, fmt.Sprintf(format, args...)})
}

// variables warns of those that stay empty.
func (l *linter) variables() {
	used, all := map[string]bool{}, false
	see := func(paths []string, usual bool) {
		all = all || usual
		for _, path := range paths {
			if name := variableOf(path); name != "" {
				used[name] = true
			}
			all = all || path == "call.variables"
		}
	}
	if p := l.agent.preCall; p != nil {
		see(p.paths, p.payload != nil)
	}
	for _, w := range l.agent.status {
		see(w.paths, false)
	}
	for i, w := range l.agent.postCall {
		p := &l.config.PostCall[i].Payload
		see(w.paths, len(p.Fields) == 0 && len(p.Template) == 0)
	}
	for i, v := range l.config.Variables {
		at := fmt.Sprintf("variables[%d]", i)
		p := l.config.PreCall
		switch {
		case v.Secret && v.Default != nil:
			l.warn(at+".default", "a secret is written here, where everybody who sees the config can read it: let the reply or the call give it")
		case v.Default != nil || v.Locked:
		case p != nil && len(p.Response.Variables) > 0 && p.Response.Variables[v.Name] == "":
			l.warn(at, "nothing in this config sets %s: name it in response.variables, or give it a default, unless the platform knows it before the call", v.Name)
		case p == nil && !v.Secret && !used[v.Name] && !all && len(l.config.CallStatus)+len(l.config.PostCall) > 0:
			l.warn(at, "nothing in this config sets or uses %s: leave it out, unless the agent's prompt has it", v.Name)
		}
	}
	if p := l.config.PreCall; p != nil && len(p.Response.Variables) > 0 {
		for i, name := range p.Response.Required {
			if d := l.declared(name); p.Response.Variables[name] == "" && (d == nil || d.Default == nil && !d.Locked) {
				l.warn(fmt.Sprintf("pre_call.response.required[%d]", i), "nothing in this config sets %s: name it in response.variables, or give it a default, unless the platform knows it before the call", name)
			}
		}
	}
}

// paths warns of variables that a webhook uses and that are nobody's.
func (l *linter) paths(paths []string, at string) {
	p := l.config.PreCall
	open := p != nil && len(p.Response.Variables) == 0 && p.Response.Dialect != "flat" // a reply may bring any
	names := make([]string, 0, len(l.config.Variables))
	for _, v := range l.config.Variables {
		names = append(names, v.Name)
	}
	if p != nil {
		names = append(names, slices.Sorted(maps.Keys(p.Response.Variables))...)
	}
	for _, path := range slices.Compact(slices.Sorted(slices.Values(paths))) {
		name := variableOf(path)
		if name == "" || len(names) == 0 { // one who declares none is not asked to
			continue
		}
		if slices.Contains(names, name) {
			if d := l.declared(name); d != nil && d.Secret {
				l.warn(at, "%s is secret, so {{%s}} is always empty: refer to it as ${%s}, in a header or in the URL", name, path, name)
			}
			continue
		}
		hint := ""
		if l.hints++; l.hints <= maxHints {
			hint = suggest.DidYouMean(name, names)
		}
		if !open || hint != "" {
			l.warn(at, "%s is used and not declared, and nothing in this config sets it%s: declare it, so that people know what it is and it has a default", name, hint)
		}
	}
}

func (l *linter) declared(name string) *Variable {
	if i := slices.IndexFunc(l.config.Variables, func(v Variable) bool { return v.Name == name }); i >= 0 {
		return &l.config.Variables[i]
	}
	return nil
}

// variableOf returns the variable that a path is of, empty for none.
func variableOf(path string) string {
	rest, ok := strings.CutPrefix(path, "call.variables.")
	if !ok {
		return ""
	}
	return literalSteps(rest)[0]
}

// preCall warns of what makes callers wait, or hear what is not for them.
func (l *linter) preCall(w *PreCallWebhook, p *preCall) {
	const at = "pre_call"
	l.endpoint(&w.Endpoint, at)
	l.query(w.Query, at+".query")
	for _, name := range slices.Sorted(maps.Keys(w.Query)) {
		l.example(w.Query[name], at+".query."+name)
	}
	l.template(w.Body, at+".body")
	if p == nil { // the config is far too large
		return
	}
	if len(p.paths) == 0 && w.Method == "GET" {
		l.warn(at, "nothing of the call is sent, so the reply is the same for every caller: put {{call.from}} into the query")
	}
	l.paths(p.paths, at)
	if t := time.Duration(w.Timeout); t > longLookup {
		l.warn(at+".timeout", `%s is long: the caller hears nothing but ringing, and telephony providers give up on a call that is not taken (Twilio after 15s in all). 2s is usual; what comes later can be used with "late_for"`, w.Timeout)
	}
	switch after := time.Duration(w.HedgeAfter); {
	case after > 0 && after >= p.timeout/2:
		l.warn(at+".hedge_after", "of the time limit of %s only %s are left for the second request, which helps little: %s would be better", Duration(p.timeout), Duration(p.timeout-after), Duration(p.timeout/4))
	case after == 0 && w.HedgeShare > 0:
		l.warn(at+".hedge_share", `it says nothing without "hedge_after": give that too, or leave it out`)
	}
	if w.Cache > Duration(longCache) {
		l.warn(at+".cache", "callers are told what was true up to %s ago, and personal data is kept that long: what a CRM says changes. Minutes serve those who ring again at once; for bad times there is stale_for", w.Cache)
	}
	if w.StaleFor > 0 && w.Cache == 0 {
		l.warn(at+".stale_for", `without "cache" every call is looked up, and what is kept serves only when that fails: give "cache" too, like "5m", if it should also save lookups`)
	}
	if w.CacheKey != "" && !slices.ContainsFunc(p.cacheKey, func(part template.Part) bool { return part.Expr != nil }) {
		l.warn(at+".cache_key", "it is the same for all calls, so a caller may get what was found for another: put {{call.from}} into it, or leave it out")
	}
}

const (
	longLookup = 5 * time.Second // for a caller
	longCache  = time.Hour
	maxHints   = 50 // a hostile config could make many
)

func sameTarget(a, b *Endpoint) bool {
	return a.URL == b.URL && a.URL != "" && a.Method == b.Method && !a.Paused && !b.Paused
}

func overlap(a, b []Status) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(s Status) bool { return slices.Contains(b, s) })
}

func (l *linter) twice(at, first string) {
	l.warn(at+".url", "%s sends the same events to this URL, which gets each of them twice: keep one, or give one another URL", first)
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
		l.example(e.Headers[name], at+".headers."+headerShown(name))
		if v := e.Headers[name]; secretive(name) && v != "" && !strings.Contains(v, "${") && !strings.Contains(v, "{{") {
			l.warn(at+".headers."+headerShown(name), "a secret seems to be written here, where everybody who sees the config can read it: refer to it as ${NAME}")
		}
	}
	for i, s := range e.Secrets {
		if !strings.Contains(s, "${") {
			l.warn(fmt.Sprintf("%s.secrets[%d]", at, i), "a key is written here, where everybody who sees the config can read it: refer to it as ${NAME}")
		}
	}
	if !l.proven(e, at) && (e.TLS == nil || e.TLS.Certificate == "") {
		l.warn(at+".secrets", `requests are not signed and carry no key, so the receiver cannot tell them from forged ones: sign them with "secrets": ["${NAME}"], or send the key that the receiver wants in a header`)
	}
}

// proven reports whether a receiver can know whom a request comes from.
func (l *linter) proven(e *Endpoint, at string) bool {
	secret := len(e.Secrets) > 0 || strings.Contains(e.URL, "${") || e.URL == "" || localURL(e.URL)
	for name, v := range e.Headers {
		secret = secret || strings.Contains(v, "${") || secretive(name)
	}
	if at == "pre_call" {
		for name, v := range l.config.PreCall.Query {
			secret = secret || strings.Contains(v, "${") || secretive(name)
		}
	}
	switch receiverOf(e.URL) {
	case zapier, makeDotCom: // which cannot check: whoever knows the URL may send
		return true
	}
	return secret
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

// shape warns of what the receiver at a well-known host cannot use.
func (l *linter) shape(e *Endpoint, p *Payload, t Type, at string) {
	at += ".payload"
	l.template(p.Template, at+".template")
	var doc any
	if len(p.Template) > 0 && json.Unmarshal(p.Template, &doc) != nil {
		return
	}
	switch r := receiverOf(e.URL); r {
	case zapier:
		switch {
		case len(p.Template) == 0 && !p.Flat:
			l.warn(at, `Zapier cannot nest: it shows a__b for objects and pulls lists apart; use "flat": true`)
		case len(p.Template) > 0 && nests(doc, t):
			l.warn(at+".template", `Zapier cannot nest: it shows a__b for objects and pulls lists apart; keep the template on one level, lists and objects as text ({{call.transcript_text}}, | json)`)
		}
	case makeDotCom:
		l.fixed(p, doc, t, at)
	case hubspot, zoho, salesforce:
		l.durations(r, doc, at+".template")
	}
}

type receiver string

const (
	zapier     receiver = "Zapier"
	makeDotCom receiver = "Make"
	hubspot    receiver = "HubSpot"
	zoho       receiver = "Zoho"
	salesforce receiver = "Salesforce"
)

// receiverOf returns whom a URL belongs to, empty for whom there is nothing to say.
func receiverOf(raw string) receiver {
	_, rest, _ := strings.Cut(strings.ToLower(raw), "://")
	host := rest
	if end := strings.IndexAny(rest, "/?#:"); end >= 0 {
		host = rest[:end]
	}
	switch {
	case host == "hooks.zapier.com":
		return zapier
	case strings.HasPrefix(host, "hook.") && (strings.HasSuffix(host, ".make.com") || strings.HasSuffix(host, ".integromat.com") || strings.HasSuffix(host, ".celonis.com")):
		return makeDotCom
	case host == "api.hubapi.com":
		return hubspot
	case strings.HasPrefix(host, "www.zohoapis."):
		return zoho
	case strings.HasSuffix(host, ".salesforce.com"):
		return salesforce
	}
	return ""
}

// nests reports whether a template yields more than one level.
func nests(doc any, t Type) bool {
	members, ok := doc.(map[string]any)
	if !ok {
		return true
	}
	for _, v := range members {
		switch v := v.(type) {
		case map[string]any, []any:
			return true
		case string:
			if path, alone := placeholder(v); alone {
				if _, typ, err := resolve(path, t); err == nil && (typ == "object" || typ == "array") {
					return true
				}
			}
		}
	}
	return false
}

// placeholder returns the path of a text that is one placeholder without filters.
func placeholder(text string) (path string, alone bool) {
	inner, ok := strings.CutPrefix(text, "{{")
	if !ok {
		return "", false
	}
	inner, ok = strings.CutSuffix(inner, "}}")
	return strings.TrimSpace(inner), ok && !strings.ContainsAny(inner, "|{}")
}

// fixed warns of payloads whose shape is another for each call.
func (l *linter) fixed(p *Payload, doc any, t Type, at string) {
	const learns = "Make learns the shape from the first request and misses what comes later: "
	free := func(path, at string) {
		for i := range callFields {
			if f := &callFields[i]; f.free && path == "call."+f.name {
				l.warn(at, learns+"%s has other names in it for each call; select single values, like %s.NAME", path, path)
			}
		}
	}
	if len(p.Template) > 0 {
		eachValue(doc, "", at+".template", func(_ string, v any, at string) {
			text, _ := v.(string)
			if path, alone := placeholder(text); alone {
				free(path, at)
			}
			if inner := strings.TrimSuffix(text, "}}"); inner != text && strings.HasSuffix(strings.TrimSpace(inner), "omit") {
				l.warn(at, learns+`omit leaves the name out when the value is empty; without it null is sent`)
			}
		})
		return
	}
	if p.Flat {
		return
	}
	for i, f := range p.Fields {
		free(f.Path, fmt.Sprintf("%s.fields[%d]", at, i))
	}
	if len(p.Fields) == 0 && t == TypePostCall {
		l.warn(at, learns+"nothing is selected, and the call's variables, metadata and results have other names in them for each call; select fields")
	}
}

// durations warns of lengths of calls in another form than the receiver reads.
func (l *linter) durations(r receiver, doc any, at string) {
	eachValue(doc, "", at, func(name string, value any, at string) {
		text, isText := value.(string)
		switch {
		case isText && !strings.Contains(text, "{{"):
		case r == hubspot && name == "hs_call_duration":
			_, alone := placeholder(text)
			if !isText || !strings.Contains(text, "call.duration_ms") || alone {
				l.warn(at, `HubSpot reads milliseconds, as text: write "{{call.duration_ms | string}}"`)
			}
		case r == zoho && name == "Call_Duration" && !strings.Contains(text, "hhmm"):
			l.warn(at, `Zoho reads hours and minutes: write "{{call.talk_seconds | hhmm}}"`)
		case r == salesforce && name == "CallDurationInSeconds" && strings.Contains(text, "duration_ms"):
			l.warn(at, `Salesforce reads seconds: write "{{call.talk_seconds | default: 0}}"`)
		}
	})
}

// eachValue calls f for each value inside of a decoded template, with the name of the
// member that it is, empty for elements of lists.
func eachValue(v any, name, at string, f func(name string, v any, at string)) {
	f(name, v, at)
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			eachValue(v[name], name, at+"."+name, f)
		}
	case []any:
		for i := range v {
			eachValue(v[i], "", fmt.Sprintf("%s[%d]", at, i), f)
		}
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
