package egress

import (
	"bytes"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
)

// http1Conn is a connection that speaks HTTP/1, and hands out what belongs to an answer and nothing behind it. net/http writes what
// comes behind an answer into the process's log, and a receiver that counts the characters of its body for its Content-Length, and
// not the bytes, would have the end of each body there.
type http1Conn struct {
	net.Conn

	mu     sync.Mutex
	answer framing
	over   bool // something came behind an answer
}

// Read ends the connection where the answer ends and more comes: as if the endpoint had closed it.
func (c *http1Conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	over := c.over
	c.mu.Unlock()
	if over {
		return 0, io.EOF
	}
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if belongs := c.answer.take(p[:n]); belongs < n {
		c.over = true
		if n = belongs; n == 0 {
			return 0, io.EOF
		}
		return n, nil
	}
	return n, err
}

// Write begins another exchange when the answer to the one before is complete.
func (c *http1Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	if c.answer.at == inNothing {
		c.answer = framing{}
	}
	c.mu.Unlock()
	return c.Conn.Write(p)
}

// framing finds the end of an HTTP/1 answer as its bytes come (RFC 9112, section 6.3). What it cannot make sense of it lets pass: the
// client refuses it.
type framing struct {
	at      place
	line    []byte // the header line, chunk size or trailer line at hand, without its end
	status  int
	length  int64 // of the body; one more than it is, so that zero is unknown
	chunked bool
	left    int64 // of the body or the chunk, with its line end
}

type place int

const (
	inStatus place = iota
	inHeader
	inBody
	inSize // of a chunk
	inChunk
	inTrailer
	inNothing // the answer is complete
	inDoubt   // all that comes belongs to it
)

const maxFramingLine = maxHeaderBytes

// take returns how many bytes of p belong to the answer.
func (f *framing) take(p []byte) (n int) {
	for n < len(p) {
		switch f.at {
		case inNothing:
			return n
		case inDoubt:
			return len(p)
		case inBody, inChunk:
			part := min(f.left, int64(len(p)-n))
			n += int(part)
			if f.left -= part; f.left == 0 {
				f.at = map[place]place{inBody: inNothing, inChunk: inSize}[f.at]
			}
		default:
			end := bytes.IndexByte(p[n:], '\n')
			if end < 0 {
				f.line = append(f.line, p[n:]...)
				if len(f.line) > maxFramingLine {
					f.at = inDoubt
				}
				return len(p)
			}
			line := append(f.line, p[n:n+end]...)
			f.line = f.line[:0]
			n += end + 1
			f.next(string(bytes.TrimSuffix(line, []byte("\r"))))
		}
	}
	return n
}

// next goes on after a line.
func (f *framing) next(line string) {
	switch f.at {
	case inStatus:
		version, rest, _ := strings.Cut(line, " ")
		code, _, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
		status, err := strconv.Atoi(code)
		if !strings.HasPrefix(version, "HTTP/1.") || err != nil || status == 101 {
			f.at = inDoubt
			return
		}
		*f = framing{at: inHeader, line: f.line, status: status}
	case inHeader:
		if line == "" {
			f.body()
			return
		}
		f.header(line)
	case inSize:
		size, _, _ := strings.Cut(line, ";")
		left, err := strconv.ParseInt(strings.Trim(size, " \t"), 16, 63)
		switch {
		case err != nil || left < 0 || left > 1<<62:
			f.at = inDoubt
		case left == 0:
			f.at = inTrailer
		default:
			f.at, f.left = inChunk, left+2 // CRLF; with LF alone the client refuses it
		}
	case inTrailer:
		if line == "" {
			f.at = inNothing
		}
	}
}

func (f *framing) header(line string) {
	name, value, _ := strings.Cut(line, ":")
	value = strings.Trim(value, " \t")
	switch {
	case strings.EqualFold(name, "Content-Length"):
		length, err := strconv.ParseInt(value, 10, 62)
		if err != nil || length < 0 || f.length != 0 && f.length != length+1 {
			f.at = inDoubt
			return
		}
		f.length = length + 1
	case strings.EqualFold(name, "Transfer-Encoding"):
		if !strings.EqualFold(value, "chunked") || f.chunked {
			f.at = inDoubt
			return
		}
		f.chunked = true
	}
}

// body goes on after the headers.
func (f *framing) body() {
	switch {
	case f.status < 200:
		f.at = inStatus // of the next
	case f.status == 204 || f.status == 304:
		f.at = inNothing
	case f.chunked:
		f.at = inSize
	case f.length == 0:
		f.at = inDoubt // until the connection ends
	case f.length == 1:
		f.at = inNothing
	default:
		f.at, f.left = inBody, f.length-1
	}
}
