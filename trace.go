package callhook

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// Trace is a set of functions that are called as things happen, in the manner of
// [net/http/httptrace.ClientTrace]. Any may be nil. They are called by the
// goroutine that does the work, many at once, so they return quickly and must not
// keep or change what they are given. A panic in one is logged and changes nothing.
// What they are given holds personal data: calls, and the bodies of deliveries.
type Trace struct {
	// PreCallStart is called before a lookup. The lookup goes on with the context
	// that it returns.
	PreCallStart func(ctx context.Context, call *Call) context.Context
	// PreCallDone is called when a lookup has its result.
	PreCallDone func(ctx context.Context, call *Call, res *PreCallResult)
	// Enqueue is called before a delivery is stored, whose TraceContext it may set:
	// attempts, of whatever process, find it there.
	Enqueue func(ctx context.Context, d *Delivery)
	// Enqueued is called when a delivery was stored, with a copy of it. One that
	// the queue had already is reported again.
	Enqueued func(ctx context.Context, d *Delivery)
	// AttemptStart is called before an attempt. The attempt goes on with the
	// context that it returns.
	AttemptStart func(ctx context.Context, d *Delivery) context.Context
	// AttemptDone is called after an attempt, with what becomes of the delivery:
	// a Verdict that waits says when it is tried again.
	AttemptDone func(ctx context.Context, d *Delivery, a Attempt, v Verdict)
	// Delivered is called when a delivery has arrived.
	Delivered func(ctx context.Context, d *Delivery)
	// Dead is called when a delivery is given up.
	Dead func(ctx context.Context, d *Delivery, reason Reason)
	// LaneDown is called when a webhook's endpoint is down ([ReasonDown]) or says that
	// it is gone ([ReasonGone]): its deliveries wait, and its lookups are answered
	// without it. LaneUp is called when they go on.
	LaneDown func(l LaneState)
	LaneUp   func(l LaneState)
}

// Stats are counts since [New], which only grow, but for Down, and Queue, which the
// queue keeps.
type Stats struct {
	// PreCall counts lookups by outcome.
	PreCall map[Outcome]int64
	// Dropped counts variables and directives of replies that were not taken, by
	// reason.
	Dropped map[Reason]int64
	// Skipped counts events that made no delivery, by reason.
	Skipped map[Reason]int64
	// Dead counts deliveries that these Hooks gave up, by reason.
	Dead map[Reason]int64
	// Attempts counts attempts to deliver.
	Attempts int64
	// ClockSkew counts answers of receivers whose clock is more than a minute off.
	ClockSkew int64
	// Down is how many webhooks are down or gone at present, as this process sees them:
	// [Hooks.Lanes] tells which.
	Down int
	// Queue is what the queue counts, which balances: Accepted = Delivered + Dead +
	// Pending + Erased. It is zero for a queue that is no [Inspector].
	Queue Counts
}

type stats struct {
	mu sync.Mutex
	Stats
}

func (s *stats) preCall(res *PreCallResult) {
	s.mu.Lock()
	defer s.mu.Unlock()
	count(&s.PreCall, res.Outcome)
	for _, c := range res.Changes {
		if c.Action == ActionDropped {
			count(&s.Dropped, c.Reason)
		}
	}
}

func (s *stats) skip(r Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	count(&s.Skipped, r)
}

func (s *stats) dead(r Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	count(&s.Dead, r)
}

func count[K comparable](m *map[K]int64, k K) {
	if *m == nil {
		*m = map[K]int64{}
	}
	(*m)[k]++
}

func (s *stats) attempt(sent, skewed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sent {
		s.Attempts++
	}
	if skewed {
		s.ClockSkew++
	}
}

// Stats returns what Hooks and its queue counted. A map in which nothing was
// counted is nil.
func (h *Hooks) Stats() Stats {
	h.stats.mu.Lock()
	out := h.stats.Stats
	out.PreCall, out.Dropped = maps.Clone(out.PreCall), maps.Clone(out.Dropped)
	out.Skipped, out.Dead = maps.Clone(out.Skipped), maps.Clone(out.Dead)
	h.stats.mu.Unlock()
	for _, l := range h.Lanes() {
		if l.Trouble == ReasonDown || l.Trouble == ReasonGone {
			out.Down++
		}
	}
	if in, ok := h.queue.(Inspector); ok {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		out.Queue, _ = in.Counts(ctx)
	}
	return out
}

// begin returns the context that a function of the host's gives, or the one there
// was.
func (h *Hooks) begin(ctx context.Context, f func() context.Context) (given context.Context) {
	_ = h.survive(func() { given = f() })
	return cmp.Or(given, ctx)
}

// survive runs f and turns a panic of the host's functions in it into an error: it
// must neither end a call nor lose a delivery.
func (h *Hooks) survive(f func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = h.panicked(p)
		}
	}()
	f()
	return nil
}

// panicked returns the error of a panic that was recovered.
func (h *Hooks) panicked(p any) error {
	h.log.Error("callhook: a function of the host's panicked", "panic", panicText(p), "stack", string(debug.Stack()))
	return fmt.Errorf("callhook: panic: %s", panicText(p))
}

// panicText is what of a panic may be logged: what the runtime says, and of a value of
// the host's, in which there may be anything, only its type.
func panicText(p any) string {
	if err, ok := p.(runtime.Error); ok {
		return err.Error()
	}
	return fmt.Sprintf("a %T", p)
}

// laneChanged tells that a lane went down or came up.
func (h *Hooks) laneChanged(l LaneState) {
	f := h.trace.LaneUp
	if l.Trouble != "" {
		f = h.trace.LaneDown
		h.log.Warn("callhook: a webhook waits", "tenant", l.Tenant, "agent", l.Agent, "webhook", l.Webhook, "reason", string(l.Trouble))
	} else {
		h.log.Info("callhook: a webhook goes on", "tenant", l.Tenant, "agent", l.Agent, "webhook", l.Webhook)
	}
	if f != nil {
		_ = h.survive(func() { f(l) })
	}
}
