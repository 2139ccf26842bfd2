package callhook

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// SecretRef names a secret that a webhook refers to as ${Name}, and who asks.
// Whoever edits an agent's config chooses Name and the URL, so a resolver must
// answer only with what this tenant and agent may have, and sends to Origin.
type SecretRef struct {
	Tenant  string // of the config
	Agent   string // of the config
	Webhook string // its name
	Origin  string // where the secret goes, like "https://api.hubapi.com"
	Name    string
	// Call is the call's id where Name is a variable that the config declares
	// secret, and whose value is not known to this process: a lookup gave it to
	// another, or before a restart. It is empty for all other secrets.
	Call string
}

// SecretFunc resolves a secret. It is called at each attempt, by many goroutines
// at once, so it answers quickly and honours ctx. The error for a secret that
// does not exist, or that the asker may not have, wraps [ErrNoSecret].
type SecretFunc func(ctx context.Context, ref SecretRef) (string, error)

// ErrNoSecret says that a secret does not exist or is not the asker's.
var ErrNoSecret = errors.New("callhook: no such secret")

// EnvSecrets resolves ${NAME} to the environment variable prefix+NAME. It serves
// hosts with one tenant: everybody who can edit a config can send any variable
// with the prefix anywhere. The prefix must not be empty.
func EnvSecrets(prefix string) SecretFunc {
	return func(_ context.Context, ref SecretRef) (string, error) {
		if prefix == "" {
			return "", fmt.Errorf("%w: EnvSecrets has an empty prefix, which would open every environment variable: give it one, like \"CALLHOOK_\"", ErrNoSecret)
		}
		if v := os.Getenv(prefix + ref.Name); v != "" {
			return v, nil
		}
		return "", fmt.Errorf("%w: environment variable %s%s is not set", ErrNoSecret, prefix, ref.Name)
	}
}
