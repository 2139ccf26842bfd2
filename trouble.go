package callhook

import (
	"errors"
	"time"
)

// LaneState is where a lane stands: the deliveries, or the lookups, of one webhook.
type LaneState struct {
	LaneRef
	// Trouble says why nothing is sent; empty when the lane is free. While it is
	// [ReasonDown], one delivery at a time probes the endpoint.
	Trouble Reason
	// Since is when that began, and Until when it is tried again; zero for when
	// the config is published anew, or [Hooks.Resume].
	Since, Until time.Time
	// InFlight is how many attempts are under way.
	InFlight int
}

func (l *lane) state() LaneState {
	return LaneState{LaneRef: l.LaneRef, Trouble: l.trouble, Since: l.since, Until: l.until, InFlight: l.inFlight}
}

// blocked reports whether the lane is left alone at present.
func (l *lane) blocked(now time.Time) bool {
	return l.trouble != "" && (l.until.IsZero() || now.Before(l.until))
}

// configured takes the config that is in production. Another than before lifts
// what the lane waits for: what was wrong may be mended.
func (ls *lanes) configured(l *lane, w *webhook) {
	if l.webhook == w {
		return
	}
	if l.webhook != nil {
		l.due = true
		if l.webhook.interval != w.interval {
			l.next = time.Time{}
		}
		ls.lift(l)
	}
	l.webhook, l.typ = w, w.typ
}

func (ls *lanes) lift(l *lane) {
	l.streak, l.tries, l.warned = 0, 0, false
	l.health.reset()
	switch l.trouble {
	case "":
	case ReasonDown:
		l.until = time.Now() // for a probe
	default:
		ls.free(l)
	}
}

// free ends the lane's trouble. It begins slowly.
func (ls *lanes) free(l *lane) {
	l.trouble, l.since, l.until, l.tries = "", time.Time{}, time.Time{}, 0
	l.ramp = 1
	if l.down { // also if it was paused since
		l.down = false
		ls.news = append(ls.news, l.state())
	}
}

// block keeps the lane from sending until a time, or until somebody acts.
func (ls *lanes) block(l *lane, why Reason, until time.Time) {
	if l.trouble != why {
		l.trouble, l.since, l.until = why, time.Now(), until
		if why == ReasonDown || why == ReasonGone {
			l.down = true
			ls.news = append(ls.news, l.state())
		}
		return
	}
	l.until = until
}

// turnAway keeps the lane of a delivery that just came from sending for a time, or
// with no pause until somebody acts, and reports whether that is news. The caller
// parks the delivery. w is nil where there is no config to go by.
func (ls *lanes) turnAway(d *Delivery, w *webhook, why Reason, pause time.Duration) (news bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.get(d)
	if l == nil {
		return false
	}
	ls.arrived(l)
	if w != nil {
		ls.configured(l, w)
	}
	was := l.trouble
	ls.hold(l, why, pause)
	return l.trouble != was
}

// postpone keeps the lane from sending, for the sake of what an attempt with w
// has told, and reports whether that is news: it has not happened since one arrived.
func (ls *lanes) postpone(d *Delivery, w *webhook, why Reason, pause time.Duration) (news bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.all[d.Lane]
	if l == nil || l.webhook != w { // somebody published: another attempt tells more
		return false
	}
	ls.hold(l, why, pause)
	news, l.warned = !l.warned, true
	return news
}

func (ls *lanes) hold(l *lane, why Reason, pause time.Duration) {
	now := time.Now()
	switch until := now.Add(pause); {
	case pause == 0:
		ls.block(l, why, time.Time{})
	case l.blocked(now) && (l.trouble != why || l.until.IsZero() || !l.until.Before(until)):
	case l.trouble == ReasonDown: // it is not known to be up: the next probe waits
		l.until = until
	default:
		ls.block(l, why, until)
	}
}

// comeLater holds the lane as its endpoint asked, or longer each time it asks
// without saying how long: 1 second, growing to 15 minutes.
func (ls *lanes) comeLater(d *Delivery, w *webhook, after time.Duration) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.all[d.Lane]
	if l == nil || l.webhook != w {
		return
	}
	ls.answered(l)
	if !l.blocked(time.Now()) { // not one of several that were under way
		l.streak++
	}
	if after == 0 {
		after = min(15*time.Minute, time.Second<<min(max(l.streak-1, 0), 20))
	}
	ls.hold(l, ReasonPostponed, after)
}

// succeeded counts a delivery that arrived.
func (ls *lanes) succeeded(d *Delivery) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.all[d.Lane]
	if l == nil {
		return
	}
	l.streak, l.warned = 0, false
	l.health.success()
	ls.answered(l)
	if l.ramp > 0 {
		if l.ramp++; l.ramp > l.webhook.concurrency {
			l.ramp = 0
		}
	}
}

// refused counts an answer that is about the event: the endpoint is there.
func (ls *lanes) refused(d *Delivery) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l := ls.all[d.Lane]; l != nil {
		ls.answered(l)
	}
}

// answered frees a lane that was down, and makes all that waits in it due.
func (ls *lanes) answered(l *lane) {
	if l.trouble == ReasonDown {
		l.health.reset()
		ls.free(l)
		l.due = true
	}
}

// failed says that an attempt failed; its endpoint's fault or not, a lane that is
// down waits for the next probe.
func (ls *lanes) failed(d *Delivery, w *webhook, fault bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.all[d.Lane]
	switch now := time.Now(); {
	case l == nil || l.webhook != w: // somebody published: what failed was another config's
	case l.trouble == ReasonDown:
		if !l.blocked(now) { // a probe, and not one of those that were under way
			l.tries++
			ls.block(l, ReasonDown, now.Add(probePause(l.tries)))
		}
	case fault && l.health.failure(d.ID) && (l.trouble == "" || l.trouble == ReasonPostponed):
		l.tries = 0
		ls.block(l, ReasonDown, now.Add(probePause(0)))
	}
}

// troubled reports whether the lane is one in which old deliveries wait for
// nothing: what has expired there is not tried once more.
func (ls *lanes) troubled(d *Delivery) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.all[d.Lane]
	return l != nil && (l.trouble == ReasonDown || l.trouble == ReasonGone)
}

// reconfigure asks which config the lane has now. It reports whether the source
// answered.
func (ls *lanes) reconfigure(l *lane) bool {
	ctx := ls.stop
	ls.mu.Unlock()
	a, err := ls.agents.find(ctx, ConfigRef{Tenant: l.Tenant, Agent: l.Agent})
	ls.mu.Lock()
	var w *webhook
	if err == nil {
		w = a.webhook(l.typ, l.Webhook)
	} else if !errors.Is(err, ErrNoConfig) {
		return false
	}
	if w != nil {
		ls.configured(l, w)
	} else {
		ls.orphaned(l)
	}
	return true
}

// removed says that the webhook of d is none of its agent's any more.
func (ls *lanes) removed(d *Delivery) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l := ls.all[d.Lane]; l != nil {
		ls.orphaned(l)
	}
}

// orphaned lets go what waits for a webhook that was removed: it goes to the dead
// letters.
func (ls *lanes) orphaned(l *lane) {
	if l.trouble != "" {
		ls.free(l)
	}
}

// published looks again at an agent's lanes: its config was changed.
func (ls *lanes) published(ref ConfigRef) {
	ls.mu.Lock()
	var waiting []*lane
	for _, l := range ls.all {
		if l.Tenant == ref.Tenant && l.Agent == ref.Agent {
			waiting = append(waiting, l)
		}
	}
	run := ls.run
	for _, l := range waiting {
		if ls.running(run) && ls.reconfigure(l) && ls.running(run) {
			ls.want(l, 0)
		}
	}
	ls.serve()
	ls.mu.Unlock()
	ls.tell()
}

// lifted ends whatever keeps the lane from sending; resume lets it send.
func (ls *lanes) lifted(name string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l := ls.all[name]; l != nil {
		ls.lift(l)
	}
}

func (ls *lanes) resume(name string) {
	ls.mu.Lock()
	if l := ls.all[name]; l != nil {
		l.backlog = true
		ls.want(l, 0)
	}
	ls.serve()
	ls.mu.Unlock()
	ls.tell()
}

// states returns the lanes that are in trouble or at work.
func (ls *lanes) states() (out []LaneState) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, l := range ls.all {
		if l.trouble != "" || l.inFlight > 0 {
			out = append(out, l.state())
		}
	}
	return out
}

// tell tells what has become of lanes, in the order in which it came about. The
// caller does not hold ls.mu.
func (ls *lanes) tell() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.telling {
		return
	}
	ls.telling = true
	defer func() { ls.telling = false }()
	for len(ls.news) > 0 {
		news := ls.news
		ls.news = nil
		func() {
			ls.mu.Unlock()
			defer ls.mu.Lock()
			for _, s := range news {
				ls.told(s)
			}
		}()
	}
}
