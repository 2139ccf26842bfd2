package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// engineKinds are the rows of the second part: callhook on engines that several machines
// share, each beside the engine used bare that makes the same promise.
func engineKinds() []kind {
	return slices.Concat(
		natsqueueKinds(),
		riverqueueKinds(),
	)
}

// engineSizes are those of the second part.
func (o options) engineSizes() sizes {
	s := o.sizes()
	s.processes, s.pending, s.deadN, s.killN, s.limit = []int{1, 2, 4}, 20_000, 100_000, 1_000, 3*time.Minute
	s.killLimit = 90 * time.Second // River looks every 30 s, and may need another leader first
	if o.quick {
		s.processes, s.pending, s.deadN, s.killN, s.limit = []int{1, 2}, 500, 2_000, 400, 30*time.Second
		s.dead, s.grace, s.killLimit = 2*time.Second, time.Second, 16*time.Second
	}
	return s
}

// runEngines does the second part and prints it.
func runEngines(ctx context.Context, o options) error {
	began := time.Now()
	b := &bench{options: o, sizes: o.engineSizes()}
	rows, err := o.rows(engineKinds())
	if err != nil {
		return err
	}
	if err := b.start(ctx, rows); err != nil {
		return err
	}
	defer b.end()
	for round := range b.rounds {
		b.engineRound(ctx, round, rows)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return b.publish("engines.md", b.enginesText(ctx, rows, time.Since(began)))
}

// engineRound measures every row once, in turns.
func (b *bench) engineRound(ctx context.Context, round int, rows []*row) {
	turn := turns(round, rows)
	step := func(what string, r *row, measure func(context.Context, *row) error) {
		limited, cancel := context.WithTimeout(ctx, b.limit)
		defer cancel()
		b.step(limited, round, what, r, measure)
	}
	each := func(what string, measure func(context.Context, *row) error) {
		for _, r := range turn {
			step(what, r, measure)
		}
	}
	// What takes its time because of timeouts and not of the machine.
	together := func(what string, measure func(context.Context, *row) error) {
		var all sync.WaitGroup
		for _, r := range turn {
			all.Go(func() { step(what, r, measure) })
		}
		all.Wait()
	}
	each("enqueue", b.accept)
	for _, n := range b.processes {
		each(deliveryBy(n), func(ctx context.Context, r *row) error { return b.delivery(ctx, r, n) })
	}
	for _, n := range b.processes {
		each(throughBy(n), func(ctx context.Context, r *row) error { return b.passThrough(ctx, r, n) })
	}
	if b.quick {
		together("dead", b.deadBacklog)
	} else {
		each("dead", b.deadBacklog)
	}
	together("kill", b.takeover)
}

// The names of measurements that there are several of.
func deliveryBy(processes int) string { return fmt.Sprintf("delivery by %d", processes) }
func throughBy(processes int) string  { return fmt.Sprintf("end to end by %d", processes) }

// shared is what processes delivered together.
type shared struct {
	rate  float64 // a second
	least float64 // the share of the one that delivered least
}

func sharedBy(processes int, t *target, rate float64) shared {
	by, sum := t.senders(), 0
	for _, n := range by {
		sum += n
	}
	if len(by) < processes {
		return shared{rate: rate}
	}
	return shared{rate: rate, least: float64(slices.Min(by)) / float64(sum)}
}

// delivery measures how soon a backlog over ten endpoints is delivered by so many
// processes, from the first that arrives on.
func (b *bench) delivery(ctx context.Context, r *row, processes int) error {
	t := b.receiver.target(r.kind, endpoints, 0)
	defer t.close()
	n := b.backlogOf(r.kind)
	return b.staffed(ctx, r.kind, t, processes, workers, func(s setup, p peer, all staff) error {
		fill := task{Setup: s, N: n}
		if err := fill.pile(ctx, p); err != nil {
			return err
		}
		if err := all.start(); err != nil {
			return err
		}
		if err := t.wait(ctx, n, b.limit); err != nil {
			return err
		}
		rate := float64(n) / time.Since(t.first()).Seconds()
		r.delivered[processes] = append(r.delivered[processes], sharedBy(processes, t, rate))
		r.twice += t.repeated()
		return nil
	})
}

// backlogOf is less where each message is synced on its own, when it is settled too.
func (b *bench) backlogOf(k kind) int {
	if k.nats && k.synced {
		return b.pending / 4
	}
	return b.pending
}

// passThrough measures end to end: 16 producers raise events here while so many
// processes deliver.
func (b *bench) passThrough(ctx context.Context, r *row, processes int) error {
	t := b.receiver.target(r.kind, endpoints, 0)
	defer t.close()
	n := b.backlogOf(r.kind) / 4
	return b.staffed(ctx, r.kind, t, processes, workers, func(_ setup, p peer, all staff) error {
		if err := all.start(); err != nil {
			return err
		}
		warm, err := b.settle(ctx, p, t, processes)
		if err != nil {
			return err
		}
		t.recount()
		start := time.Now()
		if err := enqueueAll(ctx, p, b.spread[:n], workers); err != nil {
			return err
		}
		if err := t.wait(ctx, warm+n, b.limit); err != nil {
			return err
		}
		rate := float64(n) / time.Since(start).Seconds()
		r.through[processes] = append(r.through[processes], sharedBy(processes, t, rate))
		r.twice += t.repeated()
		return nil
	})
}

// Limits at the start of processes.
const (
	warmLimit   = 20 * time.Second // until what was raised first has arrived
	settleLimit = 5 * time.Second  // until all have sent something: there may be no lane for one
)

// settle raises an event for each endpoint, again and again, until all processes have
// sent one, so that they have divided the lanes before there is much to do. It returns how
// many have arrived.
func (b *bench) settle(ctx context.Context, p peer, t *target, processes int) (n int, err error) {
	for end := time.Now().Add(settleLimit); len(t.senders()) < processes && (n == 0 || time.Now().Before(end)); {
		events := eventsOf(len(b.spread)+n, endpoints, endpoints)
		n += endpoints
		if err := enqueueAll(ctx, p, events, 1); err != nil {
			return n, err
		}
		if err := t.wait(ctx, n, warmLimit); err != nil {
			return n, err
		}
	}
	return n, nil
}

// deadBacklog measures the healthy endpoints of ten beside one that is dead and has many
// pending, with two processes at work, and before it without all that. callhook has its
// defaults here, as in the first part: they are what keeps a dead endpoint from taking
// all attempts.
func (b *bench) deadBacklog(ctx context.Context, r *row) error {
	for dead, to := range []*[]tail{&r.alone, &r.beside} {
		t := b.receiver.target(r.kind, endpoints, dead)
		err := b.staffed(ctx, r.kind, t, 2, 0, func(s setup, p peer, all staff) error {
			limit := warmLimit
			if dead > 0 {
				fill := task{Setup: s, N: b.deadN, From: len(b.spread)}
				fill.Setup.URLs = s.URLs[:1]
				if err := fill.pile(ctx, p); err != nil {
					return err
				}
				limit = b.grace
			}
			if err := all.start(); err != nil {
				return err
			}
			if err := b.warm(ctx, p, t, limit); err != nil && (dead == 0 || !errors.Is(err, errLate)) {
				return err // beside a dead one that they are late is what is measured
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

// takeover measures what becomes of a backlog when one of two processes is killed with
// requests in flight. Each takes 100 ms here, so that there are some at any time.
func (b *bench) takeover(ctx context.Context, r *row) error {
	t := b.receiver.target(r.kind, endpoints, 0)
	defer t.close()
	t.delay = 100 * time.Millisecond
	return b.staffed(ctx, r.kind, t, 2, workers, func(s setup, p peer, all staff) error {
		if err := all.start(); err != nil {
			return err
		}
		warm, err := b.settle(ctx, p, t, len(all))
		if err != nil {
			return err
		}
		n := warm + b.killN
		fill := task{Setup: s, N: b.killN}
		if err := fill.pile(ctx, p); err != nil {
			return err
		}
		if err := t.inFlight(ctx, workers+workers/2, warmLimit); err != nil {
			return err // so many that either process has half of its 16 at least
		}
		start := time.Now()
		all[0].kill()
		k := killed{accepted: n, limit: b.killLimit}
		err = poll(ctx, k.limit, func() bool { return t.arrived() == n }, func() error { return errLate })
		if err != nil && !errors.Is(err, errLate) {
			return err
		}
		cut := t.cutIDs()
		k.inFlight, k.twice = len(cut), t.repeated()
		for _, id := range cut {
			if at := t.arrival(id); !at.IsZero() {
				k.again = max(k.again, at.Sub(start))
				k.twice++
			}
		}
		if k.inFlight == 0 {
			return errors.New("nothing was in flight in the process that was killed")
		}
		if k.lost = n - t.arrived(); k.lost > 0 {
			pending, err := p.(counter).Pending(ctx)
			if err != nil {
				return err
			}
			lost := n - t.arrived() // it may have come since
			k.waiting = min(lost, pending)
			k.lost = lost - k.waiting
		}
		r.kills = append(r.kills, k)
		return nil
	})
}

// staff are processes that deliver for a peer.
type staff []*process

// staffed opens a peer here, for producers, and in so many processes, which deliver
// once they are told to, to URLs that tell them apart. Each of callhook's has so many attempts at once, or as many as
// it has by default.
func (b *bench) staffed(ctx context.Context, k kind, t *target, processes, attempts int, f func(setup, peer, staff) error) error {
	return b.useAt(ctx, k, t, b.pending, func(s setup, p peer) error {
		s.Attempts = attempts
		var all staff
		defer func() { all.kill() }()
		for i := range processes {
			own := s
			own.URLs = nil
			for _, url := range s.URLs {
				own.URLs = append(own.URLs, fmt.Sprintf("%s?process=%d", url, i))
			}
			w, err := spawn(task{Do: "deliver", Kind: k.key, Setup: own})
			if err != nil {
				return err
			}
			all = append(all, w)
		}
		for _, w := range all {
			if _, err := w.next(ctx, 30*time.Second); err != nil {
				return fmt.Errorf("a process that delivers: %w", err)
			}
		}
		return f(s, p, all)
	})
}

// start lets them deliver.
func (all staff) start() error {
	for _, w := range all {
		if _, err := io.WriteString(w.stdin, "\n"); err != nil {
			return err
		}
	}
	return nil
}

func (all staff) kill() {
	for _, w := range all {
		w.kill()
	}
}
