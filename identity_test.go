package callhook_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/google/go-cmp/cmp"
)

// certificates hands each tenant its own: the names in configs are the same.
func certificates() callhook.SecretFunc {
	all := map[string]string{}
	for _, tenant := range []string{"acme", "umbrella"} {
		all[tenant+" CERT"], all[tenant+" KEY"] = callhooktest.ClientCertificate("client of " + tenant)
		all[tenant+" CA"] = callhooktest.AuthorityPEM()
	}
	return func(_ context.Context, ref callhook.SecretRef) (string, error) {
		if v, ok := all[ref.Tenant+" "+ref.Name]; ok {
			return v, nil
		}
		return "", callhook.ErrNoSecret
	}
}

// TestIdentities: each tenant's webhooks show its own certificate, on connections that
// nobody else uses.
func TestIdentities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bank := callhooktest.NewEndpoint(t, callhooktest.Reply(200, `{"variables":{"customer_name":"Ada"}}`))
		bank.ClientCerts, bank.HTTP2 = true, true
		var configs []*callhook.Config
		for _, tenant := range []string{"acme", "umbrella"} {
			const identity = `"tls": {"certificate": "${CERT}", "key": "${KEY}", "ca": "${CA}"}`
			configs = append(configs, parse(t, fmt.Sprintf(`{"tenant_id": %q, "agent_id": "reception",
				"pre_call": {"url": "https://bank.test/lookup", %s},
				"call_status": [{"name": "status", "url": "https://bank.test/status", %[2]s}],
				"post_call": [{"name": "log", "url": "https://bank.test/calls", %[2]s}, {"name": "bare", "url": "https://bank.test/bare", "retry": {"max_attempts": 1}}]}`, tenant, identity)))
		}
		h := callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(configs...), Secrets: certificates()}, callhooktest.Network{"bank.test": bank})
		var calls sync.WaitGroup
		for i := range 20 {
			calls.Go(func() {
				for _, typ := range []callhook.Type{callhook.TypePreCall, callhook.TypeCallStatus, callhook.TypePostCall} {
					c := callhook.SampleCall(typ)
					c.TenantID, c.ID, c.From = configs[i%2].TenantID, fmt.Sprint("call_", i), fmt.Sprint("+4420794600", i)
					switch typ {
					case callhook.TypePreCall:
						if pre := h.PreCall(t.Context(), c); pre.Outcome != callhook.OutcomeApplied {
							t.Error(pre)
						}
					case callhook.TypeCallStatus:
						if err := h.CallStatus(t.Context(), c); err != nil {
							t.Error(err)
						}
					default:
						if err := h.PostCall(t.Context(), c); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		calls.Wait()
		h.Delivered(t, 40)
		for _, d := range h.Dead(t, 20) { // it shows nothing, although others' connections are open
			if d.Webhook != "bare" || d.Log[0].Status != 0 {
				t.Errorf("%s is dead: %+v", d.Webhook, d.Log)
			}
		}
		got := map[string]int{}
		for _, r := range bank.Requests() {
			got[r.Client+" "+r.Event.Data.Call.TenantID]++
		}
		if diff := cmp.Diff(map[string]int{"client of acme acme": 30, "client of umbrella umbrella": 30}, got); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
	})
}

// TestIdentityFaults: what is not a certificate keeps the webhook waiting, and is found
// when a config is published.
func TestIdentityFaults(t *testing.T) {
	cert, key := callhooktest.ClientCertificate("ada")
	_, otherKey := callhooktest.ClientCertificate("ada")
	for name, test := range map[string]struct {
		secrets callhooktest.Secrets
		want    string
	}{
		"no certificate":       {callhooktest.Secrets{"CERT": "no", "KEY": key, "CA": callhooktest.AuthorityPEM()}, "tls.certificate and tls.key"},
		"another's key":        {callhooktest.Secrets{"CERT": cert, "KEY": otherKey, "CA": callhooktest.AuthorityPEM()}, "private key does not match public key"},
		"no authority":         {callhooktest.Secrets{"CERT": cert, "KEY": key, "CA": "no"}, "tls.ca has no certificate in PEM"},
		"no such secret":       {callhooktest.Secrets{"CERT": cert, "CA": callhooktest.AuthorityPEM()}, "${KEY}: callhook: no such secret"},
		"an empty certificate": {callhooktest.Secrets{"CERT": "", "KEY": key, "CA": callhooktest.AuthorityPEM()}, "${CERT}: callhook: no such secret: it is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bank := callhooktest.NewEndpoint(t)
				c := parse(t, `{"tenant_id":"acme","agent_id":"reception","post_call":[{"name":"log","url":"https://bank.test/","tls":{"certificate":"${CERT}","key":"${KEY}","ca":"${CA}"}}]}`)
				h := callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(c), Secrets: test.secrets.Resolve}, callhooktest.Network{"bank.test": bank})
				plain := strings.ReplaceAll(test.want, "callhook: ", "")
				var invalid *callhook.ConfigError
				if err := h.Check(t.Context(), c); !errors.As(err, &invalid) || !strings.Contains(err.Error(), plain) {
					t.Errorf("Check: %v", err)
				}
				if err := h.PostCall(t.Context(), callhook.SampleCall(callhook.TypePostCall)); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if lanes := h.Lanes(); len(lanes) != 1 || lanes[0].Trouble != callhook.ReasonNoSecret || bank.Connections() > 0 {
					t.Errorf("lanes %v, %d connections", lanes, bank.Connections())
				}
				page, err := h.Queue.(callhook.Inspector).List(t.Context(), callhook.Filter{})
				if err != nil || len(page) != 1 {
					t.Fatalf("pending: %v, %v", page, err)
				}
				d, err := h.Queue.(callhook.Inspector).Get(t.Context(), page[0].ID)
				if err != nil || len(d.Log) != 1 || !strings.Contains(d.Log[0].Error, test.want) || strings.Contains(d.Log[0].Error, "PRIVATE KEY") {
					t.Errorf("its log is %+v, %v", d.Log, err)
				}
			})
		})
	}
}

// TestPrivateAuthority: without tls.ca an endpoint that only its owner vouches for is
// not talked to, and with another's neither.
func TestPrivateAuthority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bank := callhooktest.NewEndpoint(t, callhooktest.Reply(200, `{"variables":{"customer_name":"Ada"}}`))
		foreign, _ := callhooktest.ClientCertificate("not an authority")
		secrets := callhooktest.Secrets{"THEIRS": callhooktest.AuthorityPEM(), "ANOTHER": foreign}
		ask := func(tls string) string {
			c := parse(t, `{"tenant_id":"acme","agent_id":"reception","pre_call":{"url":"https://bank.test/"`+tls+`}}`)
			h, err := callhook.New(callhook.Options{Configs: callhook.Static(c), Secrets: secrets.Resolve, Dial: callhooktest.Network{"bank.test": bank}.Dial})
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			pre := h.PreCall(t.Context(), callhook.SampleCall(callhook.TypePreCall))
			return fmt.Sprint(pre.Outcome, " ", pre.Err)
		}
		got := []string{ask(""), ask(`,"tls":{"ca":"${ANOTHER}"}`), ask(`,"tls":{"ca":"${THEIRS}"}`)}
		const unknown = "failed callhook: TLS: certificate signed by unknown authority"
		if diff := cmp.Diff([]string{unknown, unknown, "applied <nil>"}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestKeyRotation: while a signing key is replaced, receivers with the old one and with
// the new one both verify each of the three webhooks, whatever kinds the keys are; and
// each attempt is signed anew with the keys of that moment.
func TestKeyRotation(t *testing.T) {
	seed := make([]byte, ed25519.SeedSize)
	private := ed25519.NewKeyFromSeed(seed)
	asymmetric := "whsk_" + base64.StdEncoding.EncodeToString(seed)
	public := "whpk_" + base64.StdEncoding.EncodeToString(private.Public().(ed25519.PublicKey))
	const newKey = "whsec_bmV3LWtleS1vZi10aGUtcm90YXRpb24taGVyZSE="
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		secrets := callhooktest.Secrets{"OLD": callhooktest.Key, "NEW": callhooktest.Key}
		set := func(name, key string) { mu.Lock(); defer mu.Unlock(); secrets[name] = key }
		x := callhooktest.NewEndpoint(t, callhooktest.Reply(500, ""))
		c := parse(t, `{"tenant_id":"acme","agent_id":"reception","pre_call":{"url":"https://x.test/","secrets":["${OLD}","${NEW}"]},
			"call_status":[{"name":"status","url":"https://x.test/","secrets":["${OLD}","${NEW}"],"retry":{"initial":"20s","multiplier":1}}],
			"post_call":[{"name":"log","url":"https://x.test/","secrets":["${OLD}","${NEW}"],"retry":{"initial":"20s","multiplier":1}}]}`)
		h := callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(c), Secrets: func(ctx context.Context, ref callhook.SecretRef) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			return secrets.Resolve(ctx, ref)
		}}, callhooktest.Network{"x.test": x})
		if err := errors.Join(h.CallStatus(t.Context(), callhook.SampleCall(callhook.TypeCallStatus)), h.PostCall(t.Context(), callhook.SampleCall(callhook.TypePostCall))); err != nil {
			t.Fatal(err)
		}
		x.Received(t, 2)
		synctest.Wait() // both wait to be tried again
		for i, key := range []string{newKey, asymmetric} {
			set("NEW", key)
			before := len(x.Requests())
			h.PreCall(t.Context(), callhook.SampleCall(callhook.TypePreCall))
			time.Sleep(time.Minute) // and a retry of each
			got := map[string]bool{}
			for _, r := range x.Requests()[before:] {
				got[string(r.Event.Type)] = true
				for _, has := range []string{callhooktest.Key, []string{newKey, public}[i]} {
					if err := callhook.Verify(r.Header, r.Body, has); err != nil {
						t.Errorf("%s at a receiver with %.6s…: %v", r.Event.Type, has, err)
					}
				}
				if n := len(strings.Fields(r.Header.Get(callhook.HeaderSignature))); n != 2 {
					t.Errorf("%d signatures", n)
				}
			}
			if diff := cmp.Diff(map[string]bool{"call.inbound": true, "call.status": true, "call.ended": true}, got); diff != "" {
				t.Errorf("webhooks (-want +got):\n%s", diff)
			}
		}
	})
}
