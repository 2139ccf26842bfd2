package otelhook_test

import (
	"cmp"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/otelhook"
)

// TestWords: an error.type is one word of a fixed set, whatever went wrong.
func TestWords(t *testing.T) {
	for _, tt := range []struct {
		name, url, want string
		answer          callhooktest.Answer
		more            string // of the webhook's config
	}{
		{name: "a name that does not exist", url: "https://none.test/", want: "dns"},
		{name: "silence", answer: callhooktest.Answer{Delay: time.Hour}, want: "timeout"},
		{name: "hangs up", answer: callhooktest.Answer{Fault: callhooktest.FaultHangUpAfter}, want: "connection_closed"},
		{name: "resets", url: "http://n8n.test/", answer: callhooktest.Answer{Fault: callhooktest.FaultReset}, want: "connection_reset"},
		{name: "expired", answer: callhooktest.Answer{Fault: callhooktest.FaultExpiredCertificate}, want: "tls"},
		{name: "nonsense", answer: callhooktest.Answer{Fault: callhooktest.FaultNegativeLength}, want: "malformed_response"},
		{name: "headers", answer: callhooktest.Answer{Fault: callhooktest.FaultLongHeader}, want: "malformed_response"},
		{name: "redirect", answer: callhooktest.Reply(302, ""), want: "302"},
		{name: "no secret", more: `, "headers": {"X-Key": "${NONE}"}`, want: "no_secret"},
		{name: "not a key", more: `, "secrets": ["${BAD}"]`, want: "bad_key"},
		{name: "not what success is", answer: callhooktest.Reply(200, `{"ok":false}`), more: `, "success": {"path": "ok", "equals": true}`, want: "not_accepted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watch(t, otelhook.Options{})
				config := fmt.Sprintf(`{"agent_id": "reception", "post_call": [{"name": "w", "url": %q%s}]}`, cmp.Or(tt.url, "https://n8n.test/"), tt.more)
				h := w.hooks(t, callhook.Options{Configs: parse(t, config), Secrets: callhooktest.Secrets{"BAD": "whsec_!"}.Resolve},
					callhooktest.Network{"n8n.test": callhooktest.NewEndpoint(t, tt.answer)})
				if err := h.PostCall(t.Context(), ended("c")); err != nil {
					t.Fatal(err)
				}
				time.Sleep(16 * time.Second)
				h.End()
				w.failed(t, tt.want)
			})
		})
	}
}

// TestWordsOfSockets: so it is with real ones.
func TestWordsOfSockets(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // nobody is there
	for _, tt := range []struct{ name, url, want string }{
		{"nobody listens", "http://" + l.Addr().String(), "connection_refused"},
		{"an address inside", "http://10.0.0.1/", "blocked_address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := watch(t, otelhook.Options{})
			h := w.hooks(t, callhook.Options{Configs: parse(t, fmt.Sprintf(`{"agent_id": "reception", "post_call": [{"name": "w", "url": %q, "retry": {"max_attempts": 1}}]}`, tt.url))}, nil)
			if err := h.PostCall(t.Context(), ended("c")); err != nil {
				t.Fatal(err)
			}
			h.Dead(t, 1)
			h.End()
			w.failed(t, tt.want)
		})
	}
}

// failed checks the error.type of the first attempt.
func (w *watched) failed(t *testing.T, want string) {
	t.Helper()
	for _, s := range w.spans.GetSpans() {
		if s.Name != "callhook.attempt" {
			continue
		}
		for _, kv := range s.Attributes {
			if kv.Key == "error.type" {
				if got := kv.Value.String(); got != want {
					t.Errorf("error.type is %q, want %q", got, want)
				}
				return
			}
		}
	}
	t.Error("no attempt has an error.type")
}
