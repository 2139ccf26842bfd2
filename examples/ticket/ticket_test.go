package ticket_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/callhooktest/platforms"
	"github.com/google/go-cmp/cmp"
)

// world is Zendesk and Resend, and a runtime that sends to them.
type world struct {
	*callhooktest.Hooks
	zendesk *platforms.Zendesk
	resend  *platforms.Resend
}

func start(t *testing.T) *world {
	t.Helper()
	c, err := callhook.LoadConfig("config.json")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{zendesk: platforms.NewZendesk(t), resend: platforms.NewResend(t)}
	w.Hooks = callhooktest.NewHooks(t, callhook.Options{
		Configs: callhook.Static(c),
		Secrets: callhooktest.Secrets{"ZENDESK_CREDENTIALS": w.zendesk.Credentials(), "RESEND_TOKEN": w.resend.Key}.Resolve,
	}, callhooktest.Network{"acme.zendesk.com": w.zendesk.Endpoint, "api.resend.com": w.resend.Endpoint})
	return w
}

var ids atomic.Int64 // of calls

// transfer tells how a call's transfer goes.
func (w *world) transfer(t *testing.T, statuses ...callhook.Status) *callhook.Call {
	t.Helper()
	call := callhook.SampleCall(callhook.TypeCallStatus)
	call.TenantID, call.ID, call.Sequence = "", fmt.Sprint("call_", ids.Add(1)), 0
	for _, s := range statuses {
		call.Sequence++
		call.PreviousStatus, call.Status = call.Status, s
		call.StatusAt = call.StatusAt.Add(time.Minute)
		call.Transfers[0].Status = s
		if s == callhook.StatusTransferFailed {
			call.Transfers[0].Reason = "no_answer"
		}
		if err := w.CallStatus(t.Context(), call); err != nil {
			t.Fatal(err)
		}
	}
	return call
}

// TestTicket: a transfer that failed becomes one ticket, and one that did not becomes
// none.
func TestTicket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		w.transfer(t, callhook.StatusTransferStarted, callhook.StatusTransferConnected)
		call := w.transfer(t, callhook.StatusTransferStarted, callhook.StatusTransferFailed)
		w.Delivered(t, 1)
		private := false
		want := []platforms.ZendeskTicket{{
			ID: 1, Subject: "Call back Ada (+442079460123)", ExternalID: call.ID, Priority: "high", Tags: []string{"phone", "transfer_failed"},
			Comment: platforms.ZendeskComment{HTMLBody: "<p>The transfer to +442079460777 failed (no_answer) at 09:34.</p>", Public: &private},
		}}
		if diff := cmp.Diff(want, w.zendesk.Tickets()); diff != "" {
			t.Errorf("tickets (-want +got):\n%s", diff)
		}
	})
}

// TestTicketOnce: the ticket is made and Zendesk's answer is lost. The delivery is
// repeated, and Zendesk knows it by its key.
func TestTicketOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		w.zendesk.Next(w.zendesk.Lost())
		w.transfer(t, callhook.StatusTransferFailed)
		if d := w.Delivered(t, 1)[0]; d.Attempts != 2 {
			t.Errorf("%d attempts, want 2", d.Attempts)
		}
		if n := len(w.zendesk.Tickets()); n != 1 {
			t.Errorf("%d tickets, want 1", n)
		}
	})
}

// TestTicketLater: Zendesk says how long it wants to be left alone, and is.
func TestTicketLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		begun := time.Now()
		w.zendesk.Next(w.zendesk.Limited(93 * time.Second))
		w.transfer(t, callhook.StatusTransferFailed)
		d := w.Delivered(t, 1)[0]
		if took := time.Since(begun).Round(time.Second); took != 93*time.Second || d.Attempts != 1 || d.Postponed != 1 {
			t.Errorf("delivered after %s with %d attempts, postponed %d times; want 1m33s, 1 and 1", took, d.Attempts, d.Postponed)
		}
	})
}

// TestRefused: credentials that are wrong are tried again, since somebody may mend them,
// and what Zendesk calls invalid becomes a dead letter that says why.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		w.zendesk.Next(callhooktest.Reply(401, `{"error":"Couldn't authenticate you"}`))
		w.transfer(t, callhook.StatusTransferFailed)
		if d := w.Delivered(t, 1)[0]; d.Log[0].Status != 401 || d.Attempts != 2 {
			t.Errorf("%d attempts, the first with status %d", d.Attempts, d.Log[0].Status)
		}
		invalid := callhooktest.Reply(422, `{"error":"RecordInvalid","description":"Record validation errors"}`)
		w.zendesk.Next(invalid, invalid, invalid, invalid, invalid)
		w.transfer(t, callhook.StatusTransferFailed)
		if d := w.Dead(t, 1)[0]; d.Reason != callhook.ReasonRejected || !strings.Contains(d.Log[0].Reply, "RecordInvalid") {
			t.Errorf("dead: %s, %s", d.Reason, d.Log[0].Reply)
		}
	})
}

// TestEmail: what people said is text in the e-mail and not markup.
func TestEmail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		call := callhook.SampleCall(callhook.TypePostCall)
		call.TenantID, call.Transcript = "", call.Transcript[4:5]
		if err := w.PostCall(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		w.Delivered(t, 1)
		want := []platforms.ResendEmail{{
			ID: w.resend.Emails()[0].ID, From: "Calls <calls@example.com>", To: []string{"reception@example.com"}, Subject: "Call with Ada on Mon 2 Mar, 09:30",
			HTML: "<h2>+442079460123</h2><p>" + call.Summary + "</p><hr><p>Caller: Yes, please. And can I talk to billing about &lt;my&gt; invoice &amp; plan?</p>",
		}}
		if diff := cmp.Diff(want, w.resend.Emails()); diff != "" {
			t.Errorf("e-mails (-want +got):\n%s", diff)
		}
	})
}

// TestEmailOnce: the e-mail is sent and Resend's answer is lost.
func TestEmailOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		w.resend.Next(w.resend.Lost())
		call := callhook.SampleCall(callhook.TypePostCall)
		call.TenantID = ""
		if err := w.PostCall(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		if d := w.Delivered(t, 1)[0]; d.Attempts != 2 || len(w.resend.Emails()) != 1 {
			t.Errorf("%d attempts and %d e-mails, want 2 and 1", d.Attempts, len(w.resend.Emails()))
		}
	})
}

// TestEmailRate: twenty calls end together, and Resend never has to say 429.
func TestEmailRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		for range 20 {
			call := callhook.SampleCall(callhook.TypePostCall)
			call.TenantID, call.ID = "", fmt.Sprint("call_", ids.Add(1))
			if err := w.PostCall(t.Context(), call); err != nil {
				t.Fatal(err)
			}
		}
		for _, d := range w.Delivered(t, 20) {
			if d.Attempts != 1 || d.Postponed != 0 {
				t.Errorf("a delivery took %d attempts and was postponed %d times, want 1 and 0", d.Attempts, d.Postponed)
			}
		}
	})
}
