// Package otelhook tells OpenTelemetry what callhook does: spans of lookups, of events
// that are stored and of the attempts to deliver them, one trace from the call to the
// receiver, and metrics of all of it. It needs OpenTelemetry's API and no SDK: with none
// set up it costs little and tells nobody.
//
//	telemetry, err := otelhook.New(otelhook.Options{})
//	hooks, err := callhook.New(callhook.Options{
//		Configs:   configs,
//		Queue:     queue,
//		Trace:     telemetry.Trace(nil),     // or one of the host's own
//		Authorize: telemetry.Authorize(nil), // or one of the host's own
//	})
//	registration, err := telemetry.Observe(hooks, queue)
//
// # Spans
//
//	callhook.pre_call     client    one [callhook.Hooks.PreCall], whatever it took: cached, hedged or asked twice
//	callhook.enqueue      producer  one delivery, from when it was begun to be built until it was stored, or was not
//	callhook.attempt      client    one HTTP exchange of a delivery
//	callhook.dead_letter  internal  the moment in which a delivery was given up
//
// A lookup and an attempt are requests to somebody else's server, which is what makes a
// span a client's; with [Options.Inject] that server's span is their child.
//
// Attempts and dead letters are children of the delivery's callhook.enqueue, whose context
// the queue keeps ([callhook.Delivery].TraceContext), so that a call and what came of it
// are one trace, also when another process delivers, and days later. The sampling
// decision goes with it. [Options.LinkAttempts] is for back ends that do not take spans
// that late.
//
// Attributes have the names of the semantic conventions v1.43.0, where there are such:
//
//	server.address, server.port, url.scheme    where it was sent; of the URL nothing else, since path and
//	                                           query hold secrets and numbers, so url.full is never set
//	http.request.method                        as the webhook has it
//	http.response.status_code                  of the answer
//	http.request.resend_count                  how often it was tried before
//	network.peer.address, network.peer.port    the address that was connected to
//	error.type                                 the status that was no success, or a word like "timeout", "tls", "no_secret"
//	messaging.system, .operation.name, .operation.type, .destination.name (the lane), .message.id (the webhook-id),
//	.message.conversation_id (the call), .message.body.size
//	callhook.call.id, callhook.tenant.id, callhook.agent.id, callhook.webhook.name, callhook.webhook.type,
//	callhook.config.revision, callhook.outcome, callhook.hedges, callhook.delivery.state, callhook.reason
//
// No span and no metric holds a phone number, a variable, a body, a reply, a header or the
// text of an error.
//
// # Metrics
//
//	callhook.lookups            {lookup}    callhook.outcome
//	callhook.lookup.duration    s           callhook.outcome
//	callhook.enqueued           {delivery}  callhook.webhook.type; one that is raised again counts again
//	callhook.enqueue.duration   s           callhook.webhook.type, error.type ("not_stored", or absent)
//	callhook.attempts           {attempt}   callhook.webhook.type, callhook.status_class (2xx … 5xx; none: no answer, or nothing was sent)
//	callhook.attempt.duration   s           the same
//	callhook.deliveries         {delivery}  callhook.webhook.type, callhook.outcome (delivered, dead), callhook.reason (of dead)
//	callhook.delivery.duration  s           the same, from accepted to settled
//	callhook.lane.changes       {change}    callhook.lane.state (down, gone, up)
//
// and, read when metrics are collected, see [Telemetry.Observe]:
//
//	callhook.queue.deliveries   {delivery}  callhook.delivery.state (pending, delivered, dead, erased)
//	callhook.queue.oldest.age   s           of the oldest that is pending; 0 for none
//	callhook.lanes              {lane}      callhook.lane.state (busy, down, gone, postponed, paused, no_secret, no_config)
//	callhook.events.skipped     {event}     callhook.reason
//	callhook.variables.dropped  {variable}  callhook.reason
//	callhook.clock_skewed       {answer}
//
// Every one of these attributes has a small, fixed set of values. Tenants, agents and
// webhooks are in none of them unless [Options.Labels] says so, which is bounded too.
package otelhook
