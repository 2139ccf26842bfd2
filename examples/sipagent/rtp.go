package main

import (
	"context"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"time"
)

// audio is the call's stream of PCMU (G.711 µ-law, 8000 samples a second) over RTP
// (RFC 3550, RFC 3551).
type audio struct {
	conn   *net.UDPConn
	remote netip.AddrPort
	digits int // payload type of telephone-event, 0 for none
}

const (
	sampleRate = 8000
	perPacket  = sampleRate / 50 // 20 ms
)

// openAudio takes a port on the address that the agent listens on.
func openAudio(ip net.IP, o offer) (*audio, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: ip})
	if err != nil {
		return nil, err
	}
	return &audio{conn, o.remote, o.digits}, nil
}

// say sends the text as tones, a packet each 20 ms, until it is said or ctx ends.
//
// Text-to-speech is not part of this example. The text's bytes are spelled as DTMF
// digits, two a byte, so that what a caller would hear depends on what the lookup
// gave, and can be read back from the audio.
func (a *audio) say(ctx context.Context, text string) {
	packet := make([]byte, 12+perPacket)
	packet[0] = 2 << 6        // version; payload type 0 is PCMU
	packet[1] = 1 << 7        // marker: a talkspurt begins
	sequence := rand.Uint32() // of it the low 16 bits
	timestamp := rand.Uint32()
	binary.BigEndian.PutUint32(packet[8:], rand.Uint32()) // SSRC
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	samples := spell(text)
	for ; len(samples) > 0; samples = samples[perPacket:] {
		binary.BigEndian.PutUint16(packet[2:], uint16(sequence))
		binary.BigEndian.PutUint32(packet[4:], timestamp)
		for i, s := range samples[:perPacket] {
			packet[12+i] = muLaw(s)
		}
		_, _ = a.conn.WriteToUDPAddrPort(packet, a.remote) // what is lost is lost
		packet[1] = 0
		sequence++
		timestamp += perPacket
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// listen tells the digits that the caller dials (RFC 4733), until the stream is
// closed. Nobody listens to what they say.
func (a *audio) listen(dialed func(digit byte)) {
	packet := make([]byte, 1500)
	last, heard := uint32(0), false
	for {
		n, from, err := a.conn.ReadFromUDPAddrPort(packet)
		if err != nil {
			return
		}
		if n < 16 || packet[0]&0xdf != 2<<6 || a.digits == 0 || int(packet[1]&0x7f) != a.digits || from.Addr() != a.remote.Addr() {
			continue // audio, or from somebody else; headers with extensions or sources are nobody's here
		}
		// A digit is told in many packets, which have the time of its beginning.
		if at := binary.BigEndian.Uint32(packet[4:]); !heard || at != last {
			last, heard = at, true
			if event := packet[12]; int(event) < len(events) {
				dialed(events[event])
			}
		}
	}
}

// events are the digits in the order of RFC 4733's codes, which here also stand for
// the values 0 to 15.
const events = "0123456789*#ABCD"

// spell returns the samples of a text's bytes as DTMF digits (ITU-T Q.23), 40 ms of
// tone and 40 ms of silence each, the higher half of a byte first.
func spell(text string) []int16 {
	low := []float64{697, 770, 852, 941}
	high := []float64{1209, 1336, 1477, 1633}
	samples := make([]int16, 0, len(text)*8*perPacket)
	for _, b := range []byte(text) {
		for _, value := range []byte{b >> 4, b & 15} {
			key := strings.IndexByte("123A456B789C*0#D", events[value])
			for i := range 2 * perPacket {
				t := 2 * math.Pi * float64(i) / sampleRate
				samples = append(samples, int16(8000*math.Sin(low[key/4]*t)+8000*math.Sin(high[key%4]*t)))
			}
			samples = append(samples, make([]int16, 2*perPacket)...)
		}
	}
	return samples
}

// muLaw encodes a sample (ITU-T G.711).
func muLaw(sample int16) byte {
	sign, magnitude := byte(0), int(sample)
	if magnitude < 0 {
		sign, magnitude = 0x80, -magnitude
	}
	magnitude = min(magnitude, 32635) + 132
	exponent := 7
	for mask := 0x4000; exponent > 0 && magnitude&mask == 0; mask >>= 1 {
		exponent--
	}
	return ^(sign | byte(exponent)<<4 | byte(magnitude>>(exponent+3))&0x0f)
}
