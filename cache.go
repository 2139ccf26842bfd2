package callhook

import (
	"container/list"
	"slices"
	"sync"
	"time"
)

// Bounds of the replies that are kept, for all agents together.
const (
	maxCached      = 10_000
	maxCachedBytes = 32 << 20
	sweepEvery     = time.Minute
)

// lookupKey tells which lookups would get the same reply.
type lookupKey struct {
	webhook *preCall // of one published config
	key     string
}

// cached is a reply that is kept.
type cached struct {
	key     lookupKey
	numbers []string // of the call that asked
	answer  reading
	status  int
	at      time.Time
}

func (c *cached) bytes() int { return 512 + len(c.key.key) + 3*len(c.answer.raw) } // its text, and what was read from it

// age is how it may be used now.
func (c *cached) age(now time.Time) (fresh, stale bool) {
	p, age := c.key.webhook, now.Sub(c.at)
	return age < p.cache, age < p.cache+p.staleFor
}

// cache keeps replies in memory, the ones that were used last.
type cache struct {
	mu      sync.Mutex
	entries map[lookupKey]*list.Element
	order   list.List // the last used first
	bytes   int
	shares  map[string]int // bytes of each tenant
	epoch   int            // how often somebody was forgotten
	timer   *time.Timer
	closed  bool
}

// get returns what is kept under a key, nil for nothing that is of use.
func (c *cache) get(key lookupKey, now time.Time) *cached {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[key]
	if e == nil {
		return nil
	}
	kept := e.Value.(*cached)
	if _, stale := kept.age(now); !stale {
		c.remove(e)
		return nil
	}
	c.order.MoveToFront(e)
	return kept
}

// now returns the epoch: what was asked before somebody was forgotten is not kept
// after.
func (c *cache) now() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

func (c *cache) put(kept *cached, epoch int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || epoch != c.epoch || kept.bytes() > maxCachedBytes/10 {
		return
	}
	if c.entries == nil {
		c.entries = map[lookupKey]*list.Element{}
	}
	if e := c.entries[kept.key]; e != nil {
		c.remove(e)
	}
	c.entries[kept.key] = c.order.PushFront(kept)
	c.bytes += kept.bytes()
	c.share(kept, kept.bytes())
	for len(c.entries) > maxCached || c.bytes > maxCachedBytes {
		c.remove(c.least())
	}
	if c.timer == nil {
		c.timer = time.AfterFunc(sweepEvery, c.sweep)
	}
}

func (c *cache) remove(e *list.Element) {
	kept := c.order.Remove(e).(*cached)
	delete(c.entries, kept.key)
	c.bytes -= kept.bytes()
	c.share(kept, -kept.bytes())
}

// share counts what a tenant has.
func (c *cache) share(kept *cached, n int) {
	if c.shares == nil {
		c.shares = map[string]int{}
	}
	tenant := kept.key.webhook.ref.Tenant
	if c.shares[tenant] += n; c.shares[tenant] == 0 {
		delete(c.shares, tenant)
	}
}

// least returns what goes when there is no room: of the tenant that has most, what was
// used longest ago. So one tenant's callers do not push out another's.
func (c *cache) least() *list.Element {
	most, whose := 0, ""
	for tenant, n := range c.shares {
		if n > most {
			most, whose = n, tenant
		}
	}
	e := c.order.Back()
	for e.Prev() != nil && e.Value.(*cached).key.webhook.ref.Tenant != whose {
		e = e.Prev()
	}
	return e
}

// sweep drops what is too old to be of use: it is somebody's data.
func (c *cache) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for _, e := range c.entries {
		if _, stale := e.Value.(*cached).age(now); !stale {
			c.remove(e)
		}
	}
	if c.timer = nil; len(c.entries) > 0 && !c.closed {
		c.timer = time.AfterFunc(sweepEvery, c.sweep)
	}
}

// forget drops what a tenant's endpoints said about a number, and what they are
// saying at the moment.
func (c *cache) forget(tenant, number string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	for _, e := range c.entries {
		if kept := e.Value.(*cached); kept.key.webhook.ref.Tenant == tenant && slices.Contains(kept.numbers, number) {
			c.remove(e)
			n++
		}
	}
	return n
}

func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed = true; c.timer != nil {
		c.timer.Stop()
	}
	c.entries, c.bytes, c.shares = nil, 0, nil
	c.order.Init()
}
