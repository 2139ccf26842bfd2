package natsqueue_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/natsqueue"
)

// startServer starts a server that keeps its streams in a folder, on a port that the
// system picks. It syncs each write.
func startServer(dir string, change ...func(*server.Options)) (*server.Server, error) {
	o := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: dir, SyncAlways: true}
	for _, f := range change {
		f(o)
	}
	srv, err := server.NewServer(o)
	if err != nil {
		return nil, err
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		srv.Shutdown()
		return nil, fmt.Errorf("the server on %s did not start", dir)
	}
	return srv, nil
}

// servers are those of a test that are running, one for each folder, which whoever
// opens a queue in the same folder shares.
var servers = struct {
	sync.Mutex
	all map[string]*shared
}{all: map[string]*shared{}}

type shared struct {
	*server.Server
	users int
}

// enter returns the server of a folder, and what to call when it is not used any more.
func enter(dir string) (*server.Server, func(), error) {
	servers.Lock()
	defer servers.Unlock()
	s := servers.all[dir]
	if s == nil {
		srv, err := startServer(filepath.Join(dir, "server"))
		if err != nil {
			return nil, nil, err
		}
		s = &shared{Server: srv}
		servers.all[dir] = s
	}
	s.users++
	return s.Server, sync.OnceFunc(func() {
		servers.Lock()
		defer servers.Unlock()
		if s.users--; s.users == 0 {
			delete(servers.all, dir)
			s.Shutdown()
			s.WaitForShutdown()
		}
	}), nil
}

// queue is one that takes its connection, and then its server, with it.
type queue struct {
	*natsqueue.Queue
	conn  *nats.Conn
	leave func()
}

func (q *queue) Close() error {
	err := q.Queue.Close()
	q.leave()
	return err
}

func connect(t testing.TB, url string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	return nc
}

func logger() *slog.Logger {
	if os.Getenv("NATSQUEUE_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// open opens a queue on the server of a folder.
func open(t testing.TB, dir string, o natsqueue.Options) callhook.Queue {
	t.Helper()
	srv, leave, err := enter(dir)
	if err != nil {
		t.Fatal(err)
	}
	o.Conn, o.Logger = connect(t, srv.ClientURL()), logger()
	q, err := natsqueue.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return &queue{q, o.Conn, func() { o.Conn.Close(); leave() }}
}

func jetStreamOf(t testing.TB, q callhook.Queue) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(q.(*queue).conn)
	if err != nil {
		t.Fatal(err)
	}
	return js
}
