package callhook_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/callhook-go/callhook"
	filters "github.com/callhook-go/callhook/internal/template"
)

// TestDocs: docs/ is what the guidance makes of it. go generate writes it anew.
func TestDocs(t *testing.T) {
	golden(t, "docs/config.schema.json", callhook.Schema())
	d := &docs{t: t, filters: map[string]bool{}}
	functions := template.FuncMap{
		"file": func(name string) string { return string(readFile(t, name)) }, "settings": d.settings, "shared": d.shared, "only": d.only,
		"request": d.request, "payload": d.payload, "example": d.example, "fields": d.fields, "filter": d.filter,
	}
	for _, name := range []string{"configuration.md", "payload.md"} {
		tmpl, err := template.New(name + ".tmpl").Funcs(functions).ParseFiles(filepath.Join("testdata", "docs", name+".tmpl"))
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := tmpl.Execute(&b, nil); err != nil {
			t.Fatal(err)
		}
		golden(t, filepath.Join("docs", name), b.Bytes())
	}
	for _, name := range filters.Filters() {
		if !d.filters[name] {
			t.Errorf("payload.md does not tell of the filter %s", name)
		}
	}
}

// docs makes the parts of the pages that come from data.
type docs struct {
	t       *testing.T
	filters map[string]bool
}

// settings is the table of an object: prefix is empty for a webhook or the agent.
func (d *docs) settings(typ callhook.Type, prefix string) string {
	return d.table(callhook.ConfigFields(typ), func(f callhook.ConfigField) (string, bool) {
		name, ok := strings.CutPrefix(f.Path, prefix)
		return name, ok && !strings.Contains(name, ".")
	}, nil)
}

// shared is the table of what webhooks of exactly these types have.
func (d *docs) shared(types ...callhook.Type) string {
	return d.table(callhook.ConfigFields(types[0]), func(f callhook.ConfigField) (string, bool) {
		return f.Path, !strings.Contains(f.Path, ".") && f.Path != "payload" && slices.Equal(f.Webhooks, types)
	}, types)
}

// only is the table of what only webhooks of one type have.
func (d *docs) only(typ callhook.Type) string {
	return d.table(callhook.ConfigFields(typ), func(f callhook.ConfigField) (string, bool) {
		return f.Path, !strings.Contains(f.Path, ".") && slices.Equal(f.Webhooks, []callhook.Type{typ})
	}, nil)
}

func (d *docs) table(all []callhook.ConfigField, take func(callhook.ConfigField) (string, bool), types []callhook.Type) string {
	var b strings.Builder
	b.WriteString("| setting | what it is | default | example |\n|---|---|---|---|\n")
	for _, f := range all {
		name, ok := take(f)
		if !ok {
			continue
		}
		def, said := f.Default, map[string]bool{f.Guidance: true}
		text := fmt.Sprintf("**%s.** %s", f.Title, f.Guidance)
		for _, other := range types { // in which it may be otherwise
			o := callhook.ConfigFields(other)[slices.IndexFunc(callhook.ConfigFields(other), func(o callhook.ConfigField) bool { return o.Path == f.Path })]
			if !said[o.Guidance] {
				said[o.Guidance] = true
				text += " For call status and post-call webhooks: " + lower(o.Guidance)
			}
			if o.Default != f.Default && !strings.Contains(def, o.Default) {
				def += "`, otherwise `" + o.Default
			}
			if !slices.Equal(o.Values, f.Values) {
				f.Values = append(slices.Clone(f.Values), slices.DeleteFunc(slices.Clone(o.Values), func(v string) bool { return slices.Contains(f.Values, v) })...)
			}
		}
		if len(f.Values) > 2 {
			text += " Values: `" + strings.Join(f.Values, "` `") + "`."
		}
		label := "`" + name + "`"
		if f.Required {
			label += " (needed)"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", label, cell(text), code(def), code(f.Example))
	}
	return b.String()
}

func lower(s string) string { return strings.ToLower(s[:1]) + s[1:] }

// cell escapes what would end a cell or expand a placeholder on a site.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + cell(s) + "`"
}

// request is the request that a webhook of a config sends for its sample call.
func (d *docs) request(file, webhook string) string {
	c, err := callhook.LoadConfig(file)
	if err != nil {
		d.t.Fatal(err)
	}
	p, err := c.Preview(webhook, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	p.Header.Set(callhook.HeaderTimestamp, "1772443800")
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", p.Method, p.URL)
	for _, name := range slices.Sorted(maps.Keys(p.Header)) {
		fmt.Fprintf(&b, "%s: %s\n", name, p.Header.Get(name))
	}
	return b.String()
}

// payload is what a webhook with this payload sends for its sample call.
func (d *docs) payload(typ callhook.Type, payload string) string {
	on := ""
	if typ == callhook.TypePostCall {
		on = `"on":"analyzed",`
	}
	c := parse(d.t, fmt.Sprintf(`{"agent_id":"reception",%q:[{"name":"x","url":"https://h.example/",%s"payload":%s}]}`, typ, on, payload))
	p, err := c.Preview("x", nil)
	if err != nil {
		d.t.Fatal(err)
	}
	return d.example(string(p.Body)) + "\n"
}

// example is JSON with white space that people can read.
func (d *docs) example(text string) string {
	var b bytes.Buffer
	if err := json.Indent(&b, []byte(text), "", "  "); err != nil {
		d.t.Fatal(err)
	}
	return b.String()
}

// fields is the table of the catalogue.
func (d *docs) fields() string {
	var b strings.Builder
	b.WriteString("| field | what it is | type | example | pre-call | call status | post-call |\n|---|---|---|---|---|---|---|\n")
	sent := map[callhook.Type]map[string]string{}
	types := []callhook.Type{callhook.TypePreCall, callhook.TypeCallStatus, callhook.TypePostCall}
	for _, typ := range types {
		sent[typ] = map[string]string{}
		for _, f := range callhook.Fields(typ) {
			mark := "○"
			if f.Default || strings.HasPrefix(f.Path, "event.") {
				mark = "●"
			}
			sent[typ][f.Path] = mark
		}
	}
	for _, f := range callhook.Fields(callhook.TypePostCall) { // which can carry all
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s | %s |\n", f.Path, cell("**"+f.Title+".** "+f.Guidance), f.Type, code(f.Example),
			sent[types[0]][f.Path], sent[types[1]][f.Path], sent[types[2]][f.Path])
	}
	return b.String()
}

// filter is the row of a filter, with what it really gives.
func (d *docs) filter(name, what, expr string) string {
	d.filters[name] = true
	p := &callhook.Payload{Template: json.RawMessage(fmt.Sprintf("%q", "{{"+expr+"}}"))}
	call := callhook.SampleCall(callhook.TypePostCall)
	body, err := p.Build(&callhook.Event{ID: "msg_1", Type: callhook.EventEnded, Timestamp: call.EndedAt, Data: callhook.EventData{Call: call}})
	if err != nil {
		d.t.Fatal(err)
	}
	gives := code(string(body))
	if name == "omit" {
		gives = "nothing"
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s |\n", name, what, code(expr), gives)
}
