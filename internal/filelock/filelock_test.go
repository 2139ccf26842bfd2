package filelock_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callhook-go/callhook/internal/filelock"
)

// TestLock: of many that want the lock one has it at a time.
func TestLock(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	var inside, entered atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				unlock, err := filelock.Lock(t.Context(), file)
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d have the lock", n)
				}
				entered.Add(1)
				inside.Add(-1)
				unlock()
			}
		})
	}
	wg.Wait()
	if n := entered.Load(); n != 160 {
		t.Errorf("entered %d times, want 160", n)
	}
}

// TestLockBound: who waits for a lock gives up when its ctx ends.
func TestLockBound(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	unlock, err := filelock.Lock(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := filelock.Lock(ctx, file); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the error is %v", err)
	}
	if _, err := filelock.Lock(t.Context(), filepath.Join(t.TempDir(), "none", "lock")); err == nil {
		t.Error("a lock in a folder that does not exist")
	}
}
