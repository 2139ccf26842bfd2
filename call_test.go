package callhook_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
)

// TestOneCall takes one call from its lookup to the delivery of its data.
func TestOneCall(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		crm := newEndpoint(reply(200, `{"contact":{"first_name":"Ada"},"appointments":[{"starts_at":"2026-03-03T10:00:00+01:00"}]}`, "Content-Type: application/json"))
		ops := newEndpoint()
		log := newEndpoint(status(500), status(429, "Retry-After: 1"), status(200))
		n.handle("crm.test", crm.ServeHTTP)
		n.handle("ops.test", ops.ServeHTTP)
		n.handle("log.test", log.ServeHTTP)
		config := parse(t, `{
			"agent_id": "reception",
			"variables": [{"name": "customer_name"}, {"name": "tier", "default": "standard", "locked": true}],
			"pre_call": {"url": "http://crm.test/lookup?phone={{call.from}}", "method": "GET",
				"response": {"variables": {"customer_name": "contact.first_name", "next": "appointments.0.starts_at"}}},
			"call_status": [{"name": "ops", "url": "http://ops.test/", "statuses": ["transfer_started"]}],
			"post_call": [{"name": "log", "url": "http://log.test/", "secrets": ["${KEY}"], "headers": {"Authorization": "Bearer ${KEY}"},
				"payload": {"fields": ["call.id", "call.variables.customer_name"]}}]
		}`)
		t.Setenv("TEST_KEY", secret)
		options := callhook.Options{Configs: callhook.Static(config), Dial: n.Dial, Secrets: callhook.EnvSecrets("TEST_")}
		run(t, options, func(h *callhook.Hooks) {
			call := &callhook.Call{ID: "c1", AgentID: "reception", Direction: callhook.Inbound, From: "+442079460123"}
			pre := h.PreCall(t.Context(), call)
			if pre.Outcome != callhook.OutcomeApplied || pre.Err != nil {
				t.Fatalf("outcome %s, err %v", pre.Outcome, pre.Err)
			}
			pre.Apply(call)
			if got, want := pre.Variables.Expand(`Hi {{customer_name}}, {{next | date: "%A"}}? {{tier}}`), "Hi Ada, Tuesday? standard"; got != want {
				t.Errorf("greeting %q, want %q", got, want)
			}
			if got, want := crm.requests()[0].URL, "/lookup?phone=%2B442079460123"; got != want {
				t.Errorf("lookup %s, want %s", got, want)
			}
			call.Status, call.Sequence = callhook.StatusTransferStarted, 1
			if err := h.CallStatus(t.Context(), call); err != nil {
				t.Fatal(err)
			}
			call.EndedAt = time.Now()
			for range 2 { // again is nothing new
				if err := h.PostCall(t.Context(), call); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if got := len(ops.requests()); got != 1 {
				t.Errorf("ops got %d requests, want 1", got)
			}
			got := log.requests()
			if len(got) != 3 {
				t.Fatalf("log got %d requests, want 3", len(got))
			}
			for _, r := range got {
				if err := callhook.Verify(r.Header, r.Body, secret); err != nil && time.Since(r.At) < callhook.Tolerance {
					t.Error(err)
				}
				if r.Header.Get("Authorization") != "Bearer "+secret {
					t.Errorf("Authorization %q", r.Header.Get("Authorization"))
				}
			}
			var event callhook.Event
			if err := json.Unmarshal(got[2].Body, &event); err != nil {
				t.Fatal(err)
			}
			if event.Type != callhook.EventEnded || event.Data.Call.Variables["customer_name"] != "Ada" || event.ID != got[2].Header.Get(callhook.HeaderID) {
				t.Errorf("body %s", got[2].Body)
			}
			if strings.Contains(string(got[2].Body), "+4420") {
				t.Errorf("a field that was not selected was sent: %s", got[2].Body)
			}
			balance(t, h, 2, 0, 0)
		})
	})
}

var _ http.Handler = (*endpoint)(nil)
