package callhook_test

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/callhook-go/callhook"
)

// FuzzConfig: whatever somebody writes is parsed or refused with faults that have
// texts; what is valid can be linted, previewed and written again.
func FuzzConfig(f *testing.F) {
	files, _ := filepath.Glob("examples/config/*.json")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	call := loadCall(f, "failed_transfer")
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := callhook.ParseConfig(data)
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Fatal("an error without a text")
			}
			return
		}
		c.Lint()
		if err := c.Validate(); err != nil {
			return
		}
		again, err := json.Marshal(c)
		if err != nil {
			t.Fatalf("a valid config cannot be written: %v", err)
		}
		c2, err := callhook.ParseConfig(again)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, again)
		}
		if err := c2.Validate(); err != nil {
			t.Fatalf("what was written is not valid: %v\n%s", err, again)
		}
		if c.PreCall != nil {
			preview(t, c, c.PreCall.Endpoint, callhook.TypePreCall, call)
		}
		for _, w := range c.CallStatus {
			preview(t, c, w.Endpoint, callhook.TypeCallStatus, call)
		}
		for _, w := range c.PostCall {
			preview(t, c, w.Endpoint, callhook.TypePostCall, call)
		}
	})
}

func preview(t *testing.T, c *callhook.Config, e callhook.Endpoint, typ callhook.Type, call *callhook.Call) {
	name := cmp.Or(e.Name, string(typ))
	p, err := c.Preview(name, call)
	if err != nil {
		return
	}
	scheme, rest, _ := strings.Cut(e.URL, "://")
	written, err := url.Parse(scheme + "://" + rest[:strings.IndexAny(rest+"/", "/?")])
	if err != nil {
		t.Fatalf("%s is valid: %v", e.URL, err)
	}
	if sent, err := url.Parse(p.URL); err != nil || sent.Host != written.Host || sent.Scheme != written.Scheme {
		t.Fatalf("%s goes to %s", e.URL, p.URL)
	}
	if p.Body != nil && !json.Valid(p.Body) {
		t.Fatalf("%s sends what is not JSON: %s", name, p.Body)
	}
	for h, values := range p.Header {
		if strings.ContainsAny(strings.Join(values, ""), "\r\n") {
			t.Fatalf("header %s has a line break", h)
		}
	}
}

// FuzzTemplate: any template is refused or gives JSON, and the host of a URL is
// never what call data says.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{`{"a":"{{call.from}}"}`, `["x {{ call.started_at | date: \"%Y-%m-%dT%H:%M:%S%:z\" }} y"]`,
		`"{{call.transcript | text}}"`, `{"t":"{{call.transcript.#(role==\"user\")#.text | join: \"; \"}}"}`,
		`{"m":"{{call.metadata | json}}","o":"{{call.summary | omit}}"}`, `{"v":"{{call.variables.a.b.0 | default: 'x' | upcase | last: 2 | mask: 1}}"}`,
		`{"d":"{{call.direction | map: 'inbound', 'IN', 'other'}}","h":"{{call.duration_seconds | hhmm}}"}`} {
		f.Add([]byte(s), `{"x":"<\u0000\"}}{{","n":12345678901234567890.10}`)
	}
	f.Fuzz(func(t *testing.T, template []byte, metadata string) {
		call := &callhook.Call{ID: "c", AgentID: "a", From: metadata, Direction: callhook.Inbound, EndedAt: time.Unix(1e9, 0),
			Summary: metadata, Transcript: []callhook.Turn{{Role: "user", Text: metadata}}}
		if json.Unmarshal([]byte(metadata), &call.Metadata) == nil {
			call.Variables = callhook.Variables(call.Metadata)
		}
		p := callhook.Payload{Template: template}
		body, err := p.Build(&callhook.Event{ID: "msg_1", Type: callhook.EventEnded, Data: callhook.EventData{Call: call}})
		if err == nil && !json.Valid(body) {
			t.Fatalf("template %s gives what is not JSON: %s", template, body)
		}
		vars := callhook.Variables{"a": metadata, "b": call.Metadata}
		checkSpoken(t, vars.Expand(string(template)))
		checkSpoken(t, vars.Prompt())
	})
}

func checkSpoken(t *testing.T, s string) {
	t.Helper()
	for _, bad := range []string{"{{", "}}", "${"} {
		if strings.Contains(s, bad) {
			t.Fatalf("%q survived in %q", bad, s)
		}
	}
}

// FuzzReply: whatever an endpoint answers, the variables can be used.
func FuzzReply(f *testing.F) {
	for _, s := range []string{`{"variables":{"customer_name":"Ada"}}`, `{"call_inbound":{"dynamic_variables":{"a":"b"},"reject":true}}`,
		`{"type":"conversation_initiation_client_data","dynamic_variables":{"a":{"b":[1,2]}}}`, `[{"customer_name":"{{x}}"}]`, `[]`, `Accepted`,
		`{"assistantOverrides":{"variableValues":{"a":1.10}},"destination":{"type":"number","number":"+442079460123"},"error":"no"}`,
		`{"result":{"dynamic_data":{"customer_name":"\u202eAda\u0000"}}}`, `{"message":"Workflow was started"}`, `{"contact":{"first_name":null}}`} {
		f.Add([]byte(s), "application/json", "")
		f.Add([]byte(s), "text/plain", "flat")
	}
	f.Fuzz(func(t *testing.T, body []byte, contentType, dialect string) {
		c := &callhook.Config{AgentID: "a", Variables: []callhook.Variable{
			{Name: "customer_name", Default: "there", Type: "string"}, {Name: "locked", Default: "1", Locked: true}, {Name: "n", Type: "number"}}}
		c.PreCall = &callhook.PreCallWebhook{Endpoint: callhook.Endpoint{URL: "http://crm.test/"}}
		c.PreCall.Response = callhook.Response{Dialect: dialect, Unique: "results",
			Directives: []string{"reject", "transfer_to", "agent_id", "metadata", "memory"}}
		if len(dialect)%2 == 1 {
			c.PreCall.Response = callhook.Response{Variables: map[string]string{"customer_name": "contact.first_name", "x": "#(a==1).b"}}
		}
		if c.Validate() != nil {
			return
		}
		res, err := callhook.ReadReply(c, contentType, body)
		if err != nil {
			return
		}
		if res.Variables["locked"] != "1" || res.Variables["customer_name"] == nil {
			t.Fatalf("defaults are gone: %v", res.Variables)
		}
		if len(res.Variables) > 300 || len(res.Changes) > 1000 {
			t.Fatalf("%d variables, %d changes", len(res.Variables), len(res.Changes))
		}
		checkSpoken(t, res.Variables.Expand(`{{customer_name}}{{x}}{{a | json}} {{ n`))
		size := 0
		for name := range res.Variables { // each alone, and beside what could make a bracket of it
			if spoken := res.Variables.Expand("{{" + name + "}}"); len(spoken) > 8*len(body)+100 {
				t.Fatalf("%s becomes %d bytes, from a reply of %d", name, len(spoken), len(body))
			} else {
				checkSpoken(t, spoken)
				size += len(spoken)
			}
			checkSpoken(t, res.Variables.Expand("{{{"+name+"}}}${{"+name+"}} {{"+name+" | json}}{{"+name+" | string | upcase}}"))
		}
		if size > 16*len(body)+100*len(res.Variables) {
			t.Fatalf("%d bytes are spoken of a reply of %d", size, len(body))
		}
		if line := res.String(); strings.ContainsAny(line, "\n\r") || len(line) > 2000 {
			t.Fatalf("not a line: %q", line)
		}
		prompt := res.Variables.Prompt()
		checkSpoken(t, prompt)
		if !json.Valid([]byte(prompt)) || len(prompt) > callhook.MaxPromptBytes+100 || !utf8.ValidString(prompt) {
			t.Fatalf("prompt %q", prompt)
		}
		call := &callhook.Call{ID: "c", AgentID: "a"}
		res.Apply(call)
		if _, err := json.Marshal(call); err != nil {
			t.Fatalf("the call cannot be written any more: %v", err)
		}
	})
}

// FuzzRetryAfter: within 1 second and 1 hour, or ignored.
func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"1", "0", "-1", "1e3", "3600", "99999999999999999999", "Fri, 31 Dec 1999 23:59:59 GMT", " 7 ", "١", "0x10", "+5", "Fri, 31 Dec 9999 23:59:59 GMT"} {
		f.Add(s, int64(946684790))
	}
	f.Fuzz(func(t *testing.T, value string, now int64) {
		d, ok := callhook.RetryAfter(value, time.Unix(now%(1<<40), 0))
		if ok && (d < time.Second || d > time.Hour) || !ok && d != 0 {
			t.Fatalf("%q: %s, %t", value, d, ok)
		}
	})
}

// FuzzSignatureHeader: no header verifies what was not signed.
func FuzzSignatureHeader(f *testing.F) {
	f.Add("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", `{"test": 2432232314}`)
	f.Add("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OG=", `{"test": 2432232314}`)
	f.Add("a", "1", "v1a,AAAA v1, v2,x ,", "")
	f.Fuzz(func(t *testing.T, id, stamp, signature, body string) {
		h := http.Header{}
		h.Set(callhook.HeaderID, id)
		h.Set(callhook.HeaderTimestamp, stamp)
		h.Set(callhook.HeaderSignature, signature)
		now := time.Unix(1614265330, 0)
		err := callhook.VerifyAt(h, []byte(body), now, []string{secret})
		if err == nil {
			want := http.Header{}
			if err := callhook.Sign(want, id, now, []byte(body), secret); err != nil {
				t.Fatal(err)
			}
			// A timestamp may differ within the tolerance; then so does the signature.
			if stamp == "1614265330" && !strings.Contains(signature, want.Get(callhook.HeaderSignature)) {
				t.Fatalf("verified %q, which is not %q", signature, want.Get(callhook.HeaderSignature))
			}
			if !(id == "msg_p5jXN8AQM9LWM0D4loKWxJek" && body == `{"test": 2432232314}`) {
				t.Fatalf("forged: id %q, timestamp %q, signature %q, body %q", id, stamp, signature, body)
			}
		}
	})
}

// FuzzAnswer: whatever an endpoint answers, what is made of it is bounded, and says
// nothing of the request's secrets.
func FuzzAnswer(f *testing.F) {
	f.Add(200, "1", "Mon, 02 Mar 2026 09:30:00 GMT", "token-4711-secret", "", "")
	f.Add(503, "-1", "now", `{"a":"token-4711-secret"}`, "data.0.code", `"SUCCESS"`)
	f.Add(429, "1e3", "", "token-4711", "a", "1")
	f.Add(400, "99999999999999999999", "", "Queue is full.", "#", "[]")
	f.Fuzz(func(t *testing.T, status int, retryAfter, date, reply, path, equals string) {
		const secret = "token-4711-secret"
		header := http.Header{"Retry-After": {retryAfter}, "Date": {date}}
		var success *callhook.Success
		if s := (&callhook.Success{Path: path, Equals: []byte(equals)}); validSuccess(s) {
			success = s
		}
		a := callhook.JudgeAnswer(success, status, header, []byte(reply), secret)
		if a.RetryAfter < 0 || a.RetryAfter > time.Hour {
			t.Errorf("it is tried again after %s", a.RetryAfter)
		}
		if len(a.Excerpt) > 1<<10 || strings.Contains(a.Excerpt, secret) || !utf8.ValidString(a.Excerpt) {
			t.Errorf("of the reply is kept %q", a.Excerpt)
		}
		if strings.Contains(a.Text, secret) || len(a.Text) > 200 {
			t.Errorf("it says %q", a.Text)
		}
	})
}

func validSuccess(s *callhook.Success) bool {
	c := callhook.Config{AgentID: "a", PostCall: []callhook.PostCallWebhook{{Endpoint: callhook.Endpoint{URL: "https://x.test/"}, DeliveryOptions: callhook.DeliveryOptions{Success: s}}}}
	return json.Valid(s.Equals) && c.Validate() == nil
}
