package callhooktest

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"time"
)

// speaksHTTP2 reports whether it takes HTTP/2 to suffer the fault.
func (f Fault) speaksHTTP2() bool { return strings.HasPrefix(string(f), "HTTP/2 ") }

func http2Faults() []fault {
	return []fault{
		http2(FaultHTTP2Reset, func(c *http2Conn) {
			for stream := range c.requests {
				c.write(frameReset, 0, stream, uint32Bytes(2)...) // INTERNAL_ERROR
			}
		}),
		http2(FaultHTTP2Refuse, func(c *http2Conn) {
			for stream := range c.requests {
				c.write(frameReset, 0, stream, uint32Bytes(7)...) // REFUSED_STREAM
			}
		}),
		{name: FaultHTTP2GoAway, connection: func(w wire) {
			if !w.pause(goAwayPause) {
				return
			}
			if c := w.shakeHTTP2(FaultHTTP2GoAway); c != nil {
				c.write(frameSettings, 0, 0)
				c.goAway(0, 0)
				c.swallow()
			}
		}},
		http2(FaultHTTP2GoAwayAfter, func(c *http2Conn) {
			<-c.requests
			if c.pause(goAwayPause) {
				c.goAway(0, 0)
			}
		}),
		http2(FaultHTTP2CalmDown, func(c *http2Conn) { c.goAway(<-c.requests, 11) }), // ENHANCE_YOUR_CALM
		http2(FaultHTTP2Hang, (*http2Conn).rest),
		{name: FaultHTTP2NeverReads, connection: func(w wire) {
			if c := w.shakeHTTP2(FaultHTTP2NeverReads); c != nil {
				c.write(frameSettings, 0, 0)
				<-w.e.closed
			}
		}},
		http2(FaultHTTP2Settings, func(c *http2Conn) {
			many := frame(frameSettings, 0, 0, append([]byte{0, 3}, uint32Bytes(100)...)...) // MAX_CONCURRENT_STREAMS
			c.flood(nil, func(uint32) []byte { return many })
		}),
		http2(FaultHTTP2Pings, func(c *http2Conn) {
			ping := frame(framePing, 0, 0, []byte("callhook")...)
			c.flood(nil, func(uint32) []byte { return ping })
		}),
		http2(FaultHTTP2Headers, func(c *http2Conn) {
			stream := <-c.requests
			c.write(frameHeaders, 0, stream, header(":status", "200")...)
			c.repeat(strings.Repeat(string(frame(frameContinuation, 0, stream, header("x-more", filler[:100])...)), 100), floodPause)
		}),
		http2(FaultHTTP2Early, func(c *http2Conn) {
			hints := append(header(":status", "103"), header("link", "</style.css>")...)
			c.flood(nil, func(stream uint32) []byte { return frame(frameHeaders, endHeaders, stream, hints...) })
		}),
		http2(FaultHTTP2EmptyData, func(c *http2Conn) {
			c.flood(func(stream uint32) []byte {
				return frame(frameHeaders, endHeaders, stream, header(":status", "200")...)
			},
				func(stream uint32) []byte { return frame(frameData, 0, stream) })
		}),
		http2(FaultHTTP2HugeFrame, func(c *http2Conn) {
			stream := <-c.requests
			c.write(frameHeaders, endHeaders, stream, header(":status", "200")...)
			_, _ = c.Write([]byte{0xff, 0xff, 0xff, frameData, 0, 0, 0, 0, byte(stream)})
			c.wire.repeat(filler, 0)
		}),
	}
}

// goAwayPause is how long it takes to find out that a connection is of no use.
const goAwayPause = 50 * time.Millisecond

// http2 is a fault for which talk misbehaves on a connection that speaks HTTP/2.
func http2(f Fault, talk func(*http2Conn)) fault {
	return fault{name: f, connection: func(w wire) {
		if c := w.shakeHTTP2(f); c != nil {
			c.write(frameSettings, 0, 0)
			go c.read()
			talk(c)
		}
	}}
}

// http2Conn is a connection that speaks HTTP/2 as far as it takes to misbehave: frames
// by hand, after RFC 9113.
type http2Conn struct {
	wire
	requests chan uint32 // the streams of requests, until the client is gone
}

// The types of frames, and a flag.
const (
	frameData         = 0
	frameHeaders      = 1
	frameReset        = 3
	frameSettings     = 4
	framePing         = 6
	frameGoAway       = 7
	frameContinuation = 9

	endHeaders = 4
)

// shakeHTTP2 does the handshake and reads the client's preface; nil when the client
// does not want to.
func (w wire) shakeHTTP2(f Fault) *http2Conn {
	c := tls.Server(w.Conn, w.e.tls(f))
	var preface [len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")]byte
	if c.Handshake() != nil || c.ConnectionState().NegotiatedProtocol != "h2" {
		return nil
	}
	if _, err := io.ReadFull(c, preface[:]); err != nil {
		return nil
	}
	return &http2Conn{wire{c, w.e}, make(chan uint32, 16)}
}

// read reads frames, and tells of those that begin a request.
func (c *http2Conn) read() {
	defer close(c.requests)
	for {
		var head [9]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return
		}
		length := int64(head[0])<<16 | int64(head[1])<<8 | int64(head[2])
		if _, err := io.CopyN(io.Discard, c, length); err != nil {
			return
		}
		if head[3] != frameHeaders {
			continue
		}
		select {
		case c.requests <- binary.BigEndian.Uint32(head[5:]):
		default: // whoever floods does not ask
		}
	}
}

// rest lets the client wait.
func (c *http2Conn) rest() {
	for range c.requests {
	}
}

func (c *http2Conn) goAway(last, code uint32) {
	c.write(frameGoAway, 0, 0, append(uint32Bytes(last), uint32Bytes(code)...)...)
}

// flood begins its answer to each request with first, where that is not nil, and writes
// what next says of the last one until the client is gone.
func (c *http2Conn) flood(first, next func(stream uint32) []byte) {
	stream, ok := <-c.requests
	for begun := true; ok; {
		var b []byte
		if begun && first != nil {
			b = first(stream)
		}
		b = append(b, bytes.Repeat(next(stream), 100)...)
		if _, err := c.Write(b); err != nil || !c.pause(floodPause) {
			return
		}
		select {
		case stream, ok = <-c.requests:
			begun = true
		default:
			begun = false
		}
	}
}

// floodPause is the pause in a flood, after 100 frames.
const floodPause = 10 * time.Millisecond

func (c *http2Conn) write(kind, flags byte, stream uint32, payload ...byte) {
	_, _ = c.Write(frame(kind, flags, stream, payload...))
}

func frame(kind, flags byte, stream uint32, payload ...byte) []byte {
	n := len(payload)
	b := []byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags}
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// header is one header in HPACK: a literal, not indexed and not compressed (RFC 7541,
// section 6.2.2).
func header(name, value string) []byte {
	if len(name) > 126 || len(value) > 126 {
		panic(fmt.Sprintf("callhooktest: header %s is too long", name))
	}
	return append(append([]byte{0, byte(len(name))}, name...), append([]byte{byte(len(value))}, value...)...)
}

func uint32Bytes(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
