package egress_test

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/callhook-go/callhook/internal/egress"
	"github.com/google/go-cmp/cmp"
)

// blocks are the addresses that the tables in testdata list.
type block struct {
	file, name string
	bits       string // the prefix in binary
	v4         bool
	reachable  string // the column "Globally Reachable", or what stands in for it
	first      netip.Addr
	last       netip.Addr
}

// readCSV reads a table of testdata without its header.
func readCSV(t testing.TB, name string) [][]string {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return rows[1:]
}

func readBlocks(t testing.TB) (all []block) {
	t.Helper()
	for name, want := range map[string]int{
		"iana-ipv4-special-registry-1.csv": 26, "iana-ipv6-special-registry-1.csv": 25, "ipv6-address-space-1.csv": 20, "others.csv": 2,
	} {
		n := 0
		for _, row := range readCSV(t, name) {
			reachable := "False"
			switch {
			case strings.Contains(name, "special"):
				reachable, _, _ = strings.Cut(row[8], " ") // without its footnote
			case row[1] == "Global Unicast":
				reachable = "True"
			}
			for _, b := range strings.Split(row[0], ", ") {
				b, _, _ = strings.Cut(b, " ")
				p := netip.MustParsePrefix(b)
				if p != p.Masked() {
					t.Errorf("%s: %s has bits outside of its prefix", name, b)
				}
				bits := bitsOf(p.Addr())[:p.Bits()]
				all = append(all, block{
					file: name, name: row[1], bits: bits, v4: p.Addr().Is4(), reachable: reachable,
					first: filled(bits, "0", p.Addr().BitLen()), last: filled(bits, "1", p.Addr().BitLen()),
				})
				n++
			}
		}
		if n != want {
			t.Errorf("%s has %d blocks, want %d", name, n, want)
		}
	}
	return all
}

// bitsOf writes an address as zeros and ones.
func bitsOf(a netip.Addr) string {
	var s strings.Builder
	for _, b := range a.AsSlice() {
		fmt.Fprintf(&s, "%08b", b)
	}
	return s.String()
}

// filled is the address that begins with bits and goes on with digit.
func filled(bits, digit string, length int) netip.Addr {
	return fromBinary(bits + strings.Repeat(digit, length-len(bits)))
}

func fromBinary(bits string) netip.Addr {
	b := make([]byte, len(bits)/8)
	for i := range b {
		n, err := strconv.ParseUint(bits[8*i:8*i+8], 2, 8)
		if err != nil {
			panic(err)
		}
		b[i] = byte(n)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// reference is the guard's rule once more, slow and straight from the tables.
type reference []block

var (
	mappedBits = strings.Repeat("0", 80) + strings.Repeat("1", 16)
	nat64Bits  = bitsOf(netip.MustParseAddr("64:ff9b::"))[:96]
	isatapBits = bitsOf(netip.MustParseAddr("::5efe:0:0"))[64:96]
)

// seen is the address that counts: what a mapped or a NAT64 address stands for, and every other one itself.
func seen(a netip.Addr) string {
	bits := bitsOf(a)
	if len(bits) == 128 && (bits[:96] == mappedBits || bits[:96] == nat64Bits) {
		return bits[96:]
	}
	return bits
}

func (r reference) public(a netip.Addr) bool { return r.publicBits(seen(a)) }

func (r reference) publicBits(bits string) bool {
	unicast := len(bits) == 32
	for _, b := range r {
		if b.v4 != (len(bits) == 32) || !strings.HasPrefix(bits, b.bits) {
			continue
		}
		if b.name != "Global Unicast" {
			return false
		}
		unicast = true
	}
	if len(bits) == 128 {
		if id := bits[64:70] + "0" + bits[71:96]; id == isatapBits { // the bit in between says "globally unique"
			return unicast && r.publicBits(bits[96:])
		}
	}
	return unicast
}

// allowed says what AllowNets makes of it.
func (r reference) allowed(nets []netip.Prefix, a netip.Addr) bool {
	bits := seen(a)
	for _, p := range nets {
		prefix := bitsOf(p.Addr())[:p.Bits()]
		if len(prefix) >= 96 && prefix[:96] == mappedBits {
			prefix = prefix[96:]
			if len(bits) == 32 && strings.HasPrefix(bits, prefix) {
				return true
			}
			continue
		}
		if p.Addr().BitLen() == len(bits) && strings.HasPrefix(bits, prefix) {
			return true
		}
	}
	return r.publicBits(bits)
}

func blocked(t testing.TB, c *egress.Client, host string) bool {
	t.Helper()
	err := c.CheckHost(host)
	if err != nil {
		if _, ok := errors.AsType[*egress.BlockedError](err); !ok {
			t.Fatalf("CheckHost(%q): %v", host, err)
		}
	}
	return err != nil
}

// samples are addresses of b, and the neighbours just outside.
func (b block) samples() (inside, outside []netip.Addr) {
	length, n := b.first.BitLen(), len(b.bits)
	inside = []netip.Addr{b.first, b.last}
	for _, pattern := range []string{"01", "10", "0011", "0000000000000001", "1111111111111110"} {
		rest := strings.Repeat(pattern, length)[:length-n]
		inside = append(inside, fromBinary(b.bits+rest))
	}
	for _, a := range []netip.Addr{b.first.Prev(), b.last.Next()} {
		if a.IsValid() {
			outside = append(outside, a)
		}
	}
	return inside, outside
}

func TestRegistries(t *testing.T) {
	blocks := readBlocks(t)
	r, c := reference(blocks), newClient(t, egress.Options{})
	var reachable []string // what could be reached and is refused
	for _, b := range blocks {
		inside, outside := b.samples()
		for _, a := range append(inside, outside...) {
			for _, form := range spellings(a) {
				if got, want := blocked(t, c, form), !r.public(a); got != want {
					t.Errorf("%s, at the edge of %s (%s): blocked = %v, want %v", form, b.first, b.name, got, want)
				}
			}
		}
		carrier := b.bits == mappedBits || b.bits == nat64Bits
		if carrier || b.name == "Global Unicast" {
			continue
		}
		for _, a := range inside { // said once more without the reference, as it is what matters
			if !blocked(t, c, a.String()) {
				t.Errorf("%s of %s (%s, globally reachable: %q) is not blocked", a, b.first, b.name, b.reachable)
			}
		}
		if b.reachable == "True" {
			reachable = append(reachable, b.name)
		}
	}
	slices.Sort(reachable)
	want := []string{
		"AMT", "AMT", "AS112-v4", "AS112-v6", "DNS-SD Service Registration Protocol Anycast", "Direct Delegation AS112 Service",
		"Direct Delegation AS112 Service", "Drone Remote ID Protocol Entity Tags (DETs) Prefix", "ORCHIDv2",
		"Port Control Protocol Anycast", "Port Control Protocol Anycast",
		"Traversal Using Relays around NAT Anycast", "Traversal Using Relays around NAT Anycast",
	}
	if diff := cmp.Diff(want, reachable); diff != "" {
		t.Errorf("globally reachable and blocked nevertheless (-want +got):\n%s", diff)
	}
}

// spellings are other ways to write a.
func spellings(a netip.Addr) []string {
	s := []string{a.String(), a.StringExpanded(), strings.ToUpper(a.StringExpanded()), "[" + a.String() + "]", a.String() + "."}
	if a.Is4() {
		b := a.As16()
		m := netip.AddrFrom16(b)
		return append(s, m.String(), m.StringExpanded(), fmt.Sprintf("::ffff:%x:%x", uint16(b[12])<<8|uint16(b[13]), uint16(b[14])<<8|uint16(b[15])))
	}
	return append(s, a.WithZone("eth0").String(), "["+a.WithZone("0").String()+"]")
}

// TestPublicAddresses: a guard that refuses everything would pass most other tests.
func TestPublicAddresses(t *testing.T) {
	c := newClient(t, egress.Options{})
	for _, host := range []string{
		"1.0.0.0", "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
		"168.63.129.15", "168.63.129.17", "169.253.255.255", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.167.255.255", "223.255.255.255",
		"2000::", "2001:200::", "2003::1", "2606:4700:4700::1111", "2a00:1450:4001::1", "3ffe:ffff::1", "3fff:1000::",
		"::ffff:8.8.8.8", "::ffff:808:808",
		"64:ff9b::8.8.8.8", "64:ff9b::dfff:ffff",
		"2606:4700::5efe:8.8.8.8", "2606:4700::200:5efe:8.8.8.8", // ISATAP
		"2606:4700::5eff:10.0.0.1", "2606:4700::100:5efe:10.0.0.1", "2606:4700::5efe:0:10.0.0.1", // nearly
		"crm.example.com", "localhost", "", ".", "[]", "%", "127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", // names
	} {
		if blocked(t, c, host) {
			t.Errorf("%q is blocked", host)
		}
	}
}

// special are addresses that are not on the public internet, as they may stand in a URL, and as they are reported.
var special = map[string]string{
	"127.0.0.1":                         "127.0.0.1",
	"127.255.255.254":                   "127.255.255.254",
	"0.0.0.0":                           "0.0.0.0",
	"10.1.2.3":                          "10.1.2.3",
	"100.64.0.1":                        "100.64.0.1",
	"169.254.169.254":                   "169.254.169.254",
	"172.16.0.1":                        "172.16.0.1",
	"192.168.1.1":                       "192.168.1.1",
	"192.0.2.1":                         "192.0.2.1",
	"198.18.0.1":                        "198.18.0.1",
	"224.0.0.1":                         "224.0.0.1",
	"240.0.0.1":                         "240.0.0.1",
	"255.255.255.255":                   "255.255.255.255",
	"100.100.100.200":                   "100.100.100.200", // metadata: Alibaba
	"192.0.0.192":                       "192.0.0.192",     // Oracle
	"168.63.129.16":                     "168.63.129.16",   // Azure
	"[fd00:ec2::254]":                   "fd00:ec2::254",   // Amazon
	"[fd20:ce::254]":                    "fd20:ce::254",    // Google
	"[::]":                              "::",
	"[::1]":                             "::1",
	"[::7f00:1]":                        "::7f00:1",      // IPv4-compatible
	"[::10.0.0.1]":                      "::a00:1",       //
	"[::8.8.8.8]":                       "::808:808",     // even of a public one
	"[::ffff:127.0.0.1]":                "127.0.0.1",     // IPv4-mapped
	"[::FFFF:7F00:1]":                   "127.0.0.1",     //
	"[0:0:0:0:0:ffff:0:0]":              "0.0.0.0",       //
	"[::ffff:168.63.129.16]":            "168.63.129.16", //
	"[::ffff:a9fe:a9fe]":                "169.254.169.254",
	"[::ffff:0:7f00:1]":                 "::ffff:0:7f00:1",    // IPv4-translated
	"[64:ff9b::7f00:1]":                 "64:ff9b::7f00:1",    // NAT64
	"[64:ff9b::10.1.2.3]":               "64:ff9b::a01:203",   //
	"[64:ff9b::a83f:8110]":              "64:ff9b::a83f:8110", //
	"[64:ff9b::224.0.0.1]":              "64:ff9b::e000:1",    //
	"[64:ff9b:0:1::808:808]":            "64:ff9b:0:1::808:808",
	"[64:ff9b:1::a00:1]":                "64:ff9b:1::a00:1",   // local NAT64
	"[64:ff9b:1::808:808]":              "64:ff9b:1::808:808", //
	"[100::1]":                          "100::1",             // discard
	"[2001::1]":                         "2001::1",            // Teredo
	"[2001:0:808:808::1]":               "2001:0:808:808::1",  //
	"[2001:db8::1]":                     "2001:db8::1",        // documentation
	"[2002:7f00:1::]":                   "2002:7f00:1::",      // 6to4
	"[2002:a00:1::1]":                   "2002:a00:1::1",      //
	"[2002:808:808::1]":                 "2002:808:808::1",    //
	"[2002:7f00:1::%25eth0]":            "2002:7f00:1::%eth0",
	"[2606:4700::5efe:a00:1]":           "2606:4700::5efe:a00:1", // ISATAP
	"[2606:4700::200:5efe:192.168.1.1]": "2606:4700::200:5efe:c0a8:101",
	"[2606:4700::5efe:127.0.0.1]":       "2606:4700::5efe:7f00:1",
	"[fe80::5efe:8.8.8.8]":              "fe80::5efe:808:808",
	"[3fff::1]":                         "3fff::1",
	"[fd00::1]":                         "fd00::1",
	"[fe80::1%25eth0]":                  "fe80::1%eth0",
	"[::1%25lo]":                        "::1%lo",
	"[::ffff:127.0.0.1%25lo]":           "127.0.0.1",
	"[fec0::1]":                         "fec0::1",
	"[ff02::1]":                         "ff02::1",
	"[ff0e::1]":                         "ff0e::1",
	"[4000::1]":                         "4000::1",
}

func TestSpecialAddressesAreBlocked(t *testing.T) {
	c := newClient(t, egress.Options{})
	for host, addr := range special {
		want := &egress.BlockedError{Addr: addr, Literal: true}
		u, err := url.Parse("http://" + host + ":5678/")
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		forms := []string{u.Hostname()}
		if !strings.Contains(addr, "%") { // a zone may end in a dot
			forms = append(forms, u.Hostname()+".")
		}
		if strings.HasPrefix(host, "[") {
			forms = append(forms, "["+u.Hostname()+"]")
		}
		for _, form := range forms {
			got, _ := errors.AsType[*egress.BlockedError](c.CheckHost(form))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("CheckHost(%q) (-want +got):\n%s", form, diff)
			}
		}
		got, _ := errors.AsType[*egress.BlockedError](c.CheckURL(u))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("CheckURL(%s) (-want +got):\n%s", u, diff)
		}
		_, err = do(t, c, u.String())
		got, _ = errors.AsType[*egress.BlockedError](err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Do(%s): %v (-want +got):\n%s", u, err, diff)
		}
	}
}

func TestAllowNets(t *testing.T) {
	tests := map[string]struct {
		allow string          // separated by blanks
		want  map[string]bool // host → blocked
	}{
		"nothing": {want: map[string]bool{
			"8.8.8.8": false, "[2606:4700:4700::1111]": false, "crm.example.com": false, "localhost": false, "": false, "10.0.0.1": true,
		}},
		"an IPv4 network": {allow: "10.1.0.0/16", want: map[string]bool{
			"10.1.0.0": false, "10.1.255.255": false, "::ffff:10.1.0.1": false, "10.1.0.1.": false, "64:ff9b::10.1.0.1": false,
			"10.2.0.0": true, "10.0.255.255": true, "127.0.0.1": true, "::1": true, "8.8.8.8": false,
			"::10.1.0.1": true, "2002:a01:1::": true, "64:ff9b:1::10.1.0.1": true, "2606:4700::5efe:10.1.0.1": true, // other addresses
		}},
		"an IPv4 network in IPv6 form": {allow: "::ffff:10.1.0.0/112", want: map[string]bool{
			"10.1.0.1": false, "::ffff:10.1.0.1": false, "10.2.0.1": true, "::ffff:10.2.0.1": true,
		}},
		"every IPv4 address in IPv6 form": {allow: "::ffff:0:0/96", want: map[string]bool{
			"10.1.0.1": false, "::ffff:127.0.0.1": false, "64:ff9b::127.0.0.1": false, "::1": true,
		}},
		"more than the mapped ones": {allow: "::ffff:0:0/95", want: map[string]bool{
			"::fffe:7f00:1": false, "::ffff:127.0.0.1": true, "127.0.0.1": true,
		}},
		"host bits": {allow: "10.1.2.3/16", want: map[string]bool{"10.1.0.0": false, "10.1.255.255": false, "10.2.2.3": true}},
		"one IPv4 address": {allow: "10.1.2.3/32", want: map[string]bool{
			"10.1.2.3": false, "::ffff:a01:203": false, "10.1.2.2": true, "10.1.2.4": true,
		}},
		"one IPv6 address": {allow: "fd00::1/128", want: map[string]bool{
			"fd00::1": false, "fd00:0:0::1": false, "fd00::1%eth0": false, "fd00::": true, "fd00::2": true,
		}},
		"every IPv4 address": {allow: "0.0.0.0/0", want: map[string]bool{
			"127.0.0.1": false, "255.255.255.255": false, "::ffff:0.0.0.0": false, "64:ff9b::10.0.0.1": false, "::1": true, "fd00::1": true,
		}},
		"every IPv6 address": {allow: "::/0", want: map[string]bool{
			"::1": false, "fe80::1%eth0": false, "::127.0.0.1": false, "2002:7f00:1::": false, "64:ff9b:1::10.0.0.1": false,
			"127.0.0.1": true, "::ffff:127.0.0.1": true, "64:ff9b::127.0.0.1": true, // IPv4, whatever they are written like
			"64:ff9b::8.8.8.8": false,
		}},
		"overlapping": {allow: "10.0.0.0/9 10.64.0.0/10 10.128.0.1/32 10.0.0.0/9", want: map[string]bool{
			"10.0.0.1": false, "10.64.0.1": false, "10.127.255.255": false, "10.128.0.1": false, "10.128.0.0": true, "10.128.0.2": true,
		}},
		"link-local": {allow: "fe80::/10", want: map[string]bool{}},
		"NAT64": {allow: "64:ff9b::/96", want: map[string]bool{
			"64:ff9b::808:808": false, "64:ff9b:1::808:808": true, "64:ff9b::a00:1": true, "64:ff9b::127.0.0.1": true,
		}},
		"private addresses behind NAT64": {allow: "64:ff9b::10.0.0.0/104", want: map[string]bool{"64:ff9b::a00:1": true, "10.0.0.1": true}},
		"local NAT64": {allow: "64:ff9b:1::/96", want: map[string]bool{
			"64:ff9b:1::8.8.8.8": false, "64:ff9b:1::10.0.0.1": false, "64:ff9b:1:1::8.8.8.8": true, "64:ff9b::10.0.0.1": true,
		}},
		"6to4": {allow: "2002:808:808::/48", want: map[string]bool{"2002:808:808::1": false, "2002:808:809::1": true, "2002:a00:1::1": true}},
		"ISATAP": {allow: "2606:4700::5efe:10.0.0.0/104", want: map[string]bool{
			"2606:4700::5efe:10.0.0.1": false, "2606:4700::5efe:11.0.0.1": false, "2606:4700::5efe:127.0.0.1": true, "10.0.0.1": true,
		}},
		"what is special": {allow: "168.63.129.16/32", want: map[string]bool{"168.63.129.16": false}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			nets := append(prefixes(strings.Fields(test.allow)...), netip.Prefix{}) // an invalid one allows nothing
			c, got := newClient(t, egress.Options{AllowNets: nets}), map[string]bool{}
			for host := range test.want {
				got[host] = blocked(t, c, host)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("blocked (-want +got):\n%s", diff)
			}
		})
	}
	own := egress.Options{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, nil }}
	if err := newClient(t, own).CheckHost("127.0.0.1"); err != nil {
		t.Errorf("CheckHost with Options.Dial: %v", err)
	}
}

// TestAllowNetsOpensExactlyWhatItSays: an address may be dialled if and only if it is public or in one of the networks.
func TestAllowNetsOpensExactlyWhatItSays(t *testing.T) {
	r := reference(readBlocks(t))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	// Random bits alone would never meet a block, a network, or an edge of either.
	near := func(bits string) netip.Addr {
		b := []byte(bits)
		for i := range rnd.IntN(len(b) + 1) {
			b[len(b)-1-i] = "01"[rnd.IntN(2)]
		}
		if rnd.IntN(4) == 0 {
			b[rnd.IntN(len(b))] ^= 1
		}
		return fromBinary(string(b))
	}
	anyAddr := func() netip.Addr {
		b := r[rnd.IntN(len(r))]
		a := []netip.Addr{b.first, b.last}[rnd.IntN(2)]
		if a.Is4() && rnd.IntN(2) == 0 {
			a = fromBinary([]string{mappedBits, nat64Bits, bitsOf(netip.MustParseAddr("2606::5efe:0:0"))[:96]}[rnd.IntN(3)] + bitsOf(a))
		}
		return near(bitsOf(a))
	}
	var open, shut int
	for range 1_000 {
		var nets []netip.Prefix
		for range rnd.IntN(4) {
			a := anyAddr()
			nets = append(nets, netip.PrefixFrom(a, rnd.IntN(a.BitLen()+1)))
		}
		c := egress.New(egress.Options{AllowNets: nets})
		for range 10 {
			a := anyAddr()
			if len(nets) > 0 && rnd.IntN(2) == 0 {
				p := nets[rnd.IntN(len(nets))]
				a = near(bitsOf(p.Addr()))
			}
			got, want := blocked(t, c, a.String()), !r.allowed(nets, a)
			if got != want {
				t.Fatalf("%s with %v: blocked = %v, want %v", a, nets, got, want)
			}
			if !got && !r.public(a) {
				open++
			} else if got && len(nets) > 0 {
				shut++
			}
		}
	}
	if open < 300 || shut < 300 {
		t.Errorf("%d addresses were opened and %d stayed shut: too few to tell anything", open, shut)
	}
}

func TestPorts(t *testing.T) {
	bad := map[uint16]bool{}
	for _, row := range readCSV(t, "fetch-bad-ports.csv") {
		port, err := strconv.ParseUint(row[0], 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		bad[uint16(port)] = true
	}
	if len(bad) != 83 {
		t.Errorf("%d ports are listed, want 83", len(bad))
	}
	tests := map[string]struct {
		options egress.Options
		host    string
		blocked func(port uint16) bool
	}{
		"any but the bad ones":        {host: "crm.example.com", blocked: func(p uint16) bool { return bad[p] }},
		"at an address":               {host: "8.8.8.8", blocked: func(p uint16) bool { return bad[p] }},
		"at an allowed address":       {options: egress.Options{AllowNets: loopback}, host: "127.0.0.1", blocked: func(p uint16) bool { return bad[p] }},
		"an empty list":               {options: egress.Options{Ports: []uint16{}}, host: "crm.example.com", blocked: func(p uint16) bool { return bad[p] }},
		"only these":                  {options: egress.Options{Ports: []uint16{443, 5678}}, host: "crm.example.com", blocked: func(p uint16) bool { return p != 443 && p != 5678 }},
		"only these, one of them bad": {options: egress.Options{Ports: []uint16{443, 25}}, host: "crm.example.com", blocked: func(p uint16) bool { return p != 443 && p != 25 }},
		"with a dialler": {
			options: egress.Options{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("dialled") }},
			host:    "10.0.0.1", blocked: func(p uint16) bool { return bad[p] },
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, test.options)
			for port := range 1 << 16 {
				u := &url.URL{Scheme: "https", Host: test.host + ":" + strconv.Itoa(port)}
				var want *egress.BlockedError
				if test.blocked(uint16(port)) {
					want = &egress.BlockedError{Port: uint16(port), Literal: true}
				}
				err := c.CheckURL(u)
				got, _ := errors.AsType[*egress.BlockedError](err)
				if (err != nil) != (want != nil) || want != nil && (got == nil || *got != *want) {
					t.Fatalf("port %d: %v, want %v", port, err, want)
				}
			}
		})
	}
}

func TestCheckURL(t *testing.T) {
	only := func(ports ...uint16) egress.Options { return egress.Options{Ports: ports} }
	tests := []struct {
		options egress.Options
		url     string
		want    string
	}{
		{url: "https://crm.example.com/hook"},
		{url: "http://crm.example.com:5678/"},
		{url: "https://crm.example.com:25/", want: "port 25 is blocked"},
		{url: "https://crm.example.com:0/", want: "port 0 is blocked"},
		{url: "http://crm.example.com:00025/", want: "port 25 is blocked"},
		{url: "http://crm.example.com:65561/"}, // 25 and 65536: not a port, which the dialler says
		{url: "http://crm.example.com:4294967321/"},
		{url: "http://crm.example.com:/"},
		{url: "http://[2606:4700::1]:6667/", want: "port 6667 is blocked"},
		{url: "http://10.0.0.1:25/", want: "address 10.0.0.1 is blocked"}, // both, and that is what matters more
		{options: only(443), url: "https://crm.example.com/"},
		{options: only(443), url: "https://crm.example.com:/"},
		{options: only(443), url: "https://crm.example.com:443/"},
		{options: only(443), url: "http://crm.example.com:443/"},
		{options: only(443), url: "http://crm.example.com/", want: "port 80 is blocked"},
		{options: only(443), url: "https://crm.example.com:8443/", want: "port 8443 is blocked"},
		{options: only(80), url: "https://crm.example.com/", want: "port 443 is blocked"},
	}
	for _, test := range tests {
		u, err := url.Parse(test.url)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := newClient(t, test.options).CheckURL(u); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("Ports %v: CheckURL(%s) = %q, want %q", test.options.Ports, test.url, got, test.want)
		}
	}
}

// FuzzGuard compares the guard's verdict about any address with what the tables say.
func FuzzGuard(f *testing.F) {
	blocks := readBlocks(f)
	r, c := reference(blocks), egress.New(egress.Options{})
	for _, b := range blocks {
		inside, outside := b.samples()
		for _, a := range append(inside, outside...) {
			f.Add(a.AsSlice(), "")
			if a.Is4() {
				f.Add(fromBinary(mappedBits+bitsOf(a)).AsSlice(), "lo")
				f.Add(fromBinary(nat64Bits+bitsOf(a)).AsSlice(), "eth0")
			}
		}
	}
	for _, host := range []string{"fe80::1", "2606::5efe:10.0.0.1", "2606::200:5efe:10.0.0.1", "2606::300:5efe:10.0.0.1"} {
		for _, zone := range []string{"", ".", "%", "]", "].", "eth0.", "1", "\x00", "é"} {
			f.Add(netip.MustParseAddr(host).AsSlice(), zone)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, zone string) {
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		want := !r.public(a)
		if a.Is6() {
			a = a.WithZone(zone)
		}
		for _, host := range []string{a.String(), "[" + a.String() + "]"} {
			if got := blocked(t, c, host); got != want {
				t.Errorf("%q: blocked = %v, want %v", host, got, want)
			}
		}
	})
}
