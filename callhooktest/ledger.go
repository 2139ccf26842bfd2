package callhooktest

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/callhook-go/callhook"
)

// ledger notes what became of each delivery, and knows by that what must not be
// handed out, whatever a subtest is about.
type ledger struct {
	limits callhook.Limits

	mu     sync.Mutex
	of     map[string]*entry
	chains map[[2]string][]*entry // of one call in one lane, as raised
}

type entry struct {
	id       string
	ordered  bool
	attempts int // as last stored
	inFlight bool
	settled  callhook.State
	chain    [2]string
}

func newLedger() *ledger {
	return &ledger{of: map[string]*entry{}, chains: map[[2]string][]*entry{}}
}

// copy is what is known after a crash: nothing is in flight.
func (l *ledger) copy() *ledger {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := newLedger()
	c.limits = l.limits
	for id, e := range l.of {
		again := *e
		again.inFlight = false
		c.of[id] = &again
	}
	for key, chain := range l.chains {
		for _, e := range chain {
			c.chains[key] = append(c.chains[key], c.of[e.id])
		}
	}
	return c
}

// raised notes deliveries before they are enqueued.
func (l *ledger) raised(ds ...*callhook.Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range ds {
		if l.of[d.ID] != nil {
			continue
		}
		key := [2]string{d.Lane, d.Call}
		e := &entry{id: d.ID, ordered: d.Ordered && l.limits.Ordered, attempts: d.Attempts, chain: key}
		l.of[d.ID] = e
		l.chains[key] = append(l.chains[key], e)
	}
}

// enter notes that a delivery is handed out, and says when it must not be.
func (l *ledger) enter(d *callhook.Delivery) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.of[d.ID]
	switch {
	case e == nil:
		return fmt.Errorf("a delivery with the ID %q was handed out, which nobody enqueued", d.ID)
	case e.inFlight:
		return fmt.Errorf("%s was handed out while a handler had it: a delivery is in one handler at a time", d.ID)
	case e.settled != "":
		return fmt.Errorf("%s was handed out again, though it was settled as %s", d.ID, e.settled)
	}
	e.inFlight = true
	for _, earlier := range l.chains[e.chain] {
		switch {
		case earlier == e:
			return nil
		case e.ordered:
			return fmt.Errorf("%s was handed out before %s was settled: it is Ordered, and the other is earlier in its call and lane", d.ID, earlier.id)
		case earlier.attempts == 0:
			return fmt.Errorf("%s was handed out before %s: that is earlier in the same call and lane, and has no Attempts yet", d.ID, earlier.id)
		}
	}
	return nil
}

// leave notes a verdict.
func (l *ledger) leave(id string, d *callhook.Delivery, v callhook.Verdict) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.of[id]
	if e == nil {
		return
	}
	e.inFlight, e.attempts = false, d.Attempts
	if v.State == callhook.StateDelivered || v.State == callhook.StateDead {
		e.settled = v.State
		l.unchain(e)
	}
}

// unchain takes a delivery out of its call: no later one waits for it.
func (l *ledger) unchain(e *entry) {
	rest := slices.DeleteFunc(l.chains[e.chain], func(o *entry) bool { return o == e })
	if l.chains[e.chain] = rest; len(rest) == 0 {
		delete(l.chains, e.chain)
	}
}

// replayed notes that settled deliveries may come again, in whatever order.
func (l *ledger) replayed(ids ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		l.of[id].settled = ""
	}
}

// erased notes that deliveries must not come again.
func (l *ledger) erased(ids ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		e := l.of[id]
		e.settled = "erased"
		l.unchain(e)
	}
}

// open returns the IDs of those that are not settled.
func (l *ledger) open() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []string
	for id := range maps.Keys(l.of) {
		if l.of[id].settled == "" {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}
