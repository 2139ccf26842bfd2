package natsqueue

import (
	"context"
	"encoding/json"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What is settled is so from one message on, of kind done. What follows may be late, and
// is made good by who has the partition next: the messages that are superseded by it are
// swept away, and now and then a checkpoint says that all done up to some sequence is
// counted and swept, so that nobody has to read what was done before.

// checkpointEvery is how much may be delivered in a partition until it is counted, and
// checkpointAfter how long that may take: an ID is not remembered for ever.
const checkpointEvery = 1000

var checkpointAfter = remember / 8

// doneMessage says that a delivery is pending no more, for as long as its ID is
// remembered.
func (q *Queue) doneMessage(c *change) *nats.Msg {
	p, l := c.place, c.it.lane
	p.lane = string(c.state)
	msg := nats.NewMsg(q.subject(kindDone, p))
	_ = mark{
		ID: text(c.it.id), State: c.state, Write: c.write,
		Tenant: text(l.Tenant), Agent: text(l.Agent), Webhook: text(l.Webhook), Lane: text(l.name),
	}.on(msg)
	expire(msg, remember)
	return msg
}

// superseded notes what a message of another process has left: who has the partition
// sweeps it. The caller holds q.mu.
func (q *Queue) superseded(p *part, rest leftover) {
	switch {
	case q.follow.loading:
		p.left = append(p.left, rest)
	case p.owned:
		q.sweep(p, rest)
	}
}

// sweeper removes what is superseded, a few at a time: whoever asks the server for
// something else waits behind its requests.
type sweeper struct {
	unswept bool // tests have it leave what is done for others to sweep
	running bool
	pending fifo[swept]
	ended   sync.WaitGroup
}

type swept struct {
	leftover
	unclean map[uint64]bool // of its partition
	breaks  int             // see Queue.trusts
	again   bool            // what became of the last request is not known
}

// sweep has what is superseded removed. The caller holds q.mu.
func (q *Queue) sweep(p *part, all ...leftover) {
	s := &q.sweeper
	if len(all) == 0 || s.unswept || q.closed {
		return
	}
	if p.unclean == nil {
		p.unclean = map[uint64]bool{}
	}
	for _, rest := range all {
		p.unclean[rest.done] = true
		s.pending.push(swept{leftover: rest, unclean: p.unclean, breaks: q.follow.breaks})
	}
	if !s.running {
		s.running = true
		s.ended.Add(1)
		go q.sweepAll()
	}
}

func (q *Queue) sweepAll() {
	s := &q.sweeper
	defer s.ended.Done()
	for {
		var some []swept
		q.mu.Lock()
		for s.pending.len() > 0 && len(some) < 256 && !q.closed {
			some = append(some, s.pending.pop())
		}
		s.running = len(some) > 0
		q.mu.Unlock()
		if len(some) == 0 {
			return
		}
		if err := q.sweepOnce(some); err != nil {
			q.o.Logger.Warn("natsqueue: what is settled cannot be removed; trying again", "stream", q.o.Name, "error", err)
			select {
			case <-q.ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

// sweepOnce has those tried again of which it is not known whether they are swept, and
// returns an error when that is all of them.
func (q *Queue) sweepOnce(some []swept) (err error) {
	errs := make([]error, len(some))
	parallel(len(some), func(i int) { errs[i] = some[i].remove(q, some[i].breaks, some[i].again) })
	q.mu.Lock()
	defer q.mu.Unlock()
	left := 0
	for i, rest := range some {
		if rest.breaks != q.follow.breaks {
			continue // its sequences are other messages' now
		}
		if errs[i] != nil {
			rest.again = true
			q.sweeper.pending.push(rest)
			err = errs[i]
			left++
			continue
		}
		delete(rest.unclean, rest.done)
	}
	if left < len(some) {
		return nil
	}
	return err
}

// remove takes the messages away, if they are still these: a server that has lost the
// end of the stream gives their sequences to others. look: they are looked at first.
func (rest *leftover) remove(q *Queue, breaks int, look bool) error {
	if cluster := q.stream.CachedInfo().Cluster; cluster != nil && cluster.Name != "" && q.o.Replicas < 2 {
		look = true // its only server may end, and begin again, without this connection's end
	}
	for _, seq := range []uint64{rest.last, rest.seq} {
		if seq == 0 {
			continue
		}
		conn, err := q.trusts(breaks)
		if err != nil {
			return err
		}
		if look {
			if is, err := q.is(seq, rest.id); err != nil {
				return err
			} else if !is {
				continue
			}
		}
		if err := q.remove(conn, seq, rest.erase); err != nil {
			return err
		}
	}
	return nil
}

// is reports whether a message is of a delivery.
func (q *Queue) is(seq uint64, id string) (bool, error) {
	raw, err := q.ask(getRequest{Seq: seq})
	if err != nil || raw == nil {
		return false, err
	}
	k, ok := markOf(raw.Header) // of any kind: the ID is called the same
	return ok && string(k.ID) == id, nil
}

// remove deletes a message; one that is gone already is no error. erase: its bytes are
// overwritten, too. Nothing else takes a message away for good: of one that another
// displaces the server notes nothing, and has it back when it is killed after the other
// has expired.
func (q *Queue) remove(conn *nats.Conn, seq uint64, erase bool) error {
	request, err := json.Marshal(struct {
		Seq     uint64 `json:"seq"`
		NoErase bool   `json:"no_erase"`
	}{seq, !erase})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(q.ctx, ioTimeout)
	defer cancel()
	answer, err := conn.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.MSG.DELETE."+q.o.Name, request)
	if err != nil {
		return err
	}
	var done struct {
		Success bool                `json:"success"`
		Error   *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &done); err != nil || done.Success {
		return err
	}
	if raw, err := q.ask(getRequest{Seq: seq}); err != nil || raw == nil {
		return err // or somebody else has swept
	}
	if done.Error == nil {
		return errBroken
	}
	return done.Error
}

// parallel calls f with each number below n, several at a time.
func parallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(16, n) {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// checkpoints writes those that are due.
func (j *judge) checkpoints() {
	q := j.q
	q.mu.Lock()
	var due []*part
	for _, p := range q.parts {
		if p.owned && (p.since >= checkpointEvery+p.tried || p.since > 0 && time.Since(p.checked) > checkpointAfter) {
			due = append(due, p)
		}
	}
	q.mu.Unlock()
	for _, p := range due {
		j.checkpoint(p)
	}
}

// checkpoint writes how much was delivered in the lanes of a partition, so that it need
// not be counted again by who has the partition next.
func (j *judge) checkpoint(p *part) {
	q := j.q
	q.mu.Lock()
	if !p.followed || p.since == 0 || q.sweeper.unswept {
		q.mu.Unlock()
		return
	}
	p.checked = time.Now()
	upTo := q.follow.seen
	for seq := range p.unclean {
		upTo = min(upTo, seq-1)
	}
	var msgs []*nats.Msg
	lanes := map[*lane]tally{}
	for _, l := range p.lanes {
		t := l.tally
		for _, seq := range l.since {
			if seq <= upTo {
				t.Delivered++
			}
		}
		if t.Delivered > l.tally.Delivered && len(msgs) < 900 {
			t.UpTo = upTo
			lanes[l] = t
			msgs = append(msgs, q.laneMessage(l, t))
		}
	}
	all := len(msgs) < 900
	if p.tried += checkpointEvery; len(msgs) == 0 {
		q.mu.Unlock()
		return
	}
	if all {
		msg := nats.NewMsg(q.o.Name + "." + kindPart + "." + strconv.Itoa(p.n))
		value, _ := json.Marshal(checked{upTo})
		msg.Header.Set(headerIndex, string(value))
		expect(msg, p.seq)
		msgs = append(msgs, msg)
	}
	at := map[*lane]uint64{}
	q.mu.Unlock()
	last, err := q.publishBatch(msgs)
	if err != nil {
		return // by a conflict, say: it is tried again after some more deliveries
	}
	first := last - uint64(len(msgs)-1)
	for l := range lanes {
		subject := q.laneSubject(p.n, token(l.name))
		for i, msg := range msgs {
			if msg.Subject == subject {
				at[l] = first + uint64(i)
			}
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for l, t := range lanes {
		l.counted(t, at[l])
	}
	if all && p.seq < last {
		p.upTo, p.seq = upTo, last
	}
	p.tried = 0
}
