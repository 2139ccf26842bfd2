package callhook_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/google/go-cmp/cmp"
)

// TestAuthorize: Options.Authorize puts a token into requests of all three webhooks, and
// is told when the last one was refused.
func TestAuthorize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ok := func(r *callhooktest.Request) callhooktest.Answer {
			if r.Header.Get("Authorization") != "Bearer token-2-of-acme" {
				return callhooktest.Reply(401, "refused: "+r.Header.Get("Authorization"))
			}
			return callhooktest.Reply(200, `{"variables":{"customer_name":"Ada"}}`)
		}
		crm := callhooktest.NewEndpoint(t, callhooktest.ReplyFunc(ok))
		other := callhooktest.NewEndpoint(t)
		c := parse(t, `{"tenant_id": "acme", "agent_id": "reception",
			"pre_call": {"url": "https://crm.test/lookup"},
			"call_status": [{"name": "status", "url": "https://crm.test/status"}, {"name": "other", "url": "https://other.test/"}],
			"post_call": [{"name": "log", "url": "https://crm.test/calls", "secrets": ["`+callhooktest.Key+`"]}]}`)
		tokens := map[string]*atomic.Int32{"pre_call": {}, "status": {}, "log": {}}
		var asked []callhook.AuthorizeRef
		crm.Keys = nil
		h := callhooktest.NewHooks(t, callhook.Options{
			Configs: callhook.Static(c),
			Authorize: func(ctx context.Context, req *http.Request, ref callhook.AuthorizeRef) error {
				if ref.Webhook == "log" {
					asked = append(asked, ref)
				}
				if ref.Origin != "https://crm.test" {
					return nil
				}
				n := tokens[ref.Webhook]
				if ref.Refused || n.Load() == 0 {
					n.Add(1)
				}
				if body, err := io.ReadAll(req.Body); err != nil || !strings.Contains(string(body), "call_sample") {
					t.Errorf("the body is %q, %v", body, err)
				}
				req.Header.Set("Authorization", fmt.Sprintf("Bearer token-%d-of-%s", n.Load(), ref.Tenant))
				req.URL.Host, req.Method = "elsewhere.test", "DELETE" // is ignored
				return nil
			},
		}, callhooktest.Network{"crm.test": crm, "other.test": other})

		for i, want := range []callhook.Outcome{callhook.OutcomeFailed, callhook.OutcomeApplied} {
			if pre := h.PreCall(t.Context(), callhook.SampleCall(callhook.TypePreCall)); pre.Outcome != want {
				t.Errorf("lookup %d: %v", i, pre)
			}
		}
		if err := errors.Join(h.CallStatus(t.Context(), callhook.SampleCall(callhook.TypeCallStatus)), h.PostCall(t.Context(), callhook.SampleCall(callhook.TypePostCall))); err != nil {
			t.Fatal(err)
		}
		for _, d := range h.Delivered(t, 3) {
			if d.Webhook != "other" && (d.Attempts != 2 || strings.Contains(d.Log[0].Reply, "token-1") || !strings.Contains(d.Log[0].Reply, "refused: ***")) {
				t.Errorf("%s: %d attempts, the first reply is kept as %q", d.Webhook, d.Attempts, d.Log[0].Reply)
			}
		}
		ref := callhook.AuthorizeRef{Tenant: "acme", Agent: "reception", Webhook: "log", Type: callhook.TypePostCall, Origin: "https://crm.test"}
		again := ref
		again.Refused = true
		if diff := cmp.Diff([]callhook.AuthorizeRef{ref, again}, asked); diff != "" {
			t.Errorf("asked (-want +got):\n%s", diff)
		}
		if got := other.Received(t, 1)[0].Header.Get("Authorization"); got != "" {
			t.Errorf("the other endpoint got %q", got)
		}
		for _, r := range crm.Requests() {
			if r.URL.Path == "/calls" && callhook.Verify(r.Header, r.Body, callhooktest.Key) != nil {
				t.Errorf("%v is not signed", r)
			}
		}
	})
}

// TestAuthorizeRefuses: what it must not do, and errors, keep the webhook from sending,
// and nothing is lost.
func TestAuthorizeRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		do   func(h http.Header) error
		want string
	}{
		"an error":             {func(http.Header) error { return errors.New("the token server is away") }, "Options.Authorize: the token server is away"},
		"a panic":              {func(http.Header) error { panic("token-1") }, "Options.Authorize: it panicked"},
		"a signature":          {func(h http.Header) error { h.Set("Webhook-Signature", "v1,mine"); return nil }, "Options.Authorize: it has set the header Webhook-Signature, which is reserved"},
		"an id":                {func(h http.Header) error { h["Webhook-Id"] = []string{"msg"}; return nil }, "Options.Authorize: it has set the header Webhook-Id, which is reserved"},
		"a host":               {func(h http.Header) error { h.Set("Host", "other.test"); return nil }, "Options.Authorize: it has set the header Host, which is reserved"},
		"a line break":         {func(h http.Header) error { h.Set("X-Token", "a\r\nb: c"); return nil }, "Options.Authorize: the header X-Token has a line break or another control character in it"},
		"a name that is none":  {func(h http.Header) error { h["x token"] = []string{"a"}; return nil }, `Options.Authorize: "x token" is not the name of a header: set headers with Header.Set`},
		"not the one spelling": {func(h http.Header) error { h["authorization"] = []string{"a"}; return nil }, `Options.Authorize: "authorization" is not the name of a header: set headers with Header.Set`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mended atomic.Bool
				crm := callhooktest.NewEndpoint(t)
				crm.Keys = []string{callhooktest.Key}
				h := callhooktest.NewHooks(t, callhook.Options{
					Configs: callhook.Static(parse(t, `{"tenant_id":"acme","agent_id":"reception","pre_call":{"url":"https://crm.test/"},
						"post_call":[{"name":"log","url":"https://crm.test/","secrets":["`+callhooktest.Key+`"]}]}`)),
					Authorize: func(_ context.Context, req *http.Request, _ callhook.AuthorizeRef) error {
						if mended.Load() {
							return nil
						}
						return test.do(req.Header)
					},
				}, callhooktest.Network{"crm.test": crm})
				pre := h.PreCall(t.Context(), callhook.SampleCall(callhook.TypePreCall))
				if pre.Outcome != callhook.OutcomeFailed || pre.Err == nil || pre.Err.Error() != test.want {
					t.Errorf("PreCall: %v", pre)
				}
				if err := h.PostCall(t.Context(), callhook.SampleCall(callhook.TypePostCall)); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				lanes := h.Lanes()
				if len(lanes) != 1 || lanes[0].Trouble != callhook.ReasonNoSecret || len(crm.Requests()) > 0 {
					t.Errorf("lanes %v, %d requests", lanes, len(crm.Requests()))
				}
				mended.Store(true)
				time.Sleep(2 * time.Minute)
				d := h.Delivered(t, 1)[0]
				if d.Attempts != 1 || d.Log[0].Error != test.want {
					t.Errorf("%d attempts, the first error is %q", d.Attempts, d.Log[0].Error)
				}
				crm.Received(t, 1)
			})
		})
	}
}

// TestHeldWebhookIsLogged: that a webhook waits for a secret is logged once, and again
// only after it was well.
func TestHeldWebhookIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := callhooktest.NewEndpoint(t)
		var there atomic.Bool
		var lines strings.Builder
		h := callhooktest.NewHooks(t, callhook.Options{
			Configs: callhook.Static(hook(t, "https://crm.test/", `"headers": {"X-Key": "${KEY}"}`)),
			Logger:  slog.New(slog.NewTextHandler(&lines, nil)),
			Secrets: func(context.Context, callhook.SecretRef) (string, error) {
				if there.Load() {
					return "k", nil
				}
				return "", callhook.ErrNoSecret
			},
		}, callhooktest.Network{"crm.test": crm})
		for i := range 2 {
			for j := range 3 {
				raise(t, h.Hooks, ended(fmt.Sprint("c", i, j)))
			}
			time.Sleep(10 * time.Minute)
			there.Store(true)
			h.Delivered(t, 3*(i+1))
			there.Store(false)
		}
		h.End()
		if n := strings.Count(lines.String(), "level=WARN"); n != 2 || !strings.Contains(lines.String(), "waits for a secret or credentials") || !strings.Contains(lines.String(), "${KEY}") {
			t.Errorf("%d warnings, want 2:\n%s", n, &lines)
		}
	})
}
