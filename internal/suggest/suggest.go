// Package suggest finds the name that somebody meant when they mistyped one.
package suggest

import "strings"

// DidYouMean returns ` (did you mean "x"?)` with the candidate nearest to name,
// or nothing when none is near. Case does not count, and of names that share
// everything up to a dot only the rest.
func DidYouMean(name string, candidates []string) string {
	if len(name) > 64 {
		return ""
	}
	best, least := "", 65
	for _, c := range candidates {
		a, b := strings.ToLower(name), strings.ToLower(c)
		if i := strings.LastIndexByte(a, '.') + 1; strings.HasPrefix(b, a[:i]) {
			a, b = a[i:], b[i:]
		}
		if len(b) > 64 {
			continue
		}
		d := distance(a, b)
		if near := d <= len(a)/4+1 || part(a, b) || part(b, a); near && d < least {
			best, least = c, d
		}
	}
	if best == "" {
		return ""
	}
	return ` (did you mean "` + best + `"?)`
}

// part reports whether a is how b begins or ends.
func part(a, b string) bool {
	return len(a) > 3 && (strings.HasPrefix(b, a) || strings.HasSuffix(b, a))
}

// distance counts the letters to change, add, leave out or swap with the next.
func distance(a, b string) int {
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	before, last, row := rows[0], rows[1], rows[2]
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			if a[i] == b[j] {
				row[j+1] = last[j]
				continue
			}
			row[j+1] = 1 + min(last[j], last[j+1], row[j])
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], 1+before[j-1])
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
