package strictjson_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/callhook-go/callhook/internal/strictjson"
	"github.com/google/go-cmp/cmp"
)

type inner struct {
	Number int      `json:"number"`
	Names  []string `json:"names,omitempty"`
}

type common struct {
	URL string `json:"url"`
}

type outer struct {
	common
	Common   `json:"-"`
	Text     string            `json:"text"`
	Flag     bool              `json:"flag"`
	Float    float64           `json:"float"`
	Pointer  *inner            `json:"pointer"`
	List     []inner           `json:"list"`
	Map      map[string]string `json:"map"`
	Any      any               `json:"any"`
	Raw      json.RawMessage   `json:"raw"`
	Pause    pause             `json:"pause"`
	Time     time.Time         `json:"time"`
	Strict   strict            `json:"strict"`
	Refusing refusing          `json:"refusing"`
}

type Common struct {
	Method string `json:"method"`
}

type pause string

func (p *pause) UnmarshalText(text []byte) error {
	if string(text) == "" || text[0] < '0' || text[0] > '9' || text[len(text)-1] != 's' {
		return errors.New("write it like 2s")
	}
	*p = pause(text)
	return nil
}

type strict struct{ In inner }

func (s *strict) UnmarshalJSON(data []byte) error {
	if faults := strictjson.Decode(data, &s.In); len(faults) > 0 {
		return faults
	}
	return nil
}

type refusing struct{}

func (refusing) UnmarshalJSON([]byte) error { return errors.New("never") }

func TestDecode(t *testing.T) {
	for name, test := range map[string]struct {
		json string
		want outer
		err  []string
	}{
		"everything": {json: `{"url":"u","method":"m","text":"é\n","flag":true,"float":1.5e3,"pointer":{"number":7,"names":["a"]},"list":[{"number":1},{}],"map":{"a":"b"},
			"any":{"n":1.10,"l":[null]},"raw": {"a": 1.10} ,"pause":"2s","time":"2026-03-05T09:00:00Z","strict":{"number":3}}`,
			want: outer{common: common{"u"}, Common: Common{"m"}, Text: "é\n", Flag: true, Float: 1500, Pointer: &inner{7, []string{"a"}}, List: []inner{{Number: 1}, {}}, Map: map[string]string{"a": "b"},
				Any: map[string]any{"n": json.Number("1.10"), "l": []any{nil}}, Raw: json.RawMessage(`{"a": 1.10}`), Pause: "2s", Time: time.Date(2026, 3, 5, 9, 0, 0, 0, time.UTC), Strict: strict{inner{Number: 3}}}},
		"null is nothing":    {json: `{"url":null,"text":null,"flag":null,"pointer":null,"list":null,"map":null,"any":null,"raw":null,"pause":null,"strict":null,"refusing":null}`},
		"empty":              {json: ` {} `},
		"names are exact":    {json: `{"URL":"u","Text":"x","tex":"x"}`, err: []string{`URL: there is no such field (did you mean "url"?)`, `Text: there is no such field (did you mean "text"?)`, `tex: there is no such field (did you mean "text"?)`}},
		"nothing is near":    {json: `{"strict":{"xyzzy":1}}`, err: []string{`strict.xyzzy: there is no such field; the fields here are number, names`}},
		"every level":        {json: `{"pointer":{"nr":1},"list":[{"number":1},{"names":[1,"a",true]}],"map":{"a":1,"b.c":[]}}`, err: []string{"pointer.nr: there is no such field; the fields here are number, names", "list[1].names[0]: it must be a text in quotes, not the number 1", "list[1].names[2]: it must be a text in quotes, not true or false", "map.a: it must be a text in quotes, not the number 1", "map.b.c: it must be a text in quotes, not a list"}},
		"twice":              {json: `{"text":"a","text":"b","any":{"a":1,"a":2},"map":{"x":"1","x":"2"}}`, want: outer{Text: "a", Any: map[string]any{"a": json.Number("2")}, Map: map[string]string{"x": "1"}}, err: []string{"text: it stands twice: keep one", "map.x: it stands twice: keep one"}},
		"wrong kinds":        {json: `{"text":{},"flag":"yes","float":"1","pointer":[],"list":{},"map":[],"pause":5,"time":5}`, want: outer{Pointer: &inner{}}, err: []string{"text: it must be a text in quotes, not an object", "flag: it must be true or false, not a text", "float: it must be a number, not a text", "pointer: it must be an object in { }, not a list", "list: it must be a list in [ ], not an object", "map: it must be an object in { }, not a list", "pause: write it like 2s", "time: Time.UnmarshalJSON: input is not a JSON string"}},
		"numbers":            {json: `{"pointer":{"number":1.5},"list":[{"number":1e2},{"number":99999999999999999999}],"float":1e999}`, want: outer{Pointer: &inner{}, List: []inner{{}, {}}}, err: []string{"pointer.number: it must be a whole number, not the number 1.5", "list[0].number: it must be a whole number, not the number 1e2", "list[1].number: it must be a whole number, not the number 99999999999999999999", "float: it must be a number, not the number 1e999"}},
		"what is right":      {json: `{"text":"a","flag":1,"url":"u"}`, want: outer{Text: "a", common: common{"u"}}, err: []string{"flag: it must be true or false, not the number 1"}},
		"own decoders":       {json: `{"pause":"x","strict":{"number":"1","nam":1},"refusing":1}`, err: []string{"pause: write it like 2s", "strict.number: it must be a whole number, not a text", `strict.nam: there is no such field; the fields here are number, names`, "refusing: never"}},
		"a text as a number": {json: `{"pause":2}`, err: []string{"pause: write it like 2s"}},
		"not an object":      {json: `[]`, err: []string{"it must be an object in { }, not a list"}},
		"a strange name":     {json: "{\"a\\u001b[31m\":1}", err: []string{`"a\x1b[31m": there is no such field; the fields here are url, method, text, flag, float, pointer, list, map, any, raw, pause, time, strict, refusing`}},
	} {
		t.Run(name, func(t *testing.T) {
			var got outer
			var faults []string
			for _, f := range strictjson.Decode([]byte(test.json), &got) {
				faults = append(faults, strings.TrimPrefix(f.Path+": "+f.Problem, ": "))
			}
			if diff := cmp.Diff(test.err, faults); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(outer{})); diff != "" && (test.err == nil || !cmp.Equal(test.want, outer{}, cmp.AllowUnexported(outer{}))) {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestDecodeSyntax: where it stops being JSON, and what to do about it.
func TestDecodeSyntax(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "line 1, column 1: it ends too early: a }, a ] or a quote is missing",
		"{":                      "line 1, column 1: it ends too early: a }, a ] or a quote is missing",
		`{"a":"b`:                "line 1, column 7: it ends too early: a }, a ] or a quote is missing",
		`{"a":1,}`:               "line 1, column 8: there is a comma before }: remove it",
		"{\"a\":[1,\n ] }":       "line 2, column 2: there is a comma before ]: remove it",
		`{"a":1 "b":2}`:          `line 1, column 8: a comma is missing before ", or a bracket`,
		`["a" "b"]`:              `line 1, column 6: a comma is missing before ", or a bracket`,
		`{"a" 1}`:                "line 1, column 6: a colon is missing after the name",
		`{a:1}`:                  `line 1, column 2: a name in double quotes must stand here, like "url"`,
		`{'a':1}`:                `line 1, column 2: ' is not the quote of JSON: use "`,
		`{"é": “b”}`:             `line 1, column 7: “ is not the quote of JSON: use "`,
		"{\"a\": \"b\n\"}":       `line 1, column 9: a text has a line break or another control character in it: write \n, or close its quote`,
		`{} {}`:                  "line 1, column 4: there is more after the end",
		"{\n// x\n}":             "line 2, column 1: JSON has no comments: remove it",
		`{"a": None}`:            "line 1, column 7: true, false and null are written in small letters",
		`{"a": yes}`:             "line 1, column 7: a value must stand here: a text in double quotes, a number, true, false, null, { or [",
		`{"a": tru}`:             "line 1, column 10: invalid character '}' in literal true (expecting 'e')",
		`{"a": "\x"}`:            "line 1, column 9: invalid character 'x' in string escape code",
		strings.Repeat("[", 1e5): "line 1, column 10001: it is nested too deep",
	} {
		faults := strictjson.Decode([]byte(text), new(any))
		if len(faults) != 1 || faults[0].Path != "" || faults[0].Problem != "this is not JSON: "+want {
			t.Errorf("%.40q: %v, want %s", text, faults, want)
		}
	}
}

func TestFaultsError(t *testing.T) {
	f := strictjson.Faults{{Path: "a", Problem: "this"}, {Problem: "that"}}
	if got := f.Error(); got != "a: this; that" {
		t.Error(got)
	}
}
