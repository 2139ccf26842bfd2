package main

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	if db := os.Getenv("QUICKSTART_DB"); db != "" { // as a process of its own
		os.Args = []string{os.Args[0], "-db", db}
		main()
		return
	}
	os.Exit(m.Run())
}

func TestQuickstart(t *testing.T) {
	var out bytes.Buffer
	if err := run(&out, ""); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	want := regexp.MustCompile(`(?m)^ok: greeting "Hi Ada, calling about Tuesday\?", 3 delivered, 0 dead, 0 pending$`)
	if !want.Match(out.Bytes()) {
		t.Errorf("last line is not the promised one:\n%s", &out)
	}
}

// TestKilledHalfWay: what a process that was killed had stored is delivered by the
// next one on the same file.
func TestKilledHalfWay(t *testing.T) {
	db := filepath.Join(t.TempDir(), "calls.db")
	first := exec.Command(os.Args[0])
	first.Env = append(os.Environ(), "QUICKSTART_DB="+db)
	out, err := first.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(out); s.Scan(); {
		if strings.HasPrefix(s.Text(), "call      ended") { // the receiver has refused two requests by now, or is about to
			break
		}
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out)
	_ = first.Wait() // killed

	var second bytes.Buffer
	if err := run(&second, db); err != nil {
		t.Fatalf("%v\n%s", err, &second)
	}
	for _, want := range []string{
		`(?m)^queue     has [1-3] deliveries of an earlier run, which go first$`,
		`(?m)^ok: greeting "Hi Ada, calling about Tuesday\?", [456] delivered, 0 dead, 0 pending$`,
	} {
		if !regexp.MustCompile(want).Match(second.Bytes()) {
			t.Errorf("no line is like %s:\n%s", want, &second)
		}
	}
}
