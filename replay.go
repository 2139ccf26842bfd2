package callhook

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Rebuild builds dead letters that match f anew, from the calls that they were made
// of and the config that is in production now, and enqueues them, the oldest first:
// after a payload was mended. They have new IDs, and the old one in ReplayOf; the
// dead letters stay. What was rebuilt and died too is not rebuilt again, but what it
// was made of is. With the same config that is the same delivery, which a queue
// that remembers it does not send again. To send dead letters again as they are, use
// [Inspector.Replay].
//
// It needs a queue that is an [Inspector], and [Options.KeepCalls] when the events
// were raised. It returns how many were built. Its error tells of those that
// could not be, up to ten; the others are enqueued all the same. A f.Limit of zero
// means all.
func (h *Hooks) Rebuild(ctx context.Context, f Filter) (int, error) {
	in, ok := h.queue.(Inspector)
	switch {
	case h.closed.Load():
		return 0, ErrClosed
	case !ok:
		return 0, errors.New("callhook: rebuild: the queue is not an Inspector: it cannot list dead letters")
	case f.State != "" && f.State != StateDead:
		return 0, fmt.Errorf("%w: what is %s cannot be rebuilt: dead letters can", ErrFilter, f.State)
	}
	ids, err := deadLetters(ctx, in, f)
	if err != nil {
		return 0, err
	}
	built, faults := 0, []error(nil)
	for _, id := range slices.Backward(ids) { // a call's events in the order in which they were raised
		if ctx.Err() != nil {
			return built, ctx.Err()
		}
		switch err := h.rebuild(ctx, in, id); {
		case err == nil:
			built++
		case len(faults) < 10:
			faults = append(faults, fmt.Errorf("callhook: rebuild %s: %w", id, err))
		}
	}
	return built, errors.Join(faults...)
}

// deadLetters returns the IDs of those that match f and were not rebuilt, the last
// first.
func deadLetters(ctx context.Context, in Inspector, f Filter) (ids []string, err error) {
	f.State = StateDead
	most := f.Limit
	for f.Limit = 100; ; {
		page, err := in.List(ctx, f)
		if err != nil {
			return nil, err
		}
		for _, d := range page {
			if d.ReplayOf != "" {
				continue
			}
			if ids = append(ids, d.ID); most > 0 && len(ids) == most {
				return ids, nil
			}
		}
		if len(page) < f.Limit {
			return ids, nil
		}
		f.Before = page[len(page)-1].Seq
	}
}

func (h *Hooks) rebuild(ctx context.Context, in Inspector, id string) error {
	old, err := in.Get(ctx, id)
	if err != nil {
		return err
	}
	if err := h.Unseal(ctx, old); err != nil {
		return err
	}
	if len(old.Record) == 0 {
		return errors.New("its call was not kept: set Options.KeepCalls before the events are raised")
	}
	call := new(Call)
	if err := json.Unmarshal(old.Record, call); err != nil {
		return fmt.Errorf("its call cannot be read: %w", err)
	}
	a, err := h.agents.find(ctx, ConfigRef{Tenant: old.Tenant, Agent: old.Agent})
	if err != nil {
		return err
	}
	w := a.webhook(old.Type, old.Webhook)
	if w == nil {
		return fmt.Errorf("the agent has no webhook %q any more", old.Webhook)
	}
	r := a.render(call, w.name, old.Event, old.At, "")
	r.event.ID = old.ID
	trial := h.newDelivery(w, call, r)
	if trial.BuildError != "" {
		return errors.New(trial.BuildError)
	}
	// What it says, and not when it was built, makes it another one.
	r.event.ID = deliveryID(old.ID, string(trial.Body))
	d := h.newDelivery(w, call, r)
	d.ReplayOf, d.Record, d.Numbers = old.ID, old.Record, old.Numbers
	return h.store(ctx, call.ID, []*Delivery{d})
}

// keep adds to the deliveries of an event what the options say is kept of its call.
func (h *Hooks) keep(a *agent, call *Call, ds []*Delivery) {
	var record json.RawMessage
	if h.keepCalls {
		var err error
		if panicked := h.survive(func() { record, err = json.Marshal(a.public(call)) }); cmp.Or(panicked, err) != nil {
			h.log.Warn("callhook: a call's record cannot be kept", "call", call.ID, "error", cmp.Or(panicked, err))
		}
	}
	numbers, most := h.numbers(call), h.queue.Limits().MaxBody
	for _, d := range ds {
		if most == 0 || len(d.Body)+len(record) <= most {
			d.Record = record
		}
		d.Numbers = numbers
	}
}
