package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// options are the flags.
type options struct {
	quick   bool
	engines bool // the second part
	repeat  int  // rounds; zero for the usual number
	out     string
	only    []string
}

// sizes say how much is done in each measurement.
type sizes struct {
	rounds     int
	enqueueFor time.Duration // time of an enqueue measurement
	enqueueMax int           // and how many events at most
	memoryN    int           // end to end, of peers that store nothing
	durableN   int           // and of the others
	dead       time.Duration // with a dead endpoint, and without
	grace      time.Duration // for what has not arrived then
	held       int           // pending events in the memory measurement
	killN      int           // events of the kill measurement
	killLimit  time.Duration // how long they may take to come again
	backlog    int           // pending deliveries of the budget for a million
	window     time.Duration // in which its throughput is measured
	samples    int           // of the budgets on lookups

	// Of the second part:
	processes []int         // that deliver
	pending   int           // backlog that they deliver
	deadN     int           // backlog of the dead endpoint
	limit     time.Duration // of one measurement of one row
}

func (o options) sizes() sizes {
	s := sizes{rounds: 3, enqueueFor: time.Second, enqueueMax: 20_000, memoryN: 20_000, durableN: 2_000,
		dead: 10 * time.Second, grace: 5 * time.Second, held: 100_000, killN: 1_000, killLimit: 75 * time.Second,
		backlog: 1_000_000, window: 5 * time.Second, samples: 100}
	if o.quick {
		s = sizes{rounds: 1, enqueueFor: 200 * time.Millisecond, enqueueMax: 4_000, memoryN: 10_000, durableN: 200,
			dead: 2500 * time.Millisecond, grace: 500 * time.Millisecond, held: 5_000, killN: 120, killLimit: 2 * time.Second,
			backlog: 20_000, window: time.Second, samples: 20}
	}
	if o.repeat > 0 {
		s.rounds = o.repeat
	}
	return s
}

// bench is a run.
type bench struct {
	options
	sizes
	receiver *receiver
	root     string // the folder with everybody's storage
	events   []event
	spread   []event // the same over ten endpoints

	fsync      time.Duration // what the disk takes
	cluster    *cluster
	clusterErr error

	mu     sync.Mutex
	places int
}

// run does everything and prints it.
func run(ctx context.Context, o options) error {
	began := time.Now()
	b := &bench{options: o, sizes: o.sizes()}
	rows, err := o.rows(kinds())
	if err != nil {
		return err
	}
	budgets := b.ownBudgets(ctx)
	if err := ctx.Err(); err != nil {
		return err
	}
	lookups, err := b.lookupTable(ctx)
	if err != nil {
		return err
	}
	if err := b.start(ctx, rows); err != nil {
		return err
	}
	defer b.end()
	for round := range b.rounds {
		b.round(ctx, round, rows)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	budgets = append(budgets, b.queueBudgets(ctx, rows)...)
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.report(rows, budgets, lookups, time.Since(began))
}

// rows are those of the kinds that -only selects.
func (o options) rows(of []kind) ([]*row, error) {
	var rows []*row
	for _, k := range of {
		if len(o.only) == 0 || slices.Contains(o.only, k.key) {
			rows = append(rows, &row{kind: k, errs: map[string]error{}, delivered: map[int][]shared{}, through: map[int][]shared{}})
		}
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("-only %s: there are no such rows", strings.Join(o.only, ","))
	}
	return rows, nil
}

func (b *bench) start(ctx context.Context, rows []*row) (err error) {
	defer func() {
		if err != nil {
			b.end()
		}
	}()
	if b.receiver, err = newReceiver(); err != nil {
		return err
	}
	if b.root, err = os.MkdirTemp("", "callhook-bench-"); err != nil {
		return err
	}
	if b.fsync, err = fsyncTime(b.root); err != nil {
		return err
	}
	if slices.ContainsFunc(rows, func(r *row) bool { return r.kind.postgres }) {
		b.cluster, b.clusterErr = startCluster(ctx, b.engines)
		if b.clusterErr != nil {
			b.cluster = nil
		}
	}
	n := max(b.enqueueMax, b.memoryN, b.durableN, b.killN, b.pending+endpoints)
	b.events = eventsOf(0, n, 1)
	b.spread = eventsOf(0, n, endpoints)
	return nil
}

// fsyncTime tells what everybody's storage is on: where it is next to nothing, rows that
// sync say little.
func fsyncTime(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, "fsync")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var took []time.Duration
	for range 50 {
		start := time.Now()
		_, err := f.Write(make([]byte, 4<<10))
		if err = errors.Join(err, f.Sync()); err != nil {
			return 0, err
		}
		took = append(took, time.Since(start))
	}
	return median(took), nil
}

func (b *bench) end() {
	if b.receiver != nil {
		b.receiver.close()
	}
	b.cluster.stop()
	if b.root != "" {
		_ = os.RemoveAll(b.root)
	}
}

// round measures every row once. Each measurement goes through all rows before
// the next one begins, from another row on in each round.
func (b *bench) round(ctx context.Context, round int, rows []*row) {
	turn := turns(round, rows)
	each := func(what string, measure func(context.Context, *row) error) {
		for _, r := range turn {
			b.step(ctx, round, what, r, measure)
		}
	}
	each("throughput", b.throughput)
	each("stop", b.stop)
	// What the others do here is limited by timeouts and not by the machine, so they
	// can do it at the same time where speed is asked for.
	apart := func(what string, measure func(context.Context, *row) error, together bool) {
		var all sync.WaitGroup
		for _, r := range turn {
			if together && !r.kind.judged() {
				all.Go(func() { b.step(ctx, round, what, r, measure) })
			}
		}
		all.Wait()
		for _, r := range turn {
			if !together || r.kind.judged() {
				b.step(ctx, round, what, r, measure)
			}
		}
	}
	apart("dead", b.deadEndpoint, b.quick)
	apart("memory", b.memory, b.quick)
	apart("kill", b.kill, true)
}

// turns are the rows, from another one on in each round.
func turns(round int, rows []*row) []*row {
	return slices.Concat(rows[round%len(rows):], rows[:round%len(rows)])
}

// step measures one row and notes why it cannot be.
func (b *bench) step(ctx context.Context, round int, what string, r *row, measure func(context.Context, *row) error) {
	if ctx.Err() != nil {
		return
	}
	start := time.Now()
	err := measure(ctx, r)
	r.fail(what, err)
	note := ""
	if err != nil {
		note = ": " + err.Error()
	}
	fmt.Fprintf(os.Stderr, "round %d, %s, %s: %.1f s%s\n", round+1, what, r.kind.key, time.Since(start).Seconds(), note)
}

// place makes room for a peer's storage. drop gives it back.
func (b *bench) place(ctx context.Context, k kind) (s setup, drop func(), err error) {
	b.mu.Lock()
	b.places++
	s.Dir = filepath.Join(b.root, fmt.Sprintf("%s-%d", k.key, b.places))
	b.mu.Unlock()
	if err := os.Mkdir(s.Dir, 0o700); err != nil {
		return s, nil, err
	}
	remove := func() { _ = os.RemoveAll(s.Dir) }
	switch {
	case k.nats:
		p, err := spawn(task{Do: "serve", Kind: k.key, Setup: s})
		if err != nil {
			return s, nil, err
		}
		m, err := p.next(ctx, 20*time.Second)
		if err != nil {
			p.kill()
			return s, nil, err
		}
		s.Server = m.Server
		return s, func() { p.kill(); remove() }, nil
	case !k.postgres:
		return s, remove, nil
	}
	if b.clusterErr != nil {
		return s, nil, b.clusterErr
	}
	name, err := b.cluster.database(ctx)
	if err != nil {
		return s, nil, err
	}
	s.Database = b.cluster.connString(name)
	return s, func() { remove(); b.cluster.drop(context.WithoutCancel(ctx), name) }, nil
}

// use opens a peer in this process, lets f work with it, and stops it.
func (b *bench) use(ctx context.Context, k kind, t *target, limit int, f func(peer) error) error {
	return b.useAt(ctx, k, t, limit, func(_ setup, p peer) error { return f(p) })
}

// useAt tells f as well where the peer is, so that other processes can open it too.
func (b *bench) useAt(ctx context.Context, k kind, t *target, limit int, f func(setup, peer) error) error {
	s, drop, err := b.place(ctx, k)
	if err != nil {
		return err
	}
	defer drop()
	s.URLs, s.Limit = t.urls, limit
	p, err := k.open(s)
	if err != nil {
		return err
	}
	err = f(s, p)
	t.reviveDead()
	return errors.Join(err, stopSoon(p))
}

var errNotStopped = errors.New("did not stop within 30 s")

// stopSoon stops a peer that may take too long.
func stopSoon(p peer) error {
	stopped := make(chan error, 1)
	go func() { stopped <- p.Stop() }()
	timer := time.NewTimer(30 * time.Second)
	defer timer.Stop()
	select {
	case err := <-stopped:
		return err
	case <-timer.C:
		return errNotStopped
	}
}
