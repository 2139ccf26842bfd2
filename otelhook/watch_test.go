package otelhook_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/otelhook"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// watched is Telemetry with an SDK that keeps what it is told.
type watched struct {
	*otelhook.Telemetry
	spans  *tracetest.InMemoryExporter
	reader *metric.ManualReader
	host   trace.Tracer // the runtime's own
}

func watch(t testing.TB, o otelhook.Options) *watched {
	t.Helper()
	w := &watched{spans: tracetest.NewInMemoryExporter(), reader: metric.NewManualReader()}
	traces := sdk.NewTracerProvider(sdk.WithSyncer(w.spans))
	o.TracerProvider, o.MeterProvider = traces, metric.NewMeterProvider(metric.WithReader(w.reader))
	w.host = traces.Tracer("host")
	var err error
	if w.Telemetry, err = otelhook.New(o); err != nil {
		t.Fatal(err)
	}
	return w
}

// hooks runs Hooks that are watched. The function returned is their Observe.
func (w *watched) hooks(t testing.TB, o callhook.Options, network callhooktest.Network) *callhooktest.Hooks {
	t.Helper()
	o.Trace, o.Authorize = w.Trace(o.Trace), w.Authorize(o.Authorize)
	h := callhooktest.NewHooks(t, o, network)
	registration, err := w.Observe(h.Hooks, h.Queue)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = registration.Unregister() })
	return h
}

// within runs f in a span of the runtime's.
func (w *watched) within(ctx context.Context, f func(ctx context.Context)) {
	ctx, s := w.host.Start(ctx, "call")
	defer s.End()
	f(ctx)
}

// tree draws the spans, each below its parent in the order in which they began, with these
// attributes.
func (w *watched) tree(keys ...attribute.Key) string {
	return draw(w.spans.GetSpans(), keys)
}

func draw(all tracetest.SpanStubs, keys []attribute.Key) string {
	known := map[trace.SpanID]bool{}
	for _, s := range all {
		known[s.SpanContext.SpanID()] = true
	}
	slices.SortStableFunc(all, func(a, b tracetest.SpanStub) int {
		return cmp.Or(a.StartTime.Compare(b.StartTime), cmp.Compare(a.Name, b.Name))
	})
	var b strings.Builder
	var below func(parent trace.SpanID, depth int)
	below = func(parent trace.SpanID, depth int) {
		for _, s := range all {
			if p := s.Parent.SpanID(); p != parent && (parent.IsValid() || known[p]) {
				continue
			}
			fmt.Fprintf(&b, "%s%s %s", strings.Repeat("  ", depth), s.Name, s.SpanKind)
			if s.Status.Code != codes.Unset {
				fmt.Fprintf(&b, " %s", s.Status.Code)
			}
			for _, l := range s.Links {
				fmt.Fprintf(&b, " linked=%t", l.SpanContext.TraceID() != s.SpanContext.TraceID() && known[l.SpanContext.SpanID()])
			}
			for _, key := range keys {
				for _, kv := range s.Attributes {
					if kv.Key == key {
						fmt.Fprintf(&b, " %s=%s", key, kv.Value.String())
					}
				}
			}
			b.WriteByte('\n')
			below(s.SpanContext.SpanID(), depth+1)
		}
	}
	below(trace.SpanID{}, 0)
	return b.String()
}

// metrics returns what is collected now, by name and attributes; of histograms the count.
func (w *watched) metrics(t testing.TB) map[string]float64 {
	t.Helper()
	got := map[string]float64{}
	for _, m := range w.collect(t) {
		add := func(set attribute.Set, v float64) { got[m.Name+series(set)] = v }
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range data.DataPoints {
				add(p.Attributes, float64(p.Value))
			}
		case metricdata.Gauge[float64]:
			for _, p := range data.DataPoints {
				add(p.Attributes, p.Value)
			}
		case metricdata.Histogram[float64]:
			for _, p := range data.DataPoints {
				add(p.Attributes, float64(p.Count))
			}
		default:
			t.Fatalf("%s is a %T", m.Name, data)
		}
	}
	return got
}

func (w *watched) collect(t testing.TB) (all []metricdata.Metrics) {
	t.Helper()
	var rm metricdata.ResourceMetrics
	if err := w.reader.Collect(context.Background(), &rm); err != nil {
		t.Fatal(err)
	}
	for _, scope := range rm.ScopeMetrics {
		all = append(all, scope.Metrics...)
	}
	return all
}

// series is like {callhook.outcome=applied}, without what all of callhook's names begin
// with.
func series(set attribute.Set) string {
	var parts []string
	for _, kv := range set.ToSlice() {
		parts = append(parts, strings.TrimPrefix(string(kv.Key), "callhook.")+"="+kv.Value.String())
	}
	if len(parts) == 0 {
		return ""
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// some returns those of got that are not zero and whose names begin with one of the
// prefixes.
func some(got map[string]float64, prefixes ...string) map[string]float64 {
	out := maps.Clone(got)
	maps.DeleteFunc(out, func(name string, v float64) bool {
		return v == 0 || !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
	})
	return out
}

func parse(t testing.TB, text string) callhook.ConfigSource {
	t.Helper()
	c, err := callhook.ParseConfig([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return callhook.Static(c)
}

// reception looks callers up and tells n8n of their calls.
const reception = `{
	"agent_id": "reception",
	"pre_call": {"url": "https://crm.test/lookup"},
	"post_call": [{"name": "n8n", "url": "https://n8n.test:8443/webhook/calls", "retry": {"initial": "1s"}}]
}`

func inbound(id string) *callhook.Call {
	return &callhook.Call{ID: id, AgentID: "reception", Direction: callhook.Inbound, From: "+442079460123", To: "+442079460999", StartedAt: time.Now()}
}

func ended(id string) *callhook.Call {
	c := inbound(id)
	c.Status, c.EndedAt = callhook.StatusCompleted, time.Now()
	return c
}
