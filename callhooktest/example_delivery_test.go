package callhooktest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
)

// What becomes of a call's data when the receiver fails for a while, and for ever. go
// test runs both.
func Example_delivery() {}

const n8nConfig = `{
	"agent_id": "reception",
	"post_call": [{
		"name": "n8n", "url": "https://n8n.example.com/webhook/calls", "secrets": ["${N8N_SECRET}"],
		"payload": {"fields": ["call.id", "call.from", "call.duration_seconds"]}
	}]
}`

var endedCall = &callhook.Call{
	ID: "call_1", AgentID: "reception", From: "+442079460123", Status: callhook.StatusCompleted,
	StartedAt: time.Date(2026, 3, 2, 9, 30, 0, 0, time.UTC), EndedAt: time.Date(2026, 3, 2, 9, 32, 5, 0, time.UTC),
}

func TestDeliversAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n8n := callhooktest.NewEndpoint(t, callhooktest.Reply(503, ""), callhooktest.Answer{Fault: callhooktest.FaultHang}, callhooktest.Reply(200, "ok"))
		n8n.Keys = []string{callhooktest.Key} // each request must be signed with it
		hooks := newHooks(t, n8nConfig, callhooktest.Network{"n8n.example.com": n8n})

		if err := hooks.PostCall(t.Context(), endedCall); err != nil {
			t.Fatal(err)
		}
		got := n8n.Received(t, 3)
		if last := got[2]; last.ID() != got[0].ID() || last.Text("data.call.duration_seconds") != "125" {
			t.Errorf("n8n got %v", last)
		}
		if d := hooks.Delivered(t, 1)[0]; d.Attempts != 3 {
			t.Errorf("it took %d attempts", d.Attempts)
		}
	})
}

func TestGivesUpAfterThreeDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n8n := callhooktest.NewEndpoint(t, callhooktest.Reply(404, `{"message": "the workflow is not active"}`))
		hooks := newHooks(t, n8nConfig, callhooktest.Network{"n8n.example.com": n8n})

		begun := time.Now()
		if err := hooks.PostCall(t.Context(), endedCall); err != nil {
			t.Fatal(err)
		}
		d := hooks.Dead(t, 1)[0]
		if took := time.Since(begun); d.Reason != callhook.ReasonExpired || took < 60*time.Hour || took > 72*time.Hour {
			t.Errorf("dead after %s: %s, %s", took, d.Reason, d.Log[len(d.Log)-1].Error)
		}
	})
}
