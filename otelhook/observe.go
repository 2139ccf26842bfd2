package otelhook

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/callhook-go/callhook"
)

// Observe registers the metrics that are read whenever metrics are collected: what is in
// the queue, where lanes stand, and what [callhook.Hooks.Stats] counts. queue is that of
// the hooks, and nil means the one in memory that they have made themselves, of which the
// age of the oldest delivery is not known. Nor is anything of a queue that is no
// [callhook.Inspector].
//
// Each collection asks the queue for the counts of its lanes, for at most 5 seconds. A
// queue that several processes share is told of by each of them: take the maximum, and
// not the sum.
//
// Call it once for each Telemetry, and Unregister on what it returns before the queue is
// closed. The error is the meter provider's.
func (t *Telemetry) Observe(hooks *callhook.Hooks, queue callhook.Queue) (metric.Registration, error) {
	o := &observer{t: t, hooks: hooks}
	o.inspector, _ = queue.(callhook.Inspector)
	o.counted = queue == nil
	var faults []error
	level := func(to *metric.Int64ObservableUpDownCounter, name, unit, what string) {
		var err error
		*to, err = t.meter.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(what))
		faults = append(faults, err)
	}
	count := func(to *metric.Int64ObservableCounter, name, unit, what string) {
		var err error
		*to, err = t.meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(what))
		faults = append(faults, err)
	}
	level(&o.deliveries, "callhook.queue.deliveries", "{delivery}", "Deliveries that the queue has and had, by state")
	level(&o.lanes, "callhook.lanes", "{lane}", "Webhooks at work or in trouble, by state")
	count(&o.skipped, "callhook.events.skipped", "{event}", "Events that made no delivery, by reason")
	count(&o.dropped, "callhook.variables.dropped", "{variable}", "Variables and directives of replies that were not taken, by reason")
	count(&o.skewed, "callhook.clock_skewed", "{answer}", "Answers of receivers whose clock is more than a minute off")
	var err error
	o.oldest, err = t.meter.Float64ObservableGauge("callhook.queue.oldest.age", metric.WithUnit("s"), metric.WithDescription("Age of the oldest pending delivery"))
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	return t.meter.RegisterCallback(o.observe, o.deliveries, o.lanes, o.skipped, o.dropped, o.skewed, o.oldest)
}

type observer struct {
	t         *Telemetry
	hooks     *callhook.Hooks
	inspector callhook.Inspector
	counted   bool // by the hooks

	deliveries, lanes        metric.Int64ObservableUpDownCounter
	skipped, dropped, skewed metric.Int64ObservableCounter
	oldest                   metric.Float64ObservableGauge
}

func (o *observer) observe(ctx context.Context, to metric.Observer) error {
	stats := o.hooks.Stats()
	o.reasons(to, o.skipped, stats.Skipped)
	o.reasons(to, o.dropped, stats.Dropped)
	to.ObserveInt64(o.skewed, stats.ClockSkew)
	o.states(to)
	if o.inspector != nil {
		return o.pending(ctx, to)
	}
	if o.counted {
		o.counts(to, callhook.LaneRef{}, stats.Queue)
	}
	return nil
}

func (o *observer) reasons(to metric.Observer, c metric.Int64ObservableCounter, counts map[callhook.Reason]int64) {
	for reason, n := range counts {
		to.ObserveInt64(c, n, metric.WithAttributes(reasonKey.String(string(reason))))
	}
}

// laneStates are those that are always told, also when no lane is in them: an alert
// must not wait for the first.
var laneStates = []string{
	busy, string(callhook.ReasonDown), string(callhook.ReasonGone), string(callhook.ReasonPostponed),
	string(callhook.ReasonPaused), string(callhook.ReasonNoSecret), string(callhook.ReasonNoConfig),
}

const busy = "busy"

// states tells how many lanes are in which state.
func (o *observer) states(to metric.Observer) {
	type where struct {
		label attribute.Distinct
		state string
	}
	number, refs := map[where]int64{}, map[where]callhook.LaneRef{}
	if o.t.series.labels.of == nil {
		for _, state := range laneStates {
			number[where{state: state}] = 0
		}
	}
	for _, l := range o.hooks.Lanes() {
		w := where{state: string(l.Trouble)}
		if w.state == "" {
			w.state = busy
		}
		w.label = o.t.series.labels.key(l.LaneRef)
		number[w]++
		refs[w] = l.LaneRef
	}
	for w, n := range number {
		to.ObserveInt64(o.lanes, n, o.t.series.of(refs[w], laneKey.String(w.state)))
	}
}

// pending tells what is in the queue.
func (o *observer) pending(ctx context.Context, to metric.Observer) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	lanes, err := o.inspector.Lanes(ctx, callhook.Filter{})
	if err != nil {
		return fmt.Errorf("otelhook: the queue's lanes could not be counted: %w", err)
	}
	type group struct {
		ref callhook.LaneRef
		callhook.Counts
		oldest time.Time
	}
	groups := map[attribute.Distinct]*group{}
	if o.t.series.labels.of == nil {
		groups[o.t.series.labels.key(callhook.LaneRef{})] = &group{}
	}
	for _, l := range lanes {
		key := o.t.series.labels.key(l.LaneRef)
		g := groups[key]
		if g == nil {
			g = &group{ref: l.LaneRef}
			groups[key] = g
		}
		g.Pending += l.Pending
		g.Delivered += l.Delivered
		g.Dead += l.Dead
		g.Erased += l.Erased
		if g.oldest.IsZero() || !l.Oldest.IsZero() && l.Oldest.Before(g.oldest) {
			g.oldest = l.Oldest
		}
	}
	for _, g := range groups {
		o.counts(to, g.ref, g.Counts)
		var age time.Duration
		if !g.oldest.IsZero() {
			age = max(0, time.Since(g.oldest))
		}
		to.ObserveFloat64(o.oldest, age.Seconds(), o.t.series.of(g.ref))
	}
	return nil
}

// counts tells how many deliveries there are and were, which together is how many were
// accepted.
func (o *observer) counts(to metric.Observer, ref callhook.LaneRef, c callhook.Counts) {
	for _, s := range []struct {
		state string
		n     int64
	}{{"pending", c.Pending}, {"delivered", c.Delivered}, {"dead", c.Dead}, {"erased", c.Erased}} {
		to.ObserveInt64(o.deliveries, s.n, o.t.series.of(ref, stateKey.String(s.state)))
	}
}
