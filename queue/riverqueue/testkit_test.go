//go:build unix

package riverqueue_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/riverqueue"
)

// event returns a delivery of a call of its own, as a runtime raises it: random names,
// and a body of 2 KB.
func event(lane int) *callhook.Delivery {
	var b [32]byte
	_, _ = rand.Read(b[:])
	return delivery(fmt.Sprint("hook", lane), hex.EncodeToString(b[16:]), "msg_"+hex.EncodeToString(b[:13]))
}

var body = func() []byte {
	b := make([]byte, 1024)
	_, _ = rand.Read(b)
	return []byte(hex.EncodeToString(b))
}()

func delivery(webhook, call, id string) *callhook.Delivery {
	now := time.Now()
	return &callhook.Delivery{
		ID: id, Tenant: "acme", Agent: "bot", Webhook: webhook, Lane: "acme/bot/" + webhook,
		Type: callhook.TypePostCall, Event: callhook.EventEnded, Call: call, At: now, EnqueuedAt: now, Body: body,
	}
}

func enqueue(t testing.TB, q *riverqueue.Queue, ds ...*callhook.Delivery) {
	t.Helper()
	if err := q.Enqueue(context.Background(), ds...); err != nil {
		t.Fatal(err)
	}
}

// until waits for what has to happen.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(40 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it took longer than 40s until %s", what)
		}
	}
}

// consume begins to consume and returns what ends it.
func consume(t testing.TB, q *riverqueue.Queue, handle func(*callhook.Delivery) callhook.Verdict) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- q.Consume(ctx, func(_ context.Context, d *callhook.Delivery) callhook.Verdict { return handle(d) })
	}()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Consume: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// ledger notes what consumers were given, and that no delivery, and no lane, is with
// two of them at a time.
type ledger struct {
	t        testing.TB
	mu       sync.Mutex
	flying   map[string]int         // by delivery, which consumer has it
	lanes    map[string]map[int]int // by lane, how many each consumer has
	order    map[string][]string    // by call, as handed out
	by       map[int]int            // by consumer
	settled  map[string]int
	repeated int
}

func newLedger(t testing.TB) *ledger {
	return &ledger{t: t, flying: map[string]int{}, lanes: map[string]map[int]int{}, order: map[string][]string{}, by: map[int]int{}, settled: map[string]int{}}
}

func (l *ledger) handler(consumer int, work func()) func(*callhook.Delivery) callhook.Verdict {
	return func(d *callhook.Delivery) callhook.Verdict {
		l.mu.Lock()
		if other, ok := l.flying[d.ID]; ok {
			l.t.Errorf("consumer %d was given %s while %d had it", consumer, d.ID, other)
		}
		l.flying[d.ID] = consumer
		has := l.lanes[d.Lane]
		if has == nil {
			has = map[int]int{}
			l.lanes[d.Lane] = has
		}
		for other, n := range has {
			if other != consumer && n > 0 {
				l.t.Errorf("consumer %d was given %s of the lane %s while %d had %d of it", consumer, d.ID, d.Lane, other, n)
			}
		}
		has[consumer]++
		l.by[consumer]++
		l.order[d.Call] = append(l.order[d.Call], d.ID)
		l.mu.Unlock()
		work()
		d.Attempts++
		l.mu.Lock()
		delete(l.flying, d.ID)
		has[consumer]--
		l.mu.Unlock()
		return callhook.Delivered().Then(func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.settled[d.ID]++; l.settled[d.ID] > 1 {
				l.repeated++
			}
		})
	}
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.settled)
}

func (l *ledger) of(consumer int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.by[consumer]
}

// check checks that the deliveries of each call came in the order of their IDs.
func (l *ledger) check() {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for call, ids := range l.order {
		if !slices.IsSorted(ids) {
			l.t.Errorf("the deliveries of %s came in the order %v", call, ids)
		}
	}
}
