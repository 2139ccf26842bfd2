package otelhook

import (
	"context"
	"errors"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/callhook-go/callhook"
)

// instruments are those of metrics that are recorded as things happen.
type instruments struct {
	lookups, enqueued, attempts, deliveries, laneChanges               metric.Int64Counter
	lookupDuration, enqueueDuration, attemptDuration, deliveryDuration metric.Float64Histogram
}

// Bounds of histograms in seconds: those of the semantic conventions for HTTP, and what
// a request and a delivery may take beyond.
var (
	requestBounds  = []float64{.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 15, 30, 60}
	storeBounds    = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}
	deliveryBounds = []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600, 72 * 3600}
)

func (i *instruments) make(m metric.Meter) error {
	var faults []error
	count := func(to *metric.Int64Counter, name, unit, what string) {
		var err error
		*to, err = m.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(what))
		faults = append(faults, err)
	}
	measure := func(to *metric.Float64Histogram, name string, bounds []float64, what string) {
		var err error
		*to, err = m.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(what), metric.WithExplicitBucketBoundaries(bounds...))
		faults = append(faults, err)
	}
	count(&i.lookups, "callhook.lookups", "{lookup}", "Lookups before a call, by outcome")
	measure(&i.lookupDuration, "callhook.lookup.duration", requestBounds, "How long a caller waited for a lookup")
	count(&i.enqueued, "callhook.enqueued", "{delivery}", "Deliveries that were stored")
	measure(&i.enqueueDuration, "callhook.enqueue.duration", storeBounds, "How long it took to build and store a delivery")
	count(&i.attempts, "callhook.attempts", "{attempt}", "Attempts to deliver, by class of status")
	measure(&i.attemptDuration, "callhook.attempt.duration", requestBounds, "How long an attempt to deliver took")
	count(&i.deliveries, "callhook.deliveries", "{delivery}", "Deliveries that arrived or were given up")
	measure(&i.deliveryDuration, "callhook.delivery.duration", deliveryBounds, "How long it took from the event to its arrival, or until it was given up")
	count(&i.laneChanges, "callhook.lane.changes", "{change}", "Webhooks whose endpoint went down, is gone or came up again")
	return errors.Join(faults...)
}

func (t *Telemetry) laneChanged(l callhook.LaneState) {
	state := string(l.Trouble)
	if state == "" {
		state = "up"
	}
	t.laneChanges.Add(context.Background(), 1, t.series.of(l.LaneRef, laneKey.String(state)))
}

// series are the sets of attributes that metrics have, each made once.
type series struct {
	labels labels

	mu   sync.RWMutex
	sets map[combination]metric.MeasurementOption
}

type combination struct {
	own   [3]attribute.KeyValue
	label attribute.Distinct
}

// of returns the set of at most 3 attributes and the labels of a webhook.
func (s *series) of(ref callhook.LaneRef, own ...attribute.KeyValue) metric.MeasurementOption {
	key := combination{}
	copy(key.own[:], own)
	labels := s.labels.get(ref)
	if labels != nil {
		key.label = labels.Equivalent()
	}
	s.mu.RLock()
	option, known := s.sets[key]
	s.mu.RUnlock()
	if known {
		return option
	}
	var all []attribute.KeyValue
	if labels != nil {
		all = labels.ToSlice()
	}
	option = metric.WithAttributeSet(attribute.NewSet(append(all, own...)...)) // the last of a key counts
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sets == nil {
		s.sets = map[combination]metric.MeasurementOption{}
	}
	s.sets[key] = option
	return option
}

// labels are the host's, bounded.
type labels struct {
	of   func(callhook.LaneRef) []attribute.KeyValue
	most int

	mu    sync.RWMutex
	known map[attribute.Distinct]*attribute.Set
}

// get returns the labels of a webhook; nil for none.
func (l *labels) get(ref callhook.LaneRef) *attribute.Set {
	if l.of == nil {
		return nil
	}
	set := attribute.NewSet(l.of(ref)...)
	if set.Len() == 0 {
		return nil
	}
	key := set.Equivalent()
	l.mu.RLock()
	known, full := l.known[key], len(l.known) >= l.most
	l.mu.RUnlock()
	if known != nil {
		return known
	}
	if !full {
		l.mu.Lock()
		defer l.mu.Unlock()
		if known := l.known[key]; known != nil {
			return known
		}
		if len(l.known) < l.most {
			if l.known == nil {
				l.known = map[attribute.Distinct]*attribute.Set{}
			}
			l.known[key] = &set
			return &set
		}
	}
	rest := set.ToSlice()
	for i := range rest {
		rest[i].Value = attribute.StringValue("other")
	}
	set = attribute.NewSet(rest...)
	return &set
}

// key tells the labels of one webhook from those of another.
func (l *labels) key(ref callhook.LaneRef) (key attribute.Distinct) {
	if set := l.get(ref); set != nil {
		key = set.Equivalent()
	}
	return key
}
