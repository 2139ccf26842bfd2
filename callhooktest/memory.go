package callhooktest

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// memoryConn is one end of a connection in memory. Unlike that of [net.Pipe] it has
// buffers, as TCP has: what is written arrives although the other end writes too, and
// after this end was closed.
type memoryConn struct {
	local, remote memoryAddr
	in, out       *stream
	read, write   deadline
	once          sync.Once
}

// connect returns the two ends of a connection to a host.
func connect(host string) (client, server *memoryConn) {
	up, down := newStream(), newStream()
	client = &memoryConn{local: "client", remote: memoryAddr(host), in: down, out: up, read: newDeadline(), write: newDeadline()}
	server = &memoryConn{local: memoryAddr(host), remote: "client", in: up, out: down, read: newDeadline(), write: newDeadline()}
	return client, server
}

type memoryAddr string

func (memoryAddr) Network() string  { return "memory" }
func (a memoryAddr) String() string { return string(a) + ":0" }

func (c *memoryConn) Read(p []byte) (int, error)  { return c.in.read(p, &c.read) }
func (c *memoryConn) Write(p []byte) (int, error) { return c.out.write(p, &c.write) }
func (c *memoryConn) LocalAddr() net.Addr         { return c.local }
func (c *memoryConn) RemoteAddr() net.Addr        { return c.remote }

// Close lets the other end read what is on its way, and then the end.
func (c *memoryConn) Close() error {
	c.once.Do(func() {
		c.out.end(io.EOF)
		c.in.abandon()
		c.read.set(time.Unix(0, 1))
		c.write.set(time.Unix(0, 1))
	})
	return nil
}

// reset closes it so that the other end gets an error, and nothing that is on its way.
func (c *memoryConn) reset() {
	c.out.end(&net.OpError{Op: "read", Net: "memory", Err: os.NewSyscallError("read", syscall.ECONNRESET)})
	c.Close()
}

func (c *memoryConn) SetDeadline(t time.Time) error {
	c.read.set(t)
	c.write.set(t)
	return nil
}
func (c *memoryConn) SetReadDeadline(t time.Time) error  { c.read.set(t); return nil }
func (c *memoryConn) SetWriteDeadline(t time.Time) error { c.write.set(t); return nil }

// streamBytes is how much one direction holds that nobody has read, about what a
// socket does.
const streamBytes = 256 << 10

// stream is one direction of a connection.
type stream struct {
	mu      sync.Mutex
	buf     []byte
	ended   error // what the reader gets after buf
	gone    bool  // nobody reads any more
	changed chan struct{}
}

func newStream() *stream { return &stream{changed: make(chan struct{})} }

// tell wakes whoever waits. The caller holds s.mu.
func (s *stream) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *stream) read(p []byte, d *deadline) (int, error) {
	for {
		s.mu.Lock()
		switch {
		case d.over():
			s.mu.Unlock()
			return 0, s.failed(d)
		case len(s.buf) > 0:
			n := copy(p, s.buf)
			if s.buf = s.buf[n:]; len(s.buf) == 0 {
				s.buf = nil
			}
			s.tell()
			s.mu.Unlock()
			return n, nil
		case s.ended != nil:
			s.mu.Unlock()
			return 0, s.ended
		case len(p) == 0:
			s.mu.Unlock()
			return 0, nil
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-d.wait():
		}
	}
}

func (s *stream) write(p []byte, d *deadline) (written int, err error) {
	for {
		s.mu.Lock()
		switch {
		case s.ended != nil || d.over():
			s.mu.Unlock()
			return written, s.failed(d)
		case s.gone:
			s.mu.Unlock()
			return written, &net.OpError{Op: "write", Net: "memory", Err: os.NewSyscallError("write", syscall.EPIPE)}
		}
		if room := streamBytes - len(s.buf); room > 0 {
			n := min(room, len(p)-written)
			s.buf = append(s.buf, p[written:written+n]...)
			written += n
			s.tell()
		}
		changed := s.changed
		s.mu.Unlock()
		if written == len(p) {
			return written, nil
		}
		select {
		case <-changed:
		case <-d.wait():
		}
	}
}

// failed returns the error of a connection that was closed, or is out of time.
func (s *stream) failed(d *deadline) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil || s.gone {
		return net.ErrClosed
	}
	return os.ErrDeadlineExceeded
}

// end ends the stream at the writer's side; unless that is in order, what is on its
// way is lost.
func (s *stream) end(with error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return
	}
	if s.ended = with; with != io.EOF {
		s.buf = nil
	}
	s.tell()
}

// abandon ends it at the reader's.
func (s *stream) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone, s.buf = true, nil
	s.tell()
}

// deadline is a time after which reading or writing fails, that can be set anew.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	times int           // it was set
	done  chan struct{} // closed when it is over
}

func newDeadline() deadline { return deadline{done: make(chan struct{})} }

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.times++
	select {
	case <-d.done: // it was over
		d.done = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	if left := time.Until(t); left > 0 {
		times := d.times
		d.timer = time.AfterFunc(left, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.times == times { // not set anew meanwhile
				close(d.done)
			}
		})
		return
	}
	close(d.done)
}

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.done
}

func (d *deadline) over() bool {
	select {
	case <-d.wait():
		return true
	default:
		return false
	}
}
