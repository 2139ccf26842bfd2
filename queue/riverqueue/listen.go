package riverqueue

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// dedicated takes a connection out of the pool for good, which makes itself another
// when it needs one. Postgres learns within seconds when its other end is gone.
func dedicated(ctx context.Context, pool *pgxpool.Pool) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	pooled, err := pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	conn := pooled.Hijack()
	if _, err := conn.Exec(ctx, "SELECT set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '2', false), set_config('tcp_keepalives_count', '2', false)"); err != nil {
		hangUp(conn)
		return nil, err
	}
	return conn, nil
}

func hangUp(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// listenTo calls heard for each notification until ctx ends or the connection breaks,
// which it finds out by itself.
func listenTo(ctx context.Context, conn *pgx.Conn, heard func(payload string)) error {
	for {
		wait, cancel := context.WithTimeout(ctx, 5*time.Second)
		n, err := conn.WaitForNotification(wait)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			heard(n.Payload)
			continue
		case !errors.Is(err, context.DeadlineExceeded):
			return err
		}
		wait, cancel = context.WithTimeout(ctx, 5*time.Second)
		err = conn.Ping(wait)
		cancel()
		if err != nil {
			return err
		}
	}
}
