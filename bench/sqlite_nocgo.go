//go:build !cgo

package main

import _ "modernc.org/sqlite"

// Without a C compiler there is the translation to Go.
const (
	sqliteDriver  = "sqlite"
	sqliteOptions = "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)"
)
