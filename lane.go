package callhook

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"
)

// lanes keeps the deliveries of one webhook from harming another's: how many run
// at once, how often they begin, when the endpoint is left alone, and whose turn
// it is when all of them want more than there is. What may not go now is parked
// in the queue and released when it may. A lane at rest costs neither a goroutine
// nor a timer; those that wait for a time share one.
type lanes struct {
	queue  Queue
	agents *agents
	log    *slog.Logger
	limit  int    // attempts at once
	shared bool   // lanes come from other processes, and go to them
	shares shares // of each tenant: under way, or released for it
	told   func(LaneState)

	mu       sync.Mutex
	all      map[string]*lane
	stop     context.Context // of the Run that is under way; nil when there is none
	run      int             // which one that is
	sweepAt  int             // so many lanes, and those at rest are forgotten
	inFlight int             // attempts
	coming   int             // deliveries that were released for one
	unproven int             // attempts of lanes that are not proven, and what comes for them
	turns    [2]turns        // lanes that want attempts; the second, those not proven
	turn     int
	wakes    wakes
	timer    *time.Timer
	busy     sync.WaitGroup // the timer's function
	news     []LaneState    // to be told
	asks     fifo[*lane]    // lanes whose configs are to be asked for
	asking   bool           // somebody does, one after the other
	telling  bool           // somebody tells them, one after the other
}

// lane is one webhook's.
type lane struct {
	LaneRef
	typ      Type
	name     string
	webhook  *webhook // the last that was seen
	inFlight int
	coming   int       // released, and on their way here
	charged  int       // of them, those that count as attempts of a lane that is not proven
	came     int       // that have been here, ever
	checked  int       // came, when it was looked at last
	backlog  bool      // the queue may have parked some
	parks    int       // how often something was parked
	empty    time.Time // until when a lane that others may have had is not asked again for parked ones
	hungry   bool      // it is in turns

	trouble Reason    // why nothing goes
	since   time.Time // and from when
	until   time.Time // and how long; zero for until somebody acts
	tries   int       // probes of a lane that is down
	streak  int       // answers that asked to come later
	warned  bool      // it was logged that it is held
	down    bool      // it was told that nothing goes, and not yet that it does again
	next    time.Time // when the rate lets the next one begin
	ramp    int       // how many at once, while it begins slowly; zero for no bound
	health  health
	due     bool // what waits for a time is to be released too

	looked time.Time // when it was last looked at for what has expired
	wake   time.Time // when to look at the lane again
	index  int       // in wakes
	asked  bool      // it is in asks
}

const (
	defaultLimit = 1024
	// lookAgain is how soon a lane that waits notices that its config was changed,
	// or that what it released did not come.
	lookAgain = 10 * time.Second
	// expirePause is how often a lane that is stopped looks for what has expired.
	expirePause = time.Hour
	// looks is how many deliveries are looked at together that need no attempt.
	looks = 8
	// emptyPause is how long a lane of a queue that several consume had nothing parked,
	// before it is asked again: another may have parked some, and is gone.
	emptyPause = time.Second
	// maxResting is how many lanes at rest are remembered.
	maxResting = 20_000
)

// start begins a Run, which lasts until stop has ended.
func (ls *lanes) start(stop context.Context) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.run++
	ls.stop, ls.all, ls.sweepAt = stop, map[string]*lane{}, maxResting
}

// end stops the timer and waits for its function.
func (ls *lanes) end() {
	ls.mu.Lock()
	if ls.timer != nil {
		ls.timer.Stop()
	}
	ls.stop, ls.all, ls.wakes, ls.timer = nil, nil, nil, nil
	ls.inFlight, ls.coming, ls.unproven, ls.turns = 0, 0, 0, [2]turns{}
	ls.shares.now, ls.shares.sum = nil, 0
	ls.asks, ls.asking = fifo[*lane]{}, false
	ls.mu.Unlock()
	ls.busy.Wait()
}

// get returns the lane of d. The first time nobody knows what an earlier process
// has left in it.
func (ls *lanes) get(d *Delivery) *lane {
	l := ls.all[d.Lane]
	if l == nil && ls.all != nil {
		if len(ls.all) >= ls.sweepAt {
			maps.DeleteFunc(ls.all, func(_ string, l *lane) bool { return l.atRest() })
			ls.sweepAt = max(maxResting, 2*len(ls.all))
		}
		l = &lane{LaneRef: LaneRef{d.Tenant, d.Agent, d.Webhook}, typ: d.Type, name: d.Lane, backlog: true, index: -1}
		ls.all[d.Lane] = l
	}
	return l
}

// atRest reports whether nothing would be lost if the lane were forgotten.
func (l *lane) atRest() bool {
	return l.inFlight == 0 && l.coming == 0 && !l.backlog && l.trouble == "" && l.health.clean() && l.streak == 0 &&
		l.ramp == 0 && l.index < 0 && !l.hungry && !l.asked && !time.Now().Before(l.next)
}

// enter reports whether a delivery may be attempted now. If so the caller calls
// leave with what it returns when it is done, else it parks the delivery.
func (ls *lanes) enter(d *Delivery, w *webhook) (p pass, ok bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l, now := ls.get(d), time.Now()
	if l == nil {
		return p, false // the end of Run: it stays where it is
	}
	expected := ls.arrived(l)
	ls.configured(l, w)
	switch {
	case l.blocked(now), now.Before(l.next), l.inFlight >= ls.most(l):
		return p, false
	case !expected && (ls.inFlight+ls.coming >= ls.limit || ls.shares.full(l.Tenant)):
		return p, false
	case !expected && !l.health.proven && ls.unproven >= ls.half():
		return p, false
	}
	if l.trouble != "" && l.trouble != ReasonDown { // its time is over
		ls.free(l)
	}
	if w.interval > 0 {
		l.next = now.Add(w.interval)
		if l.backlog {
			ls.wakeAt(l, l.next)
		}
	}
	l.inFlight++
	ls.inFlight++
	ls.shares.add(l.Tenant, 1)
	if !l.health.proven {
		ls.unproven++
	}
	return pass{l, !l.health.proven, ls.run}, true
}

// pass is what a delivery in an attempt holds.
type pass struct {
	lane     *lane
	unproven bool
	run      int
}

func (ls *lanes) leave(p pass) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if p.run != ls.run {
		return
	}
	p.lane.inFlight--
	ls.inFlight--
	ls.shares.add(p.lane.Tenant, -1)
	if p.unproven {
		ls.unproven--
	}
}

// arrived counts a delivery that the queue handed out, and reports whether it was
// expected. One that was not may be the first of a lane that another process had.
func (ls *lanes) arrived(l *lane) bool {
	l.came++
	if l.coming == 0 {
		l.backlog = l.backlog || ls.shared
		return false
	}
	ls.expect(l, -1)
	return true
}

// expect counts what was released and is on its way.
func (ls *lanes) expect(l *lane, n int) {
	l.coming += n
	ls.coming += n
	ls.shares.add(l.Tenant, n)
	charge := n
	if n < 0 {
		charge = -min(-n, l.charged)
	} else if l.health.proven {
		charge = 0
	}
	l.charged += charge
	ls.unproven += charge
}

// most returns how many attempts at once a lane may make now. One that is not proven
// leaves room for others that are not: it may be one that does not answer.
func (ls *lanes) most(l *lane) int {
	if l.health.proven {
		return l.most()
	}
	return min(l.most(), max(1, ls.half()/8))
}

func (l *lane) most() int {
	switch {
	case l.webhook == nil || l.trouble == ReasonDown:
		return 1
	case l.ramp > 0:
		return min(l.ramp, l.webhook.concurrency)
	}
	return l.webhook.concurrency
}

// parked says that the queue has parked d.
func (ls *lanes) parked(d *Delivery) {
	ls.mu.Lock()
	if l := ls.all[d.Lane]; l != nil {
		l.backlog, l.empty = true, time.Time{}
		l.parks++
	}
	ls.mu.Unlock()
	ls.pump(d, false)
}

// pump releases what the lane of d, and then others, have room for. It runs after
// every delivery. Nothing is left behind: whoever parks runs it once that is
// done; and it releases something, or leaves that to an attempt under way, which
// runs it too, or sets the time when to look again.
//
// settled says that d came and was settled without entering the lane.
func (ls *lanes) pump(d *Delivery, settled bool) {
	ls.mu.Lock()
	if l := ls.get(d); l != nil {
		look := 0
		if settled {
			ls.arrived(l)
			look = looks // there may be more like it
		}
		ls.want(l, look)
	}
	ls.serve()
	ls.mu.Unlock()
	ls.tell()
}
