//go:build unix

package riverqueue_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/riverqueue"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// lossy makes a pool whose connections can lose an answer: what was sent is done, and
// nobody hears of it.
func lossy(t *testing.T, name string) (pool *pgxpool.Pool, lose func(statement string)) {
	t.Helper()
	config, err := pgxpool.ParseConfig(server.url(name))
	if err != nil {
		t.Fatal(err)
	}
	var armed atomic.Pointer[string]
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		return &losing{Conn: conn, armed: &armed}, err
	}
	// Each statement is written as it is, so that it can be told by its text.
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	if pool, err = pgxpool.NewWithConfig(context.Background(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool, func(statement string) {
		armed.Store(&statement)
		t.Cleanup(func() {
			if armed.Load() != nil {
				t.Errorf("%q was never sent: the test shows nothing", statement)
			}
		})
	}
}

// losing is a connection that breaks once the server has answered what has this text.
type losing struct {
	net.Conn
	armed  *atomic.Pointer[string]
	doomed atomic.Bool
}

func (c *losing) Write(b []byte) (int, error) {
	if s := c.armed.Load(); s != nil && strings.Contains(string(b), *s) && c.armed.CompareAndSwap(s, nil) {
		c.doomed.Store(true)
	}
	return c.Conn.Write(b)
}

func (c *losing) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.doomed.Load() && err == nil {
		time.Sleep(100 * time.Millisecond) // by then it is committed
		_ = c.Conn.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// TestLostAnswers: Postgres has done what it was asked to, and the connection breaks
// before it says so.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		statement string
		ordered   bool
	}{
		"partitions are taken":           {"commit", false},
		"partitions are taken over":      {"attempted_at <= clock_timestamp()", false},
		"one is put behind another":      {"SET state = 'blocked'", true},
		"verdicts":                       {"SET delivered = l.delivered", true},
		"others go on":                   {"d.state = 'blocked' AND NOT", true},
		"deliveries are loaded":          {"i.n, d.ticket IS NOT DISTINCT", true},
		"somebody says that he is alive": {"ON CONFLICT (id) DO UPDATE SET beat", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, db := database(t)
			pool, lose := lossy(t, db)
			q := open(t, riverqueue.Options{Pool: pool, Partitions: 4, Logger: logger(t)})
			const calls, each = 20, 3
			for n := range each {
				for call := range calls {
					d := delivery(fmt.Sprint("hook", call%5), fmt.Sprint("call", call), fmt.Sprintf("d%d_%d", call, n))
					d.Ordered = c.ordered
					enqueue(t, q, d)
				}
			}
			lose(c.statement)
			book := newLedger(t)
			stop := consume(t, q, book.handler(0, func() { time.Sleep(time.Millisecond) }))
			until(t, "all came", func() bool { return book.count() == calls*each })
			book.check()
			stop()
			if book.repeated > 0 {
				t.Errorf("%d came twice", book.repeated)
			}
		})
	}
}

// TestParkedUnheard: what was parked is not handed out because nobody heard so.
func TestParkedUnheard(t *testing.T) {
	t.Parallel()
	_, db := database(t)
	pool, lose := lossy(t, db)
	q := open(t, riverqueue.Options{Pool: pool, Logger: logger(t)})
	var handed atomic.Int64
	consume(t, q, func(*callhook.Delivery) callhook.Verdict {
		handed.Add(1)
		return callhook.Park()
	})
	parked := func(n int) {
		t.Helper()
		until(t, fmt.Sprint(n, " are parked"), func() bool {
			ds, err := q.List(t.Context(), callhook.Filter{State: callhook.StateParked})
			return err == nil && len(ds) == n
		})
	}
	enqueue(t, q, delivery("crm", "call0", "d0"))
	parked(1)
	lose("SET state = 'parked', ticket = NULL, due = NULL, parked = t.parked")
	enqueue(t, q, delivery("crm", "call1", "d1"))
	parked(2)
	enqueue(t, q, delivery("crm", "call2", "d2"))
	parked(3)
	if n := handed.Load(); n != 1 {
		t.Errorf("%d were handed out, want the first: the others wait behind it", n)
	}
}

// TestConsumeAgain: the end of a Consume that Postgres did not hear of is no reason not
// to work the partitions when the same queue is consumed again.
func TestConsumeAgain(t *testing.T) {
	t.Parallel()
	pool, _ := database(t)
	q := open(t, riverqueue.Options{Pool: pool, Logger: logger(t)})
	book := newLedger(t)
	stop := consume(t, q, book.handler(0, func() {}))
	enqueue(t, q, event(0))
	until(t, "one came", func() bool { return book.count() == 1 })
	stop()
	// As if its last word had never got there.
	if _, err := pool.Exec(t.Context(), "INSERT INTO callhook.callhook_consumers SELECT last, 'again', now() FROM callhook.callhook_partitions LIMIT 1 ON CONFLICT DO NOTHING"); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), "UPDATE callhook.callhook_partitions SET owner = last"); err != nil {
		t.Fatal(err)
	}
	consume(t, q, book.handler(0, func() {}))
	for n := range 20 {
		enqueue(t, q, event(n))
	}
	until(t, "all came", func() bool { return book.count() == 21 })
}

// TestSlowTakeOver: a table that somebody has locked for longer than a lease is no
// reason to take a process for dead that waits for it.
func TestSlowTakeOver(t *testing.T) {
	t.Parallel()
	pool, db := database(t)
	o := riverqueue.Options{Pool: pool, Lease: time.Second, Partitions: 4, Logger: logger(t)}
	q := open(t, o)
	ctx := t.Context()
	tx, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(ctx, "LOCK TABLE callhook.river_job IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	book := newLedger(t)
	consume(t, q, book.handler(0, func() {}))
	owner := func() (id int64) {
		t.Helper()
		if err := pool.QueryRow(ctx, "SELECT coalesce(min(owner), 0) FROM callhook.callhook_partitions").Scan(&id); err != nil {
			t.Fatal(err)
		}
		return id
	}
	until(t, "it has the partitions", func() bool { return owner() != 0 })
	first := owner()
	o.Pool = connect(t, db)
	other := open(t, o)
	consume(t, other, book.handler(1, func() {}))
	time.Sleep(3 * time.Second)
	var alive bool
	if err := pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM callhook.callhook_consumers WHERE id = $1 AND beat > now() - interval '1 second')", first).Scan(&alive); err != nil || !alive {
		t.Errorf("whoever waits for the table is taken for dead (%v)", err)
	}
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	for n := range 20 {
		enqueue(t, q, event(n))
	}
	until(t, "all came", func() bool { return book.count() == 20 })
}

// TestSmallPool: transactions that have all connections of the pool raise the first
// events of webhooks.
func TestSmallPool(t *testing.T) {
	t.Parallel()
	_, db := database(t)
	config, err := pgxpool.ParseConfig(server.url(db))
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 2
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	q := open(t, riverqueue.Options{Pool: pool})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var txs []pgx.Tx
	for range config.MaxConns {
		tx, err := pool.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(context.Background())
		txs = append(txs, tx)
	}
	for n, tx := range txs {
		if err := q.Enqueue(riverqueue.WithTx(ctx, tx), delivery(fmt.Sprint("hook", n), "call", fmt.Sprint("d", n))); err != nil {
			t.Fatal(err)
		}
	}
	for _, tx := range txs {
		if err := tx.Commit(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if counts, err := q.Counts(ctx); err != nil || counts.Pending != 2 {
		t.Errorf("Counts are %+v, %v, want 2 pending", counts, err)
	}
}

// TestRaisedTwice: one that waits for the transaction in which its event was raised
// first keeps no other waiting.
func TestRaisedTwice(t *testing.T) {
	t.Parallel()
	pool, _ := database(t)
	q := open(t, riverqueue.Options{Pool: pool})
	ctx := t.Context()
	enqueue(t, q, delivery("crm", "call", "before")) // the lane is known
	tx, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if err := q.Enqueue(riverqueue.WithTx(ctx, tx), delivery("crm", "call", "same")); err != nil {
		t.Fatal(err)
	}
	again := make(chan error, 1)
	go func() { again <- q.Enqueue(ctx, delivery("crm", "call", "same")) }()
	time.Sleep(50 * time.Millisecond)
	soon, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for n := range 5 {
		if err := q.Enqueue(soon, delivery("crm", "call", fmt.Sprint("other", n))); err != nil {
			t.Fatalf("another event is kept waiting: %v", err)
		}
	}
	select {
	case err := <-again:
		t.Fatalf("Enqueue of the same returned %v before the transaction has ended", err)
	default:
	}
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-again; err != nil {
		t.Error(err)
	}
	if counts, err := q.Counts(ctx); err != nil || counts.Pending != 7 {
		t.Errorf("Counts are %+v, %v, want 7 pending", counts, err)
	}
}
