package callhook_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/callhook-go/callhook"
	"github.com/google/go-cmp/cmp"
)

// configTypes are what ConfigFields is asked for, with the structs that they are of.
var configTypes = map[callhook.Type]reflect.Type{
	"":                      reflect.TypeFor[callhook.Config](),
	callhook.TypePreCall:    reflect.TypeFor[callhook.PreCallWebhook](),
	callhook.TypeCallStatus: reflect.TypeFor[callhook.CallStatusWebhook](),
	callhook.TypePostCall:   reflect.TypeFor[callhook.PostCallWebhook](),
}

// TestConfigFieldsComplete: each field of the structs has its guidance, and no more
// have.
func TestConfigFieldsComplete(t *testing.T) {
	for typ, of := range configTypes {
		var want, got []string
		paths(of, "", &want)
		for _, f := range callhook.ConfigFields(typ) {
			got = append(got, f.Path+" "+f.Type)
		}
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-struct +guidance):\n%s", typ, diff)
		}
	}
	if got := callhook.ConfigFields("nothing"); got != nil {
		t.Errorf("settings of no webhook: %v", got)
	}
	callhook.ConfigFields(callhook.TypePreCall)[2].Values[0] = "changed"
	if callhook.ConfigFields(callhook.TypePreCall)[2].Values[0] == "changed" {
		t.Error("the slice is not the caller's")
	}
}

// paths collects the fields of a struct with their types, as ConfigFields has them.
func paths(of reflect.Type, prefix string, out *[]string) {
	for i := range of.NumField() {
		f := of.Field(i)
		if f.Anonymous {
			paths(f.Type, prefix, out)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		at, ft := prefix+name, f.Type
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		var typ string
		switch {
		case ft == reflect.TypeFor[callhook.Duration]():
			typ = "duration"
		case ft == reflect.TypeFor[callhook.Rate]():
			typ = "rate"
		case ft == reflect.TypeFor[json.RawMessage](), ft.Kind() == reflect.Interface:
			typ = "json"
		case name == "url":
			typ = "url"
		case ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Struct:
			typ = "list"
		case ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Int:
			typ = "integers"
		default:
			typ = map[reflect.Kind]string{reflect.String: "text", reflect.Int: "integer", reflect.Float64: "number", reflect.Bool: "boolean",
				reflect.Map: "map", reflect.Slice: "texts", reflect.Struct: "object"}[ft.Kind()]
		}
		*out = append(*out, at+" "+typ)
		if slices.Contains([]string{"pre_call", "call_status", "post_call"}, at) {
			continue // ConfigFields tells of them by their types
		}
		switch typ {
		case "object":
			paths(ft, at+".", out)
		case "list":
			paths(ft.Elem(), at+"[].", out)
		}
	}
}

// TestConfigFieldsRead: the texts are sentences for people, and the values are JSON.
func TestConfigFieldsRead(t *testing.T) {
	for typ := range configTypes {
		for _, f := range callhook.ConfigFields(typ) {
			at := fmt.Sprintf("%q %s", typ, f.Path)
			if r := []rune(f.Title); len(r) < 2 || len(r) > 40 || !unicode.IsUpper(r[0]) && f.Title != "n8n" || strings.HasSuffix(f.Title, ".") {
				t.Errorf("%s: title %q", at, f.Title)
			}
			if len(f.Guidance) < 20 || len(f.Guidance) > 400 || !strings.HasSuffix(f.Guidance, ".") || strings.ContainsAny(f.Guidance, "\n\t`[]") {
				t.Errorf("%s: guidance %q", at, f.Guidance)
			}
			for _, word := range []string{"struct", "Zero ", "zero ", "nil", "array", "runtime", "RFC", "boolean", "goroutine", "unmarshal"} {
				if strings.Contains(f.Guidance, word) {
					t.Errorf("%s speaks to a programmer: %q", at, f.Guidance)
				}
			}
			if (f.Example == "") != (f.Type == "object" || f.Type == "list" && !strings.HasSuffix(f.Path, "fields")) {
				t.Errorf("%s: example %q", at, f.Example)
			}
			for _, raw := range []string{f.Example, f.Default} {
				if raw != "" && !json.Valid([]byte(raw)) {
					t.Errorf("%s: %s is not JSON", at, raw)
				}
			}
			if f.Default == f.Example && f.Default != "" {
				t.Errorf("%s: the example is the default", at)
			}
			if len(f.Webhooks) == 0 || typ != "" && !slices.Contains(f.Webhooks, typ) {
				t.Errorf("%s: webhooks %v", at, f.Webhooks)
			}
			for _, other := range f.Webhooks {
				if typ != "" && !slices.ContainsFunc(callhook.ConfigFields(other), func(o callhook.ConfigField) bool { return o.Path == f.Path }) {
					t.Errorf("%s: %s does not have it", at, other)
				}
			}
		}
	}
	for typ := range configTypes {
		for _, f := range callhook.Fields(typ) {
			if r := []rune(f.Title); len(r) < 2 || len(r) > 40 || !unicode.IsUpper(r[0]) || strings.HasSuffix(f.Title, ".") {
				t.Errorf("%s: title %q", f.Path, f.Title)
			}
		}
	}
}

// TestConfigFieldsDefaults: what is said to be the default is what is used.
func TestConfigFieldsDefaults(t *testing.T) {
	c := parse(t, `{"agent_id":"a","pre_call":{"url":"https://h.example/"},"call_status":[{"url":"https://h.example/"}],"post_call":[{"url":"https://h.example/"}]}`)
	effective := callhook.Effective(c)
	for typ := range configTypes {
		got := map[string]string{}
		for _, f := range callhook.ConfigFields(typ) {
			if f.Default != "" {
				got[f.Path] = f.Default
			}
		}
		want := map[string]string{}
		for path, v := range effective[typ] {
			raw, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			want[path] = string(raw)
		}
		for path, v := range got {
			var b bytes.Buffer
			if err := json.Compact(&b, []byte(v)); err != nil {
				t.Fatal(err)
			}
			got[path] = b.String()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-used +guidance):\n%s", typ, diff)
		}
	}
}

// TestConfigFieldsExamples: examples can be copied.
func TestConfigFieldsExamples(t *testing.T) {
	examples := func(prefix string, typ callhook.Type) []string {
		var members []string
		for _, f := range callhook.ConfigFields(typ) {
			rest, ok := strings.CutPrefix(f.Path, prefix)
			if ok && f.Example != "" && !strings.Contains(rest, ".") && !strings.Contains(rest, "[") {
				members = append(members, fmt.Sprintf("%q:%s", rest, f.Example))
			}
		}
		return members
	}
	object := func(prefix string, typ callhook.Type, without ...string) string {
		members := slices.DeleteFunc(examples(prefix, typ), func(m string) bool {
			return slices.ContainsFunc(without, func(name string) bool { return strings.HasPrefix(m, `"`+name+`":`) })
		})
		return "{" + strings.Join(members, ",") + "}"
	}
	retry, success := object("retry.", callhook.TypePostCall), object("success.", callhook.TypePostCall)
	payload := object("payload.", callhook.TypePostCall, "template")
	template := object("payload.", callhook.TypePostCall, "fields", "flat")
	config := fmt.Sprintf(`{%s, "variables": [%s], "pre_call": %s, "call_status": [%s], "post_call": [%s, {"name": "b", "url": "https://h.example/", "payload": {"fields": [%s]}}]}`,
		strings.Trim(object("", ""), "{}"),
		object("variables[].", "", "type", "locked", "secret"),
		strings.TrimSuffix(object("", callhook.TypePreCall, "body", "name"), "}")+`, "response": `+object("response.", callhook.TypePreCall, "dialect")+`}`,
		strings.TrimSuffix(object("", callhook.TypeCallStatus, "name"), "}")+`, "retry": `+retry+`, "success": `+success+`, "payload": `+template+`}`,
		strings.TrimSuffix(object("", callhook.TypePostCall), "}")+`, "retry": `+retry+`, "success": `+success+`, "payload": `+payload+`}`,
		object("payload.fields[].", callhook.TypePostCall))
	c := parse(t, config)
	if err := c.Validate(); err != nil {
		t.Errorf("%v\n%s", err, config)
	}
	for _, other := range []string{`{"agent_id":"a","pre_call":{"url":"https://h.example/","body":` + exampleOf(t, callhook.TypePreCall, "body") + `}}`,
		`{"agent_id":"a","pre_call":{"url":"https://h.example/","response":{"dialect":` + exampleOf(t, callhook.TypePreCall, "response.dialect") + `}}}`} {
		if err := parse(t, other).Validate(); err != nil {
			t.Errorf("%v\n%s", err, other)
		}
	}
}

func exampleOf(t *testing.T, typ callhook.Type, path string) string {
	t.Helper()
	for _, f := range callhook.ConfigFields(typ) {
		if f.Path == path {
			return f.Example
		}
	}
	t.Fatalf("there is no %s", path)
	return ""
}

// TestSchema: it is one JSON document, the same each time and the caller's, which
// tells of each setting what ConfigFields does.
func TestSchema(t *testing.T) {
	first := callhook.Schema()
	if !json.Valid(first) || !bytes.Equal(first, callhook.Schema()) {
		t.Fatalf("not JSON, or not the same twice: %s", first)
	}
	first[0] = 'x'
	if callhook.Schema()[0] != '{' {
		t.Error("the bytes are not the caller's")
	}
	type property struct{ Title, Description string }
	type definition struct{ Properties map[string]property }
	var s struct {
		Schema string `json:"$schema"`
		definition
		Defs map[string]definition `json:"$defs"`
	}
	if err := json.Unmarshal(callhook.Schema(), &s); err != nil {
		t.Fatal(err)
	}
	if s.Schema != "https://json-schema.org/draft/2020-12/schema" {
		t.Errorf("draft %q", s.Schema)
	}
	for typ := range configTypes {
		in := s.definition
		if typ != "" {
			in = s.Defs["webhook_"+string(typ)]
		}
		for _, f := range callhook.ConfigFields(typ) {
			if strings.Contains(f.Path, ".") {
				continue
			}
			if diff := cmp.Diff(property{f.Title, f.Guidance}, in.Properties[f.Path]); diff != "" {
				t.Errorf("%q %s (-guidance +schema):\n%s", typ, f.Path, diff)
			}
		}
	}
}
