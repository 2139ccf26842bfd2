// Package hubspot is an example: callers are looked up among HubSpot's contacts, and
// their calls logged with them. See README.md.
package hubspot
