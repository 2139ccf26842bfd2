// Package ticket is an example: a transfer that failed becomes a ticket in Zendesk, and an
// e-mail tells of every call. See README.md.
package ticket
