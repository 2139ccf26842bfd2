package callhook

import (
	"fmt"
	"time"
)

// LookupSizes returns how much lookups keep in each of their parts.
func LookupSizes(h *Hooks) map[string]int {
	ls := &h.lookups
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.cache.mu.Lock()
	defer ls.cache.mu.Unlock()
	return map[string]int{"replies": len(ls.cache.entries), "bytes": ls.cache.bytes, "flights": len(ls.flights), "lanes": len(ls.lanes), "late": ls.late.sum}
}

// KeepReplies keeps n replies about nobody, each of so many bytes.
func KeepReplies(h *Hooks, n, bytes int) {
	p := &preCall{endpoint: new(endpoint), cache: time.Hour}
	for i := range n {
		h.lookups.cache.put(&cached{key: lookupKey{p, fmt.Sprint(i)}, answer: reading{raw: make([]byte, bytes)}, at: time.Now()}, h.lookups.cache.now())
	}
}
