package callhook_test

import (
	"context"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
)

// TestCircles: a value that contains itself is an error of its event, and not the
// end of the process.
func TestCircles(t *testing.T) {
	object := callhook.Object{}
	object["self"] = object
	vars := callhook.Variables{"name": "Ada"}
	vars["self"] = vars
	plain := map[string]any{}
	plain["a"], plain["b"] = plain, []any{plain}
	ring := &callhook.Call{ID: "c", AgentID: "a", EndedAt: time.Now()}
	ring.Metadata = callhook.Object{"call": ring}
	for name, call := range map[string]*callhook.Call{
		"object":    {ID: "c", AgentID: "a", EndedAt: time.Now(), Metadata: object},
		"variables": {ID: "c", AgentID: "a", EndedAt: time.Now(), Variables: vars},
		"map":       {ID: "c", AgentID: "a", EndedAt: time.Now(), Collected: plain},
		"call":      ring,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := new(callhook.Payload).Build(&callhook.Event{ID: "msg_1", Type: callhook.EventEnded, Data: callhook.EventData{Call: call}})
			if err == nil || !strings.Contains(err.Error(), "contains itself") {
				t.Errorf("Build returned %v", err)
			}
			if _, err := json.Marshal(call); err == nil {
				t.Error("Marshal returned no error")
			}
			h, err := callhook.New(callhook.Options{Configs: callhook.Static(&callhook.Config{AgentID: "a",
				PreCall:  &callhook.PreCallWebhook{Endpoint: callhook.Endpoint{URL: "http://x.test/"}},
				PostCall: []callhook.PostCallWebhook{{Endpoint: callhook.Endpoint{URL: "http://x.test/"}}}})})
			if err != nil {
				t.Fatal(err)
			}
			if err := h.PostCall(t.Context(), call); err != nil {
				t.Errorf("PostCall returned %v; it should become a dead letter", err)
			}
			if res := h.PreCall(t.Context(), call); res.Variables == nil {
				t.Error("PreCall gave no variables")
			}
		})
	}
	if got := vars.Prompt(); got != `{"name":"Ada"}` {
		t.Errorf("Prompt gave %s", got)
	}
	if got := vars.Expand("Hi {{name}}{{self}}"); got != "Hi Ada" {
		t.Errorf("Expand gave %q", got)
	}
}

// angry panics when it is written.
type angry struct{}

func (angry) MarshalJSON() ([]byte, error) { panic("angry") }

// TestMisuse: what nobody means does not panic.
func TestMisuse(t *testing.T) {
	if got := (*callhook.Config)(nil).Lint(); got != nil {
		t.Errorf("Lint of nil gave %v", got)
	}
	if _, err := callhook.New(callhook.Options{Configs: callhook.Static(nil)}); err == nil {
		t.Error("New took a nil config")
	}
	call := &callhook.Call{ID: "c", AgentID: "a", EndedAt: time.Now(), Variables: callhook.Variables{"x": angry{}, "n": "Ada"}}
	if _, err := (*callhook.Payload)(nil).Build(&callhook.Event{ID: "m", Type: callhook.EventEnded, Data: callhook.EventData{Call: call}}); err == nil {
		t.Error("Build wrote what cannot be written")
	}
	if got := call.Variables.Prompt() + call.Variables.Expand("{{x}}{{n}}"); got != `{"n":"Ada"}Ada` {
		t.Errorf("Prompt and Expand gave %s", got)
	}
	c := &callhook.Config{AgentID: "a", PostCall: []callhook.PostCallWebhook{{Endpoint: callhook.Endpoint{URL: "https://x.example/"}}}}
	c.PostCall[0].Retry.Multiplier = math.NaN()
	if c.Validate() == nil {
		t.Error("a multiplier that is not a number is valid")
	}
}

// slowSource answers when its context ends.
type slowSource struct{}

func (slowSource) Config(ctx context.Context, _ callhook.ConfigRef) (*callhook.Config, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestSlowSource: a source that hangs holds neither a caller nor the end of Run.
func TestSlowSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run(t, callhook.Options{Configs: slowSource{}}, func(h *callhook.Hooks) {
			start := time.Now()
			call := &callhook.Call{ID: "c", AgentID: "a", EndedAt: time.Now()}
			if res := h.PreCall(t.Context(), call); res.Err == nil || time.Since(start) > 2*time.Second {
				t.Errorf("PreCall took %s, err %v", time.Since(start), res.Err)
			}
			if err := h.PostCall(t.Context(), call); err == nil {
				t.Error("PostCall stored what it could not know where to send")
			}
		})
	})
}

// TestRateRemoved: a lane does not keep a rate that its config has no more.
func TestRateRemoved(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint()
		n.handle("x.test", x.ServeHTTP)
		source := &always{hook(t, "http://x.test/", `"rate": "1/h"`)}
		run(t, callhook.Options{Configs: source, Dial: n.Dial}, func(h *callhook.Hooks) {
			raise(t, h, ended("one"))
			synctest.Wait()
			source.config = hook(t, "http://x.test/", ``)
			raise(t, h, ended("two"))
			synctest.Wait()
			if got := len(x.requests()); got != 2 {
				t.Errorf("%d requests, want 2", got)
			}
		})
	})
}
