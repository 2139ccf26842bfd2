package sqlitequeue

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ncruces/go-sqlite3"
)

const (
	// pageSize: larger ones store bodies of 2 KB in three quarters of the space, but
	// each page that changes is written as a whole, and most that change hold indexes.
	pageSize = 4096
	// busyTimeout is how long to wait for a sqlite3 shell that writes.
	busyTimeout = 5 * time.Second
	// checkpointPages is how long the log grows before it is brought into the
	// database; it takes that much on disk beside it.
	checkpointPages = 4000
	// maxPages is 128 GiB. Where there are no more, no page but those of tables and
	// indexes begins with a byte above 1: see clearUnused.
	maxPages = 1<<25 - 1
	// maxMemory bounds the memory of one connection. It is only taken when bodies
	// are as large as can be.
	maxMemory = 512 << 20
)

// db is a connection and its prepared statements. It belongs to one goroutine at
// a time.
type db struct {
	c        *sqlite3.Conn
	prepared map[string]*sqlite3.Stmt
	all      []*sqlite3.Stmt
	walPages int // of the log, at the last commit

	begin, commit, rollback                                             *sqlite3.Stmt
	insert, insertBody, insertNumber                                    *sqlite3.Stmt
	earlier, firstBlocked, insertCall, deleteCall, deleteCalls, setMark *sqlite3.Stmt
	settle, forget, deleteBody, deleteNumber                            *sqlite3.Stmt
	setState, insertLane, setCounts                                     *sqlite3.Stmt
	loadFresh, loadTried, loadOne, due, nextDue                         *sqlite3.Stmt
	pages, free, known                                                  *sqlite3.Stmt
}

// columns of a delivery that is loaded, see scan.
const columns = `d.seq, d.lane_id, d.id, d.call, d.state, d.at_us, d.attempts, d.rejections, d.postponed, d.ordered, d.enqueued_ns,
	d.reason, d.meta, d.log, d.sum`

// connect opens the database for writing, or for reading alone.
func connect(path string, synced, reader bool) (*db, error) {
	registerFS()
	uri := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path), RawQuery: "vfs=" + unsyncedFS}
	if synced {
		uri.RawQuery = "vfs=" + syncedFS
	}
	if v := filepath.VolumeName(path); v != "" {
		uri.Path = "/" + uri.Path
	}
	var c *sqlite3.Conn
	err := safely(func() (err error) {
		c, err = sqlite3.OpenContext(sqlite3.WithMaxMemory(context.Background(), maxMemory), uri.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	d := &db{c: c, prepared: map[string]*sqlite3.Stmt{}}
	if err := safely(func() error { return d.setUp(synced, reader) }); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func (d *db) setUp(synced, reader bool) error {
	if err := d.c.BusyTimeout(busyTimeout); err != nil {
		return err
	}
	// Without this a statement is compiled anew for other values than the first.
	if _, err := d.c.Config(sqlite3.DBCONFIG_ENABLE_QPSG, true); err != nil {
		return err
	}
	// Before anything is written: what walFile has gathered reaches the file when a
	// commit is synced.
	mode := "FULL"
	if !synced {
		mode = "NORMAL"
	}
	if err := d.c.Exec("PRAGMA synchronous = " + mode); err != nil {
		return err
	}
	if reader {
		return d.c.Exec("PRAGMA query_only = ON; PRAGMA cache_size = -2048")
	}
	if _, err := check(d.c); err != nil {
		return err
	}
	if err := d.c.Exec(fmt.Sprintf("PRAGMA page_size = %d; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL", pageSize)); err != nil {
		return err
	}
	return d.c.Exec(fmt.Sprintf("PRAGMA max_page_count = %d;", maxPages) + `
		PRAGMA cache_size = -16000;
		PRAGMA secure_delete = ON;
		PRAGMA journal_size_limit = 67108864;
		PRAGMA wal_autocheckpoint = 0;
		PRAGMA foreign_keys = OFF;
		PRAGMA temp_store = MEMORY`)
}

// prepareAll prepares what the writer does over and over.
func (d *db) prepareAll() error {
	d.c.WALHook(func(_ *sqlite3.Conn, _ string, pages int) error {
		d.walPages = pages
		return nil
	})
	for _, s := range []struct {
		to  **sqlite3.Stmt
		sql string
	}{
		{&d.begin, "BEGIN IMMEDIATE"},
		{&d.commit, "COMMIT"},
		{&d.rollback, "ROLLBACK"},
		{&d.insert, `INSERT INTO deliveries (seq, lane_id, id, call, state, at_us, attempts, rejections, postponed, ordered, enqueued_ns, meta, log, sum)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`},
		{&d.insertBody, "INSERT INTO bodies (seq, body, record) VALUES (?, ?, ?)"},
		{&d.insertNumber, "INSERT OR IGNORE INTO numbers (hash, seq) VALUES (?, ?)"},
		{&d.known, "SELECT 1 FROM deliveries WHERE id = ?"},
		// The last pending one of a call in a lane before another, and the first of those
		// that wait for earlier ones.
		{&d.earlier, `SELECT d.attempts, d.state FROM calls c CROSS JOIN deliveries d ON d.seq = c.seq WHERE c.call = ? AND c.lane_id = ? AND c.seq < ?
			AND d.state NOT IN ('delivered', 'dead', 'erased') ORDER BY c.seq DESC LIMIT 1`},
		{&d.firstBlocked, `SELECT seq, ordered, attempts FROM deliveries INDEXED BY deliveries_blocked WHERE call = ? AND lane_id = ? AND state = 'blocked'
			ORDER BY seq LIMIT 1`},
		{&d.insertCall, "INSERT OR IGNORE INTO calls (call, lane_id, seq) VALUES (?, ?, ?)"},
		{&d.deleteCall, "DELETE FROM calls WHERE call = ? AND lane_id = ? AND seq = ?"},
		{&d.deleteCalls, `DELETE FROM calls WHERE call = ?1 AND lane_id = ?2 AND seq IN (SELECT c.seq FROM calls c CROSS JOIN deliveries d ON d.seq = c.seq
			WHERE c.call = ?1 AND c.lane_id = ?2 AND d.meta IS NULL)`},
		{&d.setMark, "UPDATE settings SET value = ? WHERE name = 'calls_to'"},
		// A verdict: kept as it is, or reduced to its ID.
		{&d.settle, `UPDATE deliveries SET state = ?2, at_us = ?3, attempts = ?4, rejections = ?5, postponed = ?6, reason = ?7, log = ?8, sum = ?9
			WHERE seq = ?1`},
		{&d.forget, `UPDATE deliveries SET state = ?2, at_us = ?3, attempts = ?4, reason = ?5, meta = NULL, log = NULL, sum = NULL WHERE seq = ?1`},
		{&d.deleteBody, "DELETE FROM bodies WHERE seq = ?"},
		{&d.deleteNumber, "DELETE FROM numbers WHERE hash = ? AND seq = ?"},
		{&d.setState, "UPDATE deliveries SET state = ?2, at_us = ?3 WHERE seq = ?1"},
		{&d.insertLane, "INSERT INTO lanes (id, lane, tenant, agent, webhook) VALUES (?, ?, ?, ?, ?)"},
		{&d.setCounts, "INSERT OR REPLACE INTO counts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"},
		{&d.loadFresh, "SELECT " + columns + `, b.body, b.record FROM deliveries d INDEXED BY deliveries_pending LEFT JOIN bodies b ON b.seq = d.seq
			WHERE d.lane_id = ? AND d.state = 'ready' AND d.at_us = 0 AND d.seq > ? ORDER BY d.seq LIMIT ?`},
		{&d.loadTried, "SELECT " + columns + `, b.body, b.record FROM deliveries d INDEXED BY deliveries_pending LEFT JOIN bodies b ON b.seq = d.seq
			WHERE d.lane_id = ? AND d.state = 'parked' AND d.at_us > ? ORDER BY d.at_us, d.seq LIMIT ?`},
		{&d.loadOne, "SELECT " + columns + `, b.body, b.record FROM deliveries d LEFT JOIN bodies b ON b.seq = d.seq WHERE d.seq = ?`},
		{&d.due, `SELECT seq, attempts FROM deliveries INDEXED BY deliveries_pending WHERE lane_id = ? AND state = 'waiting' AND at_us <= ?
			ORDER BY at_us, seq LIMIT ?`},
		{&d.nextDue, `SELECT at_us FROM deliveries INDEXED BY deliveries_pending WHERE lane_id = ? AND state = 'waiting' ORDER BY at_us LIMIT 1`},
		{&d.pages, "PRAGMA page_count"},
		{&d.free, "PRAGMA freelist_count"},
	} {
		st, _, err := d.c.PrepareFlags(s.sql, sqlite3.PREPARE_PERSISTENT)
		if err != nil {
			return fmt.Errorf("%w in %s", err, s.sql)
		}
		*s.to = st
		d.all = append(d.all, st)
	}
	return nil
}

// stmt returns a prepared statement that is not used all the time.
func (d *db) stmt(sql string) (*sqlite3.Stmt, error) {
	if st := d.prepared[sql]; st != nil {
		_ = st.ClearBindings()
		return st, nil
	}
	st, _, err := d.c.Prepare(sql)
	if err != nil {
		return nil, fmt.Errorf("%w in %s", err, sql)
	}
	d.prepared[sql] = st
	return st, nil
}

func (d *db) close() error {
	if d == nil || d.c == nil {
		return nil
	}
	return safely(func() error {
		if d.c.Close() == nil {
			return nil
		}
		// Statements that are not closed keep it open.
		for _, st := range slices.Collect(d.c.Stmts()) {
			_ = st.Close()
		}
		return d.c.Close()
	})
}

// value returns the number that a statement gives.
func value(st *sqlite3.Stmt) (n int64, ok bool, err error) {
	if ok = st.Step(); ok {
		n = st.ColumnInt64(0)
	} else {
		err = st.Err()
	}
	return n, ok, errors.Join(err, st.Reset())
}

// lock holds path's lock file for this queue alone, until the connection is
// closed or the process has ended, however it does.
func lock(path string) (*sqlite3.Conn, error) {
	c, err := sqlite3.Open("file:" + (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath() + "-lock")
	if err != nil {
		return nil, fmt.Errorf("sqlitequeue: opening the lock file %s-lock: %w", path, err)
	}
	err = c.Exec("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE")
	if err == nil {
		return c, nil
	}
	_ = c.Close()
	if faultOf(err) == faultBusy {
		return nil, fmt.Errorf("%w: %s: only one process may have it open; close it there, or take a file of its own for each", ErrLocked, path)
	}
	return nil, fmt.Errorf("sqlitequeue: locking %s-lock: %w", path, err)
}

// resolve returns the path of the file itself, so that two names of it are one lock.
func resolve(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		return real, nil
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", err
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return "", fmt.Errorf("%s is no folder", dir)
	}
	return filepath.Join(dir, filepath.Base(abs)), nil
}
