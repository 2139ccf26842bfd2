package main

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// signedBy reports whether a request to address with these form fields was signed
// with the account's auth token: an HMAC-SHA1 over the URL as Twilio has requested
// it, its query included, and then each field's name and value, sorted
// (https://www.twilio.com/docs/usage/security#validating-requests).
//
// Like Twilio's own libraries it takes the URL with and without its port, since
// Twilio signs now the one and now the other, and a field's values once each, sorted.
func signedBy(token, address string, form url.Values, signature string) bool {
	var fields strings.Builder
	for _, name := range slices.Sorted(maps.Keys(form)) {
		values := slices.Clone(form[name])
		slices.Sort(values)
		for _, value := range slices.Compact(values) {
			fields.WriteString(name + value)
		}
	}
	signed := false
	for _, spelling := range withAndWithoutPort(address) {
		mac := hmac.New(sha1.New, []byte(token))
		mac.Write([]byte(spelling + fields.String()))
		want := base64.StdEncoding.EncodeToString(mac.Sum(nil))
		signed = hmac.Equal([]byte(want), []byte(signature)) || signed // in constant time
	}
	return signed
}

func withAndWithoutPort(address string) []string {
	scheme, rest, ok := strings.Cut(address, "://")
	if !ok {
		return []string{address}
	}
	host, path := rest, ""
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		host, path = rest[:i], rest[i:]
	}
	name, port := host, map[string]string{"https": "443", "http": "80"}[scheme]
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') { // not one of an IPv6 address
		name, port = host[:i], host[i+1:]
	}
	return []string{scheme + "://" + name + path, scheme + "://" + name + ":" + port + path}
}
