package callhook

import (
	"context"
	"errors"
	"time"
)

// Queue stores deliveries and hands them out. Most programs only pass one to [New];
// this is for those who write one, and callhooktest.TestQueue holds them to it. A
// queue decides where and when; callhook decides what an answer means. All methods
// are safe for concurrent use.
//
// A delivery is pending until it is settled, which is delivered or dead. A pending
// one is in flight while a [Handler] has it; it waits for a time (RetryAt); it is
// parked; or it is ready, and then handed out as soon as can be.
//
//   - Order. While a delivery's Attempts are zero, no later one of the same Call and
//     Lane is handed out, unless the earlier is settled; one that is Ordered
//     is not handed out until all earlier ones of its Call and Lane are settled.
//     Earlier is what was stored earlier, and in one Enqueue what comes first. A
//     queue that cannot keep the latter says so in its Limits.
//   - Lanes. Deliveries of one lane never wait for those of another. While a lane
//     has parked deliveries, the queue may park what else of it becomes ready, new
//     or due, without handing it out: so a backlog of a million costs one handler's
//     look and not a million.
//   - Crash. What is pending when a process dies is pending when the queue is opened
//     again: parked, ready, or waiting for its time. That something was released
//     need not be remembered. Run begins with Release(ctx, "", 1).
//   - One consumer. Any process may enqueue, and one at a time consumes and releases;
//     another gets an error or waits. Where its Limits say Shared any number do, and
//     the queue gives each lane to one of them at a time, so that what is limited, held
//     and ordered by lane is so in all: a consumer's Release frees only what its own
//     lanes have, and of a lane that it takes over from another, which ended or
//     died, the queue makes one parked delivery ready by itself; whoever consumes takes
//     one that it did not release for a sign that more are parked. A delivery is in one
//     handler at a time, unless the queue has lost sight of the process that has it.
type Queue interface {
	// Enqueue stores ds. nil: all are as durable as the queue promises. On error
	// a part may be stored: repeat the same ds. A delivery whose ID is remembered
	// is ignored. The deliveries are the queue's then: callers do not change them.
	// A queue that takes no more at present returns an error that is ErrQueueFull, or
	// ErrQuota where it takes no more of this tenant's.
	Enqueue(ctx context.Context, ds ...*Delivery) error
	// Consume hands ready deliveries to handle, as many at once as are ready, until
	// ctx ends, then waits for those in flight (a handler's ctx outlives ctx) and
	// returns nil. It stores each delivery as the handler left it, carries out the
	// verdict, and then calls its Done, before it returns. It reconnects by itself, and tries again to
	// store a verdict that it cannot; after the end of ctx for some seconds more, and
	// then the delivery is pending as it was stored last.
	Consume(ctx context.Context, handle Handler) error
	// Release makes up to n parked deliveries of a lane ready and returns how many:
	// those without Attempts first, the earliest first, but every fourth is one
	// that has Attempts, the longest parked first, if there is one, so that neither
	// kind starves. With n below zero it is all that are parked or wait for a time
	// (not those that wait for their call). Lane "" means n of every lane.
	// A lane that is not known has none.
	Release(ctx context.Context, lane string, n int) (int, error)
	// Limits says what the queue promises. It does not change.
	Limits() Limits
	// Close ends the queue. Whoever opened it closes it, after Run has returned.
	// Enqueue, Consume and Release return an error that is ErrQueueClosed then;
	// Close may be called again.
	Close() error
}

// Handler makes an attempt to deliver d and says what becomes of it. It changes
// Attempts, Rejections, Postponed and Log, and nothing else. It may be called by many
// goroutines at once, and returns within the webhook's timeout.
type Handler func(ctx context.Context, d *Delivery) Verdict

// Verdict is what becomes of a delivery after a [Handler] had it.
type Verdict struct {
	State  State     // StateDelivered, StateWaiting, StateParked or StateDead
	At     time.Time // of StateWaiting: when to hand it out again
	Reason Reason    // of StateDead

	done func()
}

// Delivered is the verdict of a delivery that arrived.
func Delivered() Verdict { return Verdict{State: StateDelivered} }

// RetryAt is the verdict of a delivery that is to be handed out again at t.
func RetryAt(t time.Time) Verdict { return Verdict{State: StateWaiting, At: t} }

// Park is the verdict of a delivery that is to rest until [Queue.Release].
func Park() Verdict { return Verdict{State: StateParked} }

// Dead is the verdict of a delivery that is given up.
func Dead(reason Reason) Verdict { return Verdict{State: StateDead, Reason: reason} }

// Then returns the verdict with a function that its Done calls: what may only
// happen once the verdict has been carried out, like releasing what it parked.
func (v Verdict) Then(f func()) Verdict { v.done = f; return v }

// Done tells whoever gave the verdict that it was carried out: from here on a
// Release finds what was parked. A queue calls it once for each verdict, without
// holding a lock, since Release may be called by it.
func (v Verdict) Done() {
	if v.done != nil {
		v.done()
	}
}

// State is where a delivery stands in a queue.
type State string

// The states of a delivery. All but the last two are pending.
const (
	StateReady     State = "ready"     // it goes as soon as its turn comes
	StateInFlight  State = "in_flight" // an attempt is being made
	StateWaiting   State = "waiting"   // it is tried again at RetryAt, or waits for its call's earlier events
	StateParked    State = "parked"    // it waits until its lane has room for it
	StateDelivered State = "delivered"
	StateDead      State = "dead" // given up: a dead letter, see Reason
)

// Limits is what a [Queue] promises.
type Limits struct {
	// Ordered: deliveries that are Ordered are handed out strictly in order.
	Ordered bool
	// Durable: what was stored survives the end of the process.
	Durable bool
	// Shared: several processes may consume at the same time.
	Shared bool
	// MaxBody is how many bytes Body and Record may have together; zero for no bound
	// of its own.
	MaxBody int
	// Remember is how long it remembers the ID of a delivery that is settled.
	Remember time.Duration
	// Redeliver is how soon after its process died a delivery that was in flight can
	// be handed out again, once there is another; zero for at once.
	Redeliver time.Duration
	// Resolution is how much later than RetryAt it may hand a delivery out. It is
	// never earlier.
	Resolution time.Duration
}

// Inspector is what a queue may offer beside [Queue], to look inside and to mend.
// All methods are safe for concurrent use, also while deliveries go on.
type Inspector interface {
	// List returns deliveries that match f, the last enqueued first, at most
	// f.Limit (zero means 100). They are copies without Body, Record and Log: see
	// Get. For the next page set f.Before to the Seq of the last.
	List(ctx context.Context, f Filter) ([]*Delivery, error)
	// Get returns a delivery whole, as a copy: pending ones, dead letters and those
	// delivered that the queue keeps. Otherwise its error is [ErrNoDelivery].
	Get(ctx context.Context, id string) (*Delivery, error)
	// Counts returns how many deliveries there are and were. They balance, always:
	// Accepted = Delivered + Dead + Pending + Erased.
	Counts(ctx context.Context) (Counts, error)
	// Lanes returns the counts of each lane that f.Tenant, f.Agent and f.Webhook
	// select and that ever had a delivery, in the order of tenant, agent and webhook.
	// They balance too, and add up to Counts.
	Lanes(ctx context.Context, f Filter) ([]LaneCounts, error)
	// Replay makes dead letters that match f ready again, as they are: the same
	// ID and body. Their attempts and their age start over. With f.State
	// StateDelivered it is those delivered that the queue keeps. A f.Limit of
	// zero means all. It returns how many.
	Replay(ctx context.Context, f Filter) (int, error)
	// Erase takes out all that the queue holds of deliveries that match f, in
	// whatever state, and returns how many. Their IDs stay remembered. An attempt
	// under way is not stopped, and where one was released and not handed out yet the
	// next of its lane goes instead. f must say IDs, Call or Number. A f.Limit of
	// zero means all.
	Erase(ctx context.Context, f Filter) (int, error)
}

// Filter selects deliveries. A zero field selects all.
type Filter struct {
	IDs                    []string  // these
	State                  State     // where it stands
	Tenant, Agent, Webhook string    // whose it is
	Call                   string    // the call's id
	Number                 string    // a hash of the call's numbers, see Hooks.NumberHash
	Reason                 Reason    // of dead letters
	Since, Until           time.Time // EnqueuedAt is not before Since, and before Until
	Before                 int64     // Seq is below it
	Limit                  int       // at most so many
}

// Counts is how many deliveries a queue has and had since it was made: a durable
// one counts across restarts.
type Counts struct {
	Accepted  int64 // stored, each event and webhook once
	Delivered int64 // arrived
	Dead      int64 // given up, whether or not the dead letter is still kept; replaying takes it back
	Pending   int64 // on their way
	Erased    int64 // taken out before they were settled
}

// LaneRef names a lane: the deliveries of one webhook.
type LaneRef struct {
	Tenant, Agent, Webhook string
}

// LaneCounts are the counts of one lane.
type LaneCounts struct {
	LaneRef
	Counts
	// Oldest is when the oldest pending delivery was enqueued; zero for none.
	Oldest time.Time
}

// The errors of queues.
var (
	// ErrQueueFull says that a queue takes no more at present. Nothing of the event
	// was stored, or what was is ignored when it is raised again.
	ErrQueueFull = errors.New("callhook: the queue is full")
	// ErrQuota says that a tenant has as much pending, or under way, as it may: nothing
	// of the event was stored, and other tenants do not notice.
	ErrQuota = errors.New("callhook: the tenant has reached its quota")
	// ErrQueueClosed says that a queue was closed.
	ErrQueueClosed = errors.New("callhook: the queue is closed")
	// ErrNoDelivery says that a queue holds no delivery with this ID (any more).
	ErrNoDelivery = errors.New("callhook: the queue holds no such delivery")
	// ErrFilter says that a filter selects too much, or what cannot be.
	ErrFilter = errors.New("callhook: the filter")
)
