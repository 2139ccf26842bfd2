package callhook

import (
	"container/list"
	"maps"
	"sync"
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
}

const maxGiven = 10_000

// put remembers the secrets of a call.
func (g *given) put(call *Call) {
	if len(call.Secrets) == 0 {
		return
	}
	key := givenKey{call.TenantID, call.AgentID, call.ID}
	g.mu.Lock()
	defer g.mu.Unlock()
	if e := g.calls[key]; e != nil {
		g.order.Remove(e)
	} else if len(g.calls) >= maxGiven {
		delete(g.calls, g.order.Remove(g.order.Back()).(*givenSecrets).key)
	}
	if g.calls == nil {
		g.calls = map[givenKey]*list.Element{}
	}
	g.calls[key] = g.order.PushFront(&givenSecrets{key, maps.Clone(call.Secrets)})
}

// get returns the secrets of the call that d is about; nil when they are not known.
func (g *given) get(d *Delivery) Variables {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e := g.calls[givenKey{d.Tenant, d.Agent, d.Call}]; e != nil {
		return e.Value.(*givenSecrets).secrets
	}
	return nil
}
