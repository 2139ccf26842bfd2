// Pipeline is the smallest voice-agent runtime that is honest: it takes calls, talks,
// transfers, and tells the customer's systems; and when it is killed in the middle of a
// call, the next start ends that call and sends its data. Speech is text, and the
// language model is a script. Everything else is as it would be.
//
//	go run ./examples/pipeline
//
// plays two calls against a customer's endpoints on loopback. In one the CRM is slow
// and answers in the middle of the conversation; in the other the runtime dies.
//
//	go run ./examples/pipeline -talk -db calls.db
//
// lets you be the caller. Kill it half way and start it again.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

func main() {
	db := flag.String("db", "", "the queue's file, with the journal of running calls beside it; empty for ones that are removed at the end")
	talk := flag.Bool("talk", false, "be the caller: what the caller says is read from standard input, a line each")
	endpoints := flag.String("endpoints", "", "the URL of the customer's endpoints, /lookup, /status and /calls; empty for fake ones")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var in io.Reader
	if *talk {
		in = os.Stdin
	}
	if err := run(ctx, in, os.Stdout, *db, *endpoints); err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		os.Exit(1)
	}
}

// run plays the two calls, or has one with whoever writes to in.
func run(ctx context.Context, in io.Reader, out io.Writer, db, endpoints string) error {
	log := &printer{out: out}
	if db == "" {
		dir, err := os.MkdirTemp("", "callhook")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		db = filepath.Join(dir, "queue.db")
	}
	customer := newCustomer()
	if endpoints == "" {
		url, stop, err := customer.serve()
		if err != nil {
			return err
		}
		defer func() { _ = stop() }()
		endpoints = url
	}
	var r *runtime
	var err error
	if in == nil {
		r, err = play(ctx, log, db, endpoints, customer)
	} else {
		r, err = talk(ctx, in, log, db, endpoints)
	}
	if err != nil {
		return err
	}
	err = r.settle(ctx)
	counts := r.hooks.Stats().Queue
	if err = errors.Join(err, r.stop(), customer.show(log)); err != nil {
		return err
	}
	log.say("ok: %d events delivered, %d dead, %d pending", counts.Delivered, counts.Dead, counts.Pending)
	return nil
}

// talk has one call with whoever writes to in, and returns the runtime that took it.
func talk(ctx context.Context, in io.Reader, log *printer, db, endpoints string) (*runtime, error) {
	r, err := start(ctx, log, db, endpoints)
	if err != nil {
		return nil, err
	}
	calling, over := context.WithCancel(ctx)
	defer over()
	if err := r.take(ctx, lines(calling, grace, in)); err != nil {
		return nil, errors.Join(err, r.stop())
	}
	return r, nil
}

// play plays the two calls. In the second the runtime dies; the one that is started
// then is returned.
func play(ctx context.Context, log *printer, db, endpoints string, customer *customer) (*runtime, error) {
	r, err := start(ctx, log, db, endpoints)
	if err != nil {
		return nil, err
	}
	slow := script(ada, 200*time.Millisecond,
		"Hello, I want to move my appointment.",
		"", // waits
		"I would rather speak to a person.",
	)
	slow.hears = func(n int) {
		if n == 2 { // the agent has said that it is looking
			customer.find()
		}
	}
	if err := r.take(ctx, slow); err != nil {
		return nil, errors.Join(err, r.stop())
	}

	living, kill := context.WithCancel(ctx)
	defer kill()
	cut := script(grace, patience, "Hello, I want to move my appointment.")
	cut.hears = func(n int) {
		if n == 2 {
			kill()
		}
	}
	if err := r.take(living, cut); !errors.Is(err, context.Canceled) {
		return nil, errors.Join(fmt.Errorf("the runtime should have died, and says %v", err), r.stop())
	}
	log.say("runtime   dies")
	if err := r.stop(); err != nil {
		return nil, err
	}
	return start(ctx, log, db, endpoints)
}

// printer writes a line at a time.
type printer struct {
	mu  sync.Mutex
	out io.Writer
}

func (p *printer) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, format+"\n", args...)
}
