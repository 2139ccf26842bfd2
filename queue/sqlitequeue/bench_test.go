package sqlitequeue_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// event returns a delivery of a call of its own, as a runtime raises it: random
// names, and a body of 2 KB.
func event(lane int) *callhook.Delivery {
	var b [32]byte
	_, _ = rand.Read(b[:])
	now := time.Now()
	return &callhook.Delivery{
		ID: "msg_" + hex.EncodeToString(b[:13]), Tenant: "acme", Agent: "bot", Webhook: fmt.Sprint("hook", lane), Lane: fmt.Sprint("acme/bot/hook", lane),
		Type: callhook.TypePostCall, Event: callhook.EventEnded, Call: hex.EncodeToString(b[16:]), At: now, EnqueuedAt: now, Body: body,
	}
}

var body = func() []byte {
	b := make([]byte, 1024)
	_, _ = rand.Read(b)
	return []byte(hex.EncodeToString(b))
}()

func open(t testing.TB, o *sqlitequeue.Options) *sqlitequeue.Queue {
	t.Helper()
	q, err := sqlitequeue.Open(filepath.Join(t.TempDir(), "queue.db"), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	return q
}

// produce enqueues n deliveries from so many goroutines, and has them do what
// follows each.
func produce(b testing.TB, q callhook.Queue, n, producers, lanes int, then ...func(*callhook.Delivery)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range producers {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(n) {
					return
				}
				d := event(int(i) % lanes)
				if err := q.Enqueue(context.Background(), d); err != nil {
					b.Error(err)
					return
				}
				for _, f := range then {
					f(d)
				}
			}
		})
	}
	wg.Wait()
}

func benchmarkEnqueue(b *testing.B, producers int) {
	q := open(b, nil)
	b.ReportAllocs()
	b.ResetTimer()
	produce(b, q, b.N, producers, 10)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkEnqueue1(b *testing.B)  { benchmarkEnqueue(b, 1) }
func BenchmarkEnqueue16(b *testing.B) { benchmarkEnqueue(b, 16) }

// BenchmarkEndToEnd is the queue alone: enqueued by 16 producers, handed out,
// settled. What stays of each in the file is its ID and what it belongs to.
func BenchmarkEndToEnd(b *testing.B) {
	path := filepath.Join(b.TempDir(), "queue.db")
	q, err := sqlitequeue.Open(path, nil)
	if err != nil {
		b.Fatal(err)
	}
	endToEnd(b, q)
	if err := q.Close(); err != nil {
		b.Fatal(err)
	}
	used := sqlitequeue.Query(b, path, "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size")
	b.ReportMetric(float64(used)/float64(b.N), "disk-B/remembered")
}

func endToEnd(b *testing.B, q callhook.Queue) {
	ctx, cancel := context.WithCancel(context.Background())
	var settled atomic.Int64
	all := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- q.Consume(ctx, func(context.Context, *callhook.Delivery) callhook.Verdict {
			return callhook.Delivered().Then(func() {
				if settled.Add(1) == int64(b.N) {
					close(all)
				}
			})
		})
	}()
	b.ReportAllocs()
	b.ResetTimer()
	produce(b, q, b.N, 16, 10)
	<-all
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.StopTimer()
	cancel()
	if err := <-ended; err != nil {
		b.Error(err)
	}
}
