package platforms

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/callhook-go/callhook/callhooktest"
)

// platform is what the fakes have in common: an endpoint that is itself, but for the
// answers that a test gives it.
type platform struct {
	t        testing.TB
	endpoint *callhooktest.Endpoint
	answer   func(*callhooktest.Request) callhooktest.Answer

	mu    sync.Mutex // of the fake's state
	count int        // of ids
}

// newPlatform returns a platform. Its maker sets answer, which is called with mu held.
func newPlatform(t testing.TB) *platform {
	p := &platform{t: t}
	p.endpoint = callhooktest.NewEndpoint(t, callhooktest.ReplyFunc(p.itself))
	return p
}

// Next gives these answers to the next requests, one to each, in place of the
// platform's own. After them it is itself again.
func (p *platform) Next(answers ...callhooktest.Answer) {
	p.endpoint.Then(append(slices.Clone(answers), callhooktest.ReplyFunc(p.itself))...)
}

// Late is the platform's own answer, after a time: for Next.
func (p *platform) Late(by time.Duration) callhooktest.Answer {
	return callhooktest.ReplyFunc(func(r *callhooktest.Request) callhooktest.Answer {
		a := p.itself(r)
		a.Delay = by
		return a
	})
}

// Lost is for Next: the platform does what it is asked to, and the answer is lost on its
// way.
func (p *platform) Lost() callhooktest.Answer {
	return callhooktest.ReplyFunc(func(r *callhooktest.Request) callhooktest.Answer {
		p.itself(r)
		return callhooktest.Answer{Fault: callhooktest.FaultHangUpAfter}
	})
}

func (p *platform) itself(r *callhooktest.Request) callhooktest.Answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answer(r)
}

// unplayed fails the test: the real platform would do something else.
func (p *platform) unplayed(what string, args ...any) callhooktest.Answer {
	what = fmt.Sprintf(what, args...)
	p.t.Errorf("platforms: the fake does not play %s", what)
	return text(http.StatusNotImplemented, "the fake does not play "+what)
}

// id returns a new number.
func (p *platform) id() int {
	p.count++
	return p.count
}

// uuid returns a new UUID, which tells nothing but its number.
func (p *platform) uuid() string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", p.id()) }

// object is JSON that a platform says.
type object = map[string]any

// reply is an answer with v as JSON, which keeps <, > and &.
func reply(status int, v any) callhooktest.Answer {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // of a value that the fake has made
	}
	return callhooktest.Answer{Status: status, Body: string(bytes.TrimSpace(b.Bytes())), Header: http.Header{"Content-Type": {"application/json"}}}
}

// text is an answer in plain text.
func text(status int, body string) callhooktest.Answer {
	return callhooktest.Answer{Status: status, Body: body, Header: http.Header{"Content-Type": {"text/plain"}}}
}

// decode reads JSON and keeps its numbers.
func decode(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	return d.Decode(into)
}

// scalar is a JSON value as text; null is empty, and false means that it is a list or
// an object.
func scalar(v any) (string, bool) {
	switch v := v.(type) {
	case nil:
		return "", true
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return fmt.Sprint(v), true
	}
	return "", false
}
