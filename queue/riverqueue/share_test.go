//go:build unix

package riverqueue_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/riverqueue"
)

// TestShare: consumers come and go while events are raised. Each gets a share, a lane
// is with one of them at a time, every delivery comes once, and those of a call come
// in order.
func TestShare(t *testing.T) {
	t.Parallel()
	pool, name := database(t)
	producer := open(t, riverqueue.Options{Pool: pool})
	book := newLedger(t)
	begin := func(consumer int) func() {
		q := open(t, riverqueue.Options{Pool: connect(t, name)})
		return consume(t, q, book.handler(consumer, func() { time.Sleep(2 * time.Millisecond) }))
	}
	const lanes = 40
	raised, enough := 0, make(chan struct{})
	var raising sync.WaitGroup
	raising.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-enough:
				return
			case <-time.After(5 * time.Millisecond):
			}
			var ds []*callhook.Delivery
			call := fmt.Sprint("call", n)
			for e := range 3 {
				ds = append(ds, delivery(fmt.Sprint("hook", n%lanes), call, fmt.Sprintf("%s_%d", call, e)))
			}
			ds[1].Ordered, ds[2].Ordered = true, true
			if err := producer.Enqueue(context.Background(), ds...); err != nil {
				t.Errorf("Enqueue: %v", err)
				return
			}
			raised += len(ds)
		}
	})
	works := func(consumer int) {
		t.Helper()
		from := book.of(consumer)
		until(t, fmt.Sprintf("consumer %d works", consumer), func() bool { return book.of(consumer) >= from+20 })
	}
	stop1 := begin(1)
	works(1)
	stop2 := begin(2)
	works(2)
	works(1)
	stop3 := begin(3)
	works(3)
	works(2)
	works(1)
	stop1()
	works(2)
	works(3)
	stop3()
	works(2)
	close(enough)
	raising.Wait()
	until(t, "all are delivered", func() bool { return book.count() == raised })
	stop2()
	book.check()
	if book.repeated > 0 {
		t.Errorf("%d came twice", book.repeated)
	}
	counts, err := producer.Counts(t.Context())
	if want := (callhook.Counts{Accepted: int64(raised), Delivered: int64(raised)}); err != nil || counts != want {
		t.Errorf("Counts are %+v, %v, want %+v", counts, err, want)
	}
}

// TestOthersLanes: a Release frees only what this process's own lanes have, and of a
// lane that is taken over one goes by itself.
func TestOthersLanes(t *testing.T) {
	t.Parallel()
	pool, name := database(t)
	first, second := open(t, riverqueue.Options{Pool: pool}), open(t, riverqueue.Options{Pool: connect(t, name)})
	parked := make(chan string, 100)
	stop := consume(t, first, func(d *callhook.Delivery) callhook.Verdict {
		return callhook.Park().Then(func() { parked <- d.ID })
	})
	for i := range 3 {
		enqueue(t, first, delivery("crm", fmt.Sprint("call", i), fmt.Sprint("d", i)))
	}
	<-parked // and with it what comes to the lane
	until(t, "all are parked", func() bool {
		ds, err := second.List(t.Context(), callhook.Filter{State: callhook.StateParked})
		if err != nil {
			t.Fatal(err)
		}
		return len(ds) == 3
	})
	for _, lane := range []string{"acme/bot/crm", ""} {
		for _, n := range []int{1, -1} {
			if freed, err := second.Release(t.Context(), lane, n); freed != 0 || err != nil {
				t.Errorf("Release(%q, %d) of another process's lane returned %d, %v, want 0", lane, n, freed, err)
			}
		}
	}
	came := make(chan string, 100)
	consume(t, second, func(d *callhook.Delivery) callhook.Verdict {
		return callhook.Delivered().Then(func() { came <- d.ID })
	})
	stop()
	got := map[string]bool{<-came: true} // by itself
	select {
	case id := <-came:
		t.Errorf("%s came by itself too, want one of the lane", id)
	case <-time.After(100 * time.Millisecond):
	}
	freed, err := second.Release(t.Context(), "acme/bot/crm", 5)
	if freed != 2 || err != nil {
		t.Errorf("Release of what was taken over returned %d, %v, want 2", freed, err)
	}
	got[<-came], got[<-came] = true, true
	if len(got) != 3 {
		t.Errorf("%v came, want each of the three", got)
	}
}
