package callhooktest_test

import (
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/google/go-cmp/cmp"
)

// What callhook makes of each misbehaviour is in queue/sqlitequeue/hostile_test.go. Here
// a client that trusts its server looks at what is really sent.

// trusting is a client that reads all that it gets and decompresses nothing.
func trusting(t *testing.T, network callhooktest.Network) *http.Client {
	tr := &http.Transport{DialContext: network.Dial, DisableCompression: true, MaxResponseHeaderBytes: 64 << 20}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// get asks a fresh endpoint with this fault, in memory.
func get(t *testing.T, f callhooktest.Fault) *http.Response {
	t.Helper()
	e := callhooktest.NewEndpoint(t, callhooktest.Answer{Fault: f})
	resp, err := trusting(t, callhooktest.Network{"crm.example.com": e}).Get("http://crm.example.com/lookup")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestHostileAnswers(t *testing.T) {
	decompressed := func(r io.Reader, err error) io.Reader {
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	// size counts, and looks at how it begins.
	size := func(r io.Reader, begin string) (int64, error) {
		head := make([]byte, len(begin))
		if _, err := io.ReadFull(r, head); err != nil || string(head) != begin {
			return 0, fmt.Errorf("it begins with %q: %v", head, err)
		}
		n, err := io.Copy(io.Discard, r)
		return n + int64(len(head)), err
	}
	const good = `{"ok":true,"variables":{"customer_name":"Ada"`
	tests := map[callhooktest.Fault]struct {
		encoding string
		size     int64
		begins   string
		read     func(io.Reader) io.Reader
	}{
		callhooktest.FaultGzipBomb: {"gzip", 50_000_000, good, func(r io.Reader) io.Reader {
			return io.LimitReader(decompressed(gzip.NewReader(r)), 50_000_000) // of 10 GB
		}},
		callhooktest.FaultGzipInGzip: {"gzip, gzip", 200_000_000 + 47, good, func(r io.Reader) io.Reader {
			return decompressed(gzip.NewReader(decompressed(gzip.NewReader(r))))
		}},
		callhooktest.FaultDeflateBomb: {"deflate", 50_000_000, "     ", func(r io.Reader) io.Reader {
			return io.LimitReader(decompressed(zlib.NewReader(r)), 50_000_000)
		}},
		callhooktest.FaultBrackets:    {"", 40_000_000, "[[[[[", nil},
		callhooktest.FaultManyHeaders: {"", 47, good, nil},
		callhooktest.FaultLongHeader:  {"", 47, good, nil},
	}
	for fault, test := range tests {
		t.Run(string(fault), func(t *testing.T) {
			t.Parallel()
			resp := get(t, fault)
			if got := resp.Header.Get("Content-Encoding"); got != test.encoding {
				t.Errorf("Content-Encoding is %q, want %q", got, test.encoding)
			}
			body := io.Reader(resp.Body)
			if test.read != nil {
				body = test.read(body)
			} else if fault != callhooktest.FaultBrackets { // after its headers it stays or hangs up
				body = io.LimitReader(body, test.size)
			}
			if n, err := size(body, test.begins); n != test.size || err != nil {
				t.Errorf("the body has %d bytes, %v, want %d", n, err, test.size)
			}
		})
	}
}

func TestHostileJSON(t *testing.T) {
	for fault, want := range map[callhooktest.Fault]struct{ keys, depth int }{
		callhooktest.FaultManyKeys:        {1_000_001, 2},
		callhooktest.FaultThousandsOfKeys: {10_001, 2},
		callhooktest.FaultDuplicateKeys:   {3, 2},
		callhooktest.FaultDeep:            {1, 5000},
	} {
		t.Run(string(fault), func(t *testing.T) {
			t.Parallel()
			body, err := io.ReadAll(get(t, fault).Body)
			if err != nil || !json.Valid(body) {
				t.Fatalf("%v, and valid: %v", err, json.Valid(body))
			}
			got := want
			got.keys, got.depth = strings.Count(string(body), ":")-2, 0 // but for ok and variables
			for now, rest := 0, body; len(rest) > 0; rest = rest[1:] {
				switch rest[0] {
				case '{', '[':
					now++
				case '}', ']':
					now--
				}
				got.depth = max(got.depth, now)
			}
			if got != want {
				t.Errorf("it has %d variables and %d levels, want %d and %d", got.keys, got.depth, want.keys, want.depth)
			}
		})
	}
}

func TestHostileHeaders(t *testing.T) {
	type answer struct {
		Status     int
		Location   string
		RetryAfter []string
		Cookies    int
		Name       string
	}
	for fault, want := range map[callhooktest.Fault]answer{
		"301 to a loopback address":           {Status: 301, Location: "http://127.0.0.1/redirected"},
		"307 to a metadata address":           {Status: 307, Location: "http://169.254.169.254/latest/meta-data/iam/security-credentials/"},
		"308 to itself":                       {Status: 308, Location: "?again"},
		"429 with a negative Retry-After":     {Status: 429, RetryAfter: []string{"-5"}},
		"503 with an empty Retry-After":       {Status: 503, RetryAfter: []string{""}},
		"503 with several Retry-Afters":       {Status: 503, RetryAfter: []string{"7", "7200"}},
		callhooktest.FaultCookies:             {Status: 200, Cookies: 1000},
		callhooktest.FaultInvalidText:         {Status: 200, Name: "Ad\xe9 \xff\xfe"},
		"429 with an overflowing Retry-After": {Status: 429, RetryAfter: []string{"99999999999999999999999999"}},
	} {
		t.Run(string(fault), func(t *testing.T) {
			resp := get(t, fault)
			got := answer{resp.StatusCode, resp.Header.Get("Location"), resp.Header["Retry-After"], len(resp.Cookies()), resp.Header.Get("X-Name")}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A script mixes faults with answers: a fault of a connection takes its turn like any
// other, also where the client would have kept the one before.
func TestHostileScript(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		for _, fault := range []callhooktest.Fault{callhooktest.FaultHangUp, callhooktest.FaultExpiredCertificate, callhooktest.FaultHTTP2Reset} {
			t.Run(fmt.Sprint(fault, ", http2: ", http2), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					good := callhooktest.Reply(200, `{"variables":{"customer_name":"Ada"}}`)
					crm := callhooktest.NewEndpoint(t, good, callhooktest.Answer{Fault: fault}, callhooktest.Answer{Fault: fault}, good)
					crm.HTTP2 = http2
					hooks := callhooktest.NewHooks(t, callhook.Options{Configs: reception(t, "https://crm.example.com", "https://n8n.example.com"), Secrets: secrets},
						callhooktest.Network{"crm.example.com": crm})
					var got []callhook.Outcome
					for range 3 {
						got = append(got, hooks.PreCall(t.Context(), inbound()).Outcome)
						synctest.Wait() // until the client has heard that the connection is closed
					}
					want := []callhook.Outcome{callhook.OutcomeApplied, callhook.OutcomeFailed, callhook.OutcomeApplied}
					if fault == callhooktest.FaultHTTP2Reset { // its connection is kept, and nothing else is asked
						want[2] = callhook.OutcomeFailed
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("(-want +got):\n%s", diff)
					}
				})
			})
		}
	}
}

// failing is a test that may fail.
type failing struct {
	testing.TB
	errors []string
}

func (f *failing) Errorf(format string, args ...any) {
	f.errors = append(f.errors, fmt.Sprintf(format, args...))
}

func TestHostileMisspelt(t *testing.T) {
	tests := map[string]struct {
		fault callhooktest.Fault
		http2 bool
		want  string
	}{
		"no such fault":             {"drips its haeders", false, `there is no fault "drips its haeders": Hostile has all of them`},
		"HTTP/1.1's over HTTP/2":    {callhooktest.FaultDripHeaders, true, "leave Endpoint.HTTP2 out"},
		"the answer's over HTTP/2":  {callhooktest.FaultCookies, true, ""},
		"the connection's over any": {callhooktest.FaultHangUp, true, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &failing{TB: t}
				crm := callhooktest.NewEndpoint(f, callhooktest.Answer{Fault: test.fault})
				crm.HTTP2 = test.http2
				hooks := callhooktest.NewHooks(t, callhook.Options{Configs: reception(t, "https://crm.example.com", "https://n8n.example.com"), Secrets: secrets},
					callhooktest.Network{"crm.example.com": crm})
				hooks.PreCall(t.Context(), inbound())
				hooks.End()
				if got := strings.Join(f.errors, "\n"); !strings.Contains(got, test.want) || (got == "") != (test.want == "") {
					t.Errorf("the test is told %q, want %q", got, test.want)
				}
			})
		})
	}
}

// passes runs a test as go test does, which says nothing unless it fails.
func passes(test func(*testing.T)) bool {
	verbose := flag.Lookup("test.v").Value.String()
	defer flag.Set("test.v", verbose)
	if err := flag.Set("test.v", "false"); err != nil {
		panic(err)
	}
	return testing.RunTests(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{{Name: "Test", F: test}})
}

func TestHostileNames(t *testing.T) {
	names := callhooktest.Hostile()
	for i, name := range names {
		if name == "" || slices.Contains(names[:i], name) {
			t.Errorf("%q stands there twice", name)
		}
	}
}
