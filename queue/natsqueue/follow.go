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
	everything bool   // all partitions are followed, for the Inspector
	seen       uint64 // the last sequence of the tail
	breaks     int    // how often the stream was found to have less than was seen
	loading    bool   // what is seen is loaded
	waiting    int    // for changed, which each message closes
	changed    chan struct{}
}

// tail reads the headers of all that is written to the stream, in its order, and goes
// on where it was after whatever breaks. It has no filter: a server looks through all
// subjects of a block for the next message of a consumer with several, and so falls
// behind for good.
type tail struct {
	q    *Queue
	from uint64
	end  context.CancelFunc
	done chan struct{}

	// Guarded by q.mu:
	consumer jetstream.Consumer
	count    uint64 // of its messages that were seen
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
		if !p.followed {
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

var errLess = errors.New("the server has lost a part of it meanwhile")

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

// all makes the view have everything that the stream has by now, for the Inspector.
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

func (t *tail) catchUp(ctx context.Context) error {
	q := t.q
	f := &q.follow
	info, err := q.stream.Info(ctx)
	if err != nil {
		return err
	}
	q.mu.Lock()
	f.waiting++
	breaks := f.breaks
	q.mu.Unlock()
	defer func() { q.mu.Lock(); f.waiting--; q.mu.Unlock() }()
	for {
		q.mu.Lock()
		seen, less, consumer, changed := f.seen, f.breaks != breaks, t.consumer, f.changed
		q.mu.Unlock()
		if less {
			return errLess
		}
		if seen >= info.State.LastSeq {
			return nil
		}
		select {
		case <-changed:
		case <-t.done:
			return errClosed
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond): // the last may have gone before it was sent
			if consumer == nil {
				continue
			}
			c, err := consumer.Info(ctx)
			q.mu.Lock()
			all := err == nil && c.NumPending == 0 && t.consumer == consumer && t.count >= c.Delivered.Consumer
			q.mu.Unlock()
			if all {
				return nil
			}
		}
	}
}

func (t *tail) run(ctx context.Context) {
	q := t.q
	news := q.conn.StatusChanged(nats.CONNECTED)
	defer q.conn.RemoveStatusListener(news)
	for wait := 10 * time.Millisecond; ctx.Err() == nil; {
		count := t.count
		err := t.read(ctx, news)
		if ctx.Err() != nil {
			return
		}
		if wait = min(2*wait, time.Second); t.count != count {
			wait = 10 * time.Millisecond
		}
		q.o.Logger.Debug("natsqueue: the stream's consumer is made anew", "stream", q.o.Name, "error", err)
		select {
		case <-ctx.Done():
		case <-news:
		case <-time.After(wait):
		}
	}
}

// read follows the stream until something breaks.
func (t *tail) read(ctx context.Context, news chan nats.Status) error {
	q := t.q
	info, err := q.stream.Info(ctx)
	if err != nil {
		return err
	}
	if last := info.State.LastSeq; last+1 < t.from {
		q.o.Logger.Error("natsqueue: the server has lost the end of the stream: what is pending is read anew", "stream", q.o.Name, "seen", t.from-1, "last", last)
		t.from = last + 1
		q.anew(last)
	}
	consumer, err := q.consumer(ctx, t.from, "")
	if err != nil {
		return err
	}
	defer q.forget(consumer)
	messages, err := consumer.Messages(jetstream.PullMaxMessages(1000), jetstream.PullExpiry(30*time.Second), jetstream.PullHeartbeat(5*time.Second))
	if err != nil {
		return err
	}
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-ctx.Done():
		case <-news: // the server may have forgotten the consumer
		case <-over:
		}
		messages.Stop()
	}()
	q.mu.Lock()
	t.consumer, t.count = consumer, 0
	q.mu.Unlock()
	for {
		msg, err := messages.Next()
		if err != nil {
			return err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		kind, part, ok := q.parse(msg.Subject())
		q.mu.Lock()
		if meta.Sequence.Consumer != t.count+1 {
			q.mu.Unlock()
			return errors.New("a message is missing")
		}
		t.count++
		t.from = meta.Sequence.Stream + 1
		if ok {
			q.follow.saw(&message{kind: kind, part: part, seq: meta.Sequence.Stream, header: msg.Headers(), at: meta.Timestamp})
		}
		q.mu.Unlock()
	}
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

// anew begins again with what the stream has, which is less than it had.
func (q *Queue) anew(last uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.follow.seen = last
	q.follow.breaks++
	for _, p := range q.parts {
		if p.owned {
			q.disown(p)
		}
		q.empty(p)
		p.owner, p.ownerSeq = "", 0
	}
	q.seat.begins()
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
