package natsqueue_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/natsqueue"
)

var body = func() []byte {
	b := make([]byte, 1024)
	_, _ = rand.Read(b)
	return []byte(hex.EncodeToString(b))
}()

// event returns a delivery of a call of its own, as a runtime raises it: random names,
// and a body of 2 KB.
func event(lane int) *callhook.Delivery {
	var b [32]byte
	_, _ = rand.Read(b[:])
	now := time.Now()
	return &callhook.Delivery{
		ID: "msg_" + hex.EncodeToString(b[:13]), Tenant: "acme", Agent: "bot", Webhook: fmt.Sprint("hook", lane), Lane: fmt.Sprint("acme/bot/hook", lane),
		Type: callhook.TypePostCall, Event: callhook.EventEnded, Call: hex.EncodeToString(b[16:]), At: now, EnqueuedAt: now, Body: body,
	}
}

// bench runs f with 1 and with 16 producers, on a server that syncs each write and on
// one that does so every two minutes, as servers do unless told.
func bench(b *testing.B, f func(b *testing.B, q callhook.Queue, producers int)) {
	for _, synced := range []bool{true, false} {
		for _, producers := range []int{1, 16} {
			b.Run(fmt.Sprintf("synced=%t/producers=%d", synced, producers), func(b *testing.B) {
				srv, err := startServer(b.TempDir(), func(o *server.Options) { o.SyncAlways = synced })
				if err != nil {
					b.Fatal(err)
				}
				defer srv.Shutdown()
				nc := connect(b, srv.ClientURL())
				defer nc.Close()
				q, err := natsqueue.Open(b.Context(), natsqueue.Options{Conn: nc})
				if err != nil {
					b.Fatal(err)
				}
				defer q.Close()
				b.ReportAllocs()
				b.ResetTimer()
				f(b, q, producers)
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			})
		}
	}
}

// produce enqueues n deliveries from so many goroutines.
func produce(b *testing.B, q callhook.Queue, n, producers int) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range producers {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(n) {
					return
				}
				if err := q.Enqueue(context.Background(), event(int(i)%10)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkEnqueue stores events one by one.
func BenchmarkEnqueue(b *testing.B) {
	bench(b, func(b *testing.B, q callhook.Queue, producers int) { produce(b, q, b.N, producers) })
}

// BenchmarkDelivery is the queue alone: enqueued, handed out, settled.
func BenchmarkDelivery(b *testing.B) {
	bench(b, func(b *testing.B, q callhook.Queue, producers int) {
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
		produce(b, q, b.N, producers)
		<-all
		b.StopTimer()
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	})
}
