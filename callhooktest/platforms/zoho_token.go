package platforms

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/callhook-go/callhook/callhooktest"
)

// accessToken is one that the accounts server has given.
type accessToken struct {
	text  string
	until time.Time
}

// How long and how often: https://www.zoho.com/crm/developer/docs/api/v8/token-validity.html.
const (
	tokenLife   = time.Hour
	tokensAlive = 15 // of a refresh token; the oldest ends
	tokensIn10m = 10
)

// AccessToken returns a new access token, for tests of anything but OAuth2.
func (z *Zoho) AccessToken() string {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.give().text
}

// ExpireTokens ends the access tokens that there are, as when somebody revokes them or
// takes too many.
func (z *Zoho) ExpireTokens() {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.tokens = nil
}

// valid reports whether an access token is one now.
func (z *Zoho) valid(token string) bool {
	return slices.ContainsFunc(z.tokens, func(t accessToken) bool { return t.text == token && time.Now().Before(t.until) })
}

// token gives an access token for the refresh token:
// https://www.zoho.com/crm/developer/docs/api/v8/refresh.html. What is not right is
// answered with 200 too, and an error in the body.
func (z *Zoho) token(r *callhooktest.Request) callhooktest.Answer {
	if r.Method != http.MethodPost {
		return z.unplayed("%s %s of Zoho's accounts server", r.Method, r.URL.Path)
	}
	in := r.URL.Query()
	switch kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); kind {
	case "application/x-www-form-urlencoded":
		form, err := url.ParseQuery(string(r.Body))
		if err != nil {
			return reply(http.StatusOK, object{"error": "invalid_request"})
		}
		for name, values := range form {
			in[name] = values
		}
	case "":
	default:
		return z.unplayed("a token request of type %s", kind)
	}
	switch {
	case in.Get("grant_type") != "refresh_token":
		return z.unplayed("the grant_type %q of Zoho's accounts server", in.Get("grant_type"))
	case in.Get("client_id") != z.ClientID:
		return reply(http.StatusOK, object{"error": "invalid_client"})
	case in.Get("client_secret") != z.ClientSecret:
		return reply(http.StatusOK, object{"error": "invalid_client_secret"})
	case in.Get("refresh_token") != z.RefreshToken:
		return reply(http.StatusOK, object{"error": "invalid_code"})
	}
	if _, _, ok := z.attempts.take(tokensIn10m, 10*time.Minute); !ok {
		return reply(http.StatusBadRequest, object{
			"error_description": "You have made too many requests continuously. Please try again after some time.", "error": "Access Denied", "status": "failure",
		})
	}
	t := z.give()
	return reply(http.StatusOK, object{
		"access_token": t.text, "scope": "ZohoCRM.modules.ALL", "api_domain": "https://www.zohoapis.com", "token_type": "Bearer", "expires_in": int(tokenLife.Seconds()),
	})
}

// give makes an access token.
func (z *Zoho) give() accessToken {
	t := accessToken{"1000." + z.uuid(), time.Now().Add(tokenLife)}
	if z.tokens = append(z.tokens, t); len(z.tokens) > tokensAlive {
		z.tokens = z.tokens[1:]
	}
	return t
}
