package callhooktest

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

var connectionFaults = []fault{
	{name: FaultHangUp, connection: func(wire) {}},
	{name: FaultReset, connection: wire.reset},
	{name: FaultNeverReads, connection: func(w wire) { <-w.e.closed }},
	{name: FaultBanner, connection: func(w wire) {
		go w.say("220 mail.example.com ESMTP ready\n") // the client may say something first
		w.swallow()
	}},
	{name: FaultPlainHTTP, connection: func(w wire) {
		w.readSome()
		w.say("HTTP/1.1 400 Bad Request\nConnection: close\n\nThis is an HTTP server.\n")
	}},
}

func tlsFaults() []fault {
	shakeHands := func(f Fault) fault {
		return fault{name: f, connection: func(w wire) { _, _ = io.Copy(io.Discard, tls.Server(w.Conn, w.e.tls(f))) }}
	}
	return []fault{
		{name: FaultNoAnswerToTLS, connection: wire.swallow},
		{name: FaultDripTLS, connection: func(w wire) {
			w.readSome()
			go w.swallow()
			_, _ = io.WriteString(w, "\x16\x03\x03\x40\x00") // a record of 16 KiB
			w.repeat("\x02", dripEvery)
		}},
		{name: FaultHangUpInTLS, connection: wire.readSome},
		{name: FaultResetInTLS, connection: func(w wire) { w.readSome(); w.reset() }},
		shakeHands(FaultExpiredCertificate),
		shakeHands(FaultUnknownAuthority),
		{name: FaultSelfSigned, connection: func(w wire) {
			cfg := w.e.tls("")
			signed := cfg.GetCertificate
			cfg.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
				cert, err := signed(hello)
				if err != nil {
					return nil, err
				}
				return selfSigned(cert)
			}
			_, _ = io.Copy(io.Discard, tls.Server(w.Conn, cfg))
		}},
		shakeHands(FaultWrongHost),
	}
}

// selfSigned returns a certificate for the same host that a key of its own signed.
func selfSigned(like *tls.Certificate) (*tls.Certificate, error) {
	c, err := x509.ParseCertificate(like.Certificate[0])
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	c.PublicKey = &key.PublicKey
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

const (
	// good is what answers say that are well-formed.
	good = `{"ok":true,"variables":{"customer_name":"Ada"}}`
	ok   = "HTTP/1.1 200 OK\nContent-Type: application/json\n"
)

var wireFaults = []fault{
	{name: FaultHang, wire: wire.swallow},
	{name: FaultHangUpAfter, wire: func(wire) {}},
	{name: FaultResetAfter, wire: wire.reset},

	{name: FaultDripHeaders, wire: func(w wire) { w.say(ok); w.repeat("X", dripEvery) }},
	{name: FaultHangUpInHeaders, wire: func(w wire) { w.say(ok + "X-Half: hal") }},
	{name: FaultResetInHeaders, wire: func(w wire) { w.say(ok + "X-Half: hal"); w.resetSoon() }},
	{name: FaultManyHeaders, wire: func(w wire) {
		w.say(ok)
		for i := range 10_000 {
			if !w.say(fmt.Sprintf("X-%d: %s\n", i, filler)) {
				return
			}
		}
		w.say("\n" + good)
	}},
	{name: FaultLongHeader, wire: func(w wire) {
		w.say(ok + "X: ")
		for range 10_000 {
			if !w.say(filler) {
				return
			}
		}
		w.say("\n\n" + good)
	}},
	{name: FaultEarlyHints, wire: func(w wire) { w.repeat("HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n", 0) }},
	{name: FaultSwitchProtocols, wire: func(w wire) {
		w.say("HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: websocket\n\n")
		w.swallow()
	}},
	{name: FaultNegativeLength, wire: stays(ok + "Content-Length: -1\n\n" + good)},
	{name: FaultTwoLengths, wire: stays(ok + fmt.Sprintf("Content-Length: 5\nContent-Length: %d\n\n", len(good)) + good)},
	{name: FaultLengthTooLong, wire: stays(ok + "Content-Length: 1000\n\n" + good)},
	{name: FaultLengthTooShort, wire: stays(ok + "Content-Length: 9\n\n" + good)},

	{name: FaultDripBody, wire: func(w wire) { w.say(ok + "Content-Length: 100000\n\n"); w.repeat(" ", dripEvery) }},
	{name: FaultEndlessBody, wire: func(w wire) { w.say(ok + "\n" + good); w.repeat(spaces, 0) }},
	{name: FaultEndlessChunks, wire: func(w wire) {
		w.say(ok + "Transfer-Encoding: chunked\n\n")
		w.say(fmt.Sprintf("%x\n%s\n", len(good), good))
		w.repeat(strings.Repeat("1\r\n \r\n", 500), 0)
	}},
	{name: FaultChunkSize, wire: func(w wire) { w.say(ok + "Transfer-Encoding: chunked\n\n"); w.repeat("0", 0) }},
	{name: FaultHangUpInBody, wire: func(w wire) { w.say(ok + "Content-Length: 1000\n\n" + good) }},
	{name: FaultResetInBody, wire: func(w wire) { w.say(ok + "Content-Length: 1000\n\n" + good); w.resetSoon() }},
}

var answerFaults = []fault{
	bomb(FaultGzipBomb, "gzip", func(w io.Writer) { gzipBomb(w, 10_000) }),
	bomb(FaultGzipInGzip, "gzip, gzip", func(w io.Writer) { _, _ = w.Write(gzipInGzip()) }),
	bomb(FaultDeflateBomb, "deflate", func(w io.Writer) {
		_, _ = io.WriteString(w, "\x78\x9c") // of zlib, which is what deflate means
		endlessDeflate(w, 10_000)
	}),
	answers(FaultBrokenGzip, http.Header{"Content-Encoding": {"gzip"}}, func(w io.Writer) { _, _ = io.WriteString(w, good) }),
	answers(FaultBrackets, nil, func(w io.Writer) { repeatTo(w, strings.Repeat("[", 10_000), 4000) }),
	answers(FaultDeep, nil, func(w io.Writer) {
		_, _ = io.WriteString(w, `{"ok":true,"variables":{"customer_name":`+strings.Repeat("[", 4998)+strings.Repeat("]", 4998)+"}}")
	}),
	answers(FaultManyKeys, nil, func(w io.Writer) { keys(w, 1_000_000) }),
	answers(FaultThousandsOfKeys, nil, func(w io.Writer) { keys(w, 10_000) }),
	says(FaultDuplicateKeys, `{"ok":true,"variables":{"customer_name":"Ada","customer_name":"Eve","customer_name":null}}`),
	answers(FaultHugeNumbers, nil, func(w io.Writer) {
		_, _ = io.WriteString(w, `{"ok":true,"variables":{"customer_name":"Ada","balance":1e999999,"small":-1e-999999,"digits":`+strings.Repeat("9", 100_000)+"}}")
	}),
	says(FaultPlaceholders, `{"ok":true,"variables":{"customer_name":"{{ crm_token }}} ${SECRET} {{ \"x\" | json }} {{{{}}}}"}}`),
	{name: FaultInvalidText, answer: func(*Endpoint) Answer {
		return Answer{Body: "{\"ok\":true,\"variables\":{\"customer_name\":\"Ad\xe9\",\"\xff\xfe\":\"\xc0\x80\"}}", Header: http.Header{"X-Name": {"Ad\xe9 \xff\xfe"}}}
	}},
	{name: FaultCookies, answer: func(*Endpoint) Answer {
		h := http.Header{}
		for i := range 1000 {
			h.Add("Set-Cookie", fmt.Sprintf("tracker%d=%d; Path=/", i, i))
		}
		return Answer{Body: good, Header: h}
	}},
	{name: FaultCloses, answer: func(*Endpoint) Answer { return Answer{Body: good, Header: http.Header{"Connection": {"close"}}} }},
}

func says(f Fault, body string) fault {
	return fault{name: f, answer: func(*Endpoint) Answer { return Answer{Body: body} }}
}

func answers(f Fault, h http.Header, stream func(io.Writer)) fault {
	h = h.Clone()
	if h == nil {
		h = http.Header{}
	}
	h.Set("Content-Type", "application/json")
	return fault{name: f, answer: func(*Endpoint) Answer { return Answer{Header: h, Stream: stream} }}
}

func bomb(f Fault, encoding string, stream func(io.Writer)) fault {
	return answers(f, http.Header{"Content-Encoding": {encoding}}, stream)
}

// redirects lead where nobody may be led.
func redirects() (out []fault) {
	for _, status := range []int{301, 302, 307, 308} {
		to := func(where string, location func(*Endpoint) string) {
			out = append(out, fault{name: Fault(fmt.Sprintf("%d to %s", status, where)), answer: func(e *Endpoint) Answer {
				return Answer{Status: status, Header: http.Header{"Location": {location(e)}}}
			}})
		}
		to("a loopback address", func(e *Endpoint) string {
			e.mu.Lock()
			defer e.mu.Unlock()
			if e.listener == nil {
				return "http://127.0.0.1/redirected"
			}
			return "http://" + e.listener.Addr().String() + "/redirected"
		})
		to("a metadata address", func(*Endpoint) string { return "http://169.254.169.254/latest/meta-data/iam/security-credentials/" })
		to("itself", func(*Endpoint) string { return "?again" })
	}
	return out
}

// retryAfters ask to come again at no time that there is.
func retryAfters() (out []fault) {
	for _, status := range []int{429, 503} {
		for _, odd := range []struct {
			name   string
			values []string
		}{
			{"a negative Retry-After", []string{"-5"}},
			{"a past Retry-After", []string{"Sun, 06 Nov 1994 08:49:37 GMT"}},
			{"a far Retry-After", []string{"Fri, 31 Dec 9999 23:59:59 GMT"}},
			{"a Retry-After in words", []string{"soon"}},
			{"an exponential Retry-After", []string{"1e3"}},
			{"a fractional Retry-After", []string{"1.5"}},
			{"a NaN Retry-After", []string{"NaN"}},
			{"a huge Retry-After", []string{"315360000"}},
			{"an overflowing Retry-After", []string{"99999999999999999999999999"}},
			{"an empty Retry-After", []string{""}},
			{"several Retry-Afters", []string{"7", "7200"}},
		} {
			out = append(out, fault{name: Fault(fmt.Sprintf("%d with %s", status, odd.name)), answer: func(*Endpoint) Answer {
				return Answer{Status: status, Header: http.Header{"Retry-After": odd.values}}
			}})
		}
	}
	return out
}

// keys writes an answer with n variables.
func keys(w io.Writer, n int) {
	b := []byte(`{"ok":true,"variables":{"customer_name":"Ada"`)
	for i := range n {
		b = fmt.Appendf(b, `,"k%d":%d`, i, i)
		if len(b) > 16<<10 {
			if _, err := w.Write(b); err != nil {
				return
			}
			b = b[:0]
		}
	}
	_, _ = w.Write(append(b, "}}"...))
}

// endlessDeflate writes n times 1 MB of spaces, a kilobyte each. Its blocks reach
// back to nothing but spaces, so one may be sent again and again.
func endlessDeflate(w io.Writer, n int) { repeatTo(w, string(deflated()), n) }

var deflated = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	fw, _ := flate.NewWriter(&b, flate.BestCompression) // the level is valid
	for range 1_000_000 / len(spaces) {
		_, _ = fw.Write([]byte(spaces))
	}
	_ = fw.Flush()
	return b.Bytes()
})

// gzipBomb writes a whole gzip file: the good answer and n MB of spaces.
func gzipBomb(w io.Writer, n int) {
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	_, _ = io.WriteString(zw, good)
	_ = zw.Flush()
	if _, err := w.Write(b.Bytes()); err != nil {
		return
	}
	if !repeatTo(w, string(deflated()), n) {
		return
	}
	sum, chunk := crc32.ChecksumIEEE([]byte(good)), bytes.Repeat([]byte(" "), 1_000_000)
	for range n {
		sum = crc32.Update(sum, crc32.IEEETable, chunk)
	}
	end := []byte{0x03, 0x00} // an empty block, the last
	end = binary.LittleEndian.AppendUint32(end, sum)
	_, _ = w.Write(binary.LittleEndian.AppendUint32(end, uint32(len(good)+n*1_000_000)))
}

// gzipInGzip is a bomb of 200 MB that was compressed twice.
var gzipInGzip = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	gzipBomb(zw, 200)
	_ = zw.Close()
	return b.Bytes()
})

// dripEvery is the pause between two bytes of what drips.
const dripEvery = 100 * time.Millisecond

var (
	filler = strings.Repeat("y", 1000)
	spaces = strings.Repeat(" ", 1000)
)

// wire is a connection whose other end is to suffer.
type wire struct {
	net.Conn
	e *Endpoint
}

// say writes s, in which \n stands for CRLF, and reports whether it was read.
func (w wire) say(s string) bool {
	_, err := io.WriteString(w, strings.ReplaceAll(s, "\n", "\r\n"))
	return err == nil
}

// stays says s and keeps the connection open.
func stays(s string) func(wire) { return func(w wire) { w.say(s); w.swallow() } }

// swallow reads until the client is gone.
func (w wire) swallow() { _, _ = io.Copy(io.Discard, w) }

// readSome waits until the client says something.
func (w wire) readSome() { _, _ = w.Read(make([]byte, 16<<10)) }

// repeat writes s until the client is gone, with pauses unless they are zero.
func (w wire) repeat(s string, pause time.Duration) {
	for {
		if _, err := io.WriteString(w, s); err != nil || pause > 0 && !w.pause(pause) {
			return
		}
	}
}

// pause waits, and reports whether the endpoint has not ended meanwhile.
func (w wire) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.e.closed:
		return false
	}
}

// reset closes a connection so that the client gets an error, and may lose what was
// sent.
func (w wire) reset() {
	for c := w.Conn; ; {
		switch u := c.(type) {
		case interface{ NetConn() net.Conn }:
			c = u.NetConn()
		case *begun:
			c = u.Conn
		case *tracked:
			c = u.Conn
		case *memoryConn:
			u.reset()
			return
		case *net.TCPConn:
			_ = u.SetLinger(0)
			u.Close()
			return
		default:
			c.Close()
			return
		}
	}
}

// resetSoon resets it when what was sent has had the time to arrive.
func (w wire) resetSoon() {
	if w.pause(50 * time.Millisecond) {
		w.reset()
	}
}

// repeatTo writes s n times, and reports whether all was taken.
func repeatTo(w io.Writer, s string, n int) bool {
	for range n {
		if _, err := io.WriteString(w, s); err != nil {
			return false
		}
	}
	return true
}
