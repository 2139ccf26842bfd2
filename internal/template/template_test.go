package template_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/callhook-go/callhook/internal/template"
	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"
)

// source is a JSON object; a path is one of gjson's.
type source struct {
	json string
	zone *time.Location
}

func (source) Spend(int) error { return nil }

func (s source) Location() *time.Location { return s.zone }

var errBroken = errors.New("broken")

// scope knows every path but those that begin with "no".
func scope(path string) (template.Getter, error) {
	if strings.HasPrefix(path, "no") {
		return nil, fmt.Errorf("%s does not exist", path)
	}
	return func(dst []byte, src template.Source) ([]byte, error) {
		if path == "broken" {
			return dst, errBroken
		}
		if v := gjson.Get(src.(source).json, path); v.Exists() {
			return append(dst, v.Raw...), nil
		}
		return append(dst, "null"...), nil
	}, nil
}

// value renders "v | filters" as JSON.
func value(t *testing.T, filters, v string, zone *time.Location) string {
	t.Helper()
	e, err := template.ParseExpr("v | "+filters, scope)
	if err != nil {
		t.Fatal(err)
	}
	out, err := e.AppendJSON(nil, source{`{"v":` + v + `}`, zone})
	if err != nil {
		t.Fatal(err)
	}
	if !gjson.ValidBytes(out) {
		t.Errorf("%s of %s gives what is not JSON: %s", filters, v, out)
	}
	return string(out)
}

const transcript = `[{"role":"agent","text":"Hi <Ada>"},{"role":"user","text":"It's \"me\" & you\nhere"},{"role":"tool","text":"x"},{"role":"system","text":"x"},{"role":"user","text":""},{"role":"nurse","text":"Hm"}]`

func TestFilters(t *testing.T) {
	tests := map[string][]struct{ filter, value, want string }{
		"default": {
			{`default: "x"`, `null`, `"x"`}, {`default: "x"`, `""`, `"x"`}, {`default: "x"`, `"  \n"`, `"x"`}, {`default: "x"`, `[]`, `"x"`}, {`default: "x"`, `{}`, `"x"`},
			{`default: "x"`, `"a"`, `"a"`}, {`default: "x"`, `0`, `0`}, {`default: "x"`, `false`, `false`}, {`default: "x"`, `[null]`, `[null]`},
			{`default: ''`, `null`, `""`}, {`default: 1.10`, `null`, `1.10`}, {`default: true`, `null`, `true`}, {`default: null`, `""`, `null`}, {`default: nil`, `""`, `null`},
			{`default: "a\b"`, `null`, `"a\\b"`}, {`default: "x" | upcase`, `null`, `"X"`}, {`default: "<é>"`, `null`, `"<é>"`},
		},
		"upcase":   {{`upcase`, `"straße é"`, `"STRAßE É"`}, {`upcase`, `null`, `null`}, {`upcase`, `""`, `""`}, {`upcase`, `1e5`, `"1E5"`}, {`upcase`, `true`, `"TRUE"`}, {`upcase`, `["a"]`, `"[\"A\"]"`}},
		"downcase": {{`downcase`, `"ÀB"`, `"àb"`}, {`downcase`, `null`, `null`}},
		"string": {
			{`string`, `252480`, `"252480"`}, {`string`, `1.10`, `"1.10"`}, {`string`, `12345678901234567890`, `"12345678901234567890"`}, {`string`, `true`, `"true"`},
			{`string`, `null`, `null`}, {`string`, `"a"`, `"a"`}, {`string`, `[1, 2]`, `"[1, 2]"`}, {`string`, `{"a":"b"}`, `"{\"a\":\"b\"}"`},
		},
		"json": {
			{`json`, `"a\"b"`, `"\"a\\\"b\""`}, {`json`, `1.10`, `"1.10"`}, {`json`, `{"a":[1.10]}`, `"{\"a\":[1.10]}"`}, {`json`, `null`, `null`}, {`json | json`, `"a"`, `"\"\\\"a\\\"\""`},
		},
		"text": {
			{`text`, transcript, `"Agent: Hi <Ada>\nCaller: It's \"me\" & you\nhere\nnurse: Hm"`}, {`text`, `["a",1.10,null,{"x":1}]`, `"a\n1.10\n\n{\"x\":1}"`},
			{`text`, `{"name":"Ada","n":1.10,"x":null,"o":{"a":1}}`, `"name: Ada\nn: 1.10\nx: \no: {\"a\":1}"`}, {`text`, `null`, `null`}, {`text`, `[]`, `""`}, {`text`, `{}`, `""`}, {`text`, `"a"`, `"a"`}, {`text`, `5`, `"5"`},
			{`text`, `[{"role":"agent"},{"text":"x"}]`, `"{\"role\":\"agent\"}\n{\"text\":\"x\"}"`},
		},
		"html": {
			{`html`, `"<a href=\"x\">O'Neill & Co</a>\nnext\r\nlast"`, `"&lt;a href=&#34;x&#34;&gt;O&#39;Neill &amp; Co&lt;/a&gt;<br>next<br>last"`}, {`html`, `null`, `null`}, {`html`, `""`, `""`}, {`html`, `1.10`, `"1.10"`},
			{`html`, transcript, `"Agent: Hi &lt;Ada&gt;<br>Caller: It&#39;s &#34;me&#34; &amp; you<br>here<br>nurse: Hm"`}, {`html | html`, `"<"`, `"&amp;lt;"`},
		},
		"date": {
			{`date: "%Y-%m-%d"`, `"2026-03-05T23:30:00.000Z"`, `"2026-03-06"`}, {`date: "%H:%M"`, `"2026-03-05T10:00:00+05:30"`, `"05:30"`}, {`date: "%F"`, `"2026-03-05"`, `"2026-03-05"`},
			{`date: "%F %T"`, `"2026-03-05 10:00:00"`, `"2026-03-05 11:00:00"`}, {`date: "%F %T"`, `"2026-03-05T10:00:00"`, `"2026-03-05 11:00:00"`}, {`date: "%F"`, `1772755200`, `"2026-03-06"`}, {`date: "%F %T"`, `1772755200000`, `"2026-03-06 01:00:00"`},
			{`date: "%F"`, `null`, `null`}, {`date: "%F"`, `""`, `""`}, {`date: "%F"`, `"soon"`, `"soon"`}, {`date: "%F"`, `true`, `true`}, {`date: "%F"`, `[1]`, `[1]`}, {`date: "%F"`, `-5`, `-5`}, {`date: "%F"`, `1e400`, `1e400`}, {`date: "%F"`, `1e16`, `1e16`},
			{`date: "%F"`, `"2026-13-45T00:00:00Z"`, `"2026-13-45T00:00:00Z"`}, {`date: ""`, `"2026-03-05"`, `""`}, {`date: "100%%"`, `"2026-03-05"`, `"100%"`},
		},
		"unix":    {{`unix`, `"1970-01-01T00:01:00.999Z"`, `60`}, {`unix`, `null`, `null`}, {`unix`, `"soon"`, `"soon"`}, {`unix`, `60`, `60`}, {`unix`, `1772755200999`, `1772755200`}, {`unix`, `"1969-12-31T23:59:59Z"`, `-1`}},
		"unix_ms": {{`unix_ms`, `"1970-01-01T00:01:00.999Z"`, `60999`}, {`unix_ms`, `null`, `null`}, {`unix_ms`, `60`, `60000`}, {`unix_ms | string`, `"1970-01-01T00:00:01Z"`, `"1000"`}},
		"hhmm": {
			{`hhmm`, `0`, `"00:00"`}, {`hhmm`, `59`, `"00:00"`}, {`hhmm`, `60`, `"00:01"`}, {`hhmm`, `3661.9`, `"01:01"`}, {`hhmm`, `360000`, `"100:00"`}, {`hhmm`, `"90"`, `"00:01"`},
			{`hhmm`, `null`, `null`}, {`hhmm`, `-1`, `-1`}, {`hhmm`, `"long"`, `"long"`}, {`hhmm`, `1e400`, `1e400`}, {`hhmm`, `1e12`, `1e12`}, {`hhmm`, `"NaN"`, `"NaN"`}, {`hhmm`, `"Inf"`, `"Inf"`},
		},
		"mask": {
			{`mask`, `"+442079460123"`, `"*********0123"`}, {`mask: 2`, `"+442079460123"`, `"***********23"`}, {`mask: 0`, `"abc"`, `"***"`}, {`mask`, `"1234"`, `"****"`}, {`mask`, `"123"`, `"***"`}, {`mask: 99`, `"12345"`, `"*****"`},
			{`mask`, `null`, `null`}, {`mask`, `""`, `""`}, {`mask`, `1234567`, `"***4567"`}, {`mask: 1`, `"李明é"`, `"**é"`}, {`mask: 9007199254740992`, `"12345"`, `"*****"`},
		},
		"join": {
			{`join`, `["a","b"]`, `"a, b"`}, {`join: ""`, `["a","b"]`, `"ab"`}, {`join: " | "`, `["a",1.10,true,null,{"x":1}]`, `"a | 1.10 | true |  | {\"x\":1}"`}, {`join`, `[]`, `""`}, {`join`, `[null]`, `""`}, {`join`, `["",""]`, `", "`},
			{`join`, `null`, `null`}, {`join`, `"a"`, `"a"`}, {`join`, `{"a":1}`, `{"a":1}`}, {`join | upcase`, `["a"]`, `"A"`},
		},
		"digits": {{`digits`, `"+44 (20) 7946-0123"`, `"442079460123"`}, {`digits`, `"none"`, `""`}, {`digits`, `null`, `null`}, {`digits`, `1.10`, `"110"`}, {`digits`, `"٣4"`, `"4"`}},
		"last": {
			{`last: 3`, `"12345"`, `"345"`}, {`last: 9`, `"12"`, `"12"`}, {`last: 0`, `"12"`, `""`}, {`last`, `"12"`, `"2"`}, {`last: 2`, `"a李明"`, `"李明"`}, {`last: 2`, `12345`, `"45"`}, {`last`, `null`, `null`}, {`last: 2`, `""`, `""`},
			{`last`, `["a","b"]`, `"b"`}, {`last: 2`, `["a", "b" , 1.10]`, `["b",1.10]`}, {`last: 9`, `[1]`, `[1]`}, {`last: 0`, `[1]`, `[]`}, {`last`, `[]`, `null`}, {`last: 1`, `[]`, `[]`}, {`last: 2 | join`, `["a","b","c"]`, `"b, c"`}, {`last`, `[{"a":1.10}]`, `{"a":1.10}`},
		},
		"map": {
			{`map: "a", "A", "b", "B"`, `"b"`, `"B"`}, {`map: "a", "A"`, `"x"`, `"x"`}, {`map: "a", "A", "other"`, `"x"`, `"other"`}, {`map: "a", null, "other"`, `"a"`, `null`}, {`map: null, "none"`, `null`, `"none"`}, {`map: "", "none"`, `null`, `"none"`},
			{`map: "1", "one"`, `1`, `"one"`}, {`map: 1, "one"`, `"1"`, `"one"`}, {`map: true, 1, false, 0`, `true`, `1`}, {`map: true, 1, false, 0`, `"false"`, `0`}, {`map: "a", "A"`, `null`, `null`}, {`map: "a", "A", "x"`, `["a"]`, `"x"`},
			{`map: "a", "b", "b", "c"`, `"a"`, `"b"`}, {`map: "a", "x", "a", "y"`, `"a"`, `"x"`},
		},
		"omit": {{`omit`, `null`, `null`}, {`omit`, `"a"`, `"a"`}},
	}
	zone := time.FixedZone("CET", 3600)
	var covered []string
	for name, all := range tests {
		covered = append(covered, name)
		t.Run(name, func(t *testing.T) {
			for _, test := range all {
				if got := value(t, test.filter, test.value, zone); got != test.want {
					t.Errorf("%s | %s is %s, want %s", test.value, test.filter, got, test.want)
				}
			}
		})
	}
	want := template.Filters()
	slices.Sort(want)
	slices.Sort(covered)
	if diff := cmp.Diff(want, covered); diff != "" {
		t.Errorf("filters that are tested (-want +got):\n%s", diff)
	}
}

// TestFiltersTakeAnything: no filter fails, whatever it is given.
func TestFiltersTakeAnything(t *testing.T) {
	args := map[string]string{"default": `: "d"`, "date": `: "%F"`, "map": `: "a", "b"`}
	values := []string{`null`, `true`, `false`, `0`, `-0`, `1e400`, `-1e-400`, `12345678901234567890`, `""`, `"\u0000"`, `"\ud800"`, "\"\xff\"", `[]`, `{}`, `[null,[[]],{}]`, `{"role":null,"text":[]}`, `[{"role":1,"text":{"a":1}}]`, `[{"role":"user","text":null}]`}
	for _, first := range template.Filters() {
		for _, second := range template.Filters() {
			if first == "omit" {
				continue
			}
			for _, v := range values {
				value(t, first+args[first]+" | "+second+args[second], v, nil)
			}
		}
	}
}

func TestStrftime(t *testing.T) {
	newYork, err := time.LoadLocation("America/New_York")
	if err != nil {
		t.Fatal(err)
	}
	london, err := time.LoadLocation("Europe/London")
	if err != nil {
		t.Fatal(err)
	}
	const summer, winter = `"2026-07-04T16:05:09.087Z"`, `"2026-01-02T03:04:05Z"`
	for _, test := range []struct {
		zone                *time.Location
		value, format, want string
	}{
		{london, summer, "%Y-%m-%dT%H:%M:%S%:z", "2026-07-04T17:05:09+01:00"},
		{newYork, summer, "%Y-%m-%dT%H:%M:%S%:z", "2026-07-04T12:05:09-04:00"},
		{newYork, winter, "%Y-%m-%dT%H:%M:%S%z", "2026-01-01T22:04:05-0500"},
		{time.UTC, winter, "%Y-%m-%dT%H:%M:%S%:z", "2026-01-02T03:04:05+00:00"},
		{nil, `"2026-01-02T03:04:05+05:30"`, "%Y-%m-%dT%H:%M:%S%:z", "2026-01-02T03:04:05+05:30"},
		{nil, winter, "%:z", "+00:00"},
		{london, `"2026-03-29T00:59:59Z"`, "%H:%M %Z", "00:59 GMT"},
		{london, `"2026-03-29T01:00:00Z"`, "%H:%M %Z", "02:00 BST"},
		{time.UTC, summer, "%A|%a|%B|%b", "Saturday|Sat|July|Jul"},
		{time.UTC, summer, "%d|%-d|%e|%m|%-m|%j|%y|%Y", "04|4| 4|07|7|185|26|2026"},
		{time.UTC, summer, "%H|%-H|%I|%-I|%M|%S|%L|%p|%P", "16|16|04|4|05|09|087|PM|pm"},
		{time.UTC, winter, "%H|%-H|%I|%-I|%p|%P|%L", "03|3|03|3|AM|am|000"},
		{time.UTC, `"2026-01-02T00:30:00Z"`, "%-H|%I|%-I|%p", "0|12|12|AM"},
		{time.UTC, summer, "%F|%T|%R|%s|%%", "2026-07-04|16:05:09|16:05|1783181109|%"},
		{time.UTC, summer, "2006 Jan Monday MST %Y", "2006 Jan Monday MST 2026"},
		{time.UTC, summer, "é%Yé%%é", "é2026é%é"},
	} {
		if got := value(t, `date: "`+test.format+`"`, test.value, test.zone); got != `"`+test.want+`"` {
			t.Errorf("%s of %s is %s, want %q", test.format, test.value, got, test.want)
		}
	}
}

func TestParseExpr(t *testing.T) {
	for text, want := range map[string]string{
		``: "the placeholder is empty: write a path in it, like {{ call.from }}", `  `: "the placeholder is empty: write a path in it, like {{ call.from }}", `| upcase`: "the placeholder is empty: write a path in it, like {{ call.from }}",
		`nobody`: "nobody does not exist", `v |`: "a | has no filter after it: write one, or remove it", `v | | upcase`: "a | has no filter after it: write one, or remove it",
		`v | upcas`:        `there is no filter "upcas" (did you mean "upcase"?); the filters are default, upcase, downcase, string, json, text, html, date, unix, unix_ms, hhmm, mask, join, digits, last, map, omit`,
		`v | default:`:     "filter default: an argument is a text in quotes, a number, true, false or null",
		`v | default: a`:   "filter default: an argument is a text in quotes, a number, true, false or null",
		`v | default: 01`:  "filter default: an argument is a text in quotes, a number, true, false or null",
		`v | default: [1]`: "filter default: an argument is a text in quotes, a number, true, false or null",
		`v | default: "a"`: "", `v | default: 'a' 'b'`: "filter default: an argument is a text in quotes, a number, true, false or null",
		`v | default: "a`: `a text that begins with " has no end`, `v | default: 1,`: "filter default: an argument is a text in quotes, a number, true, false or null",
		`v | upcase:`: "filter upcase: an argument is a text in quotes, a number, true, false or null", `v | omit | omit`: "filter omit must be the last one",
		`v | last: 9223372036854775807`: "filter last takes a whole number: last: 10", `v | last: 5`: "", `v|upcase|omit`: "",
		`v | date: '%E'`: "filter date does not know %E; it knows %Y %m %d %H %M %S and most others of strftime", `v | date: '%:'`: "filter date: a % at the end of the format stands alone; write %% for a percent sign",
		`v | date: '%-Y'`: "filter date does not know %-Y; it knows %Y %m %d %H %M %S and most others of strftime",
		`v | map: 'a', ` + strings.Repeat("'b',", 199) + `'c'`: `filter map is written map: "inbound", "INBOUND", "outbound", "OUTBOUND"`,
	} {
		_, err := template.ParseExpr(text, scope)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%.60q: error %q, want %q", text, got, want)
		}
	}
}

// spell writes parts so that a test can compare them.
func spell(parts []template.Part) (out []string) {
	for _, p := range parts {
		switch {
		case p.Expr != nil:
			out = append(out, "{{"+p.Expr.Text+"}}")
		case p.Secret != "":
			out = append(out, "${"+p.Secret+"}")
		default:
			out = append(out, p.Literal)
		}
	}
	return out
}

func TestParseText(t *testing.T) {
	plain, secrets, lenient := template.Options{}, template.Options{Secrets: true}, template.Options{Lenient: true}
	const badRef = "a reference to a secret is written ${NAME}: letters, digits and _, and no digit at first"
	for _, test := range []struct {
		options template.Options
		text    string
		want    []string
		err     string
	}{
		{options: plain},
		{options: plain, text: "a {{ v }} b{{v|upcase}}", want: []string{"a ", "{{v}}", " b", "{{v|upcase}}"}},
		{options: plain, text: "${A} }} { } $ %", want: []string{"${A} }} { } $ %"}},
		{options: plain, text: `{{ v | default: "}}" }}x`, want: []string{`{{v | default: "}}"}}`, "x"}},
		{options: plain, text: `{{ v | default: '{{' }}{{v}}`, want: []string{`{{v | default: '{{'}}`, "{{v}}"}},
		{options: plain, text: `{{ v | date: "{%Y" }}`, want: []string{`{{v | date: "{%Y"}}`}},
		{options: plain, text: "{{", err: "a placeholder has no end: {{ needs its }}"},
		{options: plain, text: "{{ v }", err: "a placeholder has no end: {{ needs its }}"},
		{options: plain, text: "{{v}} {{ nobody }}", err: "{{ nobody }}: nobody does not exist"},
		{options: plain, text: "{{ v | omit }}", err: "{{ v | omit }}: filter omit works only where the placeholder is a whole value in JSON"},
		{options: plain, text: "{% if v %}", err: "{% … %} is not supported: only {{ path | filter }} is"},
		{options: plain, text: "{{{v}}}", err: "{{ {v }}: a { cannot stand in a path"},
		{options: plain, text: `{{ v | default: 'it }} x`, err: "{{ v | default: 'it }}: a text that begins with ' has no end"},
		{options: secrets, text: "Bearer ${A_1}{{v}}${b}$", want: []string{"Bearer ", "${A_1}", "{{v}}", "${b}", "$"}},
		{options: secrets, text: "$${A}", want: []string{"$", "${A}"}},
		{options: secrets, text: "${}", err: badRef}, {options: secrets, text: "${A", err: badRef}, {options: secrets, text: "${1A}", err: badRef}, {options: secrets, text: "${A-B}", err: badRef},
		{options: secrets, text: "${ A}", err: badRef}, {options: secrets, text: "${Ä}", err: badRef}, {options: secrets, text: "${A{{v}}B}", err: badRef},
		{options: secrets, text: "{{ v | default: '${A}' }}", err: "{{ v | default: '${A}' }}: a secret cannot stand inside of {{ }}: write ${NAME} beside it"},
		{options: lenient, text: "a{{ nobody }}b{{v}}c", want: []string{"a", "b", "{{v}}", "c"}},
		{options: lenient, text: "a{{v", want: []string{"a"}},
		{options: lenient, text: "a{{ v | nonsense | upcase }}", want: []string{"a", "{{v | nonsense | upcase}}"}},
		{options: lenient, text: "{{}}{{ }}{{ v | default: }}{{'}}", want: []string{"{{v | default:}}"}},
		{options: lenient, text: "{% if v %}${A}", want: []string{"{% if v %}${A}"}},
		{options: lenient, text: "{{ v | omit }}", want: []string{"{{v | omit}}"}},
	} {
		strict := func(path string) (template.Getter, error) {
			if strings.Contains(path, "{") {
				return nil, errors.New("a { cannot stand in a path")
			}
			return scope(path)
		}
		parts, err := template.ParseText(test.text, strict, test.options)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != test.err {
			t.Errorf("%q: error %q, want %q", test.text, got, test.err)
		}
		if diff := cmp.Diff(test.want, spell(parts)); test.err == "" && diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.text, diff)
		}
	}
}

func TestParseJSON(t *testing.T) {
	nest := func(n int) string { return strings.Repeat(`{"a":[`, n/2) + `"{{v}}"` + strings.Repeat(`]}`, n/2) }
	for name, test := range map[string]struct {
		json string
		want string   // rendered with v = "x"
		err  []string // or the faults
	}{
		"all kinds":         {json: ` { "a" : [ 1.10 , "{{v}}" , "{{v}}{{v}}" , null , true ] , "b" : { } } `, want: `{"a":[1.10,"x","xx",null,true],"b":{}}`},
		"escapes":           {json: `"\u007b\u007bv\u007d\u007d \ud83e\uddb7 \ud800"`, want: `"x 🦷 ` + "\ufffd" + `"`},
		"every fault":       {json: `{"a":"{{nobody}}","b":["{{v"],"c":{"d":"{% x %}","d":1},"{{v}}":1}`, err: []string{".a: {{ nobody }}: nobody does not exist", ".b[0]: a placeholder has no end: {{ needs its }}", ".c.d: {% … %} is not supported: only {{ path | filter }} is", ".c.d: the name stands twice in one object: keep one", ".{{v}}: a placeholder cannot stand in a name: names must be the same for every call"}},
		"not JSON":          {json: `{"a":}`, err: []string{": it is not JSON"}},
		"cut off":           {json: `{"a":[1`, err: []string{": it is not JSON"}},
		"nothing":           {json: ``, err: []string{": it is not JSON"}},
		"two":               {json: `1 2`, err: []string{": it is not JSON"}},
		"deep enough":       {json: nest(template.MaxDepth), want: strings.ReplaceAll(nest(template.MaxDepth), "{{v}}", "x")},
		"too deep":          {json: nest(template.MaxDepth + 2), err: []string{": the template is nested more than 32 levels deep"}},
		"too many values":   {json: `[` + strings.Repeat(`1,`, template.MaxNodes) + `1]`, err: []string{": the template has more than 10000 values"}},
		"an object too big": {json: `{"a":[` + strings.Repeat(`1,`, template.MaxNodes) + `1]}`, err: []string{": the template has more than 10000 values"}},
	} {
		t.Run(name, func(t *testing.T) {
			var faults []string
			n := template.ParseJSON([]byte(test.json), scope, func(place string, err error) { faults = append(faults, place+": "+err.Error()) })
			if diff := cmp.Diff(test.err, faults); diff != "" {
				t.Fatalf("faults (-want +got):\n%s", diff)
			}
			if faults != nil {
				return
			}
			got, err := n.Append(nil, source{json: `{"v":"x"}`})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestErrorsOfValues: an error of a getter ends rendering, wherever it comes up.
func TestErrorsOfValues(t *testing.T) {
	for _, json := range []string{`"{{broken}}"`, `"x {{broken}}"`, `{"a":["{{broken | upcase}}"]}`, `{"a":"{{broken | default: 1 | omit}}"}`} {
		n := template.ParseJSON([]byte(json), scope, func(_ string, err error) { t.Fatal(err) })
		if out, err := n.Append(nil, source{json: `{}`}); !errors.Is(err, errBroken) {
			t.Errorf("%s: %s, %v", json, out, err)
		}
	}
	e, err := template.ParseExpr("broken", scope)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.AppendText(nil, source{}); !errors.Is(err, errBroken) {
		t.Errorf("%v", err)
	}
}

// TestMaxWork: rendering is given up, not carried on for ever.
func TestMaxWork(t *testing.T) {
	long := `"` + strings.Repeat("x", template.MaxWork/8) + `"`
	large := func(string) (template.Getter, error) {
		return func(dst []byte, _ template.Source) ([]byte, error) { return append(dst, long...), nil }, nil
	}
	for name, test := range map[string]struct {
		json     string
		tooLarge bool
	}{
		"much":              {`[` + strings.Repeat(`"{{v}}",`, 7) + `"{{v | omit}}"]`, true},
		"enough":            {`[` + strings.Repeat(`"{{v}}",`, 7) + `1]`, false},
		"in one text":       {`"{{v | last: 1}}{{v` + strings.Repeat(` | default: 1`, 7) + `}}"`, true},
		"little in the end": {`["{{v` + strings.Repeat(` | default: 1`, 6) + ` | last: 1}}","{{v}}"]`, true},
	} {
		n := template.ParseJSON([]byte(test.json), large, func(_ string, err error) { t.Fatal(err) })
		if out, err := n.Append(nil, source{}); errors.Is(err, template.ErrTooLarge) != test.tooLarge || err != nil && !test.tooLarge {
			t.Errorf("%s: %d bytes, %v", name, len(out), err)
		}
	}
}

func TestIsName(t *testing.T) {
	for name, want := range map[string]bool{"a": true, "_": true, "A1_b": true, "z9": true, "": false, "1a": false, "a-b": false, "a.b": false, "é": false, "a ": false, "@": false, "[": false, "a`": false, "{": false} {
		if template.IsName(name) != want {
			t.Errorf("%q: %t, want %t", name, !want, want)
		}
	}
}
