package callhook

import (
	"encoding/json"
	"slices"
	"time"
)

// SampleCall returns a call with which a webhook of type t can be shown and tried
// out, see [Config.Preview] and [Hooks.TestSend]: one that just arrives, one that is
// being transferred, or one that has ended and been analyzed. It is the same each
// time. It is of the tenant acme and the agent reception: set those of the config that it
// is for. Its people and numbers are made up; the numbers are from the ranges that
// Ofcom keeps for fiction, which nobody has. The call is the caller's. It is nil for
// an unknown type.
func SampleCall(t Type) *Call {
	if typeSet(t) == 0 {
		return nil
	}
	start := time.Date(2026, time.March, 2, 9, 30, 0, 0, time.UTC)
	after := func(d time.Duration) time.Time { return start.Add(d) }
	c := &Call{
		ID: "call_sample", TenantID: "acme", AgentID: "reception", AgentName: "Reception", ConfigRevision: 1,
		Direction: Inbound, Channel: "phone", From: "+442079460123", FromName: "ADA LOVELACE", FromVerified: "A", To: "+442079460999",
		ForwardedFrom: "+442079460555", ProviderCallID: "CA00000000000000000000000000000000",
		SIPHeaders: map[string]string{"X-Account": "42"},
		Status:     StatusRinging, PreviousStatus: StatusQueued, StatusAt: start, Sequence: 1,
		StartedAt: start, Timezone: "Europe/London", Language: "en-GB", Tags: []string{"sample"},
		Metadata: Object{"account": "42"},
	}
	if t == TypePreCall {
		return c
	}
	c.Variables = Variables{"customer_name": "Ada", "company": "Analytical Engines Ltd", "next_appointment": "2026-03-05T14:30:00.000Z"}
	c.AnsweredAt, c.AnsweredBy = after(4*time.Second), "human"
	c.Status, c.PreviousStatus, c.StatusReason = StatusTransferStarted, StatusInProgress, "caller_asked"
	c.StatusAt, c.Sequence = after(150*time.Second), 3
	c.Transfers = []Transfer{{To: "+442079460777", Type: "warm", Status: StatusTransferStarted, StartedAt: after(150 * time.Second)}}
	if t == TypeCallStatus {
		return c
	}
	t0 := &c.Transfers[0]
	t0.Status, t0.Reason, t0.EndedAt = StatusTransferFailed, "no_answer", after(170*time.Second)
	c.Status, c.PreviousStatus, c.StatusReason = StatusCompleted, StatusTransferFailed, "caller_hung_up"
	c.StatusAt, c.Sequence = after(252480*time.Millisecond), 5
	c.EndedAt, c.EndReason, c.EndedBy = c.StatusAt, "hangup", "caller"
	c.AnalyzedAt = after(265 * time.Second)
	c.Collected = Object{"wants_callback": true, "new_appointment": "2026-03-13T10:15:00.000Z"}
	c.Transcript = []Turn{
		{Role: "agent", Text: "Good morning, this is the reception. Am I speaking with Ada?", Start: 4.6, End: 8.9},
		{Role: "user", Text: "Yes, hello. I have to move my appointment on Thursday.", Start: 9.4, End: 13.2},
		{Role: "tool", Start: 14, End: 15.2, Tool: &ToolCall{Name: "find_slots", ID: "tool_1",
			Arguments: json.RawMessage(`{"from":"2026-03-09"}`), Result: json.RawMessage(`{"slots":["2026-03-13T10:15:00.000Z"]}`)}},
		{Role: "agent", Text: "Friday the 13th at a quarter past ten is free. Shall I take it?", Start: 15.8, End: 20.1},
		{Role: "user", Text: "Yes, please. And can I talk to billing about <my> invoice & plan?", Start: 20.8, End: 25.3},
		{Role: "agent", Text: "Nobody answers there at the moment. They will call you back.", Start: 171.2, End: 175.6},
	}
	c.Summary = "Ada moved her appointment to Friday, 13 March, and wants billing to call her back."
	c.Sentiment = "positive"
	successful := true
	c.Successful = &successful
	c.Evaluation = Object{"greeted": true, "score": json.Number("0.90")}
	c.Recording = &Recording{URL: "https://recordings.example.com/call_sample.mp3", ExpiresAt: after(30 * 24 * time.Hour), Channels: 2}
	c.Cost = &Cost{Total: "0.42", Currency: "GBP", Parts: map[string]json.Number{"telephony": "0.10", "model": "0.32"}}
	return c
}

// sample returns the call with which one webhook of the agent is tried out where
// nobody gives another: one that it would be told of.
func (a *agent) sample(t Type, statuses []Status, directions []Direction) *Call {
	c := SampleCall(t)
	c.TenantID, c.AgentID = a.config.TenantID, a.config.AgentID
	if a.config.Revision != 0 {
		c.ConfigRevision = a.config.Revision
	}
	if len(statuses) > 0 && !slices.Contains(statuses, c.Status) {
		c.Status, c.Transfers[0].Status = statuses[0], statuses[0]
	}
	if len(directions) > 0 && !slices.Contains(directions, Inbound) {
		if c.Direction = directions[0]; c.Direction == Outbound {
			c.From, c.To = c.To, c.From
		}
	}
	return c
}
