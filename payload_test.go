package callhook_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/google/go-cmp/cmp"
)

// event returns an event of a type about a call, at a time that has to be
// converted.
func event(t callhook.EventType, call *callhook.Call) *callhook.Event {
	at := time.Date(2026, 3, 5, 10, 0, 0, 123_987_654, time.FixedZone("", 3600))
	return &callhook.Event{ID: "msg_1", Type: t, Timestamp: at, Data: callhook.EventData{Call: call}}
}

// payloadOf returns a payload from its JSON.
func payloadOf(t testing.TB, text string) *callhook.Payload {
	t.Helper()
	data := `{"agent_id":"a","post_call":[{"url":"https://h.example/","payload":` + text + `}]}`
	return &parse(t, data).PostCall[0].Payload
}

// build returns the body of a payload for a post-call event.
func build(t testing.TB, payload string, call *callhook.Call) string {
	t.Helper()
	body, err := payloadOf(t, payload).Build(event(callhook.EventAnalyzed, call))
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// keys returns the names of a JSON object, in order.
func keys(t testing.TB, raw []byte) (names []string) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(raw))
	if tok, err := d.Token(); err != nil || tok != json.Delim('{') {
		t.Fatalf("not an object: %.80s", raw)
	}
	for d.More() {
		tok, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, tok.(string))
		var skip json.RawMessage
		if err := d.Decode(&skip); err != nil {
			t.Fatal(err)
		}
	}
	return names
}

// callOf returns the data.call of a body.
func callOf(t testing.TB, body []byte) json.RawMessage {
	t.Helper()
	var envelope struct {
		Data struct{ Call json.RawMessage }
	}
	if err := json.Unmarshal(body, &envelope); err != nil {
		t.Fatal(err)
	}
	return envelope.Data.Call
}

// TestDefaultPayload: what is sent where nothing is selected.
func TestDefaultPayload(t *testing.T) {
	want := map[callhook.EventType]string{
		callhook.EventInbound: "id tenant_id agent_id agent_name config_revision direction channel from from_name from_verified to forwarded_from" +
			" provider_call_id status started_at timezone language tags variables metadata",
		callhook.EventStatus: "id tenant_id agent_id direction from to forwarded_from provider_call_id status previous_status status_reason status_at sequence transfers",
		callhook.EventEnded: "id tenant_id agent_id agent_name config_revision direction channel from from_name from_verified to forwarded_from" +
			" provider_call_id status previous_status status_reason status_at sequence started_at answered_at ended_at analyzed_at timezone end_reason ended_by" +
			" transfers answered_by language tags variables metadata collected transcript summary sentiment successful evaluation recording error",
	}
	want[callhook.EventAnalyzed] = want[callhook.EventEnded]
	for e, fields := range want {
		t.Run(string(e), func(t *testing.T) {
			calls := []*callhook.Call{{}} // nothing is known
			for _, name := range callNames(t) {
				calls = append(calls, loadCall(t, name))
			}
			for _, call := range calls {
				body, err := new(callhook.Payload).Build(event(e, call))
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff([]string{"id", "type", "timestamp", "data"}, keys(t, body)); diff != "" {
					t.Errorf("%s: envelope (-want +got):\n%s", call.ID, diff)
				}
				if diff := cmp.Diff(strings.Fields(fields), keys(t, callOf(t, body))); diff != "" {
					t.Errorf("%s: call (-want +got):\n%s", call.ID, diff)
				}
				if !strings.HasPrefix(string(body), `{"id":"msg_1","type":"`+string(e)+`","timestamp":"2026-03-05T09:00:00.123Z","data":{"call":{`) {
					t.Errorf("%s: envelope %.120s", call.ID, body)
				}
				for _, secret := range []string{"sip_headers", "X-Account", `"cost"`, `"arguments"`} {
					if strings.Contains(string(body), secret) {
						t.Errorf("%s: %s is sent though nobody selected it", call.ID, secret)
					}
				}
			}
			var marked []string
			for _, f := range callhook.Fields(e.Webhook()) {
				if f.Default {
					marked = append(marked, strings.TrimPrefix(f.Path, "call."))
				}
			}
			if diff := cmp.Diff(strings.Fields(fields), marked); diff != "" {
				t.Errorf("Fields' defaults (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDefaultPayloadDecodes: a receiver in Go decodes it into an Event.
func TestDefaultPayloadDecodes(t *testing.T) {
	for _, name := range callNames(t) {
		call := loadCall(t, name)
		body, err := new(callhook.Payload).Build(event(callhook.EventEnded, call))
		if err != nil {
			t.Fatal(err)
		}
		var got callhook.Event
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatal(err)
		}
		want := *call
		want.SIPHeaders, want.Cost = nil, nil
		want.Transcript = slices.Clone(want.Transcript)
		for i, turn := range want.Transcript {
			if turn.Tool != nil {
				tool := *turn.Tool
				tool.Arguments = nil
				want.Transcript[i].Tool = &tool
			}
		}
		if diff := cmp.Diff(&want, got.Data.Call, cmp.Transformer("JSON", compact)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestCallRoundTrip: a call survives being written and read.
func TestCallRoundTrip(t *testing.T) {
	for _, name := range callNames(t) {
		t.Run(name, func(t *testing.T) {
			call := loadCall(t, name)
			var b bytes.Buffer
			e := json.NewEncoder(&b)
			e.SetEscapeHTML(false)
			if err := e.Encode(call); err != nil {
				t.Fatal(err)
			}
			again := new(callhook.Call)
			if err := json.Unmarshal(b.Bytes(), again); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(call, again, cmp.Transformer("JSON", compact)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			var file bytes.Buffer
			if err := json.Compact(&file, readFile(t, "testdata/calls/"+name+".json")); err != nil {
				t.Fatal(err)
			}
			want := strings.ReplaceAll(file.String(), `"from":"",`, `"from":null,`) // what is empty is not known
			if diff := cmp.Diff(want, strings.TrimSpace(b.String())); diff != "" {
				t.Errorf("bytes (-want +got):\n%s", diff)
			}
			plain, err := json.Marshal(*call) // a Call, not a pointer to one
			if err != nil || !json.Valid(plain) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestBytesKept: values arrive as they were, wherever a payload puts them.
func TestBytesKept(t *testing.T) {
	values := map[string]string{
		"twenty digits": `12345678901234567890`, "thirty digits": `-123456789012345678901234567890`,
		"trailing zero": `1.10`, "zeros": `100.00`, "huge": `1e400`, "tiny": `-2.50E-400`, "minus zero": `-0`, "exponent": `1E+2`,
		"markup": `"<b>&amp; 'x' \"y\""`, "separators": "\"a\u2028b\u2029c\"", "backslash": `"C:\\new\\table"`, "slash": `"a/b"`,
		"control": `"\u0000\u001f\n\r\t"`, "unicode": `"Zoë 李明 👩🏽‍⚕️ \u007f"`, "placeholder": `"{{call.from}} ${TOKEN}"`,
		"true": `true`, "nested": `{"a":[{"b":[1.0,null,{"c":"<>"}]}],"z":{}}`, "empty": `""`, "empty list": `[]`,
	}
	for name, raw := range values {
		t.Run(name, func(t *testing.T) {
			call := new(callhook.Call)
			for _, into := range []any{&call.Metadata, &call.Variables, &call.Collected, &call.Evaluation} {
				if err := json.Unmarshal([]byte(`{"v":`+raw+`}`), into); err != nil {
					t.Fatal(err)
				}
			}
			call.Transcript = []callhook.Turn{{Tool: &callhook.ToolCall{Arguments: json.RawMessage(raw), Result: json.RawMessage(" { \"v\" : " + raw + " } ")}}}
			want := raw
			if name == "control" {
				want = `"\u0000\u001f\n\r\t"`
			}
			if name == "unicode" {
				want = "\"Zoë 李明 👩🏽‍⚕️ \u007f\"" // U+007F needs no escape
			}
			got := build(t, `{"template":["{{call.metadata.v}}","{{call.variables.v}}","{{call.collected.v}}","{{call.evaluation.v}}","{{call.metadata}}"]}`, call)
			if diff := cmp.Diff(`[`+want+`,`+want+`,`+want+`,`+want+`,{"v":`+want+`}]`, got); diff != "" {
				t.Errorf("template (-want +got):\n%s", diff)
			}
			got = build(t, `{"fields":["call.metadata","call.variables.v"]}`, call)
			if diff := cmp.Diff(`{"metadata":{"v":`+want+`},"variables":{"v":`+want+`}}`, string(callOf(t, []byte(got)))); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
			got = build(t, `{"template":["{{call.transcript.0.tool.arguments}}","{{call.transcript.0.tool.result.v}}"]}`, call)
			if diff := cmp.Diff(`[`+raw+`,`+raw+`]`, got); diff != "" {
				t.Errorf("tool (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("invalid UTF-8", func(t *testing.T) {
		call := &callhook.Call{From: "a\xffb\xc0\xae", Summary: "\xed\xa0\x80", Tags: []string{"\xf0\x9f"}, Metadata: callhook.Object{"\xff": "\xff"},
			SIPHeaders: map[string]string{"X\xff": "\xff"}}
		got := build(t, `{"template":["{{call.from}}","x{{call.from}}","{{call.summary}}","{{call.tags}}","{{call.metadata}}","{{call.sip_headers}}"]}`, call)
		want := `["a�b��","xa�b��","���",["��"],{"�":"�"},{"X�":"�"}]`
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("Go values", func(t *testing.T) {
		call := &callhook.Call{Metadata: callhook.Object{
			"bool": true, "float": 1.5, "int": 7, "int64": int64(math.MaxInt64), "large": 1e21, "list": []string{"<a>", "b"}, "map": map[string]int{"b": 2, "a": 1},
			"nil": nil, "number": json.Number("1.10"), "raw": json.RawMessage(` [ 1.10 ] `), "small": 1e-7, "struct": struct{ A string }{"<&>"},
			"time": time.Date(2026, 3, 5, 10, 0, 0, 0, time.FixedZone("", 3600)), "uint8": uint8(3)}}
		got := build(t, `{"template":"{{call.metadata}}"}`, call)
		want := `{"bool":true,"float":1.5,"int":7,"int64":9223372036854775807,"large":1e+21,"list":["<a>","b"],"map":{"a":1,"b":2},` +
			`"nil":null,"number":1.10,"raw":[1.10],"small":1e-07,"struct":{"A":"<&>"},"time":"2026-03-05T09:00:00.000Z","uint8":3}`
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestPayloadTimes: RFC 3339 with milliseconds, in UTC.
func TestPayloadTimes(t *testing.T) {
	zone := time.FixedZone("", -5*3600)
	call := &callhook.Call{
		StartedAt:  time.Date(2026, 3, 1, 23, 59, 59, 999_999_999, zone),
		AnsweredAt: time.Date(2026, 3, 2, 0, 0, 0, 0, zone),
		EndedAt:    time.Date(2026, 3, 2, 0, 1, 0, 500_000_000, zone).Local(),
		Transfers:  []callhook.Transfer{{StartedAt: time.Date(2026, 3, 2, 0, 0, 30, 1_000_000, zone)}},
		Recording:  &callhook.Recording{URL: "u", ExpiresAt: time.Date(9999, 12, 31, 23, 0, 0, 0, time.UTC), Channels: 1},
	}
	got := build(t, `{"template":["{{event.timestamp}}","{{call.started_at}}","{{call.answered_at}}","{{call.ended_at}}","{{call.analyzed_at}}","{{call.transfers}}","{{call.recording}}",
		"{{call.duration_ms}}","{{call.duration_seconds}}","{{call.talk_seconds}}"]}`, call)
	want := `["2026-03-05T09:00:00.123Z","2026-03-02T04:59:59.999Z","2026-03-02T05:00:00.000Z","2026-03-02T05:01:00.500Z",null,` +
		`[{"to":null,"type":null,"status":null,"reason":null,"started_at":"2026-03-02T05:00:30.001Z","ended_at":null}],` +
		`{"url":"u","expires_at":"9999-12-31T23:00:00.000Z","channels":1},60500,61,61]`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestDerivedFields: durations and the customer's number, also where they are not known.
func TestDerivedFields(t *testing.T) {
	at := time.Date(2026, 3, 5, 9, 0, 0, 0, time.UTC)
	const all = `{"template":["{{call.duration_ms}}","{{call.duration_seconds}}","{{call.talk_seconds}}","{{call.customer_number}}","{{call.transcript_text}}"]}`
	for name, test := range map[string]struct {
		call callhook.Call
		want string
	}{
		"nothing":            {want: `[null,null,null,null,null]`},
		"inbound":            {call: callhook.Call{Direction: callhook.Inbound, From: "1", To: "2"}, want: `[null,null,null,"1",null]`},
		"outbound":           {call: callhook.Call{Direction: callhook.Outbound, From: "1", To: "2"}, want: `[null,null,null,"2",null]`},
		"web":                {call: callhook.Call{Direction: callhook.Web}, want: `[null,null,null,null,null]`},
		"not answered":       {call: callhook.Call{StartedAt: at, EndedAt: at.Add(1499 * time.Millisecond)}, want: `[1499,1,null,null,null]`},
		"answered":           {call: callhook.Call{StartedAt: at, AnsweredAt: at.Add(time.Second), EndedAt: at.Add(2500 * time.Millisecond)}, want: `[2500,3,2,null,null]`},
		"no time at all":     {call: callhook.Call{StartedAt: at, AnsweredAt: at, EndedAt: at}, want: `[0,0,0,null,null]`},
		"clocks went back":   {call: callhook.Call{StartedAt: at, EndedAt: at.Add(-time.Second)}, want: `[null,null,null,null,null]`},
		"nobody said a word": {call: callhook.Call{Transcript: []callhook.Turn{}}, want: `[null,null,null,null,""]`},
		"a conversation": {call: callhook.Call{Transcript: []callhook.Turn{{Role: "agent", Text: "Hi\n<b>"}, {Role: "user", Text: "Hello"}, {Role: "system", Text: "x"},
			{Role: "tool", Text: "x", Tool: &callhook.ToolCall{Name: "t"}}, {Role: "user"}, {Role: "supervisor", Text: "Well"}, {Text: "?"}}},
			want: `[null,null,null,null,"Agent: Hi\n<b>\nCaller: Hello\nsupervisor: Well\n: ?"]`},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, build(t, all, &test.call)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// small is a call with a little of everything.
func small() *callhook.Call {
	yes := true
	return &callhook.Call{ID: "c1", AgentID: "a", Direction: callhook.Inbound, From: "+44", Tags: []string{"vip", "a, b"},
		Variables: callhook.Variables{"name": "Ada", "empty": "", "list": []any{json.Number("1"), "two"}, "deep": map[string]any{"a.b": map[string]any{"*": "star"}}},
		Metadata:  callhook.Object{"n": json.Number("1.10"), "items": []any{map[string]any{"id": json.Number("1"), "ok": true}, map[string]any{"id": json.Number("2")}, map[string]any{"id": json.Number("3"), "ok": true}}},
		Transfers: []callhook.Transfer{{To: "+1", Status: callhook.StatusTransferFailed, Reason: "busy"}, {To: "+2", Status: callhook.StatusTransferConnected}},
		Transcript: []callhook.Turn{{Role: "agent", Text: "Hi", End: 1.25}, {Role: "user", Text: "Hello", Start: 1.25, End: 2},
			{Role: "tool", Tool: &callhook.ToolCall{Name: "book", ID: "t1", Arguments: json.RawMessage(`{"day":"fri"}`), Result: json.RawMessage(`{"ok":true,"slots":[9,10]}`)}},
			{Role: "user", Text: "Bye"}},
		Successful: &yes, Summary: "Short.", Recording: &callhook.Recording{URL: "https://r.example/1"},
		Cost:       &callhook.Cost{Total: "1.10", Currency: "EUR", Parts: map[string]json.Number{"model": "0.10", "telephony": "1.00"}},
		SIPHeaders: map[string]string{"X-Account": "42", "User-Agent": "x"}}
}

func TestPayloadFields(t *testing.T) {
	for name, test := range map[string]struct{ payload, want string }{
		"one":              {`{"fields":["call.id"]}`, `{"call":{"id":"c1"}}`},
		"order as written": {`{"fields":["call.summary","call.id","call.direction"]}`, `{"call":{"summary":"Short.","id":"c1","direction":"inbound"}}`},
		"nested":           {`{"fields":["call.variables.name","call.recording.url","call.id","call.variables.missing"]}`, `{"call":{"variables":{"name":"Ada","missing":null},"recording":{"url":"https://r.example/1"},"id":"c1"}}`},
		"not selected, not sent": {`{"fields":["call.transcript.#"],"flat":false}`,
			`error: payload.fields[0]: a path with a number or # has no name of its own: give it one with {"path": …, "as": "name"}`},
		"as":                       {`{"fields":[{"path":"call.from","as":"phone"},{"path":"call.id","as":"ids.call"},{"path":"event.id","as":"x"}]}`, `error: payload.fields[2]: event.id is always sent: leave it out`},
		"as, nested":               {`{"fields":[{"path":"call.from","as":"phone"},{"path":"call.id","as":"ids.call"},{"path":"call.agent_id","as":"ids.agent"}]}`, `{"phone":"+44","ids":{"call":"c1","agent":"a"}}`},
		"as, beside call":          {`{"fields":["call.id",{"path":"call.from","as":"call.phone"}]}`, `{"call":{"id":"c1","phone":"+44"}}`},
		"default":                  {`{"fields":[{"path":"call.to","default":"nobody"},{"path":"call.variables.empty","default":0},{"path":"call.variables.name","default":"x"},{"path":"call.forwarded_from","default":{"a":[1.10]}}]}`, `{"call":{"to":"nobody","variables":{"empty":0,"name":"Ada"},"forwarded_from":{"a":[1.10]}}}`},
		"default null":             {`{"fields":[{"path":"call.to","default":null}]}`, `{"call":{"to":null}}`},
		"a default is data":        {`{"fields":[{"path":"call.to","default":"{{call.from}}"}]}`, `{"call":{"to":"{{call.from}}"}}`},
		"false is no missing":      {`{"fields":[{"path":"call.metadata.items.1.ok","as":"a","default":"x"},{"path":"call.metadata.items.0.ok","as":"b","default":"x"}]}`, `{"a":"x","b":true}`},
		"index":                    {`{"fields":[{"path":"call.transfers.0.to","as":"a"},{"path":"call.transfers.1","as":"b"},{"path":"call.transfers.2.to","as":"c"},{"path":"call.tags.1","as":"d"}]}`, `{"a":"+1","b":{"to":"+2","type":null,"status":"transfer_connected","reason":null,"started_at":null,"ended_at":null},"c":null,"d":"a, b"}`},
		"number of elements":       {`{"fields":[{"path":"call.transfers.#","as":"a"},{"path":"call.tags.#","as":"b"},{"path":"call.variables.list.#","as":"c"}]}`, `{"a":2,"b":2,"c":2}`},
		"of each":                  {`{"fields":[{"path":"call.transfers.#.to","as":"a"},{"path":"call.transcript.#.tool.name","as":"b"}]}`, `{"a":["+1","+2"],"b":["book"]}`},
		"first that matches":       {`{"fields":[{"path":"call.transfers.#(status==\"transfer_connected\").to","as":"a"},{"path":"call.transcript.#(role==\"nobody\").text","as":"b"},{"path":"call.transcript.#(tool.name==\"book\").tool.arguments.day","as":"c"}]}`, `{"a":"+2","b":null,"c":"fri"}`},
		"all that match":           {`{"fields":[{"path":"call.transcript.#(role==\"user\")#.text","as":"a"},{"path":"call.metadata.items.#(ok==true)#.id","as":"b"},{"path":"call.metadata.items.#(id>1)#.id","as":"c"},{"path":"call.transcript.#(role==\"nobody\")#.text","as":"d"}]}`, `{"a":["Hello","Bye"],"b":[1,3],"c":[2,3],"d":[]}`},
		"a match in a list":        {`{"fields":[{"path":"call.tags.#(==\"vip\")","as":"a"},{"path":"call.tags.#(!=\"vip\")#","as":"b"}]}`, `{"a":"vip","b":["a, b"]}`},
		"the dot in a query":       {`{"fields":[{"path":"call.tags.#(==\"a.b)\")","as":"a"}]}`, `{"a":null}`},
		"escapes":                  {`{"fields":["call.variables.deep.a\\.b.\\*"]}`, `{"call":{"variables":{"deep":{"a.b":{"*":"star"}}}}}`},
		"below a text":             {`{"fields":["call.variables.name.first"]}`, `{"call":{"variables":{"name":{"first":null}}}}`},
		"a quote in a name":        {`{"fields":["call.metadata.it's","call.metadata.a\"b"]}`, `{"call":{"metadata":{"it's":null,"a\"b":null}}}`},
		"what is never sent alone": {`{"fields":["call.sip_headers","call.sip_headers.User-Agent","call.cost.total"]}`, `error: payload.fields[1]: "sip_headers" is there already as a whole: leave one out`},
		"sensitive, selected":      {`{"fields":["call.sip_headers.X-Account","call.cost","call.cost.parts.model"]}`, `error: payload.fields[2]: "cost" is there already as a whole: leave one out`},
		"sensitive":                {`{"fields":["call.sip_headers.X-Account","call.cost.parts.model","call.cost.total"]}`, `{"call":{"sip_headers":{"X-Account":"42"},"cost":{"parts":{"model":0.10},"total":1.10}}}`},
		"cost":                     {`{"fields":["call.cost"]}`, `{"call":{"cost":{"total":1.10,"currency":"EUR","parts":{"model":0.10,"telephony":1.00}}}}`},
		"the whole transcript": {`{"fields":[{"path":"call.transcript.2","as":"a"}]}`,
			`{"a":{"role":"tool","text":"","start":0,"end":0,"tool":{"name":"book","id":"t1","arguments":{"day":"fri"},"result":{"ok":true,"slots":[9,10]}}}}`},
	} {
		t.Run(name, func(t *testing.T) {
			p := payloadOf(t, test.payload)
			body, err := p.Build(event(callhook.EventEnded, small()))
			var got string
			var ce *callhook.ConfigError
			if errors.As(err, &ce) {
				got = "error: " + ce.Faults[0].String()
			} else if err != nil {
				t.Fatal(err)
			} else {
				var envelope struct{ Data json.RawMessage }
				if err := json.Unmarshal(body, &envelope); err != nil {
					t.Fatalf("%v: %s", err, body)
				}
				got = string(envelope.Data)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestFlatPayload(t *testing.T) {
	const head = `{"id":"msg_1","type":"call.analyzed","timestamp":"2026-03-05T09:00:00.123Z",`
	for name, test := range map[string]struct{ payload, want string }{
		"names":       {`{"flat":true,"fields":["call.id","call.variables.name","call.transfers.0.to","call.recording.url"]}`, `"call_id":"c1","call_variables_name":"Ada","call_transfers_0_to":"+1","call_recording_url":"https://r.example/1"}`},
		"as":          {`{"flat":true,"fields":[{"path":"call.id","as":"Call ID"},{"path":"call.from","as":"a.b"}]}`, `"Call ID":"c1","a.b":"+44"}`},
		"default":     {`{"flat":true,"fields":[{"path":"call.to","default":"none"},{"path":"call.metadata.x","default":{"a":1}},{"path":"call.forwarded_from","default":["x"]}]}`, `"call_to":"none","call_metadata_x":{"a":1},"call_forwarded_from":["x"]}`},
		"tags":        {`{"flat":true,"fields":["call.tags"]}`, `"call_tags":"vip, a, b"}`},
		"transcript":  {`{"flat":true,"fields":["call.transcript"]}`, `"call_transcript":"Agent: Hi\nCaller: Hello\nCaller: Bye"}`},
		"text":        {`{"flat":true,"fields":["call.transcript_text",{"path":"call.transcript.0.text","as":"first"}]}`, `"call_transcript_text":"Agent: Hi\nCaller: Hello\nCaller: Bye","first":"Hi"}`},
		"fixed names": {`{"flat":true,"fields":["call.recording","call.cost"]}`, `"call_recording_url":"https://r.example/1","call_recording_expires_at":null,"call_recording_channels":null,"call_cost_total":1.10,"call_cost_currency":"EUR","call_cost_parts":"{\"model\":0.10,\"telephony\":1.00}"}`},
		"free names":  {`{"flat":true,"fields":["call.metadata","call.variables.list","call.variables.deep","call.metadata.n"]}`, `"call_metadata":"{\"items\":[{\"id\":1,\"ok\":true},{\"id\":2},{\"id\":3,\"ok\":true}],\"n\":1.10}","call_variables_list":"[1,\"two\"]","call_variables_deep":"{\"a.b\":{\"*\":\"star\"}}","call_metadata_n":1.10}`},
		"arrays":      {`{"flat":true,"fields":[{"path":"call.transfers.#.to","as":"to"},{"path":"call.transcript.#(role==\"user\")#","as":"turns"},{"path":"call.transfers.#","as":"n"},{"path":"call.transfers.1","as":"second"},{"path":"call.transcript.2.tool.result.slots","as":"slots"}]}`, `"to":"[\"+1\",\"+2\"]","turns":"[{\"role\":\"user\",\"text\":\"Hello\",\"start\":1.25,\"end\":2,\"tool\":null},{\"role\":\"user\",\"text\":\"Bye\",\"start\":0,\"end\":0,\"tool\":null}]","n":2,"second":"{\"to\":\"+2\",\"type\":null,\"status\":\"transfer_connected\",\"reason\":null,\"started_at\":null,\"ended_at\":null}","slots":"[9,10]"}`},
		"a quote":     {`{"flat":true,"fields":["call.metadata.it's"]}`, `"call_metadata_it's":null}`},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(head+test.want, build(t, test.payload, small())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestFlatIsFlat: whatever is selected, for every call, on one level with the same names.
func TestFlatIsFlat(t *testing.T) {
	everything := `{"flat":true,"fields":[`
	for i, f := range callhook.Fields(callhook.TypePostCall) {
		if strings.HasPrefix(f.Path, "event.") {
			continue
		}
		path := strings.ReplaceAll(f.Path, "*", "model")
		everything += fmt.Sprintf(`{"path":%q,"as":"f%d"},`, path, i)
	}
	for _, payload := range []string{`{"flat":true}`, strings.TrimSuffix(everything, ",") + `]}`} {
		for _, e := range []callhook.EventType{callhook.EventStatus, callhook.EventEnded} {
			p := payloadOf(t, payload)
			if e == callhook.EventStatus && len(p.Fields) > 0 {
				continue
			}
			var want []string
			for _, name := range append(callNames(t), "") {
				call := new(callhook.Call)
				if name != "" {
					call = loadCall(t, name)
				}
				body, err := p.Build(event(e, call))
				if err != nil {
					t.Fatal(err)
				}
				var flat map[string]json.RawMessage
				if err := json.Unmarshal(body, &flat); err != nil {
					t.Fatal(err)
				}
				for key, v := range flat {
					if v[0] == '{' || v[0] == '[' {
						t.Errorf("%s: %s nests: %.80s", name, key, v)
					}
				}
				got := keys(t, body)
				if want == nil {
					want = got
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s: names (-want +got):\n%s", name, diff)
				}
			}
		}
	}
}

// shape returns the paths of all names in a value that a config fixes: not those
// inside of lists, nor of objects whose names are the user's.
func shape(t *testing.T, raw []byte, path string, out map[string]bool) {
	free := []string{"variables", "metadata", "collected", "evaluation", "retell_llm_dynamic_variables", "custom_analysis_data"}
	for _, key := range keys(t, raw) {
		var m map[string]json.RawMessage
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		out[path+key] = true
		if v := m[key]; v[0] == '{' && !slices.Contains(free, key) {
			shape(t, v, path+key+".", out)
		}
	}
}

// TestSameShape: a receiver that learns from one sample never misses a name.
func TestSameShape(t *testing.T) {
	for _, name := range []string{"make", "n8n", "zapier", "retell"} {
		c := exampleConfigs(t)[name]
		for _, w := range c.PostCall {
			var want map[string]bool
			for _, callName := range callNames(t) {
				p, err := c.Preview(w.Name, loadCall(t, callName))
				if err != nil {
					t.Fatal(err)
				}
				got := map[string]bool{}
				shape(t, p.Body, "", got)
				if want == nil {
					want = got
				}
				if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); diff != "" {
					t.Errorf("%s, %s (-want +got):\n%s", w.Name, callName, diff)
				}
			}
		}
	}
}

func TestPayloadTemplate(t *testing.T) {
	for name, test := range map[string]struct{ template, want string }{
		"typed":                {`["{{call.metadata.n}}","{{call.successful}}","{{call.tags}}","{{call.to}}","{{call.variables.deep}}","{{ call.id }}"]`, `[1.10,true,["vip","a, b"],null,{"a.b":{"*":"star"}},"c1"]`},
		"text":                 {`["n={{call.metadata.n}}","{{call.id}}/{{call.from}}","[{{call.to}}]"," {{call.metadata.n}}","{{call.tags}}.","{{call.successful}}!","{{call.variables.deep}}?"]`, `["n=1.10","c1/+44","[]"," 1.10","[\"vip\",\"a, b\"].","true!","{\"a.b\":{\"*\":\"star\"}}?"]`},
		"literals":             {`{"a":1.10,"b":12345678901234567890,"c":true,"d":null,"e":[],"f":{},"g":"<&> \u2028","h":1e400,"i":"}} {x} % #"}`, "{\"a\":1.10,\"b\":12345678901234567890,\"c\":true,\"d\":null,\"e\":[],\"f\":{},\"g\":\"<&> \u2028\",\"h\":1e400,\"i\":\"}} {x} % #\"}"},
		"order":                {`{"z":1,"a":2,"m":{"z":1,"a":2}}`, `{"z":1,"a":2,"m":{"z":1,"a":2}}`},
		"a text alone":         {`"{{call.id}}"`, `"c1"`},
		"a number alone":       {`5`, `5`},
		"names are not filled": {`{"call.id":"{{call.id}}","a\"b":1}`, `{"call.id":"c1","a\"b":1}`},
		"omit":                 {`{"a":"{{call.to | omit}}","b":"{{call.id | omit}}","c":"{{call.variables.empty | omit}}","d":["{{call.to | omit}}","{{call.id | omit}}","x"],"e":{"f":"{{call.to | omit}}"},"g":"{{call.transcript.#(role==\"x\")# | omit}}"}`, `{"b":"c1","d":["c1","x"],"e":{}}`},
		"omit all":             {`{"a":"{{call.to | omit}}","b":"{{call.to | omit}}"}`, `{}`},
		"omit all of a list":   {`["{{call.to | omit}}","{{call.to | omit}}"]`, `[]`},
		"omit the first":       {`{"a":"{{call.to | omit}}","b":1}`, `{"b":1}`},
		"omit alone":           {`"{{call.to | omit}}"`, `null`},
		"omit after default":   {`{"a":"{{call.to | default: 'x' | omit}}","b":"{{call.to | string | omit}}","c":"{{call.to | json | omit}}"}`, `{"a":"x"}`},
		"omit keeps zero":      {`{"a":"{{call.metadata.z | default: 0 | omit}}","b":"{{call.metadata.z | default: false | omit}}"}`, `{"a":0,"b":false}`},
		"quotes in quotes":     {`["{{ call.to | default: \"a'b\" }}","{{ call.to | default: 'a\"b' }}","{{ call.to | default: '}}' }}","{{ call.to | default: '|' }}","{{ call.to | default: ',' }}"]`, `["a'b","a\"b","}}","|",","]`},
		"typed arguments":      {`["{{call.to | default: 1.10}}","{{call.to | default: true}}","{{call.to | default: null}}","{{call.to | default: '1.10'}}","{{call.to | default: -5}}","{{call.to | default: 12345678901234567890}}"]`, `[1.10,true,null,"1.10",-5,12345678901234567890]`},
		"no space":             {`"{{call.from|digits|last:1}}"`, `"4"`},
		"data is not expanded": {`["{{call.variables.trap}}","x{{call.variables.trap}}"]`, `["{{call.id}} ${TOKEN} {% x %}","x{{call.id}} ${TOKEN} {% x %}"]`},
		"secrets stay text":    {`["${TOKEN}","x ${TOKEN} {{call.id}}","$${","${"]`, `["${TOKEN}","x ${TOKEN} c1","$${","${"]`},
		"two and more braces":  {`["{{{call.id}}}","{ {call.id} }"]`, `error`},
	} {
		t.Run(name, func(t *testing.T) {
			call := small()
			call.Variables["trap"] = "{{call.id}} ${TOKEN} {% x %}"
			p := &callhook.Payload{Template: json.RawMessage(test.template)}
			body, err := p.Build(event(callhook.EventEnded, call))
			if test.want == "error" {
				if err == nil {
					t.Errorf("%s, want an error", body)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(body)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestPayloadZones: the date filter takes the call's zone, then the config's, then UTC.
func TestPayloadZones(t *testing.T) {
	at := time.Date(2026, 7, 1, 23, 30, 0, 0, time.UTC)
	for name, test := range map[string]struct{ config, call, want string }{
		"the call's":      {"Europe/London", "America/New_York", "2026-07-01 19:30 EDT -04:00"},
		"the config's":    {"Europe/London", "", "2026-07-02 00:30 BST +01:00"},
		"UTC":             {"", "", "2026-07-01 23:30 UTC +00:00"},
		"one not known":   {"Europe/London", "Mars/Olympus", "2026-07-02 00:30 BST +01:00"},
		"not the machine": {"Europe/London", "Local", "2026-07-02 00:30 BST +01:00"},
		"no way out":      {"Europe/London", "../../../etc/passwd", "2026-07-02 00:30 BST +01:00"},
	} {
		t.Run(name, func(t *testing.T) {
			c := parse(t, `{"agent_id":"a","post_call":[{"url":"https://h.example/","payload":{"template":"{{call.started_at | date: '%F %R %Z %:z'}}"}}]}`)
			c.Timezone = test.config
			p, err := c.Preview("post_call", &callhook.Call{ID: "c", AgentID: "a", StartedAt: at, Timezone: test.call})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(`"`+test.want+`"`, string(p.Body)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTruncation(t *testing.T) {
	long := small()
	for range 1000 {
		long.Transcript = append(long.Transcript, callhook.Turn{Role: "user", Text: strings.Repeat("x", 100)})
	}
	huge := small()
	huge.Summary = strings.Repeat("x", 20_000)
	huge.Transcript = long.Transcript
	for name, test := range map[string]struct {
		payload  string
		maxBytes int
		call     *callhook.Call
		want     string // what the body ends with, after its beginning
		tooLarge bool
	}{
		"small enough":         {payload: `{"fields":["call.id","call.transcript_text"]}`, maxBytes: 1000, call: small(), want: `"data":{"call":{"id":"c1","transcript_text":"Agent: Hi\nCaller: Hello\nCaller: Bye"}}}`},
		"default":              {payload: `{}`, maxBytes: 3000, call: long, want: `"error":null},"truncated":["call.transcript"]}}`},
		"fields":               {payload: `{"fields":["call.id","call.transcript","call.transcript_text",{"path":"call.transcript.0.text","as":"first"},{"path":"call.transcript.#","as":"n"}]}`, maxBytes: 1000, call: long, want: `"data":{"call":{"id":"c1","transcript":null,"transcript_text":null},"first":null,"n":null,"truncated":["call.transcript"]}}`},
		"flat":                 {payload: `{"flat":true,"fields":["call.id","call.transcript"]}`, maxBytes: 1000, call: long, want: `"call_id":"c1","call_transcript":null,"truncated":"call.transcript"}`},
		"template":             {payload: `{"template":{"id":"{{call.id}}","t":"{{call.transcript_text}}","x":"[{{call.transcript_text | html}}]","d":"{{call.transcript_text | default: 'left out'}}"}}`, maxBytes: 1000, call: long, want: `{"id":"c1","t":null,"x":"[]","d":"left out"}`},
		"a name that is taken": {payload: `{"fields":["call.transcript",{"path":"call.id","as":"truncated"}]}`, maxBytes: 1000, call: long, want: `"data":{"call":{"transcript":null},"truncated":"c1"}}`},
		"no transcript in it":  {payload: `{"fields":["call.summary"]}`, maxBytes: 1000, call: huge, tooLarge: true},
		"still too large":      {payload: `{"fields":["call.summary","call.transcript"]}`, maxBytes: 10_000, call: huge, tooLarge: true},
		"large enough for one": {payload: `{"fields":["call.summary","call.transcript"]}`, maxBytes: 21_000, call: huge, want: `"transcript":null},"truncated":["call.transcript"]}}`},
		"a byte short":         {payload: `{"template":"{{call.id}}"}`, maxBytes: 3, call: small(), tooLarge: true},
		"exactly":              {payload: `{"template":"{{call.id}}"}`, maxBytes: 4, call: small(), want: `"c1"`},
	} {
		t.Run(name, func(t *testing.T) {
			c := parse(t, `{"agent_id":"a","post_call":[{"url":"https://h.example/","payload":`+test.payload+`}]}`)
			c.PostCall[0].MaxBytes = test.maxBytes
			for range 2 { // once more with what the first left behind
				p, err := c.Preview("post_call", test.call)
				if test.tooLarge {
					if !errors.Is(err, callhook.ErrTooLarge) {
						t.Fatalf("%v, want ErrTooLarge", err)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if len(p.Body) > test.maxBytes || !json.Valid(p.Body) {
					t.Errorf("%d bytes of %d", len(p.Body), test.maxBytes)
				}
				if got := string(p.Body); !strings.HasSuffix(got, test.want) {
					t.Errorf("body %s, want it to end with %s", got, test.want)
				}
			}
		})
	}
}

// TestPayloadCannotBeBuilt: the error tells which field, and nothing of its value.
func TestPayloadCannotBeBuilt(t *testing.T) {
	circle := callhook.Object{}
	circle["me"] = map[string]any(circle)
	for name, test := range map[string]struct {
		call callhook.Call
		want string
	}{
		"not a number":         {callhook.Call{Transcript: []callhook.Turn{{}, {Start: math.NaN()}}}, "call.transcript: 1.start: "},
		"infinite":             {callhook.Call{Metadata: callhook.Object{"a": math.Inf(1)}}, "call.metadata: a: "},
		"a bad number":         {callhook.Call{Metadata: callhook.Object{"a": json.Number("1,5")}}, "call.metadata: a: "},
		"a bad cost":           {callhook.Call{Cost: &callhook.Cost{Total: "EUR 5"}}, "call.cost: total: "},
		"a bad part":           {callhook.Call{Cost: &callhook.Cost{Parts: map[string]json.Number{"x": "?"}}}, "call.cost: parts: "},
		"a circle":             {callhook.Call{Collected: circle}, "call.collected: me: me: "},
		"a function":           {callhook.Call{Variables: callhook.Variables{"f": func() {}}}, "call.variables: f: "},
		"a tool's result":      {callhook.Call{Transcript: []callhook.Turn{{Tool: &callhook.ToolCall{Result: json.RawMessage(`{"a":`)}}}}, "call.transcript: 0.tool.result: "},
		"a tool's arguments":   {callhook.Call{Transcript: []callhook.Turn{{Tool: &callhook.ToolCall{Arguments: json.RawMessage(`}`)}}}}, "call.transcript: 0.tool.arguments: "},
		"two values in one":    {callhook.Call{Metadata: callhook.Object{"a": json.RawMessage(`1,"b":2`)}}, "call.metadata: a: "},
		"a text in a number":   {callhook.Call{Metadata: callhook.Object{"a": json.Number(`"x"`)}}, "call.metadata: a: "},
		"spaces in a number":   {callhook.Call{Metadata: callhook.Object{"a": json.Number(` 1`)}}, "call.metadata: a: "},
		"true in a number":     {callhook.Call{Metadata: callhook.Object{"a": json.Number(`true`)}}, "call.metadata: a: "},
		"a number of one dash": {callhook.Call{Metadata: callhook.Object{"a": json.Number(`-`)}}, "call.metadata: a: "},
	} {
		t.Run(name, func(t *testing.T) {
			p := payloadOf(t, `{"fields":["call.metadata","call.variables","call.collected","call.transcript","call.cost"]}`)
			body, err := p.Build(event(callhook.EventEnded, &test.call))
			if err == nil || !strings.HasPrefix(err.Error(), "callhook: the payload cannot be built: "+test.want) {
				t.Errorf("%s, %v, want an error about %s", body, err, test.want)
			}
			if _, err := json.Marshal(test.call); err == nil {
				t.Error("the call itself can be written")
			}
		})
	}
	var ce *callhook.ConfigError
	if _, err := (&callhook.Payload{Fields: []callhook.PayloadField{{Path: "call.nope"}}}).Build(event(callhook.EventEnded, small())); !errors.As(err, &ce) {
		t.Errorf("a payload that is wrong: %v", err)
	}
	if _, err := (&callhook.Payload{Template: json.RawMessage(`{"a":`)}).Build(event(callhook.EventEnded, small())); !errors.As(err, &ce) {
		t.Errorf("a template that is not JSON: %v", err)
	}
	if _, err := (&callhook.Payload{Template: json.RawMessage(`{} {}`)}).Build(event(callhook.EventEnded, small())); !errors.As(err, &ce) {
		t.Errorf("two templates: %v", err)
	}
	if _, err := (&callhook.Payload{Fields: []callhook.PayloadField{{Path: "call.id", Default: json.RawMessage(`{`)}}}).Build(event(callhook.EventEnded, small())); !errors.As(err, &ce) {
		t.Errorf("a default that is not JSON: %v", err)
	}
	for name, e := range map[string]*callhook.Event{"no event": nil, "no call": {Type: callhook.EventEnded}} {
		if _, err := new(callhook.Payload).Build(e); !errors.Is(err, callhook.ErrInvalidCall) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := new(callhook.Payload).Build(event("call.sung", small())); err == nil || !strings.Contains(err.Error(), "call.sung") {
		t.Errorf("an event type that does not exist: %v", err)
	}
}

// TestRunaway: no template and no call makes rendering take the machine.
func TestRunaway(t *testing.T) {
	call := small()
	call.Summary = strings.Repeat(`"<&`, 5000)
	call.Metadata = callhook.Object{"deep": nested(90), "many": make([]any, 10_000)}
	repeat := func(s string, n int) string { return strings.Repeat(s, n) }
	for name, test := range map[string]struct {
		template string
		tooLarge bool
	}{
		"json doubles":     {template: `"{{call.summary` + repeat(` | json`, 20) + `}}"`, tooLarge: true},
		"filters for ever": {template: `"{{call.id` + repeat(` | upcase`, 20) + `}}"`},
		"join":             {template: `"{{call.metadata.many | join: '` + repeat("x", 200_000) + `'}}"`, tooLarge: true},
		"last and mask":    {template: `["{{call.id | last: 999999999999999}}","{{call.id | mask: 999999999999999}}","{{call.tags | last: 999999999999999}}","{{call.id | last: 0}}"]`},
		"a deep path":      {template: `"{{call.metadata.deep` + repeat(`.#`, 28) + `}}"`},
		"queries":          {template: `["{{call.metadata.deep` + repeat(`.#(a==1)#`, 20) + `}}","{{call.transcript.#(text>=\"\")#.text | join}}"]`},
		"a deep template":  {template: repeat(`[`, 32) + `"{{call.id}}"` + repeat(`]`, 32)},
	} {
		t.Run(name, func(t *testing.T) {
			p := &callhook.Payload{Template: json.RawMessage(test.template)}
			start := time.Now()
			body, err := p.Build(event(callhook.EventEnded, call))
			if errors.Is(err, callhook.ErrTooLarge) != test.tooLarge || err != nil && !test.tooLarge {
				t.Errorf("%d bytes, %v", len(body), err)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func nested(n int) any {
	var v any = json.Number("1")
	for range n {
		v = []any{v, v}[:1]
	}
	return v
}

// TestFieldsCatalogue: what pages, hints and docs are made from is complete.
func TestFieldsCatalogue(t *testing.T) {
	inCatalogue := map[string]bool{}
	for _, e := range []callhook.EventType{callhook.EventInbound, callhook.EventStatus, callhook.EventEnded, callhook.EventAnalyzed} {
		typ := e.Webhook()
		seen := map[string]bool{}
		for _, f := range callhook.Fields(typ) {
			inCatalogue[f.Path] = true
			if seen[f.Path] {
				t.Errorf("%s: %s stands twice", typ, f.Path)
			}
			seen[f.Path] = true
			if len(f.Guidance) < 8 || !strings.HasSuffix(f.Guidance, ".") || strings.ContainsAny(f.Guidance, "\n\t") {
				t.Errorf("%s: guidance %q is not a sentence", f.Path, f.Guidance)
			}
			if !json.Valid([]byte(f.Example)) {
				t.Errorf("%s: example %s is not JSON", f.Path, f.Example)
			}
			if !slices.Contains(f.Webhooks, typ) {
				t.Errorf("%s: %s is not among its webhooks %v", f.Path, typ, f.Webhooks)
			}
			path := strings.ReplaceAll(f.Path, "*", "model")
			p := &callhook.Payload{Template: json.RawMessage(`"{{` + path + `}}"`)}
			body, err := p.Build(event(e, small()))
			if err != nil {
				t.Errorf("%s in %s: %v", f.Path, typ, err)
			}
			checkType(t, f, body)
			checkType(t, f, []byte(f.Example))
		}
		for _, other := range callhook.Fields(callhook.TypePostCall) {
			if !seen[other.Path] && slices.Contains(other.Webhooks, typ) {
				t.Errorf("%s says that %s can carry it, and Fields does not list it", other.Path, typ)
			}
			if !seen[other.Path] {
				p := &callhook.Payload{Template: json.RawMessage(`"{{` + strings.ReplaceAll(other.Path, "*", "model") + `}}"`)}
				if _, err := p.Build(event(e, small())); err == nil || !strings.Contains(err.Error(), "not known yet") {
					t.Errorf("%s in %s: %v", other.Path, typ, err)
				}
			}
		}
	}
	checkTags(t, inCatalogue, "call", reflect.TypeFor[callhook.Call]())
	if got := callhook.Fields("nothing"); got != nil {
		t.Errorf("fields of no webhook: %v", got)
	}
	callhook.Fields(callhook.TypePostCall)[0].Path = "changed"
	if callhook.Fields(callhook.TypePostCall)[0].Path == "changed" {
		t.Error("the slice is not the caller's")
	}
}

// checkTags: every field that the JSON of a call has is in the catalogue.
func checkTags(t *testing.T, inCatalogue map[string]bool, path string, typ reflect.Type) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		at := path + "." + name
		if !inCatalogue[at] {
			t.Errorf("%s (%s.%s) is not in the catalogue", at, typ.Name(), f.Name)
		}
		ft := f.Type
		if ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Struct {
			at, ft = at+".#", ft.Elem()
		}
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		if ft.Kind() == reflect.Struct && ft != reflect.TypeFor[time.Time]() {
			checkTags(t, inCatalogue, at, ft)
		}
	}
}

// checkType: a value is of the type that the catalogue says, or null. Through a #
// it is an array of such.
func checkType(t *testing.T, f callhook.Field, raw []byte) {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil || v == nil {
		return
	}
	if list, ok := v.([]any); ok && strings.Contains(f.Path, "#") {
		if len(list) == 0 || list[0] == nil {
			return
		}
		v = list[0]
	}
	ok := false
	switch f.Type {
	case "string":
		_, ok = v.(string)
	case "time":
		var s string
		if s, ok = v.(string); ok {
			at, err := time.Parse("2006-01-02T15:04:05.000Z", s)
			ok = err == nil && at.Location() == time.UTC
		}
	case "number":
		_, ok = v.(float64)
	case "boolean":
		_, ok = v.(bool)
	case "array":
		_, ok = v.([]any)
	case "object":
		_, ok = v.(map[string]any)
	}
	if !ok {
		t.Errorf("%s: %s is not a %s", f.Path, raw, f.Type)
	}
}

func TestPayloadFieldJSON(t *testing.T) {
	for text, want := range map[string]callhook.PayloadField{
		`"call.id"`:                      {Path: "call.id"},
		`{"path":"call.id"}`:             {Path: "call.id"},
		`{"path":"call.id","as":"x"}`:    {Path: "call.id", As: "x"},
		`{"path":"call.id","default":0}`: {Path: "call.id", Default: json.RawMessage("0")},
	} {
		var got callhook.PayloadField
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
		again, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if want.As == "" && want.Default == nil {
			text = `"call.id"`
		}
		if string(again) != text {
			t.Errorf("%s is written %s", text, again)
		}
	}
	var f callhook.PayloadField
	for text, want := range map[string]string{
		`5`: `it must be a path in quotes, or {"path": …, "as": …, "default": …}`,
		`{"path":"call.id","sa":"x","default":0,"default":1}`: `sa: there is no such field (did you mean "as"?); default: it stands twice: keep one`,
	} {
		if err := json.Unmarshal([]byte(text), &f); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// TestPartsOfACall: a part that is written alone has the form that it has in a call.
func TestPartsOfACall(t *testing.T) {
	at := time.Date(2026, 3, 5, 10, 0, 0, 0, time.FixedZone("", 3600))
	for want, part := range map[string]any{
		`{"to":"+1","type":"warm","status":"transfer_failed","reason":"busy","started_at":"2026-03-05T09:00:00.000Z","ended_at":null}`: callhook.Transfer{
			To: "+1", Type: "warm", Status: callhook.StatusTransferFailed, Reason: "busy", StartedAt: at},
		`{"url":"u","expires_at":"2026-03-05T09:00:00.000Z","channels":2}`: &callhook.Recording{URL: "u", ExpiresAt: at, Channels: 2},
		`{"a":1.10}`: callhook.Object{"a": json.Number("1.10")},
		`null`:       callhook.Object(nil),
	} {
		got, err := json.Marshal(part)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestStatusTerminal(t *testing.T) {
	over := map[callhook.Status]bool{callhook.StatusQueued: false, callhook.StatusRinging: false, callhook.StatusInProgress: false, callhook.StatusVoicemail: false,
		callhook.StatusTransferStarted: false, callhook.StatusTransferConnected: false, callhook.StatusTransferFailed: false, callhook.StatusTransferCanceled: false,
		callhook.StatusCompleted: true, callhook.StatusNoAnswer: true, callhook.StatusBusy: true, callhook.StatusRejected: true, callhook.StatusFailed: true, callhook.StatusCanceled: true,
		"on_hold": false, "": false}
	for s, want := range over {
		if s.Terminal() != want {
			t.Errorf("%q: %t, want %t", s, !want, want)
		}
	}
}
