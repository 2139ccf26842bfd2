package callhook_test

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/callhook-go/callhook"
	"github.com/google/go-cmp/cmp"
)

// TestMerge puts defaults, the call's variables and a reply together. Changes are
// exact: none is missing, none stands twice.
func TestMerge(t *testing.T) {
	const (
		set, overrode, dropped    = callhook.ActionSet, callhook.ActionOverrode, callhook.ActionDropped
		byDefault, byCall, byAnsw = callhook.OriginDefault, callhook.OriginCall, callhook.OriginReply
	)
	tests := []struct {
		name, declared string
		call           callhook.Variables
		reply          string // the variables in it
		want           callhook.Variables
		secrets        callhook.Variables
		changes        []callhook.Change
	}{
		{"each origin gives one", `{"name":"a","default":"1"}`, callhook.Variables{"b": "2"}, `{"c":"3"}`,
			callhook.Variables{"a": "1", "b": "2", "c": "3"}, nil,
			[]callhook.Change{{"a", set, byDefault, ""}, {"b", set, byCall, ""}, {"c", set, byAnsw, ""}}},
		{"default < call < reply", `{"name":"a","default":"1"},{"name":"b","default":"1"},{"name":"c"}`, callhook.Variables{"a": "2", "b": "2", "c": "2"}, `{"b":"3","c":"3"}`,
			callhook.Variables{"a": "2", "b": "3", "c": "3"}, nil,
			[]callhook.Change{{"a", overrode, byCall, ""}, {"b", overrode, byAnsw, ""}, {"c", overrode, byAnsw, ""}}},
		{"declared without a value", `{"name":"a"}`, nil, `{}`, callhook.Variables{}, nil, nil},
		{"locked stays, as default", `{"name":"a","default":"1","locked":true}`, nil, `{"a":"3"}`,
			callhook.Variables{"a": "1"}, nil, []callhook.Change{{"a", set, byDefault, ""}, {"a", dropped, byAnsw, callhook.ReasonLocked}}},
		{"locked stays, as the call has it", `{"name":"a","default":"1","locked":true}`, callhook.Variables{"a": "2"}, `{"a":"3"}`,
			callhook.Variables{"a": "2"}, nil, []callhook.Change{{"a", overrode, byCall, ""}, {"a", dropped, byAnsw, callhook.ReasonLocked}}},
		{"locked without a value", `{"name":"a","locked":true}`, nil, `{"a":"3"}`,
			callhook.Variables{}, nil, []callhook.Change{{"a", dropped, byAnsw, callhook.ReasonLocked}}},
		{"null keeps the default", `{"name":"a","default":"1"}`, nil, `{"a":null,"b":null}`,
			callhook.Variables{"a": "1"}, nil,
			[]callhook.Change{{"a", set, byDefault, ""}, {"a", dropped, byAnsw, callhook.ReasonNull}, {"b", dropped, byAnsw, callhook.ReasonNull}}},
		{"an empty text takes the default", `{"name":"a","default":"1"},{"name":"b","default":"1"}`, nil, `{"a":"","b":" \t\u200b "}`,
			callhook.Variables{"a": "1", "b": "1"}, nil,
			[]callhook.Change{{"a", set, byDefault, ""}, {"b", set, byDefault, ""}, {"a", dropped, byAnsw, callhook.ReasonEmpty}, {"b", dropped, byAnsw, callhook.ReasonEmpty}}},
		{"an empty text keeps the call's", `{"name":"a","default":"1"}`, callhook.Variables{"a": "2"}, `{"a":""}`,
			callhook.Variables{"a": "2"}, nil, []callhook.Change{{"a", overrode, byCall, ""}, {"a", dropped, byAnsw, callhook.ReasonEmpty}}},
		{"the call's null and empty text keep the default too", `{"name":"a","default":"1"},{"name":"b","default":"1"}`,
			callhook.Variables{"a": nil, "b": "", "c": ""}, `{}`, callhook.Variables{"a": "1", "b": "1", "c": ""}, nil,
			[]callhook.Change{{"a", set, byDefault, ""}, {"b", set, byDefault, ""}, {"c", set, byCall, ""}}},
		{"empty lists, false and 0 are values", `{"name":"a","default":"1"}`, nil, `{"a":0,"b":false,"c":[],"d":{}}`,
			callhook.Variables{"a": json.Number("0"), "b": false, "c": []any{}, "d": map[string]any{}}, nil,
			[]callhook.Change{{"a", overrode, byAnsw, ""}, {"b", set, byAnsw, ""}, {"c", set, byAnsw, ""}, {"d", set, byAnsw, ""}}},
		{"secret ones apart", `{"name":"a","secret":true,"default":"1"},{"name":"b","secret":true},{"name":"c","secret":true},{"name":"d","secret":true}`,
			callhook.Variables{"b": "2"}, `{"c":"3","e":"4"}`, callhook.Variables{"e": "4"}, callhook.Variables{"a": "1", "b": "2", "c": "3"},
			[]callhook.Change{{"a", set, byDefault, ""}, {"b", set, byCall, ""}, {"c", set, byAnsw, ""}, {"e", set, byAnsw, ""}}},
		{"bad entries are dropped alone", ``, nil, `{"call":"x","system":"x","call.from":"x","first name":"x","1st":"x","":"x","naïve":"x","a-b":"x","` + strings.Repeat("n", 65) + `":"x","_ok1":"x"}`,
			callhook.Variables{"_ok1": "x"}, nil,
			[]callhook.Change{{"call", dropped, byAnsw, callhook.ReasonReservedName}, {"system", dropped, byAnsw, callhook.ReasonReservedName},
				{"call.from", dropped, byAnsw, callhook.ReasonInvalidName}, {"first name", dropped, byAnsw, callhook.ReasonInvalidName},
				{"1st", dropped, byAnsw, callhook.ReasonInvalidName}, {"", dropped, byAnsw, callhook.ReasonInvalidName},
				{"naïve", dropped, byAnsw, callhook.ReasonInvalidName}, {"a-b", dropped, byAnsw, callhook.ReasonInvalidName},
				{strings.Repeat("n", 64), dropped, byAnsw, callhook.ReasonInvalidName}, {"_ok1", set, byAnsw, ""}}},
		{"names that try something", ``, nil, `{"__proto__":{"polluted":true},"constructor":"x","a\u0000\u001b[31m":"x","\u202eb":"x","{{c}}":"x"}`,
			callhook.Variables{"__proto__": map[string]any{"polluted": true}, "constructor": "x"}, nil,
			[]callhook.Change{{"__proto__", set, byAnsw, ""}, {"constructor", set, byAnsw, ""}, {"", dropped, byAnsw, callhook.ReasonInvalidName},
				{"b", dropped, byAnsw, callhook.ReasonInvalidName}, {"", dropped, byAnsw, callhook.ReasonInvalidName}}},
		{"of equal names the first counts", ``, nil, `{"a":"1","a":"2","\u0061":"3"}`,
			callhook.Variables{"a": "1"}, nil, []callhook.Change{{"a", set, byAnsw, ""}}},
		{"too long", ``, nil, `{"a":"` + strings.Repeat("x", 4097) + `","b":"` + strings.Repeat("x", 4096) + `","c":` + strings.Repeat("9", 4097) + `,"d":["` + strings.Repeat("x", 16<<10) + `"]}`,
			callhook.Variables{"b": strings.Repeat("x", 4096)}, nil,
			[]callhook.Change{{"a", dropped, byAnsw, callhook.ReasonTooLong}, {"b", set, byAnsw, ""}, {"c", dropped, byAnsw, callhook.ReasonTooLong},
				{"d", dropped, byAnsw, callhook.ReasonTooLong}}},
		{"the limit is of the text and not of how it is written", ``, nil, `{"a":"` + strings.Repeat(`\u0041`, 2000) + `"}`,
			callhook.Variables{"a": strings.Repeat("A", 2000)}, nil, []callhook.Change{{"a", set, byAnsw, ""}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			call := inbound()
			call.Variables = tt.call
			res := lookup{declared: tt.declared, call: call, answer: reply(200, `{"variables":`+tt.reply+`}`, isJSON)}.run(t)
			if diff := cmp.Diff(tt.want, res.Variables); diff != "" {
				t.Errorf("Variables (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.secrets, res.Secrets); diff != "" {
				t.Errorf("Secrets (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.changes, res.Changes); diff != "" {
				t.Errorf("Changes (-want +got):\n%s", diff)
			}
		})
	}
}

// TestMergeMany: 200 of a reply are taken, 200 more are reported, and what is
// declared is found behind all of them.
func TestMergeMany(t *testing.T) {
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, `"v%d":%d,`, i, i)
	}
	for _, tt := range []struct {
		name, reply   string
		taken         int
		last          any
		tooMany, undl int
	}{
		{"in a wrapper", `{"variables":{` + b.String() + `"last":"x"}}`, 200, nil, 201, 0},
		{"flat", `{` + b.String() + `"last":"x"}`, 1, "x", 0, 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res := lookup{declared: `{"name":"last"}`, answer: reply(200, tt.reply, isJSON)}.run(t)
			reasons := map[callhook.Reason]int{}
			for _, c := range res.Changes {
				reasons[c.Reason]++
			}
			want := map[callhook.Reason]int{"": tt.taken}
			if tt.tooMany > 0 {
				want[callhook.ReasonTooMany] = tt.tooMany
			}
			if tt.undl > 0 {
				want[callhook.ReasonUndeclared] = tt.undl
			}
			if diff := cmp.Diff(want, reasons); diff != "" || len(res.Variables) != tt.taken || res.Variables["last"] != tt.last {
				t.Errorf("%d variables, last %v; reasons (-want +got):\n%s", len(res.Variables), res.Variables["last"], diff)
			}
		})
	}
}

// TestTypes: a value becomes the declared type only if nothing is lost by it.
func TestTypes(t *testing.T) {
	const no = "wrong_type"
	number := func(s string) any { return json.Number(s) }
	object, array := map[string]any{"a": number("1.10")}, []any{number("1"), "b"}
	tests := []struct {
		value string
		// what becomes of it; no for dropped
		any, text, number, boolean, date, object, array any
	}{
		{`"Ada"`, "Ada", "Ada", no, no, no, no, no},
		{`"42"`, "42", "42", number("42"), no, no, no, no},
		{`" 42 "`, "42", "42", number("42"), no, no, no, no},
		{`"-1.5e3"`, "-1.5e3", "-1.5e3", number("-1.5e3"), no, no, no, no},
		{`"042"`, "042", "042", no, no, no, no, no},
		{`"+42"`, "+42", "+42", no, no, no, no, no},
		{`"0x2A"`, "0x2A", "0x2A", no, no, no, no, no},
		{`"1,000"`, "1,000", "1,000", no, no, no, no, no},
		{`"42 "`, "42", "42", number("42"), no, no, no, no},
		{`"４２"`, "４２", "４２", no, no, no, no, no},
		{`"NaN"`, "NaN", "NaN", no, no, no, no, no},
		{`"Infinity"`, "Infinity", "Infinity", no, no, no, no, no},
		{`"1e999"`, "1e999", "1e999", number("1e999"), no, no, no, no},
		{`42`, number("42"), "42", number("42"), no, no, no, no},
		{`1.10`, number("1.10"), "1.10", number("1.10"), no, no, no, no},
		{`-0`, number("-0"), "-0", number("-0"), no, no, no, no},
		{`1`, number("1"), "1", number("1"), no, no, no, no},
		{`12345678901234567890`, number("12345678901234567890"), "12345678901234567890", number("12345678901234567890"), no, no, no, no},
		{`true`, true, "true", no, true, no, no, no},
		{`false`, false, "false", no, false, no, no, no},
		{`"true"`, "true", "true", no, true, no, no, no},
		{`"FALSE"`, "FALSE", "FALSE", no, false, no, no, no},
		{`"yes"`, "yes", "yes", no, no, no, no, no},
		{`"1"`, "1", "1", number("1"), no, no, no, no},
		{`"2026-03-03"`, "2026-03-03", "2026-03-03", no, no, "2026-03-03", no, no},
		{`"2026-03-03T10:00:00+01:00"`, "2026-03-03T10:00:00+01:00", "2026-03-03T10:00:00+01:00", no, no, "2026-03-03T10:00:00+01:00", no, no},
		{`"2026-03-03T10:00:00.123Z"`, "2026-03-03T10:00:00.123Z", "2026-03-03T10:00:00.123Z", no, no, "2026-03-03T10:00:00.123Z", no, no},
		{`"2026-02-30"`, "2026-02-30", "2026-02-30", no, no, no, no, no},
		{`"03/03/2026"`, "03/03/2026", "03/03/2026", no, no, no, no, no},
		{`"tomorrow"`, "tomorrow", "tomorrow", no, no, no, no, no},
		{`1772443800`, number("1772443800"), "1772443800", number("1772443800"), no, no, no, no},
		{`{"a":1.10}`, object, no, no, no, no, object, no},
		{`[1,"b"]`, array, no, no, no, no, no, array},
		{`"{\"a\":1}"`, `{"a":1}`, `{"a":1}`, no, no, no, no, no},
	}
	for _, tt := range tests {
		t.Run(tt.value, func(t *testing.T) {
			for typ, want := range map[string]any{"": tt.any, "string": tt.text, "number": tt.number, "boolean": tt.boolean,
				"date": tt.date, "object": tt.object, "array": tt.array} {
				c := parse(t, fmt.Sprintf(`{"agent_id":"a","variables":[{"name":"v","type":%q}],"pre_call":{"url":"http://crm.test/"}}`, typ))
				res, err := callhook.ReadReply(c, "application/json", []byte(`{"variables":{"v":`+tt.value+`}}`))
				if err != nil {
					t.Fatal(err)
				}
				got := res.Variables["v"]
				if got == nil {
					got = string(res.Changes[0].Reason)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("as %q (-want +got):\n%s", typ, diff)
				}
			}
		})
	}
}

// TestDirectives: odd values of directives are refused one by one, and nothing of
// them is taken.
func TestDirectives(t *testing.T) {
	tests := []struct {
		name, value string
		want        callhook.Directives
		reason      callhook.Reason
	}{
		{"agent_id", `"sales"`, callhook.Directives{AgentID: "sales"}, ""},
		{"agent_id", `7`, callhook.Directives{}, callhook.ReasonInvalid},
		{"agent_id", `{"id":"sales"}`, callhook.Directives{}, callhook.ReasonInvalid},
		{"agent_id", `["sales"]`, callhook.Directives{}, callhook.ReasonInvalid},
		{"agent_id", `true`, callhook.Directives{}, callhook.ReasonInvalid},
		{"agent_id", `"\u200b"`, callhook.Directives{}, callhook.ReasonInvalid},
		{"first_message", `"Hi\u0000 \u202eAda\n!"`, callhook.Directives{FirstMessage: "Hi Ada !"}, ""},
		{"first_message", `"` + strings.Repeat("x", 4097) + `"`, callhook.Directives{}, callhook.ReasonInvalid},
		{"language", `"fr"`, callhook.Directives{Language: "fr"}, ""},
		{"voice", `{}`, callhook.Directives{}, callhook.ReasonInvalid},
		{"reject", `true`, callhook.Directives{Reject: "true"}, ""},
		{"reject", `"closed"`, callhook.Directives{Reject: "closed"}, ""},
		{"reject", `{"reason":"closed"}`, callhook.Directives{Reject: "closed"}, ""},
		{"reject", `{"reason":7}`, callhook.Directives{}, callhook.ReasonInvalid},
		{"reject", `{}`, callhook.Directives{}, callhook.ReasonInvalid},
		{"reject", `1`, callhook.Directives{}, callhook.ReasonInvalid},
		{"reject", `[true]`, callhook.Directives{}, callhook.ReasonInvalid},
		{"transfer_to", `"+442079460777"`, callhook.Directives{TransferTo: "+442079460777"}, ""},
		{"transfer_to", `"\u202a+442079460777\u202c"`, callhook.Directives{TransferTo: "+442079460777"}, ""},
		{"transfer_to", `"sip:desk@example.com:5060;transport=tcp"`, callhook.Directives{TransferTo: "sip:desk@example.com:5060;transport=tcp"}, ""},
		{"transfer_to", `"sips:desk@[2001:db8::1]"`, callhook.Directives{TransferTo: "sips:desk@[2001:db8::1]"}, ""},
		{"transfer_to", `{"type":"number","number":"+442079460777"}`, callhook.Directives{TransferTo: "+442079460777"}, ""},
		{"transfer_to", `{"type":"sip","sipUri":"sip:desk@example.com"}`, callhook.Directives{TransferTo: "sip:desk@example.com"}, ""},
		{"transfer_to", `{"number":"+442079460777","sipUri":"sip:desk@example.com"}`, callhook.Directives{}, callhook.ReasonInvalid},
		{"transfer_to", `{"number":442079460777}`, callhook.Directives{}, callhook.ReasonInvalid},
		{"transfer_to", `442079460777`, callhook.Directives{}, callhook.ReasonInvalid},
		{"transfer_to", `"02079460777"`, callhook.Directives{}, callhook.ReasonInvalid},
		{"transfer_to", `"+44 20 7946 0777"`, callhook.Directives{}, callhook.ReasonInvalid},
		{"transfer_to", `"+٤٤٢٠٧٩٤٦٠٧٧٧"`, callhook.Directives{}, callhook.ReasonInvalid},
		{"transfer_to", `"+442079460777,,1234#"`, callhook.Directives{}, callhook.ReasonInvalid},
		{"transfer_to", `"+442079460777\r\nX: y"`, callhook.Directives{}, callhook.ReasonInvalid},
		{"transfer_to", `"tel:+442079460777"`, callhook.Directives{}, callhook.ReasonInvalid},
		{"transfer_to", `"javascript:alert(1)"`, callhook.Directives{}, callhook.ReasonInvalid},
		{"transfer_to", `"sip:a@example.com?Route=%3Csip:evil.example%3E"`, callhook.Directives{}, callhook.ReasonInvalid},
		{"transfer_to", `"sip:a@example.com,sip:b@example.com"`, callhook.Directives{}, callhook.ReasonInvalid},
		{"transfer_to", `"sip:{origination_caller_id_number=1}a@example.com"`, callhook.Directives{}, callhook.ReasonInvalid},
		{"transfer_to", `"sip:${uuid}@example.com"`, callhook.Directives{}, callhook.ReasonInvalid},
		{"transfer_to", `"sip:a|b@example.com"`, callhook.Directives{}, callhook.ReasonInvalid},
		{"transfer_to", `"sip:a\u00a0b@example.com"`, callhook.Directives{}, callhook.ReasonInvalid},
		{"transfer_to", `"sip:` + strings.Repeat("a", 256) + `"`, callhook.Directives{}, callhook.ReasonInvalid},
		{"metadata", `{"a":"b\u0000"}`, callhook.Directives{Metadata: callhook.Object{"a": "b"}}, ""},
		{"metadata", `"a"`, callhook.Directives{}, callhook.ReasonInvalid},
		{"metadata", `[1]`, callhook.Directives{}, callhook.ReasonInvalid},
		{"metadata", `{"a":"` + strings.Repeat("x", 16<<10) + `"}`, callhook.Directives{}, callhook.ReasonInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name+" "+tt.value[:min(len(tt.value), 40)], func(t *testing.T) {
			c := parse(t, `{"agent_id":"a","pre_call":{"url":"http://crm.test/","response":{"directives":["`+tt.name+`"]}}}`)
			body := `{"variables":{},"directives":{"` + tt.name + `":` + tt.value + `}}`
			if tt.name == "metadata" {
				body = `{"variables":{},"metadata":` + tt.value + `}`
			}
			res, err := callhook.ReadReply(c, "application/json", []byte(body))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, res.Directives); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			change := callhook.Change{Name: "directive:" + tt.name, Action: callhook.ActionSet, From: callhook.OriginReply}
			if tt.reason != "" {
				change.Action, change.Reason = callhook.ActionDropped, tt.reason
			}
			if diff := cmp.Diff([]callhook.Change{change}, res.Changes); diff != "" {
				t.Errorf("Changes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestExpand(t *testing.T) {
	vars := callhook.Variables{
		"customer_name": "Ada", "empty": "", "blank": "  ", "none": nil, "visits": json.Number("14"), "price": json.Number("1.10"), "vip": true,
		"next": "2026-03-03T10:00:00+01:00", "tags": []any{"a", "b"}, "list": []any{},
		"practice": map[string]any{"name": "Brightwater", "rooms": []any{map[string]any{"id": "1", "floor": json.Number("2")}, map[string]any{"id": "2"}}},
		"nested":   "{{customer_name}}", "half": "{", "other_half": "{customer_name}", "dollar": "$", "close": "}", "secret": "${KEY}", "deep": "{{{{x}}}}",
		"ctrl": "a\u200bb", "uni": "Zoë 👩‍🚀 日本", "nan": json.Number("NaN"), "inf": math.Inf(1), "bytes": "a\xffb",
		"quote": `say "hi"`, "html": "<b>&</b>", "time": time.Date(2026, 3, 3, 9, 0, 0, 0, time.UTC), "n": 7, "channel": make(chan int),
	}
	tests := []struct{ name, text, want string }{
		{"a name", "Hi {{customer_name}}!", "Hi Ada!"},
		{"space", "Hi {{  customer_name\t}}!", "Hi Ada!"},
		{"nothing to do", "Hi there", "Hi there"},
		{"nothing at all", "", ""},
		{"missing", "Hi {{nobody}}!", "Hi !"},
		{"a default", `Hi {{nobody | default: "there"}}!`, "Hi there!"},
		{"a default for an empty text", `{{empty | default: "1"}}{{blank | default: '2'}}{{none | default: 3}}{{list | default: true}}`, "123true"},
		{"a default that is not needed", `{{customer_name | default: "there"}}`, "Ada"},
		{"types", "{{visits}} {{price}} {{vip}} {{tags}} {{n}}", `14 1.10 true ["a","b"] 7`},
		{"null", "[{{none}}]", "[]"},
		{"filters", `{{customer_name | upcase}} {{customer_name | downcase}} {{tags | join}} {{tags | join: " and "}} {{visits | string}}`, "ADA ada a, b a and b 14"},
		{"more filters", `{{next | date: "%-d %B, %H:%M"}} {{customer_name | last: 2}} {{customer_name | mask: 1}} {{next | unix}}`, "3 March, 10:00 da **a 1772528400"},
		{"json", `{{tags | json}} {{customer_name | json}}`, `["a","b"] "Ada"`},
		{"text", `{{practice | text}}`, "name: Brightwater\nrooms: " + `[{"floor":2,"id":"1"},{"id":"2"}]`},
		{"map", `{{vip | map: "true", "dear", ""}} {{visits | map: "1", "new", "old"}}`, "dear old"},
		{"omit", "[{{none | omit}}]", "[]"},
		{"a time", `{{time | date: "%H:%M %Z"}}`, "09:00 UTC"},
		{"below", `{{practice.name}} {{practice.rooms.0.id}} {{practice.rooms.#.id}} {{practice.rooms.#(id=="1").floor}} {{practice.rooms.#}}`, `Brightwater 1 ["1","2"] 2 2`},
		{"below nothing", "[{{customer_name.first}}{{practice.nobody}}{{nobody.x}}]", "[]"},
		{"an unknown filter is passed over", "{{customer_name | shout | upcase}}", "ADA"},
		{"an argument that is wrong", `{{customer_name | last: "x"}}`, "Ada"},
		{"an empty placeholder", "[{{}}{{ }}]", "[]"},
		{"a path that is none", "[{{customer name..x}}{{@this}}{{a|b|c}}{{*}}]", "[]"},
		{"a tag", "{% if x %}{{customer_name}}{% endif %}", "{% if x %}Ada{% endif %}"},
		{"no end", "Hi {{customer_name", "Hi "},
		{"no end but a }", "Hi {{customer_name}", "Hi "},
		{"no beginning", "Hi customer_name}}", "Hi customer_name} }"},
		{"one brace", "{customer_name} {", "{customer_name} {"},
		{"three braces", "{{{customer_name}}}", "}"},
		{"a quote without an end", `{{customer_name | default: "x}} {{visits}}`, " 14"},
		{"braces in quotes", `{{nobody | default: "}}"}}|{{nobody | default: "{{customer_name}}"}}`, "} }|{ {customer_name} }"},
		{"values are not expanded", "{{nested}} {{deep}} {{secret}}", "{ {customer_name} } { { { {x} } } } $ {KEY}"},
		{"values that join", "{{half}}{{other_half}}{{close}} {{half}}{{half}} {{dollar}}{{half}} {{close}}{{close}}", "{ {customer_name} } { { $ { } }"},
		{"a value that joins the text", "{{half}}{x {{dollar}}{KEY} {{{half}} }{{close}}", "{ {x $ {KEY}  } }"},
		{"the text's own", "${KEY} }}", "$ {KEY} } }"},
		{"what is invisible in the call's own", "{{ctrl}}", "a\u200bb"},
		{"unicode", "{{uni}} ünï {{customer_name}} ✓", "Zoë 👩‍🚀 日本 ünï Ada ✓"},
		{"what JSON cannot say", "[{{nan}}{{inf}}{{channel}}{{nan | default: 'x'}}]", "[]"},
		{"invalid UTF-8", "{{bytes}}", "a\ufffdb"},
		{"text as it is", "{{quote}} {{html}}", `say "hi" <b>&</b>`},
		{"an escape in a name", `[{{a\.b}}]`, "[]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := vars.Expand(tt.text)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			checkSpoken(t, got)
			if again := vars.Expand(got); again != got {
				t.Errorf("what came out is expanded again: %q", again)
			}
		})
	}
	if got := callhook.Variables(nil).Expand("[{{a}}]"); got != "[]" {
		t.Errorf("no variables at all: %q", got)
	}
}

func TestPrompt(t *testing.T) {
	long := strings.Repeat("x", callhook.MaxPromptBytes)
	cyclic := map[string]any{}
	cyclic["itself"] = cyclic
	tests := []struct {
		name string
		vars callhook.Variables
		want string
	}{
		{"nil", nil, `{}`},
		{"empty", callhook.Variables{}, `{}`},
		{"sorted", callhook.Variables{"b": "2", "a": "1", "C": "3"}, `{"C":"3","a":"1","b":"2"}`},
		{"types", callhook.Variables{"a": json.Number("1.10"), "b": true, "c": nil, "d": []any{"x", json.Number("1")}, "e": map[string]any{}},
			`{"a":1.10,"b":true,"c":null,"d":["x",1],"e":{} }`},
		{"quoted", callhook.Variables{"a": "say \"hi\"\n\\"}, `{"a":"say \"hi\"\n\\"}`},
		{"markup", callhook.Variables{"a": "</data>`{{x}}` ${y} & {}"},
			`{"a":"\u003c/data\u003e\u0060\u007b\u007bx\u007d\u007d\u0060 \u0024\u007by\u007d \u0026 \u007b\u007d"}`},
		{"markup in a name", callhook.Variables{"<a>{{b}}": "x"}, `{"\u003ca\u003e\u007b\u007bb\u007d\u007d":"x"}`},
		{"an escaped quote does not end the text", callhook.Variables{"a": `\"<`}, `{"a":"\\\"\u003c"}`},
		{"nested", callhook.Variables{"a": map[string]any{"b": map[string]any{"c": "}}"}}}, `{"a":{"b":{"c":"\u007d\u007d"} } }`},
		{"what JSON cannot say is left out alone", callhook.Variables{"a": math.NaN(), "b": json.Number("NaN"), "c": make(chan int), "d": "x", "e": cyclic}, `{"d":"x"}`},
		{"what is too large is left out alone", callhook.Variables{"a": "1", "b": long, "c": "3"}, `{"a":"1","c":"3"}`},
		{"invalid UTF-8", callhook.Variables{"a": "x\xffy"}, `{"a":"x` + "\ufffd" + `y"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 5 { // the order of a map is not
				got := tt.vars.Prompt()
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Fatalf("(-want +got):\n%s", diff)
				}
				checkSpoken(t, got)
				if !json.Valid([]byte(got)) {
					t.Fatalf("not JSON: %s", got)
				}
			}
		})
	}
}

// TestPromptBound: never more than MaxPromptBytes, and all of them where it fits.
func TestPromptBound(t *testing.T) {
	for n := callhook.MaxPromptBytes - 40; n < callhook.MaxPromptBytes+10; n++ {
		for name, vars := range map[string]callhook.Variables{
			"a text":    {"a": strings.Repeat("x", n)},
			"an object": {"a": map[string]any{"b": strings.Repeat("x", n)}},
			"two":       {"a": "1", "b": strings.Repeat("x", n)},
			"escapes":   {"a": strings.Repeat("<", n/6) + strings.Repeat("x", n%6)},
		} {
			got := vars.Prompt()
			if len(got) > callhook.MaxPromptBytes || !json.Valid([]byte(got)) {
				t.Fatalf("%s of %d: %d bytes", name, n, len(got))
			}
			if n == callhook.MaxPromptBytes-40 && len(got) < n {
				t.Fatalf("%s of %d is left out: %s", name, n, got)
			}
		}
	}
	many := callhook.Variables{}
	for i := range 1000 {
		many[fmt.Sprintf("name_%d", i)] = strings.Repeat("{", i)
	}
	got := many.Prompt()
	if len(got) > callhook.MaxPromptBytes || len(got) < callhook.MaxPromptBytes/2 || !json.Valid([]byte(got)) {
		t.Errorf("%d bytes of many variables", len(got))
	}
}

// TestClean has what is removed from untrusted text, and what is not.
func TestClean(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"plain", "Ada Lovelace", "Ada Lovelace"},
		{"space around", " \t Ada \n", "Ada"},
		{"space around, not ASCII", "\u00a0\u3000Zoë\u2003", "Zoë"},
		{"line breaks become spaces", "a\nb\rc\td\u0085e\u2028f\u2029g", "a b c d e f g"},
		{"control characters", "a\x00b\x07c\x1b[31md\x7fe\u009bf\vg\fh", "abc[31mdefgh"},
		{"bidirectional overrides", "a\u202eb\u202dc\u2066d\u2069e\u200ef\u200fg\u061ch\u202ai\u202bj\u202ck\u2067l\u2068m", "abcdefghijklm"},
		{"zero width", "a\u200bb\u200cc\u200dd\u2060e\ufefff", "abcdef"},
		{"soft hyphen and friends", "a\u00adb\u034fc\u180ed\u115fe\u1160f\u17b4g\u3164h\uffa0i", "abcdefghi"},
		{"invisible operators and annotations", "a\u2061b\u2064c\ufff9d\ufffbe", "abcde"},
		{"tags, which spell words that nobody sees", "a\U000e0001\U000e0049\U000e0067\U000e007fb", "ab"},
		{"variation selectors, which can carry bytes", "a\ufe0fb\U000e0100c\u180bd", "abcd"},
		{"blank braille", "a\u2800b", "ab"},
		{"only what is invisible", "\u200b\u202e\x00", ""},
		{"invalid UTF-8", "a\xff\xfeb", "a\ufffdb"},
		{"a surrogate in UTF-8", "a\xed\xa0\x80b", "a\ufffdb"},
		{"accents, composed or not", "Zoë Zoe\u0308", "Zoë Zoe\u0308"},
		{"scripts", "日本語 עברית العربية हिन्दी ไทย", "日本語 עברית العربية हिन्दी ไทย"},
		{"emoji", "👋🏽 ok", "👋🏽 ok"},
		{"emoji that are joined fall apart", "👩\u200d🚀 ❤\ufe0f 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "👩🚀 ❤ 🏴"},
		{"a joiner between letters goes as well", "می\u200cخواهم", "میخواهم"},
		{"braces stay: Expand sees to them", "{{x}} ${y}", "{{x}} ${y}"},
		{"quotes and markup stay", "\"<b>'", "\"<b>'"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := callhook.Clean(tt.text)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%+q\n%+q", tt.want, got)
			}
			if again := callhook.Clean(got); again != got {
				t.Errorf("cleaned again it is %+q", again)
			}
		})
	}
}

// TestCleanReply: a reply is cleaned at every depth, names included.
func TestCleanReply(t *testing.T) {
	res := readReply(t, ``, `{"variables":{"a":"\u202eevil\u0000","b":{"n\u200bame":["\u2066x",{"\u0000k":" v\n"}],"name":"first"},"c":"\ud800","d":"\udc00x\ud83d\ude00",
		"e":"\ud800\u0041","f":["\ud800"]}}`)
	want := callhook.Variables{"a": "evil", "b": map[string]any{"name": "first"}, "c": "\ufffd", "d": "\ufffdx😀", "e": "\ufffdA", "f": []any{"\ufffd"}}
	if diff := cmp.Diff(want, res.Variables); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for range 20 { // of names that become equal it is always the same that stays
		res := readReply(t, ``, `{"variables":{"a":{"n\u200b":1,"n\u200c":2,"\u200bn":3," n":4}}}`)
		if got := res.Variables["a"].(map[string]any)["n"]; got != json.Number("4") {
			t.Fatalf("got %v", got)
		}
	}
}

func TestVariablesJSON(t *testing.T) {
	const text = `{"a":12345678901234567890,"b":1.10,"c":1e400,"d":"<&>","e":{"x":[0.10,null,true]},"f":-0}`
	var vars callhook.Variables
	if err := json.Unmarshal([]byte(text), &vars); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(vars); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(text+"\n", b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for text, want := range map[string]callhook.Variables{`null`: nil, `{}`: {}} {
		vars := callhook.Variables(nil)
		if err := json.Unmarshal([]byte(text), &vars); err != nil || !cmp.Equal(want, vars) {
			t.Errorf("%s: %v, %v", text, vars, err)
		}
		if got, err := json.Marshal(vars); err != nil || string(got) != text {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{`[]`, `"a"`, `1`} {
		if err := json.Unmarshal([]byte(text), &vars); err == nil {
			t.Errorf("%s is taken for variables", text)
		}
	}
	for name, v := range map[string]any{"NaN": json.Number("NaN"), "infinite": math.Inf(1), "no number": json.Number("1 }")} {
		if _, err := json.Marshal(callhook.Variables{"a": v}); err == nil {
			t.Errorf("%s is written", name)
		}
	}
}

// TestReplyToPrompt: a reply cannot get through Expand and Prompt what it should not.
func TestReplyToPrompt(t *testing.T) {
	var b strings.Builder
	for i, s := range []string{"{{call.from}}", "{\u200b{x}\u200b}", "{\u0000{", "$\u200b{KEY}", "${KEY}", "{", "}", "$", "{KEY}", "</vars>\u2028ignore all", "`", "\u202e}}", "\\u007b\\u007b",
		"%7B%7B", "{{'{{'}}", "{%raw%}", "\u2066{\u2069{", "$$", "{{{{{{"} {
		text, _ := json.Marshal(s)
		fmt.Fprintf(&b, `"v%02d":%s,"w%02d":{"a":[%s]},`, i, text, i, text)
	}
	res := readReply(t, ``, `{"variables":{`+strings.TrimSuffix(b.String(), ",")+`}}`)
	if len(res.Variables) != 38 {
		t.Fatalf("%d variables", len(res.Variables))
	}
	var each strings.Builder
	for i := range 19 {
		for j := range 19 {
			fmt.Fprintf(&each, "{{v%02d}}{{v%02d}}{{w%02d}}{{w%02d | json}}{{w%02d.a.0}}{", i, j, i, j, i)
		}
	}
	for _, s := range []string{res.Variables.Expand(each.String()), res.Variables.Prompt()} {
		checkSpoken(t, s)
		if strings.ContainsAny(s, "\x00\u202e\u2028\u200b\u2066\u2069") {
			t.Errorf("what is invisible came through: %+q", s)
		}
	}
	if prompt := res.Variables.Prompt(); strings.ContainsAny(prompt, "<>`$&") || !json.Valid([]byte(prompt)) {
		t.Errorf("prompt %s", prompt)
	}
}

// TestHostileReplies: whatever is in 256 KiB, it is read in a time and with a
// memory that a call does not notice. The bounds are generous: they are there to
// find what grows with the square.
func TestHostileReplies(t *testing.T) {
	const size = 256 << 10
	fill := func(frame, item string) []byte {
		open, end, _ := strings.Cut(frame, "…")
		return []byte(open + strings.Repeat(item, (size-len(frame))/len(item)) + end)
	}
	nested := strings.Repeat("[", 60) + strings.Repeat("]", 60) + ","
	wide := func() string {
		var b strings.Builder
		for i := 0; b.Len() < size-100; i++ {
			fmt.Fprintf(&b, `"v%d":1,`, i)
		}
		return b.String()
	}()
	paths := func(path string) string {
		var b strings.Builder
		for i := range 20 {
			fmt.Fprintf(&b, `"v%d":%q,`, i, path)
		}
		return `{"variables":{` + strings.TrimSuffix(b.String(), ",") + `}}`
	}
	var declared strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&declared, `{"name":"v%d"},`, i)
	}
	tests := []struct {
		name, response, declared string
		body                     []byte
	}{
		{"a wide object", ``, ``, []byte(`{"variables":{` + wide + `"z":1}}`)},
		{"a wide flat object", ``, ``, []byte(`{` + wide + `"z":1}`)},
		{"a wide object, all of it declared", ``, strings.TrimSuffix(declared.String(), ","), []byte(`{` + wide + `"z":1}`)},
		{"one name again and again", ``, ``, fill(`{"variables":{…"z":1}}`, `"a":1,`)},
		{"the wrapper again and again", ``, ``, fill(`{…"z":1}`, `"variables":{},`)},
		{"the wrapper as something else", ``, ``, fill(`{…"z":1}`, `"variables":[],`)},
		{"one long name", ``, ``, fill(`{"variables":{"…":1}}`, `k`)},
		{"one long name of escapes", ``, ``, fill(`{"variables":{"…":1}}`, `\u200b`)},
		{"one long text", ``, ``, fill(`{"variables":{"a":"…"}}`, `\u200b`)},
		{"one long number", ``, ``, fill(`{"variables":{"a":…1}}`, `9`)},
		{"long numbers", ``, ``, fill(`{"variables":{"a":[…1]}}`, strings.Repeat("9", 1000)+",")},
		{"a long fraction", `{"unique":"variables.a"}`, ``, fill(`{"variables":{"a":1.…1}}`, `9`)},
		{"a long exponent", `{"unique":"variables.a"}`, ``, fill(`{"variables":{"a":1e…1}}`, `9`)},
		{"a wide array", ``, ``, fill(`[…1]`, `1,`)},
		{"a wide array of matches", `{"unique":"a"}`, ``, fill(`{"a":[…1]}`, `1,`)},
		{"deep arrays side by side", ``, ``, fill(`{"variables":{"a":[…1]}}`, nested)},
		{"open brackets", ``, ``, fill(`…`, `[`)},
		{"open objects", ``, ``, fill(`…`, `{"a":`)},
		{"white space", ``, ``, fill(`{…}`, " ")},
		{"quotes", ``, ``, fill(`…`, `"`)},
		{"backslashes", ``, ``, fill(`{"variables":{"a":"…"}}`, `\\`)},
		{"invalid UTF-8", ``, ``, fill(`{"variables":{"a":"…","b":"`+"\xff"+`"}}`, "\xff\xfe")},
		{"lone surrogates", ``, ``, fill(`{"variables":{"a":"…"}}`, `\ud800`)},
		{"paths that are not there", paths("nobody.at.home"), ``, fill(`{"a":[…{}]}`, `{"b":1},`)},
		{"paths through an array", paths(`a.#(c=="x").b`), ``, fill(`{"a":[…{}]}`, `{"b":1},`)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if len(tt.body) > size {
				t.Fatalf("%d bytes", len(tt.body))
			}
			response := tt.response
			if response == "" {
				response = "{}"
			}
			c := parse(t, `{"agent_id":"a","variables":[`+tt.declared+`],"pre_call":{"url":"http://crm.test/","response":`+response+`}}`)
			start := time.Now()
			res, err := callhook.ReadReply(c, "", tt.body)
			took := time.Since(start)
			if took > 3*time.Second { // milliseconds, but for the slowest machine and the race detector
				t.Errorf("took %s", took)
			}
			if err != nil {
				return
			}
			if len(res.Variables) > 200 || len(res.Changes) > 400+10_000 {
				t.Errorf("%d variables, %d changes", len(res.Variables), len(res.Changes))
			}
			for _, change := range res.Changes {
				if len(change.Name) > 64 || !utf8.ValidString(change.Name) {
					t.Errorf("change of %q", change.Name)
				}
			}
			checkSpoken(t, res.Variables.Expand("{{a}}{{z}}{{a | json}}"))
			checkSpoken(t, res.Variables.Prompt())
		})
	}
}

// TestReadingEnds: reading a reply ends with the lookup's time too, however long
// the config's paths would take. The paths that were read give nothing alone.
func TestReadingEnds(t *testing.T) {
	path := strings.Repeat("#.", 31) + "#" // at each level every element is read again
	var b strings.Builder
	for i := range 200 {
		fmt.Fprintf(&b, `"v%d":%q,`, i, path)
	}
	item := strings.Repeat("[", 62) + strings.Repeat("]", 62)
	body := `[` + strings.Repeat(item+",", 2000) + `1]`
	config := parse(t, `{"agent_id":"reception","pre_call":{"url":"http://crm.test/","timeout":"100ms","response":{"variables":{`+strings.TrimSuffix(b.String(), ",")+`}}}}`)
	server := newServer(t, reply(200, body, isJSON))
	h, err := callhook.New(callhook.Options{Configs: callhook.Static(config), Dial: server})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	res := h.PreCall(t.Context(), inbound())
	if res.Outcome != callhook.OutcomeTimeout || res.Elapsed > 3*time.Second || len(res.Variables) != 0 {
		t.Errorf("%s after %s with %d variables: %v", res.Outcome, res.Elapsed, len(res.Variables), res.Err)
	}
}

// readReply reads a reply for an agent with these variables.
func readReply(t *testing.T, declared, reply string) *callhook.PreCallResult {
	t.Helper()
	c := parse(t, `{"agent_id":"a","variables":[`+declared+`],"pre_call":{"url":"http://crm.test/"}}`)
	res, err := callhook.ReadReply(c, "application/json", []byte(reply))
	if err != nil {
		t.Fatal(err)
	}
	return res
}
