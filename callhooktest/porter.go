package callhooktest

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/callhook-go/callhook"
)

// porter is a Handler that keeps each lane to so many at a time as callhook does:
// what comes when a lane is full is parked, and what a lane has room for is
// released when one is done, until a Release finds fewer than it was to free. An
// engine that keeps back new ones of a lane with parked ones, and one that hands
// out everything, both have to come to the end with it.
type porter struct {
	tr      *trial
	limit   int
	attempt func(*callhook.Delivery) callhook.Verdict
	run     *run
	settled atomic.Int64

	mu    sync.Mutex
	lanes map[string]*porterLane
}

type porterLane struct {
	inFlight int
	coming   int  // released, and not back yet
	parked   bool // maybe
	parks    int
}

func newPorter(tr *trial, limit int, attempt func(*callhook.Delivery) callhook.Verdict) *porter {
	return &porter{tr: tr, limit: limit, attempt: attempt, lanes: map[string]*porterLane{}}
}

// begin is what callhook's Run does: it consumes, and begins with one of each lane.
func (p *porter) begin() {
	p.tr.Helper()
	p.run = p.tr.start(p.handle)
	p.tr.release("", 1)
}

// until waits until so many are settled, and checks that nothing is left.
func (p *porter) until(settled int64) {
	p.tr.Helper()
	p.tr.until("all are settled", func() bool { return p.settled.Load() >= settled })
	p.run.stop()
	if left := p.tr.note.open(); len(left) > 0 {
		p.tr.Errorf("%d are left, like %s", len(left), left[0])
	}
}

func (p *porter) handle(_ context.Context, d *callhook.Delivery) callhook.Verdict {
	name := d.Lane
	p.mu.Lock()
	l := p.lanes[name]
	if l == nil {
		l = &porterLane{parked: true} // by whoever ran before
		p.lanes[name] = l
	}
	if l.coming == 0 && p.tr.limits.Shared {
		l.parked = true // by whoever had the lane meanwhile
	}
	l.coming = max(0, l.coming-1)
	if l.inFlight >= p.limit {
		p.mu.Unlock()
		return callhook.Park().Then(func() { p.parkedOne(name, l, 0) })
	}
	l.inFlight++
	p.mu.Unlock()
	v := p.attempt(d)
	return v.Then(func() {
		switch v.State {
		case callhook.StateParked:
			p.parkedOne(name, l, 1)
			return
		case callhook.StateDelivered, callhook.StateDead:
			p.settled.Add(1)
		}
		p.mu.Lock()
		l.inFlight--
		p.mu.Unlock()
		p.pump(name, l)
	})
}

func (p *porter) parkedOne(name string, l *porterLane, left int) {
	p.mu.Lock()
	l.inFlight -= left
	l.parked = true
	l.parks++
	p.mu.Unlock()
	p.pump(name, l)
}

// pump releases what the lane has room for.
func (p *porter) pump(name string, l *porterLane) {
	for {
		p.mu.Lock()
		room := p.limit - l.inFlight - l.coming
		if room <= 0 || !l.parked {
			p.mu.Unlock()
			return
		}
		l.coming += room
		parks := l.parks
		p.mu.Unlock()
		freed, err := p.tr.q.Release(context.Background(), name, room)
		if err != nil {
			p.tr.Errorf("Release(%q, %d): %v", name, room, err)
		}
		p.mu.Lock()
		l.coming = max(0, l.coming-(room-freed))
		if freed < room && l.parks == parks {
			l.parked = false
		}
		p.mu.Unlock()
		if freed == room || err != nil {
			return
		}
	}
}
