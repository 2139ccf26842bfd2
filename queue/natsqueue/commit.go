package natsqueue

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/callhook-go/callhook"
)

// How much goes into one atomic batch. The server takes 1,000 messages.
const (
	maxBatch  = 500
	batchSize = 8 << 20
)

// pace is how long a message took lately that was written among others. Where a stream
// has one replica the server writes each batch to a file of its own first, for several
// milliseconds: that pays for many messages on a server that syncs each of them, and
// never on one that does not.
type pace struct{ nanos atomic.Int64 }

func (p *pace) together(messages int) bool {
	return messages >= 32 && p.nanos.Load() > int64(250*time.Microsecond)
}

func (p *pace) took(messages int, d time.Duration) {
	p.nanos.Store((3*p.nanos.Load() + int64(d)/int64(messages)) / 4)
}

// committer writes messages in the order in which they come. What comes while it
// writes is written in one atomic batch, for which the server syncs once.
type committer struct {
	q       *Queue
	mu      sync.Mutex
	writing bool
	pending fifo[*batch]
}

type batch struct {
	msgs []*nats.Msg
	seqs []uint64
	errs []error
	done chan struct{}
}

// commit returns the sequence of each message, or its error.
func (c *committer) commit(ctx context.Context, msgs []*nats.Msg) ([]uint64, []error) {
	b := &batch{msgs, make([]uint64, len(msgs)), make([]error, len(msgs)), make(chan struct{})}
	c.mu.Lock()
	c.pending.push(b)
	if !c.writing {
		c.writing = true
		go c.write()
	}
	c.mu.Unlock()
	select {
	case <-b.done:
		return b.seqs, b.errs
	case <-ctx.Done():
		return nil, []error{ctx.Err()}
	}
}

func (c *committer) write() {
	for {
		var together []*batch
		c.mu.Lock()
		n, size := 0, 0
		for c.pending.len() > 0 && (n == 0 || n+len(c.pending.peek().msgs) <= maxBatch && size < batchSize) {
			b := c.pending.pop()
			together = append(together, b)
			n += len(b.msgs)
			for _, msg := range b.msgs {
				size += len(msg.Data)
			}
		}
		c.writing = n > 0
		c.mu.Unlock()
		if n == 0 {
			return
		}
		msgs := make([]*nats.Msg, 0, n)
		twins := map[string]int{}
		of := make([]int, 0, n) // where each one's result is: an ID that comes twice is written once
		for _, b := range together {
			for _, msg := range b.msgs {
				key := msg.Header.Get("Nats-Expected-Last-Subject-Sequence-Subject")
				at, known := twins[key]
				if !known {
					at = len(msgs)
					msgs = append(msgs, msg)
					twins[key] = at
				}
				of = append(of, at)
			}
		}
		seqs, errs := c.q.publish(msgs)
		for _, b := range together {
			for i := range b.msgs {
				b.seqs[i], b.errs[i] = seqs[of[i]], errs[of[i]]
			}
			of = of[len(b.msgs):]
			close(b.done)
		}
	}
}

// publish writes messages in one batch; or, when that is quicker,
// or when it is refused because of one of them, one by one.
func (q *Queue) publish(msgs []*nats.Msg) ([]uint64, []error) {
	seqs, errs := make([]uint64, len(msgs)), make([]error, len(msgs))
	if q.pace.together(len(msgs)) {
		if last, err := q.publishBatch(msgs); err == nil {
			for i := range seqs {
				seqs[i] = last - uint64(len(msgs)-1-i)
			}
			return seqs, errs
		}
	}
	left := make([]int, len(msgs))
	for i := range left {
		left[i] = i
	}
	began := time.Now()
	deadline := began.Add(ioTimeout)
	for wait := time.Millisecond; len(left) > 0; wait *= 2 {
		timeout := time.After(time.Until(deadline))
		acks := make([]jetstream.PubAckFuture, len(left))
		for k, i := range left {
			unbatch(msgs[i])
			acks[k], errs[i] = q.js.PublishMsgAsync(msgs[i])
		}
		var again []int
		for k, i := range left {
			if acks[k] == nil {
				continue
			}
			select {
			case ok := <-acks[k].Ok():
				seqs[i] = ok.Sequence
			case errs[i] = <-acks[k].Err():
				if isBusy(errs[i]) {
					again = append(again, i)
				}
			case <-timeout:
				timeout = expired
				errs[i] = context.DeadlineExceeded
			}
		}
		if left = again; len(left) > 0 && time.Now().After(deadline) {
			break
		}
		if len(left) > 0 {
			time.Sleep(wait)
		}
	}
	if len(msgs) > 1 {
		q.pace.took(len(msgs), time.Since(began))
	}
	return seqs, errs
}

// expired is a timer's channel that fires whenever it is asked.
var expired = func() chan time.Time { c := make(chan time.Time); close(c); return c }()

func unbatch(msg *nats.Msg) {
	for _, name := range []string{"Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit"} {
		msg.Header.Del(name)
	}
}

// publishBatch returns the sequence of the last message. The server has all or none.
func (q *Queue) publishBatch(msgs []*nats.Msg) (uint64, error) {
	id := rand.Text()
	for i, msg := range msgs {
		msg.Header.Set("Nats-Batch-Id", id)
		msg.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
		if i == len(msgs)-1 {
			break
		}
		if err := q.conn.PublishMsg(msg); err != nil {
			return 0, err
		}
	}
	last := msgs[len(msgs)-1]
	last.Header.Set("Nats-Batch-Commit", "1")
	answer, err := q.conn.RequestMsg(last, ioTimeout)
	if err != nil {
		return 0, err
	}
	var ack struct {
		Seq   uint64              `json:"seq"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &ack); err != nil {
		return 0, err
	}
	if ack.Error != nil {
		return 0, ack.Error
	}
	return ack.Seq, nil
}

// publishOne writes a message, and returns its sequence.
func (q *Queue) publishOne(ctx context.Context, msg *nats.Msg) (uint64, error) {
	unbatch(msg)
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	ack, err := q.js.PublishMsg(ctx, msg)
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// expect has the server refuse a message unless the last of its subject is this.
func expect(msg *nats.Msg, seq uint64) {
	msg.Header.Set("Nats-Expected-Last-Subject-Sequence", strconv.FormatUint(seq, 10))
}

// expire has the server drop a message after this time.
func expire(msg *nats.Msg, ttl time.Duration) {
	msg.Header.Set("Nats-TTL", strconv.Itoa(int(max(ttl, time.Second)/time.Second))+"s")
}

// room knows how much the stream holds, without asking for each message.
type room struct {
	q     *Queue
	turn  chan struct{} // of one who asks, and counts
	asked time.Time
	holds int64 // when it was asked, and what came since
}

func (r *room) check(ctx context.Context, msgs []*nats.Msg) error {
	most := r.q.o.MaxBytes
	if bound := r.q.stream.CachedInfo().Config.MaxBytes; most == 0 && bound > 0 {
		most = bound - bound/8 // verdicts need room, too
	}
	if most == 0 {
		return nil
	}
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if time.Since(r.asked) > 250*time.Millisecond {
		info, err := r.q.stream.Info(ctx)
		if err != nil {
			return r.q.failed("asking for room", err)
		}
		r.holds, r.asked = int64(info.State.Bytes), time.Now()
	}
	var size int64
	for _, msg := range msgs {
		size += int64(msg.Size()) + 64
	}
	if r.holds+size > most {
		return fmt.Errorf("%w: the stream %s holds %d bytes, and may hold %d", callhook.ErrQueueFull, r.q.o.Name, r.holds, most)
	}
	r.holds += size
	return nil
}

// errGone says that a delivery was settled or erased by somebody else meanwhile, and
// errTaken that it was tried.
var (
	errGone  = errors.New("it is not pending any more")
	errTaken = errors.New("somebody else has tried it")
)
