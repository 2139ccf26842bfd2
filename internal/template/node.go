package template

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/callhook-go/callhook/internal/jsonappend"
)

// Limits of a JSON template.
const (
	MaxDepth = 32
	MaxNodes = 10_000
)

// Node is a JSON document with placeholders, or a part of one. The zero Node is
// an empty object to which members are added.
type Node struct {
	raw     []byte // a literal, as JSON
	expr    *Expr  // the whole value is one placeholder
	parts   []Part // text with placeholders in it
	members []member
	items   []*Node
	array   bool
}

type member struct {
	name string
	key  []byte // quoted, with its colon
	node *Node
}

// Literal returns a node that is the JSON text raw.
func Literal(raw []byte) *Node { return &Node{raw: raw} }

// Value returns a node that is the value of e.
func Value(e *Expr) *Node { return &Node{expr: e} }

// Member returns the member of an object, nil when there is none.
func (n *Node) Member(name string) *Node {
	for _, m := range n.members {
		if m.name == name {
			return m.node
		}
	}
	return nil
}

// IsObject reports whether members can be added to n.
func (n *Node) IsObject() bool { return n.raw == nil && n.expr == nil && n.parts == nil && !n.array }

// Add appends a member to an object.
func (n *Node) Add(name string, child *Node) {
	n.members = append(n.members, member{name, append(jsonappend.String(nil, name), ':'), child})
}

// Append renders the document.
func (n *Node) Append(dst []byte, src Source) ([]byte, error) {
	left := work(MaxWork)
	return n.append(dst, src, &left)
}

func (n *Node) append(dst []byte, src Source, left *work) ([]byte, error) {
	var err error
	switch {
	case n.raw != nil:
		return append(dst, n.raw...), nil
	case n.expr != nil:
		return n.expr.appendJSON(dst, src, left)
	case n.parts != nil:
		var t []byte
		for _, p := range n.parts {
			if p.Expr == nil {
				t = append(t, p.Literal...)
				continue
			}
			v, err := p.Expr.value(src, left)
			if err != nil {
				return dst, err
			}
			t = append(t, text(v)...)
		}
		return jsonappend.String(dst, string(t)), nil
	case n.array:
		return n.appendItems(dst, src, left)
	}
	dst = append(dst, '{')
	first := true
	for i := range n.members {
		m := &n.members[i]
		start := len(dst)
		if !first {
			dst = append(dst, ',')
		}
		dst = append(dst, m.key...)
		value := len(dst)
		if dst, err = m.node.append(dst, src, left); err != nil {
			return dst, err
		}
		if m.node.omits() && Empty(dst[value:]) {
			dst = dst[:start]
			continue
		}
		first = false
	}
	return append(dst, '}'), nil
}

func (n *Node) appendItems(dst []byte, src Source, left *work) ([]byte, error) {
	var err error
	dst = append(dst, '[')
	first := true
	for _, item := range n.items {
		start := len(dst)
		if !first {
			dst = append(dst, ',')
		}
		value := len(dst)
		if dst, err = item.append(dst, src, left); err != nil {
			return dst, err
		}
		if item.omits() && Empty(dst[value:]) {
			dst = dst[:start]
			continue
		}
		first = false
	}
	return append(dst, ']'), nil
}

func (n *Node) omits() bool { return n.expr != nil && n.expr.omit }

// ParseJSON parses a JSON document whose strings hold placeholders. A string that
// is exactly one placeholder becomes the typed value. Every fault is reported
// with its place in the document, like ".properties.hs_timestamp"; the node is
// usable only when there was none.
func ParseJSON(raw []byte, scope Scope, report func(place string, err error)) *Node {
	if !json.Valid(raw) {
		report("", errors.New("it is not JSON"))
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	p := &jsonParser{d: d, scope: scope, report: report}
	n, err := p.value("", 0)
	if err != nil {
		report("", err)
		return nil
	}
	return n
}

type jsonParser struct {
	d      *json.Decoder
	scope  Scope
	report func(string, error)
	nodes  int
}

func (p *jsonParser) value(place string, depth int) (*Node, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("the template is nested more than %d levels deep", MaxDepth)
	}
	if p.nodes++; p.nodes > MaxNodes {
		return nil, fmt.Errorf("the template has more than %d values", MaxNodes)
	}
	tok, err := p.d.Token()
	if err != nil {
		return nil, err
	}
	switch tok := tok.(type) {
	case json.Delim:
		if tok == '[' {
			return p.items(place, depth)
		}
		return p.members(place, depth)
	case string:
		return p.text(place, tok), nil
	}
	raw, err := jsonappend.Any(nil, tok)
	return Literal(raw), err
}

func (p *jsonParser) items(place string, depth int) (*Node, error) {
	n := &Node{array: true}
	for i := 0; p.d.More(); i++ {
		item, err := p.value(place+"["+strconv.Itoa(i)+"]", depth+1)
		if err != nil {
			return nil, err
		}
		n.items = append(n.items, item)
	}
	_, err := p.d.Token()
	return n, err
}

func (p *jsonParser) members(place string, depth int) (*Node, error) {
	n := &Node{}
	seen := map[string]bool{}
	for p.d.More() {
		tok, err := p.d.Token()
		if err != nil {
			return nil, err
		}
		name := tok.(string)
		at := place + "." + name
		if seen[name] {
			p.report(at, errors.New("the name stands twice in one object: keep one"))
		}
		seen[name] = true
		if bytes.Contains([]byte(name), []byte("{{")) {
			p.report(at, errors.New("a placeholder cannot stand in a name: names must be the same for every call"))
		}
		child, err := p.value(at, depth+1)
		if err != nil {
			return nil, err
		}
		n.Add(name, child)
	}
	_, err := p.d.Token()
	return n, err
}

func (p *jsonParser) text(place, s string) *Node {
	if end := closing(trimOpen(s)); end >= 0 && len(s) >= 4 && s[:2] == "{{" && end+4 == len(s) {
		e, err := ParseExpr(s[2:len(s)-2], p.scope)
		if err != nil {
			p.report(place, fmt.Errorf("%s: %w", quote(s[2:len(s)-2]), err))
			return &Node{}
		}
		return Value(e)
	}
	parts, err := ParseText(s, p.scope, Options{})
	if err != nil {
		p.report(place, err)
	}
	for _, part := range parts {
		if part.Expr != nil {
			return &Node{parts: parts}
		}
	}
	return Literal(jsonappend.String(nil, s))
}

func trimOpen(s string) string {
	if len(s) < 2 {
		return ""
	}
	return s[2:]
}
