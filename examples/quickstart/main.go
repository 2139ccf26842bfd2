// Quickstart runs one inbound call from its lookup to the delivery of its data:
// a real CRM endpoint and a real receiver on loopback, one of which fails at
// first, and callhook in between, with its queue in a file.
//
//	go run ./examples/quickstart
//	go run ./examples/quickstart -db calls.db
//
// Kill the second half way and start it again: it delivers what the first has left.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// key signs the webhooks. A runtime keeps it in its secret store, and the config
// only refers to it.
const key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

const config = `{
  "agent_id": "reception",
  "timezone": "Europe/London",
  "variables": [{"name": "customer_name", "description": "Caller's first name"}],
  "pre_call": {
    "url": "%[1]s/lookup", "method": "GET", "query": {"phone": "{{call.from}}"},
    "response": {"variables": {"customer_name": "contact.first_name", "next_appointment": "appointments.0.starts_at"}}
  },
  "call_status": [{
    "name": "ops", "url": "%[2]s/status", "secrets": ["${HOOK_KEY}"],
    "statuses": ["transfer_started", "transfer_connected"], "ordered": true, "retry": {"initial": "500ms"}
  }],
  "post_call": [{
    "name": "crm-log", "url": "%[2]s/calls", "secrets": ["${HOOK_KEY}"], "retry": {"initial": "500ms"},
    "payload": {"fields": ["call.id", "call.from", "call.duration_seconds", "call.variables.customer_name"]}
  }]
}`

func main() {
	db := flag.String("db", "", "the queue's file; empty for one that is removed at the end")
	flag.Parse()
	if err := run(os.Stdout, *db); err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, db string) error {
	log := &printer{out: out}
	if db == "" {
		dir, err := os.MkdirTemp("", "callhook")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		db = filepath.Join(dir, "queue.db")
	}
	crm, err := serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.say("CRM       is asked who %s is, and answers Ada", r.URL.Query().Get("phone"))
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"contact":{"first_name":"Ada"},"appointments":[{"starts_at":"2026-03-03T10:00:00Z"}]}`)
	}))
	if err != nil {
		return err
	}
	defer crm.Close()
	receiver := &receiver{log: log}
	hook, err := serve(receiver)
	if err != nil {
		return err
	}
	defer hook.Close()

	// The runtime's part begins here.
	c, err := callhook.ParseConfig(fmt.Appendf(nil, config, crm.url, hook.url))
	if err != nil {
		return err
	}
	queue, err := sqlitequeue.Open(db, nil)
	if err != nil {
		return err
	}
	defer queue.Close()
	settled := make(chan string, 100)
	hooks, err := callhook.New(callhook.Options{
		Configs:   callhook.Static(c),
		Queue:     queue,
		Secrets:   func(context.Context, callhook.SecretRef) (string, error) { return key, nil },
		AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, // the endpoints of this program; public ones need none
		Trace: &callhook.Trace{
			AttemptDone: func(_ context.Context, d *callhook.Delivery, a callhook.Attempt, v callhook.Verdict) {
				if v.State != callhook.StateDelivered {
					log.say("callhook  %s to %s: %s (now %s)", d.Event, d.Webhook, a.Error, v.State)
				}
			},
			Delivered: func(_ context.Context, d *callhook.Delivery) { settled <- d.ID },
			Dead:      func(_ context.Context, d *callhook.Delivery, _ callhook.Reason) { settled <- d.ID },
		},
	})
	if err != nil {
		return err
	}
	defer hooks.Close()
	before := hooks.Stats().Queue
	if before.Pending > 0 {
		log.say("queue     has %d deliveries of an earlier run, which go first", before.Pending)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- hooks.Run(ctx) }()
	defer stop()

	// An inbound call arrives.
	call := &callhook.Call{
		ID: fmt.Sprint("call_", time.Now().UnixNano()), AgentID: "reception", Direction: callhook.Inbound, Channel: "phone",
		From: "+442079460123", To: "+442079460999", StartedAt: time.Now(), Status: callhook.StatusRinging,
	}
	log.say("call      from %s rings", call.From)
	pre := hooks.PreCall(ctx, call)
	pre.Apply(call)
	log.say("callhook  lookup %s", pre)
	greeting := pre.Variables.Expand(`Hi {{customer_name | default: "there"}}, calling about {{next_appointment | date: "%A"}}?`)
	log.say("agent     says: %s", greeting)
	call.AnsweredAt = time.Now()

	// The caller wants a person: the call is transferred.
	for i, status := range []callhook.Status{callhook.StatusTransferStarted, callhook.StatusTransferConnected} {
		call.PreviousStatus, call.Status = call.Status, status
		call.Sequence, call.StatusAt = int64(i+1), time.Now()
		if err := hooks.CallStatus(ctx, call); err != nil {
			return err
		}
		log.say("call      %s: stored, to be announced", status)
	}

	// The call ends.
	call.Status, call.EndedAt = callhook.StatusCompleted, time.Now().Add(90*time.Second)
	if err := hooks.PostCall(ctx, call); err != nil {
		return err
	}
	log.say("call      ended: its data is stored, to be delivered")

	for range 3 + before.Pending {
		select {
		case <-settled:
		case <-time.After(12 * time.Second):
			return errors.New("not everything was delivered in time")
		}
	}
	stop()
	if err := <-ended; err != nil {
		return err
	}
	if err := receiver.check(); err != nil {
		return err
	}
	q := hooks.Stats().Queue
	q.Delivered -= before.Delivered
	if q.Delivered != 3+before.Pending || q.Dead != 0 || q.Pending != 0 || !strings.HasPrefix(greeting, "Hi Ada, ") {
		return fmt.Errorf("greeting %q, %d delivered, %d dead, %d pending", greeting, q.Delivered, q.Dead, q.Pending)
	}
	log.say("ok: greeting %q, %d delivered, %d dead, %d pending", greeting, q.Delivered, q.Dead, q.Pending)
	return nil
}

// receiver is somebody's endpoint: it verifies each request, and at first fails.
type receiver struct {
	log *printer

	mu       sync.Mutex
	requests int
	forged   error
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err == nil {
		err = callhook.Verify(req.Header, body, key)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	switch {
	case err != nil:
		r.forged = err
		w.WriteHeader(http.StatusUnauthorized)
	case r.requests == 1:
		r.log.say("receiver  has a bad moment: 500")
		w.WriteHeader(http.StatusInternalServerError)
	case r.requests == 2:
		r.log.say("receiver  is busy: 429, Retry-After: 1")
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
	default:
		r.log.say("receiver  gets, signature verified: %s", body)
	}
}

func (r *receiver) check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.forged != nil {
		return fmt.Errorf("the receiver could not verify a request: %w", r.forged)
	}
	if r.requests < 5 { // three deliveries, one of them after a 500, one after a 429
		return fmt.Errorf("the receiver got %d requests, want at least 5", r.requests)
	}
	return nil
}

// server is an HTTP server on a loopback port that the system chose.
type server struct {
	*http.Server
	url string
}

func serve(h http.Handler) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{&http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}, "http://" + l.Addr().String()}
	go func() { _ = s.Serve(l) }()
	return s, nil
}

type printer struct {
	mu  sync.Mutex
	out io.Writer
}

func (p *printer) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, format+"\n", args...)
}
