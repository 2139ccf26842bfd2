package callhook_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/callhook-go/callhook"
	"github.com/google/go-cmp/cmp"
)

const isJSON = "Content-Type: application/json"

// TestReplies has every reply that reference documentation of the platforms
// shows, each as a real answer to a real lookup.
func TestReplies(t *testing.T) {
	type result struct {
		Outcome    callhook.Outcome
		Dialect    string
		Variables  callhook.Variables
		Changes    []string // but for what was set
		Directives callhook.Directives
		NotUnique  bool
	}
	none := result{Outcome: callhook.OutcomeEmpty, Variables: callhook.Variables{}}
	notUnique := result{Outcome: callhook.OutcomeEmpty, Variables: callhook.Variables{}, NotUnique: true}
	ada := callhook.Variables{"customer_name": "Ada"}
	all := `{"directives":["agent_id","agent_version","first_message","prompt","language","voice","reject","transfer_to","metadata",
		"max_duration_ms","user_id","memory","keywords","additional_context","extra_body"]}`
	tests := []struct {
		name     string
		response string // of the config; empty for none
		declared string // variables of the config; empty for none
		answer   http.HandlerFunc
		want     result
	}{
		{"callhook", ``, ``,
			reply(200, `{"variables":{"customer_name":"Ada","visits":14},"metadata":{"crm_id":7},"directives":{"agent_id":"sales",
				"first_message":"Hi Ada!","language":"fr","voice":"v1","reject":"closed","transfer_to":"+442079460777"}}`, isJSON),
			result{callhook.OutcomeApplied, "callhook", callhook.Variables{"customer_name": "Ada", "visits": json.Number("14")},
				[]string{"directive:agent_id dropped not_allowed", "directive:first_message dropped not_allowed", "directive:language dropped not_allowed",
					"directive:voice dropped not_allowed", "directive:reject dropped not_allowed", "directive:transfer_to dropped not_allowed",
					"directive:metadata dropped not_allowed"}, callhook.Directives{}, false}},
		{"callhook, everything allowed", all, ``,
			reply(200, `{"variables":{"customer_name":"Ada"},"metadata":{"crm_id":12345678901234567890},"directives":{"agent_id":"sales",
				"first_message":"Hi Ada!","language":"fr","voice":"v1","reject":"closed","transfer_to":"+442079460777"}}`, isJSON),
			result{callhook.OutcomeApplied, "callhook", ada, nil, callhook.Directives{AgentID: "sales", FirstMessage: "Hi Ada!", Language: "fr",
				Voice: "v1", Reject: "closed", TransferTo: "+442079460777", Metadata: callhook.Object{"crm_id": json.Number("12345678901234567890")}}, false}},
		{"callhook, two allowed", `{"directives":["language","reject"]}`, ``,
			reply(200, `{"variables":{},"directives":{"agent_id":"sales","language":"fr","reject":false}}`, isJSON),
			result{callhook.OutcomeEmpty, "callhook", callhook.Variables{}, []string{"directive:agent_id dropped not_allowed"},
				callhook.Directives{Language: "fr"}, false}},
		{"Retell", ``, ``,
			reply(200, `{"call_inbound":{"override_agent_id":"agent_12","override_agent_version":1,
				"agent_override":{"agent":{"voice_id":"11labs-Adrian","language":"es-ES","max_call_duration_ms":60000}},
				"dynamic_variables":{"customer_name":"Ada","account_status":"vip"},"metadata":{"random_id":"12"},"reject":false}}`, isJSON),
			result{callhook.OutcomeApplied, "retell", callhook.Variables{"customer_name": "Ada", "account_status": "vip"},
				[]string{"directive:agent_id dropped not_allowed", "directive:agent_version dropped not_allowed", "directive:language dropped not_allowed",
					"directive:voice dropped not_allowed", "directive:metadata dropped not_allowed", "directive:max_duration_ms dropped not_allowed"},
				callhook.Directives{}, false}},
		{"Retell, everything allowed", all, ``,
			reply(200, `{"call_inbound":{"override_agent_id":"agent_12","override_agent_version":1,
				"agent_override":{"agent":{"voice_id":"11labs-Adrian","language":"es-ES","max_call_duration_ms":60000}},
				"dynamic_variables":{"customer_name":"Ada"},"metadata":{"random_id":"12"},"reject":true}}`, isJSON),
			result{callhook.OutcomeApplied, "retell", ada, nil, callhook.Directives{AgentID: "agent_12", Language: "es-ES", Voice: "11labs-Adrian",
				Reject: "true", Metadata: callhook.Object{"random_id": "12"},
				Other: callhook.Object{"agent_version": json.Number("1"), "max_duration_ms": json.Number("60000")}}, false}},
		{"Retell without variables", ``, ``, reply(200, `{"call_inbound":{}}`, isJSON),
			result{callhook.OutcomeEmpty, "retell", callhook.Variables{}, nil, callhook.Directives{}, false}},
		{"Synthflow, another agent", all, ``,
			reply(200, `{"call_inbound":{"custom_variables":{"customer_name":"Ada"},"override_model_id":"1690","metadata":{"a":"b"}}}`, isJSON),
			result{callhook.OutcomeApplied, "synthflow", ada, nil, callhook.Directives{AgentID: "1690", Metadata: callhook.Object{"a": "b"}}, false}},
		{"Synthflow, the empty id keeps the agent", all, ``,
			reply(200, `{"call_inbound":{"custom_variables":{"customer_name":"Ada"},"override_model_id":""}}`, isJSON),
			result{callhook.OutcomeApplied, "synthflow", ada, nil, callhook.Directives{}, false}},
		{"Dograh", ``, ``, reply(200, `{"call_inbound":{"initial_context":{"customer_name":"Ada","order":{"id":7,"open":true}}}}`, isJSON),
			result{callhook.OutcomeApplied, "dograh", callhook.Variables{"customer_name": "Ada", "order": map[string]any{"id": json.Number("7"), "open": true}},
				nil, callhook.Directives{}, false}},
		{"Dograh, at the top", ``, ``, reply(200, `{"initial_context":{"customer_name":"Ada"}}`, isJSON),
			result{callhook.OutcomeApplied, "dograh", ada, nil, callhook.Directives{}, false}},
		{"Dograh, by its name", `{"dialect":"dograh"}`, ``, reply(200, `{"dynamic_variables":{"customer_name":"Ada"}}`, isJSON),
			result{callhook.OutcomeApplied, "dograh", ada, nil, callhook.Directives{}, false}},
		{"ElevenLabs", ``, ``,
			reply(200, `{"type":"conversation_initiation_client_data","dynamic_variables":{"customer_name":"Ada"},"user_id":"u1",
				"conversation_config_override":{"agent":{"prompt":{"prompt":"Obey."},"first_message":"Hi Ada!","language":"es"},"tts":{"voice_id":"v1"}},
				"custom_llm_extra_body":{"temperature":0.70}}`, isJSON),
			result{callhook.OutcomeApplied, "elevenlabs", ada,
				[]string{"directive:first_message dropped not_allowed", "directive:prompt dropped not_allowed", "directive:language dropped not_allowed",
					"directive:voice dropped not_allowed", "directive:user_id dropped not_allowed", "directive:extra_body dropped not_allowed"},
				callhook.Directives{}, false}},
		{"ElevenLabs, everything allowed", all, ``,
			reply(200, `{"type":"conversation_initiation_client_data","dynamic_variables":{"customer_name":"Ada"},"user_id":"u1",
				"conversation_config_override":{"agent":{"prompt":{"prompt":"Be kind."},"first_message":"Hi Ada!","language":"es"},"tts":{"voice_id":"v1"}},
				"custom_llm_extra_body":{"temperature":0.70}}`, isJSON),
			result{callhook.OutcomeApplied, "elevenlabs", ada, nil, callhook.Directives{FirstMessage: "Hi Ada!", Language: "es", Voice: "v1",
				Other: callhook.Object{"prompt": "Be kind.", "user_id": "u1", "extra_body": map[string]any{"temperature": json.Number("0.70")}}}, false}},
		{"Telnyx", ``, ``,
			reply(200, `{"dynamic_variables":{"customer_name":"Ada"},"memory":{"conversation_query":"limit=5"},"conversation":{"metadata":{"tier":"gold"}}}`, isJSON),
			result{callhook.OutcomeApplied, "telnyx", ada, []string{"directive:metadata dropped not_allowed", "directive:memory dropped not_allowed"},
				callhook.Directives{}, false}},
		{"Telnyx, everything allowed", all, ``,
			reply(200, `{"dynamic_variables":{"customer_name":"Ada"},"memory":{"conversation_query":"limit=5"},"conversation":{"metadata":{"tier":"gold"}}}`, isJSON),
			result{callhook.OutcomeApplied, "telnyx", ada, nil, callhook.Directives{Metadata: callhook.Object{"tier": "gold"},
				Other: callhook.Object{"memory": map[string]any{"conversation_query": "limit=5"}}}, false}},
		{"Fish Audio", `{"dialect":"fish"}`, ``,
			reply(200, `{"dynamic_variables":{"customer_name":"Ada","vip":true,"visits":14,"tags":["a"],"address":{"city":"London"},"note":"`+strings.Repeat("é", 1001)+`"}}`, isJSON),
			result{callhook.OutcomeApplied, "fish", callhook.Variables{"customer_name": "Ada", "vip": true, "visits": json.Number("14")},
				[]string{"tags dropped wrong_type", "address dropped wrong_type", "note dropped too_long"}, callhook.Directives{}, false}},
		{"Fish Audio without configuration", ``, ``, reply(200, `{"dynamic_variables":{"customer_name":"Ada"}}`, isJSON),
			result{callhook.OutcomeApplied, "telnyx", ada, nil, callhook.Directives{}, false}}, // the same shape
		{"Vapi", ``, ``,
			reply(200, `{"assistantId":"asst_1","assistantOverrides":{"variableValues":{"customer_name":"Ada"}}}`, isJSON),
			result{callhook.OutcomeApplied, "vapi", ada, []string{"directive:agent_id dropped not_allowed"}, callhook.Directives{}, false}},
		{"Vapi, everything allowed", all, ``,
			reply(200, `{"assistantId":"asst_1","assistantOverrides":{"variableValues":{"customer_name":"Ada"}}}`, isJSON),
			result{callhook.OutcomeApplied, "vapi", ada, nil, callhook.Directives{AgentID: "asst_1"}, false}},
		{"Vapi, the destination comes before the assistant", all, ``,
			reply(200, `{"assistantId":"asst_1","assistantOverrides":{"variableValues":{"customer_name":"Ada"}},
				"destination":{"type":"number","number":"+442079460777","extension":"7","message":"One moment"}}`, isJSON),
			result{callhook.OutcomeApplied, "vapi", ada, []string{"directive:agent_id dropped overridden"}, callhook.Directives{TransferTo: "+442079460777"}, false}},
		{"Vapi, the error comes before everything", all, ``,
			reply(200, `{"assistantId":"asst_1","assistantOverrides":{"variableValues":{"customer_name":"Ada"}},
				"destination":{"type":"sip","sipUri":"sip:desk@example.com"},"error":"We are closed."}`, isJSON),
			result{callhook.OutcomeApplied, "vapi", ada, []string{"directive:agent_id dropped overridden", "directive:transfer_to dropped overridden"},
				callhook.Directives{Reject: "We are closed."}, false}},
		{"Vapi, what is not allowed is not stronger", `{"directives":["transfer_to"]}`, ``,
			reply(200, `{"assistantOverrides":{"variableValues":{}},"destination":{"type":"sip","sipUri":"sips:desk@example.com;transport=tls"},"error":"no"}`, isJSON),
			result{callhook.OutcomeEmpty, "vapi", callhook.Variables{}, []string{"directive:reject dropped not_allowed"},
				callhook.Directives{TransferTo: "sips:desk@example.com;transport=tls"}, false}},
		{"Vapi, error alone", ``, ``, reply(200, `{"error":"We are closed."}`, isJSON),
			result{callhook.OutcomeEmpty, "flat", callhook.Variables{}, []string{"error dropped undeclared"}, callhook.Directives{}, false}},
		{"Vapi, error alone, by its name", `{"dialect":"vapi","directives":["reject"]}`, ``, reply(200, `{"error":"We are closed."}`, isJSON),
			result{callhook.OutcomeEmpty, "vapi", callhook.Variables{}, nil, callhook.Directives{Reject: "We are closed."}, false}},
		{"Simple AI", `{"dialect":"simpleai"}`, ``, reply(200, `{"parameters":{"customer_name":"Ada"}}`, isJSON),
			result{callhook.OutcomeApplied, "simpleai", ada, nil, callhook.Directives{}, false}},
		{"Simple AI is too common to guess at", ``, ``, reply(200, `{"parameters":{"customer_name":"Ada"}}`, isJSON),
			result{callhook.OutcomeEmpty, "flat", callhook.Variables{}, []string{"parameters dropped undeclared"}, callhook.Directives{}, false}},
		{"Vogent", ``, ``, reply(200, `{"call_agent_input":{"customer_name":"Ada"},"keywords":["Lovelace","Babbage"]}`, isJSON),
			result{callhook.OutcomeApplied, "vogent", ada, []string{"directive:keywords dropped not_allowed"}, callhook.Directives{}, false}},
		{"Vogent, everything allowed", all, ``, reply(200, `{"call_agent_input":{"customer_name":"Ada"},"keywords":["Lovelace","Babbage"]}`, isJSON),
			result{callhook.OutcomeApplied, "vogent", ada, nil, callhook.Directives{Other: callhook.Object{"keywords": []any{"Lovelace", "Babbage"}}}, false}},
		{"BotPulse", ``, ``,
			reply(200, `{"jsonrpc":"2.0","id":"1","result":{"dynamic_data":{"customer_name":"Ada"},"personalization":{"language":"fr"},
				"additional_context":"A regular.","metadata":{"a":1}}}`, isJSON),
			result{callhook.OutcomeApplied, "botpulse", ada,
				[]string{"directive:language dropped not_allowed", "directive:metadata dropped not_allowed", "directive:additional_context dropped not_allowed"},
				callhook.Directives{}, false}},
		{"BotPulse, everything allowed", all, ``,
			reply(200, `{"jsonrpc":"2.0","id":"1","result":{"dynamic_data":{"customer_name":"Ada"},"personalization":{"language":"fr"},
				"additional_context":"A regular.","metadata":{"a":1}}}`, isJSON),
			result{callhook.OutcomeApplied, "botpulse", ada, nil, callhook.Directives{Language: "fr", Metadata: callhook.Object{"a": json.Number("1")},
				Other: callhook.Object{"additional_context": "A regular."}}, false}},
		{"Millis", `{"dialect":"millis","directives":["additional_context"]}`, ``,
			reply(200, `{"metadata":{"customer_name":"Ada"},"extra_prompt":"A regular."}`, isJSON),
			result{callhook.OutcomeApplied, "millis", ada, nil, callhook.Directives{Other: callhook.Object{"additional_context": "A regular."}}, false}},
		{"Millis is too common to guess at", ``, ``, reply(200, `{"metadata":{"customer_name":"Ada"},"extra_prompt":"A regular."}`, isJSON),
			result{callhook.OutcomeEmpty, "flat", callhook.Variables{},
				[]string{"metadata dropped undeclared", "extra_prompt dropped undeclared"}, callhook.Directives{}, false}},
		{"a flat object gives declared names only", ``, `{"name":"customer_name"},{"name":"city"}`,
			reply(200, `{"customer_name":"Ada","shoe_size":42,"id":"7"}`, isJSON),
			result{callhook.OutcomeApplied, "flat", ada, []string{"shoe_size dropped undeclared", "id dropped undeclared"}, callhook.Directives{}, false}},
		{"flat by its name, whatever is in it", `{"dialect":"flat"}`, `{"name":"customer_name"},{"name":"variables"}`,
			reply(200, `{"variables":{"customer_name":"Bob"},"customer_name":"Ada"}`, isJSON),
			result{callhook.OutcomeApplied, "flat", callhook.Variables{"customer_name": "Ada", "variables": map[string]any{"customer_name": "Bob"}},
				nil, callhook.Directives{}, false}},
		{"anything else, by paths", `{"variables":{"customer_name":"contact.first_name","next":"appointments.0.starts_at","city":"contact.city"}}`, ``,
			reply(200, `{"contact":{"first_name":"Ada"},"appointments":[{"starts_at":"2026-03-03T10:00:00Z"}]}`, isJSON),
			result{callhook.OutcomeApplied, "", callhook.Variables{"customer_name": "Ada", "next": "2026-03-03T10:00:00Z"},
				[]string{"city dropped missing"}, callhook.Directives{}, false}},
		{"paths turn recognition off", `{"variables":{"customer_name":"name"}}`, ``,
			reply(200, `{"variables":{"customer_name":"Bob"},"name":"Ada"}`, isJSON),
			result{callhook.OutcomeApplied, "", ada, nil, callhook.Directives{}, false}},
		{"paths reach into the one element of an array", `{"variables":{"customer_name":"name"}}`, ``, reply(200, `[{"name":"Ada"}]`, isJSON),
			result{callhook.OutcomeApplied, "", ada, nil, callhook.Directives{}, false}},
		{"paths through an array", `{"variables":{"customer_name":"#(main==true).name","names":"#.name"}}`, ``,
			reply(200, `[{"name":"Bob"},{"name":"Ada","main":true}]`, isJSON),
			result{callhook.OutcomeApplied, "", callhook.Variables{"customer_name": "Ada", "names": []any{"Bob", "Ada"}}, nil, callhook.Directives{}, false}},
		{"a dialect turns recognition off", `{"dialect":"retell"}`, ``, reply(200, `{"variables":{"customer_name":"Ada"}}`, isJSON),
			result{callhook.OutcomeEmpty, "retell", callhook.Variables{}, nil, callhook.Directives{}, false}},

		{"204", ``, ``, status(204), none},
		{"an empty body", ``, ``, status(200, isJSON), none},
		{"white space", ``, ``, reply(200, " \r\n\t", isJSON), none},
		{"Make: Accepted", ``, ``, reply(200, "Accepted", "Content-Type: text/plain; charset=utf-8"), none},
		{"a page", ``, ``, reply(200, "<!DOCTYPE html><html>", "Content-Type: text/html"), none},
		{"n8n: Workflow was started", ``, `{"name":"message"}`, reply(200, `{"message":"Workflow was started"}`, isJSON), none},
		{"Zapier", ``, `{"name":"status"},{"name":"id"}`,
			reply(200, `{"attempt":"019c","id":"019c","request_id":"019c","status":"success"}`, isJSON), none},
		{"Zapier's words beside a wrapper", ``, ``,
			reply(200, `{"id":"019c","request_id":"019c","status":"success","variables":{"customer_name":"Ada"}}`, isJSON),
			result{callhook.OutcomeApplied, "callhook", ada, nil, callhook.Directives{}, false}},
		{"{}", ``, ``, reply(200, `{}`, isJSON), result{callhook.OutcomeEmpty, "flat", callhook.Variables{}, nil, callhook.Directives{}, false}},
		{"[]", ``, ``, reply(200, `[]`, isJSON), none},
		{"null", ``, ``, reply(200, `null`, isJSON), none},
		{"a text", ``, ``, reply(200, `"ok"`, isJSON), none},
		{"an array in an array", ``, ``, reply(200, `[[{"variables":{"customer_name":"Ada"}}]]`, isJSON), none},
		{"[{…}] is its one element", ``, ``, reply(200, `[{"variables":{"customer_name":"Ada"}}]`, isJSON),
			result{callhook.OutcomeApplied, "callhook", ada, nil, callhook.Directives{}, false}},
		{"[{…}] may be flat", ``, `{"name":"customer_name"}`, reply(200, `[{"customer_name":"Ada"}]`, isJSON),
			result{callhook.OutcomeApplied, "flat", ada, nil, callhook.Directives{}, false}},
		{"two elements are two people", ``, `{"name":"customer_name"}`, reply(200, `[{"customer_name":"Ada"},{"customer_name":"Ada"}]`, isJSON), notUnique},
		{"JSON that does not say so", ``, ``, reply(200, `{"variables":{"customer_name":"Ada"}}`, "Content-Type: text/html"),
			result{callhook.OutcomeApplied, "callhook", ada, nil, callhook.Directives{}, false}},
		{"behind a byte order mark", ``, ``, reply(200, "\ufeff"+`{"variables":{"customer_name":"Ada"}}`, isJSON),
			result{callhook.OutcomeApplied, "callhook", ada, nil, callhook.Directives{}, false}},
		{"404: nobody by that number", ``, ``, reply(404, `{"variables":{"customer_name":"Ada"}}`, isJSON), none},

		{"unique: one", `{"unique":"results","dialect":"flat"}`, `{"name":"customer_name"}`, reply(200, `{"results":[1],"customer_name":"Ada"}`, isJSON),
			result{callhook.OutcomeApplied, "flat", ada, []string{"results dropped undeclared"}, callhook.Directives{}, false}},
		{"unique: two", `{"unique":"results","dialect":"flat"}`, `{"name":"customer_name"}`, reply(200, `{"results":[1,2],"customer_name":"Ada"}`, isJSON), notUnique},
		{"unique: the number of matches", `{"unique":"total","variables":{"customer_name":"name"}}`, ``, reply(200, `{"total":2,"name":"Ada"}`, isJSON), notUnique},
		{"unique: the number in quotes", `{"unique":"total","variables":{"customer_name":"name"}}`, ``, reply(200, `{"total":"2","name":"Ada"}`, isJSON), notUnique},
		{"unique: a count", `{"unique":"results.#","variables":{"customer_name":"results.0.name"}}`, ``,
			reply(200, `{"results":[{"name":"Ada"},{"name":"Ada"}]}`, isJSON), notUnique},
		{"unique: the number is one", `{"unique":"total","variables":{"customer_name":"name"}}`, ``, reply(200, `{"total":1,"name":"Ada"}`, isJSON),
			result{callhook.OutcomeApplied, "", ada, nil, callhook.Directives{}, false}},
		{"unique: not there", `{"unique":"total","variables":{"customer_name":"name"}}`, ``, reply(200, `{"name":"Ada"}`, isJSON),
			result{callhook.OutcomeApplied, "", ada, nil, callhook.Directives{}, false}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := lookup{declared: tt.declared, answer: tt.answer}
			if tt.response != "" {
				l.preCall = `"response": ` + tt.response
			}
			res := l.run(t)
			got := result{res.Outcome, res.Dialect, res.Variables, changes(res, callhook.ActionDropped), res.Directives, errors.Is(res.Err, callhook.ErrNotUnique)}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if res.Err != nil && !got.NotUnique {
				t.Errorf("a reply without variables is no error, got %v", res.Err)
			}
		})
	}
}

// TestStraightReplies has the answers of CRMs that are asked themselves, read by
// the configs in examples/config.
func TestStraightReplies(t *testing.T) {
	tests := []struct {
		name, config string
		answer       http.HandlerFunc
		want         callhook.Variables
		outcome      callhook.Outcome
	}{
		{"HubSpot", "hubspot_lookup", reply(200, `{"total":1,"results":[{"id":"101","properties":{"company":"Analytical Engines","createdate":"2024-01-01T00:00:00Z",
			"firstname":"Ada","hs_object_id":"101"},"createdAt":"2024-01-01T00:00:00Z","archived":false}]}`, isJSON),
			callhook.Variables{"customer_name": "Ada", "company": "Analytical Engines", "contact_id": "101"}, callhook.OutcomeApplied},
		{"HubSpot, nobody", "hubspot_lookup", reply(200, `{"total":0,"results":[]}`, isJSON), callhook.Variables{}, callhook.OutcomeEmpty},
		{"HubSpot, two Adas share a phone", "hubspot_lookup", reply(200, `{"total":2,"results":[{"id":"101","properties":{"firstname":"Ada"}},
			{"id":"102","properties":{"firstname":"Ada"}}]}`, isJSON), callhook.Variables{}, callhook.OutcomeEmpty},
		{"HubSpot, no company", "hubspot_lookup", reply(200, `{"total":1,"results":[{"id":"101","properties":{"company":null,"firstname":"Ada"}}]}`, isJSON),
			callhook.Variables{"customer_name": "Ada", "contact_id": "101"}, callhook.OutcomeApplied},
		{"Zoho", "zoho_lookup", reply(200, `{"data":[{"First_Name":"Ada","Account_Name":{"name":"Analytical Engines","id":"4876876000001036001"},
			"id":"4876876000001036016"}],"info":{"count":1}}`, isJSON),
			callhook.Variables{"customer_name": "Ada", "company": "Analytical Engines", "contact_id": "4876876000001036016"}, callhook.OutcomeApplied},
		{"Zoho, nobody", "zoho_lookup", status(204), callhook.Variables{}, callhook.OutcomeEmpty},
		{"Zoho, two", "zoho_lookup", reply(200, `{"data":[{"First_Name":"Ada","id":"1"},{"First_Name":"Bob","id":"2"}]}`, isJSON),
			callhook.Variables{}, callhook.OutcomeEmpty},
		{"GoHighLevel", "gohighlevel", reply(200, `{"contact":{"id":"YjKc","firstName":"Ada","phone":"+442079460123"},"traceId":"t"}`, isJSON),
			callhook.Variables{"customer_name": "Ada", "contact_id": "YjKc"}, callhook.OutcomeApplied},
		{"GoHighLevel, nobody", "gohighlevel", reply(200, `{"contact":null,"traceId":"t"}`, isJSON), callhook.Variables{}, callhook.OutcomeEmpty},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			config := example(t, tt.config)
			config.PreCall.URL = "http://crm.test/"
			res := lookup{config: config, answer: tt.answer}.run(t)
			if diff := cmp.Diff(tt.want, res.Variables); diff != "" || res.Outcome != tt.outcome {
				t.Errorf("outcome %s, want %s; err %v; variables (-want +got):\n%s", res.Outcome, tt.outcome, res.Err, diff)
			}
		})
	}
	t.Run("GoHighLevel, version 1", func(t *testing.T) {
		res := lookup{preCall: `"method": "GET", "query": {"phone": "{{call.from}}"}, "response": {"unique": "contacts", "variables": {"customer_name": "contacts.0.firstName"}}`,
			answer: reply(200, `{"contacts":[{"id":"YjKc","firstName":"Ada"}]}`, isJSON)}.run(t)
		if diff := cmp.Diff(callhook.Variables{"customer_name": "Ada"}, res.Variables); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestRequests renders the ready-made configs and compares what they would send
// with what the platforms' endpoints expect. ID stands for the event's id.
func TestRequests(t *testing.T) {
	tests := []struct{ config, method, url, body string }{
		{"retell", "POST", "https://hooks.example.com/retell/inbound",
			`{"event":"call_inbound","call_inbound":{"agent_id":"reception","agent_version":7,"from_number":"+442079460123","to_number":"+442079460999"}}`},
		{"synthflow", "POST", "https://hooks.example.com/synthflow/inbound",
			`{"event":"call_inbound","call_inbound":{"model_id":"reception","from_number":"+442079460123","to_number":"+442079460999"}}`},
		{"fish", "POST", "https://hooks.example.com/fish/inbound",
			`{"event":"call.inbound","call":{"caller_number":"+442079460123","dialed_number":"+442079460999","agent_id":"reception",
				"phone_number_id":null,"twilio_call_sid":"CA1f2e3d4c5b6a79880a1b2c3d4e5f6071"}}`},
		{"elevenlabs", "POST", "https://hooks.example.com/elevenlabs/inbound",
			`{"caller_id":"+442079460123","agent_id":"reception","called_number":"+442079460999","call_sid":"CA1f2e3d4c5b6a79880a1b2c3d4e5f6071"}`},
		{"telnyx", "POST", "https://hooks.example.com/telnyx/inbound",
			`{"data":{"record_type":"event","id":"ID","event_type":"assistant.initialization","occurred_at":"2026-03-02T09:30:00.000Z",
				"payload":{"telnyx_conversation_channel":"phone_call","telnyx_agent_target":"+442079460999","telnyx_end_user_target":"+442079460123",
				"telnyx_end_user_target_verified":true,"call_control_id":"CA1f2e3d4c5b6a79880a1b2c3d4e5f6071","assistant_id":"reception"}}}`},
		{"vapi", "POST", "https://hooks.example.com/vapi/inbound",
			`{"message":{"type":"assistant-request","timestamp":1772443800000,
				"call":{"id":"call_8f14e45fceea167a","type":"inboundPhoneCall","phoneCallProviderId":"CA1f2e3d4c5b6a79880a1b2c3d4e5f6071",
				"customer":{"number":"+442079460123"}},"phoneNumber":{"number":"+442079460999"},"customer":{"number":"+442079460123","name":"ADA LOVELACE"}}}`},
		{"simpleai", "POST", "https://hooks.example.com/simpleai/inbound",
			`{"call":{"from_number":"+442079460123","to_number":"+442079460999","direction":"inbound","timestamp":"2026-03-02T09:30:00.000Z"},
				"agent":{"id":"reception","name":"Robin"}}`},
		{"vogent", "POST", "https://hooks.example.com/vogent/inbound",
			`{"event":"dial.inbound","payload":{"dial_session_id":"call_8f14e45fceea167a","dial_id":"call_8f14e45fceea167a",
				"dest_number_id":"+442079460999","call_agent_id":"reception","source_number":"+442079460123"}}`},
		{"botpulse", "POST", "https://hooks.example.com/botpulse/inbound",
			`{"jsonrpc":"2.0","id":"ID","method":"webhook/lifecycle","params":{"event":"new_inbound_call","agent":{"id":"reception","name":"Robin"},
				"call":{"id":"call_8f14e45fceea167a","direction":"inbound","channel":"phone","caller":"+442079460123","callee":"+442079460999"}}}`},
		{"millis", "GET", "https://hooks.example.com/millis/inbound?agent_id=reception&from=%2B442079460123&session_id=call_8f14e45fceea167a&to=%2B442079460999", ``},
		{"hubspot_lookup", "POST", "https://api.hubapi.com/crm/v3/objects/contacts/search",
			`{"filterGroups":[
				{"filters":[{"propertyName":"hs_searchable_calculated_phone_number","operator":"EQ","value":"2079460123"}]},
				{"filters":[{"propertyName":"hs_searchable_calculated_mobile_number","operator":"EQ","value":"2079460123"}]}],
				"properties":["firstname","company"],"limit":2}`},
		{"zoho_lookup", "GET", "https://www.zohoapis.com/crm/v8/Contacts/search?fields=First_Name%2CAccount_Name&per_page=2&phone=2079460123", ``},
		{"gohighlevel", "GET", "https://services.leadconnectorhq.com/contacts/search/duplicate?locationId=YOUR_LOCATION&number=%2B442079460123", ``},
	}
	for _, tt := range tests {
		t.Run(tt.config, func(t *testing.T) {
			p, err := example(t, tt.config).Preview("pre_call", loadCall(t, "answered_inbound"))
			if err != nil {
				t.Fatal(err)
			}
			if p.Method != tt.method || p.URL != tt.url {
				t.Errorf("%s %s, want %s %s", p.Method, p.URL, tt.method, tt.url)
			}
			want := strings.ReplaceAll(tt.body, `"ID"`, `"`+p.Header.Get(callhook.HeaderID)+`"`)
			if diff := cmp.Diff(decoded(t, want), decoded(t, string(p.Body))); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			if auth := p.Header.Get("Authorization"); !strings.HasSuffix(auth, " ***") {
				t.Errorf("Authorization %q, want a masked secret", auth)
			}
		})
	}
}

// TestWithheldNumber: what platforms send when the caller withheld the number.
func TestWithheldNumber(t *testing.T) {
	call := loadCall(t, "answered_inbound")
	call.From, call.FromName, call.FromVerified = "", "", ""
	for config, want := range map[string]string{
		"fish": `{"event":"call.inbound","call":{"caller_number":"","dialed_number":"+442079460999","agent_id":"reception",
			"phone_number_id":null,"twilio_call_sid":"CA1f2e3d4c5b6a79880a1b2c3d4e5f6071"}}`,
		"retell": `{"event":"call_inbound","call_inbound":{"agent_id":"reception","agent_version":7,"from_number":null,"to_number":"+442079460999"}}`,
		"vapi": `{"message":{"type":"assistant-request","timestamp":1772443800000,
			"call":{"id":"call_8f14e45fceea167a","type":"inboundPhoneCall","phoneCallProviderId":"CA1f2e3d4c5b6a79880a1b2c3d4e5f6071",
			"customer":{"number":null}},"phoneNumber":{"number":"+442079460999"},"customer":{"number":null}}}`,
	} {
		p, err := example(t, config).Preview("pre_call", call)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(decoded(t, want), decoded(t, string(p.Body))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", config, diff)
		}
	}
}

// TestDialects: a config may name every shape that a reply is recognized as.
func TestDialects(t *testing.T) {
	want := []string{"callhook", "synthflow", "dograh", "retell", "elevenlabs", "telnyx", "fish", "vapi", "vogent", "botpulse", "simpleai", "millis", "flat"}
	if diff := cmp.Diff(want, callhook.Dialects()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, name := range want {
		c := parse(t, `{"agent_id":"a","pre_call":{"url":"http://crm.test/","response":{"dialect":"`+name+`"}}}`)
		if err := c.Validate(); err != nil {
			t.Error(err)
		}
	}
}

func TestResponseFaults(t *testing.T) {
	many := make([]string, 201)
	for i := range many {
		many[i] = `"v` + strings.Repeat("x", i) + `":"a"`
	}
	tests := []struct{ name, response, want string }{
		{"a dialect nobody speaks", `{"dialect":"retel"}`, `pre_call.response.dialect: "retel" is not known`},
		{"both", `{"dialect":"retell","variables":{"a":"b"}}`, `pre_call.response.dialect: it stands beside "variables"`},
		{"a name", `{"variables":{"first name":"b"}}`, `pre_call.response.variables.first name: "first name" cannot be the name`},
		{"a reserved name", `{"variables":{"call":"b"}}`, `pre_call.response.variables.call: "call" cannot be the name`},
		{"a path", `{"variables":{"a":"b..c"}}`, `pre_call.response.variables.a: path b..c`},
		{"a modifier", `{"variables":{"a":"@pretty"}}`, `pre_call.response.variables.a: path @pretty`},
		{"too many paths", `{"variables":{` + strings.Join(many, ",") + `}}`, `pre_call.response.variables: it names 201 variables`},
		{"unique", `{"unique":""}`, ``},
		{"not a path", `{"unique":"a|b"}`, `pre_call.response.unique: path a|b`},
		{"a directive nobody knows", `{"directives":["lang"]}`, `pre_call.response.directives[0]: "lang" is not a directive`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := parse(t, `{"agent_id":"a","pre_call":{"url":"http://crm.test/","response":`+tt.response+`}}`).Validate()
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got %v, want nil", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
		})
	}
}

// example returns a config of examples/config.
func example(t *testing.T, name string) *callhook.Config {
	t.Helper()
	c, err := callhook.LoadConfig(filepath.Join("examples", "config", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// decoded is a JSON text as a value, nil for none.
func decoded(t *testing.T, text string) (v any) {
	t.Helper()
	if text == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}
