package sqlitequeue_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// large returns a delivery with a body of so many bytes.
func large(lane, size int) *callhook.Delivery {
	d := event(lane)
	d.Body = []byte(strings.Repeat("x", size))
	return d
}

// wantFull enqueues what does not fit.
func wantFull(t testing.TB, q callhook.Queue, ds ...*callhook.Delivery) {
	t.Helper()
	if err := q.Enqueue(t.Context(), ds...); !errors.Is(err, callhook.ErrQueueFull) || !strings.HasPrefix(fmt.Sprint(err), "sqlitequeue: ") {
		t.Fatalf("Enqueue: %v, want %v", err, callhook.ErrQueueFull)
	}
}

// TestDiskFull: while a disk takes nothing, Enqueue says so and stores nothing, and
// verdicts wait; once it does, all goes on by itself.
func TestDiskFull(t *testing.T) {
	for _, reason := range []error{syscall.ENOSPC, syscall.EFBIG, syscall.EDQUOT} {
		t.Run(reason.Error(), func(t *testing.T) {
			q := open(t, nil)
			enqueue(t, q, event(0), event(1), event(2))
			var full atomic.Bool
			var refused atomic.Int64
			sqlitequeue.SetFaults(t, func(int) error {
				if full.Load() {
					refused.Add(1)
					return reason
				}
				return nil
			})
			inHandler, answer := make(chan struct{}, 3), make(chan struct{})
			var done atomic.Int64
			stop := consume(t, q, func(d *callhook.Delivery) callhook.Verdict {
				inHandler <- struct{}{}
				<-answer
				v := callhook.Delivered()
				if d.Webhook == "hook1" {
					v = callhook.RetryAt(time.Now().Add(time.Hour))
				}
				return v.Then(func() { done.Add(1) })
			})
			for range 3 {
				<-inHandler
			}
			full.Store(true)
			close(answer)
			again := event(3)
			for range 3 {
				wantFull(t, q, event(0), again)
			}
			wantCounts(t, q, callhook.Counts{Accepted: 3, Pending: 3})
			for before := refused.Load(); refused.Load() < before+5; { // they are tried again and again
				time.Sleep(time.Millisecond)
			}
			if n := done.Load(); n != 0 {
				t.Errorf("the Done of %d verdicts was called though the disk takes none", n)
			}
			full.Store(false)
			for done.Load() < 3 {
				time.Sleep(time.Millisecond)
			}
			stop()
			wantCounts(t, q, callhook.Counts{Accepted: 3, Delivered: 2, Pending: 1})
			enqueue(t, q, again)
			wantCounts(t, q, callhook.Counts{Accepted: 4, Delivered: 2, Pending: 2})
		})
	}
}

// TestDiskFullAtEnd: Consume does not wait for ever for a disk that takes no
// verdicts. What they were about comes again.
func TestDiskFullAtEnd(t *testing.T) {
	sqlitequeue.SetPatience(t, 50*time.Millisecond)
	path := filepath.Join(t.TempDir(), "queue.db")
	q := reopen(t, path, nil)
	enqueue(t, q, event(0))
	var full atomic.Bool
	sqlitequeue.SetFaults(t, func(int) error {
		if full.Load() {
			return syscall.ENOSPC
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	var done atomic.Int64
	err := q.Consume(ctx, func(context.Context, *callhook.Delivery) callhook.Verdict {
		full.Store(true)
		cancel()
		return callhook.Delivered().Then(func() { done.Add(1) })
	})
	if err == nil || !strings.Contains(err.Error(), "1 verdict") || done.Load() != 1 {
		t.Errorf("Consume: %v, want an error that says how many verdicts were not stored; their Done was called %d times, want once", err, done.Load())
	}
	full.Store(false)
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	deliverAll(t, reopen(t, path, nil), 1)
}

// TestSynced: what Enqueue has stored was written and then synced, once for all that
// waited; and a disk that cannot sync stores nothing.
func TestSynced(t *testing.T) {
	q := open(t, nil)
	enqueue(t, q, event(0))
	var writes, syncs atomic.Int64
	var broken atomic.Bool
	sqlitequeue.SetFaults(t, func(n int) error {
		switch {
		case n > 0:
			writes.Add(1)
			syncs.Store(0)
		case broken.Load():
			return syscall.EIO
		default:
			syncs.Add(1)
		}
		return nil
	})
	for i := range 10 {
		before := writes.Load()
		enqueue(t, q, event(i), event(i))
		if writes.Load() != before+1 || syncs.Load() == 0 {
			t.Fatalf("Enqueue wrote %d times, and synced %d times after that, want once and then", writes.Load()-before, syncs.Load())
		}
	}
	broken.Store(true)
	if err := q.Enqueue(t.Context(), event(0)); err == nil || errors.Is(err, callhook.ErrQueueFull) {
		t.Errorf("Enqueue while the disk cannot sync: %v, want an error that it cannot", err)
	}
	wantCounts(t, q, callhook.Counts{Accepted: 21, Pending: 21})
	var done atomic.Int64
	stop := consume(t, q, func(*callhook.Delivery) callhook.Verdict {
		return callhook.Delivered().Then(func() { done.Add(1) })
	})
	for tries := writes.Load(); writes.Load() < tries+5; { // a verdict is tried again and again
		time.Sleep(time.Millisecond)
	}
	broken.Store(false)
	for done.Load() < 21 {
		time.Sleep(time.Millisecond)
	}
	stop()
	wantCounts(t, q, callhook.Counts{Accepted: 21, Delivered: 21})
}

// TestBusy: while another program writes, all waits for it.
func TestBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue.db")
	q := reopen(t, path, nil)
	enqueue(t, q, event(0))
	release := sqlitequeue.Hold(t, path)
	stored := make(chan error, 1)
	go func() { stored <- q.Enqueue(context.Background(), event(1)) }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := q.Enqueue(ctx, event(2)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Enqueue whose ctx ends: %v, want %v", err, context.DeadlineExceeded)
	}
	select {
	case err := <-stored:
		t.Errorf("Enqueue returned %v while another program writes", err)
	default:
	}
	release()
	if err := <-stored; err != nil {
		t.Error(err)
	}
	deliverAll(t, q, 3)
}

// TestNoPages: the same with a database that may have no more pages. Settling what
// is pending makes room.
func TestNoPages(t *testing.T) {
	q := open(t, nil)
	var ids []string
	for range 20 {
		d := large(0, 20_000)
		ids = append(ids, d.ID)
		enqueue(t, q, d)
	}
	q.SetMaxPages(q.SetMaxPages(1<<30) + 10)
	wantFull(t, q, large(0, 100_000))
	wantFull(t, q, large(0, 100_000), large(1, 1))
	wantCounts(t, q, callhook.Counts{Accepted: 20, Pending: 20})
	got := deliverAll(t, q, len(ids))
	for _, id := range ids {
		if len(got[id]) != 20_000 {
			t.Errorf("%s was not delivered as it was", id)
		}
	}
	enqueue(t, q, large(0, 100_000))
}

// TestMaxBytes: over its bound a queue takes nothing that is new, while what is
// pending goes on and makes room.
func TestMaxBytes(t *testing.T) {
	q := open(t, &sqlitequeue.Options{MaxBytes: 4 << 20})
	n := 0
	var last *callhook.Delivery
	for ; ; n++ {
		d := large(n%3, 50_000)
		if err := q.Enqueue(t.Context(), d); err != nil {
			if !errors.Is(err, callhook.ErrQueueFull) || !strings.Contains(err.Error(), "4194304") {
				t.Fatalf("Enqueue: %v, want %v with the bound", err, callhook.ErrQueueFull)
			}
			break
		}
		last = d
		if n > 100 {
			t.Fatal("it takes more than its bound")
		}
	}
	if n < 20 {
		t.Errorf("it is full after %d deliveries of 50 KB", n)
	}
	enqueue(t, q, last) // which it has
	wantFull(t, q, last, large(0, 50_000))
	wantCounts(t, q, callhook.Counts{Accepted: int64(n), Pending: int64(n)})
	deliverAll(t, q, n)
	enqueue(t, q, large(0, 50_000))
}

// TestBigBodies: a body of 10 MB goes through, and one that is too large is refused.
func TestBigBodies(t *testing.T) {
	q := open(t, nil)
	var ds []*callhook.Delivery
	for i := range 3 {
		d := large(i%2, 10<<20)
		d.Body[i] = 'y'
		ds = append(ds, d)
	}
	enqueue(t, q, ds...)
	for id, body := range deliverAll(t, q, len(ds)) {
		if len(body) != 10<<20 || strings.Count(body, "y") != 1 {
			t.Errorf("%s has a body of %d bytes", id, len(body))
		}
	}
	if err := q.Enqueue(t.Context(), event(0), large(0, q.Limits().MaxBody+1)); err == nil || !strings.Contains(err.Error(), "MaxBody") {
		t.Errorf("Enqueue of a body over Limits().MaxBody: %v, want an error", err)
	}
	enqueue(t, q, large(0, q.Limits().MaxBody))
	wantCounts(t, q, callhook.Counts{Accepted: 4, Delivered: 3, Pending: 1})
	deliverAll(t, q, 1)
}
