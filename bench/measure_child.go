package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// held is what pending events take.
type held struct {
	bytes int64
	n     int
}

// memory measures memory with events pending, and goroutines while they are
// delivered.
func (b *bench) memory(ctx context.Context, r *row) error {
	s, drop, err := b.place(ctx, r.kind)
	if err != nil {
		return err
	}
	defer drop()
	t := b.receiver.target(r.kind, 1, 0)
	defer t.close()
	s.URLs, s.Limit = t.urls, b.held
	release := t.hold(false)
	defer func() { release() }()
	p, err := spawn(task{Do: "memory", Kind: r.kind.key, Setup: s, N: b.held, Window: b.window / 5})
	if err != nil {
		return err
	}
	defer p.kill()
	m, err := p.next(ctx, 2*time.Minute)
	if err != nil {
		return err
	}
	r.grown = append(r.grown, held{bytes: m.Grown, n: m.Filled})
	release()
	release = func() {}
	m, err = p.next(ctx, time.Minute)
	if err == nil {
		r.goroutines = append(r.goroutines, m.Routines)
	}
	return err
}

// killed is one measurement of a process that was killed.
type killed struct {
	accepted, lost int
	waiting        int           // still pending when the clock stopped
	inFlight       int           // requests that were cut off
	again          time.Duration // until all of those came again: from the start of the next process, or from the kill where others go on
	twice          int           // events that came again
	limit          time.Duration // how long the clock ran
}

// kill measures what is lost when the process is killed with requests in flight.
func (b *bench) kill(ctx context.Context, r *row) error {
	s, drop, err := b.place(ctx, r.kind)
	if err != nil {
		return err
	}
	defer drop()
	t := b.receiver.target(r.kind, 1, 0)
	defer t.close()
	s.URLs, s.Limit = t.urls, b.killN
	accepted, err := b.killHalfway(ctx, r.kind, s, t)
	if err != nil {
		return err
	}
	k, err := b.restart(ctx, r.kind, s, t, accepted)
	if err == nil {
		r.kills = append(r.kills, k)
	}
	return err
}

// killHalfway kills a producer when half of the events are accepted and requests are in
// flight. It returns those that were accepted.
func (b *bench) killHalfway(ctx context.Context, k kind, s setup, t *target) (accepted []int, err error) {
	p, err := spawn(task{Do: "produce", Kind: k.key, Setup: s, N: b.killN})
	if err != nil {
		return nil, err
	}
	half := func() error {
		for len(accepted) < b.killN/2 {
			m, err := p.next(ctx, time.Minute)
			if err != nil {
				return err
			}
			if m.Accepted != nil {
				accepted = append(accepted, *m.Accepted)
			}
		}
		return nil
	}
	err = half()
	if err == nil {
		err = t.wait(ctx, b.killN/4, time.Minute) // it is under way
	}
	if err != nil {
		p.kill()
		return nil, err
	}
	release := t.hold(true)
	defer release()
	if _, err := io.WriteString(p.stdin, "\n"); err != nil {
		p.kill()
		return nil, err
	}
	more := make(chan []int)
	go func() {
		var ids []int
		for m := range p.lines {
			if m.Accepted != nil {
				ids = append(ids, *m.Accepted)
			}
		}
		more <- ids
	}()
	err = t.inFlight(ctx, workers, 5*time.Second)
	_ = p.cmd.Process.Kill()
	<-p.done
	p.stdin.Close()
	return append(accepted, <-more...), err
}

// restart opens the same storage in a new process and waits for what was accepted.
func (b *bench) restart(ctx context.Context, kd kind, s setup, t *target, accepted []int) (killed, error) {
	k := killed{accepted: len(accepted), limit: b.killLimit}
	if !kd.durable {
		k.limit = min(k.limit, time.Second) // what is in memory does not come back
	}
	cut := t.doomedIDs()
	k.inFlight = len(cut)
	start := time.Now()
	p, err := spawn(task{Do: "resume", Kind: kd.key, Setup: s})
	if err != nil {
		return k, err
	}
	defer p.kill()
	if _, err := p.next(ctx, 30*time.Second); err != nil {
		return k, err
	}
	missing := func(ids []int) (n int) {
		for _, id := range ids {
			if t.arrival(id).IsZero() {
				n++
			}
		}
		return n
	}
	err = poll(ctx, k.limit, func() bool { return missing(accepted) == 0 }, func() error { return errLate })
	if err != nil && !errors.Is(err, errLate) {
		return k, err
	}
	for _, id := range cut {
		if at := t.arrival(id); !at.IsZero() {
			k.again = max(k.again, at.Sub(start))
		}
	}
	k.lost = missing(accepted)
	if k.lost == 0 || !kd.durable {
		return k, nil
	}
	if _, err := io.WriteString(p.stdin, "\n"); err != nil {
		return k, err
	}
	m, err := p.next(ctx, 30*time.Second)
	if err != nil {
		return k, err
	}
	if m.Pending == nil {
		return k, fmt.Errorf("the process did not say what is pending")
	}
	lost := missing(accepted) // it may have come since
	k.waiting = min(lost, *m.Pending)
	k.lost = lost - k.waiting
	return k, nil
}
