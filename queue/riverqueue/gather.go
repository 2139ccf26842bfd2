package riverqueue

import "sync"

// gatherer hands what many give to one goroutine, which lives while there is
// something to do: what comes while it works is its next piece of work.
type gatherer[E any] struct {
	mu      sync.Mutex
	waiting []E
	working bool
	idle    *sync.Cond
}

func (g *gatherer[E]) give(e E, work func([]E)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = append(g.waiting, e)
	if g.working {
		return
	}
	g.working = true
	go func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		for len(g.waiting) > 0 {
			all := g.waiting
			g.waiting = nil
			g.mu.Unlock()
			work(all)
			g.mu.Lock()
		}
		g.working = false
		if g.idle != nil {
			g.idle.Broadcast()
		}
	}()
}

// rest waits until nothing is left to do.
func (g *gatherer[E]) rest() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.idle == nil {
		g.idle = sync.NewCond(&g.mu)
	}
	for g.working {
		g.idle.Wait()
	}
}
