package main

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func natsKinds() []kind {
	return []kind{{
		key: "nats-sync", name: "NATS JetStream 2.15 embedded, SyncAlways", fsync: "each message", durable: true, embedded: true, synced: true,
		verify: verifyStandard, open: func(s setup) (peer, error) { return openNATS(s, true) },
	}, {
		key: "nats", name: "NATS JetStream 2.15 embedded", fsync: "every 2 minutes", durable: true, embedded: true,
		verify: verifyStandard, open: func(s setup) (peer, error) { return openNATS(s, false) },
	}}
}

type natsPeer struct {
	server   *server.Server // in this process; nil where it is one of its own
	sender   *sender
	conns    []*nats.Conn
	js       jetstream.JetStream
	stream   jetstream.Stream
	consumer jetstream.Consumer
	messages jetstream.MessagesContext
	done     sync.WaitGroup
}

// startNATS runs a server in this process, which listens on loopback or is reached in
// memory only.
func startNATS(dir string, sync, listen bool) (*server.Server, error) {
	srv, err := server.NewServer(&server.Options{
		ServerName: "bench", Host: "127.0.0.1", Port: server.RANDOM_PORT, DontListen: !listen,
		NoSigs: true, NoLog: true, DisableJetStreamBanner: true,
		JetStream: true, StoreDir: dir, SyncAlways: sync,
	})
	if err != nil {
		return nil, err
	}
	go srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		return nil, errors.New("the server does not start")
	}
	if got := srv.JetStreamConfig(); got == nil || got.SyncAlways != sync {
		return nil, errors.New("the server does not sync as it was told")
	}
	return srv, nil
}

// openNATS runs the server in this process and connects to it in memory, which
// saves the network.
func openNATS(s setup, sync bool) (peer, error) {
	srv, err := startNATS(s.Dir, sync, false)
	if err != nil {
		return nil, err
	}
	p, err := connectNATS(s, "", nats.InProcessServer(srv))
	if err != nil {
		srv.Shutdown()
		return nil, err
	}
	p.server = srv
	return p, nil
}

// natsAckWait is when what was fetched comes again unless it is acknowledged, which
// leaves an attempt its 15 s.
const natsAckWait = 20 * time.Second

// connectNATS makes the stream, a work queue in files, if there is none. It takes one
// connection for producers and one for workers: the server reads a connection in one
// goroutine.
func connectNATS(s setup, url string, how ...nats.Option) (*natsPeer, error) {
	p := &natsPeer{sender: newSender(s.URLs)}
	var err error
	for range 2 {
		conn, err := nats.Connect(url, how...)
		if err != nil {
			return nil, err
		}
		p.conns = append(p.conns, conn)
	}
	if p.js, err = jetstream.New(p.conns[0], jetstream.WithPublishAsyncMaxPending(1000)); err != nil {
		return nil, err
	}
	reader, err := jetstream.New(p.conns[1])
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if p.stream, err = reader.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: "webhooks", Subjects: []string{"webhooks.*"}, Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage,
	}); err != nil {
		return nil, err
	}
	p.consumer, err = p.stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
		Durable: "senders", AckPolicy: jetstream.AckExplicitPolicy, AckWait: natsAckWait,
	})
	return p, err
}

func (p *natsPeer) message(e event) *nats.Msg {
	return &nats.Msg{Subject: "webhooks." + strconv.Itoa(e.endpoint), Data: e.body, Header: nats.Header{"Id": {callID(e.id)}}}
}

// Enqueue waits until the server has acknowledged the message.
func (p *natsPeer) Enqueue(ctx context.Context, e event) error {
	_, err := p.js.PublishMsg(ctx, p.message(e))
	return err
}

func (p *natsPeer) Fill(ctx context.Context, events []event) error {
	acks := make([]jetstream.PubAckFuture, len(events))
	for i, e := range events {
		var err error
		if acks[i], err = p.js.PublishMsgAsync(p.message(e)); err != nil {
			return err
		}
	}
	for _, a := range acks {
		select {
		case <-a.Ok():
		case err := <-a.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Start uses Messages, which jetstream's documentation recommends for work queues:
// it fetches ahead, and each worker takes one at a time. It fetches four for each
// worker ahead and not 500, since what lies there too long is sent twice.
func (p *natsPeer) Start(context.Context) error {
	var err error
	if p.messages, err = p.consumer.Messages(jetstream.PullMaxMessages(4 * workers)); err != nil {
		return err
	}
	for range workers {
		p.done.Go(func() {
			for {
				m, err := p.messages.Next()
				if err != nil {
					return
				}
				endpoint, _ := strconv.Atoi(m.Subject()[len("webhooks."):])
				if p.sender.send(context.Background(), endpoint, m.Headers().Get("Id"), m.Data()) == nil {
					_ = m.Ack()
				}
			}
		})
	}
	return nil
}

func (p *natsPeer) Stop() error {
	if p.messages != nil {
		p.messages.Stop()
	}
	p.done.Wait()
	p.sender.close()
	for _, c := range p.conns {
		_ = c.Flush()
		c.Close()
	}
	if p.server != nil {
		p.server.Shutdown()
		p.server.WaitForShutdown()
	}
	return nil
}

func (p *natsPeer) Pending(ctx context.Context) (int, error) {
	info, err := p.stream.Info(ctx)
	if err != nil {
		return 0, err
	}
	return int(info.State.Msgs), nil
}
