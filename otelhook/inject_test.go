package otelhook_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/otelhook"
)

// TestInject: a receiver is told of the trace only where the host says so, of no baggage
// unless the host says that too, and never in place of a header that is there.
func TestInject(t *testing.T) {
	ours := func(ref callhook.AuthorizeRef) bool { return strings.HasSuffix(ref.Origin, ".ours.test") }
	type headers struct{ Parent, Baggage, Token string } // Parent is the name of the span in traceparent, or its text
	for _, tt := range []struct {
		name                  string
		options               otelhook.Options
		authorize             callhook.AuthorizeFunc
		lookup, event, theirs headers
	}{
		{name: "nobody is told"},
		{
			name:    "our own are",
			options: otelhook.Options{Inject: ours},
			lookup:  headers{Parent: "callhook.pre_call"}, event: headers{Parent: "callhook.attempt"},
		},
		{
			name:    "also of baggage, which the queue does not keep",
			options: otelhook.Options{Inject: ours, Propagator: propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})},
			lookup:  headers{Parent: "callhook.pre_call", Baggage: "user=ada"}, event: headers{Parent: "callhook.attempt"},
		},
		{
			name:    "a header of the host's own stays",
			options: otelhook.Options{Inject: ours},
			authorize: func(_ context.Context, req *http.Request, ref callhook.AuthorizeRef) error {
				req.Header.Set("X-Token", "t")
				if ref.Type == callhook.TypePreCall {
					req.Header.Set("Traceparent", "the host's")
				}
				return nil
			},
			lookup: headers{Parent: "the host's", Token: "t"}, event: headers{Parent: "callhook.attempt", Token: "t"}, theirs: headers{Token: "t"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watch(t, tt.options)
				crm, log, n8n := callhooktest.NewEndpoint(t), callhooktest.NewEndpoint(t), callhooktest.NewEndpoint(t)
				h := w.hooks(t, callhook.Options{Authorize: tt.authorize, Configs: parse(t, `{"agent_id": "reception",
					"pre_call": {"url": "https://crm.ours.test/lookup"},
					"post_call": [{"name": "n8n", "url": "https://n8n.test/"}, {"name": "log", "url": "https://log.ours.test/calls"}]}`),
				}, callhooktest.Network{"crm.ours.test": crm, "log.ours.test": log, "n8n.test": n8n})
				member, err := baggage.NewMember("user", "ada")
				if err != nil {
					t.Fatal(err)
				}
				bag, err := baggage.New(member)
				if err != nil {
					t.Fatal(err)
				}
				ctx := baggage.ContextWithBaggage(t.Context(), bag)
				h.PreCall(ctx, inbound("c"))
				if err := h.PostCall(ctx, ended("c")); err != nil {
					t.Fatal(err)
				}
				h.Delivered(t, 2)
				synctest.Wait()
				spans := map[string]string{}
				for _, s := range w.spans.GetSpans() {
					spans[fmt.Sprintf("00-%s-%s-01", s.SpanContext.TraceID(), s.SpanContext.SpanID())] = s.Name
				}
				of := func(e *callhooktest.Endpoint) headers {
					h := e.Received(t, 1)[0].Header
					return headers{cmp.Or(spans[h.Get("Traceparent")], h.Get("Traceparent")), h.Get("Baggage"), h.Get("X-Token")}
				}
				if diff := gocmp.Diff([]headers{tt.lookup, tt.event, tt.theirs}, []headers{of(crm), of(log), of(n8n)}); diff != "" {
					t.Errorf("lookup, our event, theirs (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestAuthorizeError: what the host's own function says is what happens.
func TestAuthorizeError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, otelhook.Options{Inject: func(callhook.AuthorizeRef) bool { return true }})
		h := w.hooks(t, callhook.Options{Configs: parse(t, reception), Authorize: func(context.Context, *http.Request, callhook.AuthorizeRef) error {
			return errors.New("no token for secret-user-ada")
		}}, callhooktest.Network{"n8n.test": callhooktest.NewEndpoint(t)})
		if err := h.PostCall(t.Context(), ended("c")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		want := "callhook.enqueue producer\n  callhook.attempt client Error error.type=unauthorized callhook.delivery.state=parked\n"
		if diff := gocmp.Diff(want, w.tree("error.type", "callhook.delivery.state")); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestHost: the host's own trace goes on being called, inside of the spans; when it
// panics, no span is lost.
func TestHost(t *testing.T) {
	for _, panics := range []bool{false, true} {
		t.Run(fmt.Sprintf("panics %t", panics), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watch(t, otelhook.Options{})
				var mu sync.Mutex
				got := map[string]int{}
				say := func(what string, ctx context.Context) {
					if !trace.SpanContextFromContext(ctx).IsValid() {
						what += " outside"
					}
					mu.Lock()
					got[what]++
					mu.Unlock()
					if panics {
						panic(what)
					}
				}
				crm, n8n := callhooktest.NewEndpoint(t), callhooktest.NewEndpoint(t, callhooktest.Reply(410, ""), callhooktest.Reply(200, ""), callhooktest.Reply(413, ""))
				type key struct{}
				h := w.hooks(t, callhook.Options{Configs: parse(t, reception), Trace: &callhook.Trace{
					PreCallStart: func(ctx context.Context, _ *callhook.Call) context.Context {
						say("PreCallStart", ctx)
						return context.WithValue(ctx, key{}, "lookup")
					},
					PreCallDone: func(ctx context.Context, _ *callhook.Call, _ *callhook.PreCallResult) {
						if !panics && ctx.Value(key{}) != "lookup" {
							t.Error("PreCallDone did not get the context of PreCallStart")
						}
						say("PreCallDone", ctx)
					},
					Enqueue:      func(ctx context.Context, _ *callhook.Delivery) { say("Enqueue", ctx) },
					Enqueued:     func(ctx context.Context, _ *callhook.Delivery) { say("Enqueued", ctx) },
					AttemptStart: func(ctx context.Context, _ *callhook.Delivery) context.Context { say("AttemptStart", ctx); return nil },
					AttemptDone: func(ctx context.Context, _ *callhook.Delivery, _ callhook.Attempt, _ callhook.Verdict) {
						say("AttemptDone", ctx)
					},
					Delivered: func(ctx context.Context, _ *callhook.Delivery) { say("Delivered", ctx) },
					Dead:      func(ctx context.Context, _ *callhook.Delivery, _ callhook.Reason) { say("Dead", ctx) },
					LaneDown:  func(callhook.LaneState) { say("LaneDown", t.Context()) },
					LaneUp:    func(callhook.LaneState) { say("LaneUp", t.Context()) },
				}}, callhooktest.Network{"crm.test": crm, "n8n.test": n8n})
				w.within(t.Context(), func(ctx context.Context) {
					h.PreCall(ctx, inbound("c1"))
					if err := h.PostCall(ctx, ended("c1")); err != nil {
						t.Fatal(err)
					}
				})
				synctest.Wait()
				if _, err := h.Resume(t.Context(), callhook.LaneRef{Agent: "reception", Webhook: "n8n"}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if err := h.PostCall(t.Context(), ended("c2")); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				want := map[string]int{
					"PreCallStart": 1, "PreCallDone": 1, "Enqueue": 1, "Enqueue outside": 1, "Enqueued": 1, "Enqueued outside": 1,
					"AttemptStart": 3, "AttemptDone": 3, "Delivered outside": 1, "Dead outside": 1, "LaneDown outside": 1, "LaneUp outside": 1,
				}
				mu.Lock()
				defer mu.Unlock()
				if panics { // the attempt goes on with the context that it had
					delete(want, "AttemptDone")
					want["AttemptDone outside"] = 3
				}
				if diff := gocmp.Diff(want, got); diff != "" {
					t.Errorf("called (-want +got):\n%s", diff)
				}
				names := map[string]int{}
				for _, s := range w.spans.GetSpans() {
					names[s.Name]++
				}
				if diff := gocmp.Diff(map[string]int{"call": 1, "callhook.pre_call": 1, "callhook.enqueue": 2, "callhook.attempt": 3, "callhook.dead_letter": 1}, names); diff != "" {
					t.Errorf("spans (-want +got):\n%s", diff)
				}
				metrics := w.metrics(t)
				for name, want := range map[string]float64{
					"callhook.lookups{outcome=empty}":                               1,
					"callhook.enqueued{webhook.type=post_call}":                     2,
					"callhook.attempts{status_class=4xx,webhook.type=post_call}":    2,
					"callhook.attempts{status_class=2xx,webhook.type=post_call}":    1,
					"callhook.deliveries{outcome=delivered,webhook.type=post_call}": 1,
				} {
					if metrics[name] != want {
						t.Errorf("%s is %v, want %v", name, metrics[name], want)
					}
				}
			})
		})
	}
}
