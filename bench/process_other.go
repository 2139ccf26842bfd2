//go:build !linux

package main

import (
	"errors"
	"os/exec"
	"syscall"
)

func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

// startChild starts cmd and closes done when it has ended.
func startChild(cmd *exec.Cmd, done chan<- struct{}) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	return nil
}

var errOnlyLinux = errors.New("memory is measured on Linux only")

func anonymous() (int64, error) { return 0, errOnlyLinux }
func rssAnon() (int64, error)   { return 0, errOnlyLinux }
