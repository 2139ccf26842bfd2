package callhook

import "context"

// Find returns the config that a call goes by, as the verbs find it.
func Find(ctx context.Context, h *Hooks, ref ConfigRef) (*Config, error) {
	a, err := h.agents.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	return a.config, nil
}

// AgentCount returns how many agents are kept.
func AgentCount(h *Hooks) int { return int(h.agents.size.Load()) }

// Loaded reports whether something is known of an agent, without asking for it.
func Loaded(h *Hooks, ref ConfigRef) bool {
	_, ok := h.agents.all.Load(agentKey{ref.Tenant, ref.Agent})
	return ok
}

// OnStep has step called before each change of the disk.
func OnStep(c *Configs, step func(what string) error) { c.Store.(*dirStore).step = step }

// FileOf returns where a document is.
func FileOf(c *Configs, ref ConfigRef) string { return c.Store.(*dirStore).file(ref) }

// MaxAgents is how many agents are kept at most.
const MaxAgents = maxAgents

// Looker returns the function that looks for changes in the files once.
func Looker(c *Configs) func() error {
	files := map[ConfigRef]seen{}
	return func() error {
		return c.Store.(*dirStore).look(context.Background(), files, func(ConfigRef) {})
	}
}
