package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// report prints the tables, and writes them where -out says.
func (b *bench) report(rows []*row, budgets []budget, lookups string, took time.Duration) error {
	if err := b.publish("results.md", b.text(rows, budgets, lookups, took)); err != nil || b.out == "" {
		return err
	}
	f, err := os.Create(filepath.Join(b.out, "plot.svg"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := plot(f, bars(rows)); err != nil {
		return err
	}
	return f.Close()
}

// publish prints a document, and writes it to a file where -out says.
func (b *bench) publish(name, text string) error {
	fmt.Print(text)
	if b.out == "" {
		return nil
	}
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.out, name), []byte(text), 0o644)
}

func (b *bench) text(rows []*row, budgets []budget, lookups string, took time.Duration) string {
	var w strings.Builder
	b.writeHead(&w, "callhook beside its peers", took)
	fmt.Fprintf(&w, "\nA signed JSON body of 2 KB to one receiver on loopback, 16 workers each. Memory with %s pending. Dead: %s.\n\n",
		thousands(float64(b.held)), b.dead)
	writeTable(&w, columns, rows)
	w.WriteString("\n## Lookups\n\nA GET whose answer is two variables, before the agent speaks.\n\n")
	w.WriteString(lookups)
	w.WriteString("\n## Budgets\n\n")
	writeBudgets(&w, budgets)
	return w.String()
}

// writeHead says what was run where, and when.
func (b *bench) writeHead(w io.Writer, title string, took time.Duration) {
	fmt.Fprintf(w, "# %s\n\n%s, %s, %s/%s, %d CPUs. Median of %s, %s in all. Writing 4 KB and fsync: %s.\n",
		title, time.Now().UTC().Format("2006-01-02 15:04 UTC"), runtime.Version(), runtime.GOOS, runtime.GOARCH,
		runtime.GOMAXPROCS(0), plural(b.rounds, "round"), took.Round(time.Second), short(b.fsync))
	if b.quick {
		fmt.Fprint(w, "\nThis was a `-quick` run: it shows that everything works. Its figures are not measurements.\n")
	}
}

// column is one of a table.
type column struct {
	title string
	of    string // the measurement, whose failure explains an empty cell
	cell  func(*row) (text string, ok bool)
}

// columns are those of the first table.
var columns = []column{
	{"fsync", "", func(r *row) (string, bool) { return r.kind.fsync, true }},
	{"enqueue p50 / p99, 1 producer", "throughput", func(r *row) (string, bool) { return latencies(r.enqueue1) }},
	{"enqueue/s, 1 producer", "throughput", func(r *row) (string, bool) { return rates(r.enqueue1) }},
	{"enqueue p50 / p99, 16 producers", "throughput", func(r *row) (string, bool) { return latencies(r.enqueue16) }},
	{"enqueue/s, 16 producers", "throughput", func(r *row) (string, bool) { return rates(r.enqueue16) }},
	{"end to end/s", "throughput", func(r *row) (string, bool) {
		return thousands(median(r.endToEnd)), len(r.endToEnd) > 0
	}},
	{"memory", "memory", func(r *row) (string, bool) {
		if len(r.grown) == 0 {
			return "", false
		}
		text := mebibytes(medianOf(r.grown, func(h held) int64 { return h.bytes }))
		if r.kind.postgres {
			text += " (client only)"
		}
		return text, true
	}},
	{"goroutines", "memory", func(r *row) (string, bool) {
		return fmt.Sprintf("%.0f", median(r.goroutines)), len(r.goroutines) > 0
	}},
	{"healthy p99, none dead", "dead", func(r *row) (string, bool) { return tails(r.alone) }},
	{"healthy p99, 1 of 10 dead", "dead", func(r *row) (string, bool) { return tails(r.beside) }},
	{"time to end", "stop", func(r *row) (string, bool) { return short(median(r.stopTime)), len(r.stopTime) > 0 }},
	{"kill -9", "kill", func(r *row) (string, bool) { return killCell(r.kills) }},
}

func writeTable(w io.Writer, columns []column, rows []*row) {
	titles := []string{"peer"}
	for _, c := range columns {
		titles = append(titles, c.title)
	}
	writeRow(w, titles)
	writeRow(w, append([]string{"---"}, strings.Split(strings.Repeat("---:,", len(columns)-1)+"---", ",")...))
	for _, r := range rows {
		cells := []string{r.kind.name}
		for _, c := range columns {
			text, ok := c.cell(r)
			if !ok {
				text = why(r.errs[c.of])
			}
			cells = append(cells, text)
		}
		writeRow(w, cells)
	}
}

func writeBudgets(w io.Writer, budgets []budget) {
	writeRow(w, []string{"budget", "bound", "measured", "verdict"})
	writeRow(w, []string{"---", "---", "---", "---"})
	for _, b := range budgets {
		writeRow(w, []string{b.what, b.bound, b.measured, b.verdict})
	}
}

var cellEscaper = strings.NewReplacer("|", "\\|", "\n", " ")

func writeRow(w io.Writer, cells []string) {
	for _, c := range cells {
		fmt.Fprintf(w, "| %s ", cellEscaper.Replace(c))
	}
	fmt.Fprintln(w, "|")
}

// why there is no figure, shortly.
func why(err error) string {
	switch {
	case err == nil:
		return "not measured"
	case errors.Is(err, errNoInitdb):
		return errNoInitdb.Error()
	}
	text := strings.Join(strings.Fields(err.Error()), " ")
	if len(text) > 80 {
		text = strings.ToValidUTF8(text[:77], "") + "..."
	}
	return "failed: " + text
}

func latencies(es []enqueued) (string, bool) {
	return short(medianOf(es, func(e enqueued) time.Duration { return e.p50 })) + " / " +
		short(medianOf(es, func(e enqueued) time.Duration { return e.p99 })), len(es) > 0
}

func rates(es []enqueued) (string, bool) {
	return thousands(medianOf(es, func(e enqueued) float64 { return e.rate })), len(es) > 0
}

func tails(ts []tail) (string, bool) {
	if len(ts) == 0 {
		return "", false
	}
	text := short(medianOf(ts, func(t tail) time.Duration { return t.p99 }))
	missing, of := 0, 0
	for _, t := range ts {
		missing, of = missing+t.missing, of+t.of
	}
	if missing > 0 {
		text = fmt.Sprintf("≥ %s, %d of %d not in", text, missing, of)
	}
	return text, true
}

// killCell shows the sum of what was lost and the longest time.
func killCell(ks []killed) (string, bool) {
	var sum killed
	for _, k := range ks {
		sum.accepted += k.accepted
		sum.lost += k.lost
		sum.waiting += k.waiting
		sum.again, sum.limit = max(sum.again, k.again), max(sum.limit, k.limit)
	}
	text := fmt.Sprintf("%d of %d lost", sum.lost, sum.accepted)
	switch {
	case sum.waiting > 0:
		text += fmt.Sprintf(", %d still waited after %s", sum.waiting, short(sum.limit))
	case sum.lost == 0:
		text += ", back after " + short(sum.again)
	}
	return text, len(ks) > 0
}

// short writes a duration with two or three digits.
func short(d time.Duration) string {
	switch {
	case d <= 0:
		return "0"
	case d < time.Microsecond:
		return fmt.Sprintf("%d ns", d.Nanoseconds())
	case d < time.Millisecond:
		return fmt.Sprintf("%.*f µs", decimals(float64(d)/1e3), float64(d)/1e3)
	case d < time.Second:
		return fmt.Sprintf("%.*f ms", decimals(float64(d)/1e6), float64(d)/1e6)
	}
	return fmt.Sprintf("%.*f s", decimals(d.Seconds()), d.Seconds())
}

func decimals(v float64) int {
	if v < 10 {
		return 1
	}
	return 0
}

// thousands writes a number with commas.
func thousands(v float64) string {
	digits := fmt.Sprintf("%.0f", v)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
