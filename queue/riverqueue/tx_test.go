//go:build unix

package riverqueue_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/riverqueue"
	"github.com/jackc/pgx/v5"
)

// TestWithTx: an event goes out with what the caller's transaction stores, or not at
// all.
func TestWithTx(t *testing.T) {
	t.Parallel()
	pool, _ := database(t)
	q := open(t, riverqueue.Options{Pool: pool})
	arrived := make(chan string, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { arrived <- r.URL.Query().Get("call") }))
	defer receiver.Close()
	config, err := callhook.ParseConfig([]byte(`{"agent_id": "a", "post_call": [{"name": "one", "url": "` + receiver.URL + `/?call={{call.id}}"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	hooks, err := callhook.New(callhook.Options{Configs: callhook.Static(config), Queue: q, AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	if err != nil {
		t.Fatal(err)
	}
	defer hooks.Close()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- hooks.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	if _, err := pool.Exec(ctx, "CREATE TABLE calls (id text PRIMARY KEY)"); err != nil {
		t.Fatal(err)
	}
	end := func(id string, before error) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "INSERT INTO calls VALUES ($1)", id); err != nil {
				return err
			}
			if err := hooks.PostCall(riverqueue.WithTx(ctx, tx), &callhook.Call{ID: id, AgentID: "a", EndedAt: time.Now()}); err != nil {
				return err
			}
			counts, err := q.Counts(ctx) // from outside of the transaction
			if err != nil || counts.Pending != 0 {
				t.Errorf("Counts before the commit are %+v, %v, want none pending", counts, err)
			}
			return before
		})
	}
	changed := errors.New("changed my mind")
	if err := end("undone", changed); !errors.Is(err, changed) {
		t.Fatal(err)
	}
	if lanes, err := q.Lanes(ctx, callhook.Filter{}); err != nil || len(lanes) != 0 {
		t.Errorf("Lanes after the rollback are %v, %v, want none: the lane never had a delivery", lanes, err)
	}
	if err := end("done", nil); err != nil {
		t.Fatal(err)
	}
	if got := <-arrived; got != "done" {
		t.Errorf("%q arrived, want the one that was committed", got)
	}
	until(t, "it is settled", func() bool {
		counts, err := q.Counts(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return counts == callhook.Counts{Accepted: 1, Delivered: 1}
	})
	if err := end("undone", nil); err != nil { // its ID is not known
		t.Fatal(err)
	}
	if got := <-arrived; got != "undone" {
		t.Errorf("%q arrived, want the one that was rolled back before", got)
	}
}

// TestOpenTx: a transaction that stays open holds up none but what it has itself.
func TestOpenTx(t *testing.T) {
	t.Parallel()
	pool, _ := database(t)
	q := open(t, riverqueue.Options{Pool: pool})
	came := make(chan string, 10)
	consume(t, q, func(d *callhook.Delivery) callhook.Verdict {
		d.Attempts++
		return callhook.Delivered().Then(func() { came <- d.ID })
	})
	ctx := t.Context()
	tx, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if err := q.Enqueue(riverqueue.WithTx(ctx, tx), delivery("crm", "call", "first")); err != nil {
		t.Fatal(err)
	}
	enqueue(t, q, delivery("crm", "call", "second"), delivery("crm", "other", "third"))
	got := map[string]bool{<-came: true, <-came: true}
	if !got["second"] || !got["third"] {
		t.Errorf("%v came, want second and third: what is not committed was not stored", got)
	}
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if id := <-came; id != "first" {
		t.Errorf("%s came, want first", id)
	}
}
