package callhook_test

import (
	"bytes"
	"encoding/json"
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
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with a file of testdata, or rewrites it.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: run go test -run %s -update", err, t.Name())
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// exampleConfigs returns the configs of examples/config by name.
func exampleConfigs(t testing.TB) map[string]*callhook.Config {
	t.Helper()
	files, err := filepath.Glob("examples/config/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d example configs, %v", len(files), err)
	}
	configs := map[string]*callhook.Config{}
	for _, file := range files {
		c, err := callhook.LoadConfig(file)
		if err != nil {
			t.Fatal(err)
		}
		configs[strings.TrimSuffix(filepath.Base(file), ".json")] = c
	}
	return configs
}

// callNames are those of testdata/calls.
func callNames(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/calls/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d calls, %v", len(files), err)
	}
	var names []string
	for _, file := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(file), ".json"))
	}
	return names
}

// TestGolden renders every webhook of every example config for every call.
func TestGolden(t *testing.T) {
	for name, c := range exampleConfigs(t) {
		t.Run(name, func(t *testing.T) {
			if err := c.Validate(); err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			fmt.Fprintf(&b, "examples/config/%s.json\n", name)
			for _, warning := range c.Lint() {
				fmt.Fprintf(&b, "warning: %s\n", warning)
			}
			for _, call := range callNames(t) {
				renderAll(t, &b, c, call)
			}
			golden(t, filepath.Join("testdata", "golden", name+".golden"), b.Bytes())
		})
	}
}

func renderAll(t *testing.T, b *bytes.Buffer, c *callhook.Config, callName string) {
	call := loadCall(t, callName)
	section := func(webhook string, typ callhook.Type, note string) {
		if webhook == "" {
			webhook = string(typ)
		}
		fmt.Fprintf(b, "\n=== %s: %s\n", callName, strings.TrimSpace(webhook+" "+note))
		render(t, b, c, webhook, call)
	}
	if w := c.PreCall; w != nil {
		note := ""
		if call.Direction != callhook.Inbound && !slices.Contains(w.Directions, call.Direction) {
			note = "(not for this direction)"
		}
		section(w.Name, callhook.TypePreCall, note)
	}
	for _, w := range c.CallStatus {
		note := ""
		if len(w.Statuses) > 0 && !slices.Contains(w.Statuses, call.Status) {
			note = fmt.Sprintf("(not for the status %s)", call.Status)
		}
		section(w.Name, callhook.TypeCallStatus, note)
	}
	for _, w := range c.PostCall {
		if w.On == callhook.OnAnalyzed && call.AnalyzedAt.IsZero() {
			fmt.Fprintf(b, "\n=== %s: %s\nnothing is sent: the call was never analyzed\n", callName, w.Name)
			continue
		}
		section(w.Name, callhook.TypePostCall, "")
	}
}

// render writes the request of one webhook. Bodies are indented, which keeps the
// bytes of every value.
func render(t *testing.T, b *bytes.Buffer, c *callhook.Config, webhook string, call *callhook.Call) {
	t.Helper()
	p, err := c.Preview(webhook, call)
	if err != nil {
		fmt.Fprintf(b, "%v\n", err)
		return
	}
	fmt.Fprintf(b, "%s %s\n", p.Method, p.URL)
	if p.Header.Get(callhook.HeaderTimestamp) == "" {
		t.Errorf("%s: no %s", webhook, callhook.HeaderTimestamp)
	}
	p.Header.Set(callhook.HeaderTimestamp, "(now)")
	for _, name := range slices.Sorted(maps.Keys(p.Header)) {
		for _, v := range p.Header[name] {
			fmt.Fprintf(b, "%s: %s\n", name, v)
		}
	}
	if p.Body == nil {
		return
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, p.Body); err != nil {
		t.Errorf("%s sends what is not JSON: %v", webhook, err)
	} else if !bytes.Equal(compact.Bytes(), p.Body) {
		t.Errorf("%s sends white space that says nothing", webhook)
	}
	b.WriteByte('\n')
	if err := json.Indent(b, p.Body, "", "  "); err != nil {
		t.Fatal(err)
	}
	b.WriteByte('\n')
}

func readFile(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
