package main

import (
	"context"
	"database/sql"
	_ "embed"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"maragu.dev/goqite"
)

func goqiteKinds() []kind {
	return []kind{{
		key: "goqite", name: "goqite 0.4 on SQLite", fsync: syncedSQLite, durable: true, embedded: true, synced: true,
		verify: verifyStandard, open: openGoqite,
	}}
}

// goqiteSchema is the module's schema_sqlite.sql, which it leaves to its user to run.
//
//go:embed goqite.sql
var goqiteSchema string

type goqitePeer struct {
	db     *sql.DB
	queue  *goqite.Queue
	sender *sender
	stop   context.CancelFunc
	done   sync.WaitGroup
}

// goqiteMessage is what a webhook sender has to keep beside the body.
type goqiteMessage struct {
	ID       string
	Endpoint int
	Body     []byte
}

// openGoqite uses the queue itself and not its job runner, which adds a goroutine
// to each job and a second encoding. A message comes again after 20 s, which leaves an
// attempt its 15 s; the default of 5 s would send the slow ones twice.
func openGoqite(s setup) (peer, error) {
	db, err := openSQLite(s.Dir)
	if err != nil {
		return nil, err
	}
	var tables int
	if err := db.QueryRow("SELECT count(*) FROM sqlite_master WHERE name = 'goqite'").Scan(&tables); err != nil {
		return nil, err
	}
	if tables == 0 {
		if _, err := db.Exec(goqiteSchema); err != nil {
			return nil, err
		}
	}
	return &goqitePeer{db: db, sender: newSender(s.URLs),
		queue: goqite.New(goqite.NewOpts{DB: db, Name: "webhooks", Timeout: 20 * time.Second, MaxReceive: 1000})}, nil
}

func (p *goqitePeer) message(e event) (goqite.Message, error) {
	body, err := json.Marshal(goqiteMessage{ID: callID(e.id), Endpoint: e.endpoint, Body: e.body})
	return goqite.Message{Body: body}, err
}

func (p *goqitePeer) Enqueue(ctx context.Context, e event) error {
	m, err := p.message(e)
	if err != nil {
		return err
	}
	return p.queue.Send(ctx, m)
}

func (p *goqitePeer) Fill(ctx context.Context, events []event) error {
	tx, err := p.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	for _, e := range events {
		m, err := p.message(e)
		if err != nil {
			return err
		}
		if err := p.queue.SendTx(ctx, tx, m); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// Start receives in one goroutine, since SQLite lets only one write, and works in 16.
func (p *goqitePeer) Start(ctx context.Context) error {
	ctx, p.stop = context.WithCancel(ctx)
	messages := make(chan *goqite.Message)
	p.done.Go(func() {
		defer close(messages)
		for {
			m, err := p.queue.ReceiveAndWait(ctx, time.Millisecond)
			if err != nil {
				return
			}
			select {
			case messages <- m:
			case <-ctx.Done():
				return // it comes again
			}
		}
	})
	for range workers {
		p.done.Go(func() {
			for m := range messages {
				p.work(m)
			}
		})
	}
	return nil
}

func (p *goqitePeer) work(m *goqite.Message) {
	var msg goqiteMessage
	ctx := context.Background() // what is under way ends by itself
	if json.Unmarshal(m.Body, &msg) != nil || p.sender.send(ctx, msg.Endpoint, msg.ID, msg.Body) != nil {
		return // it comes again
	}
	_ = p.queue.Delete(ctx, m.ID)
}

func (p *goqitePeer) Stop() error {
	if p.stop != nil {
		p.stop()
	}
	p.done.Wait()
	p.sender.close()
	return p.db.Close()
}

func (p *goqitePeer) Pending(ctx context.Context) (n int, err error) {
	err = p.db.QueryRowContext(ctx, "SELECT count(*) FROM goqite").Scan(&n)
	if err != nil {
		err = fmt.Errorf("goqite: %w", err)
	}
	return n, err
}
