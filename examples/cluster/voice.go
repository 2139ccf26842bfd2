package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/callhook-go/callhook"
)

// grace is how long a voice node that is to end waits for its calls, and then for the
// queue to take their events. Calls of people last longer: set it to as long as a
// deployment may take, and tell whatever would kill the process, as in Kubernetes'
// terminationGracePeriodSeconds.
const grace = 30 * time.Second

// pause is between two things that happen in a call.
const pause = 100 * time.Millisecond

// voice takes calls until ctx ends, which SIGTERM does. Then it takes no more, and
// returns when those that it has are over and their events are stored. It raises events
// and delivers none: there is no [callhook.Hooks.Run] here.
func voice(ctx context.Context, url string, log *slog.Logger) error {
	shared, err := connect(ctx, url, log)
	if err != nil {
		return err
	}
	defer shared.close()
	hooks, err := callhook.New(options(shared.configs, shared.queue, log))
	if err != nil {
		return err
	}
	defer hooks.Close()
	patience, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	node := &voiceNode{hooks: hooks, log: log, patience: patience}

	// Calls come as a request each, as carriers with a call API send them, and last as
	// long as the request.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: node, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	say("ready http://%s", l.Addr())

	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	time.AfterFunc(grace, giveUp)
	err = server.Shutdown(patience) // returns when the calls are over
	node.raising.Wait()
	return err
}

// leg is what the carrier says of a call.
type leg struct{ ID, Agent, From, To string }

type voiceNode struct {
	hooks    *callhook.Hooks
	log      *slog.Logger
	patience context.Context // ends when what is not stored is given up
	raising  sync.WaitGroup  // the calls whose events are not all stored
}

func (n *voiceNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var leg leg
	if err := json.NewDecoder(r.Body).Decode(&leg); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_ = http.NewResponseController(w).Flush() // from here on the call is this node's
	n.take(r.Context(), callhook.Call{
		ID: leg.ID, AgentID: leg.Agent, Direction: callhook.Inbound, Channel: "phone", From: leg.From, To: leg.To,
		Status: callhook.StatusRinging, StartedAt: time.Now(),
	})
	fmt.Fprintln(w, "ended")
}

// take is a call from its first ring to its end. Nothing in it waits for the queue.
func (n *voiceNode) take(ctx context.Context, call callhook.Call) {
	events := make(chan event, 8)
	n.raising.Go(func() { n.raise(events) })
	defer close(events)

	pre := n.hooks.PreCall(ctx, &call) // answers in time, always
	pre.Apply(&call)
	say("lookup %s %s %d", call.ID, pre.Outcome, pre.Elapsed)
	call.AnsweredAt = time.Now()
	time.Sleep(pause) // "Hi Ada!"

	for _, status := range []callhook.Status{callhook.StatusTransferStarted, callhook.StatusTransferConnected} {
		call.PreviousStatus, call.Status = call.Status, status
		// Sequence is part of the event's identity, so that raising it again, here or on
		// another node, is the same event.
		call.Sequence, call.StatusAt = call.Sequence+1, time.Now()
		events <- event{string(status), n.hooks.CallStatus, call}
		time.Sleep(pause)
	}
	call.PreviousStatus, call.Status, call.EndedAt = call.Status, callhook.StatusCompleted, time.Now()
	events <- event{"ended", n.hooks.PostCall, call}
}

// event is a verb with the call as it was at that moment. It is a copy, whose maps and
// slices nobody changes any more.
type event struct {
	name string
	verb func(context.Context, *callhook.Call) error
	call callhook.Call
}

// raise stores the events of one call, in order. It does so beside the call, since a
// verb may take 5 s while the queue cannot be reached.
func (n *voiceNode) raise(events <-chan event) {
	for e := range events {
		if err := n.store(e); err != nil {
			n.log.Error("an event could not be stored", "call", e.call.ID, "event", e.name, "error", err)
			continue
		}
		say("accepted %s %s", e.call.ID, e.name)
	}
}

// store raises an event until it is stored: while the queue is away or full, again and
// again. What was stored by a try whose answer was lost is not stored twice, since the
// same event of the same call has the same id.
func (n *voiceNode) store(e event) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		err := e.verb(n.patience, &e.call)
		if err == nil || errors.Is(err, callhook.ErrInvalidCall) || errors.Is(err, callhook.ErrNotOrdered) { // no try will mend it
			return err
		}
		n.log.Warn("an event is not stored yet", "call", e.call.ID, "event", e.name, "error", err)
		select {
		case <-time.After(wait):
		case <-n.patience.Done():
			return err
		}
	}
}
