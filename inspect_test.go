package callhook

// QueueSizes returns how many entries a memory queue keeps in each of its parts.
func QueueSizes(q Queue) map[string]int {
	m := q.(*memoryQueue)
	m.mu.Lock()
	defer m.mu.Unlock()
	return map[string]int{
		"pending": len(m.pending), "ready": m.ready.len(), "waiting": len(m.waiting), "lanes": len(m.lanes), "chains": len(m.chains),
		"dead": m.dead.len(), "remembered": len(m.settled), "ages": m.settledAge.len(), "bytes": int(m.bytes), "running": m.running,
	}
}

// LaneCount returns how many lanes hooks keep in memory.
func LaneCount(h *Hooks) int {
	h.lanes.mu.Lock()
	defer h.lanes.mu.Unlock()
	return len(h.lanes.all)
}
