package callhook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/callhook-go/callhook/internal/egress"
	"github.com/callhook-go/callhook/internal/template"
)

// question is what a lookup asks, built from the call: it can be asked when the call
// is over.
type question struct {
	webhook *preCall
	id      string
	body    []byte
	values  map[string]string // of placeholders in the URL and headers
	key     string            // of those that get the same reply; empty where none may share it
	numbers []string          // the call's, to be forgotten by
	call    string            // its id
	secrets map[string]string // and its own, of which the webhook speaks
}

func (q *question) text(e *template.Expr) (string, error) { return q.values[e.Text], nil }

// question builds what is asked about the call.
func (p *preCall) question(a *agent, call *Call) (*question, error) {
	r := a.render(call, p.ref.Webhook, EventInbound, call.StartedAt, "inbound")
	r.bound(maxLookupWork)
	q := &question{webhook: p, id: r.event.ID, numbers: call.numbers(), call: call.ID, secrets: p.givenBy(call)}
	var err error
	if q.body, err = p.body(r); err != nil {
		return nil, err
	}
	err = p.placeholders(func(e *template.Expr) (err error) {
		if q.values == nil {
			q.values = map[string]string{}
		}
		q.values[e.Text], err = r.text(e)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case Withheld(call.customer()):
	case len(p.cacheKey) == 0:
		q.key = string(cmp.Or(call.Direction, Inbound)) + "\x00" + call.From + "\x00" + call.To
	default:
		if q.key, err = render(p.cacheKey, r.text, nil); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// customer returns the number at the other end.
func (c *Call) customer() string {
	if c.Direction == Outbound {
		return c.To
	}
	return c.From
}

// lookups is what PreCall has going: who asks the same shares a request, replies are
// kept, and endpoints that do not answer are spared.
type lookups struct {
	h     *Hooks
	cache cache
	stop  context.Context // ended by Close
	end   context.CancelFunc

	mu      sync.Mutex
	flights map[lookupKey]*flight
	lanes   map[*preCall]*lookupLane
	swept   time.Time // when lanes were forgotten last
	late    shares    // callers that wait for a late answer
	shares  shares    // requests under way of each tenant
}

// lookupLane is what lookups of one webhook have in common.
type lookupLane struct {
	breaker
	used   time.Time // last
	hedges float64   // that may be made now
}

const (
	maxLate     = 256 // callers that wait for late answers at once; of one tenant three quarters
	maxHedges   = 10  // saved up
	hedgeShare  = 0.1 // of lookups, unless told
	maxLateTime = time.Minute
	// laneMemory is how long a lane is remembered that is not used, which is far
	// longer than its breaker's pauses.
	laneMemory = 10 * time.Minute
)

// flight is a request under way, and who waits for it.
type flight struct {
	asked    *question
	lane     *lookupLane
	pass     int // of its breaker
	start    time.Time
	epoch    int
	cancel   context.CancelFunc
	refresh  bool // it goes on without anybody
	attempts atomic.Int32
	hedges   atomic.Int32
	status   atomic.Int32 // of the last answer; zero for none
	done     chan struct{}

	// The rest is guarded by lookups.mu, and fixed when done.
	waiting int
	judged  bool // the lane knows what became of it
	late    []func(*flight)
	found
}

// found is how a request ended.
type found struct {
	answer reading
	err    error
	status int
	timing egress.Timing
	body   time.Duration
}

// usable reports whether nothing better is to be expected.
func (f *found) usable() bool { return f.err == nil || errors.Is(f.err, ErrNotUnique) }

// lane returns the lane of a webhook as one config has it.
func (ls *lookups) lane(p *preCall, now time.Time) *lookupLane {
	l := ls.lanes[p]
	if l == nil {
		if now.Sub(ls.swept) > laneMemory { // also those of configs that are not in production any more
			maps.DeleteFunc(ls.lanes, func(_ *preCall, l *lookupLane) bool { return now.Sub(l.used) > laneMemory && l.idle() })
			ls.swept = now
		}
		l = &lookupLane{hedges: 1}
		ls.lanes[p] = l
	}
	l.used = now
	return l
}

// join returns the request for q that is under way, or begins one. Its error is
// errOpen when the endpoint is to be spared, and ErrQuota when the tenant has enough
// under way. alone: it is for nobody who waits. A request that goes on for late answers
// only is not joined.
func (ls *lookups) join(ctx context.Context, q *question, alone bool) (f *flight, joined bool, err error) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	now, key := time.Now(), lookupKey{q.webhook, q.key}
	if q.key != "" {
		if f := ls.flights[key]; f != nil && now.Sub(f.start) < q.webhook.timeout {
			if !alone {
				f.waiting++
			}
			return f, true, nil
		}
	}
	if ls.shares.full(q.webhook.ref.Tenant) {
		return nil, false, ErrQuota
	}
	l := ls.lane(q.webhook, now)
	pass, ok := l.enter(now)
	if !ok {
		return nil, false, errOpen
	}
	ls.shares.add(q.webhook.ref.Tenant, 1)
	l.hedges = min(l.hedges+q.webhook.hedgeShare, maxHedges)
	f = &flight{asked: q, lane: l, pass: pass, start: now, epoch: ls.cache.now(), refresh: alone, done: make(chan struct{})}
	if !alone {
		f.waiting = 1
	}
	if q.key != "" {
		ls.flights[key] = f
	}
	ctx, f.cancel = context.WithDeadline(context.WithoutCancel(ctx), now.Add(q.webhook.timeout+q.webhook.lateFor))
	stop := context.AfterFunc(ls.stop, f.cancel)
	go func() {
		defer stop()
		defer f.cancel()
		ls.land(f, ls.fly(ctx, f))
	}()
	return f, false, nil
}

func (p *preCall) lane() LaneRef { return LaneRef{p.ref.Tenant, p.ref.Agent, p.ref.Webhook} }

// leave gives up waiting; overdue says that the endpoint had its time. then is called
// with a late answer, if it is not nil and one may still come; leave reports whether
// it will be called.
func (ls *lookups) leave(f *flight, overdue bool, then func(*flight)) (awaited bool) {
	ls.mu.Lock()
	var news *LaneState
	defer func() {
		ls.mu.Unlock()
		ls.tell(news)
	}()
	f.waiting--
	select {
	case <-f.done: // just now
		if then != nil {
			go then(f)
		}
		return then != nil
	default:
	}
	if overdue { // the next caller need not wait until it has landed to know
		news = f.judge(broken, time.Now())
	}
	if then != nil && ls.late.sum < maxLate && !ls.late.full(f.asked.webhook.ref.Tenant) && ls.stop.Err() == nil {
		ls.late.add(f.asked.webhook.ref.Tenant, 1)
		f.late = append(f.late, then)
		return true
	}
	if f.waiting == 0 && len(f.late) == 0 && !f.refresh {
		ls.forgetFlight(f)
		f.cancel()
		_ = f.judge(unclear, time.Now()) // it may not heed that; unclear changes nothing
	}
	return false
}

// judge tells the lane, once, what became of a flight. It returns what is to be told
// when the lookups are unlocked, nil for nothing.
func (f *flight) judge(v verdict, now time.Time) *LaneState {
	if f.judged {
		return nil
	}
	f.judged = true
	if !f.lane.leave(v, f.pass, now) {
		return nil
	}
	s := f.lane.state(f.asked.webhook.lane())
	return &s
}

func (ls *lookups) tell(news *LaneState) {
	if news != nil {
		ls.h.laneChanged(*news)
	}
}

func (ls *lookups) forgetFlight(f *flight) {
	if key := (lookupKey{f.asked.webhook, f.asked.key}); ls.flights[key] == f {
		delete(ls.flights, key)
	}
}

// land ends a flight.
func (ls *lookups) land(f *flight, r found) {
	now := time.Now()
	ls.mu.Lock()
	f.found = r
	ls.shares.add(f.asked.webhook.ref.Tenant, -1)
	ls.forgetFlight(f)
	late := f.late
	ls.late.add(f.asked.webhook.ref.Tenant, -len(late))
	if p := f.asked.webhook; r.err == nil && f.asked.key != "" && p.cache+p.staleFor > 0 {
		ls.cache.put(&cached{lookupKey{p, f.asked.key}, f.asked.numbers, r.answer, r.status, now}, f.epoch)
	}
	news := f.judge(f.verdict(now), now)
	close(f.done)
	ls.mu.Unlock()
	ls.tell(news)
	for _, then := range late {
		then(f)
	}
}

// verdict is what a flight told about its endpoint.
func (f *flight) verdict(now time.Time) verdict {
	took, budget := now.Sub(f.start), f.asked.webhook.timeout
	var status *StatusError
	var transport *TransportError
	switch {
	case errors.As(f.err, &status) && status.Status < 500 && status.Status >= 400:
		return unclear
	case took >= budget:
		return broken
	case f.usable():
		if float64(took) > slowPart*float64(budget) {
			return sluggish
		}
		return fine
	case errors.As(f.err, &status):
		return broken
	case errors.As(f.err, &transport) && f.attempts.Load() > 0 && !errors.Is(f.err, context.Canceled):
		return broken
	}
	return unclear // everybody hung up; or nothing was asked
}

// fly asks, and once more beside it when the first takes long and that is wanted.
func (ls *lookups) fly(ctx context.Context, f *flight) (r found) {
	defer func() {
		if p := recover(); p != nil {
			r.err = ls.h.panicked(p)
		}
	}()
	p := f.asked.webhook
	if p.hedgeAfter == 0 {
		return ls.h.ask(ctx, f)
	}
	legs, running := make(chan found, 2), 0
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(egress.ErrSuperseded)
	start := func() {
		running++
		go func() {
			var r found
			defer func() {
				if p := recover(); p != nil {
					r.err = ls.h.panicked(p)
				}
				legs <- r
			}()
			r = ls.h.ask(ctx, f)
		}()
	}
	start()
	timer := time.NewTimer(p.hedgeAfter)
	defer timer.Stop()
	for {
		select {
		case r := <-legs:
			if running--; r.usable() || running == 0 {
				return r
			}
		case <-timer.C:
			if ls.mayHedge(f.lane) {
				f.hedges.Add(1)
				start()
			}
		}
	}
}

func (ls *lookups) mayHedge(l *lookupLane) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l.hedges < 1 {
		return false
	}
	l.hedges--
	return true
}

// ask makes one request, and understands the reply.
func (h *Hooks) ask(ctx context.Context, f *flight) (r found) {
	p, q := f.asked.webhook, f.asked
	req, err := h.prepare(ctx, p.endpoint, outgoing{id: q.id, body: q.body, values: q.text, call: q.call, secrets: q.secrets})
	if err != nil {
		return found{err: err}
	}
	if _, ok := req.Header["Idempotency-Key"]; !ok {
		req.Header["Idempotency-Key"] = nil // a lookup changes nothing: net/http may repeat it on a connection that died in the pool
	}
	resp, err := h.exchange(f, req, &r)
	if err != nil {
		r.err = err
		return r
	}
	defer resp.Body.Close()
	defer func(headers time.Time) { r.body = time.Since(headers) }(time.Now())
	r.status = resp.StatusCode
	p.answered(r.status)
	f.status.Store(int32(r.status))
	if resp.StatusCode == http.StatusNotFound { // nobody by that number
		egress.Drain(resp)
		return r
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		egress.Drain(resp)
		r.err = &StatusError{resp.StatusCode}
		return r
	}
	reply, truncated, err := egress.ReadBody(resp, maxReplyBytes)
	switch {
	case err != nil:
		r.err = transportError(err)
	case truncated:
		r.err = fmt.Errorf("%w: it is larger than %d bytes", ErrBadReply, maxReplyBytes)
	default:
		r.answer, r.err = p.response.read(ctx, resp.Header.Get("Content-Type"), reply)
	}
	return r
}

// exchange makes the request, and makes it once more when no connection could be
// made and most of the time is left.
func (h *Hooks) exchange(f *flight, req *prepared, r *found) (*http.Response, error) {
	budget := f.asked.webhook.timeout
	for first := true; ; first = false {
		f.attempts.Add(1)
		resp, err := req.client.DoTimed(req.Request, &r.timing)
		if err == nil {
			return resp, nil
		}
		if !first || req.Context().Err() != nil || !egress.IsConnectError(err) || time.Since(f.start) > budget/2 {
			return nil, transportError(err)
		}
		if req.GetBody != nil {
			req.Body, _ = req.GetBody()
		}
	}
}

// states returns the lookups' lanes that are open or at work. Of a webhook that was
// published anew it is the one that was used last.
func (ls *lookups) states() (out []LaneState) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	last := map[LaneRef]*lookupLane{}
	for p, l := range ls.lanes {
		if other := last[p.lane()]; other == nil || l.used.After(other.used) {
			last[p.lane()] = l
		}
	}
	for ref, l := range last {
		if s := l.state(ref); s.Trouble != "" || s.InFlight > 0 {
			out = append(out, s)
		}
	}
	return out
}

// Warm resolves the host of an agent's pre-call webhook, connects and does the TLS
// handshake, so that the next lookup does not wait for it: for an agent whose
// number is about to be called. No request is sent. The connection is kept for a
// minute, or closed by the endpoint sooner. Without a pre-call webhook it does
// nothing. Errors are those of the config source and of connecting.
func (h *Hooks) Warm(ctx context.Context, ref ConfigRef) error {
	if h.closed.Load() {
		return ErrClosed
	}
	a, err := h.agents.find(ctx, ref)
	if err != nil {
		return err
	}
	p := a.preCall
	if p == nil || p.paused {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	origin, err := url.Parse(p.ref.Origin)
	if err != nil {
		return err
	}
	client := h.client
	if p.identity != nil {
		secrets, err := p.resolve(ctx, h.secrets, "", nil)
		if err == nil {
			client, err = h.identities.client(h.client, p.endpoint, secrets)
		}
		if err != nil {
			return fmt.Errorf("callhook: %s of %s could not be warmed: %w", p.ref.Webhook, ref, err)
		}
	}
	if err := client.Connect(ctx, origin); err != nil {
		return fmt.Errorf("callhook: %s of %s could not be warmed: %w", p.ref.Webhook, ref, transportError(err))
	}
	if h.closed.Load() { // meanwhile
		client.CloseIdle()
		return ErrClosed
	}
	return nil
}

// Forget drops what is known about a phone number of a tenant: replies to lookups
// and secrets of calls, which are kept in memory, and deliveries in whatever state, as
// [Inspector.Erase] does. The number may be written as it comes or as [Options.NormalizeNumber] writes
// it. It returns how many of both. What is on its way to an endpoint is not called
// back. Without [Options.NumberKey], or a queue that is an [Inspector], deliveries
// cannot be found, and the error says so.
func (h *Hooks) Forget(ctx context.Context, tenant, number string) (int, error) {
	n := 0
	in, inspects := h.queue.(Inspector)
	for _, number := range h.spellings(number) {
		n += h.lookups.cache.forget(tenant, number)
		h.given.forget(tenant, number)
		if hash := h.NumberHash(tenant, number); hash != "" && inspects {
			erased, err := in.Erase(ctx, Filter{Number: hash})
			if n += erased; err != nil {
				return n, err
			}
		}
	}
	if !inspects || len(h.numberKey) == 0 {
		return n, errors.New("callhook: forget: only replies to lookups were dropped: to find deliveries by number, set Options.NumberKey before events are raised, and use a queue that is an Inspector")
	}
	return n, nil
}
