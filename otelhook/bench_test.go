package otelhook_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/otelhook"
	"go.opentelemetry.io/otel/sdk/metric"
	sdk "go.opentelemetry.io/otel/sdk/trace"
)

// BenchmarkLookup and BenchmarkDelivery: a lookup, and an event until it has arrived, over
// loopback: with telemetry beside without, medians of rounds that alternate. "sampled" is an
// SDK that keeps every span until it is exported to nowhere, "unsampled" one that keeps
// none, "none" no SDK at all.
func BenchmarkLookup(b *testing.B) {
	benchmark(b, `{"agent_id": "reception", "pre_call": {"url": %q}}`, func(b *testing.B, h *hooks, n int) {
		if res := h.PreCall(b.Context(), inbound("c")); res.Outcome != callhook.OutcomeApplied {
			b.Fatal(res)
		}
	})
}

func BenchmarkDelivery(b *testing.B) {
	benchmark(b, `{"agent_id": "reception", "post_call": [{"name": "n8n", "url": %q}]}`, func(b *testing.B, h *hooks, n int) {
		if err := h.PostCall(b.Context(), ended(fmt.Sprint("c", n))); err != nil {
			b.Fatal(err)
		}
		<-h.delivered
	})
}

type hooks struct {
	*callhook.Hooks
	delivered chan bool
}

func benchmark(b *testing.B, config string, one func(*testing.B, *hooks, int)) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"variables":{"customer_name":"Ada"}}`)
	}))
	defer server.Close()
	for _, bench := range []struct {
		name    string
		options otelhook.Options
	}{
		{"sampled", otelhook.Options{
			TracerProvider: sdk.NewTracerProvider(sdk.WithBatcher(nowhere{})),
			MeterProvider:  metric.NewMeterProvider(metric.WithReader(metric.NewManualReader())),
		}},
		{"unsampled", otelhook.Options{
			TracerProvider: sdk.NewTracerProvider(sdk.WithBatcher(nowhere{}), sdk.WithSampler(sdk.NeverSample())),
			MeterProvider:  metric.NewMeterProvider(metric.WithReader(metric.NewManualReader())),
		}},
		{"none", otelhook.Options{}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			bench.options.Inject = func(callhook.AuthorizeRef) bool { return true }
			telemetry, err := otelhook.New(bench.options)
			if err != nil {
				b.Fatal(err)
			}
			start := func(telemetry *otelhook.Telemetry) *hooks {
				h := &hooks{delivered: make(chan bool, 1)}
				o := callhook.Options{
					Configs:   parse(b, fmt.Sprintf(config, server.URL)),
					AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
					Trace:     &callhook.Trace{Delivered: func(context.Context, *callhook.Delivery) { h.delivered <- true }},
				}
				if telemetry != nil {
					o.Trace, o.Authorize = telemetry.Trace(o.Trace), telemetry.Authorize(nil)
				}
				if h.Hooks, err = callhook.New(o); err != nil {
					b.Fatal(err)
				}
				ctx, stop := context.WithCancel(context.Background())
				ended := make(chan error, 1)
				go func() { ended <- h.Run(ctx) }()
				b.Cleanup(func() {
					stop()
					if err := <-ended; err != nil {
						b.Error(err)
					}
					_ = h.Close()
				})
				return h
			}
			with, without := start(telemetry), start(nil)
			n := 0
			timed := func(h *hooks) time.Duration {
				const batch = 20
				begun := time.Now()
				for range batch {
					n++
					one(b, h, n)
				}
				return time.Since(begun) / batch
			}
			var ours, bare []time.Duration
			for b.Loop() {
				ours = append(ours, timed(with))
				bare = append(bare, timed(without))
			}
			slices.Sort(ours)
			slices.Sort(bare)
			a, z := ours[len(ours)/2], bare[len(bare)/2]
			b.ReportMetric(float64(a.Nanoseconds()), "with-ns")
			b.ReportMetric(float64(z.Nanoseconds()), "without-ns")
			b.ReportMetric(float64(a)/float64(z), "ratio")
			b.ReportMetric(testing.AllocsPerRun(100, func() { n++; one(b, with, n) })-testing.AllocsPerRun(100, func() { n++; one(b, without, n) }), "more-allocs")
			b.ReportMetric(0, "ns/op") // of both together: says nothing
		})
	}
}

// nowhere is an exporter that drops what it gets.
type nowhere struct{}

func (nowhere) ExportSpans(context.Context, []sdk.ReadOnlySpan) error { return nil }
func (nowhere) Shutdown(context.Context) error                        { return nil }
