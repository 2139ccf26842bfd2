package callhooktest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
)

// Two tests of a lookup: one that finds the caller, and one of an endpoint that does not
// answer. In a file of your own their names begin with Test.
func Example_lookup() {}

func greetsByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := callhooktest.NewEndpoint(t, callhooktest.Reply(200, `{"contact": {"first_name": "Ada"}}`))
		config := callhooktest.Config(t, `{"agent_id": "reception", "pre_call": {
			"url": "https://crm.example.com/lookup", "method": "GET", "query": {"phone": "{{call.from}}"},
			"response": {"variables": {"customer_name": "contact.first_name"}}
		}}`)
		hooks := callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(config)}, callhooktest.Network{"crm.example.com": crm})

		pre := hooks.PreCall(t.Context(), &callhook.Call{ID: "call_1", AgentID: "reception", From: "+442079460123"})
		if said := pre.Variables.Expand(`Hi {{customer_name | default: "there"}}!`); said != "Hi Ada!" {
			t.Errorf("the agent says %q: %v", said, pre)
		}
		if asked := crm.Received(t, 1)[0]; asked.URL.Query().Get("phone") != "+442079460123" {
			t.Errorf("the CRM was asked %v", asked)
		}
	})
}

func greetsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := callhooktest.NewEndpoint(t, callhooktest.Answer{Delay: time.Minute})
		config := callhooktest.Config(t, `{"agent_id": "reception", "pre_call": {"url": "https://crm.example.com/lookup", "timeout": "2s"}}`)
		hooks := callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(config)}, callhooktest.Network{"crm.example.com": crm})

		pre := hooks.PreCall(t.Context(), &callhook.Call{ID: "call_1", AgentID: "reception", From: "+442079460123"})
		if pre.Outcome != callhook.OutcomeTimeout || pre.Elapsed != 2*time.Second { // exactly: the clock is the bubble's
			t.Error(pre)
		}
		if said := pre.Variables.Expand(`Hi {{customer_name | default: "there"}}!`); said != "Hi there!" {
			t.Errorf("the agent says %q", said)
		}
	})
}
