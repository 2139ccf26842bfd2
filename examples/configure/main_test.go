package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

// TestConfigure checks what a person sees, line by line.
func TestConfigure(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	got := regexp.MustCompile(`127\.0\.0\.1:\d+`).ReplaceAllString(out.String(), "ADDRESS")
	got = regexp.MustCompile(`msg_[a-z2-7]{26}`).ReplaceAllString(got, "MSG")
	rest := got
	for _, want := range []string{
		"1. Call Flows: which agent?\n   ( ) reception  revision 1, 0 post-call webhooks\n   ( ) sales      revision 1, 0 post-call webhooks\n   > reception\n",
		"2. Data > System Webhooks: there are 0, the draft is revision 1's\n3. Which type?\n   ( ) Pre-call webhook: Asks your system who is calling, before the agent speaks.",
		"   ( ) Call status webhooks: Tell other systems",
		"   ( ) Post-call webhooks: Send the call's data",
		"4. Where is it sent?\n   (i) Where the request is sent: the address that the other system shows you, beginning with https://.",
		"       like \"https://n8n.example.com/webhook/calls\"\n   > ADDRESS/webhook/calls\n   ! post_call[0].url: \"ADDRESS/webhook/calls\" is not a whole URL: it must begin with https:// (or http://)\n   > http://ADDRESS/webhook/calls\n   fine\n",
		"5. What is sent?\n   [x] Call id (call.id)\n   [ ] Transcript (call.transcript)\n   [x] Summary (call.summary)\n   [ ] Link to the recording (call.recording.url)\n   [x] Duration in seconds (call.duration_seconds)\n   [x] Customer's number (call.customer_number)\n   [x] the variable customer_name\n",
		"   note: post_call[0].payload: call.summary is seldom ready when the call ends: use \"on\": \"analyzed\", or expect null\n",
		"6. The (i) beside \"When\":\n   (i) ended sends as soon as the call is over; analyzed waits",
		"       one of ended, analyzed, otherwise \"ended\"\n   > analyzed, notes: 0\n",
		"7. Save to Draft\n   saved; calls go on with revision 1\n   preview: POST http://ADDRESS/webhook/calls, signed ***\n",
		"     \"type\": \"call.analyzed\",\n",
		"         \"customer_number\": \"+442079460123\",\n",
		"   test: 200 from ADDRESS, \"{\"message\":\"Workflow was started\"}\". The endpoint took it: in production the event would be delivered.\n",
		"   Publish to Production\n   post_call[0].name (n8n): not set → \"n8n\"\n",
		"   published: revision 2 by ada (calls to n8n), warnings: 0\n",
		"A call begins with revision 2\nIt ended, and n8n gets, signature verified: {\"id\":\"call_1\",\"customer_number\":\"+442079460123\",\"duration_seconds\":252,\"summary\":\"Ada moved",
		"ok: revision 2 serves\n",
	} {
		_, after, ok := strings.Cut(rest, want)
		if !ok {
			t.Fatalf("missing, or not in its place: %s\n\n%s", want, got)
		}
		rest = after
	}
}
