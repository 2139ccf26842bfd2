package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// key signs the webhooks. A runtime keeps it in its secret store, and the config only
// refers to it.
const key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

const config = `{
  "agent_id": "reception",
  "timezone": "Europe/London",
  "variables": [{"name": "customer_name", "description": "Caller's first name"}],
  "pre_call": {
    "url": "%[1]s/lookup", "method": "GET", "query": {"phone": "{{call.from}}"}, "timeout": "5s", "late_for": "30s",
    "response": {"variables": {"customer_name": "contact.first_name", "next_appointment": "appointments.0.day"}}
  },
  "call_status": [{"name": "ops", "url": "%[1]s/status", "secrets": ["${HOOK_KEY}"], "ordered": true}],
  "post_call": [
    {"name": "log", "url": "%[1]s/calls", "secrets": ["${HOOK_KEY}"]},
    {"name": "crm", "url": "%[1]s/calls", "secrets": ["${HOOK_KEY}"], "on": "analyzed"}
  ]
}`

// runtime takes calls.
type runtime struct {
	hooks   *callhook.Hooks
	queue   *sqlitequeue.Queue
	journal *journal
	log     *printer
	end     context.CancelFunc
	ended   chan error // of hooks.Run
}

// start opens what a runtime needs, delivers what is in the queue, and ends the calls
// that an earlier one has left.
func start(ctx context.Context, log *printer, db, endpoints string) (*runtime, error) {
	c, err := callhook.ParseConfig(fmt.Appendf(nil, config, endpoints))
	if err != nil {
		return nil, err
	}
	r := &runtime{log: log, ended: make(chan error, 1)}
	if r.queue, err = sqlitequeue.Open(db, nil); err != nil {
		return nil, err
	}
	r.hooks, err = callhook.New(callhook.Options{
		Configs:   callhook.Static(c),
		Queue:     r.queue,
		Secrets:   func(context.Context, callhook.SecretRef) (string, error) { return key, nil },
		AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, // the endpoints of this program; public ones need none
	})
	if err != nil {
		return nil, errors.Join(err, r.queue.Close())
	}
	var left []*callhook.Call
	if r.journal, left, err = openJournal(db + ".journal"); err != nil {
		return nil, errors.Join(err, r.hooks.Close(), r.queue.Close())
	}
	running, end := context.WithCancel(context.Background())
	r.end = end
	go func() { r.ended <- r.hooks.Run(running) }()
	for _, call := range left {
		if err := r.recover(ctx, call); err != nil {
			return nil, errors.Join(err, r.stop())
		}
	}
	return r, nil
}

// stop closes everything, in the order in which it depends on each other.
func (r *runtime) stop() error {
	r.end()
	return errors.Join(<-r.ended, r.hooks.Close(), r.journal.close(), r.queue.Close())
}

// take takes a call and talks until it is over. It returns when the call's data is
// stored for delivery. The end of ctx is the end of the process: nothing more is done,
// and the next start finds the call in the journal.
func (r *runtime) take(ctx context.Context, caller *phone) error {
	call := &callhook.Call{
		ID: "call_" + strings.ToLower(rand.Text()), AgentID: "reception", Direction: callhook.Inbound, Channel: "phone",
		From: caller.number, To: "+442079460999", StartedAt: time.Now(), Status: callhook.StatusRinging,
	}
	if err := r.journal.write(call); err != nil {
		return err
	}
	r.log.say("call      from %s rings", call.From)

	// 1. Who is calling? The caller hears it ring meanwhile.
	ringing, cancel := context.WithTimeout(ctx, caller.patience)
	pre := r.hooks.PreCall(ringing, call)
	cancel()
	pre.Apply(call)
	r.log.say("lookup    %s", pre.Outcome)
	call.AnsweredAt, call.PreviousStatus, call.Status = time.Now(), call.Status, callhook.StatusInProgress
	if err := r.say(call, caller, call.Variables.Expand(greeting)); err != nil {
		return err
	}

	// 2. The conversation.
	for late := pre.Late; call.EndedAt.IsZero(); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case answer, ok := <-late: // what the CRM says too late for the greeting is not too late for the call
			if late = nil; !ok {
				continue
			}
			answer.Apply(call)
			r.log.say("lookup    %s, late", answer.Outcome)
			r.turn(call, callhook.Turn{Role: "system", Text: "The caller's file has arrived."})
		case text, ok := <-caller.said:
			if !ok {
				call.EndedBy, call.EndReason = "caller", "hung_up"
				if err := r.over(ctx, call, callhook.StatusCompleted); err != nil {
					return err
				}
				continue
			}
			r.log.say("caller    %s", text)
			r.turn(call, callhook.Turn{Role: "user", Text: text})
		}
		if call.EndedAt.IsZero() {
			if err := r.respond(ctx, call, caller); err != nil {
				return err
			}
		}
	}
	return r.finish(ctx, call)
}

// respond has the model take its turn.
func (r *runtime) respond(ctx context.Context, call *callhook.Call, caller *phone) error {
	text, tool := model(systemPrompt(call.Variables), call.Transcript)
	if text != "" {
		if err := r.say(call, caller, text); err != nil {
			return err
		}
	}
	if tool == nil {
		return nil
	}
	r.turn(call, callhook.Turn{Role: "tool", Tool: tool})
	if tool.Name == "transfer" {
		if err := r.transfer(ctx, call); err != nil {
			return err
		}
	}
	call.EndedBy, call.EndReason = "agent", map[string]string{"transfer": "transferred", "end_call": "goodbye"}[tool.Name]
	return r.over(ctx, call, callhook.StatusCompleted)
}

// transfer puts the caller through to a person. The telephony of this example always
// succeeds; a real one reports transfer_failed the same way.
func (r *runtime) transfer(ctx context.Context, call *callhook.Call) error {
	t := callhook.Transfer{To: "+442079460100", Type: "cold", Status: callhook.StatusTransferStarted, StartedAt: time.Now()}
	call.Transfers = append(call.Transfers, t)
	if err := r.change(ctx, call, callhook.StatusTransferStarted); err != nil {
		return err
	}
	last := &call.Transfers[len(call.Transfers)-1]
	last.Status, last.EndedAt = callhook.StatusTransferConnected, time.Now()
	return r.change(ctx, call, callhook.StatusTransferConnected)
}

// change tells that the call's status has changed. The journal has it first, so that a
// restart counts on from there, and raises again what may not have been stored.
func (r *runtime) change(ctx context.Context, call *callhook.Call, status callhook.Status) error {
	call.PreviousStatus, call.Status = call.Status, status
	call.Sequence++
	call.StatusAt = time.Now()
	if err := r.journal.write(call); err != nil {
		return err
	}
	r.log.say("call      %s", status)
	return r.hooks.CallStatus(ctx, call)
}

// over ends the call, at the time that it has ended if that is known.
func (r *runtime) over(ctx context.Context, call *callhook.Call, status callhook.Status) error {
	if call.EndedAt.IsZero() {
		call.EndedAt = time.Now()
	}
	return r.change(ctx, call, status)
}

// finish tells of a call that has ended, and then the journal forgets it.
func (r *runtime) finish(ctx context.Context, call *callhook.Call) error {
	if err := r.tell(ctx, call); err != nil {
		return err
	}
	r.log.say("call      ended, its data is stored: %s", call.Summary)
	return r.journal.remove(call.ID)
}

// tell sends the data of a call that has ended, and once more when it is analyzed.
// Whatever comes in between, the next start does it again: an event's id is made of the
// call's, so what was stored already is not sent twice.
func (r *runtime) tell(ctx context.Context, call *callhook.Call) error {
	if err := r.hooks.PostCall(ctx, call); err != nil {
		return err
	}
	if call.AnalyzedAt.IsZero() {
		analyze(call)
		call.AnalyzedAt = time.Now()
		if err := r.journal.write(call); err != nil {
			return err
		}
	}
	return r.hooks.PostCall(ctx, call)
}

// recover ends a call that an earlier process has not ended, and finishes one that it
// has not finished.
func (r *runtime) recover(ctx context.Context, call *callhook.Call) error {
	r.log.say("runtime   finds a call from %s that was %s", call.From, call.Status)
	if call.Sequence > 0 { // perhaps it died before this was stored
		if err := r.hooks.CallStatus(ctx, call); err != nil {
			return err
		}
	}
	if !call.Status.Terminal() {
		call.EndReason, call.EndedBy = "runtime_restarted", "system"
		if err := r.over(ctx, call, callhook.StatusFailed); err != nil {
			return err
		}
	}
	return r.finish(ctx, call)
}

// settle waits until everything was delivered. A runtime that serves does not wait.
func (r *runtime) settle(ctx context.Context) error {
	for deadline := time.Now().Add(30 * time.Second); ; {
		q := r.hooks.Stats().Queue
		if q.Pending == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d events are not delivered yet: start again to go on", q.Pending)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// say says something to the caller.
func (r *runtime) say(call *callhook.Call, caller *phone, text string) error {
	r.turn(call, callhook.Turn{Role: "agent", Text: text})
	if err := r.journal.write(call); err != nil {
		return err
	}
	r.log.say("agent     %s", text)
	caller.hear()
	return nil
}

// turn adds a turn to the transcript.
func (r *runtime) turn(call *callhook.Call, t callhook.Turn) {
	t.Start = time.Since(call.StartedAt).Seconds()
	t.End = t.Start // text takes no time
	call.Transcript = append(call.Transcript, t)
}

// analyze stands for what a model makes of a conversation that is over.
func analyze(call *callhook.Call) {
	asked := "none"
	for _, t := range call.Transcript {
		if t.Role == "user" {
			asked = fmt.Sprintf("%q", t.Text)
		}
	}
	call.Summary = fmt.Sprintf("turns: %d, the caller's last words: %s", len(call.Transcript), asked)
	well := call.Status == callhook.StatusCompleted
	call.Successful = &well
}
