package callhook

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"
)

// lanes keeps the deliveries of one webhook from harming another's: how many run
// at once, how often they begin, and when the endpoint asked to be left alone.
// What may not go now is parked in the queue and released when it may; a lane at
// rest costs neither a goroutine nor a timer.
type lanes struct {
	queue Queue
	log   *slog.Logger

	mu   sync.Mutex
	all  map[string]*lane
	stop context.Context // of the Run that is under way; nil when there is none
	busy sync.WaitGroup  // releases by timers
}

type lane struct {
	webhook  *webhook // the last that was seen
	inFlight int
	parked   int       // by this process, at least
	coming   int       // released, and on their way back, at most
	gone     bool      // its endpoint answered 410
	until    time.Time // it is held until then
	holder   *webhook  // and for whose sake: another config lifts it
	streak   int       // of answers that asked to come later
	next     time.Time // when the rate lets the next one begin
	timer    *time.Timer
}

// start lets timers run until stop has ended.
func (ls *lanes) start(stop context.Context) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.stop, ls.all = stop, map[string]*lane{}
}

// end stops all timers and waits for those that run.
func (ls *lanes) end() {
	ls.mu.Lock()
	for _, l := range ls.all {
		if l.timer != nil {
			l.timer.Stop()
		}
	}
	ls.stop, ls.all = nil, nil
	ls.mu.Unlock()
	ls.busy.Wait()
}

func (ls *lanes) get(name string) *lane {
	l := ls.all[name]
	if l == nil && ls.all != nil {
		l = new(lane)
		ls.all[name] = l
	}
	return l
}

// enter reports whether a delivery may be attempted now. The caller parks it if
// not, and calls leave when it is done if so.
func (ls *lanes) enter(name string, w *webhook) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l, now := ls.get(name), time.Now()
	if l == nil {
		return false // the end of Run: it stays where it is
	}
	if l.webhook != nil && l.webhook.interval != w.interval {
		l.next = time.Time{} // the rate was changed
	}
	l.webhook = w
	l.coming = max(l.coming-1, 0)
	if l.holder != w {
		l.until = time.Time{} // somebody published: what it was held for may be mended
	}
	if now.Before(l.until) || l.inFlight >= w.concurrency || now.Before(l.next) {
		l.parked++
		return false
	}
	if w.interval > 0 {
		l.next = now.Add(w.interval)
	}
	l.inFlight++
	l.gone = false
	return true
}

// isGone reports whether the lane's last answer was 410: what waits there is not
// tried once more when it is too old.
func (ls *lanes) isGone(name string) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.all[name]
	return l != nil && l.gone
}

func (ls *lanes) leave(name string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l := ls.all[name]; l != nil {
		l.inFlight--
	}
}

// hold keeps the lane from sending for a time, and counts the delivery at hand as
// parked. gone says that the endpoint is gone until somebody acts.
func (ls *lanes) hold(name string, w *webhook, pause time.Duration, gone bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l := ls.get(name); l != nil {
		l.gone = gone
		ls.holdLocked(l, w, pause)
	}
}

func (ls *lanes) holdLocked(l *lane, w *webhook, pause time.Duration) {
	l.parked++
	if l.webhook != w { // somebody published meanwhile: another attempt tells more
		w, pause = l.webhook, min(pause, time.Second)
	}
	l.holder = w
	if until := time.Now().Add(pause); until.After(l.until) {
		l.until = until
	}
}

// postpone holds the lane as its endpoint asked, or longer each time it asks
// without saying how long: 1 second, growing to 15 minutes.
func (ls *lanes) postpone(name string, w *webhook, after time.Duration) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.get(name)
	if l == nil {
		return
	}
	if !time.Now().Before(l.until) { // not one of several that were under way
		l.streak++
	}
	if after == 0 {
		after = min(15*time.Minute, time.Second<<min(max(l.streak-1, 0), 20))
	}
	ls.holdLocked(l, w, after)
}

// healthy ends the streak of a lane that works.
func (ls *lanes) healthy(name string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l := ls.all[name]; l != nil {
		l.streak = 0
	}
}

// pump releases what the lane has room for: at most two for one that was done, so
// that a lane that was held begins slowly. It runs after every delivery.
//
// Nothing is left behind: whoever parks runs pump after it, and pump releases
// something, or sets a timer, or leaves it to an attempt under way, which runs it
// too. What is coming is counted so as not to release what would be parked
// again; the count may be too high, so it is dropped when nothing is in flight.
//
// settled says that a delivery came and was settled without entering the lane.
func (ls *lanes) pump(name string, settled bool) {
	ls.mu.Lock()
	l := ls.all[name]
	if l == nil || l.webhook == nil {
		ls.mu.Unlock()
		return
	}
	if settled {
		l.coming = max(l.coming-1, 0)
	}
	n := 0
	now := time.Now()
	wake := l.until
	if l.next.After(wake) {
		wake = l.next
	}
	switch {
	case l.parked == 0:
		switch {
		case l.inFlight > 0 || l.streak > 0 || l.gone:
		case now.Before(wake):
			ls.wakeAt(l, name, wake.Sub(now)) // to forget it then
		default:
			if l.timer != nil {
				l.timer.Stop()
			}
			delete(ls.all, name)
		}
	case now.Before(wake):
		ls.wakeAt(l, name, wake.Sub(now))
	default:
		if l.inFlight == 0 {
			l.coming = 0
		}
		n = max(0, min(l.parked, l.webhook.concurrency-l.inFlight-l.coming, 2))
		if l.webhook.interval > 0 {
			n = min(n, 1)
		}
		l.parked -= n
		l.coming += n
		if interval := l.webhook.interval; interval > 0 && n > 0 && l.parked > 0 {
			ls.wakeAt(l, name, interval) // for the next, which need not wait for this one's answer
		}
	}
	stop := ls.stop
	ls.mu.Unlock()
	if n == 0 {
		return
	}
	if err := ls.queue.Release(stop, name, n); err != nil && stop.Err() == nil {
		ls.log.Warn("callhook: parked deliveries could not be released; trying again", "lane", name, "error", err)
		ls.mu.Lock()
		if again := ls.get(name); again != nil {
			again.webhook = cmp.Or(again.webhook, l.webhook)
			again.parked += n
			again.coming = max(again.coming-n, 0)
			ls.wakeAt(again, name, time.Second)
		}
		ls.mu.Unlock()
	}
}

// wakeAt makes the lane look again after a time. The caller holds ls.mu.
func (ls *lanes) wakeAt(l *lane, name string, after time.Duration) {
	if l.timer != nil {
		l.timer.Reset(after)
		return
	}
	l.timer = time.AfterFunc(after, func() {
		ls.mu.Lock()
		if ls.stop == nil || ls.all[name] != l {
			ls.mu.Unlock()
			return
		}
		ls.busy.Add(1)
		ls.mu.Unlock()
		defer ls.busy.Done()
		ls.pump(name, false)
	})
}
