package sqlitequeue

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/callhook-go/callhook"
)

// record is a delivery as it is stored. It is made by the goroutine that
// enqueues, so that the one that writes has nothing left to do but that.
type record struct {
	d      *callhook.Delivery // the queue's own
	lane   *lane
	meta   []byte
	log    []byte // nil for none
	frozen uint32 // checksum of what never changes
	size   int64  // what it counts for, see sizeOf
}

// meta is what is stored of a delivery as JSON, because nothing searches it.
type meta struct {
	Type       callhook.Type      `json:"type"`
	Event      callhook.EventType `json:"event"`
	At         time.Time          `json:"at"`
	EnqueuedAt *time.Time         `json:"enqueued_at,omitempty"` // if nanoseconds since 1970 cannot say it
	Tenant     *string            `json:"tenant,omitempty"`      // if the lane has another
	Agent      *string            `json:"agent,omitempty"`
	Webhook    *string            `json:"webhook,omitempty"`
	ReplayOf   string             `json:"replay_of,omitempty"`
	BuildError string             `json:"build_error,omitempty"`
	Numbers    []string           `json:"numbers,omitempty"`
	Values     map[string]string  `json:"values,omitempty"`
	Sealed     string             `json:"sealed,omitempty"`
	SealedRaw  []byte             `json:"sealed_raw,omitempty"` // when JSON would change it
	Trace      map[string]string  `json:"trace,omitempty"`
	// Raw holds, in base64, the texts of ReplayOf, BuildError and Values, in this
	// order and the latter by key, when JSON would change them.
	Raw []string `json:"raw,omitempty"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// newRecord returns d as it is stored in the lane l.
func newRecord(d *callhook.Delivery, l *lane) (*record, error) {
	own := *d
	own.Log = slices.Clip(own.Log) // appending to it does not reach the caller's
	own.Seq, own.State, own.RetryAt, own.Reason = 0, "", time.Time{}, ""
	r := &record{d: &own, lane: l}
	var err error
	if r.meta, err = encodeMeta(&own, l); err != nil {
		return nil, err
	}
	if r.log, err = encodeLog(own.Log); err != nil {
		return nil, err
	}
	r.frozen = frozenSum(&own, r.meta)
	r.size = sizeOf(&own, r.meta, r.log)
	return r, nil
}

// sizeOf is what a delivery counts for, see Options.MaxTenantBytes. What is pending
// is counted so in the database too: see sizeInSQL.
func sizeOf(d *callhook.Delivery, meta, log []byte) int64 {
	return int64(512 + len(meta) + len(log) + len(d.Body) + len(d.Record))
}

// sizeInSQL is the same of a row d of deliveries and b of bodies.
const sizeInSQL = `512 + coalesce(octet_length(d.meta), 0) + coalesce(octet_length(d.log), 0) + coalesce(octet_length(b.body), 0) + coalesce(octet_length(b.record), 0)`

func encodeMeta(d *callhook.Delivery, l *lane) ([]byte, error) {
	same := d.Tenant == l.Tenant && d.Agent == l.Agent && d.Webhook == l.Webhook
	if same && plain(string(d.Type)) && plain(string(d.Event)) && plain(d.Sealed) && d.Values == nil && d.BuildError == "" && d.ReplayOf == "" && d.Numbers == nil && d.TraceContext == nil && nanos(d.EnqueuedAt) {
		// What most are, without the cost of reflection.
		b := make([]byte, 0, 112)
		b = append(b, `{"type":"`...)
		b = append(b, d.Type...)
		b = append(b, `","event":"`...)
		b = append(b, d.Event...)
		b = append(b, `","at":"`...)
		if y := d.At.Year(); y >= 0 && y < 10_000 {
			b = append(d.At.AppendFormat(b, time.RFC3339Nano), '"')
			if d.Sealed != "" {
				b = append(append(append(b, `,"sealed":"`...), d.Sealed...), '"')
			}
			return append(b, '}'), nil
		}
	}
	m := meta{
		Type: d.Type, Event: d.Event, At: d.At, ReplayOf: d.ReplayOf, BuildError: d.BuildError, Numbers: d.Numbers, Values: d.Values, Sealed: d.Sealed, Trace: d.TraceContext,
	}
	if !utf8.ValidString(m.Sealed) {
		m.Sealed, m.SealedRaw = "", []byte(m.Sealed)
	}
	if !nanos(d.EnqueuedAt) {
		m.EnqueuedAt = &d.EnqueuedAt
	}
	if !same {
		m.Tenant, m.Agent, m.Webhook = &d.Tenant, &d.Agent, &d.Webhook
	}
	if !m.valid() {
		m.toRaw()
	}
	return json.Marshal(&m)
}

// nanos reports whether nanoseconds since 1970 say t.
func nanos(t time.Time) bool {
	y := t.Year()
	return y > 1680 && y < 2260
}

// plain reports whether a text stands in JSON as it is.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

func (m *meta) valid() bool {
	ok := utf8.ValidString(m.ReplayOf) && utf8.ValidString(m.BuildError)
	for k, v := range m.Values {
		ok = ok && utf8.ValidString(k) && utf8.ValidString(v)
	}
	for _, n := range m.Numbers {
		ok = ok && utf8.ValidString(n)
	}
	return ok
}

// toRaw makes m say texts as bytes, since JSON holds only valid UTF-8.
func (m *meta) toRaw() {
	add := func(s string) { m.Raw = append(m.Raw, base64.StdEncoding.EncodeToString([]byte(s))) }
	add(m.ReplayOf)
	add(m.BuildError)
	add(strconv.Itoa(len(m.Numbers)))
	for _, n := range m.Numbers {
		add(n)
	}
	for k, v := range m.Values {
		add(k)
		add(v)
	}
	m.ReplayOf, m.BuildError, m.Numbers, m.Values = "", "", nil, nil
}

var errMeta = errors.New("its meta makes no sense")

func (m *meta) fromRaw() error {
	texts := make([]string, len(m.Raw))
	for i, r := range m.Raw {
		b, err := base64.StdEncoding.DecodeString(r)
		if err != nil {
			return err
		}
		texts[i] = string(b)
	}
	if len(texts) < 3 {
		return errMeta
	}
	m.ReplayOf, m.BuildError = texts[0], texts[1]
	n, err := strconv.Atoi(texts[2])
	if rest := texts[3:]; err != nil || n < 0 || n > len(rest) || (len(rest)-n)%2 != 0 {
		return errMeta
	} else if n > 0 {
		m.Numbers = rest[:n]
		texts = rest[n:]
	} else {
		texts = rest
	}
	for i := 0; i < len(texts); i += 2 {
		if m.Values == nil {
			m.Values = map[string]string{}
		}
		m.Values[texts[i]] = texts[i+1]
	}
	return nil
}

func decodeMeta(text []byte) (*meta, error) {
	m := new(meta)
	if err := json.Unmarshal(text, m); err != nil {
		return nil, err
	}
	if m.Raw != nil {
		return m, m.fromRaw()
	}
	return m, nil
}

// applyMeta decodes meta into d, whose other fields are set already.
func applyMeta(d *callhook.Delivery, text []byte) error {
	m, err := decodeMeta(text)
	if err != nil {
		return err
	}
	d.Type, d.Event, d.At, d.ReplayOf, d.BuildError, d.Numbers, d.Values = m.Type, m.Event, m.At, m.ReplayOf, m.BuildError, m.Numbers, m.Values
	if d.Sealed = m.Sealed; m.SealedRaw != nil {
		d.Sealed = string(m.SealedRaw)
	}
	d.TraceContext = m.Trace
	if m.EnqueuedAt != nil {
		d.EnqueuedAt = *m.EnqueuedAt
	}
	for to, from := range map[*string]*string{&d.Tenant: m.Tenant, &d.Agent: m.Agent, &d.Webhook: m.Webhook} {
		if from != nil {
			*to = *from
		}
	}
	return nil
}

func encodeLog(log []callhook.Attempt) ([]byte, error) {
	if len(log) == 0 {
		return nil, nil
	}
	return json.Marshal(log)
}

// frozenSum is the checksum of what never changes.
func frozenSum(d *callhook.Delivery, meta []byte) uint32 {
	var buf [256]byte
	b := buf[:0]
	for _, s := range [...]string{d.ID, d.Call, d.Lane} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	if d.Ordered {
		b = append(b, 1)
	}
	if nanos(d.EnqueuedAt) {
		b = binary.AppendVarint(b, d.EnqueuedAt.UnixNano())
	}
	b = binary.AppendUvarint(b, uint64(len(meta)))
	b = append(b, meta...)
	b = binary.AppendUvarint(b, uint64(len(d.Body)))
	sum := crc32.Update(0, castagnoli, b)
	sum = crc32.Update(sum, castagnoli, d.Body)
	return crc32.Update(sum, castagnoli, d.Record)
}

// sumOf is the checksum of a record: frozen, and what attempts change.
func sumOf(frozen uint32, attempts, rejections, postponed int64, reason string, log []byte) int64 {
	var buf [64]byte
	b := binary.AppendVarint(buf[:0], attempts)
	b = binary.AppendVarint(b, rejections)
	b = binary.AppendVarint(b, postponed)
	b = append(b, reason...)
	sum := crc32.Update(0, castagnoli, b)
	sum = crc32.Update(sum, castagnoli, log)
	return int64(frozen)<<32 | int64(sum)
}
