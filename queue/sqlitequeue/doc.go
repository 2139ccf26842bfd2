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
// Only one process has a file open; a second gets [ErrLocked] at once. What a killed
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
// with each transaction; deliveries, whose state is ready, parked, waiting, blocked
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
// Erase overwrites what it deletes and empties the log, so that nothing of it is left
// in the file or beside it; only while another program reads may the log hold it
// longer. Bodies that were delivered are deleted, and overwritten when their space is
// used again.
package sqlitequeue
