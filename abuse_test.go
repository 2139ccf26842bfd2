package callhook_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/google/go-cmp/cmp"
)

// TestOriginIsWhereItGoes: the host that a resolver sees is the one that is dialled; one
// in another script could be shown as another.
func TestOriginIsWhereItGoes(t *testing.T) {
	for _, host := range []string{"api.strİpe.com", "аpi.stripe.com", "api。stripe.com", "ap\u200bi.stripe.com"} {
		c := &callhook.Config{AgentID: "a", PreCall: &callhook.PreCallWebhook{Endpoint: callhook.Endpoint{URL: "https://" + host + "/"}}}
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "Punycode") {
			t.Errorf("%s: %v", host, err)
		}
	}
}

// TestWorkIsBounded: what a config's filters make of a short text is bounded for a whole
// lookup, for the headers of a webhook, and for all webhooks of an event.
func TestWorkIsBounded(t *testing.T) {
	bomb := "{{call.from_name" + strings.Repeat(" | json", 17) + "}}"
	call := callhook.SampleCall(callhook.TypePostCall)
	call.FromName, call.TenantID = strings.Repeat(`"`, 40), ""
	headers := map[string]string{}
	var posts []string
	for i := range 40 {
		headers[fmt.Sprint("X-", i)] = bomb
		posts = append(posts, fmt.Sprintf(`{"name": "w%d", "url": "https://x.test/", "payload": {"template": [%q, %[2]q]}}`, i, bomb))
	}
	lines, _ := json.Marshal(headers)
	c := parse(t, `{"agent_id": "reception", "pre_call": {"url": "https://x.test/", "headers": `+string(lines)+`},
		"call_status": [{"name": "status", "url": "https://x.test/", "headers": `+string(lines)+`}], "post_call": [`+strings.Join(posts, ",")+`]}`)
	synctest.Test(t, func(t *testing.T) {
		x := callhooktest.NewEndpoint(t)
		h := callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(c)}, callhooktest.Network{"x.test": x})
		if pre := h.PreCall(t.Context(), call); pre.Outcome != callhook.OutcomeFailed || !strings.Contains(fmt.Sprint(pre.Err), "too much") {
			t.Errorf("PreCall: %v", pre)
		}
		if err := errors.Join(h.CallStatus(t.Context(), call), h.PostCall(t.Context(), call)); err != nil {
			t.Error(err)
		}
		for _, d := range h.Dead(t, 41) {
			if d.Reason != callhook.ReasonBuildFailed || !strings.Contains(d.BuildError, "too large") || len(d.Values) > 0 {
				t.Errorf("%s: %s, %s", d.Webhook, d.Reason, d.BuildError)
			}
		}
		if n := len(x.Requests()); n > 0 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestSecretsOfCallsAreBounded: of what a lookup gives, only what a webhook refers to is
// remembered; and a tenant with many calls pushes out its own.
func TestSecretsOfCallsAreBounded(t *testing.T) {
	config := func(tenant string) *callhook.Config {
		return parse(t, `{"tenant_id": "`+tenant+`", "agent_id": "a", "variables": [{"name": "tok", "secret": true}, {"name": "big", "secret": true}],
			"post_call": [{"name": "w", "url": "https://x.test/", "headers": {"Authorization": "Bearer ${tok}"}}]}`)
	}
	h, err := callhook.New(callhook.Options{Configs: callhook.Static(config("good"), config("bad")), Queue: discard{callhook.NewMemoryQueue(nil)}})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	one := func(tenant string, i int, token string) {
		c := ended(fmt.Sprint("c", i))
		c.TenantID, c.Secrets = tenant, callhook.Variables{"tok": token, "big": make([]any, 1000)}
		if err := h.PostCall(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	one("good", 0, "token")
	for i := range 10_100 {
		one("bad", i, strings.Repeat("x", 4000))
	}
	if !callhook.KnowsSecrets(h, "good", "a", "c0") {
		t.Error("another tenant's calls pushed it out")
	}
	if n := callhook.GivenSecrets(h); n > 10_000 || n < 5_000 {
		t.Errorf("of %d calls the secrets are known", n)
	}
	one("bad", 20_000, strings.Repeat("x", 5000))
	if callhook.KnowsSecrets(h, "bad", "a", "c20000") {
		t.Error("a text too long for a header is kept")
	}
}

// TestSealedStaysWhereItIs: what was sealed for one webhook cannot be sent to another by
// whoever can write the queue.
func TestSealedStaysWhereItIs(t *testing.T) {
	for name, move := range map[string]func(d *callhook.Delivery){
		"to another tenant":  func(d *callhook.Delivery) { d.Tenant, d.Lane = "evil", "evil/a/w" },
		"to another agent":   func(d *callhook.Delivery) { d.Agent, d.Lane = "b", "/b/w" },
		"to another webhook": func(d *callhook.Delivery) { d.Webhook, d.Lane = "other", "/a/other" },
		"to another call":    func(d *callhook.Delivery) { d.Call = "c2" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := callhooktest.NewEndpoint(t)
				configs := []*callhook.Config{parse(t, `{"agent_id": "a", "post_call": [{"name": "w", "url": "https://x.test/"}]}`)}
				for _, at := range []string{`"tenant_id": "evil", "agent_id": "a"`, `"agent_id": "b"`} {
					configs = append(configs, parse(t, `{`+at+`, "post_call": [{"name": "w", "url": "https://x.test/"}]}`))
				}
				configs[0].PostCall = append(configs[0].PostCall, callhook.PostCallWebhook{Endpoint: callhook.Endpoint{Name: "other", URL: "https://x.test/"}})
				h := callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(configs...), Queue: &moving{callhook.NewMemoryQueue(nil), move}, SealKey: callhook.SealKeys(sealKey("k"))},
					callhooktest.Network{"x.test": x})
				raise(t, h.Hooks, sealedCall("c1"))
				if d := h.Dead(t, 1)[0]; d.Reason != callhook.ReasonDamaged {
					t.Errorf("dead: %s", d.Reason)
				}
				for _, r := range x.Requests() {
					t.Errorf("sent: %v", r)
				}
			})
		})
	}
	h, err := callhook.New(callhook.Options{Configs: callhook.Static(), SealKey: callhook.SealKeys(sealKey("k"))})
	if err != nil {
		t.Fatal(err)
	}
	clear := &callhook.Delivery{ID: "msg_1", Sealed: "k", Log: []callhook.Attempt{{Reply: "put there"}}}
	if err := h.Unseal(t.Context(), clear); err == nil {
		t.Errorf("unsealed: %+v", clear)
	}
}

// moving does to the first delivery of each event what move says, and takes no other.
type moving struct {
	callhook.Queue
	move func(*callhook.Delivery)
}

func (q *moving) Enqueue(ctx context.Context, ds ...*callhook.Delivery) error {
	q.move(ds[0])
	return q.Queue.Enqueue(ctx, ds[0])
}

// TestForgetFindsEveryNumber: a reply that was looked up by the number that forwarded the
// call is forgotten with it.
func TestForgetFindsEveryNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := callhooktest.NewEndpoint(t, callhooktest.Reply(200, `{"variables":{"customer_name":"Ada"}}`))
		c := parse(t, `{"agent_id": "a", "pre_call": {"url": "https://crm.test/", "cache": "1h", "cache_key": "{{call.forwarded_from}}"}}`)
		h := callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(c), NumberKey: []byte("0123456789abcdef")}, callhooktest.Network{"crm.test": crm})
		call := &callhook.Call{ID: "c", AgentID: "a", From: "+442079460001", ForwardedFrom: "+442079460123"}
		h.PreCall(t.Context(), call)
		if n, err := h.Forget(t.Context(), "", "+44 20 7946 0123"); n != 1 || err != nil {
			t.Errorf("Forget: %d, %v", n, err)
		}
		if pre := h.PreCall(t.Context(), call); pre.Outcome != callhook.OutcomeApplied {
			t.Errorf("after it: %v", pre)
		}
	})
}

// TestRepeatedSecrets: an endpoint that repeats a secret, however escaped, does not get it
// into the log of attempts, nor into a test's result.
func TestRepeatedSecrets(t *testing.T) {
	const secret = `q9Z+ab/cd==Zk'x<y&z`
	quoted, _ := json.Marshal(secret)
	twice, _ := json.Marshal(string(quoted))
	for name, reply := range map[string]string{
		"as it is": secret, "JSON": string(quoted), "JSON in JSON": string(twice), "PHP": strings.ReplaceAll(string(quoted), "/", `\/`),
		".NET": `q9Z\u002Bab/cd==Zk\u0027x\u003Cy\u0026z`, "a URL": url.QueryEscape(secret),
		"Python": `q9Z%2Bab/cd%3D%3DZk%27x%3Cy%26z`, "lower hex": `q9Z%2bab%2fcd%3d%3dZk%27x%3cy%26z`, "HTML": html.EscapeString(secret),
		"Mustache": `q9Z+ab&#x2F;cd&#x3D;&#x3D;Zk&#39;x&lt;y&amp;z`, "apos": `q9Z+ab/cd==Zk&apos;x&lt;y&amp;z`, "broken off": secret[:12], "broken off in an escape": `q9Z\u002Bab\u00`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := callhooktest.NewEndpoint(t, callhooktest.Reply(500, "you sent "+reply))
				crm := callhooktest.NewEndpoint(t, callhooktest.Reply(200, `{"variables":{"customer_name":"Ada"},"padding":"`+strings.Repeat("x", 5000)+`","echo":`+string(quoted)+`}`))
				c := parse(t, `{"agent_id":"a","pre_call":{"url":"https://crm.test/","headers":{"X-Key":"${KEY}"}},
					"post_call":[{"name":"w","url":"https://x.test/","headers":{"X-Key":"${KEY}"},"retry":{"max_attempts":1}}]}`)
				h := callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(c), Secrets: callhooktest.Secrets{"KEY": secret}.Resolve}, callhooktest.Network{"x.test": x, "crm.test": crm})
				raise(t, h.Hooks, ended("c"))
				got := h.Dead(t, 1)[0].Log[0].Reply
				if strings.Contains(got, "Zk") || strings.Contains(got, "q9Z") {
					t.Errorf("of %q is kept %q", reply, got)
				}
				res, err := h.TestSend(t.Context(), c, "pre_call", nil)
				if err != nil || strings.Contains(fmt.Sprint(string(res.PreCall.Reply), res.Reply), "Zk") {
					t.Errorf("a test shows %s, %v", res.PreCall.Reply, err)
				}
			})
		})
	}
}

// TestFaultsHoldNoSecrets: what is wrong in a config is told without what may be a
// password.
func TestFaultsHoldNoSecrets(t *testing.T) {
	const secret = "hunter2secret"
	for name, text := range map[string]string{
		"a secret's default": `"variables":[{"name":"n","type":"number","secret":true,"default":"` + secret + `"}]`,
		"a URL":              `"post_call":[{"url":"user:` + secret + `@crm.test/x"}]`,
		"a port":             `"post_call":[{"url":"https://user:` + secret + `/x@crm.test/x"}]`,
		"a whole header":     `"post_call":[{"url":"https://crm.test/","headers":{"Authorization: Bearer ` + secret + `":"x"}}]`,
		"a certificate":      `"post_call":[{"url":"https://crm.test/","tls":{"certificate":"` + secret + `","key":"` + secret + `"}}]`,
		"a query":            `"post_call":[{"url":"https://crm.test/?api_key=` + secret + `"}]`,
	} {
		c := parse(t, `{"agent_id":"a",`+text+`}`)
		said := []string{fmt.Sprint(c.Validate()), fmt.Sprint(c.Lint())}
		if name != "a whole header" {
			said = append(said, fmt.Sprint((*callhook.Config)(nil).Diff(c)))
		}
		if p, err := c.Preview("post_call", nil); err == nil {
			said = append(said, p.URL)
		}
		for _, s := range said {
			if strings.Contains(s, secret) {
				t.Errorf("%s: %s", name, s)
			}
		}
	}
}

// TestPanicsHoldNothing: what a function of the host's panics with is not logged.
func TestPanicsHoldNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		x := callhooktest.NewEndpoint(t)
		h := callhooktest.NewHooks(t, callhook.Options{
			Configs: callhook.Static(hook(t, "https://x.test/", "")), Logger: slog.New(slog.NewTextHandler(&log, nil)),
			Authorize: func(context.Context, *http.Request, callhook.AuthorizeRef) error { panic("number +442079460123") },
			Trace:     &callhook.Trace{Enqueued: func(_ context.Context, d *callhook.Delivery) { panic(fmt.Errorf("secret of %s", d.Call)) }},
		}, callhooktest.Network{"x.test": x})
		raise(t, h.Hooks, ended("c1"))
		time.Sleep(time.Second)
		h.End()
		if s := log.String(); strings.Contains(s, "442079") || strings.Contains(s, "secret of") || !strings.Contains(s, "panicked") {
			t.Error(s)
		}
	})
}

// TestLateAnswersAreShared: one tenant's callers do not take all late answers.
func TestLateAnswersAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := callhooktest.NewEndpoint(t, callhooktest.Answer{Delay: 3 * time.Second, Body: `{"variables":{"customer_name":"Ada"}}`})
		config := func(tenant string) *callhook.Config {
			return parse(t, `{"tenant_id":"`+tenant+`","agent_id":"a","pre_call":{"url":"https://crm.test/","timeout":"1s","late_for":"10s"}}`)
		}
		h := callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(config("big"), config("small"))}, callhooktest.Network{"crm.test": crm})
		ask := func(tenant string) <-chan *callhook.PreCallResult {
			return h.PreCall(t.Context(), &callhook.Call{ID: "c", TenantID: tenant, AgentID: "a", From: "+442079460001"}).Late
		}
		for range 300 {
			go ask("big")
		}
		if late := <-ask("small"); late == nil || late.Outcome != callhook.OutcomeApplied {
			t.Errorf("late: %v", late)
		}
	})
}

// TestCacheIsShared: one tenant's replies do not push out another's.
func TestCacheIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := callhooktest.NewEndpoint(t, callhooktest.Reply(200, `{"variables":{"customer_name":"Ada"}}`), callhooktest.Reply(200, `{"variables":{"customer_name":"Bob"},"padding":"`+strings.Repeat("x", 200<<10)+`"}`))
		config := func(tenant string) *callhook.Config {
			return parse(t, `{"tenant_id":"`+tenant+`","agent_id":"a","pre_call":{"url":"https://crm.test/","cache":"1h"}}`)
		}
		h := callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(config("big"), config("small"))}, callhooktest.Network{"crm.test": crm})
		ask := func(tenant string, i int) callhook.Outcome {
			return h.PreCall(t.Context(), &callhook.Call{ID: "c", TenantID: tenant, AgentID: "a", From: fmt.Sprint("+4420794600", 10+i)}).Outcome
		}
		got := []callhook.Outcome{ask("small", 0)}
		for i := range 80 {
			ask("big", i)
		}
		got = append(got, ask("small", 0), ask("big", 79))
		if diff := cmp.Diff([]callhook.Outcome{callhook.OutcomeApplied, callhook.OutcomeCached, callhook.OutcomeCached}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}
