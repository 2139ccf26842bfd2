package callhook_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"

	"github.com/callhook-go/callhook"
)

// A page that configures a webhook draws its form from this.
func ExampleConfigFields() {
	for _, f := range callhook.ConfigFields(callhook.TypePreCall) {
		if f.Path == "timeout" || f.Path == "withheld" {
			fmt.Printf("%s [%s] (i) %s\n", f.Title, f.Default, f.Guidance)
		}
	}
	// Output:
	// Time limit ["2s"] (i) How long the caller may wait for the answer, everything included; at most 10s. Without an answer by then the agent starts with the defaults.
	// Withheld numbers ["send"] (i) Whether callers who hide their number are looked up: send, or skip to start with the defaults at once.
}

// A draft is tried out before anybody publishes it.
func ExampleHooks_TestSend() {
	crm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"contact": {"first_name": "Ada"}}`)
	}))
	defer crm.Close()
	hooks, err := callhook.New(callhook.Options{
		Configs:   callhook.Static(),
		AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, // only for this test's server
	})
	if err != nil {
		log.Fatal(err)
	}
	defer hooks.Close()
	draft := &callhook.Config{AgentID: "reception", PreCall: &callhook.PreCallWebhook{
		Endpoint: callhook.Endpoint{URL: crm.URL, Method: "GET"},
		Query:    map[string]string{"phone": "{{call.from}}"},
		Response: callhook.Response{Variables: map[string]string{"customer_name": "contact.first_name"}},
	}}
	test, err := hooks.TestSend(context.Background(), draft, "pre_call", nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(test.Status, test.Reply)
	fmt.Println(test.Meaning)
	fmt.Println(test.PreCall.Variables["customer_name"])
	// Output:
	// 200 {"contact": {"first_name": "Ada"}}
	// The answer gives customer_name.
	// Ada
}
