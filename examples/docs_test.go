package examples

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	gocmp "github.com/google/go-cmp/cmp"
)

// pages are those of docs/ that people write: what they show is held to what there is.
var pages = []string{"getting-started.md", "testing.md", "production.md", "scaling.md", "migrating.md", "troubleshooting.md"}

// block is a fenced block of a page, with the comment that stands before it.
type block struct{ source, language, text string }

var fenced = regexp.MustCompile("(?ms)(?:^<!-- ([^\n]*) -->\n)?^```(\\w*)\n(.*?)^```\n")

func blocks(page string) (all []block) {
	for _, m := range fenced.FindAllStringSubmatch(page, -1) {
		all = append(all, block{m[1], m[2], m[3]})
	}
	return all
}

// TestSnippets: Go stands in files that are compiled and tested, configs are valid, and
// commands name what exists.
func TestSnippets(t *testing.T) {
	for _, name := range pages {
		t.Run(name, func(t *testing.T) {
			for _, b := range blocks(read(t, "..", "docs", name)) {
				switch {
				case b.language == "text" && strings.HasPrefix(b.source, "output of "): // TestGettingStarted
				case b.language == "sh":
					for line := range strings.Lines(b.text) {
						if err := command(line); err != nil {
							t.Errorf("%s\n%s", err, line)
						}
					}
				case b.source != "":
					if !shows(read(t, "..", b.source), b.text) {
						t.Errorf("%s does not have this:\n%s", b.source, b.text)
					}
				case b.language == "json":
					if err := valid(b.text); err != nil {
						t.Errorf("%s\n%s", err, b.text)
					}
				default:
					t.Errorf("a block that nothing holds to anything: write the file that it is from before it:\n%s", b.text)
				}
			}
		})
	}
}

// shows reports whether a block is a piece of a file, but for indentation.
func shows(file, text string) bool {
	lines, want := strings.Split(file, "\n"), strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i := range len(lines) - len(want) + 1 {
		indent, ok := strings.CutSuffix(lines[i], want[0])
		if !ok || strings.TrimLeft(indent, "\t") != "" {
			continue
		}
		if slices.EqualFunc(lines[i:i+len(want)], want, func(line, want string) bool { return line == indent+want || line == "" && want == "" }) {
			return true
		}
	}
	return false
}

// valid parses a config, or a piece of one.
func valid(text string) error {
	if !strings.HasPrefix(text, "{") {
		text = `{"agent_id": "reception", ` + text + `}`
	}
	config, err := callhook.ParseConfig([]byte(text))
	if err != nil {
		return err
	}
	return config.Validate()
}

// command tells what of a line for the shell does not exist.
func command(line string) error {
	const module = "github.com/callhook-go/callhook"
	words := strings.Fields(line)
	switch strings.Join(words[:min(2, len(words))], " ") {
	case "go mod":
		return nil
	case "go get":
		for _, name := range words[2:] {
			data, err := os.ReadFile(filepath.Join("..", strings.TrimPrefix(name, module), "go.mod"))
			if err != nil || !strings.HasPrefix(string(data), "module "+name+"\n") {
				return fmt.Errorf("there is no module %s: %w", name, err)
			}
		}
		return nil
	case "go run":
		for _, arg := range words[2:] {
			if !strings.HasPrefix(arg, "./") && !strings.HasSuffix(arg, ".json") {
				continue
			}
			_, err := os.Stat(filepath.Join("..", arg))
			if _, started := os.Stat(filepath.Join("docs", "start", arg)); err != nil && started != nil {
				return err
			}
		}
		return nil
	}
	if words[0] == "export" {
		return nil
	}
	return fmt.Errorf("%s is not a command that this test knows", words[0])
}

// TestGettingStarted does what docs/getting-started.md says, and sees what it says.
func TestGettingStarted(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"endpoint", "runtime"} {
		if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, name+".exe"), "./docs/start/"+name).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	t.Setenv("CALLHOOK_HOOK_KEY", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	start := func(name string, args ...string) (*exec.Cmd, *bufio.Scanner) {
		c := exec.Command(filepath.Join(dir, name+".exe"), args...)
		c.Dir = dir
		out, err := c.StdoutPipe()
		if err == nil {
			err = c.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill() })
		time.AfterFunc(time.Minute, func() { _ = c.Process.Kill() }) // what hangs ends the test
		return c, bufio.NewScanner(out)
	}
	_, told := start("endpoint", "127.0.0.1:0")
	if !told.Scan() {
		t.Fatal("the endpoint says nothing")
	}
	url := strings.TrimPrefix(told.Text(), "listening on ")
	config := strings.ReplaceAll(read(t, "docs", "start", "reception.json"), "http://127.0.0.1:8080", url)
	if err := os.WriteFile(filepath.Join(dir, "reception.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	runtime, said := start("runtime")
	if !said.Scan() || said.Text() != "Hi Ada!" {
		t.Errorf("the runtime says %q", said.Text())
	}

	page := blocks(read(t, "..", "docs", "getting-started.md"))
	i := slices.IndexFunc(page, func(b block) bool { return b.source == "output of examples/docs/start" })
	var wants, gots []string
	for want := range strings.Lines(page[i].text) {
		if !told.Scan() {
			t.Fatalf("the endpoint says no more than %q", gots)
		}
		wants = append(wants, strings.TrimSuffix(want, "\n"))
		gots = append(gots, varying.ReplaceAllString(told.Text(), `"$1":"$2…"`))
	}
	for _, lines := range [][]string{wants, gots} { // in order at each webhook, in any among them
		slices.SortStableFunc(lines, func(a, b string) int { return cmp.Compare(webhook(a), webhook(b)) })
	}
	for i, want := range wants {
		begins, cut := strings.CutSuffix(want, " …")
		if got := gots[i]; got != want && !(cut && strings.HasPrefix(got, begins)) {
			t.Errorf("the endpoint says\n%s\nand not\n%s", got, want)
		}
	}
	if err := runtime.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	var rest []string
	for said.Scan() {
		rest = append(rest, said.Text())
	}
	if err := runtime.Wait(); err != nil {
		t.Errorf("the runtime ends with %v\n%s", err, strings.Join(rest, "\n"))
	}
}

// varying is what differs each time.
var varying = regexp.MustCompile(`"(id|timestamp)":"(msg_)?[^"]*"`)

// webhook is what a line of the endpoint's is about.
func webhook(line string) string { return strings.Join(strings.Fields(line)[:2], " ") }

// TestMigrating: what the configs of docs/migrating.md send has the platforms' own
// names, and values of their kinds.
func TestMigrating(t *testing.T) {
	for _, c := range []struct {
		file, webhook string
		change        func(*callhook.Call)
		path          []string
		want          any
	}{
		{"vapi.json", "status-update", nil, []string{"message", "type"}, "status-update"},
		{"vapi.json", "status-update", nil, []string{"message", "status"}, "forwarding"},
		{"vapi.json", "status-update", func(c *callhook.Call) { c.Status = callhook.StatusInProgress }, []string{"message", "status"}, "in-progress"},
		{"vapi.json", "status-update", func(c *callhook.Call) { c.Status = callhook.StatusCompleted }, []string{"message", "status"}, "ended"},
		{"vapi.json", "end-of-call-report", nil, []string{"message", "analysis", "successEvaluation"}, "true"},
		{"vapi.json", "end-of-call-report", func(c *callhook.Call) { c.Successful = nil }, []string{"message", "analysis", "successEvaluation"}, nil},
		{"vapi.json", "end-of-call-report", nil, []string{"message", "customer", "number"}, "+442079460123"},
		{"vapi.json", "end-of-call-report", nil, []string{"message", "startedAt"}, "2026-03-02T09:30:00.000Z"},
		{"elevenlabs.json", "elevenlabs", nil, []string{"data", "metadata", "start_time_unix_secs"}, float64(1772443800)},
		{"elevenlabs.json", "elevenlabs", nil, []string{"data", "metadata", "call_duration_secs"}, float64(248)},
		{"elevenlabs.json", "elevenlabs", nil, []string{"data", "analysis", "call_successful"}, "success"},
		{"elevenlabs.json", "elevenlabs", func(c *callhook.Call) { c.Successful = new(bool) }, []string{"data", "analysis", "call_successful"}, "failure"},
		{"elevenlabs.json", "elevenlabs", func(c *callhook.Call) { c.Successful = nil }, []string{"data", "analysis", "call_successful"}, "unknown"},
		{"elevenlabs.json", "elevenlabs", nil, []string{"data", "conversation_initiation_client_data", "dynamic_variables", "customer_name"}, "Ada"},
	} {
		config, err := callhook.LoadConfig(filepath.Join("docs", "migrating", c.file))
		if err != nil {
			t.Fatal(err)
		}
		if warnings := config.Lint(); len(warnings) > 0 {
			t.Errorf("%s: %v", c.file, warnings)
		}
		typ := callhook.TypePostCall
		if c.webhook == "status-update" {
			typ = callhook.TypeCallStatus
		}
		call := callhook.SampleCall(typ)
		if c.change != nil {
			c.change(call)
		}
		preview, err := config.Preview(c.webhook, call)
		if err != nil {
			t.Fatal(err)
		}
		var got any
		if err := json.Unmarshal(preview.Body, &got); err != nil {
			t.Fatal(err)
		}
		for _, name := range c.path {
			object, _ := got.(map[string]any)
			got = object[name]
		}
		if got != c.want {
			t.Errorf("%s, %s: %s is %v, want %v", c.file, c.webhook, strings.Join(c.path, "."), got, c.want)
		}
	}
}

// TestReasons: docs/troubleshooting.md has every reason and every outcome, and no other.
func TestReasons(t *testing.T) {
	page := read(t, "..", "docs", "troubleshooting.md")
	said := map[string][]string{}
	for _, table := range tables(page) {
		for _, row := range table.rows {
			said[table.header[0]] = append(said[table.header[0]], spans(row[0])...)
		}
	}
	values := constants(t, "..")
	all := spans(fenced.ReplaceAllString(page, ""))
	for _, reason := range values["Reason"] {
		if !slices.Contains(all, reason) {
			t.Errorf("the page does not say what to do about %s", reason)
		}
	}
	for _, reason := range append(said["reason"], said["trouble"]...) {
		if !slices.Contains(values["Reason"], reason) {
			t.Errorf("there is no reason %s", reason)
		}
	}
	if diff := gocmp.Diff(values["Outcome"], slices.Sorted(slices.Values(said["outcome"]))); diff != "" {
		t.Errorf("outcomes (-in the code +on the page):\n%s", diff)
	}
}

// spans are what stands in backticks.
func spans(text string) (out []string) {
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(text, -1) {
		s := strings.ReplaceAll(m[1], `\|`, "|")
		out = append(out, strings.Join(strings.Fields(s), " "))
	}
	return out
}

type table struct {
	header []string
	rows   [][]string
}

func tables(page string) (all []table) {
	inside := false
	for line := range strings.Lines(fenced.ReplaceAllString(page, "")) {
		if !strings.HasPrefix(line, "|") {
			inside = false
			continue
		}
		line = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(line), "|"), "|")
		cells := strings.Split(strings.ReplaceAll(line, `\|`, "\x00"), "|")
		for i, c := range cells {
			cells[i] = strings.ReplaceAll(strings.TrimSpace(c), "\x00", "|")
		}
		switch {
		case !inside:
			all, inside = append(all, table{header: cells}), true
		case !strings.HasPrefix(cells[0], "---"):
			last := &all[len(all)-1]
			last.rows = append(last.rows, cells)
		}
	}
	return all
}

// constants returns the values of a package's texts with a type, by type, sorted.
func constants(t *testing.T, dir string) map[string][]string {
	values := map[string][]string{}
	for _, f := range parse(t, dir) {
		ast.Inspect(f.File, func(n ast.Node) bool {
			s, ok := n.(*ast.ValueSpec)
			if !ok || len(s.Values) != 1 {
				return true
			}
			typ, isNamed := s.Type.(*ast.Ident)
			lit, isText := s.Values[0].(*ast.BasicLit)
			if isNamed && isText && lit.Kind == token.STRING {
				v, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatal(err)
				}
				values[typ.Name] = append(values[typ.Name], v)
			}
			return true
		})
	}
	for _, v := range values {
		slices.Sort(v)
	}
	return values
}
