package otelhook

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/callhook-go/callhook"
)

func (t *Telemetry) startLookup(ctx context.Context, call *callhook.Call) context.Context {
	if call == nil {
		call = new(callhook.Call)
	}
	ctx, s := t.tracer.Start(ctx, "callhook.pre_call", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		typeKey.String(string(callhook.TypePreCall)), callKey.String(call.ID), tenantKey.String(call.TenantID), agentKey.String(call.AgentID),
	))
	return within(ctx, s)
}

func (t *Telemetry) endLookup(ctx context.Context, call *callhook.Call, res *callhook.PreCallResult) {
	s := ours(ctx)
	defer s.End()
	if s.IsRecording() {
		s.SetAttributes(lookupAttributes(res)...)
		if class := failureOf(res); class != "" {
			fail(s, class)
		}
	}
	var ref callhook.LaneRef
	if call != nil {
		ref.Tenant, ref.Agent = call.TenantID, call.AgentID
	}
	of := t.series.of(ref, outcomeKey.String(string(res.Outcome)))
	t.lookups.Add(ctx, 1, of)
	t.lookupDuration.Record(ctx, res.Elapsed.Seconds(), of)
}

func lookupAttributes(res *callhook.PreCallResult) []attribute.KeyValue {
	attrs := append(make([]attribute.KeyValue, 0, 5), outcomeKey.String(string(res.Outcome)))
	if res.Revision != 0 {
		attrs = append(attrs, revisionKey.Int(res.Revision))
	}
	if res.Status != 0 {
		attrs = append(attrs, semconv.HTTPResponseStatusCode(res.Status))
	}
	if res.Attempts > 1 {
		attrs = append(attrs, semconv.HTTPRequestResendCount(res.Attempts-1))
	}
	if res.Hedges > 0 {
		attrs = append(attrs, hedgesKey.Int(res.Hedges))
	}
	return attrs
}
