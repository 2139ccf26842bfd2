// Configure goes the way of a person who gives an agent a webhook: pick the agent,
// pick the webhook type, enter the URL, choose the fields, hover for guidance, save
// to draft, try it out, publish to production. Then a call uses it. What a page would
// show is printed; the endpoints are real ones on loopback, and the configs are files
// in a folder that is removed at the end.
//
//	go run ./examples/configure
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/callhook-go/callhook"
)

// key signs the webhooks. A runtime keeps it in its secret store, and configs only
// refer to it.
const key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	dir, err := os.MkdirTemp("", "callhook")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	n8n, err := newReceiver()
	if err != nil {
		return err
	}
	defer n8n.Close()

	// The platform: it has two agents, and serves their calls all the while.
	configs, err := callhook.OpenDir(filepath.Join(dir, "configs"))
	if err != nil {
		return err
	}
	for _, name := range []string{"sales", "reception"} {
		if err := begin(ctx, configs, name); err != nil {
			return err
		}
	}
	hooks, err := callhook.New(callhook.Options{
		Configs: configs,
		Secrets: func(_ context.Context, ref callhook.SecretRef) (string, error) {
			if ref.Name != "N8N_SECRET" {
				return "", callhook.ErrNoSecret
			}
			return key, nil
		},
		AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, // the endpoint of this program; public ones need none
	})
	if err != nil {
		return err
	}
	defer hooks.Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- hooks.Run(ctx) }()

	say("1. Call Flows: which agent?")
	agents, err := configs.Agents(ctx)
	if err != nil {
		return err
	}
	agent := agents[0]
	for _, ref := range agents {
		production, err := configs.Config(ctx, ref)
		if err != nil {
			return err
		}
		say("   ( ) %-10s revision %d, %d post-call webhooks", ref.Agent, production.Revision, len(production.PostCall))
		if ref.Agent == "reception" {
			agent = ref
		}
	}
	say("   > %s", agent.Agent)
	draft, version, err := configs.Draft(ctx, agent)
	if err != nil {
		return err
	}

	say("2. Data > System Webhooks: there are %d, the draft is revision %d's", len(draft.PostCall)+len(draft.CallStatus), draft.Revision)

	say("3. Which type?")
	for _, f := range callhook.ConfigFields("") {
		if len(f.Webhooks) == 1 { // the others are of the agent
			say("   ( ) %s: %s", f.Title, f.Guidance)
		}
	}
	say("   > Post-call webhook")
	settings := callhook.ConfigFields(callhook.TypePostCall)

	say("4. Where is it sent?")
	hover(say, settings, "url")
	// What was pasted is not a URL. The page says so, and what would be right.
	draft.PostCall = []callhook.PostCallWebhook{{Endpoint: callhook.Endpoint{Name: "n8n", URL: strings.TrimPrefix(n8n.url, "http://"), Secrets: []string{"${N8N_SECRET}"}}}}
	webhook := &draft.PostCall[0]
	say("   > %s", webhook.URL)
	complain(say, draft.Validate())
	webhook.URL = n8n.url
	say("   > %s", webhook.URL)
	complain(say, draft.Validate())

	say("5. What is sent?")
	selected := []callhook.PayloadField{{Path: "call.id"}, {Path: "call.customer_number"}, {Path: "call.duration_seconds"}, {Path: "call.summary"}, {Path: "call.variables.customer_name"}}
	for _, f := range callhook.Fields(callhook.TypePostCall) {
		box := " "
		for _, s := range selected {
			if s.Path == f.Path {
				box = "x"
			}
		}
		if box == "x" || f.Path == "call.transcript" || f.Path == "call.recording.url" { // the page shows all
			say("   [%s] %s (%s)", box, f.Title, f.Path)
		}
	}
	say("   [x] the variable customer_name")
	webhook.Payload.Fields = selected
	for _, warning := range draft.Lint() {
		say("   note: %s", warning)
	}

	say("6. The (i) beside \"When\":")
	hover(say, settings, "on")
	webhook.On = callhook.OnAnalyzed
	say("   > %s, notes: %d", webhook.On, len(draft.Lint()))

	say("7. Save to Draft")
	if version, err = configs.SaveDraft(ctx, draft, version); err != nil {
		return err
	}
	say("   saved; calls go on with revision %d", draft.Revision)
	preview, err := draft.Preview("n8n", nil)
	if err != nil {
		return err
	}
	say("   preview: %s %s, signed %s", preview.Method, preview.URL, preview.Header.Get(callhook.HeaderSignature))
	say("   %s", indent(preview.Body))
	test, err := hooks.TestSend(ctx, draft, "n8n", nil)
	if err != nil {
		return err
	}
	say("   test: %d from %s, \"%s\". %s", test.Status, test.Remote, test.Reply, test.Meaning)
	if got := <-n8n.got; !got.test || !test.OK || test.FirstByte <= 0 {
		return fmt.Errorf("the test arrived as %+v and came to %+v", got, test)
	}

	say("   Publish to Production")
	production, err := configs.Config(ctx, agent)
	if err != nil {
		return err
	}
	for _, d := range production.Diff(draft) {
		say("   %s", d)
	}
	revision, err := configs.Publish(ctx, agent, callhook.PublishOptions{Author: "ada", Note: "calls to n8n", Version: version, Check: hooks.Check})
	if err != nil {
		return err
	}
	say("   published: revision %d by %s (%s), warnings: %d", revision.Number, revision.Author, revision.Note, len(revision.Warnings))

	// A call that begins now uses it, to its end.
	call := callhook.SampleCall(callhook.TypePostCall)
	call.ID, call.TenantID, call.AgentID, call.ConfigRevision = "call_1", agent.Tenant, agent.Agent, 0
	for deadline := time.Now().Add(5 * time.Second); call.ConfigRevision != revision.Number; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("calls do not use what was published")
		}
		call.ConfigRevision = 0
		hooks.PreCall(ctx, call).Apply(call)
	}
	say("A call begins with revision %d", call.ConfigRevision)
	if err := hooks.PostCall(ctx, call); err != nil {
		return err
	}
	select {
	case got := <-n8n.got:
		if got.err != nil || got.test {
			return fmt.Errorf("the call's data arrived as %+v", got)
		}
		say("It ended, and n8n gets, signature verified: %s", got.call)
	case <-time.After(10 * time.Second):
		return errors.New("the call's data did not arrive")
	}
	stop()
	if err := <-ended; err != nil {
		return err
	}
	say("ok: revision %d serves", revision.Number)
	return nil
}

// begin publishes the first revision of an agent, without webhooks.
func begin(ctx context.Context, configs *callhook.Configs, agent string) error {
	c := &callhook.Config{AgentID: agent, Timezone: "Europe/London", Variables: []callhook.Variable{{Name: "customer_name", Description: "Caller's first name", Default: "there"}}}
	version, err := configs.SaveDraft(ctx, c, "")
	if err != nil {
		return err
	}
	_, err = configs.Publish(ctx, callhook.ConfigRef{Agent: agent}, callhook.PublishOptions{Version: version, Note: "begin"})
	return err
}

// hover shows what stands behind the (i) of a setting.
func hover(say func(string, ...any), settings []callhook.ConfigField, path string) {
	for _, f := range settings {
		if f.Path != path {
			continue
		}
		say("   (i) %s", f.Guidance)
		if len(f.Values) > 0 {
			say("       one of %s, otherwise %s", strings.Join(f.Values, ", "), f.Default)
		} else {
			say("       like %s", f.Example)
		}
	}
}

func complain(say func(string, ...any), err error) {
	var ce *callhook.ConfigError
	if !errors.As(err, &ce) {
		say("   fine")
		return
	}
	for _, fault := range ce.Faults {
		say("   ! %s", fault)
	}
}

func indent(body []byte) string {
	var b bytes.Buffer
	if err := json.Indent(&b, body, "   ", "  "); err != nil {
		return err.Error()
	}
	return b.String()
}

// receiver is n8n's end: it verifies each request and keeps what it got.
type receiver struct {
	*http.Server
	url string
	got chan arrival
}

type arrival struct {
	call string
	test bool
	err  error
}

func newReceiver() (*receiver, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &receiver{url: "http://" + l.Addr().String() + "/webhook/calls", got: make(chan arrival, 10)}
	r.Server = &http.Server{Handler: r, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = r.Serve(l) }()
	return r, nil
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err == nil {
		err = callhook.Verify(req.Header, body, key)
	}
	var event struct {
		Data struct{ Call json.RawMessage }
		Test bool
	}
	if err == nil {
		err = json.Unmarshal(body, &event)
	}
	r.got <- arrival{string(event.Data.Call), event.Test, err}
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	fmt.Fprint(w, `{"message":"Workflow was started"}`)
}
