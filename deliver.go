package callhook

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/callhook-go/callhook/internal/egress"
	"github.com/callhook-go/callhook/internal/jsonappend"
	"github.com/callhook-go/callhook/internal/template"
)

// Delivery is one event on its way to one webhook. What it is was decided when it
// was enqueued: its body does not change any more. Where it goes is decided at
// each attempt by the config then in production.
//
// A queue stores all exported fields. It acts on ID, Lane, Call, Ordered and
// Attempts, and sets State, RetryAt and Reason.
type Delivery struct {
	// ID is a hash of tenant, agent, call, webhook and event, so that an event
	// that is raised twice, by whichever node, is one delivery. It is the
	// webhook-id header and has no dot in it.
	ID string `json:"id"`
	// Tenant, Agent and Webhook name the webhook.
	Tenant  string `json:"tenant,omitempty"`
	Agent   string `json:"agent"`
	Webhook string `json:"webhook"`
	Type    Type   `json:"type"`
	// Event is what happened, to Call, At that time.
	Event EventType `json:"event"`
	Call  string    `json:"call"`
	At    time.Time `json:"at"`
	// Lane is shared by all deliveries of one webhook: what is limited, held and
	// ordered together.
	Lane string `json:"lane"`
	// Ordered: it waits until the call's earlier deliveries in the lane are
	// delivered or dead. Otherwise it waits for their first attempts.
	Ordered bool `json:"ordered,omitempty"`
	// Body is what is sent. Values are the texts of the placeholders in URL and
	// headers, by placeholder.
	Body   []byte            `json:"body"`
	Values map[string]string `json:"values,omitempty"`
	// BuildError says why there is no Body. It becomes a dead letter.
	BuildError string `json:"build_error,omitempty"`
	// EnqueuedAt is when it was accepted. Its age counts from here.
	EnqueuedAt time.Time `json:"enqueued_at"`

	// Attempts is how many attempts count against it, Rejections how many of
	// them were refused as this event's fault, and Postponed how many answers
	// asked to come later, which do not count.
	Attempts   int `json:"attempts,omitempty"`
	Rejections int `json:"rejections,omitempty"`
	Postponed  int `json:"postponed,omitempty"`
	// Log holds the last attempts, at most 10.
	Log []Attempt `json:"log,omitempty"`

	// State, RetryAt and Reason are the queue's, as its [Inspector] shows them.
	State   State     `json:"state,omitempty"`
	RetryAt time.Time `json:"retry_at,omitzero"`
	Reason  Reason    `json:"reason,omitempty"`
}

// Attempt is one HTTP exchange of a delivery. In JSON its durations are
// nanoseconds.
type Attempt struct {
	At      time.Time     `json:"at"`
	Elapsed time.Duration `json:"elapsed"`
	// Status is the HTTP status of the answer; zero for none.
	Status int `json:"status,omitempty"`
	// Error says what went wrong; empty when it was delivered.
	Error string `json:"error,omitempty"`
	// Reply is the beginning of the answer, at most 1 KiB. The attempt's secrets
	// are cut out where the endpoint repeats them as they are or in a usual
	// escaped form; what else it says is its own.
	Reply string `json:"reply,omitempty"`
	// ClockSkew is how far the receiver's clock is ahead of ours, when that is
	// more than a minute: it may refuse signatures for it.
	ClockSkew time.Duration `json:"clock_skew,omitempty"`
}

// State is where a delivery stands in a queue.
type State string

// The states of a delivery. All but the last two are pending.
const (
	StateReady     State = "ready"     // it goes as soon as its turn comes
	StateInFlight  State = "in_flight" // an attempt is being made
	StateWaiting   State = "waiting"   // it is tried again at RetryAt, or waits for its call's earlier events
	StateParked    State = "parked"    // it waits until its lane is free again
	StateDelivered State = "delivered"
	StateDead      State = "dead" // given up: a dead letter, see Reason
)

// Verdict is what becomes of a delivery after a [Handler] had it.
type Verdict struct {
	State  State     // StateDelivered, StateWaiting, StateParked or StateDead
	At     time.Time // of StateWaiting: when to hand it out again
	Reason Reason    // of StateDead
}

// Delivered is the verdict of a delivery that arrived.
func Delivered() Verdict { return Verdict{State: StateDelivered} }

// RetryAt is the verdict of a delivery that is to be handed out again at t.
func RetryAt(t time.Time) Verdict { return Verdict{State: StateWaiting, At: t} }

// Park is the verdict of a delivery that is to rest until [Queue.Release].
func Park() Verdict { return Verdict{State: StateParked} }

// Dead is the verdict of a delivery that is given up.
func Dead(reason Reason) Verdict { return Verdict{State: StateDead, Reason: reason} }

// Handler makes an attempt to deliver d and says what becomes of it. It changes
// Attempts, Rejections, Postponed and Log, and nothing else. It may be called by many
// goroutines at once, and returns within the webhook's timeout.
type Handler func(ctx context.Context, d *Delivery) Verdict

// Queue stores deliveries and hands them out. Most programs only pass one to [New];
// this is for those who write one. It decides where and when; callhook
// decides what an answer means. All methods are safe for concurrent use.
//
// While a delivery's Attempts are zero, no later one of the same Call and Lane is
// handed out, unless the earlier is settled; one that is Ordered waits until
// all earlier ones are delivered or dead. A queue that cannot keep the latter
// says so in its Limits.
type Queue interface {
	// Enqueue stores ds. nil: all are as durable as the queue promises. On error
	// a part may be stored: repeat the same ds. A delivery whose ID is remembered
	// is ignored. The deliveries are the queue's then: callers do not change them.
	Enqueue(ctx context.Context, ds ...*Delivery) error
	// Consume hands ready deliveries to handle, many at once, until ctx ends, then
	// waits for those in flight (a handler's ctx outlives ctx). It stores each
	// delivery as the handler left it and carries out the verdict. It reconnects
	// by itself.
	Consume(ctx context.Context, handle Handler) error
	// Release makes up to n parked deliveries of a lane ready, the longest parked
	// first; lane "" means n of every lane, as after a restart. It may come while
	// the handler is still deciding to park a delivery: what of n it did not find
	// parked counts for those that the lane has in flight.
	Release(ctx context.Context, lane string, n int) error
	// Limits says what the queue promises. It does not change.
	Limits() Limits
	// Close ends the queue. Whoever opened it closes it, after Run has returned.
	Close() error
}

// Limits is what a [Queue] promises.
type Limits struct {
	// Ordered: deliveries that are Ordered are handed out strictly in order.
	Ordered bool
	// MaxBody is the largest body in bytes; zero for no bound of its own.
	MaxBody int
	// Remember is how long it remembers the ID of a delivery that is settled.
	Remember time.Duration
	// Redeliver is how soon a delivery that was in flight when its process died
	// is handed out again; zero when it is lost with the process.
	Redeliver time.Duration
	// Resolution is how exactly it keeps the time of RetryAt.
	Resolution time.Duration
}

// Inspector is what a queue may offer beside [Queue], to look inside.
type Inspector interface {
	// List returns deliveries that match f, the newest first. They are copies.
	List(ctx context.Context, f Filter) ([]*Delivery, error)
	// Counts returns how many deliveries there are and were. They balance:
	// Accepted = Delivered + Dead + Pending + Erased.
	Counts(ctx context.Context) (Counts, error)
}

// Filter selects deliveries. A zero field selects all.
type Filter struct {
	State                  State  // where it stands
	Tenant, Agent, Webhook string // whose it is
	Call                   string // the call's id
	Reason                 Reason // of dead letters
	Limit                  int    // at most so many; zero means 100
}

// Counts is how many deliveries a queue has and had, since it was opened or
// longer.
type Counts struct {
	Accepted  int64 // stored, each event and webhook once
	Delivered int64 // arrived
	Dead      int64 // given up, whether or not the dead letter is still kept
	Pending   int64 // on their way
	Erased    int64 // taken out before they arrived, as by a deletion request
}

// The errors of queues.
var (
	// ErrQueueFull says that a queue takes no more; nothing of the event was stored.
	ErrQueueFull = errors.New("callhook: the queue is full")
	// ErrQueueClosed says that a queue was closed.
	ErrQueueClosed = errors.New("callhook: the queue is closed")
)

// laneOf names a lane. Its parts cannot be confused, whatever is in them.
func laneOf(tenant, agent, webhook string) string {
	return url.PathEscape(tenant) + "/" + url.PathEscape(agent) + "/" + webhook
}

// deliveryID is the identity of an event at a webhook: 128 bits of a hash over
// its parts, each with its length before it.
func deliveryID(parts ...string) string {
	h := sha256.New()
	var n [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	var sum [sha256.Size]byte
	return "msg_" + idEncoding.EncodeToString(h.Sum(sum[:0])[:16])
}

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// delivery builds what is sent to w for an event.
func (h *Hooks) delivery(a *agent, w *webhook, call *Call) *Delivery {
	r := a.rendering(call, w)
	d := &Delivery{
		ID: r.event.ID, Event: r.event.Type, At: r.event.Timestamp, Call: call.ID,
		Tenant: call.TenantID, Agent: call.AgentID, Webhook: w.name, Type: w.typ,
		Lane: w.lane, Ordered: w.ordered, EnqueuedAt: time.Now(),
	}
	if err := d.build(w, r, h.queue.Limits().MaxBody); err != nil {
		d.BuildError, d.Body, d.Values = err.Error(), nil, nil
	}
	return d
}

// rendering is what the webhook's request is made from.
func (a *agent) rendering(call *Call, w *webhook) *rendering {
	e, at, key := EventStatus, call.StatusAt, "sequence:"+strconv.FormatInt(call.Sequence, 10)
	switch {
	case w.on == OnEnded:
		e, at, key = EventEnded, call.EndedAt, OnEnded
	case w.on == OnAnalyzed:
		e, at, key = EventAnalyzed, call.AnalyzedAt, OnAnalyzed
	case call.Sequence <= 0:
		key = "status:" + string(call.Status) + ":" + call.StatusAt.UTC().Format(time.RFC3339Nano)
	}
	return a.render(call, w.name, e, at, key)
}

// render prepares to render an event: id is made of what tells it from others.
func (a *agent) render(call *Call, webhook string, e EventType, at time.Time, key string) *rendering {
	if at.IsZero() {
		at = time.Now()
	}
	id := deliveryID(call.TenantID, call.AgentID, call.ID, webhook, key)
	return &rendering{zone: a.zone, event: &Event{ID: id, Type: e, Timestamp: at, Data: EventData{Call: a.public(call)}}}
}

// build sets Body and Values.
func (d *Delivery) build(w *webhook, r *rendering, limit int) (err error) {
	defer func() {
		if p := recover(); p != nil { // MarshalJSON of a type of the host's
			err = fmt.Errorf("callhook: the payload cannot be built: panic: %v", p)
		}
	}()
	if d.Body, err = w.body.build(r, limit); err != nil {
		return err
	}
	err = w.placeholders(func(e *template.Expr) error {
		if d.Values == nil {
			d.Values = map[string]string{}
		}
		var err error
		d.Values[e.Text], err = r.text(e)
		return err
	})
	if err == nil && w.url.dynamic { // no later attempt would mend a URL that cannot be built
		_, err = w.url.render(d.text, w.masked())
	}
	return err
}

// text is a lookup: the text that a placeholder had when the event was raised.
func (d *Delivery) text(e *template.Expr) (string, error) {
	if v, ok := d.Values[e.Text]; ok {
		return v, nil
	}
	return "", fmt.Errorf("{{ %s }} was not in the webhook's URL or headers when the event was raised, so its value is not known", e.Text)
}

// handle is the Handler of Run: one attempt, and what follows from it.
func (h *Hooks) handle(ctx context.Context, d *Delivery) (v Verdict) {
	entered := false
	defer func() {
		if p := recover(); p != nil { // a hook of the host's: the runtime's calls go on
			h.log.Error("callhook: delivery panicked", "id", d.ID, "panic", p, "stack", string(debug.Stack()))
			d.Attempts++
			v = RetryAt(time.Now().Add(time.Minute))
		}
		h.settled(ctx, d, v)
		h.lanes.pump(d.Lane, !entered)
	}()
	a, err := h.agents.find(ctx, ConfigRef{Tenant: d.Tenant, Agent: d.Agent})
	switch {
	case errors.Is(err, ErrNoConfig):
		return Dead(ReasonWebhookRemoved)
	case err != nil:
		h.log.Warn("callhook: no config to deliver by", "id", d.ID, "agent", d.Agent, "error", err)
		return RetryAt(time.Now().Add(sourcePause))
	}
	w := a.webhook(d.Type, d.Webhook)
	switch {
	case w == nil:
		return Dead(ReasonWebhookRemoved)
	case d.BuildError != "":
		return Dead(ReasonBuildFailed)
	case time.Since(d.EnqueuedAt) > time.Duration(w.retry.MaxAge) && (d.Attempts > 0 || d.Postponed > 0 || h.lanes.isGone(d.Lane)):
		return Dead(ReasonExpired)
	}
	entered = true
	if !h.lanes.enter(d.Lane, w) {
		return Park()
	}
	defer h.lanes.leave(d.Lane)
	return h.attempt(ctx, w, d)
}

// Pauses that no config sets.
const (
	sourcePause = 10 * time.Second // when there is no config to go by
	heldPause   = time.Minute      // of a lane that is paused or misses a secret
	gonePause   = time.Hour        // of a lane whose endpoint answered 410
)

func (h *Hooks) settled(ctx context.Context, d *Delivery, v Verdict) {
	switch v.State {
	case StateDelivered:
		if h.trace.Delivered != nil {
			_ = h.survive(func() { h.trace.Delivered(ctx, d) })
		}
	case StateDead:
		h.stats.dead(v.Reason)
		h.log.Warn("callhook: dead letter", "id", d.ID, "tenant", d.Tenant, "agent", d.Agent, "webhook", d.Webhook,
			"call", d.Call, "reason", string(v.Reason), "attempts", d.Attempts, "error", d.lastError())
		if h.trace.Dead != nil {
			_ = h.survive(func() { h.trace.Dead(ctx, d, v.Reason) })
		}
	}
}

func (d *Delivery) lastError() string {
	if d.BuildError != "" {
		return d.BuildError
	}
	if n := len(d.Log); n > 0 {
		return d.Log[n-1].Error
	}
	return ""
}

// maxLog bounds the attempts that a delivery remembers.
const maxLog = 10

// attempt makes one HTTP exchange.
func (h *Hooks) attempt(ctx context.Context, w *webhook, d *Delivery) Verdict {
	if w.paused {
		h.lanes.hold(d.Lane, w, heldPause, false)
		return Park()
	}
	if h.trace.AttemptStart != nil {
		ctx = h.begin(ctx, func() context.Context { return h.trace.AttemptStart(ctx, d) })
	}
	start := time.Now()
	a := Attempt{At: start}
	m := h.exchangeDelivery(ctx, w, d, &a)
	a.Elapsed = time.Since(start)
	h.stats.attempt(a.ClockSkew != 0)
	if d.Log = append(d.Log, a); len(d.Log) > maxLog {
		d.Log = append([]Attempt(nil), d.Log[len(d.Log)-maxLog:]...)
	}
	if h.log.Enabled(ctx, slog.LevelDebug) {
		h.log.Debug("callhook: attempt", "id", d.ID, "tenant", d.Tenant, "agent", d.Agent, "webhook", d.Webhook,
			"status", a.Status, "error", a.Error, "elapsed", a.Elapsed)
	}
	v := h.conclude(w, d, m)
	if h.trace.AttemptDone != nil {
		_ = h.survive(func() { h.trace.AttemptDone(ctx, d, a, v) })
	}
	return v
}

// exchangeDelivery sends d and returns what the answer means.
func (h *Hooks) exchangeDelivery(ctx context.Context, w *webhook, d *Delivery, a *Attempt) meaning {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	secrets, err := w.resolve(ctx, h.secrets)
	if err != nil {
		a.Error = err.Error()
		return meaning{kind: held}
	}
	req, err := w.request(ctx, d.ID, d.Body, d.text, secrets)
	if err != nil {
		a.Error = err.Error()
		if errors.Is(err, ErrBadKey) {
			return meaning{kind: held}
		}
		return meaning{kind: failed}
	}
	if _, ok := req.Header["Idempotency-Key"]; !ok {
		req.Header["Idempotency-Key"] = nil // sends none, and lets net/http repeat it on a connection that died in the pool
	}
	resp, err := h.client.Do(req)
	if err != nil {
		a.Error = transportError(err).Error()
		var blocked *egress.BlockedError
		if errors.As(err, &blocked) && blocked.Literal {
			return meaning{kind: blockedAddress}
		}
		return meaning{kind: failed}
	}
	defer resp.Body.Close()
	a.Status = resp.StatusCode
	now := time.Now()
	a.ClockSkew = clockSkew(resp.Header, now)
	matters := w.success.reads(resp.StatusCode)
	reply, err := readReply(resp, matters, cancel)
	a.Reply = excerpt(reply, req.Header, secrets)
	if err != nil && matters {
		a.Error = transportError(err).Error()
		return meaning{kind: failed}
	}
	m := judge(w, resp.StatusCode, resp.Header, reply, now)
	if m.kind != success {
		a.Error = m.text(resp.StatusCode)
	}
	return m
}

const (
	maxAnswerBytes  = 64 << 10
	maxExcerptBytes = 1 << 10
	// bodyGrace is how long the body of an answer may take when its status says
	// all: long enough to keep the connection, too short to hold up the lane.
	bodyGrace = 250 * time.Millisecond
)

// readReply reads the answer's body. Unless it matters, since the status says all,
// one that stalls is left alone.
func readReply(resp *http.Response, matters bool, cancel context.CancelFunc) ([]byte, error) {
	if resp.ContentLength == 0 {
		return nil, nil
	}
	if !matters {
		timer := time.AfterFunc(bodyGrace, cancel)
		defer timer.Stop()
	}
	reply, truncated, err := egress.ReadBody(resp, maxAnswerBytes)
	if err == nil && !truncated {
		return reply, nil
	}
	return reply, err
}

// excerpt is the beginning of a reply without the attempt's secrets: the values of
// references, and what stands in headers like Authorization.
func excerpt(reply []byte, header http.Header, secrets map[string]string) string {
	if len(reply) == 0 {
		return ""
	}
	s := string(reply[:min(len(reply), 4*maxExcerptBytes)])
	var hide []string
	add := func(v string) {
		// All spellings, and what may be left of one at the end, begin like v where
		// that is four letters or digits; so most replies are soon seen to have none.
		if len(v) < 4 || !isPlain(v[:4]) || strings.Contains(s, v[:4]) {
			hide = append(hide, spellings(v)...)
		}
	}
	for _, v := range secrets {
		add(v)
	}
	for name, values := range header {
		if secretive(name) {
			for _, v := range values {
				add(v)
				if _, credentials, ok := strings.Cut(v, " "); ok { // after Bearer
					add(credentials)
				}
			}
		}
	}
	// The longest first: one may stand in another.
	slices.SortFunc(hide, func(a, b string) int { return len(b) - len(a) })
	for _, v := range hide { // the reply may break off within one
		for n := min(len(v)-1, len(s)); n >= 4; n-- {
			if strings.HasSuffix(s, v[:n]) {
				s = s[:len(s)-n] + "***"
				break
			}
		}
	}
	for _, v := range hide {
		s = strings.ReplaceAll(s, v, "***")
	}
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) > maxExcerptBytes {
		s = strings.ToValidUTF8(s[:maxExcerptBytes], "")
	}
	return s
}

func isPlain(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
	})
}

// spellings returns how a text may stand in a reply: as it is, in JSON, with /
// escaped as PHP does, in a URL and in HTML.
func spellings(v string) []string {
	if v == "" {
		return nil
	}
	out := []string{v}
	add := func(s string) {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	escaped, _ := json.Marshal(v) // with <, > and & escaped too
	for _, quoted := range [][]byte{jsonappend.String(nil, v), escaped} {
		s := string(quoted[1 : len(quoted)-1])
		add(s)
		add(strings.ReplaceAll(s, "/", `\/`))
	}
	add(url.QueryEscape(v))
	add(url.PathEscape(v))
	add(html.EscapeString(v))
	return out
}

// clockSkew returns how far the receiver's clock is ahead, zero when within a minute.
func clockSkew(header http.Header, now time.Time) time.Duration {
	at, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return 0
	}
	if skew := at.Sub(now); skew > time.Minute || skew < -time.Minute {
		return skew.Truncate(time.Second)
	}
	return 0
}
