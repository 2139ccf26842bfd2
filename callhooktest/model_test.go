package callhooktest_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
)

// model is a Queue as simple as can be, which does what the contract says: what
// the suite has to accept, in each of the ways that the contract leaves open. With
// a fault it does not, and the suite has to find out.
type model struct {
	modelOptions
	file *os.File // nil unless durable

	mu        sync.Mutex
	closed    bool
	seq       int64
	parks     int64
	items     map[string]*record
	known     map[string]bool
	chains    map[[2]string][]*record
	lanes     map[string]*modelLane
	ready     []*record
	handle    callhook.Handler
	consuming bool
	wg        sync.WaitGroup
}

type modelOptions struct {
	durable bool // it keeps everything in a file of its folder
	retains bool // it parks by itself what comes to a lane with parked ones
	wary    bool // everything is parked when it is opened
	keeps   bool // what was delivered
	fault   string
}

// record is a delivery as it is kept: a line of the file.
type record struct {
	Delivery callhook.Delivery
	ParkedAt int64
	Erased   bool
	blocked  bool
	timer    *time.Timer
}

type modelLane struct {
	ref    callhook.LaneRef
	counts callhook.Counts
	parked []*record
	turn   int
}

var errBusy = errors.New("the model is consumed already")

func openModel(t *testing.T, dir string, o modelOptions) *model {
	q := &model{modelOptions: o, items: map[string]*record{}, known: map[string]bool{}, chains: map[[2]string][]*record{}, lanes: map[string]*modelLane{}}
	if o.durable {
		var err error
		q.file, err = os.OpenFile(filepath.Join(dir, "model.jsonl"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		q.load(t)
	}
	return q
}

// load reads the file: the last line of each delivery counts.
func (q *model) load(t *testing.T) {
	q.mu.Lock() // times may have come
	defer q.mu.Unlock()
	lines := bufio.NewReader(q.file)
	all := map[string]*record{}
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			break
		}
		r := new(record)
		if err != nil || json.Unmarshal(line, r) != nil {
			t.Fatalf("the model's file: %v", err)
		}
		all[r.Delivery.ID] = r
	}
	records := make([]*record, 0, len(all))
	for _, r := range all {
		records = append(records, r)
	}
	slices.SortFunc(records, func(a, b *record) int { return cmp.Compare(a.Delivery.Seq, b.Delivery.Seq) })
	for _, r := range records {
		q.seq, q.parks = max(q.seq, r.Delivery.Seq), max(q.parks, r.ParkedAt)
		d := &r.Delivery
		q.known[d.ID] = true
		l := q.lane(d)
		l.counts.Accepted++
		switch {
		case r.Erased && d.State == "": // before it was settled
			l.counts.Erased++
		case d.State == callhook.StateDead:
			l.counts.Dead++
		case d.State == callhook.StateDelivered:
			l.counts.Delivered++
		default:
			l.counts.Pending++
		}
		if r.Erased || d.State == callhook.StateDelivered && !q.keeps {
			continue
		}
		q.items[d.ID] = r
		if d.State == callhook.StateDelivered || d.State == callhook.StateDead {
			continue
		}
		key := [2]string{d.Lane, d.Call}
		q.chains[key] = append(q.chains[key], r)
		switch {
		case !q.mayGo(r):
			r.blocked, d.State = true, callhook.StateWaiting
		case d.State == callhook.StateWaiting && !d.RetryAt.IsZero():
			q.wait(r)
		case d.State == callhook.StateParked || q.wary:
			q.park(r)
		default:
			q.enready(r)
		}
	}
}

// save writes what a delivery has become.
func (q *model) save(rs ...*record) {
	if q.file == nil {
		return
	}
	var lines []byte
	for _, r := range rs {
		if q.fault == "brings back" && r.Delivery.State == callhook.StateDelivered {
			continue
		}
		line, err := json.Marshal(r)
		if err != nil {
			panic(err)
		}
		lines = append(append(lines, line...), '\n')
	}
	if _, err := q.file.Write(lines); err != nil && q.fault == "" {
		panic(err)
	}
}

func (q *model) lane(d *callhook.Delivery) *modelLane {
	l := q.lanes[d.Lane]
	if l == nil {
		l = &modelLane{ref: callhook.LaneRef{Tenant: d.Tenant, Agent: d.Agent, Webhook: d.Webhook}}
		q.lanes[d.Lane] = l
	}
	return l
}

func (q *model) Limits() callhook.Limits {
	l := callhook.Limits{Ordered: true, Remember: time.Hour}
	if q.durable {
		l.Durable, l.Redeliver, l.MaxBody = true, time.Second, 1<<20
	}
	return l
}

func (q *model) Enqueue(ctx context.Context, ds ...*callhook.Delivery) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return callhook.ErrQueueClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var added []*record
	for _, d := range ds {
		if q.known[d.ID] {
			continue
		}
		q.known[d.ID] = true
		q.seq++
		r := &record{Delivery: clone(d)}
		r.Delivery.Seq, r.Delivery.State = q.seq, callhook.StateReady
		if q.fault == "loses" && q.seq%10 == 0 {
			continue
		}
		if q.fault == "loses the seal" {
			r.Delivery.Sealed = ""
		}
		if q.fault == "truncates" {
			r.Delivery.Body = r.Delivery.Body[:min(len(r.Delivery.Body), 64<<10)]
		}
		q.items[d.ID] = r
		l := q.lane(d)
		l.counts.Accepted++
		l.counts.Pending++
		key := [2]string{d.Lane, d.Call}
		q.chains[key] = append(q.chains[key], r)
		if added = append(added, r); q.mayGo(r) {
			q.readied(r)
			continue
		}
		r.blocked, r.Delivery.State = true, callhook.StateWaiting
	}
	q.save(added...)
	q.dispatch()
	return nil
}

// mayGo reports whether the order lets a delivery go.
func (q *model) mayGo(r *record) bool {
	if q.fault == "breaks order" {
		return true
	}
	for _, earlier := range q.chains[[2]string{r.Delivery.Lane, r.Delivery.Call}] {
		switch {
		case earlier == r:
			return true
		case r.Delivery.Ordered && q.fault != "breaks strict order", earlier.Delivery.Attempts == 0:
			return false
		}
	}
	return true
}

// readied takes what becomes ready by itself, new or due.
func (q *model) readied(r *record) {
	if l := q.lane(&r.Delivery); q.retains && len(l.parked) > 0 || q.fault == "keeps back" && l.turn > 0 {
		q.park(r)
		return
	}
	q.enready(r)
}

func (q *model) enready(r *record) {
	r.Delivery.State, r.Delivery.RetryAt = callhook.StateReady, time.Time{}
	q.ready = append(q.ready, r)
}

func (q *model) park(r *record) {
	r.Delivery.State, r.Delivery.RetryAt = callhook.StateParked, time.Time{}
	q.parks++
	r.ParkedAt = q.parks
	if q.fault != "loses parked" || q.parks%5 != 0 {
		l := q.lane(&r.Delivery)
		l.parked = append(l.parked, r)
	}
}

// wait makes a delivery ready at its time.
func (q *model) wait(r *record) {
	at := r.Delivery.RetryAt
	if q.fault == "early" {
		at = at.Add(-20 * time.Millisecond)
	}
	var timer *time.Timer
	timer = time.AfterFunc(time.Until(at), func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if r.timer != timer || q.closed {
			return
		}
		if r.timer = nil; time.Now().Before(at) {
			q.wait(r)
			return
		}
		q.readied(r)
		q.save(r)
		q.dispatch()
	})
	r.timer = timer
}

// dispatch starts a handler for all that is ready.
func (q *model) dispatch() {
	for q.handle != nil && len(q.ready) > 0 {
		r := q.ready[0]
		q.ready = q.ready[1:]
		if r.Delivery.State != callhook.StateReady {
			continue // erased
		}
		r.Delivery.State = callhook.StateInFlight
		if q.fault == "crash loses" {
			q.save(&record{Delivery: callhook.Delivery{ID: r.Delivery.ID, State: callhook.StateDelivered}})
		}
		d, handle := clone(&r.Delivery), q.handle
		q.wg.Go(func() { q.attempt(r, &d, handle) })
		if q.fault == "twice" && r.Delivery.Seq%10 == 0 {
			again := clone(&r.Delivery)
			q.wg.Go(func() { handle(context.Background(), &again).Done() })
		}
	}
}

func (q *model) attempt(r *record, d *callhook.Delivery, handle callhook.Handler) {
	v := handle(context.Background(), d)
	if q.fault == "done early" {
		v.Done()
		time.Sleep(100 * time.Microsecond)
	}
	q.mu.Lock()
	q.settle(r, d, v)
	q.save(r)
	q.dispatch()
	q.mu.Unlock()
	if q.fault != "done early" && (q.fault != "forgets done" || v.State != callhook.StateParked) {
		v.Done()
	}
}

func (q *model) settle(r *record, d *callhook.Delivery, v callhook.Verdict) {
	if r.Erased && q.fault != "unerases" {
		return
	}
	d.State, d.Body, d.Reason = r.Delivery.State, r.Delivery.Body, v.Reason
	if q.fault == "loses changes" {
		d.Log = r.Delivery.Log
	}
	r.Delivery = clone(d)
	d, l := &r.Delivery, q.lane(d)
	switch v.State {
	case callhook.StateDelivered, callhook.StateDead:
		d.State = v.State
		if q.fault == "forgets ids" {
			delete(q.known, d.ID)
		}
		l.counts.Pending--
		if v.State == callhook.StateDead {
			l.counts.Dead++
		} else if l.counts.Delivered++; !q.keeps {
			delete(q.items, d.ID)
		}
		q.unchain(r)
		return
	case callhook.StateParked:
		q.park(r)
	default:
		if q.fault == "miscounts" {
			l.counts.Pending++
		}
		d.State, d.RetryAt = callhook.StateWaiting, v.At
		q.wait(r)
	}
	q.advance(d)
}

func (q *model) unchain(r *record) {
	key := [2]string{r.Delivery.Lane, r.Delivery.Call}
	if q.chains[key] = slices.DeleteFunc(q.chains[key], func(o *record) bool { return o == r }); len(q.chains[key]) == 0 {
		delete(q.chains, key)
	}
	q.advance(&r.Delivery)
}

// advance lets go what waited for a call's earlier ones.
func (q *model) advance(d *callhook.Delivery) {
	for _, r := range q.chains[[2]string{d.Lane, d.Call}] {
		if r.blocked && q.mayGo(r) {
			r.blocked = false
			q.readied(r)
		}
	}
}

func (q *model) Consume(ctx context.Context, handle callhook.Handler) error {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return callhook.ErrQueueClosed
	}
	if q.consuming && q.fault != "two consume" {
		q.mu.Unlock()
		return errBusy
	}
	if ctx.Err() == nil {
		q.consuming, q.handle = true, handle
		q.dispatch()
	}
	q.mu.Unlock()
	<-ctx.Done()
	q.mu.Lock()
	if q.fault != "goes on" {
		q.handle = nil
	}
	q.mu.Unlock()
	if q.fault != "ends early" {
		q.wg.Wait()
	}
	q.mu.Lock()
	q.consuming = false
	q.mu.Unlock()
	return nil
}

func (q *model) Release(_ context.Context, lane string, n int) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return 0, callhook.ErrQueueClosed
	}
	freed := 0
	for name, l := range q.lanes {
		if name == lane || lane == "" || q.fault == "other lanes" && strings.HasPrefix(name, lane) {
			freed += q.release(name, l, n)
		}
	}
	q.dispatch()
	if q.fault == "wrong number" && n > 0 {
		freed = n
	}
	return freed, nil
}

func (q *model) release(name string, l *modelLane, n int) (freed int) {
	free := func(r *record) {
		q.enready(r)
		q.save(r)
		freed++
	}
	if n < 0 {
		for _, r := range l.parked {
			free(r)
		}
		l.parked = nil
		for _, r := range q.items {
			if r.Delivery.Lane == name && r.timer != nil && q.fault != "only parked" {
				r.timer.Stop()
				r.timer = nil
				free(r)
			}
		}
		return freed
	}
	for ; n > 0 && len(l.parked) > 0; n-- {
		l.turn++
		wantTried := l.turn%4 == 0 && q.fault != "starves"
		best := slices.MinFunc(l.parked, func(a, b *record) int {
			return cmp.Or(q.rank(a, wantTried)-q.rank(b, wantTried), q.before(a, b))
		})
		l.parked = slices.DeleteFunc(l.parked, func(r *record) bool { return r == best })
		free(best)
	}
	return freed
}

func (q *model) rank(r *record, wantTried bool) int {
	if (r.Delivery.Attempts > 0) == wantTried {
		return 0
	}
	return 1
}

// before is the order of those parked of one kind.
func (q *model) before(a, b *record) int {
	order := cmp.Compare(a.Delivery.Seq, b.Delivery.Seq)
	if a.Delivery.Attempts > 0 {
		order = cmp.Compare(a.ParkedAt, b.ParkedAt)
	}
	if q.fault == "backwards" {
		return -order
	}
	return order
}

func (q *model) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed = q.fault != "open for ever"; q.file != nil {
		_ = q.file.Close()
	}
	return nil
}

// clone copies a delivery so that whoever has it may do as they like.
func clone(d *callhook.Delivery) callhook.Delivery {
	c := *d
	c.Body, c.Record = slices.Clone(d.Body), slices.Clone(d.Record)
	c.Numbers, c.Log = slices.Clone(d.Numbers), slices.Clone(d.Log)
	if d.Values != nil {
		c.Values = map[string]string{}
		for k, v := range d.Values {
			c.Values[k] = v
		}
	}
	return c
}
