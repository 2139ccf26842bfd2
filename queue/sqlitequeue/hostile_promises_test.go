package sqlitequeue_test

import (
	"strings"

	"github.com/callhook-go/callhook/callhooktest"
)

// promise is what is to come of a misbehaviour: of a lookup, of a delivery whose
// answer's status says all, and of one whose "success" reads the answer. The words are
// those of cell.run. Where there are several, with "; or " between, any holds: how a
// connection ended is told by who was quicker, and on loopback by the kernel.
type promise struct {
	preCall, delivery, reading string
	wire                       int // how many bytes may come by the wire for one exchange; zero for maxWire
	conns                      int // how many connections it may take; zero for 1, and 2 where a lookup tries twice
}

// maxWire is enough for the reply to a lookup, headers and what a connection reads ahead.
const maxWire = 384 << 10

const (
	tooLarge  = "failed: the reply cannot be read: it is larger than 262144 bytes"
	notJSON   = "failed: the reply cannot be read: it says that it is JSON and is not"
	notOK     = "tried again: the endpoint answered 200 OK, which is not what the webhook's success asks for"
	timedOut  = "tried again: timed out @timeout"
	delivered = "delivered"
	paused    = "delivered @grace" // the status says all, and the body has a moment to come
)

// promised is written by hand, from what the package documentation and README say.
var promised = func() map[callhooktest.Fault]promise {
	const gaveUp = "the endpoint gives up each connection without an answer @150ms"
	givesUp := promise{preCall: "failed: " + gaveUp, delivery: "tried again: " + gaveUp, reading: "tried again: " + gaveUp, conns: 3}
	never := promise{preCall: "timeout @timeout", delivery: timedOut, reading: timedOut}
	// fails is an exchange without an answer that can be used.
	fails := func(how string) promise {
		again := "tried again: " + strings.ReplaceAll(how, "; or ", "; or tried again: ")
		return promise{preCall: "failed: " + strings.ReplaceAll(how, "; or ", "; or failed: "), delivery: again, reading: again}
	}
	// refused is a connection that cannot be made, for which a lookup tries twice.
	refused := func(how string) promise {
		p := fails(how)
		p.preCall = strings.ReplaceAll(p.preCall, "failed:", "failed x2:")
		return p
	}
	says := func(preCall, delivery, reading string) promise {
		return promise{preCall: preCall, delivery: delivery, reading: reading}
	}
	wire := func(p promise, bytes int) promise { p.wire = bytes; return p }
	soon := func(p promise) promise {
		return promise{preCall: p.preCall + " @soon", delivery: p.delivery + " @soon", reading: p.reading + " @soon"}
	}
	const (
		inTLS   = "connection closed during the TLS handshake; or connection reset" // while it writes
		cut     = "connection closed in the middle of the response"
		reset   = "connection reset"
		headers = "response headers too large"
		good    = "applied Ada"
	)
	all := map[callhooktest.Fault]promise{
		callhooktest.FaultHangUp:     refused(inTLS),
		callhooktest.FaultReset:      refused(reset),
		callhooktest.FaultNeverReads: never,
		callhooktest.FaultBanner:     refused("TLS: the endpoint does not speak TLS"),
		callhooktest.FaultPlainHTTP:  refused("TLS: the endpoint answered in plain HTTP"),

		callhooktest.FaultNoAnswerToTLS:      never,
		callhooktest.FaultDripTLS:            never,
		callhooktest.FaultHangUpInTLS:        refused(inTLS),
		callhooktest.FaultResetInTLS:         refused(reset),
		callhooktest.FaultExpiredCertificate: refused("TLS: certificate has expired"),
		callhooktest.FaultUnknownAuthority:   refused("TLS: certificate signed by unknown authority"),
		callhooktest.FaultSelfSigned:         refused("TLS: certificate signed by unknown authority"),
		callhooktest.FaultWrongHost:          refused("TLS: certificate is for another host"),

		callhooktest.FaultHTTP2Reset:  fails("HTTP/2 error"),
		callhooktest.FaultHTTP2Refuse: never, // net/http tries it again meanwhile, after 0, 1 and 2 s
		// net/http would make another connection each time, without a pause: it may make three.
		callhooktest.FaultHTTP2GoAway:      givesUp,
		callhooktest.FaultHTTP2GoAwayAfter: givesUp,
		callhooktest.FaultHTTP2CalmDown:    fails("HTTP/2 error; or connection reset"),
		callhooktest.FaultHTTP2Hang:        never,
		callhooktest.FaultHTTP2NeverReads:  never,
		callhooktest.FaultHTTP2Settings:    wire(never, 2<<20),
		callhooktest.FaultHTTP2Pings:       wire(never, 2<<20),
		callhooktest.FaultHTTP2Headers:     soon(fails("HTTP/2 error")),
		callhooktest.FaultHTTP2Early:       soon(fails(headers)),
		callhooktest.FaultHTTP2EmptyData:   wire(says("timeout @timeout", paused, timedOut), 1<<20),
		callhooktest.FaultHTTP2HugeFrame:   says("failed: HTTP/2 error", delivered, "tried again: HTTP/2 error"),

		callhooktest.FaultHang:        never,
		callhooktest.FaultHangUpAfter: fails("connection closed without a response; or connection reset"),
		callhooktest.FaultResetAfter:  fails(reset),

		callhooktest.FaultDripHeaders:     never,
		callhooktest.FaultHangUpInHeaders: fails(cut + "; or " + reset),
		callhooktest.FaultResetInHeaders:  soon(fails(reset)),
		callhooktest.FaultManyHeaders:     fails(headers),
		callhooktest.FaultLongHeader:      fails(headers),
		callhooktest.FaultEarlyHints:      fails(headers),
		callhooktest.FaultSwitchProtocols: fails("unexpected protocol switch"),
		callhooktest.FaultNegativeLength:  fails("malformed HTTP response"),
		callhooktest.FaultTwoLengths:      fails("malformed HTTP response"),
		callhooktest.FaultLengthTooLong:   says("timeout @timeout", paused, timedOut),
		callhooktest.FaultLengthTooShort:  says(notJSON, delivered, notOK),

		callhooktest.FaultDripBody:    says("timeout @timeout", paused, timedOut),
		callhooktest.FaultEndlessBody: says(tooLarge, delivered, delivered), // what says ok came before
		// Six bytes for each that counts.
		callhooktest.FaultEndlessChunks: wire(says(tooLarge, delivered, delivered), 6*maxWire),
		callhooktest.FaultChunkSize:     says("failed: malformed HTTP response", delivered, "tried again: malformed HTTP response"),
		callhooktest.FaultHangUpInBody:  says("failed: "+cut, delivered, "tried again: "+cut),
		// Where the machine is busy the reset may be there before the headers are read.
		callhooktest.FaultResetInBody: says("failed: "+reset+" @soon", "delivered @soon; or tried again: "+reset+" @soon", "tried again: "+reset+" @soon"),

		callhooktest.FaultGzipBomb:        says(tooLarge, delivered, delivered),
		callhooktest.FaultGzipInGzip:      says(notJSON, delivered, notOK),
		callhooktest.FaultDeflateBomb:     says(tooLarge, delivered, notOK),
		callhooktest.FaultBrokenGzip:      says("failed: malformed gzip in the response", delivered, "tried again: malformed gzip in the response"),
		callhooktest.FaultBrackets:        says(tooLarge, delivered, notOK),
		callhooktest.FaultDeep:            says("failed: the reply cannot be read: it is nested more than 64 levels deep", delivered, delivered),
		callhooktest.FaultManyKeys:        says(tooLarge, delivered, notOK),
		callhooktest.FaultThousandsOfKeys: says(good, delivered, notOK), // 64 KiB of it are read
		callhooktest.FaultDuplicateKeys:   says(good, delivered, delivered),
		callhooktest.FaultHugeNumbers:     says(good, delivered, notOK), // likewise
		callhooktest.FaultPlaceholders:    says(`applied {{ crm_token }}} ${SECRET} {{ "x" | json }} {{{{}}}}`, delivered, delivered),
		callhooktest.FaultInvalidText:     says("applied Ad\ufffd", delivered, delivered),
		callhooktest.FaultCookies:         says(good, delivered, delivered),
		callhooktest.FaultCloses:          says(good, delivered, delivered),
	}
	for _, status := range []string{"301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"} {
		again := "tried again: the endpoint answered " + status + ": redirects are not followed; write the final URL into the config"
		for _, to := range []string{"a loopback address", "a metadata address", "itself"} {
			all[callhooktest.Fault(status[:3]+" to "+to)] = says("failed: the endpoint answered "+status, again, again)
		}
	}
	for _, odd := range []struct{ name, asked string }{ // asked is what can be made of it; empty for nothing
		{"a negative Retry-After", ""}, {"a past Retry-After", ""}, {"a Retry-After in words", ""}, {"an exponential Retry-After", ""},
		{"a fractional Retry-After", ""}, {"a NaN Retry-After", ""}, {"an empty Retry-After", ""},
		{"a far Retry-After", "1h0m0s"}, {"a huge Retry-After", "1h0m0s"}, {"an overflowing Retry-After", "1h0m0s"}, {"several Retry-Afters", "7s"},
	} {
		const busy, down = "the endpoint answered 429 Too Many Requests", "the endpoint answered 503 Service Unavailable"
		asked, ignored := "held "+odd.asked+": ", ": come again in "+odd.asked
		first, second := asked+busy+ignored, asked+down+ignored
		if odd.asked == "" {
			first, second = "held 1s: "+busy, "tried again: "+down
		}
		all[callhooktest.Fault("429 with "+odd.name)] = says("failed: "+busy, first, first)
		all[callhooktest.Fault("503 with "+odd.name)] = says("failed: "+down, second, second)
	}
	return all
}()
