package platforms

import "strings"

// national returns a phone number without its country's code, as its digits.
func national(number string) string {
	d := digits(number)
	if !strings.HasPrefix(strings.TrimSpace(number), "+") {
		return d
	}
	return d[min(codeLength(d), len(d)):]
}

// codeLength returns how many of the digits are the country's code: all of ITU-T's list
// of E.164 country codes have three, but for zones 1 and 7 and these.
func codeLength(digits string) int {
	switch {
	case strings.HasPrefix(digits, "1"), strings.HasPrefix(digits, "7"):
		return 1
	case len(digits) >= 2 && strings.Contains(" 20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 "+
		"60 61 62 63 64 65 66 81 82 84 86 90 91 92 93 94 95 98 ", " "+digits[:2]+" "):
		return 2
	}
	return 3
}

func digits(s string) string {
	return strings.Map(func(r rune) rune {
		if r < '0' || r > '9' {
			return -1
		}
		return r
	}, s)
}
