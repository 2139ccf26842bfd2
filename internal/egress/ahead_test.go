package egress_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callhook-go/callhook/internal/egress"
)

// TestConnect: a connection that is made ahead is the one that the next exchange uses,
// over whatever protocol; and when the endpoint has closed it meanwhile the error says
// that nothing can have been processed.
func TestConnect(t *testing.T) {
	for name, start := range map[string]func(*httptest.Server){"http": plain, "http/1.1 over TLS": http1TLS, "http/2": http2TLS} {
		for _, dies := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", died meanwhile"}[dies], func(t *testing.T) {
				var accepted atomic.Int64
				var mu sync.Mutex
				conns, closed := map[net.Conn]bool{}, make(chan struct{}, 10)
				s := newServer(t, http.HandlerFunc(hello).ServeHTTP, func(s *httptest.Server) {
					s.Config.ConnState = func(c net.Conn, state http.ConnState) {
						mu.Lock()
						defer mu.Unlock()
						switch state {
						case http.StateNew:
							accepted.Add(1)
							conns[c] = true
						case http.StateClosed:
							closed <- struct{}{}
						}
					}
					start(s)
				})
				c := newClient(t, egress.Options{AllowNets: prefixes("127.0.0.0/8", "::1/128"), RootCAs: s.roots()})
				u, err := url.Parse(s.URL)
				if err != nil {
					t.Fatal(err)
				}
				if err := c.Connect(t.Context(), u); err != nil {
					t.Fatal(err)
				}
				ask := func() (egress.Timing, error) {
					req, err := http.NewRequestWithContext(t.Context(), "POST", s.URL, strings.NewReader("x"))
					if err != nil {
						t.Fatal(err)
					}
					var timing egress.Timing
					resp, err := c.DoTimed(req, &timing)
					if err == nil {
						egress.Drain(resp)
						if want := map[string]int{"http/2": 2}[name]; want != 0 && resp.ProtoMajor != want {
							t.Errorf("it speaks %s", resp.Proto)
						}
					}
					return timing, err
				}
				if dies {
					for deadline := time.Now().Add(2 * time.Second); accepted.Load() == 0 && time.Now().Before(deadline); {
						time.Sleep(time.Millisecond)
					}
					mu.Lock()
					for c := range conns {
						c.Close()
					}
					mu.Unlock()
					<-closed
					if _, err := ask(); err != nil && !egress.IsConnectError(err) {
						t.Fatalf("%T: %v", err, err)
					}
					if _, err := ask(); err != nil {
						t.Fatalf("the one after it: %v", err)
					}
				}
				timing, err := ask()
				if err != nil || timing.DNS+timing.Connect+timing.TLS != 0 {
					t.Errorf("%+v, %v", timing, err)
				}
				want := int64(1)
				if dies {
					want = 2
				}
				if n := accepted.Load(); n != want {
					t.Errorf("%d connections, want %d", n, want)
				}
			})
		}
	}
}

// TestConnectFails: what cannot be reached is told as by Do, and guarded as by Do.
func TestConnectFails(t *testing.T) {
	c := newClient(t, egress.Options{})
	var blocked *egress.BlockedError
	if err := c.Connect(t.Context(), &url.URL{Scheme: "http", Host: "127.0.0.1:1"}); !errors.As(err, &blocked) || !egress.IsConnectError(err) {
		t.Errorf("a private address: %v", err)
	}
	c = newClient(t, egress.Options{AllowNets: prefixes("127.0.0.0/8")})
	addr := strings.TrimPrefix(refusing(t), "http://")
	if err := c.Connect(t.Context(), &url.URL{Scheme: "http", Host: addr}); egress.Describe(err) != "connection refused" {
		t.Errorf("a port where nobody listens: %v", err)
	}
	s := newServer(t, hello, http1TLS)
	if err := c.Connect(t.Context(), &url.URL{Scheme: "https", Host: strings.TrimPrefix(s.URL, "https://")}); !strings.HasPrefix(egress.Describe(err), "TLS: ") {
		t.Errorf("a certificate that nobody knows: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Connect(ctx, &url.URL{Scheme: "http", Host: addr}); egress.Describe(err) != "canceled" {
		t.Errorf("a context that has ended: %v", err)
	}
}
