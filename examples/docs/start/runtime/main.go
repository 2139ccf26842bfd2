// Command runtime is the program of docs/getting-started.md: a voice-agent runtime with
// one call and no voice.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

// run is the process. All of this is made once.
func run(ctx context.Context) error {
	config, err := callhook.LoadConfig("reception.json")
	if err != nil {
		return err
	}
	queue, err := sqlitequeue.Open("callhook.db", nil) // events wait here: on disk, synced
	if err != nil {
		return err
	}
	defer queue.Close()
	hooks, err := callhook.New(callhook.Options{
		Configs:   callhook.Static(config),
		Queue:     queue,
		Secrets:   callhook.EnvSecrets("CALLHOOK_"), // ${HOOK_KEY} is $CALLHOOK_HOOK_KEY
		Logger:    slog.Default(),
		AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, // for this page: without it only public addresses
	})
	if err != nil {
		return err
	}
	defer hooks.Close()

	delivering, stop := context.WithCancel(context.WithoutCancel(ctx)) // the signal ends the calls first
	defer stop()
	delivered := make(chan error, 1)
	go func() { delivered <- hooks.Run(delivering) }()

	takeCall(ctx, hooks) // yours: a goroutine for each
	select {
	case <-ctx.Done(): // no new calls, and the last has ended
		stop()
		return <-delivered
	case err := <-delivered: // the queue does not work any more
		return err
	}
}

// takeCall is one call, from its first ring to its analysis.
func takeCall(ctx context.Context, hooks *callhook.Hooks) {
	call := &callhook.Call{
		ID: rand.Text(), AgentID: "reception", Direction: callhook.Inbound,
		From: "+442079460123", To: "+442079460999", StartedAt: time.Now(),
	}
	pre := hooks.PreCall(ctx, call) // before the agent speaks: at most 2 seconds, and no error
	pre.Apply(call)                 // the variables go into the call
	fmt.Println(pre.Variables.Expand(`Hi {{customer_name | default: "there"}}!`))
	fmt.Println("lookup:", pre)

	call.AnsweredAt = time.Now()
	for _, status := range []callhook.Status{callhook.StatusInProgress, callhook.StatusTransferStarted, callhook.StatusTransferFailed} {
		call.PreviousStatus, call.Status, call.StatusAt = call.Status, status, time.Now()
		call.Sequence++ // tells one change from another
		if err := hooks.CallStatus(ctx, call); err != nil {
			log.Print(err) // it was not stored: call it again, with the same call
		}
	}

	call.EndedAt, call.EndReason = time.Now(), "hangup"
	if err := hooks.PostCall(ctx, call); err != nil { // for webhooks with "on": "ended"
		log.Print(err)
	}
	call.Summary, call.AnalyzedAt = "Ada wants to be called back.", time.Now()
	if err := hooks.PostCall(ctx, call); err != nil { // the same call, once more, for "on": "analyzed"
		log.Print(err)
	}
}
