package main

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/callhook-go/callhook"
	"github.com/emiago/sipgo/sip"
	"github.com/google/go-cmp/cmp"
)

func TestIdentify(t *testing.T) {
	for _, test := range []struct {
		name    string
		headers []string
		want    callhook.Call
	}{
		{"number", []string{`From: "Ada" <sip:+442079460123@192.0.2.1>;tag=1`}, callhook.Call{From: ada, FromName: "Ada"}},
		{"separators", []string{`From: <sip:+44-20-7946-0123;phone-context=x@192.0.2.1;user=phone>;tag=1`}, callhook.Call{From: ada}},
		{"tel", []string{`From: <tel:+44(20)7946.0123;verstat=TN-Validation-Passed-B>;tag=1`}, callhook.Call{From: ada, FromVerified: "B"}},
		{"user", []string{`From: <sip:ada@example.com:5080;transport=udp>;tag=1`}, callhook.Call{From: "sip:ada@example.com"}},
		{"asserted", []string{
			`From: <sip:+15550100@192.0.2.1>;tag=1`, `P-Asserted-Identity: "Ada L." <sip:+442079460123@192.0.2.9>`,
		}, callhook.Call{From: ada, FromName: "Ada L."}},
		{"asserted nobody", []string{
			`From: <sip:+442079460123@192.0.2.1>;tag=1`, `P-Asserted-Identity: <sip:anonymous@anonymous.invalid>`,
		}, callhook.Call{From: ada}},
		{"anonymous", []string{`From: "Anonymous" <sip:anonymous@anonymous.invalid>;tag=1`}, callhook.Call{}},
		{"anonymous, asserted", []string{
			`From: "Anonymous" <sip:anonymous@anonymous.invalid>;tag=1`, `P-Asserted-Identity: <sip:+442079460123;verstat=TN-Validation-Passed-A@192.0.2.9>`,
		}, callhook.Call{}},
		{"private", []string{
			`From: "Ada" <sip:+442079460123@192.0.2.1>;tag=1`, `P-Asserted-Identity: <sip:+442079460123@192.0.2.9>`, `Privacy: user;ID`,
		}, callhook.Call{}},
		{"not private", []string{`From: <sip:+442079460123@192.0.2.1>;tag=1`, `Privacy: none`}, callhook.Call{From: ada}},
		{"verified, level apart", []string{
			`From: <sip:+442079460123;verstat=TN-Validation-Passed@192.0.2.1>;tag=1`, `P-Attestation-Indicator: C`,
		}, callhook.Call{From: ada, FromVerified: "C"}},
		{"not verified", []string{
			`From: <sip:+442079460123;verstat=TN-Validation-Failed@192.0.2.1>;tag=1`, `P-Attestation-Indicator: A`,
		}, callhook.Call{From: ada}},
		{"forwarded", []string{
			`From: <sip:+442079460123@192.0.2.1>;tag=1`, `Diversion: "Desk" <sip:+442079460888@192.0.2.9>;reason=no-answer`,
		}, callhook.Call{From: ada, ForwardedFrom: "+442079460888"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			msg, err := sip.ParseMessage([]byte("INVITE sip:+442079460999@192.0.2.5 SIP/2.0\r\nCall-ID: c1\r\n" +
				strings.Join(test.headers, "\r\n") + "\r\nTo: <sip:x@192.0.2.5>\r\nContent-Length: 0\r\n\r\n"))
			if err != nil {
				t.Fatal(err)
			}
			var got callhook.Call
			identify(&got, msg.(*sip.Request))
			want := test.want
			want.ProviderCallID, want.To = "c1", "+442079460999"
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("identify (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOffer(t *testing.T) {
	local := &net.UDPAddr{IP: net.IPv4(192, 0, 2, 5), Port: 7000}
	begin := "v=0\no=- 1 1 IN IP4 192.0.2.5\ns=-\nc=IN IP4 192.0.2.5\nt=0 0\n"
	for _, test := range []struct{ name, sdp, remote, answer string }{
		{
			"one stream", "v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 6000 RTP/AVP 8 0 96\r\na=rtpmap:96 telephone-event/8000\r\n",
			"192.0.2.1:6000", begin + "m=audio 7000 RTP/AVP 0 96\na=rtpmap:96 telephone-event/8000\na=fmtp:96 0-15\na=rtpmap:0 PCMU/8000\na=ptime:20\n",
		},
		{
			"address of the stream, video refused", "v=0\nc=IN IP4 192.0.2.1\nm=video 6002 RTP/AVP 99\nc=IN IP4 192.0.2.2\nm=audio 6000 RTP/AVP 0\nc=IN IP4 192.0.2.3\n",
			"192.0.2.3:6000", begin + "m=video 0 RTP/AVP 99\nm=audio 7000 RTP/AVP 0\na=rtpmap:0 PCMU/8000\na=ptime:20\n",
		},
		{
			"the first that serves", "v=0\nc=IN IP4 192.0.2.1\nm=audio 6000 RTP/SAVP 0\nm=audio 0 RTP/AVP 0\nm=audio 6002 RTP/AVP 0\nm=audio 6004 RTP/AVP 0\n",
			"192.0.2.1:6002", begin + "m=audio 0 RTP/SAVP 0\nm=audio 0 RTP/AVP 0\nm=audio 7000 RTP/AVP 0\na=rtpmap:0 PCMU/8000\na=ptime:20\nm=audio 0 RTP/AVP 0\n",
		},
		{name: "none"},
		{name: "no PCMU", sdp: "v=0\nc=IN IP4 192.0.2.1\nm=audio 6000 RTP/AVP 8\n"},
		{name: "IPv6", sdp: "v=0\nc=IN IP6 2001:db8::1\nm=audio 6000 RTP/AVP 0\n"},
		{name: "broken", sdp: "v=0\nc=IN IP4 192.0.2.1\nm=audio\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o, err := parseOffer([]byte(test.sdp))
			if test.remote == "" {
				if !errors.Is(err, errNoAudio) {
					t.Errorf("parseOffer: %v, want %v", err, errNoAudio)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := o.remote.String(); got != test.remote {
				t.Errorf("audio goes to %s, want %s", got, test.remote)
			}
			if diff := cmp.Diff(strings.ReplaceAll(test.answer, "\n", "\r\n"), string(o.answer(local))); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzOffer: whatever a caller offers, it is refused or gets an answer that has each
// stream once, and one with a port.
func FuzzOffer(f *testing.F) {
	f.Add("v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 6000 RTP/AVP 8 0 96\r\na=rtpmap:96 telephone-event/8000\r\nm=video 1 RTP/AVP 99\r\n")
	f.Fuzz(func(t *testing.T, sdp string) {
		o, err := parseOffer([]byte(sdp))
		if err != nil {
			return
		}
		var streams, taken int
		for line := range strings.Lines(string(o.answer(&net.UDPAddr{IP: net.IPv4(192, 0, 2, 5), Port: 7000}))) {
			if strings.HasPrefix(line, "m=") {
				streams++
				if strings.HasPrefix(line, "m=audio 7000 RTP/AVP 0") {
					taken++
				}
			}
		}
		if streams != len(o.media) || taken != 1 {
			t.Errorf("an answer with %d streams, %d of them taken, to an offer of %d: %q", streams, taken, len(o.media), sdp)
		}
	})
}

func TestPlain(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"Hi Ada!", "Hi Ada!"},
		{"Hi\r\nVia: evil\x00 ", "Hi  Via: evil"},
		{strings.Repeat("é", 150), strings.Repeat("é", 100)},
		{"a" + strings.Repeat("é", 150), "a" + strings.Repeat("é", 99)},
	} {
		if got := plain(test.in); got != test.want {
			t.Errorf("plain(%q) = %q, want %q", test.in, got, test.want)
		}
	}
}
