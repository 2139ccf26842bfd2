package callhooktest

import (
	"net"
	"net/http"
	"slices"
	"sync"
)

// Fault is a way in which an endpoint misbehaves, for [Answer].Fault. It is named by
// what is wrong with the endpoint; [Hostile] has them all, in the order in which an
// exchange would meet them. Use an https URL: at an http one those of TLS and HTTP/2
// are no more than connections that end or stall.
type Fault string

// Faults of a connection. It suffers them before a request is read, which is
// therefore not recorded. A connection takes one answer of the script, and keeps its
// fault until it is closed.
const (
	// FaultHangUp closes the connection as soon as it is made.
	FaultHangUp Fault = "hangs up at once"
	// FaultReset is the same with a reset.
	FaultReset Fault = "resets the connection at once"
	// FaultNeverReads takes nothing off the connection and says nothing.
	FaultNeverReads Fault = "never reads"
	// FaultBanner greets like a mail server, and speaks neither TLS nor HTTP.
	FaultBanner Fault = "greets like a mail server"
	// FaultPlainHTTP answers a TLS handshake with a status 400 in plain HTTP.
	FaultPlainHTTP Fault = "plain HTTP where TLS should be"
)

// Faults of the TLS handshake.
const (
	// FaultNoAnswerToTLS reads the client's hello and never answers it.
	FaultNoAnswerToTLS Fault = "TLS that stalls"
	// FaultDripTLS answers it a byte at a time, for ever.
	FaultDripTLS Fault = "drips its TLS handshake"
	// FaultHangUpInTLS and FaultResetInTLS end the connection after the hello.
	FaultHangUpInTLS Fault = "hangs up in the TLS handshake"
	FaultResetInTLS  Fault = "resets the connection in the TLS handshake"
	// FaultExpiredCertificate shows a certificate that was valid in 1990.
	FaultExpiredCertificate Fault = "an expired certificate"
	// FaultUnknownAuthority shows one of an authority that [RootCAs] does not have.
	FaultUnknownAuthority Fault = "a certificate that nobody vouches for"
	// FaultSelfSigned shows one that vouches for itself.
	FaultSelfSigned Fault = "a self-signed certificate"
	// FaultWrongHost shows a good one, for another host.
	FaultWrongHost Fault = "a certificate of another host"
)

// Faults of HTTP/2 itself (RFC 9113), which the endpoint offers for them whatever
// [Endpoint].HTTP2 says. They are of a connection too, whose requests are not
// recorded. Floods begin with a request, and pause for 10 ms after each 100 frames, so that the clock
// of a bubble goes on.
const (
	// FaultHTTP2Reset answers each request with RST_STREAM, INTERNAL_ERROR.
	FaultHTTP2Reset Fault = "HTTP/2 that resets every stream"
	// FaultHTTP2Refuse does it with REFUSED_STREAM, which invites to try again.
	FaultHTTP2Refuse Fault = "HTTP/2 that refuses every stream"
	// FaultHTTP2GoAway says GOAWAY before any request, and that it processes none. It and
	// the next take 50 ms over it: net/http makes another connection at once, for as
	// long as the request has time, and in a bubble that would take no time at all.
	FaultHTTP2GoAway Fault = "HTTP/2 that says GOAWAY at once"
	// FaultHTTP2GoAwayAfter says it after a request, which it says it has not
	// processed, and hangs up.
	FaultHTTP2GoAwayAfter Fault = "HTTP/2 that says GOAWAY instead of answering"
	// FaultHTTP2CalmDown says GOAWAY, ENHANCE_YOUR_CALM after a request, which it says
	// it may have processed, and hangs up.
	FaultHTTP2CalmDown Fault = "HTTP/2 that says ENHANCE_YOUR_CALM"
	// FaultHTTP2Hang reads requests and pings, and answers neither.
	FaultHTTP2Hang Fault = "HTTP/2 that never answers"
	// FaultHTTP2NeverReads stops reading after the client's preface.
	FaultHTTP2NeverReads Fault = "HTTP/2 that stops reading"
	// FaultHTTP2Settings and FaultHTTP2Pings send endless frames, each of which the
	// client has to acknowledge.
	FaultHTTP2Settings Fault = "HTTP/2 with endless SETTINGS"
	FaultHTTP2Pings    Fault = "HTTP/2 with endless PINGs"
	// FaultHTTP2Headers begins an answer whose headers go on in CONTINUATION frames for
	// ever.
	FaultHTTP2Headers Fault = "HTTP/2 with headers that never end"
	// FaultHTTP2Early answers with 103 Early Hints for ever.
	FaultHTTP2Early Fault = "HTTP/2 with endless 1xx"
	// FaultHTTP2EmptyData answers 200 and sends empty DATA frames for ever.
	FaultHTTP2EmptyData Fault = "HTTP/2 with endless empty DATA"
	// FaultHTTP2HugeFrame announces a frame of 16 MiB, a thousand times what is allowed.
	FaultHTTP2HugeFrame Fault = "HTTP/2 with a frame of 16 MiB"
)

// Faults of an answer, after the request was read and recorded. Those down to
// FaultHangUpInBody need HTTP/1.1.
const (
	// FaultHang never answers, and keeps the connection open.
	FaultHang Fault = "never answers"
	// FaultHangUpAfter and FaultResetAfter end the connection.
	FaultHangUpAfter Fault = "hangs up instead of answering"
	FaultResetAfter  Fault = "resets the connection instead of answering"

	// FaultDripHeaders sends its status, and then a header a byte at a time, for ever.
	FaultDripHeaders Fault = "drips its headers"
	// FaultHangUpInHeaders and FaultResetInHeaders end the connection in a header, the
	// latter 50 ms after its beginning was sent.
	FaultHangUpInHeaders Fault = "hangs up in its headers"
	FaultResetInHeaders  Fault = "resets the connection in its headers"
	// FaultManyHeaders sends 10 MB of headers, and FaultLongHeader a single one.
	FaultManyHeaders Fault = "10 MB of headers"
	FaultLongHeader  Fault = "a header of 10 MB"
	// FaultEarlyHints sends 103 Early Hints for ever.
	FaultEarlyHints Fault = "endless 1xx"
	// FaultSwitchProtocols answers 101 unasked.
	FaultSwitchProtocols Fault = "switches protocols"
	// FaultNegativeLength, FaultTwoLengths, FaultLengthTooLong and FaultLengthTooShort
	// say a Content-Length of -1, two that differ, 1,000 for a shorter body after which
	// the connection stays open, and 9 for a longer one.
	FaultNegativeLength Fault = "a negative Content-Length"
	FaultTwoLengths     Fault = "two Content-Lengths"
	FaultLengthTooLong  Fault = "a Content-Length that is too long"
	FaultLengthTooShort Fault = "a Content-Length that is too short"

	// FaultDripBody answers 200 and sends a body of spaces, one at a time, for ever.
	FaultDripBody Fault = "drips its body"
	// FaultEndlessBody sends them as fast as they are read, and FaultEndlessChunks in
	// chunks of one byte.
	FaultEndlessBody   Fault = "an endless body"
	FaultEndlessChunks Fault = "endless chunks"
	// FaultChunkSize sends the size of a chunk, which has no end.
	FaultChunkSize Fault = "an endless chunk size"
	// FaultHangUpInBody and FaultResetInBody end the connection in the body, the latter
	// 50 ms after its beginning was sent.
	FaultHangUpInBody Fault = "hangs up in its body"
	FaultResetInBody  Fault = "resets the connection in its body"
)

// Faults of what an answer says. It has a status of 200 and is well-formed HTTP.
const (
	// FaultGzipBomb is 10 GB of spaces behind JSON in 10 MB of gzip, FaultGzipInGzip
	// 200 MB of it in gzip in gzip, and FaultDeflateBomb 10 GB in a deflate that nobody
	// asked for.
	FaultGzipBomb    Fault = "a gzip bomb"
	FaultGzipInGzip  Fault = "a gzip bomb in gzip"
	FaultDeflateBomb Fault = "a deflate bomb"
	// FaultBrokenGzip says that it is gzip and is not.
	FaultBrokenGzip Fault = "gzip that is none"
	// FaultBrackets is 40 MB of [, and FaultDeep valid JSON, 5,000 levels deep.
	FaultBrackets Fault = "40 MB of brackets"
	FaultDeep     Fault = "JSON that is 5,000 levels deep"
	// FaultManyKeys gives a million variables, and FaultThousandsOfKeys ten thousand.
	FaultManyKeys        Fault = "a million keys"
	FaultThousandsOfKeys Fault = "ten thousand keys"
	// FaultDuplicateKeys gives the variable customer_name three times.
	FaultDuplicateKeys Fault = "duplicate keys"
	// FaultHugeNumbers gives variables that are 1e999999, and a number of 100,000 digits.
	FaultHugeNumbers Fault = "huge numbers"
	// FaultPlaceholders gives a customer_name with {{ }} and ${SECRET} in it.
	FaultPlaceholders Fault = "placeholders in its values"
	// FaultInvalidText has bytes in body and headers that are not UTF-8.
	FaultInvalidText Fault = "invalid UTF-8"
	// FaultCookies is a good answer with a thousand cookies.
	FaultCookies Fault = "a flood of cookies"
	// FaultCloses is a good answer, after which the connection is closed.
	FaultCloses Fault = "closes the connection after each answer"
)

// fault is how a Fault comes about: by one of these.
type fault struct {
	name       Fault
	connection func(wire)             // before a request is read
	wire       func(wire)             // instead of an answer of HTTP/1.1
	answer     func(*Endpoint) Answer // an answer that any HTTP can carry
}

// Hostile returns all faults: an endpoint that misbehaves in every way that was
// thought of, from the connection to what an answer says. Run a test for each:
//
//	for _, fault := range callhooktest.Hostile() {
//		t.Run(string(fault), func(t *testing.T) {
//			crm := callhooktest.NewEndpoint(t, callhooktest.Answer{Fault: fault})
//
// Beside those that have a constant there are redirects, for the statuses 301, 302,
// 307 and 308:
//
//	"302 to a loopback address"   which is the endpoint's own, where it listens
//	"302 to a metadata address"   169.254.169.254, where clouds keep credentials
//	"302 to itself"               in a loop
//
// and every odd Retry-After, for the statuses 429 and 503:
//
//	"429 with a negative Retry-After"         -5
//	"429 with a past Retry-After"             a date in 1994, before any clock's
//	"429 with a far Retry-After"              a date in the year 9999
//	"429 with a Retry-After in words"         soon
//	"429 with an exponential Retry-After"     1e3
//	"429 with a fractional Retry-After"       1.5
//	"429 with a NaN Retry-After"              NaN
//	"429 with a huge Retry-After"             ten years in seconds
//	"429 with an overflowing Retry-After"     more seconds than an integer holds
//	"429 with an empty Retry-After"
//	"429 with several Retry-Afters"           7, and 7200
//
// The answers that are good but for what they are named for give the variable
// customer_name the value "Ada", and have a member "ok" that is true.
func Hostile() []Fault {
	var names []Fault
	for _, f := range faults() {
		names = append(names, f.name)
	}
	return names
}

// faults are all that there are.
var faults = sync.OnceValue(func() []fault {
	return slices.Concat(connectionFaults, tlsFaults(), http2Faults(), wireFaults, answerFaults, redirects(), retryAfters())
})

var faultsByName = sync.OnceValue(func() map[Fault]fault {
	byName := map[Fault]fault{}
	for _, f := range faults() {
		byName[f.name] = f
	}
	return byName
})

// connects reports whether a connection suffers it.
func (f Fault) connects() bool { return f != "" && faultsByName()[f].connection != nil }

// connected lets a connection suffer the fault.
func (f Fault) connected(e *Endpoint, c net.Conn) { faultsByName()[f].connection(wire{c, e}) }

// misbehave does to a request what f says.
func (e *Endpoint) misbehave(w http.ResponseWriter, _ *http.Request, f Fault) {
	fault := faultsByName()[f]
	switch {
	case fault.answer != nil:
		e.answer(w, fault.answer(e))
		return
	case fault.connection != nil:
		e.t.Errorf("callhooktest: fault %q is one of a connection, and the request came by one that is established: it cannot follow an answer over HTTP/2, nor in a server that is not the endpoint's", f)
		panic(http.ErrAbortHandler)
	case fault.wire == nil:
		e.t.Errorf("callhooktest: there is no fault %q: Hostile has all of them", f)
		panic(http.ErrAbortHandler)
	}
	h, ok := w.(http.Hijacker)
	if !ok {
		e.t.Errorf("callhooktest: fault %q: %v", f, errNoHijack)
		panic(http.ErrAbortHandler)
	}
	c, _, err := h.Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	fault.wire(wire{c, e})
}
