package main

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"maps"
	"slices"

	"github.com/callhook-go/callhook"
)

// response is a TwiML document: what Twilio is to do next. encoding/xml escapes what
// it is given, so a CRM that answers `"/><Dial>…` makes a strange greeting and no
// call. Empty verbs are left out; without any Twilio hangs up.
type response struct {
	XMLName xml.Name `xml:"Response"`
	Say     string   `xml:"Say,omitempty"`
	Connect *connect
	Dial    *dial
}

// connect joins the caller and the agent, and tells Action when that is over
// (https://www.twilio.com/docs/voice/twiml/connect/conversationrelay).
type connect struct {
	Action string `xml:"action,attr"`
	Relay  relay  `xml:"ConversationRelay"`
}

type relay struct {
	URL        string      `xml:"url,attr"` // of the agent, wss://
	Greeting   string      `xml:"welcomeGreeting,attr,omitempty"`
	Parameters []parameter `xml:"Parameter"` // arrive in the setup message as customParameters
}

type parameter struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

// dial transfers the call and tells Action how it went when it is over
// (https://www.twilio.com/docs/voice/twiml/dial). The number tells Callback as soon as
// somebody answers.
type dial struct {
	Action  string `xml:"action,attr"`
	Timeout int    `xml:"timeout,attr"` // seconds of ringing
	Number  number
}

type number struct {
	Callback string `xml:"statusCallback,attr"`
	Events   string `xml:"statusCallbackEvent,attr"`
	Number   string `xml:",chardata"`
}

// Twilio refuses a document of more than 64 kB (error 11750), and no CRM's reply should
// end a call. Escaped, a greeting may grow sixfold.
const (
	maxParameters = 32 << 10 // bytes of all parameters, as escaped
	maxGreeting   = 4 << 10  // bytes
)

// parameters returns the variables as parameters, by name. A value that is not a
// text is JSON. What would be too much is left out, each whole. Secret variables
// are not among pre.Variables to begin with.
func parameters(v callhook.Variables) (out []parameter, left int) {
	size := 0
	for _, name := range slices.Sorted(maps.Keys(v)) {
		if v[name] == nil {
			continue
		}
		value, ok := v[name].(string)
		if !ok {
			raw, err := json.Marshal(v[name])
			if err != nil {
				left++
				continue
			}
			value = string(raw)
		}
		p := parameter{name, value}
		raw, err := xml.Marshal(p) // as escaped
		if err != nil || size+len(raw) > maxParameters {
			left++
			continue
		}
		size += len(raw)
		out = append(out, p)
	}
	return out, left
}

// document returns the TwiML.
func (r response) document() ([]byte, error) {
	raw, err := xml.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("writing TwiML: %w", err)
	}
	return append([]byte(xml.Header), raw...), nil
}
