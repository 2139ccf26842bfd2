package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const endpoints = 10 // where one is dead

// row is what was measured of a kind: one entry a round.
type row struct {
	kind kind

	mu   sync.Mutex
	errs map[string]error // by measurement: why there is no figure

	enqueue1, enqueue16 []enqueued
	endToEnd            []float64 // a second
	stopTime            []time.Duration
	alone, beside       []tail // healthy endpoints without a dead one and with
	grown               []held
	goroutines          []float64
	kills               []killed

	delivered, through map[int][]shared // by the number of processes: a backlog, and while 16 producers raise
	twice              int              // events of them that came again
}

func (r *row) fail(what string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.errs[what] == nil {
		r.errs[what] = err
	}
}

// enqueued is one measurement of accepting events.
type enqueued struct {
	p50, p99 time.Duration
	rate     float64 // a second
}

// throughput measures enqueueing, and end to end.
func (b *bench) throughput(ctx context.Context, r *row) error {
	if err := b.accept(ctx, r); err != nil {
		return err
	}
	n := b.memoryN
	if r.kind.durable {
		n = b.durableN
	}
	rate, err := b.endToEnd(ctx, r.kind, n)
	if err == nil {
		r.endToEnd = append(r.endToEnd, rate)
	}
	return err
}

// accept measures enqueueing with 1 and 16 producers.
func (b *bench) accept(ctx context.Context, r *row) error {
	for _, m := range []struct {
		producers int
		to        *[]enqueued
	}{{1, &r.enqueue1}, {16, &r.enqueue16}} {
		t := b.receiver.target(r.kind, 1, 0)
		release := t.hold(false) // nothing is delivered meanwhile
		err := b.use(ctx, r.kind, t, b.enqueueMax, func(p peer) error {
			defer release()
			e, err := b.produce(ctx, p, m.producers)
			if err == nil {
				*m.to = append(*m.to, e)
			}
			return err
		})
		t.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// endToEnd lets 16 producers enqueue n events and returns how many arrived in a second.
func (b *bench) endToEnd(ctx context.Context, k kind, n int) (rate float64, err error) {
	t := b.receiver.target(k, 1, 0)
	defer t.close()
	err = b.use(ctx, k, t, n, func(p peer) error {
		if err := p.Start(ctx); err != nil {
			return err
		}
		start := time.Now()
		if err := enqueueAll(ctx, p, b.events[:n], workers); err != nil {
			return err
		}
		if err := t.wait(ctx, n, time.Minute); err != nil {
			return err
		}
		rate = float64(n) / time.Since(start).Seconds()
		return nil
	})
	return rate, err
}

// produce lets producers enqueue for a time.
func (b *bench) produce(ctx context.Context, p peer, producers int) (enqueued, error) {
	var next atomic.Int64
	var all sync.WaitGroup
	times := make([][]time.Duration, producers)
	errs := make([]error, producers)
	start := time.Now()
	end := start.Add(b.enqueueFor)
	for i := range producers {
		all.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				began := time.Now()
				if n >= b.enqueueMax || began.After(end) {
					return
				}
				if errs[i] = p.Enqueue(ctx, b.events[n]); errs[i] != nil {
					return
				}
				times[i] = append(times[i], time.Since(began))
			}
		})
	}
	all.Wait()
	elapsed := time.Since(start)
	sorted := ascending(times...)
	if err := errors.Join(errs...); err != nil || len(sorted) == 0 {
		return enqueued{}, err
	}
	return enqueued{p50: percentile(sorted, 50), p99: percentile(sorted, 99), rate: float64(len(sorted)) / elapsed.Seconds()}, nil
}

// enqueueAll enqueues events with many producers.
func enqueueAll(ctx context.Context, p peer, events []event, producers int) error {
	var next atomic.Int64
	var all sync.WaitGroup
	errs := make([]error, producers)
	for i := range producers {
		all.Go(func() {
			for n := int(next.Add(1)) - 1; n < len(events) && errs[i] == nil; n = int(next.Add(1)) - 1 {
				errs[i] = p.Enqueue(ctx, events[n])
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// stop measures how long ending takes while attempts are under way.
func (b *bench) stop(ctx context.Context, r *row) error {
	const pending = 4 * workers
	t := b.receiver.target(r.kind, 1, 0)
	defer t.close()
	t.delay = 300 * time.Millisecond
	s, drop, err := b.place(ctx, r.kind)
	if err != nil {
		return err
	}
	defer drop()
	s.URLs, s.Limit = t.urls, pending
	p, err := r.kind.open(s)
	if err != nil {
		return err
	}
	if err := enqueueAll(ctx, p, b.events[:pending], workers); err != nil {
		return errors.Join(err, stopSoon(p))
	}
	if err := p.Start(ctx); err != nil {
		return errors.Join(err, stopSoon(p))
	}
	if err := t.inFlight(ctx, workers, 10*time.Second); err != nil {
		return errors.Join(err, stopSoon(p))
	}
	start := time.Now()
	err = stopSoon(p)
	if err == nil {
		r.stopTime = append(r.stopTime, time.Since(start))
	}
	return err
}

// tail is the p99 of a measurement in which events may be missing.
type tail struct {
	p99         time.Duration
	missing, of int // had not arrived when the clock stopped
	atLeast     bool
}

// deadEndpoint measures the healthy endpoints with and without a dead one beside
// them.
func (b *bench) deadEndpoint(ctx context.Context, r *row) error {
	for dead, to := range []*[]tail{&r.alone, &r.beside} {
		t := b.receiver.target(r.kind, endpoints, dead)
		err := b.use(ctx, r.kind, t, len(b.spread), func(p peer) error {
			if err := p.Start(ctx); err != nil {
				return err
			}
			if err := b.warm(ctx, p, t, 10*time.Second); err != nil {
				return err
			}
			m, err := b.steady(ctx, p, t)
			if err == nil {
				*to = append(*to, m)
			}
			return err
		})
		t.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// warm has an event delivered to each of endpoints 1 to 9, so that there are
// connections, as in a process that has been up for a while.
func (b *bench) warm(ctx context.Context, p peer, t *target, limit time.Duration) error {
	for _, e := range b.spread[1:endpoints] {
		if err := p.Enqueue(ctx, e); err != nil {
			return err
		}
	}
	return t.wait(ctx, endpoints-1, limit)
}

// steady raises 100 events a second and looks when those of endpoints 1 to 9 arrive;
// the first one is that which may be dead.
func (b *bench) steady(ctx context.Context, p peer, t *target) (tail, error) {
	const interval = 10 * time.Millisecond
	events := b.spread[endpoints : endpoints+int(b.dead/interval)]
	raised := make([]time.Time, len(events))
	var all sync.WaitGroup
	var failed atomic.Pointer[error]
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for i, e := range events {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return tail{}, ctx.Err()
		}
		raised[i] = time.Now()
		all.Go(func() {
			if err := p.Enqueue(ctx, e); err != nil {
				failed.Store(&err)
			}
		})
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		return tail{}, *err
	}
	healthy := 0
	for _, e := range events {
		if e.endpoint > 0 {
			healthy++
		}
	}
	_ = poll(ctx, b.grace, func() bool {
		n := 0
		for _, e := range events {
			if e.endpoint > 0 && !t.arrival(e.id).IsZero() {
				n++
			}
		}
		return n == healthy
	}, func() error { return errLate })
	stopped := time.Now()
	var took []time.Duration
	m := tail{of: healthy}
	for i, e := range events {
		if e.endpoint == 0 {
			continue
		}
		at := t.arrival(e.id)
		if at.IsZero() {
			m.missing++
			at = stopped
		}
		took = append(took, at.Sub(raised[i]))
	}
	m.p99 = percentile(ascending(took), 99)
	m.atLeast = m.missing > 0
	if t.err() != nil {
		return m, fmt.Errorf("%w", t.err())
	}
	return m, nil
}
