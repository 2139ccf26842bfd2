package main

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/callhook-go/callhook"
)

// TestParameters: values arrive as they are, and never make a document that Twilio
// would refuse.
func TestParameters(t *testing.T) {
	large := callhook.Variables{}
	for i := range 200 { // as many and as long as a reply may give
		large[fmt.Sprintf("v%03d", i)] = strings.Repeat(`"`, 4<<10)
	}
	for _, test := range []struct {
		name      string
		variables callhook.Variables
		want      string // name=value, the first ones
		left      int
	}{
		{"none", nil, "", 0},
		{"by name", callhook.Variables{"b": "2", "a": "1"}, "a=1 b=2", 0},
		{"not texts", callhook.Variables{"n": json.Number("1.10"), "o": true, "p": []any{"x", json.Number("7")}, "q": nil}, `n=1.10 o=true p=["x",7]`, 0},
		{"markup", callhook.Variables{"a": `"/><Dial>+19005550100</Dial>&amp;`}, `a="/><Dial>+19005550100</Dial>&amp;`, 0},
		{"not characters of XML", callhook.Variables{"a": "\x00\ufffe\n"}, "a=\ufffd\ufffd\n", 0},
		{"not JSON", callhook.Variables{"a": func() {}, "b": "2"}, "b=2", 1},
		{"too much", large, "v000=" + strings.Repeat(`"`, 4<<10), 199},
	} {
		t.Run(test.name, func(t *testing.T) {
			params, left := parameters(test.variables)
			doc, err := response{Connect: &connect{Relay: relay{Greeting: strings.Repeat(`"`, maxGreeting), Parameters: params}}}.document()
			if err != nil {
				t.Fatal(err)
			}
			if len(doc) >= 64<<10 {
				t.Errorf("the document has %d bytes, Twilio takes at most 64 kB", len(doc))
			}
			elements(t, doc, "Response", "Connect", "ConversationRelay", "Parameter")
			var back response
			if err := xml.Unmarshal(doc, &back); err != nil {
				t.Fatalf("%v\n%s", err, doc)
			}
			var got []string
			for _, p := range back.Connect.Relay.Parameters {
				got = append(got, p.Name+"="+p.Value)
			}
			if got := strings.Join(got, " "); got != test.want || left != test.left {
				t.Errorf("got %.200q, %d left out, want %.200q, %d", got, left, test.want, test.left)
			}
		})
	}
}

// elements fails the test when a document has an element that is none of these.
func elements(t *testing.T, doc []byte, allowed ...string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(string(doc)))
	for {
		token, err := d.Token()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatalf("not XML: %v\n%s", err, doc)
		}
		if e, ok := token.(xml.StartElement); ok && !strings.Contains(" "+strings.Join(allowed, " ")+" ", " "+e.Name.Local+" ") {
			t.Fatalf("<%s> has come in:\n%s", e.Name.Local, doc)
		}
	}
}
