package callhook_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
)

// TestTraceOrder: the functions of Trace are called in order, AttemptDone with what
// AttemptStart returned, and Stats agree with them.
func TestTraceOrder(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x, bad := newEndpoint(status(500), status(429, "Retry-After: 1"), status(200)), newEndpoint(status(413))
		n.handle("x.test", x.ServeHTTP)
		n.handle("bad.test", bad.ServeHTTP)
		config := parse(t, `{"agent_id": "a", "post_call": [{"name": "w", "url": "http://x.test/"}, {"name": "bad", "url": "http://bad.test/"}]}`)
		var mu sync.Mutex
		var got []string
		say := func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprintf(format, args...))
		}
		number := 0
		trace := &callhook.Trace{
			Enqueued: func(ctx context.Context, d *callhook.Delivery) {
				if ctx.Value(contextKey{}) != "the call's" {
					t.Error("Enqueued did not get the values of the call's context")
				}
				say("enqueued")
			},
			AttemptStart: func(ctx context.Context, d *callhook.Delivery) context.Context {
				mu.Lock()
				defer mu.Unlock()
				number++
				return context.WithValue(ctx, contextKey{}, number)
			},
			AttemptDone: func(ctx context.Context, d *callhook.Delivery, a callhook.Attempt, v callhook.Verdict) {
				if ctx.Value(contextKey{}) == nil {
					t.Error("AttemptDone did not get the context of AttemptStart")
				}
				say("%s attempt %d: %d", d.Webhook, len(d.Log), a.Status)
			},
			Delivered: func(_ context.Context, d *callhook.Delivery) { say("%s delivered after %d", d.Webhook, d.Attempts) },
			Dead:      func(_ context.Context, d *callhook.Delivery, r callhook.Reason) { say("%s dead: %s", d.Webhook, r) },
		}
		run(t, callhook.Options{Configs: callhook.Static(config), Dial: n.Dial, Trace: trace}, func(h *callhook.Hooks) {
			trace.Delivered = nil // too late to change anything
			if err := h.PostCall(context.WithValue(t.Context(), contextKey{}, "the call's"), ended("c1")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			var mine, bad []string
			enqueued := 0
			for _, s := range got {
				switch {
				case s == "enqueued":
					enqueued++
				case strings.HasPrefix(s, "bad "):
					bad = append(bad, s)
				default:
					mine = append(mine, s)
				}
			}
			if diff := cmp.Diff([]string{"w attempt 1: 500", "w attempt 2: 429", "w attempt 3: 200", "w delivered after 2"}, mine); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if diff := cmp.Diff([]string{"bad attempt 1: 413", "bad dead: too_large"}, bad); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if s := h.Stats(); enqueued != 2 || s.Attempts != 4 || number != 4 {
				t.Errorf("%d enqueued, %d and %d attempts; want 2, 4 and 4", enqueued, s.Attempts, number)
			}
			balance(t, h, 1, 1, 0)
		})
	})
}

// TestPanics: a function of the host's that panics takes nothing with it: the
// delivery becomes what it would have become.
func TestPanics(t *testing.T) {
	explode := func() { panic("a fault of the host's") }
	for _, tt := range []struct {
		name  string
		spoil func(o *callhook.Options, fine func() bool)
		later bool // it goes once the function is fine again
	}{
		{name: "Enqueued", spoil: func(o *callhook.Options, _ func() bool) {
			o.Trace.Enqueued = func(context.Context, *callhook.Delivery) { explode() }
		}},
		{name: "AttemptStart", spoil: func(o *callhook.Options, _ func() bool) {
			o.Trace.AttemptStart = func(context.Context, *callhook.Delivery) context.Context { explode(); return nil }
		}},
		{name: "AttemptStart returns nil", spoil: func(o *callhook.Options, _ func() bool) {
			o.Trace.AttemptStart = func(context.Context, *callhook.Delivery) context.Context { return nil }
		}},
		{name: "AttemptDone", spoil: func(o *callhook.Options, _ func() bool) {
			o.Trace.AttemptDone = func(context.Context, *callhook.Delivery, callhook.Attempt, callhook.Verdict) { explode() }
		}},
		{name: "Delivered", spoil: func(o *callhook.Options, _ func() bool) {
			o.Trace.Delivered = func(context.Context, *callhook.Delivery) { explode() }
		}},
		{name: "Dead", spoil: func(o *callhook.Options, _ func() bool) {
			o.Trace.Dead = func(context.Context, *callhook.Delivery, callhook.Reason) { explode() }
		}},
		{name: "Secrets", later: true, spoil: func(o *callhook.Options, fine func() bool) {
			own := o.Secrets
			o.Secrets = func(ctx context.Context, ref callhook.SecretRef) (string, error) {
				if !fine() {
					explode()
				}
				return own(ctx, ref)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x, bad := newEndpoint(status(500), status(200)), newEndpoint(status(413))
				n.handle("x.test", x.ServeHTTP)
				n.handle("bad.test", bad.ServeHTTP)
				config := parse(t, `{"agent_id": "a", "post_call": [{"name": "w", "url": "http://x.test/", "secrets": ["${KEY}"]}, {"name": "bad", "url": "http://bad.test/"}]}`)
				var log bytes.Buffer
				var mu sync.Mutex
				broken := true
				fine := func() bool {
					mu.Lock()
					defer mu.Unlock()
					return !broken
				}
				o := callhook.Options{Configs: callhook.Static(config), Dial: n.Dial, Trace: new(callhook.Trace), Logger: logger(&log, slog.LevelError),
					Secrets: secretsOf(map[string]string{"KEY": secret})}
				tt.spoil(&o, fine)
				run(t, o, func(h *callhook.Hooks) {
					raise(t, h, ended("c1"))
					time.Sleep(10 * time.Second)
					if tt.later {
						balance(t, h, 0, 1, 1)
						mu.Lock()
						broken = false
						mu.Unlock()
						time.Sleep(3 * time.Minute)
					}
					synctest.Wait()
					balance(t, h, 1, 1, 0)
					if got := len(x.requests()); got != 2 {
						t.Errorf("%d requests, want 2", got)
					}
				})
				if says := strings.Contains(log.String(), "panicked"); says == strings.Contains(tt.name, "nil") {
					t.Errorf("the log says: %s", log.String())
				}
			})
		})
	}
}

// logger writes to b.
func logger(b *bytes.Buffer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(&lockedWriter{w: b}, &slog.HandlerOptions{Level: level}))
}

type lockedWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// TestLogSaysNothingPrivate: whatever happens, no secret, body, query string or
// phone number reaches the log or an error.
func TestLogSaysNothingPrivate(t *testing.T) {
	const phone, query, name, token = "+442079460123", "query-of-the-url", "Ada-Lovelace", "token-of-the-crm"
	answers := map[string]http.HandlerFunc{
		"success": reply(200, "thanks "+name), "rejected": reply(422, "no such number "+phone+" "+token), "failed": reply(500, token), "gone": reply(410, phone),
		"later": reply(429, token), "too large": reply(413, token), "redirect": status(302, "Location: http://x.test/?"+query), "hang up": cutOff, "silent": silent,
		"not HTTP": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			fmt.Fprint(conn, token+"\r\n\r\n")
			conn.Close()
		},
	}
	for what, answer := range answers {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				n.handle("x.test", answer)
				var log bytes.Buffer
				config := parse(t, `{"agent_id": "a", "call_status": [
					{"name": "status", "url": "http://x.test/`+query+`/{{call.from}}?a=`+query+`&b=${TOKEN}&c={{call.variables.name}}", "timeout": "1s", "retry": {"max_attempts": 6},
						"headers": {"Authorization": "Bearer ${TOKEN}", "X-From": "{{call.from}}"}, "secrets": ["${KEY}"]},
					{"name": "unbuilt", "url": "http://x.test/", "payload": {"fields": ["call.collected"]}},
					{"name": "refused", "url": "http://nobody.test/?a=`+query+`&b={{call.from}}", "retry": {"max_attempts": 2}},
					{"name": "missing", "url": "http://x.test/?b=${MISSING}"},
					{"name": "unusable", "url": "http://x.test/", "secrets": ["${TOKEN}"]}]}`)
				w := new(watch)
				trace := w.trace()
				trace.AttemptStart = func(ctx context.Context, d *callhook.Delivery) context.Context {
					if len(d.Log) == 1 {
						panic("a fault of the host's")
					}
					return ctx
				}
				o := callhook.Options{Configs: callhook.Static(config), Dial: n.Dial, Logger: logger(&log, slog.LevelDebug-4), Trace: trace,
					Secrets: secretsOf(map[string]string{"KEY": secret, "TOKEN": token})}
				run(t, o, func(h *callhook.Hooks) {
					call := &callhook.Call{ID: "c1", AgentID: "a", Status: callhook.StatusRinging, Sequence: 1, From: phone, Direction: callhook.Inbound,
						Variables: callhook.Variables{"name": name}, Collected: callhook.Object{"x": make(chan int), "y": phone}}
					if err := h.CallStatus(t.Context(), call); err != nil {
						t.Fatal(err)
					}
					time.Sleep(4 * time.Hour)
					synctest.Wait()
				})
				private := []string{phone, phone[1:], query, name, token, secret, secret[6:]}
				if text, found := oneOf(log.String(), private...); found {
					t.Errorf("%q is in the log:\n%s", text, log.String())
				}
				for _, a := range w.tries() {
					if text, found := oneOf(a.Error, private...); found {
						t.Errorf("%q is in the error %q", text, a.Error)
					}
					if text, found := oneOf(a.Reply, token, secret, secret[6:]); found {
						t.Errorf("%q is in the reply %q", text, a.Reply)
					}
				}
				if !strings.Contains(log.String(), "c1") {
					t.Errorf("the log says nothing:\n%s", log.String())
				}
			})
		})
	}
}

// TestTraceContext: what Trace.Enqueue puts into a delivery is there at its attempts,
// and not in the request.
func TestTraceContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := callhooktest.NewEndpoint(t)
		type key struct{}
		var got []string
		h := callhooktest.NewHooks(t, callhook.Options{
			Configs: callhook.Static(hook(t, "https://crm.test/", "")),
			Trace: &callhook.Trace{
				Enqueue: func(ctx context.Context, d *callhook.Delivery) {
					d.TraceContext = map[string]string{"traceparent": ctx.Value(key{}).(string)}
				},
				AttemptStart: func(ctx context.Context, d *callhook.Delivery) context.Context {
					got = append(got, d.TraceContext["traceparent"])
					return ctx
				},
			},
		}, callhooktest.Network{"crm.test": crm})
		if err := h.PostCall(context.WithValue(t.Context(), key{}, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ended("c")); err != nil {
			t.Fatal(err)
		}
		if r := crm.Received(t, 1)[0]; r.Header.Get("traceparent") != "" {
			t.Errorf("it was sent: %v", r.Header)
		}
		h.Delivered(t, 1)
		if diff := cmp.Diff([]string{"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}
