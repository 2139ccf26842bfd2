package callhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/callhook-go/callhook/internal/strictjson"
)

// Config is all webhooks of one agent. It is a plain struct whose JSON a person
// can write; see the examples in examples/config.
//
// A Config that was given to [Static] or to a [ConfigSource] must not be changed
// any more.
type Config struct {
	// Schema is where an editor finds [Schema], like "./config.schema.json". Nothing
	// else reads it.
	Schema string `json:"$schema,omitempty"`
	// TenantID is the customer that the agent belongs to; empty in a
	// single-tenant runtime. It must equal the calls' tenant_id.
	TenantID string `json:"tenant_id,omitempty"`
	// AgentID is the agent, as in the calls' agent_id.
	AgentID string `json:"agent_id"`
	// Revision is the number that publishing gave this config; zero for one that
	// is not published.
	Revision int `json:"revision,omitempty"`
	// Timezone is the IANA zone of the date filter where a call has none. Empty
	// means UTC.
	Timezone string `json:"timezone,omitempty"`
	// Variables declares the conversation's variables. Others may be used too;
	// declaring one gives it a default, a type and protection.
	Variables []Variable `json:"variables,omitempty"`
	// PreCall is the lookup before the agent speaks.
	PreCall *PreCallWebhook `json:"pre_call,omitempty"`
	// CallStatus are told when a call's status changes. At most 50.
	CallStatus []CallStatusWebhook `json:"call_status,omitempty"`
	// PostCall get the call's data after it ended. At most 50.
	PostCall []PostCallWebhook `json:"post_call,omitempty"`
}

// Variable declares a variable of the conversation.
type Variable struct {
	// Name is [A-Za-z_][A-Za-z0-9_]*; call and system are reserved.
	Name string `json:"name"`
	// Description says what it is, for people and for the model.
	Description string `json:"description,omitempty"`
	// Type is string, number, boolean, date, object or array. A reply's value of
	// another type is converted if nothing is lost by it ("42" for a number) and
	// dropped otherwise. Empty means any.
	Type string `json:"type,omitempty"`
	// MaxLength is how many characters its text may have: a longer one in a reply is
	// dropped. Zero means 4 KiB.
	MaxLength int `json:"max_length,omitempty"`
	// Default is its value where neither the call nor the reply gives one.
	Default any `json:"default,omitempty"`
	// Locked keeps a reply from changing it.
	Locked bool `json:"locked,omitempty"`
	// Secret keeps it out of [PreCallResult.Variables] and so out of prompts and
	// payloads: it arrives in [PreCallResult.Secrets]. Later webhooks refer to it as
	// ${name}, like to any secret; no queue stores its value.
	Secret bool `json:"secret,omitempty"`
}

// maxConfigBytes bounds what ParseConfig reads.
const maxConfigBytes = 1 << 20

// ParseConfig reads a config from JSON. It refuses what it does not know, and
// reports every fault at once in a [*ConfigError]. It does not call
// [Config.Validate]: a draft may be incomplete.
func ParseConfig(data []byte) (*Config, error) {
	if len(data) > maxConfigBytes {
		return nil, &ConfigError{Faults: []Fault{{"", fmt.Sprintf("the config has %d bytes; at most %d are read", len(data), maxConfigBytes)}}}
	}
	c := new(Config)
	if faults := strictjson.Decode(bytes.TrimPrefix(data, []byte("\ufeff")), c); len(faults) > 0 { // as Windows begins texts
		e := new(ConfigError)
		for _, f := range faults {
			e.Faults = append(e.Faults, Fault{f.Path, f.Problem})
		}
		return nil, e
	}
	return c, nil
}

// LoadConfig reads a config from a file, as [ParseConfig] does.
func LoadConfig(file string) (*Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("callhook: config: %w", err)
	}
	return parseFile(file, data)
}

// LoadConfigFS reads the configs in the files of fsys that match any of the
// patterns (see [fs.Glob]), in the order of the patterns and then of the names.
// A pattern that matches nothing is an error.
func LoadConfigFS(fsys fs.FS, patterns ...string) ([]*Config, error) {
	var configs []*Config
	var faults []error
	for _, pattern := range patterns {
		files, err := fs.Glob(fsys, pattern)
		if err == nil && len(files) == 0 {
			err = fs.ErrNotExist
		}
		if err != nil {
			return nil, fmt.Errorf("callhook: config: %s: %w", pattern, err)
		}
		for _, file := range files {
			data, err := fs.ReadFile(fsys, file)
			if err != nil {
				return nil, fmt.Errorf("callhook: config: %w", err)
			}
			c, err := parseFile(file, data)
			if err != nil {
				faults = append(faults, err)
				continue
			}
			configs = append(configs, c)
		}
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return configs, nil
}

func parseFile(file string, data []byte) (*Config, error) {
	c, err := ParseConfig(data)
	var ce *ConfigError
	if errors.As(err, &ce) {
		ce.Source = file
	}
	return c, err
}

// Fault is one thing that is wrong with a config, or that Lint warns of.
type Fault struct {
	// Path is where, like "post_call[1].url"; empty for the whole config.
	Path string `json:"path"`
	// Message says what is wrong and what would be right.
	Message string `json:"message"`
}

// String is "path: message".
func (f Fault) String() string {
	if f.Path == "" {
		return f.Message
	}
	return f.Path + ": " + f.Message
}

// ConfigError is the error of a config that cannot be used. It holds every fault,
// not the first.
type ConfigError struct {
	// Source says which config, like a file or "agent reception"; may be empty.
	Source string
	// Faults are all that were found, in the order of the config.
	Faults []Fault
}

// Error lists the faults, one a line when there are several.
func (e *ConfigError) Error() string {
	var b strings.Builder
	b.WriteString("callhook: config")
	if e.Source != "" {
		b.WriteString(" " + e.Source)
	}
	if len(e.Faults) == 1 {
		return b.String() + ": " + e.Faults[0].String()
	}
	fmt.Fprintf(&b, ": %d faults:", len(e.Faults))
	for _, f := range e.Faults {
		b.WriteString("\n\t" + f.String())
	}
	return b.String()
}

// Validate returns a [*ConfigError] with every fault of the config, or nil. What
// only the runtime can know, like whether a secret exists, [Hooks.Check] tells.
func (c *Config) Validate() error {
	_, err := compile(c)
	return err
}

// ErrNoConfig says that an agent has no config in production, and so no webhooks.
var ErrNoConfig = errors.New("callhook: the agent has no config in production")

// ConfigSource is where [Hooks] finds the config of an agent: [Static], [Configs]
// or the host's own. Its methods are called often, by many goroutines at once, so
// it answers from memory.
//
// A source may have the method Watch of [ConfigStore] besides. Then it is asked
// once, and what it said serves until Watch tells of a change: while [Hooks.Run]
// is under way, which calls Watch, and calls it again a second after it returned.
// A publish reaches what waits at once. While nobody watches, what the source said
// serves for a second, and for 5 seconds when it fails.
type ConfigSource interface {
	// Config returns the config in production, or the revision asked for when
	// ref.Revision is not zero; for a revision that it does not keep, the one in
	// production serves, whether it answers with that or with [ErrNoConfig]. A
	// config that was returned must not be changed; returning the same pointer
	// again costs nothing. The error for an agent without one is [ErrNoConfig]. On
	// another error, and when ctx ends, which it does after 2 seconds, Hooks goes
	// on with the last config that it got: that of the revision, or of production.
	// Where it has none yet, a config beside the error serves.
	Config(ctx context.Context, ref ConfigRef) (*Config, error)
}

// ConfigRef names a config.
type ConfigRef struct {
	Tenant, Agent string
	Revision      int // its number, or Production, or Draft
}

// The values of [ConfigRef.Revision] that are not a revision's number.
const (
	Production = 0  // the config that calls use
	Draft      = -1 // the one that is edited
)

// Static returns a source that has these configs in production for ever. [New]
// validates them.
func Static(configs ...*Config) ConfigSource {
	s := make(static, len(configs))
	for _, c := range configs {
		key := ConfigRef{}
		if c != nil { // New reports one that is nil
			key = ConfigRef{Tenant: c.TenantID, Agent: c.AgentID}
		}
		s[key] = append(s[key], c)
	}
	return s
}

// static holds more than one config for an agent only until New refuses it.
type static map[ConfigRef][]*Config

func (s static) Config(_ context.Context, ref ConfigRef) (*Config, error) {
	ref.Revision = 0
	if all := s[ref]; len(all) > 0 {
		return all[0], nil
	}
	return nil, ErrNoConfig
}

// validate returns the errors of all configs.
func (s static) validate() error {
	var all []error
	for ref, configs := range s {
		if len(configs) > 1 {
			all = append(all, &ConfigError{Source: ref.String(), Faults: []Fault{{"agent_id",
				fmt.Sprintf("%d configs are for this agent: keep one", len(configs))}}})
		}
		for _, c := range configs {
			if err := c.Validate(); err != nil {
				all = append(all, err)
			}
		}
	}
	return errors.Join(all...)
}

// production is the agent's config that calls use.
func (r ConfigRef) production() ConfigRef { return ConfigRef{Tenant: r.Tenant, Agent: r.Agent} }

// String is "agent NAME", with the tenant before it.
func (r ConfigRef) String() string {
	s := fmt.Sprintf("agent %.100s", r.Agent)
	if r.Tenant != "" {
		s = fmt.Sprintf("tenant %.100s %s", r.Tenant, s)
	}
	return s
}

// UnmarshalJSON accepts a path, or an object with path, as and default.
func (f *PayloadField) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, &f.Path); err == nil {
		return nil
	}
	if len(data) == 0 || data[0] != '{' {
		return errors.New(`it must be a path in quotes, or {"path": …, "as": …, "default": …}`)
	}
	type plain PayloadField
	p := plain{}
	if faults := strictjson.Decode(data, &p); len(faults) > 0 {
		return faults
	}
	*f = PayloadField(p)
	return nil
}

// MarshalJSON writes a path alone where nothing else is set.
func (f PayloadField) MarshalJSON() ([]byte, error) {
	if f.As == "" && f.Default == nil {
		return json.Marshal(f.Path)
	}
	type plain PayloadField
	return json.Marshal(plain(f))
}
