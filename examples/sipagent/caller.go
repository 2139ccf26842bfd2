package main

import (
	"regexp"
	"strings"

	"github.com/callhook-go/callhook"
	"github.com/emiago/sipgo/sip"
)

// identify writes into the call who calls whom, as an INVITE says it.
//
// P-Asserted-Identity (RFC 3325) is the network's word and stands above From, which
// callers choose. Only a carrier or a proxy is to be believed that, one that removes
// what callers put there themselves: let no others reach the agent. Where the caller
// asks for privacy (RFC 3323) networks may know the number, and the agent's customers
// may not: call.From is empty then, as callhook wants it.
func identify(call *callhook.Call, req *sip.Request) {
	call.ProviderCallID = value(req, "Call-ID")
	call.To = number(req.Recipient)
	call.ForwardedFrom, _ = address(req, "Diversion") // RFC 5806
	from, name := address(req, "From")
	if callhook.Withheld(from) || private.MatchString(value(req, "Privacy")) {
		return
	}
	if asserted, display := address(req, "P-Asserted-Identity"); !callhook.Withheld(asserted) {
		from, name = asserted, display
	}
	call.From, call.FromName, call.FromVerified = from, name, attested(req)
}

var private = regexp.MustCompile(`(?i)\b(id|user|header)\b`)

// attested returns the level of attestation, A, B or C, where the carrier has checked
// the signature of the caller's number (STIR/SHAKEN) and says so: in verstat (3GPP
// TS 24.229), with the level at its end or, as carriers do, in a header.
func attested(req *sip.Request) string {
	passed := verified.FindStringSubmatch(value(req, "P-Asserted-Identity") + value(req, "From"))
	if passed == nil {
		return ""
	}
	return level.FindString(passed[1] + value(req, "P-Attestation-Indicator") + value(req, "Attestation-Info"))
}

var (
	verified = regexp.MustCompile(`verstat=TN-Validation-Passed(-[ABC])?`)
	level    = regexp.MustCompile(`[ABC]`)
)

// address returns the number and the display name in a header.
func address(req *sip.Request, header string) (who, name string) {
	var uri sip.Uri
	var params sip.HeaderParams
	name, err := sip.ParseAddressValue(value(req, header), &uri, &params)
	if err != nil {
		return "", ""
	}
	return number(uri), name
}

// number returns what callhook knows a SIP or tel URI by: the number without visual
// separators (RFC 3966) and parameters, and for other users the URI.
func number(uri sip.Uri) string {
	user := uri.User
	if uri.Scheme == "tel" {
		user = uri.Raw()
	}
	user, _, _ = strings.Cut(user, ";")
	digits := strings.NewReplacer("-", "", ".", "", "(", "", ")", "").Replace(user)
	if user != "" && strings.Trim(digits, "+0123456789*#") != "" {
		return "sip:" + user + "@" + uri.Host
	}
	return digits
}

// value returns a header's value, the first of several, empty where there is none.
func value(req *sip.Request, header string) string {
	if h := req.GetHeader(header); h != nil {
		return h.Value()
	}
	return ""
}
