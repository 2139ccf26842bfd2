package callhook

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// meaning is what an answer means for its delivery and its lane.
type meaning struct {
	kind       kind
	retryAfter time.Duration // what the answer asked for, bounded; zero for nothing
}

type kind int

const (
	success        kind = iota
	failed              // try again on the schedule
	rejected            // about this event: a few more times
	postponed           // come later: the lane is held
	tooLarge            // the receiver does not take it
	gone                // 410: the lane is held until somebody acts
	held                // nothing was sent: a secret is missing
	blockedAddress      // nothing was sent: the URL is an address that must not be dialled
	sealedUp            // nothing was sent: the key that it was sealed with cannot be had
	damaged             // nothing was sent: what was stored was changed
	unsent              // nothing was sent, for a reason that may pass and is not the endpoint's
)

// judge says what an answer means. Its rows come from the Standard Webhooks
// specification 1.0.0, CloudEvents HTTP webhook 1.0 and the documented answers of
// receivers.
func judge(w *webhook, status int, header http.Header, reply []byte, now time.Time) meaning {
	after, asked := retryAfter(header.Get("Retry-After"), now)
	if w.success != nil {
		if w.success.met(status, reply) {
			return meaning{kind: success}
		}
		if status >= 200 && status <= 299 {
			return meaning{kind: failed}
		}
	}
	switch {
	case status >= 200 && status <= 299:
		return meaning{kind: success}
	case status == http.StatusTooManyRequests,
		status == http.StatusServiceUnavailable && asked,
		status == http.StatusBadRequest && bytes.Contains(bytes.ToLower(reply), []byte("queue is full")): // Make
		return meaning{kind: postponed, retryAfter: after}
	case status == http.StatusBadRequest, status == http.StatusConflict,
		status == http.StatusUnsupportedMediaType, status == http.StatusUnprocessableEntity:
		return meaning{kind: rejected}
	case status == http.StatusGone && !w.url.dynamic:
		return meaning{kind: gone}
	case status == http.StatusRequestEntityTooLarge, status == http.StatusRequestURITooLong, status == http.StatusRequestHeaderFieldsTooLarge:
		return meaning{kind: tooLarge, retryAfter: after}
	}
	return meaning{kind: failed}
}

// reads reports whether it takes the body of an answer with this status to say
// what the answer means.
func (s *Success) reads(status int) bool {
	return s != nil && s.Path != "" &&
		(len(s.Status) == 0 && status >= 200 && status <= 299 || slices.Contains(s.Status, status))
}

// text says what the answer was, for the log.
func (m meaning) text(status int) string {
	s := strings.TrimSpace(fmt.Sprintf("the endpoint answered %d %s", status, http.StatusText(status)))
	switch {
	case status >= 200 && status <= 299:
		s += ", which is not what the webhook's success asks for"
	case status >= 300 && status <= 399:
		s += ": redirects are not followed; write the final URL into the config"
	case m.kind == postponed && m.retryAfter > 0:
		s += fmt.Sprintf(": come again in %s", m.retryAfter)
	}
	return s
}

// retryAfter reads a Retry-After header (RFC 9110, section 10.2.3): seconds, or
// an HTTP date. What is negative, past or not a number is ignored; the rest is
// bounded to 1 second to 1 hour.
func retryAfter(value string, now time.Time) (time.Duration, bool) {
	const least, most = time.Second, time.Hour
	value = strings.TrimSpace(value)
	if value == "" {
		return 0, false
	}
	digits := strings.Trim(value, "0123456789") == ""
	if digits {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(most/time.Second) { // more than fits is more than most
			return most, true
		}
		return max(least, time.Duration(seconds)*time.Second), true
	}
	at, err := http.ParseTime(value)
	if err != nil || !at.After(now) {
		return 0, false
	}
	return min(most, max(least, at.Sub(now))), true
}

// Rejected events are tried 5 times in an hour: after 1, 3, 9 and 27 minutes.
const maxRejections = 5

var rejectedRetry = Retry{Initial: Duration(time.Minute), Multiplier: 3, MaxInterval: Duration(time.Hour)}

// conclude counts the attempt and says what becomes of the delivery.
func (h *Hooks) conclude(w *webhook, d *Delivery, m meaning) Verdict {
	now := time.Now()
	switch m.kind {
	case success:
		d.Attempts++
		h.lanes.succeeded(d)
		return Delivered()
	case postponed:
		d.Postponed++
		h.lanes.comeLater(d, w, m.retryAfter)
		return Park()
	case gone:
		d.Postponed++
		h.lanes.postpone(d, w, ReasonGone, 0)
		return Park()
	case held:
		d.Postponed++
		if h.lanes.postpone(d, w, ReasonNoSecret, secretPause) {
			h.log.Warn("callhook: a webhook waits for a secret or credentials", "tenant", d.Tenant, "agent", d.Agent, "webhook", d.Webhook, "error", d.lastError())
		}
		return Park()
	case sealedUp: // others may have been sealed with another
		d.Postponed++
		return d.again(w, now.Add(secretPause))
	case damaged:
		return Dead(ReasonDamaged)
	case blockedAddress:
		d.Attempts++
		return Dead(ReasonBlockedAddress)
	case tooLarge:
		d.Attempts++
		h.lanes.refused(d)
		if m.retryAfter == 0 {
			return Dead(ReasonTooLarge)
		}
		return d.again(w, now.Add(m.retryAfter))
	case rejected:
		d.Attempts++
		h.lanes.refused(d)
		if d.Rejections++; d.Rejections >= maxRejections {
			return Dead(ReasonRejected)
		}
		return d.again(w, now.Add(pause(rejectedRetry, d.Rejections)))
	}
	d.Attempts++
	h.lanes.failed(d, w, m.kind == failed)
	return d.again(w, now.Add(pause(w.retry, d.Attempts)))
}

// again is the verdict of a delivery that is tried at t, if it may be.
func (d *Delivery) again(w *webhook, t time.Time) Verdict {
	switch {
	case w.retry.MaxAttempts > 0 && d.Attempts >= w.retry.MaxAttempts:
		return Dead(ReasonMaxAttempts)
	case t.Sub(d.EnqueuedAt) > time.Duration(w.retry.MaxAge):
		return Dead(ReasonExpired)
	}
	return RetryAt(t)
}

// pause returns how long to wait after the n-th failed attempt, from 1, give or
// take 20 %, so that deliveries that failed together do not come back together.
func pause(r Retry, n int) time.Duration {
	b := backoff.ExponentialBackOff{
		InitialInterval:     time.Duration(r.Initial),
		Multiplier:          r.Multiplier,
		MaxInterval:         time.Duration(r.MaxInterval),
		RandomizationFactor: 0.2,
		Clock:               backoff.SystemClock,
	}
	b.Reset()
	d := b.NextBackOff()
	for range min(n-1, 100) { // long after the cap is reached, however slowly it grows
		d = b.NextBackOff()
	}
	if most := time.Duration(r.MaxInterval); d > most { // backoff caps before it spreads
		d = 2*most - d
	}
	return d
}
