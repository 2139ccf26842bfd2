// Package riverqueue is callhook's queue for many processes: deliveries are rows in
// Postgres and jobs of River (github.com/riverqueue/river), on version 15 and up (tested
// on 15, 16, 17 and 18).
//
//	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
//	if err != nil {
//		return err
//	}
//	defer pool.Close()
//	o := riverqueue.Options{Pool: pool}
//	if err := riverqueue.Migrate(ctx, o); err != nil { // or as a step of the deployment
//		return err
//	}
//	queue, err := riverqueue.Open(ctx, o)
//	if err != nil {
//		return err
//	}
//	defer queue.Close() // after Run has returned
//	configs, err := riverqueue.OpenConfigs(ctx, o)
//	if err != nil {
//		return err
//	}
//	hooks, err := callhook.New(callhook.Options{Configs: configs, Queue: queue})
//	if err != nil {
//		return err
//	}
//	defer hooks.Close()
//	return hooks.Run(ctx)
//
// # When to take it
//
// Take it when calls are records in Postgres already: a call and its events are stored
// by one transaction, see [WithTx]; nothing is raised for a call that was rolled back,
// and nothing is forgotten of one that was not. Take it when several nodes deliver and
// one is to go on with what another that died has left. A node alone is served faster
// and with less by sqlitequeue.
//
// # What it promises
//
//   - When Enqueue has returned nil, the deliveries are committed, as durable as Postgres
//     is set up to be (fsync, synchronous_commit, replicas).
//   - Any number of processes enqueue and deliver. Each lane is worked by one of them at
//     a time, so that its concurrency, rate, holds and order are the same as with one.
//   - A delivery comes twice only when its process dies, or is cut off from Postgres for
//     Options.Lease, between the request and the commit of its verdict, which follows
//     within milliseconds. The ID is the same.
//   - When a process has died, others go on with its lanes within some three seconds;
//     when its machine has stopped or the network is cut, within Options.Lease and a
//     second. One that ends in order hands over each partition as soon as nothing of it is in
//     flight.
//   - An ID is remembered for four days at least after it was settled.
//   - Order holds, also Ordered, also across restarts and when lanes change hands. A
//     delivery that is replayed counts as enqueued then. Of two events of a call that
//     are raised at the same time, in transactions of the caller's, the one that is
//     committed first is the earlier.
//   - While Postgres is away Enqueue returns an error, verdicts wait in memory, and all
//     goes on by itself once it is back.
//   - RetryAt is exact to a second, by the clock of the process and that of Postgres,
//     whichever is later.
//
// # How it runs
//
// A delivery is a row in callhook_deliveries, with its body, its state and the log of
// its attempts. One that is ready, or waits for a time, has a River job beside it, which
// only points to it: a ticket, used once. River takes jobs, many at a time, and calls
// the handler with what they point to; the verdict, the end of the job and, if there is
// to be another attempt, the next job are one transaction. So neither a job that River
// brings twice nor a process that was taken for dead does any harm: its ticket counts no
// more. A delivery that is parked, or waits for earlier ones of its call, has no job: it
// costs neither River's scheduler nor its fetches anything, and burns no attempt. A Release is
// one statement.
//
// Lanes are divided into partitions, each a River queue. A process that consumes takes
// its share of them, by rows in callhook_partitions that say whose they are; it says each
// second that it lives, and holds an advisory lock on a connection, so that the others see
// it end. What depends on what came before, like the order of a call, is decided in one
// goroutine by one transaction after the other, which take in all verdicts that wait.
//
// River's leader, its scheduler and its rescuer are not used: each process looks every
// five seconds after the jobs of its own partitions, which needs no leader that might be
// away, and replaces those that were lost with a connection, or cancelled or deleted by
// hand, since it knows which ones it has. Jobs do not pile up: they are deleted when they
// are done.
//
// # The tables
//
// All are in the schema callhook, with River's, so a River of the program's own is not
// touched; River UI shows them when it is pointed at that schema. The view callhook_queue
// is for people.
//
//	SELECT * FROM callhook.callhook_queue WHERE state = 'waiting' ORDER BY due LIMIT 20;
//	SELECT reason, webhook, count(*), max(dead_at) FROM callhook.callhook_queue WHERE state = 'dead' GROUP BY 1, 2;
//	SELECT webhook, state, count(*) FROM callhook.callhook_queue GROUP BY 1, 2;
//	SELECT c.name, count(p) AS partitions, now() - c.beat AS seen FROM callhook.callhook_consumers c
//		LEFT JOIN callhook.callhook_partitions p ON p.owner = c.id GROUP BY c.id;
//
// A delivered one leaves its ID behind and nothing else, and so does an erased one; what
// Postgres keeps of deleted rows goes with its next vacuum, and its log and backups keep
// them for as long as they are kept.
package riverqueue
