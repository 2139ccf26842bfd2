package callhook_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/google/go-cmp/cmp"
)

// lookup is one lookup by an agent whose endpoint is http://crm.test/.
type lookup struct {
	declared string           // the config's variables
	preCall  string           // more members of its pre_call
	config   *callhook.Config // instead of both
	answer   http.HandlerFunc
	call     *callhook.Call // an inbound one by default
	options  func(*callhook.Options)
	context  func(context.Context) (context.Context, context.CancelFunc)
}

// run makes the lookup in a bubble and checks what every result promises.
func (l lookup) run(t *testing.T) (res *callhook.PreCallResult) {
	t.Helper()
	bubble(t, func(t *testing.T, n *network) {
		res = l.on(t, n)
		time.Sleep(time.Minute) // by then all has ended that it started
	})
	return res
}

// on makes the lookup on a network.
func (l lookup) on(t *testing.T, n *network) *callhook.PreCallResult {
	t.Helper()
	if l.answer != nil {
		n.handle("crm.test", l.answer)
	}
	config := l.agent(t)
	o := callhook.Options{Configs: callhook.Static(config), Dial: n.Dial,
		Secrets: func(context.Context, callhook.SecretRef) (string, error) { return secret, nil }}
	if l.options != nil {
		l.options(&o)
	}
	h, err := callhook.New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if l.call == nil {
		l.call = inbound()
		l.call.TenantID = config.TenantID
	}
	ctx := t.Context()
	if l.context != nil {
		var cancel context.CancelFunc
		ctx, cancel = l.context(ctx)
		defer cancel()
	}
	start := time.Now()
	res := h.PreCall(ctx, l.call)
	if took := time.Since(start); res.Elapsed != took {
		t.Errorf("Elapsed %s, took %s", res.Elapsed, took)
	}
	checkResult(t, res)
	if got := h.Stats().PreCall; !maps.Equal(got, map[callhook.Outcome]int64{res.Outcome: 1}) {
		t.Errorf("counted %v for one %s", got, res.Outcome)
	}
	return res
}

func (l lookup) agent(t *testing.T) *callhook.Config {
	t.Helper()
	if l.config != nil {
		return l.config
	}
	more := ""
	if l.preCall != "" {
		more = ", " + l.preCall
	}
	return parse(t, fmt.Sprintf(`{"agent_id": "reception", "revision": 3, "variables": [%s], "pre_call": {"url": "http://crm.test/"%s}}`, l.declared, more))
}

func inbound() *callhook.Call {
	return &callhook.Call{ID: "c1", AgentID: "reception", Direction: callhook.Inbound, From: "+442079460123", To: "+442079460999"}
}

// checkResult checks what every result promises.
func checkResult(t *testing.T, res *callhook.PreCallResult) {
	t.Helper()
	if res.Variables == nil {
		t.Error("Variables is nil")
	}
	select {
	case late, open := <-res.Late:
		if open {
			t.Errorf("a late answer: %+v", late)
		}
	default:
		t.Error("Late is nil or open")
	}
	switch res.Outcome {
	case callhook.OutcomeApplied:
		if res.Err != nil {
			t.Errorf("applied, and Err is %v", res.Err)
		}
	case callhook.OutcomeTimeout, callhook.OutcomeFailed:
		if res.Err == nil {
			t.Errorf("%s without Err", res.Outcome)
		}
	}
	if res.Err != nil {
		for _, bad := range []string{"crm.test", "+44", secret, "\n"} {
			if strings.Contains(res.Err.Error(), bad) {
				t.Errorf("Err says %q: %v", bad, res.Err)
			}
		}
	}
}

// changes are a result's changes with these actions, as "name action reason".
func changes(res *callhook.PreCallResult, actions ...callhook.Action) (out []string) {
	for _, c := range res.Changes {
		for _, a := range actions {
			if c.Action == a {
				out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", c.Name, c.Action, c.Reason)))
			}
		}
	}
	return out
}

// dial returns a dialler that goes through its answers, the last again and again.
// nil goes on to the network.
func dial(n *network, answers ...func(ctx context.Context) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	var mu sync.Mutex
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		mu.Lock()
		answer := answers[0]
		if len(answers) > 1 {
			answers = answers[1:]
		}
		mu.Unlock()
		if answer == nil {
			return n.Dial(ctx, network, addr)
		}
		return answer(ctx)
	}
}

func refuse(context.Context) (net.Conn, error) {
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
}

func after(d time.Duration, answer func(context.Context) (net.Conn, error)) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		select {
		case <-time.After(d):
			return answer(ctx)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func hang(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }

// mute is a peer that reads and never answers.
func mute(context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	go func() {
		_, _ = io.Copy(io.Discard, server)
		server.Close()
	}()
	return client, nil
}

// dripping answers text and then more bytes of it for ever, ten in a second.
func dripping(text, more string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			if _, err := io.WriteString(conn, text); err != nil {
				return
			}
			text = more
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// never answers nothing until the request is given up.
func never(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // behind it the server notices that the client has gone
	<-r.Context().Done()
}

func withDial(answers ...func(context.Context) (net.Conn, error)) func(*callhook.Options) {
	return func(o *callhook.Options) {
		n := o.Dial
		for i, a := range answers {
			if a == nil {
				answers[i] = func(ctx context.Context) (net.Conn, error) { return n(ctx, "tcp", "crm.test:80") }
			}
		}
		o.Dial = dial(nil, answers...)
	}
}

// TestPreCall has every way that a lookup can go. Whatever happens, the variables
// can be used, and it is over when the time is.
func TestPreCall(t *testing.T) {
	type result struct {
		Outcome  callhook.Outcome
		Status   int
		Attempts int
		Elapsed  time.Duration
		Name     any // of the variables
	}
	ada := reply(200, `{"variables":{"customer_name":"Ada"}}`, isJSON)
	call := func(change func(*callhook.Call)) *callhook.Call {
		c := inbound()
		change(c)
		return c
	}
	zipped := func(body []byte) http.HandlerFunc {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(body)
		_ = z.Close()
		return reply(200, b.String(), isJSON, "Content-Encoding: gzip")
	}
	large := func(n int) string {
		const frame = `{"variables":{"customer_name":"Ada"},"x":""}`
		return strings.Replace(frame, `"x":"`, `"x":"`+strings.Repeat("x", n-len(frame)), 1)
	}
	deep := func(n int) string {
		return `{"variables":{"customer_name":"Ada"},"x":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}`
	}
	statusError := func(code int) func(error) bool {
		return func(err error) bool {
			e, ok := errors.AsType[*callhook.StatusError](err)
			return ok && e.Status == code && strings.Contains(e.Error(), fmt.Sprintf("callhook: the endpoint answered %d %s", code, http.StatusText(code)))
		}
	}
	is := func(target error) func(error) bool { return func(err error) bool { return errors.Is(err, target) } }
	says := func(text string) func(error) bool {
		return func(err error) bool { return err != nil && err.Error() == text }
	}
	transport := func(text string) func(error) bool {
		return func(err error) bool {
			e, ok := errors.AsType[*callhook.TransportError](err)
			return ok && e.Error() == "callhook: "+text && e.Unwrap() != nil
		}
	}
	isNil := func(err error) bool { return err == nil }
	tests := []struct {
		name   string
		lookup lookup
		want   result
		err    func(error) bool
	}{
		{"applied", lookup{answer: ada}, result{callhook.OutcomeApplied, 200, 1, 0, "Ada"}, isNil},
		{"201 is as good", lookup{answer: reply(201, `{"variables":{"customer_name":"Ada"}}`)}, result{callhook.OutcomeApplied, 201, 1, 0, "Ada"}, isNil},
		{"empty: no content", lookup{answer: status(204)}, result{callhook.OutcomeEmpty, 204, 1, 0, "there"}, isNil},
		{"empty: not found", lookup{answer: status(404)}, result{callhook.OutcomeEmpty, 404, 1, 0, "there"}, isNil},
		{"empty: nothing usable", lookup{answer: reply(200, `{"variables":{"customer_name":null}}`)}, result{callhook.OutcomeEmpty, 200, 1, 0, "there"}, isNil},
		{"empty: not unique", lookup{answer: reply(200, `[{"customer_name":"Ada"},{"customer_name":"Bob"}]`)},
			result{callhook.OutcomeEmpty, 200, 1, 0, "there"}, is(callhook.ErrNotUnique)},
		{"failed: 401", lookup{answer: status(401)}, result{callhook.OutcomeFailed, 401, 1, 0, "there"}, statusError(401)},
		{"failed: 500", lookup{answer: ada500}, result{callhook.OutcomeFailed, 500, 1, 0, "there"}, statusError(500)},
		{"failed: a redirect is not followed", lookup{answer: status(302, "Location: http://crm.test/other")},
			result{callhook.OutcomeFailed, 302, 1, 0, "there"}, statusError(302)},
		{"failed: 500 whose body never ends", lookup{answer: dripping("HTTP/1.1 500 Internal Server Error\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n")},
			result{callhook.OutcomeFailed, 500, 1, 200 * time.Millisecond, "there"}, statusError(500)},
		{"failed: 500 at the last moment", lookup{preCall: `"timeout": "150ms"`,
			answer: dripping("HTTP/1.1 500 Internal Server Error\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n")},
			result{callhook.OutcomeFailed, 500, 1, 150 * time.Millisecond, "there"}, statusError(500)},
		{"failed: refused twice", lookup{options: withDial(refuse)}, result{callhook.OutcomeFailed, 0, 2, 0, "there"}, transport("connection refused")},
		{"refused once", lookup{answer: ada, options: withDial(refuse, nil)}, result{callhook.OutcomeApplied, 200, 2, 0, "Ada"}, isNil},
		{"refused once, slowly", lookup{answer: ada, options: withDial(after(900*time.Millisecond, refuse), nil)},
			result{callhook.OutcomeApplied, 200, 2, 900 * time.Millisecond, "Ada"}, isNil},
		{"failed: refused too late for another try", lookup{answer: ada, options: withDial(after(1100*time.Millisecond, refuse), nil)},
			result{callhook.OutcomeFailed, 0, 1, 1100 * time.Millisecond, "there"}, transport("connection refused")},
		{"timeout: the second try hangs", lookup{options: withDial(after(900*time.Millisecond, refuse), hang)},
			result{callhook.OutcomeTimeout, 0, 2, 2 * time.Second, "there"}, is(context.DeadlineExceeded)},
		{"failed: the connection ends without an answer", lookup{answer: hangUp("")},
			result{callhook.OutcomeFailed, 0, 1, 0, "there"}, transport("connection closed without a response")},
		{"failed: the connection ends in the middle", lookup{answer: hangUp("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")},
			result{callhook.OutcomeFailed, 200, 1, 0, "there"}, transport("connection closed in the middle of the response")},
		{"failed: no HTTP", lookup{answer: hangUp("220 smtp.example.com ESMTP\r\n")},
			result{callhook.OutcomeFailed, 0, 1, 0, "there"}, transport("malformed HTTP response")},
		{"failed: endless headers", lookup{answer: hangUp("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 100<<10) + "\r\n\r\n")},
			result{callhook.OutcomeFailed, 0, 1, 0, "there"}, transport("response headers too large")},

		{"timeout: dialling", lookup{options: withDial(hang)}, result{callhook.OutcomeTimeout, 0, 1, 2 * time.Second, "there"},
			says("callhook: no answer within 2s: context deadline exceeded")},
		{"timeout: a dialler that does not heed its context", lookup{options: withDial(func(context.Context) (net.Conn, error) { time.Sleep(10 * time.Second); return nil, io.EOF })},
			result{callhook.OutcomeTimeout, 0, 1, 2 * time.Second, "there"}, is(context.DeadlineExceeded)},
		{"timeout: TLS", lookup{config: parse(t, `{"agent_id":"reception","variables":[{"name":"customer_name","default":"there"}],"pre_call":{"url":"https://crm.test/"}}`),
			options: withDial(mute)}, result{callhook.OutcomeTimeout, 0, 1, 2 * time.Second, "there"}, is(context.DeadlineExceeded)},
		{"timeout: headers", lookup{answer: never}, result{callhook.OutcomeTimeout, 0, 1, 2 * time.Second, "there"}, is(context.DeadlineExceeded)},
		{"timeout: dripping headers", lookup{answer: dripping("HTTP/1.1 200 OK\r\n", "X: y\r\n")},
			result{callhook.OutcomeTimeout, 0, 1, 2 * time.Second, "there"}, is(context.DeadlineExceeded)},
		{"timeout: endless 1xx answers", lookup{answer: dripping("HTTP/1.1 103 Early Hints\r\n\r\n", "HTTP/1.1 103 Early Hints\r\n\r\n")},
			result{callhook.OutcomeTimeout, 0, 1, 2 * time.Second, "there"}, func(err error) bool { return err != nil }},
		{"timeout: dripping body", lookup{answer: dripping("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n")},
			result{callhook.OutcomeTimeout, 200, 1, 2 * time.Second, "there"}, is(context.DeadlineExceeded)},
		{"timeout: a body that stops", lookup{answer: func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"variables":`)
			w.(http.Flusher).Flush()
			never(w, r)
		}}, result{callhook.OutcomeTimeout, 200, 1, 2 * time.Second, "there"}, is(context.DeadlineExceeded)},
		{"timeout: as the webhook says", lookup{preCall: `"timeout": "750ms"`, answer: never},
			result{callhook.OutcomeTimeout, 0, 1, 750 * time.Millisecond, "there"}, says("callhook: no answer within 750ms: context deadline exceeded")},
		{"timeout: the caller's, when it is shorter", lookup{answer: never, context: func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 500*time.Millisecond)
		}}, result{callhook.OutcomeTimeout, 0, 1, 500 * time.Millisecond, "there"}, says("callhook: no answer within 500ms: context deadline exceeded")},
		{"timeout: the caller's, when it is longer", lookup{answer: never, context: func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Minute)
		}}, result{callhook.OutcomeTimeout, 0, 1, 2 * time.Second, "there"}, is(context.DeadlineExceeded)},
		{"timeout: the secrets", lookup{preCall: `"secrets": ["${KEY}"]`, answer: ada, options: func(o *callhook.Options) {
			o.Secrets = func(ctx context.Context, _ callhook.SecretRef) (string, error) {
				<-ctx.Done()
				return "", errors.New("the vault did not answer")
			}
		}}, result{callhook.OutcomeTimeout, 0, 0, 2 * time.Second, "there"}, is(context.DeadlineExceeded)},
		{"timeout: the config source takes its share", lookup{answer: never, options: func(o *callhook.Options) { o.Configs = slowly{o.Configs, 500 * time.Millisecond} }},
			result{callhook.OutcomeTimeout, 0, 1, 2 * time.Second, "there"}, is(context.DeadlineExceeded)},
		{"failed: the caller hung up", lookup{answer: never, context: func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(300*time.Millisecond, cancel)
			return ctx, cancel
		}}, result{callhook.OutcomeFailed, 0, 1, 300 * time.Millisecond, "there"}, is(context.Canceled)},
		{"failed: the caller hung up before", lookup{answer: ada, context: func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx, cancel
		}}, result{callhook.OutcomeFailed, 0, 0, 0, "there"}, is(context.Canceled)},

		{"skipped: outbound", lookup{answer: ada, call: call(func(c *callhook.Call) { c.Direction = callhook.Outbound })},
			result{callhook.OutcomeSkipped, 0, 0, 0, "there"}, isNil},
		{"skipped: web", lookup{answer: ada, call: call(func(c *callhook.Call) { c.Direction = callhook.Web })},
			result{callhook.OutcomeSkipped, 0, 0, 0, "there"}, isNil},
		{"outbound, because the config says so", lookup{preCall: `"directions": ["outbound", "web"]`, answer: ada,
			call: call(func(c *callhook.Call) { c.Direction = callhook.Outbound })}, result{callhook.OutcomeApplied, 200, 1, 0, "Ada"}, isNil},
		{"skipped: then inbound is left out", lookup{preCall: `"directions": ["outbound", "web"]`, answer: ada}, result{callhook.OutcomeSkipped, 0, 0, 0, "there"}, isNil},
		{"skipped: paused", lookup{preCall: `"paused": true`, answer: ada}, result{callhook.OutcomeSkipped, 0, 0, 0, "there"}, isNil},
		{"skipped: the agent has no lookup", lookup{config: parse(t, `{"agent_id":"reception","variables":[{"name":"customer_name","default":"there"}]}`)},
			result{callhook.OutcomeSkipped, 0, 0, 0, "there"}, isNil},
		{"skipped: nobody knows the agent", lookup{call: call(func(c *callhook.Call) { c.AgentID = "x" })},
			result{callhook.OutcomeSkipped, 0, 0, 0, nil}, is(callhook.ErrNoConfig)},
		{"skipped: the agent is another tenant's", lookup{call: call(func(c *callhook.Call) { c.TenantID = "evil" })},
			result{callhook.OutcomeSkipped, 0, 0, 0, nil}, is(callhook.ErrNoConfig)},
		{"skipped: the call's variables stay", lookup{call: call(func(c *callhook.Call) {
			c.AgentID, c.Variables = "x", callhook.Variables{"customer_name": "Bob"}
		})}, result{callhook.OutcomeSkipped, 0, 0, 0, "Bob"}, is(callhook.ErrNoConfig)},
		{"failed: the config source fails", lookup{options: func(o *callhook.Options) { o.Configs = broken{} }},
			result{callhook.OutcomeFailed, 0, 0, 0, nil}, is(errBroken)},
		{"failed: the config source panics", lookup{options: func(o *callhook.Options) { o.Configs = broken{panics: true} },
			call: call(func(c *callhook.Call) { c.Variables = callhook.Variables{"customer_name": "Bob"} })},
			result{callhook.OutcomeFailed, 0, 0, 0, "Bob"}, says("callhook: panic: a string")},
		{"failed: no id", lookup{call: call(func(c *callhook.Call) { c.ID = "" })}, result{callhook.OutcomeFailed, 0, 0, 0, nil}, is(callhook.ErrInvalidCall)},
		{"failed: no agent", lookup{call: call(func(c *callhook.Call) { c.AgentID = "" })}, result{callhook.OutcomeFailed, 0, 0, 0, nil}, is(callhook.ErrInvalidCall)},
		{"no variables in the call", lookup{answer: ada, call: call(func(c *callhook.Call) { c.Variables = nil })}, result{callhook.OutcomeApplied, 200, 1, 0, "Ada"}, isNil},

		{"failed: no such secret", lookup{preCall: `"headers": {"Authorization": "Bearer ${KEY}"}`, answer: ada, options: func(o *callhook.Options) { o.Secrets = callhook.EnvSecrets("NONE_") }},
			result{callhook.OutcomeFailed, 0, 0, 0, "there"}, is(callhook.ErrNoSecret)},
		{"failed: no key", lookup{preCall: `"secrets": ["${KEY}"]`, answer: ada, options: func(o *callhook.Options) {
			o.Secrets = func(context.Context, callhook.SecretRef) (string, error) { return "hunter2", nil }
		}}, result{callhook.OutcomeFailed, 0, 0, 0, "there"}, is(callhook.ErrBadKey)},
		{"failed: a panic in Secrets", lookup{preCall: `"secrets": ["${KEY}"]`, answer: ada, options: func(o *callhook.Options) {
			o.Secrets = func(context.Context, callhook.SecretRef) (string, error) { panic("boom") }
		}}, result{callhook.OutcomeFailed, 0, 0, 0, "there"}, says("callhook: panic: a string")},
		{"a panic in Trace", lookup{answer: ada, options: func(o *callhook.Options) {
			o.Trace = &callhook.Trace{
				PreCallStart: func(context.Context, *callhook.Call) context.Context { panic("boom") },
				PreCallDone:  func(context.Context, *callhook.Call, *callhook.PreCallResult) { panic("boom") },
			}
		}}, result{callhook.OutcomeApplied, 200, 1, 0, "Ada"}, isNil},
		{"a Trace that returns no context", lookup{answer: ada, options: func(o *callhook.Options) {
			o.Trace = &callhook.Trace{PreCallStart: func(context.Context, *callhook.Call) context.Context { return nil }}
		}}, result{callhook.OutcomeApplied, 200, 1, 0, "Ada"}, isNil},
		{"failed: a dialler that returns nothing", lookup{options: withDial(func(context.Context) (net.Conn, error) { return nil, nil })},
			result{callhook.OutcomeFailed, 0, 2, 0, "there"}, func(err error) bool { return err != nil }},

		{"as large as may be", lookup{answer: reply(200, large(256<<10), isJSON)}, result{callhook.OutcomeApplied, 200, 1, 0, "Ada"}, isNil},
		{"failed: too large", lookup{answer: reply(200, large(256<<10+1), isJSON)}, result{callhook.OutcomeFailed, 200, 1, 0, "there"}, is(callhook.ErrBadReply)},
		{"failed: endless", lookup{answer: func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 32<<10)); err != nil {
					return
				}
			}
		}}, result{callhook.OutcomeFailed, 200, 1, 0, "there"}, is(callhook.ErrBadReply)},
		{"gzip", lookup{answer: zipped([]byte(`{"variables":{"customer_name":"Ada"}}`))}, result{callhook.OutcomeApplied, 200, 1, 0, "Ada"}, isNil},
		{"failed: a gzip bomb", lookup{answer: zipped(make([]byte, 8<<20))}, result{callhook.OutcomeFailed, 200, 1, 0, "there"}, is(callhook.ErrBadReply)},
		{"failed: gzip that is none", lookup{answer: reply(200, "not gzip, not at all", isJSON, "Content-Encoding: gzip")},
			result{callhook.OutcomeFailed, 200, 1, 0, "there"}, transport("malformed gzip in the response")},
		{"as deep as may be", lookup{answer: reply(200, deep(63), isJSON)}, result{callhook.OutcomeApplied, 200, 1, 0, "Ada"}, isNil},
		{"failed: too deep", lookup{answer: reply(200, deep(64), isJSON)}, result{callhook.OutcomeFailed, 200, 1, 0, "there"}, is(callhook.ErrBadReply)},
		{"failed: deeper than a stack", lookup{answer: reply(200, strings.Repeat("[", 250_000), isJSON)}, result{callhook.OutcomeFailed, 200, 1, 0, "there"}, is(callhook.ErrBadReply)},
		{"failed: JSON that is none", lookup{answer: reply(200, `{"variables":`, "Content-Type: application/json; charset=utf-8")},
			result{callhook.OutcomeFailed, 200, 1, 0, "there"}, says("callhook: the reply cannot be read: it says that it is JSON and is not")},
		{"failed: problem+json that is none", lookup{answer: reply(200, `oops`, "Content-Type: Application/Problem+JSON")},
			result{callhook.OutcomeFailed, 200, 1, 0, "there"}, is(callhook.ErrBadReply)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.lookup.declared == "" {
				tt.lookup.declared = `{"name": "customer_name", "default": "there"}`
			}
			res := tt.lookup.run(t)
			got := result{res.Outcome, res.Status, res.Attempts, res.Elapsed, res.Variables["customer_name"]}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !tt.err(res.Err) {
				t.Errorf("Err is %T: %v", res.Err, res.Err)
			}
		})
	}
}

// ada500 is an answer that would do, were it not for its status.
var ada500 = reply(500, `{"variables":{"customer_name":"Ada"}}`, isJSON)

// hangUp answers text and closes the connection.
func hangUp(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, text)
		conn.Close()
	}
}

var errBroken = errors.New("the database is gone")

// broken is a source that fails.
type broken struct{ panics bool }

func (b broken) Config(context.Context, callhook.ConfigRef) (*callhook.Config, error) {
	if b.panics {
		panic("broken")
	}
	return nil, errBroken
}

// slowly is a source that takes its time.
type slowly struct {
	callhook.ConfigSource
	d time.Duration
}

func (s slowly) Config(ctx context.Context, ref callhook.ConfigRef) (*callhook.Config, error) {
	time.Sleep(s.d)
	return s.ConfigSource.Config(ctx, ref)
}

// TestPreCallNil: not even a nil call or a nil context's value ends a call.
func TestPreCallNil(t *testing.T) {
	h, err := callhook.New(callhook.Options{Configs: callhook.Static()})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	res := h.PreCall(t.Context(), nil)
	checkResult(t, res)
	if res.Outcome != callhook.OutcomeFailed || !errors.Is(res.Err, callhook.ErrInvalidCall) {
		t.Errorf("%s, %v", res.Outcome, res.Err)
	}
	res.Apply(nil)
}

// TestPreCallResult has the rest of what a result says.
func TestPreCallResult(t *testing.T) {
	const body = `{"variables":{"customer_name":"Ada","price":1.10,"crm_token":"s3cret"}}`
	call := inbound()
	call.Variables = callhook.Variables{"plan": "gold", "crm_token": "old", "extra": map[string]any{"a": "b"}}
	res := lookup{declared: `{"name":"customer_name","default":"there"},{"name":"crm_token","secret":true},{"name":"pin","secret":true,"default":"0000"}`,
		answer: reply(200, body, isJSON), call: call}.run(t)
	type result struct {
		Variables, Secrets callhook.Variables
		Revision           int
		Outcome            callhook.Outcome
		Dialect            string
		Status             int
		Reply              string
		Changes            []callhook.Change
	}
	want := result{
		Variables: callhook.Variables{"customer_name": "Ada", "price": json.Number("1.10"), "plan": "gold", "extra": map[string]any{"a": "b"}},
		Secrets:   callhook.Variables{"crm_token": "s3cret", "pin": "0000"},
		Revision:  3,
		Outcome:   callhook.OutcomeApplied,
		Dialect:   "callhook",
		Status:    200,
		Reply:     body,
		Changes: []callhook.Change{
			{Name: "customer_name", Action: callhook.ActionOverrode, From: callhook.OriginReply},
			{Name: "pin", Action: callhook.ActionSet, From: callhook.OriginDefault},
			{Name: "crm_token", Action: callhook.ActionOverrode, From: callhook.OriginReply},
			{Name: "extra", Action: callhook.ActionSet, From: callhook.OriginCall},
			{Name: "plan", Action: callhook.ActionSet, From: callhook.OriginCall},
			{Name: "price", Action: callhook.ActionSet, From: callhook.OriginReply},
		},
	}
	got := result{res.Variables, res.Secrets, res.Revision, res.Outcome, res.Dialect, res.Status, string(res.Reply), res.Changes}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(callhook.Variables{"plan": "gold", "crm_token": "old", "extra": map[string]any{"a": "b"}}, call.Variables); diff != "" {
		t.Errorf("PreCall changed the call (-want +got):\n%s", diff)
	}
	res.Apply(call)
	if diff := cmp.Diff(want.Variables, call.Variables); diff != "" || call.ConfigRevision != 3 {
		t.Errorf("Apply: revision %d, variables (-want +got):\n%s", call.ConfigRevision, diff)
	}
	call.Variables["later"] = true
	if _, ok := res.Variables["later"]; ok {
		t.Error("the call and the result share one map")
	}
}

// TestApply: what is not known does not replace what is.
func TestApply(t *testing.T) {
	call := &callhook.Call{ConfigRevision: 7, Variables: callhook.Variables{"a": "b"}}
	(&callhook.PreCallResult{Variables: callhook.Variables{"c": "d"}}).Apply(call)
	want := &callhook.Call{ConfigRevision: 7, Variables: callhook.Variables{"c": "d"}}
	if diff := cmp.Diff(want, call); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestPreCallNotUnique keeps the reply for whoever looks into it, and nobody's data.
func TestPreCallNotUnique(t *testing.T) {
	const body = `{"total":2,"name":"Ada"}`
	res := lookup{preCall: `"response":{"unique":"total","variables":{"customer_name":"name"}}`, answer: reply(200, body, isJSON)}.run(t)
	if string(res.Reply) != body || len(res.Variables) != 0 {
		t.Errorf("reply %s, variables %v", res.Reply, res.Variables)
	}
}

// TestPreCallRequest compares the default request with the one on file, verifies
// its signatures as a receiver does, and repeats it.
func TestPreCallRequest(t *testing.T) {
	const other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	bubble(t, func(t *testing.T, n *network) {
		crm := newEndpoint(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) })
		n.handle("crm.test", crm.ServeHTTP)
		config := parse(t, `{"tenant_id":"acme","agent_id":"reception","pre_call":{"url":"http://crm.test/lookup?v=1","secrets":["${NEW}","${OLD}"],
			"headers":{"X-Caller":"{{call.from}}","Authorization":"Bearer ${TOKEN}"}}}`)
		var asked []callhook.SecretRef
		h, err := callhook.New(callhook.Options{Configs: callhook.Static(config), Dial: n.Dial,
			Secrets: func(_ context.Context, ref callhook.SecretRef) (string, error) {
				asked = append(asked, ref)
				return map[string]string{"NEW": secret, "OLD": other, "TOKEN": "t0ken"}[ref.Name], nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		call := loadCall(t, "answered_inbound")
		for range 2 {
			h.PreCall(t.Context(), call)
			time.Sleep(time.Minute)
		}
		later := *call
		later.ID = "another"
		h.PreCall(t.Context(), &later)
		got := crm.requests()
		if len(got) != 3 {
			t.Fatalf("%d requests, want 3", len(got))
		}
		first := got[0]
		if first.Method != "POST" || first.URL != "/lookup?v=1" || first.Header.Get("Content-Type") != "application/json" ||
			first.Header.Get("X-Caller") != call.From || first.Header.Get("Authorization") != "Bearer t0ken" ||
			first.Header.Get("User-Agent") != "callhook/1 (+https://github.com/callhook-go/callhook)" {
			t.Errorf("request %s %s %v", first.Method, first.URL, first.Header)
		}
		for _, r := range got {
			if stamp := fmt.Sprint(r.At.Unix()); r.Header.Get(callhook.HeaderTimestamp) != stamp {
				t.Errorf("timestamp %s, want %s", r.Header.Get(callhook.HeaderTimestamp), stamp)
			}
			for _, key := range []string{secret, other} {
				if err := callhook.Verify(r.Header, r.Body, key); err != nil {
					t.Error(err)
				}
			}
			if callhook.Verify(r.Header, append(r.Body, ' '), secret) == nil {
				t.Error("a changed body is verified")
			}
			var event callhook.Event
			if err := json.Unmarshal(r.Body, &event); err != nil {
				t.Fatal(err)
			}
			if event.ID != r.Header.Get(callhook.HeaderID) || event.Type != callhook.EventInbound {
				t.Errorf("the body's id is %s, the header's %s", event.ID, r.Header.Get(callhook.HeaderID))
			}
		}
		if got[0].Header.Get(callhook.HeaderID) != got[1].Header.Get(callhook.HeaderID) || got[0].Header.Get(callhook.HeaderID) == got[2].Header.Get(callhook.HeaderID) {
			t.Error("the id is the same for the same call, and for no other")
		}
		if !bytes.Equal(got[0].Body, got[1].Body) {
			t.Error("the same call has two bodies")
		}
		ref := callhook.SecretRef{Tenant: "acme", Agent: "reception", Webhook: "pre_call", Origin: "http://crm.test", Name: "TOKEN"}
		if i := len(asked); i != 9 || !slices.Contains(asked, ref) {
			t.Errorf("asked for %v", asked)
		}
		var text bytes.Buffer
		if err := json.Indent(&text, first.Body, "", "  "); err != nil {
			t.Fatal(err)
		}
		text.WriteByte('\n')
		golden(t, filepath.Join("testdata", "golden", "precall_default.json"), text.Bytes())
	})
}

// TestPreCallGet sends no body, and the call's data where the config puts it.
func TestPreCallGet(t *testing.T) {
	crm := newEndpoint(status(204))
	call := inbound()
	call.From = "+44 20/7946?x=1&y=ü#"
	lookup{preCall: `"method":"GET","url":"http://crm.test/by/{{call.from}}?a=1","query":{"number":"{{call.from | digits}}","raw":"{{call.from}}"}`,
		config: parse(t, `{"agent_id":"reception","pre_call":{"method":"GET","url":"http://crm.test/by/{{call.from}}?a=1",
			"query":{"number":"{{call.from | digits}}","raw":"{{call.from}}"}}}`),
		answer: crm.ServeHTTP, call: call}.run(t)
	got := crm.requests()[0]
	if want := "/by/+44%2020%2F7946%3Fx=1&y=%C3%BC%23?a=1&number=442079461&raw=%2B44+20%2F7946%3Fx%3D1%26y%3D%C3%BC%23"; got.URL != want {
		t.Errorf("URL %s, want %s", got.URL, want)
	}
	if got.Method != "GET" || len(got.Body) != 0 || got.Header.Get("Content-Type") != "" || got.Header.Get("Content-Length") != "" {
		t.Errorf("%s with body %q and headers %v", got.Method, got.Body, got.Header)
	}
}

// TestPreCallKeepsSecrets: a secret variable that the call already has is not told
// to the endpoint, neither by the default envelope nor by a template.
func TestPreCallKeepsSecrets(t *testing.T) {
	for name, preCall := range map[string]string{
		"envelope": ``,
		"template": `"body": {"all": "{{call.variables}}", "one": "{{call.variables.crm_token}}"}`,
		"url":      `"query": {"token": "{{call.variables.crm_token}}"}, "headers": {"X-Token": "{{call.variables.crm_token}}"}`,
	} {
		t.Run(name, func(t *testing.T) {
			crm := newEndpoint(status(204))
			call := inbound()
			call.Variables = callhook.Variables{"crm_token": "s3cret", "plan": "gold"}
			res := lookup{declared: `{"name":"crm_token","secret":true},{"name":"pin","secret":true}`, preCall: preCall, call: call, answer: crm.ServeHTTP}.run(t)
			if got := fmt.Sprintf("%s", crm.requests()); strings.Contains(got, "s3cret") || name != "url" && !strings.Contains(got, "gold") {
				t.Errorf("sent %s", got)
			}
			if res.Secrets["crm_token"] != "s3cret" || call.Variables["crm_token"] != "s3cret" {
				t.Errorf("secrets %v, the call's variables %v", res.Secrets, call.Variables)
			}
		})
	}
}

// TestPreCallRetryIsWhole: the second attempt sends the same request, body included.
func TestPreCallRetryIsWhole(t *testing.T) {
	crm := newEndpoint(reply(200, `{"variables":{"customer_name":"Ada"}}`))
	lookup{preCall: `"secrets":["${KEY}"]`, answer: crm.ServeHTTP, options: withDial(refuse, nil)}.run(t)
	got := crm.requests()
	if len(got) != 1 || len(got[0].Body) == 0 {
		t.Fatalf("requests %v", got)
	}
	bubble(t, func(t *testing.T, _ *network) { // where it is the same time
		if err := callhook.Verify(got[0].Header, got[0].Body, secret); err != nil {
			t.Error(err)
		}
	})
}

// TestPreCallTrace: start's context is done's, and is alive there.
func TestPreCallTrace(t *testing.T) {
	type key struct{}
	var started, done int
	var seen *callhook.PreCallResult
	res := lookup{answer: status(204), options: func(o *callhook.Options) {
		secrets := o.Secrets
		o.Secrets = func(ctx context.Context, ref callhook.SecretRef) (string, error) {
			if ctx.Value(key{}) != "span" {
				t.Error("Secrets did not get the context of PreCallStart")
			}
			return secrets(ctx, ref)
		}
		o.Trace = &callhook.Trace{
			PreCallStart: func(ctx context.Context, c *callhook.Call) context.Context {
				started++
				return context.WithValue(ctx, key{}, "span")
			},
			PreCallDone: func(ctx context.Context, c *callhook.Call, r *callhook.PreCallResult) {
				done++
				seen = r
				if ctx.Value(key{}) != "span" || ctx.Err() != nil || c.ID != "c1" {
					t.Errorf("done got value %v, err %v", ctx.Value(key{}), ctx.Err())
				}
			},
		}
	}, preCall: `"secrets":["${KEY}"]`}.run(t)
	if started != 1 || done != 1 || seen != res {
		t.Errorf("started %d, done %d, the same result %t", started, done, seen == res)
	}
}

// TestPreCallClosed falls back to defaults.
func TestPreCallClosed(t *testing.T) {
	crm := newEndpoint(reply(200, `{"variables":{"customer_name":"Ada"}}`))
	bubble(t, func(t *testing.T, n *network) {
		n.handle("crm.test", crm.ServeHTTP)
		h, err := callhook.New(callhook.Options{Configs: callhook.Static(lookup{declared: `{"name":"customer_name","default":"there"}`}.agent(t)), Dial: n.Dial})
		if err != nil {
			t.Fatal(err)
		}
		h.Close()
		res := h.PreCall(t.Context(), inbound())
		checkResult(t, res)
		if res.Outcome != callhook.OutcomeFailed || !errors.Is(res.Err, callhook.ErrClosed) || res.Variables["customer_name"] != "there" || len(crm.requests()) != 0 {
			t.Errorf("%s, %v, %v, %d requests", res.Outcome, res.Err, res.Variables, len(crm.requests()))
		}
	})
}

// TestPreCallStats counts each outcome.
func TestPreCallStats(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		crm := newEndpoint(reply(200, `{"variables":{"a":1}}`), status(204), status(500), status(404), never)
		n.handle("crm.test", crm.ServeHTTP)
		h, err := callhook.New(callhook.Options{Configs: callhook.Static(lookup{}.agent(t)), Dial: n.Dial})
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		for range 5 {
			h.PreCall(t.Context(), inbound())
		}
		h.PreCall(t.Context(), &callhook.Call{ID: "c", AgentID: "reception", Direction: callhook.Outbound})
		h.PreCall(t.Context(), nil)
		want := map[callhook.Outcome]int64{callhook.OutcomeApplied: 1, callhook.OutcomeEmpty: 2, callhook.OutcomeFailed: 2, callhook.OutcomeTimeout: 1, callhook.OutcomeSkipped: 1}
		got := h.Stats().PreCall
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		got[callhook.OutcomeApplied] = 99
		if h.Stats().PreCall[callhook.OutcomeApplied] != 1 {
			t.Error("Stats gives its own map away")
		}
	})
}

// TestPreCallKeepsConnections: one serves one lookup after the other, whatever the
// answers are.
func TestPreCallKeepsConnections(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		crm := newEndpoint(reply(404, `{"message":"nobody"}`, isJSON), ada500, status(204), reply(200, `[1,2]`), reply(200, `{"variables":{}}`))
		n.handle("crm.test", crm.ServeHTTP)
		dials := 0
		h, err := callhook.New(callhook.Options{Configs: callhook.Static(lookup{}.agent(t)), Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials++
			return n.Dial(ctx, network, addr)
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		for range 5 {
			h.PreCall(t.Context(), inbound())
			time.Sleep(time.Second)
		}
		if len(crm.requests()) != 5 || dials != 1 {
			t.Errorf("%d requests over %d connections, want 5 over 1", len(crm.requests()), dials)
		}
	})
}

// TestPreCallGuard: without Options.Dial no private address is dialled.
func TestPreCallGuard(t *testing.T) {
	for _, host := range []string{"127.0.0.1:1", "[::1]:1", "169.254.169.254", "10.0.0.1", "[::ffff:127.0.0.1]"} {
		h, err := callhook.New(callhook.Options{Configs: callhook.Static(parse(t, `{"agent_id":"reception","pre_call":{"url":"http://`+host+`/"}}`))})
		if err != nil {
			t.Fatal(err)
		}
		res := h.PreCall(t.Context(), inbound())
		checkResult(t, res)
		if res.Outcome != callhook.OutcomeFailed || !strings.HasSuffix(res.Err.Error(), " is blocked") {
			t.Errorf("%s: %s, %v", host, res.Outcome, res.Err)
		}
		h.Close()
	}
}

// TestPreCallTogether: many lookups at once share nothing that one could change.
func TestPreCallTogether(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		n.handle("crm.test", func(w http.ResponseWriter, r *http.Request) {
			var e callhook.Event
			_ = json.NewDecoder(r.Body).Decode(&e)
			fmt.Fprintf(w, `{"variables":{"who":%q,"tags":["x"]}}`, e.Data.Call.ID)
		})
		config := parse(t, `{"agent_id":"reception","variables":[{"name":"practice","default":{"name":"Brightwater","open":["8:00"]}}],
			"pre_call":{"url":"http://crm.test/","secrets":["${KEY}"]}}`)
		h, err := callhook.New(callhook.Options{Configs: callhook.Static(config), Dial: n.Dial,
			Secrets: func(context.Context, callhook.SecretRef) (string, error) { return secret, nil }})
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				call := inbound()
				call.ID, call.From = fmt.Sprint(i), fmt.Sprintf("+4420794601%02d", i)
				res := h.PreCall(t.Context(), call)
				practice, _ := res.Variables["practice"].(map[string]any)
				if res.Variables["who"] != call.ID || practice["name"] != "Brightwater" || len(practice) != 2 || practice["open"].([]any)[0] != "8:00" {
					t.Errorf("call %d got %v, %v", i, res.Variables, res.Err)
				}
				practice["name"], practice["note"] = call.ID, "of one caller"
				practice["open"].([]any)[0] = call.ID
			})
		}
		wg.Wait()
	})
}

// newServer returns a dialler to a server outside of a bubble, where time passes.
func newServer(t *testing.T, answer http.HandlerFunc) func(context.Context, string, string) (net.Conn, error) {
	n := newNetwork(t)
	n.handle("crm.test", answer)
	return n.Dial
}
