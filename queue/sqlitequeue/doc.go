// Package sqlitequeue is callhook's durable queue for one process: a SQLite database
// in a file, written in Go alone, without a server and without cgo.
//
//	queue, err := sqlitequeue.Open("/var/lib/agent/callhook.db", nil)
//	if err != nil {
//		return err
//	}
//	defer queue.Close() // after Run has returned
//	hooks, err := callhook.New(callhook.Options{Configs: configs, Queue: queue})
//	if err != nil {
//		return err
//	}
//	defer hooks.Close()
//	return hooks.Run(ctx)
//
// # When to take it
//
// Take it when the events of a node may wait on that node: it needs a disk that
// outlives the process, and nothing else. Take a queue on a server when another node
// is to deliver what one that died has left, or when the disk goes with the machine.
// Only one process has a file open, also to enqueue; a second gets [ErrLocked] at once. What a killed
// one leaves needs no cleaning up. The file must not be on a network file system.
//
// # What it promises
//
//   - When Enqueue has returned nil, the deliveries are on disk: its transaction was
//     synced (WAL, synchronous=FULL). With [Options].Unsynced they survive the end of
//     the process, but the last of them not that of the machine.
//   - A delivery comes twice only when the process ends between the request and the
//     commit of its verdict, which follows within milliseconds, or when the disk takes
//     no verdict until Consume ends, which is then its error. The ID is the same.
//   - An ID is remembered for four days after it was settled, whatever its call or lane.
//   - Order holds, also Ordered, also across restarts. A delivery that is replayed
//     counts as enqueued then.
//   - Each record has a checksum (CRC-32C). One that does not match is never sent: it
//     becomes a dead letter with [ReasonDamaged], is logged, and the rest goes on.
//   - On a full disk Enqueue returns an error that is callhook.ErrQueueFull and stores
//     nothing, verdicts wait in memory, and all goes on by itself once there is room.
//     Over Options.MaxBytes only Enqueue stops, and what is delivered makes room.
//   - Over Options.MaxTenantBytes Enqueue of that tenant's events returns an error that is
//     callhook.ErrQuota, and stores nothing of the event; nobody else notices.
//   - RetryAt is a time of day: a clock set forward makes deliveries due; one set back
//     lets them wait until it shows their time, to which it looks every minute.
//   - Memory does not grow with what is pending, but throughput falls to about half
//     of an empty queue's with 100,000. A million take 4.4 KB each on
//     disk with bodies of 2 KB, no memory but that of their lanes, and no time at Open.
//
// # How it runs
//
// One goroutine writes, and lives only while there is something to write. It takes
// all that waits, new deliveries and verdicts alike, into one transaction, and while
// that goes to the disk the next gathers: with many producers a sync is shared by all
// of them. Consume adds the caller's goroutine and one for each delivery handed out; a
// queue at rest has no other, and its timers fire when something is due, at most a
// minute or, with nothing waiting, an hour apart.
//
// The driver is github.com/ncruces/go-sqlite3, SQLite translated to Go. Of the
// drivers without cgo it alone documents an interface to statements and to files, with
// which a commit is one write and one sync: that was measured to store a sixth more
// deliveries than modernc.org/sqlite called directly, and needs no C library whose
// version has to match.
//
// # The file
//
// Any SQLite tool may read it while the queue is open; one that writes holds the
// queue up. The view queue has all that is kept whole, with times in ISO 8601, the
// view lane_counts the sums of each lane. The tables behind them: lanes; counts, kept
// with each transaction, and what the pending ones take; deliveries, whose state is ready, parked, waiting, blocked
// (it waits for its call's earlier events), delivered, dead or erased; bodies, apart,
// so that looking through deliveries is quick; numbers, for erasing by number; calls,
// an index that follows some thousand deliveries behind; settings. A delivered one
// keeps its row for four days without what it said. Ready and parked are told apart
// in memory: after a restart all rest until the first Release.
//
//	sqlite3 callhook.db "SELECT * FROM lane_counts WHERE pending > 0 ORDER BY pending DESC"
//	sqlite3 callhook.db "SELECT id, at AS retried_at, attempts, last_status, last_error FROM queue WHERE state = 'waiting' ORDER BY at LIMIT 20"
//	sqlite3 callhook.db "SELECT reason, webhook, count(*), max(enqueued_at) FROM queue WHERE state = 'dead' GROUP BY 1, 2"
//
// # When bytes are gone
//
// Where something is deleted, zeros are written: what a delivery said is overwritten
// in the transaction that settles it, a dead letter when its time is over, and what is
// erased at once. SQLite does so where a row lies, but not where it lay before it moved
// within the tables; so what pages do not use is cleared, too, whenever they are
// brought from the log into the database.
//
// The log, path-wal, holds pages as they were before, until it has come round, which
// takes some 16 MiB. Erase empties it, also when it finds nothing, because the caller's
// deliveries may have arrived a moment ago; so does Close, and the first second after
// a crash. When Erase has returned, nothing of what it erased, and nothing of what had
// arrived or been deleted before, is in path or path-wal; path-shm and path-lock never
// hold any. There are three limits: while another program reads, Erase waits half a
// second for it, says so to Options.Logger, and the log is emptied when the program ends;
// another program that writes to the file or finds its log after a crash may move rows
// in ways that are not cleared, so erase again after it; and what the file system and
// the disk keep of overwritten blocks is theirs. What stays of a delivery is its ID, the
// call's id, the lane and the times, for four days.
//
// A file of the first version, which did not overwrite all, is written anew when it is
// opened: that takes as long as copying it, once, and as much room on the disk.
package sqlitequeue
