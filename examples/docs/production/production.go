// Package production has what docs/production.md shows.
package production

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// open opens the queue, which whoever calls it closes, last.
func open(path string, logger *slog.Logger) (*sqlitequeue.Queue, error) {
	return sqlitequeue.Open(path, &sqlitequeue.Options{
		MaxBytes:       8 << 30,   // leave room on the disk
		MaxTenantBytes: 512 << 20, // a tenant whose endpoint is down for days keeps to this
		Logger:         logger,
	})
}

// options are what a process with many tenants runs with.
func options(configs callhook.ConfigSource, queue callhook.Queue, secrets vault, keys keys, logger *slog.Logger) callhook.Options {
	return callhook.Options{
		Configs:           configs,
		Queue:             queue,
		Secrets:           secrets.resolve,
		NumberKey:         keys.numbers,                              // 32 random bytes, the same for ever
		SealKey:           callhook.SealKeys(keys.seal, keys.old...), // the newest first
		TenantConcurrency: 64,
		Logger:            logger,
	}
}

// keys are from where the process keeps its secrets, not from beside the queue's file.
type keys struct {
	numbers []byte
	seal    callhook.SealKey
	old     []callhook.SealKey
}

// vault has each tenant's secrets, and where each may go.
type vault map[name]secret

type name struct{ tenant, name string }

type secret struct {
	value   string
	origins []string // like "https://api.hubapi.com"
}

// resolve answers with what is this tenant's, for where it may go.
func (v vault) resolve(_ context.Context, ref callhook.SecretRef) (string, error) {
	s, ok := v[name{ref.Tenant, ref.Name}]
	if !ok || !slices.Contains(s.origins, ref.Origin) {
		return "", fmt.Errorf("%w: tenant %s has no %s for %s", callhook.ErrNoSecret, ref.Tenant, ref.Name, ref.Origin)
	}
	return s.value, nil
}

// alarms are what somebody has to look at.
func alarms(ctx context.Context, hooks *callhook.Hooks, queue callhook.Inspector, now time.Time) (out []string, err error) {
	for _, l := range hooks.Lanes() {
		switch l.Trouble {
		case callhook.ReasonDown, callhook.ReasonGone, callhook.ReasonNoSecret, callhook.ReasonNoConfig:
			if stood := now.Sub(l.Since); stood > 15*time.Minute {
				out = append(out, fmt.Sprintf("%s/%s/%s: %s for %s", l.Tenant, l.Agent, l.Webhook, l.Trouble, stood.Round(time.Minute)))
			}
		}
	}
	lanes, err := queue.Lanes(ctx, callhook.Filter{})
	for _, l := range lanes {
		if waited := now.Sub(l.Oldest); l.Pending > 0 && waited > time.Hour {
			out = append(out, fmt.Sprintf("%s/%s/%s: %d wait, the oldest for %s", l.Tenant, l.Agent, l.Webhook, l.Pending, waited.Round(time.Minute)))
		}
	}
	return out, err
}

// show prints a tenant's dead letters, and why each died.
func show(ctx context.Context, hooks *callhook.Hooks, queue callhook.Inspector, tenant string) error {
	dead, err := queue.List(ctx, callhook.Filter{State: callhook.StateDead, Tenant: tenant})
	if err != nil {
		return err
	}
	for _, d := range dead {
		if d, err = queue.Get(ctx, d.ID); err != nil { // with its attempts
			return err
		}
		if err := hooks.Unseal(ctx, d); err != nil {
			return err
		}
		fmt.Println(d.Reason, d.Webhook, d.Call, d.BuildError)
		for _, a := range d.Log {
			fmt.Println("   ", a.Status, a.Error, a.Reply)
		}
	}
	return nil
}

// mend sends dead letters again, once what was wrong is mended.
func mend(ctx context.Context, hooks *callhook.Hooks, queue callhook.Inspector, l callhook.LaneRef) error {
	expired := callhook.Filter{Tenant: l.Tenant, Agent: l.Agent, Webhook: l.Webhook, Reason: callhook.ReasonExpired}
	if _, err := queue.Replay(ctx, expired); err != nil { // as they are: the same id and body
		return err
	}
	refused := callhook.Filter{Tenant: l.Tenant, Agent: l.Agent, Webhook: l.Webhook, Reason: callhook.ReasonRejected}
	if _, err := hooks.Rebuild(ctx, refused); err != nil { // with today's payload: needs KeepCalls
		return err
	}
	_, err := hooks.Resume(ctx, l) // and what waits goes now
	return err
}
