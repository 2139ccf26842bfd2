//go:build unix

package riverqueue_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/callhook-go/callhook/queue/riverqueue"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// One Postgres serves all tests of the binary, each with a database of its own.
var server *cluster

var errNoPostgres = errors.New("no Postgres is installed (initdb is neither on PATH nor in /usr/lib/postgresql/*/bin): apt-get install postgresql-15, or brew install postgresql@15")

func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	if server, err = startCluster(flag.Lookup("test.bench").Value.String() != ""); err != nil && !errors.Is(err, errNoPostgres) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	server.stop()
	os.Exit(code)
}

// cluster is a server in a folder of its own.
type cluster struct {
	bin, dir string
	port     int
	durable  bool // it syncs
	attr     *syscall.SysProcAttr
	server   *exec.Cmd
	ended    chan struct{}
	template sync.Once
	failed   error
	last     atomic.Int64
}

func startCluster(durable bool) (c *cluster, err error) {
	c = &cluster{durable: durable}
	if c.bin, err = binaries(); err != nil {
		return nil, err
	}
	if c.dir, err = os.MkdirTemp("", "riverqueue-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	c.attr = &syscall.SysProcAttr{}
	if os.Geteuid() == 0 { // as root it does not run
		if c.attr.Credential, err = somebody(); err != nil {
			return c, err
		}
		if err := os.Chown(c.dir, int(c.attr.Credential.Uid), int(c.attr.Credential.Gid)); err != nil {
			return c, err
		}
	}
	init := c.command("initdb", "-D", filepath.Join(c.dir, "data"), "-U", "test", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
	if out, err := init.CombinedOutput(); err != nil {
		return c, fmt.Errorf("initdb: %w: %.500s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return c, err
	}
	c.port = l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	return c, c.start()
}

func binaries() (string, error) {
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

// somebody is a user without rights, the one made for Postgres if there is one.
func somebody() (*syscall.Credential, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(err1, err2)
	}
	return nil, errors.New("postgres does not run as root, and there is no user postgres or nobody")
}

func (c *cluster) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.bin, name), args...)
	cmd.Dir, cmd.SysProcAttr = c.dir, c.attr
	return cmd
}

// start starts the server, on the port that it had before.
func (c *cluster) start() error {
	log, err := os.OpenFile(filepath.Join(c.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{"-D", filepath.Join(c.dir, "data"), "-k", c.dir, "-p", strconv.Itoa(c.port), "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=300"}
	if !c.durable {
		args = append(args, "-c", "fsync=off") // what is killed here is never the machine
	}
	c.server = c.command("postgres", args...)
	c.server.Stdout, c.server.Stderr = log, log
	if err := c.server.Start(); err != nil {
		return err
	}
	c.ended = make(chan struct{})
	go func() { _ = c.server.Wait(); close(c.ended) }()
	var failed error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if failed = c.exec("SELECT 1"); failed == nil {
			return nil
		}
	}
	return fmt.Errorf("postgres does not start: %w", failed)
}

// halt ends the server as a crash of it does, or at its ease.
func (c *cluster) halt(sig syscall.Signal) {
	if c.server != nil {
		_ = c.server.Process.Signal(sig)
		<-c.ended
	}
}

func (c *cluster) stop() {
	if c == nil {
		return
	}
	c.halt(syscall.SIGINT)
	_ = os.RemoveAll(c.dir)
}

func (c *cluster) url(database string) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=test dbname=%s sslmode=disable", c.port, database)
}

func (c *cluster) exec(statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.url("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement)
	return err
}

// empty makes a database without tables.
func (c *cluster) empty() (string, error) {
	name := fmt.Sprint("test_", c.last.Add(1))
	return name, c.exec("CREATE DATABASE " + name)
}

// migrated makes a database with the tables.
func (c *cluster) migrated() (string, error) {
	c.template.Do(func() {
		if c.failed = c.exec("CREATE DATABASE migrated"); c.failed != nil {
			return
		}
		pool, err := pgxpool.New(context.Background(), c.url("migrated"))
		if err != nil {
			c.failed = err
			return
		}
		defer pool.Close()
		c.failed = riverqueue.Migrate(context.Background(), riverqueue.Options{Pool: pool})
	})
	if c.failed != nil {
		return "", c.failed
	}
	name := fmt.Sprint("test_", c.last.Add(1))
	return name, c.exec("CREATE DATABASE " + name + " TEMPLATE migrated")
}

// copied makes a database as it is found when all processes that have another one
// open die now.
func (c *cluster) copied(from string) (string, error) {
	name, err := c.empty()
	if err != nil {
		return "", err
	}
	dump := c.command("pg_dump", "-d", c.url(from))
	load := c.command("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", c.url(name), "-o", os.DevNull)
	pipe, err := dump.StdoutPipe()
	if err != nil {
		return "", err
	}
	load.Stdin = pipe
	load.Stderr, dump.Stderr = os.Stderr, os.Stderr
	if err := dump.Start(); err != nil {
		return "", err
	}
	return name, errors.Join(load.Run(), dump.Wait())
}

// needs skips a test where no Postgres is installed.
func needs(t testing.TB) {
	t.Helper()
	if server == nil {
		t.Skip(errNoPostgres)
	}
}

// database makes one for a test, and a pool of it.
func database(t testing.TB) (*pgxpool.Pool, string) {
	t.Helper()
	needs(t)
	name, err := server.migrated()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.exec("DROP DATABASE IF EXISTS " + name + " WITH (FORCE)") })
	return connect(t, name), name
}

func connect(t testing.TB, name string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), server.url(name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func open(t testing.TB, o riverqueue.Options) *riverqueue.Queue {
	t.Helper()
	q, err := riverqueue.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	return q
}
