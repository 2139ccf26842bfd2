package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/callhook-go/callhook"
)

// Queue is a [callhook.Queue] in a JetStream stream, and a [callhook.Inspector].
type Queue struct {
	o      Options
	conn   *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
	limits callhook.Limits
	ctx    context.Context // ends with Close
	end    context.CancelFunc
	work   sync.WaitGroup // goroutines that end with Close

	raise  committer // writes what is enqueued
	room   room
	pace   pace
	judge  judge // writes verdicts, and what is replayed and erased
	follow follower
	seat   seat

	mu     sync.Mutex
	closed bool
	view
	line
	sweeper sweeper
}

var (
	_ callhook.Queue     = (*Queue)(nil)
	_ callhook.Inspector = (*Queue)(nil)
)

func newQueue(o Options, js jetstream.JetStream, stream jetstream.Stream) *Queue {
	q := &Queue{o: o, conn: o.Conn, js: js, stream: stream}
	most := int(o.Conn.MaxPayload())
	q.limits = callhook.Limits{
		Ordered: true, Durable: o.Storage == jetstream.FileStorage, Shared: true,
		MaxBody: most - min(128<<10, most/4), Remember: remember, Redeliver: o.Lease + o.Lease/2 + time.Second, Resolution: time.Millisecond,
	}
	q.ctx, q.end = context.WithCancel(context.Background())
	q.raise.q, q.room.q, q.judge.q, q.follow.q, q.seat.q = q, q, q, q, q
	q.follow.changed, q.room.turn = make(chan struct{}), make(chan struct{}, 1)
	q.seat.begin()
	q.view.begin(o.Partitions)
	q.line.begin()
	return q
}

// Limits implements [callhook.Queue]. MaxBody is the server's max_payload, less an
// eighth of a mebibyte for all that is not body, or a quarter of it.
func (q *Queue) Limits() callhook.Limits { return q.limits }

// Enqueue implements [callhook.Queue]. A delivery is one message, and an ID is known
// by the server. Many are stored in atomic batches, which are shared with
// those of other goroutines.
func (q *Queue) Enqueue(ctx context.Context, ds ...*callhook.Delivery) error {
	if err := q.check(ctx); err != nil {
		return err
	}
	if len(ds) == 0 {
		return nil
	}
	msgs := make([]*nats.Msg, len(ds))
	for i, d := range ds {
		if d.ID == "" {
			return fmt.Errorf("natsqueue: a delivery of the lane %s has no ID", d.Lane)
		}
		p := q.placeOf(d.ID, d.Lane)
		msg := nats.NewMsg(q.subject(kindPending, p))
		if err := encode(msg, d, index{}); err != nil {
			return fmt.Errorf("natsqueue: storing %s: %w", d.ID, err)
		}
		expect(msg, 0)
		msg.Header.Set("Nats-Expected-Last-Subject-Sequence-Subject", q.anywhere(p))
		if size, most := msg.Size(), int(q.conn.MaxPayload()); size > most {
			return fmt.Errorf("natsqueue: %s takes %d bytes with its body of %d, and the server's max_payload is %d: raise that, or send less", d.ID, size, len(d.Body), most)
		}
		if size := len(msg.Header.Get(headerIndex)); size > maxIndex {
			return fmt.Errorf("natsqueue: the names, numbers and call of %s take %d bytes, and may take %d: the server takes no header of more than 64 KiB", d.ID, size, maxIndex)
		}
		msgs[i] = msg
	}
	if err := q.room.check(ctx, msgs); err != nil {
		return err
	}
	for part := range slices.Chunk(msgs, maxBatch) {
		_, errs := q.raise.commit(ctx, part)
		for _, err := range errs {
			if err != nil && !isConflict(err) { // else the ID is known
				return q.failed("storing", err)
			}
		}
	}
	return nil
}

// maxIndex is what the header of a pending delivery may take, so that its dead letter
// fits too.
const maxIndex = 60 << 10

func (q *Queue) check(ctx context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return errClosed
	}
	return ctx.Err()
}

var errClosed = fmt.Errorf("natsqueue: %w", callhook.ErrQueueClosed)

// failed says what went wrong with the stream.
func (q *Queue) failed(what string, err error) error {
	if q.check(context.Background()) != nil {
		return errClosed
	}
	if isFull(err) {
		return fmt.Errorf("%w: the stream %s takes no more: %w", callhook.ErrQueueFull, q.o.Name, err)
	}
	return fmt.Errorf("natsqueue: %s in the stream %s: %w", what, q.o.Name, err)
}

// Close implements [callhook.Queue]. Other processes take over at once what this one
// had. The connection stays open.
func (q *Queue) Close() error {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		q.work.Wait()
		return nil
	}
	q.closed = true
	q.handle = nil
	q.stopTimer()
	q.seat.tell()
	q.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), ioTimeout)
	defer cancel()
	q.seat.leave(ctx)
	swept := make(chan struct{})
	go func() { q.sweeper.ended.Wait(); close(swept) }()
	select {
	case <-swept:
	case <-ctx.Done(): // whoever has the partitions next sweeps
	}
	q.end()
	<-swept
	q.follow.stop()
	q.work.Wait()
	return nil
}

// The server's errors are told apart by their codes.
func code(err error) jetstream.ErrorCode {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.ErrorCode
	}
	return 0
}

// isConflict says that the last message of a subject is another than expected.
func isConflict(err error) bool { return code(err) == jetstream.JSErrCodeStreamWrongLastSequence }

// isBusy says that another message of the subject is being replicated just now.
func isBusy(err error) bool { return code(err) == jetstream.JSErrCodeStreamWrongLastSequenceConstant }

func isFull(err error) bool {
	switch code(err) {
	case 10002, 10023, 10028, 10047, 10077: // a limit of the account, the server, its memory or storage, or the stream
		return true
	}
	return false
}
