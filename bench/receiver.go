package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// receiver is the one server that everybody posts to. Each measurement has a target
// of its own on it, so that a request that comes late harms no other. It listens on
// two ports: endpoints on the second are dead, they take requests and do not answer.
type receiver struct {
	server     *http.Server
	live, dead net.Listener
	bodies     sync.Pool

	mu      sync.RWMutex
	targets map[string]*target
	last    int
}

func newReceiver() (*receiver, error) {
	r := &receiver{targets: map[string]*target{}}
	r.bodies.New = func() any { return bytes.NewBuffer(make([]byte, 0, 4<<10)) }
	var err error
	if r.live, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	if r.dead, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	r.server = &http.Server{Handler: r}
	go func() { _ = r.server.Serve(r.live) }()
	go func() { _ = r.server.Serve(r.dead) }()
	return r, nil
}

func (r *receiver) close() { _ = r.server.Close() }

// target opens a target with this many endpoints, of which the first ones are dead.
func (r *receiver) target(k kind, endpoints, dead int) *target {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	name := strconv.Itoa(r.last)
	t := &target{verify: k.verify, revive: make(chan struct{}), wake: make(chan struct{}), by: map[string]int{}}
	for i := range endpoints {
		l := r.live
		if i < dead {
			l = r.dead
		}
		t.urls = append(t.urls, fmt.Sprintf("http://%s/%s/%d", l.Addr(), name, i))
	}
	t.deadPort = r.dead.Addr().String()
	t.close = func() {
		r.mu.Lock()
		delete(r.targets, name)
		r.mu.Unlock()
		t.reviveDead()
	}
	r.targets[name] = t
	return t
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	name, _, _ := strings.Cut(req.URL.Path[1:], "/")
	r.mu.RLock()
	t := r.targets[name]
	r.mu.RUnlock()
	buf := r.bodies.Get().(*bytes.Buffer)
	defer r.bodies.Put(buf)
	buf.Reset()
	if _, err := io.Copy(buf, req.Body); err != nil || t == nil {
		return
	}
	t.receive(req, buf.Bytes())
}

// target is what one peer posts to in one measurement, and the ledger of what came.
type target struct {
	urls     []string
	deadPort string
	close    func()
	verify   func(*http.Request, []byte) error
	delay    time.Duration // before an answer; set before there are requests
	revive   chan struct{}
	revived  sync.Once
	busy     atomic.Int64 // requests that wait for their answer

	mu      sync.Mutex
	at      []time.Time // when each event first arrived, by its number
	count   int
	fault   error
	checked bool
	wake    chan struct{} // closed and made anew when count grows to want
	want    int
	held    chan struct{}  // not nil: answers wait until it is closed
	doom    bool           // requests that wait are never answered, and do not count
	doomed  []int          // which those were
	cut     []int          // events whose requests ended before they were answered
	repeats int            // answers to what had arrived before
	by      map[string]int // how many events first arrived from each process, where URLs name it
}

func (t *target) receive(req *http.Request, body []byte) {
	t.busy.Add(1)
	defer t.busy.Add(-1)
	id := idOf(body)
	if req.Host == t.deadPort {
		select {
		case <-t.revive:
		case <-req.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	t.mu.Lock()
	if !t.checked {
		t.checked = true
		t.check(req, body, id)
	}
	held, doom := t.held, t.doom
	if doom {
		t.doomed = append(t.doomed, id)
	}
	t.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-req.Context().Done():
		}
		if doom {
			panic(http.ErrAbortHandler)
		}
	}
	if t.delay > 0 {
		select {
		case <-time.After(t.delay):
		case <-req.Context().Done():
		}
	}
	if req.Context().Err() != nil {
		t.mu.Lock()
		t.cut = append(t.cut, id)
		t.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if id < 0 {
		return
	}
	for len(t.at) <= id {
		t.at = append(t.at, make([]time.Time, max(1024, len(t.at)))...)
	}
	if !t.at[id].IsZero() {
		t.repeats++ // that is allowed
		return
	}
	t.at[id] = now
	if from := req.URL.RawQuery; from != "" {
		t.by[from]++
	}
	if t.count++; t.count == t.want {
		close(t.wake)
	}
}

// check looks at the first request, so that nobody is fast by sending less.
func (t *target) check(req *http.Request, body []byte, id int) {
	if err := t.verify(req, body); err != nil {
		t.fault = fmt.Errorf("the request is not signed: %w", err)
	}
	if id < 0 || len(body) < bodySize-32 || len(body) > bodySize+32 {
		t.fault = fmt.Errorf("the body is not the one that was raised (%d bytes)", len(body))
	}
}

var errLate = errors.New("not all events arrived in time")

// wait returns when n events have arrived.
func (t *target) wait(ctx context.Context, n int, limit time.Duration) error {
	t.mu.Lock()
	wake := make(chan struct{})
	t.wake, t.want = wake, n
	if t.count >= n {
		close(wake)
		t.want = 0
	}
	t.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-wake:
		return t.err()
	case <-timer.C:
		return fmt.Errorf("%w: %d of %d", errLate, t.arrived(), n)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *target) err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.fault
}

func (t *target) arrived() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count
}

// arrival is when an event first arrived; zero when it has not.
func (t *target) arrival(id int) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if id >= len(t.at) {
		return time.Time{}
	}
	return t.at[id]
}

// first is when the first event of all arrived.
func (t *target) first() (first time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, at := range t.at {
		if !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

// hold keeps answers back until the function that it returns is called. With doom
// what is kept back is never answered and does not count as arrived.
func (t *target) hold(doom bool) (release func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	held := make(chan struct{})
	t.held, t.doom = held, doom
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.held, t.doom = nil, false
		close(held)
	}
}

// doomedIDs are the events whose requests were never answered.
func (t *target) doomedIDs() []int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]int(nil), t.doomed...)
}

// cutIDs are the events whose requests ended before they were answered.
func (t *target) cutIDs() []int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]int(nil), t.cut...)
}

// repeated is how many requests were answered though their events had arrived before.
func (t *target) repeated() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.repeats
}

// recount forgets who has sent what so far.
func (t *target) recount() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.by)
}

// senders are how many events first arrived from each process that sent any.
func (t *target) senders() []int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Values(t.by))
}

// reviveDead makes dead endpoints answer, so that a peer can be stopped.
func (t *target) reviveDead() { t.revived.Do(func() { close(t.revive) }) }

// inFlight waits until n requests wait for their answer.
func (t *target) inFlight(ctx context.Context, n int, limit time.Duration) error {
	return poll(ctx, limit, func() bool { return t.busy.Load() >= int64(n) },
		func() error { return fmt.Errorf("only %d of %d requests were in flight", t.busy.Load(), n) })
}

// poll waits until ok, looking each millisecond.
func poll(ctx context.Context, limit time.Duration, ok func() bool, late func() error) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(end) {
			return late()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
