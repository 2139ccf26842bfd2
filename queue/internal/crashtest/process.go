// Package crashtest is for tests that kill processes. A [Process] is the test's own
// program, started again as one that raises and delivers events; a [Ledger] receives
// those, and says what was lost, and what came twice without a reason.
package crashtest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// variable says to a process what it is, and with which arguments.
const variable = "CALLHOOK_CRASHTEST"

// Role makes this program main, and nothing else, when [Start] has started it as that.
// It is for an init of the test's.
func Role(name string, main func(args []string) error) {
	var words []string
	if err := json.Unmarshal([]byte(os.Getenv(variable)), &words); err != nil || words[0] != name {
		return
	}
	if err := main(words[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Say has the test read a line. Only a process that has a role says something.
func Say(line string) {
	saying.Lock()
	defer saying.Unlock()
	fmt.Println(line)
}

var saying sync.Mutex

// Told waits until the test wants this process to come to an end.
func Told() { _, _ = io.Copy(io.Discard, os.Stdin) }

// Process is one that may be killed.
type Process struct {
	Name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	wait  func() error
}

// Start starts this program in a role. Its name is its first argument. The events that
// it says it has accepted are noted in the ledger, if there is one.
func Start(t testing.TB, l *Ledger, role, name string, args ...string) *Process {
	t.Helper()
	p := &Process{Name: name, cmd: exec.Command(os.Args[0], "-test.run=^$"), lines: make(chan string, 1)}
	words, err := json.Marshal(append([]string{role, name}, args...))
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Env = append(os.Environ(), variable+"="+string(words))
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	p.wait = sync.OnceValue(func() error {
		go func() { // nobody wants to know what else it says
			for range p.lines {
			}
		}()
		<-read
		return p.cmd.Wait()
	})
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.wait()
	})
	go func() {
		defer close(read)
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			if event, ok := strings.CutPrefix(s.Text(), accepted); ok {
				l.Accept(event)
			} else {
				p.lines <- s.Text()
			}
		}
	}()
	return p
}

// Line returns the next line that the process says.
func (p *Process) Line(t testing.TB) string {
	t.Helper()
	select {
	case line, ok := <-p.lines:
		if ok {
			return line
		}
		t.Fatalf("%s has ended: %v", p.Name, p.wait())
	case <-time.After(time.Minute):
		t.Fatalf("%s says nothing for a minute", p.Name)
	}
	return ""
}

// Signal sends it a signal.
func (p *Process) Signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatalf("%s: %v", p.Name, err)
	}
}

// Kill kills it, and returns when that was, once nothing is left of it.
func (p *Process) Kill(t testing.TB) Kill {
	t.Helper()
	from := time.Now()
	p.Signal(t, os.Kill)
	if err := p.wait(); err != nil && !strings.Contains(err.Error(), "killed") {
		t.Errorf("%s: %v", p.Name, err)
	}
	return Kill{p.Name, from, time.Now()}
}

// Ask asks it to come to an end.
func (p *Process) Ask() { _ = p.in.Close() }

// End asks it to come to an end, and waits until it has.
func (p *Process) End(t testing.TB) {
	t.Helper()
	p.Ask()
	if err := p.wait(); err != nil {
		t.Errorf("%s: %v", p.Name, err)
	}
}
