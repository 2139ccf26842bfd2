package main

import (
	"bufio"
	"context"
	"io"
	"time"
)

// The callers whom the customer's CRM knows.
const (
	ada   = "+442079460123"
	grace = "+442079460456"
)

// patience is how long a caller hears it ring before the agent answers, whatever the
// CRM does.
const patience = 5 * time.Second

// phone is the caller's end of a call. said is what they say, and is closed when they
// hang up.
type phone struct {
	number   string
	patience time.Duration
	said     chan string

	says  []string    // one after each thing that the agent says; an empty one waits
	hears func(n int) // is told of the nth thing that the agent says
	heard int
}

// script returns the phone of a caller who says these things.
func script(number string, patience time.Duration, says ...string) *phone {
	return &phone{number: number, patience: patience, said: make(chan string, len(says)), says: says}
}

// lines returns the phone of a caller who writes what they say, until ctx ends.
func lines(ctx context.Context, number string, in io.Reader) *phone {
	p := &phone{number: number, patience: patience, said: make(chan string)}
	go func() {
		defer close(p.said)
		for s := bufio.NewScanner(in); s.Scan(); {
			select {
			case p.said <- s.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	return p
}

// hear is called when the agent has said something.
func (p *phone) hear() {
	p.heard++
	if p.hears != nil {
		p.hears(p.heard)
	}
	if p.heard <= len(p.says) && p.says[p.heard-1] != "" {
		p.said <- p.says[p.heard-1]
	}
}
