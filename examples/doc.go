// Package examples holds programs that run and configs to copy.
package examples
