package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// cluster is a Postgres server that lives as long as the run, in a folder of its own,
// reached by a Unix socket or on loopback. Its settings are initdb's, so it syncs each
// commit.
type cluster struct {
	dir  string
	port int // on loopback; zero for the socket
	cmd  *exec.Cmd
	done chan struct{}
	last atomic.Int64
}

var errNoInitdb = errors.New("initdb is not on PATH")

func startCluster(ctx context.Context, loopback bool) (c *cluster, err error) {
	initdb, err := exec.LookPath("initdb")
	if err != nil {
		return nil, errNoInitdb
	}
	if initdb, err = filepath.EvalSymlinks(initdb); err != nil {
		return nil, err
	}
	server := filepath.Join(filepath.Dir(initdb), "postgres") // of the same version
	c = &cluster{done: make(chan struct{})}
	if c.dir, err = os.MkdirTemp("", "callhook-postgres-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	attr := childAttr()
	if os.Geteuid() == 0 { // as root neither of them runs
		if attr.Credential, err = somebody(); err != nil {
			return c, err
		}
		if err := os.Chown(c.dir, int(attr.Credential.Uid), int(attr.Credential.Gid)); err != nil {
			return c, err
		}
	}
	data := filepath.Join(c.dir, "data")
	init := exec.CommandContext(ctx, initdb, "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
	init.Dir, init.SysProcAttr = c.dir, attr
	if out, err := init.CombinedOutput(); err != nil {
		return c, fmt.Errorf("initdb: %w: %.200s", err, out)
	}
	log, err := os.Create(filepath.Join(c.dir, "log"))
	if err != nil {
		return c, err
	}
	defer log.Close()
	args := []string{"-D", data, "-k", c.dir}
	if loopback {
		if c.port, err = freePort(); err != nil {
			return c, err
		}
		// Each of many processes has a pool.
		args = append(args, "-p", strconv.Itoa(c.port), "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=300")
	} else {
		args = append(args, "-c", "listen_addresses=")
	}
	cmd := exec.Command(server, args...)
	cmd.Dir, cmd.SysProcAttr, cmd.Stdout, cmd.Stderr = c.dir, attr, log, log
	if err := startChild(cmd, c.done); err != nil {
		return c, err
	}
	c.cmd = cmd
	return c, poll(ctx, 20*time.Second, func() bool { return c.exec(ctx, "SELECT 1") == nil },
		func() error { return fmt.Errorf("postgres does not start: %w", c.exec(ctx, "SELECT 1")) })
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
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("postgres does not run as root, and there is no user postgres or nobody")
}

// freePort is one that nobody listens on now: Postgres cannot pick one by itself.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

func (c *cluster) connString(database string) string {
	if c.port > 0 {
		return fmt.Sprintf("host=127.0.0.1 port=%d user=bench dbname=%s sslmode=disable", c.port, database)
	}
	return fmt.Sprintf("host=%s user=bench dbname=%s sslmode=disable", c.dir, database)
}

func (c *cluster) exec(ctx context.Context, statement string) error {
	conn, err := pgx.Connect(ctx, c.connString("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement)
	return err
}

// database makes an empty one and returns how to connect to it.
func (c *cluster) database(ctx context.Context) (name string, err error) {
	name = fmt.Sprintf("bench_%d", c.last.Add(1))
	return name, c.exec(ctx, "CREATE DATABASE "+name)
}

// version is that of the server.
func (c *cluster) version(ctx context.Context) (v string, err error) {
	conn, err := pgx.Connect(ctx, c.connString("postgres"))
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, "SELECT split_part(current_setting('server_version'), ' ', 1)").Scan(&v)
	return v, err
}

func (c *cluster) drop(ctx context.Context, name string) {
	_ = c.exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
}

func (c *cluster) stop() {
	if c == nil {
		return
	}
	if c.cmd != nil {
		_ = c.cmd.Process.Signal(os.Interrupt) // a fast shutdown
		select {
		case <-c.done:
		case <-time.After(10 * time.Second):
			_ = c.cmd.Process.Kill()
			<-c.done
		}
	}
	_ = os.RemoveAll(c.dir)
}
