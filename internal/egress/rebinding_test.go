package egress_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/callhook-go/callhook/internal/egress"
	"github.com/google/go-cmp/cmp"
)

// forbidden is a listener that is to see no connection.
type forbidden struct {
	net.Listener
	port string
}

func forbid(t *testing.T) forbidden {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newForbidden(t, ln)
}

// newForbidden checks at the end of the test that nobody has connected: the first connection accepted has to be one of its own.
func newForbidden(t *testing.T, ln net.Listener) forbidden {
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	t.Cleanup(func() {
		defer ln.Close()
		own, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		defer own.Close()
		seen, err := ln.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer seen.Close()
		if diff := cmp.Diff(own.LocalAddr().String(), seen.RemoteAddr().String()); diff != "" {
			t.Errorf("first connection accepted at %s (-want +got):\n%s", ln.Addr(), diff)
		}
	})
	return forbidden{ln, port}
}

// neighbours are a server at 127.0.0.2, which stands for the public internet, and forbidden listeners with its port at 127.0.0.1
// and, where there is IPv6, ::1.
func neighbours(t *testing.T) (open *server, port string) {
	t.Helper()
	var err error
	for range 50 {
		var public, private, private6 net.Listener
		if public, err = net.Listen("tcp", "127.0.0.2:0"); err != nil {
			break // not on Linux, where all of 127.0.0.0/8 is loopback
		}
		_, port, _ = net.SplitHostPort(public.Addr().String())
		if private, err = net.Listen("tcp", "127.0.0.1:"+port); err != nil {
			public.Close() // taken by somebody else
			continue
		}
		if private6, err = net.Listen("tcp", "[::1]:"+port); err != nil && haveIPv6() {
			public.Close()
			private.Close()
			continue
		}
		newForbidden(t, private)
		if private6 != nil {
			newForbidden(t, private6)
		}
		return newServer(t, hello, func(s *httptest.Server) { s.Listener.Close(); s.Listener = public; s.Start() }), port
	}
	t.Skipf("127.0.0.2 is no address of this machine: %v", err)
	return nil, ""
}

func haveIPv6() bool {
	ln, err := net.Listen("tcp6", "[::1]:0")
	if err == nil {
		ln.Close()
	}
	return err == nil
}

func always(records ...string) answers { return func(string, int) []string { return records } }

func TestLoopbackIsNotEvenConnectedTo(t *testing.T) {
	ln := forbid(t)
	c := newClient(t, egress.Options{Resolver: newNameServer(t, always("A 127.0.0.1")).Resolver})
	for host, want := range map[string]*egress.BlockedError{
		"127.0.0.1":    {Addr: "127.0.0.1", Literal: true},
		"rebound.test": {Addr: "127.0.0.1"},
	} {
		for _, scheme := range []string{"http", "https"} {
			_, err := do(t, c, scheme+"://"+net.JoinHostPort(host, ln.port))
			got, _ := errors.AsType[*egress.BlockedError](err)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s %s: %v (-want +got):\n%s", scheme, host, err, diff)
			}
		}
	}
}

// TestSpellings writes 127.0.0.1 and its name in all ways that somebody understands. The name server answers like the most willing of
// them: whatever it is asked for is 127.0.0.1. Numbers alone are nothing that Go asks for; see TestSpellingsForTheSystem.
func TestSpellings(t *testing.T) {
	const (
		literal   = "blocked for good"                      // Do and CheckHost know that it is an address
		prepared  = "blocked for good, unseen by CheckHost" // net/http maps what DNS does not have, as in UTS #46
		name      = "blocked after DNS"
		number    = "no such host"
		malformed = "not a URL" // nobody gets to see it
	)
	tests := map[string]string{
		"127.0.0.1":               literal,
		"127.0.0.1.":              literal,
		"user:secret@127.0.0.1":   literal,
		"crm.example@127.0.0.1":   literal,
		"127.0.0.1:80@crm.test":   name,
		"[::ffff:127.0.0.1]":      literal,
		"[::ffff:7f00:1%25lo]":    literal,
		"[0:0:0:0:0:FFFF:7F00:1]": literal,

		"2130706433":      number,
		"127.1":           number,
		"127.0.1":         number,
		"017700000001":    number,
		"0177.0.0.1":      number,
		"0177.0.0.01":     number,
		"127.000.000.001": number,
		"0x7f.0.0.1":      name,
		"0x7F.1":          name,
		"0x7f000001":      name,
		"0X7F000001":      name,
		"127.0.0.1.test":  name,
		"127-0-0-1.test":  name,

		"①②⑦.⓪.⓪.①":          prepared,
		"１２７.０.０.１":          prepared,
		"１２７．０．０．１":          prepared,
		"127。0。0。1":          prepared,
		"127｡0｡0｡1":          prepared,
		"𝟏𝟐𝟕.𝟎.𝟎.𝟏":          prepared,
		"¹²⁷.⁰.⁰.¹":          prepared,
		"₁₂₇.₀.₀.₁":          prepared,
		"12\u00ad7.0.0.1":    prepared,
		"127.0.0.1\u200b":    prepared,
		"%E2%91%A0②⑦.0.0.1":  prepared,
		"①②⑦.1":              number,
		"②①③⓪⑦⓪⑥④③③":         number,
		"bücher.test":        name,
		"xn--bcher-kva.test": name,
		"BÜCHER.test":        name,
		"ⓡⓔⓑⓞⓤⓝⓓ.test":       name,
		"REBOUND.TEST":       name,
		"rebound.test.":      name,

		"%31%32%37.0.0.1":     malformed,
		"127%2e0.0.1":         malformed,
		"127.0.0.1%00":        malformed,
		"127.0.0.1%20":        malformed,
		"127.0.0.1%2f.test":   malformed,
		"127.0.0.1 ":          malformed,
		`127.0.0.1\@crm.test`: malformed,
		"[127.0.0.1]":         malformed,
		"[::1":                malformed,
		"::1":                 malformed,
		"[fe80::1%eth0]":      malformed,
		"[::ffff:127.0.0.1]x": malformed,
	}
	ln := forbid(t)
	c := newClient(t, egress.Options{Resolver: newNameServer(t, always("A 127.0.0.1")).Resolver})
	got := map[string]string{}
	for host := range tests {
		u, err := url.Parse("http://" + host + ":" + ln.port + "/")
		if err != nil {
			got[host] = malformed
			continue
		}
		_, err = do(t, c, u.String())
		e, ok := errors.AsType[*egress.BlockedError](err)
		early := c.CheckHost(u.Hostname()) != nil
		switch {
		case !ok || e.Addr != "127.0.0.1":
			if got[host] = egress.Describe(err); strings.HasPrefix(got[host], number) {
				got[host] = number
			}
		case e.Literal && early:
			got[host] = literal
		case e.Literal:
			got[host] = prepared
		case !early:
			got[host] = name
		}
		if early != (c.CheckURL(u) != nil) {
			t.Errorf("%s: CheckHost and CheckURL disagree", host)
		}
	}
	if diff := cmp.Diff(tests, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestSpellingsForTheSystem: the C library reads all that inet_aton does (POSIX) as an address, so that only the judgement of what is
// really dialled helps.
func TestSpellingsForTheSystem(t *testing.T) {
	hosts := []string{
		"2130706433", "127.1", "127.0.1", "017700000001", "0177.0.0.1", "127.000.000.001", "0x7f.0.0.1", "0x7f.1", "0x7f000001", "①②⑦.1",
	}
	if port := os.Getenv("EGRESS_SPELLINGS_PORT"); port != "" { // in the process below
		c := newClient(t, egress.Options{})
		for _, host := range hosts {
			_, err := do(t, c, "http://"+host+":"+port)
			fmt.Println("said: " + egress.Describe(err))
			if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
				break // Go's resolver, which does not read it and would ask a real name server about others
			}
		}
		return
	}
	ln := forbid(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSpellingsForTheSystem$")
	cmd.Env = append(os.Environ(), "EGRESS_SPELLINGS_PORT="+ln.port, "GODEBUG=netdns=cgo")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := map[string]int{}
	for line := range strings.Lines(string(out)) {
		if text, ok := strings.CutPrefix(line, "said: "); ok {
			got[strings.TrimSpace(text)]++
		}
	}
	if got["no such host 2130706433"] > 0 {
		t.Skip("built without cgo")
	}
	if diff := cmp.Diff(map[string]int{"address 127.0.0.1 is blocked": len(hosts)}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestRebinding: a name that is public when it is asked for first and private later. Each dial asks once and judges what it dials.
func TestRebinding(t *testing.T) {
	open, _ := neighbours(t)
	moves := func(_ string, asked int) []string {
		if asked == 0 {
			return []string{"A 127.0.0.2"}
		}
		return []string{"A 127.0.0.1"}
	}
	ns := newNameServer(t, moves)
	c := newClient(t, egress.Options{AllowNets: prefixes("127.0.0.2/32"), Resolver: ns.Resolver})
	want := &egress.BlockedError{Addr: "127.0.0.1"}

	if diff := cmp.Diff("200 OK hello", fetch(t, c, open.named("rebound.test"))); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	// The connection that was judged is used again, and no name is looked up for it.
	if diff := cmp.Diff("200 OK hello", fetch(t, c, open.named("rebound.test"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	c.CloseIdle()
	for range 2 {
		_, err := do(t, c, open.named("rebound.test"))
		got, _ := errors.AsType[*egress.BlockedError](err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Do: %v (-want +got):\n%s", err, diff)
		}
	}
	u, _ := url.Parse(open.named("rebound.test"))
	got, _ := errors.AsType[*egress.BlockedError](c.Connect(t.Context(), u))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Connect (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{"rebound.test A": 4, "rebound.test AAAA": 4}, ns.questions()); diff != "" {
		t.Errorf("questions (-want +got):\n%s", diff)
	}
}

func TestNamesWithSeveralAddresses(t *testing.T) {
	open, port := neighbours(t)
	reached := "127.0.0.2:" + port
	blocked := func(addr string) string { return "address " + addr + " is blocked" }
	tests := map[string]struct {
		records []string
		want    string
		ipv6    bool
	}{
		"the private one first":      {records: []string{"A 127.0.0.1", "A 127.0.0.2"}, want: reached},
		"the private one last":       {records: []string{"A 127.0.0.2", "A 127.0.0.1"}, want: reached},
		"many private ones":          {records: []string{"A 10.0.0.1", "A 127.0.0.1", "A 169.254.169.254", "A 127.0.0.2", "A 192.168.0.1"}, want: reached},
		"only private ones":          {records: []string{"A 127.0.0.1", "A 127.0.0.3"}, want: blocked("127.0.0.1")},
		"a private IPv6 one":         {records: []string{"AAAA ::1", "A 127.0.0.2"}, want: reached},
		"only an IPv6 one":           {records: []string{"AAAA ::1"}, want: blocked("::1"), ipv6: true},
		"a mapped one":               {records: []string{"AAAA ::ffff:127.0.0.1"}, want: blocked("127.0.0.1")},
		"a mapped one that is open":  {records: []string{"AAAA ::ffff:127.0.0.2"}, want: reached},
		"a mapped one and an open":   {records: []string{"AAAA ::ffff:127.0.0.1", "A 127.0.0.2"}, want: reached},
		"compatible":                 {records: []string{"AAAA ::127.0.0.1"}, want: blocked("::7f00:1"), ipv6: true},
		"NAT64":                      {records: []string{"AAAA 64:ff9b::127.0.0.1"}, want: blocked("64:ff9b::7f00:1"), ipv6: true},
		"6to4":                       {records: []string{"AAAA 2002:7f00:1::"}, want: blocked("2002:7f00:1::"), ipv6: true},
		"link-local":                 {records: []string{"AAAA fe80::1"}, want: blocked("fe80::1"), ipv6: true},
		"unspecified":                {records: []string{"A 0.0.0.0"}, want: blocked("0.0.0.0")},
		"an alias of localhost":      {records: []string{"CNAME localhost", "A 127.0.0.1"}, want: blocked("127.0.0.1")},
		"aliases":                    {records: []string{"CNAME public.test", "CNAME localhost", "A 127.0.0.1"}, want: blocked("127.0.0.1")},
		"an alias of the open one":   {records: []string{"CNAME public.test", "A 127.0.0.2"}, want: reached},
		"an alias without addresses": {records: []string{"CNAME localhost"}, want: "no such host several.test"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.ipv6 && !haveIPv6() {
				t.Skip("no IPv6 on this machine")
			}
			c := newClient(t, egress.Options{AllowNets: prefixes("127.0.0.2/32"), Resolver: newNameServer(t, always(test.records...)).Resolver})
			for _, scheme := range []string{"http", "https"} { // the server does not speak TLS, and is reached nevertheless
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				req, err := http.NewRequestWithContext(ctx, "GET", strings.Replace(open.named("several.test"), "http", scheme, 1), nil)
				if err != nil {
					t.Fatal(err)
				}
				var timing egress.Timing
				resp, err := c.DoTimed(req, &timing)
				got := timing.Remote
				switch {
				case err == nil:
					egress.Drain(resp)
				case scheme == "http" || test.want != reached:
					got = egress.Describe(err)
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", scheme, diff)
				}
			}
		})
	}
}

func TestAllowNetsIsJudgedAfterDNS(t *testing.T) {
	s := newServer(t, hello, plain)
	resolver := newNameServer(t, func(name string, _ int) []string {
		return map[string][]string{"inside.test": {"A 127.0.0.1"}, "beside.test": {"A 127.0.0.2"}}[name]
	}).Resolver
	c := newClient(t, egress.Options{AllowNets: prefixes("127.0.0.1/32"), Resolver: resolver})
	got := map[string]string{}
	for _, name := range []string{"127.0.0.1", "inside.test", "beside.test"} {
		got[name] = fetch(t, c, s.named(name))
	}
	want := map[string]string{
		"127.0.0.1":   "200 OK hello",
		"inside.test": "200 OK hello",
		"beside.test": "address 127.0.0.2 is blocked",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestBlockedPorts: neither DNS is asked nor a dialler called for a port that may not be used.
func TestBlockedPorts(t *testing.T) {
	ln := forbid(t)
	s := newServer(t, hello, plain)
	at, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, _ := net.LookupPort("tcp", at.Port())
	ns := newNameServer(t, always("A 127.0.0.1"))
	guarded := egress.Options{AllowNets: loopback, Resolver: ns.Resolver, Ports: []uint16{uint16(port)}}
	dialler := egress.Options{Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
		t.Errorf("%s was dialled", addr)
		return nil, errors.New("dialled")
	}}
	tests := map[string]struct {
		options egress.Options
		url     string
		want    string
	}{
		"a name at another port":      {guarded, "http://crm.test:" + ln.port, "port " + ln.port + " is blocked"},
		"an address at another port":  {guarded, "https://127.0.0.1:" + ln.port, "port " + ln.port + " is blocked"},
		"the scheme's port":           {guarded, "https://crm.test", "port 443 is blocked"},
		"mail":                        {egress.Options{Resolver: ns.Resolver}, "http://crm.test:25", "port 25 is blocked"},
		"mail at an address":          {egress.Options{AllowNets: loopback}, "http://127.0.0.1:25", "port 25 is blocked"},
		"mail at a private address":   {egress.Options{}, "http://127.0.0.1:25", "address 127.0.0.1 is blocked"},
		"mail through a dialler":      {dialler, "http://127.0.0.1:25", "port 25 is blocked"},
		"mail through a dialler, TLS": {dialler, "https://crm.test:465", "port 465 is blocked"},
		"no port at all":              {egress.Options{AllowNets: loopback}, "http://127.0.0.1:0", "port 0 is blocked"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, test.options)
			_, err := do(t, c, test.url)
			if diff := cmp.Diff(test.want, egress.Describe(err)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			e, ok := errors.AsType[*egress.BlockedError](err)
			if !ok || !e.Literal || !egress.IsConnectError(err) {
				t.Errorf("%#v, IsConnectError = %v; want a literal BlockedError and true", err, egress.IsConnectError(err))
			}
			if _, err := do(t, c.Fresh(), test.url); egress.Describe(err) != test.want {
				t.Errorf("Fresh: %v", err)
			}
		})
	}
	if diff := cmp.Diff(map[string]int{}, ns.questions()); diff != "" {
		t.Errorf("questions (-want +got):\n%s", diff)
	}
	c := newClient(t, guarded)
	guarded.Ports[0]++ // no business of the Client's any more
	if diff := cmp.Diff("200 OK hello", fetch(t, c, s.named("crm.test"))); diff != "" {
		t.Errorf("the port that is allowed (-want +got):\n%s", diff)
	}
}

// TestDialIsJudgedAtTheSocket: what is judged before DNS saves a question, and nothing depends on it.
func TestDialIsJudgedAtTheSocket(t *testing.T) {
	ln := forbid(t)
	ns := newNameServer(t, always("A 127.0.0.1"))
	tests := map[string]struct {
		options egress.Options
		addr    string
		want    string
	}{
		"an address":        {egress.Options{}, "127.0.0.1:" + ln.port, "address 127.0.0.1 is blocked"},
		"a name":            {egress.Options{Resolver: ns.Resolver}, "crm.test:" + ln.port, "address 127.0.0.1 is blocked"},
		"a port":            {egress.Options{AllowNets: loopback, Ports: []uint16{443}}, "127.0.0.1:" + ln.port, "port " + ln.port + " is blocked"},
		"a port by name":    {egress.Options{AllowNets: loopback}, "127.0.0.1:smtp", "port 25 is blocked"},
		"a name and a port": {egress.Options{AllowNets: loopback, Resolver: ns.Resolver}, "crm.test:25", "port 25 is blocked"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := egress.DialUnprepared(t.Context(), test.options, test.addr)
			if diff := cmp.Diff(test.want, egress.Describe(err)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
