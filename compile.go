package callhook

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/callhook-go/callhook/internal/jsonappend"
	"github.com/callhook-go/callhook/internal/strictjson"
	"github.com/callhook-go/callhook/internal/suggest"
	"github.com/callhook-go/callhook/internal/template"
	"github.com/tidwall/gjson"
)

// agent is a compiled [Config]: all that an event needs is worked out once.
// It never changes, so calls and deliveries share it without a lock.
type agent struct {
	config    *Config
	zone      *time.Location
	variables []declared
	preCall   *preCall
	status    []*webhook
	postCall  []*webhook
	given     []string               // secret variables that status and post-call webhooks refer to
	refused   atomic.Pointer[Config] // a later one that could not be used
}

// webhook is a compiled [CallStatusWebhook] or [PostCallWebhook].
type webhook struct {
	*endpoint
	typ         Type
	name        string
	lane        string
	body        *body
	retry       Retry // with its defaults
	concurrency int
	interval    time.Duration
	ordered     bool
	success     *Success
	statuses    []Status
	on          string
}

func (a *agent) ref() ConfigRef { return ConfigRef{Tenant: a.config.TenantID, Agent: a.config.AgentID} }

// endpoints calls f for each webhook, with its place in the config.
func (a *agent) endpoints(f func(p *endpoint, at string, ordered bool)) {
	if a.preCall != nil {
		f(a.preCall.endpoint, "pre_call", false)
	}
	for i, w := range a.status {
		f(w.endpoint, fmt.Sprintf("call_status[%d]", i), w.ordered)
	}
	for i, w := range a.postCall {
		f(w.endpoint, fmt.Sprintf("post_call[%d]", i), w.ordered)
	}
}

// webhook returns the webhook of a delivery, nil when the agent has it no more.
func (a *agent) webhook(t Type, name string) *webhook {
	all := a.status
	if t == TypePostCall {
		all = a.postCall
	}
	for _, w := range all {
		if w.name == name && w.typ == t {
			return w
		}
	}
	return nil
}

// compile validates c and prepares it. The error is a *ConfigError.
func compile(c *Config) (*agent, error) {
	if c == nil {
		return nil, &ConfigError{Faults: []Fault{{"", "the config is nil"}}}
	}
	k := &compiler{config: *c}
	a := k.agent(c)
	return a, k.err(ConfigRef{Tenant: c.TenantID, Agent: c.AgentID}.String())
}

// compiler collects faults while a config is compiled.
type compiler struct {
	config Config
	names  map[string]string // of webhooks, with the place of the first
	faults []Fault
	paths  []string // that the webhook at hand uses
}

func (c *compiler) fault(at, format string, args ...any) {
	if len(c.faults) < strictjson.MaxFaults {
		c.faults = append(c.faults, Fault{at, fmt.Sprintf(format, args...)})
	}
}

// Bounds of a config, so that none can slow the process down that others share.
const (
	maxWebhooks     = 50   // of a type
	maxPlaceholders = 1000 // of a webhook
	maxHeaders      = 50   // and names in a query
	maxText         = 8000 // of a URL or a header's value
	maxSecrets      = 50   // that a webhook refers to
	maxKeys         = 10
	maxStatuses     = 100
	maxIDBytes      = 500 // of the agent's and the tenant's
)

// most reports whether a list is not too long.
func (c *compiler) most(n, most int, at string) bool {
	if n > most {
		c.fault(at, "there are %d; at most %d are possible", n, most)
	}
	return n <= most
}

func (c *compiler) err(source string) error {
	if len(c.faults) == 0 {
		return nil
	}
	return &ConfigError{Source: source, Faults: c.faults}
}

// scope is that of the URL and headers of a webhook.
func (c *compiler) scope(t Type) template.Scope {
	return c.limited(func(path string) (template.Getter, error) {
		c.paths = append(c.paths, path)
		return resolver(t)(path)
	})
}

// limited bounds the placeholders of a webhook.
func (c *compiler) limited(scope template.Scope) template.Scope {
	return func(path string) (template.Getter, error) {
		if len(c.paths) >= maxPlaceholders {
			return nil, fmt.Errorf("the webhook has more than %d placeholders", maxPlaceholders)
		}
		return scope(path)
	}
}

func (c *compiler) agent(cfg *Config) *agent {
	a := &agent{config: cfg, zone: time.UTC}
	switch {
	case cfg.AgentID == "":
		c.fault("agent_id", "it is missing: write the agent's id, as the calls have it")
	case len(cfg.AgentID) > maxIDBytes:
		c.fault("agent_id", "it has %d bytes; at most %d are possible", len(cfg.AgentID), maxIDBytes)
	}
	if len(cfg.TenantID) > maxIDBytes {
		c.fault("tenant_id", "it has %d bytes; at most %d are possible", len(cfg.TenantID), maxIDBytes)
	}
	if cfg.Revision < 0 {
		c.fault("revision", "it must not be negative")
	}
	if cfg.Timezone != "" {
		loc, err := loadLocation(cfg.Timezone)
		if err != nil {
			c.fault("timezone", `%.80q is not a known time zone: write an IANA name, like "Europe/London"`, cfg.Timezone)
		} else {
			a.zone = loc
		}
	}
	if !c.most(len(cfg.CallStatus), maxWebhooks, "call_status") ||
		!c.most(len(cfg.PostCall), maxWebhooks, "post_call") {
		return a
	}
	a.variables = c.variables(cfg.Variables)
	if cfg.PreCall != nil {
		a.preCall = c.preCall(cfg.PreCall)
	}
	for i := range cfg.CallStatus {
		w, at := &cfg.CallStatus[i], fmt.Sprintf("call_status[%d]", i)
		out := c.webhook(&w.Endpoint, &w.DeliveryOptions, TypeCallStatus, at)
		c.most(len(w.Statuses), maxStatuses, at+".statuses")
		for j, s := range w.Statuses {
			if !s.valid() {
				c.fault(fmt.Sprintf("%s.statuses[%d]", at, j), `%q cannot be a status: write it in lower case with _, like "transfer_started"`, s)
			}
		}
		out.statuses = w.Statuses
		a.status = append(a.status, out)
	}
	for i := range cfg.PostCall {
		w, at := &cfg.PostCall[i], fmt.Sprintf("post_call[%d]", i)
		out := c.webhook(&w.Endpoint, &w.DeliveryOptions, TypePostCall, at)
		switch w.On {
		case "":
			out.on = OnEnded
		case OnEnded, OnAnalyzed:
			out.on = w.On
		default:
			c.fault(at+".on", `%q is not possible: "ended" fires when the call ends, "analyzed" when its summary is ready`, w.On)
		}
		a.postCall = append(a.postCall, out)
	}
	for _, w := range slices.Concat(a.status, a.postCall) {
		for _, name := range w.given {
			if !slices.Contains(a.given, name) {
				a.given = append(a.given, name)
			}
		}
	}
	return a
}

func (c *compiler) webhook(e *Endpoint, o *DeliveryOptions, t Type, at string) *webhook {
	c.paths = nil
	w := &webhook{typ: t, endpoint: c.endpoint(e, t, at, nil, "POST", "PUT", "PATCH")}
	w.name = w.ref.Webhook
	w.lane = laneOf(c.config.TenantID, c.config.AgentID, w.name)
	w.retry = c.retry(o.Retry, at+".retry")
	w.concurrency = c.bounded(o.Concurrency, 8, 256, at+".concurrency")
	w.ordered = o.Ordered
	var err error
	if w.interval, err = o.Rate.interval(); err != nil {
		c.fault(at+".rate", "%s", err)
	}
	w.success = c.success(o.Success, at+".success")
	w.body = c.payload(&o.Payload, t, at+".payload", c.bounded(o.MaxBytes, defaultMaxBytes, highestMaxBytes, at+".max_bytes"))
	w.paths = c.paths
	return w
}

func (c *compiler) bounded(n, def, most int, at string) int {
	switch {
	case n == 0:
		return def
	case n < 0 || n > most:
		c.fault(at, "%d is not possible: it must be from 1 to %d", n, most)
	}
	return n
}

func (c *compiler) retry(r Retry, at string) Retry {
	const day = Duration(24 * time.Hour)
	positive := func(d *Duration, def, most Duration, at string) {
		switch {
		case *d == 0:
			*d = def
		case *d < 0 || *d > most:
			c.fault(at, "%s is not possible: it must be more than 0 and at most %s", *d, most)
		}
	}
	positive(&r.Initial, Duration(5*time.Second), day, at+".initial")
	positive(&r.MaxInterval, max(r.Initial, Duration(3*time.Hour)), day, at+".max_interval")
	positive(&r.MaxAge, 3*day, 3*day, at+".max_age")
	switch {
	case r.Multiplier == 0:
		r.Multiplier = 3
	case !(r.Multiplier >= 1 && r.Multiplier <= 100): // NaN neither
		c.fault(at+".multiplier", "%g is not possible: it must be from 1 to 100", r.Multiplier)
	}
	if r.MaxAttempts < 0 {
		c.fault(at+".max_attempts", "%d is not possible: it must be 1 or more, or left out", r.MaxAttempts)
	}
	if 0 < r.MaxInterval && r.MaxInterval < r.Initial && r.Initial <= day {
		c.fault(at+".max_interval", "%s is shorter than initial (%s): make it as long, or leave it out", r.MaxInterval, r.Initial)
	}
	return r
}

func (c *compiler) success(s *Success, at string) *Success {
	if s == nil {
		return nil
	}
	for i, code := range s.Status {
		if code < 200 || code > 599 {
			c.fault(fmt.Sprintf("%s.status[%d]", at, i), "%d is not the status of an answer: it must be from 200 to 599", code)
		}
	}
	if s.Path != "" {
		if err := checkPath(s.Path); err != nil {
			c.fault(at+".path", "%s", err)
		}
	}
	switch {
	case (s.Path == "") != (len(s.Equals) == 0):
		c.fault(at, `"path" and "equals" belong together: where in the answer to look, and what must stand there`)
	case s.Path == "" && len(s.Status) == 0:
		c.fault(at, `it says nothing: give "status", or "path" and "equals", or leave it out`)
	}
	return s
}

// met reports whether an answer is the success that s describes.
func (s *Success) met(status int, reply []byte) bool {
	if len(s.Status) == 0 && (status < 200 || status > 299) || len(s.Status) > 0 && !slices.Contains(s.Status, status) {
		return false
	}
	if s.Path == "" {
		return true
	}
	if !json.Valid(reply) {
		return false
	}
	got := gjson.GetBytes(reply, s.Path)
	return got.Exists() && sameJSON([]byte(got.Raw), s.Equals)
}

// sameJSON compares two values: texts by what they say, others by how they are written.
func sameJSON(a, b []byte) bool {
	x, y := gjson.ParseBytes(a), gjson.ParseBytes(b)
	if x.Type == gjson.String && y.Type == gjson.String {
		return x.Str == y.Str
	}
	var ca, cb bytes.Buffer
	return json.Compact(&ca, a) == nil && json.Compact(&cb, b) == nil && bytes.Equal(ca.Bytes(), cb.Bytes())
}

// declared is a compiled [Variable].
type declared struct {
	Variable
	def any // Default in its declared type; nil for none
}

// maxDeclared bounds the variables of a config: each lookup looks at all of them.
const maxDeclared = 500

var variableTypes = []string{"string", "number", "boolean", "date", "object", "array"}

func (c *compiler) variables(all []Variable) (out []declared) {
	if len(all) > maxDeclared {
		c.fault("variables", "%d are declared; at most %d can be", len(all), maxDeclared)
		return nil
	}
	seen := map[string]bool{}
	for i, v := range all {
		at := fmt.Sprintf("variables[%d]", i)
		switch {
		case !template.IsName(v.Name) || len(v.Name) > 64:
			c.fault(at+".name", "%.80q cannot be the name of a variable: use up to 64 letters, digits and _, and begin with a letter or _", v.Name)
		case reservedVariable(v.Name):
			c.fault(at+".name", "%s is reserved: choose another name", v.Name)
		case seen[v.Name]:
			c.fault(at+".name", "%s is declared twice: keep one", v.Name)
		}
		seen[v.Name] = true
		d := declared{Variable: v}
		if v.MaxLength < 0 || v.MaxLength > maxVariableBytes {
			c.fault(at+".max_length", "%d is not possible: it must be from 1 to %d characters", v.MaxLength, maxVariableBytes)
		}
		if v.Type != "" && !slices.Contains(variableTypes, v.Type) {
			c.fault(at+".type", "%.80q is not a type%s: use %s", v.Type, suggest.DidYouMean(v.Type, variableTypes), strings.Join(variableTypes, ", "))
		} else if v.Default != nil {
			d.def = c.variableDefault(v, at+".default")
		}
		out = append(out, d)
	}
	return out
}

// variableDefault returns the default in its declared type.
func (c *compiler) variableDefault(v Variable, at string) any {
	raw, err := jsonappend.Any(nil, v.Default)
	if err != nil {
		c.fault(at, "%s", err)
		return nil
	}
	value, reason := coerce(v.Default, v.Type)
	if reason != "" {
		like := map[string]string{"string": `a text, like "Ada"`, "number": "a number, like 42", "boolean": "true or false",
			"date": `a date, like "2026-03-05" or "2026-03-05T09:00:00Z"`, "object": "an object in { }", "array": "a list in [ ]"}
		if v.Secret {
			raw = []byte("it")
		}
		c.fault(at, "%.80s is not %s", raw, like[v.Type])
	}
	return value
}

func reservedVariable(name string) bool { return name == "call" || name == "system" }

// locations caches time zones: time.LoadLocation reads a file each time.
var locations sync.Map // of name to *time.Location

func loadLocation(name string) (*time.Location, error) {
	if loc, ok := locations.Load(name); ok {
		return loc.(*time.Location), nil
	}
	if name == "Local" || len(name) > 64 {
		return nil, fmt.Errorf("unknown time zone %q", name)
	}
	loc, err := time.LoadLocation(name)
	if err == nil {
		locations.Store(name, loc)
	}
	return loc, err
}
