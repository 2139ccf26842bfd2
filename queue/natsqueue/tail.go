package natsqueue

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// tail reads the headers of all that is written to the stream, in its order, and goes
// on where it was after whatever breaks. It has no filter: a server looks through all
// subjects of a block for the next message of a consumer with several, and so falls
// behind for good.
//
// A server that was killed with its machine may have lost the end of the stream, and
// gives the sequences of what is gone to what comes next. So whenever the tail goes on,
// it first looks whether what it has seen last is what the server has there.
type tail struct {
	q        *Queue
	from     uint64
	past     past
	begun    bool // past is not empty because nothing was seen yet
	wide     bool // all of past is looked at
	removals *removals
	end      context.CancelFunc
	done     chan struct{}

	// Guarded by q.mu:
	consumer jetstream.Consumer
	count    uint64 // of its messages that were seen
}

// past is which messages were seen last, and when the server stored each.
type past struct{ fifo[stamp] }

type stamp struct {
	seq uint64
	at  int64
}

const (
	pastMost = 4096
	pastLast = 256 // that are looked at first
)

func (p *past) note(s stamp) {
	if p.push(s); p.len() > pastMost {
		p.pop()
	}
}

func (p *past) has(s stamp) bool {
	all := p.all[p.head:]
	i, ok := slices.BinarySearchFunc(all, s.seq, func(have stamp, seq uint64) int { return cmp.Compare(have.seq, seq) })
	return ok && all[i].at == s.at
}

// since is the first sequence of the last n.
func (p *past) since(n int) uint64 { return p.all[max(p.head, len(p.all)-n)].seq }

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
			if err := q.current(ctx, consumer); err != nil {
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
	defer func() {
		if t.removals != nil {
			t.removals.conn.Close()
		}
	}()
	for wait := 10 * time.Millisecond; ctx.Err() == nil; {
		count := t.count
		err := t.read(ctx, news)
		q.mu.Lock()
		q.follow.trusted = nil
		q.mu.Unlock()
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
	removing, broken := t.connect() // before anything is looked at
	info, err := q.stream.Info(ctx)
	if err != nil {
		return err
	}
	if last := info.State.LastSeq; last+1 < t.from {
		t.complain(last)
		return t.lost(last)
	}
	// What is before t.from is looked at, and not seen again.
	start, known := t.from, 0
	switch {
	case !t.begun:
		start -= min(start-1, pastLast)
	case t.past.len() > 0 && t.wide:
		start = t.past.since(pastMost)
	case t.past.len() > 0:
		start = t.past.since(pastLast)
	}
	consumer, err := q.consumer(ctx, start, "")
	if err != nil {
		return err
	}
	defer q.forget(consumer)
	compared := false
	compare := func(more bool) error {
		switch {
		case compared || more:
			return nil
		case t.begun && known == 0 && !t.wide && t.past.len() > pastLast:
			t.wide = true
			return errors.New("what was seen last is not there any more: looking further back")
		case t.begun && known == 0 && t.from > 1:
			q.o.Logger.Info("natsqueue: nothing of what was seen last is in the stream any more: what is pending is read anew", "stream", q.o.Name)
			return t.lost(info.State.LastSeq)
		}
		compared, t.begun, t.wide = true, true, false
		q.mu.Lock()
		q.follow.trusted = removing
		q.mu.Unlock()
		return nil
	}
	if err := compare(consumer.CachedInfo().NumPending > 0); err != nil {
		return err
	}
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
		case <-broken:
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
		if meta.Sequence.Consumer != t.count+1 {
			return errors.New("a message is missing")
		}
		s := stamp{meta.Sequence.Stream, meta.Timestamp.UnixNano()}
		switch old := s.seq < t.from; {
		case old && !t.begun:
			t.past.note(s)
		case old && !t.past.has(s):
			t.complain(s.seq - 1)
			return t.lost(info.State.LastSeq)
		case old:
			known++
		}
		if err := compare(s.seq < t.from && meta.NumPending > 0); err != nil {
			return err
		}
		kind, part, ok := q.parse(msg.Subject())
		q.mu.Lock()
		if t.count++; s.seq >= t.from {
			t.past.note(s)
			t.from = s.seq + 1
			if ok {
				q.follow.saw(&message{kind: kind, part: part, seq: s.seq, header: msg.Headers(), at: meta.Timestamp})
			}
		}
		q.mu.Unlock()
	}
}

func (t *tail) complain(last uint64) {
	t.q.o.Logger.Error("natsqueue: the server has lost the end of the stream: what is pending is read anew", "stream", t.q.o.Name, "seen", t.from-1, "left", last)
}

// lost begins again with what the stream has, which is not what was seen.
func (t *tail) lost(last uint64) error {
	q := t.q
	t.from, t.past, t.begun, t.wide = last+1, past{}, false, false
	q.mu.Lock()
	defer q.mu.Unlock()
	q.follow.seen, q.follow.trusted = last, nil
	q.follow.breaks++
	q.sweeper.pending = fifo[swept]{} // the sequences are other messages' now
	for _, p := range q.parts {
		if p.owned {
			q.disown(p)
		}
		q.empty(p)
		p.owner, p.ownerSeq = "", 0
	}
	q.seat.begins()
	return errLess
}

var errLess = errors.New("the server has lost a part of it meanwhile")

// removals is a connection for what is asked by sequence and takes something away. It
// never connects again, and so never sends to a server that has lost something what was
// meant for before, as one does that keeps requests until it is connected again.
type removals struct {
	conn *nats.Conn
	gone chan struct{}
}

// connect returns the connection for removals, and what is closed when there is to be
// another.
func (t *tail) connect() (*nats.Conn, <-chan struct{}) {
	q := t.q
	if t.removals != nil && t.removals.conn.IsConnected() {
		return t.removals.conn, t.removals.gone
	}
	gone := make(chan struct{})
	o := q.conn.Opts
	o.AllowReconnect, o.RetryOnFailedConnect, o.ReconnectBufSize = false, false, -1
	o.ConnectedCB, o.DiscoveredServersCB, o.LameDuckModeHandler = nil, nil, nil // it is none of its owner's
	o.DisconnectedErrCB, o.AsyncErrorCB = func(*nats.Conn, error) {}, func(*nats.Conn, *nats.Subscription, error) {}
	ended := sync.OnceFunc(func() { close(gone) })
	o.ClosedCB = func(*nats.Conn) { ended() }
	conn, err := o.Connect()
	if err != nil {
		if q.conn.IsConnected() {
			q.o.Logger.Warn("natsqueue: there is no second connection, by which what is settled is removed; trying again", "stream", q.o.Name, "error", err)
		}
		later := make(chan struct{})
		time.AfterFunc(5*time.Second, func() { close(later) })
		return nil, later
	}
	t.removals = &removals{conn, gone}
	return conn, gone
}

// trusts returns the connection for removals, while the sequences that this process knows
// are those of the stream; breaks is how often it was not the same when they were learned.
func (q *Queue) trusts(breaks int) (*nats.Conn, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch conn := q.follow.trusted; {
	case q.follow.breaks != breaks:
		return nil, errLess
	case conn == nil || !conn.IsConnected():
		return nil, errDoubt
	default:
		return conn, nil
	}
}

var errDoubt = errors.New("it is not known yet whether the server has lost a part of it")
