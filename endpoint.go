package callhook

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/callhook-go/callhook/internal/template"
)

// userAgent is sent where a config does not set its own, and does not change
// from release to release, since receivers filter by it.
var userAgent = []string{"callhook/1 (+https://github.com/callhook-go/callhook)"}

var contentType = []string{"application/json"}

// endpoint is a compiled [Endpoint].
type endpoint struct {
	ref     SecretRef // without Name
	method  string
	url     urlTemplate
	headers []header
	signers [][]template.Part
	refs    []string // the names of the secrets that it refers to
	given   []string // and of those that are secret variables of the call
	timeout time.Duration
	paused  bool
	paths   []string // of call data that the webhook uses
	keys    atomic.Pointer[signingKeys]
}

type header struct {
	name  string // canonical
	parts []template.Part
}

// signingKeys are the keys of the last attempt, parsed: secrets seldom change.
type signingKeys struct {
	texts []string
	keys  []*key
}

// urlTemplate is a URL with placeholders in path segments and query values.
type urlTemplate struct {
	parts   []urlPart
	static  *url.URL // when there are no placeholders at all
	dynamic bool     // call data stands in it
	filled  bool     // call data or a secret does
}

type urlPart struct {
	template.Part
	query bool
}

// lookup gives the text of a placeholder.
type lookup func(*template.Expr) (string, error)

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

// errNotGiven says that a secret variable of a call is not known (any more).
var errNotGiven = errors.New("the call gave no value for it, or longer ago than is remembered")

// resolve returns the values of all secrets that the endpoint refers to. call's own
// are given, or asked for where they are not.
func (e *endpoint) resolve(ctx context.Context, secrets SecretFunc, call string, given Variables) (map[string]string, error) {
	if len(e.refs)+len(e.given) == 0 {
		return nil, nil
	}
	values := make(map[string]string, len(e.refs)+len(e.given))
	for _, name := range e.given {
		v, reason := coerce(given[name], "string")
		text, _ := v.(string)
		if reason != "" || text == "" || strings.ContainsFunc(text, isControl) {
			if secrets == nil {
				return nil, fmt.Errorf("%w: ${%s}: %w", ErrNoSecret, name, errNotGiven)
			}
			ref := e.ref
			ref.Name, ref.Call = name, call
			var err error
			if text, err = secrets(ctx, ref); err != nil || text == "" || strings.ContainsFunc(text, isControl) {
				return nil, fmt.Errorf("${%s}: %w: %w", name, cmp.Or(err, ErrNoSecret), errNotGiven)
			}
		}
		values[name] = text
	}
	for _, name := range e.refs {
		v, err := e.secret(ctx, secrets, name)
		if err != nil {
			return nil, err
		}
		values[name] = v
	}
	return values, nil
}

// secret returns the value of one secret.
func (e *endpoint) secret(ctx context.Context, secrets SecretFunc, name string) (string, error) {
	if secrets == nil {
		return "", fmt.Errorf("%w: ${%s}: Options.Secrets is nil", ErrNoSecret, name)
	}
	ref := e.ref
	ref.Name = name
	v, err := secrets(ctx, ref)
	switch {
	case err != nil:
	case v == "":
		err = fmt.Errorf("%w: it is empty", ErrNoSecret)
	case strings.ContainsFunc(v, isControl):
		err = fmt.Errorf("%w: its value has a line break or another control character in it", ErrNoSecret)
	default:
		return v, nil
	}
	return "", fmt.Errorf("${%s}: %w", name, err)
}

// masked stands for each secret where a request is shown and not sent.
func (e *endpoint) masked() map[string]string {
	values := make(map[string]string, len(e.refs)+len(e.given))
	for _, name := range slices.Concat(e.refs, e.given) {
		values[name] = mask
	}
	return values
}

const mask = "***"

// request makes the request of one attempt, signed.
func (e *endpoint) request(ctx context.Context, id string, body []byte, values lookup, secrets map[string]string) (*http.Request, error) {
	u, err := e.url.render(values, secrets)
	if err != nil {
		return nil, err
	}
	h, err := e.header(body, values, secrets)
	if err != nil {
		return nil, err
	}
	keys, err := e.signing(secrets)
	if err != nil {
		return nil, err
	}
	setSignature(h, id, time.Now(), body, keys) // last: nothing overwrites it
	req := (&http.Request{
		Method: e.method, URL: u, Host: u.Host, Header: h,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	if body != nil {
		req.ContentLength = int64(len(body))
		req.Body = io.NopCloser(bytes.NewReader(body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	}
	return req, nil
}

// header renders the headers, but for the signature's.
func (e *endpoint) header(body []byte, values lookup, secrets map[string]string) (http.Header, error) {
	h := make(http.Header, len(e.headers)+5)
	h["User-Agent"] = userAgent
	if body != nil {
		h["Content-Type"] = contentType
	}
	for _, line := range e.headers {
		v, err := render(line.parts, values, secrets)
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", line.name, err)
		}
		h[line.name] = []string{strings.TrimSpace(strings.Map(dropControl, v))}
	}
	return h, nil
}

func (e *endpoint) signing(secrets map[string]string) ([]*key, error) {
	if len(e.signers) == 0 {
		return nil, nil
	}
	if k := e.keys.Load(); k != nil && len(secrets) == 0 { // all are literals
		return k.keys, nil
	}
	texts := make([]string, len(e.signers))
	for i, parts := range e.signers {
		texts[i], _ = render(parts, nil, secrets)
	}
	if k := e.keys.Load(); k != nil && slices.Equal(k.texts, texts) {
		return k.keys, nil
	}
	k := &signingKeys{texts: texts}
	for i, text := range texts {
		parsed, err := parseKey(text)
		if err == nil && !parsed.canSign() {
			err = fmt.Errorf("%w: a public key (whpk_) cannot sign", ErrBadKey)
		}
		if err != nil {
			return nil, fmt.Errorf("secrets[%d]: %w", i, err)
		}
		k.keys = append(k.keys, parsed)
	}
	e.keys.Store(k)
	return k.keys, nil
}

// render joins parts: literals, secrets and the texts of placeholders.
func render(parts []template.Part, values lookup, secrets map[string]string) (string, error) {
	if len(parts) == 1 && parts[0].Expr == nil {
		if parts[0].Secret != "" {
			return secrets[parts[0].Secret], nil
		}
		return parts[0].Literal, nil
	}
	var b strings.Builder
	for _, p := range parts {
		switch {
		case p.Expr != nil:
			v, err := values(p.Expr)
			if err != nil {
				return "", err
			}
			b.WriteString(v)
		case p.Secret != "":
			b.WriteString(secrets[p.Secret])
		default:
			b.WriteString(p.Literal)
		}
	}
	return b.String(), nil
}

func (t *urlTemplate) render(values lookup, secrets map[string]string) (*url.URL, error) {
	if t.static != nil {
		return t.static, nil // nobody changes a request's URL
	}
	var b strings.Builder
	segment, filled := 0, false // where the path segment at hand begins, and whether data stands in it
	for _, p := range t.parts {
		text := p.Literal
		switch {
		case p.Expr != nil:
			var err error
			if text, err = values(p.Expr); err != nil {
				return nil, err
			}
		case p.Secret != "":
			text = secrets[p.Secret]
		}
		switch {
		case p.Expr == nil && p.Secret == "":
			if end := strings.IndexAny(text, "/?"); end >= 0 {
				if filled {
					if err := checkSegment(b.String()[segment:] + text[:end]); err != nil {
						return nil, err
					}
				}
				segment, filled = b.Len()+strings.LastIndexAny(text, "/?")+1, false
			}
			b.WriteString(text)
		case p.query:
			b.WriteString(url.QueryEscape(text))
		default:
			filled = true
			b.WriteString(url.PathEscape(text))
		}
	}
	if filled {
		if err := checkSegment(b.String()[segment:]); err != nil {
			return nil, err
		}
	}
	u, err := url.Parse(b.String())
	if err != nil {
		return nil, errors.New("callhook: the URL cannot be built from the call's data")
	}
	return u, nil
}

// checkSegment returns an error when data makes a path segment one that a server
// may take for another place: an empty one (/customers/ instead of one customer),
// or one that climbs, in whatever spelling.
func checkSegment(segment string) error {
	decoded, err := url.PathUnescape(segment)
	if err != nil {
		return errors.New("callhook: the URL cannot be built from the call's data")
	}
	parts := strings.FieldsFunc(decoded, func(r rune) bool { return r == '/' || r == '\\' })
	if len(parts) == 0 {
		return errors.New("callhook: a placeholder in the URL's path is empty for this call, so nothing is sent: the filter default gives it a value")
	}
	for _, part := range parts {
		if part, _, _ = strings.Cut(part, ";"); part == "." || part == ".." {
			return errors.New(`callhook: the call's data would make the URL's path climb with "..", so nothing is sent`)
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
			c.header(out, name, e.Headers[name], at+".headers."+name, scope)
		}
	}
	if c.most(len(e.Secrets), maxKeys, at+".secrets") {
		for i, text := range e.Secrets {
			c.signer(out, text, fmt.Sprintf("%s.secrets[%d]", at, i))
		}
	}
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

func (c *compiler) url(out *endpoint, raw string, query map[string]string, at string, scope template.Scope) {
	queryAt, at := at+".query", at+".url"
	scheme, rest, ok := strings.Cut(raw, "://")
	switch {
	case raw == "":
		c.fault(at, `the URL is missing: write where the webhook is sent, like "https://crm.example.com/hooks"`)
		return
	case len(raw) > maxText:
		c.fault(at, "the URL has %d characters; at most %d are possible", len(raw), maxText)
		return
	case strings.TrimSpace(raw) != raw:
		c.fault(at, "there is a space before or after the URL: remove it")
		return
	case strings.Contains(scheme, "{{") || strings.Contains(scheme, "${"):
		c.fault(at, "a placeholder cannot stand in the scheme, the host or the port: only in path segments and query values, so that nothing in a call chooses where data goes")
		return
	case !ok:
		shown, _, _ := strings.Cut(raw, "?") // what follows may be a secret
		c.fault(at, `%.100q is not a whole URL: it must begin with https:// (or http://)`, shown)
		return
	}
	authority := rest
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		authority = rest[:end]
	}
	if strings.Contains(authority, "{{") || strings.Contains(authority, "${") {
		c.fault(at, "a placeholder cannot stand in the scheme, the host or the port: only in path segments and query values, so that nothing in a call chooses where data goes")
		return
	}
	parts, err := template.ParseText(raw, scope, template.Options{Secrets: true})
	if err != nil {
		c.fault(at, "%s", err)
		return
	}
	var plain strings.Builder // the URL with an x for each placeholder
	inQuery, afterEquals := false, false
	for _, p := range parts {
		if p.Expr == nil && p.Secret == "" {
			var lit []byte
			for i := range len(p.Literal) {
				c := p.Literal[i]
				switch c {
				case '?':
					inQuery = true
				case '&':
					afterEquals = false
				case '=':
					afterEquals = inQuery
				}
				if inQuery && (c == ' ' || c > 0x7f) { // net/http sends the query as it is
					lit = fmt.Appendf(lit, "%%%02X", c)
				} else {
					lit = append(lit, c)
				}
			}
			p.Literal = string(lit)
			plain.WriteString(p.Literal)
		} else {
			plain.WriteByte('x')
			if inQuery && !afterEquals {
				c.fault(at, "in the query a placeholder must be a value, after name=")
			}
		}
		out.url.parts = append(out.url.parts, urlPart{p, inQuery})
	}
	if strings.Contains(plain.String(), "#") {
		c.fault(at, "what follows # is never sent: remove it")
		return
	}
	u, err := url.Parse(plain.String())
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // without the URL, which may hold a secret
		}
		c.fault(at, `it is not a URL: %s; write it like "https://crm.example.com/hooks"`, strings.TrimPrefix(err.Error(), "net/url: "))
		return
	}
	c.origin(out, u, at)
	if len(query) > 0 && c.most(len(query), maxHeaders, queryAt) {
		sep := "?"
		if u.RawQuery != "" || u.ForceQuery {
			sep = "&"
		}
		for _, name := range slices.Sorted(maps.Keys(query)) {
			if strings.Contains(name, "{{") || strings.Contains(name, "${") {
				c.fault(queryAt+"."+name, "a placeholder cannot stand in a name, only in its value")
			}
			parts, err := template.ParseText(query[name], scope, template.Options{Secrets: true})
			if err != nil {
				c.fault(queryAt+"."+name, "%s", err)
			}
			lit := sep + url.QueryEscape(name) + "="
			out.url.parts = append(out.url.parts, urlPart{template.Part{Literal: lit}, true})
			for _, p := range parts {
				if p.Expr == nil && p.Secret == "" {
					p.Literal = url.QueryEscape(p.Literal)
				}
				out.url.parts = append(out.url.parts, urlPart{p, true})
			}
			sep = "&"
		}
	}
	for _, p := range out.url.parts {
		out.url.dynamic = out.url.dynamic || p.Expr != nil
		out.url.filled = out.url.filled || p.Expr != nil || p.Secret != ""
		c.refer(out, p.Secret, at)
	}
	if !out.url.filled {
		t := out.url
		if out.url.static, err = t.render(nil, nil); err != nil {
			c.fault(at, "it is not a URL")
		}
	}
}

// origin checks what of a URL no placeholder may stand in.
func (c *compiler) origin(out *endpoint, u *url.URL, at string) {
	port := u.Port()
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		c.fault(at, "%s:// cannot be used: it must begin with https:// (or http://)", u.Scheme)
	case u.Hostname() == "":
		c.fault(at, "the host is missing: it comes after https://")
	case u.User != nil:
		c.fault(at, `a name and password before the host cannot be used: put them in a header, like "Authorization": "Basic ${CREDENTIALS}"`)
	case port != "" && !validPort(port):
		c.fault(at, "%s is not a port: it must be from 1 to 65535", port)
	}
	host := strings.ToLower(u.Host) // one spelling, so that a resolver can compare it
	if defaultPort := map[string]string{"https": ":443", "http": ":80"}[u.Scheme]; port != "" {
		host = strings.TrimSuffix(host, defaultPort)
	}
	out.ref.Origin = u.Scheme + "://" + strings.TrimSuffix(host, ":")
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// reservedHeaders belong to the connection, to the signature or to the body.
var reservedHeaders = map[string]bool{
	"Host": true, "Content-Length": true, "Transfer-Encoding": true, "Connection": true, "Keep-Alive": true, "Te": true,
	"Trailer": true, "Upgrade": true, "Expect": true, "Proxy-Authorization": true, "Proxy-Connection": true,
	"Proxy-Authenticate": true, "Accept-Encoding": true, "Content-Encoding": true,
	canonicalID: true, canonicalTimestamp: true, canonicalSignature: true,
}

func (c *compiler) header(out *endpoint, name, value, at string, scope template.Scope) {
	canonical := http.CanonicalHeaderKey(name)
	reserved := http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-")) // many servers take the one for the other
	switch {
	case !isToken(name):
		c.fault(at, "%q cannot be the name of a header: use letters, digits and -", name)
		return
	case reservedHeaders[reserved]:
		c.fault(at, "the header %s is reserved: it is set by callhook or by the connection; remove it", reserved)
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
	case slices.ContainsFunc(c.config.Variables, func(v Variable) bool { return v.Secret && v.Name == secret }):
		e.given = append(e.given, secret)
	default:
		e.refs = append(e.refs, secret)
	}
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
