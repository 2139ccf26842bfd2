package callhooktest

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
)

// Key is a signing key for tests, for [Secrets] and [Endpoint].Keys.
const Key = "whsec_Y2FsbGhvb2stdGVzdHMtc2lnbi13aXRoLXRoaXM="

// Secrets are the secrets of a test, by name.
//
//	callhook.Options{Secrets: callhooktest.Secrets{"N8N_SECRET": callhooktest.Key}.Resolve}
type Secrets map[string]string

// Resolve is a [callhook.SecretFunc]. Whoever asks, it answers with the secret of
// that name, and with [callhook.ErrNoSecret] when there is none.
func (s Secrets) Resolve(_ context.Context, ref callhook.SecretRef) (string, error) {
	if v, ok := s[ref.Name]; ok {
		return v, nil
	}
	return "", fmt.Errorf("%w: the test's Secrets have no %s", callhook.ErrNoSecret, ref.Name)
}

// Config returns the config that a text of JSON is. The test fails if it is not valid.
func Config(t testing.TB, text string) *callhook.Config {
	t.Helper()
	c, err := callhook.ParseConfig([]byte(text))
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Hooks are [callhook.Hooks] that a test runs, with what became of their deliveries.
type Hooks struct {
	*callhook.Hooks
	// Queue is the queue that they have.
	Queue callhook.Queue

	stop func()

	mu        sync.Mutex
	delivered []*callhook.Delivery
	dead      []*callhook.Delivery
	changed   chan struct{}
}

// NewHooks makes Hooks and runs them, until the test ends or End is called. Beside
// what o says they trust [RootCAs] and reach the endpoints of the network, and
// nothing else; without a network they reach loopback. Without a logger of its own the
// test's output has their warnings. A queue that o brings is the test's to close.
func NewHooks(t testing.TB, o callhook.Options, network Network) *Hooks {
	t.Helper()
	if o.RootCAs == nil {
		o.RootCAs = RootCAs()
	}
	switch {
	case o.Dial != nil:
	case network != nil:
		o.Dial = network.Dial
	default:
		o.AllowNets = append(slices.Clone(o.AllowNets), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
	}
	if o.Queue == nil {
		q := callhook.NewMemoryQueue(nil)
		o.Queue = q
		t.Cleanup(func() { _ = q.Close() })
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	h := &Hooks{Queue: o.Queue, changed: make(chan struct{})}
	for _, e := range network {
		e.sentBy(h)
	}
	o.Trace = h.watch(o.Trace)
	var err error
	if h.Hooks, err = callhook.New(o); err != nil {
		t.Fatalf("callhook.New: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Hooks.Run: %v", err)
		}
		if err := h.Hooks.Close(); err != nil {
			t.Errorf("Hooks.Close: %v", err)
		}
	})
	t.Cleanup(h.stop)
	return h
}

// End ends them as a runtime does that shuts down: attempts under way are finished,
// what is pending stays in the queue. It returns when that is done, and may be called
// again.
func (h *Hooks) End() { h.stop() }

// watch returns a trace that notes what became of deliveries and tells t too.
func (h *Hooks) watch(t *callhook.Trace) *callhook.Trace {
	var w callhook.Trace
	if t != nil {
		w = *t
	}
	delivered, dead := w.Delivered, w.Dead
	w.Delivered = func(ctx context.Context, d *callhook.Delivery) {
		h.note(&h.delivered, d, "")
		if delivered != nil {
			delivered(ctx, d)
		}
	}
	w.Dead = func(ctx context.Context, d *callhook.Delivery, reason callhook.Reason) {
		h.note(&h.dead, d, reason)
		if dead != nil {
			dead(ctx, d, reason)
		}
	}
	return &w
}

func (h *Hooks) note(to *[]*callhook.Delivery, d *callhook.Delivery, reason callhook.Reason) {
	c := *d
	c.Log = slices.Clone(d.Log)
	if c.State = callhook.StateDelivered; reason != "" {
		c.State, c.Reason = callhook.StateDead, reason
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	*to = append(*to, &c)
	close(h.changed)
	h.changed = make(chan struct{})
}

// Delivered waits until n deliveries have arrived in all, and returns them: sealed, where
// they are, see [callhook.Hooks.Unseal]. The test
// fails when they do not in time, or when there are more. It waits as long as
// [Endpoint.Received].
func (h *Hooks) Delivered(t testing.TB, n int) []*callhook.Delivery {
	t.Helper()
	return h.await(t, &h.delivered, n, "delivered")
}

// Dead waits until n deliveries were given up in all, and returns them, with the
// Reason of each. The test fails when they are not in time, or when there are more. It
// waits as long as [Endpoint.Received].
func (h *Hooks) Dead(t testing.TB, n int) []*callhook.Delivery {
	t.Helper()
	return h.await(t, &h.dead, n, "given up")
}

func (h *Hooks) await(t testing.TB, of *[]*callhook.Delivery, n int, verb string) []*callhook.Delivery {
	t.Helper()
	var got []*callhook.Delivery
	waited := await(func() (bool, <-chan struct{}) {
		h.mu.Lock()
		defer h.mu.Unlock()
		got = slices.Clone(*of)
		return len(got) >= n, h.changed
	})
	h.settle()
	if len(got) != n {
		t.Fatalf("deliveries that were %s: %d, want %d%s%s", verb, len(got), n, waited, h.show())
	}
	return got
}

// settle waits until the queue has stored what was noted, which is told before.
func (h *Hooks) settle() {
	in, ok := h.Queue.(callhook.Inspector)
	if !ok {
		return
	}
	h.mu.Lock()
	told := int64(len(h.delivered) + len(h.dead))
	h.mu.Unlock()
	for end := time.Now().Add(realTime); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if c, err := in.Counts(context.Background()); err != nil || c.Delivered+c.Dead >= told {
			return
		}
	}
}

// Inspector returns the queue as one that can be looked into. The test fails if it is
// none.
func (h *Hooks) Inspector(t testing.TB) callhook.Inspector {
	t.Helper()
	in, ok := h.Queue.(callhook.Inspector)
	if !ok {
		t.Fatalf("%T is no callhook.Inspector: it cannot be looked into", h.Queue)
	}
	return in
}

// show lists what became of deliveries, and what keeps others and events that made none.
func (h *Hooks) show() string {
	lines := h.waiting()
	h.mu.Lock()
	defer h.mu.Unlock()
	line := func(what string, d *callhook.Delivery) {
		s := fmt.Sprintf("%s %s: %s of %s to %s", what, d.ID, d.Event, d.Call, d.Webhook)
		if n := len(d.Log); n > 0 {
			s += fmt.Sprintf(", %s, the last: status %d, %s", count(n, "attempt"), d.Log[n-1].Status, d.Log[n-1].Error)
		}
		lines = append(lines, s)
	}
	for _, d := range h.delivered {
		line("delivered", d)
	}
	for _, d := range h.dead {
		line("dead ("+string(d.Reason)+")", d)
	}
	return list(lines)
}

// waiting says why something has not come about yet.
func (h *Hooks) waiting() (lines []string) {
	skipped := h.Stats().Skipped
	for _, reason := range slices.Sorted(maps.Keys(skipped)) {
		lines = append(lines, fmt.Sprintf("%s made no delivery: %s; do the call's tenant_id and agent_id have a config, with a webhook that wants the event?",
			count(int(skipped[reason]), "event"), reason))
	}
	for _, l := range h.Lanes() {
		if l.Trouble != "" {
			lines = append(lines, fmt.Sprintf("the webhook %s waits: %s", l.Webhook, l.Trouble))
		}
	}
	in, ok := h.Queue.(callhook.Inspector)
	if !ok {
		return lines
	}
	page, _ := in.List(context.Background(), callhook.Filter{Limit: 20})
	for _, d := range page {
		if d.State == callhook.StateDead || d.State == callhook.StateDelivered {
			continue
		}
		line := fmt.Sprintf("pending (%s) %s: %s of %s to %s", d.State, d.ID, d.Event, d.Call, d.Webhook)
		if whole, err := in.Get(context.Background(), d.ID); err == nil && len(whole.Log) > 0 {
			line += ": " + whole.Log[len(whole.Log)-1].Error
		}
		lines = append(lines, line)
	}
	return lines
}
