package natsqueue

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// follower keeps the view up with the stream. A partition that is new to it is loaded,
// by the headers of what is pending; then the tail brings what is written.
type follower struct {
	q       *Queue
	mu      sync.Mutex // one load at a time
	tail    *tail
	stopped bool

	// Guarded by q.mu:
	everything bool       // all partitions are followed, for the Inspector
	seen       uint64     // the last sequence of the tail
	breaks     int        // how often the stream was found to be another than was seen
	trusted    *nats.Conn // see removals
	loading    bool       // what is seen is loaded
	waiting    int        // for changed, which each message closes
	changed    chan struct{}
}

// open starts the tail. The caller holds f.mu.
func (f *follower) open(ctx context.Context) error {
	q := f.q
	switch {
	case f.stopped:
		return errClosed
	case f.tail != nil:
		return nil
	}
	info, err := q.stream.Info(ctx)
	if err != nil {
		return err
	}
	q.mu.Lock()
	f.seen = info.State.LastSeq
	q.mu.Unlock()
	ctx, cancel := context.WithCancel(q.ctx)
	t := &tail{q: q, from: info.State.LastSeq + 1, end: cancel, done: make(chan struct{})}
	f.tail = t
	q.work.Go(func() {
		defer close(t.done)
		t.run(ctx)
	})
	return nil
}

// follows makes the view have these partitions.
func (f *follower) follows(ctx context.Context, parts []*part) error {
	q := f.q
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.open(ctx); err != nil {
		return err
	}
	q.mu.Lock()
	var more []*part
	for _, p := range parts {
		if !p.followed || p.stale {
			more = append(more, p)
			p.buffering, p.buffer = true, nil
		}
	}
	breaks := f.breaks
	q.mu.Unlock()
	if len(more) == 0 {
		return nil
	}
	loaded, err := f.load(ctx, more)
	q.mu.Lock()
	defer q.mu.Unlock()
	if err == nil && f.breaks != breaks {
		err = errLess
	}
	if err == nil {
		for _, p := range more {
			q.empty(p)
			p.followed = true
		}
		f.loading = true
		for _, m := range loaded {
			q.see(m)
		}
	}
	for _, p := range more {
		for _, m := range p.buffer {
			q.see(m)
		}
		p.buffering, p.buffer = false, nil
	}
	f.loading = false
	if err != nil {
		return fmt.Errorf("reading what is pending: %w", err)
	}
	return nil
}

// load reads what there is of partitions.
func (f *follower) load(ctx context.Context, parts []*part) (all []*message, err error) {
	q := f.q
	prefixes := []string{""}
	if len(parts) < len(q.parts) {
		prefixes = nil
		for _, p := range parts {
			prefixes = append(prefixes, strconv.Itoa(p.n)+".")
		}
	}
	read := func(kind string, from uint64) error {
		for _, prefix := range prefixes {
			subject := q.o.Name + "." + kind + "." + prefix + ">"
			if kind == kindPart && prefix != "" {
				subject = strings.TrimSuffix(subject, ".>")
			}
			if err := q.readAll(ctx, from, subject, func(m *message) { all = append(all, m) }); err != nil {
				return err
			}
		}
		return nil
	}
	for _, kind := range []string{kindPart, kindPending, kindState, kindDead, kindLane} {
		if err := read(kind, 1); err != nil {
			return nil, err
		}
	}
	// Of what is done, that which is not counted yet, or may have left something pending.
	from := map[int]checked{}
	for _, m := range all {
		var c checked
		if m.kind == kindPart && json.Unmarshal([]byte(m.header.Get(headerIndex)), &c) == nil {
			from[m.part] = c
		}
	}
	first := uint64(math.MaxUint64)
	for _, p := range parts {
		first = min(first, from[p.n].UpTo+1)
	}
	if err := read(kindDone, first); err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b *message) int { return cmp.Compare(a.seq, b.seq) })
	return all, nil
}

func (f *follower) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	if f.tail != nil {
		f.tail.end()
		<-f.tail.done
	}
}

// look shows the view of everything that the stream has by now, for the Inspector. f is
// called with q.mu.
func (f *follower) look(ctx context.Context, show func()) error {
	q := f.q
	for {
		if err := f.all(ctx); err != nil {
			return err
		}
		q.mu.Lock()
		if !slices.ContainsFunc(q.parts, func(p *part) bool { return !p.followed || p.buffering }) {
			show()
			q.mu.Unlock()
			return nil
		}
		q.mu.Unlock() // a partition is read anew just now
	}
}

// all makes the view have everything that the stream has by now, unless some of it is
// read anew meanwhile.
func (f *follower) all(ctx context.Context) error {
	q := f.q
	if err := q.check(ctx); err != nil {
		return err
	}
	q.mu.Lock()
	everything := f.everything
	f.everything = true
	q.mu.Unlock()
	if err := f.follows(ctx, q.parts); err != nil {
		if !everything {
			q.mu.Lock()
			f.everything = false
			q.mu.Unlock()
		}
		return q.failed("looking", err)
	}
	if err := f.catchUp(ctx); err != nil {
		return q.failed("looking", err)
	}
	return nil
}

// catchUp waits until the view has what the stream has now.
func (f *follower) catchUp(ctx context.Context) error {
	f.mu.Lock()
	t := f.tail
	f.mu.Unlock()
	return t.catchUp(ctx)
}

// saw takes a message of the tail. The caller holds q.mu.
func (f *follower) saw(m *message) {
	q := f.q
	f.seen = max(f.seen, m.seq)
	switch p := q.parts[m.part]; {
	case m.kind == kindNode || m.kind == kindOwner:
		q.seat.saw(m)
	case p.buffering:
		p.buffer = append(p.buffer, m)
	default:
		q.see(m)
	}
	if f.waiting > 0 {
		close(f.changed)
		f.changed = make(chan struct{})
	}
}

// readAll reads what there is of subjects from a sequence on, without their data.
// A server that stops in the middle, as one does that ends, is asked again.
func (q *Queue) readAll(ctx context.Context, from uint64, subjects string, see func(*message)) error {
	for try := 1; ; try++ {
		var all []*message
		err := q.readOnce(ctx, from, subjects, func(m *message) { all = append(all, m) })
		if err == nil {
			for _, m := range all {
				see(m)
			}
		}
		if err == nil || ctx.Err() != nil || try == 5 {
			return err
		}
		q.o.Logger.Debug("natsqueue: the stream could not be read to its end; trying again", "stream", q.o.Name, "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(try) * 100 * time.Millisecond):
		}
	}
}

func (q *Queue) readOnce(ctx context.Context, from uint64, subjects string, see func(*message)) error {
	consumer, err := q.consumer(ctx, from, subjects)
	if err != nil {
		return err
	}
	defer q.forget(consumer)
	if err := q.current(ctx, consumer); err != nil {
		return err
	}
	if consumer.CachedInfo().NumPending == 0 {
		return nil
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(5000), jetstream.PullExpiry(30*time.Second), jetstream.PullHeartbeat(5*time.Second))
	if err != nil {
		return err
	}
	defer messages.Stop()
	for count := uint64(0); ; {
		msg, err := messages.Next(jetstream.NextMaxWait(100 * time.Millisecond))
		if errors.Is(err, nats.ErrTimeout) { // the last may have been removed before it was sent
			info, err := consumer.Info(ctx)
			if err != nil || info.NumPending == 0 && info.Delivered.Consumer == count {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		if count++; meta.Sequence.Consumer != count {
			return errors.New("a message is missing")
		}
		if kind, part, ok := q.parse(msg.Subject()); ok {
			see(&message{kind: kind, part: part, seq: meta.Sequence.Stream, header: msg.Headers(), at: meta.Timestamp})
		}
		if meta.NumPending == 0 {
			return nil
		}
	}
}

// current waits until the server that a consumer is on has all of the stream that there
// was: one of several replicas may be behind the leader.
func (q *Queue) current(ctx context.Context, consumer jetstream.Consumer) error {
	if q.o.Replicas < 2 {
		return nil
	}
	have, err := consumer.Info(ctx)
	if err != nil {
		return err
	}
	for first := uint64(0); ; {
		info, err := q.stream.Info(ctx)
		if err != nil {
			return err
		}
		if first = cmp.Or(first, info.State.LastSeq); have.Cluster == nil || info.Cluster == nil {
			return nil
		}
		i := slices.IndexFunc(info.Cluster.Replicas, func(p *jetstream.PeerInfo) bool { return p.Name == have.Cluster.Leader })
		if i < 0 || info.Cluster.Replicas[i].Lag <= info.State.LastSeq-first { // it is the leader's, or it has caught up
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// consumer makes one of headers, that lives in the server's memory as long as it is read
// from.
func (q *Queue) consumer(ctx context.Context, from uint64, subjects string) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	return q.stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(from, 1),
		FilterSubject: subjects, HeadersOnly: true, MemoryStorage: true, Replicas: 1, InactiveThreshold: time.Minute,
	})
}

func (q *Queue) forget(c jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if q.conn.IsConnected() {
		_ = q.stream.DeleteConsumer(ctx, c.CachedInfo().Name)
	}
}
