package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
)

// sender is callhook, with one webhook.
type sender struct {
	hooks     *callhook.Hooks
	config    *callhook.Config
	keys      atomic.Pointer[[]string]
	attempts  chan attempt
	delivered chan *callhook.Delivery
}

type attempt struct {
	attempt callhook.Attempt
	verdict callhook.Verdict
}

func newSender(t *testing.T, url string, keys ...string) *sender {
	t.Helper()
	s := &sender{attempts: make(chan attempt, 1000), delivered: make(chan *callhook.Delivery, 1000)}
	s.keys.Store(&keys)
	refs := make([]string, len(keys))
	for i := range keys {
		refs[i] = fmt.Sprintf("${KEY_%d}", i)
	}
	secrets, err := json.Marshal(refs)
	if err != nil {
		t.Fatal(err)
	}
	s.config, err = callhook.ParseConfig(fmt.Appendf(nil, `{"agent_id": "reception", "post_call": [{"name": "receiver", "url": %q,
		"secrets": %s, "timeout": "60s", "retry": {"initial": "200ms"}, "payload": {"fields": ["call.id", "call.from"]}}]}`, url, secrets))
	if err != nil {
		t.Fatal(err)
	}
	s.hooks, err = callhook.New(callhook.Options{
		Configs:   callhook.Static(s.config),
		AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Secrets: func(_ context.Context, ref callhook.SecretRef) (string, error) {
			var i int
			if _, err := fmt.Sscanf(ref.Name, "KEY_%d", &i); err != nil {
				return "", err
			}
			keys := *s.keys.Load()
			return keys[min(i, len(keys)-1)], nil
		},
		Trace: &callhook.Trace{
			AttemptDone: func(_ context.Context, _ *callhook.Delivery, a callhook.Attempt, v callhook.Verdict) {
				s.attempts <- attempt{a, v}
			},
			Delivered: func(_ context.Context, d *callhook.Delivery) { s.delivered <- d },
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.hooks.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-ended, s.hooks.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// call is a call that has ended.
func (s *sender) call(t *testing.T) {
	t.Helper()
	call := &callhook.Call{ID: "call_1", AgentID: "reception", From: "+442079460123", Status: callhook.StatusCompleted, EndedAt: time.Now()}
	if err := s.hooks.PostCall(t.Context(), call); err != nil {
		t.Fatal(err)
	}
}

func wait[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s", what)
	}
	panic("unreachable")
}
