package platforms_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/callhooktest/platforms"
)

const (
	hubspotSearch = "/crm/v3/objects/contacts/search"
	hubspotCalls  = "/crm/v3/objects/calls"
)

func TestHubSpotSearch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := platforms.NewHubSpot(t)
		h.SearchesPerSecond = 1000
		ada := h.AddContact(map[string]string{"firstname": "Ada", "lastname": "Lovelace", "email": "ada@example.com", "phone": "+44 20 7946 0123", "vip_level": "3"})
		bob := h.AddContact(map[string]string{"firstname": "Bob", "mobilephone": "+1 (212) 555-0100"})
		host := at(t, h.Endpoint, "Authorization: Bearer "+h.Token)
		find := func(filters string) string { return `{"filterGroups":[` + filters + `]}` }
		one := func(property, operator, value string) string {
			return fmt.Sprintf(`{"filters":[{"propertyName":%q,"operator":%q,"value":%q}]}`, property, operator, value)
		}
		first := func(total, id string) map[string]string { return map[string]string{"total": total, "results.0.id": id} }
		host.play([]step{
			{"EQ on the standardized number", "POST", hubspotSearch, find(one("hs_searchable_calculated_phone_number", "EQ", "2079460123")), nil, 200, first("1", ada)},
			{"it has no country code", "POST", hubspotSearch, find(one("hs_searchable_calculated_phone_number", "EQ", "442079460123")), nil, 200, first("0", "")},
			{"the mobile one", "POST", hubspotSearch, find(one("hs_searchable_calculated_mobile_number", "EQ", "2125550100")), nil, 200, first("1", bob)},
			{"EQ on phone compares as it is written", "POST", hubspotSearch, find(one("phone", "EQ", "+442079460123")), nil, 200, first("0", "")},
			{"CONTAINS_TOKEN with *", "POST", hubspotSearch, find(one("phone", "CONTAINS_TOKEN", "*0123")), nil, 200, first("1", ada)},
			{"CONTAINS_TOKEN of a word", "POST", hubspotSearch, find(one("mobilephone", "CONTAINS_TOKEN", "212")), nil, 200, first("1", bob)},
			{"CONTAINS_TOKEN of a part of a word", "POST", hubspotSearch, find(one("phone", "CONTAINS_TOKEN", "794")), nil, 200, first("0", "")},
			{"CONTAINS_TOKEN as in the documentation", "POST", hubspotSearch, find(one("email", "CONTAINS_TOKEN", "*@example.com")), nil, 200, first("1", ada)},
			{"groups are alternatives", "POST", hubspotSearch, find(one("firstname", "EQ", "ada") + "," + one("firstname", "EQ", "BOB")), nil, 200, map[string]string{"total": "2"}},
			{"filters all have to fit", "POST", hubspotSearch, find(`{"filters":[{"propertyName":"firstname","operator":"EQ","value":"Ada"},{"propertyName":"phone","operator":"NOT_HAS_PROPERTY"}]}`), nil, 200, first("0", "")},
			{"IN", "POST", hubspotSearch, find(`{"filters":[{"propertyName":"firstname","operator":"IN","values":["zoe","ada"]}]}`), nil, 200, first("1", ada)},
			{"a page", "POST", hubspotSearch, `{"limit":1}`, nil, 200, map[string]string{"total": "2", "results.#": "1", "paging.next.after": "1"}},
			{"the next page", "POST", hubspotSearch, `{"limit":1,"after":"1"}`, nil, 200, map[string]string{"results.0.id": bob, "paging.next.after": ""}},
			{"default properties", "POST", hubspotSearch, find(one("firstname", "EQ", "Ada")), nil, 200, map[string]string{
				"results.0.properties.lastname": "Lovelace", "results.0.properties.hs_object_id": ada, "results.0.properties.phone": ""}},
			{"those that are asked for, null where they are not set", "POST", hubspotSearch, `{"properties":["phone","company","nonsense"],"limit":1}`, nil, 200, map[string]string{
				"results.0.properties.phone": "+44 20 7946 0123", "results.0.properties.@keys": `["company","createdate","hs_object_id","lastmodifieddate","phone"]`, "results.0.properties.firstname": ""}},
			{"a property of one's own", "POST", hubspotSearch, find(one("vip_level", "EQ", "3")), nil, 200, first("1", ada)},
			{"an unknown property", "POST", hubspotSearch, find(one("phonenumber", "EQ", "1")), nil, 400, map[string]string{"category": "VALIDATION_ERROR", "status": "error"}},
			{"an unknown operator", "POST", hubspotSearch, find(one("phone", "EQUALS", "1")), nil, 400, map[string]string{"category": "VALIDATION_ERROR"}},
			{"too many at once", "POST", hubspotSearch, `{"limit":201}`, nil, 400, map[string]string{"category": "VALIDATION_ERROR"}},
			{"too many groups", "POST", hubspotSearch, find(strings.Repeat(one("phone", "EQ", "1")+",", 5) + one("phone", "EQ", "1")), nil, 400, map[string]string{"category": "VALIDATION_ERROR"}},
			{"not JSON", "POST", hubspotSearch, `{`, nil, 400, map[string]string{"category": "VALIDATION_ERROR"}},
			{"a bad token", "POST", hubspotSearch, `{}`, []string{"Authorization: Bearer pat-of-another"}, 401, map[string]string{"category": "INVALID_AUTHENTICATION", "status": "error"}},
		})
	})
}

func TestHubSpotCalls(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := platforms.NewHubSpot(t)
		h.CallProperties = []string{"agent_name"}
		ada := h.AddContact(map[string]string{"firstname": "Ada"})
		host := at(t, h.Endpoint, "Authorization: Bearer "+h.Token)
		call := func(properties, associations string) string {
			return `{"properties":{"hs_timestamp":"2026-03-02T09:30:00.000Z"` + properties + `},"associations":[` + associations + `]}`
		}
		to := func(id string) string {
			return `{"to":{"id":` + id + `},"types":[{"associationCategory":"HUBSPOT_DEFINED","associationTypeId":194}]}`
		}
		bad := map[string]string{"category": "VALIDATION_ERROR", "status": "error"}
		host.play([]step{
			{"taken", "POST", hubspotCalls, call(`,"hs_call_direction":"INBOUND","hs_call_duration":"38000","hs_call_status":"COMPLETED","agent_name":"Robin"`, to(`"`+ada+`"`)), nil, 201,
				map[string]string{"properties.hs_call_duration": "38000", "archived": "false"}},
			{"a number, a time in milliseconds and nobody to associate", "POST", hubspotCalls, `{"properties":{"hs_timestamp":1772443800000,"hs_call_duration":1}}`, nil, 201, nil},
			{"no hs_timestamp", "POST", hubspotCalls, `{"properties":{"hs_call_title":"x"}}`, nil, 400, map[string]string{"category": "VALIDATION_ERROR", "context.properties.0": "hs_timestamp"}},
			{"no time", "POST", hubspotCalls, `{"properties":{"hs_timestamp":"yesterday"}}`, nil, 400, bad},
			{"a direction of another system", "POST", hubspotCalls, call(`,"hs_call_direction":"inbound"`, ""), nil, 400, bad},
			{"a length in words", "POST", hubspotCalls, call(`,"hs_call_duration":"4:12"`, ""), nil, 400, bad},
			{"a property that nobody made", "POST", hubspotCalls, call(`,"hs_call_summary":"x"`, ""), nil, 400, bad},
			{"a contact that is not there", "POST", hubspotCalls, call("", to(`"77"`)), nil, 400, bad},
			{"an association with nobody", "POST", hubspotCalls, call("", to("null")), nil, 400, bad},
			{"an association without its type", "POST", hubspotCalls, call("", `{"to":{"id":"`+ada+`"}}`), nil, 400, bad},
		})
		calls := h.Calls()
		if len(calls) != 2 {
			t.Fatalf("%d calls were logged, want 2", len(calls))
		}
		same(t, "contacts", []string{ada}, calls[0].Contacts)
		same(t, "agent_name", "Robin", calls[0].Properties["agent_name"])
	})
}

func TestHubSpotLimits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := platforms.NewHubSpot(t)
		h.PerTenSeconds, h.SearchesPerSecond = 3, 1
		host := at(t, h.Endpoint, "Authorization: Bearer "+h.Token)
		log := func() answer {
			return host.send("POST", hubspotCalls, `{"properties":{"hs_timestamp":"2026-03-02T09:30:00Z"}}`)
		}
		find := func() answer { return host.send("POST", hubspotSearch, `{}`) }
		if a := find(); a.Status != 200 || a.Header.Get("X-HubSpot-RateLimit-Max") != "" {
			t.Errorf("the first search: %+v, want 200 and no headers of limits", a)
		}
		if a := find(); a.Status != 429 || a.at("policyName") != "SECONDLY" || a.at("errorType") != "RATE_LIMIT" {
			t.Errorf("the second search within a second: %+v", a)
		}
		if a := log(); a.Status != 201 || a.Header.Get("X-HubSpot-RateLimit-Max") != "3" || a.Header.Get("X-HubSpot-RateLimit-Remaining") != "1" ||
			a.Header.Get("X-HubSpot-RateLimit-Interval-Milliseconds") != "10000" {
			t.Errorf("the second request: %+v", a)
		}
		log()
		if a := log(); a.Status != 429 || a.at("policyName") != "TEN_SECONDLY_ROLLING" || a.Header.Get("Retry-After") != "" {
			t.Errorf("the fourth request: %+v", a)
		}
		wait(10 * time.Second)
		if a := log(); a.Status != 201 {
			t.Errorf("ten seconds later: %+v", a)
		}
		h.Next(callhooktest.Reply(502, "bad gateway"), h.Late(3*time.Second))
		begun := time.Now()
		if a := find(); a.Status != 502 {
			t.Errorf("the answer that the test gave: %+v", a)
		}
		if a := find(); a.Status != 200 || time.Since(begun) != 3*time.Second {
			t.Errorf("the late answer: %+v after %s", a, time.Since(begun))
		}
		wait(time.Second)
		if a := find(); a.Status != 200 || time.Since(begun) != 4*time.Second {
			t.Errorf("itself again: %+v after %s", a, time.Since(begun))
		}
	})
}

// TestUnplayed: a test learns that it asks for what the fake cannot do.
func TestUnplayed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := &watched{t, make(chan string, 1)}
		h := platforms.NewHubSpot(w)
		host := at(t, h.Endpoint, "Authorization: Bearer "+h.Token)
		if a := host.send("GET", "/crm/v3/objects/deals", ""); a.Status != 501 || !strings.Contains(a.Body, "/crm/v3/objects/deals") {
			t.Errorf("%+v", a)
		}
		select {
		case <-w.errors:
		default:
			t.Error("the test has not failed")
		}
	})
}
