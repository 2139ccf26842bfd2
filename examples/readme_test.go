package examples

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/callhook-go/callhook"
)

func read(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// snippet returns the first block of a language in the README.
func snippet(t *testing.T, language string) string {
	t.Helper()
	m := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindStringSubmatch(read(t, "..", "README.md"))
	if m == nil {
		t.Fatalf("the README has no %s", language)
	}
	return m[1]
}

// TestProgram: the README shows programs and configs that exist.
func TestProgram(t *testing.T) {
	_, program, _ := strings.Cut(read(t, "minimal", "main.go"), "\npackage main")
	if "package main"+program != snippet(t, "go") {
		t.Error("README.md does not show examples/minimal/main.go as it is")
	}
	var doc strings.Builder
	for line := range strings.Lines("package main" + program) {
		doc.WriteString(strings.TrimSuffix("//\t"+line, "\t\n"))
		if line == "\n" {
			doc.WriteByte('\n')
		}
	}
	if !strings.Contains(read(t, "..", "doc.go"), doc.String()) {
		t.Error("doc.go does not show examples/minimal/main.go as it is")
	}
	if read(t, "minimal", "reception.json") != snippet(t, "json") {
		t.Error("README.md does not show examples/minimal/reception.json as it is")
	}
	config, err := callhook.LoadConfig(filepath.Join("minimal", "reception.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := config.Validate(); err != nil {
		t.Error(err)
	}
}
