package callhook

import (
	"container/heap"
	"math"
	"time"
)

// want queues the lane for attempts that it has room for. look is how many
// deliveries to look at whether or not there is room.
func (ls *lanes) want(l *lane, look int) {
	now := time.Now()
	switch {
	case l.due:
		l.due = false
		ls.releaseAll(l)
	case !l.backlog:
	case look > l.coming && !now.Before(l.empty):
		if ls.release(l, look-l.coming) {
			ls.want(l, 0) // what was parked meanwhile found no room
		}
	case l.blocked(now):
		wake := now.Add(lookAgain)
		if !l.until.IsZero() && l.until.Before(wake) {
			wake = l.until
		}
		ls.wakeAt(l, wake)
	case now.Before(l.rests()):
		ls.wakeAt(l, l.rests())
	case ls.room(l) > 0 && !l.hungry:
		l.hungry = true
		ls.turns[l.class()].push(l)
	}
}

// rests returns until when nothing of the lane is released.
func (l *lane) rests() time.Time {
	if l.empty.After(l.next) {
		return l.empty
	}
	return l.next
}

// room returns how many more attempts the lane may begin.
func (ls *lanes) room(l *lane) int {
	n := ls.most(l) - l.inFlight - l.coming
	if l.webhook == nil || l.webhook.interval > 0 {
		n = min(n, 1-l.coming)
	}
	return max(n, 0)
}

func (l *lane) class() int {
	if l.health.proven {
		return 0
	}
	return 1
}

// serve gives lanes that want attempts their turns: tenants one after the other,
// and the lanes of each. Lanes that are not proven get at most half of all
// attempts, so that endpoints that do not answer cannot take them all.
func (ls *lanes) serve() {
	for ls.stop != nil && ls.inFlight+ls.coming < ls.limit {
		l := ls.pick()
		if l == nil {
			return
		}
		l.hungry = false
		now := time.Now()
		if !l.backlog || l.blocked(now) || now.Before(l.rests()) {
			ls.want(l, 0)
			continue
		}
		n := ls.room(l)
		if n > 1 && !(ls.turns[0].empty() && ls.turns[1].empty()) {
			n = 1
		}
		n = min(n, ls.limit-ls.inFlight-ls.coming, ls.shares.room(l.Tenant))
		if !l.health.proven {
			n = min(n, max(1, ls.half()-ls.unproven))
		}
		if n > 0 && ls.release(l, n) {
			ls.want(l, 0)
		}
	}
}

// pick takes out the lane whose turn it is; nil for none that may have one.
func (ls *lanes) pick() *lane {
	ls.turn = 1 - ls.turn
	for _, class := range [...]int{ls.turn, 1 - ls.turn} {
		if class == 1 && ls.unproven >= ls.half() {
			continue
		}
		if l := ls.turns[class].pop(&ls.shares); l != nil {
			return l
		}
	}
	return nil
}

// half is how many attempts lanes that are not proven may make: one at least.
func (ls *lanes) half() int { return max(1, ls.limit/2) }

// release frees n of the lane's parked deliveries. The caller holds ls.mu, which
// is let go meanwhile. It reports whether the Run is still under way: else the lane
// is none any more.
func (ls *lanes) release(l *lane, n int) bool {
	stop, run, parks := ls.stop, ls.run, l.parks
	if stop == nil {
		return false
	}
	ls.expect(l, n)
	ls.mu.Unlock()
	freed, err := ls.queue.Release(stop, l.name, n)
	ls.mu.Lock()
	if !ls.running(run) {
		return false
	}
	ls.expect(l, -min(n-freed, l.coming))
	switch {
	case err != nil && stop.Err() == nil:
		ls.log.Warn("callhook: parked deliveries could not be released; trying again", "lane", l.name, "error", err)
		l.next = time.Now().Add(time.Second)
		ls.wakeAt(l, l.next)
	case freed < n && l.parks == parks:
		l.backlog = false
		if ls.shared {
			l.empty = time.Now().Add(emptyPause)
		}
	}
	if l.coming > 0 && l.index < 0 { // an erased one does not come
		l.checked = l.came
		ls.wakeAt(l, time.Now().Add(lookAgain))
	}
	return true
}

// releaseAll makes all due that waits in the lane. It comes as new events do.
func (ls *lanes) releaseAll(l *lane) {
	stop, run := ls.stop, ls.run
	if stop == nil {
		return
	}
	ls.mu.Unlock()
	_, err := ls.queue.Release(stop, l.name, -1)
	ls.mu.Lock()
	if err != nil && stop.Err() == nil && ls.run == run {
		ls.log.Warn("callhook: what waits in a lane could not be released; trying again", "lane", l.name, "error", err)
		l.due = true
		ls.wakeAt(l, time.Now().Add(time.Second))
	}
}

// wakeAt has the lane looked at again at a time, if not sooner.
func (ls *lanes) wakeAt(l *lane, at time.Time) {
	switch {
	case ls.stop == nil:
		return
	case l.index < 0:
		l.wake = at
		heap.Push(&ls.wakes, l)
	case at.Before(l.wake):
		l.wake = at
		heap.Fix(&ls.wakes, l.index)
	}
	if ls.wakes[0] != l {
		return
	}
	if wait := time.Until(l.wake); ls.timer == nil {
		ls.timer = time.AfterFunc(wait, ls.awake)
	} else {
		ls.timer.Reset(wait)
	}
}

// awake looks at the lanes whose time has come.
func (ls *lanes) awake() {
	ls.mu.Lock()
	if ls.stop == nil {
		ls.mu.Unlock()
		return
	}
	ls.busy.Add(1)
	defer ls.busy.Done()
	run := ls.run
	for ls.running(run) && len(ls.wakes) > 0 && !ls.wakes[0].wake.After(time.Now()) {
		l := heap.Pop(&ls.wakes).(*lane)
		if l.blocked(time.Now()) && !l.asked {
			l.asked = true
			ls.asks.push(l)
		}
		ls.look(l)
		ls.serve()
	}
	if ls.running(run) && len(ls.wakes) > 0 {
		ls.timer.Reset(time.Until(ls.wakes[0].wake))
	}
	ls.mu.Unlock()
	ls.tell()
	ls.ask(run)
}

// ask asks for the configs of lanes that are blocked, one after the other: a source
// that takes its time holds up none of the others.
func (ls *lanes) ask(run int) {
	ls.mu.Lock()
	if !ls.running(run) || ls.asking {
		ls.mu.Unlock()
		return
	}
	ls.asking = true
	for source := true; ls.running(run) && ls.asks.len() > 0; {
		l := ls.asks.pop()
		l.asked = false
		if source && l.blocked(time.Now()) {
			source = ls.reconfigure(l)
		}
		if ls.running(run) {
			ls.want(l, 0)
			ls.serve()
		}
		ls.mu.Unlock()
		ls.tell()
		ls.mu.Lock()
	}
	if ls.running(run) {
		ls.asking = false
	}
	ls.mu.Unlock()
}

func (ls *lanes) running(run int) bool { return ls.run == run && ls.stop != nil }

func (ls *lanes) look(l *lane) {
	now := time.Now()
	if l.coming > 0 {
		if l.inFlight == 0 && l.came == l.checked {
			ls.expect(l, -l.coming)
			l.backlog = l.backlog || ls.shared // what was released went to another
		} else {
			l.checked = l.came
			ls.wakeAt(l, now.Add(lookAgain))
		}
	}
	n := 0
	if l.trouble == ReasonGone && now.Sub(l.looked) >= expirePause {
		n, l.looked = 1, now
	}
	ls.want(l, n)
}

// turns are lanes that want attempts: their tenants take turns, and the lanes of
// each.
type turns struct {
	tenants fifo[*tenantTurns]
	by      map[string]*tenantTurns
}

type tenantTurns struct {
	name  string
	lanes fifo[*lane]
}

func (t *turns) empty() bool { return t.tenants.len() == 0 }

func (t *turns) push(l *lane) {
	tenant := t.by[l.Tenant]
	if tenant == nil {
		tenant = &tenantTurns{name: l.Tenant}
		if t.by == nil {
			t.by = map[string]*tenantTurns{}
		}
		t.by[l.Tenant] = tenant
		t.tenants.push(tenant)
	}
	tenant.lanes.push(l)
}

// pop returns the lane whose turn it is, of those whose tenants may have more; nil for
// none.
func (t *turns) pop(s *shares) *lane {
	for range t.tenants.len() - 1 {
		if !s.full(t.tenants.peek().name) {
			break
		}
		t.tenants.push(t.tenants.pop()) // there are few that are full: each has as much under way as it may
	}
	if t.empty() || s.full(t.tenants.peek().name) {
		return nil
	}
	tenant := t.tenants.pop()
	l := tenant.lanes.pop()
	if tenant.lanes.len() > 0 {
		t.tenants.push(tenant)
	} else {
		delete(t.by, tenant.name)
	}
	return l
}

// shares counts what each tenant has under way. Whoever has it locks.
type shares struct {
	most int // that a tenant may have; zero for no bound
	now  map[string]int
	sum  int
}

func (s *shares) full(tenant string) bool { return s.room(tenant) == 0 }

func (s *shares) room(tenant string) int {
	if s.most == 0 {
		return math.MaxInt
	}
	return max(0, s.most-s.now[tenant])
}

func (s *shares) add(tenant string, n int) {
	switch {
	case s.most == 0:
		return
	case s.now == nil:
		s.now = map[string]int{}
	}
	s.sum += n
	if s.now[tenant] += n; s.now[tenant] <= 0 {
		delete(s.now, tenant)
	}
}

// wakes is a heap of lanes by when to look at them again.
type wakes []*lane

func (w wakes) Len() int           { return len(w) }
func (w wakes) Less(i, j int) bool { return w[i].wake.Before(w[j].wake) }
func (w wakes) Swap(i, j int)      { w[i], w[j] = w[j], w[i]; w[i].index, w[j].index = i, j }
func (w *wakes) Push(x any) {
	x.(*lane).index = len(*w)
	*w = append(*w, x.(*lane))
}
func (w *wakes) Pop() any {
	last := len(*w) - 1
	l := (*w)[last]
	(*w)[last] = nil
	*w = (*w)[:last]
	l.index = -1
	return l
}
