package callhook

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
)

// Schema returns the JSON Schema (2020-12) of a [Config], for editors, which then
// complete and explain settings as people type, and for pages that draw forms from
// schemas. It is made from what [ConfigFields] and [Fields] return. A config file may
// name it in a member "$schema".
//
// It wants what is empty to be left out: null, "" and 0 are refused where they would
// mean the default. Otherwise whatever [Config.Validate] accepts, it accepts, and it
// refuses all that a schema can see; paths, placeholders, bounds of durations and
// what must differ only Validate knows.
func Schema() []byte { return bytes.Clone(schema()) }

var schema = sync.OnceValue(func() []byte {
	defs := schemaObject{}
	for _, t := range []Type{TypePreCall, TypeCallStatus, TypePostCall} {
		defs.add(defName(&webhookSettings, t), webhookSettings.schema(t))
	}
	for _, t := range []Type{TypeCallStatus, TypePostCall} {
		defs.add(defName(&payloadSettings, t), payloadSettings.schema(t))
		defs.add(defName(&payloadFieldSettings, t), payloadFieldSettings.schema(t))
		defs.add("path_"+string(t), pathSchema(t))
	}
	for _, s := range []*settings{&variableSettings, &responseSettings, &retrySettings, &successSettings, &tlsSettings} {
		defs.add(defName(s, ""), s.schema(""))
	}
	defs.add("template", keywords(templateRules))
	root := schemaObject{{"$schema", "https://json-schema.org/draft/2020-12/schema"}, {"title", "callhook: the webhooks of one agent"}}
	root = append(root, agentSettings.schema("")[1:]...) // its title is above
	root.add("$defs", defs)
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(root); err != nil {
		panic(err) // it is the same each time, and a test has seen it
	}
	return b.Bytes()
})

// The patterns mean the same in ECMA 262, which JSON Schema asks for, and in RE2.
const (
	durationPattern = `^\+?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`
	ratePattern     = `^0*([1-9][0-9]{0,4}|100000)/[smh]$`
	// A host without placeholders, then a port, then whatever does not begin or end
	// with a space.
	urlPattern = `^[Hh][Tt][Tt][Pp][Ss]?://(\[[^\]/?#@{}$\\\s]+\]|[^:/?#@{}$\\\s\[\]]+)(:[0-9]{0,5})?([/?](.*\S)?)?$`

	// A ${ that is no reference to a secret.
	badReference = `{"pattern": "\\$\\{([^A-Za-z_]|$|[A-Za-z_][A-Za-z0-9_]*([^A-Za-z0-9_}]|$))"}`
	// A text on one line, for headers and the like.
	textRule = `"maxLength": 8000, "pattern": "^[^\\x00-\\x1f\\x7f]*$", "not": ` + badReference

	step        = `(#|#\\([^\"()\\\\]+(\"[^\"\\\\]*\")?\\)#?|([^@!{}|*?#()\\\\.\\[\\]\\x00-\\x1f\\x7f]|\\\\.)+)`
	pathPattern = `"^` + step + `(\\.` + step + `)*$"`
)

// Rules about several settings at once.
const (
	variableRules = `"allOf": [
		{"if": {"properties": {"type": {"const": "string"}}, "required": ["type"]}, "then": {"properties": {"default": {"type": ["string", "number", "boolean"]}}}},
		{"if": {"properties": {"type": {"const": "number"}}, "required": ["type"]}, "then": {"properties": {"default": {"type": ["number", "string"], "pattern": "^\\s*-?[0-9][0-9.eE+-]*\\s*$"}}}},
		{"if": {"properties": {"type": {"const": "boolean"}}, "required": ["type"]}, "then": {"properties": {"default": {"type": ["boolean", "string"], "pattern": "^([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee])$"}}}},
		{"if": {"properties": {"type": {"const": "date"}}, "required": ["type"]}, "then": {"properties": {"default": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}(T.*)?$"}}}},
		{"if": {"properties": {"type": {"const": "object"}}, "required": ["type"]}, "then": {"properties": {"default": {"type": "object"}}}},
		{"if": {"properties": {"type": {"const": "array"}}, "required": ["type"]}, "then": {"properties": {"default": {"type": "array"}}}}
	]`
	// A GET has no body, and only what does no harm twice is asked twice.
	preCallRules = `"allOf": [
		{"not": {"properties": {"method": {"const": "GET"}}, "required": ["method", "body"]}},
		{"if": {"properties": {"hedge_after": {"pattern": "[1-9]"}}, "required": ["hedge_after"]},
		 "then": {"anyOf": [{"properties": {"method": {"const": "GET"}}, "required": ["method"]}, {"properties": {"idempotent": {"const": true}}, "required": ["idempotent"]}]}}
	]`
	responseRules = `"not": {"properties": {"variables": {"minProperties": 1}}, "required": ["variables", "dialect"]}`
	payloadRules  = `"not": {"required": ["template"], "anyOf": [
		{"properties": {"fields": {"minItems": 1}}, "required": ["fields"]}, {"properties": {"flat": {"const": true}}, "required": ["flat"]}]}`
	templateRules = `"propertyNames": {"not": {"pattern": "\\{\\{"}}, "additionalProperties": {"$ref": "#/$defs/template"}, "items": {"$ref": "#/$defs/template"}`
	successRules  = `"dependentRequired": {"path": ["equals"], "equals": ["path"]},
		"anyOf": [{"properties": {"status": {"minItems": 1}}, "required": ["status"]}, {"required": ["path"]}]`
	tlsRules = `"dependentRequired": {"certificate": ["key"], "key": ["certificate"]},
		"anyOf": [{"required": ["certificate"]}, {"required": ["ca"]}]`
)

// schema returns the definition of an object, as webhooks of type t have it.
func (o *settings) schema(t Type) schemaObject {
	properties, required := schemaObject{}, []string{}
	for i := range o.all {
		s := &o.all[i]
		if t != "" && !s.applies(typeSet(t)) {
			continue
		}
		properties.add(s.name, s.property(o, t))
		if s.required {
			required = append(required, s.name)
		}
	}
	title := o.title
	if o == &webhookSettings {
		title = map[Type]string{TypePreCall: "The pre-call webhook", TypeCallStatus: "A call status webhook", TypePostCall: "A post-call webhook"}[t]
	}
	out := schemaObject{{"title", title}, {"type", "object"}, {"properties", properties}}
	if len(required) > 0 {
		out.add("required", required)
	}
	out.add("additionalProperties", false)
	if o.rules != "" && (o != &webhookSettings || t == TypePreCall) {
		out.keywords(o.rules)
	}
	return out
}

// property returns the schema of one setting of o.
func (s *setting) property(o *settings, t Type) schemaObject {
	out := schemaObject{{"title", s.title}, {"description", s.guidance}}
	element := func() schemaObject { // of a list or map of texts
		text := append(schemaObject{{"type", "string"}}, keywords(s.schema)...)
		switch {
		case len(s.values) == 0:
			return text
		case s.schema != "": // those that are known, and others
			return schemaObject{{"anyOf", []schemaObject{{{"enum", s.values}}, text}}}
		}
		return append(text, schemaMember{"enum", s.values})
	}
	switch s.typ {
	case "text":
		if o == &payloadFieldSettings && s.name == "path" {
			out.add("$ref", "#/$defs/path_"+string(t))
			break
		}
		out.add("type", "string")
		if len(s.values) > 0 {
			out.add("enum", s.values)
		}
		out.keywords(s.schema)
	case "url":
		out.add("type", "string")
		out.add("pattern", urlPattern)
		out.keywords(`"maxLength": 8000, "not": ` + badReference)
	case "duration":
		out.add("type", "string")
		out.add("pattern", durationPattern)
	case "rate":
		out.add("type", "string")
		out.add("pattern", ratePattern)
	case "integer", "number", "boolean":
		out.add("type", s.typ)
		out.keywords(s.schema)
	case "map":
		out.add("type", "object")
		out.add("additionalProperties", element())
		if s.names != "" {
			out.add("propertyNames", keywords(s.names))
		}
		if o == &webhookSettings {
			out.add("maxProperties", maxHeaders)
		}
	case "texts":
		out.add("type", "array")
		out.add("items", element())
		switch s.name {
		case "secrets":
			out.add("maxItems", maxKeys)
		case "statuses":
			out.add("maxItems", maxStatuses)
		}
	case "integers":
		out.add("type", "array")
		out.add("items", append(schemaObject{{"type", "integer"}}, keywords(s.schema)...))
	case "json":
		if s.name == "body" || s.name == "template" {
			out.add("$ref", "#/$defs/template")
		}
	case "object":
		out.add("$ref", "#/$defs/"+defName(s.of, s.typeOf(t)))
	case "list":
		ref := schemaObject{{"$ref", "#/$defs/" + defName(s.of, s.typeOf(t))}}
		if s.of == &payloadFieldSettings {
			ref = schemaObject{{"anyOf", []any{schemaObject{{"$ref", "#/$defs/path_" + string(t)}}, ref}}}
		}
		out.add("type", "array")
		out.add("items", ref)
		out.keywords(s.schema)
	}
	if s.def != "" {
		out.add("default", json.RawMessage(s.def))
	}
	if s.example != "" {
		out.add("examples", []json.RawMessage{json.RawMessage(s.example)})
	}
	return out
}

// typeOf returns the type of the webhooks below s, which is in one of type t.
func (s *setting) typeOf(t Type) Type {
	if s.of == &webhookSettings {
		return s.on.types()[0]
	}
	return t
}

func defName(o *settings, t Type) string {
	switch o {
	case &webhookSettings, &payloadSettings, &payloadFieldSettings:
		return o.name + "_" + string(t)
	}
	return o.name
}

// pathSchema returns the schema of the paths that a payload may select: those that
// can be named as they are, for completion, and all that look like one.
func pathSchema(t Type) schemaObject {
	var known []any
	var whole, parts []string
	for i := range callFields {
		if f := &callFields[i]; f.has&typeSet(t) != 0 {
			whole = append(whole, f.name)
			if f.free || len(f.sub) > 0 || f.typ == "array" {
				parts = append(parts, f.name)
			}
		}
	}
	for _, f := range Fields(t) {
		if strings.HasPrefix(f.Path, "call.") && !strings.ContainsAny(f.Path, "#*") {
			known = append(known, schemaObject{{"const", f.Path}, {"title", f.Title}, {"description", f.Guidance}})
		}
	}
	some := schemaObject{{"type", "string"}}
	some.keywords(`"maxLength": 256, "pattern": "^call\\.((` + strings.Join(whole, "|") + `)|(` + strings.Join(parts, "|") + `)(\\.` + step + `)+)$"`)
	return schemaObject{{"title", "A field of the call"}, {"type", "string"}, {"anyOf", append(known, some)}}
}

// schemaObject is a JSON object that keeps the order of its members.
type schemaObject []schemaMember

type schemaMember struct {
	name  string
	value any
}

func (o *schemaObject) add(name string, value any) {
	*o = append(*o, schemaMember{name, value})
}

func (o *schemaObject) keywords(members string) { *o = append(*o, keywords(members)...) }

// keywords reads the members of an object.
func keywords(members string) (out schemaObject) {
	if members == "" {
		return nil
	}
	d := json.NewDecoder(strings.NewReader("{" + members + "}"))
	_, _ = d.Token()
	for d.More() {
		name, err := d.Token()
		var value json.RawMessage
		if err == nil {
			err = d.Decode(&value)
		}
		if err != nil {
			panic(members + ": " + err.Error()) // a row of the guidance, which a test has seen
		}
		out.add(name.(string), value)
	}
	return out
}

// MarshalJSON writes the members in their order.
func (o schemaObject) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, m := range o {
		var v bytes.Buffer
		e := json.NewEncoder(&v)
		e.SetEscapeHTML(false)
		if err := e.Encode(m.value); err != nil {
			return nil, err
		}
		if i > 0 {
			b = append(b, ',')
		}
		name, _ := json.Marshal(m.name)
		b = append(append(append(b, name...), ':'), bytes.TrimSpace(v.Bytes())...)
	}
	return append(b, '}'), nil
}
