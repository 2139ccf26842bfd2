package callhooktest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
)

// The lookup of a runtime, and what the caller hears when the customer's system does
// not answer. go test runs both.
func Example_lookup() {}

const crmConfig = `{
	"agent_id": "reception",
	"pre_call": {
		"url": "https://crm.example.com/lookup", "method": "GET", "query": {"phone": "{{call.from}}"}, "timeout": "2s",
		"response": {"variables": {"customer_name": "contact.first_name"}}
	}
}`

// greet is the runtime's code under test.
func greet(t *testing.T, hooks *callhooktest.Hooks) (string, *callhook.PreCallResult) {
	call := &callhook.Call{ID: "call_1", AgentID: "reception", From: "+442079460123"}
	pre := hooks.PreCall(t.Context(), call)
	return pre.Variables.Expand(`Hi {{customer_name | default: "there"}}!`), pre
}

func TestGreetsByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := callhooktest.NewEndpoint(t, callhooktest.Reply(200, `{"contact": {"first_name": "Ada"}}`))
		hooks := newHooks(t, crmConfig, callhooktest.Network{"crm.example.com": crm})

		if greeting, pre := greet(t, hooks); greeting != "Hi Ada!" {
			t.Errorf("the agent says %q: %v", greeting, pre)
		}
		if asked := crm.Received(t, 1)[0]; asked.URL.Query().Get("phone") != "+442079460123" {
			t.Errorf("the CRM was asked %v", asked)
		}
	})
}

func TestGreetsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := callhooktest.NewEndpoint(t, callhooktest.Answer{Delay: time.Minute})
		hooks := newHooks(t, crmConfig, callhooktest.Network{"crm.example.com": crm})

		greeting, pre := greet(t, hooks)
		if greeting != "Hi there!" || pre.Outcome != callhook.OutcomeTimeout || pre.Elapsed != 2*time.Second { // exactly: the clock is the bubble's
			t.Errorf("the agent says %q: %v", greeting, pre)
		}
	})
}

func newHooks(t *testing.T, config string, network callhooktest.Network) *callhooktest.Hooks {
	t.Helper()
	c, err := callhook.ParseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	return callhooktest.NewHooks(t, callhook.Options{
		Configs: callhook.Static(c),
		Secrets: callhooktest.Secrets{"N8N_SECRET": callhooktest.Key}.Resolve,
	}, network)
}
