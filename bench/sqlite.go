package main

import (
	"database/sql"
	"fmt"
	"path/filepath"
)

// openSQLite opens a peer's database, in WAL mode with synchronous=FULL: a commit is on
// the disk when it returns. It looks whether that is so. One connection, as both
// river and goqite say in their documentation: SQLite has one writer at a time, and a
// second connection that wants to write fails with SQLITE_BUSY.
func openSQLite(dir string) (*sql.DB, error) {
	db, err := sql.Open(sqliteDriver, "file:"+filepath.Join(dir, "peer.db")+sqliteOptions)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	db.SetMaxIdleConns(1)
	var journal string
	var synchronous int
	if err := db.QueryRow("PRAGMA journal_mode").Scan(&journal); err != nil {
		return nil, err
	}
	if err := db.QueryRow("PRAGMA synchronous").Scan(&synchronous); err != nil {
		return nil, err
	}
	if journal != "wal" || synchronous != 2 {
		return nil, fmt.Errorf("journal_mode is %s and synchronous %d, not wal and 2 (FULL)", journal, synchronous)
	}
	return db, nil
}

const syncedSQLite = "each commit (WAL, synchronous=FULL)"
