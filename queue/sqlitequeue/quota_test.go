package sqlitequeue_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// of returns a delivery of a tenant, which counts for some 600 bytes more than its
// body.
func of(tenant string, size int) *callhook.Delivery {
	d := large(0, size)
	d.Tenant, d.Lane = tenant, tenant+"/bot/hook0"
	return d
}

// wantQuota enqueues what a tenant may not.
func wantQuota(t testing.TB, q callhook.Queue, ds ...*callhook.Delivery) {
	t.Helper()
	if err := q.Enqueue(t.Context(), ds...); !errors.Is(err, callhook.ErrQuota) || !strings.Contains(err.Error(), "MaxTenantBytes") {
		t.Fatalf("Enqueue: %v, want %v that names the option", err, callhook.ErrQuota)
	}
}

// pendingBytes is what the deliveries of a tenant count for, counted anew.
func pendingBytes(t testing.TB, path, tenant string) int64 {
	t.Helper()
	counted := sqlitequeue.Query(t, path, "SELECT coalesce(sum(pending_bytes), 0) FROM lane_counts WHERE tenant = '"+tenant+"'")
	if is := sqlitequeue.Query(t, path, `SELECT coalesce(sum(512 + length(CAST(d.meta AS BLOB)) + coalesce(length(CAST(d.log AS BLOB)), 0)
		+ coalesce(length(b.body), 0) + coalesce(length(b.record), 0)), 0)
		FROM deliveries d JOIN lanes l ON l.id = d.lane_id LEFT JOIN bodies b ON b.seq = d.seq
		WHERE l.tenant = '`+tenant+`' AND d.state IN ('ready', 'parked', 'waiting', 'blocked')`); is != counted {
		t.Errorf("%s has %d bytes pending, and %d are counted", tenant, is, counted)
	}
	return counted
}

// TestQuota: over its bound a tenant's events are refused whole, others' are not, and
// what makes room does so at once.
func TestQuota(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue.db")
	o := &sqlitequeue.Options{MaxTenantBytes: 50_000}
	q := reopen(t, path, o)
	first := []*callhook.Delivery{of("acme", 20_000), of("acme", 20_000)}
	first[1].Call = first[0].Call // it waits for the other
	enqueue(t, q, first...)
	wantQuota(t, q, of("acme", 10_000))
	small := of("acme", 1000)
	wantQuota(t, q, small, of("acme", 10_000)) // all or nothing
	wantCounts(t, q, callhook.Counts{Accepted: 2, Pending: 2})
	enqueue(t, q, small)
	enqueue(t, q, first...)                       // which it has
	enqueue(t, q, small, first[0], small)         // in any order, twice
	wantQuota(t, q, first[0], of("acme", 10_000)) // of which a part is new
	twice := of("acme", 3000)                     // fits once
	enqueue(t, q, twice, twice, twice)            // and is stored once
	for range 20 {
		enqueue(t, q, of("beta", 1000))
	}
	wantCounts(t, q, callhook.Counts{Accepted: 24, Pending: 24})

	// Attempts go on, and their logs count.
	before := pendingBytes(t, path, "acme")
	attempted := make(chan bool, 4)
	stop := consume(t, q, func(d *callhook.Delivery) callhook.Verdict {
		if d.Tenant == "beta" {
			return callhook.RetryAt(time.Now().Add(time.Hour))
		}
		d.Attempts++
		d.Log = append(d.Log, callhook.Attempt{Status: 503, Reply: strings.Repeat("r", 1000)})
		return callhook.RetryAt(time.Now().Add(time.Hour)).Then(func() { attempted <- true })
	})
	if _, err := q.Release(t.Context(), small.Lane, -1); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		<-attempted
	}
	stop()
	if grown := pendingBytes(t, path, "acme") - before; grown < 4000 || grown > 4800 {
		t.Errorf("the logs of 4 attempts with replies of 1000 bytes count for %d", grown)
	}
	wantQuota(t, q, of("acme", 1000))

	// A restart changes nothing.
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	q = reopen(t, path, o)
	wantQuota(t, q, of("acme", 1000))
	enqueue(t, q, first...)
	enqueue(t, q, of("beta", 1000))

	// What is erased makes room, and is still known.
	if n, err := q.Erase(t.Context(), callhook.Filter{IDs: []string{first[0].ID}}); n != 1 || err != nil {
		t.Fatalf("Erase: %d, %v", n, err)
	}
	again := of("acme", 18_000)
	enqueue(t, q, again)
	wantQuota(t, q, of("acme", 10_000))
	enqueue(t, q, first[0])

	// So does what is given up, and what is delivered.
	stop = consume(t, q, func(d *callhook.Delivery) callhook.Verdict {
		switch d.ID {
		case again.ID:
			return callhook.Dead(callhook.ReasonRejected).Then(func() { attempted <- true })
		case first[1].ID:
			return callhook.Delivered().Then(func() { attempted <- true })
		}
		return callhook.RetryAt(time.Now().Add(time.Hour))
	})
	if _, err := q.Release(t.Context(), small.Lane, -1); err != nil {
		t.Fatal(err)
	}
	<-attempted
	<-attempted
	stop()
	enqueue(t, q, of("acme", 38_000))
	wantQuota(t, q, of("acme", 10_000))

	// What is replayed is not refused, and counts.
	if n, err := q.Replay(t.Context(), callhook.Filter{IDs: []string{again.ID}}); n != 1 || err != nil {
		t.Fatalf("Replay: %d, %v", n, err)
	}
	if n := pendingBytes(t, path, "acme"); n < 60_000 {
		t.Errorf("with what was replayed %d bytes are pending, want over 60,000", n)
	}
	pendingBytes(t, path, "beta")
	n, err := q.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	deliverAll(t, q, int(n.Pending))
	for _, tenant := range []string{"acme", "beta"} {
		if n := pendingBytes(t, path, tenant); n != 0 {
			t.Errorf("%s has %d bytes pending when all is delivered", tenant, n)
		}
	}
	enqueue(t, q, of("acme", 40_000))
}

// TestQuotaInParts: an event that goes to the disk in several transactions is counted
// whole before the first.
func TestQuotaInParts(t *testing.T) {
	q := open(t, &sqlitequeue.Options{MaxTenantBytes: 20 << 20, Unsynced: true})
	event := func(tenant string) (ds []*callhook.Delivery) {
		for range 3 {
			ds = append(ds, of(tenant, 4<<20))
		}
		return ds
	}
	first := event("acme")
	enqueue(t, q, first...)
	wantQuota(t, q, event("acme")...)
	enqueue(t, q, first...)
	enqueue(t, q, event("beta")...)
	wantCounts(t, q, callhook.Counts{Accepted: 6, Pending: 6})
}

// TestQuotaTogether: many producers of a tenant get no more in than it may have, and
// what is counted is what is there, while deliveries go on.
func TestQuotaTogether(t *testing.T) {
	const most = 200_000
	path := filepath.Join(t.TempDir(), "queue.db")
	q := reopen(t, path, &sqlitequeue.Options{MaxTenantBytes: most, Unsynced: true})
	produce := func() (refused int) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 60 {
					tenant := []string{"acme", "beta"}[g%2]
					n := 1 + i%3
					ds := make([]*callhook.Delivery, n)
					for k := range ds {
						ds[k] = of(tenant, 1000*(1+i%4))
						ds[k].Lane = fmt.Sprint(tenant, "/bot/hook", k)
						ds[k].Webhook = fmt.Sprint("hook", k)
					}
					err := q.Enqueue(context.Background(), ds...)
					switch {
					case errors.Is(err, callhook.ErrQuota):
						mu.Lock()
						refused++
						mu.Unlock()
					case err != nil:
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		return refused
	}
	if produce() == 0 {
		t.Error("nothing was refused")
	}
	for _, tenant := range []string{"acme", "beta"} {
		if n := pendingBytes(t, path, tenant); n > most || n < most-20_000 {
			t.Errorf("%s has %d bytes pending, want almost %d", tenant, n, most)
		}
	}
	var tries sync.Map
	stop := consume(t, q, func(d *callhook.Delivery) callhook.Verdict {
		d.Attempts++
		if _, again := tries.LoadOrStore(d.ID, true); again {
			return callhook.Delivered()
		}
		d.Log = append(d.Log, callhook.Attempt{Reply: strings.Repeat("r", 500)})
		return []callhook.Verdict{callhook.RetryAt(time.Now()), callhook.Delivered(), callhook.Dead(callhook.ReasonRejected)}[len(d.Body)/1000%3]
	})
	produce()
	stop()
	for _, tenant := range []string{"acme", "beta"} {
		pendingBytes(t, path, tenant)
	}
}
