package hubspot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/callhooktest/platforms"
	"github.com/google/go-cmp/cmp"
)

// account is a HubSpot account with two contacts.
type account struct {
	*platforms.HubSpot
	ada, unknown string // ids
}

func newAccount(t *testing.T) *account {
	h := platforms.NewHubSpot(t)
	return &account{
		HubSpot: h,
		ada:     h.AddContact(map[string]string{"firstname": "Ada", "company": "Analytical Engines Ltd", "phone": "+44 20 7946 0123"}),
		unknown: h.AddContact(map[string]string{"firstname": "Unknown caller"}),
	}
}

// start runs the config of this example, with the account's own id filled in.
func (a *account) start(t *testing.T, secrets callhook.SecretFunc) *callhooktest.Hooks {
	t.Helper()
	data, err := os.ReadFile("config.json")
	if err != nil {
		t.Fatal(err)
	}
	return a.run(t, bytes.ReplaceAll(data, []byte("YOUR_UNKNOWN_CALLER_CONTACT"), []byte(a.unknown)), secrets)
}

func (a *account) run(t *testing.T, config []byte, secrets callhook.SecretFunc) *callhooktest.Hooks {
	t.Helper()
	c, err := callhook.ParseConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if secrets == nil {
		secrets = callhooktest.Secrets{"HUBSPOT_TOKEN": a.Token}.Resolve
	}
	return callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(c), Secrets: secrets}, callhooktest.Network{"api.hubapi.com": a.Endpoint})
}

// take takes a call from a number from its lookup to its log.
func take(t *testing.T, hooks *callhooktest.Hooks, from string) *callhook.PreCallResult {
	t.Helper()
	call := callhook.SampleCall(callhook.TypePreCall)
	call.TenantID, call.From, call.ID = "", from, fmt.Sprint("call_", ids.Add(1))
	pre := hooks.PreCall(t.Context(), call)
	ended := callhook.SampleCall(callhook.TypePostCall)
	ended.TenantID, ended.From, ended.ID, ended.Variables = "", from, call.ID, nil
	pre.Apply(ended)
	if err := hooks.PostCall(t.Context(), ended); err != nil {
		t.Fatal(err)
	}
	return pre
}

var ids atomic.Int64 // of calls

const (
	ada    = "+442079460123"
	nobody = "+442079460555"
)

// TestKnownCaller: the lookup finds the contact, and the call is logged with it.
func TestKnownCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubspot := newAccount(t)
		hooks := hubspot.start(t, nil)
		pre := take(t, hooks, ada)
		want := callhook.Variables{"customer_name": "Ada", "company": "Analytical Engines Ltd", "contact_id": hubspot.ada}
		if diff := cmp.Diff(want, pre.Variables); diff != "" {
			t.Errorf("variables (-want +got):\n%s", diff)
		}
		hooks.Delivered(t, 1)
		logged := []platforms.HubSpotCall{{
			ID:       hubspot.Calls()[0].ID,
			Contacts: []string{hubspot.ada},
			Properties: map[string]string{
				"hs_timestamp": "2026-03-02T09:30:00.000Z", "hs_call_title": "Call with Ada", "hs_call_direction": "INBOUND", "hs_call_status": "COMPLETED",
				"hs_call_duration": "252480", "hs_call_from_number": ada, "hs_call_to_number": "+442079460999",
				"hs_call_body":          "Ada moved her appointment to Friday, 13 March, and wants billing to call her back.",
				"hs_call_recording_url": "https://recordings.example.com/call_sample.mp3",
			},
		}}
		if diff := cmp.Diff(logged, hubspot.Calls()); diff != "" {
			t.Errorf("calls in HubSpot (-want +got):\n%s", diff)
		}
	})
}

// TestUnknownCaller: the call of somebody whom HubSpot does not know is logged with the
// contact that is kept for them.
func TestUnknownCaller(t *testing.T) {
	for name, from := range map[string]string{"not a contact": nobody, "number withheld": ""} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hubspot := newAccount(t)
				hooks := hubspot.start(t, nil)
				pre := take(t, hooks, from)
				if pre.Outcome != callhook.OutcomeEmpty || len(pre.Variables) > 0 {
					t.Errorf("the lookup was %v with %v, want empty", pre, pre.Variables)
				}
				hooks.Delivered(t, 1)
				if diff := cmp.Diff([]string{hubspot.unknown}, hubspot.Calls()[0].Contacts); diff != "" {
					t.Errorf("contacts (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestSharedNumber: two contacts have the number, so the agent is told no name.
func TestSharedNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubspot := newAccount(t)
		hubspot.AddContact(map[string]string{"firstname": "Bob", "mobilephone": "+44 (0)20 7946 0123"})
		hubspot.AddContact(map[string]string{"firstname": "Cy", "mobilephone": "+44 20 7946 0123"})
		hooks := hubspot.start(t, nil)
		pre := take(t, hooks, ada)
		if !errors.Is(pre.Err, callhook.ErrNotUnique) || len(pre.Variables) > 0 {
			t.Errorf("the lookup was %v with %v, want ErrNotUnique and nothing", pre, pre.Variables)
		}
		hooks.Delivered(t, 1)
	})
}

// TestSlow: HubSpot takes ten seconds. The caller does not.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubspot := newAccount(t)
		hooks := hubspot.start(t, nil)
		hubspot.Next(hubspot.Late(10 * time.Second))
		begun := time.Now()
		pre := take(t, hooks, ada)
		if took := time.Since(begun); pre.Outcome != callhook.OutcomeTimeout || took != 2*time.Second {
			t.Errorf("the lookup was %v after %s, want timeout after 2s", pre, took)
		}
		hooks.Delivered(t, 1)
	})
}

// TestTooManyRequests: HubSpot's 429 postpones, and is no attempt that failed.
func TestTooManyRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubspot := newAccount(t)
		hubspot.PerTenSeconds = 2
		hooks := hubspot.start(t, nil)
		for range 5 {
			ended := callhook.SampleCall(callhook.TypePostCall)
			ended.TenantID, ended.ID = "", fmt.Sprint("call_", ids.Add(1))
			if err := hooks.PostCall(t.Context(), ended); err != nil {
				t.Fatal(err)
			}
		}
		postponed := 0
		for _, d := range hooks.Delivered(t, 5) {
			if d.Attempts != 1 {
				t.Errorf("a delivery took %d attempts, want 1: a 429 is none", d.Attempts)
			}
			postponed += d.Postponed
		}
		if postponed == 0 || len(hubspot.Calls()) != 5 {
			t.Errorf("%d answers were 429, and %d calls are logged, want some and 5", postponed, len(hubspot.Calls()))
		}
	})
}

// TestTokenMended: a token that is not valid any more holds nothing up for ever.
func TestTokenMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubspot := newAccount(t)
		var token atomic.Value
		token.Store("pat-that-was-revoked")
		hooks := hubspot.start(t, func(context.Context, callhook.SecretRef) (string, error) { return token.Load().(string), nil })
		if pre := take(t, hooks, ada); pre.Outcome != callhook.OutcomeFailed || pre.Status != 401 {
			t.Errorf("the lookup was %v, want failed with 401", pre)
		}
		time.Sleep(time.Minute)
		if n := len(hubspot.Calls()); n != 0 {
			t.Fatalf("%d calls were logged with a token that is not valid", n)
		}
		token.Store(hubspot.Token)
		if d := hooks.Delivered(t, 1)[0]; d.Attempts < 2 || d.Log[0].Status != 401 {
			t.Errorf("it took %d attempts, the first with status %d", d.Attempts, d.Log[0].Status)
		}
	})
}

// TestNotFilledIn: the config as it is, without the account's own id, is refused by
// HubSpot where it is needed, and the dead letter says why.
func TestNotFilledIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubspot := newAccount(t)
		data, err := os.ReadFile("config.json")
		if err != nil {
			t.Fatal(err)
		}
		hooks := hubspot.run(t, data, nil)
		take(t, hooks, ada)
		take(t, hooks, nobody)
		hooks.Delivered(t, 1)
		d := hooks.Dead(t, 1)[0]
		if d.Reason != callhook.ReasonRejected || !bytes.Contains([]byte(d.Log[0].Reply), []byte("CONTACT=YOUR_UNKNOWN_CALLER_CONTACT")) {
			t.Errorf("dead: %s, %s", d.Reason, d.Log[0].Reply)
		}
	})
}
