package riverqueue

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// beside makes a connection as the pool does, which is none of its own: so whoever has
// all of those is waited for by nobody.
func beside(ctx context.Context, pool *pgxpool.Pool) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	config := pool.Config()
	if config.BeforeConnect != nil {
		if err := config.BeforeConnect(ctx, config.ConnConfig); err != nil {
			return nil, err
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return nil, err
	}
	if config.AfterConnect != nil {
		if err := config.AfterConnect(ctx, conn); err != nil {
			hangUp(conn)
			return nil, err
		}
	}
	return conn, nil
}

// dedicated is a connection for long. Postgres learns within seconds when its other end
// is gone.
func dedicated(ctx context.Context, pool *pgxpool.Pool) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	conn, err := beside(ctx, pool)
	if err != nil {
		return nil, err
	}
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
