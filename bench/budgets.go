package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// budget is a line of the second table: what DESIGN promises, and whether it holds.
type budget struct{ what, bound, measured, verdict string }

const (
	pass     = "pass"
	fail     = "fail"
	notBuilt = "not built"
)

// verdict is that of a measurement.
func verdict(ok bool) string {
	if ok {
		return pass
	}
	return fail
}

// budgets are measured one after the other.
type budgets []budget

// add measures one and notes it.
func (bs *budgets) add(what, bound string, measure func() (measured string, ok bool, err error)) {
	start := time.Now()
	measured, ok, err := measure()
	line := budget{what, bound, measured, verdict(ok)}
	switch {
	case err == errNotBuilt:
		line.measured, line.verdict = "", notBuilt
	case err == errNoRow:
		line.measured, line.verdict = err.Error(), "not measured"
	case err != nil:
		line.measured, line.verdict = why(err), fail
	}
	fmt.Fprintf(os.Stderr, "budget, %s: %.1f s, %s\n", what, time.Since(start).Seconds(), line.verdict)
	*bs = append(*bs, line)
}

// ownBudgets are those that concern callhook alone. They are measured first, while
// nothing else is in this process.
func (b *bench) ownBudgets(ctx context.Context) (bs budgets) {
	bs.add("idle: goroutines when idle connections have closed", "as before", b.idle)
	b.lookupBudgets(ctx, bs.add)
	b.buildBudgets(bs.add)
	return bs
}

// queueBudgets are those that compare with peers: their rows have been measured.
func (b *bench) queueBudgets(ctx context.Context, rows []*row) (bs budgets) {
	find := func(key string) *row {
		for _, r := range rows {
			if r.kind.key == key {
				return r
			}
		}
		return nil
	}
	add := bs.add
	memory, synced, pool := find(memoryQueue), find(sqliteQueue), find(barePool)
	built := func() error {
		if synced == nil {
			if _, err := kindOf(sqliteQueue); err != nil {
				return errNotBuilt
			}
			return errNoRow
		}
		return nil
	}
	best := bestEmbedded(rows)
	add("memory queue, end to end, bodies built, beside the bare pool", "≥ 0.8 ×", func() (string, bool, error) {
		return b.besidePool(ctx, memory, pool)
	})
	add("sqlitequeue synced, enqueue with 16 producers, beside the best embedded peer that syncs", "≥ 8 ×", func() (string, bool, error) {
		if err := built(); err != nil {
			return "", false, err
		}
		return best(synced, func(r *row) float64 {
			return medianOf(r.enqueue16, func(e enqueued) float64 { return e.rate })
		}, 8)
	})
	add("sqlitequeue synced, end to end, beside the best embedded peer that syncs", "≥ 3 ×", func() (string, bool, error) {
		if err := built(); err != nil {
			return "", false, err
		}
		return best(synced, endToEnd, 3)
	})
	add("sqlitequeue synced, end to end, beside the bare pool", "≥ 0.25 ×", func() (string, bool, error) {
		if err := built(); err != nil {
			return "", false, err
		}
		return ratio(endToEnd(synced), endToEnd(pool), 0.25)
	})
	add("1 of 10 dead, 100 events/s, memory queue: healthy ones", "all delivered, p99 ≤ 5 ms over", func() (string, bool, error) {
		return deadBudget(memory)
	})
	add("1 of 10 dead, 100 events/s, sqlitequeue synced: healthy ones", "all delivered, p99 ≤ 5 ms over", func() (string, bool, error) {
		if err := built(); err != nil {
			return "", false, err
		}
		return deadBudget(synced)
	})
	b.backlogBudgets(ctx, built, add)
	add("kill -9, sqlitequeue synced", "nothing lost, redelivery ≤ 1 s from the restart", func() (string, bool, error) {
		if err := built(); err != nil {
			return "", false, err
		}
		text, ok := killCell(synced.kills)
		if !ok {
			return why(synced.errs["kill"]), false, nil
		}
		for _, k := range synced.kills {
			ok = ok && k.lost == 0 && k.waiting == 0 && k.again <= time.Second
		}
		return text, ok, nil
	})
	return bs
}

// besidePool measures both again, five times in turn: their rows lie too far apart in
// time for a bound that is this close.
func (b *bench) besidePool(ctx context.Context, memory, pool *row) (string, bool, error) {
	if memory == nil || pool == nil {
		return "", false, errNoRow
	}
	var ours, theirs []float64
	for range 5 {
		for _, m := range []struct {
			kind kind
			to   *[]float64
		}{{memory.kind, &ours}, {pool.kind, &theirs}} {
			rate, err := b.endToEnd(ctx, m.kind, b.memoryN)
			if err != nil {
				return "", false, err
			}
			*m.to = append(*m.to, rate)
		}
	}
	return ratio(median(ours), median(theirs), 0.8)
}

type addBudget func(what, bound string, measure func() (measured string, ok bool, err error))

func endToEnd(r *row) float64 {
	if r == nil {
		return 0
	}
	return median(r.endToEnd)
}

// ratio compares ours with a peer's.
func ratio(ours, theirs, least float64) (string, bool, error) {
	if ours == 0 || theirs == 0 {
		return "", false, errNoRow
	}
	return fmt.Sprintf("%.3g × (%s/s and %s/s)", ours/theirs, thousands(ours), thousands(theirs)), ours/theirs >= least, nil
}

// bestEmbedded compares with the best of those that have no server and put every
// event on the disk before they accept it.
func bestEmbedded(rows []*row) func(ours *row, figure func(*row) float64, least float64) (string, bool, error) {
	return func(ours *row, figure func(*row) float64, least float64) (string, bool, error) {
		var name string
		var theirs float64
		for _, r := range rows {
			if k := r.kind; k.synced && k.embedded && !k.ours && figure(r) > theirs {
				name, theirs = k.name, figure(r)
			}
		}
		text, ok, err := ratio(figure(ours), theirs, least)
		return text + ", " + name, ok, err
	}
}

func deadBudget(r *row) (string, bool, error) {
	if r == nil || len(r.beside) == 0 || len(r.alone) == 0 {
		return "", false, errNoRow
	}
	alone := medianOf(r.alone, func(t tail) time.Duration { return t.p99 })
	beside := medianOf(r.beside, func(t tail) time.Duration { return t.p99 })
	missing := 0
	for _, t := range r.beside {
		missing += t.missing
	}
	over := beside - alone
	text := fmt.Sprintf("%.1f ms (%s and %s)", over.Seconds()*1000, short(alone), short(beside))
	if missing > 0 {
		text += fmt.Sprintf(", %d not delivered", missing)
	}
	return text, over <= 5*time.Millisecond && missing == 0, nil
}
