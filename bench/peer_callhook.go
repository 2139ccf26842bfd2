package main

import (
	"context"
	"net/netip"

	"github.com/callhook-go/callhook"
)

func callhookKinds() []kind {
	return []kind{{
		key: memoryQueue, name: "callhook, memory queue", fsync: "none, in memory", embedded: true, ours: true, verify: verifyStandard,
		open: func(s setup) (peer, error) {
			// The room that MaxBytes gives by default ends at about 100,000 of these
			// events.
			return openCallhook(s, callhook.NewMemoryQueue(&callhook.MemoryOptions{MaxBytes: 4 << 30}))
		},
	}}
}

// callhookPeer is callhook with any queue that can be inspected.
type callhookPeer struct {
	queue callhook.Queue
	o     callhook.Options
	hooks *callhook.Hooks
	stop  context.CancelFunc
	ended chan error
}

func openCallhook(s setup, queue callhook.Queue) (peer, error) {
	// Alone a webhook may use all workers. Beside others it has the default, which
	// is what keeps a dead one from taking them all.
	concurrency := s.Attempts
	if len(s.URLs) == 1 {
		concurrency = workers
	}
	var configs []*callhook.Config
	for i, url := range s.URLs {
		configs = append(configs, config(i, url, concurrency))
	}
	p := &callhookPeer{queue: queue, o: callhook.Options{
		Configs: callhook.Static(configs...), Queue: queue, Concurrency: s.Attempts,
		AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}}
	var err error
	p.hooks, err = callhook.New(p.o)
	return p, err
}

func (p *callhookPeer) Enqueue(ctx context.Context, e event) error {
	return p.hooks.PostCall(ctx, callOf(e))
}

func (p *callhookPeer) Start(ctx context.Context) error {
	ctx, p.stop = context.WithCancel(ctx)
	p.ended = make(chan error, 1)
	go func() { p.ended <- p.hooks.Run(ctx) }()
	return nil
}

func (p *callhookPeer) Stop() error {
	var err error
	if p.stop != nil {
		p.stop()
		err = <-p.ended
	}
	if e := p.hooks.Close(); err == nil {
		err = e
	}
	if e := p.queue.Close(); err == nil {
		err = e
	}
	return err
}

func (p *callhookPeer) Pending(ctx context.Context) (int, error) {
	c, err := p.queue.(callhook.Inspector).Counts(ctx)
	return int(c.Pending), err
}

// Fill builds the deliveries as PostCall does, and stores them together.
func (p *callhookPeer) Fill(ctx context.Context, events []event) error {
	batch := &collector{Queue: p.queue}
	o := p.o
	o.Queue = batch
	hooks, err := callhook.New(o)
	if err != nil {
		return err
	}
	for _, e := range events {
		if err := hooks.PostCall(ctx, callOf(e)); err != nil {
			return err
		}
	}
	return p.queue.Enqueue(ctx, batch.ds...)
}

// collector keeps what is enqueued.
type collector struct {
	callhook.Queue
	ds []*callhook.Delivery
}

func (c *collector) Enqueue(_ context.Context, ds ...*callhook.Delivery) error {
	c.ds = append(c.ds, ds...)
	return nil
}
