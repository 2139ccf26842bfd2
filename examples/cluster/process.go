package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// process is a node: this program, started again.
type process struct {
	name    string
	cmd     *exec.Cmd
	in      io.Closer   // the node ends when it is closed
	ready   chan string // what it said when it was
	ended   chan struct{}
	err     error // once it has ended
	leaving atomic.Bool
}

// processes are those that run.
type processes struct {
	env    []string
	heard  func(p *process, line string) // a line of a node's
	failed context.CancelCauseFunc       // told of one that ended by itself

	mu  sync.Mutex
	all map[*process]bool
}

// start starts a node, and returns once it is ready.
func (ps *processes) start(ctx context.Context, name string) (*process, string, error) {
	p := &process{name: name, cmd: exec.Command(os.Args[0]), ready: make(chan string, 1), ended: make(chan struct{})}
	p.cmd.Env = append(append(os.Environ(), ps.env...), nodeVar+"="+name)
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, "", err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, "", err
	}
	ps.mu.Lock()
	ps.all[p] = true
	ps.mu.Unlock()
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); { // all of them, also after a kill
			if rest, ok := strings.CutPrefix(lines.Text(), "ready"); ok {
				p.ready <- strings.TrimSpace(rest)
			} else {
				ps.heard(p, lines.Text())
			}
		}
		p.err = p.cmd.Wait()
		ps.mu.Lock()
		delete(ps.all, p)
		ps.mu.Unlock()
		close(p.ended)
		if !p.leaving.Load() {
			ps.failed(fmt.Errorf("%s ended by itself: %v", p.name, p.err))
		}
	}()
	select {
	case said := <-p.ready:
		return p, said, nil
	case <-p.ended:
		return nil, "", fmt.Errorf("%s does not start: %w", name, p.err)
	case <-time.After(time.Minute):
		return nil, "", fmt.Errorf("%s was not ready within a minute", name)
	case <-ctx.Done():
		return nil, "", context.Cause(ctx)
	}
}

// kill ends a process as a crash does, and returns when it is gone.
func (p *process) kill() {
	p.leaving.Store(true)
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// killServer kills the process that an engine said is its server, and returns when the
// engine is gone.
func (p *process) killServer(said string) error {
	pid, err := strconv.Atoi(said)
	if err != nil {
		return err
	}
	server, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	p.leaving.Store(true)
	if err := server.Kill(); err != nil {
		return err
	}
	<-p.ended
	return nil
}

// terminate has a node finish what it has, as a deployment does.
func (p *process) terminate(ctx context.Context) error {
	p.leaving.Store(true)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	select {
	case <-p.ended:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(2 * time.Minute):
		return fmt.Errorf("%s did not end within two minutes of SIGTERM", p.name)
	}
	if p.err != nil {
		return fmt.Errorf("%s ended after SIGTERM with: %w", p.name, p.err)
	}
	return nil
}

// end ends all that run, at once but for the engine, which clears its storage away.
func (ps *processes) end() {
	ps.mu.Lock()
	var left []*process
	for p := range ps.all {
		left = append(left, p)
	}
	ps.mu.Unlock()
	for _, p := range left {
		p.leaving.Store(true)
		_ = p.in.Close()
	}
	for _, p := range left {
		select {
		case <-p.ended:
		case <-time.After(20 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.ended
		}
	}
}
