package egress_test

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
)

// nameServer is a name server on loopback that may answer each question in another way.
type nameServer struct {
	*net.Resolver // asks it

	mu    sync.Mutex
	asked map[string]int // "crm.test A" → how often
}

// answers gives the records of a name, such as "A 127.0.0.1" and "CNAME localhost", to the questions of one type; asked says how many
// there were before. What follows a CNAME belongs to the name in it. Records of another type are left out.
type answers func(name string, asked int) []string

const (
	typeA     = 1
	typeCNAME = 5
	typeAAAA  = 28
)

func newNameServer(t *testing.T, records answers) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{asked: map[string]int{}}
	s.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	done := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			conn.WriteTo(s.answer(buf[:n], records), from)
		}
	}()
	return s
}

// answer answers a query with one question (RFC 1035, section 4). Every record has a TTL of 0.
func (s *nameServer) answer(query []byte, records answers) []byte {
	const header = 12
	var labels []string
	i := header
	for ; query[i] != 0; i += 1 + int(query[i]) {
		labels = append(labels, string(query[i+1:i+1+int(query[i])]))
	}
	name, qtype := strings.Join(labels, "."), binary.BigEndian.Uint16(query[i+1:])
	key := name + " " + map[uint16]string{typeA: "A", typeAAAA: "AAAA"}[qtype]
	s.mu.Lock()
	asked := s.asked[key]
	s.asked[key]++
	s.mu.Unlock()

	var body []byte
	count, owner := uint16(0), encodeName(name)
	for _, r := range records(name, asked) {
		kind, value, _ := strings.Cut(r, " ")
		rtype, data := uint16(typeCNAME), encodeName(value)
		if kind != "CNAME" {
			addr := netip.MustParseAddr(value)
			rtype, data = map[string]uint16{"A": typeA, "AAAA": typeAAAA}[kind], addr.AsSlice()
			if rtype != qtype {
				continue
			}
		}
		body = append(body, owner...)
		for _, v := range []uint16{rtype, 1, 0, 0, uint16(len(data))} {
			body = binary.BigEndian.AppendUint16(body, v)
		}
		body = append(body, data...)
		count++
		if kind == "CNAME" {
			owner = data
		}
	}
	out := append([]byte(nil), query[:2]...)
	for _, v := range []uint16{0x8180, 1, count, 0, 0} {
		out = binary.BigEndian.AppendUint16(out, v)
	}
	return append(append(out, query[header:i+5]...), body...)
}

// questions are those asked since the last call.
func (s *nameServer) questions() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = map[string]int{}
	return asked
}

func encodeName(name string) (b []byte) {
	for label := range strings.SplitSeq(name, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0)
}
