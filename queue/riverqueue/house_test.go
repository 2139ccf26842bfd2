//go:build unix

package riverqueue_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/riverqueue"
	"github.com/jackc/pgx/v5/pgxpool"
)

// TestNothingLeft: when Consume has returned and all is closed, no goroutine is left.
func TestNothingLeft(t *testing.T) { // not beside others
	_, name := database(t)
	before := runtime.NumGoroutine()
	pool, err := pgxpool.New(t.Context(), server.url(name))
	if err != nil {
		t.Fatal(err)
	}
	q := open(t, riverqueue.Options{Pool: pool})
	book := newLedger(t)
	stop := consume(t, q, book.handler(1, func() {}))
	for range 100 {
		enqueue(t, q, event(1))
	}
	until(t, "all came", func() bool { return book.count() == 100 })
	stop()
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	pool.Close()
	until(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
}

// TestPurge: IDs are remembered for four days after what they stand for was settled,
// however old it was then, and dead letters are kept for as long as was asked.
func TestPurge(t *testing.T) {
	t.Parallel()
	pool, _ := database(t)
	ctx := t.Context()
	q := open(t, riverqueue.Options{Pool: pool, KeepDead: 30 * 24 * time.Hour})
	pass := func(days string) {
		t.Helper()
		for _, change := range []string{
			"callhook_ids SET at = at", "callhook_deliveries SET stored_at = stored_at", "callhook_deliveries SET dead_at = dead_at",
		} {
			if _, err := pool.Exec(ctx, "UPDATE callhook."+change+" - interval '"+days+" days'"); err != nil {
				t.Fatal(err)
			}
		}
		q.Purge(ctx)
	}
	accepted := func() int64 {
		t.Helper()
		c, err := q.Counts(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return c.Accepted
	}
	settle := func(want int) {
		t.Helper()
		done := make(chan struct{}, 100)
		stop := consume(t, q, func(d *callhook.Delivery) callhook.Verdict {
			v := callhook.Delivered()
			if d.ID == "dead" {
				v = callhook.Dead(callhook.ReasonRejected)
			}
			return v.Then(func() { done <- struct{}{} })
		})
		for range want {
			<-done
		}
		stop()
	}
	all := func() []*callhook.Delivery {
		return []*callhook.Delivery{delivery("crm", "a", "fresh"), delivery("crm", "b", "dead"), delivery("crm", "c", "old")}
	}
	enqueue(t, q, all()[2])
	pass("6") // it is pending for longer than IDs are remembered
	enqueue(t, q, all()...)
	settle(3)
	for _, days := range []string{"3.9", "0"} {
		pass(days)
		if enqueue(t, q, all()...); accepted() != 3 {
			t.Fatalf("%d were accepted within four days after they were settled, want the 3 of before", accepted())
		}
	}
	pass("1.2") // five days, all in all
	if enqueue(t, q, all()...); accepted() != 5 {
		t.Errorf("%d were accepted long after, want 5: two IDs are forgotten, and the dead letter is kept", accepted())
	}
	settle(2)
	if _, err := q.Get(ctx, "dead"); err != nil {
		t.Errorf("a dead letter of five days: %v", err)
	}
	pass("30")
	if _, err := q.Get(ctx, "dead"); err == nil {
		t.Error("a dead letter of 35 days is still kept, want 30 days")
	}
	if c, err := q.Counts(ctx); err != nil || c != (callhook.Counts{Accepted: 5, Delivered: 4, Dead: 1}) {
		t.Errorf("Counts are %+v, %v, want 5, of which one is dead, kept or not", c, err)
	}
}

// TestDeletedJobs: somebody has emptied River's table.
func TestDeletedJobs(t *testing.T) {
	t.Parallel()
	pool, _ := database(t)
	q := open(t, riverqueue.Options{Pool: pool})
	for range 3 {
		enqueue(t, q, event(1))
	}
	if _, err := pool.Exec(t.Context(), "DELETE FROM callhook.river_job"); err != nil {
		t.Fatal(err)
	}
	q.Heal(t.Context())
	q.Heal(t.Context())
	book := newLedger(t)
	consume(t, q, book.handler(1, func() {}))
	until(t, "all came", func() bool { return book.count() == 3 })
}
