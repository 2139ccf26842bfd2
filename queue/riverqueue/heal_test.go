//go:build unix

package riverqueue_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/riverqueue"
)

// TestJobsByHand: somebody cancels River's jobs, or takes one and loses it. The
// deliveries come all the same, each once.
func TestJobsByHand(t *testing.T) {
	t.Parallel()
	pool, _ := database(t)
	q := open(t, riverqueue.Options{Pool: pool})
	for i := range 3 {
		enqueue(t, q, delivery(fmt.Sprint("hook", i), "call", fmt.Sprint("d", i)))
	}
	for _, change := range []string{
		`state = 'cancelled', finalized_at = now() WHERE args @> (SELECT jsonb_build_object('seq', seq) FROM callhook.callhook_deliveries WHERE id = 'd0')`,
		`state = 'running', attempted_at = now() WHERE args @> (SELECT jsonb_build_object('seq', seq) FROM callhook.callhook_deliveries WHERE id = 'd1')`,
	} {
		if tag, err := pool.Exec(t.Context(), "UPDATE callhook.river_job SET "+change); err != nil || tag.RowsAffected() != 1 {
			t.Fatalf("%d changed, %v, want 1", tag.RowsAffected(), err)
		}
	}
	book := newLedger(t)
	consume(t, q, book.handler(1, func() {}))
	until(t, "all came", func() bool { return book.count() == 3 })
	enqueue(t, q, delivery("hook3", "call", "d3"))
	until(t, "the last came", func() bool { return book.count() == 4 })
	// The same while it is consumed: a job that this process does not have.
	if _, err := pool.Exec(t.Context(), `
		WITH d AS (INSERT INTO callhook.callhook_deliveries (seq, key, ticket, call_hash, enqueued, lane, attempts, rejections, postponed, partition, ordered, state, id, call, meta)
			SELECT 1000, gen_random_uuid(), nextval('callhook.river_job_id_seq'), 1, 0, id, 0, 0, 0, partition, false, 'ready', 'd4', 'call', '{}' FROM callhook.callhook_lanes LIMIT 1
			RETURNING seq, ticket, partition)
		INSERT INTO callhook.river_job (id, kind, queue, args, max_attempts, state, attempted_at)
		SELECT ticket, 'callhook', 'callhook_' || partition, jsonb_build_object('seq', seq), 25, 'running', now() FROM d`); err != nil {
		t.Fatal(err)
	}
	until(t, "a job that was lost is replaced", func() bool { return book.count() == 5 })
	if book.repeated > 0 {
		t.Errorf("%d came twice", book.repeated)
	}
}

// TestErasedReleased: one that was released and is erased before its turn makes room
// for the next of its lane.
func TestErasedReleased(t *testing.T) {
	t.Parallel()
	pool, _ := database(t)
	q := open(t, riverqueue.Options{Pool: pool})
	parked := make(chan string, 10)
	stop := consume(t, q, func(d *callhook.Delivery) callhook.Verdict {
		return callhook.Park().Then(func() { parked <- d.ID })
	})
	for i := range 3 {
		enqueue(t, q, delivery("crm", fmt.Sprint("call", i), fmt.Sprint("d", i)))
	}
	<-parked
	until(t, "all are parked", func() bool {
		ds, err := q.List(t.Context(), callhook.Filter{State: callhook.StateParked})
		return err == nil && len(ds) == 3
	})
	stop()
	if n, err := q.Release(t.Context(), "acme/bot/crm", 1); n != 1 || err != nil {
		t.Fatalf("Release returned %d, %v, want 1", n, err)
	}
	if n, err := q.Erase(t.Context(), callhook.Filter{IDs: []string{"d0"}}); n != 1 || err != nil {
		t.Fatalf("Erase returned %d, %v, want 1", n, err)
	}
	came := make(chan string, 10)
	consume(t, q, func(d *callhook.Delivery) callhook.Verdict {
		return callhook.Delivered().Then(func() { came <- d.ID })
	})
	select {
	case id := <-came:
		if id != "d1" {
			t.Errorf("%s came, want d1 in the place of the one that was erased", id)
		}
	case <-time.After(20 * time.Second):
		t.Error("nothing came in the place of the one that was erased")
	}
}

// TestTexts: what Postgres does not take in a text is kept all the same.
func TestTexts(t *testing.T) {
	t.Parallel()
	pool, _ := database(t)
	q := open(t, riverqueue.Options{Pool: pool})
	odd := "a\x00b\xff\x1a\x1f\x1a41\u2028é"
	d := delivery(odd, odd, odd)
	d.Tenant, d.Lane, d.Numbers, d.BuildError, d.Values = odd, odd+"/lane", []string{odd, "n2"}, odd, map[string]string{odd: odd}
	d.Log = []callhook.Attempt{{Reply: odd, Error: odd}}
	want := *d
	enqueue(t, q, d)
	for what, f := range map[string]callhook.Filter{
		"IDs": {IDs: []string{odd}}, "Tenant": {Tenant: odd}, "Webhook": {Webhook: odd}, "Call": {Call: odd}, "Number": {Number: odd}, "second number": {Number: "n2"},
	} {
		if ds, err := q.List(t.Context(), f); err != nil || len(ds) != 1 {
			t.Errorf("List by %s returned %d, %v, want 1", what, len(ds), err)
		}
	}
	got, err := q.Get(t.Context(), odd)
	if err != nil {
		t.Fatal(err)
	}
	for what, is := range map[string]bool{
		"ID": got.ID == odd, "Tenant": got.Tenant == odd, "Webhook": got.Webhook == odd, "Lane": got.Lane == want.Lane, "Call": got.Call == odd,
		"BuildError": got.BuildError == odd, "Values": got.Values[odd] == odd, "Numbers": len(got.Numbers) == 2 && got.Numbers[0] == odd && got.Numbers[1] == "n2",
		"Log": len(got.Log) == 1 && got.Log[0].Reply == odd && got.Log[0].Error == odd,
	} {
		if !is {
			t.Errorf("%s is not as it was enqueued: %q", what, fmt.Sprintf("%+v", got))
		}
	}
}
