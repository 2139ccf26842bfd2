package callhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"slices"
	"strings"
	"unicode"
)

// Withheld reports whether a number says that the caller withheld theirs: it is
// empty, a word like anonymous or Restricted, or one of the numbers that carriers
// send instead, which spell such a word on a keypad (+266696687 is ANONYMOUS).
func Withheld(number string) bool {
	number = strings.ToLower(strings.TrimSpace(number))
	if user, _, ok := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(number, "sip:"), "sips:"), "@"); ok { // sip:anonymous@anonymous.invalid, RFC 3323
		number = user
	}
	switch number {
	case "", "anonymous", "restricted", "private", "unavailable", "unknown", "blocked", "withheld", "private number", "private caller",
		"no caller id", "nocallerid", "no-caller-id", "unknown caller", "caller unknown", "not available", "null", "none",
		"+266696687", "+7378742833", "+2562533", "+8656696", "+8566696", "+86282452253", "+464": // the ones that Twilio lists
		return true
	}
	return false
}

// normal returns the call with its numbers as [Options.NormalizeNumber] writes them:
// a copy where that is another way.
func (h *Hooks) normal(call *Call) *Call {
	if h.normalize == nil {
		return call
	}
	from, to, forwarded := call.From, call.To, call.ForwardedFrom
	err := h.survive(func() {
		for _, number := range []*string{&from, &to, &forwarded} {
			if !Withheld(*number) {
				*number = h.normalize(*number)
			}
		}
	})
	if err != nil || from == call.From && to == call.To && forwarded == call.ForwardedFrom {
		return call
	}
	c := *call
	c.From, c.To, c.ForwardedFrom = from, to, forwarded
	return &c
}

// spellings returns a number in the ways that it may be known by.
func (h *Hooks) spellings(number string) (out []string) {
	for _, number := range []string{number, h.normal(&Call{From: number}).From} {
		if number = bare(number); number != "" && !slices.Contains(out, number) {
			out = append(out, number)
		}
	}
	return out
}

// NumberHash returns the hash under which a queue knows a phone number of a tenant's
// calls, for [Filter.Number]: an HMAC-SHA256 with [Options.NumberKey], of the tenant
// and the number's digits alone, so that +44 20 7946 0123 is +442079460123, or of
// the text in lower case where it has other letters, like sip:ada@example.com. It
// is empty without a key or a number.
func (h *Hooks) NumberHash(tenant, number string) string {
	number = bare(number)
	if len(h.numberKey) == 0 || number == "" {
		return ""
	}
	mac := hmac.New(sha256.New, h.numberKey)
	mac.Write([]byte(tenant + "\x00" + number))
	return idEncoding.EncodeToString(mac.Sum(nil)[:16])
}

// bare returns a number's digits, or the text in lower case where it has letters.
func bare(number string) string {
	number = strings.ToLower(strings.TrimSpace(number))
	if strings.ContainsFunc(number, unicode.IsLetter) {
		return number
	}
	return strings.Map(func(r rune) rune {
		if r < '0' || r > '9' {
			return -1
		}
		return r
	}, number)
}

// numbers returns the call's phone numbers, each once, as bare writes them.
func (c *Call) numbers() (out []string) {
	add := func(number string) {
		if n := bare(number); n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	add(c.From)
	add(c.To)
	add(c.ForwardedFrom)
	for i := range c.Transfers {
		add(c.Transfers[i].To)
	}
	return out
}

// numbers returns the hashes of the call's phone numbers.
func (h *Hooks) numbers(call *Call) (out []string) {
	if len(h.numberKey) == 0 {
		return nil
	}
	for _, n := range call.numbers() {
		out = append(out, h.NumberHash(call.TenantID, n))
	}
	return out
}
