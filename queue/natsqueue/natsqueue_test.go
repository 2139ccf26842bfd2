package natsqueue_test

import (
	"bytes"
	"container/heap"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/callhook-go/callhook"
)

// queue is a callhook.Queue on one JetStream stream.
//
// What is durable is in the stream, as the last message of each subject:
//
//	d.ID  the delivery as it was enqueued, or, once it is settled, an empty message
//	      that the server drops when its ID may be forgotten
//	s.ID  what its handler left behind and where it stands, once it had a verdict
//
// Every write expects the subject's last sequence, zero for the first. So an ID is
// stored once, by whichever process and however long ago, which Nats-Msg-Id does
// not give (TestMsgIdForgotten), and a delivery's body is not written again with
// each attempt. No acknowledgement, AckWait or NakWithDelay is used: they would
// have the server decide when a delivery goes, and it knows neither calls nor
// lanes nor Release (TestNakHoldsUpOthers, TestNakLosesOrder, TestNakComesEarly).
//
// What decides when a delivery goes is an index in memory, of some hundred bytes
// for each that is pending. It is read from the headers at the start and follows
// the stream from there, so that any process may enqueue. But only one process may
// consume and release: nothing in the stream says which of two has a delivery.
type queue struct {
	srv    *server.Server
	nc     *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
	tail   jetstream.ConsumeContext
	loads  chan struct{} // bounds how many are read from the stream together

	raise, judge committer // write what is enqueued, and the verdicts

	mu        sync.Mutex
	closed    bool
	items     map[string]*item // pending ones, by the token of their ID
	lanes     map[string]*lane
	chains    map[chainKey]*chain
	ready     []*item
	waiting   timers
	timer     *time.Timer
	kept      int // bytes of new deliveries, which need not be read then
	consuming bool
	handle    callhook.Handler // nil when nothing may be handed out
	ctx       context.Context  // the handlers'
	inFlight  sync.WaitGroup
}

const (
	streamName = "CALLHOOK"
	remember   = 4 * 24 * time.Hour
	maxKept    = 32 << 20
	maxPayload = 1 << 20   // the server's default
	overhead   = 128 << 10 // for all but the body; nothing bounds Record, Values and Log together
	ioTimeout  = 10 * time.Second
)

// The headers that the index is made from.
const (
	headerIndex = "Callhook-Index"
)

// indexed is what the index has to know of a delivery when it is enqueued.
type indexed struct {
	Lane     string `json:"lane"`
	Call     string `json:"call"`
	Ordered  bool   `json:"ordered,omitempty"`
	Attempts int    `json:"attempts,omitempty"`
}

// stored is what a verdict left behind.
type stored struct {
	State    callhook.State `json:"state"`
	At       time.Time      `json:"at,omitzero"`
	Attempts int            `json:"attempts,omitempty"`
}

// progress is what a handler may change.
type progress struct {
	Attempts, Rejections, Postponed int
	Log                             []callhook.Attempt
}

type item struct {
	indexed
	token    string
	seq      uint64 // of the message that enqueued it
	data     []byte // of that message, if it is kept
	last     uint64 // of the message of its last verdict, or zero
	state    callhook.State
	at       time.Time
	index    int
	fresh    bool // counts as one of its chain's that had no attempt
	released bool
}

type lane struct {
	fresh   []*item // parked, as enqueued
	tried   []*item // parked, the longest first
	freed   int
	waiting map[*item]struct{}
}

type chainKey struct{ lane, call string }

// chain keeps the order of one call's deliveries in one lane.
type chain struct {
	going, fresh int
	blocked      []*item
}

type timers []*item

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i]; t[i].index, t[j].index = i, j }
func (t *timers) Push(x any)        { x.(*item).index = len(*t); *t = append(*t, x.(*item)) }
func (t *timers) Pop() any          { x := (*t)[len(*t)-1]; *t = (*t)[:len(*t)-1]; return x }

// open starts a server of its own on the folder, and opens the queue in it.
func open(dir string) (*queue, error) {
	srv, err := startServer(dir)
	if err != nil {
		return nil, err
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv), nats.MaxReconnects(-1))
	if err != nil {
		srv.Shutdown()
		return nil, err
	}
	q := &queue{
		srv: srv, nc: nc, loads: make(chan struct{}, 64),
		items: map[string]*item{}, lanes: map[string]*lane{}, chains: map[chainKey]*chain{},
	}
	q.raise.q, q.judge.q = q, q
	if err := q.load(); err != nil {
		_ = q.Close()
		return nil, err
	}
	return q, nil
}

func startServer(dir string) (*server.Server, error) {
	srv, err := server.NewServer(&server.Options{
		DontListen: true, NoSigs: true, NoLog: true, MaxPayload: maxPayload,
		JetStream: true, StoreDir: dir, SyncAlways: true,
	})
	if err != nil {
		return nil, err
	}
	srv.Start()
	if !srv.ReadyForConnections(ioTimeout) {
		srv.Shutdown()
		return nil, errors.New("the server did not start")
	}
	return srv, nil
}

// load makes the index, and then keeps it up with what is enqueued.
func (q *queue) load() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), ioTimeout)
	defer cancel()
	if q.js, err = jetstream.New(q.nc); err != nil {
		return err
	}
	q.stream, err = q.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: streamName, Subjects: []string{"d.*", "s.*", "opened"}, MaxMsgsPerSubject: 1,
		AllowDirect: true, AllowMsgTTL: true, AllowAtomicPublish: true, Storage: jetstream.FileStorage,
	})
	if err != nil {
		return err
	}
	mark, err := q.js.Publish(ctx, "opened", nil) // by which to tell that all before has been seen
	if err != nil {
		return err
	}
	var items []*item
	states := map[string]jetstream.Msg{}
	seen := make(chan struct{})
	before, err := q.follow(ctx, 1, []string{"d.*", "s.*", "opened"}, true, func(subject string, seq uint64, msg jetstream.Msg) {
		switch {
		case seq == mark.Sequence:
			close(seen)
		case seq > mark.Sequence:
		case subject[0] == 's':
			states[subject[2:]] = msg
		default:
			if it := decode(subject[2:], seq, msg); it != nil {
				items = append(items, it)
			}
		}
	})
	if err != nil {
		return err
	}
	select {
	case <-seen:
	case <-ctx.Done():
		return fmt.Errorf("reading what is pending: %w", ctx.Err())
	}
	before.Stop()
	<-before.Closed()

	q.mu.Lock()
	defer q.mu.Unlock()
	var parked []*item
	for _, it := range items { // the earliest first
		msg := states[it.token]
		delete(states, it.token)
		var s stored
		if msg != nil && len(msg.Headers().Get(headerIndex)) > 0 {
			meta, err := msg.Metadata()
			if err == nil {
				err = json.Unmarshal([]byte(msg.Headers().Get(headerIndex)), &s)
			}
			if err != nil {
				return err
			}
			it.last, it.Attempts = meta.Sequence.Stream, s.Attempts
		}
		if !q.chain(it) {
			continue
		}
		switch s.State {
		case callhook.StateParked:
			parked = append(parked, it)
		case callhook.StateWaiting:
			q.wait(it, s.At)
		default:
			q.makeReady(it)
		}
	}
	slices.SortFunc(parked, func(a, b *item) int { return int(int64(a.last) - int64(b.last)) })
	for _, it := range parked {
		q.park(it)
	}
	for _, msg := range states { // the process died between the two messages of a settlement
		if meta, err := msg.Metadata(); err == nil && msg.Headers().Get(headerIndex) != "" {
			_ = q.stream.DeleteMsg(ctx, meta.Sequence.Stream)
		}
	}
	q.tail, err = q.follow(ctx, mark.Sequence+1, []string{"d.*"}, false, q.enqueued)
	return err
}

// follow calls see for each message from a sequence on, in the stream's order.
func (q *queue) follow(ctx context.Context, from uint64, subjects []string, headers bool, see func(string, uint64, jetstream.Msg)) (jetstream.ConsumeContext, error) {
	c, err := q.js.OrderedConsumer(ctx, streamName, jetstream.OrderedConsumerConfig{
		FilterSubjects: subjects, HeadersOnly: headers,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
	})
	if err != nil {
		return nil, err
	}
	return c.Consume(func(msg jetstream.Msg) {
		if meta, err := msg.Metadata(); err == nil {
			see(msg.Subject(), meta.Sequence.Stream, msg)
		}
	})
}

// decode returns nil for one that is settled.
func decode(token string, seq uint64, msg jetstream.Msg) *item {
	it := &item{token: token, seq: seq}
	index := msg.Headers().Get(headerIndex)
	if index == "" || json.Unmarshal([]byte(index), &it.indexed) != nil {
		return nil
	}
	return it
}

// enqueued sees what any process has enqueued.
func (q *queue) enqueued(subject string, seq uint64, msg jetstream.Msg) {
	it := decode(subject[2:], seq, msg)
	if it == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.items[it.token] != nil {
		return
	}
	if n := len(msg.Data()); q.kept+n <= maxKept {
		q.kept += n
		it.data = msg.Data()
	}
	if q.chain(it) {
		q.makeReady(it)
		q.pump()
	}
}

// Limits implements callhook.Queue.
func (q *queue) Limits() callhook.Limits {
	return callhook.Limits{
		Ordered: true,
		Durable: true,
		MaxBody: maxPayload - overhead,
		// The server drops the empty message when its TTL has passed.
		Remember: remember,
		// The time is stored as it is, and a timer in memory keeps it.
		Resolution: time.Millisecond,
	}
}

// Enqueue implements callhook.Queue. From minBatch to maxBatch are stored together or
// not at all, unless the ID of one is known.
func (q *queue) Enqueue(ctx context.Context, ds ...*callhook.Delivery) error {
	if err := q.check(ctx); err != nil {
		return err
	}
	for part := range slices.Chunk(ds, maxBatch) {
		msgs := make([]*nats.Msg, len(part))
		for i, d := range part {
			var err error
			if msgs[i], err = encode(d); err != nil {
				return err
			}
		}
		_, errs := q.raise.commit(ctx, msgs)
		for _, err := range errs {
			if err != nil && !isConflict(err) { // else the ID is known
				return q.failed(err)
			}
		}
	}
	return nil
}

const (
	minBatch = 64
	maxBatch = 500 // the server's own limit is 1,000
)

// committer writes messages in the order in which they come. What comes while it
// writes is written in one atomic batch, for which the server syncs once.
type committer struct {
	q       *queue
	mu      sync.Mutex
	writing bool
	pending []*batch
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
	c.pending = append(c.pending, b)
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
		for len(c.pending) > 0 && (n == 0 || n+len(c.pending[0].msgs) <= maxBatch && size < 8<<20) {
			b := c.pending[0]
			c.pending = c.pending[1:]
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
		var msgs []*nats.Msg
		for _, b := range together {
			msgs = append(msgs, b.msgs...)
		}
		seqs, errs := c.q.publish(msgs)
		for _, b := range together {
			n := len(b.msgs)
			copy(b.seqs, seqs[:n])
			copy(b.errs, errs[:n])
			seqs, errs = seqs[n:], errs[n:]
			close(b.done)
		}
	}
}

// publish writes messages in one batch; or, when they are few, for which a batch
// costs more than it saves, or when it is refused because of one of them, one by one.
func (q *queue) publish(msgs []*nats.Msg) ([]uint64, []error) {
	seqs, errs := make([]uint64, len(msgs)), make([]error, len(msgs))
	if len(msgs) >= minBatch {
		if last, err := q.publishBatch(msgs); err == nil {
			for i := range seqs {
				seqs[i] = last - uint64(len(msgs)-1-i)
			}
			return seqs, errs
		}
	}
	timeout := time.After(ioTimeout)
	acks := make([]jetstream.PubAckFuture, len(msgs))
	for i, msg := range msgs {
		for _, name := range []string{"Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit"} {
			msg.Header.Del(name)
		}
		acks[i], errs[i] = q.js.PublishMsgAsync(msg)
	}
	for i, ack := range acks {
		if ack == nil {
			continue
		}
		select {
		case ok := <-ack.Ok():
			seqs[i] = ok.Sequence
		case errs[i] = <-ack.Err():
		case <-timeout:
			errs[i] = context.DeadlineExceeded
		}
	}
	return seqs, errs
}

// publishBatch returns the sequence of the last message. The server has all or none.
func (q *queue) publishBatch(msgs []*nats.Msg) (uint64, error) {
	id := nats.NewInbox()
	for i, msg := range msgs {
		msg.Header.Set("Nats-Batch-Id", id)
		msg.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
		if i == len(msgs)-1 {
			break
		}
		if err := q.nc.PublishMsg(msg); err != nil {
			return 0, err
		}
	}
	last := msgs[len(msgs)-1]
	last.Header.Set("Nats-Batch-Commit", "1")
	answer, err := q.nc.RequestMsg(last, ioTimeout)
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

// expect has the server refuse a message unless the last of its subject is this.
func expect(msg *nats.Msg, seq uint64) {
	msg.Header.Set("Nats-Expected-Last-Subject-Sequence", strconv.FormatUint(seq, 10))
}

func (q *queue) check(ctx context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return callhook.ErrQueueClosed
	}
	return ctx.Err()
}

func (q *queue) failed(err error) error {
	if closed := q.check(context.Background()); closed != nil {
		return closed
	}
	// Of fewer than minBatch a part may be stored then, which ErrQueueFull denies.
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.ErrorCode == 10077 || api.ErrorCode == 10023) { // a limit of the stream, or of the server
		return fmt.Errorf("%w: %w", callhook.ErrQueueFull, err)
	}
	return fmt.Errorf("natsqueue: %w", err)
}

// isConflict says that the subject's last message is another than expected.
func isConflict(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

// encode writes all but Body and Record as JSON, and those as they are.
func encode(d *callhook.Delivery) (*nats.Msg, error) {
	rest := *d
	rest.Body, rest.Record = nil, nil
	text, err := json.Marshal(&rest)
	if err != nil {
		return nil, err
	}
	index, err := json.Marshal(indexed{d.Lane, d.Call, d.Ordered, d.Attempts})
	if err != nil {
		return nil, err
	}
	token := base64.RawURLEncoding.EncodeToString([]byte(d.ID))
	msg := nats.NewMsg("d." + token)
	msg.Header.Set(headerIndex, string(index))
	expect(msg, 0)
	data := binary.AppendUvarint(nil, uint64(len(text)))
	data = binary.AppendUvarint(data, uint64(len(d.Record)))
	msg.Data = slices.Concat(data, text, d.Record, d.Body)
	return msg, nil
}

var errBroken = errors.New("natsqueue: a message of the stream is none of the queue's")

// read returns a delivery as it was last stored.
func (q *queue) read(it *item) (*callhook.Delivery, error) {
	q.mu.Lock()
	data := it.data
	it.data = nil
	q.kept -= len(data)
	q.mu.Unlock()
	if data != nil {
		return parse(it, data)
	}
	q.loads <- struct{}{}
	defer func() { <-q.loads }()
	ctx, cancel := context.WithTimeout(context.Background(), ioTimeout)
	defer cancel()
	msg, err := q.stream.GetMsg(ctx, it.seq)
	if err != nil {
		return nil, err
	}
	d, err := parse(it, msg.Data)
	if err != nil || it.last == 0 {
		return d, err
	}
	if msg, err = q.stream.GetMsg(ctx, it.last); err != nil {
		return nil, err
	}
	var p progress
	if err := json.Unmarshal(msg.Data, &p); err != nil {
		return nil, err
	}
	d.Attempts, d.Rejections, d.Postponed, d.Log = p.Attempts, p.Rejections, p.Postponed, p.Log
	return d, nil
}

func parse(it *item, data []byte) (*callhook.Delivery, error) {
	text, n := binary.Uvarint(data)
	if n <= 0 {
		return nil, errBroken
	}
	record, m := binary.Uvarint(data[n:])
	if m <= 0 || uint64(len(data)-n-m) < text+record {
		return nil, errBroken
	}
	data = data[n+m:]
	d := new(callhook.Delivery)
	if err := json.Unmarshal(data[:text], d); err != nil {
		return nil, err
	}
	d.Record, d.Body = bytes.Clone(data[text:text+record]), bytes.Clone(data[text+record:])
	d.Seq = int64(it.seq)
	return d, nil
}

// write stores a verdict. It returns the sequence of the message, for a verdict
// that keeps the delivery pending.
func (q *queue) write(it *item, d *callhook.Delivery, v callhook.Verdict) (uint64, error) {
	msg := nats.NewMsg("s." + it.token)
	msgs := []*nats.Msg{msg}
	settled := v.State == callhook.StateDelivered || v.State == callhook.StateDead
	if settled {
		// A real engine keeps a dead letter's message, and says so in its state.
		gone := nats.NewMsg("d." + it.token)
		gone.Header.Set("Nats-TTL", remember.String())
		expect(gone, it.seq)
		msg.Header.Set("Nats-TTL", "1s")
		if msgs = []*nats.Msg{gone, msg}; it.last == 0 {
			msgs = msgs[:1]
		}
	} else {
		index, err := json.Marshal(stored{State: v.State, At: v.At, Attempts: d.Attempts})
		if err != nil {
			return 0, err
		}
		msg.Header.Set(headerIndex, string(index))
		// For a repetition after an answer that was lost.
		msg.Header.Set("Nats-Msg-Id", it.token+"/"+strconv.FormatUint(it.last, 10))
		if msg.Data, err = json.Marshal(progress{d.Attempts, d.Rejections, d.Postponed, d.Log}); err != nil {
			return 0, err
		}
	}
	expect(msg, it.last)
	seqs, errs := q.judge.commit(context.Background(), msgs)
	if errs[0] != nil || settled {
		return 0, errs[0]
	}
	return seqs[0], nil
}

var errConsuming = errors.New("natsqueue: the queue is consumed already")

// Consume implements callhook.Queue.
func (q *queue) Consume(ctx context.Context, handle callhook.Handler) error {
	q.mu.Lock()
	switch {
	case q.closed:
		q.mu.Unlock()
		return callhook.ErrQueueClosed
	case q.consuming:
		q.mu.Unlock()
		return errConsuming
	case ctx.Err() != nil:
		q.mu.Unlock()
		return nil
	}
	q.consuming, q.handle, q.ctx = true, handle, context.WithoutCancel(ctx)
	q.schedule()
	q.pump()
	q.mu.Unlock()

	<-ctx.Done()

	q.mu.Lock()
	q.handle, q.ctx = nil, nil
	if q.timer != nil {
		q.timer.Stop()
	}
	q.mu.Unlock()
	q.inFlight.Wait()
	q.mu.Lock()
	q.consuming = false
	q.mu.Unlock()
	return nil
}

// pump begins to hand out what is ready. The caller holds q.mu.
func (q *queue) pump() {
	for q.handle != nil && len(q.ready) > 0 {
		it := q.ready[0]
		q.ready = q.ready[1:]
		if q.lane(it.Lane).parked() > 0 && !it.released {
			q.park(it)
			continue
		}
		it.state = callhook.StateInFlight
		q.inFlight.Add(1)
		go q.handOut(it)
	}
}

// handOut reads a delivery, has it handled, and stores and carries out the verdict.
func (q *queue) handOut(it *item) {
	defer q.inFlight.Done()
	d, err := q.read(it)
	q.mu.Lock()
	handle, ctx := q.handle, q.ctx
	if err != nil || handle == nil {
		it.state = callhook.StateReady
		q.ready = append(q.ready, it)
		q.mu.Unlock()
		if err != nil {
			time.Sleep(time.Second)
			q.mu.Lock()
			q.pump()
			q.mu.Unlock()
		}
		return
	}
	it.released = false
	q.mu.Unlock()
	v := handle(ctx, d)
	last, err := q.write(it, d, v)
	for wait := time.Millisecond; err != nil && !isConflict(err) && q.check(ctx) == nil; wait = min(2*wait, time.Second) {
		time.Sleep(wait)
		last, err = q.write(it, d, v)
	}
	q.mu.Lock()
	switch {
	case err != nil: // closed, or another process had it too: it is as last stored there
		q.forget(it)
	case last > 0:
		it.last, it.Attempts = last, d.Attempts
		if v.State == callhook.StateParked {
			q.park(it)
		} else {
			q.wait(it, v.At)
			q.schedule()
		}
		q.advance(it, false)
	default:
		q.forget(it)
	}
	q.pump()
	q.mu.Unlock()
	v.Done()
}

func (q *queue) forget(it *item) {
	delete(q.items, it.token)
	q.advance(it, true)
}

func (q *queue) lane(name string) *lane {
	l := q.lanes[name]
	if l == nil {
		l = &lane{waiting: map[*item]struct{}{}}
		q.lanes[name] = l
	}
	return l
}

func (l *lane) parked() int { return len(l.fresh) + len(l.tried) }

// chain takes up a pending delivery, and says whether its call's order lets it go.
func (q *queue) chain(it *item) bool {
	q.items[it.token] = it
	key := chainKey{it.Lane, it.Call}
	c := q.chains[key]
	if c == nil {
		c = new(chain)
		q.chains[key] = c
	}
	if len(c.blocked) > 0 || !c.open(it) {
		it.state = callhook.StateWaiting
		c.blocked = append(c.blocked, it)
		return false
	}
	c.letGo(it)
	return true
}

func (c *chain) open(it *item) bool { return c.fresh == 0 && (!it.Ordered || c.going == 0) }

func (c *chain) letGo(it *item) {
	c.going++
	if it.fresh = it.Attempts == 0; it.fresh {
		c.fresh++
	}
}

// advance lets the later ones of its call go, if they may now.
func (q *queue) advance(it *item, settled bool) {
	key := chainKey{it.Lane, it.Call}
	c := q.chains[key]
	if it.fresh && (settled || it.Attempts > 0) {
		it.fresh = false
		c.fresh--
	}
	if settled {
		c.going--
	}
	for len(c.blocked) > 0 && c.open(c.blocked[0]) {
		next := c.blocked[0]
		c.blocked = c.blocked[1:]
		c.letGo(next)
		q.makeReady(next)
	}
	if c.going == 0 && len(c.blocked) == 0 {
		delete(q.chains, key)
	}
}

// makeReady parks what becomes ready in a lane with parked ones, which writes
// nothing: after a crash it is ready.
func (q *queue) makeReady(it *item) {
	if q.lane(it.Lane).parked() > 0 && !it.released {
		q.park(it)
		return
	}
	it.state = callhook.StateReady
	q.ready = append(q.ready, it)
}

func (q *queue) park(it *item) {
	l := q.lane(it.Lane)
	it.state = callhook.StateParked
	if it.Attempts > 0 {
		l.tried = append(l.tried, it)
		return
	}
	at, _ := slices.BinarySearchFunc(l.fresh, it.seq, func(o *item, seq uint64) int { return int(int64(o.seq) - int64(seq)) })
	l.fresh = slices.Insert(l.fresh, at, it)
}

func (q *queue) wait(it *item, at time.Time) {
	it.state, it.at = callhook.StateWaiting, at
	heap.Push(&q.waiting, it)
	q.lane(it.Lane).waiting[it] = struct{}{}
}

func (q *queue) unwait(it *item) {
	heap.Remove(&q.waiting, it.index)
	delete(q.lane(it.Lane).waiting, it)
}

func (q *queue) schedule() {
	if len(q.waiting) == 0 || q.handle == nil {
		return
	}
	if wait := time.Until(q.waiting[0].at); q.timer == nil {
		q.timer = time.AfterFunc(wait, q.wake)
	} else {
		q.timer.Reset(wait)
	}
}

func (q *queue) wake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for now := time.Now(); len(q.waiting) > 0 && !q.waiting[0].at.After(now); {
		it := q.waiting[0]
		q.unwait(it)
		q.makeReady(it)
	}
	q.schedule()
	q.pump()
}

// Release implements callhook.Queue. It writes nothing: after a crash what it freed
// is parked again.
func (q *queue) Release(ctx context.Context, name string, n int) (int, error) {
	if err := q.check(ctx); err != nil {
		return 0, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	freed := 0
	if l := q.lanes[name]; l != nil {
		freed = q.release(l, n)
	} else if name == "" {
		for _, l := range q.lanes {
			freed += q.release(l, n)
		}
	}
	q.pump()
	return freed, nil
}

func (q *queue) release(l *lane, n int) (freed int) {
	if n < 0 {
		all := slices.Concat(l.fresh, l.tried)
		l.fresh, l.tried = nil, nil
		for it := range l.waiting {
			q.unwait(it)
			all = append(all, it)
		}
		for _, it := range all {
			q.makeReady(it)
		}
		return len(all)
	}
	for ; freed < n && l.parked() > 0; freed++ {
		var it *item
		if l.freed++; len(l.tried) > 0 && (len(l.fresh) == 0 || l.freed%4 == 0) {
			it, l.tried = l.tried[0], l.tried[1:]
		} else {
			it, l.fresh = l.fresh[0], l.fresh[1:]
		}
		it.released = true
		q.makeReady(it)
	}
	return freed
}

// Close implements callhook.Queue.
func (q *queue) Close() error {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return nil
	}
	q.closed = true
	q.mu.Unlock()
	if q.tail != nil {
		q.tail.Stop()
	}
	q.nc.Close()
	q.srv.Shutdown()
	q.srv.WaitForShutdown()
	return nil
}
