package callhook

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/callhook-go/callhook/internal/template"
)

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
		if i := strings.LastIndexByte(shown, '@'); i >= 0 {
			shown = mask + shown[i:]
		}
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
		what := strings.TrimPrefix(err.Error(), "net/url: ")
		if strings.HasPrefix(what, "invalid port") { // what follows may be a password
			what = "the port is not a number"
		}
		c.fault(at, `it is not a URL: %s; write it like "https://crm.example.com/hooks"`, what)
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
	if strings.ContainsFunc(u.Host, func(r rune) bool { return r > 0x7f }) {
		c.fault(at, "the host has a letter that is not ASCII: write it in Punycode, which begins with xn--, as a browser shows it after a copy")
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
