// Package natsqueue is where callhook's Queue contract is tried on an embedded
// NATS JetStream: its tests hold an adapter to callhooktest.TestQueue, and show
// what of JetStream does not fit. There is no exported API yet.
package natsqueue
