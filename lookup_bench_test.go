package callhook_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
)

// BenchmarkPreCallOpen: a lookup while the endpoint is known to be down. Budget: at
// most 50 µs.
func BenchmarkPreCallOpen(b *testing.B) {
	crm := httptest.NewServer(status(http.StatusInternalServerError))
	defer crm.Close()
	config := &callhook.Config{AgentID: "reception", PreCall: &callhook.PreCallWebhook{Endpoint: callhook.Endpoint{URL: crm.URL, Secrets: []string{secret}}}}
	hooks, err := callhook.New(callhook.Options{Configs: callhook.Static(config), AllowNets: loopback})
	if err != nil {
		b.Fatal(err)
	}
	defer hooks.Close()
	call := inbound()
	for hooks.PreCall(context.Background(), call).Outcome != callhook.OutcomeOpen {
	}
	b.ReportAllocs()
	var took []time.Duration
	for b.Loop() {
		if res := hooks.PreCall(context.Background(), call); res.Outcome == callhook.OutcomeOpen { // else it was a probe
			took = append(took, res.Elapsed)
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "p99-µs")
}

// BenchmarkHedge: one reply in twenty takes 200 ms, the others 2 ms, and a second
// request goes out after 10 ms. Budget: p99 at most 1.5 times the 12 ms that this
// takes at best.
func BenchmarkHedge(b *testing.B) {
	const fast, slow, hedgeAfter = 2 * time.Millisecond, 200 * time.Millisecond, 10 * time.Millisecond
	var n atomic.Int64
	crm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		takes := fast
		if n.Add(1)%20 == 0 {
			takes = slow
		}
		select {
		case <-time.After(takes):
			_, _ = io.WriteString(w, `{"variables":{"customer_name":"Ada"}}`)
		case <-r.Context().Done():
		}
	}))
	defer crm.Close()
	for _, bench := range []struct {
		name  string
		after time.Duration
	}{{"hedged", hedgeAfter}, {"plain", 0}} {
		b.Run(bench.name, func(b *testing.B) {
			config := &callhook.Config{AgentID: "reception", PreCall: &callhook.PreCallWebhook{
				Endpoint: callhook.Endpoint{URL: crm.URL}, Idempotent: true, HedgeAfter: callhook.Duration(bench.after)}}
			hooks, err := callhook.New(callhook.Options{Configs: callhook.Static(config), AllowNets: loopback})
			if err != nil {
				b.Fatal(err)
			}
			defer hooks.Close()
			var took []time.Duration
			hedges := 0
			for b.Loop() {
				res := hooks.PreCall(context.Background(), inbound())
				if res.Outcome != callhook.OutcomeApplied {
					b.Fatal(res)
				}
				took = append(took, res.Elapsed)
				hedges += res.Hedges
			}
			slices.Sort(took)
			p99 := took[len(took)*99/100]
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(p99.Microseconds())/1000, "p99-ms")
			b.ReportMetric(float64(p99)/float64(hedgeAfter+fast), "ratio")
			b.ReportMetric(float64(hedges)/float64(len(took)), "hedges/op")
			b.ReportMetric(0, "ns/op")
		})
	}
}
