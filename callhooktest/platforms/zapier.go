package platforms

import (
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/callhook-go/callhook/callhooktest"
)

// Zapier is a fake of a Zap that begins with Webhooks by Zapier's Catch Hook, at
// hooks.zapier.com/hooks/catch/. It answers at once, whatever the Zap does then, with a
// status and three ids: https://github.com/zapier/visual-builder/issues/133. Change its
// fields before the first request.
//
// More than 30 requests in a second are answered with 429, and more than 10 MB, with a
// status that is not documented, with 413:
// https://docs.zapier.com/platform/build/operating-constraints. A Zap that is off
// answers 410, as Zapier's hooks do that nobody is subscribed to any more:
// https://github.com/zapier/visual-builder/pull/619.
type Zapier struct {
	*callhooktest.Endpoint
	*platform

	// PerSecond is how many requests it takes in a second: 30.
	PerSecond int

	off  bool
	runs []map[string]string
	all  window
}

// NewZapier returns a Zap that is on. It ends with the test.
func NewZapier(t testing.TB) *Zapier {
	z := &Zapier{platform: newPlatform(t), PerSecond: 30}
	z.Endpoint, z.answer = z.endpoint, z.serve
	return z
}

// TurnOff turns the Zap off.
func (z *Zapier) TurnOff() { z.turn(true) }

// TurnOn turns the Zap on.
func (z *Zapier) TurnOn() { z.turn(false) }

func (z *Zapier) turn(off bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.off = off
}

// Runs returns the fields that each run of the Zap had, by their keys: as its later steps
// can use them. What is nested has a key with two underscores (call__id), and what is in
// a list of objects one with brackets (transfers[]to), its values joined with commas.
func (z *Zapier) Runs() []map[string]string {
	z.mu.Lock()
	defer z.mu.Unlock()
	return slices.Clone(z.runs)
}

var zapierPath = regexp.MustCompile(`^/hooks/catch/\d+/\w+/?$`)

const maxZapierBody = 10 << 20

func (z *Zapier) serve(r *callhooktest.Request) callhooktest.Answer {
	if !zapierPath.MatchString(r.URL.Path) {
		return z.unplayed("%s, which is no URL of a Catch Hook", r.URL.Path)
	}
	_, _, ok := z.all.take(z.PerSecond, time.Second)
	switch {
	case !ok:
		return callhooktest.Answer{Status: http.StatusTooManyRequests}
	case z.off:
		return callhooktest.Answer{Status: http.StatusGone}
	case len(r.Body) > maxZapierBody:
		return callhooktest.Answer{Status: http.StatusRequestEntityTooLarge}
	}
	var body map[string]any
	if err := decode(r.Body, &body); err != nil {
		return z.unplayed("a body that is not a JSON object: %v", err)
	}
	run := map[string]string{}
	flatten(run, "", body)
	z.runs = append(z.runs, run)
	id := z.uuid()
	return reply(http.StatusOK, object{"attempt": id, "id": z.uuid(), "request_id": id, "status": "success"})
}

// flatten adds what is in v to fields. The keys are like those in Zapier's API:
// commit__message, parents[]sha.
func flatten(fields map[string]string, key string, v any) {
	add := func(sep, name string, v any) {
		if key != "" {
			name = key + sep + name
		}
		flatten(fields, name, v)
	}
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			add("__", name, v[name])
		}
	case []any:
		var plain []string
		items := map[string][]string{} // line items
		for _, item := range v {
			if s, ok := scalar(item); ok {
				plain = append(plain, s)
				continue
			}
			one := map[string]string{}
			flatten(one, "", item)
			for name, s := range one {
				items[name] = append(items[name], s)
			}
		}
		if len(items) == 0 {
			fields[key] = strings.Join(plain, ",")
		}
		for name, values := range items {
			fields[key+"[]"+name] = strings.Join(values, ",")
		}
	default:
		fields[key], _ = scalar(v)
	}
}
