package phonenumbers_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/examples/phonenumbers"
)

func TestNormalizer(t *testing.T) {
	for _, tt := range []struct{ region, number, want string }{
		{"GB", "020 7946 0123", "+442079460123"},
		{"GB", "+44 (0)20 7946-0123", "+442079460123"},
		{"GB", "0044 20 7946 0123", "+442079460123"},
		{"US", "(202) 555-0123", "+12025550123"},
		{"US", "+442079460123", "+442079460123"},
		{"GB", "sip:ada@example.com", "sip:ada@example.com"},
		{"GB", "12", "12"},
		{"GB", "", ""},
	} {
		if got := phonenumbers.Normalizer(tt.region)(tt.number); got != tt.want {
			t.Errorf("%s in %s: %s, want %s", tt.number, tt.region, got, tt.want)
		}
	}
}

// The endpoint is asked for the number in one form, whichever the carrier sends.
func Example() {
	crm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("looked up:", r.URL.Query().Get("phone"))
		fmt.Fprint(w, `{"variables":{"customer_name":"Ada"}}`)
	}))
	defer crm.Close()
	config, err := callhook.ParseConfig(fmt.Appendf(nil,
		`{"agent_id": "reception", "pre_call": {"url": %q, "method": "GET", "query": {"phone": "{{call.from}}"}}}`, crm.URL))
	if err != nil {
		fmt.Println(err)
		return
	}
	hooks, err := callhook.New(callhook.Options{
		Configs:         callhook.Static(config),
		NormalizeNumber: phonenumbers.Normalizer("GB"),
		AllowNets:       []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer hooks.Close()
	call := &callhook.Call{ID: "call_1", AgentID: "reception", Direction: callhook.Inbound, From: "020 7946 0123"}
	fmt.Println(hooks.PreCall(context.Background(), call).Variables["customer_name"])
	// Output:
	// looked up: +442079460123
	// Ada
}
