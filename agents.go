package callhook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"
)

// agents finds the compiled config of an agent.
type agents struct {
	source ConfigSource
	log    *slog.Logger

	mu       sync.RWMutex
	compiled map[ConfigRef]*agent // the last good ones
}

const (
	// maxAgents bounds what is kept; over it everything is compiled anew.
	maxAgents = 20_000
	// sourceTimeout bounds how long a source may take: it answers from memory.
	sourceTimeout = 2 * time.Second
)

// find returns the agent's config, compiled. When the source fails, or gives a
// config that is not valid, the last good one serves.
func (s *agents) find(ctx context.Context, ref ConfigRef) (*agent, error) {
	if _, ok := s.source.(static); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, sourceTimeout)
		defer cancel()
	}
	cfg, err := s.source.Config(ctx, ref)
	s.mu.RLock()
	known := s.compiled[ref]
	s.mu.RUnlock()
	if errors.Is(err, ErrNoConfig) {
		if known != nil {
			s.mu.Lock()
			delete(s.compiled, ref)
			s.mu.Unlock()
		}
		if ref.Revision != 0 { // not kept any more: the call goes on with what there is
			return s.find(ctx, ConfigRef{Tenant: ref.Tenant, Agent: ref.Agent})
		}
		return nil, fmt.Errorf("%w (%s)", ErrNoConfig, ref)
	}
	if known == nil && ref.Revision != 0 {
		s.mu.RLock()
		production := s.compiled[ConfigRef{Tenant: ref.Tenant, Agent: ref.Agent}]
		s.mu.RUnlock()
		// It is the same, since the revision is in production or none are kept; or
		// it is the nearest there is to one that the source cannot give now.
		if production != nil && (err != nil || production.config == cfg) {
			known = production
		}
	}
	if err == nil && known != nil && (same(known.config, cfg) || known.refused.Load() == cfg) {
		return known, nil
	}
	var fresh *agent
	if err == nil {
		fresh, err = compile(cfg)
	}
	if err == nil && (cfg.TenantID != ref.Tenant || cfg.AgentID != ref.Agent) {
		err = fmt.Errorf("the source answered with the config of %s", fresh.ref())
	}
	if err != nil {
		if known != nil {
			if cfg != nil {
				known.refused.Store(cfg) // tell it once, not for each call
			}
			s.log.Warn("callhook: the config cannot be used; the last good one serves", "config", ref.String(), "error", err)
			return known, nil
		}
		return nil, fmt.Errorf("callhook: config of %s: %w", ref, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.compiled[ref]; known != nil && same(known.config, cfg) {
		return known, nil // somebody was faster; lanes tell configs apart by what is compiled
	}
	if len(s.compiled) >= maxAgents {
		clear(s.compiled)
	}
	s.compiled[ref] = fresh
	return fresh, nil
}

// same reports whether two configs say the same. A source that reads its config
// anew each time, as from a database, does not publish each time.
func same(a, b *Config) bool { return a == b || reflect.DeepEqual(a, b) }
