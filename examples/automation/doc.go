// Package automation is an example: one agent's calls go to n8n, to Make and to Zapier, to
// each in the shape that it can use. See README.md.
package automation
