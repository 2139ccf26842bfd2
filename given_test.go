package callhook_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
)

// TestSecretVariables: a token that a lookup gave reaches the headers of the call's
// later webhooks, and nothing else: no variable, payload, queue or log of attempts.
func TestSecretVariables(t *testing.T) {
	const token = "tok-4711-of-this-caller"
	bubble(t, func(t *testing.T, n *network) {
		x := newSwitchable(reply(500, "you sent "+token))
		n.handle("x.test", x.ServeHTTP)
		n.handle("crm.test", reply(200, `{"variables":{"crm_token":"`+token+`","name":"Ada"}}`))
		config := parse(t, `{"agent_id": "a", "variables": [{"name": "crm_token", "secret": true}], "pre_call": {"url": "http://crm.test/"},
			"post_call": [{"name": "w", "url": "http://x.test/", "headers": {"Authorization": "Bearer ${crm_token}"}}]}`)
		q := callhook.NewMemoryQueue(nil)
		o := callhook.Options{Configs: callhook.Static(config), Dial: n.Dial, Queue: q, KeepCalls: true}
		run(t, o, func(h *callhook.Hooks) {
			if err := h.Check(t.Context(), config); err != nil {
				t.Errorf("Check: %v", err)
			}
			call := ended("c1")
			call.Direction, call.From = callhook.Inbound, "+442079460123"
			h.PreCall(t.Context(), call).Apply(call)
			raise(t, h, call)
			synctest.Wait()
			if got := x.requests(); len(got) != 1 || got[0].Header.Get("Authorization") != "Bearer "+token || strings.Contains(string(got[0].Body), token) {
				t.Fatalf("the webhook got %+v", got)
			}
			if d := fmt.Sprintf("%s %+v", call.Variables, list(t, q, callhook.Filter{})[0]); strings.Contains(d, token) {
				t.Errorf("the token is kept: %s", d)
			}
			x.set(status(200))
			time.Sleep(time.Minute)
			balance(t, h, 1, 0, 0)
		})

		// Another process does not know it, and asks the host; one call's secret holds
		// no other call up.
		var mu sync.Mutex
		var asked []callhook.SecretRef
		o.Secrets = func(_ context.Context, ref callhook.SecretRef) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, ref)
			if ref.Call == "c3" {
				return token, nil
			}
			return "", callhook.ErrNoSecret
		}
		run(t, o, func(h *callhook.Hooks) {
			before := len(x.requests())
			raise(t, h, ended("c2"), ended("c3"))
			time.Sleep(time.Second)
			synctest.Wait()
			balance(t, h, 2, 0, 1)
			if got := x.requests()[before:]; len(got) != 1 || got[0].Header.Get("Authorization") != "Bearer "+token {
				t.Errorf("the webhook got %+v", got)
			}
			mu.Lock()
			if len(asked) != 2 || asked[0].Name != "crm_token" || asked[0].Origin != "http://x.test" {
				t.Errorf("asked for %+v", asked)
			}
			mu.Unlock()
			time.Sleep(80 * time.Hour)
			synctest.Wait()
			balance(t, h, 2, 1, 0)
		})
	})
}

// TestSecretsOfCallsAreForgotten: after three days, and with the number.
func TestSecretsOfCallsAreForgotten(t *testing.T) {
	for name, forget := range map[string]func(h *callhook.Hooks){
		"after three days": func(*callhook.Hooks) { time.Sleep(72*time.Hour + time.Second) },
		"with the number":  func(h *callhook.Hooks) { _, _ = h.Forget(context.Background(), "", "+44 20 7946 0123") },
		"at the end":       func(h *callhook.Hooks) { _ = h.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, err := callhook.New(callhook.Options{Configs: callhook.Static(parse(t, `{"agent_id": "a", "variables": [{"name": "crm_token", "secret": true}],
					"post_call": [{"name": "w", "url": "https://x.test/", "headers": {"Authorization": "Bearer ${crm_token}"}}]}`))})
				if err != nil {
					t.Fatal(err)
				}
				defer h.Close()
				for i, from := range []string{"+442079460123", "+442079460124"} {
					c := ended(fmt.Sprint("c", i))
					c.From, c.Secrets = from, callhook.Variables{"crm_token": "tok"}
					raise(t, h, c)
				}
				if n := callhook.GivenSecrets(h); n != 2 {
					t.Errorf("of %d calls the secrets are known, want 2", n)
				}
				forget(h)
				c := ended("c2")
				c.From, c.Secrets = "+442079460125", callhook.Variables{"crm_token": "tok"}
				want := map[string]int{"after three days": 1, "with the number": 2, "at the end": 0}[name]
				if name != "at the end" {
					raise(t, h, c)
				}
				if n := callhook.GivenSecrets(h); n != want {
					t.Errorf("of %d calls the secrets are known, want %d", n, want)
				}
			})
		})
	}
}
