package platforms

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/mail"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/callhook-go/callhook/callhooktest"
)

// Resend is a fake of Resend's API for e-mail, which has the host api.resend.com. It plays
// the sending of one: https://resend.com/docs/api-reference/emails/send-email. Change its
// fields before the first request.
//
// Its faults are those of https://resend.com/docs/api-reference/errors. What is above its
// limit is answered with 429 and Retry-After:
// https://resend.com/docs/api-reference/rate-limit. A repetition with the same
// Idempotency-Key within a day sends nothing and has the same answer, with another
// content 409: https://resend.com/docs/dashboard/emails/idempotency-keys.
type Resend struct {
	*callhooktest.Endpoint
	*platform

	// Key is the API key.
	Key string
	// PerSecond is how many requests it takes in a second: 2, the lowest that its
	// documentation has had.
	PerSecond int

	emails []ResendEmail
	keys   map[string]kept
	all    window
}

// ResendEmail is one that was sent.
type ResendEmail struct {
	ID      string   `json:"-"`
	From    string   `json:"from"`
	To      []string `json:"to"`
	Subject string   `json:"subject"`
	HTML    string   `json:"html"`
	Text    string   `json:"text"`
}

// NewResend returns an account that has sent nothing. It ends with the test.
func NewResend(t testing.TB) *Resend {
	e := &Resend{platform: newPlatform(t), Key: "re_callhook_test", PerSecond: 2, keys: map[string]kept{}}
	e.Endpoint, e.answer = e.endpoint, e.serve
	return e
}

// Emails returns what was sent until now.
func (e *Resend) Emails() []ResendEmail {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.emails)
}

func (e *Resend) serve(r *callhooktest.Request) callhooktest.Answer {
	if r.Method != http.MethodPost || r.URL.Path != "/emails" {
		return e.unplayed("%s %s of Resend", r.Method, r.URL.Path)
	}
	left, wait, ok := e.all.take(e.PerSecond, time.Second)
	a := fault(http.StatusTooManyRequests, "rate_limit_exceeded", "Too many requests. Please limit the number of requests per second.")
	seconds := strconv.Itoa(int((wait + time.Second - 1) / time.Second))
	if ok {
		a = e.authorized(r)
	} else {
		a.Header.Set("Retry-After", seconds)
	}
	a.Header = a.Header.Clone()
	a.Header.Set("RateLimit-Limit", strconv.Itoa(e.PerSecond))
	a.Header.Set("RateLimit-Remaining", strconv.Itoa(left))
	a.Header.Set("RateLimit-Reset", seconds)
	return a
}

func (e *Resend) authorized(r *callhooktest.Request) callhooktest.Answer {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	key := r.Header.Get("Idempotency-Key")
	k, again := e.keys[key]
	again = again && key != "" && time.Now().Before(k.until)
	switch {
	case !ok:
		return fault(http.StatusUnauthorized, "missing_api_key", "Missing API key in the authorization header.")
	case token != e.Key:
		return fault(http.StatusForbidden, "invalid_api_key", "API key is invalid.")
	case len(key) > 256:
		return fault(http.StatusBadRequest, "invalid_idempotency_key", "The key must be between 1-256 chars.")
	case again && !bytes.Equal(k.body, r.Body):
		return fault(http.StatusConflict, "invalid_idempotent_request", "Same idempotency key used with a different request payload.")
	case again:
		return k.answer
	}
	a := e.send(r.Body)
	if key != "" && a.Status == http.StatusOK {
		e.keys[key] = kept{r.Body, a, time.Now().Add(24 * time.Hour)}
	}
	return a
}

func (e *Resend) send(body []byte) callhooktest.Answer {
	var in struct {
		ResendEmail
		To json.RawMessage `json:"to"` // one or a list
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return fault(http.StatusUnprocessableEntity, "validation_error", err.Error())
	}
	m := in.ResendEmail
	if json.Unmarshal(in.To, &m.To) != nil {
		var one string
		_ = json.Unmarshal(in.To, &one) // "" is refused below
		m.To = []string{one}
	}
	for _, f := range []struct {
		name    string
		missing bool
	}{{"from", m.From == ""}, {"to", len(m.To) == 0 || m.To[0] == ""}, {"subject", m.Subject == ""}, {"html", m.HTML == "" && m.Text == ""}} {
		if f.missing {
			return fault(http.StatusUnprocessableEntity, "missing_required_field", "Missing `"+f.name+"` field.")
		}
	}
	for _, address := range append([]string{m.From}, m.To...) {
		if _, err := mail.ParseAddress(address); err != nil {
			return fault(http.StatusUnprocessableEntity, "validation_error", "Invalid address: "+address)
		}
	}
	if len(m.To) > 50 {
		return fault(http.StatusUnprocessableEntity, "validation_error", "There may be 50 recipients at most.")
	}
	m.ID = e.uuid()
	e.emails = append(e.emails, m)
	return reply(http.StatusOK, object{"id": m.ID})
}

// fault is an error as Resend says it.
func fault(status int, name, message string) callhooktest.Answer {
	return reply(status, object{"statusCode": status, "name": name, "message": message})
}
