package examples

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

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

// TestVerifiers runs the README's verification in other languages against our signatures.
func TestVerifiers(t *testing.T) {
	const key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	body := []byte(`{"type":"call.ended","name":"Zoë"}`)
	dir := t.TempDir()
	for _, language := range []struct{ name, program, file, code, call string }{
		{"js", "node", "verify.mjs", snippet(t, "js"), `
const [id, timestamp, signature, body] = process.argv.slice(2);
const headers = {"webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signature};
console.log(verify(headers, Buffer.from(body), "` + key + `"));
`},
		{"python", "python3", "verify.py", snippet(t, "python"), `
import sys
id, timestamp, signature, body = sys.argv[1:]
print(verify({"webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signature}, body.encode(), "` + key + `"))
`},
	} {
		t.Run(language.name, func(t *testing.T) {
			if _, err := exec.LookPath(language.program); err != nil {
				t.Skipf("%s is not on this machine", language.program)
			}
			file := filepath.Join(dir, language.file)
			if err := os.WriteFile(file, []byte(language.code+language.call), 0o600); err != nil {
				t.Fatal(err)
			}
			verify := func(h http.Header, body string) string {
				out, err := exec.Command(language.program, file, h.Get(callhook.HeaderID), h.Get(callhook.HeaderTimestamp),
					h.Get(callhook.HeaderSignature), body).CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				return strings.ToLower(strings.TrimSpace(string(out)))
			}
			sign := func(at time.Time, keys ...string) http.Header {
				h := http.Header{}
				if err := callhook.Sign(h, "msg_1", at, body, keys...); err != nil {
					t.Fatal(err)
				}
				return h
			}
			other := "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
			for _, test := range []struct {
				name   string
				header http.Header
				body   string
				want   string
			}{
				{"signed", sign(time.Now(), key), string(body), "true"},
				{"rotated", sign(time.Now(), other, key), string(body), "true"},
				{"other key", sign(time.Now(), other), string(body), "false"},
				{"changed", sign(time.Now(), key), string(body) + " ", "false"},
				{"old", sign(time.Now().Add(-6*time.Minute), key), string(body), "false"},
				{"future", sign(time.Now().Add(6*time.Minute), key), string(body), "false"},
				{"unsigned", http.Header{}, string(body), "false"},
			} {
				if got := verify(test.header, test.body); got != test.want {
					t.Errorf("%s: %s, want %s", test.name, got, test.want)
				}
			}
		})
	}
}
