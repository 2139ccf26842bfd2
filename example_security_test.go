package callhook_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/callhook-go/callhook"
)

// Access tokens expire, so they cannot stand in a config. The host puts them in, where
// they belong and nowhere else.
func ExampleAuthorizeFunc() {
	crm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.URL.Path, r.Header.Get("Authorization"))
	}))
	defer crm.Close()
	token := func(tenant string) string { return "an access token of " + tenant } // an oauth2.TokenSource in real life

	config, err := callhook.ParseConfig(fmt.Appendf(nil, `{"tenant_id": "acme", "agent_id": "reception", "pre_call": {"url": "%s/contacts"}}`, crm.URL))
	if err != nil {
		log.Fatal(err)
	}
	hooks, err := callhook.New(callhook.Options{
		Configs: callhook.Static(config), AllowNets: loopback,
		Authorize: func(ctx context.Context, req *http.Request, ref callhook.AuthorizeRef) error {
			if ref.Origin == crm.URL { // whoever edits a config chooses the URL
				req.Header.Set("Authorization", "Bearer "+token(ref.Tenant))
			}
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer hooks.Close()
	hooks.PreCall(context.Background(), &callhook.Call{ID: "call_1", TenantID: "acme", AgentID: "reception", From: "+442079460123"})
	// Output: /contacts Bearer an access token of acme
}

// What is stored cannot be read without the key; a page that shows a delivery unseals
// it.
func ExampleSealKeys() {
	config, err := callhook.ParseConfig([]byte(`{"agent_id": "reception", "post_call": [{"name": "n8n", "url": "https://n8n.example.com/", "payload": {"template": {"from": "{{call.from}}"}}}]}`))
	if err != nil {
		log.Fatal(err)
	}
	queue := callhook.NewMemoryQueue(nil)
	hooks, err := callhook.New(callhook.Options{
		Configs: callhook.Static(config), Queue: queue,
		SealKey: callhook.SealKeys(
			callhook.SealKey{ID: "2026-11", Key: []byte("32 random bytes of your vault's.")},
			callhook.SealKey{ID: "2026-05", Key: []byte("the one that was used before it.")},
		),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer hooks.Close()
	ctx := context.Background()
	if err := hooks.PostCall(ctx, &callhook.Call{ID: "call_1", AgentID: "reception", From: "+442079460123", EndedAt: time.Now()}); err != nil {
		log.Fatal(err)
	}

	page, err := queue.List(ctx, callhook.Filter{Call: "call_1"})
	if err != nil {
		log.Fatal(err)
	}
	d, err := queue.Get(ctx, page[0].ID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("sealed with", d.Sealed)
	if err := hooks.Unseal(ctx, d); err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(d.Body))
	// Output:
	// sealed with 2026-11
	// {"from":"+442079460123"}
}
