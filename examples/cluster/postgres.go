package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/callhook-go/callhook/queue/riverqueue"
)

// connectPostgres opens the queue and the configs in Postgres.
func connectPostgres(ctx context.Context, url string, log *slog.Logger) (*shared, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = 8 // 4 are enough; a worker has three more, on which it listens
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	o := riverqueue.Options{Pool: pool, Lease: lease, Logger: log}
	if err := riverqueue.Migrate(ctx, o); err != nil { // or as a step of the deployment
		pool.Close()
		return nil, err
	}
	queue, err := riverqueue.Open(ctx, o)
	if err != nil {
		pool.Close()
		return nil, err
	}
	configs, err := riverqueue.OpenConfigs(ctx, o)
	if err != nil {
		_ = queue.Close()
		pool.Close()
		return nil, err
	}
	return &shared{queue, configs, func() { _ = queue.Close(); pool.Close() }}, nil
}

// servePostgres is the engine: a Postgres in a folder. It is there to be killed; then
// it returns when the last of its processes is gone, so that another can be started on
// the folder.
func servePostgres(address, dir string, gone <-chan struct{}) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	bin, err := postgresBinaries()
	if err != nil {
		return err
	}
	attr, err := unprivileged(dir)
	if err != nil {
		return err
	}
	data := filepath.Join(dir, "data")
	if _, err := os.Stat(data); err != nil {
		init := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", u.User.Username(), "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
		init.Dir, init.SysProcAttr = dir, attr
		if out, err := init.CombinedOutput(); err != nil {
			return fmt.Errorf("initdb: %w: %.500s", err, out)
		}
	}
	server := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-p", u.Port(),
		"-c", "listen_addresses="+u.Hostname(), "-c", "unix_socket_directories=", "-c", "max_connections=150")
	server.Dir, server.SysProcAttr = dir, attr
	log := new(tail)
	server.Stdout, server.Stderr = log, log // a pipe, whose end is that of all processes that have it
	if err := server.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	for deadline := time.Now().Add(20 * time.Second); ; {
		err := ping(address)
		if err == nil {
			break
		}
		select {
		case <-ended:
			return fmt.Errorf("postgres does not start:\n%s", log)
		case <-gone:
		case <-time.After(20 * time.Millisecond):
			if time.Now().Before(deadline) {
				continue
			}
		}
		_ = server.Process.Kill()
		<-ended
		return fmt.Errorf("postgres does not start: %w\n%s", err, log)
	}
	say("ready %d", server.Process.Pid)
	select {
	case <-ended: // killed; whoever started it knows, or says so
		return nil
	case <-gone:
	}
	_ = server.Process.Signal(os.Interrupt) // a fast shutdown
	<-ended
	return os.RemoveAll(dir)
}

func ping(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return conn.Ping(ctx)
}

var errNoPostgres = errors.New("no Postgres is installed (initdb is neither on PATH nor in /usr/lib/postgresql/*/bin): apt-get install postgresql-15, or brew install postgresql@15")

// postgresBinaries returns the folder of initdb and postgres.
func postgresBinaries() (string, error) {
	if initdb, err := exec.LookPath("initdb"); err == nil {
		if initdb, err = filepath.EvalSymlinks(initdb); err != nil {
			return "", err
		}
		return filepath.Dir(initdb), nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", errNoPostgres
	}
	return filepath.Dir(slices.Max(found)), nil
}

// tail is the end of what was written to it.
type tail []byte

func (t *tail) Write(b []byte) (int, error) {
	*t = append(*t, b...)
	*t = (*t)[max(0, len(*t)-4096):]
	return len(b), nil
}

func (t *tail) String() string { return string(*t) }
