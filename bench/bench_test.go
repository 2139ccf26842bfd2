package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/google/go-cmp/cmp"
)

// TestMain lets the test's own binary be the child of a measurement.
func TestMain(m *testing.M) {
	if isChild() {
		os.Exit(child())
	}
	os.Exit(m.Run())
}

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// sample is two rows, one of which could not be measured.
func sample() []*row {
	return []*row{{
		kind:      kind{name: "callhook", fsync: "none, in memory", ours: true},
		errs:      map[string]error{},
		enqueue1:  []enqueued{{p50: 7 * time.Microsecond, p99: 58 * time.Microsecond, rate: 109_648}},
		enqueue16: []enqueued{{p50: 6900 * time.Nanosecond, p99: 695 * time.Microsecond, rate: 130_118}},
		endToEnd:  []float64{10_000, 27_500, 31_000},
		stopTime:  []time.Duration{300 * time.Millisecond},
		alone:     []tail{{p99: 607 * time.Microsecond, of: 900}},
		beside:    []tail{{p99: 4400 * time.Microsecond, of: 900}},
		grown:     []held{{bytes: 30 << 20, n: 10_000}}, goroutines: []float64{50},
		kills: []killed{{accepted: 92, lost: 92, limit: time.Second}},
	}, {
		kind:   kind{name: "a peer with a | in it", fsync: "each commit", postgres: true},
		errs:   map[string]error{"throughput": errNoInitdb, "stop": errors.New("dial:\nrefused"), "kill": nil},
		beside: []tail{{p99: 5 * time.Second, missing: 400, of: 900}},
		grown:  []held{{bytes: 1 << 20, n: 10_000}},
		kills:  []killed{{accepted: 500, waiting: 16, limit: 75 * time.Second}, {accepted: 500, again: 1200 * time.Millisecond, limit: 75 * time.Second}},
	}}
}

func TestTables(t *testing.T) {
	var out bytes.Buffer
	writeTable(&out, columns, sample())
	writeBudgets(&out, []budget{
		{"a ratio", "≥ 0.8 ×", "0.90 × (31,962/s and 35,654/s)", verdict(true)},
		{"a thing to come", "≤ 50 µs", "", notBuilt},
	})
	golden(t, "tables.md", out.Bytes())
}

func TestPlot(t *testing.T) {
	var out bytes.Buffer
	if err := plot(&out, bars(sample())); err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(out.Bytes())); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("the plot is no XML: %v", err)
		}
	}
	golden(t, "plot.svg", out.Bytes())
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0", 808: "808 ns", 1500: "1.5 µs", 58 * time.Microsecond: "58 µs", 4400 * time.Microsecond: "4.4 ms",
		300 * time.Millisecond: "300 ms", 1200 * time.Millisecond: "1.2 s", 75 * time.Second: "75 s",
	} {
		if got := short(d); got != want {
			t.Errorf("short(%d) = %q, want %q", d, got, want)
		}
	}
}

func TestMetrics(t *testing.T) {
	got, err := metrics("goos: linux\nBenchmarkSign-2   \t     100\t  4.000 ours-allocs\t  1.050 ratio\nPASS\n")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]float64{"ours-allocs": 4, "ratio": 1.05}, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	if _, err := metrics("PASS\n"); err == nil {
		t.Error("metrics took an output without a benchmark")
	}
}

// TestBodies: what peers are given is what callhook builds, of the size that is told.
func TestBodies(t *testing.T) {
	events := eventsOf(7, 3, 2)
	for i, e := range events {
		if len(e.body) != bodySize || idOf(e.body) != 7+i || e.id != 7+i || e.endpoint != (7+i)%2 {
			t.Errorf("event %d has %d bytes, id %d in its body, id %d, endpoint %d", i, len(e.body), idOf(e.body), e.id, e.endpoint)
		}
	}
	if got := preview(callOf(events[1])); len(got) != bodySize || idOf(got) != events[1].id {
		t.Errorf("callhook's own body has %d bytes and id %d", len(got), idOf(got))
	}
}

// TestEndToEnd: each peer that needs no server delivers 50 events, signed, once at
// least, and ends.
func TestEndToEnd(t *testing.T) {
	r, err := newReceiver()
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	for _, k := range kinds() {
		if k.postgres {
			continue // it would take initdb, which not every machine has
		}
		t.Run(k.key, func(t *testing.T) {
			const n = 50
			target := r.target(k, 1, 0)
			defer target.close()
			p, err := k.open(setup{Dir: t.TempDir(), URLs: target.urls, Limit: n})
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := enqueueAll(t.Context(), p, eventsOf(0, n, 1), 4); err != nil {
				t.Error(err)
			} else if err := target.wait(t.Context(), n, 30*time.Second); err != nil {
				t.Error(err)
			}
			if err := stopSoon(p); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestUnsigned: a peer that did not sign would be found out.
func TestUnsigned(t *testing.T) {
	r, err := newReceiver()
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	k, err := kindOf(barePool)
	if err != nil {
		t.Fatal(err)
	}
	target := r.target(k, 1, 0)
	defer target.close()
	resp, err := http.Post(target.urls[0], "application/json", bytes.NewReader(eventsOf(0, 1, 1)[0].body))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := target.wait(context.Background(), 1, 30*time.Second); !errors.Is(err, callhook.ErrSignatureMissing) {
		t.Errorf("wait returned %v, want %v", err, callhook.ErrSignatureMissing)
	}
}

// engineSample is two rows of the second part, one of which could not be measured.
func engineSample() []*row {
	all := sample()
	all[0].kind.comesAgain, all[1].kind.comesAgain = "Lease 10 s", "AckWait 20 s"
	all[0].delivered = map[int][]shared{1: {{3000, 1}, {4000, 1}, {5000, 1}}, 2: {{8000, 0.4}}}
	all[0].through = map[int][]shared{1: {{2500, 1}}}
	all[0].twice = 3
	all[0].kills = []killed{{accepted: 1000, inFlight: 16, twice: 17, again: 12 * time.Second}}
	all[1].errs[deliveryBy(2)] = errors.New("not all events arrived in time")
	return all
}

func TestEngineTables(t *testing.T) {
	b := &bench{sizes: sizes{processes: []int{1, 2}, pending: 20_000, deadN: 100_000, killN: 1000, dead: 10 * time.Second, grace: 5 * time.Second}}
	var out bytes.Buffer
	b.writeEngines(&out, engineSample())
	golden(t, "engines.md", out.Bytes())
}

// TestEngines: two processes share what is pending on each engine; when one of them is
// killed nothing is lost, and what was in flight is known and still pending.
func TestEngines(t *testing.T) {
	r, err := newReceiver()
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	b := &bench{receiver: r, root: t.TempDir(), sizes: sizes{pending: 400, killN: 400, killLimit: 500 * time.Millisecond, limit: time.Minute}}
	b.cluster, b.clusterErr = startCluster(t.Context(), true)
	if b.clusterErr != nil && !errors.Is(b.clusterErr, errNoInitdb) {
		t.Fatal(b.clusterErr)
	}
	defer b.cluster.stop()
	b.spread = eventsOf(0, b.pending, endpoints)
	rows, err := b.rows(engineKinds())
	if err != nil {
		t.Fatal(err)
	}
	for _, measured := range rows {
		t.Run(measured.kind.key, func(t *testing.T) {
			if measured.kind.postgres && b.clusterErr != nil {
				t.Skip(b.clusterErr)
			}
			if err := b.delivery(t.Context(), measured, 2); err != nil {
				t.Fatal(err)
			}
			if err := b.passThrough(t.Context(), measured, 2); err != nil {
				t.Fatal(err)
			}
			for _, s := range []shared{measured.delivered[2][0], measured.through[2][0]} {
				if s.rate <= 0 || s.least < 0 || s.least > 0.5 {
					t.Errorf("%.1f events a second, of which one process had the share %.2f", s.rate, s.least)
				}
			}
			if err := b.takeover(t.Context(), measured); err != nil {
				t.Fatal(err)
			}
			got := measured.kills[0]
			if got.accepted < b.killN || got.lost != 0 || got.inFlight == 0 || got.waiting < got.inFlight {
				t.Errorf("%d accepted, %d lost, %d in flight, %d pending at the end", got.accepted, got.lost, got.inFlight, got.waiting)
			}
		})
	}
}

// TestKill: what the queue in memory had is lost with its process, and counted.
func TestKill(t *testing.T) {
	r, err := newReceiver()
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	k, err := kindOf(barePool)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{receiver: r, root: t.TempDir(), sizes: sizes{killN: 100, killLimit: time.Second}}
	measured := &row{kind: k}
	if err := b.kill(t.Context(), measured); err != nil {
		t.Fatal(err)
	}
	got := measured.kills[0]
	if got.lost < workers || got.lost > got.accepted || got.inFlight < workers || got.accepted < 50 {
		t.Errorf("lost %d of %d with %d in flight", got.lost, got.accepted, got.inFlight)
	}
}
