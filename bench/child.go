package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Some measurements need a process of their own: its memory is nobody else's, and
// it can be killed. It is this program again, told what to do by a variable.
const childVariable = "CALLHOOK_BENCH_CHILD"

// task is what a child does.
type task struct {
	Do     string // "memory", "produce", "resume", "fill", "work", "serve" or "deliver"
	Kind   string
	Setup  setup
	N      int           // events
	From   int           // the number of the first
	Window time.Duration // of sampling
}

// message is a line that a child writes. Only what its task has is set.
type message struct {
	Error    string    `json:",omitempty"`
	Accepted *int      `json:",omitempty"` // the number of an event
	Opened   time.Time `json:",omitzero"`  // when opening the peer began
	Server   string    `json:",omitempty"` // URL of the server that runs
	Pending  *int      `json:",omitempty"`
	Filled   int       `json:",omitempty"` // events that are pending
	Grown    int64     `json:",omitempty"` // bytes of anonymous memory that they take
	Peak     int64     `json:",omitempty"` // most bytes of anonymous memory in all
	Routines float64   `json:",omitempty"` // goroutines of the peer at work
	Done     bool      `json:",omitempty"`
}

func isChild() bool { return os.Getenv(childVariable) != "" }

// child does a task and returns the exit code.
func child() int {
	out := json.NewEncoder(os.Stdout)
	var mu sync.Mutex
	say := func(m message) {
		mu.Lock()
		defer mu.Unlock()
		_ = out.Encode(m)
	}
	var t task
	err := json.Unmarshal([]byte(os.Getenv(childVariable)), &t)
	var k kind
	if err == nil {
		k, err = kindOf(t.Kind)
	}
	if err == nil {
		switch t.Do {
		case "memory":
			err = t.memory(k, say)
		case "produce":
			err = t.produce(k, say)
		case "resume":
			err = t.resume(k, say)
		case "fill":
			err = t.fill(k, say)
		case "work":
			err = t.work(k, say)
		case "serve":
			err = t.serve(k, say)
		case "deliver":
			err = t.deliver(k, say)
		default:
			err = fmt.Errorf("no task %q", t.Do)
		}
	}
	if err != nil {
		say(message{Error: err.Error()})
		return 1
	}
	return 0
}

// process is a child as its parent sees it.
type process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan message // closed when the child has ended
	done  chan struct{}
}

// spawn starts a child. The parent ends it with kill or finish.
func spawn(t task) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self), lines: make(chan message, 64), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), childVariable+"="+string(data))
	p.cmd.SysProcAttr, p.cmd.Stderr = childAttr(), os.Stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	// A pipe of our own: the one of exec is closed by Wait, maybe before all of it was
	// read.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout = w
	err = startChild(p.cmd, p.done)
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	go func() {
		defer close(p.lines)
		defer r.Close()
		for lines := bufio.NewScanner(r); lines.Scan(); {
			var m message
			if json.Unmarshal(lines.Bytes(), &m) == nil { // the last line may be cut off
				p.lines <- m
			}
		}
	}()
	return p, nil
}

var errChildEnded = errors.New("the process ended early")

// next is the next message; an error message becomes an error.
func (p *process) next(ctx context.Context, limit time.Duration) (message, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case m, ok := <-p.lines:
		if !ok {
			return m, errChildEnded
		}
		if m.Error != "" {
			return m, errors.New(m.Error)
		}
		return m, nil
	case <-timer.C:
		return message{}, fmt.Errorf("no answer from the process in %s", limit)
	case <-ctx.Done():
		return message{}, ctx.Err()
	}
}

// kill ends the child as kill -9 does, and returns when it is gone. What it had
// written can still be read from lines.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	go func() {
		for range p.lines { // so that nothing waits for a reader; the caller reads before
		}
	}()
	<-p.done
	p.stdin.Close()
}

func (t *task) memory(k kind, say func(message)) error {
	ctx := context.Background()
	routines := runtime.NumGoroutine()
	before, err := anonymous()
	if err != nil {
		return err
	}
	p, err := k.open(t.Setup)
	if err != nil {
		return err
	}
	if err := t.pile(ctx, p); err != nil {
		return err
	}
	after, err := anonymous()
	if err != nil {
		return err
	}
	say(message{Filled: t.N, Grown: after - before})
	if err := p.Start(ctx); err != nil {
		return err
	}
	// The parent lets requests through now.
	var samples []float64
	for end := time.Now().Add(t.Window); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		samples = append(samples, float64(runtime.NumGoroutine()-routines))
	}
	say(message{Routines: median(samples), Done: true})
	return nil // without stopping: that would deliver all of it
}

// pile makes N events pending, a thousand at a time where the peer can do that.
func (t *task) pile(ctx context.Context, p peer) error {
	const batch = 1000
	for from := 0; from < t.N; from += batch {
		events := eventsOf(t.From+from, min(batch, t.N-from), len(t.Setup.URLs))
		f, ok := p.(filler)
		var err error
		if ok {
			err = f.Fill(ctx, events)
		} else {
			err = enqueueAll(ctx, p, events, workers)
		}
		if err != nil {
			return fmt.Errorf("at %d pending: %w", from, err)
		}
	}
	return nil
}

// produce delivers, and enqueues N events of which it tells each that was accepted.
// After half of them it waits for a line of input, so that the parent can get ready to
// kill it: a peer in memory is through with all of them in no time.
func (t *task) produce(k kind, say func(message)) error {
	ctx := context.Background()
	p, err := k.open(t.Setup)
	if err != nil {
		return err
	}
	if err := p.Start(ctx); err != nil {
		return err
	}
	told := teller{peer: p, say: say}
	input := bufio.NewReader(os.Stdin)
	events := eventsOf(t.From, t.N, len(t.Setup.URLs))
	for _, half := range [][]event{events[:t.N/2], events[t.N/2:]} {
		if err := enqueueAll(ctx, told, half, workers); err != nil {
			return err
		}
		_, _ = input.ReadString('\n') // the second one never comes
	}
	return nil
}

// teller says which events were accepted.
type teller struct {
	peer
	say func(message)
}

func (t teller) Enqueue(ctx context.Context, e event) error {
	err := t.peer.Enqueue(ctx, e)
	if err == nil {
		t.say(message{Accepted: &e.id})
	}
	return err
}

// resume delivers what an earlier process left, until its input ends, and answers each
// line of it with how many are pending.
func (t *task) resume(k kind, say func(message)) error {
	opened := time.Now()
	p, err := k.open(t.Setup)
	if err != nil {
		return err
	}
	if err := p.Start(context.Background()); err != nil {
		return err
	}
	say(message{Opened: opened})
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		c, ok := p.(counter)
		if !ok {
			say(message{Pending: new(int)})
			continue
		}
		n, err := c.Pending(context.Background())
		if err != nil {
			return err
		}
		say(message{Pending: &n})
	}
	return nil
}

// fill makes N events pending and ends.
func (t *task) fill(k kind, say func(message)) error {
	p, err := k.open(t.Setup)
	if err != nil {
		return err
	}
	if err := t.pile(context.Background(), p); err != nil {
		return err
	}
	say(message{Filled: t.N})
	return p.Stop()
}

// work delivers while 16 producers enqueue, for a time, and says how much memory it
// took at most. Its events have no bodies, which would count: it is for callhook, which
// makes its own.
func (t *task) work(k kind, say func(message)) error {
	ctx := context.Background()
	opened := time.Now()
	p, err := k.open(t.Setup)
	if err != nil {
		return err
	}
	if err := p.Start(ctx); err != nil {
		return err
	}
	say(message{Opened: opened})
	var next atomic.Int64
	var peak int64
	end := time.Now().Add(t.Window)
	var all sync.WaitGroup
	errs := make([]error, workers)
	for i := range workers {
		all.Go(func() {
			for time.Now().Before(end) && errs[i] == nil {
				n := int(next.Add(1)) - 1
				if n >= t.N {
					return
				}
				errs[i] = p.Enqueue(ctx, event{id: t.From + n})
			}
		})
	}
	for time.Now().Before(end) {
		now, err := rssAnon()
		if err != nil {
			return err
		}
		peak = max(peak, now)
		time.Sleep(20 * time.Millisecond)
	}
	all.Wait()
	say(message{Peak: peak, Done: true})
	return errors.Join(errs...)
}
