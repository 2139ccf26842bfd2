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

// reception is an agent with a lookup and a post-call webhook at two hosts.
func reception(t *testing.T, crm, n8n string) callhook.ConfigSource {
	t.Helper()
	c, err := callhook.ParseConfig(fmt.Appendf(nil, `{
		"agent_id": "reception",
		"pre_call": {"url": "%s/lookup"},
		"post_call": [{"name": "n8n", "url": "%s/webhook/calls", "secrets": ["${N8N_SECRET}"], "retry": {"initial": "100ms"}}]
	}`, crm, n8n))
	if err != nil {
		t.Fatal(err)
	}
	return callhook.Static(c)
}

var secrets = callhooktest.Secrets{"N8N_SECRET": callhooktest.Key}.Resolve

func inbound() *callhook.Call {
	c := callhook.SampleCall(callhook.TypePreCall)
	c.TenantID = ""
	return c
}

func ended() *callhook.Call {
	c := callhook.SampleCall(callhook.TypePostCall)
	c.TenantID = ""
	return c
}

func TestEndpointDoors(t *testing.T) {
	tests := map[string]struct {
		scheme string
		http2  bool
		proto  string
	}{
		"http":   {"http", false, "HTTP/1.1"},
		"https":  {"https", false, "HTTP/1.1"},
		"http/2": {"https", true, "HTTP/2.0"},
	}
	talk := func(t *testing.T, crm, n8n *callhooktest.Endpoint, source callhook.ConfigSource, network callhooktest.Network, proto string) {
		hooks := callhooktest.NewHooks(t, callhook.Options{Configs: source, Secrets: secrets}, network)
		pre := hooks.PreCall(t.Context(), inbound())
		if got := pre.Variables["customer_name"]; got != "Ada" {
			t.Errorf("customer_name is %v: %v", got, pre)
		}
		if err := hooks.PostCall(t.Context(), ended()); err != nil {
			t.Fatal(err)
		}
		if d := hooks.Delivered(t, 1)[0]; d.Attempts != 2 {
			t.Errorf("%d attempts, want 2", d.Attempts)
		}
		looked, sent := crm.Received(t, 1)[0], n8n.Received(t, 2)[1]
		if looked.Text("data.call.from") != inbound().From || looked.URL.Path != "/lookup" || looked.Proto != proto || looked.Event.Type != callhook.EventInbound {
			t.Errorf("the lookup was %s %v", looked.Proto, looked)
		}
		if sent.Event.Data.Call.Summary != ended().Summary || sent.ID() != sent.Event.ID {
			t.Errorf("the event was %v", sent)
		}
	}
	start := func(t *testing.T, http2 bool) (crm, n8n *callhooktest.Endpoint) {
		crm = callhooktest.NewEndpoint(t, callhooktest.Reply(200, `{"variables":{"customer_name":"Ada"}}`))
		n8n = callhooktest.NewEndpoint(t, callhooktest.Reply(500, ""), callhooktest.Reply(200, "ok"))
		crm.HTTP2, n8n.HTTP2 = http2, http2
		n8n.Keys = []string{callhooktest.Key}
		return crm, n8n
	}
	for name, test := range tests {
		t.Run(name+" in memory", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				crm, n8n := start(t, test.http2)
				talk(t, crm, n8n, reception(t, test.scheme+"://crm.example.com", test.scheme+"://n8n.example.com:5678"),
					callhooktest.Network{"crm.example.com": crm, "n8n.example.com": n8n}, test.proto)
				if took := time.Since(begun); took < 80*time.Millisecond || took > 120*time.Millisecond {
					t.Errorf("it took %s, want the first pause of a retry", took)
				}
			})
		})
		t.Run(name+" on loopback", func(t *testing.T) {
			crm, n8n := start(t, test.http2)
			at := func(e *callhooktest.Endpoint) string { return strings.Replace(e.Listen(), "http:", test.scheme+":", 1) }
			talk(t, crm, n8n, reception(t, at(crm), at(n8n)), nil, test.proto)
		})
	}
}
