package callhook

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// ConfigStore keeps documents: of each agent a draft, what is in production, and
// numbered revisions. [OpenDir] and [NewMemoryStore] are two; whoever wants configs
// in their own database writes another, a table of (tenant, agent, revision,
// version, doc). It needs no transactions, and knows nothing of what the documents
// say: [Configs] does that. Package callhooktest holds it to this contract.
//
// The methods are safe for concurrent use, also by several processes that have the
// same store.
type ConfigStore interface {
	// Get returns a document, and its version: a text of the store's that is another
	// whenever the document is. ref.Revision is a revision's number, [Production] or
	// [Draft]. Where there is no document it returns nil, "" and no error.
	Get(ctx context.Context, ref ConfigRef) (doc []byte, version string, err error)
	// Put stores a document if its version is still the given one, "" being that of
	// one that does not exist, and returns the new version; a nil doc removes it.
	// Otherwise it changes nothing, and the error is [ErrConflict]. Of two that put
	// at once on the same version one gets it. nil means that the document is as
	// durable as the store promises; it is never there in part. After another error
	// it may be stored or not.
	Put(ctx context.Context, ref ConfigRef, doc []byte, version string) (newVersion string, err error)
	// List returns the agents that have a draft or something in production, each
	// once, in any order. It ignores Revision.
	List(ctx context.Context) ([]ConfigRef, error)
	// Revisions returns the numbers of an agent's revisions, in any order.
	Revisions(ctx context.Context, ref ConfigRef) ([]int, error)
	// Watch calls changed within a second after an agent's production was put or
	// removed, by whomever, until ctx ends; then it returns nil. It calls changed
	// with the zero ConfigRef as soon as it misses nothing any more, and again each
	// time that it may have missed something, as after its connection was lost. It
	// may call it more often than needed, one call at a time. An error means that it
	// cannot watch now; it is called again a second later.
	Watch(ctx context.Context, changed func(ref ConfigRef)) error
}

// Configs takes agents' configs from draft to production. A draft is saved and
// edited by people; publishing checks it, makes of it an immutable numbered
// revision, and puts that in production. No store has to remember to: all checks
// are here.
//
//	configs, err := callhook.OpenDir("configs")
//	hooks, err := callhook.New(callhook.Options{Configs: configs})
//	draft, version, err := configs.Draft(ctx, callhook.ConfigRef{Agent: "reception"})
//	version, err = configs.SaveDraft(ctx, draft, version)
//	revision, err := configs.Publish(ctx, callhook.ConfigRef{Agent: "reception"}, callhook.PublishOptions{Author: "ada", Check: hooks.Check})
//
// It is a [ConfigSource] that can be watched. Its methods are safe for concurrent
// use.
type Configs struct {
	// Store is where the configs are.
	Store ConfigStore
}

// Revision is a config that was published. It never changes.
type Revision struct {
	// Number counts an agent's revisions from 1. A number that is missing was never
	// in production.
	Number int `json:"revision"`
	// PublishedAt is when, in UTC; Author who did it, and Note why, as
	// [PublishOptions] said.
	PublishedAt time.Time `json:"published_at"`
	Author      string    `json:"author,omitempty"`
	Note        string    `json:"note,omitempty"`
	// Restores is the revision that a rollback has brought back, else zero.
	Restores int `json:"restores,omitempty"`
	// Config is what was published, its Revision being Number.
	Config *Config `json:"config"`
	// Warnings are what [Config.Lint] says, where it was just published.
	Warnings []Fault `json:"-"`
}

// PublishOptions are what [Configs.Publish] and [Configs.Rollback] go by. The zero
// value is fine.
type PublishOptions struct {
	// Author says who publishes, and Note why, for the history.
	Author, Note string
	// Version is that of the draft which the author has seen: when it has changed
	// since, nothing is published. Empty means whatever the draft is.
	Version string
	// Check may refuse a config that is valid: [Hooks.Check], which tells of secrets
	// that cannot be resolved. Nil means that being valid is enough; calls then go
	// on, but what needs such a secret waits.
	Check func(ctx context.Context, c *Config) error
}

// The errors of [Configs].
var (
	// ErrConflict says that a config was changed by somebody else meanwhile. From
	// [Configs] it comes as a [*ConflictError].
	ErrConflict = errors.New("callhook: the config was changed meanwhile")
	// ErrNoDraft says that there is no draft to publish.
	ErrNoDraft = errors.New("callhook: the agent has no draft")
)

// ConflictError is the [ErrConflict] of one of two who have changed the same
// config. Nothing of theirs is overwritten.
type ConflictError struct {
	Ref    ConfigRef // the agent; Revision is Draft or Production: what was changed
	Yours  *Config   // what was to be saved or published; nil if that was not read
	Theirs *Config   // what is there now; nil when it is gone, or cannot be read
	// Version is that of the draft that is there now, "" for none: whoever wants
	// to overwrite it gives it to [Configs.SaveDraft].
	Version string
}

// Error says what was changed, and nothing that stands in it.
func (e *ConflictError) Error() string {
	if e.Ref.Revision == Draft {
		return fmt.Sprintf("callhook: the draft of %s was changed meanwhile", e.Ref)
	}
	now := "is gone"
	if e.Theirs != nil {
		if now = "was edited by hand"; e.Theirs.Revision > 0 {
			now = fmt.Sprintf("is revision %d now", e.Theirs.Revision)
		}
	}
	return fmt.Sprintf("callhook: production of %s was changed meanwhile: it %s", e.Ref, now)
}

// Unwrap returns [ErrConflict].
func (e *ConflictError) Unwrap() error { return ErrConflict }

// Config returns what is in production, or the revision that ref names. It is
// [ConfigSource]'s, and reads the store each time; Hooks does not.
//
// Production that was edited by hand, in the store, so that it is not the revision
// that it says it is, has Revision 0. When it cannot be used, the error, a
// [*ConfigError], says why, and the newest revision that can be stands beside it.
// ErrNoConfig means that there is none.
func (c *Configs) Config(ctx context.Context, ref ConfigRef) (*Config, error) {
	a, err := c.load(ctx, ref)
	if a == nil {
		return nil, err
	}
	return a.config, err
}

// load returns what Config does, compiled.
func (c *Configs) load(ctx context.Context, ref ConfigRef) (*agent, error) {
	switch {
	case ref.Revision < 0:
		return nil, fmt.Errorf("%w (a draft of %s)", ErrNoConfig, ref)
	case ref.Revision > 0:
		r, err := c.revision(ctx, ref)
		if err != nil {
			return nil, err
		}
		a, err := compile(r.Config)
		return a, c.located(ref, err)
	}
	p, err := c.production(ctx, ref)
	switch {
	case err != nil:
		return nil, err
	case p.version == "":
		return nil, fmt.Errorf("%w (%s)", ErrNoConfig, ref)
	case p.fault != nil:
		return c.instead(ctx, ref, p.number), p.fault
	}
	return p.agent, nil
}

// instead returns the revision of this number, or else the newest one, that is
// valid; nil for none.
func (c *Configs) instead(ctx context.Context, ref ConfigRef, number int) *agent {
	numbers, _ := c.Store.Revisions(ctx, ref)
	slices.SortFunc(numbers, func(a, b int) int { return b - a })
	for _, ref.Revision = range append([]int{number}, numbers...) {
		if r, err := c.revision(ctx, ref); err == nil {
			if a, err := compile(r.Config); err == nil {
				return a
			}
		}
	}
	return nil
}

// inProduction is the document in production.
type inProduction struct {
	config   *Config // nil when there is none, or it cannot be read
	agent    *agent  // the same, compiled
	version  string  // "" when there is none
	number   int     // the revision that it says it is
	recorded bool    // and it is that one, as history has it
	fault    error   // why it cannot be used, a *ConfigError
}

// production reads what is in production. The error is the store's.
func (c *Configs) production(ctx context.Context, ref ConfigRef) (p inProduction, err error) {
	ref.Revision = Production
	var doc []byte
	if doc, p.version, err = c.get(ctx, ref); err != nil || p.version == "" {
		return p, err
	}
	if p.config, p.fault = c.parse(ref, doc); p.config == nil {
		return p, nil
	}
	p.number = p.config.Revision
	p.agent, err = compile(p.config)
	if p.fault = c.located(ref, err); p.number <= 0 {
		return p, nil
	}
	ref.Revision = p.number
	recorded, version, err := c.get(ctx, ref)
	if err != nil {
		return p, err
	}
	if version == "" {
		return p, nil // history is not kept, or not here: it may be what it says
	}
	if p.recorded = records(recorded, doc); !p.recorded {
		r, err := c.read(ref, recorded)
		p.recorded = err == nil && alike(r.Config, p.config)
	}
	if !p.recorded {
		p.config.Revision = 0
	}
	return p, nil
}

// records reports whether the document of a revision holds this config to the
// letter, spaces aside.
func records(revision, doc []byte) bool {
	var d struct {
		Config json.RawMessage `json:"config"`
	}
	var x, y bytes.Buffer
	return json.Unmarshal(revision, &d) == nil && json.Compact(&x, d.Config) == nil && json.Compact(&y, doc) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

// revision reads a numbered revision.
func (c *Configs) revision(ctx context.Context, ref ConfigRef) (*Revision, error) {
	doc, version, err := c.get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if version == "" {
		return nil, fmt.Errorf("%w (revision %d of %s is not kept)", ErrNoConfig, ref.Revision, ref)
	}
	return c.read(ref, doc)
}

// read reads the document of a revision.
func (c *Configs) read(ref ConfigRef, doc []byte) (*Revision, error) {
	var d struct {
		Revision
		Config json.RawMessage `json:"config"`
	}
	var text bytes.Buffer
	if err := json.Unmarshal(doc, &d); err != nil {
		return nil, c.located(ref, &ConfigError{Faults: []Fault{{"", err.Error()}}})
	}
	if err := json.Compact(&text, d.Config); err != nil {
		return nil, c.located(ref, &ConfigError{Faults: []Fault{{"config", "it is missing"}}})
	}
	cfg, err := c.parse(ref, text.Bytes())
	if err != nil {
		return nil, err
	}
	cfg.Revision, d.Number = ref.Revision, ref.Revision
	d.Revision.Config = cfg
	return &d.Revision, nil
}

// parse reads a config, which need not say whose it is, since its place does.
func (c *Configs) parse(ref ConfigRef, doc []byte) (*Config, error) {
	cfg, err := ParseConfig(doc)
	if err != nil {
		return nil, c.located(ref, err)
	}
	cfg.AgentID, cfg.TenantID = cmp.Or(cfg.AgentID, ref.Agent), cmp.Or(cfg.TenantID, ref.Tenant)
	if cfg.AgentID != ref.Agent || cfg.TenantID != ref.Tenant {
		other := ConfigRef{Tenant: cfg.TenantID, Agent: cfg.AgentID}
		return nil, c.located(ref, &ConfigError{Faults: []Fault{{"agent_id",
			fmt.Sprintf("it says that it is of %s: it is kept as that of %s", other, ref)}}})
	}
	return cfg, nil
}

// located says in a ConfigError which document it is about.
func (c *Configs) located(ref ConfigRef, err error) error {
	ce, ok := errors.AsType[*ConfigError](err)
	if !ok {
		return err
	}
	if s, ok := c.Store.(interface{ file(ConfigRef) string }); ok {
		ce.Source = s.file(ref)
		return err
	}
	switch ce.Source = ref.String(); {
	case ref.Revision == Draft:
		ce.Source = "draft of " + ce.Source
	case ref.Revision > 0:
		ce.Source = fmt.Sprintf("revision %d of %s", ref.Revision, ce.Source)
	}
	return err
}

func (c *Configs) get(ctx context.Context, ref ConfigRef) ([]byte, string, error) {
	if ref.Agent == "" {
		return nil, "", errors.New("callhook: the agent's name is empty")
	}
	doc, version, err := c.Store.Get(ctx, ref)
	if err != nil {
		return nil, "", fmt.Errorf("callhook: configs: %w", err)
	}
	return doc, version, nil
}

func (c *Configs) put(ctx context.Context, ref ConfigRef, doc []byte, version string) (string, error) {
	if ref.Agent == "" {
		return "", errors.New("callhook: the agent's name is empty")
	}
	version, err := c.Store.Put(ctx, ref, doc, version)
	if err != nil && !errors.Is(err, ErrConflict) {
		err = fmt.Errorf("callhook: configs: %w", err)
	}
	return version, err
}

// alike reports whether two configs say the same, whatever their revisions.
func alike(a, b *Config) bool {
	x, y := *a, *b
	x.Revision, y.Revision = 0, 0
	return bytes.Equal(document(&x), document(&y))
}

// document writes what people read. It returns nil for what JSON cannot say.
func document(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if e.Encode(v) != nil {
		return nil
	}
	return b.Bytes()
}

// History returns an agent's revisions, the newest first, at most limit; zero
// means all. The one in production is the one whose number [Configs.Config]
// returns. Those that cannot be read are left out, and named in the error beside
// the others.
func (c *Configs) History(ctx context.Context, ref ConfigRef, limit int) ([]*Revision, error) {
	numbers, err := c.Store.Revisions(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("callhook: configs: %w", err)
	}
	slices.SortFunc(numbers, func(a, b int) int { return b - a })
	if limit > 0 {
		numbers = numbers[:min(limit, len(numbers))]
	}
	var all []*Revision
	var faults []error
	for _, ref.Revision = range numbers {
		r, err := c.revision(ctx, ref)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		all = append(all, r)
	}
	return all, errors.Join(faults...)
}

// Agents returns the agents that have a draft or something in production, in the
// order of their tenants and names.
func (c *Configs) Agents(ctx context.Context) ([]ConfigRef, error) {
	refs, err := c.Store.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("callhook: configs: %w", err)
	}
	for i := range refs {
		refs[i].Revision = Production
	}
	slices.SortFunc(refs, func(a, b ConfigRef) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Agent, b.Agent))
	})
	return slices.Compact(refs), nil
}

// Check reads everything that is in production, and returns the faults of all that
// cannot be used, nil for none: for a test of configs that people edit by hand.
func (c *Configs) Check(ctx context.Context) error {
	refs, err := c.Agents(ctx)
	if err != nil {
		return err
	}
	var faults []error
	for _, ref := range refs {
		p, err := c.production(ctx, ref)
		if err != nil {
			return err
		}
		if p.fault != nil {
			faults = append(faults, p.fault)
		}
	}
	return errors.Join(faults...)
}

// Delete removes an agent: what is in production first, so that its calls have no
// webhooks from then on and what waits becomes dead letters, then its draft and its
// history. After an error call it again.
func (c *Configs) Delete(ctx context.Context, ref ConfigRef) error {
	for _, ref.Revision = range []int{Production, Draft} {
		if err := c.remove(ctx, ref, ""); err != nil {
			return err
		}
	}
	numbers, err := c.Store.Revisions(ctx, ref)
	if err != nil {
		return fmt.Errorf("callhook: configs: %w", err)
	}
	slices.Sort(numbers) // the last one keeps its number from being given again
	for _, ref.Revision = range numbers {
		if err := c.remove(ctx, ref, ""); err != nil {
			return err
		}
	}
	return nil
}

// Watch calls changed when production of an agent changes, as [ConfigStore] says,
// and for each agent when it begins, from several goroutines at once. Hooks.Run
// calls it.
func (c *Configs) Watch(ctx context.Context, changed func(ref ConfigRef)) error {
	return c.Store.Watch(ctx, func(ref ConfigRef) {
		changed(ref.production())
		if ref.Agent != "" {
			return
		}
		refs, err := c.Agents(ctx)
		if err != nil {
			return // each is asked for when a call needs it
		}
		// A database answers each in a millisecond, and there may be thousands.
		next := make(chan ConfigRef)
		var wg sync.WaitGroup
		for range min(8, len(refs)) {
			wg.Go(func() {
				for ref := range next {
					if ctx.Err() == nil {
						changed(ref)
					}
				}
			})
		}
		for _, ref := range refs {
			next <- ref
		}
		close(next)
		wg.Wait()
	})
}
