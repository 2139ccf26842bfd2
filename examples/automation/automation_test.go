package automation_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/callhooktest/platforms"
	"github.com/google/go-cmp/cmp"
)

// world is the three platforms, and a runtime that sends to them.
type world struct {
	*callhooktest.Hooks
	n8n              *platforms.N8N
	calls, transfers *platforms.N8NWorkflow
	make             *platforms.Make
	zapier           *platforms.Zapier
}

func start(t *testing.T) *world {
	t.Helper()
	c, err := callhook.LoadConfig("config.json")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{n8n: platforms.NewN8N(t), make: platforms.NewMake(t), zapier: platforms.NewZapier(t)}
	w.n8n.Keys = []string{callhooktest.Key} // who does not sign fails the test
	w.calls, w.transfers = w.n8n.AddWorkflow("calls"), w.n8n.AddWorkflow("call-transfers")
	w.calls.Activate()
	w.transfers.Activate()
	w.Hooks = callhooktest.NewHooks(t, callhook.Options{
		Configs: callhook.Static(c),
		Secrets: callhooktest.Secrets{"N8N_SECRET": callhooktest.Key, "MAKE_HOOK": "abcdefghij1234567890", "ZAPIER_HOOK": "abc123"}.Resolve,
	}, callhooktest.Network{"n8n.example.com": w.n8n.Endpoint, "hook.eu1.make.com": w.make.Endpoint, "hooks.zapier.com": w.zapier.Endpoint})
	return w
}

var ids atomic.Int64 // of calls

// end ends a call, which is delivered three times.
func (w *world) end(t *testing.T) *callhook.Call {
	t.Helper()
	call := callhook.SampleCall(callhook.TypePostCall)
	call.TenantID, call.ID = "", fmt.Sprint("call_", ids.Add(1))
	if err := w.PostCall(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	return call
}

// to are the deliveries to one webhook.
func to(webhook string, ds []*callhook.Delivery) []*callhook.Delivery {
	return slices.DeleteFunc(ds, func(d *callhook.Delivery) bool { return d.Webhook != webhook })
}

// trouble returns why nothing goes to a webhook.
func (w *world) trouble(webhook string) callhook.Reason {
	for _, l := range w.Lanes() {
		if l.Webhook == webhook {
			return l.Trouble
		}
	}
	return ""
}

// TestN8N: n8n gets signed events, nested and with the transfers.
func TestN8N(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		call := callhook.SampleCall(callhook.TypeCallStatus)
		call.TenantID = ""
		if err := w.CallStatus(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		w.end(t)
		w.Delivered(t, 4)
		var e callhook.Event
		if err := json.Unmarshal(w.calls.Executions()[0].Body, &e); err != nil {
			t.Fatal(err)
		}
		want := callhook.SampleCall(callhook.TypePostCall)
		if e.Type != callhook.EventAnalyzed || e.Data.Call.Summary != want.Summary || e.Data.Call.Transfers[0].To != want.Transfers[0].To ||
			e.Data.Call.Variables["customer_name"] != "Ada" || e.Data.Call.Collected["wants_callback"] != true {
			t.Errorf("n8n got %s of %+v", e.Type, e.Data.Call)
		}
		if err := json.Unmarshal(w.transfers.Executions()[0].Body, &e); err != nil {
			t.Fatal(err)
		}
		if e.Type != callhook.EventStatus || e.Data.Call.Status != callhook.StatusTransferStarted {
			t.Errorf("n8n got %s of %+v", e.Type, e.Data.Call)
		}
		w.n8n.Received(t, 2) // both signed
	})
}

// TestN8NInactive: a workflow that nobody has activated answers 404. What happens
// meanwhile arrives once it is active.
func TestN8NInactive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		w.calls.Deactivate()
		w.end(t)
		if others := w.Delivered(t, 2); len(to("n8n-calls", others)) > 0 {
			t.Error("n8n's 404 counted as delivered")
		}
		time.Sleep(10 * time.Hour) // the night
		if n := len(w.calls.Executions()); n != 0 {
			t.Fatalf("%d executions of a workflow that is not active", n)
		}
		w.calls.Activate()
		d := to("n8n-calls", w.Delivered(t, 3))[0]
		if d.Attempts < 2 || d.Log[0].Status != 404 || len(w.calls.Executions()) != 1 {
			t.Errorf("%d attempts, the first with status %d", d.Attempts, d.Log[0].Status)
		}
	})
}

// TestN8NTestURL: the test URL serves one event after "Listen for test event", which is
// what a test send is for.
func TestN8NTestURL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		draft, err := callhook.LoadConfig("config.json")
		if err != nil {
			t.Fatal(err)
		}
		draft.PostCall[0].URL = "https://n8n.example.com/webhook-test/calls"
		send := func() *callhook.TestResult {
			t.Helper()
			r, err := w.TestSend(t.Context(), draft, "n8n-calls", nil)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		if r := send(); r.OK || r.Status != 404 {
			t.Errorf("before: %d %s", r.Status, r.Meaning)
		}
		w.calls.Listen()
		if r := send(); !r.OK {
			t.Errorf("listening: %d %s", r.Status, r.Meaning)
		}
		if r := send(); r.OK {
			t.Errorf("a second time: %d %s", r.Status, r.Meaning)
		}
	})
}

// TestMake: each call has the same shape, which Make has learnt from the first.
func TestMake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		w.end(t)
		w.Delivered(t, 3)
		bare := &callhook.Call{ID: "call_bare", AgentID: "reception", Direction: callhook.Inbound, StartedAt: time.Now(), EndedAt: time.Now(), AnalyzedAt: time.Now()}
		if err := w.PostCall(t.Context(), bare); err != nil {
			t.Fatal(err)
		}
		w.Delivered(t, 6)
		shapes := make([]any, 2)
		for i, body := range w.make.Bundles() {
			var v any
			if err := json.Unmarshal(body, &v); err != nil {
				t.Fatal(err)
			}
			shapes[i] = shape(v)
		}
		if diff := cmp.Diff(shapes[0], shapes[1]); diff != "" {
			t.Errorf("the shapes of a long call and of one of which nothing is known (-long +bare):\n%s", diff)
		}
	})
}

// shape is JSON without its values.
func shape(v any) any {
	o, ok := v.(map[string]any)
	if !ok {
		return nil
	}
	out := map[string]any{}
	for name, v := range o {
		out[name] = shape(v)
	}
	return out
}

// TestMakeQueueFull: Make says 400 when its queue is full, and means: later. Nobody
// else waits for it.
func TestMakeQueueFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		w.make.QueueLimit = 2
		for range 5 {
			w.end(t)
		}
		if got := w.Delivered(t, 12); len(to("make", got)) != 2 {
			t.Fatalf("%d reached Make, want the 2 that its queue holds", len(to("make", got)))
		}
		if trouble := w.trouble("make"); trouble != callhook.ReasonPostponed {
			t.Errorf("Make's lane: %q, want postponed", trouble)
		}
		for range 3 { // the scenario runs every quarter of an hour
			time.Sleep(15 * time.Minute)
			w.make.Run()
		}
		postponed := 0
		for _, d := range to("make", w.Delivered(t, 15)) {
			if d.Attempts != 1 {
				t.Errorf("a delivery to Make took %d attempts, want 1: a full queue is none", d.Attempts)
			}
			postponed += d.Postponed
		}
		w.make.Run()
		if postponed == 0 || len(w.make.Bundles()) != 5 {
			t.Errorf("postponed %d times, the scenario got %d calls, want some and 5", postponed, len(w.make.Bundles()))
		}
	})
}

// TestMakeOff: a scenario that is off answers 410. What happens meanwhile waits.
func TestMakeOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		w.make.TurnOff()
		w.end(t)
		w.Delivered(t, 2)
		synctest.Wait()
		if trouble := w.trouble("make"); trouble != callhook.ReasonGone {
			t.Errorf("Make's lane: %q, want gone", trouble)
		}
		w.make.TurnOn()
		if n, err := w.Resume(t.Context(), callhook.LaneRef{Agent: "reception", Webhook: "make"}); n != 1 || err != nil {
			t.Errorf("Resume: %d, %v", n, err)
		}
		w.Delivered(t, 3)
	})
}

// TestZapier: a Zap's steps can use every field by a key of its own.
func TestZapier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		call := w.end(t)
		ds := to("zapier", w.Delivered(t, 3))
		want := map[string]string{
			"id": ds[0].ID, "type": "call.analyzed", "timestamp": "2026-03-02T09:34:25.000Z",
			"call_id": call.ID, "call_direction": "inbound", "call_status": "completed", "call_started_at": "2026-03-02T09:30:00.000Z",
			"call_duration_seconds": "252", "call_end_reason": "hangup", "customer_phone": call.From, "customer_name": "Ada", "transferred_to": "+442079460777",
			"call_summary": call.Summary, "call_sentiment": "positive", "call_successful": "true", "recording_url": call.Recording.URL,
			"call_transcript_text": "Agent: " + call.Transcript[0].Text + "\nCaller: " + call.Transcript[1].Text + "\nAgent: " + call.Transcript[3].Text +
				"\nCaller: " + call.Transcript[4].Text + "\nAgent: " + call.Transcript[5].Text,
		}
		if diff := cmp.Diff([]map[string]string{want}, w.zapier.Runs()); diff != "" {
			t.Errorf("fields of the Zap (-want +got):\n%s", diff)
		}
	})
}

// TestZapierOff: a Zap that is off answers 410. What happens meanwhile waits without an
// attempt, however long, until somebody turns it on and says so.
func TestZapierOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		w.zapier.TurnOff()
		for range 3 {
			w.end(t)
		}
		w.Delivered(t, 6)
		synctest.Wait()
		if trouble := w.trouble("zapier"); trouble != callhook.ReasonGone {
			t.Errorf("Zapier's lane: %q, want gone", trouble)
		}
		time.Sleep(2 * 24 * time.Hour)
		if got := w.Stats().Queue; got.Pending != 3 || got.Dead != 0 {
			t.Fatalf("two days later: %+v, want 3 pending", got)
		}
		w.zapier.TurnOn()
		if n, err := w.Resume(t.Context(), callhook.LaneRef{Agent: "reception", Webhook: "zapier"}); n != 3 || err != nil {
			t.Errorf("Resume: %d, %v, want 3", n, err)
		}
		for _, d := range to("zapier", w.Delivered(t, 9)) {
			if d.Attempts != 1 {
				t.Errorf("a delivery took %d attempts, want 1", d.Attempts)
			}
		}
		if n := len(w.zapier.Runs()); n != 3 {
			t.Errorf("the Zap ran %d times, want 3", n)
		}
	})
}

// TestZapierRate: a busy hour stays below what Zapier takes.
func TestZapierRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		for range 100 {
			w.end(t)
		}
		for _, d := range to("zapier", w.Delivered(t, 300)) {
			if d.Postponed > 0 {
				t.Errorf("Zapier answered 429 to a delivery, %d times", d.Postponed)
			}
		}
	})
}
