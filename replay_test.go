package callhook_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callhook-go/callhook"
)

// TestRebuild: dead letters are built anew with the selection of today, once per
// change, and say what they replace.
func TestRebuild(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newSwitchable(status(422))
		n.handle("x.test", x.ServeHTTP)
		q := callhook.NewMemoryQueue(nil)
		s := newSource(hook(t, "http://x.test/", `"retry": {"max_attempts": 1}, "payload": {"fields": ["call.id"]}`))
		o := callhook.Options{Configs: s, Dial: n.Dial, Queue: q, KeepCalls: true, NumberKey: []byte("0123456789abcdef")}
		run(t, o, func(h *callhook.Hooks) {
			const calls = 250
			for _, id := range names("c", calls) {
				c := ended(id)
				c.From, c.Summary, c.Variables = "+442079460123", "Ada wants a call back.", callhook.Variables{"name": "Ada", "balance": json.Number("1.10")}
				raise(t, h, c)
			}
			synctest.Wait()
			balance(t, h, 0, calls, 0)
			old := list(t, q, callhook.Filter{Call: "c7"})[0]

			x.set(status(200))
			s.set(hook(t, "http://x.test/", `"payload": {"fields": ["call.id", "call.summary", "call.variables.balance"]}`))
			if got, err := h.Rebuild(t.Context(), callhook.Filter{Limit: 120}); got != 120 || err != nil {
				t.Fatalf("Rebuild: %d, %v; want 120", got, err)
			}
			if got, err := h.Rebuild(t.Context(), callhook.Filter{Agent: "a"}); got != calls || err != nil {
				t.Fatalf("Rebuild: %d, %v; want %d", got, err, calls)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			balance(t, h, calls, calls, 0) // those that were built twice alike are one

			var got received
			for _, r := range x.requests()[calls:] {
				if strings.Contains(string(r.Body), `"c7"`) {
					got = r
				}
			}
			id := got.Header.Get("webhook-id")
			want := fmt.Sprintf(`{"id":%q,"type":"call.ended","timestamp":%q,"data":{"call":{"id":"c7","summary":"Ada wants a call back.","variables":{"balance":1.10}}}}`,
				id, old.At.UTC().Format("2006-01-02T15:04:05.000Z"))
			if diff := cmp.Diff(want, string(got.Body)); diff != "" {
				t.Errorf("the body (-want +got)\n%s", diff)
			}
			if id == old.ID || id == "" {
				t.Errorf("the rebuilt one has the id %q, the dead letter %q", id, old.ID)
			}
			if again := list(t, q, callhook.Filter{IDs: []string{old.ID}}); len(again) != 1 || again[0].State != callhook.StateDead {
				t.Errorf("the dead letter is now %+v", again)
			}
		})
	})
}

// TestRebuildCannot: what cannot be rebuilt says why, and changes nothing.
func TestRebuildCannot(t *testing.T) {
	for _, tt := range []struct {
		name, config, want string
		keep               bool
	}{
		{"its call was not kept", `{"agent_id": "a", "post_call": [{"name": "w", "url": "http://x.test/"}]}`, "Options.KeepCalls", false},
		{"its webhook is gone", `{"agent_id": "a"}`, `no webhook "w" any more`, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				n.handle("x.test", status(422))
				s := newSource(hook(t, "http://x.test/", `"retry": {"max_attempts": 1}`))
				run(t, callhook.Options{Configs: s, Dial: n.Dial, KeepCalls: tt.keep}, func(h *callhook.Hooks) {
					raise(t, h, ended("c1"))
					synctest.Wait()
					s.set(parse(t, tt.config))
					got, err := h.Rebuild(t.Context(), callhook.Filter{})
					if got != 0 || err == nil || !strings.Contains(err.Error(), tt.want) {
						t.Errorf("Rebuild: %d, %v; want an error with %q", got, err, tt.want)
					}
					balance(t, h, 0, 1, 0)
				})
			})
		})
	}
}

// TestEraseByNumber: whoever wants to be forgotten is found by any way to write the
// number, in every state, and nobody else is.
func TestEraseByNumber(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newSwitchable(status(422))
		n.handle("x.test", x.ServeHTTP)
		q := callhook.NewMemoryQueue(nil)
		config := hook(t, "http://x.test/", `"retry": {"max_attempts": 1}`)
		run(t, callhook.Options{Configs: callhook.Static(config), Dial: n.Dial, Queue: q, NumberKey: []byte("0123456789abcdef")}, func(h *callhook.Hooks) {
			for i, from := range []string{"+442079460123", "+44 20 7946-0123", "sip:Ada@example.com", "+442079460124", ""} {
				c := ended(fmt.Sprint("c", i))
				c.From, c.To = from, "+15550100"
				raise(t, h, c)
			}
			synctest.Wait() // c0 to c4 are dead letters
			x.set(status(429))
			c := ended("c5")
			c.To, c.Direction = "+44 (20) 79460123", callhook.Outbound
			raise(t, h, c)
			synctest.Wait()
			balance(t, h, 0, 5, 1)
			for number, want := range map[string]int{"+44 20 7946 0123": 3, "SIP:ada@EXAMPLE.com": 1, "+49301234": 0} {
				got, err := q.Erase(t.Context(), callhook.Filter{Number: h.NumberHash("", number)})
				if got != want || err != nil {
					t.Errorf("erased %d for %s, %v; want %d", got, number, err, want)
				}
			}
			if got := list(t, q, callhook.Filter{}); len(got) != 2 || got[0].Call != "c4" || got[1].Call != "c3" {
				t.Errorf("left: %+v, want c4 and c3", got)
			}
			if counts := h.Stats().Queue; counts.Erased != 1 || counts.Accepted != counts.Delivered+counts.Dead+counts.Pending+counts.Erased {
				t.Errorf("counts %+v", counts)
			}
			if strings.Contains(fmt.Sprint(list(t, q, callhook.Filter{})[1].Numbers), "442079") {
				t.Error("the number itself is stored")
			}
		})
	})
	for _, key := range []string{"short"} {
		if _, err := callhook.New(callhook.Options{Configs: callhook.Static(), NumberKey: []byte(key)}); err == nil {
			t.Errorf("New with a key of %d bytes returned nil", len(key))
		}
	}
}
