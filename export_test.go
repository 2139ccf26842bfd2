package callhook

import (
	"context"
	"net/http"
	"time"
)

// What tests in callhook_test need to reach directly.
var (
	RetryAfter = retryAfter
	Pause      = pause
	VerifyAt   = verify
	Clean      = clean
)

// ReadReply merges a reply as PreCall does, without a connection.
func ReadReply(c *Config, contentType string, body []byte) (*PreCallResult, error) {
	a, err := compile(c)
	if err != nil {
		return nil, err
	}
	answer, err := a.preCall.response.read(context.Background(), contentType, body)
	if err != nil {
		return nil, err
	}
	res := &PreCallResult{Outcome: OutcomeEmpty}
	a.merge(nil, answer, res)
	return res, nil
}

// Builder returns the function that builds the body of the config's first
// post-call webhook, compiled once.
func Builder(c *Config) func(*Call) ([]byte, error) {
	a, err := compile(c)
	if err != nil {
		panic(err)
	}
	return func(call *Call) ([]byte, error) {
		return a.postCall[0].body.build(&rendering{zone: a.zone,
			event: &Event{ID: "msg_1", Type: EventEnded, Timestamp: call.EndedAt, Data: EventData{Call: call}}}, 0)
	}
}

// Signer returns the function that signs an attempt, its key parsed once.
func Signer(secret string) func(h http.Header, id string, at time.Time, body []byte) {
	k, err := parseKey(secret)
	if err != nil {
		panic(err)
	}
	keys := []*key{k}
	return func(h http.Header, id string, at time.Time, body []byte) { setSignature(h, id, at, body, keys) }
}

// QueueSizes returns how many entries a memory queue keeps in each of its parts.
func QueueSizes(q Queue) map[string]int {
	m := q.(*MemoryQueue)
	m.mu.Lock()
	defer m.mu.Unlock()
	return map[string]int{
		"items": len(m.items), "ready": m.ready.len(), "waiting": len(m.waiting), "lanes": len(m.lanes), "chains": len(m.chains),
		"dead": m.dead.len(), "remembered": len(m.settled), "ages": m.settledAge.len(), "bytes": int(m.bytes), "starting": m.starting,
	}
}

// LaneCount returns how many lanes of hooks are not at rest.
func LaneCount(h *Hooks) int {
	h.lanes.mu.Lock()
	defer h.lanes.mu.Unlock()
	n := 0
	for _, l := range h.lanes.all {
		if !l.atRest() {
			n++
		}
	}
	return n
}

// GivenSecrets returns of how many calls the secrets are remembered.
func GivenSecrets(h *Hooks) int {
	h.given.mu.Lock()
	defer h.given.mu.Unlock()
	return h.given.n
}

// JudgedAnswer is what an answer to a delivery means.
type JudgedAnswer struct {
	RetryAfter    time.Duration
	Text, Excerpt string
	ClockSkew     time.Duration
}

// JudgeAnswer says what an answer means to a webhook whose request had a secret in it.
func JudgeAnswer(s *Success, status int, header http.Header, reply []byte, secret string) JudgedAnswer {
	now := time.Date(2026, time.March, 2, 9, 30, 0, 0, time.UTC)
	m := judge(&webhook{endpoint: new(endpoint), success: s}, status, header, reply, now)
	p := &prepared{Request: &http.Request{Header: http.Header{"Authorization": {"Bearer " + secret}}}}
	return JudgedAnswer{m.retryAfter, m.text(status), excerpt(reply, p.hidden), clockSkew(header, now)}
}

// KnowsSecrets reports whether the secrets of a call are remembered.
func KnowsSecrets(h *Hooks, tenant, agent, call string) bool {
	return h.given.get(&Delivery{Tenant: tenant, Agent: agent, Call: call}) != nil
}
