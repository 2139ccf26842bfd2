package callhook_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/callhook-go/callhook"
)

// unordered is a queue that cannot keep order, and no Inspector.
type unordered struct{ callhook.Queue }

func (q unordered) Limits() callhook.Limits {
	l := q.Queue.Limits()
	l.Ordered = false
	return l
}

// TestNewErrors: what New refuses, with every fault.
func TestNewErrors(t *testing.T) {
	ordered := hook(t, "http://x.test/", `"ordered": true`)
	secretive := hook(t, "http://x.test/", `"secrets": ["${KEY}"]`)
	invalid := &callhook.Config{AgentID: "b", PostCall: []callhook.PostCallWebhook{{Endpoint: callhook.Endpoint{Name: "bad name", URL: "nowhere"}}}}
	noSecrets := callhook.EnvSecrets("X_")
	for _, tt := range []struct {
		name    string
		options callhook.Options
		want    []string // paths of faults
	}{
		{"no configs", callhook.Options{}, nil},
		{"an invalid config", callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", ""), invalid)}, []string{"post_call[0].name", "post_call[0].url"}},
		{"a source without configs", callhook.Options{Configs: newSource()}, []string{}},
		{"two configs for an agent", callhook.Options{Configs: callhook.Static(ordered, ordered)}, []string{"agent_id"}},
		{"a secret and no Secrets", callhook.Options{Configs: callhook.Static(secretive)}, []string{"post_call[0]"}},
		{"ordered and a queue that is not", callhook.Options{Configs: callhook.Static(ordered), Queue: unordered{callhook.NewMemoryQueue(nil)}}, []string{"post_call[0].ordered"}},
		{"a secret that may exist", callhook.Options{Configs: callhook.Static(secretive), Secrets: noSecrets}, []string{}},
		{"ordered", callhook.Options{Configs: callhook.Static(ordered)}, []string{}},
		{"a source that New cannot look into", callhook.Options{Configs: newSource(invalid)}, []string{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, err := callhook.New(tt.options)
			if (err == nil) != (tt.want != nil && len(tt.want) == 0) || (h == nil) != (err != nil) {
				t.Fatalf("New returned %v, %v", h, err)
			}
			var paths []string
			for _, e := range all(err) {
				var ce *callhook.ConfigError
				if errors.As(e, &ce) {
					for _, f := range ce.Faults {
						paths = append(paths, f.Path)
					}
				}
			}
			slices.Sort(paths)
			if diff := cmp.Diff(tt.want, paths, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("faults (-want +got)\n%s%v", diff, err)
			}
			if err != nil && !strings.HasPrefix(err.Error(), "callhook: ") {
				t.Errorf("the error does not begin with its package: %v", err)
			}
		})
	}
}

// all returns the errors that err joins.
func all(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range j.Unwrap() {
			out = append(out, all(e)...)
		}
		return out
	}
	return []error{err}
}

// TestVerbErrors: what the verbs refuse, naming what is missing.
func TestVerbErrors(t *testing.T) {
	at := time.Now()
	type verb = func(*callhook.Hooks, context.Context, *callhook.Call) error
	status, post := (*callhook.Hooks).CallStatus, (*callhook.Hooks).PostCall
	for _, tt := range []struct {
		name string
		verb verb
		call *callhook.Call
		want string // "" is nil
	}{
		{"status of nil", status, nil, "nil"},
		{"post of nil", post, nil, "nil"},
		{"status without id", status, &callhook.Call{AgentID: "a", Status: "ringing", Sequence: 1}, "call.id"},
		{"post without id", post, &callhook.Call{AgentID: "a", EndedAt: at}, "call.id"},
		{"status without agent", status, &callhook.Call{ID: "c", Status: "ringing", Sequence: 1}, "call.agent_id"},
		{"post without agent", post, &callhook.Call{ID: "c", EndedAt: at}, "call.agent_id"},
		{"no status", status, &callhook.Call{ID: "c", AgentID: "a", Sequence: 1}, "call.status"},
		{"a status in capitals", status, &callhook.Call{ID: "c", AgentID: "a", Status: "Ringing", Sequence: 1}, "call.status"},
		{"a status with a space", status, &callhook.Call{ID: "c", AgentID: "a", Status: "on hold", Sequence: 1}, "call.status"},
		{"neither sequence nor time", status, &callhook.Call{ID: "c", AgentID: "a", Status: "ringing"}, "call.sequence"},
		{"a negative sequence", status, &callhook.Call{ID: "c", AgentID: "a", Status: "ringing", Sequence: -1}, "call.sequence"},
		{"not ended", post, &callhook.Call{ID: "c", AgentID: "a", AnalyzedAt: at}, "call.ended_at"},
		{"a status of the runtime's own", status, &callhook.Call{ID: "c", AgentID: "a", Status: "on_hold_2", Sequence: 1}, ""},
		{"a time alone", status, &callhook.Call{ID: "c", AgentID: "a", Status: "ringing", StatusAt: at}, ""},
		{"ended", post, &callhook.Call{ID: "c", AgentID: "a", EndedAt: at}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, err := callhook.New(callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", ""))})
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			err = tt.verb(h, t.Context(), tt.call)
			if tt.want == "" {
				if err != nil {
					t.Errorf("%v, want nil", err)
				}
				return
			}
			if !errors.Is(err, callhook.ErrInvalidCall) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %v that names %s", err, callhook.ErrInvalidCall, tt.want)
			}
		})
	}
}

// TestSkipped: an agent without a config, and an event that no webhook wants, are
// no errors, and are counted.
func TestSkipped(t *testing.T) {
	config := parse(t, `{"agent_id": "a", "call_status": [{"name": "s", "url": "http://x.test/", "statuses": ["completed"]}],
		"post_call": [{"name": "late", "url": "http://x.test/", "on": "analyzed"}]}`)
	h, err := callhook.New(callhook.Options{Configs: callhook.Static(config)})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	stranger := ended("c1")
	stranger.AgentID = "nobody"
	tenant := ended("c1")
	tenant.TenantID = "elsewhere"
	raise(t, h, stranger, tenant, ended("c1"))
	if err := h.CallStatus(t.Context(), &callhook.Call{ID: "c1", AgentID: "a", Status: "ringing", Sequence: 1}); err != nil {
		t.Error(err)
	}
	want := map[callhook.Reason]int64{callhook.ReasonNoConfig: 2, callhook.ReasonNoWebhook: 2}
	got := h.Stats()
	if diff := cmp.Diff(want, got.Skipped); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	got.Skipped[callhook.ReasonNoConfig] = 100 // a copy
	if h.Stats().Skipped[callhook.ReasonNoConfig] != 2 {
		t.Error("Stats gives the map that Hooks counts in")
	}
	balance(t, h, 0, 0, 0)
}

// TestClosed: after Close the verbs and Run refuse, and Close may be called again.
func TestClosed(t *testing.T) {
	h, err := callhook.New(callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", ""))})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := h.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	status := &callhook.Call{ID: "c", AgentID: "a", Status: "ringing", Sequence: 1}
	for name, err := range map[string]error{
		"PostCall": h.PostCall(t.Context(), ended("c1")), "CallStatus": h.CallStatus(t.Context(), status), "Run": h.Run(t.Context()),
	} {
		if !errors.Is(err, callhook.ErrClosed) {
			t.Errorf("%s: %v, want %v", name, err, callhook.ErrClosed)
		}
	}
	if got := h.PreCall(t.Context(), &callhook.Call{ID: "c", AgentID: "a", Direction: callhook.Inbound}); got == nil || got.Variables == nil {
		t.Errorf("PreCall: %+v", got)
	}
}

// TestRunTwice: one Run at a time, and again after it.
func TestRunTwice(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint()
		n.handle("x.test", x.ServeHTTP)
		h, err := callhook.New(callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", "")), Dial: n.Dial})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- h.Run(ctx) }()
			synctest.Wait()
			if err := h.Run(t.Context()); err == nil {
				t.Error("a second Run at once returned nil")
			}
			raise(t, h, ended(fmt.Sprint("c", i)))
			time.Sleep(time.Second)
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
			balance(t, h, int64(i+1), 0, 0)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
}

// failing is a queue whose Consume or Release fails.
type failing struct {
	callhook.Queue
	consume, release error
	late             bool // fails once ctx has ended
}

func (q *failing) Consume(ctx context.Context, handle callhook.Handler) error {
	if q.late {
		<-ctx.Done()
	}
	return q.consume
}
func (q *failing) Release(context.Context, string, int) (int, error) { return 0, q.release }

// TestRunErrors: Run returns the queue's error, and nil for the end of ctx.
func TestRunErrors(t *testing.T) {
	lost := errors.New("the database is gone")
	for _, tt := range []struct {
		name  string
		queue failing
		want  error
	}{
		{"Consume fails", failing{consume: lost}, lost},
		{"Release fails", failing{release: lost}, lost},
		{"what was in flight could not be stored", failing{consume: lost, late: true}, lost},
		{"Consume returns ctx's error", failing{consume: fmt.Errorf("reading: %w", context.Canceled), late: true}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.queue.Queue = callhook.NewMemoryQueue(nil)
			h, err := callhook.New(callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", "")), Queue: &tt.queue})
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if tt.queue.late {
				cancel()
			}
			if diff := cmp.Diff(tt.want, h.Run(ctx), cmpopts.EquateErrors()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// slowQueue stores only when its gate opens, or its caller gives up.
type slowQueue struct {
	callhook.Queue
	gate chan struct{}
}

func (q *slowQueue) Enqueue(ctx context.Context, ds ...*callhook.Delivery) error {
	select {
	case <-q.gate:
		return q.Queue.Enqueue(ctx, ds...)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestStoring: storing an event does not end with the call's context, and has a
// bound of its own.
func TestStoring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &slowQueue{callhook.NewMemoryQueue(nil), make(chan struct{})}
		h, err := callhook.New(callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", "")), Queue: q})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		err = h.PostCall(ctx, ended("c1"))
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != 5*time.Second {
			t.Errorf("PostCall returned %v after %s, want a deadline of 5s", err, took)
		}
		time.AfterFunc(3*time.Second, func() { close(q.gate) })
		if err := h.PostCall(ctx, ended("c1")); err != nil {
			t.Errorf("PostCall with an ended context: %v", err)
		}
		counts(t, q.Queue, 0, 0, 1)
	})
}

// TestHalfStored: where a queue fails in the middle, the verb says so, and again
// with the same call each webhook gets the event once.
func TestHalfStored(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint()
		n.handle("x.test", x.ServeHTTP)
		config := parse(t, `{"agent_id": "a", "post_call": [{"name": "one", "url": "http://x.test/one"}, {"name": "two", "url": "http://x.test/two"}]}`)
		q := count(callhook.NewMemoryQueue(nil))
		full := fmt.Errorf("half of it: %w", callhook.ErrQueueFull)
		q.failEnqueue = func(n int) error {
			if n == 1 {
				return full
			}
			return nil
		}
		var enqueued []string
		trace := &callhook.Trace{Enqueued: func(_ context.Context, d *callhook.Delivery) { enqueued = append(enqueued, d.ID) }}
		run(t, callhook.Options{Configs: callhook.Static(config), Dial: n.Dial, Queue: q, Trace: trace}, func(h *callhook.Hooks) {
			call := ended("c1")
			if err := h.PostCall(t.Context(), call); !errors.Is(err, callhook.ErrQueueFull) {
				t.Errorf("PostCall: %v, want %v", err, callhook.ErrQueueFull)
			}
			time.Sleep(time.Minute)
			if len(enqueued) != 0 {
				t.Errorf("Trace.Enqueued was told of %v", enqueued)
			}
			raise(t, h, call, call)
			time.Sleep(time.Minute)
			synctest.Wait()
			urls := map[string]int{}
			for _, r := range x.requests() {
				urls[r.URL]++
			}
			if diff := cmp.Diff(map[string]int{"/one": 1, "/two": 1}, urls); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if len(enqueued) != 4 {
				t.Errorf("Trace.Enqueued was told of %d, want 4: those known already are reported again", len(enqueued))
			}
			balance(t, h, 2, 0, 0)
		})
	})
}

// TestWhatFires: which webhooks an event reaches, and as what.
func TestWhatFires(t *testing.T) {
	config := `{"agent_id": "a",
		"call_status": [{"name": "all", "url": "http://x.test/all"}, {"name": "some", "url": "http://x.test/some", "statuses": ["transfer_started", "own_one"]}],
		"post_call": [{"name": "ended", "url": "http://x.test/ended"}, {"name": "analyzed", "url": "http://x.test/analyzed", "on": "analyzed"}]}`
	at := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	status := func(id string, s callhook.Status, sequence int64, at time.Time) *callhook.Call {
		return &callhook.Call{ID: id, AgentID: "a", Status: s, Sequence: sequence, StatusAt: at}
	}
	post := func(id string, analyzed bool) *callhook.Call {
		c := &callhook.Call{ID: id, AgentID: "a", EndedAt: at}
		if analyzed {
			c.AnalyzedAt = at.Add(time.Minute)
		}
		return c
	}
	for _, tt := range []struct {
		name   string
		status []*callhook.Call
		post   []*callhook.Call
		want   map[string]int // by path and event type
	}{
		{"ended alone", nil, []*callhook.Call{post("c", false)}, map[string]int{"/ended call.ended": 1}},
		{"ended, then analyzed", nil, []*callhook.Call{post("c", false), post("c", true)}, map[string]int{"/ended call.ended": 1, "/analyzed call.analyzed": 1}},
		{"both at once", nil, []*callhook.Call{post("c", true)}, map[string]int{"/ended call.ended": 1, "/analyzed call.analyzed": 1}},
		{"each twice", nil, []*callhook.Call{post("c", false), post("c", false), post("c", true), post("c", true)}, map[string]int{"/ended call.ended": 1, "/analyzed call.analyzed": 1}},
		{"two calls", nil, []*callhook.Call{post("c", false), post("d", false)}, map[string]int{"/ended call.ended": 2}},
		{"a status that only one wants all of", []*callhook.Call{status("c", "ringing", 1, at)}, nil, map[string]int{"/all call.status": 1}},
		{"a status that both want", []*callhook.Call{status("c", "transfer_started", 1, at)}, nil, map[string]int{"/all call.status": 1, "/some call.status": 1}},
		{"a status of the runtime's own", []*callhook.Call{status("c", "own_one", 0, at)}, nil, map[string]int{"/all call.status": 1, "/some call.status": 1}},
		{"the same change twice, by sequence", []*callhook.Call{status("c", "ringing", 1, at), status("c", "ringing", 1, at.Add(time.Second))}, nil, map[string]int{"/all call.status": 1}},
		{"the same status again, by sequence", []*callhook.Call{status("c", "ringing", 1, at), status("c", "ringing", 2, at)}, nil, map[string]int{"/all call.status": 2}},
		{"the same change twice, by time", []*callhook.Call{status("c", "ringing", 0, at), status("c", "ringing", 0, at.In(time.FixedZone("", 3600)))}, nil, map[string]int{"/all call.status": 1}},
		{"the same status again, by time", []*callhook.Call{status("c", "ringing", 0, at), status("c", "ringing", 0, at.Add(time.Nanosecond))}, nil, map[string]int{"/all call.status": 2}},
		{"two statuses at one time", []*callhook.Call{status("c", "ringing", 0, at), status("c", "busy", 0, at)}, nil, map[string]int{"/all call.status": 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x := newEndpoint()
				n.handle("x.test", x.ServeHTTP)
				run(t, callhook.Options{Configs: callhook.Static(parse(t, config)), Dial: n.Dial}, func(h *callhook.Hooks) {
					for _, c := range tt.status {
						if err := h.CallStatus(t.Context(), c); err != nil {
							t.Fatal(err)
						}
					}
					raise(t, h, tt.post...)
					time.Sleep(time.Second)
					synctest.Wait()
					got := map[string]int{}
					for _, r := range x.requests() {
						var e callhook.Event
						mustJSON(t, r.Body, &e)
						if e.Type == callhook.EventAnalyzed && !e.Timestamp.Equal(at.Add(time.Minute)) || e.Type != callhook.EventAnalyzed && !e.Timestamp.Truncate(time.Second).Equal(at) {
							t.Errorf("%s has the timestamp %s", e.Type, e.Timestamp)
						}
						got[fmt.Sprint(r.URL, " ", e.Type)]++
					}
					if diff := cmp.Diff(tt.want, got); diff != "" {
						t.Errorf("(-want +got)\n%s", diff)
					}
				})
			})
		})
	}
}

// explosive cannot be encoded.
type explosive struct{}

func (explosive) MarshalJSON() ([]byte, error) { panic("a fault of the host's") }

// TestBuildFailed: what cannot be built is a dead letter, and stops no other
// webhook of the call.
func TestBuildFailed(t *testing.T) {
	for name, value := range map[string]any{
		"a channel": make(chan int), "a function": func() {}, "not a number": json.Number("+44 20 7946 0123"), "a panic": explosive{},
		"too deep": deep(5000),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x := newEndpoint()
				n.handle("x.test", x.ServeHTTP)
				config := parse(t, `{"agent_id": "a", "post_call": [{"name": "collected", "url": "http://x.test/", "payload": {"fields": ["call.id", "call.collected"]}},
					{"name": "plain", "url": "http://x.test/", "payload": {"fields": ["call.id"]}}]}`)
				q := callhook.NewMemoryQueue(nil)
				run(t, callhook.Options{Configs: callhook.Static(config), Dial: n.Dial, Queue: q}, func(h *callhook.Hooks) {
					call := ended("c1")
					call.Collected = callhook.Object{"value": value}
					raise(t, h, call, call)
					time.Sleep(time.Second)
					synctest.Wait()
					if got := len(x.requests()); got != 1 {
						t.Errorf("%d requests, want 1", got)
					}
					got := list(t, q, callhook.Filter{State: callhook.StateDead})
					if len(got) != 1 || got[0].Reason != callhook.ReasonBuildFailed || got[0].Webhook != "collected" || got[0].BuildError == "" || got[0].Attempts != 0 {
						t.Fatalf("dead letters %+v", got)
					}
					if strings.Contains(got[0].BuildError, "7946") {
						t.Errorf("the error has the call's data in it: %s", got[0].BuildError)
					}
					balance(t, h, 1, 1, 0)
				})
			})
		})
	}
}

func deep(n int) any {
	var v any
	for range n {
		v = []any{v}
	}
	return v
}

// TestCallIsNotKept: a call may be changed as soon as a verb has returned.
func TestCallIsNotKept(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint(func(w http.ResponseWriter, _ *http.Request) { time.Sleep(time.Second) })
		n.handle("x.test", x.ServeHTTP)
		config := hook(t, "http://x.test/{{call.id}}", `"payload": {"template": {"who": "{{call.variables.name}}", "tags": "{{call.tags}}"}}`)
		run(t, callhook.Options{Configs: callhook.Static(config), Dial: n.Dial}, func(h *callhook.Hooks) {
			call := ended("c1")
			call.Variables, call.Tags = callhook.Variables{"name": "Ada"}, []string{"one"}
			raise(t, h, call)
			call.ID, call.Variables["name"], call.Tags[0] = "c2", "Grace", "two"
			time.Sleep(5 * time.Second)
			synctest.Wait()
			r := x.requests()[0]
			if diff := cmp.Diff([]string{"/c1", `{"who":"Ada","tags":["one"]}`}, []string{r.URL, string(r.Body)}); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	})
}

// TestCheck: a config that cannot be used with these Hooks is refused with every
// fault, and nothing is sent.
func TestCheck(t *testing.T) {
	keys := newVault(map[string]string{"GOOD": secret, "BAD": "no key", "EMPTY": ""})
	for _, tt := range []struct {
		name, config string
		queue        callhook.Queue
		want         []string
	}{
		{"valid", `{"agent_id": "a", "post_call": [{"url": "http://x.test/", "secrets": ["${GOOD}"], "headers": {"X-Key": "${BAD}"}}]}`, nil, nil},
		{"not valid", `{"agent_id": "", "post_call": [{"url": ""}]}`, nil, []string{"agent_id", "post_call[0].url"}},
		{"secrets", `{"agent_id": "a", "pre_call": {"url": "http://x.test/", "headers": {"X-Key": "${MISSING}"}},
			"call_status": [{"url": "http://x.test/", "headers": {"X-Key": "${EMPTY}"}}], "post_call": [{"url": "http://x.test/", "secrets": ["${BAD}"]}]}`, nil,
			[]string{"pre_call", "call_status[0]", "post_call[0]"}},
		{"ordered", `{"agent_id": "a", "call_status": [{"url": "http://x.test/", "ordered": true}]}`, unordered{callhook.NewMemoryQueue(nil)}, []string{"call_status[0].ordered"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dial := func(context.Context, string, string) (net.Conn, error) {
				t.Error("Check made a connection")
				return nil, errors.New("no")
			}
			h, err := callhook.New(callhook.Options{Configs: newSource(), Secrets: keys.resolve, Queue: tt.queue, Dial: dial})
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			err = h.Check(t.Context(), parse(t, tt.config))
			var ce *callhook.ConfigError
			var got []string
			if errors.As(err, &ce) {
				for _, f := range ce.Faults {
					got = append(got, f.Path)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || (err == nil) != (tt.want == nil) {
				t.Errorf("faults (-want +got)\n%s%v", diff, err)
			}
			if err != nil && strings.Contains(err.Error(), "no key") {
				t.Errorf("the error has a secret in it: %v", err)
			}
		})
	}
}

// TestNotOrdered: an ordered webhook and a queue that cannot keep order: the verb
// refuses, never silently weaker.
func TestNotOrdered(t *testing.T) {
	q := callhook.NewMemoryQueue(nil)
	h, err := callhook.New(callhook.Options{Configs: newSource(hook(t, "http://x.test/", `"ordered": true`)), Queue: unordered{q}})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.PostCall(t.Context(), ended("c1")); !errors.Is(err, callhook.ErrNotOrdered) {
		t.Errorf("PostCall: %v, want %v", err, callhook.ErrNotOrdered)
	}
	counts(t, q, 0, 0, 0)
	if got := h.Stats().Queue; got != (callhook.Counts{}) {
		t.Errorf("Stats.Queue of a queue that is no Inspector is %+v", got)
	}
}

// TestEnvSecrets: only what has the prefix and is set.
func TestEnvSecrets(t *testing.T) {
	t.Setenv("CALLHOOK_TEST_KEY", "value")
	t.Setenv("CALLHOOK_TEST_EMPTY", "")
	for _, tt := range []struct {
		prefix, name, want string
	}{
		{"CALLHOOK_TEST_", "KEY", "value"}, {"CALLHOOK_TEST_", "EMPTY", ""}, {"CALLHOOK_TEST_", "MISSING", ""}, {"", "CALLHOOK_TEST_KEY", ""},
	} {
		got, err := callhook.EnvSecrets(tt.prefix)(t.Context(), callhook.SecretRef{Name: tt.name})
		if got != tt.want || (tt.want == "") != errors.Is(err, callhook.ErrNoSecret) {
			t.Errorf("%s of %q: %q, %v; want %q", tt.name, tt.prefix, got, err, tt.want)
		}
	}
}

// TestStatsCountWhatIsDropped: nothing is dropped without a count by its reason.
func TestStatsCountWhatIsDropped(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		n.handle("crm.test", reply(200, `{"variables":{"tier":"gold","no good":1,"name":"Ada"},"directives":{"voice":"x"}}`))
		n.handle("x.test", status(413))
		config := parse(t, `{"agent_id": "a", "variables": [{"name": "tier", "default": "standard", "locked": true}],
			"pre_call": {"url": "http://crm.test/"}, "post_call": [{"url": "http://x.test/"}]}`)
		run(t, callhook.Options{Configs: callhook.Static(config), Dial: n.Dial}, func(h *callhook.Hooks) {
			call := ended("c1")
			h.PreCall(t.Context(), call)
			raise(t, h, call)
			stranger := ended("c2")
			stranger.AgentID = "stranger"
			raise(t, h, stranger)
			synctest.Wait()
			got := h.Stats()
			want := callhook.Stats{
				PreCall:  map[callhook.Outcome]int64{callhook.OutcomeApplied: 1},
				Dropped:  map[callhook.Reason]int64{callhook.ReasonLocked: 1, callhook.ReasonInvalidName: 1, callhook.ReasonNotAllowed: 1},
				Skipped:  map[callhook.Reason]int64{callhook.ReasonNoConfig: 1},
				Dead:     map[callhook.Reason]int64{callhook.ReasonTooLarge: 1},
				Attempts: 1,
				Queue:    callhook.Counts{Accepted: 1, Dead: 1},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	})
}
