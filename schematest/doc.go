// Package schematest compares the JSON Schema of configs with what callhook itself
// accepts. It holds tests only, in a module of its own, so that the validator that
// they need is no dependency of callhook.
package schematest
