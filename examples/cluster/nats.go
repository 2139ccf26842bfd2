package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/callhook-go/callhook/queue/natsqueue"
)

// connectNATS opens the queue and the configs in JetStream.
func connectNATS(ctx context.Context, url string, log *slog.Logger) (*shared, error) {
	nc, err := nats.Connect(url,
		nats.Name(os.Getenv(nodeVar)),
		nats.MaxReconnects(-1),                   // never give up
		nats.ReconnectWait(200*time.Millisecond)) // 2 s unless told, which is a whole lease here
	if err != nil {
		return nil, err
	}
	// On three servers Replicas is 3 here and for the configs. MaxBytes leaves the
	// server's disk room for verdicts.
	queue, err := natsqueue.Open(ctx, natsqueue.Options{Conn: nc, Lease: lease, MaxBytes: 1 << 30, Logger: log})
	if err != nil {
		nc.Close()
		return nil, err
	}
	configs, err := natsqueue.OpenConfigs(ctx, natsqueue.ConfigOptions{Conn: nc})
	if err != nil {
		_ = queue.Close()
		nc.Close()
		return nil, err
	}
	return &shared{queue, configs, func() { _ = queue.Close(); nc.Close() }}, nil
}

// serveNATS is the engine: a nats-server that keeps its streams in a folder. It is
// there to be killed.
func serveNATS(address, dir string, gone <-chan struct{}) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return err
	}
	srv, err := server.NewServer(&server.Options{Host: u.Hostname(), Port: port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	if err != nil {
		return err
	}
	srv.Start()
	if !srv.ReadyForConnections(20 * time.Second) {
		return fmt.Errorf("the nats-server on %s does not start", dir)
	}
	say("ready %d", os.Getpid())
	<-gone
	srv.Shutdown()
	srv.WaitForShutdown()
	return os.RemoveAll(dir)
}
