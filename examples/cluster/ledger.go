package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/callhook-go/callhook"
)

// ledger is what everybody said: the voice nodes which events the queue has accepted,
// the workers which deliveries it has settled, and the customer what came.
type ledger struct {
	mu       sync.Mutex
	calls    map[string]bool      // that voice nodes took
	accepted map[eventRef]bool    // events that a verb has stored
	requests map[string][]request // by webhook-id, in the order in which they came
	ops      map[string][]string  // by call, what ops was told, in the order in which it came
	settled  map[string]time.Time // by worker and webhook-id
	flying   map[string]int       // by worker, requests under way
	last     time.Time            // when something came
	bad      []error              // requests that did not verify
	kills    []kill

	asked, answered int
	slowest         time.Duration
	outcomes        map[string]int
}

// eventRef is an event of a call, and delivery is what one webhook is told of it.
type eventRef struct{ call, name string }

type delivery struct {
	webhook string
	eventRef
}

// webhooks are those that are told of an event.
func (e eventRef) webhooks() []string {
	if e.name == "ended" {
		return []string{"crm-log", "billing"}
	}
	return []string{"ops"}
}

// request is one that arrived.
type request struct {
	delivery
	sender string // the worker
	at     time.Time
}

// kill is when a worker was killed, or the engine: then who is empty, and to is when
// workers could be sure of it again.
type kill struct {
	who      string
	from, to time.Time
}

func newLedger() *ledger {
	return &ledger{calls: map[string]bool{}, accepted: map[eventRef]bool{}, requests: map[string][]request{}, ops: map[string][]string{},
		settled: map[string]time.Time{}, flying: map[string]int{}, outcomes: map[string]int{}}
}

// heard takes down what a node said.
func (l *ledger) heard(p *process, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch w := strings.Fields(line); {
	case len(w) == 3 && w[0] == "accepted":
		l.accepted[eventRef{w[1], w[2]}] = true
	case len(w) == 3 && w[0] == "settled":
		if nanos, err := strconv.ParseInt(w[2], 10, 64); err == nil && l.settled[p.name+" "+w[1]].IsZero() {
			l.settled[p.name+" "+w[1]] = time.Unix(0, nanos)
		}
	case len(w) == 4 && w[0] == "lookup":
		l.asked++
		l.outcomes[w[2]]++
		if w[2] == string(callhook.OutcomeApplied) {
			l.answered++
		}
		if took, err := strconv.ParseInt(w[3], 10, 64); err == nil {
			l.slowest = max(l.slowest, time.Duration(took))
		}
	}
}

// begin counts a request of a worker's that is under way, until its end is called.
func (l *ledger) begin(sender string) (end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flying[sender]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.flying[sender]--
	}
}

func (l *ledger) arrived(id string, d delivery, sender string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = time.Now()
	l.requests[id] = append(l.requests[id], request{d, sender, l.last})
	if d.webhook == "ops" {
		l.ops[d.call] = append(l.ops[d.call], d.name)
	}
}

func (l *ledger) forged(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bad = append(l.bad, err)
}

func (l *ledger) killed(k kill) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kills = append(l.kills, k)
}

// busiest returns the worker with the most requests under way, and how many.
func (l *ledger) busiest(among map[string]*process) (worker string, requests int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range among {
		if l.flying[name] > requests {
			worker, requests = name, l.flying[name]
		}
	}
	return worker, requests
}

func (l *ledger) underWay() (requests int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.flying {
		requests += n
	}
	return requests
}

func (l *ledger) lastArrival() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// unsettled reports whether a request could come again because of a kill: its sender
// was killed, or the engine, after it had come and before the sender said that the
// queue has stored the verdict, and it came again after that. No time is allowed for
// beyond: a delivery whose verdict was stored never comes again.
func (l *ledger) unsettled(first, again request, id string) bool {
	settled := l.settled[first.sender+" "+id]
	return slices.ContainsFunc(l.kills, func(k kill) bool {
		return (k.who == "" || k.who == first.sender) && !first.at.After(k.to) && !again.at.Before(k.from) &&
			(settled.IsZero() || settled.After(k.from))
	})
}

// balance is what the ledger comes to.
type balance struct {
	Calls, Ended, Cut             int // made, to their end, and lost with a voice node that was killed
	Asked, Answered               int // lookups
	Slowest                       time.Duration
	Accepted                      int // events
	Owed                          int // deliveries that were promised by them
	Delivered                     int // deliveries that came, each once
	Untold                        int // of those: stored, but the voice node was killed before it said so
	Lost                          int
	Twice, Unsettled, Unexplained int // requests for what had come before; in flight or unacknowledged at a kill; and not
	Disordered                    int // calls of which transfer_connected came before transfer_started
	Forged                        int // requests that did not verify
	Queue                         callhook.Counts
	remarks                       []string
}

// balance adds up. It is for when all has ended.
func (l *ledger) balance(c *carrier, queue callhook.Counts) (b balance) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b = balance{Calls: c.placed, Ended: c.ended, Cut: c.cut, Asked: l.asked, Answered: l.answered, Slowest: l.slowest,
		Accepted: len(l.accepted), Delivered: len(l.requests), Forged: len(l.bad), Queue: queue}
	came := map[delivery]bool{}
	for id, all := range l.requests {
		d := all[0].delivery
		came[d] = true
		if !l.accepted[d.eventRef] {
			b.Untold++
			b.remark("%s of %s to %s came, and its voice node was killed before it said that it is stored", d.name, d.call, d.webhook)
		}
		for i := 1; i < len(all); i++ {
			b.Twice++
			what := "unsettled at a kill"
			if l.unsettled(all[i-1], all[i], id) {
				b.Unsettled++
			} else {
				b.Unexplained++
				what = "settled before, or no kill between"
			}
			b.remark("%s of %s to %s came from %s at %s and again from %s at %s: %s", d.name, d.call, d.webhook,
				all[i-1].sender, clock(all[i-1].at), all[i].sender, clock(all[i].at), what)
		}
	}
	for e := range l.accepted {
		for _, webhook := range e.webhooks() {
			if b.Owed++; !came[delivery{webhook, e}] {
				b.Lost++
				b.remark("LOST: %s of %s to %s", e.name, e.call, webhook)
			}
		}
	}
	for call, told := range l.ops {
		connected := slices.Index(told, string(callhook.StatusTransferConnected))
		if connected == 0 || connected > 0 && slices.Contains(told[connected:], string(callhook.StatusTransferStarted)) {
			b.Disordered++
			b.remark("OUT OF ORDER: %s: %s", call, strings.Join(told, ", "))
		}
	}
	for _, err := range l.bad {
		b.remark("NOT VERIFIED: %v", err)
	}
	slices.Sort(b.remarks)
	return b
}

func (b *balance) remark(format string, args ...any) {
	b.remarks = append(b.remarks, fmt.Sprintf(format, args...))
}

func clock(t time.Time) string { return t.Format("15:04:05.000") }

// err is what must not be.
func (b *balance) err() error {
	q := b.Queue
	if b.Lost == 0 && b.Unexplained == 0 && b.Disordered == 0 && b.Forged == 0 && b.Ended+b.Cut == b.Calls &&
		q.Pending == 0 && q.Dead == 0 && q.Accepted == q.Delivered && q.Delivered == int64(b.Delivered) {
		return nil
	}
	return fmt.Errorf("the ledger does not balance: of %d calls %d are over; %d deliveries lost, %d twice without a kill, %d calls out of order, %d requests not verified; %d came, and the queue says %+v (-v tells which)",
		b.Calls, b.Ended+b.Cut, b.Lost, b.Unexplained, b.Disordered, b.Forged, b.Delivered, b.Queue)
}

func (b *balance) print(w io.Writer) {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-13s%s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintln(w)
	row("calls", "%d made: %d to their end, %d lost with the voice node that was killed", b.Calls, b.Ended, b.Cut)
	row("lookups", "%d asked, %d answered, %d fell back to defaults in time; the slowest took %s", b.Asked, b.Answered, b.Asked-b.Answered, b.Slowest.Round(time.Millisecond))
	row("events", "%d accepted, which are %d deliveries", b.Accepted, b.Owed)
	row("delivered", "%d%s", b.Delivered, map[bool]string{true: fmt.Sprintf(", %d of them stored by the voice node that was killed before it could say so", b.Untold)}[b.Untold > 0])
	row("lost", "%d", b.Lost)
	row("came twice", "%d, of which %d were in flight or unacknowledged at a kill", b.Twice, b.Unsettled)
	row("out of order", "%d", b.Disordered)
	row("queue", "%d accepted = %d delivered + %d dead + %d pending", b.Queue.Accepted, b.Queue.Delivered, b.Queue.Dead, b.Queue.Pending)
}
