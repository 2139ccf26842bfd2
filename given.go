package callhook

import (
	"container/list"
	"maps"
	"slices"
	"sync"
	"time"
)

// given remembers the secrets that calls gave, for their later webhooks: in memory,
// since no secret is stored. The calls that were last heard of are remembered.
type given struct {
	mu    sync.Mutex
	calls map[givenKey]*list.Element
	order list.List // the last first
}

type givenKey struct{ tenant, agent, call string }

type givenSecrets struct {
	key     givenKey
	secrets Variables
	numbers [2]string // the call's, to be forgotten by
	at      time.Time
}

const (
	maxGiven = 10_000
	// giveFor is how long they are remembered: as long as deliveries are tried.
	giveFor = 72 * time.Hour
)

// put remembers the secrets of a call.
func (g *given) put(call *Call) {
	if len(call.Secrets) == 0 {
		return
	}
	key, now := givenKey{call.TenantID, call.AgentID, call.ID}, time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drop(g.calls[key])
	for last := g.order.Back(); last != nil && (g.order.Len() >= maxGiven || now.Sub(last.Value.(*givenSecrets).at) > giveFor); last = g.order.Back() {
		g.drop(last)
	}
	if g.calls == nil {
		g.calls = map[givenKey]*list.Element{}
	}
	g.calls[key] = g.order.PushFront(&givenSecrets{key, maps.Clone(call.Secrets), [2]string{bare(call.From), bare(call.To)}, now})
}

func (g *given) drop(e *list.Element) {
	if e != nil {
		delete(g.calls, g.order.Remove(e).(*givenSecrets).key)
	}
}

// get returns the secrets of the call that d is about; nil when they are not known.
func (g *given) get(d *Delivery) Variables {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.calls[givenKey{d.Tenant, d.Agent, d.Call}]
	switch {
	case e == nil:
		return nil
	case time.Since(e.Value.(*givenSecrets).at) > giveFor:
		g.drop(e)
		return nil
	}
	return e.Value.(*givenSecrets).secrets
}

// forget drops what calls with a number of the tenant's gave, which is as bare writes it.
func (g *given) forget(tenant, number string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for key, e := range g.calls {
		if key.tenant == tenant && slices.Contains(e.Value.(*givenSecrets).numbers[:], number) {
			g.drop(e)
		}
	}
}

func (g *given) clear() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.calls)
	g.order.Init()
}
