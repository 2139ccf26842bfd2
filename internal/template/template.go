// Package template is the one engine behind every placeholder: in URLs, query
// values, headers, JSON bodies and prompt text.
//
// A placeholder is a Liquid output tag and nothing more:
//
//	{{ path | filter: "argument" | filter }}
//
// There are no tags, loops or conditions, and what a placeholder yields is never
// expanded again. A template is parsed once and rendered often; rendering cannot
// run away, since it visits each part once and all values and filters together
// may make no more than [MaxWork] bytes.
package template

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/callhook-go/callhook/internal/jsonappend"
	"github.com/tidwall/gjson"
)

// MaxWork bounds how many bytes the values and filters of one document make, in
// between too: "| json | json | …" doubles a text with each step.
const MaxWork = 32 << 20

// maxFilters bounds those of one placeholder: each may copy the whole value.
const maxFilters = 20

// ErrTooLarge says that rendering was given up, at [MaxWork] or because the source did
// not want to spend more.
var ErrTooLarge = errors.New("its placeholders and filters make too much")

// Source is what a template is rendered from.
type Source interface {
	// Location is the time zone of the date filter; nil leaves a time in the
	// zone that it is written with.
	Location() *time.Location
	// Spend is told how many bytes values and filters make. Rendering ends with its
	// error, which is [ErrTooLarge] where that is too much.
	Spend(n int) error
}

// Getter appends the JSON value that a path stands for; null when it is missing.
type Getter func(dst []byte, src Source) ([]byte, error)

// Scope resolves a path when a template is parsed. Its error tells what paths
// there are.
type Scope func(path string) (Getter, error)

// Expr is what stands between {{ and }}.
type Expr struct {
	// Text is the expression as it is written, without surrounding space.
	Text    string
	get     Getter
	filters []filter
	omit    bool
}

// ParseExpr parses "path | filter: argument | …".
func ParseExpr(text string, scope Scope) (*Expr, error) { return parseExpr(text, scope, false) }

// NewExpr returns an expression that is a path without filters.
func NewExpr(path string, get Getter) *Expr { return &Expr{Text: path, get: get} }

// Default makes e yield the JSON value raw where it is missing or empty.
func (e *Expr) Default(raw []byte) {
	e.filters = append(e.filters, filter{name: "default", args: []gjson.Result{gjson.ParseBytes(raw)}, apply: orDefault})
}

// Flatten makes e yield JSON as text where its value is an array or an object.
func (e *Expr) Flatten() {
	e.filters = append(e.filters, filter{name: "flatten", apply: func(v gjson.Result, _ []gjson.Result, _ Source) gjson.Result {
		if v.IsArray() || v.IsObject() {
			return str(v.Raw)
		}
		return v
	}})
}

// Omit makes e drop its key from an object when its value is empty.
func (e *Expr) Omit() { e.omit = true }

func parseExpr(text string, scope Scope, lenient bool) (*Expr, error) {
	steps, err := split(text, '|')
	if err != nil {
		return nil, err
	}
	e := &Expr{Text: strings.TrimSpace(text)}
	path := strings.TrimSpace(steps[0])
	if path == "" {
		return nil, errors.New("the placeholder is empty: write a path in it, like {{ call.from }}")
	}
	if e.get, err = scope(path); err != nil {
		return nil, err
	}
	for _, step := range steps[1:] {
		f, err := parseFilter(step)
		if err != nil {
			if lenient {
				continue
			}
			return nil, err
		}
		if e.omit {
			return nil, errors.New("filter omit must be the last one")
		}
		if f.name == "omit" {
			e.omit = true
			continue
		}
		if len(e.filters) == maxFilters {
			if lenient {
				continue
			}
			return nil, fmt.Errorf("a placeholder has more than %d filters", maxFilters)
		}
		e.filters = append(e.filters, f)
	}
	return e, nil
}

// AppendJSON appends the value as JSON, typed as it is.
func (e *Expr) AppendJSON(dst []byte, src Source) ([]byte, error) {
	left := work(MaxWork)
	return e.appendJSON(dst, src, &left)
}

// AppendText appends the value as text: a string without its quotes, nothing for
// null, JSON for the rest. The caller escapes it for its place.
func (e *Expr) AppendText(dst []byte, src Source) ([]byte, error) {
	left := work(MaxWork)
	v, err := e.value(src, &left)
	if err != nil {
		return dst, err
	}
	return append(dst, text(v)...), nil
}

// work is how many bytes may still be made.
type work int

func (w *work) spend(src Source, n int) error {
	if *w -= work(n); *w < 0 {
		return ErrTooLarge
	}
	return src.Spend(n)
}

func (e *Expr) appendJSON(dst []byte, src Source, left *work) ([]byte, error) {
	if len(e.filters) == 0 {
		start := len(dst)
		dst, err := e.get(dst, src)
		if err != nil {
			return dst, err
		}
		return dst, left.spend(src, len(dst)-start)
	}
	v, err := e.value(src, left)
	if err != nil {
		return dst, err
	}
	return appendValue(dst, v), nil
}

func (e *Expr) value(src Source, left *work) (gjson.Result, error) {
	raw, err := e.get(nil, src)
	if err == nil {
		err = left.spend(src, len(raw))
	}
	if err != nil {
		return gjson.Result{}, err
	}
	v := gjson.ParseBytes(raw)
	for _, f := range e.filters {
		v = f.apply(v, f.args, src)
		if err := left.spend(src, len(v.Raw)+len(v.Str)); err != nil {
			return gjson.Result{}, err
		}
	}
	return v, nil
}

// Part is a stretch of a [Text]: a literal, a placeholder or a secret reference.
type Part struct {
	Literal string
	Expr    *Expr
	Secret  string // the NAME of ${NAME}
}

// Options says how a [Text] is parsed.
type Options struct {
	// Secrets lets ${NAME} stand for a secret. Without it the text is literal.
	Secrets bool
	// Lenient never fails: a placeholder that cannot be read or resolved is
	// left out, a filter that is not known is passed over. It is for text that
	// is spoken: a caller must never hear braces.
	Lenient bool
}

// ParseText parses text with placeholders in it.
func ParseText(s string, scope Scope, o Options) ([]Part, error) {
	var parts []Part
	literal := func(t string) error {
		if !o.Lenient && strings.Contains(t, "{%") {
			return errors.New("{% … %} is not supported: only {{ path | filter }} is")
		}
		for t != "" {
			i := -1
			if o.Secrets {
				i = strings.Index(t, "${")
			}
			if i < 0 {
				parts = append(parts, Part{Literal: t})
				return nil
			}
			if i > 0 {
				parts = append(parts, Part{Literal: t[:i]})
			}
			name, rest, ok := strings.Cut(t[i+2:], "}")
			if !ok || !IsName(name) {
				return errors.New("a reference to a secret is written ${NAME}: letters, digits and _, and no digit at first")
			}
			parts = append(parts, Part{Secret: name})
			t = rest
		}
		return nil
	}
	for s != "" {
		i := strings.Index(s, "{{")
		if i < 0 {
			return parts, literal(s)
		}
		if err := literal(s[:i]); err != nil {
			return nil, err
		}
		s = s[i+2:]
		end := closing(s)
		if end < 0 {
			if o.Lenient {
				return parts, nil
			}
			return nil, errors.New("a placeholder has no end: {{ needs its }}")
		}
		e, err := parseExpr(s[:end], scope, o.Lenient)
		if o.Secrets && strings.Contains(s[:end], "${") {
			err = errors.New("a secret cannot stand inside of {{ }}: write ${NAME} beside it")
		}
		switch {
		case err == nil && e.omit && !o.Lenient:
			return nil, fmt.Errorf("%s: filter omit works only where the placeholder is a whole value in JSON", quote(e.Text))
		case err == nil:
			parts = append(parts, Part{Expr: e})
		case !o.Lenient:
			return nil, fmt.Errorf("%s: %w", quote(s[:end]), err)
		}
		s = s[end+2:]
	}
	return parts, nil
}

// quote is an expression as errors quote it.
func quote(s string) string {
	switch s = strings.TrimSpace(s); {
	case s == "":
		return "{{ }}"
	case len(s) > 100:
		s = strings.ToValidUTF8(s[:100], "") + "…"
	}
	return "{{ " + s + " }}"
}

// IsName reports whether s is [A-Za-z_][A-Za-z0-9_]*, the form of the names of
// variables and secrets.
func IsName(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if (c < 'a' || c > 'z') && s[i] != '_' && (i == 0 || s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return s != ""
}

// closing finds the }} that ends a placeholder, passing over quoted text.
func closing(s string) int {
	var quote byte
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '}' && i+1 < len(s) && s[i+1] == '}':
			return i
		}
	}
	return strings.Index(s, "}}") // a quote that is never closed: the first end there is
}

// split cuts s at sep outside of quotes and parentheses.
func split(s string, sep byte) ([]string, error) {
	var (
		out   []string
		quote byte
		depth int
		start int
	)
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == sep && depth <= 0:
			out = append(out, s[start:i])
			start = i + 1
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a text that begins with %c has no end", quote)
	}
	return append(out, s[start:]), nil
}

// appendValue appends what a filter made: its Raw where it has one.
func appendValue(dst []byte, v gjson.Result) []byte {
	switch {
	case v.Type == gjson.Null:
		return append(dst, "null"...)
	case v.Raw != "":
		return append(dst, v.Raw...)
	case v.Type == gjson.String:
		return jsonappend.String(dst, v.Str)
	}
	return append(dst, v.String()...)
}

// text is the value as a person reads it.
func text(v gjson.Result) string {
	switch v.Type {
	case gjson.Null:
		return ""
	case gjson.String:
		return v.Str
	}
	return v.Raw
}

// Empty reports whether a JSON text says nothing: null, "", [] or {}.
func Empty(raw []byte) bool {
	switch string(raw) {
	case "", "null", `""`, "[]", "{}":
		return true
	}
	return false
}
