package callhooktest_test

import (
	"cmp"
	"context"
	"hash/fnv"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
)

// crowd is a model that several processes share: each lane is one's at a time, by a hash
// of its name and theirs, and changes hands once nothing of it is in flight.
type crowd struct {
	engine *model
	fault  string

	mu      sync.Mutex
	changed *sync.Cond
	open    int
	joined  int
	here    []*member // those that consume
	lanes   map[string]*crowdLane
	end     func() // of the engine's Consume
	ending  bool
}

type crowdLane struct {
	by       *member
	inFlight int
}

// member is one process's queue.
type member struct {
	callhook.Inspector
	*crowd
	name      byte
	closed    bool
	consuming bool
	handle    callhook.Handler
	handling  sync.WaitGroup
}

var crowds = struct {
	sync.Mutex
	all map[string]*crowd // by folder
}{all: map[string]*crowd{}}

func openCrowd(t *testing.T, dir, fault string) callhook.Queue {
	crowds.Lock()
	defer crowds.Unlock()
	c := crowds.all[dir]
	if c == nil {
		c = &crowd{engine: openModel(t, dir, modelOptions{retains: true}), fault: fault, lanes: map[string]*crowdLane{}}
		c.changed = sync.NewCond(&c.mu)
		crowds.all[dir] = c
		t.Cleanup(func() { crowds.Lock(); delete(crowds.all, dir); crowds.Unlock() })
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
	c.joined++
	return &member{Inspector: c.engine, crowd: c, name: byte(c.joined)}
}

// owner is whose a lane, or a delivery, should be; nil for nobody's.
func (c *crowd) owner(of string) *member {
	if len(c.here) == 0 {
		return nil
	}
	rank := func(m *member) uint32 {
		h := fnv.New32a()
		_, _ = h.Write(append([]byte(of), m.name))
		return h.Sum32() * 2654435761
	}
	return slices.MaxFunc(c.here, func(a, b *member) int { return cmp.Compare(rank(a), rank(b)) })
}

// lane returns a lane, which it gives to whose it should be, if it can.
func (c *crowd) lane(name string) *crowdLane {
	l := c.lanes[name]
	if l == nil {
		l = &crowdLane{by: c.owner(name)}
		c.lanes[name] = l
	}
	if by := c.owner(name); by != nil && by != l.by && l.inFlight == 0 {
		another := l.by != nil
		if l.by = by; another && c.fault != "leaves what another has parked" {
			_, _ = c.engine.Release(context.Background(), name, 1)
		}
	}
	return l
}

// divide gives all lanes to whose they should be.
func (c *crowd) divide() {
	c.engine.mu.Lock()
	var names []string
	for name := range c.engine.lanes {
		names = append(names, name)
	}
	c.engine.mu.Unlock()
	for _, name := range names {
		c.lane(name)
	}
	c.changed.Broadcast()
}

// hand gives a delivery to whose its lane is.
func (c *crowd) hand(ctx context.Context, d *callhook.Delivery) callhook.Verdict {
	c.mu.Lock()
	l := c.lane(d.Lane)
	for ; l.by == nil || l.by != c.owner(d.Lane); l = c.lane(d.Lane) {
		if len(c.here) == 0 {
			c.mu.Unlock()
			return callhook.RetryAt(time.Now())
		}
		c.changed.Wait()
	}
	m := l.by
	if c.fault == "divides lanes" {
		m = c.owner(d.ID)
	}
	l.inFlight++
	m.handling.Add(1)
	c.mu.Unlock()
	v := m.handle(ctx, d)
	return v.Then(func() {
		v.Done()
		c.mu.Lock()
		defer c.mu.Unlock()
		l.inFlight--
		m.handling.Done()
		c.lane(d.Lane)
		c.changed.Broadcast()
	})
}

func (m *member) Limits() callhook.Limits {
	l := m.engine.Limits()
	l.Shared = true
	return l
}

func (m *member) over() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

func (m *member) Enqueue(ctx context.Context, ds ...*callhook.Delivery) error {
	if m.over() {
		return callhook.ErrQueueClosed
	}
	return m.engine.Enqueue(ctx, ds...)
}

func (m *member) Consume(ctx context.Context, handle callhook.Handler) error {
	m.mu.Lock()
	switch {
	case m.closed:
		m.mu.Unlock()
		return callhook.ErrQueueClosed
	case m.consuming:
		m.mu.Unlock()
		return errBusy
	case ctx.Err() != nil:
		m.mu.Unlock()
		return nil
	}
	for m.ending { // whoever was the last has some in flight
		m.changed.Wait()
	}
	m.consuming, m.handle = true, handle
	m.here = append(m.here, m)
	if len(m.here) == 1 {
		engine, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		m.end = func() { cancel(); <-ended }
		go func() {
			defer close(ended)
			_ = m.engine.Consume(engine, m.hand)
		}()
	}
	m.divide()
	m.mu.Unlock()
	<-ctx.Done()
	m.mu.Lock()
	m.here = slices.DeleteFunc(m.here, func(o *member) bool { return o == m })
	last := len(m.here) == 0
	m.ending = m.ending || last
	m.divide()
	m.mu.Unlock()
	if last {
		m.end()
		m.mu.Lock()
		m.ending = false
		m.changed.Broadcast()
		m.mu.Unlock()
	}
	m.handling.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.consuming = false
	return nil
}

func (m *member) Release(ctx context.Context, lane string, n int) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return 0, callhook.ErrQueueClosed
	}
	if len(m.here) == 0 || m.fault == "frees others' parked ones" {
		return m.engine.Release(ctx, lane, n)
	}
	m.divide()
	freed := 0
	for name, l := range m.lanes {
		if l.by == m && (name == lane || lane == "") {
			some, err := m.engine.Release(ctx, name, n)
			if err != nil {
				return freed, err
			}
			freed += some
		}
	}
	return freed, nil
}

func (m *member) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	if m.open--; m.open > 0 {
		return nil
	}
	return m.engine.Close()
}
