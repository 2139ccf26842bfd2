package main

import (
	"cmp"
	"slices"
	"time"
)

// ascending puts all values into one sorted list.
func ascending[E cmp.Ordered](lists ...[]E) []E {
	all := slices.Concat(lists...)
	slices.Sort(all)
	return all
}

// percentile of a sorted list; zero of an empty one.
func percentile[E cmp.Ordered](sorted []E, p int) E {
	if len(sorted) == 0 {
		var zero E
		return zero
	}
	return sorted[min(len(sorted)*p/100, len(sorted)-1)]
}

func median[E cmp.Ordered](values []E) E { return percentile(ascending(values), 50) }

// medianOf is the median of one figure of many measurements.
func medianOf[M any, E cmp.Ordered](ms []M, figure func(M) E) E {
	values := make([]E, len(ms))
	for i, m := range ms {
		values[i] = figure(m)
	}
	return median(values)
}

// average is the time of one of n.
func average(d time.Duration, n int) time.Duration { return d / time.Duration(max(n, 1)) }
