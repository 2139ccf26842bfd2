package schematest

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/callhook-go/callhook"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

var update = flag.Bool("update", false, "rewrite the golden file")

const (
	examples = "../examples/config"
	bad      = "../testdata/configs/bad"
)

// compile returns the schema, compiled; it has to fit its own metaschema.
func compile(t testing.TB) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(callhook.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("config.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("config.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// files returns the JSON files of a directory.
func files(t testing.TB, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(all) == 0 {
		t.Fatalf("%s: %d files, %v", dir, len(all), err)
	}
	return all
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// faults returns what callhook finds in a config.
func faults(data []byte) []callhook.Fault {
	c, err := callhook.ParseConfig(data)
	if err == nil {
		err = c.Validate()
	}
	var ce *callhook.ConfigError
	if errors.As(err, &ce) {
		return ce.Faults
	}
	return nil
}

// TestExamples: the schema accepts whatever is there to be copied.
func TestExamples(t *testing.T) {
	s := compile(t)
	for _, file := range append(files(t, examples), files(t, "../examples/minimal")...) {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(read(t, file)))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if err := s.Validate(doc); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// onlyValidate are the bad configs in which the schema finds nothing at all: what is
// wrong with them is beyond it.
var onlyValidate = []string{
	"filters",           // what stands inside of {{ }}
	"twice",             // JSON that names a member twice is another document by the time it is validated
	"twice_in_template", // the same
}

// TestBad: the schema refuses each bad config, but for those in which it can see no
// fault.
func TestBad(t *testing.T) {
	s := compile(t)
	var unseen []string
	for _, file := range files(t, bad) {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		data := read(t, file)
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if strings.HasPrefix(name, "not_json") {
			if err == nil {
				t.Errorf("%s is JSON", name)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(faults(data)) == 0 {
			t.Errorf("%s: Validate finds nothing", name)
		}
		if s.Validate(doc) == nil {
			unseen = append(unseen, name)
		}
	}
	if diff := cmp.Diff(onlyValidate, unseen); diff != "" {
		t.Errorf("accepted by the schema (-want +got):\n%s", diff)
	}
}

// TestFaults lists which faults of the bad configs only Validate finds, one by one:
// those at whose place the schema has nothing to say.
func TestFaults(t *testing.T) {
	s := compile(t)
	var b bytes.Buffer
	seen, all := 0, 0
	for _, file := range files(t, bad) {
		data := read(t, file)
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			continue
		}
		places := map[string]bool{}
		var ve *jsonschema.ValidationError
		if errors.As(s.Validate(doc), &ve) {
			leaves(ve, places)
		}
		for _, f := range faults(data) {
			all++
			if places[f.Path] || places["*"+f.Path[max(0, strings.LastIndexByte(f.Path, '.')):]] {
				seen++
				continue
			}
			fmt.Fprintf(&b, "%s: %.160s\n", filepath.Base(file), f)
		}
	}
	t.Logf("the schema sees %d of %d faults", seen, all)
	const golden = "testdata/only_validate.txt"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(read(t, golden)), b.String()); diff != "" {
		t.Errorf("only Validate finds (-want +got), rewritten by go test -update:\n%s", diff)
	}
}

// leaves collects the places that the schema complains of, as callhook writes them.
func leaves(e *jsonschema.ValidationError, into map[string]bool) {
	at := func(names ...string) {
		for _, name := range names {
			into[place(append(slices.Clone(e.InstanceLocation), name))] = true
		}
	}
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		at(k.Missing...)
	case *kind.AdditionalProperties:
		at(k.Properties...)
	case *kind.PropertyNames: // the validator does not keep its place, but the name says enough
		into["*."+k.Property] = true
	case *kind.Not, *kind.AnyOf: // of an object: its settings do not go together
		at("body", "dialect", "hedge_after")
	}
	if len(e.Causes) == 0 {
		into[place(e.InstanceLocation)] = true
	}
	for _, c := range e.Causes {
		leaves(c, into)
	}
}

func place(steps []string) string {
	var b strings.Builder
	for _, step := range steps {
		if strings.Trim(step, "0123456789") == "" && step != "" {
			b.WriteString("[" + step + "]")
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(step)
	}
	return b.String()
}

// TestNoFalseAlarm changes every value of some configs to other ones: whatever
// Validate accepts, the schema does too, unless it is an empty value that should be
// left out.
func TestNoFalseAlarm(t *testing.T) {
	s := compile(t)
	var values []any
	for _, text := range []string{`"x"`, `"5"`, `"5s"`, `"1500ms"`, `"1h30m"`, `"9/m"`, `"https://h.example:8443/a/{{call.from}}?b=${C}"`, `"http://10.0.0.1"`, `"${KEY}"`,
		`"a.b"`, `"a.#(b==\"c.d|\").e"`, `"call.from"`, `"call.variables.a\\.b"`, `"GET"`, `"PUT"`, `"analyzed"`, `"Europe/London"`, `"on_hold"`, `"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"`,
		`1`, `7`, `0.5`, `-1`, `200`, `true`, `false`, `[]`, `["x"]`, `["inbound"]`, `["call.id"]`, `[{"path":"call.transfers.#.to","as":"a.b"}]`, `[200]`, `{}`, `{"a":"b"}`, `{"X-A":"b $5 ${C}"}`, `{"a":1}`} {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, v)
	}
	tried, accepted := 0, 0
	for _, file := range []string{"testdata/everything.json", examples + "/callhook.json", examples + "/hubspot_lookup.json", examples + "/zoho_call_log.json"} {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(read(t, file)))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(doc); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		change(doc, func() {
			tried++
			data, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			if len(faults(data)) > 0 {
				return
			}
			accepted++
			if err := s.Validate(doc); err != nil {
				t.Errorf("Validate accepts it, and the schema does not: %s\n%v", data, err)
			}
		}, values)
	}
	t.Logf("%d of %d changed configs are valid", accepted, tried)
	if accepted < 500 {
		t.Errorf("only %d of %d changed configs are valid", accepted, tried)
	}
}

// change puts each of the values in the place of each value inside of doc, leaves it
// out where it can be, and calls f each time.
func change(doc any, f func(), values []any) {
	try := func(old any, set func(any)) {
		for _, v := range values {
			set(v)
			f()
		}
		set(old)
		change(old, f, values)
	}
	switch doc := doc.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(doc)) {
			if name == "template" || name == "body" {
				continue // anything goes there
			}
			old := doc[name]
			delete(doc, name)
			f()
			doc[name] = old
			try(old, func(v any) { doc[name] = v })
		}
	case []any:
		for i, old := range doc {
			try(old, func(v any) { doc[i] = v })
		}
	}
}

// TestEverySetting: the schema accepts the example of each setting, and
// Validate does.
func TestEverySetting(t *testing.T) {
	s := compile(t)
	for _, typ := range []callhook.Type{callhook.TypePreCall, callhook.TypeCallStatus, callhook.TypePostCall} {
		for _, f := range callhook.ConfigFields(typ) {
			for _, value := range []string{f.Example, f.Default} {
				if value == "" || strings.Contains(f.Path, "[]") {
					continue
				}
				data := with(typ, f.Path, value)
				switch f.Path { // of which one cannot be without the other
				case "tls.certificate":
					data = strings.Replace(data, `"tls":{`, `"tls":{"key":"${KEY}",`, 1)
				case "tls.key":
					data = strings.Replace(data, `"tls":{`, `"tls":{"certificate":"${CERT}",`, 1)
				}
				if found := faults([]byte(data)); len(found) > 0 {
					t.Errorf("%s %s: %s: %v", typ, f.Path, data, found)
				}
				doc, err := jsonschema.UnmarshalJSON(strings.NewReader(data))
				if err != nil {
					t.Fatalf("%s: %v", data, err)
				}
				if err := s.Validate(doc); err != nil {
					t.Errorf("%s %s: %s: %v", typ, f.Path, data, err)
				}
			}
		}
	}
}

// with returns a config in which one setting of a webhook has a value.
func with(typ callhook.Type, path, value string) string {
	need := map[string]string{"body": `"method":"POST"`, "hedge_after": `"method":"GET"`}
	inner := map[string]string{"success.path": `"equals":1,`, "success.equals": `"path":"a",`}
	object, name, nested := strings.Cut(path, ".")
	member := fmt.Sprintf("%q:%s", path, value)
	if nested {
		member = fmt.Sprintf("%q:{%s%q:%s}", object, inner[path], name, value)
	}
	members := []string{member}
	if path != "url" {
		members = append(members, `"url":"https://h.example/"`)
	}
	if more := need[path]; more != "" {
		members = append(members, more)
	}
	webhook := "{" + strings.Join(members, ",") + "}"
	if typ != callhook.TypePreCall {
		webhook = "[" + webhook + "]"
	}
	return fmt.Sprintf(`{"$schema":"./config.schema.json","agent_id":"a",%q:%s}`, typ, webhook)
}
