package callhook

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/callhook-go/callhook/internal/egress"
	"github.com/callhook-go/callhook/internal/template"
)

// outgoing is what a request carries, of whatever webhook.
type outgoing struct {
	id      string
	body    []byte
	values  lookup            // of placeholders in URL and headers
	call    string            // its id
	secrets map[string]string // and its own, as far as they are known
}

// lookup gives the text of a placeholder.
type lookup func(*template.Expr) (string, error)

// prepared is a request that can be sent, and by whom.
type prepared struct {
	*http.Request
	client  *egress.Client
	secrets map[string]string // of its references
	tokens  []string          // that Options.Authorize put in
}

// prepare makes the request of one attempt: with secrets, credentials and, last of all,
// signatures.
func (h *Hooks) prepare(ctx context.Context, e *endpoint, out outgoing) (p *prepared, err error) {
	p = new(prepared)
	if p.secrets, err = e.resolve(ctx, h.secrets, out.call, out.secrets); err != nil {
		return nil, err
	}
	if p.client, err = h.identities.client(h.client, e, p.secrets); err != nil {
		return nil, err
	}
	keys, err := e.signing(p.secrets)
	if err != nil {
		return nil, err
	}
	if p.Request, err = e.request(ctx, out, p.secrets); err != nil {
		return nil, err
	}
	if h.authorize != nil {
		if p.tokens, err = h.authorized(e, p.Request, out.body); err != nil {
			return nil, err
		}
	}
	setSignature(p.Header, out.id, time.Now(), out.body, keys) // nothing overwrites it
	return p, nil
}

// holds reports whether an error of prepare keeps the whole webhook from sending, and
// not only this event.
func holds(err error) bool {
	var u *unauthorizedError
	return !errors.Is(err, errNotGiven) &&
		(errors.Is(err, ErrBadKey) || errors.Is(err, ErrBadCertificate) || errors.As(err, &u) || errors.As(err, new(*secretError)))
}

// hidden returns what of the request must not be shown where the endpoint repeats it.
func (p *prepared) hidden() (hide []string) {
	for _, v := range p.secrets {
		hide = append(hide, v)
	}
	hide = append(hide, p.tokens...)
	for name, values := range p.Header {
		if secretive(name) {
			for _, v := range values {
				hide = append(hide, credentials(v)...)
			}
		}
	}
	return hide
}

// credentials returns a header's value, and what stands after "Bearer".
func credentials(value string) []string {
	if _, c, ok := strings.Cut(value, " "); ok {
		return []string{value, c}
	}
	return []string{value}
}

// userAgent is sent where a config does not set its own, and does not change
// from release to release, since receivers filter by it.
var userAgent = []string{"callhook/1 (+https://github.com/callhook-go/callhook)"}

var contentType = []string{"application/json"}

// signingKeys are the keys of the last attempt, parsed: secrets seldom change.
type signingKeys struct {
	texts []string
	keys  []*key
}

// errNotGiven says that a secret variable of a call is not known (any more).
var errNotGiven = errors.New("the call gave no value for it, or longer ago than is remembered")

// resolve returns the values of all secrets that the endpoint refers to. call's own
// are given, or asked for where they are not.
func (e *endpoint) resolve(ctx context.Context, secrets SecretFunc, call string, given map[string]string) (map[string]string, error) {
	if len(e.refs)+len(e.given) == 0 {
		return nil, nil
	}
	values := make(map[string]string, len(e.refs)+len(e.given))
	for _, name := range e.given {
		text := given[name]
		if text == "" {
			if secrets == nil {
				return nil, &secretError{name, fmt.Errorf("%w: %w", ErrNoSecret, errNotGiven)}
			}
			ref := e.ref
			ref.Name, ref.Call = name, call
			var err error
			if text, err = secrets(ctx, ref); err != nil || text == "" || strings.ContainsFunc(text, isControl) {
				return nil, &secretError{name, fmt.Errorf("%w: %w", cmp.Or(err, ErrNoSecret), errNotGiven)}
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
		return "", &secretError{name, fmt.Errorf("%w: Options.Secrets is nil", ErrNoSecret)}
	}
	ref := e.ref
	ref.Name = name
	v, err := secrets(ctx, ref)
	switch {
	case err != nil:
	case v == "":
		err = fmt.Errorf("%w: it is empty", ErrNoSecret)
	case strings.ContainsFunc(v, isControl) && !slices.Contains(e.pems, name):
		err = fmt.Errorf("%w: its value has a line break or another control character in it", ErrNoSecret)
	default:
		return v, nil
	}
	return "", &secretError{name, err}
}

// secretError is the error of a secret that cannot be had.
type secretError struct {
	name string
	err  error
}

func (e *secretError) Error() string { return fmt.Sprintf("${%s}: %v", e.name, e.err) }
func (e *secretError) Unwrap() error { return e.err }

// masked stands for each secret where a request is shown and not sent.
func (e *endpoint) masked() map[string]string {
	values := make(map[string]string, len(e.refs)+len(e.given))
	for _, name := range slices.Concat(e.refs, e.given) {
		values[name] = mask
	}
	return values
}

const mask = "***"

// request makes the request, but for credentials and signatures.
func (e *endpoint) request(ctx context.Context, out outgoing, secrets map[string]string) (*http.Request, error) {
	u, err := e.url.render(out.values, secrets)
	if err != nil {
		return nil, err
	}
	h, err := e.header(out.body, out.values, secrets)
	if err != nil {
		return nil, err
	}
	req := (&http.Request{
		Method: e.method, URL: u, Host: u.Host, Header: h,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	if body := out.body; body != nil {
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
