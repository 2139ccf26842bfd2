package callhook

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/callhook-go/callhook/internal/jsonappend"
	"github.com/callhook-go/callhook/internal/suggest"
	"github.com/callhook-go/callhook/internal/template"
	"github.com/tidwall/gjson"
)

// Field describes one value that a payload can carry: what a page shows behind
// the ⓘ of a field, and what an error message suggests.
type Field struct {
	// Path is what "fields" and placeholders name it by, like "call.from". A #
	// stands for any element of an array: "call.transfers.#.to".
	Path string `json:"path"`
	// Title is its name for people, like "Calling number".
	Title string `json:"title"`
	// Type is "string", "number", "boolean", "time" (RFC 3339 text), "array" or "object".
	Type string `json:"type"`
	// Guidance says what it is, in one sentence.
	Guidance string `json:"guidance"`
	// Example is a value, as JSON.
	Example string `json:"example"`
	// Webhooks are the types of webhook that can carry it.
	Webhooks []Type `json:"webhooks"`
	// Default says that a payload in which nothing is selected carries it.
	Default bool `json:"default"`
}

// Fields returns every field that a webhook of type t can carry, in the order of
// the default payload. The slice is the caller's.
func Fields(t Type) []Field {
	on := typeSet(t)
	var out []Field
	add := func(path, title, typ, guidance, example string, has typeSetBits, def bool) {
		if has&on == 0 {
			return
		}
		out = append(out, Field{path, title, typ, guidance, example, has.types(), def})
	}
	for i := range eventFields {
		f := &eventFields[i]
		add("event."+f.name, f.title, f.typ, f.guidance, f.example, always, false)
	}
	for i := range callFields {
		f := &callFields[i]
		add("call."+f.name, f.title, f.typ, f.guidance, f.example, f.has, f.defaultOn&on != 0)
		for _, s := range f.sub {
			add("call."+f.name+"."+s.name, s.title, s.typ, s.guidance, s.example, f.has, false)
		}
	}
	return out
}

// typeSetBits is a set of webhook types.
type typeSetBits uint8

const (
	onPreCall typeSetBits = 1 << iota
	onStatus
	onPostCall
	always   = onPreCall | onStatus | onPostCall
	fromLive = onStatus | onPostCall // known once the conversation runs
)

func typeSet(t Type) typeSetBits {
	switch t {
	case TypePreCall:
		return onPreCall
	case TypeCallStatus:
		return onStatus
	case TypePostCall:
		return onPostCall
	}
	return 0
}

func (s typeSetBits) types() (out []Type) {
	for _, t := range []Type{TypePreCall, TypeCallStatus, TypePostCall} {
		if s&typeSet(t) != 0 {
			out = append(out, t)
		}
	}
	return out
}

// callField is one row of the catalogue: what a field is and how its JSON is
// written. Call's own JSON, the payloads, the placeholders and the guidance are
// all made from these rows.
type callField struct {
	name, title, typ  string
	guidance, example string
	has               typeSetBits                // the types that can carry it
	defaultOn         typeSetBits                // the types whose default payload carries it
	derived           bool                       // computed from other fields, no field of Call
	free              bool                       // an object whose names are the user's own
	members           func(*Call) map[string]any // of a free object, where it is a map
	sub               []subField
	key               string // `"name":`
	append            func(dst []byte, c *Call) ([]byte, error)
}

type subField struct{ name, title, typ, guidance, example string }

type eventField struct {
	name, title, typ, guidance, example string
	append                              func(dst []byte, e *Event) []byte
}

var eventFields = []eventField{
	{"id", "Event id", "string", "The delivery's id, also in the webhook-id header. The same when it is sent again.",
		`"msg_4tq2d4d7nh3zvnp2x6h7b2k5ru"`, func(b []byte, e *Event) []byte { return jsonappend.String(b, e.ID) }},
	{"type", "Event", "string", "What happened: call.inbound, call.status, call.ended or call.analyzed.",
		`"call.ended"`, func(b []byte, e *Event) []byte { return jsonappend.String(b, string(e.Type)) }},
	{"timestamp", "Time of the event", "time", "When it happened.",
		`"2026-03-02T09:34:12.480Z"`, func(b []byte, e *Event) []byte { return jsonappend.Time(b, e.Timestamp) }},
}

func text(name, title, guidance, example string, has, def typeSetBits, get func(*Call) string) callField {
	return callField{name: name, title: title, typ: "string", guidance: guidance, example: `"` + example + `"`, has: has, defaultOn: def,
		append: func(dst []byte, c *Call) ([]byte, error) { return jsonappend.StringOrNull(dst, get(c)), nil }}
}

func moment(name, title, guidance, example string, has, def typeSetBits, get func(*Call) time.Time) callField {
	return callField{name: name, title: title, typ: "time", guidance: guidance, example: `"` + example + `"`, has: has, defaultOn: def,
		append: func(dst []byte, c *Call) ([]byte, error) { return jsonappend.Time(dst, get(c)), nil }}
}

func integer(name, title, guidance, example string, has, def typeSetBits, get func(*Call) int64) callField {
	return callField{name: name, title: title, typ: "number", guidance: guidance, example: example, has: has, defaultOn: def,
		append: func(dst []byte, c *Call) ([]byte, error) {
			if n := get(c); n != 0 {
				return strconv.AppendInt(dst, n, 10), nil
			}
			return append(dst, "null"...), nil
		}}
}

func object(name, title, guidance, example string, has, def typeSetBits, get func(*Call) map[string]any) callField {
	return callField{name: name, title: title, typ: "object", guidance: guidance, example: example, has: has, defaultOn: def, free: true, members: get,
		append: func(dst []byte, c *Call) ([]byte, error) { return jsonappend.Object(dst, get(c)) }}
}

func duration(name, title, guidance, example string, unit time.Duration, get func(*Call) (time.Duration, bool)) callField {
	return callField{name: name, title: title, typ: "number", guidance: guidance, example: example, has: fromLive, derived: true,
		append: func(dst []byte, c *Call) ([]byte, error) {
			if d, ok := get(c); ok && d < 100*365*24*time.Hour { // longer is a date that is not known
				return strconv.AppendInt(dst, int64((d+unit/2)/unit), 10), nil
			}
			return append(dst, "null"...), nil
		}}
}

func derived(f callField) callField { f.derived = true; return f }

var callFields = withKeys([]callField{
	text("id", "Call id", "The call's id in the platform.", "call_8f14e45f", always, always, func(c *Call) string { return c.ID }),
	text("tenant_id", "Customer", "The customer that the agent belongs to.", "acme", always, always, func(c *Call) string { return c.TenantID }),
	text("agent_id", "Agent id", "The agent that took or made the call.", "reception", always, always, func(c *Call) string { return c.AgentID }),
	text("agent_name", "Agent's name", "The agent's name as people know it.", "Reception", always, onPreCall|onPostCall, func(c *Call) string { return c.AgentName }),
	integer("config_revision", "Revision", "The revision of the agent's configuration that the call began with.", "7", always, onPreCall|onPostCall,
		func(c *Call) int64 { return int64(c.ConfigRevision) }),
	text("direction", "Direction", "Who called whom: inbound, outbound or web.", "inbound", always, always, func(c *Call) string { return string(c.Direction) }),
	text("channel", "Channel", "How the call came, like phone, sip or web.", "phone", always, onPreCall|onPostCall, func(c *Call) string { return c.Channel }),
	text("from", "Calling number", "The calling number; null when the caller withheld it.", "+442079460123", always, always, func(c *Call) string { return c.From }),
	text("from_name", "Caller's displayed name", "The caller's name as the network displays it.", "ADA LOVELACE", always, onPreCall|onPostCall, func(c *Call) string { return c.FromName }),
	text("from_verified", "Calling number verified", "How far the network vouches for the calling number (STIR/SHAKEN): A, B or C.", "A", always, onPreCall|onPostCall,
		func(c *Call) string { return c.FromVerified }),
	text("to", "Called number", "The called number.", "+442079460999", always, always, func(c *Call) string { return c.To }),
	text("forwarded_from", "Forwarding number", "The number that forwarded the call.", "+442079460555", always, always, func(c *Call) string { return c.ForwardedFrom }),
	text("provider_call_id", "Provider's call id", "The telephony provider's id of the call, like a Twilio CallSid.", "CA1f2e3d4c5b6a79880", always, always,
		func(c *Call) string { return c.ProviderCallID }),
	{name: "sip_headers", title: "SIP headers", typ: "object", guidance: "SIP headers of the call. Sent only where it is selected.",
		example: `{"X-Account":"42"}`, has: always, free: true,
		append: func(dst []byte, c *Call) ([]byte, error) { return appendTexts(dst, c.SIPHeaders), nil }},
	text("status", "Status", "Where the call stands, like in_progress, transfer_started or completed.", "completed", always, always, func(c *Call) string { return string(c.Status) }),
	text("previous_status", "Status before", "Where the call stood before.", "in_progress", fromLive, fromLive, func(c *Call) string { return string(c.PreviousStatus) }),
	text("status_reason", "Reason for the status", "Why the status changed.", "caller_hung_up", fromLive, fromLive, func(c *Call) string { return c.StatusReason }),
	moment("status_at", "Time of the status", "When the status changed.", "2026-03-02T09:34:12.480Z", fromLive, fromLive, func(c *Call) time.Time { return c.StatusAt }),
	integer("sequence", "Number of the change", "The number of the status change within the call, from 1. Put events in order by it.", "4", fromLive, fromLive,
		func(c *Call) int64 { return c.Sequence }),
	moment("started_at", "Start", "When the call began to ring.", "2026-03-02T09:30:00.000Z", always, onPreCall|onPostCall, func(c *Call) time.Time { return c.StartedAt }),
	moment("answered_at", "Answer", "When the call was answered; null when it was not.", "2026-03-02T09:30:04.120Z", fromLive, onPostCall, func(c *Call) time.Time { return c.AnsweredAt }),
	moment("ended_at", "End", "When the call ended.", "2026-03-02T09:34:12.480Z", fromLive, onPostCall, func(c *Call) time.Time { return c.EndedAt }),
	moment("analyzed_at", "Analysis", "When summary, sentiment and evaluation were ready.", "2026-03-02T09:34:40.000Z", onPostCall, onPostCall, func(c *Call) time.Time { return c.AnalyzedAt }),
	text("timezone", "Time zone", "The time zone of the call, which the date filter uses.", "Europe/London", always, onPreCall|onPostCall, func(c *Call) string { return c.Timezone }),
	text("end_reason", "Reason for the end", "Why the call ended.", "hangup", fromLive, onPostCall, func(c *Call) string { return c.EndReason }),
	text("ended_by", "Ended by", "Who ended it, like caller or agent.", "caller", fromLive, onPostCall, func(c *Call) string { return c.EndedBy }),
	{name: "transfers", title: "Transfers", typ: "array", guidance: "The transfers that were tried, in order.",
		example: `[{"to":"+442079460777","type":"warm","status":"transfer_connected"}]`, has: fromLive, defaultOn: fromLive,
		sub: []subField{
			{"#.to", "Transferred to", "string", "Where the call was sent.", `"+442079460777"`},
			{"#.type", "Kind of transfer", "string", "How it was sent, like cold or warm.", `"warm"`},
			{"#.status", "Outcome of the transfer", "string", "How the transfer went.", `"transfer_connected"`},
			{"#.reason", "Reason for the failure", "string", "Why it failed.", `"no_answer"`},
			{"#.started_at", "Start of the transfer", "time", "When it began.", `"2026-03-02T09:32:00.000Z"`},
			{"#.ended_at", "End of the transfer", "time", "When it was over.", `"2026-03-02T09:32:20.000Z"`},
		},
		append: func(dst []byte, c *Call) ([]byte, error) {
			return appendArray(dst, c.Transfers, appendTransfer), nil
		}},
	text("answered_by", "Answered by", "Who answered an outbound call, like human or machine.", "human", fromLive, onPostCall, func(c *Call) string { return c.AnsweredBy }),
	text("language", "Language", "The language of the conversation.", "en-GB", always, onPreCall|onPostCall, func(c *Call) string { return c.Language }),
	{name: "tags", title: "Tags", typ: "array", guidance: "The platform's labels for the call.", example: `["vip"]`, has: always, defaultOn: onPreCall | onPostCall,
		append: func(dst []byte, c *Call) ([]byte, error) {
			return appendArray(dst, c.Tags, func(dst []byte, s *string) []byte { return jsonappend.String(dst, *s) }), nil
		}},
	object("variables", "Variables", "The conversation's variables; one of them is call.variables.NAME.", `{"customer_name":"Ada"}`, always, onPreCall|onPostCall,
		func(c *Call) map[string]any { return c.Variables }),
	object("metadata", "Metadata", "Data that the platform passes through and the model never sees.", `{"crm_id":12345678901234567890}`, always, onPreCall|onPostCall,
		func(c *Call) map[string]any { return c.Metadata }),
	object("collected", "Collected data", "What the agent extracted from the conversation.", `{"wants_callback":true}`, fromLive, onPostCall,
		func(c *Call) map[string]any { return c.Collected }),
	{name: "transcript", title: "Transcript", typ: "array", guidance: "The conversation, turn by turn.",
		example: `[{"role":"agent","text":"Hi Ada","start":0,"end":1.2,"tool":null}]`, has: fromLive, defaultOn: onPostCall,
		sub: []subField{
			{"#.role", "Speaker", "string", "Who spoke: agent, user, tool or system.", `"agent"`},
			{"#.text", "Words", "string", "What was said.", `"Hi Ada"`},
			{"#.start", "Start of the turn", "number", "Seconds from the start of the call.", "0"},
			{"#.end", "End of the turn", "number", "Seconds from the start of the call.", "1.2"},
			{"#.tool", "Tool call", "object", "The tool that the agent called.", `{"name":"book","id":"t1","arguments":{},"result":{}}`},
			{"#.tool.name", "Tool", "string", "The tool's name.", `"book"`},
			{"#.tool.id", "Tool call id", "string", "The tool call's id.", `"t1"`},
			{"#.tool.arguments", "Tool's arguments", "object", "What the model passed. Not part of the default payload.", `{}`},
			{"#.tool.result", "Tool's answer", "object", "What the tool answered.", `{}`},
		},
		append: func(dst []byte, c *Call) ([]byte, error) { return appendTranscript(dst, c.Transcript, true) }},
	text("summary", "Summary", "The conversation in a few sentences. Ready when the call is analyzed.", "Ada moved her appointment to Friday.", fromLive, onPostCall,
		func(c *Call) string { return c.Summary }),
	text("sentiment", "Sentiment", "The caller's mood. Ready when the call is analyzed.", "positive", onPostCall, onPostCall, func(c *Call) string { return c.Sentiment }),
	{name: "successful", title: "Successful", typ: "boolean", guidance: "Whether the call reached its goal; null when not known.", example: "true", has: onPostCall, defaultOn: onPostCall,
		append: func(dst []byte, c *Call) ([]byte, error) {
			if c.Successful == nil {
				return append(dst, "null"...), nil
			}
			return strconv.AppendBool(dst, *c.Successful), nil
		}},
	object("evaluation", "Evaluation", "The results of the platform's own criteria. Ready when the call is analyzed.", `{"greeted":true}`, onPostCall, onPostCall,
		func(c *Call) map[string]any { return c.Evaluation }),
	{name: "recording", title: "Recording", typ: "object", guidance: "The audio of the call.", has: onPostCall, defaultOn: onPostCall,
		example: `{"url":"https://cdn.example.com/r/1.mp3","expires_at":"2026-03-09T09:34:12.480Z","channels":2}`,
		sub: []subField{
			{"url", "Link to the recording", "string", "Where the audio is.", `"https://cdn.example.com/r/1.mp3"`},
			{"expires_at", "Link works until", "time", "When the link stops working; null when never.", `"2026-03-09T09:34:12.480Z"`},
			{"channels", "Audio channels", "number", "1 when mixed, 2 when each side has a channel.", "2"},
		},
		append: func(dst []byte, c *Call) ([]byte, error) { return appendRecording(dst, c.Recording), nil }},
	{name: "cost", title: "Cost", typ: "object", guidance: "What the call cost. Sent only where it is selected.", has: onPostCall,
		example: `{"total":0.42,"currency":"USD","parts":{"telephony":0.10,"model":0.32}}`,
		sub: []subField{
			{"total", "Total cost", "number", "The sum.", "0.42"},
			{"currency", "Currency", "string", "The currency (ISO 4217).", `"USD"`},
			{"parts", "Parts of the cost", "object", "The sum's parts; one of them is call.cost.parts.NAME.", `{"telephony":0.10}`},
			{"parts.*", "A part of the cost", "number", "One part of the sum.", "0.10"},
		},
		append: func(dst []byte, c *Call) ([]byte, error) { return appendCost(dst, c.Cost) }},
	text("error", "Error", "What went wrong in the platform.", "speech recognition stopped", fromLive, onPostCall, func(c *Call) string { return c.Error }),

	duration("duration_seconds", "Duration in seconds", "Whole seconds from the first ring to the end. HubSpot wants duration_ms.", "252", time.Second, (*Call).lasted),
	duration("duration_ms", "Duration in milliseconds", "Milliseconds from the first ring to the end.", "252480", time.Millisecond, (*Call).lasted),
	duration("talk_seconds", "Talk time in seconds", "Whole seconds from the answer to the end; null when nobody answered.", "248", time.Second, (*Call).talked),
	{name: "transcript_text", title: "Transcript as text", typ: "string", guidance: "The conversation as one text, a line a turn.", example: `"Agent: Hi Ada\nCaller: Hello"`, has: fromLive, derived: true,
		append: func(dst []byte, c *Call) ([]byte, error) {
			raw, err := appendTranscript(nil, c.Transcript, false)
			if err != nil || c.Transcript == nil {
				return append(dst, "null"...), err
			}
			return jsonappend.String(dst, template.PlainText(gjson.ParseBytes(raw))), nil
		}},
	derived(text("customer_number", "Customer's number", "The human side's number: from on an inbound call, to on an outbound one.", "+442079460123", always, 0, (*Call).customerNumber)),
})

func withKeys(fields []callField) []callField {
	for i := range fields {
		fields[i].key = `"` + fields[i].name + `":`
	}
	return fields
}

func appendArray[E any](dst []byte, all []E, one func([]byte, *E) []byte) []byte {
	if all == nil {
		return append(dst, "null"...)
	}
	dst = append(dst, '[')
	for i := range all {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = one(dst, &all[i])
	}
	return append(dst, ']')
}

func appendTexts(dst []byte, m map[string]string) []byte {
	if m == nil {
		return append(dst, "null"...)
	}
	dst = append(dst, '{')
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(jsonappend.String(dst, k), ':')
		dst = jsonappend.String(dst, m[k])
	}
	return append(dst, '}')
}

// rendering is what payloads, URLs and headers of one event are rendered from.
// It is used by one goroutine.
type rendering struct {
	event    *Event
	zone     *time.Location // of the config
	location *time.Location // of the call, once it was needed
	truncate bool           // the transcript is left out, since the body was too large with it
	spent    int            // bytes that were made
	most     int            // that may be; zero for no bound but the template's
	shared   *int           // bytes that all webhooks of the event may make together; nil for no bound
	below    map[int][]byte // JSON of fields of which parts were asked for, by index in callFields
}

// Location implements template.Source.
func (r *rendering) Location() *time.Location {
	if r.location == nil {
		r.location = r.zone
		if r.location == nil {
			r.location = time.UTC
		}
		if name := r.event.Data.Call.Timezone; name != "" {
			if loc, err := loadLocation(name); err == nil {
				r.location = loc
			}
		}
	}
	return r.location
}

// Spend implements template.Source.
func (r *rendering) Spend(n int) error {
	if r.spent += n; r.most > 0 && r.spent > r.most {
		return template.ErrTooLarge
	}
	if r.shared != nil {
		if *r.shared -= n; *r.shared < 0 {
			return template.ErrTooLarge
		}
	}
	return nil
}

// bound lets r make n bytes more.
func (r *rendering) bound(n int) { r.spent, r.most = 0, n }

// Bounds of what is made when an event is rendered, in between too.
const (
	maxEventWork  = 128 << 20 // for all webhooks of an event
	maxWordsWork  = 1 << 20   // for the placeholders in a webhook's URL and headers
	maxLookupWork = 2 << 20   // for all of a lookup: its caller waits
)

// text is a lookup: it gives the text of a placeholder in a URL or header.
func (r *rendering) text(e *template.Expr) (string, error) {
	b, err := e.AppendText(nil, r)
	return string(b), err
}

// resolver returns the scope of the templates of a webhook of type t.
func resolver(t Type) template.Scope {
	return func(path string) (template.Getter, error) {
		get, _, err := resolve(path, t)
		return get, err
	}
}

// resolve finds what a path like "call.transfers.0.to" stands for, and its type.
func resolve(path string, t Type) (template.Getter, string, error) {
	if err := checkPath(path); err != nil {
		return nil, "", err
	}
	root, rest, _ := strings.Cut(path, ".")
	if root == "event" {
		for i := range eventFields {
			if f := &eventFields[i]; f.name == rest {
				return func(dst []byte, src template.Source) ([]byte, error) {
					return f.append(dst, src.(*rendering).event), nil
				}, f.typ, nil
			}
		}
	}
	name, below, _ := strings.Cut(rest, ".")
	i := slices.IndexFunc(callFields, func(f callField) bool { return f.name == name })
	if root != "call" || i < 0 {
		return nil, "", unknownPath(path, t)
	}
	f := &callFields[i]
	if f.has&typeSet(t) == 0 {
		return nil, "", fmt.Errorf("%s is not known yet when a %s webhook fires; it can stand in %s", path, t, join(f.has.types()))
	}
	transcript := name == "transcript" || name == "transcript_text"
	if below == "" {
		return func(dst []byte, src template.Source) ([]byte, error) {
			r := src.(*rendering)
			if transcript && r.truncate {
				return append(dst, "null"...), nil
			}
			dst, err := f.append(dst, r.event.Data.Call)
			if err != nil {
				err = fmt.Errorf("call.%s: %w", f.name, err)
			}
			return dst, err
		}, f.typ, nil
	}
	typ, err := f.typeBelow(path, below)
	if err != nil {
		return nil, "", err
	}
	if f.members != nil {
		return func(dst []byte, src template.Source) ([]byte, error) {
			return appendMember(dst, f.members(src.(*rendering).event.Data.Call), below)
		}, typ, nil
	}
	return func(dst []byte, src template.Source) ([]byte, error) {
		r := src.(*rendering)
		if transcript && r.truncate {
			return append(dst, "null"...), nil
		}
		raw, ok := r.below[i]
		if !ok {
			var err error
			if raw, err = f.append(nil, r.event.Data.Call); err != nil {
				return dst, fmt.Errorf("call.%s: %w", f.name, err)
			}
			if r.below == nil {
				r.below = map[int][]byte{}
			}
			r.below[i] = raw
		}
		if v := gjson.GetBytes(raw, below); v.Exists() {
			return append(dst, v.Raw...), nil
		}
		return append(dst, "null"...), nil
	}, typ, nil
}

// typeBelow returns the type of a path below a field, as the catalogue has it.
func (f *callField) typeBelow(path, below string) (string, error) {
	if f.free {
		return "", nil
	}
	steps, each := pathSteps(below), eachElement(below)
	if f.typ == "array" && steps[0] == "#" && len(steps) == 1 {
		switch {
		case below == "#":
			return "number", nil // how many there are
		case each:
			return "array", nil // all that match
		case f.name == "tags":
			return "string", nil
		}
		return "object", nil // one element
	}
	want := strings.Join(steps, ".")
	var names []string
	for _, s := range f.sub {
		if s.name == want || strings.HasSuffix(s.name, ".*") && strings.HasPrefix(want, strings.TrimSuffix(s.name, "*")) ||
			s.typ == "object" && strings.HasPrefix(want, s.name+".") && (strings.HasSuffix(s.name, "arguments") || strings.HasSuffix(s.name, "result")) {
			if each {
				return "array", nil // one value of each element
			}
			return s.typ, nil
		}
		names = append(names, "call."+f.name+"."+s.name)
	}
	if len(names) == 0 {
		return "", fmt.Errorf("%s does not exist: call.%s is one value and has no parts", path, f.name)
	}
	return "", fmt.Errorf("%s does not exist%s; parts of call.%s are %s", path,
		suggest.DidYouMean("call."+f.name+"."+want, names), f.name, strings.Join(names, ", "))
}

func unknownPath(path string, t Type) error {
	var fields, names []string
	for i := range callFields {
		if callFields[i].has&typeSet(t) != 0 {
			fields = append(fields, callFields[i].name)
			names = append(names, "call."+callFields[i].name)
		}
	}
	for i := range eventFields {
		names = append(names, "event."+eventFields[i].name)
	}
	var hint string
	switch {
	case path == "call" || path == "event":
		return fmt.Errorf(`%s is not one value: take its parts, like "call.from"`, path)
	case slices.Contains(names, "call."+path):
		hint = ` (did you mean "call.` + path + `"?)`
	case template.IsName(path):
		hint = " (a variable is call.variables." + path + ")"
	default:
		hint = suggest.DidYouMean(path, names)
	}
	switch {
	case hint != "":
	case strings.HasPrefix(path, "call."):
		hint = "; after call. can stand " + strings.Join(fields, ", ")
	default:
		hint = `: a path begins with call. or event., like "call.from" or "call.variables.customer_name"`
	}
	return fmt.Errorf("%s does not exist%s", path, hint)
}

func join[S ~string](all []S) string { return strings.Join(texts(all), ", ") }

func texts[S ~string](all []S) []string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = string(s)
	}
	return out
}
