package callhooktest_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
)

// A test of one's own: whatever the CRM does, the agent can greet the caller in time.
func ExampleHostile() {
	config, err := callhook.ParseConfig([]byte(`{
		"agent_id": "reception",
		"variables": [{"name": "customer_name", "default": "there"}],
		"pre_call": {"url": "https://crm.example.com/lookup", "timeout": "1s"}
	}`))
	if err != nil {
		panic(err)
	}

	// This is func TestCRM(t *testing.T) in a file of tests.
	testCRM := func(t *testing.T) {
		for _, fault := range callhooktest.Hostile() {
			t.Run(string(fault), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { // no second of it is waited for
					crm := callhooktest.NewEndpoint(t, callhooktest.Answer{Fault: fault})
					hooks := callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(config)},
						callhooktest.Network{"crm.example.com": crm})

					pre := hooks.PreCall(t.Context(), &callhook.Call{ID: "call_1", AgentID: "reception", From: "+442079460123"})
					said := pre.Variables.Expand("Hi {{customer_name}}!")
					if pre.Elapsed > time.Second || said == "Hi !" || strings.Contains(said, "{{") {
						t.Errorf("the agent says %q after %s: %v", said, pre.Elapsed, pre)
					}
				})
			})
		}
	}

	fmt.Println("every call was answered:", passes(testCRM))
	// Output: every call was answered: true
}
