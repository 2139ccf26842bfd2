package egress

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"code.dny.dev/ssrf"
)

// guard decides which addresses and ports a [Client] may connect to. It never changes.
//
// An address is public if no block of IANA's special-purpose registries contains it, it is no multicast address, and, for IPv6,
// it is in 2000::/3, outside of which nothing is allocated. That refuses more than what the registries call not globally reachable:
// the blocks of single protocols, such as 192.0.0.9/32 (PCP), 192.175.48.0/24 (AS112) or 2001:20::/28 (ORCHIDv2), can be reached, and
// no endpoint is at home in them.
//
// IPv6 addresses can carry IPv4 ones:
//
//   - One of ::ffff:0:0/96 (mapped) or 64:ff9b::/96 (NAT64) is judged as the IPv4 address that it carries, by [Options].AllowNets too.
//     A network that has only IPv6 reaches every IPv4 endpoint through NAT64, so the block cannot be refused; and its DNS64
//     may put private addresses into it, although RFC 6052, section 3.1, forbids that, so it cannot be opened either.
//   - 6to4 (2002::/16), Teredo (2001::/32), IPv4-compatible (::/96) and IPv4-translated addresses (::ffff:0:0:0/96) are refused
//     whatever they carry: no endpoint needs them any more. So are those of the NAT64 gateways of single networks (64:ff9b:1::/48),
//     where only the gateway knows which bits are the IPv4 address. AllowNets opens them as it does any other address.
//   - An ISATAP address can have anybody's prefix. It is refused if it carries an IPv4 address that is not public.
type guard struct {
	allow   []netip.Prefix
	ports   []uint16 // empty for all but badPorts
	anyAddr bool     // Options.Dial decides about addresses
}

// registries is what the package ssrf knows: the special-purpose blocks, multicast, and 2000::/3.
var registries = ssrf.New()

// special are addresses that look public to the registries and are not.
var special = []netip.Prefix{
	// Azure's platform, which hands each virtual machine its secrets at this address; metadata services elsewhere have
	// private ones. https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
	netip.MustParsePrefix("168.63.129.16/32"),
}

// badPorts are those of the Fetch standard, https://fetch.spec.whatwg.org/#port-blocking.
var badPorts = []uint16{
	0, 1, 7, 9, 11, 13, 15, 17, 19, // tcpmux, echo, discard, systat, daytime, netstat, qotd, chargen
	20, 21, 22, 23, 25, 37, 42, 43, 53, 69, // ftp-data, ftp, ssh, telnet, smtp, time, name, nicname, domain, tftp
	77, 79, 87, 95, 101, 102, 103, 104, // finger, supdup, hostname, iso-tsap, gppitnp, acr-nema
	109, 110, 111, 113, 115, 117, 119, 123, // pop2, pop3, sunrpc, auth, sftp, uucp-path, nntp, ntp
	135, 137, 139, 143, 161, 179, // epmap, netbios-ns, netbios-ssn, imap, snmp, bgp
	389, 427, 465, 512, 513, 514, 515, // ldap, svrloc, submissions, exec, login, shell, printer
	526, 530, 531, 532, 540, 548, 554, 556, // tempo, courier, chat, netnews, uucp, afp, rtsp, remotefs
	563, 587, 601, 636, 989, 990, 993, 995, // nntps, submission, syslog-conn, ldaps, ftps-data, ftps, imaps, pop3s
	1719, 1720, 1723, 2049, 3659, 4045, 4190, // h323gatestat, h323hostcall, pptp, nfs, apple-sasl, npp, sieve
	5060, 5061, 6000, 6566, // sip, sips, x11, sane-port
	6665, 6666, 6667, 6668, 6669, 6679, 6697, // ircu, osaut, ircs-u
	10080, // amanda
}

func newGuard(o Options) *guard {
	g := &guard{ports: slices.Clone(o.Ports), anyAddr: o.Dial != nil}
	for _, p := range o.AllowNets {
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96) // as the addresses that are compared with it
		}
		g.allow = append(g.allow, p)
	}
	return g
}

// BlockedError says that a connection was refused: its address is neither on the public internet nor in [Options].AllowNets, or
// its port may not be used. No byte was sent.
type BlockedError struct {
	Addr string // the IP address, without a port; empty if the port was refused
	Port uint16 // the port that was refused, where Addr is empty
	// Literal: the URL itself has the port, or the address as its host, so that no retry can help. Otherwise a name resolved to
	// the address, which may change.
	Literal bool
}

func (e *BlockedError) Error() string {
	if e.Addr == "" {
		return "port " + strconv.Itoa(int(e.Port)) + " is blocked"
	}
	return "address " + e.Addr + " is blocked"
}

// CheckURL returns the [*BlockedError] with which Do refuses u whatever DNS says: for what [Client.CheckHost] says of its host, and
// for its port, which is that of its scheme if it has none. Nil means that nothing else can be known before the host is resolved.
func (c *Client) CheckURL(u *url.URL) error { return c.guard.check(u.Hostname(), portOf(u)) }

// CheckHost returns a [*BlockedError] if host is a literal IP address that Do refuses to dial, and nil for every name, about
// which nothing is known before it is resolved. An address may stand in brackets, have a zone, and end in a dot, but have no
// port. Numbers that only some resolvers read as an address, such as 127.1 or 2130706433, are names. With [Options].Dial
// addresses are not guarded and the answer is always nil.
func (c *Client) CheckHost(host string) error { return c.guard.checkHost(host) }

// before judges what is going to be dialled as far as it can be before its host is resolved.
func (g *guard) before(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil // the dialler says what is wrong with it
	}
	return g.check(host, port)
}

func (g *guard) check(host, port string) error {
	if err := g.checkHost(host); err != nil {
		return err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil
	}
	return g.checkPort(uint16(n))
}

// dial connects to addr over a [net.Dialer] that asks the guard.
func (g *guard) dial(ctx context.Context, resolver *net.Resolver, network, addr string) (net.Conn, error) {
	d := net.Dialer{Resolver: resolver}
	// Called with each address that DNS gave, when its socket exists and before it connects: nothing changes in between.
	d.Control = func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return &BlockedError{Addr: address}
		}
		if err := g.checkAddr(ap.Addr(), false); err != nil {
			return err
		}
		return g.checkPort(ap.Port())
	}
	return d.DialContext(ctx, network, addr)
}

func (g *guard) checkHost(host string) error {
	addr, ok := literal(host)
	if !ok || g.anyAddr {
		return nil
	}
	return g.checkAddr(addr, true)
}

// checkAddr judges one address, without its zone: no prefix ever contains an address that has one.
func (g *guard) checkAddr(addr netip.Addr, literal bool) error {
	target := addr.WithZone("")
	if v4, ok := carried(target); ok {
		target = v4
	}
	if contain(g.allow, target) || public(target) {
		return nil
	}
	return &BlockedError{Addr: addr.Unmap().String(), Literal: literal}
}

func (g *guard) checkPort(port uint16) error {
	ok := slices.Contains(g.ports, port)
	if len(g.ports) == 0 {
		ok = !slices.Contains(badPorts, port)
	}
	if !ok {
		return &BlockedError{Port: port, Literal: true}
	}
	return nil
}

func public(addr netip.Addr) bool {
	if registries.SafeAddr(addr) != nil || contain(special, addr) {
		return false
	}
	v4, ok := isatap(addr)
	return !ok || public(v4)
}

var nat64 = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052, section 2.1

// carried returns the IPv4 address that a mapped or a NAT64 address stands for.
func carried(addr netip.Addr) (netip.Addr, bool) {
	if addr.Is4In6() || nat64.Contains(addr) {
		return lastFour(addr), true
	}
	return netip.Addr{}, false
}

// isatap returns the IPv4 address in an interface identifier of RFC 5214, section 6.1.
func isatap(addr netip.Addr) (netip.Addr, bool) {
	b := addr.As16()
	if !addr.Is6() || b[8]&^2 != 0 || b[9] != 0 || b[10] != 0x5e || b[11] != 0xfe {
		return netip.Addr{}, false
	}
	return lastFour(addr), true
}

func lastFour(addr netip.Addr) netip.Addr {
	b := addr.As16()
	return netip.AddrFrom4([4]byte(b[12:]))
}

func contain(nets []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(nets, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// literal reads a host that is an IP address: what [net.Dialer] takes for one, and one that ends in a dot, which some resolvers do.
func literal(host string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(host); err == nil { // before anything is cut off, since a zone may end in a dot
		return addr, true
	}
	host = strings.TrimSuffix(host, ".")
	if n := len(host); n >= 2 && host[0] == '[' && host[n-1] == ']' {
		return literal(host[1 : n-1])
	}
	addr, err := netip.ParseAddr(host)
	return addr, err == nil
}

// portOf returns the port that is connected to for u.
func portOf(u *url.URL) string {
	switch port := u.Port(); {
	case port != "":
		return port
	case u.Scheme == "https":
		return "443"
	default:
		return "80"
	}
}
