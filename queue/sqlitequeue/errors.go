package sqlitequeue

import (
	"errors"
	"fmt"

	"github.com/callhook-go/callhook"
	"github.com/ncruces/go-sqlite3"
)

// The errors of [Open].
var (
	// ErrLocked says that the queue is open already, in this process or another.
	ErrLocked = errors.New("sqlitequeue: the queue is open already")
	// ErrForeign says that the file is a SQLite database, but not a queue.
	ErrForeign = errors.New("it is a database of something else")
	// ErrVersion says that the file was made by a newer version of this package.
	ErrVersion = errors.New("it was made by a newer version of callhook")
)

// ReasonDamaged is the reason of a dead letter whose record does not match its
// checksum: it was not sent, since nobody knows what is wrong in it.
const ReasonDamaged callhook.Reason = "damaged"

// fault is what an error of SQLite means to the engine.
type fault int

const (
	faultNone    fault = iota
	faultFull          // no room: it may come
	faultBusy          // somebody else writes
	faultCorrupt       // the file is damaged
	faultOther
)

// errPanic is what a panic of the database becomes: it may do so on a file that
// is damaged. The connection cannot be trusted then.
var errPanic = errors.New("the database engine failed")

func faultOf(err error) fault {
	switch {
	case err == nil:
		return faultNone
	case errors.Is(err, sqlite3.FULL), errors.Is(noRoom(err), sqlite3.FULL):
		return faultFull
	case errors.Is(err, sqlite3.BUSY), errors.Is(err, sqlite3.LOCKED):
		return faultBusy
	case errors.Is(err, sqlite3.CORRUPT), errors.Is(err, sqlite3.NOTADB), errors.Is(err, errPanic):
		return faultCorrupt
	}
	return faultOther
}

// storeError is what a caller gets for an error of the database.
func (q *Queue) storeError(what string, err error) error {
	switch faultOf(err) {
	case faultNone:
		return nil
	case faultFull:
		return fmt.Errorf("sqlitequeue: %s in %s: %w: there is no room on the disk, make some: %w", what, q.path, callhook.ErrQueueFull, err)
	case faultBusy:
		return fmt.Errorf("sqlitequeue: %s in %s: another program has been writing to it for %s, end its transaction: %w", what, q.path, busyTimeout, err)
	case faultCorrupt:
		return fmt.Errorf("sqlitequeue: %s in %s: the file is damaged, check it with PRAGMA integrity_check and save it with .recover of the sqlite3 shell: %w", what, q.path, err)
	}
	return fmt.Errorf("sqlitequeue: %s in %s: %w", what, q.path, err)
}

// safely makes a panic of the database engine an error.
func safely(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errPanic, p)
		}
	}()
	return f()
}
