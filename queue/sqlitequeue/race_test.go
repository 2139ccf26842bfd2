//go:build race

package sqlitequeue_test

const raced = true
