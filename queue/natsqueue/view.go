package natsqueue

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/callhook-go/callhook"
)

// view is what the stream holds of the partitions that this process follows, in
// memory: an entry of some hundred bytes for each delivery that is pending and each
// dead letter. Messages change it in their order in the stream, and what this process
// has written changes it before its message comes back: whatever is older than what is
// known is passed over. Queue.mu guards it.
type view struct {
	parts []*part
	items map[string]*item // pending, by ID
	dead  map[string]*item
	gone  map[string]passing
}

// passing is what this process has settled and the tail has not come to: by which
// message, and of which partition.
type passing struct {
	seq  uint64
	part *part
}

// part is a partition.
type part struct {
	n        int
	followed bool // lanes says what there is
	stale    bool // it is to be read anew, and serves until then
	lanes    map[string]*lane
	upTo     uint64          // see checked
	checked  time.Time       // when a checkpoint was tried last
	seq      uint64          // of the message that says so
	since    int             // deliveries that arrived since, as far as is known
	tried    int             // a checkpoint, that many of these ago
	unclean  map[uint64]bool // messages of kind done that may have left something pending
	left     []leftover

	buffering bool       // it is being loaded
	buffer    []*message // what the tail has brought since

	owned    bool // this process hands out what is ready of it
	draining bool // it was to be given away, as soon as nothing is in flight
	inFlight int
	owner    string // the node whose it is; "" for nobody's
	ownerSeq uint64
}

// leftover is what may be in the stream still of a delivery that is settled, or of a
// dead letter that was replayed.
type leftover struct {
	id        string
	seq, last uint64 // of the messages: the delivery, and what its last attempt left; or zero
	done      uint64 // of the one that has superseded them
	erase     bool   // nothing may be left of them
}

// item is a delivery.
type item struct {
	id, call   string
	numbers    []string
	enqueuedAt time.Time
	lane       *lane
	seq        uint64         // of the message that it was enqueued by; of a dead letter: was
	last       uint64         // of the message of its last verdict, or zero; of a dead letter: its own
	stored     callhook.State // by that: "", waiting or parked
	at         time.Time      // of waiting
	attempts   int
	ordered    bool
	reason     callhook.Reason
	until      time.Time // of a dead letter

	state    callhook.State
	blocked  bool // waits for earlier ones of its call
	fresh    bool // counts as one of its chain's that had no attempt
	chained  bool // its chain has let it go
	released bool // it goes although its lane has parked ones
	gone     bool // settled or erased
	busy     bool // a handler has it, of whichever partition
	index    int  // in a heap
	order    int64
}

// lane is what is known of one lane.
type lane struct {
	callhook.LaneRef
	name    string
	part    *part
	pending int
	all     fifo[*item] // the pending ones as enqueued, and those that are gone
	tally   tally
	seq     uint64   // of the message of that
	since   []uint64 // messages that say what arrived since

	// While the partition is owned:
	fresh, tried heapOf // parked
	freed        int    // by Release, to tell every fourth
	waiting      map[*item]struct{}
	chains       map[string]*chain
}

func (v *view) begin(parts int) {
	v.items, v.dead, v.gone = map[string]*item{}, map[string]*item{}, map[string]passing{}
	for n := range parts {
		v.parts = append(v.parts, &part{n: n, lanes: map[string]*lane{}})
	}
}

func (p *part) lane(name string, ref callhook.LaneRef) *lane {
	l := p.lanes[name]
	if l == nil {
		l = &lane{LaneRef: ref, name: name, part: p}
		l.fresh.less = func(a, b *item) bool { return a.seq < b.seq }
		l.tried.less = func(a, b *item) bool { return a.order < b.order }
		l.tally = tally{Tenant: text(ref.Tenant), Agent: text(ref.Agent), Webhook: text(ref.Webhook), Lane: text(name)}
		if p.owned {
			l.begin()
		}
		p.lanes[name] = l
	}
	return l
}

// message is one of the stream, as it is followed or loaded.
type message struct {
	kind   string
	part   int
	seq    uint64
	header nats.Header
	at     time.Time // when the server stored it
}

// parse says what a message is by its subject; ok is false for none of the queue's.
func (q *Queue) parse(subject string) (kind string, part int, ok bool) {
	rest, ok := strings.CutPrefix(subject, q.o.Name+".")
	if !ok {
		return "", 0, false
	}
	kind, rest, ok = strings.Cut(rest, ".")
	if kind == kindNode {
		return kind, 0, ok
	}
	number, _, _ := strings.Cut(rest, ".")
	for _, c := range []byte(number) {
		if c < '0' || c > '9' {
			return "", 0, false
		}
		part = part*10 + int(c-'0')
	}
	return kind, part, ok && number != "" && part < len(q.parts)
}

// see applies a message of the stream. The caller holds q.mu.
func (q *Queue) see(m *message) {
	p := q.parts[m.part]
	if !p.followed {
		return
	}
	switch m.kind {
	case kindPending:
		ix, ok := indexOf(m.header)
		if !ok || q.gone[string(ix.ID)].seq > m.seq {
			return
		}
		if dead := q.dead[string(ix.ID)]; dead != nil && dead.last < m.seq {
			delete(q.dead, dead.id)
			q.superseded(p, leftover{id: dead.id, seq: dead.last, done: m.seq, erase: true}) // it was replayed
		}
		if it := q.items[string(ix.ID)]; it != nil {
			if it.seq >= m.seq {
				return
			}
			q.drop(it)
		}
		it := p.enter(&ix, m.seq)
		q.items[it.id] = it
		it.lane.pending++
		it.lane.all.push(it)
		if p.owned {
			q.place(it)
			q.pump()
		}
	case kindState:
		k, ok := markOf(m.header)
		it := q.items[string(k.ID)]
		if ok && q.follow.loading && (it == nil || it.seq > m.seq) {
			q.superseded(p, leftover{id: string(k.ID), seq: m.seq, done: m.seq}) // its delivery is not pending any more
		}
		if !ok || it == nil || it.last >= m.seq || it.seq > m.seq {
			return
		}
		it.last, it.stored, it.at, it.attempts = m.seq, k.State, k.At, k.Attempts
		if p.owned && !it.busy { // another had it, which was not known to be alive
			if !it.blocked {
				q.unplace(it)
				q.settleIn(it)
			}
			q.advance(it, false)
			q.pump()
		}
	case kindDead:
		ix, ok := indexOf(m.header)
		if !ok {
			return
		}
		q.come(string(ix.ID), m.seq)
		if it := q.items[string(ix.ID)]; it != nil && it.seq < m.seq {
			q.drop(it)
			q.superseded(p, leftover{it.id, it.seq, it.last, m.seq, true})
		}
		if dead := q.dead[string(ix.ID)]; q.gone[string(ix.ID)].seq > m.seq || dead != nil && dead.last >= m.seq || q.items[string(ix.ID)] != nil {
			return
		}
		it := p.enter(&ix, ix.Seq)
		it.last, it.state, it.reason, it.until = m.seq, callhook.StateDead, callhook.Reason(ix.Reason), ix.Until
		q.dead[it.id] = it
	case kindDone:
		k, ok := markOf(m.header)
		if !ok {
			return
		}
		id := string(k.ID)
		known := q.gone[id].seq == m.seq
		q.come(id, m.seq)
		if k.State == callhook.StateDelivered && !known {
			l := p.lane(string(k.Lane), callhook.LaneRef{Tenant: string(k.Tenant), Agent: string(k.Agent), Webhook: string(k.Webhook)})
			l.arrived(m.seq)
		}
		if it := q.items[id]; it != nil && it.seq < m.seq {
			q.drop(it)
			if !known {
				q.superseded(p, leftover{id, it.seq, it.last, m.seq, k.State != callhook.StateDelivered})
			}
		}
		if dead := q.dead[id]; dead != nil && dead.last < m.seq {
			delete(q.dead, id)
			q.superseded(p, leftover{id, dead.last, 0, m.seq, k.State == stateErased})
		}
	case kindLane:
		t, ok := tallyOf(m.header)
		if !ok {
			return
		}
		l := p.lane(string(t.Lane), callhook.LaneRef{Tenant: string(t.Tenant), Agent: string(t.Agent), Webhook: string(t.Webhook)})
		l.counted(t, m.seq)
	case kindPart:
		var c checked
		if value := m.header.Get(headerIndex); json.Unmarshal([]byte(value), &c) == nil && p.seq < m.seq {
			p.upTo, p.seq = c.UpTo, m.seq
		}
	}
}

// arrived counts a delivery that a message says was done. It may be told so twice.
func (l *lane) arrived(seq uint64) {
	at, known := slices.BinarySearch(l.since, seq)
	if !known && seq > max(l.tally.UpTo, l.part.upTo) {
		l.since = slices.Insert(l.since, at, seq)
		l.part.since++
	}
}

// counted takes over the counts that a message tells.
func (l *lane) counted(t tally, seq uint64) {
	if seq <= l.seq {
		return
	}
	l.tally, l.seq = t, seq
	before := len(l.since)
	l.since = slices.DeleteFunc(l.since, func(done uint64) bool { return done <= t.UpTo })
	l.part.since -= before - len(l.since)
}

// come notes that the tail has come to a message that this process may have written.
func (q *Queue) come(id string, seq uint64) {
	if q.gone[id].seq <= seq {
		delete(q.gone, id)
	}
}

func (p *part) enter(ix *index, seq uint64) *item {
	l := p.lane(string(ix.Lane), callhook.LaneRef{Tenant: string(ix.Tenant), Agent: string(ix.Agent), Webhook: string(ix.Webhook)})
	return &item{
		id: string(ix.ID), call: string(ix.Call), numbers: plain(ix.Numbers), enqueuedAt: ix.EnqueuedAt, lane: l, seq: seq,
		attempts: ix.Attempts, ordered: ix.Ordered, index: -1,
	}
}

// drop forgets one that is pending no more, and lets what waited for it go.
func (q *Queue) drop(it *item) {
	if it.gone {
		return
	}
	it.gone = true
	if q.items[it.id] == it {
		delete(q.items, it.id)
	}
	it.lane.pending--
	it.lane.trim()
	if !it.lane.part.owned {
		return
	}
	instead := it.state == callhook.StateReady && it.released
	q.displace(it)
	if instead { // another goes instead: somebody counts on it
		q.release(it.lane, 1)
	}
	q.pump()
}

// trim drops what is gone from the beginning of a lane's, so that the first is the
// oldest.
func (l *lane) trim() {
	for l.all.len() > 0 && l.all.peek().gone {
		l.all.pop()
	}
	if l.all.len() > 64+2*l.pending {
		l.all.keep(func(it *item) bool { return !it.gone })
	}
}

// empty forgets all of a partition.
func (q *Queue) empty(p *part) {
	for _, l := range p.lanes {
		for _, it := range l.all.all[l.all.head:] {
			if q.items[it.id] == it {
				delete(q.items, it.id)
			}
			it.gone = true
		}
	}
	for id, it := range q.dead {
		if it.lane.part == p {
			delete(q.dead, id)
		}
	}
	for id, g := range q.gone {
		if g.part == p {
			delete(q.gone, id)
		}
	}
	p.lanes, p.followed, p.stale = map[string]*lane{}, false, false
	p.upTo, p.seq, p.since, p.unclean, p.left, p.checked = 0, 0, 0, nil, nil, time.Now()
}
