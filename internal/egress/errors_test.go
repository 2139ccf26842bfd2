package egress_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/callhook-go/callhook/internal/egress"
	"github.com/google/go-cmp/cmp"
)

// resetting accepts connections, reads a request and answers with a reset.
func resetting(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { ln.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn.Read(make([]byte, 4096))
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	}()
	return "http://" + ln.Addr().String()
}

// withCert starts TLS with a certificate of its own for 127.0.0.1, valid between two moments.
func withCert(from, to time.Time) func(*httptest.Server) {
	return func(s *httptest.Server) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: to, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			IsCA: true, BasicConstraintsValid: true,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		if err != nil {
			panic(err)
		}
		s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
		s.StartTLS()
	}
}

func TestErrorsOfRealExchanges(t *testing.T) {
	now := time.Now()
	secure := newServer(t, hello, http1TLS)
	expired := newServer(t, hello, withCert(now.Add(-48*time.Hour), now.Add(-24*time.Hour)))
	early := newServer(t, hello, withCert(now.Add(24*time.Hour), now.Add(48*time.Hour)))
	tls11 := newServer(t, hello, func(s *httptest.Server) {
		s.TLS = &tls.Config{MinVersion: tls.VersionTLS11, MaxVersion: tls.VersionTLS11}
		s.StartTLS()
	})
	slow := newServer(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, plain)
	roots := secure.roots()
	roots.AddCert(expired.Certificate())
	roots.AddCert(early.Certificate())
	names := map[string]string{"other.test": "127.0.0.1", "rebound.test": "10.0.0.1", "broken.test": ""}
	guarded := egress.Options{AllowNets: loopback, RootCAs: roots, Resolver: dns(t, names)}
	slowDNS := guarded
	slowDNS.Resolver = dns(t, nil)
	dialFails := func(err error) egress.Options {
		return egress.Options{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, err }}
	}
	op := func(errno syscall.Errno) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", errno)}
	}

	tests := map[string]struct {
		options egress.Options
		url     string
		timeout time.Duration // zero: a minute; negative: cancelled before
		connect bool
		want    string
	}{
		"refused":             {options: guarded, url: "http://" + refusing(t), connect: true, want: "connection refused"},
		"refused, TLS":        {options: guarded, url: "https://" + refusing(t), connect: true, want: "connection refused"},
		"no such host":        {options: guarded, url: "http://nobody.test/?token=s3cret", connect: true, want: "no such host nobody.test"},
		"DNS broken":          {options: guarded, url: "http://broken.test", connect: true, want: "DNS lookup failed for broken.test"},
		"DNS silent":          {options: slowDNS, url: "http://slow.test", timeout: 30 * time.Millisecond, want: "timed out"},
		"blocked":             {options: guarded, url: "http://10.0.0.1", connect: true, want: "address 10.0.0.1 is blocked"},
		"blocked after DNS":   {options: guarded, url: "http://rebound.test", connect: true, want: "address 10.0.0.1 is blocked"},
		"host unreachable":    {options: dialFails(op(syscall.EHOSTUNREACH)), url: "http://crm.test", connect: true, want: "host unreachable"},
		"network unreachable": {options: dialFails(op(syscall.ENETUNREACH)), url: "https://crm.test", connect: true, want: "network unreachable"},
		"connect times out":   {options: dialFails(op(syscall.ETIMEDOUT)), url: "http://crm.test", want: "timed out"},
		"tunnel fails":        {options: dialFails(errors.New("tunnel down: key=s3cret")), url: "http://crm.test", connect: true, want: "connecting failed"},
		"tunnel gives nil":    {options: dialFails(nil), url: "https://crm.test", connect: true, want: "connecting failed"},
		"reset":               {options: guarded, url: resetting(t), want: "connection reset"},
		"no answer in time":   {options: guarded, url: slow.URL, timeout: 30 * time.Millisecond, want: "timed out"},
		"cancelled":           {options: guarded, url: slow.URL, timeout: -1, want: "canceled"},
		"unknown authority":   {options: egress.Options{AllowNets: loopback}, url: secure.URL, connect: true, want: "TLS: certificate signed by unknown authority"},
		"wrong host":          {options: guarded, url: secure.named("other.test"), connect: true, want: "TLS: certificate is for another host"},
		"expired":             {options: guarded, url: expired.URL, connect: true, want: "TLS: certificate has expired"},
		"not yet valid":       {options: guarded, url: early.URL, connect: true, want: "TLS: certificate is not yet valid"},
		"TLS 1.1":             {options: guarded, url: tls11.URL, connect: true, want: "TLS: the endpoint said: protocol version not supported"},
		"https to http":       {options: guarded, url: "https" + slow.URL[len("http"):], connect: true, want: "TLS: the endpoint answered in plain HTTP"},
		"not a web address":   {options: guarded, url: "ftp://127.0.0.1/s3cret", want: "request failed"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, test.options)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if test.timeout > 0 {
				ctx, cancel = context.WithTimeout(ctx, test.timeout)
				defer cancel()
			} else if test.timeout < 0 {
				cancel()
			}
			req, err := http.NewRequestWithContext(ctx, "GET", test.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Do(req)
			if diff := cmp.Diff(test.want, egress.Describe(err)); diff != "" {
				t.Errorf("Describe(%v) (-want +got):\n%s", err, diff)
			}
			// What http.Client and fmt put around an error changes nothing.
			for _, err := range []error{err, &url.Error{Op: "Get", URL: test.url, Err: err}, fmt.Errorf("attempt 3: %w", err)} {
				if got := egress.IsConnectError(err); got != test.connect {
					t.Errorf("IsConnectError(%v) = %v", err, got)
				}
				if got := egress.Describe(err); got != test.want {
					t.Errorf("Describe(%v) = %q", err, got)
				}
			}
			if timedOut := test.want == "timed out" && test.timeout > 0; timedOut && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v is not context.DeadlineExceeded", err)
			}
		})
	}
}

func TestErrorsFromElsewhere(t *testing.T) {
	tests := map[string]struct {
		err     error
		connect bool
		want    string
	}{
		"nil":            {nil, false, ""},
		"of a dialler":   {&net.OpError{Op: "dial", Net: "tcp", Err: errors.New("odd")}, true, "request failed"},
		"of a resolver":  {&net.DNSError{Name: "crm\x1b[31m.test", IsNotFound: true}, true, "no such host crm[31m.test"},
		"DNS timeout":    {&net.DNSError{Name: "crm.test", IsTimeout: true}, false, "timed out"},
		"blocked":        {&egress.BlockedError{Addr: "::1"}, true, "address ::1 is blocked"},
		"broken pipe":    {&net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.EPIPE)}, false, "connection reset"},
		"deadline":       {os.ErrDeadlineExceeded, false, "timed out"},
		"lookalike":      {errors.New(`malformed HTTP response "http: server closed idle connection"`), false, "malformed HTTP response"},
		"GOAWAY":         {errors.New(`http2: server sent GOAWAY and closed the connection; debug="s3cret"`), false, "HTTP/2 error"},
		"bad TLS":        {errors.New("tls: failed to parse certificate from server: x509: s3cret"), false, "TLS: failed to parse certificate from server"},
		"garbled record": {tls.RecordHeaderError{Msg: "s3cret"}, false, "TLS: the endpoint does not speak TLS"},
		"anything":       {errors.New("https://crm.test/?token=s3cret"), false, "request failed"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, egress.Describe(test.err)); diff != "" {
				t.Errorf("Describe (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.connect, egress.IsConnectError(test.err)); diff != "" {
				t.Errorf("IsConnectError (-want +got):\n%s", diff)
			}
		})
	}
}
