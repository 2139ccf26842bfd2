package sqlitequeue_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// child names what the test binary does instead of testing, as another process.
const child = "CALLHOOK_SQLITEQUEUE_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(child) {
	case "":
		// Most of the conformance suite waits, which needs no processor.
		flag.Parse()
		if err := flag.Set("test.parallel", "8"); err != nil {
			panic(err)
		}
		os.Exit(m.Run())
	case "lock":
		holdMain(os.Args[1])
	case "full":
		fullMain(os.Args[1])
	}
}

// holdMain opens a queue, stores something, says so and waits to be killed.
func holdMain(path string) {
	q, err := sqlitequeue.Open(path, nil)
	if err != nil {
		fmt.Println(errors.Is(err, sqlitequeue.ErrLocked), err)
		return
	}
	if err := q.Enqueue(context.Background(), event(0), event(1)); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("open")
	select {}
}

// start runs the test binary as a child, and returns its first line.
func start(t *testing.T, what, path string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], path)
	cmd.Env = append(os.Environ(), child+"="+what)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, _ := bufio.NewReader(out).ReadString('\n')
	return cmd, strings.TrimSpace(line)
}

func reopen(t testing.TB, path string, o *sqlitequeue.Options) *sqlitequeue.Queue {
	t.Helper()
	q, err := sqlitequeue.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	return q
}

func enqueue(t testing.TB, q callhook.Queue, ds ...*callhook.Delivery) {
	t.Helper()
	if err := q.Enqueue(t.Context(), ds...); err != nil {
		t.Fatal(err)
	}
}

// consume hands deliveries to handle until stop is called, which returns when
// Consume has.
func consume(t testing.TB, q callhook.Queue, handle func(*callhook.Delivery) callhook.Verdict) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- q.Consume(ctx, func(_ context.Context, d *callhook.Delivery) callhook.Verdict { return handle(d) })
	}()
	return func() {
		t.Helper()
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Consume: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("Consume does not end")
		}
	}
}

// deliverAll consumes until so many are settled.
func deliverAll(t testing.TB, q callhook.Queue, n int) (bodies map[string]string) {
	t.Helper()
	bodies = map[string]string{}
	handed := make(chan *callhook.Delivery, n)
	stop := consume(t, q, func(d *callhook.Delivery) callhook.Verdict {
		return callhook.Delivered().Then(func() { handed <- d })
	})
	if _, err := q.Release(t.Context(), "", -1); err != nil {
		t.Fatal(err)
	}
	for range n {
		select {
		case d := <-handed:
			bodies[d.ID] = string(d.Body)
		case <-time.After(20 * time.Second):
			t.Fatalf("%d of %d were delivered", len(bodies), n)
		}
	}
	stop()
	return bodies
}

func wantCounts(t testing.TB, q callhook.Inspector, want callhook.Counts) {
	t.Helper()
	got, err := q.Counts(t.Context())
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("counts (-want +got)\n%s%v", diff, err)
	}
}

// TestReopen: counts, pending ones, dead letters and Seq go on, also when the queue
// is opened many times.
func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a folder?", "50%#queue&.db")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	var last int64
	for i := range 5 {
		q := reopen(t, path, nil)
		wantCounts(t, q, callhook.Counts{Accepted: int64(3 * i), Delivered: int64(i), Dead: int64(i), Pending: int64(i)})
		ds := []*callhook.Delivery{event(i), event(i), event(i)}
		dead, rests := ds[1].ID, ds[2].ID
		enqueue(t, q, ds...)
		done := make(chan struct{}, 3)
		stop := consume(t, q, func(d *callhook.Delivery) callhook.Verdict {
			v := callhook.Delivered()
			switch d.ID {
			case dead:
				v = callhook.Dead(callhook.ReasonRejected)
			case rests:
				v = callhook.Park()
			}
			return v.Then(func() { done <- struct{}{} })
		})
		for range 3 {
			<-done
		}
		stop()
		d, err := q.Get(t.Context(), rests)
		if err != nil || d.Seq <= last || d.State != callhook.StateParked {
			t.Errorf("Get: %+v, %v, want one that is parked, with a Seq above %d", d, err, last)
		}
		last = d.Seq
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(path + "-wal"); err == nil {
		t.Error("the log is left after Close")
	}
}

// TestLocked: a second Open fails at once, here and in another process, and one that
// was killed leaves nothing to be cleaned up. Others may read meanwhile.
func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue.db")
	cmd, line := start(t, "lock", path)
	if line != "open" {
		t.Fatal(line)
	}
	if n := sqlitequeue.Query(t, path, "SELECT count(*) FROM queue"); n != 2 {
		t.Errorf("whoever reads beside it sees %d, want 2", n)
	}
	began := time.Now()
	_, err := sqlitequeue.Open(path, nil)
	if !errors.Is(err, sqlitequeue.ErrLocked) || !strings.Contains(fmt.Sprint(err), path) {
		t.Errorf("Open while another process has it: %v, want %v with the path", err, sqlitequeue.ErrLocked)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("that took %s", took)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	q := reopen(t, path, nil)
	wantCounts(t, q, callhook.Counts{Accepted: 2, Pending: 2})
	link := filepath.Join(filepath.Dir(path), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, link} {
		if _, err := sqlitequeue.Open(name, nil); !errors.Is(err, sqlitequeue.ErrLocked) {
			t.Errorf("a second Open: %v, want %v", err, sqlitequeue.ErrLocked)
		}
	}
	if _, line := start(t, "lock", link); !strings.HasPrefix(line, "true") {
		t.Errorf("Open in another process: %s", line)
	}
	deliverAll(t, q, 2)
}

// TestVersions: a file of an older version is migrated, and one of a newer, of
// another program or of none is left as it is.
func TestVersions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue.db")
	q := reopen(t, path, nil)
	enqueue(t, q, event(0))
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	t.Run("older", func(t *testing.T) {
		sqlitequeue.AddMigration(t, "CREATE TABLE of_version_three (x); INSERT INTO of_version_three SELECT count(*) FROM deliveries")
		for range 2 {
			q := reopen(t, path, nil)
			wantCounts(t, q, callhook.Counts{Accepted: 1, Pending: 1})
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if n := sqlitequeue.Query(t, path, "SELECT sum(x) * 10 + (SELECT user_version FROM pragma_user_version) FROM of_version_three"); n != 13 {
			t.Errorf("after the migration the file says %d, want 13: migrated once, to version 3", n)
		}
	})
	t.Run("a migration that fails", func(t *testing.T) {
		sqlitequeue.AddMigration(t, "not the third")
		sqlitequeue.AddMigration(t, "CREATE TABLE half (x); CREATE TABLE deliveries (x)")
		if _, err := sqlitequeue.Open(path, nil); err == nil || !strings.Contains(err.Error(), "version 4") {
			t.Errorf("Open: %v, want an error that names version 4", err)
		}
		if n := sqlitequeue.Query(t, path, "SELECT count(*) FROM sqlite_schema WHERE name = 'half'"); n != 0 {
			t.Error("half of a migration was done")
		}
	})
	refused := func(name, path string, want error) {
		t.Run(name, func(t *testing.T) {
			before, _ := os.ReadFile(path)
			_, err := sqlitequeue.Open(path, nil)
			if !errors.Is(err, want) && want != nil || err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("Open: %v, want %v, with the path", err, want)
			}
			if after, _ := os.ReadFile(path); string(before) != string(after) {
				t.Error("the file was changed")
			}
		})
	}
	refused("newer", path, sqlitequeue.ErrVersion) // it has version 3 still
	foreign := filepath.Join(t.TempDir(), "other.db")
	sqlitequeue.Exec(t, foreign, "CREATE TABLE mine (x); INSERT INTO mine VALUES (1)")
	refused("foreign", foreign, sqlitequeue.ErrForeign)
	text := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("These are notes, and no database. ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("no database", text, nil)
	refused("no folder", filepath.Join(t.TempDir(), "none", "queue.db"), nil)
	refused("a folder", t.TempDir(), nil)
}

// TestVersionOne: a file of version 1 goes on with all that it has, and is counted.
func TestVersionOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue.db")
	dump, err := os.ReadFile("testdata/version1.sql")
	if err != nil {
		t.Fatal(err)
	}
	sqlitequeue.Exec(t, path, string(dump))
	q := reopen(t, path, nil)
	wantCounts(t, q, callhook.Counts{Accepted: 6, Delivered: 1, Dead: 1, Pending: 4})
	const (
		meta    = `{"type":"post_call","event":"call.ended","at":"2026-11-01T09:00:00Z"}`
		more    = `,"numbers":["aGFzaA"],"values":{"call.from":"+44 20 7946 0018"}`
		log     = `[{"at":"2026-11-01T09:00:00Z","elapsed":1000000000,"status":503,"error":"callhook: 503","reply":"busy"}]`
		record  = `{"id":"call2"}`
		waiting = 512 + len(meta+more+log+record+`{"id":"waiting","caller":"Ada"}`)
		ready   = 512 + len(meta+`{"id":"ready","caller":"Ada"}`)
		blocked = 512 + len(meta+`{"id":"blocked","caller":"Ada"}`)
		parked  = 512 + len(meta+log+`{"id":"parked","caller":"Ada"}`)
	)
	for tenant, want := range map[string]int64{"acme": int64(waiting + ready + blocked), "beta": int64(parked)} {
		if got := sqlitequeue.Query(t, path, "SELECT pending_bytes FROM lane_counts WHERE tenant = '"+tenant+"'"); got != want {
			t.Errorf("what %s has pending counts for %d bytes, want %d", tenant, got, want)
		}
	}
	if d, err := q.Get(t.Context(), "waiting"); err != nil || d.Values["call.from"] != "+44 20 7946 0018" || len(d.Log) != 1 || string(d.Record) != `{"id":"call2"}` {
		t.Errorf("Get: %+v, %v", d, err)
	}
	deliverAll(t, q, 4)
	if n := sqlitequeue.Query(t, path, "SELECT sum(pending_bytes) FROM lane_counts"); n != 0 {
		t.Errorf("with nothing pending %d bytes are", n)
	}
}

// TestShell: the queries of the package comment work beside an open queue.
func TestShell(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue.db")
	q := reopen(t, path, nil)
	settleOne(t, q, event(0), callhook.Dead(callhook.ReasonRejected))
	settleOne(t, q, event(0), callhook.RetryAt(time.Now().Add(time.Hour)))
	enqueue(t, q, event(1))
	comment, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(comment)) {
		if _, rest, ok := strings.Cut(line, `sqlite3 callhook.db "`); ok {
			sql, _, _ := strings.Cut(rest, `"`)
			n++
			if rows := sqlitequeue.Query(t, path, "SELECT count(*) FROM ("+sql+")"); rows < 1 {
				t.Errorf("%s gives nothing", sql)
			}
		}
	}
	if n != 3 {
		t.Errorf("%d queries in the package comment, want 3", n)
	}
	ago := sqlitequeue.Query(t, path, "SELECT max(abs(unixepoch() - unixepoch(enqueued_at))) FROM queue")
	if ago > 60 {
		t.Errorf("enqueued_at is %d seconds off", ago)
	}
}
