package callhook_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/google/go-cmp/cmp"
)

func sealKey(id string) callhook.SealKey {
	return callhook.SealKey{ID: id, Key: bytes.Repeat([]byte(id[:1]), 32)}
}

// sealedWords are what may be readable nowhere in a queue.
var sealedWords = []string{"Ada Lovelace", "442079460123", "wants a call back", "echoed to us"}

func sealedCall(id string) *callhook.Call {
	c := ended(id)
	c.From, c.Summary, c.Variables = "+442079460123", "Ada Lovelace wants a call back.", callhook.Variables{"name": "Ada Lovelace"}
	return c
}

// stored returns all that the queue has of each delivery, the last first.
func stored(t *testing.T, h *callhooktest.Hooks, f callhook.Filter) (all []*callhook.Delivery) {
	t.Helper()
	in := h.Queue.(callhook.Inspector)
	page, err := in.List(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range page {
		if d, err = in.Get(t.Context(), d.ID); err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	return all
}

// leaked returns the words that can be read in what is stored.
func leaked(t *testing.T, ds []*callhook.Delivery) (found []string) {
	t.Helper()
	for _, d := range ds {
		whole, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range [][]byte{whole, d.Body, d.Record} {
			for _, w := range sealedWords {
				if bytes.Contains(text, []byte(w)) {
					found = append(found, d.ID+": "+w)
				}
			}
		}
	}
	return found
}

// TestSealed: what is stored cannot be read without the key, and arrives as it would
// unsealed: delivered, dead, replayed and rebuilt.
func TestSealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := callhooktest.NewEndpoint(t, callhooktest.Reply(422, "Ada Lovelace was echoed to us"))
		crm.Keys = []string{callhooktest.Key}
		c := parse(t, `{"agent_id":"a","post_call":[{"name":"w","url":"https://crm.test/{{call.variables.name}}","headers":{"X-From":"{{call.from}}"},"secrets":["`+callhooktest.Key+`"],
			"payload":{"fields":["call.id","call.summary"]},"retry":{"max_attempts":2,"initial":"1m"}}]}`)
		h := callhooktest.NewHooks(t, callhook.Options{
			Configs: callhook.Static(c), KeepCalls: true, NumberKey: []byte("0123456789abcdef"), SealKey: callhook.SealKeys(sealKey("k1")),
		}, callhooktest.Network{"crm.test": crm})
		raise(t, h.Hooks, sealedCall("c1"))
		crm.Received(t, 1)
		synctest.Wait()
		pending := stored(t, h, callhook.Filter{})
		if found := leaked(t, pending); len(found) > 0 || len(pending) != 1 || pending[0].Sealed != "k1" || len(pending[0].Log) != 1 {
			t.Fatalf("readable: %q in %+v", found, pending)
		}
		d := h.Dead(t, 1)[0]
		if found := leaked(t, append(stored(t, h, callhook.Filter{}), d)); len(found) > 0 {
			t.Errorf("readable among the dead: %q", found)
		}

		open := stored(t, h, callhook.Filter{})[0]
		if err := h.Unseal(t.Context(), open); err != nil {
			t.Fatal(err)
		}
		sent := crm.Requests()[1]
		if diff := cmp.Diff(string(sent.Body), string(open.Body)); diff != "" || open.Sealed != "" || open.Log[1].Reply != "Ada Lovelace was echoed to us" ||
			open.Values["call.variables.name"] != "Ada Lovelace" || !strings.Contains(string(open.Record), "wants a call back") {
			t.Errorf("unsealed it is %+v\n%s", open, diff)
		}
		if sent.Header.Get("X-From") != "+442079460123" || sent.URL.Path != "/Ada Lovelace" {
			t.Errorf("sent: %v, %v", sent, sent.Header)
		}
		before := *open
		if err := h.Unseal(t.Context(), open); err != nil || cmp.Diff(&before, open) != "" {
			t.Errorf("unsealing it again: %v", err)
		}

		crm.Then(callhooktest.Reply(200, "ok"))
		if n, err := h.Rebuild(t.Context(), callhook.Filter{}); n != 1 || err != nil {
			t.Errorf("Rebuild: %d, %v", n, err)
		}
		if n, err := h.Queue.(callhook.Inspector).Replay(t.Context(), callhook.Filter{}); n != 1 || err != nil {
			t.Errorf("Replay: %d, %v", n, err)
		}
		h.Delivered(t, 2)
		ids := map[string]int{}
		for _, r := range crm.Received(t, 4) {
			ids[r.ID()]++
			if r.Text("data.call.summary") != "Ada Lovelace wants a call back." || r.Text("id") != r.ID() {
				t.Errorf("%v", r)
			}
		}
		if len(ids) != 2 || ids[d.ID] != 3 {
			t.Errorf("ids: %v", ids)
		}
	})
}

// TestSealedBuildFailed: a call whose payload cannot be built is kept sealed too, and
// built once the config is mended.
func TestSealedBuildFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := callhooktest.NewEndpoint(t)
		s := newSource(hook(t, "https://crm.test/", `"max_bytes": 20`))
		h := callhooktest.NewHooks(t, callhook.Options{Configs: s, KeepCalls: true, SealKey: callhook.SealKeys(sealKey("k1"))}, callhooktest.Network{"crm.test": crm})
		raise(t, h.Hooks, sealedCall("c1"))
		if d := h.Dead(t, 1)[0]; d.Reason != callhook.ReasonBuildFailed {
			t.Errorf("dead: %s", d.Reason)
		}
		all := stored(t, h, callhook.Filter{})
		if found := leaked(t, all); len(found) > 0 || all[0].Sealed == "" {
			t.Errorf("readable: %q", found)
		}
		s.set(hook(t, "https://crm.test/", ""))
		time.Sleep(time.Minute)
		if n, err := h.Rebuild(t.Context(), callhook.Filter{}); n != 1 || err != nil {
			t.Errorf("Rebuild: %d, %v", n, err)
		}
		h.Delivered(t, 1)
		if got := crm.Received(t, 1)[0].Text("data.call.summary"); got != "Ada Lovelace wants a call back." {
			t.Error(got)
		}
	})
}

// TestSealKeyRotation: what an old key has sealed goes on while new events get the new
// key; without the old one it waits, and only it.
func TestSealKeyRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := callhooktest.NewEndpoint(t, callhooktest.Reply(503, ""))
		var keys atomic.Pointer[callhook.SealKeyFunc]
		set := func(f callhook.SealKeyFunc) { keys.Store(&f) }
		set(callhook.SealKeys(sealKey("k1")))
		h := callhooktest.NewHooks(t, callhook.Options{
			Configs: callhook.Static(hook(t, "https://crm.test/", "")),
			SealKey: func(ctx context.Context, tenant, id string) (callhook.SealKey, error) {
				return (*keys.Load())(ctx, tenant, id)
			},
		}, callhooktest.Network{"crm.test": crm})
		raise(t, h.Hooks, sealedCall("old"))
		crm.Received(t, 1)
		synctest.Wait()

		crm.Then(callhooktest.Reply(200, ""))
		set(callhook.SealKeys(sealKey("k2"))) // somebody removed k1 too soon
		raise(t, h.Hooks, sealedCall("new"))
		if d := h.Delivered(t, 1)[0]; d.Call != "new" || d.Sealed != "k2" {
			t.Errorf("delivered: %s, sealed with %s", d.Call, d.Sealed)
		}
		time.Sleep(10 * time.Minute)
		waiting := stored(t, h, callhook.Filter{})
		if len(waiting) != 1 || waiting[0].Attempts != 1 || !strings.Contains(waiting[0].Log[1].Error, `the key "k1" is not among Options.SealKey's`) || len(waiting[0].Log) != 2 {
			t.Fatalf("waiting: %+v", waiting)
		}
		if lanes := h.Lanes(); len(lanes) > 0 {
			t.Errorf("lanes: %v", lanes)
		}
		set(callhook.SealKeys(sealKey("k2"), sealKey("k1")))
		if d := h.Delivered(t, 2)[1]; d.Call != "old" || d.Attempts != 2 || d.Sealed != "k1" {
			t.Errorf("delivered: %+v", d)
		}
		crm.Received(t, 3)
	})
}

// TestSealFaults: without a key nothing is stored and the verb says so; what was changed
// in the queue is a dead letter, and is not sent.
func TestSealFaults(t *testing.T) {
	for name, test := range map[string]struct {
		key  callhook.SealKeyFunc
		want string
	}{
		"no key": {func(context.Context, string, string) (callhook.SealKey, error) {
			return callhook.SealKey{}, errors.New("the vault is closed")
		}, "Options.SealKey: the vault is closed"},
		"a panic":      {func(context.Context, string, string) (callhook.SealKey, error) { panic("0123456789abcdef") }, "Options.SealKey: it panicked"},
		"a short key":  {callhook.SealKeys(callhook.SealKey{ID: "k", Key: make([]byte, 16)}), `the key "k" has 16 bytes: it must have 32`},
		"no name":      {callhook.SealKeys(callhook.SealKey{Key: make([]byte, 32)}), `"" cannot be the ID of a key`},
		"a wrong name": {callhook.SealKeys(callhook.SealKey{ID: "a key", Key: make([]byte, 32)}), `"a key" cannot be the ID of a key`},
	} {
		t.Run(name, func(t *testing.T) {
			h := callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(hook(t, "https://crm.test/", "")), SealKey: test.key}, callhooktest.Network{})
			err := h.PostCall(t.Context(), sealedCall("c"))
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "call the verb again") {
				t.Errorf("PostCall: %v, want %s", err, test.want)
			}
			if c := h.Stats().Queue; c != (callhook.Counts{}) {
				t.Errorf("the queue has %+v", c)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		crm := callhooktest.NewEndpoint(t)
		q := &tampering{Queue: callhook.NewMemoryQueue(nil)}
		h := callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(hook(t, "https://crm.test/", "")), Queue: q, SealKey: callhook.SealKeys(sealKey("k"))}, callhooktest.Network{"crm.test": crm})
		for i := range 3 {
			raise(t, h.Hooks, sealedCall(fmt.Sprint("c", i)))
		}
		for _, d := range h.Dead(t, 3) {
			if d.Reason != callhook.ReasonDamaged || d.Attempts != 0 {
				t.Errorf("%s: %s after %d attempts", d.Call, d.Reason, d.Attempts)
			}
		}
		if n := len(crm.Requests()); n > 0 {
			t.Errorf("%d requests", n)
		}
	})
}

// tampering changes a byte of one body, cuts another, and gives the third another's.
type tampering struct {
	callhook.Queue
	n     int
	first []byte
}

func (q *tampering) Enqueue(ctx context.Context, ds ...*callhook.Delivery) error {
	for _, d := range ds {
		switch q.n++; q.n {
		case 1:
			q.first = bytes.Clone(d.Body)
			d.Body[len(d.Body)/2] ^= 1
		case 2:
			d.Body = d.Body[:11]
		case 3:
			d.Body = q.first
		}
	}
	return q.Queue.Enqueue(ctx, ds...)
}

// FuzzUnseal: whatever stands in a queue, reading it ends with an error or with what was
// sealed.
func FuzzUnseal(f *testing.F) {
	h, err := callhook.New(callhook.Options{Configs: callhook.Static(), SealKey: callhook.SealKeys(sealKey("k"))})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("k", []byte("0123456789"), "sealed:AAAA", "msg_1")
	f.Add("", []byte("{}"), "plain", "msg_1")
	f.Add("other", []byte{}, "sealed:", "")
	f.Fuzz(func(t *testing.T, sealed string, body []byte, reply, id string) {
		d := &callhook.Delivery{ID: id, Sealed: sealed, Body: body, Log: []callhook.Attempt{{Reply: reply}}}
		before := *d
		if err := h.Unseal(t.Context(), d); err == nil && sealed != "" {
			t.Errorf("it was unsealed: %q", d.Body)
		} else if diff := cmp.Diff(&before, d); diff != "" {
			t.Errorf("it was changed (-before +after):\n%s", diff)
		}
	})
}

// BenchmarkPostCall is a verb with and without sealing.
func BenchmarkPostCall(b *testing.B) {
	for name, key := range map[string]callhook.SealKeyFunc{"plain": nil, "sealed": callhook.SealKeys(sealKey("k"))} {
		b.Run(name, func(b *testing.B) {
			h, err := callhook.New(callhook.Options{Configs: callhook.Static(hook(b, "https://crm.test/", "")), Queue: discard{callhook.NewMemoryQueue(nil)}, SealKey: key})
			if err != nil {
				b.Fatal(err)
			}
			c := sealedCall("c")
			b.ReportAllocs()
			for b.Loop() {
				if err := h.PostCall(b.Context(), c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// discard takes everything and keeps nothing.
type discard struct{ callhook.Queue }

func (discard) Enqueue(context.Context, ...*callhook.Delivery) error { return nil }

// TestSealKeysAreChecked: what is wrong with the keys is found when a config is checked.
func TestSealKeysAreChecked(t *testing.T) {
	for name, key := range map[string]callhook.SealKeyFunc{
		"a short key":     callhook.SealKeys(callhook.SealKey{ID: "k", Key: make([]byte, 5)}),
		"no name":         callhook.SealKeys(callhook.SealKey{Key: make([]byte, 32)}),
		"two of one name": callhook.SealKeys(sealKey("k"), sealKey("k")),
		"a vault that fails": func(context.Context, string, string) (callhook.SealKey, error) {
			return callhook.SealKey{}, errors.New("closed")
		},
	} {
		c := hook(t, "https://crm.test/", "")
		h, err := callhook.New(callhook.Options{Configs: callhook.Static(c), SealKey: key})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Check(t.Context(), c); err == nil || !strings.Contains(err.Error(), "cannot be sealed") {
			t.Errorf("%s: %v", name, err)
		}
		h.Close()
	}
}
