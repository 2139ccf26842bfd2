package otelhook_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/otelhook"
)

// TestLane: what waits for an endpoint that is down can be seen while it is, and that it
// goes on.
func TestLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, otelhook.Options{})
		n8n := callhooktest.NewEndpoint(t, callhooktest.Reply(500, ""))
		h := w.hooks(t, callhook.Options{Configs: parse(t, reception)}, callhooktest.Network{"n8n.test": n8n})
		for i := range 10 {
			if err := h.PostCall(t.Context(), ended(fmt.Sprint("c", i))); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		down := map[string]float64{
			"callhook.lanes{lane.state=down}":                   1,
			"callhook.lane.changes{lane.state=down}":            1,
			"callhook.queue.deliveries{delivery.state=pending}": 10,
			"callhook.queue.oldest.age":                         60,
		}
		if diff := gocmp.Diff(down, some(w.metrics(t), "callhook.lane", "callhook.queue")); diff != "" {
			t.Errorf("down (-want +got):\n%s", diff)
		}
		if _, told := w.metrics(t)["callhook.lanes{lane.state=gone}"]; !told {
			t.Error("nothing says that no lane is gone")
		}
		n8n.Then(callhooktest.Reply(200, ""))
		h.Delivered(t, 10)
		synctest.Wait()
		if diff := gocmp.Diff(map[string]float64{
			"callhook.lane.changes{lane.state=down}":              1,
			"callhook.lane.changes{lane.state=up}":                1,
			"callhook.queue.deliveries{delivery.state=delivered}": 10,
		}, some(w.metrics(t), "callhook.lane", "callhook.queue")); diff != "" {
			t.Errorf("up (-want +got):\n%s", diff)
		}
	})
}

// TestSkipped: events and variables that were dropped are counted, by reason.
func TestSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, otelhook.Options{})
		crm := callhooktest.NewEndpoint(t, callhooktest.Reply(200, `{"variables":{"bad name":1,"call":2,"ok":3}}`))
		h := w.hooks(t, callhook.Options{Configs: parse(t, reception)}, callhooktest.Network{"crm.test": crm})
		h.PreCall(t.Context(), inbound("c"))
		stranger := ended("c")
		stranger.AgentID = "nobody"
		if err := h.PostCall(t.Context(), stranger); err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(map[string]float64{
			"callhook.events.skipped{reason=no_config}":        1,
			"callhook.variables.dropped{reason=invalid_name}":  1,
			"callhook.variables.dropped{reason=reserved_name}": 1,
		}, some(w.metrics(t), "callhook.events", "callhook.variables")); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestLabels: metrics have the host's labels, no more than it allows, and what is in the
// queue is told by them too.
func TestLabels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, otelhook.Options{Labels: otelhook.PerTenant, MaxLabels: 3})
		var configs []*callhook.Config
		const tenants = 50
		for i := range tenants {
			c, err := callhook.ParseConfig(fmt.Appendf(nil, `{"tenant_id": "t%02d", "agent_id": "reception",
				"pre_call": {"url": "https://crm.test/"}, "post_call": [{"name": "w", "url": "https://n8n.test/"}]}`, i))
			if err != nil {
				t.Fatal(err)
			}
			configs = append(configs, c)
		}
		h := w.hooks(t, callhook.Options{Configs: callhook.Static(configs...)},
			callhooktest.Network{"crm.test": callhooktest.NewEndpoint(t), "n8n.test": callhooktest.NewEndpoint(t, callhooktest.Reply(500, ""))})
		for i := range tenants {
			call := ended("c")
			call.TenantID = fmt.Sprintf("t%02d", i)
			h.PreCall(t.Context(), call)
			if err := h.PostCall(t.Context(), call); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		got := w.metrics(t)
		for name, want := range map[string]float64{
			"callhook.lookups{outcome=empty,tenant.id=t00}":                              1,
			"callhook.lookups{outcome=empty,tenant.id=t02}":                              1,
			"callhook.lookups{outcome=empty,tenant.id=other}":                            tenants - 3,
			"callhook.attempts{status_class=5xx,tenant.id=t01,webhook.type=post_call}":   1,
			"callhook.attempts{status_class=5xx,tenant.id=other,webhook.type=post_call}": tenants - 3,
			"callhook.queue.deliveries{delivery.state=pending,tenant.id=t01}":            1,
			"callhook.queue.deliveries{delivery.state=pending,tenant.id=other}":          tenants - 3,
			"callhook.enqueued{tenant.id=other,webhook.type=post_call}":                  tenants - 3,
		} {
			if got[name] != want {
				t.Errorf("%s is %v, want %v", name, got[name], want)
			}
		}
		labels := map[string]bool{}
		for name := range got {
			if _, rest, ok := strings.Cut(name, "tenant.id="); ok {
				labels[strings.FieldsFunc(rest, func(r rune) bool { return r == ',' || r == '}' })[0]] = true
			}
		}
		if diff := gocmp.Diff(map[string]bool{"t00": true, "t01": true, "t02": true, "other": true}, labels); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestNoLabels: without Labels the number of series does not grow with tenants, agents,
// webhooks and calls.
func TestNoLabels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, otelhook.Options{})
		var configs []*callhook.Config
		for i := range 20 {
			c, err := callhook.ParseConfig(fmt.Appendf(nil, `{"tenant_id": "t%d", "agent_id": "a%d", "pre_call": {"url": "https://crm.test/"},
				"post_call": [{"name": "w%d", "url": "https://n8n.test/"}]}`, i, i, i))
			if err != nil {
				t.Fatal(err)
			}
			configs = append(configs, c)
		}
		h := w.hooks(t, callhook.Options{Configs: callhook.Static(configs...)},
			callhooktest.Network{"crm.test": callhooktest.NewEndpoint(t), "n8n.test": callhooktest.NewEndpoint(t)})
		counts := []int{}
		for i := range 20 {
			call := ended(fmt.Sprint("c", i))
			call.TenantID, call.AgentID = fmt.Sprint("t", i), fmt.Sprint("a", i)
			h.PreCall(t.Context(), call)
			if err := h.PostCall(t.Context(), call); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			counts = append(counts, len(w.metrics(t)))
		}
		if counts[0] != counts[19] || counts[0] == 0 {
			t.Errorf("series after each call: %v", counts)
		}
	})
}

// TestOwnQueue: of the queue that New has made the counts are known.
func TestOwnQueue(t *testing.T) {
	w := watch(t, otelhook.Options{})
	h, err := callhook.New(callhook.Options{Configs: parse(t, reception), Trace: w.Trace(nil)})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	registration, err := w.Observe(h, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.PostCall(t.Context(), ended("c")); err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(map[string]float64{"callhook.queue.deliveries{delivery.state=pending}": 1}, some(w.metrics(t), "callhook.queue")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := registration.Unregister(); err != nil {
		t.Fatal(err)
	}
	if got := some(w.metrics(t), "callhook.queue"); len(got) > 0 {
		t.Errorf("after Unregister there is %v", got)
	}
}

// TestClosedQueue: a queue that cannot count is an error of the collection, and the rest
// is told.
func TestClosedQueue(t *testing.T) {
	w := watch(t, otelhook.Options{})
	h := w.hooks(t, callhook.Options{Configs: parse(t, reception), Queue: uncounted{callhook.NewMemoryQueue(nil)}}, nil)
	stranger := ended("c")
	stranger.AgentID = "nobody"
	if err := h.PostCall(t.Context(), stranger); err != nil {
		t.Fatal(err)
	}
	var rm metricdata.ResourceMetrics
	if err := w.reader.Collect(t.Context(), &rm); err == nil || !strings.Contains(err.Error(), "otelhook: the queue's lanes could not be counted: the disk is gone") {
		t.Errorf("the error is %v", err)
	}
	names := map[string]bool{}
	for _, m := range rm.ScopeMetrics[0].Metrics {
		names[m.Name] = true
	}
	if !names["callhook.events.skipped"] || names["callhook.queue.deliveries"] {
		t.Errorf("told: %v", names)
	}
}

type uncounted struct{ *callhook.MemoryQueue }

func (uncounted) Lanes(context.Context, callhook.Filter) ([]callhook.LaneCounts, error) {
	return nil, errors.New("the disk is gone")
}

// TestDocumented: the package comment names every metric with its unit, and no other.
func TestDocumented(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, otelhook.Options{})
		h := w.hooks(t, callhook.Options{Configs: parse(t, reception)}, callhooktest.Network{
			"crm.test": callhooktest.NewEndpoint(t, callhooktest.Reply(200, `{"variables":{"bad name":1}}`)),
			"n8n.test": callhooktest.NewEndpoint(t, callhooktest.Reply(410, ""), callhooktest.Reply(200, "")),
		})
		h.PreCall(t.Context(), inbound("c"))
		for _, agent := range []string{"reception", "nobody"} {
			call := ended("c")
			call.AgentID = agent
			if err := h.PostCall(t.Context(), call); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if _, err := h.Resume(t.Context(), callhook.LaneRef{Agent: "reception", Webhook: "n8n"}); err != nil {
			t.Fatal(err)
		}
		h.Delivered(t, 1)
		synctest.Wait()
		got := map[string]string{}
		for _, m := range w.collect(t) {
			got[m.Name] = m.Unit
			if m.Description == "" {
				t.Errorf("%s has no description", m.Name)
			}
		}
		doc, err := os.ReadFile("doc.go")
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{}
		for _, m := range regexp.MustCompile(`(?m)^//\t(callhook\.\S+) +(\{\w+\}|s)(?: |$)`).FindAllStringSubmatch(string(doc), -1) {
			want[m[1]] = m[2]
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("doc.go and the metrics (-want +got):\n%s", diff)
		}
	})
}
