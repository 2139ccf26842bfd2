package zoho_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/callhooktest/platforms"
	"github.com/callhook-go/callhook/examples/zoho"
	"github.com/google/go-cmp/cmp"
)

// world is Zoho, and a runtime whose tenants have organizations there.
type world struct {
	*callhooktest.Hooks
	mu       sync.Mutex
	accounts map[string]zoho.Account
}

// start runs the config of this example for each of the organizations, by tenant.
func start(t *testing.T, organizations map[string]*platforms.Zoho) *world {
	t.Helper()
	data, err := os.ReadFile("config.json")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{accounts: map[string]zoho.Account{}}
	network := callhooktest.Network{}
	var configs []*callhook.Config
	for tenant, z := range organizations {
		region := "com"
		if len(network) > 0 {
			region = "eu"
		}
		c, err := callhook.ParseConfig([]byte(strings.ReplaceAll(string(data), "zohoapis.com", "zohoapis."+region)))
		if err != nil {
			t.Fatal(err)
		}
		c.TenantID = tenant
		configs = append(configs, c)
		a := zoho.Account{Accounts: "https://accounts.zoho." + region, API: "https://www.zohoapis." + region,
			ClientID: z.ClientID, ClientSecret: z.ClientSecret, RefreshToken: z.RefreshToken}
		w.accounts[tenant] = a
		network["accounts.zoho."+region], network["www.zohoapis."+region] = z.Endpoint, z.Endpoint
	}
	tokens := &zoho.Tokens{Account: w.account, Client: &http.Client{Transport: &http.Transport{
		DialContext: network.Dial, TLSClientConfig: &tls.Config{RootCAs: callhooktest.RootCAs()}, DisableKeepAlives: true,
	}}}
	w.Hooks = callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(configs...), Authorize: tokens.Authorize}, network)
	return w
}

func (w *world) account(_ context.Context, tenant string) (zoho.Account, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, ok := w.accounts[tenant]
	if !ok {
		return a, errors.New("nobody has connected Zoho")
	}
	return a, nil
}

// connect changes the refresh token of a tenant.
func (w *world) connect(tenant, refreshToken string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.accounts[tenant]
	a.RefreshToken = refreshToken
	w.accounts[tenant] = a
}

func organization(t *testing.T) (z *platforms.Zoho, ada string) {
	z = platforms.NewZoho(t)
	return z, z.AddContact(map[string]any{"First_Name": "Ada", "Last_Name": "Lovelace", "Phone": "+44 20 7946 0123",
		"Account_Name": map[string]any{"name": "Analytical Engines Ltd", "id": "1"}})
}

// one runs the config for one tenant.
func one(t *testing.T) (w *world, z *platforms.Zoho, ada string) {
	z, ada = organization(t)
	return start(t, map[string]*platforms.Zoho{"acme": z}), z, ada
}

// look looks a caller up.
func (w *world) look(t *testing.T, tenant, from string) *callhook.PreCallResult {
	t.Helper()
	call := callhook.SampleCall(callhook.TypePreCall)
	call.TenantID, call.From = tenant, from
	return w.PreCall(t.Context(), call)
}

// log ends a call.
func (w *world) log(t *testing.T, tenant string, pre *callhook.PreCallResult) {
	t.Helper()
	call := callhook.SampleCall(callhook.TypePostCall)
	call.TenantID, call.ID = tenant, fmt.Sprint("call_", ids.Add(1))
	if pre != nil {
		pre.Apply(call)
	}
	if err := w.PostCall(t.Context(), call); err != nil {
		t.Fatal(err)
	}
}

const ada = "+442079460123"

var ids atomic.Int64 // of calls

// paths counts the requests that an organization has got, by path.
func paths(z *platforms.Zoho) map[string]int {
	n := map[string]int{}
	for _, r := range z.Requests() {
		n[r.URL.Path]++
	}
	return n
}

// TestKnownCaller: the lookup finds the contact, the call is logged with it, and one token
// serves both.
func TestKnownCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, z, id := one(t)
		pre := w.look(t, "acme", ada)
		want := callhook.Variables{"customer_name": "Ada", "company": "Analytical Engines Ltd", "contact_id": id}
		if diff := cmp.Diff(want, pre.Variables); diff != "" {
			t.Fatalf("variables of %v (-want +got):\n%s", pre, diff)
		}
		w.log(t, "acme", pre)
		w.Delivered(t, 1)
		logged := map[string]any{
			"Subject": "Call with Ada", "Call_Type": "Inbound", "Call_Start_Time": "2026-03-02T09:30:00+00:00", "Call_Duration": "00:04", "Who_Id": id,
			"Description": "Ada moved her appointment to Friday, 13 March, and wants billing to call her back.",
		}
		if diff := cmp.Diff(logged, z.Calls()[0].Fields); diff != "" {
			t.Errorf("the call in Zoho (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]int{"/oauth/v2/token": 1, "/crm/v8/Contacts/search": 1, "/crm/v8/Calls": 1}, paths(z)); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
	})
}

// TestNobody: Zoho answers 204 with no body.
func TestNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, z, _ := one(t)
		pre := w.look(t, "acme", "+442079460555")
		if pre.Outcome != callhook.OutcomeEmpty || pre.Status != 204 || pre.Err != nil {
			t.Errorf("the lookup was %v, want empty with 204", pre)
		}
		w.log(t, "acme", pre)
		w.Delivered(t, 1)
		if who, ok := z.Calls()[0].Fields["Who_Id"]; ok {
			t.Errorf("Who_Id is %v, want it left out", who)
		}
	})
}

// TestErrorInside200: Zoho says in the body that it has not taken the record. The
// delivery is tried again, and is not delivered before Zoho says so.
func TestErrorInside200(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, z, _ := one(t)
		w.look(t, "acme", ada) // with it comes a token
		z.Next(z.Verdict(200, "INVALID_DATA", "invalid data"), z.Verdict(202, "INTERNAL_ERROR", "Internal Server Error"))
		w.log(t, "acme", nil)
		time.Sleep(time.Second)
		if got := w.Stats().Queue; got.Delivered != 0 || got.Pending != 1 {
			t.Fatalf("after an error inside a 200: %+v, want it pending", got)
		}
		d := w.Delivered(t, 1)[0]
		var statuses []int
		for _, a := range d.Log {
			statuses = append(statuses, a.Status)
		}
		if diff := cmp.Diff([]int{200, 202, 201}, statuses); diff != "" || len(z.Calls()) != 1 {
			t.Errorf("%d calls are logged, attempts (-want +got):\n%s", len(z.Calls()), diff)
		}
	})
}

// TestRefused: what Zoho refuses as it is, with 400, is tried a few times more and becomes
// a dead letter.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, z, _ := one(t)
		call := callhook.SampleCall(callhook.TypePostCall)
		call.Variables = callhook.Variables{"contact_id": "4711"} // was deleted meanwhile
		if err := w.PostCall(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		d := w.Dead(t, 1)[0]
		if d.Reason != callhook.ReasonRejected || !strings.Contains(d.Log[0].Reply, `"api_name":"Who_Id"`) || len(z.Calls()) != 0 {
			t.Errorf("dead: %s, %s", d.Reason, d.Log[0].Reply)
		}
	})
}

// TestHour: a token is renewed before Zoho has to refuse it.
func TestHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, z, _ := one(t)
		for range 3 {
			if pre := w.look(t, "acme", ada); pre.Outcome != callhook.OutcomeApplied {
				t.Errorf("the lookup was %v", pre)
			}
			time.Sleep(61 * time.Minute)
		}
		if diff := cmp.Diff(map[string]int{"/oauth/v2/token": 3, "/crm/v8/Contacts/search": 3}, paths(z)); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
	})
}

// TestExpiredToken: Zoho refuses a token before its time. The next attempt takes a new
// one, and a lookup and deliveries that were refused together take one together.
func TestExpiredToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, z, _ := one(t)
		w.look(t, "acme", ada)
		time.Sleep(time.Minute)
		z.ExpireTokens()
		if pre := w.look(t, "acme", ada); pre.Status != 401 {
			t.Errorf("the lookup was %v, want 401", pre)
		}
		for range 4 {
			w.log(t, "acme", nil)
		}
		synctest.Wait()
		if pre := w.look(t, "acme", ada); pre.Outcome != callhook.OutcomeApplied {
			t.Errorf("the next lookup was %v", pre)
		}
		refused := 0
		for _, d := range w.Delivered(t, 4) {
			if d.Log[0].Status == 401 {
				refused++
			}
			if d.Log[len(d.Log)-1].Status != 201 || d.Attempts > 2 {
				t.Errorf("%d attempts, the last with status %d", d.Attempts, d.Log[len(d.Log)-1].Status)
			}
		}
		if n := paths(z)["/oauth/v2/token"]; refused == 0 || n != 2 {
			t.Errorf("%d were refused at first and %d tokens were taken in all, want some and 2", refused, n)
		}
	})
}

// TestExpiredTokenLookup: the lookup that is refused falls back, and the next one has a
// new token.
func TestExpiredTokenLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, z, _ := one(t)
		w.look(t, "acme", ada)
		time.Sleep(time.Minute)
		z.ExpireTokens()
		if pre := w.look(t, "acme", ada); pre.Outcome != callhook.OutcomeFailed || pre.Status != 401 {
			t.Errorf("the lookup with the expired token was %v", pre)
		}
		if pre := w.look(t, "acme", ada); pre.Outcome != callhook.OutcomeApplied {
			t.Errorf("the next lookup was %v", pre)
		}
	})
}

// TestRevoked: the refresh token is not valid any more, which Zoho says inside a 200 too.
// What there is waits, without an attempt, until the organization is connected again.
func TestRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, z, _ := one(t)
		w.connect("acme", "1000.revoked")
		begun := time.Now()
		if pre := w.look(t, "acme", ada); pre.Outcome != callhook.OutcomeFailed || !strings.Contains(fmt.Sprint(pre.Err), "connect the organization again") {
			t.Errorf("the lookup was %v: %v", pre, pre.Err)
		}
		w.log(t, "acme", nil)
		time.Sleep(time.Hour)
		if got := w.Stats(); got.Queue.Pending != 1 || got.Attempts != 0 {
			t.Fatalf("%d pending after %d attempts, want 1 after none", got.Queue.Pending, got.Attempts)
		}
		w.connect("acme", z.RefreshToken)
		if d := w.Delivered(t, 1)[0]; d.Attempts != 1 || time.Since(begun) > time.Hour+2*time.Minute {
			t.Errorf("%d attempts, delivered after %s", d.Attempts, time.Since(begun))
		}
	})
}

// TestTenants: each tenant's requests have a token of its own organization, and no
// config can send it elsewhere.
func TestTenants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		acme, _ := organization(t)
		globex, _ := organization(t)
		globex.RefreshToken = "1000.of-globex"
		w := start(t, map[string]*platforms.Zoho{"acme": acme, "globex": globex})
		for _, tenant := range []string{"acme", "globex"} {
			if pre := w.look(t, tenant, ada); pre.Outcome != callhook.OutcomeApplied {
				t.Errorf("%s: the lookup was %v: %v", tenant, pre, pre.Err)
			}
		}
		for _, z := range []*platforms.Zoho{acme, globex} {
			if diff := cmp.Diff(map[string]int{"/oauth/v2/token": 1, "/crm/v8/Contacts/search": 1}, paths(z)); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		}

		tokens := &zoho.Tokens{Account: w.account}
		tokens.Client = &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) { return nil, errors.New("no line") })}
		for origin, want := range map[string]string{"https://n8n.example.com": "", "https://www.zohoapis.com": "no line"} {
			req, err := http.NewRequestWithContext(t.Context(), "POST", origin+"/x", nil)
			if err != nil {
				t.Fatal(err)
			}
			err = tokens.Authorize(t.Context(), req, callhook.AuthorizeRef{Tenant: "acme", Origin: origin})
			if got := fmt.Sprint(err); want == "" && err != nil || !strings.Contains(got, want) || len(req.Header) > 0 {
				t.Errorf("%s: %v, header %v", origin, err, req.Header)
			}
		}
	})
}

// TestElsewhere: a config that sends Zoho's data to a host with a like name gets no token.
func TestElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z, _ := organization(t)
		network := callhooktest.Network{"accounts.zoho.com": z.Endpoint}
		tokens := &zoho.Tokens{
			Account: func(context.Context, string) (zoho.Account, error) {
				return zoho.Account{Accounts: "http://accounts.zoho.com", API: "https://www.zohoapis.com", ClientID: z.ClientID, ClientSecret: z.ClientSecret, RefreshToken: z.RefreshToken}, nil
			},
			Client: &http.Client{Transport: &http.Transport{DialContext: network.Dial, DisableKeepAlives: true}},
		}
		for origin, want := range map[string]string{
			"https://www.zohoapis.com": "", "https://www.zohoapis.evil.example": "write the former into the config", "https://www.zohoapis.eu": "write the former into the config",
		} {
			req, err := http.NewRequestWithContext(t.Context(), "POST", origin, nil)
			if err != nil {
				t.Fatal(err)
			}
			err = tokens.Authorize(t.Context(), req, callhook.AuthorizeRef{Tenant: "acme", Origin: origin})
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) || (req.Header.Get("Authorization") != "") != (want == "") {
				t.Errorf("%s: %v, Authorization %q", origin, err, req.Header.Get("Authorization"))
			}
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
