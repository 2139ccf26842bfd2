package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/callhook-go/callhook"
)

// key signs the webhooks. All nodes get it from the same secret store, here their
// environment.
const key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// working is how long the customer's systems take for a webhook.
const working = 20 * time.Millisecond

// customer is the customer's side: a CRM that is asked who calls, and receivers of
// webhooks.
type customer struct {
	*http.Server
	url    string
	ledger *ledger
}

func newCustomer(l *ledger) (*customer, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	c := &customer{&http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}, "http://" + listener.Addr().String(), l}
	mux.HandleFunc("GET /lookup", c.lookup)
	for _, webhook := range []string{"ops", "crm-log", "billing"} {
		mux.HandleFunc("POST /"+webhook, c.receive(webhook))
	}
	mux.HandleFunc("POST /billing-as-it-was", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		http.Error(w, "we have moved", http.StatusServiceUnavailable)
	})
	go func() { _ = c.Serve(listener) }()
	return c, nil
}

// lookup knows everybody, and thinks too long about every fiftieth number.
func (c *customer) lookup(w http.ResponseWriter, r *http.Request) {
	phone := r.URL.Query().Get("phone")
	if strings.HasSuffix(phone, "00") || strings.HasSuffix(phone, "50") {
		select {
		case <-r.Context().Done():
			return
		case <-time.After(5 * time.Second):
		}
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"contact":{"first_name":"Ada %s"}}`, phone[max(0, len(phone)-3):])
}

// receive takes a webhook as a receiver should that can get one twice: it verifies it,
// and knows by webhook-id what it has had.
func (c *customer) receive(webhook string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		sender := r.Header.Get("X-Sender")
		defer c.ledger.begin(sender)()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // killed while it sent
		}
		if err := callhook.Verify(r.Header, body, key); err != nil {
			c.ledger.forged(err)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		var event struct {
			Data struct {
				Call struct{ ID, Status string }
			}
		}
		if err := json.Unmarshal(body, &event); err != nil {
			c.ledger.forged(err)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		e := eventRef{event.Data.Call.ID, "ended"}
		if webhook == "ops" {
			e.name = event.Data.Call.Status
		}
		c.ledger.arrived(r.Header.Get(callhook.HeaderID), delivery{webhook, e}, sender)
		time.Sleep(working)
	}
}
