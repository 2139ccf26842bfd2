package callhook

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/callhook-go/callhook/internal/egress"
	"github.com/callhook-go/callhook/internal/template"
)

// Delivery is one event on its way to one webhook. What it is was decided when it
// was enqueued: its body does not change any more. Where it goes is decided at
// each attempt by the config then in production.
//
// A queue stores all exported fields. It acts on ID, Lane, Call, Ordered and
// Attempts, and sets Seq, State, RetryAt and Reason; replaying resets EnqueuedAt
// and the counts of attempts.
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
	// Sealed is the name of the key that Body, Values, Record and the replies in Log
	// are sealed with, all in Body but the last, see Options.SealKey; empty when they
	// are not.
	Sealed string `json:"sealed,omitempty"`
	// BuildError says why there is no Body. It becomes a dead letter.
	BuildError string `json:"build_error,omitempty"`
	// EnqueuedAt is when it was accepted. Its age counts from here.
	EnqueuedAt time.Time `json:"enqueued_at"`
	// Numbers are keyed hashes of the call's phone numbers, by which it can be
	// found when somebody wants to be forgotten; none without Options.NumberKey.
	Numbers []string `json:"numbers,omitempty"`
	// Record is the whole call, from which it can be built anew; none unless
	// Options.KeepCalls.
	Record json.RawMessage `json:"record,omitempty"`
	// TraceContext is what [Trace].Enqueue put there for the attempts to go on with, like
	// the "traceparent" of W3C's Trace Context. It is not sent by itself.
	TraceContext map[string]string `json:"trace_context,omitempty"`
	// ReplayOf is the ID of the dead letter that it was rebuilt from.
	ReplayOf string `json:"replay_of,omitempty"`

	// Attempts is how many attempts count against it, Rejections how many of
	// them were refused as this event's fault, and Postponed how many answers
	// asked to come later, which do not count.
	Attempts   int `json:"attempts,omitempty"`
	Rejections int `json:"rejections,omitempty"`
	Postponed  int `json:"postponed,omitempty"`
	// Log holds the last attempts, at most 10.
	Log []Attempt `json:"log,omitempty"`

	// Seq, State, RetryAt and Reason are the queue's, as its [Inspector] shows
	// them. Seq is higher for what was enqueued later.
	Seq     int64     `json:"seq,omitempty"`
	State   State     `json:"state,omitempty"`
	RetryAt time.Time `json:"retry_at,omitzero"`
	Reason  Reason    `json:"reason,omitempty"`
}

// Attempt is one HTTP exchange of a delivery. In JSON its durations are
// nanoseconds.
type Attempt struct {
	At      time.Time     `json:"at"`
	Elapsed time.Duration `json:"elapsed"`
	// Timing is how Elapsed came about.
	Timing
	// Remote is the address that it was sent to; empty when no connection came about.
	Remote string `json:"remote,omitempty"`
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

// Timing tells where the time of a request went. DNS, Connect and TLS are zero on a
// kept connection, and what did not come about is.
type Timing struct {
	DNS       time.Duration `json:"dns,omitempty"`
	Connect   time.Duration `json:"connect,omitempty"`
	TLS       time.Duration `json:"tls,omitempty"`
	FirstByte time.Duration `json:"first_byte,omitempty"` // from the start to the first byte of the answer
	Body      time.Duration `json:"body,omitempty"`       // from the answer's headers to its end
}

// laneOf names a lane. Its parts cannot be confused, whatever is in them.
func laneOf(tenant, agent, webhook string) string {
	return url.PathEscape(tenant) + "/" + url.PathEscape(agent) + "/" + webhook
}

// deliveryID is the identity of an event at a webhook: 128 bits of a hash over
// its parts, each with its length before it.
func deliveryID(parts ...string) string {
	sum := hashed(parts...)
	return "msg_" + idEncoding.EncodeToString(sum[:16])
}

// hashed returns a hash of texts that cannot be confused with that of others.
func hashed(parts ...string) (sum [sha256.Size]byte) {
	h := sha256.New()
	var n [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	h.Sum(sum[:0])
	return sum
}

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// delivery builds what is sent to w for an event, for all of whose webhooks there is
// this much work.
func (h *Hooks) delivery(a *agent, w *webhook, call *Call, work *int) *Delivery {
	r := a.rendering(call, w)
	r.shared = work
	return h.newDelivery(w, call, r)
}

func (h *Hooks) newDelivery(w *webhook, call *Call, r *rendering) *Delivery {
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
			err = fmt.Errorf("callhook: the payload cannot be built: panic: %s", panicText(p))
		}
	}()
	if d.Body, err = w.body.build(r, limit); err != nil {
		return err
	}
	r.bound(maxWordsWork)
	err = w.placeholders(func(e *template.Expr) error {
		if d.Values == nil {
			d.Values = map[string]string{}
		}
		var err error
		d.Values[e.Text], err = r.text(e)
		return err
	})
	if errors.Is(err, template.ErrTooLarge) {
		err = fmt.Errorf("%w: in the URL and the headers: %w", ErrTooLarge, err)
	}
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
			h.log.Error("callhook: delivery panicked", "id", d.ID, "panic", panicText(p), "stack", string(debug.Stack()))
			d.Attempts++
			v = RetryAt(time.Now().Add(time.Minute))
		}
		h.settled(ctx, d, v)
		if v.State == StateParked { // what is parked can be released once the queue has it
			v = v.Then(func() { h.lanes.parked(d) })
		} else {
			h.lanes.pump(d, !entered)
		}
	}()
	a, err := h.agents.find(ctx, ConfigRef{Tenant: d.Tenant, Agent: d.Agent})
	switch {
	case errors.Is(err, ErrNoConfig):
		h.lanes.removed(d)
		return Dead(ReasonWebhookRemoved)
	case err != nil:
		if h.lanes.turnAway(d, nil, ReasonNoConfig, sourcePause) {
			h.log.Warn("callhook: no config to deliver by; the lane waits", "lane", d.Lane, "error", err)
		}
		return Park()
	}
	w := a.webhook(d.Type, d.Webhook)
	switch {
	case w == nil:
		h.lanes.removed(d)
		return Dead(ReasonWebhookRemoved)
	case d.BuildError != "":
		return Dead(ReasonBuildFailed)
	case time.Since(d.EnqueuedAt) > time.Duration(w.retry.MaxAge) && (d.Attempts > 0 || d.Postponed > 0 || h.lanes.troubled(d)):
		return Dead(ReasonExpired)
	case w.paused:
		h.lanes.turnAway(d, w, ReasonPaused, 0)
		return Park()
	}
	entered = true
	pass, ok := h.lanes.enter(d, w)
	if !ok {
		return Park()
	}
	defer h.lanes.leave(pass)
	return h.attempt(ctx, w, d)
}

// Pauses that no config sets.
const (
	sourcePause = 10 * time.Second // when there is no config to go by
	secretPause = time.Minute      // of a lane that misses a secret
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
	if h.trace.AttemptStart != nil {
		ctx = h.begin(ctx, func() context.Context { return h.trace.AttemptStart(ctx, d) })
	}
	start := time.Now()
	a := Attempt{At: start}
	l, m := h.exchangeDelivery(ctx, w, d, &a)
	a.Elapsed = time.Since(start)
	sent := m.kind != held && m.kind != sealedUp && m.kind != damaged
	h.stats.attempt(sent, a.ClockSkew != 0)
	kept := a
	kept.Reply = l.sealer.text(a.Reply)
	d.note(kept, !sent)
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

// note adds an attempt to the log. What was not sent, for want of a secret, is told
// once and not each time.
func (d *Delivery) note(a Attempt, unsent bool) {
	log := d.Log
	if n := len(log); n > 0 && unsent && log[n-1].Status == 0 && log[n-1].Error == a.Error {
		log = log[:n-1]
	}
	first := max(0, len(log)+1-maxLog)
	d.Log = append(append(make([]Attempt, 0, len(log)-first+1), log[first:]...), a)
}

// exchangeDelivery sends d and returns what the answer means.
func (h *Hooks) exchangeDelivery(ctx context.Context, w *webhook, d *Delivery, a *Attempt) (*letter, meaning) {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	l, err := h.letter(ctx, d)
	if err != nil {
		a.Error = err.Error()
		if errors.Is(err, errSealBroken) {
			return l, meaning{kind: damaged}
		}
		return l, meaning{kind: sealedUp}
	}
	return l, h.exchangeLetter(ctx, cancel, w, l, a)
}

func (h *Hooks) exchangeLetter(ctx context.Context, cancel func(), w *webhook, d *letter, a *Attempt) meaning {
	req, err := h.prepare(ctx, w.endpoint, outgoing{id: d.ID, body: d.Body, values: d.text, call: d.Call, secrets: h.given.get(d.Delivery)})
	switch {
	case err == nil:
	case errors.Is(err, errNotGiven): // other calls may have theirs
		a.Error = err.Error()
		return meaning{kind: unsent}
	case holds(err):
		a.Error = err.Error()
		return meaning{kind: held}
	default:
		a.Error = err.Error()
		return meaning{kind: failed}
	}
	if _, ok := req.Header["Idempotency-Key"]; !ok {
		req.Header["Idempotency-Key"] = nil // sends none, and lets net/http repeat it on a connection that died in the pool
	}
	var t egress.Timing
	resp, err := req.client.DoTimed(req.Request, &t)
	a.Timing, a.Remote = Timing{DNS: t.DNS, Connect: t.Connect, TLS: t.TLS, FirstByte: t.FirstByte}, t.Remote
	if err != nil {
		a.Error = transportError(err).Error()
		var blocked *egress.BlockedError
		if errors.As(err, &blocked) {
			if blocked.Literal {
				return meaning{kind: blockedAddress}
			}
			return meaning{kind: unsent} // the name may resolve to another
		}
		return meaning{kind: failed}
	}
	defer resp.Body.Close()
	a.Status = resp.StatusCode
	w.answered(a.Status)
	now := time.Now()
	a.ClockSkew = clockSkew(resp.Header, now)
	matters := w.success.reads(resp.StatusCode)
	reply, err := readReply(resp, matters, cancel)
	a.Body = time.Since(now)
	a.Reply = excerpt(reply, req.hidden)
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
func excerpt(reply []byte, hidden func() []string) string {
	if len(reply) == 0 {
		return ""
	}
	s := hide(string(reply[:min(len(reply), 4*maxExcerptBytes)]), hidden())
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
