package callhook_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
)

// watch is a Trace that remembers what it was told.
type watch struct {
	mu        sync.Mutex
	attempts  []attempt
	delivered []callhook.Delivery
	dead      []callhook.Delivery
	reasons   []callhook.Reason
}

// attempt is one that was made, and of which call.
type attempt struct {
	callhook.Attempt
	ID, Call, Webhook string
}

func (w *watch) trace() *callhook.Trace {
	return &callhook.Trace{
		AttemptDone: func(_ context.Context, d *callhook.Delivery, a callhook.Attempt, v callhook.Verdict) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.attempts = append(w.attempts, attempt{a, d.ID, d.Call, d.Webhook})
		},
		Delivered: func(_ context.Context, d *callhook.Delivery) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.delivered = append(w.delivered, *d)
		},
		Dead: func(_ context.Context, d *callhook.Delivery, reason callhook.Reason) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.dead, w.reasons = append(w.dead, *d), append(w.reasons, reason)
		},
	}
}

// tries returns the attempts so far.
func (w *watch) tries() []attempt {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]attempt(nil), w.attempts...)
}

// settled returns the delivery that was delivered or died, and as what; nil when
// there is none yet.
func (w *watch) settled() (*callhook.Delivery, callhook.State, callhook.Reason) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case len(w.delivered) > 0:
		d := w.delivered[0]
		return &d, callhook.StateDelivered, ""
	case len(w.dead) > 0:
		d := w.dead[0]
		return &d, callhook.StateDead, w.reasons[0]
	}
	return nil, "", ""
}

// pauses returns the times between the starts of attempts.
func pauses(tries []attempt) (out []time.Duration) {
	for i := 1; i < len(tries); i++ {
		out = append(out, tries[i].At.Sub(tries[i-1].At))
	}
	return out
}

// hook returns the config of agent "a" with one post-call webhook "w" at url;
// more is further JSON of the webhook.
func hook(t testing.TB, url, more string) *callhook.Config {
	t.Helper()
	if more != "" {
		more = ", " + more
	}
	return parse(t, fmt.Sprintf(`{"agent_id": "a", "post_call": [{"name": "w", "url": %q%s}]}`, url, more))
}

// ended returns a call of agent "a" that has ended now.
func ended(id string) *callhook.Call {
	return &callhook.Call{ID: id, AgentID: "a", EndedAt: time.Now()}
}

// raise calls PostCall and fails the test if that fails.
func raise(t testing.TB, h *callhook.Hooks, calls ...*callhook.Call) {
	t.Helper()
	for _, call := range calls {
		if err := h.PostCall(t.Context(), call); err != nil {
			t.Fatalf("PostCall of %s: %v", call.ID, err)
		}
	}
}

// stall answers with a status and the beginning of a body that never ends.
func stall(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		fmt.Fprint(w, body)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
}

// silent never answers.
func silent(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // only then does the server see the connection end
	<-r.Context().Done()
}

// cutOff closes the connection instead of answering.
func cutOff(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		conn.Close()
	}
}

// afterAttempt is an AttemptDone that calls the trace's own and closes done.
func afterAttempt(trace *callhook.Trace, done chan struct{}) func(context.Context, *callhook.Delivery, callhook.Attempt, callhook.Verdict) {
	own, once := trace.AttemptDone, sync.OnceFunc(func() { close(done) })
	return func(ctx context.Context, d *callhook.Delivery, a callhook.Attempt, v callhook.Verdict) {
		own(ctx, d, a, v)
		once()
	}
}

// start runs hooks outside a bubble until stop is called.
func start(t testing.TB, o callhook.Options) (h *callhook.Hooks, stop func()) {
	t.Helper()
	h, err := callhook.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	return h, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := h.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

// list returns what the hooks' queue holds.
func list(t testing.TB, q callhook.Queue, f callhook.Filter) []*callhook.Delivery {
	t.Helper()
	in := q.(callhook.Inspector)
	ds, err := in.List(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range ds { // whole, unless it was settled meanwhile
		if d, err := in.Get(t.Context(), d.ID); err == nil {
			ds[i] = d
		}
	}
	return ds
}

// vault holds secrets by name.
type vault struct {
	mu     sync.Mutex
	values map[string]string
	asked  []callhook.SecretRef
}

func newVault(values map[string]string) *vault { return &vault{values: maps.Clone(values)} }

func (v *vault) set(name, value string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.values[name] = value
}

func (v *vault) resolve(_ context.Context, ref callhook.SecretRef) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked = append(v.asked, ref)
	if s, ok := v.values[ref.Name]; ok {
		return s, nil
	}
	return "", fmt.Errorf("%w: %s", callhook.ErrNoSecret, ref.Name)
}

// secretsOf resolves names from a map.
func secretsOf(m map[string]string) callhook.SecretFunc { return newVault(m).resolve }

// names returns the numbered names prefix0, prefix1, …
func names(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s%d", prefix, i)
	}
	return out
}

// oneOf reports whether s contains any of the texts, and which.
func oneOf(s string, texts ...string) (string, bool) {
	for _, text := range texts {
		if text != "" && strings.Contains(s, text) {
			return text, true
		}
	}
	return "", false
}

func mustJSON(t testing.TB, data []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
}
