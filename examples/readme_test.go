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

// TestQuotes: what the README says stands in a file does, and what it names exists.
func TestQuotes(t *testing.T) {
	readme := read(t, "..", "README.md")
	quotes := regexp.MustCompile("(?s)<!-- (\\S+) -->\n```[a-z]+\n(.*?)```").FindAllStringSubmatch(readme, -1)
	if len(quotes) < 3 {
		t.Errorf("%d quotes, want 3 at least", len(quotes))
	}
	for _, q := range quotes {
		if !strings.Contains(read(t, "..", filepath.FromSlash(q[1])), q[2]) {
			t.Errorf("%s does not say:\n%s", q[1], q[2])
		}
	}
	for _, link := range regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`).FindAllStringSubmatch(readme, -1) {
		if strings.Contains(link[1], "://") {
			continue
		}
		if _, err := os.Stat(filepath.Join("..", filepath.FromSlash(link[1]))); err != nil {
			t.Errorf("README.md links to %s: %v", link[1], err)
		}
	}
	// Each test that the table names.
	for _, row := range regexp.MustCompile(`(?m)^\| [^|]+ \| [^|]+ \| ([^|]+) \|$`).FindAllStringSubmatch(readme, -1) {
		folder := regexp.MustCompile(`\]\((examples/\w+)\)`).FindStringSubmatch(row[1])
		if folder == nil {
			continue
		}
		var tests strings.Builder
		files, _ := filepath.Glob(filepath.Join("..", folder[1], "*_test.go"))
		for _, f := range files {
			tests.WriteString(read(t, f))
		}
		if len(files) == 0 {
			t.Errorf("%s has no tests", folder[1])
		}
		for _, name := range regexp.MustCompile("`(Test\\w*)(…?)`").FindAllStringSubmatch(row[1], -1) {
			if !strings.Contains(tests.String(), "func "+name[1]) {
				t.Errorf("%s has no %s", folder[1], name[1])
			}
		}
	}
}
