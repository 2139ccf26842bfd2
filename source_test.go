package callhook_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callhook-go/callhook"
)

// source is a ConfigSource whose configs change.
type source struct {
	mu      sync.Mutex
	configs map[callhook.ConfigRef]*callhook.Config
	err     error
	panics  bool
	nothing bool
}

func newSource(configs ...*callhook.Config) *source {
	s := &source{configs: map[callhook.ConfigRef]*callhook.Config{}}
	s.set(configs...)
	return s
}

// set puts configs in production.
func (s *source) set(configs ...*callhook.Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range configs {
		s.configs[callhook.ConfigRef{Tenant: c.TenantID, Agent: c.AgentID}] = c
	}
}

// remove takes an agent out of production.
func (s *source) remove(agent string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.configs, callhook.ConfigRef{Agent: agent})
}

// explode makes the source panic, or not.
func (s *source) explode(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.panics = on
}

// lose makes the source answer with neither a config nor an error.
func (s *source) lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nothing = true
}

// fail makes the source answer with err; nil mends it.
func (s *source) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *source) Config(_ context.Context, ref callhook.ConfigRef) (*callhook.Config, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.panics {
		panic("the source has a fault")
	}
	if s.err != nil || s.nothing {
		return nil, s.err
	}
	ref.Revision = 0
	if c := s.configs[ref]; c != nil {
		return c, nil
	}
	return nil, callhook.ErrNoConfig
}

// TestWebhookRemoved: a webhook or an agent that is gone from production gets no
// more requests.
func TestWebhookRemoved(t *testing.T) {
	other := `{"agent_id": "a", "post_call": [{"name": "other", "url": "http://x.test/"}]}`
	for _, tt := range []struct {
		name    string
		waiting http.HandlerFunc // why it still waits
		remove  func(t *testing.T, s *source)
	}{
		{"the webhook, between retries", status(500), func(t *testing.T, s *source) { s.set(parse(t, other)) }},
		{"the webhook, of a held lane", status(429, "Retry-After: 30"), func(t *testing.T, s *source) { s.set(parse(t, other)) }},
		{"the webhook, of a lane that is gone", status(410), func(t *testing.T, s *source) { s.set(parse(t, other)) }},
		{"the agent", status(500), func(_ *testing.T, s *source) { s.remove("a") }},
		{"the webhook, replaced by one of another type", status(500), func(t *testing.T, s *source) {
			s.set(parse(t, `{"agent_id": "a", "call_status": [{"name": "w", "url": "http://x.test/"}]}`))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x, w := newEndpoint(tt.waiting), new(watch)
				n.handle("x.test", x.ServeHTTP)
				s := newSource(hook(t, "http://x.test/", `"concurrency": 1`))
				run(t, callhook.Options{Configs: s, Dial: n.Dial, Trace: w.trace()}, func(h *callhook.Hooks) {
					raise(t, h, ended("c1"), ended("c2"), ended("c3"))
					time.Sleep(time.Second)
					synctest.Wait()
					before := len(x.requests())
					tt.remove(t, s)
					time.Sleep(2 * time.Hour)
					synctest.Wait()
					if got := len(x.requests()); got != before {
						t.Errorf("%d requests after it was removed", got-before)
					}
					want := []callhook.Reason{callhook.ReasonWebhookRemoved, callhook.ReasonWebhookRemoved, callhook.ReasonWebhookRemoved}
					if diff := cmp.Diff(want, w.reasons); diff != "" {
						t.Errorf("reasons (-want +got)\n%s", diff)
					}
					balance(t, h, 0, 3, 0)
				})
			})
		})
	}
}

// TestPublishedWhilePending: a pending delivery keeps its body and goes where
// production says now, as production says.
func TestPublishedWhilePending(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		old, fixed := newEndpoint(status(404)), newEndpoint()
		n.handle("old.test", old.ServeHTTP)
		n.handle("new.test", fixed.ServeHTTP)
		s := newSource(hook(t, "http://old.test/", `"payload": {"fields": ["call.id"]}`))
		secrets := newVault(map[string]string{"KEY": secret})
		run(t, callhook.Options{Configs: s, Dial: n.Dial, Secrets: secrets.resolve}, func(h *callhook.Hooks) {
			raise(t, h, ended("c1"))
			time.Sleep(time.Second)
			s.set(hook(t, "http://new.test/path", `"method": "PUT", "headers": {"X-New": "yes"}, "secrets": ["${KEY}"], "payload": {"fields": ["call.ended_at"]}`))
			time.Sleep(time.Minute)
			synctest.Wait()
			first, got := old.requests(), fixed.requests()
			if len(first) != 1 || len(got) != 1 {
				t.Fatalf("%d and %d requests, want 1 and 1", len(first), len(got))
			}
			if diff := cmp.Diff(string(first[0].Body), string(got[0].Body)); diff != "" {
				t.Errorf("the body changed (-want +got)\n%s", diff)
			}
			if got[0].Method != "PUT" || got[0].URL != "/path" || got[0].Header.Get("X-New") != "yes" {
				t.Errorf("%s %s %v", got[0].Method, got[0].URL, got[0].Header)
			}
			if err := callhook.VerifyAt(got[0].Header, got[0].Body, got[0].At, []string{secret}); err != nil {
				t.Error(err)
			}
			balance(t, h, 1, 0, 0)
		})
	})
}

// TestHoldIsLifted: what a lane was held for may be mended by publishing: the next
// event finds out, and frees what waited.
func TestHoldIsLifted(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{"410": status(410), "429": status(429, "Retry-After: 3600")} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				old, fixed := newEndpoint(answer), newEndpoint()
				n.handle("old.test", old.ServeHTTP)
				n.handle("new.test", fixed.ServeHTTP)
				s := newSource(hook(t, "http://old.test/", ""))
				run(t, callhook.Options{Configs: s, Dial: n.Dial}, func(h *callhook.Hooks) {
					raise(t, h, ended("c1"))
					time.Sleep(time.Second)
					raise(t, h, ended("c2"), ended("c3"))
					time.Sleep(time.Minute)
					balance(t, h, 0, 0, 3)
					s.set(hook(t, "http://new.test/", ""))
					raise(t, h, ended("c4"))
					time.Sleep(time.Minute)
					synctest.Wait()
					balance(t, h, 4, 0, 0)
					if got := len(old.requests()); got != 1 {
						t.Errorf("%d requests to the old URL, want 1", got)
					}
				})
			})
		})
	}
}

// TestOldAnswerDoesNotHold: an answer to a request that was made by an earlier
// config holds the lane for a moment only.
func TestOldAnswerDoesNotHold(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		old := newEndpoint(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(5 * time.Second)
			w.WriteHeader(http.StatusGone)
		})
		fixed := newEndpoint(func(http.ResponseWriter, *http.Request) { time.Sleep(10 * time.Second) })
		n.handle("old.test", old.ServeHTTP)
		n.handle("new.test", fixed.ServeHTTP)
		s := newSource(hook(t, "http://old.test/", ""))
		run(t, callhook.Options{Configs: s, Dial: n.Dial}, func(h *callhook.Hooks) {
			raise(t, h, ended("c1"))
			time.Sleep(time.Second)
			s.set(hook(t, "http://new.test/", ""))
			raise(t, h, ended("c2"))
			time.Sleep(time.Minute)
			synctest.Wait()
			balance(t, h, 2, 0, 0)
		})
	})
}

// reader is a source that reads its config anew each time.
type reader struct {
	t    *testing.T
	text string
}

func (r reader) Config(context.Context, callhook.ConfigRef) (*callhook.Config, error) {
	return parse(r.t, r.text), nil
}

// TestSourceThatReads: a source that gives an equal config in another place each
// time publishes nothing by that, so what holds a lane holds it.
func TestSourceThatReads(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint(status(429, "Retry-After: 60"), status(200))
		n.handle("x.test", x.ServeHTTP)
		s := reader{t, `{"agent_id": "a", "post_call": [{"name": "w", "url": "http://x.test/", "payload": {"template": {"a": ["{{call.id}}", 1]}}}]}`}
		run(t, callhook.Options{Configs: s, Dial: n.Dial}, func(h *callhook.Hooks) {
			for i := range 10 {
				raise(t, h, ended(fmt.Sprint("c", i)))
				time.Sleep(time.Second)
			}
			synctest.Wait()
			if got := len(x.requests()); got != 1 {
				t.Errorf("%d requests while the lane was held, want 1", got)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			balance(t, h, 10, 0, 0)
		})
	})
}

// TestSourceDown: while the source fails, or gives what is not valid, the last good
// config serves; an agent that was never known waits, and the verbs say so.
func TestSourceDown(t *testing.T) {
	down := errors.New("the database is gone")
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, s *source)
	}{
		{"it fails", func(_ *testing.T, s *source) { s.fail(down) }},
		{"its config is not valid", func(t *testing.T, s *source) { s.set(hook(t, "nowhere", "")) }},
		{"its config is nil", func(_ *testing.T, s *source) { s.lose() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x := newEndpoint(status(500), status(200))
				n.handle("x.test", x.ServeHTTP)
				s := newSource(hook(t, "http://x.test/", ""))
				run(t, callhook.Options{Configs: s, Dial: n.Dial}, func(h *callhook.Hooks) {
					raise(t, h, ended("c1"))
					time.Sleep(time.Second)
					tt.spoil(t, s)
					raise(t, h, ended("c2"))
					time.Sleep(time.Minute)
					synctest.Wait()
					balance(t, h, 2, 0, 0)
				})
			})
		})
	}
	t.Run("from the beginning", func(t *testing.T) {
		bubble(t, func(t *testing.T, n *network) {
			x := newEndpoint()
			n.handle("x.test", x.ServeHTTP)
			s, q := newSource(hook(t, "http://x.test/", `"retry": {"max_age": "1h"}`)), callhook.NewMemoryQueue(nil)
			o := callhook.Options{Configs: s, Dial: n.Dial, Queue: q}
			h, err := callhook.New(o)
			if err != nil {
				t.Fatal(err)
			}
			raise(t, h, ended("c1"))
			s.fail(down)
			run(t, o, func(h *callhook.Hooks) { // another process, which knows nothing yet
				if err := h.PostCall(t.Context(), ended("c2")); !errors.Is(err, down) {
					t.Errorf("PostCall: %v, want %v", err, down)
				}
				time.Sleep(2 * time.Hour) // longer than max_age
				synctest.Wait()
				if got := list(t, q, callhook.Filter{}); len(got) != 1 || got[0].Attempts != 0 {
					t.Errorf("%+v waits, want c1 without an attempt", got)
				}
				s.fail(nil)
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := len(x.requests()); got != 1 {
					t.Errorf("%d requests, want 1", got)
				}
			})
			_ = h.Close()
		})
	})
}

// TestSecretMissing: without a secret nothing goes out; the delivery is held, no
// attempt is burnt, and it goes once the secret exists.
func TestSecretMissing(t *testing.T) {
	for name, webhook := range map[string]string{
		"in a header": `"headers": {"Authorization": "Bearer ${KEY}"}`, "in the signature": `"secrets": ["${KEY}"]`, "in the URL": `"timeout": "1s"`,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x := newEndpoint()
				n.handle("x.test", x.ServeHTTP)
				url := "http://x.test/"
				if name == "in the URL" {
					url += "?key=${KEY}"
				}
				config := hook(t, url, webhook)
				config.TenantID = "t"
				keys, q := newVault(nil), callhook.NewMemoryQueue(nil)
				keys.values = map[string]string{}
				o := callhook.Options{Configs: callhook.Static(config), Dial: n.Dial, Queue: q, Secrets: keys.resolve}
				run(t, o, func(h *callhook.Hooks) {
					for i := range 5 {
						call := ended(fmt.Sprint("c", i))
						call.TenantID = "t"
						raise(t, h, call)
					}
					time.Sleep(time.Hour)
					for _, wrong := range []string{"", "two\nlines"} {
						keys.set("KEY", wrong)
						time.Sleep(10 * time.Minute)
					}
					synctest.Wait()
					if got := len(x.requests()); got != 0 {
						t.Fatalf("%d requests went out without the secret", got)
					}
					for _, d := range list(t, q, callhook.Filter{}) {
						if d.Attempts != 0 || d.State != callhook.StateParked {
							t.Errorf("%s: %d attempts, %s", d.Call, d.Attempts, d.State)
						}
						for _, a := range d.Log {
							if a.Status != 0 || !strings.Contains(a.Error, "${KEY}") {
								t.Errorf("the log says %+v, want what is missing", a)
							}
						}
					}
					keys.set("KEY", secret)
					time.Sleep(2 * time.Minute)
					synctest.Wait()
					balance(t, h, 5, 0, 0)
				})
				want := callhook.SecretRef{Tenant: "t", Agent: "a", Webhook: "w", Origin: "http://x.test", Name: "KEY"}
				for _, ref := range keys.asked {
					if diff := cmp.Diff(want, ref); diff != "" {
						t.Fatalf("the resolver was asked for (-want +got)\n%s", diff)
					}
				}
			})
		})
	}
}

// TestPaused: a paused webhook gets nothing, keeps what it should have got, and
// gets it when it goes on.
func TestPaused(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x, other := newEndpoint(), newEndpoint()
		n.handle("x.test", x.ServeHTTP)
		n.handle("other.test", other.ServeHTTP)
		text := `{"agent_id": "a", "post_call": [{"name": "w", "url": "http://x.test/", "paused": %t}, {"name": "other", "url": "http://other.test/"}]}`
		s := newSource(parse(t, fmt.Sprintf(text, true)))
		w := new(watch)
		run(t, callhook.Options{Configs: s, Dial: n.Dial, Trace: w.trace()}, func(h *callhook.Hooks) {
			const calls = 30
			for _, id := range names("c", calls) {
				raise(t, h, ended(id))
			}
			time.Sleep(100 * time.Hour) // longer than max_age: pausing kills nothing that was not tried
			synctest.Wait()
			if got, others := len(x.requests()), len(other.requests()); got != 0 || others != calls {
				t.Errorf("%d and %d requests, want 0 and %d", got, others, calls)
			}
			balance(t, h, calls, 0, calls)
			s.set(parse(t, fmt.Sprintf(text, false)))
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			balance(t, h, 2*calls, 0, 0)
			if got := h.Stats().Attempts; got != 2*calls {
				t.Errorf("%d attempts, want %d: holding back is none", got, 2*calls)
			}
		})
	})
}

// TestRevision: an event is built as the call's revision says, and goes where
// production says.
func TestRevision(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint()
		n.handle("x.test", x.ServeHTTP)
		s := revisions{1: hook(t, "http://nobody.test/", `"payload": {"template": "one"}`), 2: hook(t, "http://x.test/", `"payload": {"template": "two"}`)}
		run(t, callhook.Options{Configs: s, Dial: n.Dial}, func(h *callhook.Hooks) {
			for i, id := range []string{"c0", "c1", "c2"} {
				call := ended(id)
				call.ConfigRevision = i
				raise(t, h, call)
				time.Sleep(time.Second)
			}
			synctest.Wait()
			var got []string
			for _, r := range x.requests() {
				got = append(got, string(r.Body))
			}
			if diff := cmp.Diff([]string{`"two"`, `"one"`, `"two"`}, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	})
}

// revisions is a source of one agent; the highest is in production.
type revisions map[int]*callhook.Config

func (r revisions) Config(_ context.Context, ref callhook.ConfigRef) (*callhook.Config, error) {
	if ref.Revision == 0 {
		ref.Revision = len(r)
	}
	return r[ref.Revision], nil
}

// TestSourcePanics: a source that panics while a delivery is handed out costs that
// delivery a minute.
func TestSourcePanics(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint(status(500), status(200))
		n.handle("x.test", x.ServeHTTP)
		s := newSource(hook(t, "http://x.test/", ""))
		run(t, callhook.Options{Configs: s, Dial: n.Dial}, func(h *callhook.Hooks) {
			raise(t, h, ended("c1"))
			time.Sleep(time.Second)
			s.explode(true)
			time.Sleep(time.Hour)
			balance(t, h, 0, 0, 1)
			s.explode(false)
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			balance(t, h, 1, 0, 0)
		})
	})
}

// TestOthersConfig: a source that answers with somebody else's config is not
// believed: a call's data goes nowhere.
func TestOthersConfig(t *testing.T) {
	for _, own := range []callhook.Config{{AgentID: "a", TenantID: "other"}, {AgentID: "other", TenantID: "t"}} {
		config := own
		config.PreCall = &callhook.PreCallWebhook{Endpoint: callhook.Endpoint{URL: "http://other.test/"}}
		config.PostCall = []callhook.PostCallWebhook{{Endpoint: callhook.Endpoint{URL: "http://other.test/"}}}
		h, err := callhook.New(callhook.Options{Configs: always{&config}})
		if err != nil {
			t.Fatal(err)
		}
		call := &callhook.Call{ID: "c", TenantID: "t", AgentID: "a", EndedAt: time.Now()}
		if res := h.PreCall(t.Context(), call); res.Outcome != callhook.OutcomeFailed || res.Err == nil || res.Attempts != 0 {
			t.Errorf("PreCall: %s, %v, %d attempts", res.Outcome, res.Err, res.Attempts)
		}
		if err := h.PostCall(t.Context(), call); err == nil || !strings.Contains(err.Error(), "the source answered with the config of") {
			t.Errorf("PostCall returned %v", err)
		}
		balance(t, h, 0, 0, 0)
	}
}

// always is a source that has one config for everybody.
type always struct{ config *callhook.Config }

func (s always) Config(context.Context, callhook.ConfigRef) (*callhook.Config, error) {
	return s.config, nil
}

// TestRevisionWhileDown: a call that began on a revision can still be told of when
// the source fails before the revision was ever asked for.
func TestRevisionWhileDown(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint()
		n.handle("x.test", x.ServeHTTP)
		config := hook(t, "http://x.test/", "")
		config.Revision = 7
		s := newSource(config)
		run(t, callhook.Options{Configs: s, Dial: n.Dial}, func(h *callhook.Hooks) {
			call := ended("c1")
			h.PreCall(t.Context(), call).Apply(call)
			if call.ConfigRevision != 7 {
				t.Fatalf("revision %d, want 7", call.ConfigRevision)
			}
			s.fail(errors.New("down"))
			raise(t, h, call)
			synctest.Wait()
			balance(t, h, 1, 0, 0)
		})
	})
}

// latest is a source that keeps no revision but the one in production.
type latest struct{ config *callhook.Config }

func (s latest) Config(_ context.Context, ref callhook.ConfigRef) (*callhook.Config, error) {
	if ref.Revision != 0 && ref.Revision != s.config.Revision {
		return nil, callhook.ErrNoConfig
	}
	return s.config, nil
}

// TestRevisionForgotten: a call that began on a revision that is not kept any more
// is told of as production says, and not skipped.
func TestRevisionForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint()
		n.handle("x.test", x.ServeHTTP)
		config := hook(t, "http://x.test/", "")
		config.Revision = 8
		run(t, callhook.Options{Configs: latest{config}, Dial: n.Dial}, func(h *callhook.Hooks) {
			call := ended("c1")
			call.ConfigRevision = 7
			raise(t, h, call)
			synctest.Wait()
			balance(t, h, 1, 0, 0)
		})
	})
}
