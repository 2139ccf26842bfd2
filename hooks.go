package callhook

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/callhook-go/callhook/internal/egress"
)

// Options are what [New] makes Hooks of. Only Configs is needed.
type Options struct {
	// Configs is where the agents' configs come from. See [Static].
	Configs ConfigSource
	// Queue stores deliveries until they have arrived. Nil means one in memory
	// (see [NewMemoryQueue]), which the end of the process empties. Hooks does not close a queue
	// that it is given.
	Queue Queue
	// Secrets resolves ${NAME} references. Nil means that there are none: New and
	// Check refuse a config that refers to one, and a delivery that needs one waits.
	// Single-tenant hosts take [EnvSecrets].
	Secrets SecretFunc
	// Authorize puts credentials that expire into a request, such as OAuth2's access
	// tokens. Nil means that configs have all that is needed.
	Authorize AuthorizeFunc
	// AllowNets are private networks that webhooks may be sent to. Without it
	// only public addresses are dialled, and that is checked on the address
	// itself, after the name was resolved. An IPv4 address behind NAT64
	// (64:ff9b::/96) is judged as that IPv4 address.
	AllowNets []netip.Prefix
	// Ports are the only ones that webhooks may be sent to. Empty means all but those
	// of mail servers and other services that an HTTP request could talk into
	// something: the list of the Fetch standard, https://fetch.spec.whatwg.org/#port-blocking.
	Ports []uint16
	// Dial makes the connections instead of callhook's own dialler, and with it
	// replaces the guard of AllowNets: for tests and tunnels. Nil means the
	// guarded dialler.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// RootCAs are the authorities that vouch for endpoints. Nil means the system's.
	RootCAs *x509.CertPool
	// Concurrency is how many attempts to deliver run at once, over all webhooks.
	// Zero means 1024. Each costs a goroutine and a connection while it lasts. When
	// more want to run, tenants take turns, and the webhooks of each; those whose
	// endpoints have not answered well get at most half, and each of them at most a
	// sixteenth. Make it several times what one webhook may have (concurrency).
	Concurrency int
	// TenantConcurrency is how many attempts to deliver of one tenant run at once, and
	// how many lookups: a lookup more falls back at once, with [ErrQuota]. Zero means
	// that a tenant may have as many as there are.
	TenantConcurrency int
	// NormalizeNumber writes phone numbers in one way, like E.164, before they are
	// looked up or sent: call.from, call.to and call.forwarded_from, where they are
	// not withheld. Nil means as the call has them.
	NormalizeNumber func(number string) string
	// KeepCalls keeps the whole record of a call with each of its deliveries, so
	// that [Hooks.Rebuild] can build dead letters anew. Without it a queue holds only
	// what the webhooks selected.
	KeepCalls bool
	// NumberKey is the key of the hashes by which deliveries are found by phone
	// number, at least 16 random bytes that do not change: see [Hooks.NumberHash].
	// Nil means that they cannot be.
	NumberKey []byte
	// SealKey gives the keys with which deliveries are sealed before the queue has
	// them (AES-256-GCM): what is sent, the call's record and what endpoints replied.
	// What a queue works by stays readable: ids, names, times, statuses and errors, and
	// the hashes of numbers. Nil means that nothing is sealed. See [SealKeys].
	SealKey SealKeyFunc
	// Logger gets dead letters and what needs somebody's attention (Warn), faults
	// of the host's own functions (Error) and attempts (Debug). No secret, body,
	// query string or phone number is logged. Nil means silence.
	Logger *slog.Logger
	// Trace is called as things happen. Nil means not.
	Trace *Trace
}

// Hooks sends an agent runtime's webhooks. Its methods are safe for concurrent
// use. Make one with [New] for the whole process.
type Hooks struct {
	agents     agents
	queue      Queue
	owned      bool // the queue is ours
	secrets    SecretFunc
	client     *egress.Client // of webhooks without an identity of their own
	identities identities
	authorize  AuthorizeFunc
	sealKey    SealKeyFunc
	lanes      lanes
	lookups    lookups
	given      given
	log        *slog.Logger
	trace      Trace
	stats      stats
	closed     atomic.Bool
	running    atomic.Bool

	keepCalls bool
	numberKey []byte
	normalize func(string) string
}

// The errors of the verbs.
var (
	// ErrInvalidCall says that a call lacks what a verb needs.
	ErrInvalidCall = errors.New("callhook: invalid call")
	// ErrClosed says that Hooks was closed.
	ErrClosed = errors.New("callhook: Hooks is closed")
	// ErrNotOrdered says that a webhook is "ordered" and the queue cannot keep order.
	ErrNotOrdered = errors.New(`callhook: the queue cannot keep the order that "ordered" asks for`)
)

// New returns Hooks. It does no I/O and starts no goroutine. The error tells
// every fault of every config given to [Static].
func New(o Options) (*Hooks, error) {
	if o.Configs == nil {
		return nil, errors.New("callhook: Options.Configs is nil: give it the agents' configs, like callhook.Static(config)")
	}
	if n := len(o.NumberKey); 0 < n && n < 16 {
		return nil, fmt.Errorf("callhook: Options.NumberKey has %d bytes: give it at least 16 random ones, or nil", n)
	}
	h := &Hooks{
		agents:    agents{source: o.Configs},
		queue:     o.Queue,
		secrets:   o.Secrets,
		authorize: o.Authorize,
		sealKey:   o.SealKey,
		client:    egress.New(egress.Options{AllowNets: o.AllowNets, Ports: o.Ports, Dial: o.Dial, RootCAs: o.RootCAs}),
		log:       o.Logger,

		keepCalls: o.KeepCalls, numberKey: slices.Clone(o.NumberKey), normalize: o.NormalizeNumber,
	}
	h.lookups.late.most = maxLate * 3 / 4
	h.lookups.h, h.lookups.flights, h.lookups.lanes = h, map[lookupKey]*flight{}, map[*preCall]*lookupLane{}
	h.lookups.stop, h.lookups.end = context.WithCancel(context.Background())
	if h.queue == nil {
		h.queue, h.owned = NewMemoryQueue(nil), true
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if o.Trace != nil {
		h.trace = *o.Trace
	}
	h.agents.log, h.agents.published = h.log, h.lanes.published
	h.lanes.queue, h.lanes.agents, h.lanes.log = h.queue, &h.agents, h.log
	h.lanes.shares.most, h.lookups.shares.most = max(o.TenantConcurrency, 0), max(o.TenantConcurrency, 0)
	h.lanes.shared = h.queue.Limits().Shared
	h.lanes.limit, h.lanes.told = cmp.Or(max(o.Concurrency, 0), defaultLimit), h.laneChanged
	if s, ok := o.Configs.(static); ok {
		if err := h.validate(s); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func (h *Hooks) validate(s static) error {
	errs := []error{s.validate()}
	for _, configs := range s {
		for _, c := range configs {
			if a, err := compile(c); err == nil {
				errs = append(errs, h.accepts(a))
			}
		}
	}
	return errors.Join(errs...)
}

// accepts returns an error when a valid config asks for what these Hooks cannot do.
func (h *Hooks) accepts(a *agent) error {
	c := new(compiler)
	a.endpoints(func(p *endpoint, at string, ordered bool) { h.accept(c, p, at, ordered) })
	return c.err(a.ref().String())
}

func (h *Hooks) accept(c *compiler, p *endpoint, at string, ordered bool) {
	if len(p.refs) > 0 && h.secrets == nil {
		c.fault(at, "it refers to the secret ${%s}, and Options.Secrets is nil: there are no secrets", p.refs[0])
	}
	if ordered && !h.queue.Limits().Ordered {
		c.fault(at+".ordered", "the queue cannot keep this order: leave it out, or use another queue")
	}
}

// Check tells whether calls can use a config with these Hooks: [Config.Validate],
// and in addition that every secret that it refers to can be resolved, that no URL has an
// address or a port that webhooks are not sent to, that the queue can do what it asks
// for, and that its deliveries can be sealed where Options.SealKey says so. It sends
// nothing. The error is a [*ConfigError] with every fault.
func (h *Hooks) Check(ctx context.Context, cfg *Config) error {
	a, err := compile(cfg)
	if err != nil {
		return err
	}
	c := new(compiler)
	a.endpoints(func(p *endpoint, at string, ordered bool) {
		h.accept(c, p, at, ordered)
		if u, err := url.Parse(p.ref.Origin); err == nil {
			if err := h.client.CheckURL(u); err != nil {
				c.fault(at+".url", "%s for webhooks: nothing is ever sent there", err)
			}
		}
		if h.secrets == nil {
			return
		}
		values, resolved := map[string]string{}, true
		for _, name := range p.refs {
			var v string
			var err error
			if panicked := h.survive(func() { v, err = p.secret(ctx, h.secrets, name) }); panicked != nil {
				err = panicked
			}
			if err != nil {
				c.fault(at, "%s", plainText(err))
				resolved = false
			}
			values[name] = v
		}
		if resolved {
			if _, err := p.signing(values); err != nil {
				c.fault(at, "%s", plainText(err))
			}
			if _, err := h.identities.client(h.client, p, values); err != nil {
				c.fault(at, "%s", plainText(err))
			}
		}
	})
	if h.sealKey != nil {
		if _, err := h.newSealer(ctx, "", &Delivery{Tenant: cfg.TenantID}); err != nil {
			c.fault("", "its deliveries cannot be sealed: %s", plainText(err))
		}
	}
	return c.err(a.ref().String())
}

// plainText is an error's text inside of another.
func plainText(err error) string { return strings.ReplaceAll(err.Error(), "callhook: ", "") }

// storeTimeout bounds how long an event may take to be stored.
const storeTimeout = 5 * time.Second

// CallStatus tells the agent's call-status webhooks that the call's status
// changed. It returns as soon as the event is stored, and does not wait for the
// webhooks. nil means that it is as durable as the queue promises, and is
// delivered at least once.
//
// The call needs ID, AgentID, Status, and Sequence or StatusAt, which tell two
// changes apart. Raising the same event again does nothing, so on an error call
// it again with the same call. The end of ctx is ignored, since a call's context
// ends with the call; storing has its own bound of 5s.
//
// Errors: [ErrInvalidCall], [ErrClosed], [ErrNotOrdered], those of the config
// source and those of the queue, like [ErrQueueFull]. A payload that cannot be
// built is none: it becomes a dead letter and does not stop other webhooks. Nor is
// an agent without a config, since not every agent has webhooks: the event is
// counted in [Stats.Skipped]. A source's config that is not valid is a
// [*ConfigError], unless an earlier one can serve.
func (h *Hooks) CallStatus(ctx context.Context, call *Call) error {
	if err := call.check("CallStatus"); err != nil {
		return err
	}
	switch {
	case !call.Status.valid():
		return fmt.Errorf(`%w: call.status is %q: it must be lower_snake, like "transfer_started"`, ErrInvalidCall, call.Status)
	case call.Sequence <= 0 && call.StatusAt.IsZero():
		return fmt.Errorf("%w: call.sequence and call.status_at are empty: CallStatus needs one of them to tell this change from another to the same status", ErrInvalidCall)
	}
	return h.raise(ctx, call, func(a *agent, call *Call, work *int) (ds []*Delivery) {
		for _, w := range a.status {
			if len(w.statuses) == 0 || slices.Contains(w.statuses, call.Status) {
				ds = append(ds, h.delivery(a, w, call, work))
			}
		}
		return ds
	})
}

// PostCall sends the call's data to the agent's post-call webhooks: call.ended to
// those with "on": "ended", and once the call's AnalyzedAt is set call.analyzed
// to those with "on": "analyzed". So call it when the call has ended, and again
// with the same call when it was analyzed; each webhook gets its event once.
//
// The call needs ID, AgentID and EndedAt. Everything else is as with
// [Hooks.CallStatus].
func (h *Hooks) PostCall(ctx context.Context, call *Call) error {
	if err := call.check("PostCall"); err != nil {
		return err
	}
	if call.EndedAt.IsZero() {
		return fmt.Errorf("%w: call.ended_at is empty: set it before PostCall", ErrInvalidCall)
	}
	return h.raise(ctx, call, func(a *agent, call *Call, work *int) (ds []*Delivery) {
		for _, w := range a.postCall {
			if w.on == OnEnded || !call.AnalyzedAt.IsZero() {
				ds = append(ds, h.delivery(a, w, call, work))
			}
		}
		return ds
	})
}

// raise builds an event's deliveries and stores them together.
func (h *Hooks) raise(ctx context.Context, call *Call, build func(*agent, *Call, *int) []*Delivery) error {
	if h.closed.Load() {
		return ErrClosed
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	call = h.normal(call)
	a, err := h.agents.find(ctx, ConfigRef{call.TenantID, call.AgentID, call.ConfigRevision})
	if errors.Is(err, ErrNoConfig) {
		h.stats.skip(ReasonNoConfig)
		return nil // agents need not have webhooks
	}
	if err != nil {
		return err
	}
	work := maxEventWork
	ds := build(a, call, &work)
	if len(ds) == 0 {
		h.stats.skip(ReasonNoWebhook)
		return nil
	}
	if !h.queue.Limits().Ordered && slices.ContainsFunc(ds, func(d *Delivery) bool { return d.Ordered }) {
		return ErrNotOrdered
	}
	h.keep(a, call, ds)
	if len(call.Secrets) > 0 {
		h.given.put(call, a.given) // before a delivery may be attempted
	}
	return h.store(ctx, call.ID, ds)
}

func (h *Hooks) store(ctx context.Context, call string, ds []*Delivery) error {
	if h.trace.Enqueue != nil {
		for _, d := range ds {
			_ = h.survive(func() { h.trace.Enqueue(ctx, d) })
		}
	}
	if err := h.seal(ctx, ds, h.queue.Limits().MaxBody); err != nil {
		return fmt.Errorf("callhook: the event of call %s was not stored: call the verb again: %w", call, err)
	}
	var stored []Delivery // copies: once stored, the deliveries are the queue's
	if h.trace.Enqueued != nil {
		for _, d := range ds {
			stored = append(stored, *d)
		}
	}
	if err := h.queue.Enqueue(ctx, ds...); err != nil {
		return fmt.Errorf("callhook: the event of call %s was not stored: call the verb again: %w", call, err)
	}
	for i := range stored {
		_ = h.survive(func() { h.trace.Enqueued(ctx, &stored[i]) })
	}
	return nil
}

// Run delivers what is in the queue until ctx ends; then it finishes the attempts
// under way, which takes as long as the webhooks' timeouts at most (15s unless told,
// 60s in the extreme), and returns nil. Its error is the queue's, or [ErrClosed], or tells that
// another Run is under way. A process that only raises events leaves it out. It
// may be called again after it has returned.
func (h *Hooks) Run(ctx context.Context) error {
	if h.closed.Load() {
		return ErrClosed
	}
	if !h.running.CompareAndSwap(false, true) {
		return errors.New("callhook: Run is under way already")
	}
	defer h.running.Store(false)
	h.lanes.start(ctx)
	defer h.lanes.end()
	defer h.agents.watch(ctx)()
	// What an earlier process parked has nobody who would release it. The first of
	// each lane brings the others.
	_, err := h.queue.Release(ctx, "", 1)
	if err == nil {
		err = h.queue.Consume(ctx, h.handle)
	}
	if err == nil || ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return fmt.Errorf("callhook: run: %w", err)
}

// Resume lets a webhook's deliveries go that wait: because its endpoint is down or
// gone, asked to come later, or failed so that they are to be tried again at some
// time. All are due; when the endpoint still fails, they wait again. Publishing
// a config does it too. It returns how many waited: none is no error, also when
// there is no such webhook. The error is the queue's.
func (h *Hooks) Resume(ctx context.Context, l LaneRef) (int, error) {
	name := laneOf(l.Tenant, l.Agent, l.Webhook)
	h.lanes.lifted(name)
	n, err := h.queue.Release(ctx, name, -1)
	if err != nil {
		return n, fmt.Errorf("callhook: resume %s: %w", name, err)
	}
	h.lanes.resume(name)
	return n, nil
}

// Lanes returns the webhooks whose deliveries are under way or cannot go at
// present, and why, as this process sees them.
func (h *Hooks) Lanes() []LaneState {
	all := append(h.lanes.states(), h.lookups.states()...)
	slices.SortFunc(all, func(a, b LaneState) int { return a.LaneRef.compare(b.LaneRef) })
	return all
}

// Close closes idle connections, and the queue if New made it. End Run before, by
// its ctx. Close may be called again. After it PreCall falls back to defaults and
// the other verbs return [ErrClosed].
func (h *Hooks) Close() error {
	if h.closed.Swap(true) {
		return nil
	}
	h.lookups.end()
	h.lookups.cache.close()
	h.given.clear()
	h.client.CloseIdle()
	h.identities.closeIdle()
	if h.owned {
		if n := h.Stats().Queue.Pending; n > 0 {
			h.log.Warn("callhook: deliveries that were pending are lost: the queue is in memory", "pending", n)
		}
		return h.queue.Close()
	}
	return nil
}
