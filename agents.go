package callhook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// agents finds the compiled config of an agent: without a lock while what is known
// is fresh, and otherwise by asking the source.
type agents struct {
	source ConfigSource
	log    *slog.Logger
	// published is told that an agent has another config in production. Nil for
	// nobody.
	published func(ConfigRef)

	all    sync.Map // of agentKey to *known
	size   atomic.Int64
	epoch  atomic.Uint64 // what was answered in it is fresh; zero while nobody watches
	epochs atomic.Uint64 // so many there were
}

type agentKey struct{ tenant, agent string }

// known is what is known of an agent.
type known struct {
	production atomic.Pointer[answer]
	revisions  atomic.Pointer[map[int]*answer] // replaced, never changed
	asking     chan struct{}                   // full while somebody asks
	told       atomic.Pointer[string]          // the last fault in the log

	mu   sync.Mutex // of those who replace answers
	news bool       // production has changed, and published was not told
}

// answer is what the source has said last, or the last good of it.
type answer struct {
	agent   *agent    // nil for none
	err     error     // why there is none
	lasting bool      // it is fresh for ever
	watched bool      // the source tells when it changes
	epoch   uint64    // in which it is fresh; zero for none
	until   time.Time // when it is no longer fresh, whatever the epoch
}

// watchable is a source that tells of changes, as [ConfigStore] says.
type watchable interface {
	Watch(ctx context.Context, changed func(ConfigRef)) error
}

const (
	// maxAgents bounds how many agents are kept; over it some are forgotten.
	maxAgents = 20_000
	// maxRevisions bounds what of an agent is kept beside production.
	maxRevisions = 8
	// sourceTimeout bounds how long a source may take: it answers from memory.
	sourceTimeout = 2 * time.Second
	// freshFor is how long an answer serves while nobody watches the source.
	freshFor = time.Second
	// askAgain is how long the last good one serves once the source has failed: not
	// each call waits for a source that is down.
	askAgain = 5 * time.Second
)

// find returns the agent's config, compiled. When the source fails, or gives a
// config that is not valid, the last good one serves.
func (s *agents) find(ctx context.Context, ref ConfigRef) (*agent, error) {
	ref.Revision = max(ref.Revision, Production)
	if v, ok := s.all.Load(agentKey{ref.Tenant, ref.Agent}); ok {
		if an := v.(*known).get(ref.Revision); an != nil && s.fresh(an) {
			if an.agent == nil && ref.Revision != Production {
				return s.find(ctx, ref.production())
			}
			return an.agent, an.err
		}
	}
	return s.ask(ctx, ref)
}

// get returns what is known of a revision, nil for nothing.
func (k *known) get(revision int) *answer {
	p := k.production.Load()
	if revision == Production {
		return p
	}
	if m := k.revisions.Load(); m != nil {
		if an := (*m)[revision]; an != nil {
			return an
		}
	}
	if p != nil && (p.lasting || p.watched && p.agent != nil && p.agent.config.Revision == revision) {
		return p
	}
	return nil
}

// good returns the last good config of a revision, nil for none.
func (k *known) good(revision int) *agent {
	if an := k.get(revision); an != nil {
		return an.agent
	}
	return nil
}

func (s *agents) fresh(an *answer) bool {
	return an.lasting || an.epoch != 0 && an.epoch == s.epoch.Load() || !an.until.IsZero() && time.Now().Before(an.until)
}

// ask asks the source. Of those who ask a source that can be watched for the same
// agent one does, and the others go on with what is known.
func (s *agents) ask(ctx context.Context, ref ConfigRef) (*agent, error) {
	k := s.known(ref)
	if _, ok := s.source.(static); ok {
		return s.refresh(ctx, ctx, k, ref.production())
	}
	bound, cancel := context.WithTimeout(ctx, sourceTimeout)
	defer cancel()
	if _, ok := s.source.(watchable); ok {
		stale := k.get(ref.Revision)
		if stale != nil && ref.Revision != Production && stale == k.production.Load() {
			a, err := s.ask(ctx, ref.production()) // another may be there by now: then the revision is kept beside it
			if an := k.get(ref.Revision); an != nil && an.agent != nil {
				return an.agent, nil
			}
			return a, err
		}
		select {
		case k.asking <- struct{}{}:
		default:
			if stale != nil && (stale.agent != nil || ref.Revision == Production) {
				return stale.agent, stale.err
			}
			select {
			case k.asking <- struct{}{}:
			case <-bound.Done():
				return nil, fmt.Errorf("callhook: config of %s: %w", ref, bound.Err())
			}
		}
		unlock := sync.OnceFunc(func() { <-k.asking })
		defer unlock()
		if an := k.get(ref.Revision); an != nil && an != stale && s.fresh(an) { // somebody was faster
			unlock()
			return s.find(ctx, ref)
		}
		a, err := s.refresh(ctx, bound, k, ref)
		unlock()
		return s.orProduction(ctx, ref, a, err)
	}
	a, err := s.refresh(ctx, bound, k, ref)
	return s.orProduction(ctx, ref, a, err)
}

// orProduction lets a call go on with production where its revision is not kept any
// more.
func (s *agents) orProduction(ctx context.Context, ref ConfigRef, a *agent, err error) (*agent, error) {
	if ref.Revision != Production && errors.Is(err, ErrNoConfig) {
		return s.find(ctx, ref.production())
	}
	return a, err
}

// known returns what is known of the agent that ref names.
func (s *agents) known(ref ConfigRef) *known {
	key := agentKey{ref.Tenant, ref.Agent}
	if v, ok := s.all.Load(key); ok {
		return v.(*known)
	}
	v, loaded := s.all.LoadOrStore(key, &known{asking: make(chan struct{}, 1)})
	if !loaded && s.size.Add(1) > maxAgents {
		s.all.Range(func(other, _ any) bool {
			if other != key {
				s.forget(other)
			}
			return s.size.Load() > maxAgents*7/8
		})
	}
	return v.(*known)
}

func (s *agents) forget(key any) {
	if _, was := s.all.LoadAndDelete(key); was {
		s.size.Add(-1)
	}
}

// refresh asks the source for a config and keeps what it says. bound is the
// caller's ctx with less time.
func (s *agents) refresh(ctx, bound context.Context, k *known, ref ConfigRef) (*agent, error) {
	an := answer{epoch: s.epoch.Load()} // what changes from now on is asked for again
	_, an.lasting = s.source.(static)
	_, an.watched = s.source.(watchable)
	cfg, fresh, err := s.load(bound, ref)
	if errors.Is(err, ErrNoConfig) {
		an.err = fmt.Errorf("%w (%s)", ErrNoConfig, ref)
		switch {
		case ref.Revision != Production:
			an.epoch = 0 // it may yet come
			k.keep(ref.Revision, an, freshFor)
		case an.lasting || an.watched:
			k.keep(Production, an, freshFor)
		default:
			s.forget(agentKey{ref.Tenant, ref.Agent})
		}
		return nil, an.err
	}
	good := k.good(ref.Revision)
	p := k.good(Production)
	if good == nil && p != nil && (err != nil || p.config == cfg) {
		// It is the same, since the revision is in production or none are kept; or
		// it is the nearest there is to one that the source cannot give now.
		good = p
	}
	switch {
	case err != nil:
		if good == nil && cfg != nil {
			good, _ = compiled(cfg, fresh, ref)
		}
	case good != nil && same(good.config, cfg):
		if an.agent = good; !an.watched { // it is asked each time
			k.tell("")
			return good, nil
		}
	case good != nil && cfg != nil && good.refused.Load() == cfg: // it was told
		an.agent, an.epoch = good, 0
		k.keep(ref.Revision, an, askAgain)
		return good, nil
	default:
		if an.agent, err = compiled(cfg, fresh, ref); err != nil && good != nil {
			good.refused.Store(cfg)
		}
	}
	if err == nil {
		an.lasting = an.lasting || an.watched && ref.Revision != Production
		k.tell("")
		return k.keep(ref.Revision, an, freshFor), nil
	}
	if an.agent, an.epoch = good, 0; good == p && ref.Revision != Production {
		an.agent = nil // whatever is in production serves
	}
	if good != nil {
		if k.tell(err.Error()) {
			s.log.Warn("callhook: the config cannot be used; the last good one serves", "config", ref.String(), "error", err)
		}
		if ctx.Err() == nil { // else it is the caller who did not wait
			k.keep(ref.Revision, an, askAgain)
		}
		return good, nil
	}
	err = fmt.Errorf("callhook: config of %s: %w", ref, err)
	if an.err = err; ref.Revision == Production && ctx.Err() == nil {
		k.keep(Production, an, freshFor)
	}
	return nil, err
}

// load asks the source. Configs has compiled what it returns.
func (s *agents) load(ctx context.Context, ref ConfigRef) (*Config, *agent, error) {
	c, ok := s.source.(*Configs)
	if !ok {
		cfg, err := s.source.Config(ctx, ref)
		return cfg, nil, err
	}
	a, err := c.load(ctx, ref)
	if a == nil {
		return nil, nil, err
	}
	return a.config, a, err
}

// compiled compiles the config with which the source answered ref, unless it is.
func compiled(cfg *Config, a *agent, ref ConfigRef) (_ *agent, err error) {
	if a == nil {
		if a, err = compile(cfg); err != nil {
			return nil, err
		}
	}
	if cfg.TenantID != ref.Tenant || cfg.AgentID != ref.Agent {
		return nil, fmt.Errorf("the source answered with the config of %s", a.ref())
	}
	return a, nil
}

// keep keeps an answer, and returns the agent to go on with.
func (k *known) keep(revision int, an answer, fresh time.Duration) *agent {
	if !an.lasting && an.watched {
		an.until = time.Now().Add(fresh)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if was := k.good(revision); was != nil && an.agent != nil && same(was.config, an.agent.config) {
		an.agent = was // somebody was faster; lanes tell configs apart by what is compiled
	}
	if revision != Production {
		k.keepRevision(revision, &an)
		return an.agent
	}
	was := k.production.Swap(&an)
	switch {
	case was == nil:
		k.news = true
		return an.agent
	case was.agent == an.agent:
		return an.agent
	}
	k.news = true
	if errors.Is(an.err, ErrNoConfig) {
		k.revisions.Store(nil) // of an agent that was removed nothing serves
	} else if was.agent != nil && was.agent.config.Revision > 0 && an.watched {
		// Calls that began with it go on with it, also when the source is down.
		k.keepRevision(was.agent.config.Revision, &answer{agent: was.agent, lasting: true, watched: true})
	}
	return an.agent
}

func (k *known) keepRevision(revision int, an *answer) {
	m := map[int]*answer{}
	if old := k.revisions.Load(); old != nil {
		m = maps.Clone(*old)
	}
	if m[revision] = an; len(m) > maxRevisions {
		delete(m, slices.Min(slices.Collect(maps.Keys(m))))
	}
	k.revisions.Store(&m)
}

// tell reports whether a fault is another than the one told last; "" is none.
func (k *known) tell(fault string) bool {
	last := k.told.Load()
	if last == nil && fault == "" || last != nil && *last == fault {
		return false
	}
	k.told.Store(&fault)
	return true
}

// same reports whether two configs say the same. A source that reads its config
// anew each time, as from a database, does not publish each time.
func same(a, b *Config) bool { return a == b || reflect.DeepEqual(a, b) }

// watch watches the source until ctx has ended or end is called, which waits for
// it.
func (s *agents) watch(ctx context.Context) (end func()) {
	source, ok := s.source.(watchable)
	if !ok {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		told := ""
		for ctx.Err() == nil {
			err := s.watchOnce(ctx, source)
			s.epoch.Store(0)
			if err != nil && ctx.Err() == nil && err.Error() != told {
				told = err.Error()
				s.log.Warn("callhook: the configs cannot be watched; asking for them meanwhile", "error", err)
			}
			pause := time.NewTimer(time.Second)
			select {
			case <-ctx.Done():
			case <-pause.C:
			}
			pause.Stop()
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

func (s *agents) watchOnce(ctx context.Context, source watchable) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("callhook: the watch of the configs panicked", "panic", panicText(p), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %s", panicText(p))
		}
	}()
	return source.Watch(ctx, func(ref ConfigRef) { s.changed(ctx, ref.production()) })
}

// changed asks anew for an agent's config; for the zero ref, from now on for each.
func (s *agents) changed(ctx context.Context, ref ConfigRef) {
	if ref.Agent == "" {
		s.epoch.Store(s.epochs.Add(1))
		return
	}
	if _, ok := s.all.Load(agentKey{ref.Tenant, ref.Agent}); !ok && s.size.Load() >= maxAgents {
		return // there is no room: it is asked for when a call needs it
	}
	k := s.known(ref)
	select {
	case k.asking <- struct{}{}:
	case <-ctx.Done():
		return
	}
	func() {
		defer func() { <-k.asking }()
		bound, cancel := context.WithTimeout(ctx, sourceTimeout)
		defer cancel()
		_, _ = s.refresh(ctx, bound, k, ref) // it keeps the error, or tells it
	}()
	k.mu.Lock()
	news := k.news
	k.news = false
	k.mu.Unlock()
	if news && s.published != nil {
		s.published(ref)
	}
}
