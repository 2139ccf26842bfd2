//go:build linux || darwin

package sqlitequeue_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// limit sets how large files may become.
func limit(bytes uint64) {
	var l syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &l)
	if err == nil {
		l.Cur = min(bytes, l.Max)
		err = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &l)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// fullMain uses a queue whose files may not become larger than 4 MiB, and then may.
func fullMain(path string) {
	signal.Ignore(syscall.SIGXFSZ)
	if err := fillUp(path); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ok")
	os.Exit(0)
}

func fillUp(path string) error {
	q, err := sqlitequeue.Open(path, nil)
	if err != nil {
		return err
	}
	defer q.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for round := range 3 {
		limit(4 << 20 << round)
		n := int64(0)
		for ; err == nil; n++ {
			err = q.Enqueue(ctx, large(int(n)%3, 30_000))
		}
		n--
		if !errors.Is(err, callhook.ErrQueueFull) || n < 50 {
			return fmt.Errorf("round %d: after %d deliveries: %w", round, n, err)
		}
		err = nil
		if c, err := q.Counts(ctx); err != nil || c.Pending != n {
			return fmt.Errorf("round %d: %+v, %v, want %d pending", round, c, err, n)
		}
		running, stop := context.WithCancel(ctx)
		var settled, given atomic.Int64
		ended := make(chan error, 1)
		go func() {
			ended <- q.Consume(running, func(context.Context, *callhook.Delivery) callhook.Verdict {
				if given.Add(1) == n {
					limit(8 << 20 << round) // somebody made room
				}
				return callhook.Delivered().Then(func() {
					if settled.Add(1) == n {
						stop()
					}
				})
			})
		}()
		if _, err := q.Release(ctx, "", -1); err != nil {
			return err
		}
		if err := <-ended; err != nil || settled.Load() != n {
			return fmt.Errorf("round %d: %d of %d were settled: %v", round, settled.Load(), n, err)
		}
	}
	return q.Close()
}

// TestFileLimit: the same with files that the system does not let grow.
func TestFileLimit(t *testing.T) {
	_, line := start(t, "full", filepath.Join(t.TempDir(), "queue.db"))
	if !strings.HasPrefix(line, "ok") {
		t.Error(line)
	}
}
