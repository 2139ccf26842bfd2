package egress_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/callhook-go/callhook/internal/egress"
)

// TestFresh: a fresh client may reach the same, and connects anew.
func TestFresh(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	defer server.Close()
	do := func(c *egress.Client) (egress.Timing, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		var timing egress.Timing
		resp, err := c.DoTimed(req, &timing)
		if err == nil {
			egress.Drain(resp)
		}
		return timing, err
	}
	c := egress.New(egress.Options{AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}})
	defer c.CloseIdle()
	for range 2 {
		if _, err := do(c); err != nil {
			t.Fatal(err)
		}
	}
	fresh := c.Fresh()
	defer fresh.CloseIdle()
	if timing, err := do(fresh); err != nil || timing.Connect <= 0 {
		t.Errorf("%+v, %v", timing, err)
	}
	if timing, err := do(c); err != nil || timing.Connect != 0 {
		t.Errorf("the first client's connection is gone: %+v, %v", timing, err)
	}
	var blocked *egress.BlockedError
	if _, err := do(egress.New(egress.Options{}).Fresh()); !errors.As(err, &blocked) {
		t.Errorf("the guard is gone: %v", err)
	}
}
