// Sipagent is a SIP user agent that answers calls as a voice agent's runtime does,
// and shows where callhook comes in:
//
//   - while the caller's phone rings, [callhook.Hooks.PreCall] asks the customer's
//     system who is calling, and the greeting is made of what it says;
//   - each change of the call's status is told with [callhook.Hooks.CallStatus],
//     those of a transfer (REFER, RFC 3515) among them;
//   - [callhook.Hooks.PostCall] delivers the call's data when it is over, however it
//     ended: hung up, canceled while it rang, or turned away because all lines were
//     busy.
//
// SIP and RTP are real, the conversation is not: there is no speech recognition, no
// model and no voice. The greeting's text is spelled in tones, see rtp.go.
//
//	go run ./examples/sipagent -config examples/sipagent/agent.json
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/callhook-go/callhook"
)

// options are what the agent is started with.
type options struct {
	listen     string         // address and port for SIP over UDP, as callers reach it
	config     string         // file with the agent's webhooks
	allow      []netip.Prefix // private networks that webhooks may be sent to
	greeting   string         // what the agent says first, with the variables' placeholders
	transferTo string         // SIP URI that callers who dial 0 are sent to; empty: none are
	lines      int            // how many calls are taken at once; the next one hears busy
	longest    time.Duration  // how long a call may last
	log        *slog.Logger
	listening  func(addr string) // told the address once calls can come; may be nil
}

func main() {
	o := options{}
	flag.StringVar(&o.listen, "listen", "127.0.0.1:5060", "address and port for SIP over UDP, as callers reach it (not 0.0.0.0)")
	flag.StringVar(&o.config, "config", "agent.json", "file with the agent's webhooks")
	flag.StringVar(&o.greeting, "greeting", `Hi {{customer_name | default: "there"}}!`, "what the agent says first")
	flag.StringVar(&o.transferTo, "transfer-to", "", "SIP URI that callers who dial 0 are sent to, like sip:desk@192.0.2.7")
	flag.IntVar(&o.lines, "lines", 100, "how many calls are taken at once")
	flag.DurationVar(&o.longest, "longest", time.Hour, "how long a call may last")
	verbose := flag.Bool("v", false, "log what is said, too: personal data")
	flag.Func("allow", "private network that webhooks may be sent to, like 127.0.0.0/8; may be repeated", func(s string) error {
		net, err := netip.ParsePrefix(s)
		o.allow = append(o.allow, net)
		return err
	})
	flag.Parse()
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	o.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run takes calls until ctx ends. Then it hangs up, and delivers what is stored.
func run(ctx context.Context, o options) error {
	config, err := callhook.LoadConfig(o.config)
	if err != nil {
		return err
	}
	hooks, err := callhook.New(callhook.Options{
		Configs:   callhook.Static(config),
		Secrets:   callhook.EnvSecrets("CALLHOOK_"),
		AllowNets: o.allow,
		Logger:    o.log,
	})
	if err != nil {
		return err
	}
	defer hooks.Close()
	// The last calls end after ctx, and their events are to be delivered too.
	delivering, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	delivered := make(chan error, 1)
	go func() { delivered <- hooks.Run(delivering) }()

	err = serve(ctx, o, hooks, config.AgentID)
	if left := settle(hooks); left > 0 {
		err = errors.Join(err, fmt.Errorf("%d deliveries were not made in time and are lost with the queue in memory: keep it in a file with sqlitequeue", left))
	}
	stop()
	return errors.Join(err, <-delivered)
}

// settleTimeout is how long a program that ends goes on delivering.
const settleTimeout = 10 * time.Second

// settle waits until nothing is pending, and returns how much still is when it
// has waited long enough.
func settle(hooks *callhook.Hooks) int64 {
	for end := time.Now().Add(settleTimeout); ; time.Sleep(20 * time.Millisecond) {
		if left := hooks.Stats().Queue.Pending; left == 0 || time.Now().After(end) {
			return left
		}
	}
}
