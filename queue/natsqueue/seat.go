package natsqueue

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// seat is this process's among those that consume, which divide the partitions.
//
// Each has a record in the stream, which it writes anew four times in a lease, and each
// partition one that says whose it is. All of them are written on the condition that
// nobody has written them meanwhile. Who has been silent for a lease is declared gone,
// by a write of its record; then its partitions are anybody's. It knows by itself that
// it may have been: it hands out nothing from a lease after it wrote the last of its
// records that it has seen come back. No clocks are compared for that, only spans of
// one's own.
type seat struct {
	q    *Queue
	id   string
	base time.Time // its records tell times from here

	mu    sync.Mutex // of starting and leaving
	end   context.CancelFunc
	done  chan struct{}
	stir  chan struct{} // something is to be looked at
	hurry chan struct{} // the record is to be written at once

	// Guarded by q.mu:
	nodes     map[string]*node // the others
	joined    bool
	failure   error // why not
	consuming bool
	seq       uint64    // of its own record
	written   time.Time // when that was, which came back last
	used      time.Time // when Consume or Release was called last
	releasing int       // of all lanes, which wait until it is known whose are whose
	moved     chan struct{}
	joining   bool
	listening bool
	buffer    []*message // what came while it joined
}

// node is another process.
type node struct {
	consuming bool
	confirmed bool // it was heard of since this process began to listen
	seen      time.Time
	seq       uint64
}

// nodeRecord and ownerRecord are in headers of messages.
type nodeRecord struct {
	ID        string        `json:"id"`
	Consuming bool          `json:"consuming,omitempty"`
	Gone      bool          `json:"gone,omitempty"`
	Written   time.Duration `json:"written,omitempty"` // on its own clock
	Host      string        `json:"host,omitempty"`
	PID       int           `json:"pid,omitempty"`
}

type ownerRecord struct {
	Owner string `json:"owner"` // empty for nobody
}

// wake has the partitions looked at.
func (s *seat) wake() {
	select {
	case s.stir <- struct{}{}:
	default:
	}
}

// renewSoon has its record written.
func (s *seat) renewSoon() {
	select {
	case s.hurry <- struct{}{}:
	default:
	}
}

// changed returns what is closed by tell. The caller of both holds q.mu.
func (s *seat) changed() <-chan struct{} { return s.moved }

func (s *seat) tell() {
	close(s.moved)
	s.moved = make(chan struct{})
}

// sure reports whether nobody can have declared this process gone. The caller holds
// q.mu.
func (s *seat) sure() bool { return s.joined && time.Since(s.written) < s.q.o.Lease }

// start begins to take part.
func (s *seat) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end != nil || s.q.check(context.Background()) != nil {
		return
	}
	ctx, cancel := context.WithCancel(s.q.ctx)
	s.end, s.done = cancel, make(chan struct{})
	done := s.done
	s.q.work.Go(func() {
		defer close(done)
		s.run(ctx)
	})
}

// consume says whether this process hands out what is ready. It goes on to have its
// partitions when it does not, until another wants them or for a while.
func (s *seat) consume(on bool) {
	s.q.mu.Lock()
	s.consuming, s.used = on, time.Now()
	s.q.mu.Unlock()
	s.start()
	s.renewSoon()
	s.wake()
}

// settled waits until it is known whose a partition is, or all are.
func (s *seat) settled(ctx context.Context, number int) error {
	q := s.q
	q.mu.Lock()
	s.used = time.Now()
	if number < 0 {
		s.releasing++
		defer func() { q.mu.Lock(); s.releasing--; q.mu.Unlock() }()
	}
	q.mu.Unlock()
	s.start()
	timer := time.NewTimer(2*q.o.Lease + ioTimeout)
	defer timer.Stop()
	began := time.Now()
	for {
		q.mu.Lock()
		known, failure, changed := s.joined, s.failure, s.changed()
		for _, p := range q.parts {
			known = known && (number >= 0 && p.n != number || p.owned || s.has(p.owner))
		}
		q.mu.Unlock()
		if known {
			return nil
		}
		if failure != nil && time.Since(began) > ioTimeout {
			return failure
		}
		select {
		case <-changed:
		case <-timer.C:
			return failure
		case <-ctx.Done():
			return ctx.Err()
		case <-q.ctx.Done():
			return errClosed
		}
	}
}

// has reports whether another lives, as was heard since this one listens.
func (s *seat) has(id string) bool { n := s.nodes[id]; return n != nil && n.confirmed }

func (s *seat) run(ctx context.Context) {
	q := s.q
	tick := time.NewTicker(q.o.Lease / 4)
	defer tick.Stop()
	// Its record is written whatever else takes its time.
	renewing, enough := context.WithCancel(ctx)
	var renewed sync.WaitGroup
	renewed.Go(func() { s.keepRenewing(renewing) })
	defer renewed.Wait()
	defer enough()
	for {
		if !s.isJoined() {
			err := s.join(ctx)
			q.mu.Lock()
			s.failure, s.joined = err, err == nil
			s.tell()
			q.mu.Unlock()
			s.renewSoon()
			if err != nil && ctx.Err() == nil {
				q.o.Logger.Warn("natsqueue: the stream cannot be read; trying again", "stream", q.o.Name, "error", err)
			}
		}
		if s.isJoined() {
			s.divide(ctx)
		}
		if s.idle() {
			s.mu.Lock()
			if s.idle() {
				s.giveUpAll(ctx)
				s.end = nil
				s.mu.Unlock()
				return
			}
			s.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-s.stir:
		case <-tick.C:
		}
	}
}

func (s *seat) keepRenewing(ctx context.Context) {
	tick := time.NewTicker(s.q.o.Lease / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.hurry:
		}
		if s.isJoined() {
			s.renew(ctx)
		}
	}
}

func (s *seat) isJoined() bool {
	s.q.mu.Lock()
	defer s.q.mu.Unlock()
	return s.joined
}

// idle reports whether nobody has used the seat for a while.
func (s *seat) idle() bool {
	s.q.mu.Lock()
	defer s.q.mu.Unlock()
	return !s.consuming && s.q.running == 0 && time.Since(s.used) > 6*s.q.o.Lease
}

// join reads who there is, and listens from there.
func (s *seat) join(ctx context.Context) error {
	q := s.q
	q.follow.mu.Lock()
	err := q.follow.open(ctx)
	q.follow.mu.Unlock()
	if err != nil {
		return err
	}
	q.mu.Lock()
	s.joining, s.listening, s.buffer = true, false, nil
	q.mu.Unlock()
	var all []*message
	for _, kind := range []string{kindNode, kindOwner} {
		if err := q.readAll(ctx, 1, q.o.Name+"."+kind+".*", func(m *message) { all = append(all, m) }); err != nil {
			return err
		}
	}
	info, err := q.stream.Info(ctx)
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	s.nodes, s.written, s.listening = map[string]*node{}, time.Time{}, true
	for _, m := range slices.Concat(all, s.buffer) {
		age := max(0, info.TimeStamp.Sub(m.at)) // by the clocks of the servers
		s.see(m, time.Now().Add(-age), false)
	}
	s.joining, s.buffer = false, nil
	return nil
}

// saw takes a record from the tail. The caller holds q.mu.
func (s *seat) saw(m *message) {
	switch {
	case s.listening:
		s.see(m, time.Now(), true)
	case s.joining:
		s.buffer = append(s.buffer, m)
	}
}

// see takes note of a record. The caller holds q.mu.
func (s *seat) see(m *message, at time.Time, live bool) {
	q := s.q
	value := []byte(m.header.Get(headerIndex))
	switch m.kind {
	case kindNode:
		var r nodeRecord
		if json.Unmarshal(value, &r) != nil || r.ID == "" {
			return
		}
		switch {
		case r.ID == s.id:
			s.seq = max(s.seq, m.seq)
			if r.Gone && live && s.joined { // others have not heard of it for long
				q.o.Logger.Warn("natsqueue: the other processes have given this one up: it begins again", "stream", q.o.Name)
				s.written = time.Time{}
				s.lose()
				s.renewSoon()
			} else if live && !r.Gone {
				s.written = s.base.Add(r.Written)
				q.pump()
			}
		case r.Gone:
			delete(s.nodes, r.ID)
		default:
			n := s.nodes[r.ID]
			if n == nil {
				n = new(node)
				s.nodes[r.ID] = n
				if live { // it is to hear of this one
					s.renewSoon()
				}
			}
			n.consuming, n.confirmed, n.seen, n.seq = r.Consuming, n.confirmed || live, at, m.seq
		}
	case kindOwner:
		var r ownerRecord
		p := q.parts[m.part]
		if json.Unmarshal(value, &r) != nil || m.seq <= p.ownerSeq {
			return
		}
		p.owner, p.ownerSeq = r.Owner, m.seq
		if p.owner != s.id {
			if p.owned {
				q.disown(p)
			}
			p.draining = false
		}
	}
	s.tell()
	s.wake()
}

// lose gives up all partitions, which others may have by now. The caller holds q.mu.
func (s *seat) lose() {
	for _, p := range s.q.parts {
		if p.owned {
			s.q.disown(p)
		}
	}
}

// renew writes its record.
func (s *seat) renew(ctx context.Context) {
	q := s.q
	host, _ := os.Hostname()
	now := time.Now()
	q.mu.Lock()
	r := nodeRecord{ID: s.id, Consuming: s.consuming, Written: now.Sub(s.base), Host: host, PID: os.Getpid()}
	seq := s.seq
	q.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, max(q.o.Lease/2, time.Second))
	defer cancel()
	seq, err := q.publishOne(ctx, s.record(kindNode, s.id, r, seq))
	q.mu.Lock()
	defer q.mu.Unlock()
	if err == nil {
		s.seq = max(s.seq, seq)
	} else if ctx.Err() == nil && !isConflict(err) && !isBusy(err) { // a conflict comes by the tail
		q.o.Logger.Warn("natsqueue: this process could not renew its lease; trying again", "stream", q.o.Name, "error", err)
	}
}

func (s *seat) record(kind, name string, r any, seq uint64) *nats.Msg {
	msg := nats.NewMsg(s.q.o.Name + "." + kind + "." + name)
	value, _ := json.Marshal(r)
	msg.Header.Set(headerIndex, string(value))
	if kind == kindNode {
		expire(msg, 24*time.Hour)
	}
	expect(msg, seq)
	return msg
}

// bury declares those gone that were silent for a lease. What this one has written
// since has come back, so that nothing of theirs was missed.
func (s *seat) bury(ctx context.Context) {
	q := s.q
	q.mu.Lock()
	silent := map[string]uint64{}
	for id, n := range s.nodes {
		if over := n.seen.Add(q.o.Lease + q.o.Lease/8); time.Now().After(over) && s.written.After(over) {
			silent[id] = n.seq
		}
	}
	q.mu.Unlock()
	for id, seq := range silent {
		msg := s.record(kindNode, id, nodeRecord{ID: id, Gone: true}, seq)
		if _, err := q.publishOne(ctx, msg); err != nil {
			continue // it lives, or another was quicker
		}
		q.o.Logger.Warn("natsqueue: a process that consumed has died or was cut off: others take over", "stream", q.o.Name, "node", id)
		q.mu.Lock()
		if n := s.nodes[id]; n != nil && n.seq == seq {
			delete(s.nodes, id)
		}
		q.mu.Unlock()
	}
}

// leave ends taking part, for good.
func (s *seat) leave(ctx context.Context) {
	s.mu.Lock()
	end, done := s.end, s.done
	s.mu.Unlock()
	if end != nil {
		end()
		<-done
		s.giveUpAll(ctx)
	}
}

// begins has it join again. The caller holds q.mu.
func (s *seat) begins() {
	s.joined, s.joining, s.listening, s.buffer, s.seq, s.written = false, false, false, nil, 0, time.Time{}
	s.tell()
	s.wake()
}

func (s *seat) begin() {
	s.id, s.base = rand.Text(), time.Now()
	s.stir, s.hurry, s.moved = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{})
}
