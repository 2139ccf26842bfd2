package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/callhook-go/callhook"
)

// customer has the endpoints that a customer would have: a CRM, and receivers of
// events.
type customer struct {
	slow chan struct{} // closed when the CRM has found who takes long to find
	find func()        // closes it

	mu     sync.Mutex
	events map[string]callhook.Event // by id: one that comes again is not another
	forged error
}

func newCustomer() *customer {
	c := &customer{slow: make(chan struct{}), events: map[string]callhook.Event{}}
	c.find = sync.OnceFunc(func() { close(c.slow) })
	return c
}

// serve serves the endpoints on a loopback port that the system chose, until stop is
// called.
func (c *customer) serve() (url string, stop func() error, err error) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /lookup", c.lookup)
	mux.HandleFunc("POST /status", c.receive)
	mux.HandleFunc("POST /calls", c.receive)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = s.Serve(l) }()
	return "http://" + l.Addr().String(), s.Close, nil
}

func (c *customer) lookup(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Query().Get("phone") {
	case ada:
		select {
		case <-c.slow:
		case <-r.Context().Done():
			return
		}
		fmt.Fprint(w, `{"contact":{"first_name":"Ada"},"appointments":[{"day":"Tuesday"}]}`)
	case grace:
		fmt.Fprint(w, `{"contact":{"first_name":"Grace"},"appointments":[{"day":"Friday"}]}`)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (c *customer) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 5<<20))
	if err == nil {
		err = callhook.Verify(r.Header, body, key)
	}
	var e callhook.Event
	if err == nil {
		err = json.Unmarshal(body, &e)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.forged = errors.Join(c.forged, err)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.events[e.ID] = e
}

// show shows what the customer got, by caller.
func (c *customer) show(log *printer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var events []callhook.Event
	for _, e := range c.events {
		events = append(events, e)
	}
	types := []callhook.EventType{callhook.EventStatus, callhook.EventEnded, callhook.EventAnalyzed}
	slices.SortFunc(events, func(a, b callhook.Event) int {
		return cmp.Or(
			cmp.Compare(a.Data.Call.From, b.Data.Call.From),
			cmp.Compare(slices.Index(types, a.Type), slices.Index(types, b.Type)),
			cmp.Compare(a.Data.Call.Sequence, b.Data.Call.Sequence),
		)
	})
	for _, e := range events {
		log.say("customer  gets %-13s %s", e.Type, told(e))
	}
	if c.forged != nil {
		return fmt.Errorf("the customer could not read a request: %w", c.forged)
	}
	return nil
}

// told is the part of an event that is new.
func told(e callhook.Event) string {
	call := e.Data.Call
	switch e.Type {
	case callhook.EventStatus:
		return fmt.Sprintf("of %s: %d. %s", call.From, call.Sequence, call.Status)
	case callhook.EventAnalyzed:
		return fmt.Sprintf("of %s: %s", call.From, call.Summary)
	}
	return fmt.Sprintf("of %s: %s, %s, %v, turns: %d", call.From, call.Status, call.EndReason, call.Variables["customer_name"], len(call.Transcript))
}
