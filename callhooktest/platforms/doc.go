// Package platforms has fakes of the platforms that voice agents talk to: HubSpot,
// Zoho CRM, Make, Zapier, n8n, Zendesk and Resend. They do what the real ones do where
// it matters to whoever sends to them: they look at tokens and at what is sent, say no
// in their own words and with their own status codes, count requests against their
// limits, and keep what they were given for a test to look at.
//
// Each is a [callhooktest.Endpoint]. So each records every request, is reached in
// memory through a [callhooktest.Network], also in a bubble of [testing/synctest], and
// on loopback after Listen. Put it behind the host that the config under test names:
//
//	hubspot := platforms.NewHubSpot(t)
//	ada := hubspot.AddContact(map[string]string{"firstname": "Ada", "phone": "+44 20 7946 0123"})
//	network := callhooktest.Network{"api.hubapi.com": hubspot.Endpoint}
//	hooks := callhooktest.NewHooks(t, callhook.Options{Configs: configs, Secrets: secrets}, network)
//
// A platform's bad moments are of two kinds. What belongs to it, it does by itself: a
// Zap that is off, a queue that is full, a token that has expired. Anything else is
// given to the next requests by its method Next, after which it is itself again:
//
//	hubspot.Next(callhooktest.Reply(502, ""), hubspot.Late(5*time.Second))
//
// Where a behaviour comes from, and where documentation is silent, the comments say.
// Statuses, codes and categories are the real ones; the words beside them are the fake's
// where the documentation has none. What a fake does not play fails the test and is
// answered with 501.
package platforms
