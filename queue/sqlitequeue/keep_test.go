package sqlitequeue_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// clock is a clock that a test sets.
type clock struct{ ahead atomic.Int64 }

func (c *clock) Now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

// settleOne enqueues one and gives it a verdict.
func settleOne(t testing.TB, q callhook.Queue, d *callhook.Delivery, v callhook.Verdict) {
	t.Helper()
	done := make(chan struct{})
	stop := consume(t, q, func(*callhook.Delivery) callhook.Verdict { return v.Then(func() { close(done) }) })
	enqueue(t, q, d)
	<-done
	stop()
}

// TestKept: how long something settled can be looked at, and its ID is remembered.
func TestKept(t *testing.T) {
	const hour, day = time.Hour, 24 * time.Hour
	for _, tt := range []struct {
		name    string
		o       sqlitequeue.Options
		verdict callhook.Verdict
		erase   bool
		whole   time.Duration // how long it is kept; less than zero for not at all
		known   time.Duration // how long its ID is
	}{
		{"delivered", sqlitequeue.Options{}, callhook.Delivered(), false, -1, 4 * day},
		{"delivered and kept", sqlitequeue.Options{KeepDelivered: 10 * hour}, callhook.Delivered(), false, 10 * hour, 4 * day},
		{"delivered and kept for long", sqlitequeue.Options{KeepDelivered: 6 * day}, callhook.Delivered(), false, 6 * day, 6 * day},
		{"dead", sqlitequeue.Options{}, callhook.Dead(callhook.ReasonRejected), false, 30 * day, 30 * day},
		{"dead and soon gone", sqlitequeue.Options{KeepDead: hour}, callhook.Dead(callhook.ReasonRejected), false, hour, 4 * day},
		{"erased", sqlitequeue.Options{}, callhook.RetryAt(time.Now().Add(24 * 365 * hour)), true, -1, 4 * day},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "queue.db")
			var now clock
			q := reopen(t, path, &tt.o)
			q.SetNow(now.Now)
			d := event(0)
			d.Numbers = []string{"n1", "n2"}
			settleOne(t, q, d, tt.verdict)
			rests := event(0)
			settleOne(t, q, rests, callhook.RetryAt(time.Now().Add(365*day)))
			if tt.erase {
				if n, err := q.Erase(t.Context(), callhook.Filter{Number: "n1"}); n != 1 || err != nil {
					t.Fatalf("Erase: %d, %v", n, err)
				}
			}
			before, _ := q.Counts(t.Context())
			check := func(after time.Duration) {
				t.Helper()
				now.set(after)
				for range 3 { // a lap may have been done just before
					now.set(time.Duration(now.ahead.Load()) + 61*time.Minute)
					q.Wake()
					q.Settle()
				}
				now.set(after)
				_, err := q.Get(t.Context(), d.ID)
				if holds := err == nil; holds != (after <= tt.whole) || err != nil && !errors.Is(err, callhook.ErrNoDelivery) {
					t.Errorf("after %s Get says %v; it is to be kept for %s", after, err, tt.whole)
				}
				n := sqlitequeue.Query(t, path, "SELECT count(*) FROM deliveries WHERE id = '"+d.ID+"'")
				if (n == 1) != (after <= tt.known) {
					t.Errorf("after %s its ID is known %d times; it is to be for %s", after, n, tt.known)
				}
				parts := sqlitequeue.Query(t, path, "SELECT (SELECT count(*) FROM bodies) + (SELECT count(*) FROM numbers)")
				if want := int64(1); after > tt.whole && parts != want {
					t.Errorf("after %s %d bodies and numbers are left, want %d", after, parts, want)
				}
			}
			for _, keep := range slices.Compact([]time.Duration{tt.whole, tt.known}) {
				if keep > 0 {
					check(keep - 4*hour)
					check(keep + 4*hour)
				}
			}
			if _, err := q.Get(t.Context(), rests.ID); err != nil {
				t.Errorf("what is pending: %v", err)
			}
			if after, _ := q.Counts(t.Context()); after != before {
				t.Errorf("counts changed from %+v to %+v", before, after)
			}
		})
	}
}

// TestSealed: the name of the key stays as it is, whatever it is and whatever else is
// stored.
func TestSealed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue.db")
	q := reopen(t, path, nil)
	names := []string{"", "2026-11", "a \"key\"\n", "Schlüssel", "\xff\x00\xfe"}
	want := map[string]string{}
	for i, name := range names {
		for _, values := range []map[string]string{nil, {"call.from": "sealed"}, {"call.from": "\xff"}} {
			d := event(i)
			d.Sealed, d.Values = name, values
			want[d.ID] = name
			enqueue(t, q, d)
		}
	}
	for range 2 {
		for id, name := range want {
			if d, err := q.Get(t.Context(), id); err != nil || d.Sealed != name {
				t.Errorf("Get of one that is sealed with %q: %+v, %v", name, d, err)
			}
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		q = reopen(t, path, nil)
	}
}

// TestSpace: the file becomes small again when a backlog is delivered, and the log
// does not grow without end.
func TestSpace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue.db")
	var now clock
	q := reopen(t, path, &sqlitequeue.Options{Unsynced: true})
	q.SetNow(now.Now)
	size := func(suffix string) int64 {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	var full, log int64
	for range 3 {
		const n = 600
		var ds []*callhook.Delivery
		for i := range n {
			ds = append(ds, large(i%10, 20_000))
		}
		enqueue(t, q, ds...)
		deliverAll(t, q, n)
		full, log = max(full, size("")), max(log, size("-wal"))
	}
	if full > 40<<20 || log > 160<<20 {
		t.Errorf("12 MB at a time made a file of %d MB and a log of %d MB", full>>20, log>>20)
	}
	now.set(time.Minute)
	q.Wake()
	q.Settle()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if n := size(""); n > 4<<20 {
		t.Errorf("the file has %d MB when all is delivered, want less than 4", n>>20)
	}
}
