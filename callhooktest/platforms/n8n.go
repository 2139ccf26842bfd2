package platforms

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/callhook-go/callhook/callhooktest"
)

// N8N is a fake of an n8n server with workflows that begin with a Webhook node. Their
// production URLs begin with /webhook/ and work while the workflow is active, their test
// URLs with /webhook-test/ and work once after [N8NWorkflow.Listen]:
// https://docs.n8n.io/integrations/builtin/core-nodes/n8n-nodes-base.webhook/workflow-development/.
// Anything else is answered with 404 and a hint, in the words of
// https://github.com/n8n-io/n8n (webhook-not-found.error.ts).
type N8N struct {
	*callhooktest.Endpoint
	*platform

	workflows map[string]*N8NWorkflow
}

// N8NWorkflow is one workflow. Change its fields before the first request.
type N8NWorkflow struct {
	// Method is what the Webhook node is set to: POST.
	Method string
	// Respond is what the last node gives, where the Webhook node responds with all of its
	// entries: they arrive as a list. Nil means that it responds immediately.
	Respond []any

	server     *N8N
	active     bool
	listening  time.Time // until then
	executions []N8NExecution
}

// N8NExecution is one run of a workflow.
type N8NExecution struct {
	Body []byte
	Test bool // by the test URL
}

// NewN8N returns a server without workflows. It ends with the test.
func NewN8N(t testing.TB) *N8N {
	n := &N8N{platform: newPlatform(t), workflows: map[string]*N8NWorkflow{}}
	n.Endpoint, n.answer = n.endpoint, n.serve
	return n
}

// AddWorkflow adds a workflow whose Webhook node has this path, like "calls". It is not
// active.
func (n *N8N) AddWorkflow(path string) *N8NWorkflow {
	n.mu.Lock()
	defer n.mu.Unlock()
	w := &N8NWorkflow{Method: http.MethodPost, server: n}
	n.workflows[path] = w
	return w
}

// Activate activates the workflow.
func (w *N8NWorkflow) Activate() { w.do(func() { w.active = true }) }

// Deactivate deactivates it.
func (w *N8NWorkflow) Deactivate() { w.do(func() { w.active = false }) }

// Listen has the test URL answer one call within the next 120 seconds, as the button
// Listen for test event does.
func (w *N8NWorkflow) Listen() {
	w.do(func() { w.listening = time.Now().Add(120 * time.Second) })
}

// Executions returns how the workflow was run until now.
func (w *N8NWorkflow) Executions() (out []N8NExecution) {
	w.do(func() { out = slices.Clone(w.executions) })
	return out
}

func (w *N8NWorkflow) do(f func()) {
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	f()
}

func (n *N8N) serve(r *callhooktest.Request) callhooktest.Answer {
	path, test := strings.CutPrefix(r.URL.Path, "/webhook-test/")
	if !test {
		path, _ = strings.CutPrefix(r.URL.Path, "/webhook/")
	}
	w := n.workflows[path]
	on := w != nil && w.active
	if test {
		on = w != nil && time.Now().Before(w.listening)
	}
	switch {
	case !on && test:
		return notRegistered(fmt.Sprintf("The requested webhook %q is not registered.", path), "Click the 'Execute workflow' button on the canvas, then try again. "+
			"(In test mode, the webhook only works for one call after you click this button)")
	case !on:
		return notRegistered(fmt.Sprintf("The requested webhook %q is not registered.", r.Method+" "+path), "The workflow must be active for a production URL "+
			"to run successfully. You can activate the workflow using the toggle in the top-right of the editor. Note that unlike test URL calls, "+
			"production URL calls aren't shown on the canvas (only in the executions list)")
	case r.Method != w.Method:
		return notRegistered(fmt.Sprintf("This webhook is not registered for %s requests. Did you mean to make a %s request?", r.Method, w.Method), "")
	}
	if test {
		w.listening = time.Time{}
	}
	w.executions = append(w.executions, N8NExecution{r.Body, test})
	if w.Respond != nil {
		return reply(http.StatusOK, w.Respond)
	}
	return reply(http.StatusOK, object{"message": "Workflow was started"})
}

// notRegistered says what n8n says to URLs that it does not serve now.
func notRegistered(message, hint string) callhooktest.Answer {
	type fault struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Hint    string `json:"hint,omitempty"`
	}
	return reply(http.StatusNotFound, fault{http.StatusNotFound, message, hint})
}
