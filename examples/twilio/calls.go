package main

import (
	"container/list"
	"sync"
	"time"

	"github.com/callhook-go/callhook"
)

// calls are the calls of which something was heard lately.
//
// They are in memory, so a restart forgets them. A real runtime keeps them in its own
// database: it has a record of each call anyway, finds it by the CallSid from any of
// its nodes, and keeps what was told and the count of changes with it, in the same
// transaction. What is right without: a call's id is its CallSid, so whichever
// process raises the end of a call, it is one delivery.
type calls struct {
	agent callhook.ConfigRef // whose they are

	mu    sync.Mutex
	bySID map[string]*list.Element
	heard list.List // of *entry, the last heard of first
}

type entry struct {
	call *call
	at   time.Time
}

const (
	maxCalls  = 10_000
	keepCalls = 6 * time.Hour // Twilio ends a call after 4 unless told, and may repeat itself for a while
)

// get returns the call with this CallSid, and begins one if there is none, for which
// it forgets those of which nothing was heard for keepCalls, and the oldest of too many.
func (c *calls) get(sid string, now time.Time) (known *call, begun bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.bySID[sid]; ok {
		e.Value.(*entry).at = now
		c.heard.MoveToFront(e)
		return e.Value.(*entry).call, false
	}
	for e := c.heard.Back(); e != nil && (c.heard.Len() >= maxCalls || now.Sub(e.Value.(*entry).at) > keepCalls); e = c.heard.Back() {
		delete(c.bySID, c.heard.Remove(e).(*entry).call.sid)
	}
	if c.bySID == nil {
		c.bySID = map[string]*list.Element{}
	}
	e := &entry{newCall(sid, c.agent), now}
	c.bySID[sid] = c.heard.PushFront(e)
	return e.call, true
}
