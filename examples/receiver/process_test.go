package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// programs are the receivers, each a process of its own.
var programs = []program{
	{
		name: "go", v1a: true, age: ageLines,
		works: map[string]string{"": "at once", "slow": "slow", "fails once": "fails once"}, // see TestMain
	},
	{
		name: "node plain", v1a: true, age: ageLines,
		run: "node", file: "node/plain.mjs", before: "  console.log(JSON.stringify({ id, type", works: nodeWorks,
	},
	{
		name: "node standardwebhooks", library: "node/node_modules/standardwebhooks", age: ageLines,
		run: "node", file: "node/standardwebhooks.mjs", before: "  console.log(JSON.stringify({ id, type", works: nodeWorks,
	},
	{
		name: "python", age: ageTable,
		run: "python3", file: "python/receiver.py", before: "    call, test = at(event", works: pythonWorks,
	},
}

type program struct {
	name    string
	v1a     bool                                               // it checks v1a
	age     func(t *testing.T, seen string, age time.Duration) // makes what it has seen older
	run     string                                             // what runs file; empty for this test's own binary
	file    string
	library string            // the folder of what it needs beside run
	before  string            // a line of work, before which stands
	works   map[string]string // what the work is like, by name
}

var (
	nodeWorks = map[string]string{
		"slow":       "  await new Promise((done) => setTimeout(done, 100));\n",
		"fails once": "  if (!globalThis.failed) { globalThis.failed = true; throw new Error('a bad moment'); }\n",
	}
	pythonWorks = map[string]string{
		"slow":       "    time.sleep(0.1)\n",
		"fails once": "    if not hasattr(sys, 'failed'): sys.failed = True; raise OSError('a bad moment')\n",
	}
)

// TestMain makes this binary the Go receiver when it is started as one.
func TestMain(m *testing.M) {
	does := work
	switch os.Getenv("RECEIVER") {
	case "":
		os.Exit(m.Run())
	case "slow":
		does = func(id string, e *event) error {
			time.Sleep(100 * time.Millisecond)
			return work(id, e)
		}
	case "fails once":
		var failed atomic.Bool
		does = func(id string, e *event) error {
			if failed.CompareAndSwap(false, true) {
				return errors.New("a bad moment")
			}
			return work(id, e)
		}
	}
	fmt.Fprintln(os.Stderr, run(does))
	os.Exit(1)
}

// each runs a test for each receiver that this machine can run.
func each(t *testing.T, test func(t *testing.T, p program)) {
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			if _, err := exec.LookPath(cmp.Or(p.run, os.Args[0])); err != nil {
				t.Skipf("%s is not in PATH: install Debian's %s", p.run, map[string]string{"node": "nodejs and npm", "python3": "python3"}[p.run])
			}
			if _, err := os.Stat(p.library); p.library != "" && err != nil {
				t.Skip("the npm library is missing: npm ci --prefix examples/receiver/node")
			}
			test(t, p)
		})
	}
}

// patience is how long something that must happen may take on a busy machine.
const patience = time.Minute

// process is a receiver that runs.
type process struct {
	url    string
	lines  chan string
	stderr *buffer
	kill   func()
}

// printed is what a receiver prints for an event.
type printed struct {
	ID, Type, Call string
	Test           bool
}

// command returns the command that starts a receiver. Dir is where it remembers.
func command(ctx context.Context, t *testing.T, p program, dir, works, keys string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "RECEIVER="+p.works[works])
	if p.run != "" {
		file := filepath.FromSlash(p.file)
		if works != "" {
			file = withWork(t, p, works)
		}
		cmd = exec.CommandContext(ctx, p.run, file)
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, "WEBHOOK_KEYS="+keys, "HOST=127.0.0.1", "PORT=0", "SEEN_FILE="+filepath.Join(dir, "seen"))
	return cmd
}

// withWork copies the receiver, and gives the copy a work that somebody might.
func withWork(t *testing.T, p program, works string) string {
	t.Helper()
	source := content(t, p.file)
	if strings.Count(source, p.before) != 1 {
		t.Fatalf("%s has no one line %q", p.file, p.before)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, filepath.Base(p.file))
	if err := os.WriteFile(file, []byte(strings.Replace(source, p.before, p.works[works]+p.before, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if p.library != "" {
		modules, err := filepath.Abs(filepath.Dir(p.library))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
			t.Fatal(err)
		}
	}
	return file
}

func start(t *testing.T, p program, dir, works string, keys ...string) *process {
	t.Helper()
	cmd := command(context.Background(), t, p, dir, works, strings.Join(keys, " "))
	r := &process{lines: make(chan string, 1000), stderr: new(buffer)}
	cmd.Stderr = r.stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(r.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			r.lines <- s.Text()
		}
	}()
	r.kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait() // killed
	})
	t.Cleanup(func() {
		r.kill()
		if t.Failed() {
			t.Logf("what it said:\n%s", r.stderr)
		}
	})
	first := r.next(t)
	address, ok := strings.CutPrefix(first, "listening on ")
	if !ok {
		t.Fatalf("it began with %q", first)
	}
	r.url = address
	return r
}

func (r *process) next(t *testing.T) string {
	t.Helper()
	select {
	case s, ok := <-r.lines:
		if !ok {
			t.Fatal("it has ended")
		}
		return s
	case <-time.After(patience):
		t.Fatal("it printed nothing")
	}
	return ""
}

// line waits for the line of an event.
func (r *process) line(t *testing.T) printed {
	t.Helper()
	var l printed
	s := r.next(t)
	if err := json.Unmarshal([]byte(s), &l); err != nil {
		t.Fatalf("it printed %q: %v", s, err)
	}
	return l
}

// worked returns the ids of the events that were worked on since the last time: all
// that were printed before the one that it sends now.
func (r *process) worked(t *testing.T, key string) (ids []string) {
	t.Helper()
	last := "msg_" + rand.Text()
	if status := r.post(t, last, body, key); status != http.StatusNoContent {
		t.Fatalf("the last event: %d, want 204", status)
	}
	for {
		l := r.line(t)
		if l.ID == last {
			return ids
		}
		ids = append(ids, l.ID)
	}
}

func (r *process) post(t *testing.T, id, body string, keys ...string) int {
	t.Helper()
	res, err := send(r.url, id, []byte(body), keys...)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

func (r *process) do(t *testing.T, method string, h http.Header, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, r.url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = h.Clone()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer res.Body.Close()
	reply, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return res.StatusCode, string(reply)
}

// raw sends the bytes of a request, and no more, and returns the status of the
// answer.
func (r *process) raw(t *testing.T, request string) int {
	t.Helper()
	u, err := url.Parse(r.url)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Error(err)
		return 0
	}
	return res.StatusCode
}

// ageLines makes the lines of a file older.
func ageLines(t *testing.T, seen string, age time.Duration) {
	t.Helper()
	var old bytes.Buffer
	for text := range strings.Lines(content(t, seen)) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatal(err)
		}
		l.At = l.At.Add(-age)
		if err := json.NewEncoder(&old).Encode(l); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(seen, old.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ageTable makes the rows of Python's table older.
func ageTable(t *testing.T, seen string, age time.Duration) {
	t.Helper()
	const program = `import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
with db: assert db.execute("UPDATE seen SET at = at - ?", (float(sys.argv[2]),)).rowcount == 1`
	if out, err := exec.Command("python3", "-c", program, seen, fmt.Sprint(age.Seconds())).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// buffer is a bytes.Buffer that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
