package platforms

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/callhook-go/callhook/callhooktest"
)

// Zendesk is a fake of Zendesk's ticketing API, which has the host
// YOUR_SUBDOMAIN.zendesk.com. It plays the creation of tickets:
// https://developer.zendesk.com/api-reference/ticketing/tickets/tickets/#create-ticket.
// Change its fields before the first request.
//
// A ticket without a comment is answered with 422 and RecordInvalid. A repetition with
// the same Idempotency-Key within two hours makes no second ticket:
// https://developer.zendesk.com/api-reference/ticketing/introduction/.
type Zendesk struct {
	*callhooktest.Endpoint
	*platform

	// Email is the agent's, and Token the API token.
	Email, Token string

	tickets []ZendeskTicket
	keys    map[string]kept
}

// ZendeskTicket is a ticket that was made.
type ZendeskTicket struct {
	ID         int            `json:"id"`
	Subject    string         `json:"subject"`
	Comment    ZendeskComment `json:"comment,omitzero"`
	ExternalID string         `json:"external_id"`
	Priority   string         `json:"priority"`
	Type       string         `json:"type"`
	Tags       []string       `json:"tags"`
}

// ZendeskComment is the first comment of a ticket.
type ZendeskComment struct {
	Body     string `json:"body"`
	HTMLBody string `json:"html_body"`
	Public   *bool  `json:"public"` // nil means true
}

// kept is an answer that is given again to the same key.
type kept struct {
	body   []byte // of the request
	answer callhooktest.Answer
	until  time.Time
}

// NewZendesk returns an account without tickets. It ends with the test.
func NewZendesk(t testing.TB) *Zendesk {
	z := &Zendesk{platform: newPlatform(t), Email: "agent@example.com", Token: "zendesk-token-of-a-test", keys: map[string]kept{}}
	z.Endpoint, z.answer = z.endpoint, z.serve
	return z
}

// Credentials are what stands after Basic in the header Authorization:
// https://developer.zendesk.com/api-reference/introduction/security-and-auth/.
func (z *Zendesk) Credentials() string {
	return base64.StdEncoding.EncodeToString([]byte(z.Email + "/token:" + z.Token))
}

// Tickets returns the tickets that were made until now.
func (z *Zendesk) Tickets() []ZendeskTicket {
	z.mu.Lock()
	defer z.mu.Unlock()
	return slices.Clone(z.tickets)
}

// Limited is the answer to who makes too many requests, for [Zendesk.Next]:
// https://developer.zendesk.com/documentation/ticketing/using-the-zendesk-api/best-practices-for-avoiding-rate-limiting/.
func (z *Zendesk) Limited(retryAfter time.Duration) callhooktest.Answer {
	a := text(http.StatusTooManyRequests, "Number of allowed API requests per minute exceeded")
	a.Header.Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	return a
}

func (z *Zendesk) serve(r *callhooktest.Request) callhooktest.Answer {
	if r.Method != http.MethodPost || strings.TrimSuffix(r.URL.Path, ".json") != "/api/v2/tickets" {
		return z.unplayed("%s %s of Zendesk", r.Method, r.URL.Path)
	}
	if r.Header.Get("Authorization") != "Basic "+z.Credentials() {
		return reply(http.StatusUnauthorized, object{"error": "Couldn't authenticate you"})
	}
	key := r.Header.Get("Idempotency-Key")
	if k, ok := z.keys[key]; ok && key != "" && time.Now().Before(k.until) {
		if !bytes.Equal(k.body, r.Body) {
			return reply(http.StatusBadRequest, object{"error": "IdempotentRequestError", "description": "Request parameters don't match the given idempotency key"})
		}
		a := k.answer
		a.Header = a.Header.Clone()
		a.Header.Set("X-Idempotency-Lookup", "hit")
		return a
	}
	a := z.create(r.Body)
	if key != "" && a.Status == http.StatusCreated {
		a.Header.Set("X-Idempotency-Lookup", "miss")
		z.keys[key] = kept{r.Body, a, time.Now().Add(2 * time.Hour)}
	}
	return a
}

func (z *Zendesk) create(body []byte) callhooktest.Answer {
	var in struct{ Ticket *ZendeskTicket }
	if err := json.Unmarshal(body, &in); err != nil {
		return text(http.StatusBadRequest, "The request is not JSON: "+err.Error())
	}
	invalid := func(field, what, code string) callhooktest.Answer {
		return reply(http.StatusUnprocessableEntity, object{
			"error": "RecordInvalid", "description": "Record validation errors",
			"details": object{field: []object{{"description": what, "error": code}}},
		})
	}
	t := in.Ticket
	switch {
	case t == nil:
		return text(http.StatusBadRequest, "The request has no ticket")
	case t.Comment.Body == "" && t.Comment.HTMLBody == "": // the only property that is required
		return invalid("base", "Description: cannot be blank", "BlankValue")
	case t.Priority != "" && !slices.Contains([]string{"urgent", "high", "normal", "low"}, t.Priority):
		return invalid("priority", "Priority: "+t.Priority+" is not valid", "InvalidValue")
	case t.Type != "" && !slices.Contains([]string{"problem", "incident", "question", "task"}, t.Type):
		return invalid("type", "Type: "+t.Type+" is not valid", "InvalidValue")
	}
	t.ID = z.id()
	z.tickets = append(z.tickets, *t)
	shown := *t
	shown.Comment = ZendeskComment{} // an answer has a description instead
	a := reply(http.StatusCreated, object{"ticket": shown, "audit": object{"ticket_id": t.ID}})
	a.Header.Set("Location", "/api/v2/tickets/"+strconv.Itoa(t.ID)+".json")
	return a
}
