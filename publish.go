package callhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"
)

// Draft returns an agent's draft to edit, and its version, which goes to
// [Configs.SaveDraft]. Without a draft it is a copy of what is in production, and
// version is "". Its Revision is the one that the draft was begun from, zero for
// none. Errors: [ErrNoConfig] for an agent that has neither, the store's, and a
// [*ConfigError] for what cannot be read, its version beside it.
func (c *Configs) Draft(ctx context.Context, ref ConfigRef) (draft *Config, version string, err error) {
	ref.Revision = Draft
	doc, version, err := c.get(ctx, ref)
	if err != nil {
		return nil, "", err
	}
	if version != "" {
		draft, err = c.parse(ref, doc)
		return draft, version, err
	}
	draft, err = c.Config(ctx, ref.production())
	return draft, "", err
}

// SaveDraft stores a draft, which may be incomplete and is not validated, and
// returns its new version. version is the one that [Configs.Draft] or SaveDraft
// returned: when somebody else has saved, discarded or published since, nothing is
// stored, and the error is a [*ConflictError] with what they have made of it. "" is
// for a draft that does not exist yet.
//
// draft.Revision is the production revision that the draft was begun from, as
// Draft gives it; zero means none in particular.
func (c *Configs) SaveDraft(ctx context.Context, draft *Config, version string) (newVersion string, err error) {
	if draft == nil {
		return "", errors.New("callhook: SaveDraft: the draft is nil")
	}
	ref := ConfigRef{Tenant: draft.TenantID, Agent: draft.AgentID, Revision: Draft}
	if !utf8.ValidString(draft.TenantID) || !utf8.ValidString(draft.AgentID) {
		return "", fmt.Errorf("callhook: SaveDraft: the id of the tenant or agent is not text (UTF-8): %q, %q", draft.TenantID, draft.AgentID)
	}
	doc := document(draft)
	if doc == nil {
		return "", fmt.Errorf("callhook: the draft of %s has what JSON cannot say", ref)
	}
	if _, err := ParseConfig(doc); err != nil { // nobody could read it again
		return "", c.located(ref, err)
	}
	if version == "" && draft.Revision > 0 {
		p, err := c.production(ctx, ref)
		if err != nil {
			return "", err
		}
		if p.moved(draft) {
			return "", p.conflict(ref, draft)
		}
	}
	newVersion, err = c.put(ctx, ref, doc, version)
	if !errors.Is(err, ErrConflict) {
		return newVersion, err
	}
	if now, v, err := c.get(ctx, ref); err == nil && v != "" && bytes.Equal(now, doc) {
		return v, nil // it is there: an answer was lost, or two agree
	}
	return "", c.draftConflict(ctx, ref, draft, err)
}

// moved reports whether another revision is in production than the one that the
// draft was begun from.
func (p inProduction) moved(draft *Config) bool {
	return draft.Revision > 0 && p.config != nil && p.config.Revision != draft.Revision
}

func (p inProduction) conflict(ref ConfigRef, yours *Config) error {
	return &ConflictError{Ref: ref.production(), Yours: yours, Theirs: p.config}
}

// draftConflict says with what yours is in conflict.
func (c *Configs) draftConflict(ctx context.Context, ref ConfigRef, yours *Config, conflict error) error {
	theirs, version, err := c.Draft(ctx, ref)
	if _, unreadable := errors.AsType[*ConfigError](err); err != nil && !unreadable && !errors.Is(err, ErrNoConfig) {
		return errors.Join(conflict, err)
	}
	ref.Revision = Draft
	return &ConflictError{Ref: ref, Yours: yours, Theirs: theirs, Version: version}
}

// DiscardDraft removes a draft, if its version is still this one; "" means whatever
// it is. Then what is in production is what the next draft begins with. No draft
// is no error. When somebody else has saved, the error is a [*ConflictError].
func (c *Configs) DiscardDraft(ctx context.Context, ref ConfigRef, version string) error {
	ref.Revision = Draft
	return c.remove(ctx, ref, version)
}

// remove removes a document if its version is the given one; "" is for whatever it
// is.
func (c *Configs) remove(ctx context.Context, ref ConfigRef, version string) error {
	for range 10 {
		_, now, err := c.get(ctx, ref)
		if err != nil || now == "" {
			return err
		}
		if version != "" && version != now {
			break
		}
		if _, err = c.put(ctx, ref, nil, now); !errors.Is(err, ErrConflict) {
			return err
		}
	}
	if ref.Revision == Draft {
		return c.draftConflict(ctx, ref, nil, ErrConflict)
	}
	return fmt.Errorf("%w (%s)", ErrConflict, ref)
}

// Publish puts an agent's draft in production as a new revision, and removes the
// draft. Calls that began before finish with the revision with which they began;
// what waits to be delivered goes where the new one says.
//
// A draft that is not valid, or that o.Check refuses, is not published: the error
// is a [*ConfigError] with every fault, or Check's, and production is as it was.
// What [Config.Lint] says stands in [Revision.Warnings] and stops nothing. When
// production is not any more what the draft was begun from, or the draft is not
// o.Version, the error is a [*ConflictError]. [ErrNoDraft] means that there is
// nothing to publish.
//
// The revision is stored before production is, each at once: whoever reads, and
// whatever dies when, production is one whole revision. After an error of the store
// publishing again is safe: what is in production already is not published twice.
func (c *Configs) Publish(ctx context.Context, ref ConfigRef, o PublishOptions) (*Revision, error) {
	ref.Revision = Draft
	p, err := c.production(ctx, ref) // before the draft: what is published meanwhile is a conflict
	if err != nil {
		return nil, err
	}
	doc, version, err := c.get(ctx, ref)
	switch {
	case err != nil:
		return nil, err
	case version == "" && o.Version == "":
		return nil, fmt.Errorf("%w (%s)", ErrNoDraft, ref)
	case o.Version != "" && o.Version != version:
		return nil, c.draftConflict(ctx, ref, nil, ErrConflict)
	}
	draft, err := c.parse(ref, doc)
	if err != nil {
		return nil, err
	}
	r := p.published(draft)
	if r == 0 && p.moved(draft) {
		return nil, p.conflict(ref, draft)
	}
	revision, err := c.publish(ctx, ref, p, draft, 0, o)
	if err != nil {
		return nil, err
	}
	_, _ = c.put(ctx, ref, nil, version) // else it is the next draft, and says what production says
	return revision, nil
}

// published returns the number of the revision in production if it says what cfg
// says, else zero.
func (p inProduction) published(cfg *Config) int {
	if p.recorded && alike(p.config, cfg) {
		return p.number
	}
	return 0
}

// publish makes a revision of cfg and puts it in production in the place of p.
const maxNote = 16 << 10

func (c *Configs) publish(ctx context.Context, ref ConfigRef, p inProduction, cfg *Config, restores int, o PublishOptions) (*Revision, error) {
	if n := max(len(o.Author), len(o.Note)); n > maxNote {
		return nil, fmt.Errorf("callhook: PublishOptions: Author or Note has %d bytes; at most %d are possible", n, maxNote)
	}
	numbers, err := c.Store.Revisions(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("callhook: configs: %w", err)
	}
	next := *cfg
	next.Revision = max(p.number, slices.Max(append(numbers, 0))) + 1
	if err := next.Validate(); err != nil {
		return nil, c.located(ref, err)
	}
	if o.Check != nil {
		if err := o.Check(ctx, &next); err != nil {
			return nil, err
		}
	}
	if n := p.published(cfg); n > 0 { // by somebody whose answer was lost
		ref.Revision = n
		r, err := c.revision(ctx, ref)
		if err != nil {
			return nil, err
		}
		r.Warnings = r.Config.Lint()
		return r, nil
	}
	r := &Revision{PublishedAt: time.Now().UTC(), Author: o.Author, Note: o.Note, Restores: restores, Config: &next, Warnings: next.Lint()}
	var version string
	for range 10 {
		r.Number, ref.Revision = next.Revision, next.Revision
		if version, err = c.put(ctx, ref, document(r), ""); !errors.Is(err, ErrConflict) {
			break
		}
		next.Revision++ // somebody else publishes; who is in production first decides
	}
	if err == nil {
		_, err = c.put(ctx, ref.production(), document(&next), p.version)
	}
	switch {
	case err == nil:
		return r, nil
	case !errors.Is(err, ErrConflict):
		return nil, err
	}
	now, err := c.production(ctx, ref)
	if err != nil {
		return nil, err
	}
	if now.recorded && now.number == r.Number { // it was ours, put twice by the store
		return r, nil
	}
	if version != "" {
		_, _ = c.put(ctx, ref, nil, version) // nobody has used it
	}
	return nil, now.conflict(ref, cfg)
}

// Rollback brings the revision that ref names back to production, as a new
// revision that says the same: so history only grows, it says who went back and
// when, and the higher number is always the later one. The draft stays as it is,
// and is then begun from an older revision, so that publishing it unawares is a
// conflict.
//
// What was valid once and is not any more is refused, as by [Configs.Publish].
// [ErrNoConfig] means that there is no such revision. o.Version is ignored.
func (c *Configs) Rollback(ctx context.Context, ref ConfigRef, o PublishOptions) (*Revision, error) {
	if ref.Revision <= 0 {
		return nil, errors.New("callhook: Rollback: ConfigRef.Revision is the number of the revision to go back to")
	}
	p, err := c.production(ctx, ref)
	if err != nil {
		return nil, err
	}
	old, err := c.revision(ctx, ref)
	if err != nil {
		return nil, err
	}
	return c.publish(ctx, ref, p, old.Config, old.Number, o)
}
