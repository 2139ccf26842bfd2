package otelhook

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/callhook-go/callhook"
)

// other is the error.type of what has no word of its own, as the semantic conventions
// have it.
const other = "_OTHER"

// failureOf returns the error.type of a lookup that fell back; empty for one that did
// not.
func failureOf(res *callhook.PreCallResult) string {
	switch res.Outcome {
	case callhook.OutcomeTimeout:
		return "timeout"
	case callhook.OutcomeOpen:
		return "open"
	case callhook.OutcomeFailed:
	default:
		return ""
	}
	err := res.Err
	if status, ok := errors.AsType[*callhook.StatusError](err); ok {
		return strconv.Itoa(status.Status)
	}
	for _, known := range []struct {
		err  error
		word string
	}{
		{callhook.ErrBadReply, "bad_reply"},
		{callhook.ErrQuota, "quota"},
		{callhook.ErrNoSecret, "no_secret"},
		{callhook.ErrBadKey, "bad_key"},
		{callhook.ErrBadCertificate, "bad_certificate"},
		{callhook.ErrInvalidCall, "invalid_call"},
		{callhook.ErrClosed, "closed"},
		{context.Canceled, "canceled"},
	} {
		if errors.Is(err, known.err) {
			return known.word
		}
	}
	if err == nil {
		return other
	}
	return word(err.Error())
}

// attemptFailure returns the error.type of an attempt; empty for one that arrived.
func attemptFailure(a callhook.Attempt) string {
	switch {
	case a.Error == "":
		return ""
	case a.Status != 0 && (a.Status < 200 || a.Status > 299):
		return strconv.Itoa(a.Status)
	}
	w := word(a.Error)
	if w == other && a.Status != 0 {
		return "not_accepted" // a 2xx that the webhook's "success" does not take
	}
	return w
}

// word returns one word for an error's text, which itself may hold a host's name or what
// the host's own functions say.
func word(text string) string {
	text = strings.TrimPrefix(text, "callhook: ")
	for _, known := range words {
		if strings.HasPrefix(text, known.prefix) {
			return known.word
		}
	}
	return other
}

var words = []struct{ prefix, word string }{
	{"timed out", "timeout"},
	{"canceled", "canceled"},
	{"no such host", "dns"},
	{"DNS lookup failed", "dns"},
	{"connection refused", "connection_refused"},
	{"connection reset", "connection_reset"},
	{"connection closed", "connection_closed"},
	{"host unreachable", "unreachable"},
	{"network unreachable", "unreachable"},
	{"TLS: ", "tls"},
	{"malformed", "malformed_response"},
	{"response headers too large", "malformed_response"},
	{"HTTP/2 error", "malformed_response"},
	{"address ", "blocked_address"},
	{"port ", "blocked_address"},
	{"${", "no_secret"},
	{"secrets[", "bad_key"},
	{"Options.Authorize: ", "unauthorized"},
}
