package riverqueue_test

import (
	"context"
	"log"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/riverqueue"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A node that keeps configs and deliveries in Postgres.
func Example() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://localhost/calls")
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	o := riverqueue.Options{Pool: pool}
	if err := riverqueue.Migrate(ctx, o); err != nil {
		log.Fatal(err)
	}
	queue, err := riverqueue.Open(ctx, o)
	if err != nil {
		log.Fatal(err)
	}
	defer queue.Close()
	configs, err := riverqueue.OpenConfigs(ctx, o)
	if err != nil {
		log.Fatal(err)
	}
	hooks, err := callhook.New(callhook.Options{Configs: configs, Queue: queue})
	if err != nil {
		log.Fatal(err)
	}
	defer hooks.Close()
	if err := hooks.Run(ctx); err != nil {
		log.Fatal(err)
	}
}

// The end of a call and its event are stored by one transaction, or neither is.
func ExampleWithTx() {
	endCall := func(ctx context.Context, pool *pgxpool.Pool, hooks *callhook.Hooks, call *callhook.Call) error {
		call.EndedAt = time.Now()
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "UPDATE calls SET ended_at = $1 WHERE id = $2", call.EndedAt, call.ID); err != nil {
				return err
			}
			return hooks.PostCall(riverqueue.WithTx(ctx, tx), call)
		})
	}
	_ = endCall
}
