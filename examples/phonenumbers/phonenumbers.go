// Package phonenumbers shows how a runtime has callhook write phone numbers as
// E.164, with nyaruka/phonenumbers, which is Google's libphonenumber in Go. It is a
// module of its own because that library brings several megabytes of metadata.
package phonenumbers

import "github.com/nyaruka/phonenumbers"

// Normalizer returns a function for callhook.Options.NormalizeNumber: it writes a
// number as E.164 (+442079460123), taking it for one of region (like "GB") where it
// has no country code. What is not a possible number stays as it is.
func Normalizer(region string) func(number string) string {
	return func(number string) string {
		n, err := phonenumbers.Parse(number, region)
		if err != nil || !phonenumbers.IsPossibleNumber(n) {
			return number
		}
		return phonenumbers.Format(n, phonenumbers.E164)
	}
}
