package otelhook_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/otelhook"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// A call, its lookup and the delivery of its data are one trace. The CRM is the host's
// own, so it is told of the trace.
func Example() {
	crm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.URL.Path, "is told of the trace:", r.Header.Get("Traceparent") != "")
		_, _ = io.WriteString(w, `{"variables":{"customer_name":"Ada"}}`)
	}))
	defer crm.Close()
	config, err := callhook.ParseConfig(fmt.Appendf(nil, `{
		"agent_id": "reception",
		"pre_call": {"url": "%[1]s/lookup"},
		"post_call": [{"name": "crm", "url": "%[1]s/calls"}]
	}`, crm.URL))
	if err != nil {
		log.Fatal(err)
	}
	spans := tracetest.NewInMemoryExporter() // OTLP in a real program
	traces := sdk.NewTracerProvider(sdk.WithSyncer(spans))

	telemetry, err := otelhook.New(otelhook.Options{
		TracerProvider: traces,
		Inject:         func(ref callhook.AuthorizeRef) bool { return ref.Origin == crm.URL },
	})
	if err != nil {
		log.Fatal(err)
	}
	delivered := make(chan bool)
	hooks, err := callhook.New(callhook.Options{
		Configs:   callhook.Static(config),
		AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Trace: telemetry.Trace(&callhook.Trace{
			Delivered: func(context.Context, *callhook.Delivery) { delivered <- true },
		}),
		Authorize: telemetry.Authorize(nil),
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- hooks.Run(ctx) }()

	call := &callhook.Call{ID: "call_1", AgentID: "reception", Direction: callhook.Inbound, From: "+442079460123"}
	during, span := traces.Tracer("runtime").Start(ctx, "call")
	hooks.PreCall(during, call).Apply(call)
	call.Status, call.EndedAt = callhook.StatusCompleted, time.Now()
	if err := hooks.PostCall(during, call); err != nil {
		log.Fatal(err)
	}
	span.End()
	<-delivered
	stop()
	if err := <-ended; err != nil {
		log.Fatal(err)
	}
	fmt.Print(draw(spans.GetSpans(), []attribute.Key{"callhook.outcome", "http.response.status_code"}), hooks.Close())

	// Output:
	// /lookup is told of the trace: true
	// /calls is told of the trace: true
	// call internal
	//   callhook.pre_call client callhook.outcome=applied http.response.status_code=200
	//   callhook.enqueue producer
	//     callhook.attempt client http.response.status_code=200
	// <nil>
}

// What waits in the queue, and for how long, is read when metrics are collected.
func ExampleTelemetry_Observe() {
	reader := metric.NewManualReader() // Prometheus or OTLP in a real program
	telemetry, err := otelhook.New(otelhook.Options{
		MeterProvider: metric.NewMeterProvider(metric.WithReader(reader)),
		Labels:        otelhook.PerTenant, // of at most 100 tenants, the others are "other"
	})
	if err != nil {
		log.Fatal(err)
	}
	queue := callhook.NewMemoryQueue(nil)
	defer queue.Close()
	hooks, err := callhook.New(callhook.Options{
		Configs: callhook.Static(&callhook.Config{TenantID: "acme", AgentID: "reception", PostCall: []callhook.PostCallWebhook{
			{Endpoint: callhook.Endpoint{Name: "n8n", URL: "https://n8n.example.com/webhook/calls"}},
		}}),
		Queue:     queue,
		Trace:     telemetry.Trace(nil),
		Authorize: telemetry.Authorize(nil),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer hooks.Close()
	registration, err := telemetry.Observe(hooks, queue)
	if err != nil {
		log.Fatal(err)
	}
	defer registration.Unregister()

	call := &callhook.Call{ID: "call_1", TenantID: "acme", AgentID: "reception", Status: callhook.StatusCompleted, EndedAt: time.Now()}
	if err := hooks.PostCall(context.Background(), call); err != nil { // nobody runs the hooks: it waits
		log.Fatal(err)
	}
	var now metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &now); err != nil {
		log.Fatal(err)
	}
	for _, m := range now.ScopeMetrics[0].Metrics {
		if sum, ok := m.Data.(metricdata.Sum[int64]); ok && strings.HasPrefix(m.Name, "callhook.queue.") {
			for _, p := range sum.DataPoints {
				if p.Value > 0 {
					fmt.Println(m.Name, series(p.Attributes), p.Value)
				}
			}
		}
	}

	// Output:
	// callhook.queue.deliveries {delivery.state=pending,tenant.id=acme} 1
}
