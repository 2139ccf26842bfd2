// Package natsqueue is callhook's durable queue for several processes: a stream of NATS
// JetStream. Any of them raises events, any number delivers, and where one dies the
// others take over what it had. Beside it the package has a store of configs, in a
// JetStream key-value bucket.
//
//	nc, err := nats.Connect("nats://10.0.0.5:4222", nats.MaxReconnects(-1))
//	if err != nil {
//		return err
//	}
//	defer nc.Close()
//	queue, err := natsqueue.Open(ctx, natsqueue.Options{Conn: nc, Replicas: 3, MaxBytes: 16 << 30})
//	if err != nil {
//		return err
//	}
//	defer queue.Close() // after Run has returned
//	configs, err := natsqueue.OpenConfigs(ctx, natsqueue.ConfigOptions{Conn: nc, Replicas: 3})
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
// Take it when you run NATS already, or when another node is to deliver what one that
// died has left. For one node that has a disk package sqlitequeue needs no server and
// stores more. The server has to be version 2.12 or later, with JetStream.
//
// # What an acknowledgement means
//
// When Enqueue has returned nil, the server has acknowledged the deliveries. What that
// is worth is up to the servers:
//
//   - With one replica, as a server is unless told, it has handed them to its operating
//     system, and syncs every two minutes: they survive the end of the server's process,
//     but the last two minutes not that of its machine.
//   - With sync_interval: always in the server's jetstream block they are on its disk.
//     That costs a sync for each write, see below.
//   - With Replicas: 3 two of three servers have them: they survive the loss of any one
//     machine and its disk. When all three lose their power at once, the same two
//     minutes are at stake, unless sync_interval is always.
//   - In memory (Storage) they survive as long as a majority of the servers runs.
//
// A server that has lost the end of the stream is noticed as soon as it is back, also when
// others have written to it since: what was seen last is not there. Then all is read anew,
// what it has is delivered, and nothing is removed that was not looked at.
//
// # What it promises
//
//   - An ID is stored once, by whichever process, and remembered for four days after it
//     was settled; JetStream's own window, of two minutes, is not used.
//   - A lane is one process's at a time, and with it its limits, its holds and probes,
//     and the order of its calls, also Ordered. Lanes are divided into Options.Partitions,
//     and those among the processes that consume, evenly, by leases. A process that
//     ends hands over at once, a partition as soon as nothing of it is in flight. One
//     that was killed or cut off loses its partitions after Options.Lease and an eighth;
//     it knows so by itself, and hands out nothing once its lease has run out.
//   - A delivery comes twice only when its process dies, or is cut off for longer than
//     a lease, between the request and the acknowledgement of its verdict. The
//     ID is the same. A verdict that comes too late is refused by the server, unless
//     nobody has touched the delivery since.
//   - A server that restarts, is killed or is away for long stops nothing for good: attempts under
//     way are finished, verdicts wait, and all goes on when it is back.
//   - Over Options.MaxBytes only Enqueue stops, and what is delivered makes room. A
//     server that is full itself settles nothing: verdicts are writes. Leave room.
//
// Any process may list, replay and erase, and sees what all have stored. What is in
// flight, or was parked without an attempt, only the process that has it knows: others
// show it as ready. Where an answer of the server was lost, Replay and Erase may have done
// more than the number that they return.
//
// The servers' clocks should agree to within a lease: a process that begins takes from
// their times who has been silent for how long.
//
// # What it costs
//
// An entry of some 400 bytes in memory for each delivery that is pending, in the process
// that has its partition, and for all of them where a method of [callhook.Inspector] was
// called, until Close. Who takes a partition over, and the first such call, reads its
// index: some 40,000 pending ones a second. An ID that is remembered takes about 370
// bytes on each server's disk, and some hundred of its memory: 100,000 events a day
// are 150 MB. A delivery that arrives at its first attempt is two messages, itself and
// that it is done, after which it is removed by a request. An attempt that failed is one
// message more, and one removal. With sync_interval: always each message costs a sync, unless
// so many come at once that a batch is quicker; BenchmarkEnqueue and BenchmarkDelivery
// measure both. A dead letter, a replay and an erasure are atomic batches. A process
// that consumes, or was asked as an Inspector, reads the headers of all that is written,
// some 400 bytes a message, and one that consumes writes a record four times in a lease.
// Either has a second connection, with the options of the first, which never connects
// again: what is settled is removed by that, so that no request of before reaches a server
// that has lost something.
//
// MaxBody is the server's max_payload, which is 1 MiB unless told, less room for the
// rest of a delivery.
//
// # What it does without
//
// No consumer of JetStream acknowledges anything here. AckWait, NakWithDelay and
// MaxAckPending would have the server decide when a delivery goes, and it knows neither
// calls nor lanes: what waits for its retry holds up others, order is lost with the first
// retry, and after a restart it comes too early (TestNakHoldsUpOthers, TestNakLosesOrder
// and TestNakComesEarly show each). Instead the stream is the state: a subject for each
// fact, of which the last message counts, and each write names the sequence that it
// expects to replace. Who has a partition reads it and follows it, and decides in memory
// what goes when.
//
// # The stream
//
// Subjects begin with Options.Name. In IDs and lanes what cannot stand in a subject is =
// and two hexadecimal digits, and the end of what is long a hash.
//
//	CALLHOOK.pending.PARTITION.ID.LANE  a delivery as it was enqueued
//	CALLHOOK.state.PARTITION.ID.LANE    what its last attempt left behind, when it is pending still
//	CALLHOOK.dead.PARTITION.ID.LANE     a dead letter, whole
//	CALLHOOK.done.PARTITION.ID.OUTCOME  an ID that is remembered: delivered, dead or erased
//	CALLHOOK.lane.PARTITION.LANE        the counts of a lane, up to a sequence
//	CALLHOOK.part.PARTITION             from which sequence on what is done is to be counted
//	CALLHOOK.node.ID                    a process that consumes, by host and process ID
//	CALLHOOK.owner.PARTITION            whose a partition is
//
// All but bodies is in the header Callhook, as JSON. With the nats tool:
//
//	nats stream subjects CALLHOOK --filter 'CALLHOOK.pending.*.*.acme/reception/crm'
//	nats stream subjects CALLHOOK --filter 'CALLHOOK.dead.>'
//	nats stream get CALLHOOK --last-for CALLHOOK.owner.7
//
// Nobody else may write to these subjects, and nobody may give the stream a max-age or
// purge it: a delivery that was taken away is logged and forgotten, and counts no more.
//
// What is settled is removed by its sequence, and nothing is left to displacement or to
// an expiry alone: of a message that another displaces the server (2.15) notes nothing, and
// where it is killed after the other has expired it has the first again. Erase has the
// server overwrite the bytes in its file, unless that is encrypted. What earlier attempts
// left, before the last, and the bodies of what was delivered it keeps until it compacts
// that part of the file; the logs by which replicas agree keep what was written until they
// are compacted, and backups keep all. Seal deliveries (callhook.Options.SealKey) where that matters.
package natsqueue
