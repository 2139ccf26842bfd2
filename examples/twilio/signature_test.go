package main

import (
	"net/url"
	"testing"
)

// TestSignature holds signedBy to signatures that Twilio publishes: in its
// documentation (https://www.twilio.com/docs/usage/security) and in the tests of its
// libraries (twilio-go client/request_validator_test.go, twilio-python
// tests/unit/test_request_validator.py).
func TestSignature(t *testing.T) {
	const (
		token   = "12345"
		address = "https://mycompany.com/myapp.php?foo=1&bar=2"
		library = "CallSid=CA1234567890ABCDE&Caller=%2B14158675309&Digits=1234&From=%2B14158675309&To=%2B18005551212"
		docs    = "CallSid=CA1234567890ABCDE&Caller=%2B12349013030&Digits=1234&From=%2B12349013030&To=%2B18005551212"
		many    = "Sid=CA123&SidAccount=AC123&Digits=5678&Digits=1234"
	)
	for _, test := range []struct {
		name, token, address, form, signature string
		want                                  bool
	}{
		{"the documentation's", token, address, docs, "0/KCTR6DLpKmkAf8muzZqo1nDgQ=", true},
		{"the libraries'", token, address, library, "RSOYDt4T1cUTdK1PDd93/VVr8B8=", true},
		{"the order of the fields does not matter", token, address, "To=%2B18005551212&From=%2B14158675309&Digits=1234&Caller=%2B14158675309&CallSid=CA1234567890ABCDE", "RSOYDt4T1cUTdK1PDd93/VVr8B8=", true},
		{"a field twice, a name that begins another", token, address, many, "IK+Dwps556ElfBT0I3Rgjkr1wJU=", true},
		{"signed without the port", token, "https://mycompany.com:1234/myapp.php?foo=1&bar=2", library, "RSOYDt4T1cUTdK1PDd93/VVr8B8=", true},
		{"signed with the port of https", token, address, library, "kvajT1Ptam85bY51eRf/AJRuM3w=", true},
		{"signed with the port of http", token, "http://mycompany.com/myapp.php?foo=1&bar=2", library, "0ZXoZLH/DfblKGATFgpif+LLRf4=", true},
		{"signed with another port", token, "http://mycompany.com:1234/myapp.php?foo=1&bar=2", library, "Zmvh+3yNM1Phv2jhDCwEM3q5ebU=", true},

		{"another token", "12346", address, library, "RSOYDt4T1cUTdK1PDd93/VVr8B8=", false},
		{"another query", token, "https://mycompany.com/myapp.php?foo=1&bar=3", library, "RSOYDt4T1cUTdK1PDd93/VVr8B8=", false},
		{"another host", token, "https://example.com/myapp.php?foo=1&bar=2", library, "RSOYDt4T1cUTdK1PDd93/VVr8B8=", false},
		{"another port", token, "http://mycompany.com:1235/myapp.php?foo=1&bar=2", library, "Zmvh+3yNM1Phv2jhDCwEM3q5ebU=", false},
		{"a field changed", token, address, docs, "RSOYDt4T1cUTdK1PDd93/VVr8B8=", false},
		{"a field more", token, address, library + "&A=1", "RSOYDt4T1cUTdK1PDd93/VVr8B8=", false},
		{"a field's value more", token, address, library + "&Digits=9", "RSOYDt4T1cUTdK1PDd93/VVr8B8=", false},
		{"none", token, address, library, "", false},
		{"the beginning of the right one", token, address, library, "RSOYDt4T1cUTdK1PDd93/VVr8B8", false},
		{"not a URL", token, "/myapp.php", library, "RSOYDt4T1cUTdK1PDd93/VVr8B8=", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			form, err := url.ParseQuery(test.form)
			if err != nil {
				t.Fatal(err)
			}
			if got := signedBy(test.token, test.address, form, test.signature); got != test.want {
				t.Errorf("got %t, want %t", got, test.want)
			}
		})
	}
}
