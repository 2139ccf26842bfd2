package egress_test

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook/internal/egress"
)

// h2raw serves raw HTTP/2 frames on loopback.
func h2raw(t *testing.T, conns *atomic.Int64, talk func(*tls.Conn)) (string, *egress.Client) {
	s := newServer(t, func(http.ResponseWriter, *http.Request) {}, http2TLS) // for its certificate
	cert := s.TLS.Certificates[0]
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			go func() {
				defer c.Close()
				tc := c.(*tls.Conn)
				if tc.Handshake() == nil {
					talk(tc)
				}
			}()
		}
	}()
	return "https://" + l.Addr().String(), newClient(t, egress.Options{AllowNets: loopback, RootCAs: s.roots()})
}

func post(t *testing.T, c *egress.Client, url string, timeout time.Duration) string {
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader(strings.Repeat("x", 2000)))
	_, err := c.Do(req)
	return egress.Describe(err)
}

var (
	settings = []byte{0, 0, 0, 4, 0, 0, 0, 0, 0}
	goAway   = []byte{0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // last stream 0, NO_ERROR
)

// TestGoAwayIsNotAnsweredByDialsWithoutEnd: net/http sends again what an endpoint says it
// has not processed; an exchange makes a few connections at most.
func TestGoAwayIsNotAnsweredByDialsWithoutEnd(t *testing.T) {
	for name, first := range map[string]int{"at once": 0, "instead of answering": 1} {
		t.Run(name, func(t *testing.T) {
			var conns, got atomic.Int64
			url, c := h2raw(t, &conns, func(tc *tls.Conn) {
				tc.Write(settings)
				if first == 1 { // the request, which is to come whole
					b := make([]byte, 64<<10)
					for n := 0; n < 2000; {
						m, err := tc.Read(b)
						if err != nil {
							return
						}
						n += m
						got.Add(int64(m))
					}
				}
				tc.Write(goAway)
				io.Copy(io.Discard, tc)
			})
			err := post(t, c, url, time.Minute)
			if n := conns.Load(); n > 3 || err != "the endpoint gives up each connection without an answer" {
				t.Errorf("one exchange made %d connections: %s", n, err)
			}
		})
	}
}

// TestFloodEnds: an HTTP/2 connection on which somebody sends without end is closed, also
// after the exchange that it was made for.
func TestFloodEnds(t *testing.T) {
	for name, frame := range map[string]string{
		"PING":       "\x00\x00\x08\x06\x00\x00\x00\x00\x00callhook",
		"SETTINGS":   "\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"an unknown": "\x00\x00\x08\xee\x00\x00\x00\x00\x00callhook",
	} {
		t.Run(name, func(t *testing.T) {
			var conns, sent atomic.Int64
			cut := make(chan struct{})
			frames := strings.Repeat(frame, 500)
			url, c := h2raw(t, &conns, func(tc *tls.Conn) {
				defer close(cut)
				tc.Write(settings)
				go io.Copy(io.Discard, tc)
				for {
					n, err := io.WriteString(tc, frames)
					sent.Add(int64(n))
					if err != nil {
						return
					}
				}
			})
			if err := post(t, c, url, time.Minute); err == "" || err == "timed out" {
				t.Errorf("the exchange ended with %q", err)
			}
			<-cut
			if n := sent.Load(); n > 32<<20 {
				t.Errorf("%d bytes were sent", n)
			}
		})
	}
}

// TestAnEndpointWritesNothingIntoTheProcessLog: what comes behind an answer does not show.
func TestAnEndpointWritesNothingIntoTheProcessLog(t *testing.T) {
	var said strings.Builder
	log.SetOutput(&said)
	defer log.SetOutput(os.Stderr)
	for name, answer := range map[string]string{
		"a length that is too short": "HTTP/1.1 200 OK\nContent-Length: 1\n\n1,\"phone\":\"+442079460123\"",
		"behind the last chunk":      "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n1\n1\n0\n\n,\"phone\":\"+442079460123\"",
		"behind no content":          "HTTP/1.1 204 No Content\n\n{\"phone\":\"+442079460123\"}",
		"an answer more":             "HTTP/1.1 200 OK\nContent-Length: 1\n\n1HTTP/1.1 200 OK\nX-Phone: +442079460123\n\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			var sent atomic.Int64
			c := egress.New(egress.Options{Dial: pipes(t, false, &sent, say(answer))})
			defer c.CloseIdle()
			for range 3 { // the connection is not used again
				req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://crm.example.com", nil)
				resp, err := c.Do(req)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if body, _, err := egress.ReadBody(resp, 100); err != nil || len(body) > 1 {
					t.Errorf("%s: %q, %v", name, body, err)
				}
				egress.Drain(resp)
				synctest.Wait()
			}
		})
		if said.Len() > 0 {
			t.Errorf("%s: the process's log has: %s", name, said.String())
		}
		said.Reset()
	}
}
