//go:build unix

package riverqueue_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/riverqueue"
)

// produce enqueues n deliveries from so many goroutines.
func produce(b *testing.B, q *riverqueue.Queue, n, producers, lanes int) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range producers {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(n) {
					return
				}
				if err := q.Enqueue(context.Background(), event(int(i)%lanes)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func benchmarkEnqueue(b *testing.B, producers int) {
	pool, _ := database(b)
	q := open(b, riverqueue.Options{Pool: pool})
	b.ReportAllocs()
	b.ResetTimer()
	produce(b, q, b.N, producers, 10)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkEnqueue1(b *testing.B)  { benchmarkEnqueue(b, 1) }
func BenchmarkEnqueue16(b *testing.B) { benchmarkEnqueue(b, 16) }

// BenchmarkDeliver is the queue alone: what is pending is handed out and settled.
func BenchmarkDeliver(b *testing.B) {
	pool, _ := database(b)
	q := open(b, riverqueue.Options{Pool: pool})
	produce(b, q, b.N, 16, 10)
	deliver(b, q, func() {})
}

// BenchmarkEndToEnd is the same while 16 producers enqueue.
func BenchmarkEndToEnd(b *testing.B) {
	pool, _ := database(b)
	q := open(b, riverqueue.Options{Pool: pool})
	deliver(b, q, func() { produce(b, q, b.N, 16, 10) })
}

func deliver(b *testing.B, q *riverqueue.Queue, meanwhile func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var settled atomic.Int64
	all := make(chan struct{})
	ended := make(chan error, 1)
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		ended <- q.Consume(ctx, func(context.Context, *callhook.Delivery) callhook.Verdict {
			return callhook.Delivered().Then(func() {
				if settled.Add(1) == int64(b.N) {
					close(all)
				}
			})
		})
	}()
	meanwhile()
	<-all
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.StopTimer()
	cancel()
	if err := <-ended; err != nil {
		b.Error(err)
	}
}

// BenchmarkLatency is the way of one delivery at a time from Enqueue to its handler.
func BenchmarkLatency(b *testing.B) {
	pool, _ := database(b)
	q := open(b, riverqueue.Options{Pool: pool})
	came := make(chan struct{})
	stop := consume(b, q, func(*callhook.Delivery) callhook.Verdict {
		came <- struct{}{}
		return callhook.Delivered()
	})
	enqueue(b, q, event(0))
	<-came
	b.ResetTimer()
	for i := range b.N {
		enqueue(b, q, event(i%10))
		<-came
	}
	b.StopTimer()
	stop()
}

// BenchmarkBeside is the worst of a backlog: all of it ready, of a lane that takes
// nothing, when a process begins on its partition. It gives the time to put one aside, and
// how long those that are enqueued for others meanwhile wait.
func BenchmarkBeside(b *testing.B) {
	pool, _ := database(b)
	q := open(b, riverqueue.Options{Pool: pool, Partitions: 1})
	produce(b, q, b.N, 16, 1)
	var mu sync.Mutex
	var waits []time.Duration
	b.ResetTimer()
	stop := consume(b, q, func(d *callhook.Delivery) callhook.Verdict {
		if d.Lane == event(0).Lane {
			return callhook.Park()
		}
		mu.Lock()
		waits = append(waits, time.Since(d.EnqueuedAt))
		mu.Unlock()
		return callhook.Delivered()
	})
	until(b, "all are parked", func() bool {
		enqueue(b, q, event(1))
		var left bool
		if err := pool.QueryRow(context.Background(), "SELECT EXISTS (SELECT FROM callhook.callhook_deliveries d JOIN callhook.callhook_lanes l ON l.id = d.lane"+
			" WHERE d.state = 'ready' AND l.lane = $1)", event(0).Lane).Scan(&left); err != nil {
			b.Fatal(err)
		}
		return !left
	})
	b.StopTimer()
	stop()
	slices.Sort(waits)
	b.ReportMetric(float64(waits[len(waits)*99/100].Milliseconds()), "p99-ms")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "parked/s")
}

// BenchmarkDrain is a lane that has parked ones, freed one by one.
func BenchmarkDrain(b *testing.B) {
	pool, _ := database(b)
	q := open(b, riverqueue.Options{Pool: pool})
	var parking atomic.Bool
	var parked, settled atomic.Int64
	parking.Store(true)
	all := make(chan struct{})
	stop := consume(b, q, func(d *callhook.Delivery) callhook.Verdict {
		if parking.Load() {
			return callhook.Park().Then(func() { parked.Add(1) })
		}
		return callhook.Delivered().Then(func() {
			if settled.Add(1) == int64(b.N) {
				close(all)
				return
			}
			if _, err := q.Release(context.Background(), d.Lane, 1); err != nil {
				b.Error(err)
			}
		})
	})
	produce(b, q, b.N, 16, 1)
	until(b, "all are parked", func() bool {
		ds, err := q.List(context.Background(), callhook.Filter{Limit: 1})
		if err != nil {
			b.Fatal(err)
		}
		counts, err := pool.Query(context.Background(), "SELECT FROM callhook.callhook_deliveries WHERE state <> 'parked' LIMIT 1")
		if err != nil {
			b.Fatal(err)
		}
		left := counts.Next()
		counts.Close()
		return len(ds) == 1 && !left
	})
	parking.Store(false)
	b.ResetTimer()
	if _, err := q.Release(context.Background(), "acme/bot/hook0", 8); err != nil {
		b.Fatal(err)
	}
	<-all
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.StopTimer()
	stop()
}
