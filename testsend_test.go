package callhook_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/google/go-cmp/cmp"
)

// draft returns hooks that have no config in production, on a network.
func draftHooks(t *testing.T, n *network, o callhook.Options) *callhook.Hooks {
	t.Helper()
	o.Configs, o.Dial = callhook.Static(), n.Dial
	if o.Secrets == nil {
		o.Secrets = func(_ context.Context, ref callhook.SecretRef) (string, error) {
			if ref.Name == "KEY" {
				return secret, nil
			}
			return "", fmt.Errorf("%w: %s", callhook.ErrNoSecret, ref.Name)
		}
	}
	h, err := callhook.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func testSend(t *testing.T, h *callhook.Hooks, c *callhook.Config, webhook string, call *callhook.Call) *callhook.TestResult {
	t.Helper()
	r, err := h.TestSend(t.Context(), c, webhook, call)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestTestSendMeaning: what each kind of answer would mean in production.
func TestTestSendMeaning(t *testing.T) {
	const again = " In production it would be tried again after 5s, then in longer pauses, for 72h."
	for name, test := range map[string]struct {
		options string // of the webhook
		answer  http.HandlerFunc
		ok      bool
		want    string
	}{
		"taken":        {answer: status(204), ok: true, want: "The endpoint took it: in production the event would be delivered."},
		"fails":        {answer: status(500), want: "The endpoint answered 500 Internal Server Error." + again},
		"redirects":    {answer: status(302, "Location: https://h.test/"), want: "The endpoint answered 302 Found: redirects are not followed; write the final URL into the config." + again},
		"not found":    {answer: status(404), want: "The endpoint answered 404 Not Found." + again},
		"once":         {options: `"retry":{"max_attempts":1}`, answer: status(500), want: "The endpoint answered 500 Internal Server Error. In production the event would be a dead letter at once, since max_attempts is 1."},
		"three times":  {options: `"retry":{"max_attempts":3,"initial":"1m","max_age":"2h"}`, answer: status(500), want: "The endpoint answered 500 Internal Server Error. In production it would be tried again after 1m, then in longer pauses, for 2h or 3 attempts."},
		"rejected":     {answer: status(422), want: "The endpoint answered 422 Unprocessable Entity. It refuses this event: in production it would be tried 5 times in an hour, and then be a dead letter."},
		"busy":         {answer: status(429, "Retry-After: 90"), want: "The endpoint answered 429 Too Many Requests: come again in 1m30s. In production the webhook would rest for 1m30s, and its events would wait."},
		"Make is full": {answer: reply(400, "Queue is full."), want: "The endpoint answered 400 Bad Request. In production the webhook would rest for a while, and its events would wait."},
		"gone":         {answer: status(410), want: "The endpoint answered 410 Gone. It says that it is gone: in production the webhook would rest until its config changes, or somebody resumes it."},
		"too large":    {answer: status(413), want: "The endpoint answered 413 Request Entity Too Large. The request is too large for it: in production it would be a dead letter at once. Select fewer fields, or set max_bytes."},
		"no success":   {options: `"success":{"path":"data.0.code","equals":"SUCCESS"}`, answer: reply(200, `{"data":[{"code":"INVALID_DATA"}]}`), want: "The endpoint answered 200 OK, which is not what the webhook's success asks for." + again},
		"success":      {options: `"success":{"status":[302]}`, answer: status(302), ok: true, want: "The endpoint took it: in production the event would be delivered."},
		"no secret":    {options: `"headers":{"X-Key":"${NOBODY}"}`, want: "Nothing was sent: ${NOBODY}: no such secret: NOBODY. In production its events would wait until that is mended."},
		"a bad key":    {options: `"secrets":["whsec_${KEY}"]`, want: "Nothing was sent: secrets[0]: not a signing key: it must be whsec_, whsk_ or whpk_ followed by base64. In production its events would wait until that is mended."},
		"slow":         {options: `"timeout":"3s"`, answer: func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, want: "Timed out." + again},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				e := newEndpoint(test.answer)
				n.handle("h.test", e.ServeHTTP)
				h := draftHooks(t, n, callhook.Options{})
				start := time.Now()
				options := test.options
				if options != "" {
					options = "," + options
				}
				r := testSend(t, h, parse(t, `{"agent_id":"a","post_call":[{"url":"http://h.test/"`+options+`}]}`), "post_call", nil)
				if diff := cmp.Diff(test.want, r.Meaning); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if r.OK != test.ok || (r.Error == "") != test.ok || r.PreCall != nil {
					t.Errorf("ok %v, error %q, pre-call %v", r.OK, r.Error, r.PreCall)
				}
				want := 1
				if test.answer == nil {
					want = 0
				}
				time.Sleep(time.Hour) // nothing comes after it
				if got := len(e.requests()); got != want {
					t.Errorf("%d requests, want %d", got, want)
				}
				if took := time.Since(start) - time.Hour; took > 3*time.Second {
					t.Errorf("it took %s", took)
				}
				if s := h.Stats(); s.Queue.Accepted != 0 || s.Attempts != 0 {
					t.Errorf("it counts: %+v", s)
				}
			})
		})
	}
}

// TestTestSendRequest: the request is production's, signed, and marked as a test.
func TestTestSendRequest(t *testing.T) {
	for name, test := range map[string]struct {
		config, webhook string
		marked          string // path of "test" in the body
		body            string // what it begins with
	}{
		"an envelope":     {config: `"post_call":[{"url":"http://h.test/x?k=${KEY}","secrets":["${KEY}"],"headers":{"Authorization":"Bearer ${KEY}","X-Id":"{{event.id}}"}}]`, webhook: "post_call", marked: "test", body: `{"id":"msg_`},
		"selected fields": {config: `"call_status":[{"name":"ops","url":"http://h.test/","secrets":["${KEY}"],"payload":{"fields":["call.id"]}}]`, webhook: "ops", marked: "test", body: `{"id":"msg_`},
		"flat":            {config: `"post_call":[{"url":"http://h.test/","secrets":["${KEY}"],"payload":{"flat":true,"fields":["call.id"]}}]`, webhook: "post_call", marked: "test", body: `{"id":"msg_`},
		"flat, and taken": {config: `"post_call":[{"url":"http://h.test/","secrets":["${KEY}"],"payload":{"flat":true,"fields":[{"path":"call.id","as":"test"}]}}]`, webhook: "post_call", body: `{"id":"msg_`},
		"a template":      {config: `"post_call":[{"url":"http://h.test/","secrets":["${KEY}"],"method":"PUT","payload":{"template":["{{call.id}}",1.10]}}]`, webhook: "post_call", body: `["call_sample",1.10]`},
		"a lookup":        {config: `"pre_call":{"url":"http://h.test/","secrets":["${KEY}"]}`, webhook: "pre_call", marked: "test", body: `{"id":"msg_`},
		"a lookup's own":  {config: `"pre_call":{"url":"http://h.test/","secrets":["${KEY}"],"body":{"n":"{{call.from}}"}}`, webhook: "pre_call", body: `{"n":"+442079460123"}`},
		"a GET":           {config: `"pre_call":{"url":"http://h.test/","method":"GET","query":{"n":"{{call.from}}"},"secrets":["${KEY}"]}`, webhook: "pre_call"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				e := newEndpoint(reply(200, "{}"))
				n.handle("h.test", e.ServeHTTP)
				h := draftHooks(t, n, callhook.Options{})
				c := parse(t, `{"tenant_id":"acme","agent_id":"sales",`+test.config+`}`)
				first, again := testSend(t, h, c, test.webhook, nil), testSend(t, h, c, test.webhook, nil)
				got := e.requests()
				if len(got) != 2 || !first.OK || !again.OK {
					t.Fatalf("%d requests, %s, %s", len(got), first.Meaning, again.Meaning)
				}
				req := got[0]
				if err := callhook.Verify(req.Header, req.Body, secret); err != nil {
					t.Error(err)
				}
				if v := req.Header.Values(callhook.HeaderTest); len(v) != 1 || v[0] != "true" {
					t.Errorf("%s: %q", callhook.HeaderTest, v)
				}
				if !bytes.HasPrefix(req.Body, []byte(test.body)) || test.body == "" && len(req.Body) > 0 {
					t.Errorf("body %s", req.Body)
				}
				if marked := bytes.HasSuffix(req.Body, []byte(`,"test":true}`)); marked != (test.marked != "") {
					t.Errorf("marked %v: %s", marked, req.Body)
				}
				if len(req.Body) > 0 && !json.Valid(req.Body) {
					t.Errorf("not JSON: %s", req.Body)
				}
				if bytes.Contains(req.Body, []byte(`"agent_id"`)) && !bytes.Contains(req.Body, []byte(`"agent_id":"sales"`)) {
					t.Errorf("the sample is another agent's: %s", req.Body)
				}
				if a, b := req.Header.Get(callhook.HeaderID), got[1].Header.Get(callhook.HeaderID); a == b || strings.Contains(string(req.Body), `"id":"msg_`) && !strings.Contains(string(req.Body), a) {
					t.Errorf("ids %s, %s: %s", a, b, req.Body)
				}
				if p, err := c.Preview(test.webhook, nil); err != nil || p.Header.Get(callhook.HeaderTest) == "true" || p.Header.Get(callhook.HeaderID) == req.Header.Get(callhook.HeaderID) {
					t.Errorf("the preview of production: %v, %v", p, err)
				}

				shown := first.Request
				if !bytes.Equal(shown.Body, req.Body) || shown.Method != req.Method {
					t.Errorf("shown %s %s, sent %s %s", shown.Method, shown.Body, req.Method, req.Body)
				}
				if diff := cmp.Diff(strings.ReplaceAll("http://h.test"+req.URL, secret, "***"), shown.URL); diff != "" {
					t.Errorf("URL (-sent +shown):\n%s", diff)
				}
				sent := req.Header.Clone()
				for _, name := range []string{"Accept-Encoding", "Content-Length"} { // the connection's
					sent.Del(name)
				}
				for name, values := range sent {
					for i, v := range values {
						values[i] = strings.ReplaceAll(v, secret, "***")
						if name == "Webhook-Signature" {
							values[i] = "***"
						}
					}
				}
				if diff := cmp.Diff(sent, shown.Header); diff != "" {
					t.Errorf("headers (-sent +shown):\n%s", diff)
				}
			})
		})
	}
}

// TestTestSendLookup: what the agent would get of each answer.
func TestTestSendLookup(t *testing.T) {
	const defaults = ": the agent would begin with what it knows and the defaults"
	var many []string
	for i := range 12 {
		many = append(many, fmt.Sprintf(`"v%02d":%d`, i, i))
	}
	for name, test := range map[string]struct {
		response string
		answer   http.HandlerFunc
		ok       bool
		outcome  callhook.Outcome
		vars     callhook.Variables
		meaning  string
		err      error
	}{
		"variables": {answer: reply(200, `{"variables":{"customer_name":"Ada","tier":"gold","2nd":"x"}}`), ok: true, outcome: callhook.OutcomeApplied,
			vars: callhook.Variables{"customer_name": "Ada", "tier": "standard"}, meaning: "The answer gives customer_name; not taken: tier (locked), 2nd (invalid_name)."},
		"many": {answer: reply(200, `{"variables":{`+strings.Join(many, ",")+`}}`), ok: true, outcome: callhook.OutcomeApplied,
			meaning: "The answer gives v00, v01, v02, v03, v04, v05, v06, v07 and 4 more."},
		"paths": {response: `{"variables":{"customer_name":"contact.first","gone":"contact.gone"},"required":["customer_name","phone"]}`, answer: reply(200, `{"contact":{"first":"Ada"}}`), ok: true,
			outcome: callhook.OutcomeApplied, meaning: "The answer gives customer_name; not taken: gone (missing); no value for phone, which response.required asks for."},
		"nothing":     {answer: reply(200, `{"contact":{"first":"Ada"}}`), ok: true, outcome: callhook.OutcomeEmpty, meaning: "Nothing in the answer is a variable" + defaults + `. Say in "response" where the values are, if there are any.`},
		"n8n":         {answer: reply(200, `{"message":"Workflow was started"}`), ok: true, outcome: callhook.OutcomeEmpty, meaning: "The answer says only that a workflow was started: let the workflow answer with its result, or the agent would begin with what it knows and the defaults."},
		"Make":        {answer: reply(200, `Accepted`, "Content-Type: text/plain"), ok: true, outcome: callhook.OutcomeEmpty, meaning: "The answer says only that a workflow was started: let the workflow answer with its result, or the agent would begin with what it knows and the defaults."},
		"nobody":      {answer: reply(404, "no"), ok: true, outcome: callhook.OutcomeEmpty, meaning: "404 means that nobody has this number" + defaults + ". If every number gives that, the URL is wrong."},
		"two":         {response: `{"unique":"results"}`, answer: reply(200, `{"results":[{},{}]}`), outcome: callhook.OutcomeEmpty, err: callhook.ErrNotUnique, meaning: "There is more than one match, so none is used" + defaults + "."},
		"not JSON":    {answer: reply(200, `{`, "Content-Type: application/json"), outcome: callhook.OutcomeFailed, err: callhook.ErrBadReply, meaning: "The reply cannot be read: it says that it is JSON and is not" + defaults + "."},
		"too large":   {answer: reply(200, `["`+strings.Repeat("x", 300<<10)+`"]`), outcome: callhook.OutcomeFailed, err: callhook.ErrBadReply, meaning: "The reply cannot be read: it is larger than 262144 bytes" + defaults + "."},
		"fails":       {answer: reply(500, "<b>oops</b>"), outcome: callhook.OutcomeFailed, err: new(callhook.StatusError), meaning: "The endpoint answered 500 Internal Server Error" + defaults + "."},
		"too slow":    {answer: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, outcome: callhook.OutcomeTimeout, err: context.DeadlineExceeded, meaning: "No answer within 2s" + defaults + "."},
		"drips":       {answer: spaces, outcome: callhook.OutcomeTimeout, err: context.DeadlineExceeded, meaning: "No answer within 2s" + defaults + "."},
		"nobody home": {outcome: callhook.OutcomeFailed, err: new(callhook.TransportError), meaning: "Connecting failed" + defaults + "."},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				e := newEndpoint(test.answer)
				if test.answer != nil {
					n.handle("crm.test", e.ServeHTTP)
				}
				h := draftHooks(t, n, callhook.Options{})
				response := test.response
				if response == "" {
					response = "{}"
				}
				c := parse(t, `{"agent_id":"a","revision":9,"variables":[{"name":"customer_name","default":"there"},{"name":"tier","default":"standard","locked":true}],
					"pre_call":{"url":"http://crm.test/","response":`+response+`,"cache":"5m","late_for":"10s","hedge_after":"100ms","idempotent":true}}`)
				r := testSend(t, h, c, "pre_call", nil)
				if diff := cmp.Diff(test.meaning, r.Meaning); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				p := r.PreCall
				if r.OK != test.ok || p.Outcome != test.outcome || p.Revision != 9 || p.Elapsed != r.Elapsed || p.Elapsed > 2*time.Second || p.Attempts != 1 || p.Status != r.Status {
					t.Errorf("ok %v, %s, attempts %d, status %d, %d", r.OK, p, p.Attempts, p.Status, r.Status)
				}
				switch want := test.err.(type) {
				case nil:
					if p.Err != nil || r.Error != "" {
						t.Errorf("error %v, %s", p.Err, r.Error)
					}
				case *callhook.StatusError:
					if !errors.As(p.Err, &want) {
						t.Errorf("error %v", p.Err)
					}
				case *callhook.TransportError:
					if !errors.As(p.Err, &want) {
						t.Errorf("error %v", p.Err)
					}
				default:
					if !errors.Is(p.Err, want) {
						t.Errorf("error %v, want %v", p.Err, want)
					}
				}
				if test.vars == nil {
					test.vars = callhook.Variables{"customer_name": "there", "tier": "standard"}
				}
				for name, v := range test.vars {
					if strings.Contains(r.Meaning, "gives customer_name") && name == "customer_name" {
						v = "Ada"
					}
					if p.Variables[name] != v {
						t.Errorf("%s is %v, want %v", name, p.Variables[name], v)
					}
				}
				if late, ok := <-p.Late; ok {
					t.Errorf("late: %v", late)
				}
				time.Sleep(time.Minute)
				if got := len(e.requests()); got > 1 {
					t.Errorf("%d requests", got)
				}
				if lanes := h.Lanes(); len(lanes) > 0 {
					t.Errorf("lanes %v", lanes)
				}
			})
		})
	}
}

func spaces(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		_, _ = w.Write([]byte(" "))
		w.(http.Flusher).Flush()
		time.Sleep(100 * time.Millisecond)
	}
}

// TestTestSendSecrets: no secret that the endpoint repeats is shown.
func TestTestSendSecrets(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		n.handle("h.test", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(400)
			fmt.Fprintf(w, "%s %s %s", r.Header.Get("Authorization"), r.URL.RawQuery, r.Header.Get("X-Token"))
		})
		h := draftHooks(t, n, callhook.Options{})
		config := `"url":"http://h.test/?k=${KEY}","headers":{"Authorization":"Bearer ${KEY}","X-Token":"${crm_token}"}}`
		c := parse(t, `{"agent_id":"a","variables":[{"name":"crm_token","secret":true}],"pre_call":{`+config+`,"post_call":[{`+config+`]}`)
		call := callhook.SampleCall(callhook.TypePostCall)
		call.Secrets = callhook.Variables{"crm_token": "tok_12345"}
		for _, webhook := range []string{"pre_call", "post_call"} {
			r := testSend(t, h, c, webhook, call)
			if r.Reply != "*** k=*** ***" {
				t.Errorf("%s: reply %q", webhook, r.Reply)
			}
			all := fmt.Sprintf("%+v %+v %s %s", r, r.Request, r.Request.Body, r.Meaning)
			if strings.Contains(all, secret) || strings.Contains(all, "tok_12345") {
				t.Errorf("%s: a secret is shown: %s", webhook, all)
			}
			if r.Status != 400 || r.Error == "" {
				t.Errorf("%s: %d %s", webhook, r.Status, r.Error)
			}
		}
		// Without its value nothing goes out.
		r := testSend(t, h, c, "post_call", nil)
		if !strings.HasPrefix(r.Meaning, "Nothing was sent: ${crm_token}: ") || r.Status != 0 {
			t.Errorf("%d, %s", r.Status, r.Meaning)
		}
	})
}

// TestTestSendApart: a test touches nothing of production: not its breaker, its cache,
// its counts, its trace or its queue, and is not held by any of them.
func TestTestSendApart(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		n.handle("h.test", newEndpoint(reply(503, "{}")).ServeHTTP)
		traced := 0
		trace := &callhook.Trace{
			PreCallStart: func(ctx context.Context, _ *callhook.Call) context.Context { traced++; return ctx },
			Enqueued:     func(context.Context, *callhook.Delivery) { traced++ },
			AttemptDone:  func(context.Context, *callhook.Delivery, callhook.Attempt, callhook.Verdict) { traced++ },
		}
		c := parse(t, `{"agent_id":"reception","tenant_id":"acme","pre_call":{"url":"http://h.test/","paused":true},"post_call":[{"url":"http://h.test/","paused":true}]}`)
		h, err := callhook.New(callhook.Options{Configs: callhook.Static(c), Dial: n.Dial, Trace: trace})
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		before := h.Stats()
		for range 30 { // enough to open a breaker
			for _, webhook := range []string{"pre_call", "post_call"} {
				if r := testSend(t, h, c, webhook, nil); r.Status != 503 || len(r.Request.Notes) != 1 {
					t.Fatalf("%s: %d %v", webhook, r.Status, r.Request.Notes)
				}
			}
		}
		if diff := cmp.Diff(fmt.Sprint(before), fmt.Sprint(h.Stats())); diff != "" || traced > 0 || len(h.Lanes()) > 0 {
			t.Errorf("traced %d, lanes %v, stats (-before +after):\n%s", traced, h.Lanes(), diff)
		}
	})
}

// TestTestSendGuard: a test goes nowhere where production does not go.
func TestTestSendGuard(t *testing.T) {
	h, err := callhook.New(callhook.Options{Configs: callhook.Static(), AllowNets: []netip.Prefix{netip.MustParsePrefix("10.255.0.0/16")}})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for url, want := range map[string]string{
		"http://127.0.0.1:8080/":  "Address 127.0.0.1 is blocked: nothing is ever sent there. In production each event would be a dead letter at once.",
		"http://localhost:8080/":  "Address 127.0.0.1 is blocked. In production it would be tried again after 5s, then in longer pauses, for 72h.",
		"http://localhost:25/":    "Port 25 is blocked: nothing is ever sent there. In production each event would be a dead letter at once.",
		"http://169.254.169.254/": "Address 169.254.169.254 is blocked: nothing is ever sent there. In production each event would be a dead letter at once.",
	} {
		c := parse(t, `{"agent_id":"a","post_call":[{"url":"`+url+`"}]}`)
		r := testSend(t, h, c, "post_call", nil)
		if got := strings.Replace(r.Meaning, "::1", "127.0.0.1", 1); got != want || r.OK || r.Status != 0 {
			t.Errorf("%s: %s", url, r.Meaning)
		}
	}
}

func TestTestSendErrors(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		h := draftHooks(t, n, callhook.Options{})
		c := parse(t, `{"agent_id":"a","pre_call":{"url":"http://h.test/{{call.from}}"},"post_call":[{"url":"http://h.test/","max_bytes":10}]}`)
		var ce *callhook.ConfigError
		if _, err := h.TestSend(t.Context(), &callhook.Config{}, "post_call", nil); !errors.As(err, &ce) {
			t.Errorf("a config that is not valid: %v", err)
		}
		if _, err := h.TestSend(t.Context(), nil, "post_call", nil); !errors.As(err, &ce) {
			t.Errorf("no config: %v", err)
		}
		if _, err := h.TestSend(t.Context(), c, "nobody", nil); err == nil || !strings.Contains(err.Error(), `no webhook "nobody"`) {
			t.Errorf("a webhook that does not exist: %v", err)
		}
		if _, err := h.TestSend(t.Context(), c, "pre_call", new(callhook.Call)); !errors.Is(err, callhook.ErrInvalidCall) {
			t.Errorf("an empty call: %v", err)
		}
		if _, err := h.TestSend(t.Context(), c, "post_call", nil); !errors.Is(err, callhook.ErrTooLarge) {
			t.Errorf("a body that is too large: %v", err)
		}
		if _, err := h.TestSend(t.Context(), c, "pre_call", &callhook.Call{ID: "c", AgentID: "a", From: ".."}); err == nil || !strings.Contains(err.Error(), "climb") {
			t.Errorf("a URL that cannot be built: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		n.handle("h.test", newEndpoint(status(204)).ServeHTTP)
		if r, err := h.TestSend(ctx, c, "pre_call", nil); err != nil || r.OK || r.PreCall.Outcome != callhook.OutcomeFailed || r.Error != "canceled" {
			t.Errorf("a ctx that has ended: %v, %v", r, err)
		}
		panics := draftHooks(t, n, callhook.Options{Secrets: func(context.Context, callhook.SecretRef) (string, error) { panic("oh") }})
		for _, webhook := range []string{"pre_call", "post_call"} {
			r, err := panics.TestSend(t.Context(), parse(t, `{"agent_id":"a","pre_call":{"url":"http://h.test/${K}"},"post_call":[{"url":"http://h.test/${K}"}]}`), webhook, nil)
			if err != nil || r.OK || !strings.Contains(r.Error, "panic") {
				t.Errorf("%s: secrets that panic: %+v, %v", webhook, r, err)
			}
		}
		h.Close()
		if _, err := h.TestSend(t.Context(), c, "pre_call", nil); !errors.Is(err, callhook.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	})
}

// TestSampleCalls: every field that a webhook can carry has a value in its sample, so
// that a preview shows all there is.
func TestSampleCalls(t *testing.T) {
	empty := map[callhook.Type][]string{
		callhook.TypePreCall:    {"call.variables", "call.previous_status"},
		callhook.TypeCallStatus: {"call.ended_at", "call.end_reason", "call.ended_by", "call.collected", "call.transcript", "call.summary", "call.error", "call.duration_seconds", "call.duration_ms", "call.talk_seconds", "call.transcript_text"},
		callhook.TypePostCall:   {"call.error"},
	}
	for _, typ := range []callhook.Type{callhook.TypePreCall, callhook.TypeCallStatus, callhook.TypePostCall} {
		events := map[callhook.Type]callhook.EventType{callhook.TypePreCall: callhook.EventInbound, callhook.TypeCallStatus: callhook.EventStatus, callhook.TypePostCall: callhook.EventAnalyzed}
		call := callhook.SampleCall(typ)
		for _, f := range callhook.Fields(typ) {
			if strings.Count(f.Path, ".") > 1 || strings.HasPrefix(f.Path, "event.") {
				continue
			}
			p := &callhook.Payload{Template: json.RawMessage(`"{{` + f.Path + `}}"`)}
			body, err := p.Build(&callhook.Event{ID: "msg_1", Type: events[typ], Timestamp: call.StartedAt, Data: callhook.EventData{Call: call}})
			if err != nil {
				t.Fatal(err)
			}
			if isNull := string(body) == "null"; isNull != slices.Contains(empty[typ], f.Path) {
				t.Errorf("%s of the sample for %s is %s", f.Path, typ, body)
			}
		}
		if call.From[:9] != "+44207946" || call.To[:9] != "+44207946" {
			t.Errorf("%s, %s are somebody's numbers", call.From, call.To)
		}
		call.Tags[0] = "changed"
		if diff := cmp.Diff(callhook.SampleCall(typ), callhook.SampleCall(typ)); diff != "" || callhook.SampleCall(typ).Tags[0] == "changed" {
			t.Errorf("the samples differ: %s", diff)
		}
	}
	if c := callhook.SampleCall("nothing"); c != nil {
		t.Errorf("a sample for nothing: %v", c)
	}
}

// TestPreviewNotes: what a preview says of calls that production would not send.
func TestPreviewNotes(t *testing.T) {
	sample := func(typ callhook.Type, change func(*callhook.Call)) *callhook.Call {
		c := callhook.SampleCall(typ)
		if change != nil {
			change(c)
		}
		return c
	}
	pre, stat, post := callhook.TypePreCall, callhook.TypeCallStatus, callhook.TypePostCall
	expires := func(d time.Duration) func(*callhook.Call) {
		return func(c *callhook.Call) { c.Recording.ExpiresAt = c.AnalyzedAt.Add(d) }
	}
	const link = "the recording's link works for 1h after the event, and the event may be delivered as late as 72h after it: keep the recording longer, or say so in retry.max_age"
	for name, test := range map[string]struct {
		webhook string
		config  string
		call    *callhook.Call
		want    []string
	}{
		"nothing to say":     {webhook: "pre_call", config: `"pre_call":{"url":"https://h.test/"}`},
		"paused lookup":      {webhook: "pre_call", config: `"pre_call":{"url":"https://h.test/","paused":true}`, want: []string{"the webhook is paused: no call is looked up"}},
		"outbound":           {webhook: "pre_call", config: `"pre_call":{"url":"https://h.test/"}`, call: sample(pre, func(c *callhook.Call) { c.Direction = callhook.Outbound }), want: []string{"this call would not be looked up: it is outbound, and the webhook's directions are inbound"}},
		"outbound's sample":  {webhook: "pre_call", config: `"pre_call":{"url":"https://h.test/","directions":["outbound"]}`},
		"withheld":           {webhook: "pre_call", config: `"pre_call":{"url":"https://h.test/","withheld":"skip"}`, call: sample(pre, func(c *callhook.Call) { c.From = "anonymous" }), want: []string{"this call would not be looked up: its number is withheld, and the webhook skips such callers"}},
		"paused":             {webhook: "post_call", config: `"post_call":[{"url":"https://h.test/","paused":true}]`, want: []string{"the webhook is paused: its events wait until it is not"}},
		"another status":     {webhook: "call_status", config: `"call_status":[{"url":"https://h.test/","statuses":["ringing"]}]`, call: sample(stat, nil), want: []string{`nothing would be sent for this call: its status is "transfer_started", and the webhook's statuses are ringing`}},
		"its status":         {webhook: "call_status", config: `"call_status":[{"url":"https://h.test/","statuses":["transfer_failed"]}]`},
		"going on":           {webhook: "post_call", config: `"post_call":[{"url":"https://h.test/"}]`, call: sample(stat, nil), want: []string{"nothing would be sent for this call yet: it has not ended"}},
		"not analyzed":       {webhook: "post_call", config: `"post_call":[{"url":"https://h.test/","on":"analyzed"}]`, call: sample(post, func(c *callhook.Call) { c.AnalyzedAt = time.Time{} }), want: []string{"nothing would be sent for this call yet: it has not been analyzed"}},
		"link, usual":        {webhook: "post_call", config: `"post_call":[{"url":"https://h.test/","on":"analyzed"}]`, call: sample(post, expires(time.Hour)), want: []string{link}},
		"link, selected":     {webhook: "post_call", config: `"post_call":[{"url":"https://h.test/","on":"analyzed","payload":{"fields":["call.recording.url"]}}]`, call: sample(post, expires(time.Hour)), want: []string{link}},
		"link, template":     {webhook: "post_call", config: `"post_call":[{"url":"https://h.test/","on":"analyzed","payload":{"template":"{{call.recording}}"}}]`, call: sample(post, expires(time.Hour)), want: []string{link}},
		"link, not sent":     {webhook: "post_call", config: `"post_call":[{"url":"https://h.test/","on":"analyzed","payload":{"fields":["call.id"]}}]`, call: sample(post, expires(time.Hour))},
		"link, long enough":  {webhook: "post_call", config: `"post_call":[{"url":"https://h.test/","on":"analyzed","retry":{"max_age":"30m"}}]`, call: sample(post, expires(time.Hour))},
		"link, dead already": {webhook: "post_call", config: `"post_call":[{"url":"https://h.test/","on":"analyzed"}]`, call: sample(post, expires(-time.Hour)), want: []string{strings.Replace(link, "for 1h", "for 0s", 1)}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := parse(t, `{"agent_id":"a",`+test.config+`}`).Preview(test.webhook, test.call)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, p.Notes); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestPreviewIsWhatIsSent: for every example config and call, what Preview shows is
// what an endpoint gets, secrets and the signature apart.
func TestPreviewIsWhatIsSent(t *testing.T) {
	configs := exampleConfigs(t)
	for _, name := range slices.Sorted(maps.Keys(configs)) {
		c := configs[name]
		var names []string
		if c.PreCall != nil {
			c.PreCall.URL, names = onTestHost(c.PreCall.URL), append(names, nameOr(c.PreCall.Name, callhook.TypePreCall))
		}
		for i := range c.CallStatus {
			w := &c.CallStatus[i]
			w.URL, names = onTestHost(w.URL), append(names, nameOr(w.Name, callhook.TypeCallStatus))
		}
		for i := range c.PostCall {
			w := &c.PostCall[i]
			w.URL, names = onTestHost(w.URL), append(names, nameOr(w.Name, callhook.TypePostCall))
		}
		bubble(t, func(t *testing.T, n *network) {
			e := newEndpoint()
			n.handle("h.test", e.ServeHTTP)
			h := draftHooks(t, n, callhook.Options{Secrets: func(context.Context, callhook.SecretRef) (string, error) { return secret, nil }})
			for _, webhook := range names {
				for _, callName := range callNames(t) {
					r, err := h.TestSend(t.Context(), c, webhook, loadCall(t, callName))
					if err != nil {
						t.Errorf("%s, %s, %s: %v", name, webhook, callName, err)
						continue
					}
					all := e.requests()
					got := all[len(all)-1]
					if url := strings.ReplaceAll("http://h.test"+got.URL, secret, "***"); url != r.Request.URL || !bytes.Equal(got.Body, r.Request.Body) && len(got.Body)+len(r.Request.Body) > 0 {
						t.Errorf("%s, %s, %s: shown %s %s, sent %s %s", name, webhook, callName, r.Request.URL, r.Request.Body, url, got.Body)
					}
				}
			}
		})
	}
}

func nameOr(name string, t callhook.Type) string {
	if name == "" {
		return string(t)
	}
	return name
}

// onTestHost moves a URL to the endpoint of a test.
func onTestHost(url string) string {
	rest := strings.TrimPrefix(url, "https://")
	return "http://h.test" + rest[strings.IndexByte(rest, '/'):]
}
