package main

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/callhooktest/platforms"
	"github.com/google/go-cmp/cmp"
)

// TestTry tries the HubSpot example on loopback.
func TestTry(t *testing.T) {
	hubspot := platforms.NewHubSpot(t)
	ada := hubspot.AddContact(map[string]string{"firstname": "Ada", "phone": "+44 20 7946 0123"})
	data, err := os.ReadFile(filepath.Join("..", "hubspot", "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	config, err := callhook.ParseConfig(bytes.ReplaceAll(data, []byte("https://api.hubapi.com"), []byte(hubspot.Listen())))
	if err != nil {
		t.Fatal(err)
	}
	try := func(from, webhook, token string) (string, error) {
		var out bytes.Buffer
		a := attempt{from: from, webhook: webhook, options: callhook.Options{
			Secrets: callhooktest.Secrets{"HUBSPOT_TOKEN": token}.Resolve, AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		}}
		err := a.run(t.Context(), &out, config)
		return out.String(), err
	}
	out, err := try("+442079460123", "", hubspot.Token)
	if err != nil || !strings.Contains(out, "pre_call pre_call: ok") || !strings.Contains(out, "    contact_id: "+ada+"\n") || !strings.Contains(out, "post_call hubspot: ok") {
		t.Errorf("%v\n%s", err, out)
	}
	if calls := hubspot.Calls(); len(calls) != 1 || calls[0].Contacts[0] != ada {
		t.Errorf("calls in HubSpot: %+v", calls)
	}
	out, err = try("+442079460555", "", hubspot.Token) // nobody, and the id is not filled in
	if err == nil || !strings.Contains(out, "post_call hubspot: not ok") || !strings.Contains(out, "note: post_call[0].payload.template: YOUR_UNKNOWN_CALLER_CONTACT") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err = try("", "", "pat-of-nobody"); err == nil || !strings.Contains(err.Error(), "2 of 2") || !strings.Contains(out, "INVALID_AUTHENTICATION") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err = try("", "hubspott", hubspot.Token); err == nil {
		t.Error("a webhook that there is not: no error")
	}
}

// TestConfigs: the examples' configs are valid, and what the linter says of them is
// what their READMEs say.
func TestConfigs(t *testing.T) {
	for name, want := range map[string][]string{
		"hubspot":    {"post_call[0].payload.template"},            // an id to be filled in
		"zoho":       {"pre_call.secrets", "post_call[0].secrets"}, // Options.Authorize has the key
		"automation": nil,
		"ticket":     nil,
	} {
		config, err := callhook.LoadConfig(filepath.Join("..", name, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := config.Validate(); err != nil {
			t.Error(err)
		}
		var got []string
		for _, f := range config.Lint() {
			got = append(got, f.Path)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: the linter warns of (-want +got):\n%s\n%v", name, diff, config.Lint())
		}
	}
}
