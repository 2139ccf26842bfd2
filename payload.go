package callhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/callhook-go/callhook/internal/jsonappend"
	"github.com/callhook-go/callhook/internal/template"
)

// Payload says what a webhook sends. Its zero value sends the call: without
// sip_headers, cost and the arguments of tools for post-call, and ids, numbers,
// statuses and transfers for call-status.
//
// The body is the envelope of the Standard Webhooks specification,
//
//	{"id": "msg_…", "type": "call.ended", "timestamp": "…", "data": {"call": {…}}}
//
// unless Template says otherwise. Values keep their bytes: a 20-digit number or
// 1.10 arrives as it was, and <, > and & are not rewritten. A missing value is
// null, so the shape is the same for every call.
type Payload struct {
	// Fields selects what is sent, by paths that [Fields] lists, each nested as
	// its path says. At most 500.
	Fields []PayloadField `json:"fields,omitempty"`
	// Flat sends one level, "call_from" beside "id" and "type", for receivers
	// that cannot nest (Zapier). The transcript becomes one text, tags are
	// joined, and what has no fixed names becomes JSON as text.
	Flat bool `json:"flat,omitempty"`
	// Template is any JSON: what the receiver wants instead of the envelope. A
	// string that is exactly one placeholder, "{{call.duration_ms}}", becomes the
	// typed value; in other strings placeholders become text. At most 1000
	// placeholders.
	Template json.RawMessage `json:"template,omitempty"`
}

// PayloadField is one selected field. In JSON it is a path alone, or an object.
type PayloadField struct {
	// Path is a path that [Fields] lists, or one below it, like
	// "call.variables.customer_name", "call.transfers.0.to" or
	// `call.transcript.#(role=="user")#.text`.
	Path string `json:"path"`
	// As is where the value stands in "data", with dots to nest, or the key when
	// the payload is flat. Empty means as the path says. A path with # or a query
	// needs it, and so does one with an index, unless the payload is flat.
	As string `json:"as,omitempty"`
	// Default is the JSON value that stands for a missing or empty one.
	Default json.RawMessage `json:"default,omitempty"`
}

// Limits of a body.
const (
	defaultMaxBytes = 4 << 20 // under Make's 5 MB
	highestMaxBytes = 16 << 20
	maxFields       = 500
)

// ErrTooLarge says that a body is larger than the webhook's max_bytes, even
// without the transcript, or that its filters make far too much.
var ErrTooLarge = errors.New("callhook: the payload is too large")

// Build returns the body that a webhook with this payload sends for the event: a
// preview, or the whole of it for a program that sends by other means. It
// compiles the payload each time; [Hooks] does so once per config. The error is a
// [*ConfigError] for a payload that is wrong, and tells the field otherwise.
//
// The event's Type decides which fields there are; Data.Call must be set.
func (p *Payload) Build(e *Event) ([]byte, error) {
	if e == nil || e.Data.Call == nil {
		return nil, fmt.Errorf("%w: a payload needs an event with a call", ErrInvalidCall)
	}
	t := e.Type.Webhook()
	if t == "" {
		return nil, fmt.Errorf("callhook: %q is no event type: use EventInbound, EventStatus, EventEnded or EventAnalyzed", e.Type)
	}
	if p == nil {
		p = new(Payload)
	}
	c := new(compiler)
	b := c.payload(p, t, "payload", defaultMaxBytes)
	if err := c.err(""); err != nil {
		return nil, err
	}
	return b.build(&rendering{event: e}, 0)
}

// body is a compiled Payload.
type body struct {
	root       *template.Node
	max        int
	transcript bool         // something of the transcript is in it
	size       atomic.Int64 // about how large the bodies are
}

// build renders the body. limit is the queue's, zero for none.
func (b *body) build(r *rendering, limit int) ([]byte, error) {
	most := b.max
	if limit > 0 {
		most = min(most, limit)
	}
	dst, err := b.root.Append(make([]byte, 0, max(256, b.size.Load())), r)
	if b.transcript && (err == nil && len(dst) > most || errors.Is(err, template.ErrTooLarge)) {
		r.truncate, r.below = true, nil
		dst, err = b.root.Append(dst[:0], r)
		r.truncate = false
	}
	if errors.Is(err, template.ErrTooLarge) {
		return nil, fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	if err != nil {
		return nil, fmt.Errorf("callhook: the payload cannot be built: %w", err)
	}
	if len(dst) > most {
		return nil, fmt.Errorf("%w: %d bytes, and at most %d are allowed: select fewer fields or raise max_bytes", ErrTooLarge, len(dst), most)
	}
	if n := int64(len(dst) + len(dst)/8); n > b.size.Load() || n < b.size.Load()/4 {
		b.size.Store(n)
	}
	return dst, nil
}

// payload compiles p. Faults go to the compiler.
func (c *compiler) payload(p *Payload, t Type, at string, maxBytes int) *body {
	b := &body{max: maxBytes}
	scope := func(path string) (template.Getter, error) {
		get, err := resolver(t)(path)
		if err == nil {
			c.paths = append(c.paths, path)
			b.transcript = b.transcript || strings.HasPrefix(path, "call.transcript")
		}
		return get, err
	}
	if len(p.Template) > 0 {
		if len(p.Fields) > 0 || p.Flat {
			c.fault(at, `"template" stands alone: leave out "fields" and "flat", or the template`)
		}
		b.root = template.ParseJSON(p.Template, c.limited(scope), func(place string, err error) { c.fault(at+".template"+place, "%s", err) })
		return b
	}
	if len(p.Fields) > maxFields {
		c.fault(at+".fields", "%d fields are selected; at most %d can be", len(p.Fields), maxFields)
		return b
	}
	plain := len(p.Fields) == 0 && !p.Flat
	if shared, ok := defaultBodies.Load(t); ok && plain {
		b.root, b.transcript = shared.(*body).root, shared.(*body).transcript
		return b
	}
	s := &selection{compiler: c, scope: scope, flat: p.Flat, root: new(template.Node)}
	for _, f := range eventFields {
		s.root.Add(f.name, s.path("event."+f.name))
	}
	s.data = s.root
	if !p.Flat {
		s.data = new(template.Node)
		s.root.Add("data", s.data)
	}
	for i, f := range p.Fields {
		s.field(f, t, fmt.Sprintf("%s.fields[%d]", at, i))
	}
	if len(p.Fields) == 0 {
		s.defaults(t)
	}
	if b.transcript && s.data.Member("truncated") == nil {
		s.data.Add("truncated", template.Value(truncated(p.Flat)))
	}
	if b.root = s.root; plain {
		defaultBodies.Store(t, b)
	}
	return b
}

// defaultBodies are those of payloads in which nothing is selected, by type: all
// agents share them.
var defaultBodies sync.Map

// truncated names what was left out, and is left out itself where that is nothing.
func truncated(flat bool) *template.Expr {
	names := `["call.transcript"]`
	if flat {
		names = `"call.transcript"`
	}
	e := template.NewExpr("truncated", func(dst []byte, src template.Source) ([]byte, error) {
		if src.(*rendering).truncate {
			return append(dst, names...), nil
		}
		return append(dst, "null"...), nil
	})
	e.Omit()
	return e
}

// selection builds the document of a payload without a template.
type selection struct {
	*compiler
	scope      template.Scope
	flat       bool
	root, data *template.Node
}

// expr parses an expression on a path of the catalogue, which is always known.
func (s *selection) expr(text string) *template.Expr {
	e, err := template.ParseExpr(text, s.scope)
	if err != nil {
		panic(err)
	}
	return e
}

func (s *selection) path(path string) *template.Node { return template.Value(s.expr(path)) }

func (s *selection) defaults(t Type) {
	for i := range callFields {
		f := &callFields[i]
		if f.defaultOn&typeSet(t) == 0 {
			continue
		}
		path := "call." + f.name
		switch {
		case s.flat:
			s.flatten(f, path, "call_"+f.name, nil, "")
		case f.name == "transcript":
			s.path(path) // so that the scope knows of it
			leaf := template.Value(template.NewExpr(path, func(dst []byte, src template.Source) ([]byte, error) {
				r := src.(*rendering)
				if r.truncate {
					return append(dst, "null"...), nil
				}
				return appendTranscript(dst, r.event.Data.Call.Transcript, false)
			}))
			_ = insert(s.data, []string{"call", f.name}, leaf)
		default:
			_ = insert(s.data, []string{"call", f.name}, s.path(path))
		}
	}
}

func (s *selection) field(f PayloadField, t Type, at string) {
	get, err := s.scope(f.Path)
	switch {
	case strings.TrimSpace(f.Path) != f.Path:
		s.fault(at, "there is a space before or after the path %q: remove it", f.Path)
		return
	case strings.Contains(f.Path, "{{"):
		s.fault(at, "a field is a path alone, without {{ }}: only a template has placeholders")
		return
	case err != nil && strings.Contains(f.Path, "|"):
		s.fault(at, "a field is a path alone, without filters: only a template has filters")
		return
	case err != nil:
		s.fault(at, "%s", err)
		return
	case strings.HasPrefix(f.Path, "event."):
		s.fault(at, "%s is always sent: leave it out", f.Path)
		return
	}
	if len(f.Default) > 0 {
		raw, err := jsonappend.Raw(nil, f.Default)
		if err != nil {
			s.fault(at+".default", "it is not JSON: %s", err)
			return
		}
		f.Default = raw
	}
	if len(f.As) > maxPathBytes {
		s.fault(at+".as", "it is longer than %d characters", maxPathBytes)
		return
	}
	if s.flat {
		key := f.As
		if key == "" {
			key = strings.Join(literalSteps(f.Path), "_")
			if strings.Contains(key, "#") {
				s.fault(at, `a path with # has no name of its own: give it one with {"path": …, "as": "name"}`)
				return
			}
		}
		i := slices.IndexFunc(callFields, func(c callField) bool { return "call."+c.name == f.Path })
		if i >= 0 {
			s.flatten(&callFields[i], f.Path, key, f.Default, at)
		} else {
			_, typ, _ := resolve(f.Path, t)
			s.leaf(template.NewExpr(f.Path, get), key, typ, f.Default, at)
		}
		return
	}
	steps := strings.Split(f.As, ".")
	if f.As == "" {
		steps = literalSteps(f.Path)
		if slices.ContainsFunc(pathSteps(f.Path), func(s string) bool { return s == "#" }) {
			s.fault(at, `a path with a number or # has no name of its own: give it one with {"path": …, "as": "name"}`)
			return
		}
	}
	if slices.Contains(steps, "") {
		s.fault(at+".as", "%q has an empty name between dots", f.As)
		return
	}
	if len(steps) > maxPathSteps {
		s.fault(at+".as", "it nests more than %d levels deep", maxPathSteps)
		return
	}
	e := template.NewExpr(f.Path, get)
	if f.Default != nil {
		e.Default(f.Default)
	}
	if err := insert(s.data, steps, template.Value(e)); err != nil {
		s.fault(at, "%s", err)
	}
}

// flatten adds one field of the call on one level.
func (s *selection) flatten(f *callField, path, key string, def []byte, at string) {
	switch {
	case f.typ == "object" && !f.free: // one key for each part
		for _, sub := range f.sub {
			if !strings.Contains(sub.name, "*") {
				s.leaf(s.expr(path+"."+sub.name), key+"_"+sub.name, sub.typ, def, at)
			}
		}
	case f.name == "transcript":
		s.leaf(s.expr("call.transcript_text"), key, "string", def, at)
	case f.name == "tags":
		s.leaf(s.expr(path+" | join"), key, "string", def, at)
	default:
		s.leaf(s.expr(path), key, f.typ, def, at)
	}
}

// leaf adds one value on one level; what nests becomes JSON as text.
func (s *selection) leaf(e *template.Expr, key, typ string, def []byte, at string) {
	if s.data.Member(key) != nil {
		s.fault(at, "%q is there already: leave one out, or name it differently with \"as\"", key)
		return
	}
	switch typ {
	case "string", "time", "number", "boolean":
	default: // an array or object, or not known
		e.Flatten()
	}
	if def != nil {
		e.Default(def)
	}
	s.data.Add(key, template.Value(e))
}

// insert puts leaf into the tree at steps, making objects on the way.
func insert(n *template.Node, steps []string, leaf *template.Node) error {
	name := steps[0]
	child := n.Member(name)
	if len(steps) == 1 {
		if child != nil {
			return fmt.Errorf("%q is there already: leave one out, or name it differently with \"as\"", name)
		}
		n.Add(name, leaf)
		return nil
	}
	if child == nil {
		child = new(template.Node)
		n.Add(name, child)
	}
	if !child.IsObject() {
		return fmt.Errorf("%q is there already as a whole: leave one out", name)
	}
	return insert(child, steps[1:], leaf)
}

// literalSteps returns the steps of a checked path without gjson's escapes.
func literalSteps(path string) (steps []string) {
	for {
		step, rest, more, _ := cutStep(path)
		steps = append(steps, strings.ReplaceAll(step, `\`, ""))
		if !more {
			return steps
		}
		path = rest
	}
}
