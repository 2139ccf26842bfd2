// Prometheus serves callhook's metrics on /metrics while calls come in: a lookup, a change
// of status and the data of the call for several receivers, some of which fail, all on
// loopback. dashboard.json is a Grafana dashboard for what it serves.
//
//	go run ./otelhook/examples/prometheus
//	go run ./otelhook/examples/prometheus -listen 127.0.0.1:9464 -every 200ms
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/otelhook"
)

// config has a webhook for each thing that a dashboard shows: one that works after a
// failure, one that refuses, one that is gone and one that is paused.
const config = `{
  "agent_id": "reception",
  "pre_call": {"url": "%[1]s/lookup", "timeout": "200ms"},
  "call_status": [{"name": "ops", "url": "%[1]s/status"}],
  "post_call": [
    {"name": "n8n", "url": "%[1]s/flaky", "retry": {"initial": "100ms"}},
    {"name": "archive", "url": "%[1]s/small"},
    {"name": "old", "url": "%[1]s/gone"},
    {"name": "later", "url": "%[1]s/later", "paused": true}
  ]
}`

func main() {
	listen := flag.String("listen", "127.0.0.1:9464", "where /metrics is served")
	every := flag.Duration("every", time.Second, "how often a call comes in")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, *listen, *every, func(url string) {
		fmt.Printf("metrics are at %s, a call comes in every %s; end with ^C\n", url, *every)
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		os.Exit(1)
	}
}

// run has calls come in until ctx ends. It tells where the metrics are.
func run(ctx context.Context, listen string, every time.Duration, told func(url string)) (err error) {
	receivers, err := serve("127.0.0.1:0", new(receivers))
	if err != nil {
		return err
	}
	defer receivers.Close()

	// Metrics go to Prometheus. Another exporter, like OTLP's, is another reader.
	registry := prometheus.NewRegistry()
	reader, err := exporter.New(exporter.WithRegisterer(registry))
	if err != nil {
		return err
	}
	provider := metric.NewMeterProvider(metric.WithReader(reader))
	defer func() { err = errors.Join(err, provider.Shutdown(context.Background())) }()
	telemetry, err := otelhook.New(otelhook.Options{MeterProvider: provider})
	if err != nil {
		return err
	}

	c, err := callhook.ParseConfig(fmt.Appendf(nil, config, receivers.url))
	if err != nil {
		return err
	}
	queue := callhook.NewMemoryQueue(nil)
	defer queue.Close()
	hooks, err := callhook.New(callhook.Options{
		Configs:   callhook.Static(c),
		Queue:     queue,
		AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, // the receivers of this program
		Authorize: telemetry.Authorize(nil),
		Trace:     telemetry.Trace(nil),
	})
	if err != nil {
		return err
	}
	defer hooks.Close()
	registration, err := telemetry.Observe(hooks, queue)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, registration.Unregister()) }()

	web, err := serve(listen, promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	if err != nil {
		return err
	}
	defer web.Close()
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- hooks.Run(running) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()

	told(web.url + "/metrics")
	next := time.NewTicker(every)
	defer next.Stop()
	for n := 1; ; n++ {
		if err := takeCall(ctx, hooks, n); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
		}
	}
}

// takeCall is what a runtime does for one call, the most of which is talk.
func takeCall(ctx context.Context, hooks *callhook.Hooks, n int) error {
	call := &callhook.Call{
		ID: fmt.Sprint("call_", n), AgentID: "reception", Direction: callhook.Inbound,
		From: fmt.Sprintf("+44207946%04d", n%10000), To: "+442079460999", StartedAt: time.Now(),
	}
	hooks.PreCall(ctx, call).Apply(call)
	call.Status, call.StatusAt, call.Sequence = callhook.StatusTransferStarted, time.Now(), 1
	if err := hooks.CallStatus(ctx, call); err != nil {
		return err
	}
	call.Status, call.EndedAt = callhook.StatusCompleted, time.Now()
	if err := hooks.PostCall(ctx, call); err != nil {
		return err
	}
	call.AgentID = "without-webhooks"
	return hooks.PostCall(ctx, call)
}

// receivers are the customer's endpoints.
type receivers struct{ lookups, flaky atomic.Int64 }

func (r *receivers) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	switch req.URL.Path {
	case "/lookup": // each second one is too slow
		if r.lookups.Add(1)%2 == 0 {
			select {
			case <-req.Context().Done():
			case <-time.After(time.Second):
			}
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"variables": {"customer_name": "Ada", "not a name": "dropped"}}`)
	case "/flaky": // each first one fails
		if r.flaky.Add(1)%2 == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	case "/small":
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	case "/gone":
		w.WriteHeader(http.StatusGone)
	}
}

// server is an HTTP server on loopback.
type server struct {
	*http.Server
	url string
}

func serve(address string, handler http.Handler) (*server, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	s := &server{&http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}, "http://" + l.Addr().String()}
	go func() { _ = s.Serve(l) }()
	return s, nil
}
