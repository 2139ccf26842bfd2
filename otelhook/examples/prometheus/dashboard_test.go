package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metricsql"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// TestDashboard: every query of the dashboard can be parsed and asks for metrics, labels
// and values of labels that the program serves; and every metric of callhook's is shown.
func TestDashboard(t *testing.T) {
	queries := expressions(t)
	if len(queries) < 15 {
		t.Fatalf("the dashboard has %d queries", len(queries))
	}
	ctx, stop := context.WithCancel(t.Context())
	told, ended := make(chan string, 1), make(chan error, 1)
	go func() { ended <- run(ctx, "127.0.0.1:0", 20*time.Millisecond, func(url string) { told <- url }) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	var url string
	select {
	case url = <-told:
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}
	var faults []string
	for deadline := time.Now().Add(20 * time.Second); ; { // until everything has happened once
		if faults = compare(queries, scrape(t, url)); len(faults) == 0 || time.Now().After(deadline) {
			break
		}
		<-time.After(50 * time.Millisecond)
	}
	for _, f := range faults {
		t.Error(f)
	}
}

// compare returns what is wrong with the dashboard.
func compare(queries []string, served metrics) (faults []string) {
	shown := map[string]bool{}
	for _, query := range queries {
		names, wrong := examine(query, served)
		for _, w := range wrong {
			faults = append(faults, query+": "+w)
		}
		for _, name := range names {
			shown[name] = true
		}
	}
	for name := range served {
		// Of a histogram one series will do.
		family := regexp.MustCompile("_(bucket|sum|count)$").ReplaceAllString(name, "")
		if strings.HasPrefix(name, "callhook_") && !shown[name] && !shown[family+"_bucket"] {
			faults = append(faults, "no panel shows "+name)
		}
	}
	return faults
}

// TestCheck: the test above can fail.
func TestCheck(t *testing.T) {
	served := metrics{"m_total": {"a": {"x": true}}}
	for query, want := range map[string]string{
		`sum by (a) (rate(m_total{a="x"}[5m]))`: "",
		`sum(rate(n_total[5m]))`:                "no metric n_total",
		`sum by (b) (m_total)`:                  "no label b",
		`m_total{b="x"}`:                        "no label b",
		`m_total{a="y"}`:                        `a is never "y"`,
		`m_total{a=~"y|z"}`:                     `a is never "y|z"`,
		`sum(m_total`:                           "cannot be parsed",
	} {
		_, faults := examine(query, served)
		if got := strings.Join(faults, "; "); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
}

// metrics are names of series, as queries have them, with the labels of each and their
// values.
type metrics map[string]map[string]map[string]bool

// examine returns the metrics that a query asks for, and what is wrong with it.
func examine(query string, served metrics) (names, faults []string) {
	expr, err := metricsql.Parse(strings.ReplaceAll(query, "$__rate_interval", "5m"))
	if err != nil {
		return nil, []string{"it cannot be parsed: " + err.Error()}
	}
	var grouped []string
	labels := map[string]bool{}
	metricsql.VisitAll(expr, func(e metricsql.Expr) {
		switch e := e.(type) {
		case *metricsql.ModifierExpr:
			grouped = append(grouped, e.Args...)
		case *metricsql.MetricExpr:
			for _, filters := range e.LabelFilterss {
				name := filters[0].Value
				names = append(names, name)
				has := served[name]
				if has == nil {
					faults = append(faults, "there is no metric "+name)
					continue
				}
				for l := range has {
					labels[l] = true
				}
				for _, f := range filters[1:] {
					values := has[f.Label]
					switch {
					case values == nil:
						faults = append(faults, name+" has no label "+f.Label)
					case !f.IsNegative && !matches(f, values):
						faults = append(faults, name+": "+f.Label+` is never "`+f.Value+`"`)
					}
				}
			}
		}
	})
	for _, l := range grouped {
		if !labels[l] {
			faults = append(faults, "there is no label "+l)
		}
	}
	return names, faults
}

func matches(f metricsql.LabelFilter, values map[string]bool) bool {
	if !f.IsRegexp {
		return values[f.Value]
	}
	re := regexp.MustCompile("^(?:" + f.Value + ")$")
	for v := range values {
		if re.MatchString(v) {
			return true
		}
	}
	return false
}

// expressions returns every query of the dashboard, wherever it stands.
func expressions(t *testing.T) (all []string) {
	t.Helper()
	text, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard any
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, member := range v {
				if query, ok := member.(string); ok && key == "expr" {
					all = append(all, query)
					continue
				}
				walk(member)
			}
		case []any:
			for _, member := range v {
				walk(member)
			}
		}
	}
	walk(dashboard)
	return all
}

// scrape reads what is served.
func scrape(t *testing.T, url string) metrics {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	served := metrics{}
	for name, f := range families {
		names := []string{name}
		if f.GetType() == dto.MetricType_HISTOGRAM {
			names = []string{name + "_bucket", name + "_sum", name + "_count"}
		}
		for _, name := range names {
			labels := map[string]map[string]bool{}
			add := func(label, value string) {
				if labels[label] == nil {
					labels[label] = map[string]bool{}
				}
				labels[label][value] = true
			}
			for _, m := range f.Metric {
				for _, l := range m.Label {
					add(l.GetName(), l.GetValue())
				}
			}
			if strings.HasSuffix(name, "_bucket") {
				add("le", "+Inf")
			}
			served[name] = labels
		}
	}
	return served
}
