package platforms_test

import (
	"testing"
	"time"

	"github.com/callhook-go/callhook/callhooktest/platforms"
)

func TestZendesk(t *testing.T) {
	bubble(t, func(t *testing.T) {
		z := platforms.NewZendesk(t)
		host := at(t, z.Endpoint, "Authorization: Basic "+z.Credentials())
		const path = "/api/v2/tickets.json"
		const good = `{"ticket":{"subject":"Call back","comment":{"html_body":"<p>x</p>","public":false},"external_id":"call_1","priority":"high","tags":["phone"]}}`
		blank := map[string]string{"error": "RecordInvalid", "description": "Record validation errors", "details.base.0.error": "BlankValue"}
		host.play([]step{
			{"made", "POST", path, good, []string{"Idempotency-Key: a"}, 201, map[string]string{"ticket.id": "1", "ticket.external_id": "call_1", "ticket.tags.0": "phone"}},
			{"again", "POST", path, good, []string{"Idempotency-Key: a"}, 201, map[string]string{"ticket.id": "1"}},
			{"the same key for another", "POST", path, `{"ticket":{"comment":{"body":"x"}}}`, []string{"Idempotency-Key: a"}, 400, map[string]string{"error": "IdempotentRequestError"}},
			{"without .json", "POST", "/api/v2/tickets", `{"ticket":{"comment":{"body":"x"}}}`, nil, 201, map[string]string{"ticket.id": "2"}},
			{"no comment", "POST", path, `{"ticket":{"subject":"x"}}`, nil, 422, blank},
			{"an empty comment", "POST", path, `{"ticket":{"subject":"x","comment":{"html_body":""}}}`, nil, 422, blank},
			{"a priority that is none", "POST", path, `{"ticket":{"comment":{"body":"x"},"priority":"highest"}}`, nil, 422, map[string]string{"error": "RecordInvalid"}},
			{"no ticket", "POST", path, `{"subject":"x"}`, nil, 400, nil},
			{"not JSON", "POST", path, `{`, nil, 400, nil},
			{"somebody else", "POST", path, good, []string{"Authorization: Basic bm9ib2R5"}, 401, map[string]string{"error": "Couldn't authenticate you"}},
		})
		wait(2 * time.Hour)
		host.play([]step{{"two hours later the key is forgotten", "POST", path, good, []string{"Idempotency-Key: a"}, 201, map[string]string{"ticket.id": "3"}}})
		tickets := z.Tickets()
		same(t, "tickets", 3, len(tickets))
		same(t, "a note for agents", false, *tickets[0].Comment.Public)
		z.Next(z.Limited(93 * time.Second))
		if a := host.send("POST", path, good); a.Status != 429 || a.Header.Get("Retry-After") != "93" {
			t.Errorf("%+v", a)
		}
	})
}

func TestResend(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := platforms.NewResend(t)
		e.PerSecond = 100
		host := at(t, e.Endpoint, "Authorization: Bearer "+e.Key)
		const good = `{"from":"Calls <calls@example.com>","to":["a@example.com","b@example.com"],"subject":"A call","html":"<p>x</p>"}`
		host.play([]step{
			{"sent", "POST", "/emails", good, []string{"Idempotency-Key: a"}, 200, nil},
			{"again", "POST", "/emails", good, []string{"Idempotency-Key: a"}, 200, nil},
			{"the same key for another", "POST", "/emails", `{"from":"a@example.com","to":"b@example.com","subject":"x","text":"x"}`, []string{"Idempotency-Key: a"}, 409, map[string]string{"name": "invalid_idempotent_request"}},
			{"to one", "POST", "/emails", `{"from":"a@example.com","to":"b@example.com","subject":"x","text":"x"}`, nil, 200, nil},
			{"to nobody", "POST", "/emails", `{"from":"a@example.com","to":[],"subject":"x","text":"x"}`, nil, 422, map[string]string{"name": "missing_required_field", "statusCode": "422"}},
			{"without words", "POST", "/emails", `{"from":"a@example.com","to":"b@example.com","subject":"x"}`, nil, 422, map[string]string{"name": "missing_required_field"}},
			{"from nowhere", "POST", "/emails", `{"from":"Calls","to":"b@example.com","subject":"x","text":"x"}`, nil, 422, map[string]string{"name": "validation_error"}},
			{"a wrong key", "POST", "/emails", good, []string{"Authorization: Bearer re_other"}, 403, map[string]string{"name": "invalid_api_key"}},
			{"no key", "POST", "/emails", good, []string{"Authorization: "}, 401, map[string]string{"name": "missing_api_key"}},
		})
		same(t, "who got the first", []string{"a@example.com", "b@example.com"}, e.Emails()[0].To)
		same(t, "sent", 2, len(e.Emails()))
		wait(24 * time.Hour)
		host.play([]step{{"a day later the key is forgotten", "POST", "/emails", good, []string{"Idempotency-Key: a"}, 200, nil}})
		same(t, "sent", 3, len(e.Emails()))
	})
}

func TestResendLimit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := platforms.NewResend(t)
		host := at(t, e.Endpoint, "Authorization: Bearer "+e.Key)
		send := func() answer {
			return host.send("POST", "/emails", `{"from":"a@example.com","to":"b@example.com","subject":"x","text":"x"}`)
		}
		if a := send(); a.Status != 200 || a.Header.Get("RateLimit-Limit") != "2" || a.Header.Get("RateLimit-Remaining") != "1" {
			t.Errorf("the first: %+v", a)
		}
		send()
		if a := send(); a.Status != 429 || a.at("name") != "rate_limit_exceeded" || a.Header.Get("Retry-After") != "1" {
			t.Errorf("the third: %+v", a)
		}
		wait(time.Second)
		if a := send(); a.Status != 200 {
			t.Errorf("a second later: %+v", a)
		}
	})
}
