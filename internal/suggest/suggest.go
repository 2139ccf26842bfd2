// Package suggest finds the name that somebody meant when they mistyped one.
package suggest

// DidYouMean returns ` (did you mean "x"?)` with the candidate nearest to name,
// or nothing when none is near.
func DidYouMean(name string, candidates []string) string {
	if len(name) > 64 {
		return ""
	}
	best, at := "", len(name)/3+2
	for _, c := range candidates {
		if len(c) <= 64 {
			if d := distance(name, c); d < at {
				best, at = c, d
			}
		}
	}
	if best == "" {
		return ""
	}
	return ` (did you mean "` + best + `"?)`
}

// distance is Levenshtein's, over bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
