package otelhook

import (
	"cmp"
	"context"
	"errors"
	"net/http"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/callhook-go/callhook"
)

// Options are what [New] makes Telemetry of. The zero value tells the global providers
// everything, and receivers nothing.
type Options struct {
	// TracerProvider gets the spans. Nil means otel.GetTracerProvider, which may be set
	// later.
	TracerProvider trace.TracerProvider
	// MeterProvider gets the metrics. Nil means otel.GetMeterProvider, which may be set
	// later.
	MeterProvider metric.MeterProvider
	// Inject says which requests carry the trace to the receiver, in the headers of
	// Propagator: those of webhooks and origins for which it returns true. It is
	// called for each attempt. Nil means none, since most receivers are somebody else's.
	Inject func(ref callhook.AuthorizeRef) bool
	// Propagator writes the headers. Nil means W3C's Trace Context ("traceparent" and
	// "tracestate") and not the global propagator, which may send baggage: that is
	// whatever the host has put there, and receivers are outside.
	Propagator propagation.TextMapPropagator
	// LinkAttempts has each attempt begin a trace of its own, linked to the
	// callhook.enqueue of its delivery and not its child: for back ends that do not take
	// spans days after the others, and to sample attempts by themselves.
	LinkAttempts bool
	// Labels returns attributes that metrics of a webhook have in addition, like
	// [PerTenant]. Webhook is empty for lookups. Nil means none. It is called often, by
	// many goroutines at once, and must hold no personal data.
	Labels func(ref callhook.LaneRef) []attribute.KeyValue
	// MaxLabels is how many different ones of them there are. What comes later is
	// counted as "other" under the same keys. Zero means 100.
	MaxLabels int
}

// PerTenant is an [Options].Labels: the tenant, as callhook.tenant.id.
func PerTenant(ref callhook.LaneRef) []attribute.KeyValue {
	return []attribute.KeyValue{tenantKey.String(ref.Tenant)}
}

// Telemetry tells what one [callhook.Hooks] does. Its methods are safe for concurrent use.
type Telemetry struct {
	tracer     trace.Tracer
	meter      metric.Meter
	inject     func(callhook.AuthorizeRef) bool
	propagator propagation.TextMapPropagator
	linked     bool
	instruments
	series series
	open   unstored // deliveries that are being stored
}

// name is that of the instrumentation scope.
const name = "github.com/callhook-go/callhook/otelhook"

// New returns Telemetry. It does no I/O and starts no goroutine. Its error is the meter
// provider's.
func New(o Options) (*Telemetry, error) {
	if o.MaxLabels < 0 {
		return nil, errors.New("otelhook: Options.MaxLabels is negative: zero means 100, and without Labels there are none")
	}
	if o.TracerProvider == nil {
		o.TracerProvider = otel.GetTracerProvider()
	}
	if o.MeterProvider == nil {
		o.MeterProvider = otel.GetMeterProvider()
	}
	if o.Propagator == nil {
		o.Propagator = propagation.TraceContext{}
	}
	t := &Telemetry{
		tracer:     o.TracerProvider.Tracer(name, trace.WithSchemaURL(semconv.SchemaURL)),
		meter:      o.MeterProvider.Meter(name, metric.WithSchemaURL(semconv.SchemaURL)),
		inject:     o.Inject,
		propagator: o.Propagator,
		linked:     o.LinkAttempts,
		series:     series{labels: labels{of: o.Labels, most: cmp.Or(o.MaxLabels, 100)}},
	}
	if err := t.instruments.make(t.meter); err != nil {
		return nil, err
	}
	return t, nil
}

// Trace returns what [callhook.Options].Trace needs. next, which may be nil, is a trace
// of the host's own: its functions are called too, those of lookups and attempts with the
// context of our span.
func (t *Telemetry) Trace(next *callhook.Trace) *callhook.Trace {
	var host callhook.Trace
	if next != nil {
		host = *next
	}
	tr := host
	tr.PreCallStart = func(ctx context.Context, call *callhook.Call) context.Context {
		return enter(t.startLookup(ctx, call), host.PreCallStart, call)
	}
	tr.PreCallDone = func(ctx context.Context, call *callhook.Call, res *callhook.PreCallResult) {
		defer t.endLookup(ctx, call, res)
		if host.PreCallDone != nil {
			host.PreCallDone(ctx, call, res)
		}
	}
	tr.Enqueue = func(ctx context.Context, d *callhook.Delivery) {
		defer t.awaitEnqueued(ctx, d, t.startEnqueue(ctx, d))
		if host.Enqueue != nil {
			host.Enqueue(ctx, d)
		}
	}
	tr.Enqueued = func(ctx context.Context, d *callhook.Delivery) {
		defer t.endEnqueue(ctx, d)
		if host.Enqueued != nil {
			host.Enqueued(ctx, d)
		}
	}
	tr.AttemptStart = func(ctx context.Context, d *callhook.Delivery) context.Context {
		return enter(t.startAttempt(ctx, d), host.AttemptStart, d)
	}
	tr.AttemptDone = func(ctx context.Context, d *callhook.Delivery, a callhook.Attempt, v callhook.Verdict) {
		defer t.endAttempt(ctx, d, a, v)
		if host.AttemptDone != nil {
			host.AttemptDone(ctx, d, a, v)
		}
	}
	tr.Delivered = func(ctx context.Context, d *callhook.Delivery) {
		t.settled(ctx, d, string(callhook.StateDelivered), "")
		if host.Delivered != nil {
			host.Delivered(ctx, d)
		}
	}
	tr.Dead = func(ctx context.Context, d *callhook.Delivery, reason callhook.Reason) {
		t.dead(ctx, d, reason)
		if host.Dead != nil {
			host.Dead(ctx, d, reason)
		}
	}
	tr.LaneDown = func(l callhook.LaneState) {
		t.laneChanged(l)
		if host.LaneDown != nil {
			host.LaneDown(l)
		}
	}
	tr.LaneUp = func(l callhook.LaneState) {
		t.laneChanged(l)
		if host.LaneUp != nil {
			host.LaneUp(l)
		}
	}
	return &tr
}

// enter lets the host's function have the context of a span. When it panics nobody will
// end the span.
func enter[A any](ctx context.Context, host func(context.Context, A) context.Context, about A) context.Context {
	if host == nil {
		return ctx
	}
	returned := false
	defer func() {
		if !returned {
			ours(ctx).End()
		}
	}()
	given := host(ctx, about)
	returned = true
	return cmp.Or(given, ctx)
}

// Authorize returns what [callhook.Options].Authorize needs: without it spans do not know
// where a request goes (server.address), and no request carries a trace. next, which may
// be nil, is one of the host's own, and is called first. A header of the trace that the
// webhook's config or next has set stays as it is.
func (t *Telemetry) Authorize(next callhook.AuthorizeFunc) callhook.AuthorizeFunc {
	return func(ctx context.Context, req *http.Request, ref callhook.AuthorizeRef) error {
		if next != nil {
			if err := next(ctx, req, ref); err != nil {
				return err
			}
		}
		t.addressed(ctx, req, ref)
		if t.inject != nil && t.inject(ref) {
			t.propagator.Inject(ctx, absent(req.Header))
		}
		return nil
	}
}

// absent is a carrier that only sets the headers that a request does not have.
type absent http.Header

func (h absent) Get(key string) string { return http.Header(h).Get(key) }
func (h absent) Keys() []string        { return propagation.HeaderCarrier(h).Keys() }
func (h absent) Set(key, value string) {
	if h.Get(key) == "" {
		http.Header(h).Set(key, value)
	}
}
