package natsqueue

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/callhook-go/callhook"
)

// A delivery is a message: what it is found by in the header Callhook, as JSON, which
// can be had without the rest; and as its data the length of two parts and then the
// parts: JSON of what nobody searches, Record, and Body to the end.
const headerIndex = "Callhook"

// index is what the header of a pending delivery or a dead letter says.
type index struct {
	ID         text      `json:"id"`
	Tenant     text      `json:"tenant,omitempty"`
	Agent      text      `json:"agent,omitempty"`
	Webhook    text      `json:"webhook,omitempty"`
	Lane       text      `json:"lane"`
	Call       text      `json:"call,omitempty"`
	Ordered    bool      `json:"ordered,omitempty"`
	EnqueuedAt time.Time `json:"enqueued_at"`
	Numbers    []text    `json:"numbers,omitempty"`
	Attempts   int       `json:"attempts,omitempty"`
	Seq        uint64    `json:"seq,omitempty"`    // of a dead letter: when it was pending
	Reason     text      `json:"reason,omitempty"` // of a dead letter
	Until      time.Time `json:"until,omitzero"`   // of a dead letter: how long it is kept
	Write      string    `json:"write,omitempty"`  // of one that was replayed, see mark
}

// rest is what nobody searches, but for Record and Body.
type rest struct {
	Type       text      `json:"type"`
	Event      text      `json:"event"`
	At         time.Time `json:"at"`
	Values     [][2]text `json:"values,omitempty"`
	Sealed     text      `json:"sealed,omitempty"`
	BuildError text      `json:"build_error,omitempty"`
	ReplayOf   text      `json:"replay_of,omitempty"`
	Trace      [][2]text `json:"trace_context,omitempty"`
	progress
}

// progress is what a handler may change.
type progress struct {
	Attempts   int       `json:"attempts,omitempty"`
	Rejections int       `json:"rejections,omitempty"`
	Postponed  int       `json:"postponed,omitempty"`
	Log        []attempt `json:"log,omitempty"`
}

// attempt is a callhook.Attempt whose texts keep their bytes.
type attempt struct {
	callhook.Attempt
	Remote text `json:"remote,omitempty"`
	Error  text `json:"error,omitempty"`
	Reply  text `json:"reply,omitempty"`
}

// text is a string that keeps its bytes in JSON, also those that are not UTF-8.
type text string

func (t text) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(t)) {
		return json.Marshal(string(t))
	}
	return json.Marshal([]string{base64.StdEncoding.EncodeToString([]byte(t))})
}

func (t *text) UnmarshalJSON(data []byte) error {
	var raw []string
	if len(data) > 0 && data[0] == '[' {
		if err := json.Unmarshal(data, &raw); err != nil || len(raw) != 1 {
			return errBroken
		}
		b, err := base64.StdEncoding.DecodeString(raw[0])
		*t = text(b)
		return err
	}
	return json.Unmarshal(data, (*string)(t))
}

func texts(from []string) []text {
	to := make([]text, len(from))
	for i, s := range from {
		to[i] = text(s)
	}
	return to
}

func plain(from []text) []string {
	if len(from) == 0 {
		return nil
	}
	to := make([]string, len(from))
	for i, s := range from {
		to[i] = string(s)
	}
	return to
}

func pairs(from map[string]string) (to [][2]text) {
	for k, v := range from {
		to = append(to, [2]text{text(k), text(v)})
	}
	return to
}

func table(from [][2]text) map[string]string {
	if len(from) == 0 {
		return nil
	}
	to := make(map[string]string, len(from))
	for _, kv := range from {
		to[string(kv[0])] = string(kv[1])
	}
	return to
}

var errBroken = errors.New("the message is none of the queue's")

// encode writes a delivery into a message.
func encode(msg *nats.Msg, d *callhook.Delivery, ix index) error {
	ix.ID, ix.Tenant, ix.Agent, ix.Webhook, ix.Lane, ix.Call = text(d.ID), text(d.Tenant), text(d.Agent), text(d.Webhook), text(d.Lane), text(d.Call)
	ix.Ordered, ix.EnqueuedAt, ix.Numbers, ix.Attempts = d.Ordered, d.EnqueuedAt, texts(d.Numbers), d.Attempts
	head, err := json.Marshal(&ix)
	if err != nil {
		return err
	}
	r := rest{
		Type: text(d.Type), Event: text(d.Event), At: d.At, Sealed: text(d.Sealed), BuildError: text(d.BuildError), ReplayOf: text(d.ReplayOf),
		progress: progressOf(d),
	}
	r.Values, r.Trace = pairs(d.Values), pairs(d.TraceContext)
	body, err := json.Marshal(&r)
	if err != nil {
		return err
	}
	msg.Header.Set(headerIndex, string(head))
	data := make([]byte, 0, 2*binary.MaxVarintLen64+len(body)+len(d.Record)+len(d.Body))
	data = binary.AppendUvarint(data, uint64(len(body)))
	data = binary.AppendUvarint(data, uint64(len(d.Record)))
	msg.Data = append(append(append(data, body...), d.Record...), d.Body...)
	return nil
}

func progressOf(d *callhook.Delivery) progress {
	p := progress{Attempts: d.Attempts, Rejections: d.Rejections, Postponed: d.Postponed}
	for _, a := range d.Log {
		p.Log = append(p.Log, attempt{a, text(a.Remote), text(a.Error), text(a.Reply)})
	}
	return p
}

func (p *progress) apply(d *callhook.Delivery) {
	d.Attempts, d.Rejections, d.Postponed, d.Log = p.Attempts, p.Rejections, p.Postponed, nil
	for _, a := range p.Log {
		a.Attempt.Remote, a.Attempt.Error, a.Attempt.Reply = string(a.Remote), string(a.Error), string(a.Reply)
		d.Log = append(d.Log, a.Attempt)
	}
}

func decodeProgress(data []byte, d *callhook.Delivery) error {
	var p progress
	if err := json.Unmarshal(data, &p); err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	p.apply(d)
	return nil
}

// indexOf reads the header of a message; ok is false for one that is no delivery any
// more, or never was.
func indexOf(h nats.Header) (ix index, ok bool) {
	value := h.Get(headerIndex)
	return ix, value != "" && json.Unmarshal([]byte(value), &ix) == nil && ix.ID != ""
}

// decode reads a delivery.
func decode(h nats.Header, data []byte) (*callhook.Delivery, error) {
	ix, ok := indexOf(h)
	if !ok {
		return nil, errBroken
	}
	n, size := binary.Uvarint(data)
	if size <= 0 {
		return nil, errBroken
	}
	data = data[size:]
	m, size := binary.Uvarint(data)
	if size <= 0 {
		return nil, errBroken
	}
	data = data[size:]
	if n > uint64(len(data)) || m > uint64(len(data))-n {
		return nil, errBroken
	}
	var r rest
	if err := json.Unmarshal(data[:n], &r); err != nil {
		return nil, fmt.Errorf("%w: %w", errBroken, err)
	}
	d := &callhook.Delivery{
		ID: string(ix.ID), Tenant: string(ix.Tenant), Agent: string(ix.Agent), Webhook: string(ix.Webhook), Lane: string(ix.Lane), Call: string(ix.Call),
		Ordered: ix.Ordered, EnqueuedAt: ix.EnqueuedAt, Numbers: plain(ix.Numbers),
		Type: callhook.Type(r.Type), Event: callhook.EventType(r.Event), At: r.At, Sealed: string(r.Sealed), BuildError: string(r.BuildError), ReplayOf: string(r.ReplayOf),
	}
	r.apply(d)
	d.Values, d.TraceContext = table(r.Values), table(r.Trace)
	if m > 0 {
		d.Record = bytes.Clone(data[n : n+m])
	}
	d.Body = bytes.Clone(data[n+m:])
	return d, nil
}

// mark is what the header of a message of kind state or done says.
type mark struct {
	ID       text           `json:"id"`
	Tenant   text           `json:"tenant,omitempty"` // this and the next three where it is done
	Agent    text           `json:"agent,omitempty"`
	Webhook  text           `json:"webhook,omitempty"`
	Lane     text           `json:"lane,omitempty"`
	State    callhook.State `json:"state,omitempty"`
	At       time.Time      `json:"at,omitzero"`
	Attempts int            `json:"attempts,omitempty"`
	// Write tells one write from another, to know one's own again whose answer was lost.
	Write string `json:"write,omitempty"`
}

func (m mark) on(msg *nats.Msg) error {
	value, err := json.Marshal(&m)
	msg.Header.Set(headerIndex, string(value))
	return err
}

func markOf(h nats.Header) (m mark, ok bool) {
	value := h.Get(headerIndex)
	return m, value != "" && json.Unmarshal([]byte(value), &m) == nil && m.ID != ""
}

// tally is what the header of a message of kind lane says. What was delivered since is
// told by the messages of kind done, so that each need not write two.
type tally struct {
	Tenant    text  `json:"tenant,omitempty"`
	Agent     text  `json:"agent,omitempty"`
	Webhook   text  `json:"webhook,omitempty"`
	Lane      text  `json:"lane"`
	Delivered int64 `json:"delivered,omitempty"`
	Dead      int64 `json:"dead,omitempty"`
	Erased    int64 `json:"erased,omitempty"`
	// UpTo is up to which message Delivered has them all.
	UpTo uint64 `json:"up_to,omitempty"`
}

// checked is what the header of a message of kind part says: that all that was done up
// to there is in the lanes' counts, and has left nothing pending.
type checked struct {
	UpTo uint64 `json:"up_to"`
}

func (t tally) on(msg *nats.Msg) error {
	value, err := json.Marshal(&t)
	msg.Header.Set(headerIndex, string(value))
	return err
}

func tallyOf(h nats.Header) (t tally, ok bool) {
	value := h.Get(headerIndex)
	return t, value != "" && json.Unmarshal([]byte(value), &t) == nil
}

// The kinds of subjects: Name.KIND.PARTITION.ID.LANE, or what is said here.
const (
	kindPending = "pending" // a delivery as it was enqueued
	kindState   = "state"   // what its last verdict left behind, if it is pending still
	kindDead    = "dead"    // a dead letter, whole
	kindDone    = "done"    // Name.done.PARTITION.ID.OUTCOME: an ID that is remembered
	kindPart    = "part"    // Name.part.PARTITION: from where to read what is done
	kindLane    = "lane"    // Name.lane.PARTITION.LANE: what became of a lane's deliveries
	kindNode    = "node"    // Name.node.ID: a process that consumes, or may
	kindOwner   = "owner"   // Name.owner.PARTITION: whose it is
)

// place is what the subjects of a delivery are made from.
type place struct {
	part     int
	id, lane string
}

func (q *Queue) placeOf(id, lane string) place { return place{q.partOf(lane), token(id), token(lane)} }

func (q *Queue) subject(kind string, p place) string {
	return fmt.Sprintf("%s.%s.%d.%s.%s", q.o.Name, kind, p.part, p.id, p.lane)
}

// anywhere matches whatever there is of an ID.
func (q *Queue) anywhere(p place) string { return q.o.Name + ".*.*." + p.id + ".*" }

func (q *Queue) laneSubject(part int, lane string) string {
	return fmt.Sprintf("%s.%s.%d.%s", q.o.Name, kindLane, part, lane)
}

// partOf says which partition a lane is in. It must never change.
func (q *Queue) partOf(lane string) int {
	h := fnv.New32a()
	h.Write([]byte(lane))
	return int(h.Sum32() % uint32(q.o.Partitions))
}

const maxToken = 160

// token makes a part of a subject of any text. Different texts stay different: what
// cannot stand in a subject becomes = and two hexadecimal digits, and what is too long
// ends with a hash.
func token(s string) string {
	if s == "" {
		return "="
	}
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-_/%:@+,", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "=%02X", c)
		}
		if b.Len() > maxToken {
			sum := sha256.Sum256([]byte(s))
			return b.String()[:maxToken-50] + "=~" + hex.EncodeToString(sum[:16])
		}
	}
	return b.String()
}

// sameProgress reports whether a handler has left d as it was.
func sameProgress(d *callhook.Delivery, before *progress) bool {
	return d.Attempts == before.Attempts && d.Rejections == before.Rejections && d.Postponed == before.Postponed &&
		slices.EqualFunc(d.Log, before.Log, func(a callhook.Attempt, b attempt) bool {
			b.Attempt.Remote, b.Attempt.Error, b.Attempt.Reply = string(b.Remote), string(b.Error), string(b.Reply)
			return a == b.Attempt
		})
}
