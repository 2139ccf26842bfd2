package platforms

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/callhook-go/callhook/callhooktest"
)

// Make is a fake of a custom webhook of Make, with any URL at hook.eu1.make.com or another
// region's host: https://help.make.com/webhooks. A request that it takes is answered
// with 200 and the text Accepted; what the scenario makes of it, the sender does not
// learn. Change its fields before the first request.
//
// More than 300 requests in ten seconds are answered with 429, what comes when the queue
// is full with 400, and everything while no scenario listens with 410.
type Make struct {
	*callhooktest.Endpoint
	*platform

	// QueueLimit is how many requests the webhook's queue holds until the scenario runs.
	// Zero means that the scenario runs at once.
	QueueLimit int
	// PerTenSeconds is how many requests it takes in ten seconds: 300.
	PerTenSeconds int

	off   bool
	queue [][]byte
	done  [][]byte
	all   window
}

// NewMake returns a webhook with a scenario that is on. It ends with the test.
func NewMake(t testing.TB) *Make {
	m := &Make{platform: newPlatform(t), PerTenSeconds: 300}
	m.Endpoint, m.answer = m.endpoint, m.serve
	return m
}

// TurnOff turns the scenario off.
func (m *Make) TurnOff() { m.turn(true) }

// TurnOn turns the scenario on.
func (m *Make) TurnOn() { m.turn(false) }

func (m *Make) turn(off bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.off = off
}

// Run runs the scenario with what is in the queue.
func (m *Make) Run() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done = append(m.done, m.queue...)
	m.queue = nil
}

// Bundles returns the bodies that the scenario was run with until now.
func (m *Make) Bundles() [][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.done)
}

// maxMakeBody is how much a webhook takes. What it says to more is not documented.
const maxMakeBody = 5 << 20

func (m *Make) serve(r *callhooktest.Request) callhooktest.Answer {
	_, _, ok := m.all.take(m.PerTenSeconds, 10*time.Second)
	switch {
	case !ok:
		return text(http.StatusTooManyRequests, "Too many requests")
	case m.off: // also five days after it was turned off, when the webhook is deactivated
		return text(http.StatusGone, "There is no scenario listening for this webhook.")
	case len(r.Body) > maxMakeBody:
		return m.unplayed("a body of %d bytes: Make takes 5 MB", len(r.Body))
	case m.QueueLimit > 0 && len(m.queue) >= m.QueueLimit:
		return text(http.StatusBadRequest, "Queue is full.")
	case m.QueueLimit > 0:
		m.queue = append(m.queue, r.Body)
	default:
		m.done = append(m.done, r.Body)
	}
	return text(http.StatusOK, "Accepted")
}
