package otelhook

import (
	"context"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/callhook-go/callhook"
)

// carried is how a trace is written into a delivery, whatever receivers are told: another
// process, set up in another way, may read it.
var carried propagation.TraceContext

// startEnqueue begins the span of a delivery that is about to be stored, and writes its
// context into the delivery.
func (t *Telemetry) startEnqueue(ctx context.Context, d *callhook.Delivery) trace.Span {
	ctx, s := t.tracer.Start(ctx, "callhook.enqueue", trace.WithSpanKind(trace.SpanKindProducer), trace.WithTimestamp(d.EnqueuedAt),
		trace.WithAttributes(append(message(d, "enqueue"), semconv.MessagingOperationTypeSend)...))
	if s.SpanContext().IsValid() {
		carrier := make(propagation.MapCarrier, 2)
		carried.Inject(ctx, carrier)
		d.TraceContext = carrier
	}
	return s
}

const notStored = "not_stored"

// awaitEnqueued keeps the span until endEnqueue, or until ctx ends, as that of a verb does
// when it returns: then the delivery was not stored.
func (t *Telemetry) awaitEnqueued(ctx context.Context, d *callhook.Delivery, s trace.Span) {
	if _, bound := ctx.Deadline(); !bound { // nobody might ever say that it was not
		s.End()
		return
	}
	at, of, typ := d.EnqueuedAt, laneRef(d), typeOf(d.Type)
	t.open.add(ctx, storing(d), s, func() {
		fail(s, notStored)
		s.End()
		t.enqueueDuration.Record(trace.ContextWithSpan(ctx, s), time.Since(at).Seconds(), t.series.of(of, typ, semconv.ErrorTypeKey.String(notStored)))
	})
}

// endEnqueue ends the span: the delivery, of which d is a copy, was stored.
func (t *Telemetry) endEnqueue(ctx context.Context, d *callhook.Delivery) {
	if s := t.open.take(storing(d)); s != nil {
		s.End()
		ctx = trace.ContextWithSpan(ctx, s)
	}
	of := t.series.of(laneRef(d), typeOf(d.Type))
	t.enqueued.Add(ctx, 1, of)
	t.enqueueDuration.Record(ctx, time.Since(d.EnqueuedAt).Seconds(), of)
}

// unstored are the spans of deliveries that are being stored.
type unstored struct {
	mu   sync.Mutex
	open map[store]*opened
}

// store is one time that a delivery is stored: the same may be stored twice at once.
type store struct{ id, parent string }

func storing(d *callhook.Delivery) store { return store{d.ID, d.TraceContext["traceparent"]} }

type opened struct {
	trace.Span
	stop func() bool
}

// add keeps a span until take, or until ctx ends and lost is called.
func (u *unstored) add(ctx context.Context, key store, s trace.Span, lost func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.open == nil {
		u.open = map[store]*opened{}
	}
	o := &opened{Span: s}
	o.stop = context.AfterFunc(ctx, func() {
		u.mu.Lock()
		if u.open[key] == o {
			delete(u.open, key)
		}
		u.mu.Unlock()
		lost()
	})
	u.open[key] = o
}

// take returns a span that add keeps, and nil when there is none (any more).
func (u *unstored) take(key store) trace.Span {
	u.mu.Lock()
	defer u.mu.Unlock()
	o := u.open[key]
	if o == nil || !o.stop() { // it is lost already
		return nil
	}
	delete(u.open, key)
	return o
}

// startAttempt begins the span of one attempt: in the trace that the delivery carries.
func (t *Telemetry) startAttempt(ctx context.Context, d *callhook.Delivery) context.Context {
	attrs := message(d, "attempt")
	if n := d.Attempts + d.Postponed; n > 0 {
		attrs = append(attrs, semconv.HTTPRequestResendCount(n))
	}
	options := append(make([]trace.SpanStartOption, 0, 4), trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attrs...))
	ctx, s := t.start(ctx, d, "callhook.attempt", options)
	return within(ctx, s)
}

// start begins a span that belongs to the one that raised d.
func (t *Telemetry) start(ctx context.Context, d *callhook.Delivery, name string, options []trace.SpanStartOption) (context.Context, trace.Span) {
	if len(d.TraceContext) == 0 {
		return t.tracer.Start(ctx, name, options...)
	}
	raised := carried.Extract(ctx, propagation.MapCarrier(d.TraceContext))
	if !t.linked {
		return t.tracer.Start(raised, name, options...)
	}
	return t.tracer.Start(ctx, name, append(options, trace.WithNewRoot(), trace.WithLinks(trace.LinkFromContext(raised)))...)
}

func (t *Telemetry) endAttempt(ctx context.Context, d *callhook.Delivery, a callhook.Attempt, v callhook.Verdict) {
	s := ours(ctx)
	defer s.End()
	if s.IsRecording() {
		attrs := append(peer(a.Remote), stateKey.String(string(v.State)))
		if a.Status != 0 {
			attrs = append(attrs, semconv.HTTPResponseStatusCode(a.Status))
		}
		if v.Reason != "" {
			attrs = append(attrs, reasonKey.String(string(v.Reason)))
		}
		s.SetAttributes(attrs...)
		if class := attemptFailure(a); class != "" {
			fail(s, class)
		}
	}
	of := t.series.of(laneRef(d), typeOf(d.Type), classKey.String(statusClass(a.Status)))
	t.attempts.Add(ctx, 1, of)
	t.attemptDuration.Record(ctx, a.Elapsed.Seconds(), of)
}

// statusClass is like "2xx", or "none" where there was no answer.
func statusClass(status int) string {
	if status < 100 || status > 599 {
		return "none"
	}
	return strconv.Itoa(status/100) + "xx"
}

// dead tells of a delivery that was given up, which may be without an attempt.
func (t *Telemetry) dead(ctx context.Context, d *callhook.Delivery, reason callhook.Reason) {
	ctx, s := t.start(ctx, d, "callhook.dead_letter", []trace.SpanStartOption{
		trace.WithAttributes(append(message(d, "dead_letter"), reasonKey.String(string(reason)))...),
	})
	fail(s, string(reason))
	s.End()
	t.settled(ctx, d, string(callhook.StateDead), reason)
}

func (t *Telemetry) settled(ctx context.Context, d *callhook.Delivery, outcome string, reason callhook.Reason) {
	attrs := append(make([]attribute.KeyValue, 0, 3), typeOf(d.Type), outcomeKey.String(outcome))
	if reason != "" {
		attrs = append(attrs, reasonKey.String(string(reason)))
	}
	of := t.series.of(laneRef(d), attrs...)
	t.deliveries.Add(ctx, 1, of)
	t.deliveryDuration.Record(ctx, time.Since(d.EnqueuedAt).Seconds(), of)
}

// message returns the attributes of a delivery, with room for some more.
func message(d *callhook.Delivery, operation string) []attribute.KeyValue {
	attrs := append(make([]attribute.KeyValue, 0, 14),
		semconv.MessagingSystemKey.String("callhook"),
		semconv.MessagingOperationName(operation),
		semconv.MessagingDestinationName(d.Lane),
		semconv.MessagingMessageID(d.ID),
		semconv.MessagingMessageConversationID(d.Call),
		callKey.String(d.Call), tenantKey.String(d.Tenant), agentKey.String(d.Agent), webhookKey.String(d.Webhook), typeOf(d.Type),
	)
	if d.Sealed == "" && d.BuildError == "" {
		attrs = append(attrs, semconv.MessagingMessageBodySize(len(d.Body)))
	}
	return attrs
}

func laneRef(d *callhook.Delivery) callhook.LaneRef {
	return callhook.LaneRef{Tenant: d.Tenant, Agent: d.Agent, Webhook: d.Webhook}
}

func typeOf(t callhook.Type) attribute.KeyValue { return typeKey.String(string(t)) }
