package sqlitequeue

import (
	"context"
	"time"
)

// relook is how long the timer waits at most: RetryAt is a time of day, and the
// clock may be set forth or back while it runs.
const relook = time.Minute

// schedule sets the one timer of the queue to when the next delivery is due. The
// caller holds q.mu.
func (q *Queue) schedule() {
	if q.handle == nil || len(q.dues) == 0 {
		q.stopTimer()
		return
	}
	at := q.dues[0].nextDue
	now := q.now().UnixMicro()
	at = min(at, now+relook.Microseconds())
	if q.timerAt != 0 && q.timerAt <= at && q.timerAt > now-time.Second.Microseconds() {
		return // it fires soon enough
	}
	wait := time.Duration(max(0, at-now)) * time.Microsecond
	q.timerAt = at
	if q.timer == nil {
		q.timer = time.AfterFunc(wait, q.wake)
		return
	}
	q.timer.Reset(wait)
}

func (q *Queue) stopTimer() {
	if q.timer != nil {
		q.timer.Stop()
	}
	q.timerAt = 0
}

// wake looks for what is due.
func (q *Queue) wake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.timerAt = 0
	if q.handle == nil || len(q.dues) == 0 {
		return
	}
	if q.dues[0].nextDue <= q.now().UnixMicro() {
		q.kick()
		return // the writer sets the timer again
	}
	q.schedule()
}

// releaseWaiting makes ready those of lanes that wait for a time. The caller holds
// q.mu.
func (q *Queue) releaseWaiting(ctx context.Context, lanes []*lane) (int, error) {
	freed := 0
	o := &op{step: func(t *txn) (bool, error) {
		l := lanes[0]
		n, next, err := t.awakeDue(l, 1<<62, dueBatch)
		if err != nil {
			return false, err
		}
		placed := t.placed
		t.placed = nil
		t.after = append(t.after, func() {
			freed += n
			q.dues.set(l, next)
			for i := range placed {
				q.placeReady(&placed[i])
			}
			q.feed(l)
		})
		if next == 0 {
			lanes = lanes[1:]
		}
		return len(lanes) > 0, nil
	}}
	q.perform(o)
	stop := context.AfterFunc(ctx, q.broadcast)
	defer stop()
	for !o.done && ctx.Err() == nil {
		q.written.Wait()
	}
	if o.err != nil {
		return freed, q.storeError("releasing", o.err)
	}
	return freed, ctx.Err()
}

// placeReady makes ready what was released.
func (q *Queue) placeReady(p *placement) {
	l := p.lane
	switch {
	case p.tried:
		l.tried.add(1, true)
	case p.seq > l.fresh.cursor:
		l.fresh.add(1, true)
	default:
		l.recalled.push(p.seq)
	}
}
