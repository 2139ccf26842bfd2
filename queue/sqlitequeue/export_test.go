package sqlitequeue

import (
	"fmt"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/ncruces/go-sqlite3"
)

// SetFaults has f asked before so many bytes are written to a queue's log, or none,
// before it is synced, until the test ends.
func SetFaults(t testing.TB, f func(n int) error) {
	faults.Store(&f)
	t.Cleanup(func() { faults.Store(nil) })
}

// SetNow sets the clock of a queue that does nothing yet.
func (q *Queue) SetNow(now func() time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.now = now
	q.w.house.purgeAt = now().Add(time.Minute)
}

// Wake does what the queue's timers do.
func (q *Queue) Wake() {
	q.wake()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.kick()
}

// SetMaxPages bounds the database as a full disk would; it returns how many pages
// it has.
func (q *Queue) SetMaxPages(n int64) int64 {
	var pages int64
	q.mu.Lock()
	defer q.mu.Unlock()
	o := &op{step: func(t *txn) (bool, error) {
		pages, _, _ = value(t.db.pages)
		return false, t.db.c.Exec(fmt.Sprintf("PRAGMA max_page_count = %d", n))
	}}
	q.perform(o)
	for !o.done {
		q.written.Wait()
	}
	return pages
}

// Path is the file.
func (q *Queue) Path() string { return q.path }

// Settle waits until the writer has nothing to do.
func (q *Queue) Settle() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.writing {
		q.written.Wait()
	}
}

// SmallIndex has everything go through the index by call.
func SmallIndex(o *Options) *Options {
	o.lag = lag{2, 8, 3, 1}
	return o
}

// AddMigration adds a version to the schema until the test ends.
func AddMigration(t testing.TB, sql string) {
	was := migrations
	migrations = append(append([]string(nil), migrations...), sql)
	t.Cleanup(func() { migrations = was })
}

// Exec does something to a database file, as the sqlite3 shell would.
func Exec(t testing.TB, path, sql string) {
	t.Helper()
	c, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.BusyTimeout(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if err := c.Exec(sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Query returns the number that a query gives, asked beside the queue.
func Query(t testing.TB, path, sql string) int64 {
	t.Helper()
	c, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n, err := number(c, sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// Hold takes the right to write from the queue, as a sqlite3 shell in a
// transaction does, until release is called.
func Hold(t testing.TB, path string) (release func()) {
	t.Helper()
	c, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Exec("PRAGMA busy_timeout = 5000; BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	return func() { _ = c.Close() }
}

// SetPatience sets how long Consume waits for the disk at its end.
func SetPatience(t testing.TB, d time.Duration) {
	was := patience
	patience = d
	t.Cleanup(func() { patience = was })
}

// Read begins to read, as a sqlite3 shell in a transaction does, until release is
// called.
func Read(t testing.TB, path string) (release func()) {
	t.Helper()
	c, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Exec("BEGIN; SELECT count(*) FROM lanes"); err != nil {
		t.Fatal(err)
	}
	return func() { _ = c.Close() }
}

// ReadMeta reads what is stored of a delivery as JSON, and writes it again.
func ReadMeta(meta []byte) (again []byte, err error) {
	var d callhook.Delivery
	if err := applyMeta(&d, meta); err != nil {
		return nil, err
	}
	return encodeMeta(&d, new(lane))
}
