package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
)

// carrier sends calls to the voice nodes, as a carrier or a load balancer does: in
// turn, only to those that are in, and when one does not take a call, to the next.
type carrier struct {
	calls  int // to be made in all
	client http.Client

	mu      sync.Mutex
	nodes   map[string]string // those that are in, and where they are
	under   map[string]int    // calls under way, by node
	allowed int               // calls that may be made so far
	placed  int
	ended   int // that were made to their end
	cut     int // that ended with their node
	turn    int
}

// lines is how many calls are made at once.
const lines = 24

// run makes all calls.
func (c *carrier) run(ctx context.Context) {
	c.client.Transport = &http.Transport{DisableKeepAlives: true, Proxy: nil}
	var all sync.WaitGroup
	for range lines {
		all.Go(func() {
			for {
				n, more := c.next()
				switch {
				case !more || ctx.Err() != nil:
					return
				case n < 0:
					time.Sleep(5 * time.Millisecond)
				default:
					c.place(ctx, n)
				}
			}
		})
	}
	all.Wait()
}

// next returns the number of the next call; below 0 when it has to wait.
func (c *carrier) next() (n int, more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.placed == c.calls:
		return 0, false
	case c.placed >= c.allowed:
		return -1, true
	}
	c.placed++
	return c.placed, true
}

// place makes a call, which lasts as long as the request.
func (c *carrier) place(ctx context.Context, n int) {
	body, _ := json.Marshal(leg{
		ID: fmt.Sprint("call_", n), Agent: agentName(n % agents), From: fmt.Sprintf("+447700900%03d", n%1000), To: "+442079460999",
	})
	for ctx.Err() == nil {
		node, url := c.pick()
		if node == "" {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		took, whole := c.call(ctx, url, body)
		c.mu.Lock()
		c.under[node]--
		switch {
		case whole:
			c.ended++
		case took:
			c.cut++
		}
		c.mu.Unlock()
		if took {
			return
		}
		time.Sleep(5 * time.Millisecond) // another node
	}
}

// call reports whether the node has taken the call, and whether it came to its end.
func (c *carrier) call(ctx context.Context, url string, body []byte) (took, whole bool) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return false, false
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return false, false
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	return true, err == nil && string(said) == "ended\n"
}

func (c *carrier) pick() (node, url string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.nodes) == 0 {
		return "", ""
	}
	in := slices.Sorted(maps.Keys(c.nodes))
	c.turn++
	node = in[c.turn%len(in)]
	c.under[node]++
	return node, c.nodes[node]
}

// in has a node take calls, out has it take no more.
func (c *carrier) in(node, url string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[node] = url
}

func (c *carrier) out(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.nodes, node)
}

// allow lets so many calls be made, of all.
func (c *carrier) allow(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.allowed = n
}

// over is how many calls have been.
func (c *carrier) over() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended + c.cut
}

// busiest returns the node with the most calls under way, and how many.
func (c *carrier) busiest() (node string, calls int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.nodes {
		if c.under[name] > calls {
			node, calls = name, c.under[name]
		}
	}
	return node, calls
}
