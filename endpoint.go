package callhook

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/callhook-go/callhook/internal/template"
)

// endpoint is a compiled [Endpoint].
type endpoint struct {
	ref     SecretRef // without Name
	typ     Type
	method  string
	url     urlTemplate
	headers []header
	signers [][]template.Part
	refs    []string // the names of the secrets that it refers to
	given   []string // and of those that are secret variables of the call
	timeout time.Duration
	paused  bool
	paths   []string // of call data that the webhook uses
	pems    []string // secrets of more than one line
	keys    atomic.Pointer[signingKeys]

	identity *identity   // in TLS; nil for none
	refused  atomic.Bool // the last answer was 401
}

type header struct {
	name  string // canonical
	parts []template.Part
}

// givenBy returns the call's own secrets that the endpoint refers to.
func (e *endpoint) givenBy(call *Call) map[string]string {
	if len(e.given) == 0 || len(call.Secrets) == 0 {
		return nil
	}
	values := make(map[string]string, len(e.given))
	for _, name := range e.given {
		values[name] = givenText(call.Secrets[name])
	}
	return values
}

// placeholders returns the expressions in URL and headers.
func (e *endpoint) placeholders(f func(*template.Expr) error) error {
	for _, p := range e.url.parts {
		if p.Expr != nil {
			if err := f(p.Expr); err != nil {
				return err
			}
		}
	}
	for _, h := range e.headers {
		for _, p := range h.parts {
			if p.Expr != nil {
				if err := f(p.Expr); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// endpoint compiles e. Faults go to the compiler.
func (c *compiler) endpoint(e *Endpoint, t Type, at string, query map[string]string, methods ...string) *endpoint {
	def, most := 15*time.Second, 60*time.Second
	if t == TypePreCall {
		def, most = 2*time.Second, 10*time.Second
	}
	out := &endpoint{
		method:  e.Method,
		timeout: time.Duration(e.Timeout),
		paused:  e.Paused,
		typ:     t,
		ref:     SecretRef{Tenant: c.config.TenantID, Agent: c.config.AgentID, Webhook: c.name(e, t, at)},
	}
	if out.method == "" {
		out.method = http.MethodPost
	}
	if !slices.Contains(methods, out.method) {
		c.fault(at+".method", "%.40q cannot be used here: use %s", e.Method, strings.Join(methods, ", "))
	}
	switch {
	case out.timeout == 0:
		out.timeout = def
	case out.timeout < 0 || out.timeout > most:
		c.fault(at+".timeout", "%s is not possible: it must be more than 0 and at most %s", e.Timeout, Duration(most))
	}
	scope := c.scope(t)
	c.url(out, e.URL, query, at, scope)
	if c.most(len(e.Headers), maxHeaders, at+".headers") {
		for _, name := range slices.Sorted(maps.Keys(e.Headers)) {
			c.header(out, name, e.Headers[name], at+".headers."+headerShown(name), scope)
		}
	}
	if c.most(len(e.Secrets), maxKeys, at+".secrets") {
		for i, text := range e.Secrets {
			c.signer(out, text, fmt.Sprintf("%s.secrets[%d]", at, i))
		}
	}
	c.tls(out, e.TLS, at+".tls")
	return out
}

func (c *compiler) name(e *Endpoint, t Type, at string) string {
	name := e.Name
	if name == "" {
		name = string(t)
	}
	if len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	}) {
		c.fault(at+".name", "%.80q cannot be a name: use up to 64 letters, digits, _ and -", name)
	}
	if c.names == nil {
		c.names = map[string]string{}
	}
	if first, taken := c.names[name]; taken {
		c.fault(at+".name", "%s is called %q too: give each webhook of the agent a name of its own", first, name)
	}
	c.names[name] = at
	return name
}

// tls compiles how the connection proves who it is.
func (c *compiler) tls(out *endpoint, t *TLS, at string) {
	switch {
	case t == nil:
		return
	case (t.Certificate == "") != (t.Key == ""):
		c.fault(at, `"certificate" and "key" belong together: give both, or only "ca"`)
	case t.Certificate == "" && t.CA == "":
		c.fault(at, `it says nothing: give "certificate" and "key", or "ca", or leave it out`)
	case strings.HasPrefix(out.ref.Origin, "http://"):
		c.fault(at, "the URL begins with http://, which has no certificates: use https://")
	}
	out.identity = &identity{
		certificate: c.pem(out, t.Certificate, at+".certificate"),
		key:         c.pem(out, t.Key, at+".key"),
		ca:          c.pem(out, t.CA, at+".ca"),
	}
}

// pem reads a reference to a text in PEM.
func (c *compiler) pem(out *endpoint, text, at string) []template.Part {
	if text == "" {
		return nil
	}
	parts, err := template.ParseText(text, func(string) (template.Getter, error) {
		return nil, errors.New("call data cannot stand here")
	}, template.Options{Secrets: true})
	switch {
	case err != nil:
		c.fault(at, "%s", err)
	case len(parts) != 1 || parts[0].Secret == "":
		c.fault(at, `it must be a reference, like "${CRM_CLIENT_KEY}": keys and certificates are kept where the secrets are`)
	case c.secretVariable(parts[0].Secret):
		c.fault(at, "${%s} is a variable of the call: an identity belongs to the webhook", parts[0].Secret)
	default:
		c.refer(out, parts[0].Secret, at)
		out.pems = append(out.pems, parts[0].Secret)
		return parts
	}
	return nil
}

// reservedHeaders belong to the connection, to the signature, to the body or to tests.
var reservedHeaders = map[string]bool{
	"Host": true, "Content-Length": true, "Transfer-Encoding": true, "Connection": true, "Keep-Alive": true, "Te": true,
	"Trailer": true, "Upgrade": true, "Expect": true, "Proxy-Authorization": true, "Proxy-Connection": true,
	"Proxy-Authenticate": true, "Accept-Encoding": true, "Content-Encoding": true,
	canonicalID: true, canonicalTimestamp: true, canonicalSignature: true, canonicalTest: true,
}

// reserved reports whether a header is: many servers take _ in a name for -, and some
// whatever is no letter or digit.
func reserved(name string) bool { return reservedHeaders[plainHeader(name)] }

// headerShown is a header's name as messages show it: where somebody has pasted a whole
// line, the value is left out.
func headerShown(name string) string {
	if before, _, ok := strings.Cut(name, ":"); ok && before != "" {
		return before + ":…"
	}
	return name
}

func plainHeader(name string) string {
	return http.CanonicalHeaderKey(strings.Map(func(r rune) rune {
		if isPlain(string(r)) {
			return r
		}
		return '-'
	}, name))
}

func (c *compiler) header(out *endpoint, name, value, at string, scope template.Scope) {
	canonical := http.CanonicalHeaderKey(name)
	switch {
	case !isToken(name):
		c.fault(at, "%q cannot be the name of a header: use letters, digits and -", headerShown(name))
		return
	case reserved(name):
		c.fault(at, "the header %s is reserved: it is set by callhook or by the connection; remove it", plainHeader(name))
		return
	case slices.ContainsFunc(out.headers, func(h header) bool { return h.name == canonical }):
		c.fault(at, "the header %s stands twice, in another spelling: keep one", canonical)
		return
	case len(value) > maxText:
		c.fault(at, "the value has %d characters; at most %d are possible", len(value), maxText)
		return
	case strings.ContainsFunc(value, isControl):
		c.fault(at, "the value has a line break or another control character in it: a header is one line")
		return
	}
	parts, err := template.ParseText(value, scope, template.Options{Secrets: true})
	if err != nil {
		c.fault(at, "%s", err)
		return
	}
	for _, p := range parts {
		c.refer(out, p.Secret, at)
	}
	out.headers = append(out.headers, header{canonical, parts})
}

func (c *compiler) signer(out *endpoint, text, at string) {
	parts, err := template.ParseText(text, func(string) (template.Getter, error) {
		return nil, errors.New("call data cannot stand in a key")
	}, template.Options{Secrets: true})
	if err != nil {
		c.fault(at, "%s", err)
		return
	}
	literal := true
	for _, p := range parts {
		literal = literal && p.Secret == ""
		c.refer(out, p.Secret, at)
	}
	if literal {
		k, err := parseKey(text)
		if err == nil && !k.canSign() {
			err = errors.New("a public key (whpk_) cannot sign: use whsk_")
		}
		if err != nil {
			c.fault(at, "%s", strings.TrimPrefix(err.Error(), "callhook: "))
		}
	}
	out.signers = append(out.signers, parts)
}

func (c *compiler) refer(e *endpoint, secret, at string) {
	switch {
	case secret == "" || slices.Contains(e.refs, secret) || slices.Contains(e.given, secret):
	case len(e.refs)+len(e.given) == maxSecrets:
		c.fault(at, "the webhook refers to more than %d secrets", maxSecrets)
	case c.secretVariable(secret):
		e.given = append(e.given, secret)
	default:
		e.refs = append(e.refs, secret)
	}
}

func (c *compiler) secretVariable(name string) bool {
	return slices.ContainsFunc(c.config.Variables, func(v Variable) bool { return v.Secret && v.Name == name })
}

func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

func dropControl(r rune) rune {
	if isControl(r) {
		return -1
	}
	return r
}
