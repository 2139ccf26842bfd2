package callhooktest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
)

// How long the suite waits for what has to happen, which is only ever reached by
// an engine that is wrong, for what must not happen, and for an engine to notice
// that a context has ended.
var (
	patience = 20 * time.Second
	glance   = 30 * time.Millisecond
	notice   = 200 * time.Millisecond
)

// trial is one queue on trial: what a subtest does with it.
type trial struct {
	*testing.T
	open   func(t *testing.T, dir string) callhook.Queue
	dir    string
	q      callhook.Queue
	limits callhook.Limits
	note   *ledger
	runs   []*run
	// patience is how long to wait for what has to happen.
	patience time.Duration
}

func newTrial(t *testing.T, open func(*testing.T, string) callhook.Queue, dir string, note *ledger) *trial {
	tr := &trial{T: t, open: open, dir: dir, q: open(t, dir), note: note, patience: patience}
	tr.limits = tr.q.Limits()
	note.limits = tr.limits
	t.Cleanup(func() {
		for _, r := range tr.runs {
			r.abandon()
		}
		_ = tr.q.Close()
	})
	return tr
}

// end ends what the subtest left running, and looks at it once more.
func (tr *trial) end() {
	tr.Helper()
	for _, r := range tr.runs {
		r.stop()
	}
	if err := tr.q.Close(); err != nil {
		tr.Errorf("Close: %v", err)
	}
}

// restart closes the queue and opens it again.
func (tr *trial) restart() {
	tr.Helper()
	for _, r := range tr.runs {
		r.stop()
	}
	if err := tr.q.Close(); err != nil {
		tr.Fatalf("Close: %v", err)
	}
	tr.runs, tr.q = nil, tr.open(tr.T, tr.dir)
}

// crash returns the queue as it is found when its process has died now: it opens a
// copy of the folder. The first lives on, and knows nothing of it.
func (tr *trial) crash() *trial {
	tr.Helper()
	dir := tr.TempDir()
	deadline := time.Now().Add(patience)
	for before := ""; ; {
		time.Sleep(2 * glance) // whatever it still writes by itself
		now, err := copyFolder(tr.dir, dir)
		if err == nil && now == before {
			break
		}
		if before = now; time.Now().After(deadline) {
			tr.Fatalf("the queue's folder could not be copied while nothing happens: it changes all the time (%v)", err)
		}
	}
	after := newTrial(tr.T, tr.open, dir, tr.note.copy())
	after.patience += tr.limits.Redeliver
	return after
}

// copyFolder copies all files and returns what tells whether one has changed.
func copyFolder(from, to string) (string, error) {
	var seen strings.Builder
	if err := os.RemoveAll(to); err != nil {
		return "", err
	}
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if e.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		if !e.Type().IsRegular() {
			return nil // a socket or the like: it does not survive a crash
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(&seen, rel, info.Size(), info.ModTime().UnixNano())
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, content, 0o600)
	})
	return seen.String(), err
}

// delivery returns a delivery of a call to a webhook; the lane is the webhook's.
func delivery(webhook, call, id string) *callhook.Delivery {
	now := time.Now()
	return &callhook.Delivery{
		ID: id, Tenant: "acme", Agent: "bot", Webhook: webhook, Lane: lane(webhook),
		Type: callhook.TypePostCall, Event: callhook.EventEnded, Call: call, At: now, EnqueuedAt: now,
		Body: []byte(`{"id":"` + id + `"}`),
	}
}

// farAway is a time that no subtest lives to see.
func farAway() time.Time { return time.Now().Add(time.Hour) }

func lane(webhook string) string { return "acme/bot/" + webhook }

// deliveries returns n deliveries to a webhook, each of a call of its own. Their
// IDs are the prefix and a number from 0.
func deliveries(webhook, prefix string, n int) []*callhook.Delivery {
	ds := make([]*callhook.Delivery, n)
	for i := range ds {
		id := fmt.Sprint(prefix, i)
		ds[i] = delivery(webhook, "call_"+id, id)
	}
	return ds
}

// events returns deliveries of one call to a webhook, in this order.
func events(webhook, call string, ids ...string) []*callhook.Delivery {
	ds := make([]*callhook.Delivery, len(ids))
	for i, id := range ids {
		ds[i] = delivery(webhook, call, id)
	}
	return ds
}

// ordered makes deliveries strictly ordered.
func ordered(ds []*callhook.Delivery) []*callhook.Delivery {
	for _, d := range ds {
		d.Ordered = true
	}
	return ds
}

func (tr *trial) enqueue(ds ...*callhook.Delivery) {
	tr.Helper()
	tr.note.raised(ds...)
	if err := tr.q.Enqueue(tr.Context(), ds...); err != nil {
		tr.Fatalf("Enqueue of %d: %v", len(ds), err)
	}
}

func (tr *trial) release(lane string, n int) int {
	tr.Helper()
	freed, err := tr.q.Release(tr.Context(), lane, n)
	if err != nil {
		tr.Fatalf("Release(%q, %d): %v", lane, n, err)
	}
	return freed
}

// releases checks how many a Release makes ready.
func (tr *trial) releases(lane string, n, want int) {
	tr.Helper()
	if freed := tr.release(lane, n); freed != want {
		tr.Errorf("Release(%q, %d) returned %d, want %d: it returns how many it made ready", lane, n, freed, want)
	}
}

// until waits for something that has to happen.
func (tr *trial) until(what string, holds func() bool) {
	tr.Helper()
	for deadline := time.Now().Add(tr.patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			tr.Fatalf("it took longer than %s until %s", tr.patience, what)
		}
	}
}

// run is a Consume under way.
type run struct {
	tr      *trial
	handler func(context.Context, *callhook.Delivery) callhook.Verdict
	handed  chan *visit // what the test has not looked at yet, unless there is a handler
	letGo   chan struct{}
	free    sync.Once // closes letGo
	cancel  context.CancelFunc
	ended   chan error
	over    bool // seen to have ended

	returned       atomic.Bool // Consume has
	verdicts, done atomic.Int64
}

// visit is a delivery in its handler, which waits for the test to answer.
type visit struct {
	*callhook.Delivery
	ctx     context.Context
	run     *run
	verdict chan callhook.Verdict
	done    chan struct{}
}

// consume hands deliveries to handle.
func (tr *trial) consume(handle func(d *callhook.Delivery) callhook.Verdict) *run {
	return tr.start(func(_ context.Context, d *callhook.Delivery) callhook.Verdict { return handle(d) })
}

// byHand hands deliveries to the test, which sees them one by one by [run.next] and
// answers each of them.
func (tr *trial) byHand() *run { return tr.start(nil) }

func (tr *trial) start(handler func(context.Context, *callhook.Delivery) callhook.Verdict) *run {
	ctx, cancel := context.WithCancel(tr.Context())
	r := &run{
		tr: tr, handler: handler, cancel: cancel,
		handed: make(chan *visit, 20_000), letGo: make(chan struct{}), ended: make(chan error, 1),
	}
	if handler == nil {
		r.handler = r.ask
	}
	tr.runs = append(tr.runs, r)
	go func() {
		err := tr.q.Consume(ctx, r.handle)
		r.returned.Store(true)
		r.ended <- err
	}()
	return r
}

// handle is the Handler that the queue gets: it watches what holds of every one.
func (r *run) handle(ctx context.Context, d *callhook.Delivery) callhook.Verdict {
	id := d.ID
	if r.returned.Load() {
		r.tr.Errorf("%s was handed out after Consume had returned", id)
	}
	if err := r.tr.note.enter(d); err != nil {
		r.tr.Error(err)
	}
	v := r.handler(ctx, d)
	if r.returned.Load() {
		r.tr.Errorf("Consume returned while %s was in its handler: it waits for those in flight", id)
	}
	r.tr.note.leave(id, d, v)
	r.verdicts.Add(1)
	var times atomic.Int64
	return v.Then(func() {
		if n := times.Add(1); n > 1 {
			r.tr.Errorf("the Done of a verdict of %s (%s) was called %d times, want once", id, v.State, n)
			return
		}
		r.done.Add(1)
		v.Done()
	})
}

func (r *run) ask(ctx context.Context, d *callhook.Delivery) callhook.Verdict {
	v := &visit{d, ctx, r, make(chan callhook.Verdict, 1), make(chan struct{})}
	r.handed <- v
	select {
	case verdict := <-v.verdict:
		return verdict.Then(func() { verdict.Done(); close(v.done) })
	case <-r.letGo:
		return callhook.Park()
	}
}

// next returns what is handed out next, which is one of these.
func (r *run) next(ids ...string) *visit {
	r.tr.Helper()
	select {
	case v := <-r.handed:
		for _, id := range ids {
			if v.ID == id {
				return v
			}
		}
		r.tr.Fatalf("%s was handed out, want one of %v now", v.ID, ids)
	case <-time.After(r.tr.patience):
		r.tr.Fatalf("nothing was handed out for %s, want one of %v", r.tr.patience, ids)
	}
	return nil
}

// take returns the next n that are handed out, by ID.
func (r *run) take(n int) map[string]*visit {
	r.tr.Helper()
	all := map[string]*visit{}
	timeout := time.After(r.tr.patience)
	for len(all) < n {
		select {
		case v := <-r.handed:
			all[v.ID] = v
		case <-timeout:
			r.tr.Fatalf("%d of %d were handed out within %s", len(all), n, r.tr.patience)
		}
	}
	return all
}

// soon returns what is handed out within a glance, or nil.
func (r *run) soon() *visit {
	select {
	case v := <-r.handed:
		return v
	case <-time.After(glance):
		return nil
	}
}

// quiet checks that nothing is handed out.
func (r *run) quiet(why string) {
	r.tr.Helper()
	if v := r.soon(); v != nil {
		r.tr.Fatalf("%s was handed out: %s", v.ID, why)
	}
}

// answer gives the verdict, and returns when it was carried out.
func (v *visit) answer(verdict callhook.Verdict) {
	v.run.tr.Helper()
	v.verdict <- verdict
	v.carriedOut()
}

func (v *visit) carriedOut() {
	v.run.tr.Helper()
	select {
	case <-v.done:
	case <-time.After(patience):
		v.run.tr.Fatalf("the Done of a verdict of %s was not called for %s", v.ID, patience)
	}
}

// attempt counts an attempt and answers.
func (v *visit) attempt(verdict callhook.Verdict) {
	v.run.tr.Helper()
	v.Attempts++
	v.answer(verdict)
}

// stop ends Consume and waits for it.
func (r *run) stop() {
	r.tr.Helper()
	r.cancel()
	r.wait()
}

// wait waits for a Consume that is about to end.
func (r *run) wait() {
	r.tr.Helper()
	if r.over {
		return
	}
	select {
	case v := <-r.handed:
		r.tr.Errorf("%s was handed out, which nobody expected", v.ID)
		r.free.Do(func() { close(r.letGo) })
	default:
	}
	select {
	case err := <-r.ended:
		r.over = true
		if err != nil {
			r.tr.Errorf("Consume returned %v, want nil: its ctx has ended", err)
		}
	case <-time.After(r.tr.patience):
		r.tr.Fatalf("Consume did not return within %s after its ctx had ended", r.tr.patience)
	}
	if v, d := r.verdicts.Load(), r.done.Load(); v != d {
		r.tr.Errorf("Consume returned when %d verdicts had been given and the Done of %d called: it carries out every verdict first", v, d)
	}
}

// abandon ends Consume after a failure.
func (r *run) abandon() {
	r.cancel()
	r.free.Do(func() { close(r.letGo) })
	if r.over {
		return
	}
	select {
	case <-r.ended:
	case <-time.After(r.tr.patience):
	}
	r.over = true
}

// wantErr checks that an error is what the contract says, by errors.Is.
func (tr *trial) wantErr(what string, err, want error) {
	tr.Helper()
	if !errors.Is(err, want) {
		tr.Errorf("%s: the error is %v, want one that is %q", what, err, want)
	}
}
