package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/livekit/protocol/logger"
	"github.com/livekit/protocol/utils/protojson"
	"github.com/livekit/protocol/webhook"
)

const (
	livekitKey    = "APIbench"
	livekitSecret = "a-secret-of-thirty-two-characters"
)

func livekitKinds() []kind {
	return []kind{{
		key: "livekit", name: "livekit/protocol 1.54 ResourceURLNotifier", fsync: "none, in memory", embedded: true,
		open: openLivekit, verify: verifyLivekit,
	}}
}

type livekitPeer struct {
	notifier *webhook.ResourceURLNotifier
	hooks    [][]*livekit.WebhookConfig
}

// The notifier fails without its metrics.
var livekitStats = sync.OnceFunc(func() { webhook.InitWebhookStats(nil) })

// openLivekit gives the notifier room for all events and an hour for each, since
// with its defaults it drops what is older than 30 s or deeper than 200. It has a
// worker for each resource: with one endpoint events are spread over 16 resources, as 16
// workers; with ten each endpoint is a resource, so that a dead one blocks only
// itself. Its HTTP client is go-retryablehttp's, which keeps GOMAXPROCS+1 connections
// to a host; there is no setting for that. The log, a line for each event, is off.
func openLivekit(s setup) (peer, error) {
	livekitStats()
	p := &livekitPeer{notifier: webhook.NewResourceURLNotifier(webhook.ResourceURLNotifierParams{
		HTTPClientParams: webhook.HTTPClientParams{ClientTimeout: timeout},
		Logger:           logger.GetDiscardLogger(),
		Config:           webhook.ResourceURLNotifierConfig{MaxAge: time.Hour, MaxDepth: s.Limit},
		URL:              s.URLs[0], APIKey: livekitKey, APISecret: livekitSecret,
		EventKey: func(e *livekit.WebhookEvent) string { return e.Room.Sid },
	})}
	for _, url := range s.URLs {
		p.hooks = append(p.hooks, []*livekit.WebhookConfig{{Url: url}})
	}
	return p, nil
}

// livekitFiller makes the notifier's JSON as long as everybody's.
var livekitFiller = sync.OnceValue(func() string {
	text := strings.Repeat("The caller asked to move the appointment and gave a new address. ", 40)
	empty, err := protojson.Marshal(livekitEvent(event{}, "agent-0/0", "."))
	if err != nil {
		panic(err) // the event is wrong
	}
	return text[:bodySize-len(empty)]
})

func livekitEvent(e event, resource, filler string) *livekit.WebhookEvent {
	id := callID(e.id)
	return &livekit.WebhookEvent{Event: webhook.EventRoomFinished, Id: id, CreatedAt: 1772445852,
		Room: &livekit.Room{Sid: resource, Name: id, Metadata: filler}}
}

func (p *livekitPeer) Enqueue(ctx context.Context, e event) error {
	resource := agent(e.endpoint) + "/0"
	if len(p.hooks) == 1 {
		resource = agent(0) + "/" + strconv.Itoa(e.id%workers)
	}
	// The context goes with the event and a caller's ends with the call.
	return p.notifier.QueueNotify(context.WithoutCancel(ctx), livekitEvent(e, resource, livekitFiller()), webhook.WithExtraWebhooks(p.hooks[e.endpoint]))
}

func (p *livekitPeer) Start(context.Context) error { return nil } // it delivers at once

// Stop drains: the other way, Stop(true), does not wait for attempts under way.
func (p *livekitPeer) Stop() error {
	p.notifier.Stop(false)
	return nil
}

func verifyLivekit(r *http.Request, body []byte) error {
	again := &http.Request{Header: r.Header, Body: io.NopCloser(bytes.NewReader(body))}
	_, err := webhook.Receive(again, auth.NewSimpleKeyProvider(livekitKey, livekitSecret))
	return err
}
