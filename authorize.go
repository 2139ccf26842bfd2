package callhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
)

// AuthorizeRef says whose request [Options.Authorize] is given.
type AuthorizeRef struct {
	Tenant  string // of the config
	Agent   string // of the config
	Webhook string // its name
	Type    Type
	Origin  string // where the request goes, like "https://www.zohoapis.com"
	// Refused says that the last answer from this webhook's endpoint was 401: what was
	// put in then is not valid any more, so take a new token and not a kept one.
	Refused bool
}

// AuthorizeFunc puts credentials into a request that cannot stand in a config because
// they expire, like the access tokens of OAuth2. It sets headers of req; whatever else
// it changes is ignored. Reserved headers, among them those of the signature, which is
// made after it, it cannot set: that is an error.
//
// It is called for each attempt of every webhook, by many goroutines at once, and most
// webhooks are none of its business. Whoever edits a config chooses the URL, so look at
// ref.Origin before anything is put in. Get tokens from memory, honour ctx, which ends
// with the webhook's timeout, and do not keep req.
//
// An error keeps the webhook from sending, and its deliveries wait, as with a secret
// that cannot be had; a lookup falls back. Its text is logged and kept with the
// delivery, so it must hold no credentials.
type AuthorizeFunc func(ctx context.Context, req *http.Request, ref AuthorizeRef) error

// authorized has Options.Authorize put credentials in, and returns what is new.
func (h *Hooks) authorized(e *endpoint, req *http.Request, body []byte) (tokens []string, err error) {
	ref := AuthorizeRef{
		Tenant: e.ref.Tenant, Agent: e.ref.Agent, Webhook: e.ref.Webhook, Type: e.typ, Origin: e.ref.Origin,
		Refused: e.refused.Swap(false),
	}
	theirs := req.Clone(req.Context())
	if body != nil {
		theirs.Body = io.NopCloser(bytes.NewReader(body))
	}
	if panicked := h.survive(func() { err = h.authorize(req.Context(), theirs, ref) }); panicked != nil {
		err = errors.New("it panicked")
	}
	if err == nil {
		tokens, err = added(req.Header, theirs.Header)
	}
	if err != nil {
		if ref.Refused {
			e.refused.Store(true)
		}
		return nil, &unauthorizedError{err}
	}
	req.Header = theirs.Header
	return tokens, nil
}

// added returns the values of to that are not in from.
func added(from, to http.Header) (tokens []string, err error) {
	for name, values := range to {
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case slices.Equal(from[name], values):
			continue
		case canonical != name || !isToken(name):
			return nil, fmt.Errorf("%q is not the name of a header: set headers with Header.Set", name)
		case reserved(name):
			return nil, fmt.Errorf("it has set the header %s, which is reserved", name)
		}
		for _, v := range values {
			if strings.ContainsFunc(v, isControl) {
				return nil, fmt.Errorf("the header %s has a line break or another control character in it", name)
			}
			tokens = append(tokens, credentials(v)...)
		}
	}
	return tokens, nil
}

// unauthorizedError is the error of Options.Authorize.
type unauthorizedError struct{ err error }

func (e *unauthorizedError) Error() string { return "Options.Authorize: " + e.err.Error() }
func (e *unauthorizedError) Unwrap() error { return e.err }

// answered notes whether the endpoint refused the credentials.
func (e *endpoint) answered(status int) {
	if status == http.StatusUnauthorized {
		e.refused.Store(true)
	}
}
