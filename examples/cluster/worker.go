package main

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/callhook-go/callhook"
)

// work delivers what is in the queue until ctx ends, which SIGTERM does: a worker is
// this function, as often as there are machines for it. They divide the webhooks among
// themselves, and those that stay go on with what one that ends or dies has left.
func work(ctx context.Context, url string, log *slog.Logger) error {
	shared, err := connect(ctx, url, log)
	if err != nil {
		return err // whatever supervises the process starts it again
	}
	defer shared.close()
	hooks, err := callhook.New(options(shared.configs, witness{shared.queue}, log))
	if err != nil {
		return err
	}
	defer hooks.Close()
	say("ready")
	// When ctx has ended Run finishes the requests under way, which takes as long as the
	// webhooks' "timeout" at most: 15 s unless told. Do not kill it before.
	return hooks.Run(ctx)
}

// options are the same on all nodes, voice nodes and workers.
func options(configs callhook.ConfigSource, queue callhook.Queue, log *slog.Logger) callhook.Options {
	return callhook.Options{
		Configs: configs,
		Queue:   queue,
		Secrets: callhook.EnvSecrets("CALLHOOK_"), // ${HOOK_KEY} is $CALLHOOK_HOOK_KEY
		Logger:  log,
		// The customer of this program is on loopback. Public addresses need nothing here.
		AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}
}

// witness says of each delivery that arrived when the queue has stored that it did. It
// is for the ledger, which wants to know what a kill may repeat; leave it out.
type witness struct{ callhook.Queue }

func (w witness) Consume(ctx context.Context, handle callhook.Handler) error {
	return w.Queue.Consume(ctx, func(ctx context.Context, d *callhook.Delivery) callhook.Verdict {
		id, v := d.ID, handle(ctx, d)
		if v.State != callhook.StateDelivered {
			return v
		}
		return v.Then(func() { saySettled(id) })
	})
}
