package platforms

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/callhook-go/callhook/callhooktest"
)

// Zoho is a fake of Zoho CRM, of its accounts server too: it has the hosts
// www.zohoapis.com and accounts.zoho.com. It plays OAuth2's refresh tokens, the search
// for contacts by phone, the creation of calls and contacts, and upsert. Change its
// fields before the first request.
//
// Each record has a verdict of its own in the answer:
// https://www.zoho.com/crm/developer/docs/api/v8/insert-records.html. With the API's
// version 2 the status is 202 though no record was taken. Since version 3 it is 400
// then, and 207 when some were taken; all of it says the OpenAPI description of
// version 8.
type Zoho struct {
	*callhooktest.Endpoint
	*platform

	// ClientID, ClientSecret and RefreshToken are what the accounts server gives
	// access tokens for.
	ClientID, ClientSecret, RefreshToken string

	records  map[string][]ZohoRecord // by module
	tokens   []accessToken
	attempts window // for access tokens
}

// ZohoRecord is a contact or a call.
type ZohoRecord struct {
	ID     string
	Fields map[string]any // by API name; numbers are json.Number
}

// NewZoho returns an organization without records. It ends with the test.
func NewZoho(t testing.TB) *Zoho {
	z := &Zoho{
		platform: newPlatform(t), records: map[string][]ZohoRecord{},
		ClientID: "1000.CALLHOOKTEST", ClientSecret: "client-secret-of-a-test", RefreshToken: "1000.refresh-token-of-a-test",
	}
	z.Endpoint, z.answer = z.endpoint, z.serve
	return z
}

// AddContact adds a contact with these fields, like Last_Name and Phone, and returns its
// id.
func (z *Zoho) AddContact(fields map[string]any) (id string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.add("Contacts", maps.Clone(fields))
}

// Calls returns the calls that were logged until now, Contacts the contacts.
func (z *Zoho) Calls() []ZohoRecord { return z.all("Calls") }

// Contacts returns the contacts that there are now.
func (z *Zoho) Contacts() []ZohoRecord { return z.all("Contacts") }

func (z *Zoho) all(module string) []ZohoRecord {
	z.mu.Lock()
	defer z.mu.Unlock()
	return slices.Clone(z.records[module])
}

func (z *Zoho) add(module string, fields map[string]any) (id string) {
	id = strconv.Itoa(5725767000000000000 + z.id()) // ids do not fit into a float64
	z.records[module] = append(z.records[module], ZohoRecord{id, fields})
	return id
}

// Verdict is an answer about one record, for [Zoho.Next]: like 200, "INVALID_DATA",
// "invalid data", an error that the status does not tell of.
func (z *Zoho) Verdict(status int, code, message string) callhooktest.Answer {
	return reply(status, object{"data": []object{{"code": code, "details": object{}, "message": message, "status": "error"}}})
}

var zohoPath = regexp.MustCompile(`^/crm/v(\d+)(?:\.\d+)?/(\w+)(?:/(search|upsert))?$`)

func (z *Zoho) serve(r *callhooktest.Request) callhooktest.Answer {
	if r.URL.Path == "/oauth/v2/token" {
		return z.token(r)
	}
	m := zohoPath.FindStringSubmatch(r.URL.Path)
	if m == nil { // https://www.zoho.com/crm/developer/docs/api/v8/status-codes.html
		return z.fault(http.StatusNotFound, "INVALID_URL_PATTERN", "Please check if the URL trying to access is a correct one", nil)
	}
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Zoho-oauthtoken "); !ok || !z.valid(token) {
		return z.fault(http.StatusUnauthorized, "INVALID_TOKEN", "invalid oauth token", nil)
	}
	version, _ := strconv.Atoi(m[1])
	switch module, what := m[2], m[3]; {
	case r.Method == http.MethodGet && what == "search" && module == "Contacts":
		return z.search(r)
	case r.Method == http.MethodPost && what == "" && (module == "Calls" || module == "Contacts"):
		return z.insert(version, module, r.Body, nil)
	case r.Method == http.MethodPost && what == "upsert" && module == "Contacts":
		return z.insert(version, module, r.Body, z.duplicate)
	case r.Method == http.MethodPost && what == "upsert" && module == "Calls":
		// Not among the modules that upsert supports:
		// https://www.zoho.com/crm/developer/docs/api/v8/upsert-records.html.
		return z.fault(http.StatusBadRequest, "INVALID_MODULE", "the module name given seems to be invalid", object{"resource_path_index": 0})
	}
	return z.unplayed("%s %s of Zoho CRM", r.Method, r.URL.Path)
}

// fault is an error of the whole request.
func (z *Zoho) fault(status int, code, message string, details object) callhooktest.Answer {
	if details == nil {
		details = object{}
	}
	return reply(status, object{"code": code, "details": details, "message": message, "status": "error"})
}

// search finds contacts by phone: https://www.zoho.com/crm/developer/docs/api/v8/search-records.html.
// Nobody found is 204 and no body. How the real one compares numbers that are written in
// different ways is not documented; here they fit when one ends with the digits of the
// other.
func (z *Zoho) search(r *callhooktest.Request) callhooktest.Answer {
	q := r.URL.Query()
	for _, other := range []string{"criteria", "email", "word"} {
		if q.Has(other) {
			return z.unplayed("Zoho CRM's search by %s", other)
		}
	}
	phone := digits(q.Get("phone"))
	if !q.Has("phone") {
		return z.fault(http.StatusBadRequest, "REQUIRED_PARAM_MISSING", "One of the expected parameter is missing", object{"param_names": []string{"criteria", "email", "phone", "word"}})
	}
	perPage := 200
	if s := q.Get("per_page"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 200 {
			return z.fault(http.StatusBadRequest, "INVALID_DATA", "invalid data", object{"param_name": "per_page"})
		}
		perPage = n
	}
	var data []object
	more := false
	for _, c := range z.records["Contacts"] {
		fits := slices.ContainsFunc([]string{"Phone", "Mobile", "Home_Phone", "Other_Phone", "Asst_Phone"}, func(name string) bool {
			s, _ := scalar(c.Fields[name])
			have := digits(s)
			return phone != "" && have != "" && (strings.HasSuffix(have, phone) || strings.HasSuffix(phone, have))
		})
		if fits && len(data) == perPage {
			more = true
			break
		}
		if fits {
			data = append(data, z.shown(c, q.Get("fields")))
		}
	}
	if len(data) == 0 {
		return callhooktest.Answer{Status: http.StatusNoContent}
	}
	return reply(http.StatusOK, object{"data": data, "info": object{"per_page": perPage, "count": len(data), "page": 1, "more_records": more}})
}

// shown is a record with the fields that were asked for; without a list, with all.
func (z *Zoho) shown(c ZohoRecord, fields string) object {
	out := object{"id": c.ID}
	if fields == "" {
		maps.Copy(out, c.Fields)
		return out
	}
	for _, name := range strings.Split(fields, ",") {
		if name != "id" {
			out[name] = c.Fields[name] // null where there is none
		}
	}
	return out
}

// insert adds records, or with duplicate changes those that it finds.
func (z *Zoho) insert(version int, module string, body []byte, duplicate func(fields map[string]any, by []string) (*ZohoRecord, string)) callhooktest.Answer {
	var in struct {
		Data                 []map[string]any
		DuplicateCheckFields []string `json:"duplicate_check_fields"`
	}
	if err := decode(body, &in); err != nil {
		return z.fault(http.StatusBadRequest, "INVALID_DATA", "body", nil)
	}
	if n := len(in.Data); n == 0 || n > 100 { // at most 100 at once
		return z.fault(http.StatusBadRequest, "MANDATORY_NOT_FOUND", "required field not found", object{"api_name": "data"})
	}
	taken := 0
	var verdicts []object
	for i, fields := range in.Data {
		if v := z.verdict(module, fields); v != nil {
			v["details"].(object)["json_path"] = fmt.Sprintf("$.data[%d].%s", i, v["details"].(object)["api_name"])
			verdicts = append(verdicts, v)
			continue
		}
		taken++
		v := object{"code": "SUCCESS", "message": "record added", "status": "success"}
		id := ""
		if duplicate != nil {
			v["action"], v["duplicate_field"] = "insert", nil
			if c, by := duplicate(fields, in.DuplicateCheckFields); c != nil {
				changed := maps.Clone(c.Fields) // the old ones may be a test's by now
				maps.Copy(changed, fields)
				c.Fields = changed
				id, v["message"], v["action"], v["duplicate_field"] = c.ID, "record updated", "update", by
			}
		}
		if id == "" {
			id = z.add(module, fields)
		}
		at := time.Now().UTC().Format("2006-01-02T15:04:05-07:00")
		v["details"] = object{"id": id, "Created_Time": at, "Modified_Time": at}
		verdicts = append(verdicts, v)
	}
	status := http.StatusCreated
	switch {
	case version <= 2 && taken == 0:
		status = http.StatusAccepted
	case version > 2 && taken == 0:
		status = http.StatusBadRequest
	case taken < len(in.Data):
		status = http.StatusMultiStatus
	}
	return reply(status, object{"data": verdicts})
}

// duplicate finds the contact that has the same value in one of the fields: Email,
// unless told.
func (z *Zoho) duplicate(fields map[string]any, by []string) (*ZohoRecord, string) {
	if len(by) == 0 {
		by = []string{"Email"}
	}
	for _, name := range by {
		for i := range z.records["Contacts"] {
			c := &z.records["Contacts"][i]
			if v, _ := scalar(fields[name]); v != "" && c.Fields[name] == fields[name] {
				return c, name
			}
		}
	}
	return nil, ""
}

// verdict is what is wrong with a record, nil for nothing. Codes and details are those
// of the OpenAPI description; what a call needs is from the fields of the module Calls
// in https://www.zoho.com/crm/developer/docs/api/v8/insert-records.html.
func (z *Zoho) verdict(module string, fields map[string]any) object {
	missing := func(name string) object {
		return object{"code": "MANDATORY_NOT_FOUND", "details": object{"api_name": name}, "message": "required field not found", "status": "error"}
	}
	invalid := func(name, kind string) object {
		return object{"code": "INVALID_DATA", "details": object{"api_name": name, "expected_data_type": kind}, "message": "invalid data", "status": "error"}
	}
	field := func(name string) string {
		s, _ := scalar(fields[name])
		return s
	}
	if module == "Contacts" {
		if field("Last_Name") == "" {
			return missing("Last_Name")
		}
		return nil
	}
	for _, name := range []string{"Subject", "Call_Type", "Call_Start_Time"} {
		if field(name) == "" {
			return missing(name)
		}
	}
	switch {
	case !slices.Contains([]string{"Inbound", "Outbound", "Missed"}, field("Call_Type")):
		return invalid("Call_Type", "picklist")
	case field("Call_Type") == "Outbound" && field("Outgoing_Call_Status") == "":
		return missing("Outgoing_Call_Status")
	case !isTime(field("Call_Start_Time")):
		return invalid("Call_Start_Time", "datetime")
	case field("Call_Type") != "Missed" && field("Call_Duration") == "":
		return missing("Call_Duration")
	case field("Call_Duration") != "" && !hoursAndMinutes.MatchString(field("Call_Duration")):
		return invalid("Call_Duration", "text")
	}
	if who, ok := fields["Who_Id"]; ok && who != nil {
		id, plain := scalar(who)
		if o, ok := who.(map[string]any); !plain && ok {
			id, _ = scalar(o["id"])
		}
		if !slices.ContainsFunc(z.records["Contacts"], func(c ZohoRecord) bool { return c.ID == id }) {
			v := invalid("Who_Id", "lookup")
			v["message"] = "the id given seems to be invalid"
			return v
		}
	}
	return nil
}

var hoursAndMinutes = regexp.MustCompile(`^\d{2,}:[0-5]\d$`)
