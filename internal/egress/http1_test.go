package egress_test

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/callhook-go/callhook/internal/egress"
)

// framed are HTTP/1 framed, each with how much of what follows belongs to it.
var framed = []struct{ name, answer, behind string }{
	{"a length", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "def"},
	{"no body", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "def"},
	{"no content", "HTTP/1.1 204 No Content\r\n\r\n", "def"},
	{"not modified", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "def"},
	{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\n", "def"},
	{"chunks beat a length", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", "def"},
	{"early hints", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:1\r\n\r\na", "def"},
	{"the same length twice", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", "def"},
	{"line feeds alone", "HTTP/1.0 200 OK\nContent-Length: 1\n\na", "def"},
	{"until the end", "HTTP/1.1 200 OK\r\n\r\nabcdef", ""},
	{"not HTTP", "220 mail.example.com ESMTP\r\n", ""},
	{"a length that is none", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc", ""},
}

// TestFraming: an answer ends where it says, however it is cut into pieces.
func TestFraming(t *testing.T) {
	for _, tt := range framed {
		for size := 1; size <= len(tt.answer)+len(tt.behind); size++ {
			took := egress.Take([]byte(tt.answer+tt.behind), size)
			if took != len(tt.answer) {
				t.Errorf("%s, in pieces of %d: %d bytes belong to it, want %d", tt.name, size, took, len(tt.answer))
			}
		}
	}
}

// FuzzFraming: nothing that net/http needs is withheld, and where the end of an answer is found
// net/http finds it too.
func FuzzFraming(f *testing.F) {
	for _, a := range framed {
		f.Add([]byte(a.answer+a.behind), 7)
	}
	f.Fuzz(func(t *testing.T, stream []byte, size int) {
		took := egress.Take(stream, max(1, size%100))
		whole := bytes.NewReader(stream)
		br := bufio.NewReader(whole)
		for {
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				return // the client refuses it
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				return
			}
			if resp.StatusCode >= 200 || resp.StatusCode == 101 {
				if strings.EqualFold(resp.Header.Get("Transfer-Encoding"), "identity") {
					return
				}
				break
			}
		}
		consumed := len(stream) - whole.Len() - br.Buffered()
		if took < consumed {
			t.Errorf("of %q %d bytes are handed out, and net/http reads %d", stream, took, consumed)
		}
		if took < len(stream) && took != consumed {
			t.Errorf("%q ends after %d bytes, and for net/http after %d", stream, took, consumed)
		}
	})
}
