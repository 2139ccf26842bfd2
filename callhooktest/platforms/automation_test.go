package platforms_test

import (
	"strings"
	"testing"
	"time"

	"github.com/callhook-go/callhook/callhooktest/platforms"
)

func TestMake(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := platforms.NewMake(t)
		m.PerTenSeconds, m.QueueLimit = 6, 2
		host := at(t, m.Endpoint)
		accepted, full := map[string]string{"": "Accepted"}, map[string]string{"": "Queue is full."}
		host.play([]step{
			{"one", "POST", "/abc", `{"n":1}`, nil, 200, accepted},
			{"two", "POST", "/abc", `{"n":2}`, nil, 200, accepted},
			{"three", "POST", "/abc", `{"n":3}`, nil, 400, full},
		})
		same(t, "before the scenario runs", 0, len(m.Bundles()))
		m.Run()
		same(t, "what it was run with", []string{`{"n":1}`, `{"n":2}`}, []string{string(m.Bundles()[0]), string(m.Bundles()[1])})
		m.TurnOff()
		host.play([]step{{"off", "POST", "/abc", `{}`, nil, 410, map[string]string{"": "There is no scenario listening for this webhook."}}})
		m.TurnOn()
		host.play([]step{
			{"on", "POST", "/abc", `{"n":4}`, nil, 200, accepted},
			{"the sixth", "POST", "/abc", `{"n":5}`, nil, 200, accepted},
			{"the seventh in ten seconds", "POST", "/abc", `{"n":6}`, nil, 429, nil},
		})
		if a := host.send("POST", "/abc", `{}`); !strings.HasPrefix(a.Header.Get("Content-Type"), "text/plain") {
			t.Errorf("Content-Type %q, want text/plain", a.Header.Get("Content-Type"))
		}
	})
}

func TestZapier(t *testing.T) {
	bubble(t, func(t *testing.T) {
		z := platforms.NewZapier(t)
		z.PerSecond = 2
		host := at(t, z.Endpoint)
		const path = "/hooks/catch/1234567/abc123/"
		host.play([]step{
			{"taken", "POST", path, `{"id":"msg_1","call":{"from":"+44","talk_seconds":248.50,"successful":true,"summary":null,
				"tags":["a","b"],"transfers":[{"to":"+1","status":"failed"},{"to":"+2","status":"connected"}]},"none":[]}`, nil, 200, map[string]string{"status": "success"}},
			{"a second one", "POST", path, `{}`, nil, 200, map[string]string{"status": "success"}},
			{"a third in a second", "POST", path, `{}`, nil, 429, nil},
		})
		wait(time.Second)
		z.TurnOff()
		host.play([]step{{"off", "POST", path, `{}`, nil, 410, nil}})
		z.TurnOn()
		host.play([]step{{"more than 10 MB", "POST", path, `"` + strings.Repeat("x", 10<<20) + `"`, nil, 413, nil}})
		same(t, "the fields of the first run", map[string]string{
			"id": "msg_1", "call__from": "+44", "call__talk_seconds": "248.50", "call__successful": "true", "call__summary": "",
			"call__tags": "a,b", "call__transfers[]to": "+1,+2", "call__transfers[]status": "failed,connected", "none": "",
		}, z.Runs()[0])
		a := host.send("POST", path, `{}`)
		if a.Status != 429 { // the 410 and the 413 were two
			t.Errorf("%+v", a)
		}
		wait(time.Second)
		if a = host.send("POST", path, `{}`); a.at("attempt") == "" || a.at("attempt") != a.at("request_id") || a.at("id") == a.at("attempt") {
			t.Errorf("the ids are %s", a.Body)
		}
		same(t, "runs", 3, len(z.Runs()))
	})
}

func TestN8N(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := platforms.NewN8N(t)
		calls, lookup := n.AddWorkflow("calls"), n.AddWorkflow("lookup")
		lookup.Respond = []any{map[string]any{"customer_name": "Ada"}, map[string]any{"customer_name": "Bob"}}
		host := at(t, n.Endpoint)
		started := map[string]string{"": `{"message":"Workflow was started"}`}
		host.play([]step{
			{"not active", "POST", "/webhook/calls", `{}`, nil, 404, map[string]string{"code": "404", "message": `The requested webhook "POST calls" is not registered.`}},
			{"nobody listens", "POST", "/webhook-test/calls", `{}`, nil, 404, map[string]string{"code": "404", "message": `The requested webhook "calls" is not registered.`}},
			{"no such workflow", "POST", "/webhook/nothing", `{}`, nil, 404, map[string]string{"code": "404"}},
		})
		calls.Listen()
		host.play([]step{
			{"listening", "POST", "/webhook-test/calls", `{"n":1}`, nil, 200, started},
			{"once", "POST", "/webhook-test/calls", `{"n":2}`, nil, 404, nil},
		})
		calls.Listen()
		wait(120 * time.Second)
		host.play([]step{{"for 120 seconds", "POST", "/webhook-test/calls", `{"n":3}`, nil, 404, nil}})
		calls.Activate()
		lookup.Activate()
		host.play([]step{
			{"active", "POST", "/webhook/calls", `{"n":4}`, nil, 200, started},
			{"another method", "GET", "/webhook/calls", ``, nil, 404, map[string]string{"message": "This webhook is not registered for GET requests. Did you mean to make a POST request?", "hint": ""}},
			{"all entries", "POST", "/webhook/lookup", `{}`, nil, 200, map[string]string{"": `[{"customer_name":"Ada"},{"customer_name":"Bob"}]`}},
		})
		calls.Deactivate()
		host.play([]step{{"not active any more", "POST", "/webhook/calls", `{"n":5}`, nil, 404, nil}})
		same(t, "executions", []platforms.N8NExecution{{Body: []byte(`{"n":1}`), Test: true}, {Body: []byte(`{"n":4}`)}}, calls.Executions())
		if a := host.send("POST", "/webhook/calls", `{}`); !strings.Contains(a.at("hint"), "The workflow must be active") {
			t.Errorf("the hint is %q", a.at("hint"))
		}
	})
}
