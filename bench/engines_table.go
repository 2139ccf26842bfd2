package main

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"time"
)

// enginesText is the document of the second part.
func (b *bench) enginesText(ctx context.Context, rows []*row, took time.Duration) string {
	var w strings.Builder
	b.writeHead(&w, "callhook on engines for several machines", took)
	fmt.Fprintf(&w, "\n%s.\n", strings.Join(b.versions(ctx), ", "))
	fmt.Fprintf(&w, "\nSigned JSON bodies of 2 KB to one receiver on loopback, %d attempts at once in each process that delivers, "+
		"whatever the row: callhook's Options.Concurrency and that of its webhooks, River's MaxWorkers, goroutines that take JetStream's messages. "+
		"Servers and those processes run on this one machine, connected by TCP, and share its CPUs with producers and the receiver.\n", workers)
	b.writeEngines(&w, rows)
	return w.String()
}

// writeEngines writes a table for each thing that is measured.
func (b *bench) writeEngines(w io.Writer, rows []*row) {
	for _, t := range b.engineTables() {
		fmt.Fprintf(w, "\n## %s\n\n%s\n\n", t.title, t.about)
		writeTable(w, t.columns, rows)
	}
}

// engineTable is what one thing came to.
type engineTable struct {
	title, about string
	columns      []column
}

func (b *bench) engineTables() []engineTable {
	fsync := columns[0]
	synced := thousands(float64(b.pending / 4))
	delivery := engineTable{"Delivery", fmt.Sprintf("%s pending over %d endpoints (%s where JetStream syncs each write): delivered in a second, "+
		"from the first that arrived to the last. In brackets: the share of the process that delivered least.", thousands(float64(b.pending)), endpoints, synced), nil}
	through := engineTable{"End to end", "16 producers raise while the processes deliver: events in a second, from the first that was raised " +
		"to the last that arrived.", nil}
	for _, n := range b.processes {
		delivery.columns = append(delivery.columns, column{inProcesses(n), deliveryBy(n), func(r *row) (string, bool) {
			return sharedCell(n, r.delivered[n])
		}})
		through.columns = append(through.columns, column{inProcesses(n), throughBy(n), func(r *row) (string, bool) {
			return sharedCell(n, r.through[n])
		}})
	}
	through.columns = append(through.columns, column{"came twice, here and above", "", func(r *row) (string, bool) {
		return thousands(float64(r.twice)), true
	}})
	return []engineTable{
		{"Enqueue", "Nothing is delivered meanwhile.", []column{fsync,
			{"p50 / p99, 1 producer", "enqueue", func(r *row) (string, bool) { return latencies(r.enqueue1) }},
			{"a second, 1 producer", "enqueue", func(r *row) (string, bool) { return rates(r.enqueue1) }},
			{"p50 / p99, 16 producers", "enqueue", func(r *row) (string, bool) { return latencies(r.enqueue16) }},
			{"a second, 16 producers", "enqueue", func(r *row) (string, bool) { return rates(r.enqueue16) }},
		}},
		delivery,
		through,
		{"A dead endpoint", fmt.Sprintf("1 of %d endpoints takes requests and never answers, and has %s pending when 2 processes begin. "+
			"p99 from raised to received at the others, of 100 events a second for %s and %s more. "+
			"callhook has its defaults here.",
			endpoints, thousands(float64(b.deadN)), b.dead, b.grace), []column{
			{"none dead, none pending", "dead", func(r *row) (string, bool) { return tails(r.alone) }},
			{"one dead", "dead", func(r *row) (string, bool) { return tails(r.beside) }},
		}},
		{"A process is killed", fmt.Sprintf("SIGKILL of one of 2 processes that deliver %s events, each of which takes 100 ms: when the last of what was "+
			"in flight in it had come again. All rounds together, of times the longest.", thousands(float64(b.killN))), []column{
			{"what says when it comes again", "", func(r *row) (string, bool) { return r.kind.comesAgain, true }},
			{"in flight", "kill", func(r *row) (string, bool) {
				return sumOf(r.kills, func(k killed) int { return k.inFlight }), len(r.kills) > 0
			}},
			{"came twice", "kill", func(r *row) (string, bool) {
				return sumOf(r.kills, func(k killed) int { return k.twice }), len(r.kills) > 0
			}},
			{"lost, and when it was back", "kill", func(r *row) (string, bool) { return killCell(r.kills) }},
		}},
	}
}

// inProcesses is the title of a column.
func inProcesses(n int) string {
	if n == 1 {
		return "1 process"
	}
	return fmt.Sprintf("%d processes", n)
}

func sharedCell(processes int, ss []shared) (string, bool) {
	text := thousands(medianOf(ss, func(s shared) float64 { return s.rate }))
	if processes > 1 {
		text += fmt.Sprintf(" (%.0f %%)", 100*medianOf(ss, func(s shared) float64 { return s.least }))
	}
	return text, len(ss) > 0
}

func sumOf(ks []killed, figure func(killed) int) string {
	sum := 0
	for _, k := range ks {
		sum += figure(k)
	}
	return thousands(float64(sum))
}

// versions are those of the servers and their clients.
func (b *bench) versions(ctx context.Context) []string {
	all := []string{natsVersion}
	if b.cluster != nil {
		if v, err := b.cluster.version(ctx); err == nil {
			all = append(all, "Postgres "+v)
		}
	}
	names := map[string]string{"github.com/nats-io/nats.go": "nats.go", "github.com/riverqueue/river": "River", "github.com/jackc/pgx/v5": "pgx"}
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, m := range build.Deps {
			if name := names[m.Path]; name != "" {
				all = append(all, name+" "+strings.TrimPrefix(m.Version, "v"))
			}
		}
	}
	return all
}
