package natsqueue

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/callhook-go/callhook"
)

// judge writes what becomes of deliveries, on the condition that nobody has changed any
// of it meanwhile. What a replay, an erasure or a death changes goes in one atomic
// batch, together with the counts of its lane. What is tried again is one message, and
// so is what arrived: that it is done, by which its lane is counted too. What is
// superseded by that is swept away then. So a delivery is never settled twice, never both
// dead and pending, and counted once.
type judge struct {
	q        *Queue
	mu       sync.Mutex
	writing  bool
	pending  fifo[*change]
	unstored atomic.Int64 // verdicts that were given up
}

// The states in which a change leaves a delivery, besides those of verdicts.
const (
	stateErased   callhook.State = "erased"
	stateReplayed callhook.State = "replayed"
)

// change is what becomes of one delivery.
type change struct {
	it       *item
	place    place
	state    callhook.State
	wasDead  bool
	last     uint64    // of the state that it was handed out with, or of the dead letter
	main     *nats.Msg // its state, its dead letter, or itself pending again
	at       time.Time
	attempts int
	reason   callhook.Reason
	until    time.Time
	write    string // see mark
	by       uint64 // the message of somebody else that was quicker
	given    bool   // by a handler
	mainAt   int    // in the batch: main, or the first of its messages
	mainSeq  uint64
	done     chan struct{}
	err      error
}

const (
	changesAtOnce = 300 // of at most two messages each, and those of their lanes
	changesSize   = 4 << 20
)

// verdict stores what a handler has left behind, and carries it out.
func (j *judge) verdict(it *item, d *callhook.Delivery, v callhook.Verdict, last uint64) {
	q := j.q
	c := &change{it: it, place: q.placeOf(it.id, it.lane.name), state: v.State, last: last, attempts: d.Attempts, given: true, write: rand.Text()}
	switch v.State {
	case callhook.StateDelivered:
	case callhook.StateDead:
		c.reason, c.until = v.Reason, time.Now().Add(q.o.KeepDead)
		c.main = nats.NewMsg(q.subject(kindDead, c.place))
		q.fit(c.main, d, func(d *callhook.Delivery) error {
			return encode(c.main, d, index{Seq: it.seq, Reason: text(v.Reason), Until: c.until})
		})
		expire(c.main, q.o.KeepDead)
	default:
		if c.state != callhook.StateParked {
			c.state, c.at = callhook.StateWaiting, v.At
		}
		c.main = nats.NewMsg(q.subject(kindState, c.place))
		q.fit(c.main, d, func(d *callhook.Delivery) (err error) {
			c.main.Data, err = json.Marshal(progressOf(d))
			return errors.Join(err, mark{ID: text(it.id), State: c.state, At: c.at, Attempts: d.Attempts, Write: c.write}.on(c.main))
		})
	}
	j.do(context.Background(), c)
}

// fit writes a delivery into a message, and leaves out of its log what the server would
// not take.
func (q *Queue) fit(msg *nats.Msg, d *callhook.Delivery, write func(*callhook.Delivery) error) {
	err := write(d)
	for cut := 0; (err != nil || msg.Size() > int(q.conn.MaxPayload())-512) && cut < 3; cut++ {
		less := *d
		less.Log = nil
		if cut == 0 {
			for _, a := range d.Log {
				a.Reply = ""
				less.Log = append(less.Log, a)
			}
		}
		if cut == 2 {
			less.Record = nil
		}
		err = write(&less)
	}
	if err != nil {
		q.o.Logger.Error("natsqueue: a delivery cannot be written whole", "id", d.ID, "error", err)
	}
}

// do has a change written, and returns what came of it.
func (j *judge) do(ctx context.Context, changes ...*change) {
	j.mu.Lock()
	for _, c := range changes {
		c.done = make(chan struct{})
		j.pending.push(c)
	}
	if !j.writing {
		j.writing = true
		go j.run()
	}
	j.mu.Unlock()
	for _, c := range changes {
		select {
		case <-c.done:
		case <-ctx.Done():
			return
		}
	}
}

func (j *judge) run() {
	most := changesAtOnce
	for wait := time.Duration(0); ; {
		changes := j.take(most)
		if len(changes) == 0 {
			return
		}
		left, err := j.write(changes)
		j.checkpoints()
		if len(left) == 0 {
			wait, most = 0, changesAtOnce
			continue
		}
		if err != nil && !isConflict(err) && !isBusy(err) {
			if code(err) != 0 && !isFull(err) {
				most = 1 // to find out which of them the server does not like
			}
			if wait >= time.Second {
				j.q.o.Logger.Warn("natsqueue: verdicts cannot be stored; trying again", "stream", j.q.o.Name, "verdicts", len(left), "error", err)
			}
		}
		wait = min(max(2*wait, 2*time.Millisecond), time.Second)
		time.Sleep(wait)
		j.back(left)
	}
}

// take returns the next that can go in one batch: no two of the same delivery.
func (j *judge) take(most int) (changes []*change) {
	j.mu.Lock()
	defer j.mu.Unlock()
	taken := map[string]bool{}
	size := 0
	for j.pending.len() > 0 && len(changes) < most && size < changesSize && !taken[j.pending.peek().it.id] {
		c := j.pending.pop()
		taken[c.it.id] = true
		if c.main != nil {
			size += c.main.Size()
		}
		changes = append(changes, c)
	}
	j.writing = len(changes) > 0
	return changes
}

// back puts what was not written behind the others, or gives it up.
func (j *judge) back(left []*change) {
	q := j.q
	q.mu.Lock()
	var over error
	if q.closed {
		over = errClosed
	} else if q.conn.IsClosed() || q.handle == nil && !q.endedAt.IsZero() && time.Since(q.endedAt) > patience {
		over = errUnstored
	}
	var again []*change
	for _, c := range left {
		if over == nil || over == errUnstored && !c.given {
			again = append(again, c)
			continue
		}
		if c.given {
			j.unstored.Add(1)
		}
		q.finish(c, over)
	}
	q.mu.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, c := range again {
		j.pending.push(c)
	}
}

var errUnstored = errors.New("the verdict could not be stored")

// write writes changes, and returns those that were not.
func (j *judge) write(changes []*change) ([]*change, error) {
	var single, together []*change
	for _, c := range changes {
		if c.state == callhook.StateDelivered || c.state == callhook.StateWaiting || c.state == callhook.StateParked {
			single = append(single, c)
		} else {
			together = append(together, c)
		}
	}
	if q := j.q; q.pace.together(len(single)) {
		single, together = nil, changes
	}
	left, err := j.oneByOne(single)
	more, err2 := j.writeBatch(together)
	return append(left, more...), cmp.Or(err, err2)
}

// oneByOne writes changes of one message each, all on their way at the same time.
func (j *judge) oneByOne(changes []*change) (left []*change, err error) {
	q := j.q
	var msgs []*nats.Msg
	var of []*change
	q.mu.Lock()
	for _, c := range changes {
		if c.it.gone {
			q.finish(c, errGone)
			continue
		}
		msg := c.main
		if c.state == callhook.StateDelivered {
			msg = q.doneMessage(c)
		}
		q.expectUnchanged(msg, c)
		msgs = append(msgs, msg)
		of = append(of, c)
	}
	q.mu.Unlock()
	if len(msgs) == 0 {
		return nil, nil
	}
	seqs, errs := q.publish(msgs)
	var conflicts []*change
	q.mu.Lock()
	for i, c := range of {
		switch {
		case isConflict(errs[i]):
			conflicts = append(conflicts, c)
		case errs[i] != nil:
			left, err = append(left, c), errs[i]
		default:
			c.mainSeq = seqs[i]
			q.finish(c, nil)
		}
	}
	q.pump()
	q.mu.Unlock()
	if len(conflicts) > 0 {
		more, why := j.refresh(conflicts, nil)
		left, err = append(left, more...), cmp.Or(err, why)
	}
	return left, err
}

func (q *Queue) laneMessage(l *lane, t tally) *nats.Msg {
	msg := nats.NewMsg(q.laneSubject(l.part.n, token(l.name)))
	_ = t.on(msg)
	expect(msg, l.seq)
	return msg
}

// writeBatch writes changes in one atomic batch.
func (j *judge) writeBatch(changes []*change) ([]*change, error) {
	q := j.q
	var msgs []*nats.Msg
	q.mu.Lock()
	lanes := map[*lane]tally{}
	for _, c := range changes {
		if c.it.gone && !c.wasDead {
			q.finish(c, errGone)
			continue
		}
		parts := q.messages(c)
		c.mainAt = len(msgs)
		for k, msg := range parts {
			if msg == c.main {
				c.mainAt += k
			}
		}
		msgs = append(msgs, parts...)
		l := c.it.lane
		t, counted := lanes[l]
		if !counted {
			t = l.tally
		}
		if c.counts(&t) {
			lanes[l] = t
		}
	}
	at := map[*lane]int{}
	for l, t := range lanes {
		at[l] = len(msgs)
		msgs = append(msgs, q.laneMessage(l, t))
	}
	q.mu.Unlock()
	if changes = slices.DeleteFunc(changes, (*change).over); len(changes) == 0 {
		return nil, nil
	}

	var last uint64
	var err error
	if len(msgs) == 1 {
		last, err = q.publishOne(context.Background(), msgs[0])
	} else {
		last, err = q.publishBatch(msgs)
	}
	if err != nil {
		if isConflict(err) {
			return j.refresh(changes, err)
		}
		return changes, err
	}
	first := last - uint64(len(msgs)-1)
	q.mu.Lock()
	defer q.mu.Unlock()
	for l, i := range at {
		l.counted(lanes[l], first+uint64(i))
	}
	for _, c := range changes {
		c.mainSeq = first + uint64(c.mainAt)
		q.finish(c, nil)
	}
	q.pump()
	return nil, nil
}

// expectUnchanged has the server refuse a message when there is anything newer of the
// delivery than what was handed out, or than its dead letter.
func (q *Queue) expectUnchanged(msg *nats.Msg, c *change) {
	expect(msg, max(c.it.seq, c.last))
	msg.Header.Set("Nats-Expected-Last-Subject-Sequence-Subject", q.anywhere(c.place))
}

// messages are what a change is written as. The caller holds q.mu.
func (q *Queue) messages(c *change) []*nats.Msg {
	if c.main != nil {
		unbatch(c.main)
	}
	var msgs []*nats.Msg
	if c.settles() {
		msgs = append(msgs, q.doneMessage(c))
	}
	if c.main != nil {
		msgs = append(msgs, c.main)
	}
	q.expectUnchanged(msgs[0], c)
	return msgs
}

// counts adds a change to its lane's counts, and reports whether it changes them. What
// arrived is counted by what says that it is done.
func (c *change) counts(t *tally) bool {
	switch {
	case c.state == callhook.StateDead:
		t.Dead++
	case c.state == stateReplayed:
		t.Dead--
	case c.state == stateErased && !c.wasDead:
		t.Erased++
	default:
		return false
	}
	return true
}

// refresh looks at what stands in the way of changes, and returns those that can still
// be made.
func (j *judge) refresh(changes []*change, why error) (left []*change, err error) {
	q := j.q
	lanes := map[*lane]bool{}
	for i, c := range changes {
		if l := c.it.lane; !lanes[l] {
			lanes[l] = true
			raw, err := q.last(q.laneSubject(l.part.n, token(l.name)))
			if err != nil {
				return append(left, changes[i:]...), err
			}
			q.mu.Lock()
			if t, ok := tallyOf(raw.Header); ok {
				l.counted(t, raw.Sequence)
			}
			q.mu.Unlock()
		}
		kind, want := kindPending, c.it.seq
		if c.wasDead {
			kind, want = kindDead, c.last
		}
		raw, err := q.last(q.subject(kind, c.place))
		if err != nil {
			return append(left, changes[i:]...), err
		}
		by, own, err := q.supersededBy(c, want) // it may not be swept away yet
		if err != nil {
			return append(left, changes[i:]...), err
		}
		if raw.Sequence != want || by > 0 {
			q.mu.Lock()
			if own { // the answer was lost
				c.mainSeq = by
				q.finish(c, nil)
			} else {
				c.by = by
				q.finish(c, errGone)
			}
			q.mu.Unlock()
			continue
		}
		if !c.wasDead {
			state, err := q.last(q.subject(kindState, c.place))
			if err != nil {
				return append(left, changes[i:]...), err
			}
			k, ok := markOf(state.Header)
			ok = ok && state.Sequence > max(c.last, c.it.seq) // else it is known, or of before a replay
			q.mu.Lock()
			switch {
			case !ok:
				left = append(left, c)
			case c.settles() && !(c.given && c.state == callhook.StateDead): // whatever was tried meanwhile
				c.last = state.Sequence
				left = append(left, c)
			case k.Write == c.write:
				c.mainSeq = state.Sequence
				q.finish(c, nil)
			default:
				if it := c.it; state.Sequence > it.last {
					it.last, it.stored, it.at, it.attempts = state.Sequence, k.State, k.At, k.Attempts
				}
				q.finish(c, errTaken)
			}
			q.mu.Unlock()
			continue
		}
		left = append(left, c)
	}
	return left, why
}

// supersededBy returns the message since a sequence by which a delivery, or a dead letter,
// is settled or replayed; zero if there is none. own: this change has written it, and
// then it is the main one.
func (q *Queue) supersededBy(c *change, since uint64) (by uint64, own bool, err error) {
	subjects := []string{q.subject(kindPending, c.place)} // a dead letter is replayed
	for _, outcome := range []callhook.State{callhook.StateDelivered, callhook.StateDead, stateErased} {
		done := c.place
		done.lane = string(outcome)
		subjects = append(subjects, q.subject(kindDone, done))
	}
	for _, subject := range subjects {
		raw, err := q.last(subject)
		if err != nil {
			return 0, false, err
		}
		if raw.Sequence <= since {
			continue
		}
		by = max(by, raw.Sequence)
		if k, ok := markOf(raw.Header); ok && c.write != "" && k.Write == c.write {
			if c.state != callhook.StateDead {
				return raw.Sequence, true, nil
			}
			dead, err := q.last(q.subject(kindDead, c.place))
			return cmp.Or(dead.Sequence, raw.Sequence), err == nil && dead.Sequence > raw.Sequence, err
		}
	}
	return by, false, nil
}

// last returns the last message of a subject; its Sequence is zero if there is none.
func (q *Queue) last(subject string) (*jetstream.RawStreamMsg, error) {
	raw, err := q.ask(getRequest{Last: subject})
	if err == nil && raw == nil {
		raw = &jetstream.RawStreamMsg{}
	}
	return raw, err
}

// finish carries out what was written, or was not. The caller holds q.mu.
func (q *Queue) finish(c *change, err error) {
	it := c.it
	p := it.lane.part
	switch c.err = err; {
	case err == nil && (c.state == callhook.StateWaiting || c.state == callhook.StateParked):
		if c.mainSeq > it.last {
			it.last, it.stored, it.at, it.attempts = c.mainSeq, c.state, c.at, c.attempts
		}
	case err == nil && c.state == stateReplayed:
		if q.dead[it.id] == it {
			delete(q.dead, it.id)
		}
		q.sweep(p, leftover{id: it.id, seq: c.last, done: c.mainSeq, erase: true})
	case c.wasDead && (err == nil || err == errGone):
		if q.dead[it.id] == it {
			delete(q.dead, it.id)
		}
		if err == nil {
			q.passed(it.id, c.mainSeq, p)
			q.sweep(p, leftover{id: it.id, seq: c.last, done: c.mainSeq, erase: true})
		}
	case err == nil, err == errGone:
		if err == nil && q.passed(it.id, c.mainSeq, p) && c.state == callhook.StateDelivered {
			it.lane.arrived(c.mainSeq)
		}
		if q.drop(it); err == errGone && c.by > 0 && p.owned {
			q.sweep(p, leftover{it.id, it.seq, c.last, c.by, false})
		}
		if err == nil {
			q.sweep(p, leftover{it.id, it.seq, c.last, c.mainSeq, c.state != callhook.StateDelivered})
		}
		if err == nil && c.state == callhook.StateDead && p.followed && q.items[it.id] == nil {
			if known := q.dead[it.id]; known == nil || known.last < c.mainSeq {
				dead := *it
				dead.gone, dead.last, dead.state, dead.reason, dead.until, dead.attempts, dead.index = false, c.mainSeq, callhook.StateDead, c.reason, c.until, c.attempts, -1
				q.dead[it.id] = &dead
			}
		}
	}
	if c.given {
		it.busy = false
		if !it.gone && p.owned && it.state == callhook.StateInFlight {
			q.settleIn(it)
			q.advance(it, false)
			q.pump()
		}
	}
	close(c.done)
}

// over reports whether it is known what came of it. Only whoever writes changes asks.
func (c *change) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// settles reports whether the delivery is not pending after the change.
func (c *change) settles() bool {
	return c.state == callhook.StateDelivered || c.state == callhook.StateDead || c.state == stateErased
}

// passed notes that what the tail may still bring of an ID is old, and reports whether
// it may.
func (q *Queue) passed(id string, seq uint64, p *part) bool {
	if !p.followed || q.follow.seen >= seq {
		return false
	}
	q.gone[id] = passing{seq, p}
	return true
}
