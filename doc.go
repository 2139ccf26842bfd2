// Package callhook sends the webhooks of a voice-agent runtime: it asks the
// customer's system who is calling before the agent speaks, announces changes of
// a call's status, and delivers the call's data after it ended.
//
// There is a verb for each moment:
//
//   - [Hooks.PreCall] sends an inbound call's number to the customer's endpoint
//     and makes conversation variables of what comes back. It answers within its
//     budget (2 seconds unless told) whatever the endpoint does, always with
//     variables that can be used, and returns no error: it can personalise a call,
//     never break one.
//   - [Hooks.CallStatus] tells other systems that a call's status changed.
//   - [Hooks.PostCall] sends the fields that each integration selected, in the
//     shape that it needs.
//
// The last two return as soon as the event is stored. [Hooks.Run] delivers what is
// stored, each event to each webhook at least once, however long the endpoint is
// down (72 hours unless told). Each webhook has a lane of its own, so that what one
// endpoint cannot take concerns no other.
//
// A complete program:
//
//	package main
//
//	import (
//		"context"
//		"fmt"
//		"log"
//		"os"
//		"time"
//
//		"github.com/callhook-go/callhook"
//	)
//
//	func main() {
//		config, err := callhook.LoadConfig(os.Args[1])
//		if err != nil {
//			log.Fatal(err)
//		}
//		hooks, err := callhook.New(callhook.Options{
//			Configs: callhook.Static(config),
//			Secrets: callhook.EnvSecrets("CALLHOOK_"), // ${N8N_KEY} is $CALLHOOK_N8N_KEY
//		})
//		if err != nil {
//			log.Fatal(err)
//		}
//		ctx, stop := context.WithCancel(context.Background())
//		ended := make(chan error, 1)
//		go func() { ended <- hooks.Run(ctx) }()
//
//		call := &callhook.Call{ID: "call_1", AgentID: "reception", Direction: callhook.Inbound, From: "+442079460123"}
//		pre := hooks.PreCall(ctx, call) // before the agent speaks: answers in time, always
//		pre.Apply(call)
//		fmt.Println(pre.Variables.Expand(`Hi {{customer_name | default: "there"}}!`))
//
//		call.Status, call.EndedAt = callhook.StatusCompleted, time.Now()
//		if err := hooks.PostCall(ctx, call); err != nil { // after the call: stored, then delivered
//			log.Print(err)
//		}
//		time.Sleep(time.Second) // other calls
//		stop()
//		fmt.Println(<-ended, hooks.Stats().Queue, hooks.Close())
//	}
//
// # Configuration
//
// A [Config] holds all webhooks of one agent. It is JSON that a person can write:
// [ParseConfig] refuses what it does not know, [Config.Validate] reports every
// fault with its place and what would be right, [Config.Lint] warns of what is
// valid and probably not meant, and [Config.Preview] shows the request that would
// be sent. A [ConfigSource] says which config an agent's calls use; [Static] is
// the simplest.
//
// Where people configure agents, [Configs] keeps a draft that is edited and the
// revision in production that calls use: [OpenDir] in files that a person reads,
// and a [ConfigStore] anywhere else. Publishing validates, makes an immutable
// numbered revision, and reaches calls within a second; a call that began with a
// revision ends with it. [ConfigFields] and [Fields] hold what a page shows beside
// each field, [Schema] is the same for editors, and [Hooks.TestSend] tries a draft
// out.
//
// In URLs, headers and payloads {{ path | filter }} stands for data of the call
// and ${NAME} for a secret that [Options.Secrets] resolves at each attempt. Both
// come from the config's own text only: what a caller or a CRM says is never
// expanded. [Fields] lists the paths. The filters, which pass a missing value on:
//
//   - default: "there" stands for a missing or empty value
//   - upcase, downcase, digits (nothing but the digits), last: 10 (characters, or
//     elements of a list), mask: 4 (all but the last become *)
//   - map: "inbound", "IN", "outbound", "OUT" replaces a value by the one beside it;
//     one more at the end stands for all others
//   - date: "%Y-%m-%d" as strftime writes it, in the call's time zone; unix and
//     unix_ms; hhmm for a number of seconds
//   - string makes text of a number; json and text make text of anything, text as
//     people read it (a transcript becomes a line a turn); html is text, escaped;
//     join: ", " for lists
//   - omit, the last one, drops a key of a template when its value is empty
//
// # Keys, tokens and personal data
//
// [Options.Secrets] answers who may have which secret, with [SecretRef].
// [Options.Authorize] puts in tokens that expire, as OAuth2's do, and a webhook's "tls"
// ([TLS]) names a client certificate and a private authority. [Options.SealKey] seals what a
// queue stores, [Options.NumberKey] lets a caller be found to be forgotten, and only what
// an integration selected is stored at all. SECURITY.md says what is promised, and
// docs/threat-model.md against whom.
//
// # What is sent
//
// A [Payload] selects fields, or is a template of the JSON that the receiver
// wants. Requests carry the webhook-id, webhook-timestamp and webhook-signature
// headers of the Standard Webhooks specification; receivers in Go check them with
// [Verify]. An id is the same each time an event is sent, so a receiver that
// remembers ids handles each event once.
//
// # When something waits or failed
//
//   - [Hooks.Lanes] tells which webhooks stand still and why; [Inspector.Lanes] how
//     many deliveries each has, and how old they are.
//   - [Hooks.Resume] lets a webhook's waiting deliveries go now. So does publishing a
//     config.
//   - [Inspector.Replay] sends dead letters again as they are, [Hooks.Rebuild] with
//     today's payload.
//   - [Hooks.Forget] drops what is known of a phone number, [Inspector.Erase] what is
//     known of a call.
//
// A queue is closed by who opened it, last: end the ctx of Run, wait for Run, close
// Hooks, close the queue.
//
// # Testing
//
// Package callhooktest has fake endpoints, in memory and on loopback, with which an
// integration is tested: three days of retries take a millisecond. It also holds queues
// and config stores of your own to their contracts.
//
// # What is promised
//
//   - An event that a verb took is delivered, or becomes a dead letter with a
//     [Reason]: Accepted = Delivered + Dead + Pending + Erased, see [Hooks.Stats].
//   - How durable that is depends on the [Queue]. The one in memory loses what is
//     pending when the process dies; package queue/sqlitequeue keeps it in a file.
//     Both are an [Inspector], which lists, replays and erases.
//   - Deliveries may arrive twice, and out of order after a failure. First attempts
//     of one call at one webhook are in order; "ordered" keeps all of them so.
//   - Only public addresses are dialled unless [Options.AllowNets] says more, no
//     redirect is followed, and nothing that an endpoint answers can crash, hang or
//     grow the process.
//   - No secret, body, query string or phone number reaches a log line or the text
//     of an error.
package callhook
