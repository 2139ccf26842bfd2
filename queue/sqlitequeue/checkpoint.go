package sqlitequeue

import (
	"time"

	"github.com/ncruces/go-sqlite3"
)

// The log grows until it is brought into the database. That takes as long as
// writing it did, so it is done beside the writer, with a connection of its own;
// the writer then does the little that came meanwhile, and goes on at the log's
// beginning.

// checkpointing is the state of it. It is the writer's.
type checkpointing struct {
	db      *db
	running chan struct{} // closed when it is done; nil when it does not run
	err     error         // of the last, once it is done
	from    int           // pages of the log when it was last begun
	stuck   bool          // the last failed
}

// maxLog is how many times checkpointPages the log may be long before the writer
// waits.
const maxLog = 8

// checkpoint sees to it after a commit.
func (q *Queue) checkpoint() {
	d, c := q.w.db, &q.w.checkpointing
	if d == nil {
		return
	}
	if c.running != nil {
		if d.walPages < maxLog*checkpointPages {
			select {
			case <-c.running:
			default:
				return
			}
		}
		<-c.running
		c.running = nil
		q.checkpointNow(sqlite3.CHECKPOINT_PASSIVE)
		return
	}
	if d.walPages < c.from {
		c.from = 0 // it began anew
	}
	if d.walPages-c.from < checkpointPages {
		return
	}
	c.from = d.walPages
	c.running = make(chan struct{})
	go c.run(q.path, !q.o.Unsynced)
}

// run brings what the log holds now into the database.
func (c *checkpointing) run(path string, synced bool) {
	defer close(c.running)
	if c.db == nil {
		if c.db, c.err = connect(path, synced, true); c.err != nil {
			return
		}
	}
	c.err = safely(func() error {
		_, _, err := c.db.c.WALCheckpoint("main", sqlite3.CHECKPOINT_PASSIVE)
		return err
	})
	if errIsPanic(c.err) {
		_ = c.db.close()
		c.db = nil
	}
}

// wait waits for one that runs.
func (c *checkpointing) wait() {
	if c.running != nil {
		<-c.running
		c.running = nil
	}
}

// checkpointNow does it with the writer's own connection. What cannot be done now,
// because somebody reads, is done the next time. It reports whether all was done.
func (q *Queue) checkpointNow(mode sqlite3.CheckpointMode) bool {
	d, c := q.w.db, &q.w.checkpointing
	c.wait()
	if d == nil {
		return false
	}
	err := safely(func() error {
		_, _, err := d.c.WALCheckpoint("main", mode)
		return err
	})
	failing := err != nil && faultOf(err) != faultBusy
	if failing && !c.stuck {
		q.log.Warn("sqlitequeue: the log cannot be brought into the database yet; trying again", "path", q.path, "error", err)
	}
	c.stuck = failing
	return err == nil
}

// Pauses of wipe.
const (
	wipeWait   = 500 * time.Millisecond // for whoever reads, at the first time
	wipeGlance = 10 * time.Millisecond  // and later
	wipeEvery  = time.Second
)

// wipe empties the log, which holds pages as they were before something was erased or
// delivered, and forgets those in memory, whose unused parts may hold the same and
// would be written again with the page. While another program reads it cannot, and
// tries again.
func (q *Queue) wipe(wait time.Duration) {
	h := &q.w.house
	was := h.wipe
	if h.wipe, h.wipeAt = true, q.now().Add(wipeEvery); q.w.db == nil {
		return
	}
	_ = q.w.db.c.BusyTimeout(wait)
	if q.checkpointNow(sqlite3.CHECKPOINT_TRUNCATE) {
		h.wipe = safely(func() error { return q.w.db.c.Exec("PRAGMA shrink_memory") }) != nil
	}
	_ = q.w.db.c.BusyTimeout(busyTimeout)
	if h.wipe && !was {
		q.log.Warn("sqlitequeue: another program reads, so the log still holds what was erased; emptying it when that ends", "path", q.path)
	}
	q.mu.Lock()
	q.wakeHouse()
	q.mu.Unlock()
}
