package callhook

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// hide replaces secrets in a text by ***, as they are and as they may be escaped in
// answers: in JSON, also in JSON within JSON, in URLs, in HTML. What the text breaks off
// within is hidden too, from four characters on.
func hide(s string, secrets []string) string {
	secrets = slices.DeleteFunc(slices.Clone(secrets), func(v string) bool { return v == "" })
	// The longest first: one may stand in another.
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	for _, secret := range secrets {
		first, _ := utf8.DecodeRuneInString(secret)
		var b strings.Builder
		kept := 0
		for i := 0; i < len(s); {
			if c := s[i]; rune(c) == first || c == '%' || c == '&' || c == '\\' || c == '+' && first == ' ' || c >= utf8.RuneSelf {
				if end := matchEscaped(s, i, secret); end > 0 {
					b.WriteString(s[kept:i])
					b.WriteString(mask)
					i, kept = end, end
					continue
				}
			}
			i++
		}
		if kept > 0 {
			s = b.String() + s[kept:]
		}
	}
	return s
}

// fewest is how many characters of a secret give it away.
const fewest = 4

// matchEscaped returns where in s a text ends that stands at i, in whatever escapes; zero
// for no match.
func matchEscaped(s string, i int, text string) int { return matchRest(s, i, text, 0) }

// matchRest goes on after so many characters.
func matchRest(s string, i int, text string, matched int) int {
	for ; text != ""; matched++ {
		if i == len(s) {
			if matched >= fewest {
				return i
			}
			return 0
		}
		own := len(text) - len(strings.TrimLeft(text, `\`))
		slashes := len(s[i:]) - len(strings.TrimLeft(s[i:], `\`))
		if own > 0 {
			if slashes < own {
				return 0
			}
			i, text = i+slashes, text[own:]
			continue
		}
		c, size := utf8.DecodeRuneInString(text)
		n, rest := matchRune(s[i+slashes:], c, text[:size], slashes > 0), s[i+slashes:]
		if strings.HasPrefix(rest, text[:size]) {
			if n > 0 { // it may be meant as it is, or escaped: "&amp;"
				if end := matchRest(s, i+slashes+n, text[size:], matched+1); end > 0 {
					return end
				}
			}
			n = size
		}
		if n == 0 {
			if rest := s[i:]; matched >= fewest && (len(rest)-slashes) < 6 && strings.ContainsAny(rest[:1], `\%&`) && !strings.ContainsAny(rest[1:], " \n") {
				return len(s) // it breaks off within an escape
			}
			return 0
		}
		i, text = i+slashes+n, text[size:]
	}
	return i
}

// matchRune returns how many bytes of s are c in some escape, zero for none; raw is how it
// is written.
func matchRune(s string, c rune, raw string, escaped bool) int {
	if escaped && len(s) > 0 {
		switch {
		case s[0] == 'u' && len(s) >= 5:
			if n, err := strconv.ParseUint(s[1:5], 16, 32); err == nil && rune(n) == c {
				return 5
			}
		case s[0] == 'n' && c == '\n', s[0] == 'r' && c == '\r', s[0] == 't' && c == '\t':
			return 1
		}
	}
	switch {
	case s == "":
	case s[0] == '+' && c == ' ':
		return 1
	case s[0] == '%' && len(s) >= 3*len(raw):
		for i := range len(raw) {
			hex := s[3*i : 3*i+3]
			if b, err := strconv.ParseUint(hex[1:], 16, 8); hex[0] != '%' || err != nil || byte(b) != raw[i] {
				return 0
			}
		}
		return 3 * len(raw)
	case s[0] == '&':
		end := strings.IndexByte(s[:min(len(s), 12)], ';')
		if end < 0 {
			return 0
		}
		name := s[1:end]
		if digits, ok := strings.CutPrefix(name, "#"); ok {
			base := 10
			if strings.HasPrefix(strings.ToLower(digits), "x") {
				digits, base = digits[1:], 16
			}
			if n, err := strconv.ParseUint(digits, base, 32); err == nil && rune(n) == c {
				return end + 1
			}
			return 0
		}
		if map[string]rune{"amp": '&', "lt": '<', "gt": '>', "quot": '"', "apos": '\'', "sol": '/', "equals": '=', "plus": '+', "nbsp": ' '}[name] == c {
			return end + 1
		}
	}
	return 0
}
