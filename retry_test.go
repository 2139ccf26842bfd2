package callhook_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callhook-go/callhook"
)

// TestRetryAfter: seconds or an HTTP date, within a second and an hour; anything
// else says nothing.
func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 2, 9, 0, 0, 500, time.UTC)
	date := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	for _, tt := range []struct {
		value string
		want  time.Duration
		asked bool
	}{
		{"", 0, false},
		{"   ", 0, false},
		{"0", time.Second, true},
		{"1", time.Second, true},
		{"120", 2 * time.Minute, true},
		{" 120 ", 2 * time.Minute, true},
		{"007", 7 * time.Second, true},
		{"3600", time.Hour, true},
		{"3601", time.Hour, true},
		{"9223372036", time.Hour, true},           // overflows nothing yet
		{"9223372037", time.Hour, true},           // overflows a time.Duration
		{"99999999999999999999", time.Hour, true}, // overflows an int64
		{strings.Repeat("9", 4000), time.Hour, true},
		{"-1", 0, false},
		{"+5", 0, false},
		{"1.5", 0, false},
		{"1e3", 0, false},
		{"0x10", 0, false},
		{"1_000", 0, false},
		{"1,000", 0, false},
		{"5s", 0, false},
		{"5, 10", 0, false},
		{"٥", 0, false},
		{"NaN", 0, false},
		{"soon", 0, false},
		{date(90 * time.Second), 90*time.Second - 500, true},
		{date(2 * time.Hour), time.Hour, true},
		{date(time.Second), time.Second, true},
		{date(0), 0, false},
		{date(-time.Hour), 0, false},
		{now.Add(time.Minute).Format("Monday, 02-Jan-06 15:04:05 GMT"), time.Minute - 500, true}, // RFC 850
		{now.Add(time.Minute).Format(time.ANSIC), time.Minute - 500, true},
		{now.Add(time.Minute).Format(time.RFC3339), 0, false},
		{"Fri, 31 Dec 9999 23:59:59 GMT", time.Hour, true},
		{"Mon, 01 Jan 0001 00:00:00 GMT", 0, false},
		{"Mon, 32 Mar 2026 09:00:00 GMT", 0, false},
	} {
		got, asked := callhook.RetryAfter(tt.value, now)
		if got != tt.want || asked != tt.asked {
			t.Errorf("RetryAfter(%.40q) = %s, %v, want %s, %v", tt.value, got, asked, tt.want, tt.asked)
		}
	}
}

// TestPause: each pause is spread by 20 % and never longer than max_interval.
func TestPause(t *testing.T) {
	s := callhook.Duration(time.Second)
	for _, tt := range []struct {
		retry callhook.Retry
		want  []time.Duration // after 1, 2, 3 … attempts
	}{
		{callhook.Retry{Initial: 5 * s, Multiplier: 3, MaxInterval: 3 * 3600 * s}, scheduled},
		{callhook.Retry{Initial: s, Multiplier: 1, MaxInterval: 10 * s}, []time.Duration{time.Second, time.Second, time.Second}},
		{callhook.Retry{Initial: s, Multiplier: 100, MaxInterval: 24 * 3600 * s}, []time.Duration{time.Second, 100 * time.Second, 10000 * time.Second, 24 * time.Hour}},
		{callhook.Retry{Initial: 10 * s, Multiplier: 2, MaxInterval: 10 * s}, []time.Duration{10 * time.Second, 10 * time.Second}},
	} {
		for i, want := range tt.want {
			seen := map[time.Duration]bool{}
			for range 200 {
				got := callhook.Pause(tt.retry, i+1)
				if most := min(want*12/10, time.Duration(tt.retry.MaxInterval)); got < want*8/10 || got > most {
					t.Fatalf("%v: pause %d is %s, want %s to %s", tt.retry, i+1, got, want*8/10, most)
				}
				seen[got] = true
			}
			if len(seen) < 150 {
				t.Errorf("%v: pause %d took only %d values of 200: what failed together comes back together", tt.retry, i+1, len(seen))
			}
		}
	}
	if got := callhook.Pause(callhook.Retry{Initial: s, Multiplier: 3, MaxInterval: 3 * 3600 * s}, 1_000_000); got > 3*time.Hour || got < 2*time.Hour {
		t.Errorf("the millionth pause is %s", got)
	}
}

// TestClockSkew: a receiver whose clock is more than a minute off is reported.
func TestClockSkew(t *testing.T) {
	for _, tt := range []struct {
		date func(now time.Time) string
		want time.Duration
	}{
		{func(now time.Time) string { return now.Format(http.TimeFormat) }, 0},
		{func(now time.Time) string { return now.Add(time.Minute).Format(http.TimeFormat) }, 0},
		{func(now time.Time) string { return now.Add(-59 * time.Second).Format(http.TimeFormat) }, 0},
		{func(now time.Time) string { return now.Add(5 * time.Minute).Format(http.TimeFormat) }, 5 * time.Minute},
		{func(now time.Time) string { return now.Add(-26 * time.Hour).Format(http.TimeFormat) }, -26 * time.Hour},
		{func(time.Time) string { return "yesterday" }, 0},
		{func(time.Time) string { return "" }, 0},
	} {
		bubble(t, func(t *testing.T, n *network) {
			w := new(watch)
			n.handle("x.test", func(rw http.ResponseWriter, r *http.Request) { status(401, "Date: "+tt.date(time.Now()))(rw, r) })
			o := callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", "")), Dial: n.Dial, Trace: w.trace()}
			run(t, o, func(h *callhook.Hooks) {
				raise(t, h, ended("c1"))
				time.Sleep(time.Second)
				synctest.Wait()
				if got := w.tries()[0].ClockSkew; got != tt.want {
					t.Errorf("ClockSkew is %s, want %s", got, tt.want)
				}
				var want int64
				if tt.want != 0 {
					want = 1
				}
				if got := h.Stats().ClockSkew; got != want {
					t.Errorf("Stats.ClockSkew is %d, want %d", got, want)
				}
			})
		})
	}
}

// TestReplyInLog: the log keeps the beginning of an answer, and never a secret that
// the endpoint sends back.
func TestReplyInLog(t *testing.T) {
	const token, short, literal = `s3cr/t+"é"<&>=`, `s3cr/t`, `Zm9vOmJhcg/x==`
	quoted, _ := json.Marshal(token)
	php := strings.ReplaceAll(string(quoted), "/", `\/`)
	echo := func(text string) func(*http.Request) string { return func(*http.Request) string { return text } }
	for _, tt := range []struct {
		name   string
		answer func(*http.Request) string
		want   string // "" means only: no secret, and at most 1 KiB
	}{
		{"short", echo("thanks"), "thanks"},
		{"long", echo(strings.Repeat("x", 5000)), strings.Repeat("x", 1024)},
		{"cut within a letter", echo(strings.Repeat("x", 1023) + "é"), strings.Repeat("x", 1023)},
		{"not text", echo("a\xff\xfeb"), "a\ufffdb"},
		{"the header", func(r *http.Request) string { return "you sent " + r.Header.Get("X-Token") }, "you sent ***"},
		{"the URL", func(r *http.Request) string { return "you asked " + r.RequestURI }, "you asked /?key=***"},
		{"the path's spelling", echo(url.PathEscape(token)), "***"},
		{"JSON", echo(`{"token":` + string(quoted) + `}`), `{"token":"***"}`},
		{"PHP's JSON", echo(`{"token":` + php + `}`), `{"token":"***"}`},
		{"HTML", echo("<p>" + html.EscapeString(token)), "<p>***"},
		{"one within another", echo(token + "," + short), "***,***"},
		{"a literal header", func(r *http.Request) string { return r.Header.Get("Authorization") }, "***"},
		{"a literal header's credentials", echo("user " + literal), "user ***"},
		{"cut within a secret", echo(strings.Repeat("x", 1020) + token), strings.Repeat("x", 1020) + "***"},
		{"again and again", echo(strings.Repeat(token, 2000)), ""},
		{"after what is read", echo(strings.Repeat("y", 4090) + token), strings.Repeat("y", 1024)},
		{"broken off", echo("you sent " + token[:len(token)-3]), "you sent ***"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				w := new(watch)
				n.handle("x.test", func(rw http.ResponseWriter, r *http.Request) {
					rw.WriteHeader(500)
					fmt.Fprint(rw, tt.answer(r))
				})
				config := hook(t, "http://x.test/?key=${TOKEN}", `"headers": {"X-Token": "${TOKEN}", "X-Other": "${SHORT}", "Authorization": "Basic `+literal+`"}`)
				o := callhook.Options{Configs: callhook.Static(config), Dial: n.Dial, Trace: w.trace(),
					Secrets: secretsOf(map[string]string{"TOKEN": token, "SHORT": short})}
				run(t, o, func(h *callhook.Hooks) {
					raise(t, h, ended("c1"))
					time.Sleep(time.Second)
					synctest.Wait()
					got := w.tries()[0].Reply
					if tt.want != "" {
						if diff := cmp.Diff(tt.want, got); diff != "" {
							t.Errorf("(-want +got)\n%s", diff)
						}
					}
					if len(got) > 1024 {
						t.Errorf("%d bytes are kept", len(got))
					}
					if text, found := oneOf(got, token, short, literal, "s3cr"); found {
						t.Errorf("%q has %q in it", got, text)
					}
				})
			})
		})
	}
}

// TestSecretsInABrokenReply: an answer that stops in the middle of a secret does
// not give half of it away.
func TestSecretsInABrokenReply(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		w := new(watch)
		n.handle("x.test", stall(403, "unknown key "+secret[:20]))
		o := callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", `"secrets": ["${KEY}"]`)), Dial: n.Dial, Trace: w.trace(),
			Secrets: secretsOf(map[string]string{"KEY": secret})}
		run(t, o, func(h *callhook.Hooks) {
			raise(t, h, ended("c1"))
			time.Sleep(time.Second)
			synctest.Wait()
			if diff := cmp.Diff("unknown key ***", w.tries()[0].Reply); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	})
}

// TestAttemptsAreBounded: an answer that drips, never ends or lies costs one
// attempt and its time.
func TestAttemptsAreBounded(t *testing.T) {
	drip := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			fmt.Fprint(w, " ")
			w.(http.Flusher).Flush()
			time.Sleep(100 * time.Millisecond)
		}
	}
	for _, tt := range []struct {
		name, webhook string
		answer        http.HandlerFunc
		most          time.Duration
		delivered     bool
	}{
		{"dripping body", "", drip, 300 * time.Millisecond, true},
		{"dripping body that matters", `"success": {"path": "ok", "equals": true}`, drip, 2 * time.Second, false},
		{"endless body", "", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 10_000)); err != nil {
					return
				}
			}
		}, 300 * time.Millisecond, true},
		{"no answer", "", silent, 2 * time.Second, false},
		{"1xx for ever", "", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				w.WriteHeader(http.StatusEarlyHints)
				time.Sleep(time.Millisecond)
			}
		}, 2 * time.Second, false},
		{"huge headers", "", func(w http.ResponseWriter, r *http.Request) { status(200, "X: "+strings.Repeat("x", 1<<20))(w, r) }, 2 * time.Second, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				w := new(watch)
				n.handle("x.test", tt.answer)
				if tt.webhook != "" {
					tt.webhook += ", "
				}
				config := hook(t, "http://x.test/", tt.webhook+`"timeout": "2s", "retry": {"max_attempts": 1}`)
				run(t, callhook.Options{Configs: callhook.Static(config), Dial: n.Dial, Trace: w.trace()}, func(h *callhook.Hooks) {
					raise(t, h, ended("c1"))
					time.Sleep(3 * time.Second)
					synctest.Wait()
					tries := w.tries()
					if len(tries) != 1 || tries[0].Elapsed > tt.most {
						t.Errorf("%d attempts, the first took %s; want 1 within %s", len(tries), tries[0].Elapsed, tt.most)
					}
					if got := h.Stats().Queue.Delivered == 1; got != tt.delivered {
						t.Errorf("delivered: %v, want %v (%s)", got, tt.delivered, tries[0].Error)
					}
				})
			})
		})
	}
}

// TestBlockedAddresses: no connection is made to them. A literal one is dead at
// once; a name may resolve to another address later.
func TestBlockedAddresses(t *testing.T) {
	var connections atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	for _, tt := range []struct {
		host string
		want callhook.State
	}{
		{"127.0.0.1", callhook.StateDead},
		{"[::1]", callhook.StateDead},
		{"[::ffff:127.0.0.1]", callhook.StateDead},
		{"10.1.2.3", callhook.StateDead},
		{"169.254.169.254", callhook.StateDead},
		{"[fd00::1]", callhook.StateDead},
		{"0.0.0.0", callhook.StateDead},
		{"[64:ff9b::7f00:1]", callhook.StateDead},
		{"localhost", callhook.StateWaiting},
	} {
		t.Run(tt.host, func(t *testing.T) {
			w, q := new(watch), callhook.NewMemoryQueue(nil)
			seen := make(chan struct{})
			trace := w.trace()
			trace.AttemptDone = afterAttempt(trace, seen)
			h, stop := start(t, callhook.Options{Configs: callhook.Static(hook(t, "http://"+tt.host+":"+port+"/", "")), Queue: q, Trace: trace})
			raise(t, h, ended("c1"))
			<-seen
			stop() // the verdict is stored when Run has returned
			got := list(t, q, callhook.Filter{})
			if len(got) != 1 || got[0].State != tt.want {
				t.Fatalf("state %v, want %s", got, tt.want)
			}
			if tt.want == callhook.StateDead && got[0].Reason != callhook.ReasonBlockedAddress {
				t.Errorf("reason %s, want %s", got[0].Reason, callhook.ReasonBlockedAddress)
			}
			if a := got[0].Log[0]; !strings.Contains(a.Error, "blocked") || a.Status != 0 {
				t.Errorf("attempt %+v", a)
			}
			if n := connections.Load(); n != 0 {
				t.Errorf("%d connections were made", n)
			}
		})
	}
}

// TestOverTCP: what a real network does to an exchange, with AllowNets opening the
// loopback network.
func TestOverTCP(t *testing.T) {
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := "http://" + closed.Addr().String() + "/"
	closed.Close()
	serve := func(h http.HandlerFunc) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s.URL
	}
	plain := serve(func(http.ResponseWriter, *http.Request) {})
	tls := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	tls.Config.ErrorLog = log.New(io.Discard, "", 0)
	tls.StartTLS()
	t.Cleanup(tls.Close)
	for _, tt := range []struct {
		name, url, error string
		status           int
	}{
		{"allowed", plain, "", 200},
		{"refused", refusing, "connection refused", 0},
		{"reset", serve(func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			_ = conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}), "connection reset", 0},
		{"closed", serve(cutOff), "connection closed", 0},
		{"unknown authority", tls.URL, "TLS: certificate signed by unknown authority", 0},
		{"HTTP where TLS was asked for", strings.Replace(plain, "http:", "https:", 1), "TLS: the endpoint answered in plain HTTP", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := new(watch)
			seen := make(chan struct{})
			trace := w.trace()
			trace.AttemptDone = afterAttempt(trace, seen)
			h, stop := start(t, callhook.Options{Configs: callhook.Static(hook(t, tt.url, "")), AllowNets: loopback, Trace: trace})
			raise(t, h, ended("c1"))
			<-seen
			stop()
			a := w.tries()[0]
			if a.Status != tt.status || !strings.Contains(a.Error, tt.error) || (tt.error == "") != (a.Error == "") {
				t.Errorf("status %d, error %q; want %d and %q", a.Status, a.Error, tt.status, tt.error)
			}
			q := h.Stats().Queue
			if want := int64(1); tt.error == "" && q.Delivered != want || tt.error != "" && q.Pending != want {
				t.Errorf("counts %+v", q)
			}
		})
	}
}

// TestUnusableKey: what a signing key's reference resolves to is no key: the delivery is held like one without its secret.
func TestUnusableKey(t *testing.T) {
	for _, key := range []string{"not a key", "whpk_" + base64.StdEncoding.EncodeToString(make([]byte, 32)), "whsec_AAAA"} {
		bubble(t, func(t *testing.T, n *network) {
			x := newEndpoint()
			n.handle("x.test", x.ServeHTTP)
			secrets := newVault(map[string]string{"KEY": key})
			o := callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", `"secrets": ["${KEY}"]`)), Dial: n.Dial, Secrets: secrets.resolve}
			run(t, o, func(h *callhook.Hooks) {
				raise(t, h, ended("c1"))
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				if got := len(x.requests()); got != 0 {
					t.Errorf("%d requests went out unsigned", got)
				}
				balance(t, h, 0, 0, 1)
				secrets.set("KEY", secret)
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				balance(t, h, 1, 0, 0)
			})
		})
	}
}
