// Try sends each webhook of a config once, with a sample call, and shows what came of it:
// to find out whether the other side is set up.
//
//	export CALLHOOK_HUBSPOT_TOKEN=pat-eu1-…
//	go run ./examples/try -from +442079460123 examples/hubspot/config.json
//	go run ./examples/try -webhook hubspot examples/hubspot/config.json
//
// ${NAME} in the config is the environment's $CALLHOOK_NAME. Access tokens for Zoho come
// from $ZOHO_REFRESH_TOKEN, $ZOHO_CLIENT_ID and $ZOHO_CLIENT_SECRET, and for another data
// centre than the American from $ZOHO_REGION, like "eu".
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/examples/zoho"
)

func main() {
	var a attempt
	flag.StringVar(&a.from, "from", "", "the number that calls; empty for one of the sample")
	flag.StringVar(&a.webhook, "webhook", "", "the name of the one webhook to try; empty for all")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: try [-from NUMBER] [-webhook NAME] CONFIG")
		os.Exit(2)
	}
	config, err := callhook.LoadConfig(flag.Arg(0))
	if err == nil {
		a.options = callhook.Options{Secrets: callhook.EnvSecrets("CALLHOOK_")}
		if os.Getenv("ZOHO_REFRESH_TOKEN") != "" {
			a.options.Authorize = (&zoho.Tokens{Account: zohoAccount}).Authorize
		}
		err = a.run(context.Background(), os.Stdout, config)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func zohoAccount(context.Context, string) (zoho.Account, error) {
	region := cmp.Or(os.Getenv("ZOHO_REGION"), "com")
	return zoho.Account{
		Accounts: "https://accounts.zoho." + region, API: "https://www.zohoapis." + region,
		ClientID: os.Getenv("ZOHO_CLIENT_ID"), ClientSecret: os.Getenv("ZOHO_CLIENT_SECRET"), RefreshToken: os.Getenv("ZOHO_REFRESH_TOKEN"),
	}, nil
}

// attempt is what is to be tried. One webhook is tried with what the lookup finds.
type attempt struct {
	options       callhook.Options
	from, webhook string
}

// run tries the webhooks, the lookup first: what it finds, the others are told. Its
// error says that one of them would not have worked.
func (a attempt) run(ctx context.Context, out io.Writer, config *callhook.Config) error {
	all := webhooks(config)
	if a.webhook != "" && !slices.ContainsFunc(all, func(w webhook) bool { return w.name == a.webhook }) {
		return fmt.Errorf("the config has no webhook %q", a.webhook)
	}
	a.options.Configs = callhook.Static(config)
	hooks, err := callhook.New(a.options)
	if err != nil {
		return err
	}
	defer hooks.Close()
	for _, warning := range config.Lint() {
		fmt.Fprintln(out, "note:", warning)
	}
	var found callhook.Variables
	tried, failed := 0, 0
	for _, w := range all {
		if a.webhook != "" && w.name != a.webhook && w.typ != callhook.TypePreCall {
			continue
		}
		call := callhook.SampleCall(w.typ)
		call.TenantID, call.AgentID, call.From = config.TenantID, config.AgentID, cmp.Or(a.from, call.From)
		if len(w.statuses) > 0 {
			call.Status = w.statuses[0]
		}
		if found != nil {
			call.Variables = found
		}
		r, err := hooks.TestSend(ctx, config, w.name, call)
		if err != nil {
			return err
		}
		tried++
		verdict := "ok"
		if !r.OK {
			verdict = "not ok"
			failed++
		}
		fmt.Fprintf(out, "%s %s: %s after %s: %s\n", w.typ, w.name, verdict, r.Elapsed.Round(time.Millisecond), r.Meaning)
		if r.Reply != "" {
			fmt.Fprintf(out, "    status %d, it says: %s\n", r.Status, r.Reply)
		}
		if r.Error != "" {
			fmt.Fprintf(out, "    %s\n", r.Error)
		}
		if r.PreCall != nil {
			found = r.PreCall.Variables
			for _, name := range slices.Sorted(maps.Keys(found)) {
				fmt.Fprintf(out, "    %s: %v\n", name, found[name])
			}
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d webhooks would not have worked", failed, tried)
	}
	return nil
}

// webhook is one of a config's.
type webhook struct {
	typ      callhook.Type
	name     string
	statuses []callhook.Status
}

func webhooks(c *callhook.Config) (all []webhook) {
	add := func(typ callhook.Type, e callhook.Endpoint, statuses []callhook.Status) {
		all = append(all, webhook{typ, cmp.Or(e.Name, string(typ)), statuses})
	}
	if c.PreCall != nil {
		add(callhook.TypePreCall, c.PreCall.Endpoint, nil)
	}
	for _, w := range c.CallStatus {
		add(callhook.TypeCallStatus, w.Endpoint, w.Statuses)
	}
	for _, w := range c.PostCall {
		add(callhook.TypePostCall, w.Endpoint, nil)
	}
	return all
}
