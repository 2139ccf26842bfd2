package callhook

import (
	"container/list"
	"slices"
	"strings"
	"sync"
	"time"
)

// given remembers the secrets that calls gave, for their later webhooks: in memory,
// since no secret is stored, and only those that a webhook refers to. Where there is no
// room for more, the tenant that has most loses its oldest.
type given struct {
	mu      sync.Mutex
	tenants map[string]*givenTenant
	n       int
	bytes   int
}

// givenTenant is what one tenant's calls gave.
type givenTenant struct {
	calls map[givenKey]*list.Element
	order list.List // the last first
	bytes int
}

type givenKey struct{ agent, call string }

type givenSecrets struct {
	key     givenKey
	secrets map[string]string // texts that can stand in a header
	numbers []string          // the call's, to be forgotten by
	at      time.Time
	bytes   int
}

const (
	maxGiven      = 10_000 // calls
	maxGivenBytes = 32 << 20
	// giveFor is how long they are remembered: as long as deliveries are tried.
	giveFor = 72 * time.Hour
)

// givenText returns the text of a secret variable, empty where it cannot stand in a
// header.
func givenText(v any) string {
	coerced, reason := coerce(v, "string")
	text, _ := coerced.(string)
	if reason != "" || len(text) > maxVariableBytes || strings.ContainsFunc(text, isControl) {
		return ""
	}
	return text
}

// put remembers the secrets of a call that webhooks refer to by these names.
func (g *given) put(call *Call, names []string) {
	s := &givenSecrets{key: givenKey{call.AgentID, call.ID}, at: time.Now(), bytes: 512}
	for _, name := range names {
		if text := givenText(call.Secrets[name]); text != "" {
			if s.secrets == nil {
				s.secrets = map[string]string{}
			}
			s.secrets[name] = strings.Clone(text)
			s.bytes += len(name) + len(text)
		}
	}
	if s.secrets == nil {
		return
	}
	s.numbers = call.numbers()
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.tenants[call.TenantID]
	if t == nil {
		t = &givenTenant{calls: map[givenKey]*list.Element{}}
		if g.tenants == nil {
			g.tenants = map[string]*givenTenant{}
		}
		g.tenants[call.TenantID] = t
	}
	g.drop(t, t.calls[s.key])
	for last := t.order.Back(); last != nil && s.at.Sub(last.Value.(*givenSecrets).at) > giveFor; last = t.order.Back() {
		g.drop(t, last)
	}
	t.calls[s.key] = t.order.PushFront(s)
	t.bytes += s.bytes
	g.bytes += s.bytes
	g.n++
	for g.n > maxGiven || g.bytes > maxGivenBytes {
		most, name := t, call.TenantID
		for n, other := range g.tenants {
			if other.bytes > most.bytes {
				most, name = other, n
			}
		}
		if g.drop(most, most.order.Back()); most.order.Len() == 0 {
			delete(g.tenants, name)
		}
	}
}

func (g *given) drop(t *givenTenant, e *list.Element) {
	if e != nil {
		s := t.order.Remove(e).(*givenSecrets)
		delete(t.calls, s.key)
		t.bytes -= s.bytes
		g.bytes -= s.bytes
		g.n--
	}
}

// get returns the secrets of the call that d is about; nil when they are not known.
func (g *given) get(d *Delivery) map[string]string {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.tenants[d.Tenant]
	if t == nil {
		return nil
	}
	e := t.calls[givenKey{d.Agent, d.Call}]
	switch {
	case e == nil:
		return nil
	case time.Since(e.Value.(*givenSecrets).at) > giveFor:
		g.drop(t, e)
		return nil
	}
	return e.Value.(*givenSecrets).secrets
}

// forget drops what calls with a number of the tenant's gave, which is as bare writes it.
func (g *given) forget(tenant, number string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.tenants[tenant]
	if t == nil {
		return
	}
	for _, e := range t.calls {
		if slices.Contains(e.Value.(*givenSecrets).numbers, number) {
			g.drop(t, e)
		}
	}
}

func (g *given) clear() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tenants, g.n, g.bytes = nil, 0, 0
}
