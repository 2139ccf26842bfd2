package natsqueue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/callhook-go/callhook"
)

const (
	// maxStarting is how many deliveries are read from the stream together.
	maxStarting = 64
	// lookAgain is how long a delivery that a server does not have may be on its way to it.
	lookAgain = 2 * time.Second
)

// patience is how long a Consume that is to end tries to store verdicts.
var patience = 10 * time.Second

// closed is what is told where nobody was listening.
var closed = func() chan nats.Status { c := make(chan nats.Status); close(c); return c }()

var errConsuming = errors.New("natsqueue: the queue is consumed already: one Run at a time in a process")

// Consume implements [callhook.Queue]. It shares the partitions with other processes
// that consume. Besides [callhook.ErrQueueClosed] its error says that it runs already,
// that the connection was closed, or how many verdicts could not be stored:
// those deliveries come again.
func (q *Queue) Consume(ctx context.Context, handle callhook.Handler) error {
	q.mu.Lock()
	switch {
	case q.closed:
		q.mu.Unlock()
		return errClosed
	case q.consuming:
		q.mu.Unlock()
		return errConsuming
	case ctx.Err() != nil:
		q.mu.Unlock()
		return nil
	}
	q.consuming, q.handle, q.handling = true, handle, context.WithoutCancel(ctx)
	q.schedule()
	q.pump()
	q.mu.Unlock()
	q.seat.consume(true)

	lost := q.conn.StatusChanged(nats.CLOSED)
	defer q.conn.RemoveStatusListener(lost)
	if q.conn.IsClosed() {
		lost = closed // before anybody listened
	}
	var err error
	select {
	case <-ctx.Done():
	case <-q.ctx.Done():
		err = errClosed
	case <-lost:
		err = fmt.Errorf("natsqueue: consuming %s: %w: connect with nats.MaxReconnects(-1)", q.o.Name, nats.ErrConnectionClosed)
	}
	q.mu.Lock()
	q.handle, q.handling, q.endedAt = nil, nil, time.Now()
	q.stopTimer()
	q.seat.tell()
	q.mu.Unlock()
	q.seat.consume(false)
	unstored := q.drain()
	q.mu.Lock()
	q.consuming = false
	q.mu.Unlock()
	return errors.Join(err, unstored)
}

// drain waits for those in flight, and gives verdicts up that cannot be stored.
func (q *Queue) drain() error {
	for {
		q.mu.Lock()
		done, changed := q.running == 0, q.seat.changed()
		q.mu.Unlock()
		if done {
			break
		}
		<-changed
	}
	if n := q.judge.unstored.Swap(0); n > 0 && q.check(context.Background()) == nil {
		return fmt.Errorf("natsqueue: %d verdicts could not be stored in %s, so those deliveries come again", n, q.o.Name)
	}
	return nil
}

// pump starts goroutines for what is ready. The caller holds q.mu.
func (q *Queue) pump() {
	for q.handle != nil && q.starting < min(q.ready.len(), maxStarting) && q.seat.sure() {
		q.starting++
		q.running++
		go q.hand()
	}
}

// hand hands out deliveries until none is ready.
func (q *Queue) hand() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.handle != nil && q.ready.len() > 0 && q.seat.sure() {
		it := q.ready.pop()
		p := it.lane.part
		switch {
		case it.gone || !p.owned || p.draining || it.state != callhook.StateReady:
			continue
		case it.lane.parked() > 0 && !it.released:
			q.park(it)
			continue
		}
		it.state, it.busy = callhook.StateInFlight, true
		p.inFlight++
		q.handOut(it)
		if p.inFlight--; p.inFlight == 0 && p.draining {
			q.seat.wake()
		}
	}
	q.starting--
	if q.running--; q.running == 0 {
		q.seat.tell()
	}
}

// handOut has a delivery handled, and stores and carries out the verdict. The caller
// holds q.mu, which is let go meanwhile.
func (q *Queue) handOut(it *item) {
	last, attempts := it.last, it.attempts
	q.mu.Unlock()
	d, err := q.read(it, last)
	q.mu.Lock()
	handle, ctx := q.handle, q.handling
	switch {
	case it.gone:
		it.busy = false
		return
	case err != nil && errors.Is(err, jetstream.ErrMsgNotFound):
		q.o.Logger.Error("natsqueue: a delivery is not in the stream any more: somebody has deleted it there", "id", it.id, "lane", it.lane.name)
		it.busy = false
		q.drop(it)
		return
	case err != nil && errors.Is(err, errBroken):
		q.o.Logger.Error("natsqueue: a delivery cannot be read, and becomes a dead letter", "id", it.id, "lane", it.lane.name, "error", err)
	case err != nil:
		q.mu.Unlock()
		q.pause(time.Second)
		q.mu.Lock()
		q.again(it)
		return
	case handle == nil || !it.lane.part.owned || !q.seat.sure():
		q.again(it)
		return
	}
	it.released = false
	q.starting--
	q.pump() // another begins to hand out while this one is in its handler
	q.mu.Unlock()
	var v callhook.Verdict
	before := progress{}
	if err != nil { // it is broken
		d = it.delivery()
		v = callhook.Dead(callhook.ReasonDamaged)
	} else {
		before = progressOf(d)
		v = handle(ctx, d)
	}
	if v.State == callhook.StateParked && attempts <= 0 && last == 0 && sameProgress(d, &before) {
		q.mu.Lock()
		it.busy = false
		if !it.gone && it.lane.part.owned && it.state == callhook.StateInFlight {
			q.park(it) // after a crash it is ready
		}
		q.mu.Unlock()
	} else {
		q.judge.verdict(it, d, v, last)
	}
	v.Done()
	q.mu.Lock()
	q.starting++
}

// again makes one ready that was not handed out.
func (q *Queue) again(it *item) {
	it.busy = false
	if !it.gone && it.lane.part.owned && it.state == callhook.StateInFlight {
		it.state = callhook.StateReady
		q.ready.push(it)
	}
}

// pause waits, but not beyond the end of Consume.
func (q *Queue) pause(long time.Duration) {
	timer := time.NewTimer(long)
	defer timer.Stop()
	for {
		q.mu.Lock()
		over, changed := q.handle == nil, q.seat.changed()
		q.mu.Unlock()
		if over {
			return
		}
		select {
		case <-timer.C:
			return
		case <-changed:
		}
	}
}

// read returns a delivery as it was last stored.
func (q *Queue) read(it *item, last uint64) (*callhook.Delivery, error) {
	raw, err := q.get(it.seq)
	if err != nil {
		return nil, err
	}
	d, err := decode(raw.Header, raw.Data)
	if err != nil {
		return nil, err
	}
	if d.ID != it.id {
		return nil, jetstream.ErrMsgNotFound // the server has lost it, and another has its sequence
	}
	d.Seq = int64(it.seq)
	if last == 0 {
		return d, nil
	}
	if raw, err = q.get(last); err != nil {
		return nil, err
	}
	return d, decodeProgress(raw.Data, d)
}

// get reads a message from any replica, and where that does not have it from the leader,
// which may have begun to lead just now.
func (q *Queue) get(seq uint64) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(q.ctx, ioTimeout)
	defer cancel()
	raw, err := q.stream.GetMsg(ctx, seq)
	deadline := time.Now().Add(lookAgain)
	for wait := time.Millisecond; errors.Is(err, jetstream.ErrMsgNotFound); wait *= 2 {
		if raw, err = q.ask(getRequest{Seq: seq}); raw != nil || err != nil {
			break
		}
		if err = jetstream.ErrMsgNotFound; q.o.Replicas < 2 || time.Now().After(deadline) {
			break
		}
		time.Sleep(wait)
	}
	return raw, err
}

// getRequest asks for the message of a sequence, or the last of a subject.
type getRequest struct {
	Seq  uint64 `json:"seq,omitempty"`
	Last string `json:"last_by_subj,omitempty"`
}

// ask reads a message from the stream's leader, which none is ahead of; nil if there is
// none. The client asks any replica where a stream allows that.
func (q *Queue) ask(r getRequest) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(q.ctx, ioTimeout)
	defer cancel()
	request, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	answer, err := q.conn.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.MSG.GET."+q.o.Name, request)
	if err != nil {
		return nil, err
	}
	var got struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(answer.Data, &got); err != nil {
		return nil, err
	}
	switch m := got.Message; {
	case got.Error != nil && got.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil
	case got.Error != nil:
		return nil, got.Error
	case m == nil:
		return nil, errBroken
	default:
		raw := &jetstream.RawStreamMsg{Subject: m.Subject, Sequence: m.Seq, Data: m.Data, Time: m.Time}
		if len(m.Header) > 0 {
			if raw.Header, err = nats.DecodeHeadersMsg(m.Header); err != nil {
				return nil, err
			}
		}
		return raw, nil
	}
}

// delivery is what is known of one without reading it.
func (it *item) delivery() *callhook.Delivery {
	l := it.lane
	return &callhook.Delivery{
		ID: it.id, Tenant: l.Tenant, Agent: l.Agent, Webhook: l.Webhook, Lane: l.name, Call: it.call, Ordered: it.ordered,
		EnqueuedAt: it.enqueuedAt, Numbers: it.numbers, Attempts: it.attempts, Seq: int64(it.seq),
	}
}
