package callhook

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/callhook-go/callhook/internal/jsonappend"
)

// Call is the runtime's record of one call: the plain struct that every verb
// takes. Fill in what is known; an empty field is sent as null, so that a
// receiver sees the same shape for every call.
//
// A Call is read while a verb runs and not kept. The verbs do not change it;
// [PreCallResult.Apply] does, when the runtime asks for it. It is not safe for
// use by several goroutines while one of them changes it.
//
// In JSON every time is RFC 3339 with milliseconds in UTC, and every field is
// present.
type Call struct {
	// ID names the call and never changes. All verbs need it: it is what makes
	// an event that is raised twice one delivery.
	ID string `json:"id"`
	// TenantID is the customer that the agent belongs to; empty in a
	// single-tenant runtime.
	TenantID string `json:"tenant_id"`
	// AgentID names the agent, and with TenantID the [Config]. All verbs need it.
	AgentID string `json:"agent_id"`
	// AgentName is the agent's name as people know it.
	AgentName string `json:"agent_name"`
	// ConfigRevision is the revision of the [Config] that the call began with.
	// [PreCallResult.Apply] sets it; zero means the one in production.
	ConfigRevision int `json:"config_revision"`

	// Direction is who called whom. PreCall takes an empty one for inbound.
	Direction Direction `json:"direction"`
	// Channel is how the call came, like "phone", "sip" or "web".
	Channel string `json:"channel"`
	// From is the calling number, best in E.164 ("+442079460123"). Empty when
	// the caller withheld it.
	From string `json:"from"`
	// FromName is the caller's name as the network displays it.
	FromName string `json:"from_name"`
	// FromVerified is the STIR/SHAKEN attestation of From (ATIS-1000074): "A", "B" or "C".
	FromVerified string `json:"from_verified"`
	// To is the called number.
	To string `json:"to"`
	// ForwardedFrom is the number that forwarded the call to To.
	ForwardedFrom string `json:"forwarded_from"`
	// ProviderCallID is the telephony provider's name for the call, like a Twilio CallSid.
	ProviderCallID string `json:"provider_call_id"`
	// SIPHeaders are the headers of the INVITE that the runtime lets out. They
	// are sent only where a payload selects them.
	SIPHeaders map[string]string `json:"sip_headers"`

	// Status is where the call stands now.
	Status Status `json:"status"`
	// PreviousStatus is where it stood before.
	PreviousStatus Status `json:"previous_status"`
	// StatusReason says why it changed, like "busy" or a SIP cause.
	StatusReason string `json:"status_reason"`
	// StatusAt is when it changed. [Hooks.CallStatus] needs it or Sequence.
	StatusAt time.Time `json:"status_at"`
	// Sequence counts the status changes of the call, from 1. With it a
	// receiver can put events in order, and two changes to the same status at
	// the same time are two events.
	Sequence int64 `json:"sequence"`

	// StartedAt is when the call began to ring.
	StartedAt time.Time `json:"started_at"`
	// AnsweredAt is when it was answered; zero when it was not.
	AnsweredAt time.Time `json:"answered_at"`
	// EndedAt is when it ended. [Hooks.PostCall] needs it.
	EndedAt time.Time `json:"ended_at"`
	// AnalyzedAt is when summary, sentiment and evaluation were ready. Post-call
	// webhooks with "on": "analyzed" fire once it is set.
	AnalyzedAt time.Time `json:"analyzed_at"`
	// Timezone is the IANA name of the zone that the date filter uses for this
	// call, like "Europe/London". Empty means the Config's.
	Timezone string `json:"timezone"`

	// EndReason says why the call ended, in the runtime's words.
	EndReason string `json:"end_reason"`
	// EndedBy says who ended it, like "caller", "agent" or "system".
	EndedBy string `json:"ended_by"`
	// Transfers are the transfers that were tried, in order.
	Transfers []Transfer `json:"transfers"`
	// AnsweredBy says who answered an outbound call, like "human" or "machine".
	AnsweredBy string `json:"answered_by"`
	// Language is the language of the conversation (BCP 47, like "en-GB").
	Language string `json:"language"`
	// Tags are the runtime's labels for the call.
	Tags []string `json:"tags"`

	// Variables are the conversation's variables.
	Variables Variables `json:"variables"`
	// Secrets are the values of variables that the config declares secret, see
	// [PreCallResult.Apply]. They are in no JSON of the call, and in no payload.
	Secrets Variables `json:"-"`
	// Metadata is passed through to webhooks and never shown to the model.
	Metadata Object `json:"metadata"`
	// Collected is the data that the agent extracted from the conversation.
	Collected Object `json:"collected"`
	// Transcript is the conversation, turn by turn.
	Transcript []Turn `json:"transcript"`
	// Summary is the conversation in a few sentences, once analyzed.
	Summary string `json:"summary"`
	// Sentiment is the caller's mood, like "positive", once analyzed.
	Sentiment string `json:"sentiment"`
	// Successful says whether the call reached its goal; nil means not known.
	Successful *bool `json:"successful"`
	// Evaluation holds the results of the runtime's own criteria, once analyzed.
	Evaluation Object `json:"evaluation"`
	// Recording is the audio of the call.
	Recording *Recording `json:"recording"`
	// Cost is what the call cost. It is sent only where a payload selects it.
	Cost *Cost `json:"cost"`
	// Error is what went wrong in the runtime, for people.
	Error string `json:"error"`
}

// Direction says who called whom.
type Direction string

// The directions of a call.
const (
	Inbound  Direction = "inbound"
	Outbound Direction = "outbound"
	Web      Direction = "web"
)

// Transfer is one transfer that was tried during a call.
type Transfer struct {
	// To is where the call was sent: a number, a SIP URI or an agent's id.
	To string `json:"to"`
	// Type is how, like "cold", "warm" or "agent".
	Type string `json:"type"`
	// Status is how it went, like [StatusTransferConnected].
	Status Status `json:"status"`
	// Reason says why it failed.
	Reason string `json:"reason"`
	// StartedAt and EndedAt bound the attempt to transfer.
	StartedAt time.Time `json:"started_at"`
	EndedAt   time.Time `json:"ended_at"`
}

// Turn is one utterance or tool call of a conversation.
type Turn struct {
	// Role is who spoke: "agent", "user", "tool" or "system".
	Role string `json:"role"`
	// Text is what was said.
	Text string `json:"text"`
	// Start and End are seconds from the start of the call.
	Start float64 `json:"start"`
	End   float64 `json:"end"`
	// Tool is set when the turn is a tool call.
	Tool *ToolCall `json:"tool"`
}

// ToolCall is what the agent asked a tool and what it answered.
type ToolCall struct {
	// Name is the tool's, ID the call's among the conversation's tool calls.
	Name string `json:"name"`
	ID   string `json:"id"`
	// Arguments are what the model passed, as JSON. They often hold personal
	// data, so the default payload leaves them out.
	Arguments json.RawMessage `json:"arguments,omitempty"`
	// Result is what the tool returned, as JSON.
	Result json.RawMessage `json:"result"`
}

// Recording is the audio of a call.
type Recording struct {
	// URL is where the audio is.
	URL string `json:"url"`
	// ExpiresAt is when the URL stops working; zero means never.
	ExpiresAt time.Time `json:"expires_at"`
	// Channels is 1 for mixed audio and 2 for one channel a side.
	Channels int `json:"channels"`
}

// Cost is what a call cost. Amounts are decimal texts, so that 1.10 arrives as 1.10.
type Cost struct {
	// Total is the sum, Currency its ISO 4217 code, Parts what it is made of, by
	// the runtime's names.
	Total    json.Number            `json:"total"`
	Currency string                 `json:"currency"`
	Parts    map[string]json.Number `json:"parts"`
}

// Object is a JSON object whose values keep their bytes: decoded from JSON, its
// numbers are [json.Number], so a 20-digit id or a price of 1.10 arrives at the
// receiver as it was.
type Object map[string]any

// UnmarshalJSON decodes a JSON object or null.
func (o *Object) UnmarshalJSON(data []byte) error {
	return decodeObject(data, (*map[string]any)(o))
}

// MarshalJSON encodes o with its keys sorted and its values' bytes kept.
func (o Object) MarshalJSON() ([]byte, error) { return jsonappend.Object(nil, o) }

func decodeObject(data []byte, into *map[string]any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return d.Decode(into)
}

// MarshalJSON writes every field, null where nothing is known.
//
// encoding/json escapes <, > and & in what this returns, unless an Encoder with
// SetEscapeHTML(false) calls it. Payloads are not built that way: they keep the
// bytes.
func (c Call) MarshalJSON() ([]byte, error) { return appendCall(nil, &c) }

// MarshalJSON writes times as RFC 3339 with milliseconds.
func (t Transfer) MarshalJSON() ([]byte, error) { return appendTransfer(nil, &t), nil }

// MarshalJSON writes times as RFC 3339 with milliseconds.
func (r Recording) MarshalJSON() ([]byte, error) { return appendRecording(nil, &r), nil }

// talked returns how long the parties talked: from answer to end.
func (c *Call) talked() (time.Duration, bool) { return between(c.AnsweredAt, c.EndedAt) }

// lasted returns how long the call took from its first ring to its end.
func (c *Call) lasted() (time.Duration, bool) { return between(c.StartedAt, c.EndedAt) }

func between(from, to time.Time) (time.Duration, bool) {
	if from.IsZero() || to.IsZero() || to.Before(from) {
		return 0, false
	}
	return to.Sub(from), true
}

// customerNumber is the number of the human side: who called on an inbound
// call, who was called on an outbound one.
func (c *Call) customerNumber() string {
	if c.Direction == Outbound {
		return c.To
	}
	return c.From
}

// check returns an error that names the first field that a verb needs and does
// not find.
func (c *Call) check(verb string) error {
	switch {
	case c == nil:
		return fmt.Errorf("%w: %s needs a call, got nil", ErrInvalidCall, verb)
	case c.ID == "":
		return fmt.Errorf("%w: call.id is empty: %s needs it to know the call's events apart", ErrInvalidCall, verb)
	case c.AgentID == "":
		return fmt.Errorf("%w: call.agent_id is empty: %s needs it to find the agent's webhooks", ErrInvalidCall, verb)
	}
	return nil
}

func appendCall(dst []byte, c *Call) ([]byte, error) {
	var err error
	dst = append(dst, '{')
	for i, f := range callFields {
		if f.derived {
			continue
		}
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, f.key...)
		if dst, err = f.append(dst, c); err != nil {
			return dst, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return append(dst, '}'), nil
}

func appendTransfer(dst []byte, t *Transfer) []byte {
	dst = jsonappend.StringOrNull(append(dst, `{"to":`...), t.To)
	dst = jsonappend.StringOrNull(append(dst, `,"type":`...), t.Type)
	dst = jsonappend.StringOrNull(append(dst, `,"status":`...), t.Status)
	dst = jsonappend.StringOrNull(append(dst, `,"reason":`...), t.Reason)
	dst = jsonappend.Time(append(dst, `,"started_at":`...), t.StartedAt)
	dst = jsonappend.Time(append(dst, `,"ended_at":`...), t.EndedAt)
	return append(dst, '}')
}

func appendRecording(dst []byte, r *Recording) []byte {
	if r == nil {
		return append(dst, "null"...)
	}
	dst = jsonappend.StringOrNull(append(dst, `{"url":`...), r.URL)
	dst = jsonappend.Time(append(dst, `,"expires_at":`...), r.ExpiresAt)
	dst = append(dst, `,"channels":`...)
	if r.Channels == 0 {
		dst = append(dst, "null"...)
	} else {
		dst = strconv.AppendInt(dst, int64(r.Channels), 10)
	}
	return append(dst, '}')
}

func appendCost(dst []byte, c *Cost) ([]byte, error) {
	if c == nil {
		return append(dst, "null"...), nil
	}
	dst, err := jsonappend.Number(append(dst, `{"total":`...), c.Total)
	if err != nil {
		return dst, fmt.Errorf("total: %w", err)
	}
	dst = jsonappend.StringOrNull(append(dst, `,"currency":`...), c.Currency)
	dst = append(dst, `,"parts":`...)
	if dst, err = jsonappend.Any(dst, c.Parts); err != nil {
		return dst, fmt.Errorf("parts: %w", err)
	}
	return append(dst, '}'), nil
}

// appendTranscript writes the turns, with the arguments of tool calls or without.
func appendTranscript(dst []byte, turns []Turn, arguments bool) ([]byte, error) {
	if turns == nil {
		return append(dst, "null"...), nil
	}
	var err error
	dst = append(dst, '[')
	for i := range turns {
		t := &turns[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = jsonappend.StringOrNull(append(dst, `{"role":`...), t.Role)
		dst = jsonappend.String(append(dst, `,"text":`...), t.Text)
		if dst, err = jsonappend.Float(append(dst, `,"start":`...), t.Start); err != nil {
			return dst, fmt.Errorf("%d.start: %w", i, err)
		}
		if dst, err = jsonappend.Float(append(dst, `,"end":`...), t.End); err != nil {
			return dst, fmt.Errorf("%d.end: %w", i, err)
		}
		dst = append(dst, `,"tool":`...)
		if t.Tool == nil {
			dst = append(dst, "null}"...)
			continue
		}
		dst = jsonappend.StringOrNull(append(dst, `{"name":`...), t.Tool.Name)
		dst = jsonappend.StringOrNull(append(dst, `,"id":`...), t.Tool.ID)
		if arguments {
			if dst, err = jsonappend.Raw(append(dst, `,"arguments":`...), t.Tool.Arguments); err != nil {
				return dst, fmt.Errorf("%d.tool.arguments: %w", i, err)
			}
		}
		if dst, err = jsonappend.Raw(append(dst, `,"result":`...), t.Tool.Result); err != nil {
			return dst, fmt.Errorf("%d.tool.result: %w", i, err)
		}
		dst = append(dst, "}}"...)
	}
	return append(dst, ']'), nil
}
