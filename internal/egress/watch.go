package egress

import (
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
)

const (
	// exchangeBytes is what an exchange adds to what a connection may be sent: far more than its headers, its body as far as it
	// is read, and what is on its way then.
	exchangeBytes = 1 << 20
	connBytes     = 16 << 20 // what may add up

	maxDials = 3 // of one exchange
)

var (
	errFlood = errors.New("the endpoint sends without end")
	errDials = errors.New("the endpoint gives up each connection without an answer")
)

// watched is a connection whose other end may send no more than the exchanges on it account for. An HTTP/2 endpoint can send
// PING, SETTINGS and empty DATA frames as long as the connection lives, which may be long after the exchange that it was made for.
type watched struct {
	net.Conn
	left atomic.Int64 // that may come
}

func watch(c net.Conn) *watched {
	w := &watched{Conn: c}
	w.left.Store(exchangeBytes) // for its handshake, and what is sent unasked
	return w
}

// begin makes room for one more exchange.
func (w *watched) begin() {
	for {
		left := w.left.Load()
		if w.left.CompareAndSwap(left, min(left+exchangeBytes, connBytes)) {
			return
		}
	}
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if w.left.Add(int64(-n)) < 0 {
		w.Conn.Close()
		return 0, errFlood
	}
	return n, err
}

// watchedOf returns the connection below one that Transport was given.
func watchedOf(c net.Conn) *watched {
	for {
		switch conn := c.(type) {
		case *watched:
			return conn
		case *http1Conn:
			c = conn.Conn
		case *tls.Conn:
			c = conn.NetConn()
		default:
			return nil
		}
	}
}
