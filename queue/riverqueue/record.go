package riverqueue

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/callhook-go/callhook"
	"github.com/jackc/pgx/v5/pgtype"
)

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
	Values     map[string]string  `json:"values,omitempty"`
	Sealed     string             `json:"sealed,omitempty"`
	Trace      map[string]string  `json:"trace_context,omitempty"`
}

func encodeMeta(d *callhook.Delivery, l *lane) (string, error) {
	m := meta{
		Type: callhook.Type(text(string(d.Type))), Event: callhook.EventType(text(string(d.Event))), At: d.At,
		ReplayOf: text(d.ReplayOf), BuildError: text(d.BuildError), Sealed: text(d.Sealed),
	}
	if enqueued := d.EnqueuedAt; !time.Unix(0, nanos(enqueued)).Equal(enqueued) {
		m.EnqueuedAt = &enqueued
	}
	for _, other := range []struct {
		of, lane string
		to       **string
	}{{d.Tenant, l.Tenant, &m.Tenant}, {d.Agent, l.Agent, &m.Agent}, {d.Webhook, l.Webhook, &m.Webhook}} {
		if other.of != other.lane {
			s := text(other.of)
			*other.to = &s
		}
	}
	m.Values, m.Trace = texts(d.Values, text), texts(d.TraceContext, text)
	b, err := json.Marshal(&m)
	return string(b), err
}

// applyMeta decodes meta into d, whose other fields are set already.
func applyMeta(d *callhook.Delivery, encoded string) error {
	var m meta
	if err := json.Unmarshal([]byte(encoded), &m); err != nil {
		return err
	}
	d.Type, d.Event, d.At = callhook.Type(plain(string(m.Type))), callhook.EventType(plain(string(m.Event))), m.At
	d.ReplayOf, d.BuildError, d.Sealed = plain(m.ReplayOf), plain(m.BuildError), plain(m.Sealed)
	if m.EnqueuedAt != nil {
		d.EnqueuedAt = *m.EnqueuedAt
	}
	for to, from := range map[*string]*string{&d.Tenant: m.Tenant, &d.Agent: m.Agent, &d.Webhook: m.Webhook} {
		if from != nil {
			*to = plain(*from)
		}
	}
	d.Values, d.TraceContext = texts(m.Values, plain), texts(m.Trace, plain)
	return nil
}

// encodeLog returns "" for no attempts.
func encodeLog(log []callhook.Attempt) (string, error) {
	if len(log) == 0 {
		return "", nil
	}
	own := append([]callhook.Attempt(nil), log...)
	for i := range own {
		own[i].Error, own[i].Reply, own[i].Remote = text(own[i].Error), text(own[i].Reply), text(own[i].Remote)
	}
	b, err := json.Marshal(own)
	return string(b), err
}

func decodeLog(encoded string) (log []callhook.Attempt, err error) {
	if encoded == "" {
		return nil, nil
	}
	err = json.Unmarshal([]byte(encoded), &log)
	for i := range log {
		log[i].Error, log[i].Reply, log[i].Remote = plain(log[i].Error), plain(log[i].Reply), plain(log[i].Remote)
	}
	return log, err
}

// Texts that Postgres does not take, which are those with a zero byte and those that
// are not UTF-8, are written with their odd bytes as two hexadecimal digits behind the
// control character SUB. So is SUB itself, and US, which joins the texts of a list.
const (
	sub  = '\x1a'
	unit = "\x1f"
)

// text writes s for the database, and plain reads it again.
func text(s string) string {
	if utf8.ValidString(s) && !strings.ContainsAny(s, "\x00\x1a\x1f") {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 || r == 0 || r == sub || r == rune(unit[0]) {
			b.WriteByte(sub)
			b.WriteString(hex.EncodeToString([]byte(s[:n])))
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

func plain(s string) string {
	if strings.IndexByte(s, sub) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == sub && i+2 < len(s) {
			if odd, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
				b.WriteByte(odd[0])
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// nanos is a time as nanoseconds since 1970, bounded by what that can say.
func nanos(t time.Time) int64 {
	switch y := t.Year(); {
	case y < 1680:
		return math.MinInt64
	case y > 2260:
		return math.MaxInt64
	}
	return t.UnixNano()
}

// texts returns a map with all that it says written or read.
func texts(m map[string]string, f func(string) string) map[string]string {
	if m == nil {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[f(k)] = f(v)
	}
	return out
}

// keyOf stands for a text of any length and any bytes.
func keyOf(s string) pgtype.UUID {
	sum := sha256.Sum256([]byte(s))
	return pgtype.UUID{Bytes: [16]byte(sum[:16]), Valid: true}
}

// hashOf is the same as a number, for an index that is smaller. What collides waits
// for each other without need.
func hashOf(s string) int64 {
	sum := sha256.Sum256([]byte(s))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}

// damaged says that a row is not what this package has written.
func damaged(seq int64, err error) error {
	return fmt.Errorf("delivery %d makes no sense: %w", seq, err)
}
