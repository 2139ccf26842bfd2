package callhook

import (
	"slices"
	"strings"
)

//go:generate go test -run ^TestDocs$ -update .

// ConfigField describes one setting of a [Config]: what a page needs to draw its
// input and what it shows behind the ⓘ. [Schema] and docs/configuration.md are made
// from the same rows.
type ConfigField struct {
	// Path is where it stands in the webhook, like "payload.fields", or in the
	// agent's config, like "variables[].name". [] stands for any element of a list.
	Path string `json:"path"`
	// Title is its name for people.
	Title string `json:"title"`
	// Type is "text", "url", "duration" (like "2s"), "rate" (like "5/s"), "integer",
	// "number", "boolean", "json" (any), "map" (names to texts), "texts" and
	// "integers" (lists of them), and "object" and "list" (of objects), whose own
	// fields follow.
	Type string `json:"type"`
	// Guidance says what it is for and when to change it, for people who configure
	// agents and do not program.
	Guidance string `json:"guidance"`
	// Example is a value, as JSON; empty for objects and most lists of objects.
	Example string `json:"example,omitempty"`
	// Default is what it is where it is left out, as JSON; empty where that is
	// nothing at all, or is said in Guidance.
	Default string `json:"default,omitempty"`
	// Values are those that it, or each of its elements, may have; nil for any. A
	// status may also be one of the runtime's own.
	Values []string `json:"values,omitempty"`
	// Required says that its object is not valid without it.
	Required bool `json:"required,omitempty"`
	// Webhooks are the types that it concerns.
	Webhooks []Type `json:"webhooks"`
}

// ConfigFields returns every setting of a webhook of type t, or with "" those of the
// agent itself, in the order in which a person meets them. See [Fields] for what a
// payload can carry. The slice is the caller's.
func ConfigFields(t Type) []ConfigField {
	var out []ConfigField
	var add func(prefix string, o *settings, within typeSetBits)
	add = func(prefix string, o *settings, within typeSetBits) {
		for i := range o.all {
			s := &o.all[i]
			if t != "" && !s.applies(typeSet(t)) {
				continue
			}
			on := within & s.bits()
			out = append(out, ConfigField{Path: prefix + s.name, Title: s.title, Type: s.typ, Guidance: s.guidance, Example: s.example,
				Default: s.def, Values: slices.Clone(s.values), Required: s.required, Webhooks: on.types()})
			switch {
			case s.of == nil || s.of == &webhookSettings: // of which a type tells
			case s.typ == "list":
				add(prefix+s.name+"[].", s.of, on)
			default:
				add(prefix+s.name+".", s.of, on)
			}
		}
	}
	switch {
	case t == "":
		add("", &agentSettings, always)
	case typeSet(t) != 0:
		// The same setting can be a row for some types and another for others.
		add("", &webhookSettings, always)
		for i := range out {
			for _, s := range webhookSettings.all {
				if s.name == out[i].Path {
					out[i].Webhooks = (typeSetOf(out[i].Webhooks) | s.bits()).types()
				}
			}
		}
	}
	return out
}

// settings are those of one object of the config, in the order in which a person
// meets them.
type settings struct {
	name  string // of its definition in the schema
	title string
	rules string // of JSON Schema, about several settings at once
	all   []setting
}

// setting is one row of the guidance.
type setting struct {
	name, title, typ  string
	guidance, example string
	def               string
	values            []string
	on                typeSetBits // the types that have it; zero: all
	required          bool
	of                *settings // of an object, or of each element of a list
	schema            string    // what JSON Schema says beyond the type, of a map or a list of texts about its elements
	names             string    // the same about the names of a map
}

func (s *setting) bits() typeSetBits {
	if s.on == 0 {
		return always
	}
	return s.on
}

func (s *setting) applies(on typeSetBits) bool { return s.bits()&on != 0 }

func typeSetOf(types []Type) (on typeSetBits) {
	for _, t := range types {
		on |= typeSet(t)
	}
	return on
}

var agentSettings = settings{name: "agent", title: "The webhooks of one agent", all: []setting{
	{name: "agent_id", title: "Agent", typ: "text", required: true, example: `"reception"`, schema: `"minLength": 1`,
		guidance: "The agent whose calls use these webhooks: its id in the platform, not its name."},
	{name: "tenant_id", title: "Customer", typ: "text", example: `"acme"`,
		guidance: "The customer whose agent it is. Leave it out where the platform serves one customer only."},
	{name: "timezone", title: "Time zone", typ: "text", def: `"UTC"`, example: `"Europe/London"`, schema: `"pattern": "^[A-Za-z0-9_+/-]+$"`,
		guidance: "The zone in which dates are written for calls that have none of their own. Write it as region and city, like Europe/London."},
	{name: "variables", title: "Variables", typ: "list", of: &variableSettings, schema: `"maxItems": 500`,
		guidance: "What the agent may know in a conversation, like the caller's name. Variables that are not declared can be used too; declaring one gives it a description, a default and protection."},
	{name: "pre_call", title: "Pre-call webhook", typ: "object", of: &webhookSettings, on: onPreCall,
		guidance: "Asks your system who is calling, before the agent speaks. Its answer fills the variables, so that the agent can greet the caller by name. If there is no answer in time, the call goes on with the defaults."},
	{name: "call_status", title: "Call status webhooks", typ: "list", of: &webhookSettings, on: onStatus, schema: `"maxItems": 50`,
		guidance: "Tell other systems as it happens that the status of a call has changed, like when a transfer starts."},
	{name: "post_call", title: "Post-call webhooks", typ: "list", of: &webhookSettings, on: onPostCall, schema: `"maxItems": 50`,
		guidance: "Send the call's data to other systems after it ended: to n8n, Make or Zapier, to a CRM, as an e-mail."},
	{name: "revision", title: "Revision", typ: "integer", example: `7`, schema: `"minimum": 0`,
		guidance: "The number of this version. It is given when the configuration is published; leave it alone."},
	{name: "$schema", title: "Schema", typ: "text", example: `"./config.schema.json"`,
		guidance: "Where your editor finds the description of all settings, so that it can complete and explain them as you type. callhook itself does not read it."},
}}

var variableSettings = settings{name: "variable", title: "A variable of the conversation", rules: variableRules, all: []setting{
	{name: "name", title: "Name", typ: "text", required: true, example: `"customer_name"`,
		schema:   `"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,63}$", "not": {"enum": ["call", "system"]}`,
		guidance: "What the variable is called: letters, digits and _. The agent's prompt has it as {{customer_name}}, and a payload as call.variables.customer_name."},
	{name: "description", title: "Description", typ: "text", example: `"Caller's first name"`,
		guidance: "What it is, for people and for the model."},
	{name: "type", title: "Type", typ: "text", example: `"date"`, values: variableTypes,
		guidance: "What kind of value it has. A value of another kind is converted if nothing is lost by it, and otherwise left out. Leave it out to take any."},
	{name: "default", title: "Default", typ: "json", example: `"there"`,
		guidance: "Its value where neither the call nor your system gives one. With a default of \"there\", the greeting of an unknown caller is \"Hi there\"."},
	{name: "locked", title: "Locked", typ: "boolean", def: "false", example: `true`,
		guidance: "Keeps the answer of a pre-call webhook from changing it."},
	{name: "secret", title: "Secret", typ: "boolean", def: "false", example: `true`,
		guidance: "Keeps its value out of the agent's prompt and out of all payloads. The headers of later webhooks can refer to it as ${name}."},
	{name: "max_length", title: "Longest text", typ: "integer", def: "4096", example: `200`, schema: `"minimum": 1, "maximum": 4096`,
		guidance: "How many characters an answer may give it. A longer value is left out."},
}}

// webhookSettings are those of all three types; a row says of which.
var webhookSettings = settings{name: "webhook", rules: preCallRules, all: []setting{
	{name: "url", title: "URL", typ: "url", required: true, example: `"https://n8n.example.com/webhook/calls"`,
		guidance: "Where the request is sent: the address that the other system shows you, beginning with https://. {{call.from}} stands for data of the call and ${NAME} for a secret; both can stand between slashes and after an equals sign."},
	{name: "name", title: "Name", typ: "text", example: `"crm-log"`, schema: `"pattern": "^[A-Za-z0-9_-]{1,64}$"`,
		guidance: "Tells this webhook from the agent's others, in lists and logs. Left out, it is called by its type, so only one of each can go without. Do not change it later: under another name it is another webhook."},
	{name: "method", title: "Method", typ: "text", def: `"POST"`, example: `"GET"`, values: []string{"POST", "GET"}, on: onPreCall,
		guidance: "How the request is made. Take GET where the other system wants the caller's number in the URL."},
	{name: "method", title: "Method", typ: "text", def: `"POST"`, example: `"PUT"`, values: []string{"POST", "PUT", "PATCH"}, on: fromLive,
		guidance: "How the request is made. Change it only if the other system says so."},
	{name: "query", title: "Query", typ: "map", example: `{"phone": "{{call.from}}"}`, on: onPreCall, schema: textRule,
		names:    `"not": {"pattern": "\\{\\{|\\$\\{"}`,
		guidance: "What is added to the URL after the question mark: names and values, in which {{ }} stands for data of the call. At most 50."},
	{name: "headers", title: "Headers", typ: "map", example: `{"Authorization": "Bearer ${CRM_TOKEN}"}`, schema: textRule, names: headerNames(),
		guidance: "Headers that the other system asks for, most often its key. Write keys as ${NAME}, never the key itself. At most 50."},
	{name: "secrets", title: "Signing keys", typ: "texts", example: `["${N8N_SECRET}"]`,
		schema:   `"pattern": "\\$\\{[A-Za-z_][A-Za-z0-9_]*\\}|^(whsec_|whsk_)?[A-Za-z0-9+/]{32,}={0,2}$", "maxLength": 8000`,
		guidance: "Keys with which each request is signed, so that the receiver knows that it comes from you (Standard Webhooks). Two while a key is being replaced; at most 10. Leave it out for receivers that cannot check signatures, like Zapier and Make."},
	{name: "tls", title: "Certificates", typ: "object", of: &tlsSettings,
		guidance: "For systems that ask for a certificate (mutual TLS), or whose own certificate only their company vouches for. Left out, neither is needed."},
	{name: "body", title: "Body", typ: "json", example: `{"caller_id": "{{call.from}}", "called_number": "{{call.to}}"}`, on: onPreCall,
		guidance: "The JSON that is sent with POST, in the shape that your system wants. Left out, an event of type call.inbound is sent, with the call's numbers."},
	{name: "response", title: "Answer", typ: "object", of: &responseSettings, on: onPreCall,
		guidance: "How the answer is read. Left out, the answers of many platforms are recognized by their shape; say where the values are if yours is not."},
	{name: "on", title: "When", typ: "text", def: `"ended"`, example: `"analyzed"`, values: []string{OnEnded, OnAnalyzed}, on: onPostCall,
		guidance: "ended sends as soon as the call is over; analyzed waits until its summary, sentiment and evaluation are there, seconds to minutes later."},
	{name: "statuses", title: "Statuses", typ: "texts", example: `["transfer_started", "transfer_failed"]`, values: texts(knownStatuses), on: onStatus,
		schema:   `"pattern": "^[a-z][a-z0-9_]{0,63}$"`,
		guidance: "The statuses that are announced. Left out, all are. The platform may have others of its own. At most 100."},
	{name: "payload", title: "Payload", typ: "object", of: &payloadSettings, on: fromLive,
		guidance: "What is sent. Left out, a post-call webhook sends the call without its cost and its SIP headers, and a call status webhook sends ids, numbers, statuses and transfers."},
	{name: "timeout", title: "Time limit", typ: "duration", def: `"2s"`, example: `"1500ms"`, on: onPreCall,
		guidance: "How long the caller may wait for the answer, everything included; at most 10s. Without an answer by then the agent starts with the defaults."},
	{name: "timeout", title: "Time limit", typ: "duration", def: `"15s"`, example: `"30s"`, on: fromLive,
		guidance: "How long one attempt may take; at most 1m."},
	{name: "directions", title: "Directions", typ: "texts", def: `["inbound"]`, example: `["inbound", "web"]`, values: []string{string(Inbound), string(Outbound), string(Web)}, on: onPreCall,
		guidance: "Which calls are looked up: inbound, outbound, web."},
	{name: "withheld", title: "Withheld numbers", typ: "text", def: `"send"`, example: `"skip"`, values: []string{WithheldSend, WithheldSkip}, on: onPreCall,
		guidance: "Whether callers who hide their number are looked up: send, or skip to start with the defaults at once."},
	{name: "late_for", title: "Wait for a late answer", typ: "duration", example: `"8s"`, on: onPreCall,
		guidance: "How long after the time limit an answer is still taken, for use in the conversation that is already running; at most 1m. Left out, it is not."},
	{name: "cache", title: "Keep answers", typ: "duration", example: `"5m"`, on: onPreCall,
		guidance: "How long an answer serves again for the same caller, without asking; at most 24h. Minutes help callers who ring again at once. Left out, nothing is kept: it is personal data."},
	{name: "stale_for", title: "Keep answers for bad times", typ: "duration", example: `"1h"`, on: onPreCall,
		guidance: "How much longer an answer is kept to be used when your system does not answer; at most 24h. Together with cache it also serves while a newer answer is fetched."},
	{name: "cache_key", title: "Same answer for", typ: "text", example: `"{{call.metadata.account}}"`, on: onPreCall, schema: `"maxLength": 8000`,
		guidance: "Which calls get the same answer: those for which this text is the same. Left out, those with the same calling and called number."},
	{name: "hedge_after", title: "Ask again after", typ: "duration", example: `"600ms"`, on: onPreCall,
		guidance: "Sends a second request if the first has not been answered by then, and takes the faster answer. It needs the method GET, or idempotent. Left out, it is asked once."},
	{name: "hedge_share", title: "Share of second requests", typ: "number", def: "0.1", example: `0.2`, on: onPreCall, schema: `"exclusiveMinimum": 0, "maximum": 1`,
		guidance: "How many of the lookups may be sent twice, so that a slow system does not get twice the work: 0.1 is one in ten."},
	{name: "idempotent", title: "May be sent twice", typ: "boolean", def: "false", example: `true`, on: onPreCall,
		guidance: "Says that your system does no harm if the same POST arrives twice."},
	{name: "rate", title: "Rate", typ: "rate", example: `"5/s"`, on: fromLive,
		guidance: "How many requests may begin in a time, like 5/s, 100/m or 1000/h, for systems that refuse more. Left out, there is no bound."},
	{name: "concurrency", title: "At once", typ: "integer", def: "8", example: `1`, on: fromLive, schema: `"minimum": 1, "maximum": 256`,
		guidance: "How many requests to this webhook run at the same time."},
	{name: "retry", title: "Retries", typ: "object", of: &retrySettings, on: fromLive,
		guidance: "How often and how long a request that failed is tried again. Left out: after 5 seconds, then in ever longer pauses, for three days."},
	{name: "ordered", title: "In order", typ: "boolean", def: "false", example: `true`, on: fromLive,
		guidance: "Holds the later events of a call back until the earlier ones have arrived. Without it they are sent in order, and one that has to be tried again may come later."},
	{name: "success", title: "Success", typ: "object", of: &successSettings, on: fromLive,
		guidance: "When an answer means success. Left out, it is any status from 200 to 299; some systems write a failure into such an answer."},
	{name: "max_bytes", title: "Largest body", typ: "integer", def: "4194304", example: `1000000`, on: fromLive, schema: `"minimum": 1, "maximum": 16777216`,
		guidance: "How many bytes the receiver takes. A larger body is sent without its transcript, and if that is not enough, not at all."},
	{name: "paused", title: "Paused", typ: "boolean", def: "false", example: `true`,
		guidance: "Stops this webhook. Events wait until it is switched on again; lookups are left out."},
}}

var responseSettings = settings{name: "response", title: "How the answer is read", rules: responseRules, all: []setting{
	{name: "variables", title: "Where the values are", typ: "map", example: `{"customer_name": "contact.first_name", "next_appointment": "appointments.0.starts_at"}`,
		schema: `"pattern": ` + pathPattern + `, "maxLength": 256`, names: `"pattern": "^[A-Za-z_][A-Za-z0-9_]*$", "not": {"enum": ["call", "system"]}`,
		guidance: "For each variable, where it stands in the answer: names and numbers with dots between them. appointments.0.starts_at is starts_at in the first of the appointments."},
	{name: "dialect", title: "Dialect", typ: "text", example: `"retell"`, values: Dialects(),
		guidance: "The platform whose answers your system gives. flat is an object that has the variables themselves, of which only declared ones are taken."},
	{name: "unique", title: "Only one match", typ: "text", example: `"results"`, schema: `"pattern": ` + pathPattern + `, "maxLength": 256`,
		guidance: "Where in the answer the list of matches is, or their number. When there is more than one, none is used: two people may share a number."},
	{name: "required", title: "Needed variables", typ: "texts", example: `["customer_name"]`, schema: `"pattern": "^[A-Za-z_][A-Za-z0-9_]*$", "not": {"enum": ["call", "system"]}`,
		guidance: "Variables without which the agent cannot do well. Those that are missing are reported; the call goes on."},
	{name: "directives", title: "Allowed instructions", typ: "texts", example: `["first_message", "language"]`, values: directiveNames,
		guidance: "What else the answer may ask of the platform, like another first message or language. Anything not named here is ignored and reported."},
}}

var payloadSettings = settings{name: "payload", title: "What is sent", rules: payloadRules, all: []setting{
	{name: "fields", title: "Fields", typ: "list", of: &payloadFieldSettings, schema: `"maxItems": 500`,
		example:  `["call.id", "call.customer_number", {"path": "call.summary", "default": "no summary"}]`,
		guidance: "The fields that are sent, each as its path, like call.summary, or as an object with a new name or a default. See payload.md for all of them."},
	{name: "flat", title: "Flat", typ: "boolean", def: "false", example: `true`,
		guidance: "Sends all fields on one level, call_from instead of from inside of call, and the transcript as one text. Zapier needs it."},
	{name: "template", title: "Template", typ: "json", example: `{"note": "{{call.summary}}", "seconds": "{{call.duration_seconds}}"}`,
		guidance: "The JSON that the receiver wants, instead of fields, with {{ }} where data of the call belongs. A text that is nothing but a placeholder becomes the value itself: a number stays a number."},
}}

var payloadFieldSettings = settings{name: "payload_field", title: "A field that is sent", all: []setting{
	{name: "path", title: "Path", typ: "text", required: true, example: `"call.variables.customer_name"`,
		guidance: "Which field, like call.from, or a part of one, like call.transfers.0.to."},
	{name: "as", title: "Sent as", typ: "text", example: `"customer.name"`, schema: `"maxLength": 256, "pattern": "^[^.]+(\\.[^.]+)*$"`,
		guidance: "The name under which it is sent, with dots to nest it. Left out, it is where its path says. A path with a number or # in it needs one."},
	{name: "default", title: "Default", typ: "json", example: `"unknown"`,
		guidance: "What is sent where the call has no value. Left out, null is sent."},
}}

var retrySettings = settings{name: "retry", title: "When a request is tried again", all: []setting{
	{name: "initial", title: "First pause", typ: "duration", def: `"5s"`, example: `"30s"`,
		guidance: "How long after the first failure it is tried again; at most 24h."},
	{name: "multiplier", title: "Growth of the pause", typ: "number", def: "3", example: `2`, schema: `"minimum": 1, "maximum": 100`,
		guidance: "How many times longer each pause is than the one before."},
	{name: "max_interval", title: "Longest pause", typ: "duration", def: `"3h"`, example: `"1h"`,
		guidance: "The longest pause; at most 24h."},
	{name: "max_age", title: "Give up after", typ: "duration", def: `"72h"`, example: `"24h"`,
		guidance: "How long after the event it is still tried; at most 72h. After that it is kept among the dead letters, from where it can be sent again."},
	{name: "max_attempts", title: "Most attempts", typ: "integer", example: `10`, schema: `"minimum": 1`,
		guidance: "After how many attempts it is given up, where that should be sooner."},
}}

var tlsSettings = settings{name: "tls", title: "Certificates of a connection", rules: tlsRules, all: []setting{
	{name: "certificate", title: "Your certificate", typ: "text", example: `"${CRM_CLIENT_CERT}"`, schema: onlyReference,
		guidance: "The certificate that you show the other system, as a reference to where the secrets are kept. It needs its key."},
	{name: "key", title: "Its key", typ: "text", example: `"${CRM_CLIENT_KEY}"`, schema: onlyReference,
		guidance: "The private key that belongs to the certificate, as a reference. It never stands in a config."},
	{name: "ca", title: "Their authority", typ: "text", example: `"${CRM_CA}"`, schema: onlyReference,
		guidance: "The certificate of the only authority that may vouch for the other system, as a reference. Left out, those that everybody trusts may."},
}}

// onlyReference is a text that is a reference to a secret and nothing else.
const onlyReference = `"pattern": "^\\$\\{[A-Za-z_][A-Za-z0-9_]*\\}$"`

var successSettings = settings{name: "success", title: "When an answer means success", rules: successRules, all: []setting{
	{name: "status", title: "Statuses", typ: "integers", example: `[200, 302]`, schema: `"minimum": 200, "maximum": 599`,
		guidance: "The HTTP statuses that mean success, where that is not any from 200 to 299. Google Apps Script does its work and answers 302."},
	{name: "path", title: "Look at", typ: "text", example: `"data.0.code"`, schema: `"pattern": ` + pathPattern + `, "maxLength": 256`,
		guidance: "Where in the answer the verdict is. Zoho puts the verdict on each record inside of a 200."},
	{name: "equals", title: "Must be", typ: "json", example: `"SUCCESS"`,
		guidance: "What must stand there for the answer to mean success."},
}}

// headerNames is what JSON Schema says about the names of headers: none is reserved,
// in whatever spelling.
func headerNames() string {
	var reserved []string
	for name := range reservedHeaders {
		var b strings.Builder
		for _, c := range strings.ToLower(name) {
			if c == '-' {
				b.WriteString("[-_]")
			} else {
				b.WriteString("[" + strings.ToUpper(string(c)) + string(c) + "]")
			}
		}
		reserved = append(reserved, b.String())
	}
	slices.Sort(reserved)
	return `"pattern": "^[A-Za-z0-9!#$%&'*+.^_` + "`" + `|~-]+$", "not": {"pattern": "^(` + strings.Join(reserved, "|") + `)$"}`
}
