// Program bench runs callhook beside its peers, in one run on one machine, and
// prints three Markdown tables: how events get to their receivers, how long callers
// wait for lookups, and whether callhook keeps its budgets.
//
//	go run ./bench                       # from the root of a clone; about half an hour
//	go run ./bench -quick                # every part once and small, in under a minute
//	go run ./bench -out bench/results    # writes results.md and plot.svg there too
//	go run ./bench -only pool,memory     # some rows only, by key (see kinds)
//	go run ./bench -engines              # the second part, which writes engines.md; about 25 minutes
//
// Storage is made in $TMPDIR, which must be on a disk to say anything about fsync, with
// room for 6 GB. Rows on Postgres need initdb and postgres on PATH.
//
// # What is done
//
// Every peer posts the same kind of event: a JSON body of 2 KB, signed, with 16
// workers and a timeout of 15 s, to one net/http server on loopback that notes when
// each event first arrived. Producers raise one event at a time and wait until the
// peer has accepted it, because calls end one at a time. Peers take turns within a
// round, and a figure is the median of the rounds (-rounds), so that a slow minute
// of the machine hits all of them.
//
// # How to read the table
//
//   - fsync says when the peer has put an event on the disk. Compare rows of the same
//     kind only: a row that does not sync is a different promise.
//   - enqueue is the time until an event was accepted, and how many were accepted in a
//     second, with 1 producer and with 16; nothing is delivered meanwhile.
//   - end to end: 16 producers enqueue while the peer delivers; the clock stops when
//     the receiver has all of them.
//   - memory is how much the anonymous memory of a process of its own grew while the
//     events were pending; goroutines is how many more there were while it delivered.
//   - 1 of 10 dead: 100 events a second to 10 endpoints, one of which accepts requests
//     and never answers: p99 from raised to received at the other nine, and before it
//     the same with all ten healthy. "≥" is for events that had not arrived when
//     the clock stopped. Peers have their 16 workers for all ten; of callhook's webhooks
//     each has its default concurrency of 8.
//   - time to end: how long ending takes while 16 attempts have 300 ms to go and 48 events
//     wait. Those that take longer deliver what waits too.
//   - kill -9: the process is killed with requests in flight and started again on the same
//     storage. Lost is what the peer had accepted and the receiver never got; the time is
//     from the start of the new process until what was in flight came again.
//
// Of lookups: the worst over 200 ms is how much longer than its budget a lookup took
// whose endpoint stalls in that way; a hedge is a second request beside a slow first.
//
// # The second part
//
// -engines compares callhook on engines that several machines share, natsqueue and
// riverqueue, with the engines used bare, each beside the row that makes the same promise.
// A server is a process of its own, on loopback, and so is each worker; producers and the
// receiver are this one. All on one machine: more workers show that they share the
// work, and what that costs, and not what more machines would do.
//
//   - enqueue is as above.
//   - delivery and end to end are by 1, 2 and 4 processes with 16 attempts at once each, over
//     ten endpoints. callhook gives a lane to one process at a time; the bare engines
//     give anybody anything, in any order. In brackets stands the share of the process that
//     delivered least. The backlog is there when the processes begin, all at once; before
//     end to end they have had 5 s to divide the lanes.
//   - came twice counts events that arrived again after they had, or, where a process was
//     killed, after a request had been cut off.
//   - a dead endpoint: as above, but with a backlog of its own that was there before two
//     processes begin. callhook has its defaults here (1,024 attempts, 8 for a webhook).
//   - a process is killed: from the kill until all came again that was in flight in it.
//     What says when is a setting; callhook's queues have their defaults.
//
// callhook builds its bodies from the call in each measurement; the others are given
// bodies that are there already, but for livekit, which writes its event as JSON.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	if isChild() {
		os.Exit(child())
	}
	var o options
	only := flag.String("only", "", "comma-separated keys of the rows to run; empty for all")
	flag.BoolVar(&o.quick, "quick", false, "every part once and small: a smoke test, not a measurement")
	flag.BoolVar(&o.engines, "engines", false, "the second part instead: engines for several machines")
	flag.IntVar(&o.repeat, "rounds", 0, "rounds of which a figure is the median (default 3, with -quick 1)")
	flag.StringVar(&o.out, "out", "", "folder to write results.md and plot.svg to, or engines.md; empty for none")
	flag.Parse()
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	do := run
	if o.engines {
		do = runEngines
	}
	if err := do(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
