package main

import (
	"context"
	"sync"
	"sync/atomic"
)

func poolKinds() []kind {
	return []kind{{
		key: barePool, name: "bare net/http worker pool", fsync: "none, in memory", embedded: true, verify: verifyStandard,
		open: func(s setup) (peer, error) {
			return &pool{sender: newSender(s.URLs), jobs: make(chan event, s.Limit)}, nil
		},
	}}
}

// pool is what callhook is measured by: goroutines that sign and post, with no
// retries, no order, no limits and nothing stored.
type pool struct {
	sender  *sender
	jobs    chan event
	stopped atomic.Bool
	done    sync.WaitGroup
}

func (p *pool) Enqueue(ctx context.Context, e event) error {
	select {
	case p.jobs <- e:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *pool) Start(context.Context) error {
	for range workers {
		p.done.Go(func() {
			for e := range p.jobs {
				if p.stopped.Load() {
					return
				}
				_ = p.sender.send(context.Background(), e.endpoint, callID(e.id), e.body)
			}
		})
	}
	return nil
}

func (p *pool) Stop() error {
	p.stopped.Store(true)
	close(p.jobs)
	p.done.Wait()
	p.sender.close()
	return nil
}
