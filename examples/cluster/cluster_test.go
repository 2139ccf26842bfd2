package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv(nodeVar) != "" { // as a node
		main()
		return
	}
	if args := os.Getenv("CLUSTER_TEST"); args != "" { // as the program, in a process of its own
		os.Args = append(os.Args[:1], strings.Fields(args)...)
		main()
		return
	}
	os.Exit(m.Run())
}

// TestCluster: nothing is lost, nothing out of order, and what comes twice was in flight
// or unacknowledged when its worker or the engine was killed.
func TestCluster(t *testing.T) {
	for _, engine := range []string{"nats", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			needs(t, engine)
			const calls = 300 // the engine is killed when it has long forgotten the first of them
			var out bytes.Buffer
			b, err := run(t.Context(), &out, settings{engine: engine, calls: calls, verbose: testing.Verbose()})
			t.Logf("\n%s", &out)
			if err != nil {
				t.Fatal(err)
			}
			if b.Calls != calls || b.Ended+b.Cut != calls || b.Cut == 0 {
				t.Errorf("%d calls to their end and %d cut, want %d together, and some that were cut when their node was killed", b.Ended, b.Cut, calls)
			}
			if most := 3 * b.Asked; b.Accepted < 3*b.Ended || b.Accepted > most {
				t.Errorf("%d events accepted, want %d of the calls that came to their end, and at most %d", b.Accepted, 3*b.Ended, most)
			}
			if b.Asked < b.Ended {
				t.Errorf("%d lookups, want one for each of %d calls", b.Asked, b.Ended)
			}
			if b.Lost != 0 || b.Disordered != 0 || b.Forged != 0 || b.Unexplained != 0 || b.Twice != b.Unsettled {
				t.Errorf("%d lost, %d out of order, %d not verified, %d twice of which %d were unsettled at a kill",
					b.Lost, b.Disordered, b.Forged, b.Twice, b.Unsettled)
			}
			if b.Owed+b.Untold != b.Delivered {
				t.Errorf("%d deliveries owed and %d stored untold, but %d came", b.Owed, b.Untold, b.Delivered)
			}
			for _, want := range []string{"kill -9   worker-", "kill -9   voice-", "kill -9   the engine", "is back on its storage", "with billing's new URL"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("nobody said %q", want)
				}
			}
			if n := strings.Count(out.String(), "ended in order"); n != 2*nodes {
				t.Errorf("%d nodes were replaced, want %d", n, 2*nodes)
			}
		})
	}
}

// TestEnds: when the program is interrupted, or dies, no process and no folder of its
// own is left.
func TestEnds(t *testing.T) {
	for _, engine := range []string{"nats", "postgres"} {
		for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
			t.Run(engine+" "+signal.String(), func(t *testing.T) {
				needs(t, engine)
				temp, err := os.MkdirTemp("", "cluster-test-")
				if err != nil {
					t.Fatal(err)
				}
				defer os.RemoveAll(temp)
				if err := os.Chmod(temp, 0o755); err != nil { // for the user that Postgres runs as
					t.Fatal(err)
				}
				program := exec.Command(os.Args[0])
				program.Env = append(os.Environ(), "CLUSTER_TEST=-engine "+engine, "TMPDIR="+temp)
				out, err := program.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				// All processes have the other end of this pipe, which ends with the last of them.
				stderr := new(bytes.Buffer)
				program.Stderr = stderr
				if err := program.Start(); err != nil {
					t.Fatal(err)
				}
				lines := bufio.NewScanner(out)
				for lines.Scan() && !strings.Contains(lines.Text(), "takes its place") {
				}
				if err := program.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { _, _ = io.Copy(io.Discard, out); ended <- program.Wait() }()
				select {
				case err := <-ended:
					if exit := new(exec.ExitError); !errors.As(err, &exit) {
						t.Errorf("the program ended with %v, want a failure: it was interrupted", err)
					}
				case <-time.After(time.Minute):
					t.Fatal("a minute later processes are left")
				}
				left, err := filepath.Glob(filepath.Join(temp, "*"))
				if err != nil || len(left) > 0 {
					t.Errorf("left behind: %v, %v\n%s", left, err, stderr)
				}
			})
		}
	}
}

// needs skips a test where no Postgres is installed.
func needs(t *testing.T, engine string) {
	if engine != "postgres" {
		return
	}
	if _, err := postgresBinaries(); err != nil {
		t.Skip(err)
	}
}
