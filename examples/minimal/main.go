// Minimal is the program of the README: one call of one agent.
//
//	go run ./examples/minimal examples/minimal/reception.json
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/callhook-go/callhook"
)

func main() {
	config, err := callhook.LoadConfig(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	hooks, err := callhook.New(callhook.Options{
		Configs: callhook.Static(config),
		Secrets: callhook.EnvSecrets("CALLHOOK_"), // ${N8N_KEY} is $CALLHOOK_N8N_KEY
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- hooks.Run(ctx) }()

	call := &callhook.Call{ID: "call_1", AgentID: "reception", Direction: callhook.Inbound, From: "+442079460123"}
	pre := hooks.PreCall(ctx, call) // before the agent speaks: answers in time, always
	pre.Apply(call)
	fmt.Println(pre.Variables.Expand(`Hi {{customer_name | default: "there"}}!`))

	call.Status, call.EndedAt = callhook.StatusCompleted, time.Now()
	if err := hooks.PostCall(ctx, call); err != nil { // after the call: stored, then delivered
		log.Print(err)
	}
	time.Sleep(time.Second) // other calls
	stop()
	fmt.Println(<-ended, hooks.Stats().Queue, hooks.Close())
}
