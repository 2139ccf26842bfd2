package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
)

const (
	token     = "0123456789abcdef0123456789abcdef"
	publicURL = "https://voice.example.com/twilio" // of a proxy before the server
)

const config = `{
  "agent_id": "reception",
  "variables": [
    {"name": "customer_name", "description": "Caller's first name"},
    {"name": "account_tier", "default": "standard"},
    {"name": "crm_token", "secret": true}
  ],
  "pre_call": {
    "url": "%[1]s/lookup", "timeout": "%[2]s", "late_for": "10s",
    "response": {"variables": {"customer_name": "contact.first_name", "visits": "contact.visits", "crm_token": "token"}}
  },
  "call_status": [{"name": "ops", "url": "%[1]s/status", "ordered": true}],
  "post_call": [{"name": "log", "url": "%[1]s/calls"}]
}`

const ada = `{"contact": {"first_name": "Ada", "visits": 12}, "token": "crm-secret"}`

// rig is the server on loopback, with Twilio on one side and a customer's endpoints on
// the other.
type rig struct {
	*server
	t      *testing.T
	url    string
	crm    *callhooktest.Endpoint
	status *callhooktest.Endpoint
	posts  *callhooktest.Endpoint
	hooks  *callhooktest.Hooks
	waits  chan string // what is logged when a status callback waits
}

type setup struct {
	crm      callhooktest.Answer
	timeout  string         // of the lookup
	queue    callhook.Queue // nil for one of its own
	patience time.Duration
}

func newRig(t *testing.T, s setup) *rig {
	t.Helper()
	if s.crm.Body == "" && s.crm.Fault == "" {
		s.crm = callhooktest.Reply(200, ada)
	}
	if s.timeout == "" {
		s.timeout = "10s"
	}
	if s.patience == 0 {
		s.patience = 10 * time.Second
	}
	r := &rig{t: t, crm: callhooktest.NewEndpoint(t, s.crm), status: callhooktest.NewEndpoint(t), posts: callhooktest.NewEndpoint(t), waits: make(chan string, 100)}
	mux := http.NewServeMux()
	mux.Handle("/lookup", r.crm)
	mux.Handle("/status", r.status)
	mux.Handle("/calls", r.posts)
	customer := r.crm.Listen()
	if s.crm.Fault == "" { // one that misbehaves needs a door of its own
		web := httptest.NewServer(mux)
		t.Cleanup(web.Close)
		customer = web.URL
	}
	c, err := callhook.ParseConfig(fmt.Appendf(nil, config, customer, s.timeout))
	if err != nil {
		t.Fatal(err)
	}
	r.hooks = callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(c), Queue: s.queue}, nil)
	r.server = &server{
		hooks: r.hooks.Hooks, publicURL: publicURL, relayURL: "wss://agent.example.com/relay", token: token,
		greeting: `Hi {{customer_name | default: "there"}}!`, unreachable: "Nobody is there.",
		transfers: map[string]string{"sales": "+442079460100"}, patience: s.patience,
		log: slog.New(slog.NewTextHandler(waiting{r.waits}, nil)),
	}
	r.calls.agent = callhook.ConfigRef{Agent: "reception"}
	web := httptest.NewServer(r.handler())
	t.Cleanup(web.Close)
	t.Cleanup(func() { r.hooks.End(); r.late.Wait() })
	r.url = web.URL
	return r
}

// waiting tells of the status callbacks that have to wait.
type waiting struct{ waits chan string }

func (w waiting) Write(line []byte) (int, error) {
	if strings.Contains(string(line), "a status callback waits") {
		w.waits <- string(line)
	}
	return len(line), nil
}

// waited returns when one does.
func (r *rig) waited() {
	r.t.Helper()
	select {
	case <-r.waits:
	case <-time.After(10 * time.Second):
		r.t.Fatal("a status callback that came too early did not wait")
	}
}

// form reads a request of testdata: its fields, one a line. A change is name=value.
func form(t *testing.T, name string, changes ...string) url.Values {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name+".form"))
	if err != nil {
		t.Fatal(err)
	}
	form, err := url.ParseQuery(strings.ReplaceAll(strings.TrimSpace(string(raw)), "\n", "&"))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, change := range changes {
		field, value, _ := strings.Cut(change, "=")
		form.Set(field, value)
	}
	return form
}

// sign signs like Twilio, by other code than the server's.
func sign(path string, form url.Values) string {
	text := publicURL + path
	for _, name := range slices.Sorted(maps.Keys(form)) {
		text += name + form.Get(name)
	}
	mac := hmac.New(sha1.New, []byte(token))
	mac.Write([]byte(text))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// post sends a request as Twilio does, which gives up after 15 seconds.
func (r *rig) post(path string, form url.Values) (int, string) {
	r.t.Helper()
	return r.send(path, form, http.Header{"X-Twilio-Signature": {sign(path, form)}})
}

func (r *rig) send(path string, form url.Values, header http.Header) (int, string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		r.t.Fatal(err)
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=UTF-8")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Error(err)
		return 0, ""
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Error(err)
	}
	return res.StatusCode, string(body)
}

// twiml sends a request that is answered with TwiML.
func (r *rig) twiml(path string, form url.Values) (doc string, parsed response) {
	r.t.Helper()
	code, doc := r.post(path, form)
	if code != http.StatusOK {
		r.t.Fatalf("POST %s: %d %s", path, code, doc)
	}
	if err := xml.Unmarshal([]byte(doc), &parsed); err != nil {
		r.t.Fatalf("POST %s: %v\n%s", path, err, doc)
	}
	return doc, parsed
}

// tell sends a callback that wants no TwiML.
func (r *rig) tell(path string, form url.Values) {
	r.t.Helper()
	if code, body := r.post(path, form); code != http.StatusNoContent {
		r.t.Errorf("POST %s: %d %s", path, code, body)
	}
}

// events returns the n statuses that the customer was told, in order, when there is
// nothing more to deliver.
func (r *rig) events(n, posts int) (statuses []string, ended []*callhook.Call) {
	r.t.Helper()
	r.hooks.Delivered(r.t, n+posts)
	r.hooks.End()
	for _, req := range r.status.Received(r.t, n) {
		c := req.Event.Data.Call
		statuses = append(statuses, fmt.Sprintf("%d %s", c.Sequence, c.Status))
	}
	for _, req := range r.posts.Received(r.t, posts) {
		ended = append(ended, req.Event.Data.Call)
	}
	return statuses, ended
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprintf("%v", got), fmt.Sprintf("%v", want); g != w {
		t.Errorf("%s:\n got %s\nwant %s", what, g, w)
	}
}

// TestNotTwilio: what Twilio has not signed does nothing.
func TestNotTwilio(t *testing.T) {
	r := newRig(t, setup{})
	good := form(t, "voice")
	signature := sign("/voice", good)
	with := func(values ...string) http.Header { return http.Header{"X-Twilio-Signature": values} }
	for _, test := range []struct {
		name, path string
		form       url.Values
		header     http.Header
		want       int
	}{
		{"no signature", "/voice", good, nil, 403},
		{"an empty one", "/voice", good, with(""), 403},
		{"a wrong one", "/voice", good, with("0/KCTR6DLpKmkAf8muzZqo1nDgQ="), 403},
		{"two", "/voice", good, with(signature, signature), 403},
		{"another number", "/voice", form(t, "voice", "From=+442079460124"), with(signature), 403},
		{"a field more", "/voice", form(t, "voice", "A=1"), with(signature), 403},
		{"another path", "/status", good, with(signature), 403},
		{"another query", "/voice?a=1", good, with(signature), 403},
		{"no call", "/voice", form(t, "voice", "CallSid="), with(sign("/voice", form(t, "voice", "CallSid="))), 400},
		{"more than a form", "/voice", form(t, "voice", "A="+strings.Repeat("a", 64<<10)), with(signature), 400},
	} {
		t.Run(test.name, func(t *testing.T) {
			if code, body := r.send(test.path, test.form, test.header); code != test.want || strings.Contains(body, "<") {
				t.Errorf("got %d %s, want %d", code, body, test.want)
			}
		})
	}
	if code, _ := r.post("/nowhere", good); code != http.StatusNotFound {
		t.Errorf("another path: %d", code)
	}
	res, err := http.Get(r.url + "/voice")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	equal(t, "GET", res.StatusCode, http.StatusMethodNotAllowed)
	r.crm.Received(t, 0)
	if code, _ := r.post("/voice", good); code != http.StatusOK {
		t.Errorf("signed: %d", code)
	}
}

func TestVoice(t *testing.T) {
	r := newRig(t, setup{})
	doc, _ := r.twiml("/voice", form(t, "voice"))
	equal(t, "TwiML", doc, `<?xml version="1.0" encoding="UTF-8"?>
<Response><Connect action="https://voice.example.com/twilio/connect-ended">`+
		`<ConversationRelay url="wss://agent.example.com/relay" welcomeGreeting="Hi Ada!">`+
		`<Parameter name="account_tier" value="standard"></Parameter>`+
		`<Parameter name="customer_name" value="Ada"></Parameter>`+
		`<Parameter name="visits" value="12"></Parameter>`+
		`</ConversationRelay></Connect></Response>`) // and not the token, which is secret
	asked := r.crm.Received(t, 1)[0].Event.Data.Call
	equal(t, "the CRM was asked about", []string{asked.ID, asked.From, asked.FromName, asked.FromVerified, asked.To, asked.ForwardedFrom, string(asked.Direction), string(asked.Status)},
		[]string{"CA0123456789abcdef0123456789abcdef", "+442079460123", "LOVELACE A", "A", "+442079460999", "+442079460111", "inbound", "ringing"})
	if body := string(r.crm.Received(t, 1)[0].Body); strings.Contains(body, "Token") || strings.Contains(body, "eyJ") {
		t.Errorf("a token of Twilio's was passed on: %s", body)
	}
}

// TestCRMHangs: the caller is greeted all the same, with what is known without a CRM.
func TestCRMHangs(t *testing.T) {
	r := newRig(t, setup{crm: callhooktest.Answer{Fault: callhooktest.FaultHang}, timeout: "50ms"})
	_, doc := r.twiml("/voice", form(t, "voice")) // in Twilio's time, or it fails
	equal(t, "greeting", doc.Connect.Relay.Greeting, "Hi there!")
	equal(t, "parameters", doc.Connect.Relay.Parameters, "[{account_tier standard}]")
	r.crm.Received(t, 1)
}

// TestCRMIsLate: what the CRM says after the greeting still belongs to the call.
func TestCRMIsLate(t *testing.T) {
	greeted := make(chan struct{})
	r := newRig(t, setup{timeout: "50ms", crm: callhooktest.Answer{Body: "slow", Func: func(*callhooktest.Request) callhooktest.Answer {
		<-greeted
		return callhooktest.Reply(200, ada)
	}}})
	_, doc := r.twiml("/voice", form(t, "voice"))
	close(greeted)
	equal(t, "greeting", doc.Connect.Relay.Greeting, "Hi there!")
	r.late.Wait()
	r.twiml("/connect-ended", form(t, "connect_ended_caller"))
	r.tell("/status", form(t, "completed"))
	_, ended := r.events(1, 1)
	equal(t, "customer_name", ended[0].Variables["customer_name"], "Ada")
}

// TestCRMInjects: a reply is text, whatever is in it.
func TestCRMInjects(t *testing.T) {
	const name = `\"/></ConversationRelay></Connect><Dial>+19005550100</Dial><!-- ]]> &amp; {{account_tier}}`
	r := newRig(t, setup{crm: callhooktest.Reply(200, `{"contact": {"first_name": "`+name+`"}}`)})
	raw, doc := r.twiml("/voice", form(t, "voice"))
	elements(t, []byte(raw), "Response", "Connect", "ConversationRelay", "Parameter")
	heard := doc.Connect.Relay.Parameters[1].Value
	if !strings.HasPrefix(heard, `"/></ConversationRelay></Connect><Dial>+19005550100</Dial><!-- ]]> &amp; `) || strings.Contains(heard, "standard") {
		t.Errorf("the name did not arrive as it was: %s", heard)
	}
	if !strings.HasPrefix(doc.Connect.Relay.Greeting, `Hi "/></ConversationRelay></Connect><Dial>`) {
		t.Errorf("greeting %q", doc.Connect.Relay.Greeting)
	}
}

// TestWithheld: what Twilio has instead of a number is not taken for one. The numbers
// are those of https://help.twilio.com/articles/223179988.
func TestWithheld(t *testing.T) {
	for _, from := range []string{"anonymous", "ANONYMOUS", "+266696687", "+7378742833", "+2562533", "+8656696", "+86282452253", ""} {
		t.Run(from, func(t *testing.T) {
			r := newRig(t, setup{})
			r.twiml("/voice", form(t, "voice", "From="+from, "Caller="+from))
			r.twiml("/connect-ended", form(t, "connect_ended_caller", "From="+from))
			r.tell("/status", form(t, "completed", "From="+from))
			equal(t, "the CRM is asked", r.crm.Received(t, 1)[0].Text("data.call.from"), "")
			_, ended := r.events(1, 1)
			equal(t, "from", ended[0].From, "")
			equal(t, "to", ended[0].To, "+442079460999")
		})
	}
}

func TestAttestation(t *testing.T) {
	for said, want := range map[string]string{
		"TN-Validation-Passed-A": "A", "TN-Validation-Passed-B": "B", "TN-Validation-Passed-C": "C",
		"TN-Validation-Passed-A-Diverted": "A", "TN-Validation-Passed-B-Passthrough": "B",
		"TN-Validation-Failed-A": "", "TN-Validation-Failed": "", "No-TN-Validation": "", "": "", "TN-Validation-Passed-": "", "TN-Validation-Passed-D": "",
	} {
		if got := attestation(said); got != want {
			t.Errorf("%s: got %q, want %q", said, got, want)
		}
	}
}

// TestCall: an inbound call to its end, of which Twilio tells twice.
func TestCall(t *testing.T) {
	for _, test := range []struct {
		ending, reason, by, failure, says string
	}{
		{"connect_ended_caller", "completed", "caller", "", ""},
		{"connect_ended_agent", "appointment_moved", "agent", "", ""},
		{"connect_ended_failed", "agent_failed", "system", "Network connection to WebSocket server failed.", "I am sorry, something went wrong. Please call again."},
	} {
		t.Run(test.ending, func(t *testing.T) {
			r := newRig(t, setup{})
			r.twiml("/voice", form(t, "voice"))
			r.twiml("/voice", form(t, "voice"))
			_, doc := r.twiml("/connect-ended", form(t, test.ending))
			if doc.Connect != nil || doc.Dial != nil || doc.Say != test.says {
				t.Errorf("the call goes on: %+v", doc)
			}
			now := time.Now().Add(95 * time.Second).UTC().Format(time.RFC1123Z)
			for range 3 {
				r.tell("/status", form(t, "completed", "Timestamp="+now))
			}
			statuses, ended := r.events(1, 1)
			equal(t, "statuses", statuses, "[1 completed]")
			c := ended[0]
			equal(t, "ended", []string{c.EndReason, c.EndedBy, c.Error, string(c.Status), string(c.PreviousStatus)},
				[]string{test.reason, test.by, test.failure, "completed", "in_progress"})
			equal(t, "variables", c.Variables, callhook.Variables{"account_tier": "standard", "customer_name": "Ada", "visits": "12"})
			if lasted := c.EndedAt.Sub(c.StartedAt); lasted < 90*time.Second || c.AnsweredAt.Before(c.StartedAt) || c.EndedAt.Before(c.AnsweredAt) {
				t.Errorf("started %s, answered %s, ended %s", c.StartedAt, c.AnsweredAt, c.EndedAt)
			}
		})
	}
}

// TestReordered: whatever comes before what, and however often, the customer is told
// once and in order.
func TestReordered(t *testing.T) {
	for _, test := range []struct {
		name    string
		arrives []string
		want    []string
	}{
		{"in order", []string{"initiated", "ringing", "in_progress", "completed"}, []string{"1 initiated", "2 ringing", "3 in_progress", "4 completed"}},
		{"busy", []string{"initiated", "ringing", "busy"}, []string{"1 initiated", "2 ringing", "3 busy"}},
		{"twice each", []string{"initiated", "initiated", "ringing", "ringing", "initiated", "in_progress", "in_progress", "completed", "ringing", "completed"},
			[]string{"1 initiated", "2 ringing", "3 in_progress", "4 completed"}},
		{"the last first", []string{"initiated", "completed", "in_progress", "ringing"}, []string{"1 initiated", "2 ringing", "3 in_progress", "4 completed"}},
		{"two changed", []string{"initiated", "in_progress", "ringing", "completed"}, []string{"1 initiated", "2 ringing", "3 in_progress", "4 completed"}},
		// Nobody knows how many changes there were of a call whose beginning is not known.
		{"all backwards", []string{"completed", "in_progress", "ringing", "initiated"}, []string{"0 initiated", "0 ringing", "0 in_progress", "0 completed"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, setup{})
			var answered sync.WaitGroup
			arrived := map[string]bool{}
			for _, name := range test.arrives {
				f := form(t, "outbound_"+name)
				arrived[f.Get("SequenceNumber")] = true
				inTurn := true
				for before := range f.Get("SequenceNumber")[0] - '0' {
					inTurn = inTurn && arrived[fmt.Sprint(before)]
				}
				if inTurn {
					r.tell("/status", f)
					continue
				}
				answered.Go(func() { r.tell("/status", f) })
				r.waited()
			}
			answered.Wait()
			statuses, ended := r.events(len(test.want), 1)
			equal(t, "statuses", statuses, test.want)
			equal(t, "direction", ended[0].Direction, "outbound")
			if test.name == "busy" {
				equal(t, "ended", []any{ended[0].Status, ended[0].StatusReason, ended[0].EndedAt.UTC()}, "[busy SIP 486 2026-03-03 10:00:03 +0000 UTC]")
			} else {
				equal(t, "talked", ended[0].EndedAt.Sub(ended[0].AnsweredAt), "50s")
			}
		})
	}
}

// TestGap: a callback that never comes keeps nobody waiting for long. When it comes at
// last it is told, without a place in the count, and changes nothing.
func TestGap(t *testing.T) {
	for _, test := range []struct{ arrives, want []string }{
		{[]string{"initiated", "in_progress", "completed", "ringing"}, []string{"1 initiated", "0 in_progress", "0 completed", "0 ringing"}},
		{[]string{"initiated", "in_progress", "ringing", "completed"}, []string{"1 initiated", "0 in_progress", "0 ringing", "0 completed"}},
	} {
		r := newRig(t, setup{patience: time.Millisecond})
		for _, name := range test.arrives {
			r.tell("/status", form(t, "outbound_"+name))
		}
		statuses, ended := r.events(4, 1)
		equal(t, "statuses", statuses, test.want)
		equal(t, "status", []any{ended[0].Status, ended[0].PreviousStatus}, "[completed in_progress]")
	}
}

// TestTransfer: the caller is put through, and Twilio repeats all that it says.
func TestTransfer(t *testing.T) {
	r := newRig(t, setup{})
	r.twiml("/voice", form(t, "voice"))
	var doc string
	for range 2 {
		doc, _ = r.twiml("/connect-ended", form(t, "connect_ended_transfer"))
	}
	equal(t, "TwiML", doc, `<?xml version="1.0" encoding="UTF-8"?>
<Response><Dial action="https://voice.example.com/twilio/dial-ended?transfer=0" timeout="30">`+
		`<Number statusCallback="https://voice.example.com/twilio/dial-answered?transfer=0" statusCallbackEvent="answered">+442079460100</Number></Dial></Response>`)
	for range 2 {
		r.tell("/dial-answered?transfer=0", form(t, "dial_answered"))
	}
	for range 2 {
		_, over := r.twiml("/dial-ended?transfer=0", form(t, "dial_completed"))
		if over.Connect != nil || over.Dial != nil {
			t.Errorf("the call goes on: %+v", over)
		}
	}
	r.tell("/status", form(t, "completed"))
	statuses, ended := r.events(3, 1)
	equal(t, "statuses", statuses, "[1 transfer_started 2 transfer_connected 3 completed]")
	transfers := ended[0].Transfers
	if len(transfers) != 1 || transfers[0].To != "+442079460100" || transfers[0].Status != callhook.StatusTransferConnected || transfers[0].EndedAt.IsZero() {
		t.Errorf("transfers: %+v", transfers)
	}
	equal(t, "reason", ended[0].EndReason+", "+transfers[0].Reason, "transferred, The caller requested to talk to a real person")
}

// TestTransferConnectedAtLast: without the news that somebody answered, the end of
// the transfer says that it came about. The end of the call arrives before it.
func TestTransferConnectedAtLast(t *testing.T) {
	r := newRig(t, setup{})
	r.twiml("/voice", form(t, "voice"))
	r.twiml("/connect-ended", form(t, "connect_ended_transfer"))
	stored := make(chan struct{})
	go func() { defer close(stored); r.tell("/status", form(t, "completed")) }()
	r.waited()
	r.twiml("/dial-ended?transfer=0", form(t, "dial_completed"))
	<-stored
	statuses, ended := r.events(3, 1)
	equal(t, "statuses", statuses, "[1 transfer_started 2 transfer_connected 3 completed]")
	equal(t, "transfer", ended[0].Transfers[0].Status, "transfer_connected")
}

// TestTransferFails: the caller gets the agent back, who may try again.
func TestTransferFails(t *testing.T) {
	r := newRig(t, setup{})
	r.twiml("/voice", form(t, "voice"))
	for i := range 2 {
		which := fmt.Sprint("?transfer=", i)
		_, doc := r.twiml("/connect-ended", form(t, "connect_ended_transfer", fmt.Sprint("SessionId=VX", i)))
		equal(t, "action", doc.Dial.Action, publicURL+"/dial-ended"+which)
		if i == 0 {
			_, again := r.twiml("/dial-ended"+which, form(t, "dial_no_answer"))
			equal(t, "agent", []any{again.Connect.Relay.Greeting, again.Connect.Relay.Parameters}, "[Nobody is there. [{account_tier standard} {customer_name Ada} {visits 12}]]")
		} else {
			r.twiml("/dial-ended"+which, form(t, "dial_canceled"))
		}
	}
	r.tell("/status", form(t, "completed"))
	statuses, ended := r.events(5, 1)
	equal(t, "statuses", statuses, "[1 transfer_started 2 transfer_failed 3 transfer_started 4 transfer_canceled 5 completed]")
	equal(t, "transfers", []any{ended[0].Transfers[0].Status, ended[0].Transfers[0].Reason, ended[0].Transfers[1].Status, ended[0].Transfers[1].Reason},
		"[transfer_failed no_answer transfer_canceled canceled]")
}

// TestTransferToAnybody: nobody is dialled whom the operator has not named.
func TestTransferToAnybody(t *testing.T) {
	r := newRig(t, setup{})
	r.twiml("/voice", form(t, "voice"))
	_, doc := r.twiml("/connect-ended", form(t, "connect_ended_transfer", `HandoffData={"transfer": "+19005550100"}`))
	if doc.Dial != nil || doc.Connect == nil || doc.Connect.Relay.Greeting != "Nobody is there." {
		t.Errorf("got %+v", doc)
	}
	_, doc = r.twiml("/connect-ended", form(t, "connect_ended_transfer", `HandoffData=not JSON`, "SessionId=VX2"))
	if doc.Dial != nil || doc.Connect != nil {
		t.Errorf("got %+v", doc)
	}
}

// unsure is a queue that stores nothing for a while.
type unsure struct {
	callhook.Queue
	fails atomic.Int32
}

func (q *unsure) Enqueue(ctx context.Context, ds ...*callhook.Delivery) error {
	if q.fails.Add(-1) >= 0 {
		return errors.New("the disk is full")
	}
	return q.Queue.Enqueue(ctx, ds...)
}

// TestNotStored: what could not be stored is stored with the next request, and Twilio
// is asked to repeat one.
func TestNotStored(t *testing.T) {
	memory := callhook.NewMemoryQueue(nil)
	t.Cleanup(func() { memory.Close() })
	queue := &unsure{Queue: memory}
	r := newRig(t, setup{queue: queue})
	r.twiml("/voice", form(t, "voice"))
	queue.fails.Store(2)
	r.twiml("/connect-ended", form(t, "connect_ended_transfer")) // the caller is put through all the same
	if code, _ := r.post("/dial-answered?transfer=0", form(t, "dial_answered")); code != http.StatusServiceUnavailable {
		t.Errorf("got %d, want 503", code)
	}
	r.twiml("/dial-ended?transfer=0", form(t, "dial_completed"))
	queue.fails.Store(1)
	if code, _ := r.post("/status", form(t, "completed")); code != http.StatusServiceUnavailable {
		t.Errorf("got %d, want 503", code)
	}
	r.tell("/status", form(t, "completed"))
	statuses, _ := r.events(3, 1)
	equal(t, "statuses", statuses, "[1 transfer_started 2 transfer_connected 3 completed]")
}

// TestForgotten: a server that was restarted in the middle of a call has forgotten it.
// It tells what it hears, and nothing that was told before is told again or taken for
// something that was.
func TestForgotten(t *testing.T) {
	queue := callhook.NewMemoryQueue(nil)
	t.Cleanup(func() { queue.Close() })
	before := newRig(t, setup{queue: queue})
	before.twiml("/voice", form(t, "voice"))
	before.twiml("/connect-ended", form(t, "connect_ended_transfer"))
	before.tell("/status", form(t, "outbound_initiated"))
	before.tell("/status", form(t, "outbound_ringing"))
	before.hooks.Delivered(t, 3)
	before.hooks.End()
	equal(t, "told before", len(before.status.Received(t, 3)), 3)

	after := newRig(t, setup{queue: queue, patience: time.Millisecond})
	after.tell("/dial-answered?transfer=0", form(t, "dial_answered"))
	_, doc := after.twiml("/dial-ended?transfer=0", form(t, "dial_completed"))
	if doc.Connect != nil {
		t.Errorf("got %+v", doc)
	}
	for range 2 {
		after.tell("/status", form(t, "completed"))
		after.tell("/status", form(t, "outbound_initiated")) // known, and the same event as before
		after.tell("/status", form(t, "outbound_in_progress"))
		after.tell("/status", form(t, "outbound_completed"))
	}
	statuses, ended := after.events(4, 2)
	slices.Sort(statuses)
	equal(t, "statuses", statuses, "[0 completed 0 completed 0 in_progress 0 transfer_connected]")
	ids := []string{ended[0].ID, ended[1].ID}
	slices.Sort(ids)
	equal(t, "ended", ids, "[CA0123456789abcdef0123456789abcdef CAbe982f58915a2def4cf7aaa1f1766236]")
}

// TestCalls: the server does not grow with the calls that it had.
func TestCalls(t *testing.T) {
	var c calls
	now := time.Now()
	first, begun := c.get("CA first", now)
	if again, begunAgain := c.get("CA first", now); !begun || begunAgain || again != first {
		t.Error("a call is not found again")
	}
	for i := range maxCalls - 1 {
		c.get(fmt.Sprint("CA", i), now)
	}
	c.get("CA first", now) // heard of lately
	c.get("CA one more", now)
	if _, begun := c.get("CA first", now); begun || len(c.bySID) != maxCalls || c.heard.Len() != maxCalls {
		t.Errorf("%d calls, want %d with the first", len(c.bySID), maxCalls)
	}
	if _, begun := c.get("CA0", now); !begun {
		t.Error("the oldest of too many was kept")
	}
	c.get("CA later", now.Add(keepCalls+time.Second))
	equal(t, "calls", len(c.bySID), 1)
}
