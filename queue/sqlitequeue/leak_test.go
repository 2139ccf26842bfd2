package sqlitequeue_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// sink is everything that was written somewhere, by where.
type sink struct {
	mu  sync.Mutex
	all map[string]*bytes.Buffer
}

func (s *sink) put(where string, what ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[string]*bytes.Buffer{}
	}
	if s.all[where] == nil {
		s.all[where] = new(bytes.Buffer)
	}
	for _, w := range what {
		if b, ok := w.([]byte); ok {
			s.all[where].Write(b)
		} else {
			fmt.Fprintf(s.all[where], "%+v\n", w)
		}
	}
}

type writer struct {
	*sink
	where string
}

func (w writer) Write(p []byte) (int, error) { w.put(w.where, p); return len(p), nil }

// forms are the spellings in which a text may be found.
func forms(text string) []string {
	quoted, _ := json.Marshal(text)
	return []string{text, string(quoted[1 : len(quoted)-1]), url.QueryEscape(text), url.PathEscape(text),
		base64.StdEncoding.EncodeToString([]byte(text)), hex.EncodeToString([]byte(text)), fmt.Sprintf("%v", []byte(text))}
}

// TestNothingLeaks: no secret is found in anything that is written, shown or stored, and
// what callers said and who they are neither, outside of requests.
func TestNothingLeaks(t *testing.T) {
	clientCert, clientKey := callhooktest.ClientCertificate("acme")
	secrets := map[string]string{
		"TOKEN": "header-token-4711/+x", "QUERY": "query secret-4712&=", "PATH": "path-secret-4713", "SIGN": "whsec_c2lnbmluZy1zZWNyZXQtNDcxNC0wMTIzNDU2Nzg5",
		"SIGN_OLD": "whsec_b2xkLXNpZ25pbmctc2VjcmV0LTQ3MTQtMDEyMzQ1Njc4OQ==", "CERT": clientCert, "CLIENT_KEY": clientKey, "CA": callhooktest.AuthorityPEM(),
	}
	const oauth, given, seal = "ya29.oauth-token-4715", "given-by-lookup-4716", "0123456789abcdef0123456789abcdef"
	hidden := map[string]string{"oauth": oauth, "given": given, "seal key": seal, "client key": strings.Split(clientKey, "\n")[1], "client key's end": strings.Split(clientKey, "\n")[2]}
	for _, name := range []string{"TOKEN", "QUERY", "PATH", "SIGN", "SIGN_OLD"} {
		hidden[name] = secrets[name]
	}
	personal := map[string]string{"number": "+442079460123", "digits": "2079460123", "name": "Ada Lovelace", "summary": "appointment about her knee"}

	// The endpoints repeat all that they are sent.
	echo := func(status int) callhooktest.Answer {
		return callhooktest.ReplyFunc(func(r *callhooktest.Request) callhooktest.Answer {
			headers, _ := json.Marshal(r.Header)
			body := fmt.Sprintf(`{"headers":%s,"url":%q,"plain":%q}`, headers, r.URL, fmt.Sprint(r.Header, r.URL))
			return callhooktest.Answer{Status: status, Header: http.Header{"Location": {"/" + r.URL.RequestURI()}, "X-Echo": {r.Header.Get("Authorization")}}, Body: body}
		})
	}
	crm := callhooktest.NewEndpoint(t, callhooktest.Reply(200, `{"variables":{"customer_name":"Ada Lovelace","crm_token":"`+given+`"}}`), echo(200))
	base := strings.Replace(crm.Listen(), "http:", "https:", 1)
	var hooks []string
	var ends []*callhooktest.Endpoint
	answers := map[string]callhooktest.Answer{"ok": echo(200), "refused": echo(401), "broken": echo(500), "gone": echo(410), "rejected": echo(422), "moved": echo(302),
		"large": echo(413), "hangs": {Fault: callhooktest.FaultHang}, "resets": {Fault: callhooktest.FaultResetAfter}, "forged": {Fault: callhooktest.FaultUnknownAuthority}}
	for _, name := range slices.Sorted(maps.Keys(answers)) {
		e := callhooktest.NewEndpoint(t, answers[name])
		e.ClientCerts = true
		ends = append(ends, e)
		hooks = append(hooks, fmt.Sprintf(`{"name": %q, "url": "%s/hooks/${PATH}/{{call.from}}?key=${QUERY}&n={{call.variables.customer_name}}", "timeout": "300ms",
			"headers": {"Authorization": "Bearer ${TOKEN}", "X-Given": "${crm_token}", "X-Caller": "{{call.from}}"}, "secrets": ["${SIGN}", "${SIGN_OLD}"],
			"tls": {"certificate": "${CERT}", "key": "${CLIENT_KEY}", "ca": "${CA}"}, "retry": {"initial": "50ms", "max_attempts": 3}}`,
			name, strings.Replace(e.Listen(), "http:", "https:", 1)))
	}
	config, err := callhook.ParseConfig(fmt.Appendf(nil, `{"tenant_id": "acme", "agent_id": "reception", "variables": [{"name": "crm_token", "secret": true}],
		"pre_call": {"url": "%s/lookup/{{call.from}}?key=${QUERY}", "headers": {"Authorization": "Bearer ${TOKEN}"}},
		"call_status": [{"name": "status", "url": "%s/status?key=${QUERY}", "headers": {"Authorization": "Bearer ${TOKEN}"}}],
		"post_call": [%s]}`, base, base, strings.Join(hooks, ",")))
	if err != nil {
		t.Fatal(err)
	}

	var out sink
	note := func(where string, err error) {
		for ; err != nil; err = errors.Unwrap(err) {
			out.put(where, err.Error(), err)
		}
	}
	path := filepath.Join(t.TempDir(), "queue.db")
	q := reopen(t, path, &sqlitequeue.Options{KeepDelivered: time.Hour})
	log := slog.New(slog.NewJSONHandler(writer{&out, "the log"}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h := callhooktest.NewHooks(t, callhook.Options{
		Configs: callhook.Static(config), Queue: q, Secrets: callhooktest.Secrets(secrets).Resolve, Logger: log, KeepCalls: true,
		NumberKey: []byte("0123456789abcdef"), SealKey: callhook.SealKeys(callhook.SealKey{ID: "k1", Key: []byte(seal)}),
		Authorize: func(_ context.Context, req *http.Request, _ callhook.AuthorizeRef) error {
			req.Header.Set("X-Oauth", "Zoho-oauthtoken "+oauth)
			return nil
		},
		Trace: &callhook.Trace{
			PreCallDone: func(_ context.Context, _ *callhook.Call, res *callhook.PreCallResult) {
				out.put("the trace", res.String(), res.Changes, res.Variables)
				note("the trace", res.Err)
			},
			Enqueued: func(_ context.Context, d *callhook.Delivery) {
				out.put("the trace of deliveries", *d, d.Body, []byte(d.Record))
			},
			AttemptDone: func(_ context.Context, d *callhook.Delivery, a callhook.Attempt, v callhook.Verdict) {
				out.put("the trace of deliveries", *d)
				a.Body = 0
				out.put("the trace", a, v.State, v.Reason)
			},
			Delivered: func(_ context.Context, d *callhook.Delivery) { out.put("the trace of deliveries", *d) },
			Dead: func(_ context.Context, d *callhook.Delivery, r callhook.Reason) {
				out.put("the trace of deliveries", *d, r)
			},
			LaneDown: func(l callhook.LaneState) { out.put("the trace", l) },
			LaneUp:   func(l callhook.LaneState) { out.put("the trace", l) },
		},
	}, nil)

	call := callhook.SampleCall(callhook.TypePostCall)
	call.ID, call.From, call.Summary = "call_1", personal["number"], personal["summary"]
	call.Variables = nil
	pre := h.PreCall(t.Context(), call)
	if pre.Outcome != callhook.OutcomeApplied || pre.Secrets["crm_token"] != given {
		t.Fatal(pre)
	}
	pre.Apply(call)
	note("an error", h.CallStatus(t.Context(), call))
	note("an error", h.PostCall(t.Context(), call))
	for _, name := range []string{"ok", "refused", "hangs", "forged"} {
		r, err := h.TestSend(t.Context(), config, name, call)
		note("an error", err)
		if r != nil {
			out.put("a test", r.Attempt, r.Meaning, r.Request.Header)
		}
		preview, err := config.Preview(name, call)
		note("an error", err)
		if preview != nil {
			out.put("a test", preview.Header)
		}
	}
	h.Delivered(t, 2)
	h.Dead(t, 8)
	out.put("the states", h.Stats(), h.Lanes())
	var dead []*callhook.Delivery
	page, err := q.List(t.Context(), callhook.Filter{})
	note("an error", err)
	for _, d := range page {
		d, err := q.Get(t.Context(), d.ID)
		note("an error", err)
		dead = append(dead, d)
		whole, _ := json.Marshal(d)
		out.put("the queue", whole, *d, d.Body)
	}
	if len(dead) != 11 {
		t.Errorf("the queue shows %d deliveries, want 11", len(dead))
	}
	h.End()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out.put("the file", data)
	}

	for where, text := range out.all {
		search := func(what, secret string) {
			for _, form := range forms(secret) {
				if i := bytes.Index(text.Bytes(), []byte(form)); i >= 0 {
					t.Errorf("%s has %s: …%s…", where, what, text.Bytes()[max(0, i-80):min(text.Len(), i+len(form)+20)])
					break
				}
			}
		}
		for what, secret := range hidden {
			search(what, secret)
		}
		if where == "a test" || where == "the trace" { // whoever tests sees what was sent, and what was answered
			continue
		}
		for what, secret := range personal {
			search(what, secret)
		}
	}
	// And it was all there to be found.
	for _, e := range ends {
		for _, r := range e.Requests() {
			if r.Header.Get("Authorization") != "Bearer "+secrets["TOKEN"] || r.Header.Get("X-Given") != given || !strings.Contains(r.Header.Get("X-Oauth"), oauth) ||
				r.URL.Query().Get("key") != secrets["QUERY"] || r.Client != "acme" || callhook.Verify(r.Header, r.Body, secrets["SIGN_OLD"]) != nil {
				t.Errorf("a request lacks something: %v %v", r, r.Header)
			}
		}
	}
	if err := h.Unseal(t.Context(), dead[0]); err != nil || !strings.Contains(string(dead[0].Record), personal["summary"]) {
		t.Errorf("Unseal: %v, %s", err, dead[0].Record)
	}
}

// TestOnlyWhatWasSelectedIsStored: of a call the file has what its integrations asked for,
// as they asked for it, and nothing else.
func TestOnlyWhatWasSelectedIsStored(t *testing.T) {
	config, err := callhook.ParseConfig([]byte(`{"tenant_id": "acme", "agent_id": "reception", "post_call": [
		{"name": "masked", "url": "https://x.example.com/{{call.from | last: 3}}", "payload": {"template": {"caller": "{{call.from | mask: 4}}", "seconds": "{{call.duration_seconds}}"}}},
		{"name": "few", "url": "https://x.example.com/", "payload": {"fields": ["call.id", "call.language"]}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "queue.db")
	q := reopen(t, path, nil)
	h, err := callhook.New(callhook.Options{Configs: callhook.Static(config), Queue: q, NumberKey: []byte("0123456789abcdef")})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	call := callhook.SampleCall(callhook.TypePostCall)
	if err := h.PostCall(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	var all []byte
	files, _ := filepath.Glob(path + "*")
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	for _, has := range []string{"*********0123", `"language":"en-GB"`} {
		if !bytes.Contains(all, []byte(has)) {
			t.Errorf("the file has no %s", has)
		}
	}
	for what, text := range map[string]string{"number": call.From, "number's digits": call.From[1:], "other number": call.To[1:], "name": "Ada", "summary": call.Summary, "words": "invoice", "metadata": "account"} {
		if bytes.Contains(all, []byte(text)) {
			t.Errorf("the file has the caller's %s", what)
		}
	}
}
