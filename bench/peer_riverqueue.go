package main

import (
	"context"
	"time"

	"github.com/callhook-go/callhook/queue/riverqueue"
	"github.com/jackc/pgx/v5/pgxpool"
)

// riverqueueKinds are callhook's queue on River and River used bare, on Postgres.
func riverqueueKinds() []kind {
	const fsync = "each commit (fsync, synchronous_commit on)"
	return []kind{{
		key: "riverqueue", name: "callhook, riverqueue", fsync: fsync, durable: true, synced: true, ours: true, postgres: true,
		comesAgain: "Lease 10 s, a fifth of it where only a process ends", verify: verifyStandard, open: openRiverqueue,
	}, {
		key: "river-server", name: "River bare on Postgres", fsync: fsync, durable: true, synced: true, postgres: true,
		comesAgain: "RescueStuckJobsAfter " + short(riverRescue) + ", looked at every 30 s", verify: verifyStandard, open: openRiverPostgres,
	}}
}

// openRiverqueue has the queue's defaults.
func openRiverqueue(s setup) (peer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	pool, err := openPostgres(ctx, s)
	if err != nil {
		return nil, err
	}
	o := riverqueue.Options{Pool: pool}
	if err := riverqueue.Migrate(ctx, o); err != nil {
		pool.Close()
		return nil, err
	}
	queue, err := riverqueue.Open(ctx, o)
	if err != nil {
		pool.Close()
		return nil, err
	}
	return openCallhook(s, pooled{queue, pool})
}

// pooled is a queue that takes its pool with it.
type pooled struct {
	*riverqueue.Queue
	pool *pgxpool.Pool
}

func (q pooled) Close() error {
	defer q.pool.Close()
	return q.Queue.Close()
}
