//go:build unix

package riverqueue_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/riverqueue"
	"github.com/jackc/pgx/v5/pgxpool"
)

// TestPostgresRestarts: the server crashes and comes back while two consume. Whatever
// was accepted arrives, and those who were away are not taken for dead.
func TestPostgresRestarts(t *testing.T) {
	t.Parallel()
	needs(t)
	own, err := startCluster(false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.stop)
	name, err := own.migrated()
	if err != nil {
		t.Fatal(err)
	}
	book := newLedger(t)
	var stops []func()
	var queues []*riverqueue.Queue
	for i := range 2 {
		pool, err := pgxpool.New(context.Background(), own.url(name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		q := open(t, riverqueue.Options{Pool: pool, Logger: logger(t)})
		queues = append(queues, q)
		stops = append(stops, consume(t, q, book.handler(i, func() { time.Sleep(5 * time.Millisecond) })))
	}
	var raised, refused atomic.Int64
	enough := make(chan struct{})
	var raising sync.WaitGroup
	for p := range 4 {
		raising.Go(func() {
			for n := 0; ; n++ {
				id := fmt.Sprintf("d%d_%d", p, n)
				d := delivery(fmt.Sprint("hook", n%20), "call_"+id, id)
				for queues[0].Enqueue(context.Background(), d) != nil { // nobody knows whether it was stored
					refused.Add(1)
					time.Sleep(20 * time.Millisecond)
				}
				raised.Add(1)
				select {
				case <-enough:
					return
				case <-time.After(2 * time.Millisecond):
				}
			}
		})
	}
	goesOn := func() {
		t.Helper()
		a, b := book.of(0), book.of(1)
		until(t, "both consumers work", func() bool { return book.of(0) > a+50 && book.of(1) > b+50 })
	}
	goesOn()
	for _, how := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGINT} { // at once, without a word to anybody; and in order
		before := refused.Load()
		own.halt(how)
		until(t, "Enqueue notices", func() bool { return refused.Load() > before })
		if err := own.start(); err != nil {
			t.Fatal(err)
		}
		goesOn()
	}
	close(enough)
	raising.Wait()
	until(t, "all are delivered", func() bool { return book.count() == int(raised.Load()) })
	for _, stop := range stops {
		stop()
	}
	counts, err := queues[0].Counts(t.Context())
	if want := (callhook.Counts{Accepted: raised.Load(), Delivered: raised.Load()}); err != nil || counts != want {
		t.Errorf("Counts are %+v, %v, want %+v", counts, err, want)
	}
	if book.repeated > 0 {
		t.Errorf("%d came twice, though no consumer died", book.repeated)
	}
	t.Logf("%d delivered, %d calls of Enqueue refused meanwhile", raised.Load(), refused.Load())
}
