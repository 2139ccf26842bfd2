package otelhook_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/codes"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/otelhook"
)

// TestLookup: a lookup is a client's span, with where it went, what came of it, and the
// same in metrics.
func TestLookup(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer callhooktest.Answer
		agent  string
		warm   int // lookups before
		want   string
	}{
		{name: "applied", answer: callhooktest.Reply(200, `{"variables":{"customer_name":"Ada"}}`),
			want: "client callhook.outcome=applied server.address=crm.test server.port=443 url.scheme=https http.request.method=POST http.response.status_code=200"},
		{name: "nobody", answer: callhooktest.Reply(404, ""),
			want: "client callhook.outcome=empty server.address=crm.test server.port=443 url.scheme=https http.request.method=POST http.response.status_code=404"},
		{name: "timeout", answer: callhooktest.Answer{Delay: time.Minute},
			want: "client Error callhook.outcome=timeout server.address=crm.test server.port=443 url.scheme=https http.request.method=POST error.type=timeout"},
		{name: "failed", answer: callhooktest.Reply(503, ""),
			want: "client Error callhook.outcome=failed server.address=crm.test server.port=443 url.scheme=https http.request.method=POST http.response.status_code=503 error.type=503"},
		{name: "no connection", answer: callhooktest.Answer{Fault: callhooktest.FaultExpiredCertificate},
			want: "client Error callhook.outcome=failed server.address=crm.test server.port=443 url.scheme=https http.request.method=POST http.request.resend_count=1 error.type=tls"},
		{name: "down", answer: callhooktest.Reply(503, ""), warm: 5,
			want: "client Error callhook.outcome=open error.type=open"},
		{name: "no config", agent: "nobody",
			want: "client callhook.outcome=skipped"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watch(t, otelhook.Options{})
				h := w.hooks(t, callhook.Options{Configs: parse(t, reception)}, callhooktest.Network{"crm.test": callhooktest.NewEndpoint(t, tt.answer)})
				call := inbound("c")
				if tt.agent != "" {
					call.AgentID = tt.agent
				}
				for range tt.warm {
					h.PreCall(t.Context(), call)
				}
				w.spans.Reset()
				w.within(t.Context(), func(ctx context.Context) { h.PreCall(ctx, call) })
				got := w.tree("callhook.outcome", "server.address", "server.port", "url.scheme", "http.request.method",
					"http.response.status_code", "http.request.resend_count", "error.type")
				if diff := gocmp.Diff("call internal\n  callhook.pre_call "+tt.want+"\n", got); diff != "" {
					t.Errorf("spans (-want +got):\n%s", diff)
				}
				_, outcome, _ := strings.Cut(tt.want, "callhook.outcome=")
				outcome, _, _ = strings.Cut(outcome, " ")
				metrics := w.metrics(t)
				for _, name := range []string{"callhook.lookups", "callhook.lookup.duration"} {
					if n := metrics[name+"{outcome="+outcome+"}"]; n != 1 {
						t.Errorf("%s of %s is %v, want 1", name, outcome, n)
					}
				}
			})
		})
	}
}

// TestDelivered: a call and what comes of it are one trace, over a failed attempt.
func TestDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, otelhook.Options{})
		n8n := callhooktest.NewEndpoint(t, callhooktest.Reply(500, ""), callhooktest.Reply(200, ""))
		h := w.hooks(t, callhook.Options{Configs: parse(t, reception)}, callhooktest.Network{"n8n.test": n8n})
		w.within(t.Context(), func(ctx context.Context) {
			if err := h.PostCall(ctx, ended("c")); err != nil {
				t.Fatal(err)
			}
		})
		h.Delivered(t, 1)
		synctest.Wait()
		got := w.tree("server.address", "server.port", "http.response.status_code", "http.request.resend_count", "error.type", "callhook.delivery.state")
		want := `call internal
  callhook.enqueue producer
    callhook.attempt client Error server.address=n8n.test server.port=8443 http.response.status_code=500 error.type=500 callhook.delivery.state=waiting
    callhook.attempt client server.address=n8n.test server.port=8443 http.response.status_code=200 http.request.resend_count=1 callhook.delivery.state=delivered
`
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("spans (-want +got):\n%s", diff)
		}
		if diff := gocmp.Diff(map[string]float64{
			"callhook.enqueued{webhook.type=post_call}":                            1,
			"callhook.enqueue.duration{webhook.type=post_call}":                    1,
			"callhook.attempts{status_class=2xx,webhook.type=post_call}":           1,
			"callhook.attempts{status_class=5xx,webhook.type=post_call}":           1,
			"callhook.attempt.duration{status_class=2xx,webhook.type=post_call}":   1,
			"callhook.attempt.duration{status_class=5xx,webhook.type=post_call}":   1,
			"callhook.deliveries{outcome=delivered,webhook.type=post_call}":        1,
			"callhook.delivery.duration{outcome=delivered,webhook.type=post_call}": 1,
			"callhook.queue.deliveries{delivery.state=delivered}":                  1,
		}, some(w.metrics(t), "callhook.")); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
	})
}

// TestMessage: the attributes of a delivery have the names of the semantic conventions.
func TestMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, otelhook.Options{})
		h := w.hooks(t, callhook.Options{Configs: parse(t, reception)}, callhooktest.Network{"n8n.test": callhooktest.NewEndpoint(t)})
		if err := h.PostCall(t.Context(), ended("c")); err != nil {
			t.Fatal(err)
		}
		d := h.Delivered(t, 1)[0]
		synctest.Wait()
		got := map[string]map[string]any{}
		for _, s := range w.spans.GetSpans() {
			got[s.Name] = map[string]any{}
			for _, kv := range s.Attributes {
				got[s.Name][string(kv.Key)] = kv.Value.AsInterface()
			}
		}
		both := func(more map[string]any) map[string]any {
			for k, v := range map[string]any{
				"messaging.system": "callhook", "messaging.destination.name": d.Lane, "messaging.message.id": d.ID,
				"messaging.message.conversation_id": "c", "messaging.message.body.size": int64(len(d.Body)),
				"callhook.call.id": "c", "callhook.tenant.id": "", "callhook.agent.id": "reception",
				"callhook.webhook.name": "n8n", "callhook.webhook.type": "post_call",
			} {
				more[k] = v
			}
			return more
		}
		if diff := gocmp.Diff(map[string]map[string]any{
			"callhook.enqueue": both(map[string]any{"messaging.operation.name": "enqueue", "messaging.operation.type": "send"}),
			"callhook.attempt": both(map[string]any{
				"messaging.operation.name": "attempt", "callhook.delivery.state": "delivered",
				"http.request.method": "POST", "http.response.status_code": int64(200), "url.scheme": "https",
				"server.address": "n8n.test", "server.port": int64(8443), "network.peer.address": "n8n.test",
			}),
		}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestDeadLetter: what was given up says why, with and without an attempt.
func TestDeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, otelhook.Options{})
		h := w.hooks(t, callhook.Options{Configs: parse(t, `{"agent_id": "reception", "post_call": [
			{"name": "large", "url": "https://n8n.test/"},
			{"name": "unbuilt", "url": "https://n8n.test/{{call.metadata.none}}"}
		]}`)}, callhooktest.Network{"n8n.test": callhooktest.NewEndpoint(t, callhooktest.Reply(413, ""))})
		if err := h.PostCall(t.Context(), ended("c")); err != nil {
			t.Fatal(err)
		}
		h.Dead(t, 2)
		synctest.Wait()
		got := map[string]int{}
		for _, line := range strings.Split(strings.TrimSpace(w.tree("callhook.webhook.name", "callhook.reason", "error.type", "callhook.delivery.state")), "\n") {
			got[line]++
		}
		if diff := gocmp.Diff(map[string]int{
			"callhook.enqueue producer callhook.webhook.name=large":                                                                             1,
			"callhook.enqueue producer callhook.webhook.name=unbuilt":                                                                           1,
			"  callhook.attempt client Error callhook.webhook.name=large callhook.reason=too_large error.type=413 callhook.delivery.state=dead": 1,
			"  callhook.dead_letter internal Error callhook.webhook.name=large callhook.reason=too_large error.type=too_large":                  1,
			"  callhook.dead_letter internal Error callhook.webhook.name=unbuilt callhook.reason=build_failed error.type=build_failed":          1,
		}, got); diff != "" {
			t.Errorf("spans (-want +got):\n%s", diff)
		}
		if diff := gocmp.Diff(map[string]float64{
			"callhook.deliveries{outcome=dead,reason=too_large,webhook.type=post_call}":    1,
			"callhook.deliveries{outcome=dead,reason=build_failed,webhook.type=post_call}": 1,
		}, some(w.metrics(t), "callhook.deliveries")); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
	})
}

// journal is a queue that writes deliveries down and reads them again, as one on a disk
// does.
type journal struct{ *callhook.MemoryQueue }

func (j journal) Enqueue(ctx context.Context, ds ...*callhook.Delivery) error {
	read := make([]*callhook.Delivery, len(ds))
	for i, d := range ds {
		text, err := json.Marshal(d)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(text, &read[i]); err != nil {
			return err
		}
	}
	return j.MemoryQueue.Enqueue(ctx, read...)
}

// TestRestart: another process goes on with the trace, or begins one that is linked to it.
func TestRestart(t *testing.T) {
	for _, linked := range []bool{false, true} {
		t.Run(fmt.Sprintf("linked %t", linked), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				queue := journal{callhook.NewMemoryQueue(nil)}
				defer queue.Close()
				first := watch(t, otelhook.Options{})
				a, err := callhook.New(callhook.Options{Configs: parse(t, reception), Queue: queue, Trace: first.Trace(nil)})
				if err != nil {
					t.Fatal(err)
				}
				first.within(t.Context(), func(ctx context.Context) {
					if err := a.PostCall(ctx, ended("c")); err != nil {
						t.Fatal(err)
					}
				})
				if err := a.Close(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour)
				second := watch(t, otelhook.Options{LinkAttempts: linked})
				h := second.hooks(t, callhook.Options{Configs: parse(t, reception), Queue: queue}, callhooktest.Network{"n8n.test": callhooktest.NewEndpoint(t)})
				h.Delivered(t, 1)
				synctest.Wait()
				want := "call internal\n  callhook.enqueue producer\n    callhook.attempt client\n"
				if linked {
					want = "call internal\n  callhook.enqueue producer\ncallhook.attempt client linked=true\n"
				}
				if diff := gocmp.Diff(want, draw(append(first.spans.GetSpans(), second.spans.GetSpans()...), nil)); diff != "" {
					t.Errorf("spans (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// full is a queue that takes nothing.
type full struct{ *callhook.MemoryQueue }

func (full) Enqueue(context.Context, ...*callhook.Delivery) error { return callhook.ErrQueueFull }

// TestNotStored: an event that could not be stored is a span that failed.
func TestNotStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, otelhook.Options{})
		queue := full{callhook.NewMemoryQueue(nil)}
		defer queue.Close()
		h := w.hooks(t, callhook.Options{Configs: parse(t, reception), Queue: queue}, nil)
		w.within(t.Context(), func(ctx context.Context) {
			if err := h.PostCall(ctx, ended("c")); !errors.Is(err, callhook.ErrQueueFull) {
				t.Errorf("the error is %v", err)
			}
		})
		synctest.Wait()
		if diff := gocmp.Diff("call internal\n  callhook.enqueue producer Error error.type=not_stored\n", w.tree("error.type")); diff != "" {
			t.Errorf("spans (-want +got):\n%s", diff)
		}
		if diff := gocmp.Diff(map[string]float64{"callhook.enqueue.duration{webhook.type=post_call,error.type=not_stored}": 1},
			some(w.metrics(t), "callhook.enqueue")); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
	})
}

// TestPrivacy: nothing of a call but its id, and no secret, is in a span or a metric,
// however it goes.
func TestPrivacy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, otelhook.Options{Inject: func(callhook.AuthorizeRef) bool { return true }, Labels: otelhook.PerTenant})
		echo := callhooktest.ReplyFunc(func(r *callhooktest.Request) callhooktest.Answer {
			return callhooktest.Reply(422, `{"error":"planted-reply","header":"`+r.Header.Get("X-Key")+`"}`)
		})
		n8n := callhooktest.NewEndpoint(t, echo)
		crm := callhooktest.NewEndpoint(t, callhooktest.Reply(200, `{"variables":{"customer_name":"planted-variable","planted bad":"planted-dropped"}}`), callhooktest.Reply(503, "planted-reply"))
		h := w.hooks(t, callhook.Options{
			Configs: parse(t, `{"agent_id": "reception", "variables": [{"name": "pin", "secret": true}],
				"pre_call": {"url": "https://crm.test/planted-path/{{call.from}}?key=${KEY}"},
				"post_call": [
					{"name": "n8n", "url": "https://n8n.test/planted-path/{{call.from}}?key=${KEY}&q={{call.summary}}", "headers": {"X-Key": "${KEY}", "X-From": "{{call.from}}"}, "secrets": ["${SIGN}"]},
					{"name": "unauthorized", "url": "https://token.test/planted-path"},
					{"name": "removed", "url": "https://none-planted-not.test/"}]}`),
			Secrets: callhooktest.Secrets{"KEY": "planted-secret", "SIGN": callhooktest.Key}.Resolve,
			Authorize: func(_ context.Context, req *http.Request, ref callhook.AuthorizeRef) error {
				if ref.Webhook == "unauthorized" {
					return errors.New("planted-error")
				}
				req.Header.Set("Authorization", "Bearer planted-token")
				return nil
			},
			NumberKey: []byte("planted-number-key"), KeepCalls: true,
		}, callhooktest.Network{"crm.test": crm, "n8n.test": n8n})
		call := ended("c")
		call.From, call.FromName, call.Summary = "+15550001234", "planted-name", "planted-summary"
		call.Variables = callhook.Variables{"v": "planted-value"}
		call.Secrets = callhook.Variables{"pin": "planted-pin"}
		call.Metadata = map[string]any{"m": "planted-metadata"}
		call.Transcript = []callhook.Turn{{Role: "user", Text: "planted-words"}}
		h.PreCall(t.Context(), call).Apply(call)
		h.PreCall(t.Context(), call)
		if err := h.PostCall(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * time.Hour)
		h.End()
		if r := n8n.Requests(); len(r) == 0 || !strings.Contains(string(r[0].Body), "planted-summary") || r[0].Header.Get("X-Key") != "planted-secret" {
			t.Fatal("nothing was planted")
		}
		told, err := json.Marshal(struct {
			Spans   any
			Metrics any
		}{w.spans.GetSpans(), w.collect(t)})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{"callhook.pre_call", "callhook.attempt", "callhook.dead_letter", "callhook.lookup.duration", "callhook.delivery.duration", `"reception"`, `"n8n.test"`, `"crm.test"`, `"rejected"`} {
			if !strings.Contains(string(told), s) {
				t.Errorf("nothing is told of %s", s)
			}
		}
		for _, planted := range []string{"planted-", "5550001234", callhooktest.Key, callhooktest.Key[6:]} {
			if i := strings.Index(strings.ReplaceAll(string(told), "none-planted-not.test", ""), planted); i >= 0 {
				t.Errorf("%q is told: %.200s", planted, told[max(0, i-100):])
			}
		}
	})
}

// TestNew: what cannot be is refused, and the zero value can be.
func TestNew(t *testing.T) {
	if _, err := otelhook.New(otelhook.Options{MaxLabels: -1}); err == nil || !strings.HasPrefix(err.Error(), "otelhook: Options.MaxLabels is negative") {
		t.Errorf("the error is %v", err)
	}
	telemetry, err := otelhook.New(otelhook.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h := callhooktest.NewHooks(t, callhook.Options{Configs: parse(t, reception), Trace: telemetry.Trace(nil), Authorize: telemetry.Authorize(nil)}, callhooktest.Network{})
	if _, err := telemetry.Observe(h.Hooks, h.Queue); err != nil {
		t.Error(err)
	}
	if res := h.PreCall(t.Context(), nil); res.Outcome != callhook.OutcomeFailed { // a call of nil must not be more than that
		t.Error(res)
	}
	if err := h.PostCall(t.Context(), ended("c")); err != nil {
		t.Error(err)
	}
}

// TestConcurrent: many calls at once, the same event raised by several of them.
func TestConcurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, otelhook.Options{Labels: otelhook.PerTenant, MaxLabels: 2})
		h := w.hooks(t, callhook.Options{Configs: parse(t, reception)},
			callhooktest.Network{"crm.test": callhooktest.NewEndpoint(t), "n8n.test": callhooktest.NewEndpoint(t)})
		at := time.Now()
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				call := ended(fmt.Sprint("c", i/4))
				call.EndedAt = at
				h.PreCall(t.Context(), call)
				if err := h.PostCall(t.Context(), call); err != nil {
					t.Error(err)
				}
				w.metrics(t)
			})
		}
		wg.Wait()
		h.Delivered(t, 16)
		synctest.Wait()
		names := map[string]int{}
		for _, s := range w.spans.GetSpans() {
			names[s.Name]++
			if s.Name == "callhook.enqueue" && s.Status.Code == codes.Error {
				t.Error("an event that was stored is told as one that was not")
			}
		}
		if diff := gocmp.Diff(map[string]int{"callhook.pre_call": 64, "callhook.enqueue": 64, "callhook.attempt": 16}, names); diff != "" {
			t.Errorf("spans (-want +got):\n%s", diff)
		}
	})
}
