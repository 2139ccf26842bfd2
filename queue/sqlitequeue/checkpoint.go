package sqlitequeue

import (
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
// because somebody reads, is done the next time.
func (q *Queue) checkpointNow(mode sqlite3.CheckpointMode) {
	d, c := q.w.db, &q.w.checkpointing
	c.wait()
	if d == nil {
		return
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
}
