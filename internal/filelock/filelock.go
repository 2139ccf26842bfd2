// Package filelock keeps processes from writing the same folder at once. A lock
// ends with its process, however that ends, so none is ever left behind: the file
// stays, and nothing is to be read from its being there.
package filelock

import (
	"context"
	"fmt"
	"os"
	"time"
)

// Lock waits until it has the lock of the file, which it creates, or until ctx has
// ended. It keeps goroutines of one process apart too. unlock is called once.
func Lock(ctx context.Context, file string) (unlock func(), err error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o666)
		if err != nil {
			return nil, err
		}
		locked, err := try(f)
		if locked {
			return func() { f.Close() }, nil
		}
		f.Close()
		if err != nil {
			return nil, &os.PathError{Op: "lock", Path: file, Err: err}
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("lock %s, which somebody else holds: %w", file, context.Cause(ctx))
		}
	}
}
