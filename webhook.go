package callhook

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Type is one of the three kinds of webhook.
type Type string

// The three webhooks.
const (
	// TypePreCall is the lookup on an inbound call, before the agent speaks.
	TypePreCall Type = "pre_call"
	// TypeCallStatus is the announcement of a change of status.
	TypeCallStatus Type = "call_status"
	// TypePostCall is the delivery of the call's data after it ended.
	TypePostCall Type = "post_call"
)

// EventType says on the wire what happened.
type EventType string

// The event types, as they stand in an envelope's "type".
const (
	EventInbound  EventType = "call.inbound"
	EventStatus   EventType = "call.status"
	EventEnded    EventType = "call.ended"
	EventAnalyzed EventType = "call.analyzed"
)

// Webhook returns the type of webhook that carries events of type e, "" when
// there is none.
func (e EventType) Webhook() Type {
	switch e {
	case EventInbound:
		return TypePreCall
	case EventStatus:
		return TypeCallStatus
	case EventEnded, EventAnalyzed:
		return TypePostCall
	}
	return ""
}

// Status is where a call stands. A runtime may use its own, in lower_snake form.
type Status string

// The statuses that callhook knows.
const (
	StatusQueued            Status = "queued"
	StatusRinging           Status = "ringing"
	StatusInProgress        Status = "in_progress"
	StatusVoicemail         Status = "voicemail"
	StatusTransferStarted   Status = "transfer_started"
	StatusTransferConnected Status = "transfer_connected"
	StatusTransferFailed    Status = "transfer_failed"
	StatusTransferCanceled  Status = "transfer_canceled"
	StatusCompleted         Status = "completed"
	StatusNoAnswer          Status = "no_answer"
	StatusBusy              Status = "busy"
	StatusRejected          Status = "rejected"
	StatusFailed            Status = "failed"
	StatusCanceled          Status = "canceled"
)

var knownStatuses = []Status{StatusQueued, StatusRinging, StatusInProgress, StatusVoicemail, StatusTransferStarted,
	StatusTransferConnected, StatusTransferFailed, StatusTransferCanceled, StatusCompleted, StatusNoAnswer, StatusBusy,
	StatusRejected, StatusFailed, StatusCanceled}

// Terminal reports whether a call with this status is over. A status that
// callhook does not know is not terminal.
func (s Status) Terminal() bool {
	switch s {
	case StatusCompleted, StatusNoAnswer, StatusBusy, StatusRejected, StatusFailed, StatusCanceled:
		return true
	}
	return false
}

// valid reports whether s is lower_snake.
func (s Status) valid() bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (i == 0 || c != '_' && (c < '0' || c > '9')) {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// Event is what a webhook tells: something happened to a call. Its JSON is the
// envelope of the Standard Webhooks specification, which receivers in Go decode
// into it after [Verify]. Fields that the integration did not select are empty.
type Event struct {
	ID        string    `json:"id"`        // the webhook-id: the same each time it is sent
	Type      EventType `json:"type"`      // what happened
	Timestamp time.Time `json:"timestamp"` // when it happened
	Data      EventData `json:"data"`      // to what
}

// EventData is the data of an [Event].
type EventData struct {
	Call *Call `json:"call"` // as far as it was selected
	// Truncated names the fields that were left out because the body would have
	// been too large with them.
	Truncated []string `json:"truncated,omitempty"`
}

// Endpoint is where and how a webhook is sent: what the three webhooks have in
// common.
//
// In URL and header values, {{ path | filter }} stands for data of the call and
// ${NAME} for a secret, resolved by [Options.Secrets] at each attempt. In a URL
// both may stand in path segments and query values only, so that neither a
// caller nor a secret chooses the host. Where data would leave a path segment
// empty, or make the path climb with "..", nothing is sent.
type Endpoint struct {
	// Name tells webhooks of one agent apart: in logs, in secrets' references
	// and in the identity of deliveries, so renaming a webhook makes it a new
	// one. Letters, digits, _ and -. Empty means the webhook's type.
	Name string `json:"name,omitempty"`
	// URL is an absolute http or https URL.
	URL string `json:"url"`
	// Method is GET or POST for pre-call (default POST), and POST, PUT or PATCH
	// for the others (default POST).
	Method string `json:"method,omitempty"`
	// Headers are added to the request, at most 50. Hop-by-hop and signature
	// headers are reserved.
	Headers map[string]string `json:"headers,omitempty"`
	// Secrets sign each request as Standard Webhooks says, each with its own
	// signature, so that a key can be replaced while both are valid: whsec_…
	// (HMAC-SHA256, signature v1) or whsk_… (Ed25519, signature v1a), best as
	// references: "${N8N_SECRET}". At most 10.
	Secrets []string `json:"secrets,omitempty"`
	// TLS is how the connection proves who it is, and to whom it talks. Left out,
	// no certificate is shown, and the system's authorities vouch for the endpoint.
	TLS *TLS `json:"tls,omitempty"`
	// Timeout bounds one attempt of a delivery in all (default 15s, at most
	// 60s), or a whole pre-call lookup (default 2s, at most 10s).
	Timeout Duration `json:"timeout,omitempty"`
	// Paused holds deliveries back, and skips lookups, until it is false again.
	Paused bool `json:"paused,omitempty"`
}

// TLS is an identity for endpoints that ask for one (mutual TLS), and an authority of
// the endpoint's own. All are references, like "${CRM_CLIENT_KEY}", to texts in PEM,
// resolved at each attempt like other secrets. A connection that was made with one
// identity is used for no other, and for no other tenant.
type TLS struct {
	// Certificate is the client's, with those between it and its authority after it,
	// and Key is the private key that belongs to it.
	Certificate string `json:"certificate,omitempty"`
	Key         string `json:"key,omitempty"`
	// CA are the certificates of the only authorities that may vouch for the endpoint.
	// Empty means those of [Options].RootCAs.
	CA string `json:"ca,omitempty"`
}

// PreCallWebhook is the lookup before the agent speaks.
type PreCallWebhook struct {
	Endpoint
	// Query is added to the URL's query, its values rendered.
	Query map[string]string `json:"query,omitempty"`
	// Body is a JSON template for POST: what the endpoint expects. Left out, the
	// envelope of a call.inbound event is sent.
	Body json.RawMessage `json:"body,omitempty"`
	// Directions are the calls that are looked up. Empty means inbound.
	Directions []Direction `json:"directions,omitempty"`
	// Response says how the reply is read. Left out, the reply's shape is
	// recognized.
	Response Response `json:"response,omitzero"`

	// HedgeAfter sends a second request when the first has not been answered for
	// so long; the first usable reply counts. Zero means never. It needs GET, or
	// Idempotent. HedgeShare is the share of lookups that may be sent twice; zero
	// means 0.1.
	HedgeAfter Duration `json:"hedge_after,omitempty"`
	HedgeShare float64  `json:"hedge_share,omitempty"`
	// Idempotent says that a POST may be sent twice.
	Idempotent bool `json:"idempotent,omitempty"`
	// Cache is how long a reply serves again for the same caller, in memory only;
	// at most 24h. Zero means not at all: it is personal data.
	Cache Duration `json:"cache,omitempty"`
	// StaleFor is how much longer a reply is kept, at most 24h. It serves while one
	// request looks for a newer one; and without Cache only when the endpoint
	// fails.
	StaleFor Duration `json:"stale_for,omitempty"`
	// CacheKey is a text with placeholders that says which calls get the same
	// reply. Empty means those with the same from and to. Calls from withheld
	// numbers share nothing.
	CacheKey string `json:"cache_key,omitempty"`
	// LateFor is how long after Timeout a reply is still waited for, at most 1m. It
	// arrives on [PreCallResult.Late]. Zero means not at all.
	LateFor Duration `json:"late_for,omitempty"`
	// Withheld says whether callers who withhold their number are looked up: "send"
	// (the default), or "skip". See [Withheld].
	Withheld string `json:"withheld,omitempty"`
}

// The values of [PreCallWebhook.Withheld].
const (
	WithheldSend = "send"
	WithheldSkip = "skip"
)

// Response says how the reply to a pre-call lookup is read.
type Response struct {
	// Variables maps a variable to a path in the reply, like
	// {"customer_name": "contact.first_name"}. It turns recognition off.
	Variables map[string]string `json:"variables,omitempty"`
	// Dialect names the shape of the reply, one of [Dialects]. It turns
	// recognition off.
	Dialect string `json:"dialect,omitempty"`
	// Unique is the path of an array of matches, or of their number. More than
	// one match gives no variables: two people may share a number.
	Unique string `json:"unique,omitempty"`
	// Required are variables that the agent cannot do well without: those that
	// have no value are reported in [PreCallResult.Missing]. The call goes on.
	Required []string `json:"required,omitempty"`
	// Directives are the directives that a reply may give, by name, like
	// "language" (see [Directives]). Others are dropped and reported.
	Directives []string `json:"directives,omitempty"`
}

// CallStatusWebhook is told when the status of a call changes.
type CallStatusWebhook struct {
	Endpoint
	DeliveryOptions
	// Statuses are those that are told. Empty means all.
	Statuses []Status `json:"statuses,omitempty"`
}

// PostCallWebhook gets the call's data after it ended.
type PostCallWebhook struct {
	Endpoint
	DeliveryOptions
	// On is "ended" (the default) or "analyzed": when summary, sentiment and
	// evaluation are there too.
	On string `json:"on,omitempty"`
}

// The values of [PostCallWebhook.On].
const (
	OnEnded    = "ended"
	OnAnalyzed = "analyzed"
)

// DeliveryOptions is what call-status and post-call webhooks have in common: what
// is sent, and how hard callhook tries.
type DeliveryOptions struct {
	// Payload is what is sent.
	Payload Payload `json:"payload,omitzero"`
	// Retry says how often and how long a delivery is tried.
	Retry Retry `json:"retry,omitzero"`
	// Concurrency is how many requests to the webhook run at once. Zero means 8;
	// at most 256.
	Concurrency int `json:"concurrency,omitempty"`
	// Rate bounds how many requests begin in a time: "5/s", "100/m" or "1000/h".
	// Empty means no bound. The rate is kept by each process by itself.
	Rate Rate `json:"rate,omitempty"`
	// Ordered holds the later events of a call back until the earlier are
	// delivered or dead. Without it only their first attempts are in order.
	Ordered bool `json:"ordered,omitempty"`
	// Success says when an answer means success, where that is not any 2xx.
	Success *Success `json:"success,omitempty"`
	// MaxBytes bounds the body. A larger one loses its transcript, and if that
	// is not enough becomes a dead letter. Zero means 4 MiB; at most 16 MiB.
	MaxBytes int `json:"max_bytes,omitempty"`
}

// Retry says how often and how long a delivery is tried after an answer that is no
// success. What an answer means follows the Standard Webhooks specification:
//
//   - 2xx: delivered (see [Success] for endpoints that mean it differently).
//   - 400, 409, 415, 422: the endpoint refuses this event. It is tried 5 times in
//     an hour, after 1, 3, 9 and 27 minutes, then dead: rejected.
//   - 413, 414, 431: dead: too_large; tried again if there is a Retry-After.
//   - 410: the webhook rests until its config changes or [Hooks.Resume]. What waits
//     longer than MaxAge dies.
//   - 429, 503 with Retry-After, Make's 400 "Queue is full": the webhook rests as
//     long as it is asked to, from 1 second to 1 hour, or 1 second growing to 15
//     minutes. That counts as no attempt.
//   - anything else, redirects among it, and no answer: tried again after a pause.
//     Pauses are spread by 20 %.
type Retry struct {
	// Initial is the pause after the first failed attempt. Zero means 5s.
	Initial Duration `json:"initial,omitempty"`
	// Multiplier makes each pause longer than the one before. Zero means 3.
	Multiplier float64 `json:"multiplier,omitempty"`
	// MaxInterval bounds a pause. Zero means 3h.
	MaxInterval Duration `json:"max_interval,omitempty"`
	// MaxAge is how long after the event it is still tried. Zero means 72h. Each
	// delivery is tried at least once, however long it waited, unless its endpoint
	// is gone (410).
	MaxAge Duration `json:"max_age,omitempty"`
	// MaxAttempts bounds the attempts. Zero means as many as fit into MaxAge.
	MaxAttempts int `json:"max_attempts,omitempty"`
}

// Success says when an answer means success. A 2xx that it does not call a success
// is tried again; other answers mean what [Retry] says.
type Success struct {
	// Status are the status codes that mean success. Empty means 200 to 299.
	// Google Apps Script does its work and answers 302.
	Status []int `json:"status,omitempty"`
	// Path is a path in the JSON of the answer whose value must be Equals: Zoho
	// puts the verdict on each record inside a 200.
	Path string `json:"path,omitempty"`
	// Equals is the JSON value that Path must have. It cannot be null.
	Equals json.RawMessage `json:"equals,omitempty"`
}

// Duration is a time.Duration that is a text in JSON, like "2s", "500ms" or "72h".
type Duration time.Duration

// String returns it as [time.Duration] does, but "72h" for "72h0m0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if short, ok := strings.CutSuffix(s, "m0s"); ok {
		s = short + "m"
	}
	if short, ok := strings.CutSuffix(s, "h0m"); ok {
		s = short + "h"
	}
	return s
}

// MarshalText writes it like "2s".
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what [time.ParseDuration] reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf(`%.40q is not a duration: write it with its unit, like "2s", "500ms" or "72h"`, text)
	}
	*d = Duration(v)
	return nil
}

// Rate is a number of requests in a time: "5/s", "100/m" or "1000/h".
type Rate string

// interval returns the time between two requests; zero for no bound.
func (r Rate) interval() (time.Duration, error) {
	if r == "" {
		return 0, nil
	}
	number, unit, _ := strings.Cut(string(r), "/")
	n, err := strconv.ParseUint(number, 10, 32)
	per := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}[unit]
	if err != nil || n < 1 || n > 100_000 || per == 0 {
		return 0, fmt.Errorf(`%.40q is not a rate: write a whole number, at most 100000, and a time, like "5/s", "100/m" or "1000/h"`, r)
	}
	return (per + time.Duration(n) - 1) / time.Duration(n), nil // never more than n
}
