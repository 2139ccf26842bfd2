package callhook_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/callhook-go/callhook"
)

// keyText returns a key of n bytes with a prefix.
func keyText(prefix string, n int) string {
	return prefix + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, n))
}

// pair returns an Ed25519 key, with a seed or with both halves, and its public half.
func pair(seed byte) (short, long, public string) {
	k := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	b64 := base64.StdEncoding.EncodeToString
	return "whsk_" + b64(k.Seed()), "whsk_" + b64(k), "whpk_" + b64(k.Public().(ed25519.PublicKey))
}

var signedAt = time.Unix(1614265330, 0)

const signedBody = `{"test": 2432232314}`

// TestSignVector: the vector of the Standard Webhooks specification.
func TestSignVector(t *testing.T) {
	h := http.Header{}
	if err := callhook.Sign(h, "msg_p5jXN8AQM9LWM0D4loKWxJek", signedAt, []byte(signedBody), secret); err != nil {
		t.Fatal(err)
	}
	want := http.Header{
		"Webhook-Id":        {"msg_p5jXN8AQM9LWM0D4loKWxJek"},
		"Webhook-Timestamp": {"1614265330"},
		"Webhook-Signature": {"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
	}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if err := callhook.VerifyAt(h, []byte(signedBody), signedAt, []string{strings.TrimPrefix(secret, "whsec_")}); err != nil {
		t.Errorf("a key without its prefix: %v", err)
	}
}

// TestSignErrors: what Sign refuses.
func TestSignErrors(t *testing.T) {
	_, _, public := pair(1)
	for _, tt := range []struct {
		name, id string
		keys     []string
		want     error
	}{
		{"no id", "", []string{secret}, cmpopts.AnyError},
		{"an id with a dot", "msg.1", []string{secret}, cmpopts.AnyError},
		{"a public key", "msg_1", []string{public}, callhook.ErrBadKey},
		{"an empty key", "msg_1", []string{""}, callhook.ErrBadKey},
		{"the second key", "msg_1", []string{secret, "whsec_?"}, callhook.ErrBadKey},
		{"not base64", "msg_1", []string{"whsec_%%%"}, callhook.ErrBadKey},
		{"an unknown prefix", "msg_1", []string{"whxx_" + strings.TrimPrefix(secret, "whsec_")}, callhook.ErrBadKey},
		{"a prefix in capitals", "msg_1", []string{strings.ToUpper("whsec_") + strings.TrimPrefix(secret, "whsec_")}, callhook.ErrBadKey},
		{"whsec_ of 23 bytes", "msg_1", []string{keyText("whsec_", 23)}, callhook.ErrBadKey},
		{"whsec_ of 65 bytes", "msg_1", []string{keyText("whsec_", 65)}, callhook.ErrBadKey},
		{"23 bytes without a prefix", "msg_1", []string{keyText("", 23)}, callhook.ErrBadKey},
		{"whsk_ of 31 bytes", "msg_1", []string{keyText("whsk_", 31)}, callhook.ErrBadKey},
		{"whsk_ of 63 bytes", "msg_1", []string{keyText("whsk_", 63)}, callhook.ErrBadKey},
		{"whsk_ of two halves that do not fit", "msg_1", []string{keyText("whsk_", 64)}, callhook.ErrBadKey},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{}
			err := callhook.Sign(h, tt.id, signedAt, nil, tt.keys...)
			if diff := cmp.Diff(tt.want, err, cmpopts.EquateErrors()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if len(h) != 0 {
				t.Errorf("headers were set: %v", h)
			}
			for _, k := range tt.keys {
				if len(k) > 8 && err != nil && strings.Contains(err.Error(), k[6:]) {
					t.Errorf("the error has the key in it: %v", err)
				}
			}
		})
	}
	for _, key := range []string{keyText("whsec_", 24), keyText("whsec_", 64), keyText("", 32), strings.TrimRight(keyText("whsec_", 25), "=")} {
		if err := callhook.Sign(http.Header{}, "msg_1", signedAt, nil, key); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// TestVerify: what Verify accepts and refuses.
func TestVerify(t *testing.T) {
	short, long, public := pair(1)
	_, _, otherPublic := pair(2)
	other := keyText("whsec_", 32)
	type change func(h http.Header, body *string)
	set := func(name, value string) change {
		return func(h http.Header, _ *string) { h.Set(name, value) }
	}
	del := func(name string) change { return func(h http.Header, _ *string) { h.Del(name) } }
	for _, tt := range []struct {
		name   string
		signed []string // default: secret
		keys   []string // default: secret
		late   time.Duration
		change change
		want   error
	}{
		{name: "as it was signed"},
		{name: "one of two keys", keys: []string{other, secret}},
		{name: "signed with two keys", signed: []string{other, secret}},
		{name: "signed with two keys, both known", signed: []string{other, secret}, keys: []string{secret, other}},
		{name: "the same key twice", signed: []string{secret, secret}, keys: []string{secret, secret}},
		{name: "Ed25519", signed: []string{short}, keys: []string{public}},
		{name: "Ed25519, both halves", signed: []string{long}, keys: []string{public}},
		{name: "Ed25519 by the private key", signed: []string{short}, keys: []string{long}},
		{name: "both kinds", signed: []string{secret, short}, keys: []string{public}},
		{name: "both kinds, the other way", signed: []string{short, secret}, keys: []string{secret}},
		{name: "signatures in several header lines", change: func(h http.Header, _ *string) {
			h["Webhook-Signature"] = append([]string{"v1,AAAA"}, h["Webhook-Signature"]...)
		}},
		{name: "an unknown version beside it", change: func(h http.Header, _ *string) {
			h.Set(callhook.HeaderSignature, "v2,c29tZXRoaW5n nonsense , v1, "+h.Get(callhook.HeaderSignature))
		}},
		{name: "shortly before it is too old", late: callhook.Tolerance},
		{name: "shortly before it is too new", late: -callhook.Tolerance},

		{name: "no id", change: del(callhook.HeaderID), want: callhook.ErrSignatureMissing},
		{name: "no timestamp", change: del(callhook.HeaderTimestamp), want: callhook.ErrSignatureMissing},
		{name: "no signature", change: del(callhook.HeaderSignature), want: callhook.ErrSignatureMissing},
		{name: "an empty signature", change: set(callhook.HeaderSignature, ""), want: callhook.ErrSignatureMissing},
		{name: "a timestamp that is no number", change: set(callhook.HeaderTimestamp, "2021-02-25T15:02:10Z"), want: callhook.ErrSignatureMissing},
		{name: "a negative timestamp", change: set(callhook.HeaderTimestamp, "-1"), want: callhook.ErrSignatureMissing},
		{name: "a timestamp that overflows", change: set(callhook.HeaderTimestamp, "99999999999999999999"), want: callhook.ErrSignatureMissing},
		{name: "a timestamp far in the future", change: set(callhook.HeaderTimestamp, "9223372036854775807"), want: callhook.ErrSignatureMissing},
		{name: "a fraction", change: set(callhook.HeaderTimestamp, "1614265330.5"), want: callhook.ErrSignatureMissing},
		{name: "an id with a dot, which moves what is signed", change: func(h http.Header, body *string) {
			h.Set(callhook.HeaderID, h.Get(callhook.HeaderID)+"."+h.Get(callhook.HeaderTimestamp))
		}, want: callhook.ErrSignatureMissing},

		{name: "another body", change: func(_ http.Header, body *string) { *body += " " }, want: callhook.ErrSignatureMismatch},
		{name: "no body", change: func(_ http.Header, body *string) { *body = "" }, want: callhook.ErrSignatureMismatch},
		{name: "another id", change: set(callhook.HeaderID, "msg_2"), want: callhook.ErrSignatureMismatch},
		{name: "another timestamp", change: set(callhook.HeaderTimestamp, "1614265331"), want: callhook.ErrSignatureMismatch},
		{name: "the timestamp written differently", change: set(callhook.HeaderTimestamp, "01614265330"), want: callhook.ErrSignatureMismatch},
		{name: "another key", keys: []string{other}, want: callhook.ErrSignatureMismatch},
		{name: "no key", keys: []string{}, want: callhook.ErrSignatureMismatch},
		{name: "another public key", signed: []string{short}, keys: []string{otherPublic}, want: callhook.ErrSignatureMismatch},
		{name: "v1 is no v1a", signed: []string{secret}, keys: []string{public}, want: callhook.ErrSignatureMismatch},
		{name: "v1a is no v1", signed: []string{short}, keys: []string{secret}, want: callhook.ErrSignatureMismatch},
		{name: "not signed at all", signed: []string{}, change: set(callhook.HeaderSignature, "v1,"), want: callhook.ErrSignatureMismatch},
		{name: "a signature of another version", change: func(h http.Header, _ *string) {
			h.Set(callhook.HeaderSignature, "v2"+strings.TrimPrefix(h.Get(callhook.HeaderSignature), "v1"))
		}, want: callhook.ErrSignatureMismatch},
		{name: "half a signature", change: func(h http.Header, _ *string) {
			h.Set(callhook.HeaderSignature, h.Get(callhook.HeaderSignature)[:23])
		}, want: callhook.ErrSignatureMismatch},
		{name: "the public key's signature, cut", signed: []string{short}, keys: []string{public}, change: func(h http.Header, _ *string) {
			h.Set(callhook.HeaderSignature, "v1a,"+base64.StdEncoding.EncodeToString(make([]byte, 10)))
		}, want: callhook.ErrSignatureMismatch},
		{name: "behind a thousand others", change: func(h http.Header, _ *string) {
			h.Set(callhook.HeaderSignature, strings.Repeat("v1,AAAA ", 1000)+h.Get(callhook.HeaderSignature))
		}, want: callhook.ErrSignatureMismatch},

		{name: "too old", late: callhook.Tolerance + time.Second, want: callhook.ErrTimestampTooOld},
		{name: "too new", late: -callhook.Tolerance - time.Second, want: callhook.ErrTimestampTooNew},
		{name: "years too old", late: 200 * 365 * 24 * time.Hour, want: callhook.ErrTimestampTooOld},
		{name: "too old, and another key", late: time.Hour, keys: []string{other}, want: callhook.ErrSignatureMismatch},

		{name: "a key that is none", keys: []string{secret, "whsec_"}, want: callhook.ErrBadKey},
		{name: "a public key of the wrong length", keys: []string{keyText("whpk_", 31)}, want: callhook.ErrBadKey},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.signed == nil {
				tt.signed = []string{secret}
			}
			if tt.keys == nil {
				tt.keys = []string{secret}
			}
			h, body := http.Header{}, signedBody
			if err := callhook.Sign(h, "msg_1", signedAt, []byte(body), tt.signed...); err != nil {
				t.Fatal(err)
			}
			if tt.change != nil {
				tt.change(h, &body)
			}
			err := callhook.VerifyAt(h, []byte(body), signedAt.Add(tt.late), tt.keys)
			if diff := cmp.Diff(tt.want, err, cmpopts.EquateErrors()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestVerifyNow: Verify takes the time of its clock.
func TestVerifyNow(t *testing.T) {
	for offset, want := range map[time.Duration]error{
		0: nil, -4 * time.Minute: nil, 4 * time.Minute: nil, -6 * time.Minute: callhook.ErrTimestampTooOld, 6 * time.Minute: callhook.ErrTimestampTooNew,
	} {
		h := http.Header{}
		if err := callhook.Sign(h, "msg_1", time.Now().Add(offset), nil, secret); err != nil {
			t.Fatal(err)
		}
		if err := callhook.Verify(h, nil, secret); !errors.Is(err, want) {
			t.Errorf("signed %s from now: %v, want %v", offset, err, want)
		}
	}
}

// TestRotatedKeys: a delivery carries a signature for every configured key, in
// their order, of either kind, so that the receiver may replace its key at any time.
func TestRotatedKeys(t *testing.T) {
	short, _, public := pair(3)
	next := keyText("whsec_", 32)
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint()
		n.handle("x.test", x.ServeHTTP)
		keys := newVault(map[string]string{"OLD": secret, "NEW": next, "PRIVATE": short})
		o := callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", `"secrets": ["${OLD}", "${NEW}", "${PRIVATE}"]`)), Dial: n.Dial, Secrets: keys.resolve}
		run(t, o, func(h *callhook.Hooks) {
			raise(t, h, ended("c1"))
			time.Sleep(time.Second)
			keys.set("OLD", next)
			keys.set("NEW", secret)
			raise(t, h, ended("c2"))
			time.Sleep(time.Second)
			synctest.Wait()
			got := x.requests()
			var signatures [][]string
			for _, r := range got {
				for _, key := range []string{secret, next, public} {
					if err := callhook.VerifyAt(r.Header, r.Body, r.At, []string{key}); err != nil {
						t.Errorf("%v", err)
					}
				}
				signatures = append(signatures, strings.Fields(r.Header.Get(callhook.HeaderSignature)))
			}
			if len(signatures) != 2 || len(signatures[0]) != 3 || !strings.HasPrefix(signatures[0][0], "v1,") || !strings.HasPrefix(signatures[0][2], "v1a,") {
				t.Fatalf("signatures %q", signatures)
			}
			first, second := http.Header{}, http.Header{}
			_ = callhook.Sign(first, got[0].Header.Get(callhook.HeaderID), got[0].At, got[0].Body, secret)
			_ = callhook.Sign(second, got[1].Header.Get(callhook.HeaderID), got[1].At, got[1].Body, next)
			want := []string{first.Get(callhook.HeaderSignature), second.Get(callhook.HeaderSignature)}
			if diff := cmp.Diff(want, []string{signatures[0][0], signatures[1][0]}); diff != "" {
				t.Errorf("the first signatures (-want +got)\n%s", diff)
			}
			if got[0].Header["Idempotency-Key"] != nil {
				t.Error("an Idempotency-Key was sent")
			}
		})
	})
}

// TestUnsigned: without secrets there are an id and a timestamp and no signature.
func TestUnsigned(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint()
		n.handle("x.test", x.ServeHTTP)
		run(t, callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", "")), Dial: n.Dial}, func(h *callhook.Hooks) {
			raise(t, h, ended("c1"))
			time.Sleep(time.Second)
			synctest.Wait()
			r := x.requests()[0]
			if err := callhook.VerifyAt(r.Header, r.Body, r.At, []string{secret}); !errors.Is(err, callhook.ErrSignatureMissing) {
				t.Errorf("Verify returned %v, want %v", err, callhook.ErrSignatureMissing)
			}
			if r.Header.Get(callhook.HeaderID) == "" || r.Header.Get(callhook.HeaderTimestamp) == "" || r.Header["Webhook-Signature"] != nil {
				t.Errorf("headers %v", r.Header)
			}
		})
	})
}

// TestSignTogether: keys are shared by goroutines.
func TestSignTogether(t *testing.T) {
	short, _, public := pair(4)
	var wg sync.WaitGroup
	sign := callhook.Signer(secret)
	for i := range 8 {
		wg.Go(func() {
			body := []byte(strings.Repeat("x", i*100))
			for range 50 {
				h, e := http.Header{}, http.Header{}
				sign(h, "msg_1", signedAt, body)
				if err := callhook.VerifyAt(h, body, signedAt, []string{secret}); err != nil {
					t.Error(err)
				}
				if err := callhook.Sign(e, "msg_1", signedAt, body, short); err != nil {
					t.Error(err)
				}
				if err := callhook.VerifyAt(e, body, signedAt, []string{public}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
