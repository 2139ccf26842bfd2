//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd || windows)

package filelock

import (
	"errors"
	"os"
)

// try fails: without a lock two writers could overwrite each other.
func try(*os.File) (bool, error) { return false, errors.ErrUnsupported }
