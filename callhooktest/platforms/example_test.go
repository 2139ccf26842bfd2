package platforms_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/callhooktest/platforms"
)

// run takes a call from its lookup to the delivery of its data. In a test of your own t
// is its *testing.T, and config the one that is tested.
func run(t testing.TB, config string, network callhooktest.Network) {
	c, err := callhook.ParseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	hooks := callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(c), Secrets: func(_ context.Context, ref callhook.SecretRef) (string, error) {
		return ref.Name, nil // the secret TOKEN is the text TOKEN
	}}, network)
	call := callhook.SampleCall(callhook.TypePreCall)
	call.TenantID = c.TenantID
	pre := hooks.PreCall(context.Background(), call)
	pre.Apply(call)
	call.Summary, call.EndedAt = "Ada moved her appointment.", call.StartedAt.Add(time.Minute)
	if err := hooks.PostCall(context.Background(), call); err != nil {
		t.Fatal(err)
	}
	hooks.Delivered(t, len(c.PostCall))
}

func ExampleNewHubSpot() {
	t := begin()
	defer t.end()
	hubspot := platforms.NewHubSpot(t)
	hubspot.Token = "TOKEN"
	hubspot.AddContact(map[string]string{"firstname": "Ada", "phone": "+44 20 7946 0123"})
	run(t, `{
		"agent_id": "reception",
		"pre_call": {
			"url": "https://api.hubapi.com/crm/v3/objects/contacts/search", "headers": {"Authorization": "Bearer ${TOKEN}"},
			"body": {
				"filterGroups": [{"filters": [{"propertyName": "hs_searchable_calculated_phone_number", "operator": "EQ", "value": "{{call.from | digits | last: 10}}"}]}],
				"properties": ["firstname"]
			},
			"response": {"variables": {"customer_name": "results.0.properties.firstname"}}
		},
		"post_call": [{
			"url": "https://api.hubapi.com/crm/v3/objects/calls", "headers": {"Authorization": "Bearer ${TOKEN}"},
			"payload": {"template": {"properties": {"hs_timestamp": "{{call.started_at}}", "hs_call_title": "Call with {{call.variables.customer_name}}"}}}
		}]
	}`, callhooktest.Network{"api.hubapi.com": hubspot.Endpoint})

	fmt.Println(hubspot.Calls()[0].Properties["hs_call_title"])
	// Output: Call with Ada
}

func ExampleNewZoho() {
	t := begin()
	defer t.end()
	zoho := platforms.NewZoho(t)
	zoho.Next(zoho.Verdict(200, "INVALID_DATA", "invalid data")) // to the first request; then it is itself
	run(t, `{
		"agent_id": "reception",
		"post_call": [{
			"url": "https://www.zohoapis.com/crm/v8/Calls", "headers": {"Authorization": "Zoho-oauthtoken `+zoho.AccessToken()+`"},
			"payload": {"template": {"data": [{
				"Subject": "{{call.summary}}", "Call_Type": "Inbound", "Call_Start_Time": "{{call.started_at}}", "Call_Duration": "{{call.duration_seconds | hhmm}}"
			}]}},
			"success": {"path": "data.0.code", "equals": "SUCCESS"}, "retry": {"initial": "10ms"}
		}]
	}`, callhooktest.Network{"www.zohoapis.com": zoho.Endpoint, "accounts.zoho.com": zoho.Endpoint})

	fmt.Println(len(zoho.Requests()), "requests,", len(zoho.Calls()), "call:", zoho.Calls()[0].Fields["Call_Duration"])
	// Output: 2 requests, 1 call: 00:01
}

func ExampleNewMake() {
	t := begin()
	defer t.end()
	scenario := platforms.NewMake(t)
	run(t, `{
		"agent_id": "reception",
		"post_call": [{"url": "https://hook.eu1.make.com/${TOKEN}", "payload": {"template": {"summary": "{{call.summary}}", "sentiment": "{{call.sentiment}}"}}}]
	}`, callhooktest.Network{"hook.eu1.make.com": scenario.Endpoint})

	fmt.Printf("%s\n", scenario.Bundles()[0])
	// Output: {"summary":"Ada moved her appointment.","sentiment":null}
}

func ExampleNewZapier() {
	t := begin()
	defer t.end()
	zap := platforms.NewZapier(t)
	run(t, `{
		"agent_id": "reception",
		"post_call": [{"url": "https://hooks.zapier.com/hooks/catch/1234567/${TOKEN}/", "payload": {"fields": ["call.summary"]}}]
	}`, callhooktest.Network{"hooks.zapier.com": zap.Endpoint})

	fmt.Println(slices.Sorted(maps.Keys(zap.Runs()[0])))
	// Output: [data__call__summary id timestamp type]
}

func ExampleNewN8N() {
	t := begin()
	defer t.end()
	n8n := platforms.NewN8N(t)
	lookup, calls := n8n.AddWorkflow("lookup"), n8n.AddWorkflow("calls")
	lookup.Respond = []any{map[string]any{"variables": map[string]any{"customer_name": "Ada"}}}
	lookup.Activate()
	calls.Activate()
	run(t, `{
		"agent_id": "reception",
		"pre_call": {"url": "http://n8n.example.com:5678/webhook/lookup"},
		"post_call": [{"url": "http://n8n.example.com:5678/webhook/calls", "payload": {"template": "{{call.variables.customer_name}}: {{call.summary}}"}}]
	}`, callhooktest.Network{"n8n.example.com": n8n.Endpoint})

	fmt.Printf("%s\n", calls.Executions()[0].Body)
	// Output: "Ada: Ada moved her appointment."
}

func ExampleNewZendesk() {
	t := begin()
	defer t.end()
	zendesk := platforms.NewZendesk(t)
	zendesk.Next(zendesk.Lost()) // the ticket is made, and the answer does not arrive
	run(t, `{
		"agent_id": "reception",
		"post_call": [{
			"url": "https://acme.zendesk.com/api/v2/tickets.json",
			"headers": {"Authorization": "Basic `+zendesk.Credentials()+`", "Idempotency-Key": "{{event.id}}"},
			"payload": {"template": {"ticket": {"subject": "A call", "comment": {"body": "{{call.summary}}"}}}}, "retry": {"initial": "10ms"}
		}]
	}`, callhooktest.Network{"acme.zendesk.com": zendesk.Endpoint})

	fmt.Println(len(zendesk.Requests()), "requests,", len(zendesk.Tickets()), "ticket")
	// Output: 2 requests, 1 ticket
}

func ExampleNewResend() {
	t := begin()
	defer t.end()
	resend := platforms.NewResend(t)
	resend.Key = "TOKEN"
	run(t, `{
		"agent_id": "reception",
		"post_call": [{
			"url": "https://api.resend.com/emails", "headers": {"Authorization": "Bearer ${TOKEN}"},
			"payload": {"template": {"from": "calls@example.com", "to": "reception@example.com", "subject": "A call", "text": "{{call.summary}}"}}
		}]
	}`, callhooktest.Network{"api.resend.com": resend.Endpoint})

	fmt.Println(resend.Emails()[0].To, resend.Emails()[0].Text)
	// Output: [reception@example.com] Ada moved her appointment.
}

// example is what a *testing.T is to a test: examples have none.
type example struct {
	testing.TB // nil: what is not below is not needed
	last       []func()
}

func begin() *example { return &example{} }

func (e *example) end() {
	for _, f := range slices.Backward(e.last) {
		f()
	}
}

func (e *example) Helper() {}

func (*example) Output() io.Writer                { return io.Discard }
func (e *example) Cleanup(f func())               { e.last = append(e.last, f) }
func (e *example) Errorf(format string, v ...any) { fmt.Printf(format+"\n", v...) }
func (e *example) Fatal(v ...any)                 { panic(fmt.Sprint(v...)) }
func (e *example) Fatalf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
