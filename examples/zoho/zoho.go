// Package zoho is an example: callers are looked up among Zoho CRM's contacts, and their
// calls logged with them. Zoho's access tokens live an hour, so they cannot stand in a
// config; [Tokens] gets them and puts them into the requests. See README.md.
package zoho

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/callhook-go/callhook"
	"golang.org/x/oauth2"
)

// Account is what a tenant's organization in Zoho has given: a client that was registered
// in Zoho's API console, and a refresh token, which lasts until somebody revokes it.
type Account struct {
	// Accounts is the accounts server of the organization's data centre, like
	// "https://accounts.zoho.eu".
	Accounts string
	// API is where its CRM is, like "https://www.zohoapis.eu". Tokens go there and nowhere
	// else.
	API string

	ClientID, ClientSecret, RefreshToken string
}

// Tokens has the access tokens of all tenants, in memory. Its Authorize is for
// [callhook.Options].Authorize.
type Tokens struct {
	// Account returns a tenant's account. It is asked when a token is needed and there is
	// none. Its error keeps the tenant's webhooks to Zoho from sending.
	Account func(ctx context.Context, tenant string) (Account, error)
	// Client asks for tokens. Nil means [http.DefaultClient]; the context of the request
	// that needs one bounds how long it takes.
	Client *http.Client

	mu      sync.Mutex
	tenants map[string]*tenant
}

// tenant is one who has an account.
type tenant struct {
	turn  chan struct{} // holds one: who may ask for a token now
	api   string
	token *oauth2.Token
	since time.Time
}

// fresh is how young a token must be for a refusal to have meant the one before it: many
// requests are refused together, and one new token helps them all.
const fresh = 10 * time.Second

// Authorize is a [callhook.AuthorizeFunc]: requests to Zoho's API get the tenant's access
// token. It is taken from memory, and a new one asked for when its hour is over or Zoho
// has refused it.
func (t *Tokens) Authorize(ctx context.Context, req *http.Request, ref callhook.AuthorizeRef) error {
	if !strings.HasPrefix(ref.Origin, "https://www.zohoapis.") {
		return nil // none of our business
	}
	who := t.tenant(ref.Tenant)
	select {
	case who.turn <- struct{}{}:
		defer func() { <-who.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if !who.token.Valid() || ref.Refused && time.Since(who.since) > fresh {
		if err := t.refresh(ctx, who, ref.Tenant); err != nil {
			return err
		}
	}
	if ref.Origin != who.api { // the config's URL is whoever edits it chooses
		return fmt.Errorf("tenant %q has its Zoho CRM at %s, and the webhook's URL is at %s: write the former into the config", ref.Tenant, who.api, ref.Origin)
	}
	req.Header.Set("Authorization", "Zoho-oauthtoken "+who.token.AccessToken)
	return nil
}

func (t *Tokens) tenant(name string) *tenant {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tenants == nil {
		t.tenants = map[string]*tenant{}
	}
	if t.tenants[name] == nil {
		t.tenants[name] = &tenant{turn: make(chan struct{}, 1)}
	}
	return t.tenants[name]
}

// refresh gets a new token. Zoho gives ten in ten minutes for a refresh token.
func (t *Tokens) refresh(ctx context.Context, who *tenant, name string) error {
	a, err := t.Account(ctx, name)
	if err != nil {
		return err
	}
	config := oauth2.Config{ClientID: a.ClientID, ClientSecret: a.ClientSecret, Endpoint: oauth2.Endpoint{
		TokenURL: a.Accounts + "/oauth/v2/token", AuthStyle: oauth2.AuthStyleInParams,
	}}
	if t.Client != nil {
		ctx = context.WithValue(ctx, oauth2.HTTPClient, t.Client)
	}
	token, err := config.TokenSource(ctx, &oauth2.Token{RefreshToken: a.RefreshToken}).Token()
	if err != nil {
		who.token = nil
		return fmt.Errorf("%s gives tenant %q no access token: %w", a.Accounts, name, plain(err))
	}
	who.api, who.token, who.since = a.API, token, time.Now()
	return nil
}

// plain is an error without the answer that it may carry, for logs.
func plain(err error) error {
	var refused *oauth2.RetrieveError
	if !errors.As(err, &refused) {
		return err
	}
	what := cmp.Or(refused.ErrorCode, refused.Response.Status)
	if what == "invalid_code" { // in an answer with status 200
		what += ": the refresh token was revoked; connect the organization again"
	}
	return errors.New(what)
}
