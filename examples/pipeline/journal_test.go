package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
)

// reopen closes a journal, if there is one, and opens its file again.
func reopen(t *testing.T, j *journal, path string) (*journal, []*callhook.Call) {
	t.Helper()
	if j != nil {
		if err := j.close(); err != nil {
			t.Fatal(err)
		}
	}
	j, left, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.close() })
	return j, left
}

func ids(calls []*callhook.Call) string {
	var out []string
	for _, c := range calls {
		out = append(out, c.ID+" "+string(c.Status))
	}
	return strings.Join(out, ", ")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, left := reopen(t, nil, path)
	if len(left) != 0 {
		t.Errorf("a new journal has %s", ids(left))
	}
	start := time.Now().Add(-time.Minute)
	call := func(id string, after time.Duration) *callhook.Call {
		return &callhook.Call{ID: id, AgentID: "a", StartedAt: start.Add(after), Status: callhook.StatusRinging}
	}
	b, a, c := call("b", 2), call("a", 1*time.Second), call("c", 2*time.Second)
	for _, call := range []*callhook.Call{b, a, c} {
		must(t, j.write(call))
	}
	b.Status, b.Variables, b.Secrets = callhook.StatusInProgress, callhook.Variables{"name": "Ada"}, callhook.Variables{"token": "crm-secret"}
	b.Transcript = []callhook.Turn{{Role: "user", Text: "<hello>\n& goodbye"}}
	must(t, j.write(b))
	must(t, j.remove("c"))

	j, left = reopen(t, j, path)
	if got, want := ids(left), "b in_progress, a ringing"; got != want {
		t.Fatalf("left are %s, want %s", got, want)
	}
	got := left[0]
	if got.Variables["name"] != "Ada" || got.Transcript[0].Text != b.Transcript[0].Text || !got.StartedAt.Equal(b.StartedAt.Truncate(time.Millisecond)) {
		t.Errorf("the call came back as %+v", got)
	}
	if lasted := got.EndedAt.Sub(got.StartedAt); lasted < time.Minute-time.Second || got.EndedAt.After(time.Now()) {
		t.Errorf("it ended at %s, %s after its start", got.EndedAt, lasted)
	}
	raw, err := os.ReadFile(path)
	must(t, err)
	if strings.Contains(string(raw), "crm-secret") {
		t.Error("a secret is in the file")
	}
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %s", info.Mode())
	}

	must(t, j.remove("a"))
	must(t, j.remove("b"))
	if info, err := os.Stat(path); err != nil || info.Size() != 0 {
		t.Errorf("the file has %d bytes when no call is left, %v", info.Size(), err)
	}
	must(t, j.write(a))
	if _, left = reopen(t, j, path); ids(left) != "a ringing" {
		t.Errorf("after it was emptied: %s", ids(left))
	}
}

// TestTornJournal: a process that is killed while it writes leaves part of a line,
// and whatever part that is, the calls before it are found and the next line is whole.
func TestTornJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _ := reopen(t, nil, path)
	must(t, j.write(&callhook.Call{ID: "a", AgentID: "x", Status: callhook.StatusRinging}))
	before, err := os.ReadFile(path)
	must(t, err)
	must(t, j.write(&callhook.Call{ID: "b", AgentID: "x", Status: callhook.StatusRinging}))
	all, err := os.ReadFile(path)
	must(t, err)
	must(t, j.close())
	for cut := len(before); cut < len(all); cut = max(cut+1, min(cut+20, len(all)-1)) { // before the first byte, before the last, and some between
		must(t, os.WriteFile(path, all[:cut], 0o600))
		j, left, err := openJournal(path)
		if err != nil || ids(left) != "a ringing" {
			t.Fatalf("cut at byte %d: %s, %v", cut, ids(left), err)
		}
		must(t, j.write(&callhook.Call{ID: "c", AgentID: "x", Status: callhook.StatusRinging}))
		must(t, j.close())
		if j, left, err = openJournal(path); err != nil || ids(left) != "a ringing, c ringing" {
			t.Fatalf("cut at byte %d, and written on: %s, %v", cut, ids(left), err)
		}
		must(t, j.close())
	}
	must(t, os.WriteFile(path, append([]byte("{damaged\n"), all...), 0o600))
	if _, _, err := openJournal(path); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a damaged line: %v", err)
	}
}
