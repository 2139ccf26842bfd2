package egress_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/callhook-go/callhook/internal/egress"
)

// TestTiming: an exchange tells where it went, what a new connection took, and
// nothing of that on a kept one.
func TestTiming(t *testing.T) {
	const takes = 20 * time.Millisecond
	handler := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(takes) })
	for _, tt := range []struct {
		name   string
		server *httptest.Server
	}{{"http", httptest.NewServer(handler)}, {"https", httptest.NewTLSServer(handler)}} {
		t.Run(tt.name, func(t *testing.T) {
			defer tt.server.Close()
			o := egress.Options{AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}}
			if tt.server.TLS != nil {
				o.RootCAs = tt.server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
			}
			c := egress.New(o)
			defer c.CloseIdle()
			addr := tt.server.Listener.Addr().String()
			for i, kept := range []bool{false, true} {
				req, err := http.NewRequestWithContext(t.Context(), "GET", tt.server.URL, nil)
				if err != nil {
					t.Fatal(err)
				}
				var got egress.Timing
				resp, err := c.DoTimed(req, &got)
				if err != nil {
					t.Fatal(err)
				}
				egress.Drain(resp)
				if got.Remote != addr || got.FirstByte < takes || (got.Connect > 0) == kept || (got.TLS > 0) != (!kept && tt.server.TLS != nil) || got.DNS != 0 {
					t.Errorf("exchange %d: %+v, want remote %s, at least %s to the first byte", i, got, addr, takes)
				}
			}
		})
	}
	t.Run("a name, and a port where nobody listens", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		l.Close()
		c := egress.New(egress.Options{AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}})
		_, port, _ := strings.Cut(addr, ":")
		req, err := http.NewRequestWithContext(context.Background(), "GET", "http://localhost:"+port, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got egress.Timing
		if _, err := c.DoTimed(req, &got); err == nil {
			t.Fatal("it was answered")
		}
		if got.DNS <= 0 || got.FirstByte != 0 || !strings.HasSuffix(got.Remote, ":"+port) {
			t.Errorf("%+v", got)
		}
	})
}
