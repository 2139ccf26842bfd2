package callhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/callhook-go/callhook/internal/suggest"
	"github.com/callhook-go/callhook/internal/template"
	"github.com/tidwall/gjson"
)

// ErrNotUnique says that response.unique found more than one match, so that
// nobody's data was used: two people may share a number.
var ErrNotUnique = errors.New("callhook: the reply has more than one match for the caller")

// ErrBadReply says that a reply that should be JSON is not, or is too large or
// too deep to read.
var ErrBadReply = errors.New("callhook: the reply cannot be read")

// Bounds of a reply.
const (
	maxReplyBytes = 256 << 10 // after decompression
	maxReplyDepth = 64
)

// dialect is the shape of the replies of one platform, as its public
// documentation has it.
type dialect struct {
	name string
	// mark is the path of the object by which the shape is recognized; empty for
	// shapes that are too common to guess at.
	mark string
	// only, where it is set, must be the reply's "type".
	only string
	// variables are the paths where variables may be; the first that is an object
	// counts.
	variables []string
	// directives are what else the reply may say, by directive and path.
	directives map[string]string
	// bad returns why an entry is not taken, where the platform has such a rule.
	bad func(i int, v gjson.Result) Reason
}

// dialects are in the order in which shapes are tried.
var dialects = []dialect{
	{name: "callhook", mark: "variables", variables: []string{"variables"}, directives: map[string]string{
		"agent_id": "directives.agent_id", "first_message": "directives.first_message", "language": "directives.language",
		"voice": "directives.voice", "reject": "directives.reject", "transfer_to": "directives.transfer_to", "metadata": "metadata"}},
	{name: "synthflow", mark: "call_inbound.custom_variables", variables: []string{"call_inbound.custom_variables"}, directives: map[string]string{
		"agent_id": "call_inbound.override_model_id", "metadata": "call_inbound.metadata"}},
	{name: "dograh", mark: "call_inbound.initial_context", variables: []string{"call_inbound.initial_context", "initial_context", "dynamic_variables"}},
	{name: "retell", mark: "call_inbound", variables: []string{"call_inbound.dynamic_variables"}, directives: map[string]string{
		"agent_id": "call_inbound.override_agent_id", "agent_version": "call_inbound.override_agent_version", "metadata": "call_inbound.metadata",
		"voice": "call_inbound.agent_override.agent.voice_id", "language": "call_inbound.agent_override.agent.language",
		"max_duration_ms": "call_inbound.agent_override.agent.max_call_duration_ms", "reject": "call_inbound.reject"}},
	{name: "dograh", mark: "initial_context", variables: []string{"initial_context"}},
	{name: "elevenlabs", mark: "dynamic_variables", only: "conversation_initiation_client_data", variables: []string{"dynamic_variables"}, directives: map[string]string{
		"prompt": "conversation_config_override.agent.prompt.prompt", "first_message": "conversation_config_override.agent.first_message",
		"language": "conversation_config_override.agent.language", "voice": "conversation_config_override.tts.voice_id",
		"extra_body": "custom_llm_extra_body", "user_id": "user_id"}},
	{name: "telnyx", mark: "dynamic_variables", variables: []string{"dynamic_variables"}, directives: map[string]string{
		"memory": "memory", "metadata": "conversation.metadata"}},
	{name: "fish", variables: []string{"dynamic_variables"}, bad: func(i int, v gjson.Result) Reason {
		switch {
		case i >= 50:
			return ReasonTooMany
		case v.IsArray() || v.IsObject():
			return ReasonWrongType
		case v.Type == gjson.String && utf8.RuneCountInString(v.Str) > 1000:
			return ReasonTooLong
		}
		return ""
	}},
	{name: "vapi", mark: "assistantOverrides.variableValues", variables: []string{"assistantOverrides.variableValues"}, directives: map[string]string{
		"reject": "error", "transfer_to": "destination", "agent_id": "assistantId"}},
	{name: "vogent", mark: "call_agent_input", variables: []string{"call_agent_input"}, directives: map[string]string{"keywords": "keywords"}},
	{name: "botpulse", mark: "result.dynamic_data", variables: []string{"result.dynamic_data"}, directives: map[string]string{
		"language": "result.personalization.language", "additional_context": "result.additional_context", "metadata": "result.metadata"}},
	{name: "simpleai", variables: []string{"parameters"}},
	{name: "millis", variables: []string{"metadata"}, directives: map[string]string{"additional_context": "extra_prompt"}},
	{name: "flat", variables: []string{"@this"}},
}

// Dialects returns the names of the shapes of replies that a config may name in
// response.dialect: callhook, synthflow, dograh, retell, elevenlabs, telnyx, fish,
// vapi, vogent, botpulse, simpleai and millis, and "flat" for an object
// whose members are the variables, of which only declared ones are taken.
func Dialects() []string {
	var names []string
	for _, d := range dialects {
		if !slices.Contains(names, d.name) {
			names = append(names, d.name)
		}
	}
	return names
}

// Directives are what a reply asked of the runtime beyond variables, and the
// config allows by name in response.directives. callhook never follows one: the
// runtime decides. The names are those of the JSON tags; those of Other are
// agent_version, prompt, max_duration_ms, user_id, memory, keywords,
// additional_context and extra_body.
type Directives struct {
	AgentID      string `json:"agent_id,omitempty"`      // take the call with another agent
	FirstMessage string `json:"first_message,omitempty"` // say this first
	Language     string `json:"language,omitempty"`      // speak this language
	Voice        string `json:"voice,omitempty"`         // speak with this voice
	TransferTo   string `json:"transfer_to,omitempty"`   // transfer at once: an E.164 number or a SIP URI
	Reject       string `json:"reject,omitempty"`        // do not take the call: the reason, or "true" where none was given
	Metadata     Object `json:"metadata,omitempty"`      // belongs into the call's metadata
	Other        Object `json:"-"`                       // by name
}

var directiveNames = []string{"agent_id", "agent_version", "first_message", "prompt", "language", "voice", "reject", "transfer_to",
	"metadata", "max_duration_ms", "user_id", "memory", "keywords", "additional_context", "extra_body"}

// response is a compiled [Response].
type response struct {
	paths    []variablePath
	dialect  *dialect
	unique   string
	allowed  []string
	required []string
	declared map[string]int // the config's variables: where they stand in it
}

type variablePath struct{ name, path string }

func (c *compiler) response(r *Response, at string) (out response) {
	out.declared = make(map[string]int, len(c.config.Variables))
	for i, v := range c.config.Variables {
		out.declared[v.Name] = i
	}
	if len(r.Variables) > maxVariables {
		c.fault(at+".variables", "it names %d variables: at most %d are taken from a reply", len(r.Variables), maxVariables)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Variables)) {
		path, where := r.Variables[name], at+".variables."+name
		if reservedVariable(name) || !template.IsName(name) {
			c.fault(where, "%q cannot be the name of a variable: use letters, digits and _, begin with a letter or _; call and system are reserved", name)
		}
		if err := checkPath(path); err != nil {
			c.fault(where, "%s", err)
		}
		out.paths = append(out.paths, variablePath{name, path})
	}
	if r.Dialect != "" {
		i := slices.IndexFunc(dialects, func(d dialect) bool { return d.name == r.Dialect })
		switch {
		case i < 0:
			c.fault(at+".dialect", "%q is not known%s; the dialects are %s", r.Dialect, suggest.DidYouMean(r.Dialect, Dialects()), strings.Join(Dialects(), ", "))
		case len(out.paths) > 0:
			c.fault(at+".dialect", `it stands beside "variables": keep one of the two`)
		default:
			out.dialect = &dialects[i]
		}
	}
	if out.unique = r.Unique; r.Unique != "" {
		if err := checkPath(r.Unique); err != nil {
			c.fault(at+".unique", "%s", err)
		}
	}
	for i, name := range r.Directives {
		if !slices.Contains(directiveNames, name) {
			c.fault(fmt.Sprintf("%s.directives[%d]", at, i), "%q is not a directive%s; the directives are %s", name,
				suggest.DidYouMean(name, directiveNames), strings.Join(directiveNames, ", "))
		}
	}
	out.allowed = r.Directives
	if len(r.Required) > maxVariables {
		c.fault(at+".required", "there are %d; at most %d are possible", len(r.Required), maxVariables)
	}
	for i, name := range r.Required {
		if reservedVariable(name) || !template.IsName(name) {
			c.fault(fmt.Sprintf("%s.required[%d]", at, i), "%.80q cannot be the name of a variable: use letters, digits and _, begin with a letter or _; call and system are reserved", name)
		}
	}
	out.required = r.Required
	return out
}

// reading is what was found in a reply.
type reading struct {
	dialect    string
	entries    []entry
	directives Directives
	changes    []Change // of directives
	raw        json.RawMessage
}

// read understands a reply. A reply without variables is no error.
func (p *response) read(ctx context.Context, contentType string, reply []byte) (out reading, err error) {
	reply = bytes.TrimPrefix(reply, []byte("\ufeff")) // a byte order mark, which .NET and PHP like to send
	if len(bytes.TrimSpace(reply)) == 0 {
		return out, nil
	}
	if !json.Valid(reply) {
		if strings.Contains(strings.ToLower(contentType), "json") {
			return out, fmt.Errorf("%w: it says that it is JSON and is not", ErrBadReply)
		}
		return out, nil // "Accepted" and the like
	}
	if depth(reply) > maxReplyDepth {
		return out, fmt.Errorf("%w: it is nested more than %d levels deep", ErrBadReply, maxReplyDepth)
	}
	out.raw = reply
	whole := gjson.ParseBytes(reply)
	if p.unique != "" && several(whole.Get(p.unique)) {
		return out, ErrNotUnique
	}
	doc := whole
	if whole.IsArray() {
		if several(whole) && len(p.paths) == 0 {
			return out, ErrNotUnique
		}
		doc = whole.Get("0")
	}
	if len(p.paths) > 0 {
		for _, v := range p.paths {
			if err := ctx.Err(); err != nil { // a path is read in time that grows with the reply
				return out, fmt.Errorf("callhook: reading the reply: %w", err)
			}
			e := entry{name: v.name, value: whole.Get(v.path)}
			if !e.value.Exists() && whole.IsArray() {
				e.value = doc.Get(v.path)
			}
			if !e.value.Exists() {
				e.reason = ReasonMissing
			}
			out.entries = append(out.entries, e)
		}
		return out, nil
	}
	d := p.dialect
	if d == nil {
		d = recognize(doc)
	}
	if d == nil || !doc.IsObject() {
		return out, nil
	}
	out.dialect = d.name
	p.collect(&out, d, doc)
	out.direct(d, doc, p.allowed)
	return out, nil
}

// several reports whether matches are more than one: an array of them, or their
// number.
func several(matches gjson.Result) bool {
	if matches.IsArray() {
		return matches.Get("1").Exists()
	}
	return matches.Float() > 1 // also of a number in quotes
}

// recognize returns the dialect of a reply, nil for none.
func recognize(doc gjson.Result) *dialect {
	if !doc.IsObject() {
		return nil
	}
	for i := range dialects {
		d := &dialects[i]
		if d.mark != "" && doc.Get(d.mark).IsObject() && (d.only == "" || doc.Get("type").Str == d.only) {
			return d
		}
	}
	if started(doc) {
		return nil
	}
	return &dialects[len(dialects)-1] // flat
}

// started reports whether a reply says only that a workflow began: n8n's
// {"message":"Workflow was started"} and Zapier's {"status":"success","id":…,"request_id":…}.
func started(doc gjson.Result) bool {
	n := 0
	doc.ForEach(func(_, _ gjson.Result) bool { n++; return n <= 4 })
	return n == 1 && doc.Get("message").Str == "Workflow was started" ||
		n <= 4 && doc.Get("status").Str == "success" && doc.Get("id").Exists() && doc.Get("request_id").Exists()
}

// collect takes the variables of a reply. Behind the first 400 it takes declared
// ones only, so that a reply cannot make the report endless.
func (p *response) collect(out *reading, d *dialect, doc gjson.Result) {
	flat := d.name == "flat"
	for _, path := range d.variables {
		object := doc
		if !flat {
			object = doc.Get(path)
		}
		if !object.IsObject() {
			continue
		}
		i := 0
		seen := map[string]bool{}
		object.ForEach(func(name, v gjson.Result) bool {
			e := entry{name: name.Str, value: v, declared: flat}
			if d.bad != nil {
				e.reason = d.bad(i, v)
			}
			_, declared := p.declared[e.name]
			if (declared || i < 2*maxVariables) && !seen[e.name] { // the first of two equal names, as everywhere in a reply
				out.entries = append(out.entries, e)
				seen[e.name] = true
			}
			i++
			return true
		})
		return
	}
}

// direct collects the directives.
func (r *reading) direct(d *dialect, doc gjson.Result, allowed []string) {
	var stronger string
	for _, name := range directiveNames {
		path, ok := d.directives[name]
		if !ok {
			continue
		}
		v := doc.Get(path)
		if !v.Exists() || v.Type == gjson.Null || v.Type == gjson.False || v.Type == gjson.String && strings.TrimSpace(v.Str) == "" {
			continue // Synthflow's "" keeps the agent
		}
		change := Change{Name: "directive:" + name, Action: ActionDropped, From: OriginReply}
		switch {
		case !slices.Contains(allowed, name):
			change.Reason = ReasonNotAllowed
		case !r.directives.set(name, v):
			change.Reason = ReasonInvalid
		default:
			change.Action = ActionSet
		}
		r.changes = append(r.changes, change)
	}
	if d.name != "vapi" { // error > destination > assistant
		return
	}
	for _, name := range []string{"reject", "transfer_to", "agent_id"} {
		i := slices.IndexFunc(r.changes, func(c Change) bool { return c.Name == "directive:"+name && c.Action == ActionSet })
		switch {
		case i < 0:
		case stronger == "":
			stronger = name
		default:
			r.changes[i].Action, r.changes[i].Reason = ActionDropped, ReasonOverridden
			r.directives.clear(name)
		}
	}
}

// transferTarget leaves out what a dialler could take for more than an address: a
// SIP URI's headers (?), and the list and variable syntax of dial strings.
var transferTarget = regexp.MustCompile(`^(\+[1-9][0-9]{5,14}|sips?:[A-Za-z0-9._~!*'()%;:@=+/\[\]-]{1,255})$`)

// set stores one directive; false means that its value makes no sense.
func (d *Directives) set(name string, v gjson.Result) bool {
	if len(v.Raw) > 4*maxVariableBytes {
		return false
	}
	value := decode(v)
	text, isText := value.(string)
	if isText && (text == "" || len(text) > maxVariableBytes) {
		return false
	}
	var into *string
	switch name {
	case "agent_id":
		into = &d.AgentID
	case "first_message":
		into = &d.FirstMessage
	case "language":
		into = &d.Language
	case "voice":
		into = &d.Voice
	case "reject":
		if object, ok := value.(map[string]any); ok {
			text, isText = object["reason"].(string)
		} else if value == true {
			text, isText = "true", true
		}
		into = &d.Reject
	case "transfer_to":
		if object, ok := value.(map[string]any); ok { // Vapi's destination
			number, _ := object["number"].(string)
			uri, _ := object["sipUri"].(string)
			text, isText = number+uri, true
		}
		if !transferTarget.MatchString(text) {
			return false
		}
		into = &d.TransferTo
	case "metadata":
		object, ok := value.(map[string]any)
		d.Metadata = object
		return ok
	default:
		if d.Other == nil {
			d.Other = Object{}
		}
		d.Other[name] = value
		return true
	}
	if isText {
		*into = text
	}
	return isText && text != ""
}

func (d *Directives) clear(name string) {
	switch name {
	case "transfer_to":
		d.TransferTo = ""
	case "agent_id":
		d.AgentID = ""
	}
}

// depth returns how deep valid JSON is nested.
func depth(b []byte) int {
	deepest, now, quoted := 0, 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}
