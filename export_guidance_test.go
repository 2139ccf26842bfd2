package callhook

// Effective returns what settings of a config's webhooks are when they are used, by
// the paths of ConfigFields.
func Effective(c *Config) map[Type]map[string]any {
	a, err := compile(c)
	if err != nil {
		panic(err)
	}
	p := a.preCall
	withheld := WithheldSend
	if p.skipWithheld {
		withheld = WithheldSkip
	}
	out := map[Type]map[string]any{
		"": {"timezone": a.zone.String(), "variables[].locked": false, "variables[].secret": false, "variables[].max_length": maxVariableBytes},
		TypePreCall: {"method": p.method, "timeout": Duration(p.timeout), "directions": p.directions, "withheld": withheld,
			"hedge_share": p.hedgeShare, "idempotent": c.PreCall.Idempotent, "paused": p.paused},
	}
	for t, w := range map[Type]*webhook{TypeCallStatus: a.status[0], TypePostCall: a.postCall[0]} {
		out[t] = map[string]any{"method": w.method, "timeout": Duration(w.timeout), "concurrency": w.concurrency, "max_bytes": w.body.max,
			"retry.initial": w.retry.Initial, "retry.multiplier": w.retry.Multiplier, "retry.max_interval": w.retry.MaxInterval, "retry.max_age": w.retry.MaxAge,
			"ordered": w.ordered, "paused": w.paused, "payload.flat": false}
	}
	out[TypePostCall]["on"] = a.postCall[0].on
	return out
}
