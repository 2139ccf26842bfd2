package egress

import (
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
)

// IsConnectError reports whether the exchange failed while resolving, connecting or in the TLS handshake, or on a pooled
// connection that the endpoint had closed before the request was sent: nothing can have been processed, so that sending it again
// at once is safe even where a repetition would do harm. A [*BlockedError] is one too; trying that again is safe but idle.
//
// It is false for timeouts and ended contexts in any phase, because no time is left to use the answer, and for everything
// that happens to a connection after the request was written.
func IsConnectError(err error) bool {
	if err == nil || isTimeout(err) || errors.Is(err, context.Canceled) {
		return false
	}
	if is[*connectError](err) || is[*aheadError](err) || is[*BlockedError](err) || is[*net.DNSError](err) {
		return true
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return true
	}
	return closedIdle(err)
}

// Describe says in a few words what went wrong in an exchange: "connection refused", "no such host crm.example.com", "TLS:
// certificate has expired". The text is for logs and records of attempts: it has no URL, path or query, nothing that the endpoint
// sent, and of the request at most the host's name or address. Nil gives "".
func Describe(err error) string {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*BlockedError](err); ok {
		return e.Error()
	}
	if errors.Is(err, context.Canceled) {
		return "canceled"
	}
	if isTimeout(err) {
		return "timed out"
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		if e.IsNotFound {
			return clean("no such host " + e.Name)
		}
		return clean("DNS lookup failed for " + e.Name)
	}
	for _, e := range errnoTexts {
		if errors.Is(err, e.errno) {
			return e.text
		}
	}
	if text := describeTLS(err); text != "" {
		return "TLS: " + text
	}
	handshake := is[*connectError](err)
	switch {
	case errors.Is(err, errFlood), errors.Is(err, errDials):
		if errors.Is(err, errFlood) {
			return errFlood.Error()
		}
		return errDials.Error()
	case errors.Is(err, errUpgrade):
		return "unexpected protocol switch"
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), is[flate.CorruptInputError](err):
		return "malformed gzip in the response"
	case is[*aheadError](err):
		return "connection closed before it was used"
	case handshake && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)):
		return "connection closed during the TLS handshake"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed in the middle of the response"
	case errors.Is(err, io.EOF):
		return "connection closed without a response"
	case closedIdle(err), errors.Is(err, net.ErrClosed):
		return "connection closed"
	case has(err, "response headers exceeded"), has(err, "header list larger"), has(err, "header list too large"):
		return "response headers too large"
	case has(err, "malformed"), has(err, "Content-Length"), has(err, "chunk"), errors.Is(err, http.ErrLineTooLong):
		return "malformed HTTP response"
	case has(err, "http2: "), has(err, "stream error: "), has(err, "connection error: "):
		return "HTTP/2 error"
	case handshake:
		return "connecting failed"
	}
	return "request failed"
}

var errnoTexts = []struct {
	errno error
	text  string
}{
	{syscall.ECONNREFUSED, "connection refused"},
	{syscall.ECONNRESET, "connection reset"},
	{syscall.EPIPE, "connection reset"},
	{syscall.EHOSTUNREACH, "host unreachable"},
	{syscall.ENETUNREACH, "network unreachable"},
	{syscall.EADDRNOTAVAIL, "no local address or port available"},
	{syscall.EMFILE, "too many open files"},
}

func describeTLS(err error) string {
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		switch {
		case e.Reason != x509.Expired:
			return "certificate is invalid"
		case e.Cert != nil && time.Now().Before(e.Cert.NotBefore):
			return "certificate is not yet valid"
		}
		return "certificate has expired"
	}
	if e, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		if string(e.RecordHeader[:]) == "HTTP/" {
			return "the endpoint answered in plain HTTP"
		}
		return "the endpoint does not speak TLS"
	}
	switch {
	case is[x509.HostnameError](err):
		return "certificate is for another host"
	case is[x509.UnknownAuthorityError](err):
		return "certificate signed by unknown authority"
	case is[*tls.CertificateVerificationError](err):
		return "certificate is not trusted"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return clean("the endpoint said: " + strings.TrimPrefix(op.Err.Error(), "tls: ")) // one of the alerts of RFC 8446
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		if text, ok := strings.CutPrefix(e.Error(), "tls: "); ok {
			text, _, _ = strings.Cut(text, ":") // what crypto/tls says is fixed, what follows a colon may be the endpoint's
			return clean(text)
		}
	}
	return ""
}

// closedIdle recognises an error that net/http keeps to itself: it met the end of a pooled connection before it had begun to
// write the request. The whole text is compared, since an endpoint can put words into other errors.
func closedIdle(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if err.Error() == "http: server closed idle connection" {
			return true
		}
	}
	return false
}

func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	for ; err != nil; err = errors.Unwrap(err) { // a *url.Error asks only the error directly inside it
		if e, ok := err.(net.Error); ok && e.Timeout() {
			return true
		}
	}
	return false
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// has is good enough to choose a word for the log, and for nothing else.
func has(err error, text string) bool { return strings.Contains(err.Error(), text) }

// clean keeps a text to one short line.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	return s[:min(len(s), 300)]
}
