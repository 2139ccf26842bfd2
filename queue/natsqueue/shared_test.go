package natsqueue_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/natsqueue"
)

// TestShares: partitions are divided evenly, whoever comes and goes.
func TestShares(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const parts = 7
	var all []callhook.Queue
	var consumers []*consumer
	join := func() {
		q := open(t, dir, natsqueue.Options{Partitions: parts, Lease: time.Second})
		all = append(all, q)
		consumers = append(consumers, consume(t, q, func(*callhook.Delivery) callhook.Verdict { return callhook.Delivered() }))
	}
	leave := func() {
		consumers[0].stop()
		if err := all[0].Close(); err != nil {
			t.Error(err)
		}
		all, consumers = all[1:], consumers[1:]
	}
	check := func(want ...int) {
		t.Helper()
		until(t, fmt.Sprint("the shares are ", want), func() bool {
			left := map[int]int{}
			for _, n := range want {
				left[n]++
			}
			for _, q := range all {
				left[natsqueue.Owned(q.(*queue).Queue)]--
			}
			for _, n := range left {
				if n != 0 {
					return false
				}
			}
			return true
		})
	}
	join()
	check(7)
	join()
	check(4, 3)
	join()
	check(3, 2, 2)
	leave()
	check(4, 3)
	leave()
	check(7)
	leave()
}

// TestHalfDone: a process delivers thousands and dies before it has swept the last
// away. Who comes next hands out none of them again, sweeps, and counts each once.
func TestHalfDone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const swept, unswept, lanes = 2_400, 100, 3
	first := open(t, dir, natsqueue.Options{Partitions: 2, Lease: time.Second})
	c := consume(t, first, func(*callhook.Delivery) callhook.Verdict { return callhook.Delivered() })
	raise := func(from, to int) {
		var ds []*callhook.Delivery
		for i := from; i < to; i++ {
			ds = append(ds, delivery(fmt.Sprint("hook", i%lanes), fmt.Sprint("d", i)))
		}
		if err := first.Enqueue(t.Context(), ds...); err != nil {
			t.Fatal(err)
		}
	}
	check := func(q callhook.Queue, n int64) {
		t.Helper()
		until(t, "all are delivered, and counted once", func() bool {
			counts, err := q.(callhook.Inspector).Counts(t.Context())
			return err == nil && counts == callhook.Counts{Accepted: n, Delivered: n}
		})
	}
	raise(0, swept)
	check(first, swept)
	natsqueue.LeaveUnswept(first.(*queue).Queue)
	raise(swept, swept+unswept)
	check(first, swept+unswept)

	_, leave, err := enter(dir) // the server outlives it
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	c.stop()
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	second := open(t, dir, natsqueue.Options{Lease: time.Second})
	defer second.Close()
	pending := func() int {
		stream, err := jetStreamOf(t, second).Stream(t.Context(), "CALLHOOK")
		if err != nil {
			t.Fatal(err)
		}
		info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter("CALLHOOK.pending.>"))
		if err != nil {
			t.Fatal(err)
		}
		return len(info.State.Subjects)
	}
	if n := pending(); n < unswept {
		t.Fatalf("%d are left to be swept, want %d: the test shows nothing", n, unswept)
	}
	c = consume(t, second, func(d *callhook.Delivery) callhook.Verdict {
		t.Errorf("%s was handed out again", d.ID)
		return callhook.Delivered()
	})
	until(t, "all are swept", func() bool { return pending() == 0 })
	check(second, swept+unswept)
	c.stop()
}
