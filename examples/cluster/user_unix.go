//go:build unix

package main

import (
	"errors"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// unprivileged returns how to start Postgres, which refuses to run as root, and gives
// the folder to the user that it runs as: the one made for it, if there is one.
func unprivileged(dir string) (*syscall.SysProcAttr, error) {
	// Ctrl+C is for the first process alone.
	attr := &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() != 0 {
		return attr, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		return attr, errors.Join(err1, err2, os.Chown(dir, int(uid), int(gid)))
	}
	return nil, errors.New("postgres does not run as root, and there is no user postgres or nobody: run this as another user")
}
