//go:build !linux && !darwin

package sqlitequeue_test

func fullMain(string) {}
