package platforms_test

import (
	"net/url"
	"testing"
	"time"

	"github.com/callhook-go/callhook/callhooktest/platforms"
)

const zohoForm = "Content-Type: application/x-www-form-urlencoded"

// refresh is the request for an access token.
func refresh(z *platforms.Zoho) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "client_id": {z.ClientID}, "client_secret": {z.ClientSecret}, "refresh_token": {z.RefreshToken}}
}

func with(v url.Values, name, value string) string {
	v.Set(name, value)
	return v.Encode()
}

func TestZohoTokens(t *testing.T) {
	bubble(t, func(t *testing.T) {
		z := platforms.NewZoho(t)
		host := at(t, z.Endpoint)
		host.play([]step{
			{"a client that is not known", "POST", "/oauth/v2/token", with(refresh(z), "client_id", "x"), []string{zohoForm}, 200, map[string]string{"": `{"error":"invalid_client"}`}},
			{"a wrong secret", "POST", "/oauth/v2/token", with(refresh(z), "client_secret", "x"), []string{zohoForm}, 200, map[string]string{"": `{"error":"invalid_client_secret"}`}},
			{"a refresh token that was revoked", "POST", "/oauth/v2/token", with(refresh(z), "refresh_token", "x"), []string{zohoForm}, 200, map[string]string{"": `{"error":"invalid_code"}`}},
			{"in the query", "POST", "/oauth/v2/token?" + refresh(z).Encode(), "", nil, 200, map[string]string{"token_type": "Bearer", "expires_in": "3600", "api_domain": "https://www.zohoapis.com"}},
			{"no token", "GET", "/crm/v8/Contacts/search?phone=1", "", nil, 401, map[string]string{"": `{"code":"INVALID_TOKEN","details":{},"message":"invalid oauth token","status":"error"}`}},
		})
		token := host.send("POST", "/oauth/v2/token", refresh(z).Encode(), zohoForm).at("access_token")
		find := func() int {
			return host.send("GET", "/crm/v8/Contacts/search?phone=1", "", "Authorization: Zoho-oauthtoken "+token).Status
		}
		same(t, "with a token", 204, find())
		wait(time.Hour - time.Second)
		same(t, "a second before its hour is over", 204, find())
		wait(time.Second)
		same(t, "when its hour is over", 401, find())

		for range 10 {
			token = host.send("POST", "/oauth/v2/token", refresh(z).Encode(), zohoForm).at("access_token")
		}
		same(t, "with the tenth", 204, find())
		host.play([]step{{"the eleventh token in ten minutes", "POST", "/oauth/v2/token", refresh(z).Encode(), []string{zohoForm}, 400, map[string]string{"error": "Access Denied"}}})
		for range 14 {
			z.AccessToken()
		}
		same(t, "with the oldest of fifteen", 204, find())
		z.AccessToken()
		same(t, "with the oldest of sixteen", 401, find())
		token = z.AccessToken()
		same(t, "with a new one", 204, find())
		z.ExpireTokens()
		same(t, "when it was revoked", 401, find())
	})
}

func TestZohoRecords(t *testing.T) {
	bubble(t, func(t *testing.T) {
		z := platforms.NewZoho(t)
		ada := z.AddContact(map[string]any{"First_Name": "Ada", "Last_Name": "Lovelace", "Phone": "+44 20 7946 0123", "Email": "ada@example.com", "Account_Name": map[string]any{"name": "Engines", "id": "1"}})
		z.AddContact(map[string]any{"Last_Name": "Byron", "Mobile": "020 7946 0123"})
		host := at(t, z.Endpoint, "Authorization: Zoho-oauthtoken "+z.AccessToken())
		call := func(fields string) string { return `{"data":[{` + fields + `}]}` }
		const good = `"Subject":"Call","Call_Type":"Inbound","Call_Start_Time":"2026-03-02T09:30:00+00:00","Call_Duration":"00:04"`
		verdict := func(code, field string) map[string]string {
			return map[string]string{"data.0.code": code, "data.0.status": "error", "data.0.details.api_name": field, "data.0.details.json_path": "$.data[0]." + field}
		}
		success := map[string]string{"data.0.code": "SUCCESS", "data.0.status": "success", "data.0.message": "record added"}
		host.play([]step{
			{"found", "GET", "/crm/v6/Contacts/search?phone=2079460123&fields=First_Name,Account_Name", "", nil, 200,
				map[string]string{"data.0.id": ada, "data.0.First_Name": "Ada", "data.0.Account_Name.name": "Engines", "data.0.Phone": "", "data.#": "2", "info.more_records": "false"}},
			{"a page", "GET", "/crm/v8/Contacts/search?phone=2079460123&per_page=1", "", nil, 200, map[string]string{"data.#": "1", "info.more_records": "true"}},
			{"nobody", "GET", "/crm/v8/Contacts/search?phone=5550100", "", nil, 204, map[string]string{"": ""}},
			{"no criterion", "GET", "/crm/v8/Contacts/search", "", nil, 400, map[string]string{"code": "REQUIRED_PARAM_MISSING"}},
			{"taken", "POST", "/crm/v6/Calls", call(good + `,"Who_Id":"` + ada + `"`), nil, 201, success},
			{"Who_Id as an object", "POST", "/crm/v8/Calls", call(good + `,"Who_Id":{"id":"` + ada + `"}`), nil, 201, success},
			{"no Subject", "POST", "/crm/v8/Calls", call(`"Call_Type":"Inbound"`), nil, 400, verdict("MANDATORY_NOT_FOUND", "Subject")},
			{"in version 2 the status does not tell", "POST", "/crm/v2/Calls", call(`"Call_Type":"Inbound"`), nil, 202, verdict("MANDATORY_NOT_FOUND", "Subject")},
			{"minutes", "POST", "/crm/v8/Calls", call(`"Subject":"Call","Call_Type":"Inbound","Call_Start_Time":"2026-03-02T09:30:00+00:00","Call_Duration":"4"`), nil, 400, verdict("INVALID_DATA", "Call_Duration")},
			{"a time without its zone", "POST", "/crm/v8/Calls", call(`"Subject":"Call","Call_Type":"Inbound","Call_Start_Time":"2026-03-02 09:30"`), nil, 400, verdict("INVALID_DATA", "Call_Start_Time")},
			{"a type of another system", "POST", "/crm/v8/Calls", call(`"Subject":"Call","Call_Type":"inbound","Call_Start_Time":"2026-03-02T09:30:00+00:00"`), nil, 400, verdict("INVALID_DATA", "Call_Type")},
			{"an outbound call without its status", "POST", "/crm/v8/Calls", call(`"Subject":"Call","Call_Type":"Outbound","Call_Start_Time":"2026-03-02T09:30:00+00:00"`), nil, 400, verdict("MANDATORY_NOT_FOUND", "Outgoing_Call_Status")},
			{"a contact that is not there", "POST", "/crm/v8/Calls", call(good + `,"Who_Id":"1"`), nil, 400, verdict("INVALID_DATA", "Who_Id")},
			{"one of two", "POST", "/crm/v8/Calls", `{"data":[{` + good + `},{}]}`, nil, 207, map[string]string{"data.0.code": "SUCCESS", "data.1.code": "MANDATORY_NOT_FOUND"}},
			{"upsert does not take calls", "POST", "/crm/v8/Calls/upsert", call(good), nil, 400, map[string]string{"code": "INVALID_MODULE"}},
			{"upsert changes", "POST", "/crm/v8/Contacts/upsert", `{"data":[{"Last_Name":"King","Email":"ada@example.com"}]}`, nil, 201, map[string]string{"data.0.action": "update", "data.0.details.id": ada, "data.0.duplicate_field": "Email"}},
			{"upsert adds", "POST", "/crm/v8/Contacts/upsert", `{"data":[{"Last_Name":"Babbage","Phone":"1"}],"duplicate_check_fields":["Phone"]}`, nil, 201, map[string]string{"data.0.action": "insert", "data.0.message": "record added"}},
			{"a URL that is none", "GET", "/crm/Contacts", "", nil, 404, map[string]string{"code": "INVALID_URL_PATTERN"}},
		})
		same(t, "calls", 3, len(z.Calls()))
		same(t, "Ada's name", "King", z.Contacts()[0].Fields["Last_Name"].(string))
		z.Next(z.Verdict(200, "INVALID_DATA", "invalid data"))
		host.play([]step{
			{"a verdict that the status does not tell of", "POST", "/crm/v8/Calls", call(good), nil, 200, map[string]string{"data.0.code": "INVALID_DATA", "data.0.status": "error"}},
			{"itself again", "POST", "/crm/v8/Calls", call(good), nil, 201, success},
		})
	})
}
