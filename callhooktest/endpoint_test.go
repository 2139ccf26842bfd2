package callhooktest_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/google/go-cmp/cmp"
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

// unlucky is a test that fails, as assertions see it.
type unlucky struct {
	testing.TB
	said string
}

func (f *unlucky) Helper() {}
func (f *unlucky) Fatalf(format string, args ...any) {
	f.said = fmt.Sprintf(format, args...)
	panic(f)
}

// saying returns what an assertion says that fails; empty for one that holds.
func saying(t *testing.T, assert func(t testing.TB)) string {
	f := &unlucky{TB: t}
	func() {
		defer func() {
			if p := recover(); p != nil && p != any(f) {
				panic(p)
			}
		}()
		assert(f)
	}()
	return f.said
}

// TestAssertionsSay: what fails shows what did happen.
func TestAssertionsSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := callhooktest.NewEndpoint(t, callhooktest.Reply(503, ""))
		crm.Keys = []string{"whsec_YW5vdGhlci1rZXktdGhhdC1uby1vbmUtaGFz"}
		n8n := callhooktest.NewEndpoint(t, callhooktest.Reply(422, "no"))
		hooks := callhooktest.NewHooks(t, callhook.Options{Configs: reception(t, "https://crm.test", "https://n8n.test"), Secrets: secrets},
			callhooktest.Network{"crm.test": crm, "n8n.test": n8n})
		none := saying(t, func(t testing.TB) { crm.Received(t, 1) })
		hooks.PreCall(t.Context(), inbound())
		unsigned := saying(t, func(t testing.TB) { crm.Received(t, 1) })
		hooks.PreCall(t.Context(), inbound())
		more := saying(t, func(t testing.TB) { crm.Received(t, 1) })
		if err := hooks.PostCall(t.Context(), ended()); err != nil {
			t.Fatal(err)
		}
		undelivered := saying(t, func(t testing.TB) { hooks.Delivered(t, 1) })
		for _, tt := range []struct{ name, got, want string }{
			{"none came", none, "the endpoint got 0 requests, want 1 after 192h0m0s"},
			{"not signed", unsigned, "a request is not signed by any of the endpoint's Keys: callhook: the request is not signed: webhook-id, webhook-timestamp or webhook-signature is missing or malformed\n  1. 00:00:00.000 POST /lookup msg_"},
			{"too many", more, "the endpoint got 2 requests, want 1\n  1. 00:00:00.000 POST /lookup msg_"},
			{"not delivered", undelivered, "deliveries that were delivered: 0, want 1 after 192h0m0s\n  1. dead (rejected) msg_"},
			{"with its attempts", undelivered, "call.ended of call_sample to n8n, 5 attempts, the last: status 422, the endpoint answered 422 Unprocessable Entity"},
		} {
			if !strings.Contains(tt.got, tt.want) {
				t.Errorf("%s: it says\n%s\nwant in it\n%s", tt.name, tt.got, tt.want)
			}
		}
	})
}

// TestScript: answers in turn, then others; delays; answers made of the request; and the
// faults of a connection among them.
func TestScript(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := callhooktest.NewEndpoint(t,
			callhooktest.Answer{Status: 201, Body: `[1]`, Header: http.Header{"x-one": {"a", "b"}}, Delay: 3 * time.Second},
			callhooktest.Answer{Fault: callhooktest.FaultHangUp},
			callhooktest.ReplyFunc(func(r *callhooktest.Request) callhooktest.Answer {
				return callhooktest.Answer{Stream: func(w io.Writer) { fmt.Fprintf(w, "%s %s", r.Method, r.Body) }}
			}),
		)
		client := &http.Client{Transport: &http.Transport{DialContext: callhooktest.Network{"x.test": e}.Dial}}
		defer client.CloseIdleConnections()
		ask := func() string {
			begun := time.Now()
			resp, err := client.Post("http://x.test:8080/", "text/plain", strings.NewReader("hello"))
			if err != nil {
				return "an error"
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			return fmt.Sprint(resp.StatusCode, " ", resp.Header["X-One"], " ", resp.Header.Get("Content-Type"), " ", string(body), " ", time.Since(begun), " ", err)
		}
		got := []string{ask(), ask(), ask(), ask()}
		e.Then(callhooktest.Reply(204, ""))
		got = append(got, ask())
		want := []string{
			"201 [a b] application/json [1] 3s <nil>", "an error",
			"200 [] text/plain; charset=utf-8 POST hello 0s <nil>", "200 [] text/plain; charset=utf-8 POST hello 0s <nil>",
			"204 []   0s <nil>",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if n := len(e.Requests()); n != 4 {
			t.Errorf("%d requests were recorded, want 4: one was a connection only", n)
		}
	})
}

// TestNetworkSaysWhatIsNotThere: a host that nobody stands behind does not exist.
func TestNetworkSaysWhatIsNotThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hooks := callhooktest.NewHooks(t, callhook.Options{Configs: reception(t, "https://crm.test", "https://n8n.test"), Secrets: secrets}, callhooktest.Network{})
		pre := hooks.PreCall(t.Context(), inbound())
		if got := fmt.Sprint(pre.Outcome, " ", pre.Err); got != "failed callhook: no such host crm.test" {
			t.Error(got)
		}
	})
}

// TestEqual: results compare by what they say.
func TestEqual(t *testing.T) {
	a := &callhook.PreCallResult{Outcome: callhook.OutcomeFailed, Err: fmt.Errorf("no: %w", callhook.ErrBadReply), Reply: []byte(`{"a": 1}`), Elapsed: time.Second, Variables: callhook.Variables{}}
	b := &callhook.PreCallResult{Outcome: callhook.OutcomeFailed, Err: callhook.ErrBadReply, Reply: []byte(`{"a":1}`), Elapsed: time.Minute, Late: make(chan *callhook.PreCallResult)}
	if diff := cmp.Diff(a, b, callhooktest.Equal()...); diff != "" {
		t.Error(diff)
	}
	b.Reply = []byte(`{"a":2}`)
	if cmp.Equal(a, b, callhooktest.Equal()...) {
		t.Error("another reply is equal")
	}
	b.Reply, b.Err = a.Reply, nil
	if cmp.Equal(a, b, callhooktest.Equal()...) {
		t.Error("an error is equal to none")
	}
}

// TestEnd: hooks end when they are told to, and what is pending stays.
func TestEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n8n := callhooktest.NewEndpoint(t, callhooktest.Reply(503, ""))
		hooks := callhooktest.NewHooks(t, callhook.Options{Configs: reception(t, "https://crm.test", "https://n8n.test"), Secrets: secrets}, callhooktest.Network{"n8n.test": n8n})
		if err := hooks.PostCall(t.Context(), ended()); err != nil {
			t.Fatal(err)
		}
		n8n.Received(t, 1)
		hooks.End()
		hooks.End()
		if err := hooks.PostCall(t.Context(), ended()); !errors.Is(err, callhook.ErrClosed) {
			t.Errorf("PostCall after the end: %v", err)
		}
		if c, err := hooks.Queue.(callhook.Inspector).Counts(t.Context()); err != nil || c.Pending != 1 {
			t.Errorf("%+v, %v", c, err)
		}
	})
}
