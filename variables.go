package callhook

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/callhook-go/callhook/internal/jsonappend"
	"github.com/callhook-go/callhook/internal/template"
	"github.com/tidwall/gjson"
)

// Variables are the conversation's variables by name: a plain map. A value is a
// string, [json.Number], bool, map[string]any or []any where it came from JSON;
// a runtime may put in what encoding/json can write.
type Variables map[string]any

// UnmarshalJSON decodes a JSON object or null; numbers become [json.Number].
func (v *Variables) UnmarshalJSON(data []byte) error {
	return decodeObject(data, (*map[string]any)(v))
}

// MarshalJSON encodes v with its names sorted and its values' bytes kept.
func (v Variables) MarshalJSON() ([]byte, error) { return jsonappend.Object(nil, v) }

// Expand replaces the placeholders in text by the variables:
//
//	vars.Expand(`Hi {{customer_name | default: "there"}}!`)
//
// The filters are those of payloads. It is made for text that is spoken or
// prompts a model, so it never fails: a variable that is missing becomes nothing,
// and so does a placeholder that cannot be read. Values are text and are not
// expanded again, and "{{", "}}" and "${" do not survive, so that no later engine
// takes a caller's data for a command.
func (v Variables) Expand(text string) string {
	parts, _ := template.ParseText(text, v.scope, template.Options{Lenient: true}) // lenient: no error
	var b []byte
	var said spoken
	for _, p := range parts {
		if p.Expr == nil {
			b = append(b, p.Literal...)
		} else if out, err := p.Expr.AppendText(b, &said); err == nil {
			b = out
		}
	}
	return separate(string(b))
}

// spoken is the source of Expand: a time keeps the zone that it is written with.
type spoken struct{ spent int }

func (*spoken) Location() *time.Location { return nil }

// Spend implements template.Source.
func (s *spoken) Spend(n int) error {
	if s.spent += n; s.spent > maxLookupWork {
		return template.ErrTooLarge
	}
	return nil
}

func (v Variables) scope(path string) (template.Getter, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	return func(dst []byte, _ template.Source) ([]byte, error) { return appendMember(dst, v, path) }, nil
}

// separate puts a space into every "{{", "}}" and "${".
func separate(s string) string {
	if !strings.Contains(s, "{{") && !strings.Contains(s, "}}") && !strings.Contains(s, "${") {
		return s
	}
	b := make([]byte, 0, len(s)+8)
	for i := range len(s) {
		if i > 0 && (s[i] == '{' && (s[i-1] == '{' || s[i-1] == '$') || s[i] == '}' && s[i-1] == '}') {
			b = append(b, ' ')
		}
		b = append(b, s[i])
	}
	return string(b)
}

// MaxPromptBytes bounds what [Variables.Prompt] returns.
const MaxPromptBytes = 8 << 10

// Prompt returns the variables as one JSON object for a system prompt, names
// sorted. Quotes, brackets, braces and backticks inside of texts are escaped, so
// that nothing in a value can end the block that quotes it. A variable that would
// make the object larger than [MaxPromptBytes] is left out whole.
//
// Tell the model that the block is data about the caller, not instructions:
// escaping keeps the text inside of the quotes, not its meaning.
func (v Variables) Prompt() string {
	b := []byte{'{'}
	for _, name := range slices.Sorted(maps.Keys(v)) {
		raw, err := jsonappend.Any(append(jsonappend.String(nil, name), ':'), v[name])
		if err != nil {
			continue
		}
		entry := quotePrompt(raw)
		if len(b)+len(entry)+len(", }") > MaxPromptBytes { // the last brace may get a space before it
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(b, entry...)
	}
	return separate(string(append(b, '}')))
}

// quotePrompt escapes what could be taken for markup inside of JSON strings.
func quotePrompt(raw []byte) []byte {
	out := make([]byte, 0, len(raw)+16)
	quoted := false
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			out = append(out, c)
			i++
			c = raw[i]
		case quoted && strings.IndexByte("<>[]&{}$`", c) >= 0:
			out = append(out, `\u00`...)
			out = strconv.AppendInt(out, int64(c), 16)
			continue
		case !quoted && (c == '}' || c == '{') && len(out) > 0 && out[len(out)-1] == c:
			out = append(out, ' ')
		}
		out = append(out, c)
	}
	return out
}

// invisible are the characters that change how text reads without being seen:
// control and format characters, bidirectional overrides among them, variation
// selectors, tags, fillers.
var invisible = []*unicode.RangeTable{unicode.Cc, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point,
	unicode.Variation_Selector, unicode.Bidi_Control}

// clean removes what is invisible from untrusted text. Line breaks and tabs become
// spaces.
func clean(s string) string {
	plain := true
	for i := range len(s) {
		if s[i] < 0x20 || s[i] >= 0x7f {
			plain = false
			break
		}
	}
	if plain {
		return strings.TrimSpace(s)
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\r' || r == '\t' || r == '\u0085' || r == '\u2028' || r == '\u2029':
			return ' '
		case unicode.In(r, invisible...) || r == '\u2800':
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd")))
}

// cleanValue cleans every text inside of a decoded value.
func cleanValue(v any) any {
	switch v := v.(type) {
	case string:
		return clean(v)
	case []any:
		for i := range v {
			v[i] = cleanValue(v[i])
		}
	case map[string]any:
		out := make(map[string]any, len(v))
		for _, name := range slices.Sorted(maps.Keys(v)) { // so that of names that become equal the same one stays
			cleaned := clean(name)
			if _, taken := out[cleaned]; !taken || cleaned == name {
				out[cleaned] = cleanValue(v[name])
			}
		}
		return out
	}
	return v
}

// harmless are names that are none and can be logged: those with a few digits at most.
var harmless = regexp.MustCompile(`^[\p{L}_. -]{0,40}([0-9]{0,3}[\p{L}_. -]{1,40}|[0-9]{1,3})$`)

// Change tells what became of one variable in a lookup. It holds no value, so
// that it can be logged.
type Change struct {
	// Name is the variable's, or "directive:" and the directive's; empty for what is no
	// name ([ReasonInvalidName]) and might be a number or a secret.
	Name string
	// Action is what became of it.
	Action Action
	// From is where the value came from, or would have.
	From Origin
	// Reason says why it was dropped; empty otherwise.
	Reason Reason
}

// Action is what became of a variable.
type Action string

// The actions of a [Change].
const (
	ActionSet      Action = "set"      // it had no value before
	ActionOverrode Action = "overrode" // it replaced a value of an earlier origin
	ActionDropped  Action = "dropped"  // it was not taken, see Reason
)

// Origin is where a variable's value came from.
type Origin string

// The origins of a [Change], each stronger than the one before.
const (
	OriginDefault Origin = "default"
	OriginCall    Origin = "call"
	OriginReply   Origin = "reply"
)

// Bounds of what is taken from a reply.
const (
	maxVariables     = 200
	maxVariableBytes = 4 << 10
)

// entry is one variable of a reply.
type entry struct {
	name     string
	value    gjson.Result
	declared bool // taken only when the config declares it
	reason   Reason
}

// merge puts defaults, the call's variables and a reply together, and what else the
// reply says. A reply that gives variables makes an empty outcome an applied one.
func (a *agent) merge(call Variables, answer reading, res *PreCallResult) {
	reply := answer.entries
	res.Variables = make(Variables, len(a.variables)+len(call)+len(reply))
	res.Changes = nil
	index := make(map[string]int, len(res.Variables))
	set := func(name string, value any, from Origin) {
		res.Variables[name] = value
		if i, ok := index[name]; ok {
			res.Changes[i].Action, res.Changes[i].From = ActionOverrode, from
			return
		}
		index[name] = len(res.Changes)
		res.Changes = append(res.Changes, Change{Name: name, Action: ActionSet, From: from})
	}
	drop := func(name string, from Origin, reason Reason) {
		if reason == ReasonInvalidName && !harmless.MatchString(name) {
			name = "" // whatever the endpoint wrote there
		}
		res.Changes = append(res.Changes, Change{Name: name, Action: ActionDropped, From: from, Reason: reason})
	}
	for i := range a.variables {
		if d := &a.variables[i]; d.def != nil {
			set(d.Name, unshared(d.def), OriginDefault)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(call)) {
		if v := call[name]; v == nil || v == "" {
			if _, ok := res.Variables[name]; ok {
				continue // the default stays
			}
		}
		set(name, call[name], OriginCall)
	}
	taken := 0
	for _, e := range reply {
		d := a.declares(e.name)
		value, reason := e.read(d)
		switch {
		case reason != "":
			drop(shorten(e.name), OriginReply, reason)
		case taken == maxVariables:
			drop(shorten(e.name), OriginReply, ReasonTooMany)
		default:
			taken++
			set(e.name, value, OriginReply)
		}
	}
	for i := range a.variables {
		name := a.variables[i].Name
		if v, ok := res.Variables[name]; ok && a.variables[i].Secret {
			if res.Secrets == nil {
				res.Secrets = Variables{}
			}
			res.Secrets[name] = v
			delete(res.Variables, name)
		}
	}
	if taken > 0 && res.Outcome == OutcomeEmpty {
		res.Outcome = OutcomeApplied
	}
	if answer.raw != nil {
		res.Changes = append(res.Changes, answer.changes...)
		res.Directives, res.Dialect, res.Reply = answer.directives.unshared(), answer.dialect, bytes.Clone(answer.raw)
	}
	if a.preCall != nil {
		for _, name := range a.preCall.response.required {
			if v := cmp.Or(res.Variables[name], res.Secrets[name]); v == nil || v == "" {
				res.Missing = append(res.Missing, name)
			}
		}
	}
}

// unshared copies what a runtime could change, since calls may share a reply.
func (d Directives) unshared() Directives {
	if d.Metadata != nil {
		d.Metadata = unshared(map[string]any(d.Metadata)).(map[string]any)
	}
	if d.Other != nil {
		d.Other = unshared(map[string]any(d.Other)).(map[string]any)
	}
	return d
}

// declares returns the declaration of a variable of a reply, nil for none.
func (a *agent) declares(name string) *declared {
	if i, ok := a.preCall.response.declared[name]; ok {
		return &a.variables[i]
	}
	return nil
}

// public returns the call without the variables that the config declares secret,
// as payloads may carry it: the call itself where it has none of them.
func (a *agent) public(call *Call) *Call {
	secret := func(d declared) bool {
		_, ok := call.Variables[d.Name]
		return ok && d.Secret
	}
	if !slices.ContainsFunc(a.variables, secret) {
		return call
	}
	c := *call
	c.Variables = maps.Clone(call.Variables)
	for i := range a.variables {
		if a.variables[i].Secret {
			delete(c.Variables, a.variables[i].Name)
		}
	}
	return &c
}

// unshared copies what a runtime could change inside of a default, so that one
// call cannot put anything into another's variables.
func unshared(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, e := range v {
			out[name] = unshared(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = unshared(e)
		}
		return out
	}
	return v
}

// read returns the value of a reply's entry, or why it is not taken.
func (e *entry) read(d *declared) (any, Reason) {
	switch {
	case e.reason != "":
		return nil, e.reason
	case !template.IsName(e.name) || len(e.name) > 64:
		return nil, ReasonInvalidName
	case reservedVariable(e.name):
		return nil, ReasonReservedName
	case e.declared && d == nil:
		return nil, ReasonUndeclared
	case d != nil && d.Locked:
		return nil, ReasonLocked
	case e.value.Type == gjson.Null:
		return nil, ReasonNull
	case len(e.value.Raw) > 4*maxVariableBytes:
		return nil, ReasonTooLong
	}
	value := decode(e.value)
	switch v := value.(type) {
	case string:
		if v == "" {
			return nil, ReasonEmpty
		}
		if len(v) > maxVariableBytes {
			return nil, ReasonTooLong
		}
	case json.Number:
		if len(v) > maxVariableBytes {
			return nil, ReasonTooLong
		}
	}
	if d == nil {
		return value, ""
	}
	value, reason := coerce(value, d.Type)
	if text, ok := value.(string); ok && reason == "" && d.MaxLength > 0 && utf8.RuneCountInString(text) > d.MaxLength {
		return nil, ReasonTooLong
	}
	return value, reason
}

// decode returns the Go value of a reply's value, cleaned.
func decode(v gjson.Result) any {
	switch v.Type {
	case gjson.String:
		return clean(v.Str)
	case gjson.Number:
		return json.Number(v.Raw)
	case gjson.True, gjson.False:
		return v.Type == gjson.True
	case gjson.JSON:
		d := json.NewDecoder(strings.NewReader(v.Raw))
		d.UseNumber()
		var out any
		if d.Decode(&out) == nil {
			return cleanValue(out)
		}
	}
	return nil
}

// coerce returns value as the declared type, if nothing is lost by it.
func coerce(value any, typ string) (any, Reason) {
	text, isText := value.(string)
	switch typ {
	case "":
		return value, ""
	case "string":
		switch v := value.(type) {
		case string:
			return v, ""
		case json.Number:
			return string(v), ""
		case bool:
			return strconv.FormatBool(v), ""
		}
	case "number":
		switch v := value.(type) {
		case json.Number, float64, int, int64:
			return v, ""
		}
		if text = strings.TrimSpace(text); isText {
			if _, err := jsonappend.Number(nil, json.Number(text)); err == nil && text != "" {
				return json.Number(text), ""
			}
		}
	case "boolean":
		if v, ok := value.(bool); ok {
			return v, ""
		}
		switch strings.ToLower(text) {
		case "true":
			return true, ""
		case "false":
			return false, ""
		}
	case "date":
		for _, layout := range []string{time.RFC3339, time.DateOnly} {
			if _, err := time.Parse(layout, text); err == nil {
				return text, ""
			}
		}
	case "object":
		if v, ok := value.(map[string]any); ok {
			return v, ""
		}
	case "array":
		if v, ok := value.([]any); ok {
			return v, ""
		}
	}
	return nil, ReasonWrongType
}

// shorten makes a name from outside fit for a log line.
func shorten(name string) string {
	name = clean(name)
	for len(name) > 64 {
		_, size := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-size]
	}
	return name
}
