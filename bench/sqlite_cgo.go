//go:build cgo

package main

import _ "github.com/mattn/go-sqlite3"

// SQLite itself, in C, is the faster one, and what goqite's documentation uses.
const (
	sqliteDriver  = "sqlite3"
	sqliteOptions = "?_journal_mode=WAL&_synchronous=FULL&_busy_timeout=5000"
)
