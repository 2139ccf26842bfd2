package production

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
)

const config = `{
	"tenant_id": "acme",
	"agent_id": "reception",
	"post_call": [
		{"name": "crm", "url": "https://crm.example.com/calls", "headers": {"Authorization": "Bearer ${CRM_TOKEN}"}},
		{"name": "n8n", "url": "https://n8n.example.com/webhook/calls", "secrets": ["${SIGNING_KEY}"]}
	]
}`

// TestProduction: what docs/production.md shows does what it says, on the file's queue.
func TestProduction(t *testing.T) {
	c, err := callhook.ParseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	crm := callhooktest.NewEndpoint(t, callhooktest.Reply(413, "at most 1 KB"))
	n8n := callhooktest.NewEndpoint(t, callhooktest.Reply(500, ""))
	n8n.Keys = []string{callhooktest.Key}
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	queue, err := open(filepath.Join(t.TempDir(), "callhook.db"), logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = queue.Close() })
	key := bytes.Repeat([]byte{1}, 32)
	hooks := callhooktest.NewHooks(t, options(callhook.Static(c), queue, vault{
		{"acme", "CRM_TOKEN"}:   {"t0ken", []string{"https://crm.example.com"}},
		{"acme", "SIGNING_KEY"}: {callhooktest.Key, []string{"https://n8n.example.com"}},
	}, keys{numbers: key, seal: callhook.SealKey{ID: "2026-03", Key: key}}, logger),
		callhooktest.Network{"crm.example.com": crm, "n8n.example.com": n8n})
	if err := hooks.Check(t.Context(), c); err != nil {
		t.Fatal(err)
	}

	call := callhook.SampleCall(callhook.TypePostCall)
	for _, id := range []string{"call_1", "call_2", "call_3", "call_4", "call_5"} {
		call.ID = id
		if err := hooks.PostCall(t.Context(), call); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range hooks.Dead(t, 5) {
		if d.Reason != callhook.ReasonTooLarge || d.Webhook != "crm" {
			t.Errorf("dead: %s at %s", d.Reason, d.Webhook)
		}
	}
	if auth := crm.Received(t, 5)[0].Header.Get("Authorization"); auth != "Bearer t0ken" {
		t.Errorf("the CRM got %q", auth)
	}
	n8n.Received(t, 5)

	await(t, func() bool {
		got, err := alarms(t.Context(), hooks.Hooks, queue, time.Now().Add(2*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(got, "\n") == "acme/reception/n8n: down for 2h0m0s\nacme/reception/n8n: 5 wait, the oldest for 2h0m0s"
	})
	if got, err := alarms(t.Context(), hooks.Hooks, queue, time.Now()); got != nil || err != nil {
		t.Errorf("alarms at once: %q, %v", got, err)
	}

	if err := show(t.Context(), hooks.Hooks, queue, "acme"); err != nil {
		t.Error(err)
	}
	n8n.Then(callhooktest.Reply(200, ""))
	if err := mend(t.Context(), hooks.Hooks, queue, callhook.LaneRef{Tenant: "acme", Agent: "reception", Webhook: "n8n"}); err != nil {
		t.Error(err)
	}
	hooks.Delivered(t, 5)
	await(t, func() bool { return hooks.Stats().Queue.Pending == 0 }) // the queue has written it down, too

	if n, err := hooks.Forget(t.Context(), "acme", call.From); n != 5 || err != nil { // the dead letters
		t.Errorf("forgot %d: %v", n, err)
	}
	if dead, err := queue.List(t.Context(), callhook.Filter{State: callhook.StateDead}); len(dead) != 0 || err != nil {
		t.Errorf("still there: %v, %v", dead, err)
	}
}

// TestVault: a secret goes to its tenant's endpoints and nowhere else.
func TestVault(t *testing.T) {
	v := vault{{"acme", "CRM_TOKEN"}: {"t0ken", []string{"https://crm.example.com"}}}
	for _, ref := range []callhook.SecretRef{
		{Tenant: "acme", Name: "CRM_TOKEN", Origin: "https://elsewhere.example.com"},
		{Tenant: "globex", Name: "CRM_TOKEN", Origin: "https://crm.example.com"},
		{Tenant: "acme", Name: "OTHER", Origin: "https://crm.example.com"},
	} {
		if s, err := v.resolve(context.Background(), ref); s != "" || !errors.Is(err, callhook.ErrNoSecret) {
			t.Errorf("%+v: %q, %v", ref, s, err)
		}
	}
}

func await(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time")
		}
	}
}
