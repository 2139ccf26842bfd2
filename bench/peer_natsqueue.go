package main

import (
	"context"
	"time"

	"github.com/callhook-go/callhook/queue/natsqueue"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// natsqueueKinds are callhook's queue on JetStream and JetStream used bare, with a server
// that syncs each write and with one that does so as it does unless told.
func natsqueueKinds() (all []kind) {
	bare := func(s setup) (peer, error) { return connectNATS(s, s.Server) }
	for _, m := range []struct {
		synced     bool
		key, fsync string
		ours, bare string
	}{
		{true, "-sync", "sync_interval: always", "callhook, natsqueue, sync always", "NATS JetStream bare, sync always"},
		{false, "", "every 2 minutes", "callhook, natsqueue, default sync", "NATS JetStream bare, default sync"},
	} {
		all = append(all,
			kind{key: "natsqueue" + m.key, name: m.ours, fsync: m.fsync, synced: m.synced,
				durable: true, ours: true, nats: true, comesAgain: "Lease 10 s", verify: verifyStandard, open: openNatsqueue},
			kind{key: "nats-server" + m.key, name: m.bare, fsync: m.fsync, synced: m.synced,
				durable: true, nats: true, comesAgain: "AckWait " + short(natsAckWait), verify: verifyStandard, open: bare})
	}
	return all
}

// openNatsqueue has the queue's defaults.
func openNatsqueue(s setup) (peer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := nats.Connect(s.Server, nats.MaxReconnects(-1))
	if err != nil {
		return nil, err
	}
	queue, err := natsqueue.Open(ctx, natsqueue.Options{Conn: conn})
	if err != nil {
		conn.Close()
		return nil, err
	}
	return openCallhook(s, connected{queue, conn})
}

// connected is a queue that takes its connection with it.
type connected struct {
	*natsqueue.Queue
	conn *nats.Conn
}

func (q connected) Close() error {
	defer q.conn.Close()
	return q.Queue.Close()
}

const natsVersion = "nats-server " + server.VERSION
