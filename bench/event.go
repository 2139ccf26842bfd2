package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/callhook-go/callhook"
)

// event is what a producer raises: the end of the call with this number.
type event struct {
	id       int
	endpoint int
	body     []byte
}

const (
	bodySize = 2048
	idPrefix = "bench-" // of a call's id in a body, with 12 digits after it
	idDigits = 12

	secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
)

func callID(id int) string { return fmt.Sprintf("%s%0*d", idPrefix, idDigits, id) }

// idOf finds the number of the call in a body; -1 when there is none.
func idOf(body []byte) int {
	i := bytes.Index(body, []byte(idPrefix))
	if i < 0 || len(body) < i+len(idPrefix)+idDigits {
		return -1
	}
	id, err := strconv.Atoi(string(body[i+len(idPrefix) : i+len(idPrefix)+idDigits]))
	if err != nil {
		return -1
	}
	return id
}

// fields is what callhook's webhooks select: twelve, as an integration would.
var fields = []string{"call.id", "call.from", "call.to", "call.direction", "call.status", "call.started_at", "call.ended_at",
	"call.duration_seconds", "call.summary", "call.variables.customer_name", "call.collected", "call.recording.url"}

// agent names the agent whose webhook is the endpoint.
func agent(endpoint int) string { return "agent-" + strconv.Itoa(endpoint) }

// config is an agent with one webhook.
func config(endpoint int, url string, concurrency int) *callhook.Config {
	c := &callhook.Config{AgentID: agent(endpoint), PostCall: []callhook.PostCallWebhook{{
		Endpoint:        callhook.Endpoint{URL: url, Secrets: []string{secret}, Timeout: callhook.Duration(timeout)},
		DeliveryOptions: callhook.DeliveryOptions{Concurrency: concurrency},
	}}}
	for _, f := range fields {
		p := &c.PostCall[0].Payload
		p.Fields = append(p.Fields, callhook.PayloadField{Path: f})
	}
	return c
}

// theCall has a summary that makes its body bodySize long.
var theCall = sized()

func sized() callhook.Call {
	ended := time.Date(2026, 3, 2, 10, 4, 12, 345e6, time.UTC)
	call := callhook.Call{
		AgentID: agent(0), ID: callID(0), Direction: callhook.Inbound, From: "+442079460123", To: "+442079460999",
		Status: callhook.StatusCompleted, StartedAt: ended.Add(-4 * time.Minute), EndedAt: ended,
		Variables: callhook.Variables{"customer_name": "Ada"},
		Collected: callhook.Object{"reason": "change of address", "postcode": "EC1A 1BB", "callback": true},
		Recording: &callhook.Recording{URL: "https://recordings.example.com/2026/03/02/4f1c.wav"},
	}
	text := strings.Repeat("The caller asked to move the appointment and gave a new address. ", 40)
	call.Summary = text[:bodySize-len(preview(&call))]
	call.Summary += text[:bodySize-len(preview(&call))] // "null" had been there
	return call
}

func preview(call *callhook.Call) []byte {
	p, err := config(0, "https://example.com/", 0).Preview("post_call", call)
	if err != nil {
		panic(err) // config is wrong
	}
	return p.Body
}

// callOf is what the runtime would hand to callhook.
func callOf(e event) *callhook.Call {
	call := theCall
	call.ID, call.AgentID = callID(e.id), agent(e.endpoint)
	return &call
}

// eventsOf makes n events with their bodies, spread over the endpoints.
func eventsOf(from, n, endpoints int) []event {
	first := preview(&theCall)
	at := bytes.Index(first, []byte(idPrefix)) + len(idPrefix)
	all := bytes.Repeat(first, n)
	events := make([]event, n)
	for i := range events {
		body := all[i*len(first) : (i+1)*len(first) : (i+1)*len(first)]
		copy(body[at:], fmt.Sprintf("%0*d", idDigits, from+i))
		events[i] = event{id: from + i, endpoint: (from + i) % endpoints, body: body}
	}
	return events
}
