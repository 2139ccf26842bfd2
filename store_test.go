package callhook_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/callhook-go/callhook"
)

var reception = callhook.ConfigRef{Agent: "reception"}

// zone returns a config of reception that can be told from others by its zone.
func zone(name string) *callhook.Config {
	return &callhook.Config{AgentID: "reception", Timezone: name}
}

func inMemory() *callhook.Configs { return &callhook.Configs{Store: callhook.NewMemoryStore()} }

// save saves a draft over whatever draft there is.
func save(t testing.TB, c *callhook.Configs, draft *callhook.Config) string {
	t.Helper()
	_, version, err := c.Draft(t.Context(), callhook.ConfigRef{Tenant: draft.TenantID, Agent: draft.AgentID})
	if _, broken := errors.AsType[*callhook.ConfigError](err); err != nil && !broken && !errors.Is(err, callhook.ErrNoConfig) {
		t.Fatal(err)
	}
	version, err = c.SaveDraft(t.Context(), draft, version)
	if err != nil {
		t.Fatal(err)
	}
	return version
}

// publish saves and publishes a config.
func publish(t testing.TB, c *callhook.Configs, draft *callhook.Config) *callhook.Revision {
	t.Helper()
	save(t, c, draft)
	r, err := c.Publish(t.Context(), callhook.ConfigRef{Tenant: draft.TenantID, Agent: draft.AgentID}, callhook.PublishOptions{Author: "ada", Note: draft.Timezone})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// state is all that a store has of reception, in a line.
func state(t testing.TB, c *callhook.Configs) string {
	t.Helper()
	s := "draft "
	switch draft, version, err := c.Draft(t.Context(), reception); {
	case version != "" && err == nil:
		s += fmt.Sprintf("%s from %d", draft.Timezone, draft.Revision)
	case version != "":
		s += "unreadable"
	default:
		s += "none"
	}
	s += "; production "
	switch cfg, err := c.Config(t.Context(), reception); {
	case errors.Is(err, callhook.ErrNoConfig):
		s += "none"
	case err != nil:
		s += "unusable"
	default:
		s += fmt.Sprintf("%d %s", cfg.Revision, cfg.Timezone)
	}
	history, err := c.History(t.Context(), reception, 0)
	if err != nil {
		t.Error(err)
	}
	s += "; history"
	for _, r := range history {
		s += fmt.Sprintf(" %d %s", r.Number, r.Config.Timezone)
		if r.Restores > 0 {
			s += fmt.Sprintf("=%d", r.Restores)
		}
	}
	return s
}

// TestLifeCycle: what each step does, one after the other, in memory and in a
// folder; a restart changes nothing.
func TestLifeCycle(t *testing.T) {
	var version, old string
	steps := []struct {
		name string
		do   func(ctx context.Context, c *callhook.Configs) error
		err  error  // that errors.Is finds
		says string // in the error
		then string // the state
	}{
		{"nothing to publish", func(ctx context.Context, c *callhook.Configs) error {
			_, err := c.Publish(ctx, reception, callhook.PublishOptions{})
			return err
		}, callhook.ErrNoDraft, "agent reception", "draft none; production none; history"},
		{"nothing to edit", func(ctx context.Context, c *callhook.Configs) error {
			_, _, err := c.Draft(ctx, reception)
			return err
		}, callhook.ErrNoConfig, "agent reception", "draft none; production none; history"},
		{"save an incomplete one", func(ctx context.Context, c *callhook.Configs) (err error) {
			version, err = c.SaveDraft(ctx, &callhook.Config{AgentID: "reception", Timezone: "Mars", PreCall: &callhook.PreCallWebhook{}}, "")
			return err
		}, nil, "", "draft Mars from 0; production none; history"},
		{"publish what is not valid", func(ctx context.Context, c *callhook.Configs) error {
			_, err := c.Publish(ctx, reception, callhook.PublishOptions{})
			if ce, ok := errors.AsType[*callhook.ConfigError](err); !ok || len(ce.Faults) != 2 {
				return fmt.Errorf("every fault should be told: %w", err)
			}
			return err
		}, nil, "timezone", "draft Mars from 0; production none; history"},
		{"save a complete one", func(ctx context.Context, c *callhook.Configs) (err error) {
			old = version
			version, err = c.SaveDraft(ctx, zone("Europe/London"), version)
			return err
		}, nil, "", "draft Europe/London from 0; production none; history"},
		{"somebody else saves what they had read before", func(ctx context.Context, c *callhook.Configs) error {
			_, err := c.SaveDraft(ctx, zone("Asia/Tokyo"), old)
			ce, ok := errors.AsType[*callhook.ConflictError](err)
			if !ok || ce.Yours.Timezone != "Asia/Tokyo" || ce.Theirs.Timezone != "Europe/London" || ce.Version != version || ce.Ref.Revision != callhook.Draft {
				return fmt.Errorf("both versions should be told: %+v", err)
			}
			return err
		}, callhook.ErrConflict, "the draft of agent reception was changed meanwhile", "draft Europe/London from 0; production none; history"},
		{"publish what has changed since it was seen", func(ctx context.Context, c *callhook.Configs) error {
			_, err := c.Publish(ctx, reception, callhook.PublishOptions{Version: old})
			return err
		}, callhook.ErrConflict, "draft", "draft Europe/London from 0; production none; history"},
		{"publish what Check refuses", func(ctx context.Context, c *callhook.Configs) error {
			_, err := c.Publish(ctx, reception, callhook.PublishOptions{Check: func(context.Context, *callhook.Config) error { return callhook.ErrNoSecret }})
			return err
		}, callhook.ErrNoSecret, "", "draft Europe/London from 0; production none; history"},
		{"publish", func(ctx context.Context, c *callhook.Configs) error {
			r, err := c.Publish(ctx, reception, callhook.PublishOptions{Author: "ada", Note: "first", Version: version})
			if err == nil && (r.Number != 1 || r.Config.Revision != 1 || r.Author != "ada" || r.Note != "first" || time.Since(r.PublishedAt).Abs() > time.Minute || r.PublishedAt.Location() != time.UTC) {
				err = fmt.Errorf("the revision is %+v", r)
			}
			return err
		}, nil, "", "draft none; production 1 Europe/London; history 1 Europe/London"},
		{"somebody else saves over what was published", func(ctx context.Context, c *callhook.Configs) error {
			_, err := c.SaveDraft(ctx, zone("Asia/Tokyo"), version)
			ce, ok := errors.AsType[*callhook.ConflictError](err)
			if !ok || ce.Theirs.Revision != 1 || ce.Version != "" {
				return fmt.Errorf("what was published should be told: %+v", err)
			}
			return err
		}, callhook.ErrConflict, "", "draft none; production 1 Europe/London; history 1 Europe/London"},
		{"edit and publish the next", func(ctx context.Context, c *callhook.Configs) error {
			draft, v, err := c.Draft(ctx, reception)
			if err != nil || v != "" || draft.Revision != 1 {
				return fmt.Errorf("the draft is %+v, version %q, %w", draft, v, err)
			}
			draft.Timezone = "Europe/Paris"
			if _, err := c.SaveDraft(ctx, draft, v); err != nil {
				return err
			}
			_, err = c.Publish(ctx, reception, callhook.PublishOptions{})
			return err
		}, nil, "", "draft none; production 2 Europe/Paris; history 2 Europe/Paris 1 Europe/London"},
		{"save a draft that was begun from an older revision", func(ctx context.Context, c *callhook.Configs) error {
			draft := zone("Asia/Tokyo")
			draft.Revision = 1
			_, err := c.SaveDraft(ctx, draft, "")
			return err
		}, callhook.ErrConflict, "production of agent reception was changed meanwhile: it is revision 2 now", "draft none; production 2 Europe/Paris; history 2 Europe/Paris 1 Europe/London"},
		{"begin a draft, and roll back meanwhile", func(ctx context.Context, c *callhook.Configs) (err error) {
			draft := zone("Asia/Tokyo")
			draft.Revision = 2
			if version, err = c.SaveDraft(ctx, draft, ""); err != nil {
				return err
			}
			r, err := c.Rollback(ctx, callhook.ConfigRef{Agent: "reception", Revision: 1}, callhook.PublishOptions{Author: "bob"})
			if err == nil && (r.Number != 3 || r.Restores != 1) {
				err = fmt.Errorf("the revision is %+v", r)
			}
			return err
		}, nil, "", "draft Asia/Tokyo from 2; production 3 Europe/London; history 3 Europe/London=1 2 Europe/Paris 1 Europe/London"},
		{"publish the draft unawares", func(ctx context.Context, c *callhook.Configs) error {
			_, err := c.Publish(ctx, reception, callhook.PublishOptions{})
			return err
		}, callhook.ErrConflict, "it is revision 3 now", "draft Asia/Tokyo from 2; production 3 Europe/London; history 3 Europe/London=1 2 Europe/Paris 1 Europe/London"},
		{"discard what has changed since", func(ctx context.Context, c *callhook.Configs) error {
			return c.DiscardDraft(ctx, reception, old)
		}, callhook.ErrConflict, "", "draft Asia/Tokyo from 2; production 3 Europe/London; history 3 Europe/London=1 2 Europe/Paris 1 Europe/London"},
		{"discard", func(ctx context.Context, c *callhook.Configs) error { return c.DiscardDraft(ctx, reception, version) },
			nil, "", "draft none; production 3 Europe/London; history 3 Europe/London=1 2 Europe/Paris 1 Europe/London"},
		{"discard nothing", func(ctx context.Context, c *callhook.Configs) error { return c.DiscardDraft(ctx, reception, "") },
			nil, "", "draft none; production 3 Europe/London; history 3 Europe/London=1 2 Europe/Paris 1 Europe/London"},
		{"roll back to what never was", func(ctx context.Context, c *callhook.Configs) error {
			_, err := c.Rollback(ctx, callhook.ConfigRef{Agent: "reception", Revision: 9}, callhook.PublishOptions{})
			return err
		}, callhook.ErrNoConfig, "revision 9 of agent reception is not kept", "draft none; production 3 Europe/London; history 3 Europe/London=1 2 Europe/Paris 1 Europe/London"},
		{"roll back to nothing", func(ctx context.Context, c *callhook.Configs) error {
			_, err := c.Rollback(ctx, reception, callhook.PublishOptions{})
			return err
		}, nil, "ConfigRef.Revision", "draft none; production 3 Europe/London; history 3 Europe/London=1 2 Europe/Paris 1 Europe/London"},
		{"publish what is in production", func(ctx context.Context, c *callhook.Configs) error {
			if _, err := c.SaveDraft(ctx, zone("Europe/London"), ""); err != nil {
				return err
			}
			r, err := c.Publish(ctx, reception, callhook.PublishOptions{})
			if err == nil && r.Number != 3 {
				err = fmt.Errorf("it became revision %d", r.Number)
			}
			return err
		}, nil, "", "draft none; production 3 Europe/London; history 3 Europe/London=1 2 Europe/Paris 1 Europe/London"},
		{"delete", func(ctx context.Context, c *callhook.Configs) error { return c.Delete(ctx, reception) },
			nil, "", "draft none; production none; history"},
	}
	for name, open := range map[string]func(t *testing.T) (*callhook.Configs, func() *callhook.Configs){
		"in memory": func(*testing.T) (*callhook.Configs, func() *callhook.Configs) {
			c := inMemory()
			return c, func() *callhook.Configs { return &callhook.Configs{Store: c.Store} }
		},
		"in a folder": func(t *testing.T) (*callhook.Configs, func() *callhook.Configs) {
			dir := t.TempDir()
			return openDir(t, dir), func() *callhook.Configs { return openDir(t, dir) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, again := open(t)
			for _, step := range steps {
				err := step.do(t.Context(), c)
				switch {
				case step.err == nil && step.says == "" && err != nil:
					t.Fatalf("%s: %v", step.name, err)
				case step.err != nil && !errors.Is(err, step.err):
					t.Fatalf("%s: the error is %v, want %v", step.name, err, step.err)
				case step.says != "" && (err == nil || !strings.Contains(err.Error(), step.says)):
					t.Fatalf("%s: the error is %v, want one that says %q", step.name, err, step.says)
				}
				for _, c := range []*callhook.Configs{c, again()} {
					if diff := cmp.Diff(step.then, state(t, c)); diff != "" {
						t.Fatalf("%s (-want +got)\n%s", step.name, diff)
					}
				}
			}
		})
	}
}

// TestPublishWarns: publishing tells what Lint warns of, and is not stopped by it.
func TestPublishWarns(t *testing.T) {
	cfg := zone("")
	cfg.PostCall = []callhook.PostCallWebhook{{Endpoint: callhook.Endpoint{URL: "http://crm.example.com/"}}}
	r := publish(t, inMemory(), cfg)
	if !slices.ContainsFunc(r.Warnings, func(f callhook.Fault) bool { return f.Path == "post_call[0].url" }) {
		t.Errorf("the warnings are %v", r.Warnings)
	}
}

// TestPublishChecks: with Hooks' Check a secret that nobody has is refused.
func TestPublishChecks(t *testing.T) {
	c := inMemory()
	h, err := callhook.New(callhook.Options{Configs: c, Secrets: callhook.EnvSecrets("NOBODY_SETS_")})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	cfg := zone("")
	cfg.PostCall = []callhook.PostCallWebhook{{Endpoint: callhook.Endpoint{URL: "https://crm.example.com/", Secrets: []string{"${KEY}"}}}}
	save(t, c, cfg)
	_, err = c.Publish(t.Context(), reception, callhook.PublishOptions{Check: h.Check})
	if ce, ok := errors.AsType[*callhook.ConfigError](err); !ok || ce.Faults[0].Path != "post_call[0]" {
		t.Errorf("the error is %v", err)
	}
	if _, err := c.Config(t.Context(), reception); !errors.Is(err, callhook.ErrNoConfig) {
		t.Errorf("production is %v", err)
	}
}

// TestSaveDraftErrors: what cannot be a draft.
func TestSaveDraftErrors(t *testing.T) {
	huge := zone("")
	huge.Variables = []callhook.Variable{{Name: "x", Description: strings.Repeat("x", 1<<20)}}
	for name, tt := range map[string]struct {
		draft *callhook.Config
		says  string
	}{
		"nil":           {nil, "nil"},
		"nobody's":      {&callhook.Config{}, "name is empty"},
		"too large":     {huge, "at most 1048576"},
		"not JSON":      {&callhook.Config{AgentID: "a", PreCall: &callhook.PreCallWebhook{Body: []byte("{")}}, "JSON"},
		"not of a kind": {&callhook.Config{AgentID: "a", Variables: []callhook.Variable{{Default: make(chan int)}}}, "JSON"},
	} {
		if _, err := inMemory().SaveDraft(t.Context(), tt.draft, ""); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: the error is %v, want one that says %q", name, err, tt.says)
		}
	}
}

// flaky is a store that can fail: from a number of Puts on, or at all.
type flaky struct {
	callhook.ConfigStore
	mu    sync.Mutex
	puts  int // that succeed; below zero all do
	err   error
	late  bool // a Put that fails has stored
	gets  int
	slow  time.Duration
	watch error
}

func (s *flaky) Get(ctx context.Context, ref callhook.ConfigRef) ([]byte, string, error) {
	s.mu.Lock()
	s.gets++
	err, slow := s.err, s.slow
	s.mu.Unlock()
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-ctx.Done():
			return nil, "", ctx.Err()
		}
	}
	if err != nil {
		return nil, "", err
	}
	return s.ConfigStore.Get(ctx, ref)
}

func (s *flaky) Put(ctx context.Context, ref callhook.ConfigRef, doc []byte, version string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.puts == 0 {
		if s.late {
			_, _ = s.ConfigStore.Put(ctx, ref, doc, version)
		}
		return "", errDown
	}
	s.puts--
	return s.ConfigStore.Put(ctx, ref, doc, version)
}

func (s *flaky) Watch(ctx context.Context, changed func(callhook.ConfigRef)) error {
	s.mu.Lock()
	err := s.watch
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.ConfigStore.Watch(ctx, changed)
}

// with changes how it fails.
func (s *flaky) with(f func(s *flaky)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *flaky) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gets
}

var errDown = errors.New("the database is gone")

// TestPublishInterrupted: wherever publishing ends, production is one whole revision;
// publishing again brings it to its end.
func TestPublishInterrupted(t *testing.T) {
	for _, late := range []bool{false, true} {
		for puts := range 3 {
			c := inMemory()
			publish(t, c, zone("Europe/London"))
			save(t, c, zone("Europe/Paris"))
			broken := &callhook.Configs{Store: &flaky{ConfigStore: c.Store, puts: puts, late: late}}
			_, err := broken.Publish(t.Context(), reception, callhook.PublishOptions{})
			if want := puts < 2; (err != nil) != want {
				t.Fatalf("after %d writes (%t): the error is %v", puts, late, err)
			}
			cfg, err := c.Config(t.Context(), reception)
			if err != nil || !slices.Contains([]string{"1 Europe/London", "2 Europe/Paris"}, fmt.Sprintf("%d %s", cfg.Revision, cfg.Timezone)) {
				t.Fatalf("after %d writes production is %+v, %v", puts, cfg, err)
			}
			r, err := c.Publish(t.Context(), reception, callhook.PublishOptions{})
			if puts == 2 && late {
				if !errors.Is(err, callhook.ErrNoDraft) {
					t.Fatalf("after all: %v", err)
				}
				continue
			}
			if err != nil || r.Config.Timezone != "Europe/Paris" {
				t.Fatalf("after %d writes (%t): publishing again: %+v, %v", puts, late, r, err)
			}
			if _, v, _ := c.Draft(t.Context(), reception); v != "" {
				t.Errorf("after %d writes the draft is left", puts)
			}
			history, err := c.History(t.Context(), reception, 0)
			if err != nil || history[0].Number != r.Number {
				t.Errorf("after %d writes history begins with %+v, %v", puts, history[0], err)
			}
		}
	}
}

// TestDeleteInterrupted: what is in production goes first, and deleting again ends
// it.
func TestDeleteInterrupted(t *testing.T) {
	for puts := range 4 {
		c := inMemory()
		publish(t, c, zone("Europe/London"))
		publish(t, c, zone("Europe/Paris"))
		save(t, c, zone("Asia/Tokyo"))
		broken := &callhook.Configs{Store: &flaky{ConfigStore: c.Store, puts: puts}}
		if err := broken.Delete(t.Context(), reception); !errors.Is(err, errDown) {
			t.Fatalf("after %d writes: the error is %v", puts, err)
		}
		if _, err := c.Config(t.Context(), reception); errors.Is(err, callhook.ErrNoConfig) != (puts > 0) {
			t.Errorf("after %d writes production is %v", puts, err)
		}
		if err := c.Delete(t.Context(), reception); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff("draft none; production none; history", state(t, c)); diff != "" {
			t.Errorf("after %d writes (-want +got)\n%s", puts, diff)
		}
	}
}

// TestStoreErrors: each method says what its store says.
func TestStoreErrors(t *testing.T) {
	c := &callhook.Configs{Store: &flaky{ConfigStore: callhook.NewMemoryStore(), err: errDown}}
	one := callhook.ConfigRef{Agent: "reception", Revision: 1}
	for name, f := range map[string]func(ctx context.Context) error{
		"Config":       func(ctx context.Context) error { _, err := c.Config(ctx, reception); return err },
		"Draft":        func(ctx context.Context) error { _, _, err := c.Draft(ctx, reception); return err },
		"SaveDraft":    func(ctx context.Context) error { _, err := c.SaveDraft(ctx, zone(""), ""); return err },
		"DiscardDraft": func(ctx context.Context) error { return c.DiscardDraft(ctx, reception, "") },
		"Publish": func(ctx context.Context) error {
			_, err := c.Publish(ctx, reception, callhook.PublishOptions{})
			return err
		},
		"Rollback": func(ctx context.Context) error { _, err := c.Rollback(ctx, one, callhook.PublishOptions{}); return err },
		"Delete":   func(ctx context.Context) error { return c.Delete(ctx, reception) },
	} {
		if err := f(t.Context()); !errors.Is(err, errDown) || !strings.HasPrefix(err.Error(), "callhook: ") {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
}

// TestPublishIsSeen: while Run is under way a publish is there at once, for calls
// and for what waits; a lookup asks the store nothing.
func TestPublishIsSeen(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x, fixed := newEndpoint(status(410)), newEndpoint()
		n.handle("old.test", x.ServeHTTP)
		n.handle("new.test", fixed.ServeHTTP)
		store := &flaky{ConfigStore: callhook.NewMemoryStore(), puts: -1}
		c := &callhook.Configs{Store: store}
		publish(t, c, hook(t, "http://old.test/", `"concurrency": 1`))
		run(t, callhook.Options{Configs: c, Dial: n.Dial}, func(h *callhook.Hooks) {
			synctest.Wait()
			for _, id := range names("c", 20) {
				raise(t, h, ended(id))
			}
			time.Sleep(time.Minute)
			balance(t, h, 0, 0, 20)
			before := store.asked()
			for range 100 {
				if _, err := callhook.Find(t.Context(), h, callhook.ConfigRef{Agent: "a"}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
			}
			if got := store.asked() - before; got != 0 {
				t.Errorf("the store was asked %d times", got)
			}
			publish(t, c, hook(t, "http://new.test/", ""))
			time.Sleep(time.Second)
			synctest.Wait()
			balance(t, h, 20, 0, 0)
			if got := len(x.requests()); got != 1 {
				t.Errorf("%d requests to the old URL, want 1", got)
			}
			if err := c.Delete(t.Context(), callhook.ConfigRef{Agent: "a"}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			raise(t, h, ended("late"))
			if got := h.Stats().Skipped[callhook.ReasonNoConfig]; got != 1 {
				t.Errorf("%d events of an agent that was deleted were skipped, want 1", got)
			}
		})
	})
}

// TestPublishIsSeenWithoutRun: a process that only raises events sees a publish
// within a second.
func TestPublishIsSeenWithoutRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &flaky{ConfigStore: callhook.NewMemoryStore(), puts: -1}
		c := &callhook.Configs{Store: store}
		publish(t, c, zone("Europe/London"))
		h, err := callhook.New(callhook.Options{Configs: c})
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		find := func(want string) {
			t.Helper()
			cfg, err := callhook.Find(t.Context(), h, reception)
			if err != nil || cfg.Timezone != want {
				t.Errorf("%+v, %v, want %s", cfg, err, want)
			}
		}
		find("Europe/London")
		before := store.asked()
		find("Europe/London")
		if got := store.asked() - before; got != 0 {
			t.Errorf("the store was asked %d times within a second", got)
		}
		publish(t, c, zone("Europe/Paris"))
		find("Europe/London")
		time.Sleep(time.Second)
		find("Europe/Paris")
		if err := c.Delete(t.Context(), reception); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if _, err := callhook.Find(t.Context(), h, reception); !errors.Is(err, callhook.ErrNoConfig) {
			t.Errorf("after Delete: %v", err)
		}
	})
}

// TestStoreDown: while the store is down the last good configs serve, nobody waits
// for it but one caller each 5 seconds, and it is told once.
func TestStoreDown(t *testing.T) {
	for name, watched := range map[string]bool{"watched": true, "not watched": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, log := &flaky{ConfigStore: callhook.NewMemoryStore(), puts: -1}, new(logged)
				c := &callhook.Configs{Store: store}
				publish(t, c, zone("Europe/London"))
				body := func(h *callhook.Hooks) {
					synctest.Wait()
					if _, err := callhook.Find(t.Context(), h, reception); err != nil {
						t.Fatal(err)
					}
					store.with(func(s *flaky) { s.err, s.slow = errDown, time.Hour })
					var waited time.Duration
					for range 1000 {
						start := time.Now()
						cfg, err := callhook.Find(t.Context(), h, reception)
						if err != nil || cfg.Timezone != "Europe/London" {
							t.Fatalf("%+v, %v", cfg, err)
						}
						waited += time.Since(start)
						time.Sleep(100 * time.Millisecond)
					}
					if most := 40 * time.Second; waited > most || watched && waited > 0 {
						t.Errorf("1000 calls waited %s", waited)
					}
					store.with(func(s *flaky) { s.err, s.slow = nil, 0 })
					publish(t, c, zone("Europe/Paris"))
					time.Sleep(6 * time.Second)
					cfg, err := callhook.Find(t.Context(), h, reception)
					if err != nil || cfg.Timezone != "Europe/Paris" {
						t.Errorf("once it is back: %+v, %v", cfg, err)
					}
				}
				o := callhook.Options{Configs: c, Logger: log.logger()}
				if watched {
					run(t, o, body)
				} else {
					h, err := callhook.New(o)
					if err != nil {
						t.Fatal(err)
					}
					body(h)
					_ = h.Close()
				}
				if got, want := log.count("the last good one serves"), 1; !watched && got != want {
					t.Errorf("it was told %d times, want %d", got, want)
				}
			})
		})
	}
}

// TestOthersDoNotWait: while one caller asks a store that hangs, others go on.
func TestOthersDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &flaky{ConfigStore: callhook.NewMemoryStore(), puts: -1}
		c := &callhook.Configs{Store: store}
		publish(t, c, zone("Europe/London"))
		h, err := callhook.New(callhook.Options{Configs: c})
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		if _, err := callhook.Find(t.Context(), h, reception); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		store.with(func(s *flaky) { s.slow = time.Hour })
		start, slow := time.Now(), 0
		var wg sync.WaitGroup
		var mu sync.Mutex
		for range 50 {
			wg.Go(func() {
				cfg, err := callhook.Find(t.Context(), h, reception)
				if err != nil || cfg.Timezone != "Europe/London" {
					t.Errorf("%+v, %v", cfg, err)
				}
				if time.Since(start) > 0 {
					mu.Lock()
					slow++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if slow != 1 || time.Since(start) != 2*time.Second {
			t.Errorf("%d of 50 waited, %s; want 1, 2s", slow, time.Since(start))
		}
		// Of an agent that nobody knows all wait, no longer than that.
		start = time.Now()
		for range 10 {
			wg.Go(func() {
				if _, err := callhook.Find(t.Context(), h, callhook.ConfigRef{Agent: "unknown"}); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("the error is %v", err)
				}
			})
		}
		wg.Wait()
		if time.Since(start) > 2*time.Second {
			t.Errorf("they waited %s", time.Since(start))
		}
	})
}

// TestWatchFails: a store that cannot be watched is asked, and watched when it can
// be; that is told once.
func TestWatchFails(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		store, log := &flaky{ConfigStore: callhook.NewMemoryStore(), puts: -1, watch: errDown}, new(logged)
		c := &callhook.Configs{Store: store}
		publish(t, c, zone("Europe/London"))
		run(t, callhook.Options{Configs: c, Dial: n.Dial, Logger: log.logger()}, func(h *callhook.Hooks) {
			find := func(want string) {
				t.Helper()
				cfg, err := callhook.Find(t.Context(), h, reception)
				if err != nil || cfg.Timezone != want {
					t.Errorf("%+v, %v, want %s", cfg, err, want)
				}
			}
			find("Europe/London")
			time.Sleep(time.Minute)
			publish(t, c, zone("Europe/Paris"))
			time.Sleep(time.Second)
			find("Europe/Paris")
			if got := log.count("cannot be watched"); got != 1 {
				t.Errorf("it was told %d times, want once", got)
			}
			store.with(func(s *flaky) { s.watch = nil })
			time.Sleep(2 * time.Second)
			synctest.Wait()
			publish(t, c, zone("Asia/Tokyo"))
			synctest.Wait()
			find("Asia/Tokyo")
		})
	})
}

// TestWatchPanics: a source whose Watch panics costs nothing but the watch.
func TestWatchPanics(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		s := panicking{newSource(zone("Europe/London"))}
		log := new(logged)
		run(t, callhook.Options{Configs: s, Dial: n.Dial, Logger: log.logger()}, func(h *callhook.Hooks) {
			time.Sleep(10 * time.Second)
			if _, err := callhook.Find(t.Context(), h, reception); err != nil {
				t.Error(err)
			}
			if got := log.count("panicked"); got < 5 {
				t.Errorf("it was told %d times", got)
			}
		})
	})
}

type panicking struct{ *source }

func (panicking) Watch(context.Context, func(callhook.ConfigRef)) error {
	panic("the watch has a fault")
}

// TestCallKeepsRevision: a call that began on revision 7 finishes on 7, whatever is
// published meanwhile, also when the store is down; one whose revision is gone
// goes on with production.
func TestCallKeepsRevision(t *testing.T) {
	for name, watched := range map[string]bool{"watched": true, "not watched": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				store := &flaky{ConfigStore: callhook.NewMemoryStore(), puts: -1}
				c := &callhook.Configs{Store: store}
				publish(t, c, zone("Europe/London"))
				publish(t, c, zone("Europe/Paris"))
				body := func(h *callhook.Hooks) {
					synctest.Wait()
					find := func(revision int, want string) {
						t.Helper()
						cfg, err := callhook.Find(t.Context(), h, callhook.ConfigRef{Agent: "reception", Revision: revision})
						if err != nil || fmt.Sprintf("%d %s", cfg.Revision, cfg.Timezone) != want {
							t.Errorf("revision %d: %+v, %v, want %s", revision, cfg, err, want)
						}
					}
					find(0, "2 Europe/Paris")
					find(2, "2 Europe/Paris")
					find(1, "1 Europe/London")
					find(9, "2 Europe/Paris")
					find(-1, "2 Europe/Paris")
					publish(t, c, zone("Asia/Tokyo"))
					time.Sleep(time.Second)
					find(0, "3 Asia/Tokyo")
					store.with(func(s *flaky) { s.err = errDown })
					time.Sleep(time.Hour)
					find(0, "3 Asia/Tokyo")
					find(3, "3 Asia/Tokyo")
					find(2, "2 Europe/Paris")
					find(1, "1 Europe/London")
					find(9, "3 Asia/Tokyo")
				}
				if watched {
					run(t, callhook.Options{Configs: c, Dial: n.Dial}, body)
					return
				}
				h, err := callhook.New(callhook.Options{Configs: c})
				if err != nil {
					t.Fatal(err)
				}
				body(h)
				_ = h.Close()
			})
		})
	}
}

// TestBrokenProduction: what somebody wrote into the store by hand takes production
// down neither for those who know the last good config nor after a restart; what
// is published mends it.
func TestBrokenProduction(t *testing.T) {
	for name, text := range map[string]string{
		"not JSON": `{"agent_id": "reception"`, "nothing": ` `, "not valid": `{"agent_id": "reception", "revision": 2, "timezone": "Mars"}`,
		"somebody else's": `{"agent_id": "other"}`, "unknown field": `{"agent": "reception"}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, log := inMemory(), new(logged)
				publish(t, c, zone("Europe/London"))
				publish(t, c, zone("Europe/Paris"))
				o := callhook.Options{Configs: c, Logger: log.logger()}
				run(t, o, func(h *callhook.Hooks) {
					synctest.Wait()
					write := func(text string) {
						t.Helper()
						_, version, err := c.Store.Get(t.Context(), reception)
						if err == nil {
							_, err = c.Store.Put(t.Context(), reception, []byte(text), version)
						}
						if err != nil {
							t.Fatal(err)
						}
						synctest.Wait()
					}
					find := func(h *callhook.Hooks, want string) {
						t.Helper()
						cfg, err := callhook.Find(t.Context(), h, reception)
						if err != nil || fmt.Sprintf("%d %s", cfg.Revision, cfg.Timezone) != want {
							t.Errorf("%+v, %v, want %s", cfg, err, want)
						}
					}
					write(`{"timezone": "Asia/Tokyo", "revision": 2}`)
					find(h, "0 Asia/Tokyo") // it is not the revision that it says it is
					write(text)
					for range 10 {
						find(h, "0 Asia/Tokyo")
						time.Sleep(10 * time.Second)
					}
					if got := log.count("the last good one serves"); got != 1 {
						t.Errorf("it was told %d times, want once", got)
					}
					err := c.Check(t.Context())
					if ce, ok := errors.AsType[*callhook.ConfigError](err); !ok || ce.Source != "agent reception" {
						t.Errorf("Check says %v", err)
					}
					again, err := callhook.New(o) // after a restart
					if err != nil {
						t.Fatal(err)
					}
					find(again, "2 Europe/Paris")
					_ = again.Close()
					publish(t, c, zone("Europe/Rome"))
					synctest.Wait()
					cfg, err := c.Config(t.Context(), reception)
					if err != nil {
						t.Fatal(err)
					}
					find(h, fmt.Sprint(cfg.Revision, " Europe/Rome"))
					if err := c.Check(t.Context()); err != nil {
						t.Errorf("Check says %v", err)
					}
				})
			})
		})
	}
}

// TestEditedProduction: a publish does not overwrite what was edited by hand since
// the draft was begun.
func TestEditedProduction(t *testing.T) {
	c := inMemory()
	publish(t, c, zone("Europe/London"))
	draft, _, err := c.Draft(t.Context(), reception)
	if err != nil {
		t.Fatal(err)
	}
	draft.Timezone = "Europe/Paris"
	save(t, c, draft)
	_, version, _ := c.Store.Get(t.Context(), reception)
	if _, err := c.Store.Put(t.Context(), reception, []byte(`{"timezone": "Asia/Tokyo", "revision": 1}`), version); err != nil {
		t.Fatal(err)
	}
	_, err = c.Publish(t.Context(), reception, callhook.PublishOptions{})
	ce, ok := errors.AsType[*callhook.ConflictError](err)
	if !ok || ce.Theirs.Timezone != "Asia/Tokyo" || !strings.Contains(err.Error(), "edited by hand") {
		t.Fatalf("the error is %v", err)
	}
	draft.Revision = 0 // they have looked at it, and mean it
	save(t, c, draft)
	r, err := c.Publish(t.Context(), reception, callhook.PublishOptions{})
	if err != nil || r.Number != 2 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestManyAgents: of more agents than are kept some are asked for again.
func TestManyAgents(t *testing.T) {
	h, err := callhook.New(callhook.Options{Configs: everybody{}})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for i := range callhook.MaxAgents + callhook.MaxAgents/4 {
		if _, err := callhook.Find(t.Context(), h, callhook.ConfigRef{Agent: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if got := callhook.AgentCount(h); got > callhook.MaxAgents || got < callhook.MaxAgents*3/4 {
		t.Errorf("%d agents are kept", got)
	}
}

// everybody is a source that has a config for whoever asks.
type everybody struct{}

func (everybody) Config(_ context.Context, ref callhook.ConfigRef) (*callhook.Config, error) {
	return &callhook.Config{AgentID: ref.Agent, TenantID: ref.Tenant}, nil
}

// TestHistoryLimit: the newest come first.
func TestHistoryLimit(t *testing.T) {
	c := inMemory()
	for range 3 {
		publish(t, c, zone("Europe/London"))
		publish(t, c, zone("Europe/Paris"))
	}
	history, err := c.History(t.Context(), reception, 2)
	if err != nil {
		t.Fatal(err)
	}
	at := func(n int, zone string) *callhook.Revision {
		return &callhook.Revision{Number: n, Author: "ada", Note: zone, Config: &callhook.Config{AgentID: "reception", Revision: n, Timezone: zone}}
	}
	want := []*callhook.Revision{at(6, "Europe/Paris"), at(5, "Europe/London")}
	if diff := cmp.Diff(want, history, cmpopts.IgnoreFields(callhook.Revision{}, "PublishedAt")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// BenchmarkFind: what a call pays to find its compiled config. Budget: 100 ns, no
// allocation.
func BenchmarkFind(b *testing.B) {
	c := inMemory()
	for i := range 1000 {
		publish(b, c, &callhook.Config{TenantID: "acme", AgentID: fmt.Sprint("agent-", i)})
	}
	ref := callhook.ConfigRef{Tenant: "acme", Agent: "agent-500"}
	publish(b, c, &callhook.Config{TenantID: "acme", AgentID: "agent-500", Timezone: "Europe/Paris"})
	only := &callhook.Config{TenantID: "acme", AgentID: "agent-500", Revision: 2}
	for _, bb := range []struct {
		name    string
		configs callhook.ConfigSource
		ref     callhook.ConfigRef
		run     bool
	}{
		{"production", c, ref, true},
		{"revision in production", c, callhook.ConfigRef{Tenant: "acme", Agent: "agent-500", Revision: 2}, true},
		{"revision before", c, callhook.ConfigRef{Tenant: "acme", Agent: "agent-500", Revision: 1}, true},
		{"production, no Run", c, ref, false},
		{"Static", callhook.Static(only), ref, false},
		{"a source of the host's", always{only}, ref, false},
	} {
		b.Run(bb.name, func(b *testing.B) {
			h, err := callhook.New(callhook.Options{Configs: bb.configs})
			if err != nil {
				b.Fatal(err)
			}
			defer h.Close()
			ctx, cancel := context.WithCancel(b.Context())
			ended := make(chan error, 1)
			if bb.run {
				go func() { ended <- h.Run(ctx) }()
				for last := (callhook.ConfigRef{Tenant: "acme", Agent: "agent-999"}); !callhook.Loaded(h, last); {
					time.Sleep(time.Millisecond)
				}
			}
			if _, err := callhook.Find(ctx, h, bb.ref); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := callhook.Find(ctx, h, bb.ref); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			cancel()
			if bb.run {
				if err := <-ended; err != nil {
					b.Error(err)
				}
			}
		})
	}
}

// logged is a log, to count in.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *logged) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}
