package callhook_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/callhook-go/callhook"
)

// A config goes from draft to production, and back when that was a mistake.
func ExampleConfigs() {
	ctx, reception := context.Background(), callhook.ConfigRef{Agent: "reception"}
	configs := &callhook.Configs{Store: callhook.NewMemoryStore()} // or OpenDir, or a store of yours

	draft := &callhook.Config{AgentID: "reception", PostCall: []callhook.PostCallWebhook{
		{Endpoint: callhook.Endpoint{Name: "n8n", URL: "https://n8n.example.com/webhook/calls"}},
	}}
	if _, err := configs.SaveDraft(ctx, draft, ""); err != nil {
		fmt.Println(err)
	}
	first, err := configs.Publish(ctx, reception, callhook.PublishOptions{Author: "ada", Note: "calls go to n8n"})
	fmt.Println("published", first.Number, err)

	production, _ := configs.Config(ctx, reception)
	draft, version, _ := configs.Draft(ctx, reception)
	draft.PostCall[0].URL = "/webhook/calls"
	draft.PostCall[0].Ordered = true
	for _, d := range production.Diff(draft) {
		fmt.Println(d)
	}
	_, _ = configs.SaveDraft(ctx, draft, version)
	_, err = configs.Publish(ctx, reception, callhook.PublishOptions{Author: "bob"})
	fmt.Println(err)

	draft, version, _ = configs.Draft(ctx, reception)
	draft.PostCall[0].URL = "https://make.example.com/calls"
	_, _ = configs.SaveDraft(ctx, draft, version)
	_, _ = configs.Publish(ctx, reception, callhook.PublishOptions{Author: "bob", Note: "calls go to make"})
	_, _ = configs.Rollback(ctx, callhook.ConfigRef{Agent: "reception", Revision: 1}, callhook.PublishOptions{Author: "ada", Note: "make is not ready"})
	history, _ := configs.History(ctx, reception, 0)
	for _, r := range history {
		fmt.Printf("%d by %s (%s): %s\n", r.Number, r.Author, r.Note, r.Config.PostCall[0].URL)
	}
	// Output:
	// published 1 <nil>
	// post_call[0].url (n8n): "https://n8n.example.com/webhook/calls" → "/webhook/calls"
	// post_call[0].ordered (n8n): not set → true
	// callhook: config draft of agent reception: post_call[0].url: "/webhook/calls" is not a whole URL: it must begin with https:// (or http://)
	// 3 by ada (make is not ready): https://n8n.example.com/webhook/calls
	// 2 by bob (calls go to make): https://make.example.com/calls
	// 1 by ada (calls go to n8n): https://n8n.example.com/webhook/calls
}

// Two people edit the same draft: the one who saves last sees what the other has
// made of it, and overwrites nothing.
func ExampleConflictError() {
	ctx := context.Background()
	configs := &callhook.Configs{Store: callhook.NewMemoryStore()}
	version, _ := configs.SaveDraft(ctx, &callhook.Config{AgentID: "reception"}, "")

	_, _ = configs.SaveDraft(ctx, &callhook.Config{AgentID: "reception", Timezone: "Europe/London"}, version) // Ada
	mine := &callhook.Config{AgentID: "reception", Timezone: "Europe/Paris"}
	_, err := configs.SaveDraft(ctx, mine, version) // Bob
	if conflict, ok := errors.AsType[*callhook.ConflictError](err); ok {
		fmt.Println(conflict)
		for _, d := range conflict.Theirs.Diff(mine) {
			fmt.Println(d)
		}
		_, err = configs.SaveDraft(ctx, mine, conflict.Version) // he means it
		fmt.Println(err)
	}
	// Output:
	// callhook: the draft of agent reception was changed meanwhile
	// timezone: "Europe/London" → "Europe/Paris"
	// <nil>
}
