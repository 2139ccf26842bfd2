package main

import (
	"encoding/binary"
	"errors"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// phone is where a caller hears the agent.
type phone struct {
	conn *net.UDPConn
	dial byte // the digit that it dials
	at   int  // when so many packets have been heard

	mu      sync.Mutex
	packets [][]byte
}

// newPhone returns a phone that dials a digit when it has heard so many packets. It
// listens until the test is over.
func newPhone(t *testing.T, dial byte, at int) *phone {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	p := &phone{conn: conn, dial: dial, at: at}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.listen(t)
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return p
}

func (p *phone) port() string { return strconv.Itoa(p.conn.LocalAddr().(*net.UDPAddr).Port) }

func (p *phone) listen(t *testing.T) {
	buf := make([]byte, 1500)
	for {
		n, agent, err := p.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
		p.mu.Lock()
		p.packets = append(p.packets, append([]byte(nil), buf[:n]...))
		now := len(p.packets) == p.at
		p.mu.Unlock()
		if now {
			p.press(t, agent)
		}
	}
}

// press sends the digit as phones do (RFC 4733): packets while it is held, all with the
// time of its beginning, and three that say that it is released.
func (p *phone) press(t *testing.T, agent netip.AddrPort) {
	for i := range 6 {
		packet := []byte{0x80, 101, 0, byte(i), 0, 0, 0x12, 0x34, 1, 2, 3, 4, p.dial - '0', 10, 0, byte(160 * min(i, 3) >> 8)}
		if i == 0 {
			packet[1] |= 0x80
		}
		if i >= 3 {
			packet[13] |= 0x80
		}
		if _, err := p.conn.WriteToUDPAddrPort(packet, agent); err != nil {
			t.Error(err)
		}
	}
}

// heard checks that PCMU came in order, and returns the text that it spells.
func (p *phone) heard(t *testing.T) string {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var samples []float64
	for i, packet := range p.packets {
		if len(packet) != 172 || packet[0] != 0x80 || packet[1]&0x7f != 0 || packet[1]>>7 == 1 != (i == 0) {
			t.Fatalf("packet %d is not 20 ms of PCMU: %d bytes, % x", i, len(packet), packet[:min(12, len(packet))])
		}
		first := p.packets[0]
		if binary.BigEndian.Uint16(packet[2:])-binary.BigEndian.Uint16(first[2:]) != uint16(i) ||
			binary.BigEndian.Uint32(packet[4:])-binary.BigEndian.Uint32(first[4:]) != uint32(160*i) ||
			string(packet[8:12]) != string(first[8:12]) {
			t.Fatalf("packet %d does not follow the others: % x, the first % x", i, packet[:12], first[:12])
		}
		for _, b := range packet[12:] {
			samples = append(samples, linear(b))
		}
	}
	var text []byte
	for i := 0; i+1280 <= len(samples); i += 1280 { // a byte is two digits of 40 ms tone and 40 ms silence
		text = append(text, digit(t, samples[i:i+320])<<4|digit(t, samples[i+640:i+960]))
	}
	return string(text)
}

// linear decodes a sample (G.711 µ-law).
func linear(b byte) float64 {
	b = ^b
	s := float64((int(b&0x0f)<<3+132)<<(b>>4&7) - 132)
	if b&0x80 != 0 {
		return -s
	}
	return s
}

// digit returns the value of a DTMF digit, by the strongest of its low and high
// frequencies.
func digit(t *testing.T, tone []float64) byte {
	t.Helper()
	strongest := func(frequencies ...float64) (at int) {
		best := 0.0
		for i, f := range frequencies {
			var re, im float64
			for n, s := range tone {
				re += s * math.Cos(2*math.Pi*f*float64(n)/8000)
				im += s * math.Sin(2*math.Pi*f*float64(n)/8000)
			}
			if power := re*re + im*im; power > best {
				best, at = power, i
			}
		}
		if loud := 8000 * float64(len(tone)) / 2; best < loud*loud/4 {
			t.Fatalf("there is no tone")
		}
		return at
	}
	row := []string{"123A", "456B", "789C", "*0#D"}[strongest(697, 770, 852, 941)]
	return byte(strings.IndexByte("0123456789*#ABCD", row[strongest(1209, 1336, 1477, 1633)]))
}
