package callhook

import "fmt"

// AtRest returns what keeps the lanes of hooks, and the memory queue q, from being
// at rest: counters that are not zero and turns that nobody takes.
func AtRest(h *Hooks, q Queue) (faults []string) {
	ls := &h.lanes
	ls.mu.Lock()
	defer ls.mu.Unlock()
	is := func(what string, n int) {
		if n != 0 {
			faults = append(faults, fmt.Sprintf("%s: %d", what, n))
		}
	}
	is("in flight", ls.inFlight)
	is("coming", ls.coming)
	is("unproven", ls.unproven)
	is("wakes", len(ls.wakes))
	is("news", len(ls.news))
	is("asks", ls.asks.len())
	if ls.asking || ls.telling {
		faults = append(faults, "somebody asks or tells")
	}
	for i := range ls.turns {
		is("turns", ls.turns[i].tenants.len()+len(ls.turns[i].by))
	}
	for name, l := range ls.all {
		is(name+" in flight", l.inFlight)
		is(name+" coming", l.coming)
		is(name+" charged", l.charged)
		if l.hungry || l.due || l.backlog || l.index >= 0 {
			faults = append(faults, fmt.Sprintf("%s: hungry %t, due %t, backlog %t, in wakes at %d", name, l.hungry, l.due, l.backlog, l.index))
		}
	}
	if m, ok := q.(*MemoryQueue); ok {
		m.mu.Lock()
		defer m.mu.Unlock()
		is("ready", m.ready.len())
		is("waiting", len(m.waiting))
		is("chains", len(m.chains))
		is("starting", m.starting)
		is("bytes that are not those of dead letters", int(m.bytes-m.deadBytes))
		is("items that are no dead letters", len(m.items)-m.dead.len())
		for name, l := range m.lanes {
			is(name+" parked", l.parked())
			is(name+" waiting", len(l.waiting))
			is(name+" listed", l.pending.len())
		}
	}
	return faults
}
