package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"
)

const (
	workers = 16               // deliveries at once, of every peer
	timeout = 15 * time.Second // of one attempt, callhook's default
)

// peer is one contestant at work.
type peer interface {
	// Enqueue returns when the peer has accepted the event.
	Enqueue(ctx context.Context, e event) error
	// Start begins to deliver. A peer that cannot help delivering has begun before.
	Start(ctx context.Context) error
	// Stop ends the peer as its documentation says to: attempts under way finish.
	Stop() error
}

// filler is a peer that takes many events at once. It serves to get many pending
// soon and is never timed.
type filler interface {
	Fill(ctx context.Context, events []event) error
}

// counter is a peer that can tell how many events it has yet to deliver.
type counter interface {
	Pending(ctx context.Context) (int, error)
}

// kind is a row of the table.
type kind struct {
	key   string // short name, for -only and children
	name  string
	fsync string // when it puts events on the disk

	durable  bool // events survive the process
	embedded bool // without a server beside the program
	synced   bool // an accepted event is on the disk
	ours     bool // callhook
	postgres bool // needs the cluster
	nats     bool // needs a NATS server that is a process of its own

	comesAgain string // what has the setting to say when the work of a dead process is taken over
	open       func(setup) (peer, error)
	// verify checks the signature of a request.
	verify func(*http.Request, []byte) error
}

// judged reports whether a budget rests on the row.
func (k kind) judged() bool { return k.key == memoryQueue || k.key == sqliteQueue }

// The keys of rows that budgets rest on.
const (
	memoryQueue = "memory"
	sqliteQueue = "sqlite"
	barePool    = "pool"
)

// setup is what a peer is opened with.
type setup struct {
	Dir      string   // an empty folder, or what an earlier process left there
	Database string   // connection string of a Postgres database
	Server   string   // URL of a NATS server
	URLs     []string // the endpoints
	Limit    int      // how many events are pending at most
	Attempts int      // of callhook at once in one process, all of which one webhook may take; zero for its defaults
}

// kinds are all rows of the first table, in its order.
func kinds() []kind {
	return slices.Concat(
		callhookKinds(),
		sqliteQueueKinds(),
		livekitKinds(),
		riverKinds(),
		natsKinds(),
		goqiteKinds(),
		poolKinds(),
	)
}

func kindOf(key string) (kind, error) {
	for _, k := range slices.Concat(kinds(), engineKinds()) {
		if k.key == key {
			return k, nil
		}
	}
	return kind{}, fmt.Errorf("no row has the key %q", key)
}
