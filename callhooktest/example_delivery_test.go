package callhooktest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
)

// Two tests of what becomes of a call's data when the receiver fails for a while, and for
// ever. In a file of your own their names begin with Test.
func Example_delivery() {}

// deliver raises the event of a call that has ended.
func deliver(t *testing.T, n8n *callhooktest.Endpoint) *callhooktest.Hooks {
	config := callhooktest.Config(t, `{"agent_id": "reception", "post_call": [{
		"name": "n8n", "url": "https://n8n.example.com/webhook/calls", "secrets": ["${N8N_SECRET}"],
		"payload": {"fields": ["call.id", "call.from", "call.duration_seconds"]}
	}]}`)
	hooks := callhooktest.NewHooks(t, callhook.Options{
		Configs: callhook.Static(config),
		Secrets: callhooktest.Secrets{"N8N_SECRET": callhooktest.Key}.Resolve,
	}, callhooktest.Network{"n8n.example.com": n8n})
	call := &callhook.Call{
		ID: "call_1", AgentID: "reception", From: "+442079460123",
		StartedAt: time.Date(2026, 3, 2, 9, 30, 0, 0, time.UTC), EndedAt: time.Date(2026, 3, 2, 9, 32, 5, 0, time.UTC),
	}
	if err := hooks.PostCall(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	return hooks
}

func deliversAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n8n := callhooktest.NewEndpoint(t, callhooktest.Reply(503, ""), callhooktest.Answer{Fault: callhooktest.FaultHang}, callhooktest.Reply(200, "ok"))
		n8n.Keys = []string{callhooktest.Key} // each request must be signed with it
		hooks := deliver(t, n8n)

		got := n8n.Received(t, 3)
		if last := got[2]; last.ID() != got[0].ID() || last.Text("data.call.duration_seconds") != "125" {
			t.Errorf("n8n got %v", last)
		}
		if d := hooks.Delivered(t, 1)[0]; d.Attempts != 3 {
			t.Errorf("it took %d attempts", d.Attempts)
		}
	})
}

func givesUpAfterThreeDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		n8n := callhooktest.NewEndpoint(t, callhooktest.Reply(404, `{"message": "the workflow is not active"}`))
		d := deliver(t, n8n).Dead(t, 1)[0]
		if took := time.Since(begun); d.Reason != callhook.ReasonExpired || took < 60*time.Hour || took > 72*time.Hour {
			t.Errorf("dead after %s: %s, %s", took, d.Reason, d.Log[len(d.Log)-1].Error)
		}
	})
}
