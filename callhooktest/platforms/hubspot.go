package platforms

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/callhook-go/callhook/callhooktest"
)

// HubSpot is a fake of HubSpot's CRM API, which has the host api.hubapi.com. It plays
// the search for contacts and the creation of calls. Change its fields before the
// first request.
//
// A token that is not Token is answered with 401 and the category
// INVALID_AUTHENTICATION, and what it does not take with 400 and VALIDATION_ERROR:
// https://developers.hubspot.com/docs/api-reference/error-handling.
//
// Its limits are those of https://developers.hubspot.com/docs/api/usage-details. What is
// above them is answered with 429, the name of the policy in the body, and no
// Retry-After. Every answer but those to searches tells by headers how much is left.
type HubSpot struct {
	*callhooktest.Endpoint
	*platform

	// Token is the private app's access token.
	Token string
	// PerTenSeconds is how many requests it takes in ten seconds: 100, as for a free
	// account.
	PerTenSeconds int
	// SearchesPerSecond is how many searches it takes in a second: 5.
	SearchesPerSecond int
	// CallProperties are names of properties of calls that the account has beside
	// HubSpot's own. An unknown one is refused.
	CallProperties []string

	contacts []*contact
	calls    []HubSpotCall
	all      window
	searches window
}

// HubSpotCall is a call that was logged.
type HubSpotCall struct {
	ID         string
	Properties map[string]string
	Contacts   []string // the ids of those that it is associated with
}

// NewHubSpot returns an account without contacts. It ends with the test.
func NewHubSpot(t testing.TB) *HubSpot {
	h := &HubSpot{platform: newPlatform(t), Token: "pat-eu1-callhook-test", PerTenSeconds: 100, SearchesPerSecond: 5}
	h.Endpoint, h.answer = h.endpoint, h.serve
	return h
}

// AddContact adds a contact with these properties, like firstname and phone, and
// returns its id.
func (h *HubSpot) AddContact(properties map[string]string) (id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := newContact(strconv.Itoa(1000+h.id()), properties)
	h.contacts = append(h.contacts, c)
	return c.id
}

// Calls returns the calls that were logged until now.
func (h *HubSpot) Calls() []HubSpotCall {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.calls)
}

func (h *HubSpot) serve(r *callhooktest.Request) callhooktest.Answer {
	if r.Header.Get("Authorization") != "Bearer "+h.Token {
		return h.fault(http.StatusUnauthorized, "INVALID_AUTHENTICATION", "Authentication credentials not found. This API supports OAuth 2.0 "+
			"authentication and you can find more details at https://developers.hubspot.com/docs/methods/auth/oauth-overview", nil)
	}
	search := strings.HasSuffix(r.URL.Path, "/search")
	if search {
		if _, _, ok := h.searches.take(h.SearchesPerSecond, time.Second); !ok {
			return h.limited("SECONDLY", "You have reached your secondly limit.")
		}
	}
	left, _, ok := h.all.take(h.PerTenSeconds, 10*time.Second)
	a := h.limited("TEN_SECONDLY_ROLLING", "You have reached your ten_secondly_rolling limit.")
	if ok {
		a = h.route(r)
	}
	if !search { // whose answers do not have them
		a.Header.Set("X-HubSpot-RateLimit-Max", strconv.Itoa(h.PerTenSeconds))
		a.Header.Set("X-HubSpot-RateLimit-Remaining", strconv.Itoa(left))
		a.Header.Set("X-HubSpot-RateLimit-Interval-Milliseconds", "10000")
	}
	return a
}

func (h *HubSpot) route(r *callhooktest.Request) callhooktest.Answer {
	switch r.Method + " " + r.URL.Path {
	case "POST /crm/v3/objects/contacts/search":
		return h.search(r.Body)
	case "POST /crm/v3/objects/calls":
		return h.create(r.Body)
	}
	return h.unplayed("%s %s of HubSpot", r.Method, r.URL.Path)
}

// limited says that a limit is reached, as in the guidelines' example.
func (h *HubSpot) limited(policy, message string) callhooktest.Answer {
	return reply(http.StatusTooManyRequests, object{
		"status": "error", "message": message, "errorType": "RATE_LIMIT", "correlationId": h.uuid(), "policyName": policy, "requestId": h.uuid(),
	})
}

// fault is an error as HubSpot's APIs say it. Context names what it is about.
func (h *HubSpot) fault(status int, category, message string, context object) callhooktest.Answer {
	o := object{"status": "error", "message": message, "correlationId": h.uuid(), "category": category}
	if context != nil {
		o["context"] = context
	}
	return reply(status, o)
}

func (h *HubSpot) invalid(format string, args ...any) callhooktest.Answer {
	return h.fault(http.StatusBadRequest, "VALIDATION_ERROR", fmt.Sprintf(format, args...), nil)
}

// create logs a call: https://developers.hubspot.com/docs/api/crm/calls.
func (h *HubSpot) create(body []byte) callhooktest.Answer {
	var in struct {
		Properties   map[string]any
		Associations []struct {
			To    struct{ ID any }
			Types []struct {
				AssociationCategory string
				AssociationTypeID   int
			}
		}
	}
	if err := decode(body, &in); err != nil {
		return h.invalid("Invalid input JSON: %v", err)
	}
	c := HubSpotCall{ID: strconv.Itoa(5000 + h.id()), Properties: map[string]string{}}
	for name, v := range in.Properties {
		s, ok := scalar(v)
		if !ok {
			return h.invalid("Invalid input JSON: property %s is not a text", name)
		}
		c.Properties[name] = s
	}
	if c.Properties["hs_timestamp"] == "" { // the only one that is required
		return h.fault(http.StatusBadRequest, "VALIDATION_ERROR", "Error creating CALL. Some required properties were not set.",
			object{"properties": []string{"hs_timestamp"}})
	}
	if faults := h.faults(c.Properties); len(faults) > 0 {
		return h.invalid("Property values were not valid: %s", reply(0, faults).Body)
	}
	for _, a := range in.Associations {
		id, _ := scalar(a.To.ID)
		switch {
		case id == "":
			return h.invalid("Invalid input JSON: Some required fields were not set: [id]")
		case len(a.Types) == 0:
			return h.invalid("Invalid input JSON: Some required fields were not set: [types]")
		case !slices.ContainsFunc(h.contacts, func(c *contact) bool { return c.id == id }):
			return h.invalid("One or more associations are not valid: CONTACT=%s", id)
		}
		for _, t := range a.Types { // 194 is from a call to a contact
			if t.AssociationCategory != "HUBSPOT_DEFINED" || t.AssociationTypeID != callToContact {
				return h.unplayed("associations of HubSpot but HUBSPOT_DEFINED %d", callToContact)
			}
		}
		c.Contacts = append(c.Contacts, id)
	}
	h.calls = append(h.calls, c)
	properties := object{"hs_object_id": c.ID, "hs_createdate": now(), "hs_lastmodifieddate": now()}
	for name, v := range c.Properties {
		properties[name] = v
	}
	return reply(http.StatusCreated, object{"id": c.ID, "properties": properties, "createdAt": now(), "updatedAt": now(), "archived": false})
}

const callToContact = 194

// callProperties are HubSpot's own properties of calls that can be set, of those that
// https://developers.hubspot.com/docs/api/crm/calls lists, and what they take.
var callProperties = map[string]func(string) bool{
	"hs_timestamp":               anyOf(isTime, isWhole),
	"hs_call_title":              nil,
	"hs_call_body":               func(s string) bool { return len(s) <= 65_536 },
	"hs_call_direction":          oneOf("INBOUND", "OUTBOUND"),
	"hs_call_disposition":        nil,
	"hs_call_duration":           isWhole, // milliseconds
	"hs_call_from_number":        nil,
	"hs_call_to_number":          nil,
	"hs_call_recording_url":      func(s string) bool { return strings.HasPrefix(s, "https://") },
	"hs_call_source":             oneOf("INTEGRATIONS_PLATFORM"),
	"hs_call_status":             oneOf("BUSY", "CALLING_CRM_USER", "CANCELED", "COMPLETED", "CONNECTING", "FAILED", "IN_PROGRESS", "NO_ANSWER", "QUEUED", "RINGING"),
	"hs_call_callee_object_id":   isWhole,
	"hs_call_callee_object_type": nil,
	"hs_activity_type":           nil,
	"hs_attachment_ids":          nil,
	"hubspot_owner_id":           isWhole,
}

// faults are what is wrong with the properties, each by itself.
func (h *HubSpot) faults(properties map[string]string) (faults []object) {
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		v := properties[name]
		takes, known := callProperties[name]
		switch {
		case !known && !slices.Contains(h.CallProperties, name):
			faults = append(faults, object{"isValid": false, "name": name, "error": "PROPERTY_DOESNT_EXIST", "message": fmt.Sprintf("Property %q does not exist", name)})
		case v != "" && takes != nil && !takes(v):
			faults = append(faults, object{"isValid": false, "name": name, "error": "INVALID_VALUE", "message": fmt.Sprintf("%q is not a value of %s", v, name)})
		}
	}
	return faults
}

func anyOf(fs ...func(string) bool) func(string) bool {
	return func(s string) bool { return slices.ContainsFunc(fs, func(f func(string) bool) bool { return f(s) }) }
}

func oneOf(values ...string) func(string) bool {
	return func(s string) bool { return slices.Contains(values, s) }
}

func isWhole(s string) bool {
	_, err := strconv.ParseUint(s, 10, 64)
	return err == nil
}

func isTime(s string) bool {
	_, err := time.Parse(time.RFC3339, s)
	return err == nil
}

// now is the time as HubSpot writes it.
func now() string { return time.Now().UTC().Format("2006-01-02T15:04:05.000Z") }
