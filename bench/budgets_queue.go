package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/callhook-go/callhook"
)

// worked is what a process did in a time, with a backlog or without.
type worked struct {
	rate  float64       // deliveries a second, from the first one on
	first time.Duration // from the beginning of opening until the first arrived
	peak  int64         // bytes of anonymous memory
}

// backlogBudgets are those with a million pending.
func (b *bench) backlogBudgets(ctx context.Context, built func() error, add addBudget) {
	what := thousands(float64(b.backlog)) + " pending in sqlitequeue"
	if b.quick {
		what += " (1,000,000 without -quick)"
	}
	var full, empty worked
	fault := built()
	if fault == nil {
		full, empty, fault = b.backlogged(ctx)
	}
	add(what+": anonymous memory of the process at work", "≤ 200 MiB", func() (string, bool, error) {
		return mebibytes(full.peak), full.peak <= 200<<20, fault
	})
	add(what+": first delivery after open", "≤ 1 s", func() (string, bool, error) {
		return short(full.first), full.first <= time.Second, fault
	})
	add(what+": deliveries beside an empty queue", "≥ 0.7 ×", func() (string, bool, error) {
		if fault != nil {
			return "", false, fault
		}
		return ratio(full.rate, empty.rate, 0.7)
	})
}

// backlogged measures a queue that is opened with a backlog and one that is opened
// empty, each in a process of its own while 16 producers enqueue. They take turns, so
// that a slow minute of the machine hits both: the rates are medians, the rest the worst.
func (b *bench) backlogged(ctx context.Context) (full, empty worked, err error) {
	k, err := kindOf(sqliteQueue)
	if err != nil {
		return full, empty, err
	}
	var fulls, empties []worked
	for range b.rounds {
		for _, m := range []struct {
			to      *[]worked
			backlog int
		}{{&empties, 0}, {&fulls, b.backlog}} {
			w, err := b.worked(ctx, k, m.backlog)
			if err != nil {
				return full, empty, err
			}
			*m.to = append(*m.to, w)
		}
	}
	rate := func(w worked) float64 { return w.rate }
	full.rate, empty.rate = medianOf(fulls, rate), medianOf(empties, rate)
	for _, w := range fulls {
		full.first, full.peak = max(full.first, w.first), max(full.peak, w.peak)
	}
	return full, empty, nil
}

func (b *bench) worked(ctx context.Context, k kind, backlog int) (w worked, err error) {
	s, drop, err := b.place(ctx, k)
	if err != nil {
		return w, err
	}
	defer drop()
	t := b.receiver.target(k, 1, 0)
	defer t.close()
	s.URLs = t.urls
	const fresh = 20_000 // what producers raise at most in a second
	n := int(b.window.Seconds() * fresh)
	s.Limit = backlog + n
	if backlog > 0 {
		fill, err := spawn(task{Do: "fill", Kind: k.key, Setup: s, N: backlog, From: n})
		if err != nil {
			return w, err
		}
		_, err = fill.next(ctx, 20*time.Minute)
		if err == nil {
			<-fill.done
		}
		fill.kill()
		if err != nil {
			return w, err
		}
	}
	p, err := spawn(task{Do: "work", Kind: k.key, Setup: s, N: n, Window: b.window})
	if err != nil {
		return w, err
	}
	defer p.kill()
	opened, err := p.next(ctx, time.Minute)
	if err != nil {
		return w, err
	}
	done, err := p.next(ctx, b.window+time.Minute)
	if err != nil {
		return w, err
	}
	count, now, first := t.arrived(), time.Now(), t.first()
	if count == 0 {
		return w, fmt.Errorf("nothing was delivered in %s", b.window)
	}
	return worked{rate: float64(count) / now.Sub(first).Seconds(), first: first.Sub(opened.Opened), peak: done.Peak}, nil
}

// idle delivers to many lanes and looks what is left when the receiver has closed its
// connections and Run goes on.
func (b *bench) idle() (string, bool, error) {
	const agents, events = 50, 500
	var got atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got.Add(1) }))
	defer server.Close()
	var configs []*callhook.Config
	for i := range agents {
		c := config(i, server.URL, 0)
		c.PreCall = &callhook.PreCallWebhook{Endpoint: callhook.Endpoint{URL: server.URL}}
		configs = append(configs, c)
	}
	hooks, err := callhook.New(callhook.Options{Configs: callhook.Static(configs...), AllowNets: loopback})
	if err != nil {
		return "", false, err
	}
	defer hooks.Close()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- hooks.Run(ctx) }()
	before := settledGoroutines()
	for i := range events {
		call := callOf(event{id: i, endpoint: i % agents})
		hooks.PreCall(ctx, call)
		if err := hooks.PostCall(ctx, call); err != nil {
			return "", false, err
		}
	}
	err = poll(ctx, 30*time.Second, func() bool { return got.Load() == 2*events },
		func() error { return fmt.Errorf("%d of %d requests arrived", got.Load(), 2*events) })
	if err != nil {
		return "", false, err
	}
	server.CloseClientConnections()
	_ = poll(ctx, 3*time.Second, func() bool { return runtime.NumGoroutine() <= before }, func() error { return errLate })
	after := runtime.NumGoroutine()
	stop()
	return fmt.Sprintf("%d before, %d after", before, after), after <= before, <-ended
}

// settledGoroutines counts goroutines once what ended before is gone.
func settledGoroutines() int {
	n := runtime.NumGoroutine()
	for range 20 {
		time.Sleep(5 * time.Millisecond)
		n = min(n, runtime.NumGoroutine())
	}
	return n
}
