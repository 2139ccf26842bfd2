package otelhook

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/callhook-go/callhook"
)

// Attributes that the semantic conventions have no name for.
const (
	callKey     = attribute.Key("callhook.call.id")
	tenantKey   = attribute.Key("callhook.tenant.id")
	agentKey    = attribute.Key("callhook.agent.id")
	webhookKey  = attribute.Key("callhook.webhook.name")
	typeKey     = attribute.Key("callhook.webhook.type")
	revisionKey = attribute.Key("callhook.config.revision")
	outcomeKey  = attribute.Key("callhook.outcome")
	hedgesKey   = attribute.Key("callhook.hedges")
	stateKey    = attribute.Key("callhook.delivery.state")
	reasonKey   = attribute.Key("callhook.reason")
	classKey    = attribute.Key("callhook.status_class")
	laneKey     = attribute.Key("callhook.lane.state")
)

type spanKey struct{}

// within returns a context with a span of ours, which the host's own may cover.
func within(ctx context.Context, s trace.Span) context.Context {
	return context.WithValue(ctx, spanKey{}, s)
}

// ours returns the span of within, or one that does nothing.
func ours(ctx context.Context) trace.Span {
	if s, ok := ctx.Value(spanKey{}).(trace.Span); ok {
		return s
	}
	return noop.Span{}
}

// addressed notes where a request goes: of its URL only scheme, host and port, which no
// call data and no secret is part of.
func (t *Telemetry) addressed(ctx context.Context, req *http.Request, ref callhook.AuthorizeRef) {
	s := ours(ctx)
	if !s.IsRecording() {
		return
	}
	attrs := append(make([]attribute.KeyValue, 0, 5), semconv.HTTPRequestMethodKey.String(req.Method))
	if u, err := url.Parse(ref.Origin); err == nil && u.Host != "" {
		port, err := strconv.Atoi(u.Port())
		if err != nil {
			port = map[string]int{"http": 80, "https": 443}[u.Scheme]
		}
		attrs = append(attrs, semconv.URLScheme(u.Scheme), semconv.ServerAddress(u.Hostname()), semconv.ServerPort(port))
	}
	if ref.Type == callhook.TypePreCall { // only now known
		attrs = append(attrs, webhookKey.String(ref.Webhook))
	}
	s.SetAttributes(attrs...)
}

// peer returns the attributes of an address like "192.0.2.1:443".
func peer(remote string) []attribute.KeyValue {
	host, port, err := net.SplitHostPort(remote)
	if err != nil {
		return nil
	}
	attrs := []attribute.KeyValue{semconv.NetworkPeerAddress(host)}
	if n, err := strconv.Atoi(port); err == nil && n > 0 {
		attrs = append(attrs, semconv.NetworkPeerPort(n))
	}
	return attrs
}

// fail marks a span as one that failed, by class. There is no description: the texts of
// errors have what the host or an endpoint said in them.
func fail(s trace.Span, class string) {
	s.SetAttributes(semconv.ErrorTypeKey.String(class))
	s.SetStatus(codes.Error, "")
}
