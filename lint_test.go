package callhook_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/callhook-go/callhook"
	"github.com/google/go-cmp/cmp"
)

// TestLintGolden compares the warnings about the configs in testdata/configs/lint,
// all of them valid, with what stands in the file beside each.
func TestLintGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/configs/lint/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			c, err := callhook.LoadConfig(file)
			if err == nil {
				err = c.Validate()
			}
			if err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			for _, f := range c.Lint() {
				fmt.Fprintln(&b, f)
				readable(t, f)
				if f.Path == "" {
					t.Errorf("%s has no place", f)
				}
			}
			golden(t, strings.TrimSuffix(file, ".json")+".golden", b.Bytes())
		})
	}
}

// TestLintExamples: what is there to be copied is warned of only where it says that
// something has to be filled in.
func TestLintExamples(t *testing.T) {
	configs := exampleConfigs(t)
	minimal, err := callhook.LoadConfig("examples/minimal/reception.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range configs {
		for _, f := range c.Lint() {
			if !strings.Contains(f.Message, "comes from an example") {
				t.Errorf("%s: %s", name, f)
			}
		}
	}
	// The shortest program has no key for its lookup, and that is worth a warning.
	if got := minimal.Lint(); len(got) != 1 || got[0].Path != "pre_call.secrets" {
		t.Errorf("examples/minimal: %v", got)
	}
}

func TestLint(t *testing.T) {
	for name, test := range map[string]struct {
		config string
		want   []string
	}{
		"clean": {config: `{"agent_id":"a","variables":[{"name":"k","secret":true},{"name":"n","default":"x"}],
			"pre_call":{"url":"https://h.example/?n={{call.from}}&sort_key=${K}","method":"GET","headers":{"Authorization":"Bearer ${T}","Idempotency-Key":"{{event.id}}"}},
			"call_status":[{"url":"http://localhost:5678/webhook/x","secrets":["${S}"]},{"name":"b","url":"http://127.0.0.1/"},{"name":"c","url":"http://10.1.2.3/"},{"name":"d","url":"http://[::1]:80/"}],
			"post_call":[{"url":"https://hooks.zapier.com/hooks/catch/1/${Z}/","payload":{"flat":true,"fields":["call.summary"]},"on":"analyzed"},
				{"name":"z2","url":"https://hooks.zapier.com/hooks/catch/1/${Z}/","payload":{"template":{"a":"{{call.id}}"}}},
				{"name":"default","url":"https://h.example/"}]}`},
		"http": {config: `{"agent_id":"a","pre_call":{"url":"http://crm.example/"},"call_status":[{"url":"http://h.example/"}],"post_call":[{"url":"http://8.8.8.8/"}]}`, want: []string{
			"pre_call.url: http:// sends the call's data and the headers in the clear: use https://",
			"call_status[0].url: http:// sends the call's data and the headers in the clear: use https://",
			"post_call[0].url: http:// sends the call's data and the headers in the clear: use https://"}},
		"statuses": {config: `{"agent_id":"a","call_status":[{"url":"https://h.example/","statuses":["transfer_start","on_hold","completed"]}]}`, want: []string{
			`call_status[0].statuses[0]: "transfer_start" is a status of the runtime's own, if it has one (did you mean "transfer_started"?)`}},
		"n8n test": {config: `{"agent_id":"a","post_call":[{"url":"https://n8n.example/webhook-test/abc"}]}`, want: []string{
			"post_call[0].url: an n8n test URL answers only while its editor listens: use the production URL (/webhook/)"}},
		"secrets": {config: `{"agent_id":"a","variables":[{"name":"k","secret":true,"default":"tok"}],
			"pre_call":{"url":"https://h.example/?api_key=abc&keyword=x","query":{"token":"abc","access_token":"${T}","q":"abc"},"headers":{"authorization":"Bearer abc","X-Api-Key":"abc","Cookie":"a=b","X-Auth-Token":"${T}","X-Password":"p","Accept":"*/*","Idempotency-Key":"x","X-Empty-Token":""}},
			"call_status":[{"url":"https://h.example/","secrets":["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw","${S}"]}]}`, want: []string{
			"variables[0].default: a secret is written here, where everybody who sees the config can read it: let the reply or the call give it",
			"pre_call.url: the value of api_key seems to be a secret, which everybody who sees the config can read: refer to it as ${NAME}",
			"pre_call.headers.Cookie: a secret seems to be written here, where everybody who sees the config can read it: refer to it as ${NAME}",
			"pre_call.headers.X-Api-Key: a secret seems to be written here, where everybody who sees the config can read it: refer to it as ${NAME}",
			"pre_call.headers.X-Password: a secret seems to be written here, where everybody who sees the config can read it: refer to it as ${NAME}",
			"pre_call.headers.authorization: a secret seems to be written here, where everybody who sees the config can read it: refer to it as ${NAME}",
			"pre_call.query: the value of token seems to be a secret, which everybody who sees the config can read: refer to it as ${NAME}",
			"call_status[0].secrets[0]: a key is written here, where everybody who sees the config can read it: refer to it as ${NAME}"}},
		"too early": {config: `{"agent_id":"a","post_call":[{"url":"https://h.example/","headers":{"X":"{{call.sentiment}}"},"payload":{"fields":["call.id","call.summary","call.evaluation.score",{"path":"call.summary","as":"again"}]}},
			{"name":"b","url":"https://h.example/b","on":"ended","payload":{"template":{"a":"{{call.successful}}","b":"{{call.analyzed_at}}"}}}]}`, want: []string{
			`post_call[0].payload: call.evaluation.score is seldom ready when the call ends: use "on": "analyzed", or expect null`,
			`post_call[0].payload: call.sentiment is seldom ready when the call ends: use "on": "analyzed", or expect null`,
			`post_call[0].payload: call.summary is seldom ready when the call ends: use "on": "analyzed", or expect null`,
			`post_call[1].payload: call.analyzed_at is seldom ready when the call ends: use "on": "analyzed", or expect null`,
			`post_call[1].payload: call.successful is seldom ready when the call ends: use "on": "analyzed", or expect null`}},
		"Zapier": {config: `{"agent_id":"a","call_status":[{"url":"https://hooks.zapier.com/hooks/catch/1/x/"}],"post_call":[{"url":"https://hooks.zapier.com/hooks/catch/1/x/","payload":{"fields":["call.id"]}}]}`, want: []string{
			`call_status[0].payload: Zapier cannot nest: it shows a__b for objects and pulls lists apart; use "flat": true`,
			`post_call[0].payload: Zapier cannot nest: it shows a__b for objects and pulls lists apart; use "flat": true`}},
		"the same for everybody": {config: `{"agent_id":"a","pre_call":{"url":"https://h.example/?x=1","method":"GET"}}`, want: []string{
			"pre_call: nothing of the call is sent, so the reply is the same for every caller: put {{call.from}} into the query"}},
		"secrets in a body": {config: `{"agent_id":"a","pre_call":{"url":"https://h.example/","body":{"k":"${K}"}},"post_call":[{"url":"https://h.example/","payload":{"template":["${K}"]}}]}`, want: []string{
			"pre_call.body: ${…} is sent as it stands: a secret can be referred to in the URL, in headers and in secrets, but not in a body",
			"post_call[0].payload.template: ${…} is sent as it stands: a secret can be referred to in the URL, in headers and in secrets, but not in a body"}},
		"examples": {config: `{"agent_id":"a","pre_call":{"url":"https://h.example/YOUR_PLACE/x","headers":{"X":"YOUR_HEADER"},"query":{"l":"YOUR_LOCATION"},"body":{"a":"YOUR_BODY, {{call.from}}"}}}`, want: []string{
			"pre_call.url: YOUR_PLACE comes from an example: write your own value",
			"pre_call.headers.X: YOUR_HEADER comes from an example: write your own value",
			"pre_call.query.l: YOUR_LOCATION comes from an example: write your own value",
			"pre_call.body: YOUR_BODY comes from an example: write your own value"}},
		"not valid": {config: `{"pre_call":{"url":"http://{{x}}/","method":"GET"},"post_call":[{"url":"http://h.example/webhook-test/","payload":{"fields":["call.nope","call.summary"]}}]}`, want: []string{
			"pre_call.url: http:// sends the call's data and the headers in the clear: use https://",
			"pre_call: nothing of the call is sent, so the reply is the same for every caller: put {{call.from}} into the query",
			"post_call[0].url: http:// sends the call's data and the headers in the clear: use https://",
			"post_call[0].url: an n8n test URL answers only while its editor listens: use the production URL (/webhook/)",
			`post_call[0].payload: call.summary is seldom ready when the call ends: use "on": "analyzed", or expect null`}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, f := range parse(t, test.config).Lint() {
				if strings.HasSuffix(f.Path, ".secrets") { // these configs are short; signing.golden has it
					continue
				}
				got = append(got, f.String())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestLintTooLarge: what is too much to be compiled is linted as far as that goes.
func TestLintTooLarge(t *testing.T) {
	c := parse(t, `{"agent_id":"a","pre_call":{"url":"http://h.example/","timeout":"9s"}}`)
	for i := range 60 {
		c.PostCall = append(c.PostCall, callhook.PostCallWebhook{Endpoint: callhook.Endpoint{Name: fmt.Sprint("w", i), URL: "https://h.example/webhook-test/"}})
	}
	if got := c.Lint(); len(got) < 60 {
		t.Errorf("%d warnings", len(got))
	}
	if got := (*callhook.Config)(nil).Lint(); got != nil {
		t.Errorf("no config: %v", got)
	}
}
