// Package callhooktest tests what is built on callhook: integrations against fake
// endpoints, and engines against callhook's contracts.
//
// # Integrations
//
// An [Endpoint] stands for a customer's system. It answers as it is told, once per
// request, and records what it was sent, decoded, with its signature checked. A
// [Network] puts endpoints behind the hosts of a config's URLs, in memory, and
// [NewHooks] runs callhook on it:
//
//	func TestGreeting(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) {
//			crm := callhooktest.NewEndpoint(t, callhooktest.Reply(200, `{"customer_name": "Ada"}`))
//			hooks := callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(config)},
//				callhooktest.Network{"crm.example.com": crm})
//
//			pre := hooks.PreCall(t.Context(), callhook.SampleCall(callhook.TypePreCall))
//			…
//			crm.Received(t, 1)
//		})
//	}
//
// In the bubble of [testing/synctest] the clock jumps to whatever is waited for next, so
// that three days of retries take a millisecond and what took how long is exact. It is
// callhook's real client, transport, TLS and HTTP that talk to the endpoint; only the
// wire is memory. Outside of a bubble the same endpoints listen on loopback, see
// [Endpoint.Listen].
//
//   - A script: NewEndpoint(t, first, second, last). An [Answer] has a status, a body, a
//     delay, a [Fault], or a function that makes it of the request.
//   - Assertions wait: [Endpoint.Received], [Hooks.Delivered], [Hooks.Dead]. When they fail
//     they show what did happen.
//   - [Hostile] has everything that an endpoint can do wrong, to try an integration on.
//   - Package platforms has endpoints that behave like HubSpot, Zoho, Make, Zapier,
//     n8n and others.
//   - [callhook.SampleCall] gives calls; [Secrets] and [Key] give secrets.
//   - [Equal] compares callhook's types with package cmp.
//
// # Engines
//
// Whoever writes a [callhook.Queue] passes it to [TestQueue], and whoever writes a
// [callhook.ConfigStore] to [TestConfigStore], in a test of the engine's own:
//
//	func TestConformance(t *testing.T) {
//		callhooktest.TestQueue(t, func(t *testing.T, dir string) callhook.Queue {
//			q, err := myqueue.Open(filepath.Join(dir, "queue.db"))
//			if err != nil {
//				t.Fatal(err)
//			}
//			return q
//		})
//	}
//
// Its subtests are the contract in sentences, so that
//
//	go test -v -run TestConformance
//
// reads as the specification of a queue, and the name of one that fails says
// which promise is broken. What they hold an engine to depends on its
// [callhook.Limits]: one that is not Durable, like one in memory, need not
// survive a restart, and one that does not say Ordered need not keep that order.
// An engine that is a [callhook.Inspector] has that tested too.
package callhooktest
