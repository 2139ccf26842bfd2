package natsqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go"
)

// The seats divide the partitions: each gives up what is more than its share, and claims
// what is nobody's.

// divide does what is to be done for each to have its share.
func (s *seat) divide(ctx context.Context) {
	s.bury(ctx)
	give, claim := s.shares()
	if len(give) > 0 {
		s.giveUp(give)
	}
	if len(claim) > 0 {
		s.claim(claim)
	}
	s.load(ctx)
	s.q.judge.checkpoints()
}

// shares says which partitions to give up now, and which to claim.
func (s *seat) shares() (give, claim []*part) {
	q := s.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if !s.sure() {
		return nil, nil
	}
	var takers []string
	for _, consuming := range []bool{true, false} { // those that consume, or all when none does
		for id, n := range s.nodes {
			if n.consuming || !consuming {
				takers = append(takers, id)
			}
		}
		if s.consuming || !consuming {
			takers = append(takers, s.id)
		}
		if len(takers) > 0 {
			break
		}
	}
	slices.Sort(takers)
	share, first := 0, 0
	if rank := slices.Index(takers, s.id); rank >= 0 {
		share, first = len(q.parts)/len(takers), rank*len(q.parts)/len(takers)
		if rank < len(q.parts)%len(takers) {
			share++
		}
	}
	var mine []*part
	for _, p := range q.parts {
		if p.owner == s.id {
			mine = append(mine, p)
		}
	}
	slices.SortStableFunc(mine, func(a, b *part) int { // those that go already, and then the least busy
		return cmp.Or(cmp.Compare(order(!a.draining), order(!b.draining)), cmp.Compare(a.inFlight, b.inFlight))
	})
	for i, p := range mine {
		if i < len(mine)-share {
			p.draining = true
		}
		if p.draining && p.inFlight == 0 {
			give = append(give, p)
		}
	}
	for i := range q.parts {
		p := q.parts[(first+i)%len(q.parts)]
		if len(mine)+len(claim) < share && p.owner != s.id && s.nodes[p.owner] == nil {
			claim = append(claim, p)
		}
	}
	return give, claim
}

func order(b bool) int {
	if b {
		return 1
	}
	return 0
}

// giveUp makes partitions nobody's.
func (s *seat) giveUp(parts []*part) {
	for _, p := range parts {
		s.q.judge.checkpoint(p)
	}
	s.write(parts, ownerRecord{}, func(p *part) {
		p.owner = ""
		if p.owned {
			s.q.disown(p)
		}
		p.draining = false
	})
}

// claim makes partitions this process's.
func (s *seat) claim(parts []*part) {
	s.write(parts, ownerRecord{Owner: s.id}, func(p *part) { p.owner = s.id })
}

// write writes the records of partitions, and does with each what follows once it is
// written.
func (s *seat) write(parts []*part, record ownerRecord, then func(*part)) {
	q := s.q
	var msgs []*nats.Msg
	q.mu.Lock()
	for _, p := range parts {
		msgs = append(msgs, s.record(kindOwner, fmt.Sprint(p.n), record, p.ownerSeq))
	}
	q.mu.Unlock()
	seqs, errs := q.publish(msgs)
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, p := range parts {
		switch {
		case errs[i] != nil:
			if !isConflict(errs[i]) && !errors.Is(errs[i], context.Canceled) {
				q.o.Logger.Warn("natsqueue: the owner of a partition could not be written; trying again", "stream", q.o.Name, "error", errs[i])
			}
		case seqs[i] > p.ownerSeq: // else the tail was quicker
			then(p)
			p.ownerSeq = seqs[i]
		}
	}
	s.tell()
}

// load reads the partitions that have become this process's, and begins with them.
func (s *seat) load(ctx context.Context) {
	q := s.q
	q.mu.Lock()
	var fresh, all []*part
	for _, p := range q.parts {
		if p.owner == s.id && !p.draining {
			all = append(all, p)
			if !p.owned {
				fresh = append(fresh, p)
				p.stale = true // what another has left half done has to be known
			}
		}
	}
	q.mu.Unlock()
	if len(fresh) == 0 {
		return
	}
	err := q.follow.follows(ctx, all)
	if err == nil {
		err = q.follow.catchUp(ctx)
	}
	if err != nil {
		if ctx.Err() == nil {
			q.o.Logger.Warn("natsqueue: partitions cannot be read; trying again", "stream", q.o.Name, "error", err)
		}
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	began := 0
	for _, p := range fresh {
		if p.owner == s.id && p.followed && !p.owned && s.sure() {
			q.own(p, s.releasing == 0) // else the Release does what is to be done
			began++
		}
	}
	q.o.Logger.Debug("natsqueue: this process has partitions", "stream", q.o.Name, "taken", began, "in all", len(all))
	s.tell()
}

// giveUpAll makes all partitions nobody's, and leaves.
func (s *seat) giveUpAll(ctx context.Context) {
	q := s.q
	q.mu.Lock()
	var mine []*part
	for _, p := range q.parts {
		if p.owner == s.id {
			mine = append(mine, p)
			p.draining = true
		}
	}
	joined := s.joined
	s.joined = false
	seq := s.seq
	q.mu.Unlock()
	if !joined || !q.conn.IsConnected() {
		return // the others find out
	}
	s.giveUp(mine)
	_, _ = q.publishOne(ctx, s.record(kindNode, s.id, nodeRecord{ID: s.id, Gone: true}, seq))
}
