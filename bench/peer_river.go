package main

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
)

func riverKinds() []kind {
	return []kind{{
		key: "river-sqlite", name: "river 0.51 on SQLite", fsync: syncedSQLite, durable: true, embedded: true, synced: true,
		verify: verifyStandard, open: openRiverSQLite,
	}, {
		key: "river-postgres", name: "river 0.51 on Postgres", fsync: "each commit (fsync, synchronous_commit on)", durable: true, synced: true,
		verify: verifyStandard, open: openRiverPostgres, postgres: true,
	}}
}

// riverJob keeps the body as text: the columns are jsonb, which would write JSON anew
// and change the bytes.
type riverJob struct {
	ID       string `json:"id"`
	Endpoint int    `json:"endpoint"`
	Body     string `json:"body"`
}

func (riverJob) Kind() string { return "webhook" }

type riverWorker struct {
	river.WorkerDefaults[riverJob]
	sender *sender
}

func (w *riverWorker) Work(ctx context.Context, job *river.Job[riverJob]) error {
	return w.sender.send(ctx, job.Args.Endpoint, job.Args.ID, []byte(job.Args.Body))
}

type riverPeer[Tx any] struct {
	client  *river.Client[Tx]
	sender  *sender
	pending func(context.Context) (int, error)
	close   func() error
	started bool
}

var quiet = slog.New(slog.DiscardHandler)

const riverRescue = 25 * time.Second

// openRiver takes the smallest FetchCooldown, since River's documentation says that
// it is what limits throughput. Postgres tells it of new jobs and polling is for what got
// lost; on SQLite it polls. A job that ran when its process died is
// rescued after 25 s instead of an hour: as soon as can be after the 20 s that a
// job may take.
func openRiver[Tx any](s setup, driver riverdriver.Driver[Tx], poll time.Duration) (*riverPeer[Tx], error) {
	ctx := context.Background()
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: quiet})
	if err != nil {
		return nil, err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, err
	}
	p := &riverPeer[Tx]{sender: newSender(s.URLs)}
	all := river.NewWorkers()
	river.AddWorker(all, &riverWorker{sender: p.sender})
	p.client, err = river.NewClient(driver, &river.Config{
		Logger: quiet, Workers: all,
		Queues:        map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}},
		FetchCooldown: time.Millisecond, FetchPollInterval: poll,
		JobTimeout: 20 * time.Second, RescueStuckJobsAfter: riverRescue,
	})
	return p, err
}

func openRiverSQLite(s setup) (peer, error) {
	db, err := openSQLite(s.Dir)
	if err != nil {
		return nil, err
	}
	p, err := openRiver[*sql.Tx](s, riversqlite.New(db), 10*time.Millisecond)
	if err != nil {
		db.Close()
		return nil, err
	}
	p.close = db.Close
	p.pending = func(ctx context.Context) (n int, err error) {
		err = db.QueryRowContext(ctx, riverPending).Scan(&n)
		return n, err
	}
	return p, nil
}

// openPostgres connects to a database and looks whether a commit is on the disk when
// it returns.
func openPostgres(ctx context.Context, s setup) (*pgxpool.Pool, error) {
	c, err := pgxpool.ParseConfig(s.Database)
	if err != nil {
		return nil, err
	}
	c.MaxConns = 2 * workers // for producers and workers alike
	db, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"fsync", "synchronous_commit"} {
		var value string
		if err := db.QueryRow(ctx, "SHOW "+name).Scan(&value); err != nil || value != "on" {
			db.Close()
			return nil, errors.Join(err, errors.New("postgres runs with "+name+"="+value))
		}
	}
	return db, nil
}

func openRiverPostgres(s setup) (peer, error) {
	db, err := openPostgres(context.Background(), s)
	if err != nil {
		return nil, err
	}
	p, err := openRiver(s, riverpgxv5.New(db), 100*time.Millisecond)
	if err != nil {
		db.Close()
		return nil, err
	}
	p.close = func() error { db.Close(); return nil }
	p.pending = func(ctx context.Context) (n int, err error) {
		err = db.QueryRow(ctx, riverPending).Scan(&n)
		return n, err
	}
	return p, nil
}

const riverPending = "SELECT count(*) FROM river_job WHERE finalized_at IS NULL"

func (p *riverPeer[Tx]) Enqueue(ctx context.Context, e event) error {
	_, err := p.client.Insert(ctx, riverJob{ID: callID(e.id), Endpoint: e.endpoint, Body: string(e.body)}, nil)
	return err
}

func (p *riverPeer[Tx]) Fill(ctx context.Context, events []event) error {
	all := make([]river.InsertManyParams, len(events))
	for i, e := range events {
		all[i].Args = riverJob{ID: callID(e.id), Endpoint: e.endpoint, Body: string(e.body)}
	}
	_, err := p.client.InsertManyFast(ctx, all)
	return err
}

func (p *riverPeer[Tx]) Start(ctx context.Context) error {
	p.started = true
	return p.client.Start(context.WithoutCancel(ctx)) // Stop ends it
}

func (p *riverPeer[Tx]) Stop() error {
	var err error
	if p.started {
		err = p.client.Stop(context.Background())
	}
	p.sender.close()
	return errors.Join(err, p.close())
}

func (p *riverPeer[Tx]) Pending(ctx context.Context) (int, error) { return p.pending(ctx) }
