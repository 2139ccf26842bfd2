package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// offer is what the caller proposes to talk with (SDP, RFC 8866). Of it the agent
// takes the first audio stream that has PCMU, and DTMF digits in it.
type offer struct {
	media  []string       // the m= lines
	audio  int            // the one that is taken
	remote netip.AddrPort // where the caller hears it
	digits int            // payload type of telephone-event (RFC 4733), 0 for none
}

var errNoAudio = errors.New("the offer has no audio that this agent can take: it needs PCMU over RTP/AVP and IPv4")

func parseOffer(sdp []byte) (offer, error) {
	o := offer{audio: -1}
	sections := strings.Split("\n"+strings.ReplaceAll(string(sdp), "\r", ""), "\nm=")
	for i, section := range sections[1:] {
		media, _, _ := strings.Cut(section, "\n")
		o.media = append(o.media, media)
		f := strings.Fields(media) // audio 6000 RTP/AVP 0 101
		if len(f) < 4 {
			return offer{}, errNoAudio
		}
		port, err := strconv.ParseUint(f[1], 10, 16)
		if o.audio >= 0 || f[0] != "audio" || f[2] != "RTP/AVP" || err != nil || port == 0 || !slices.Contains(f[3:], "0") {
			continue
		}
		ip, err := netip.ParseAddr(cmp.Or(line(section, "c=IN IP4 "), line(sections[0], "c=IN IP4 ")))
		if err != nil || !ip.Is4() {
			continue
		}
		o.audio, o.remote = i, netip.AddrPortFrom(ip, uint16(port))
		for _, format := range f[3:] {
			if strings.HasPrefix(strings.ToLower(line(section, "a=rtpmap:"+format+" ")), "telephone-event/8000") {
				o.digits, _ = strconv.Atoi(format)
			}
		}
	}
	if o.audio < 0 {
		return offer{}, errNoAudio
	}
	return o, nil
}

// answer accepts the stream that is taken, with audio to and from addr, and refuses
// the others (RFC 3264).
func (o offer) answer(addr net.Addr) []byte {
	local := addr.(*net.UDPAddr)
	var b strings.Builder
	fmt.Fprintf(&b, "v=0\r\no=- 1 1 IN IP4 %[1]s\r\ns=-\r\nc=IN IP4 %[1]s\r\nt=0 0\r\n", local.IP)
	for i, media := range o.media {
		if i != o.audio {
			f := strings.Fields(media)
			fmt.Fprintf(&b, "m=%s 0 %s\r\n", f[0], strings.Join(f[2:], " "))
			continue
		}
		fmt.Fprintf(&b, "m=audio %d RTP/AVP 0", local.Port)
		if o.digits > 0 {
			fmt.Fprintf(&b, " %[1]d\r\na=rtpmap:%[1]d telephone-event/8000\r\na=fmtp:%[1]d 0-15", o.digits)
		}
		b.WriteString("\r\na=rtpmap:0 PCMU/8000\r\na=ptime:20\r\n")
	}
	return []byte(b.String())
}

// line returns what follows a prefix in the first line that has it.
func line(section, prefix string) string {
	_, rest, _ := strings.Cut("\n"+section, "\n"+prefix)
	rest, _, _ = strings.Cut(rest, "\n")
	return strings.TrimSpace(rest)
}
