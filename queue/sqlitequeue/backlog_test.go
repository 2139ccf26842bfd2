package sqlitequeue_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// backlog is how many deliveries BenchmarkBacklog has pending, unless the
// environment says otherwise: a million takes minutes to enqueue.
func backlog(t testing.TB) int {
	text := os.Getenv("CALLHOOK_BACKLOG")
	if text == "" {
		return 100_000
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// fill makes a queue with n deliveries pending in so many lanes.
func fill(t testing.TB, path string, n, lanes int) {
	t.Helper()
	q, err := sqlitequeue.Open(path, &sqlitequeue.Options{Unsynced: true})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	for i := 0; i < n; {
		var ds []*callhook.Delivery
		for ; i < n && len(ds) < 500; i++ {
			ds = append(ds, event(i%lanes))
		}
		if err := q.Enqueue(t.Context(), ds...); err != nil {
			t.Fatal(err)
		}
	}
}

// anonymous is the memory of the process that is in no file, in MiB; zero where
// that cannot be known.
func anonymous() float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			n, _ := strconv.Atoi(strings.Fields(rest)[0])
			return float64(n) / 1024
		}
	}
	return 0
}

// BenchmarkBacklog opens a queue with many pending, and measures how long that
// takes, how long the first delivery, which memory it needs, and how many go
// through it a second when each that comes in has the oldest of its lane go out.
func BenchmarkBacklog(b *testing.B) {
	for _, lanes := range []int{1, 1000, 10_000} {
		for _, pending := range []int{0, backlog(b)} {
			b.Run(fmt.Sprintf("pending=%d/lanes=%d", pending, lanes), func(b *testing.B) {
				benchmarkBacklog(b, pending, lanes)
			})
		}
	}
}

func benchmarkBacklog(b *testing.B, pending, lanes int) {
	path := filepath.Join(b.TempDir(), "queue.db")
	fill(b, path, pending, lanes)
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	debug.FreeOSMemory()
	before := anonymous()
	start := time.Now()
	q, err := sqlitequeue.Open(path, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer q.Close()
	opened := time.Since(start)
	first := make(chan time.Time, 1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	settled := make(chan struct{}, 1<<20)
	go func() {
		done <- q.Consume(ctx, func(_ context.Context, d *callhook.Delivery) callhook.Verdict {
			select {
			case first <- time.Now():
			default:
			}
			return callhook.Delivered().Then(func() { settled <- struct{}{} })
		})
	}()
	n, err := q.Release(ctx, "", 1) // as Run begins
	if err != nil {
		b.Fatal(err)
	}
	for range n {
		<-settled
	}
	peak := 0.0
	b.ResetTimer()
	go produce(b, q, b.N, 16, lanes, func(d *callhook.Delivery) {
		if pending == 0 {
			return
		}
		if n, err := q.Release(ctx, d.Lane, 1); n != 1 || err != nil {
			b.Errorf("Release: %d, %v", n, err)
		}
	})
	for i := range b.N {
		<-settled
		if i%1000 == 0 {
			peak = max(peak, anonymous()-before)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(peak, "anon-MiB")
	if pending > 0 {
		b.ReportMetric(float64(opened.Milliseconds()), "open-ms")
		b.ReportMetric(float64((<-first).Sub(start).Milliseconds()), "first-ms")
		b.ReportMetric(float64(info.Size())/float64(pending), "disk-B/delivery")
	}
	start = time.Now()
	if _, err := q.Counts(ctx); err != nil {
		b.Fatal(err)
	}
	if _, err := q.Lanes(ctx, callhook.Filter{}); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(time.Since(start).Milliseconds()), "counts-ms")
	cancel()
	if err := <-done; err != nil {
		b.Error(err)
	}
}
