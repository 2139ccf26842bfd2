// Package reception has the tests of docs/testing.md.
package reception

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/callhooktest/platforms"
	"github.com/google/go-cmp/cmp"
)

const config = `{
	"agent_id": "reception",
	"pre_call": {
		"url": "https://crm.example.com/lookup", "method": "GET", "query": {"phone": "{{call.from}}"},
		"response": {"variables": {"customer_name": "contact.first_name"}}
	},
	"post_call": [{
		"name": "n8n", "url": "https://n8n.example.com/webhook/calls", "secrets": ["${N8N_SECRET}"],
		"payload": {"fields": ["call.id", "call.from", "call.duration_seconds"]}
	}]
}`

// greet is the runtime's code that is tested.
func greet(ctx context.Context, hooks *callhook.Hooks, call *callhook.Call) string {
	pre := hooks.PreCall(ctx, call)
	pre.Apply(call)
	return pre.Variables.Expand(`Hi {{customer_name | default: "there"}}!`)
}

// newHooks runs callhook with a config, on a network that has nothing but these endpoints.
func newHooks(t *testing.T, config string, network callhooktest.Network) *callhooktest.Hooks {
	t.Helper()
	c, err := callhook.ParseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	return callhooktest.NewHooks(t, callhook.Options{
		Configs: callhook.Static(c),
		Secrets: callhooktest.Secrets{"N8N_SECRET": callhooktest.Key, "HUBSPOT_TOKEN": "pat-test"}.Resolve,
	}, network)
}

func TestGreetsByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := callhooktest.NewEndpoint(t, callhooktest.Reply(200, `{"contact": {"first_name": "Ada"}}`))
		hooks := newHooks(t, config, callhooktest.Network{"crm.example.com": crm})

		call := &callhook.Call{ID: "call_1", AgentID: "reception", From: "+442079460123"}
		if said := greet(t.Context(), hooks.Hooks, call); said != "Hi Ada!" {
			t.Errorf("the agent says %q", said)
		}
		if asked := crm.Received(t, 1)[0]; asked.URL.Query().Get("phone") != "+442079460123" {
			t.Errorf("the CRM was asked %v", asked)
		}
	})
}

func TestGreetsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := callhooktest.NewEndpoint(t, callhooktest.Answer{Delay: time.Minute})
		hooks := newHooks(t, config, callhooktest.Network{"crm.example.com": crm})

		call, rang := &callhook.Call{ID: "call_1", AgentID: "reception", From: "+442079460123"}, time.Now()
		said := greet(t.Context(), hooks.Hooks, call)
		if took := time.Since(rang); said != "Hi there!" || took != 2*time.Second { // exactly: the clock is the bubble's
			t.Errorf("the agent says %q after %s", said, took)
		}
	})
}

func TestThreeDaysOfFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n8n := callhooktest.NewEndpoint(t, callhooktest.Reply(503, "")) // the last answer is given again and again
		n8n.Keys = []string{callhooktest.Key}                           // a request that is not signed with it fails the test
		hooks := newHooks(t, config, callhooktest.Network{"n8n.example.com": n8n})

		began, call := time.Now(), callhook.SampleCall(callhook.TypePostCall)
		call.TenantID = "" // the config's
		if err := hooks.PostCall(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		d := hooks.Dead(t, 1)[0]
		if took := time.Since(began); d.Reason != callhook.ReasonExpired || took > 72*time.Hour {
			t.Errorf("dead after %s and %d attempts: %s", took, d.Attempts, d.Reason)
		}

		n8n.Then(callhooktest.Reply(200, "")) // mended, too late: somebody replays it
		dead := callhook.Filter{State: callhook.StateDead}
		if n, err := hooks.Inspector(t).Replay(t.Context(), dead); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if again := hooks.Delivered(t, 1)[0]; again.ID != d.ID { // the receiver knows the id
			t.Errorf("it has another id: %s", again.ID)
		}
	})
}

func TestWhateverTheCRMDoes(t *testing.T) {
	for _, fault := range callhooktest.Hostile() {
		t.Run(string(fault), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				crm := callhooktest.NewEndpoint(t, callhooktest.Answer{Fault: fault})
				hooks := newHooks(t, config, callhooktest.Network{"crm.example.com": crm})

				call, rang := &callhook.Call{ID: "call_1", AgentID: "reception", From: "+442079460123"}, time.Now()
				said := greet(t.Context(), hooks.Hooks, call)
				if took := time.Since(rang); took > 2*time.Second || !strings.HasPrefix(said, "Hi ") || strings.Contains(said, "{{") {
					t.Errorf("the agent says %q after %s", said, took)
				}
			})
		})
	}
}

func TestLogsCallsInHubSpot(t *testing.T) {
	config, err := os.ReadFile(filepath.Join("..", "..", "config", "hubspot_call_log.json"))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		hubspot := platforms.NewHubSpot(t)
		hubspot.Token = "pat-test"
		ada := hubspot.AddContact(map[string]string{"firstname": "Ada"})
		hubspot.Next(hubspot.Lost()) // it logs the call, and its answer gets lost; then it is itself
		hooks := newHooks(t, string(config), callhooktest.Network{"api.hubapi.com": hubspot.Endpoint})

		call := callhook.SampleCall(callhook.TypePostCall)
		call.TenantID, call.Variables["contact_id"] = "acme", ada
		if err := hooks.PostCall(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		hooks.Delivered(t, 1)
		if logged := hubspot.Calls(); len(logged) != 2 { // at least once is what is promised, and HubSpot does not know ids
			t.Errorf("HubSpot has %+v", logged)
		}
	})
}

func TestLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := callhooktest.NewEndpoint(t, callhooktest.Reply(500, "down for maintenance"))
		hooks := newHooks(t, config, callhooktest.Network{"crm.example.com": crm})

		got := hooks.PreCall(t.Context(), &callhook.Call{ID: "call_1", AgentID: "reception"})
		want := &callhook.PreCallResult{
			Outcome: callhook.OutcomeFailed, Err: &callhook.StatusError{Status: 500}, Status: 500, Attempts: 1,
		}
		if diff := cmp.Diff(want, got, callhooktest.Equal()...); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}
