//go:build unix

package riverqueue_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/internal/crashtest"
	"github.com/callhook-go/callhook/queue/riverqueue"
	"github.com/jackc/pgx/v5/pgxpool"
)

// TestCrash: processes that deliver are killed at random moments and others take over.
// Whatever was accepted arrives; what arrives twice is what was being answered when its
// process was killed; and the events of a call arrive in order.
func TestCrash(t *testing.T) {
	t.Parallel()
	s := newScene(t, 0)
	var kills []crashtest.Kill
	var slowest time.Duration
	for round := range 3 {
		s.allDeliver(t)
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		i := rand.IntN(len(s.workers))
		victim := s.workers[i]
		from := time.Now()
		kills = append(kills, victim.Kill(t))
		s.ledger.GoOn(t, "its lanes go on elsewhere", time.Time{}, victim.Name, s.ledger.Lanes(victim.Name)...)
		slowest = max(slowest, time.Since(from))
		s.workers[i] = s.start(t, fmt.Sprint("round", round))
	}
	s.end(t)
	s.ledger.Check(t, kills)
	t.Logf("the lanes of one that was killed went on within %s", slowest.Round(time.Millisecond))
}

// TestFrozen: a process that does not stir for longer than its lease, and then goes on
// as if nothing had been. Others have gone on with its lanes, what it comes to does not
// count, and it gets a share again.
func TestFrozen(t *testing.T) {
	t.Parallel()
	s := newScene(t, 2*time.Second)
	s.allDeliver(t)
	frozen := s.workers[0]
	frozen.Signal(t, syscall.SIGSTOP)
	s.ledger.GoOn(t, "its lanes go on elsewhere", time.Time{}, frozen.Name, s.ledger.Lanes(frozen.Name)...)
	frozen.Signal(t, syscall.SIGCONT)
	underWay := s.ledger.Requests(frozen.Name) + 20 // what it had under way does not count
	crashtest.Until(t, "it delivers again", func() bool { return s.ledger.Requests(frozen.Name) > underWay })
	s.end(t)
}

// scene is two processes that deliver, and one that raises: this one.
type scene struct {
	database, lease string
	ledger          *crashtest.Ledger
	queue           *riverqueue.Queue
	workers         []*crashtest.Process
	stopRaising     func()
}

func newScene(t *testing.T, lease time.Duration) *scene {
	pool, name := database(t)
	s := &scene{database: name, lease: lease.String(), ledger: crashtest.NewLedger(t), queue: open(t, riverqueue.Options{Pool: pool})}
	o, err := crashtest.Options(s.ledger.URL, "nobody", s.queue)
	if err != nil {
		t.Fatal(err)
	}
	hooks, err := callhook.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hooks.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	var raising sync.WaitGroup
	raising.Go(func() {
		if err := crashtest.Raise(ctx, hooks, "call", 1, 20*time.Millisecond, s.ledger.Accept); err != nil {
			t.Errorf("CallStatus: %v", err)
		}
	})
	s.stopRaising = sync.OnceFunc(func() {
		cancel()
		raising.Wait()
	})
	t.Cleanup(s.stopRaising)
	s.workers = []*crashtest.Process{s.start(t, "first"), s.start(t, "second")}
	return s
}

func (s *scene) start(t *testing.T, name string) *crashtest.Process {
	t.Helper()
	return crashtest.Start(t, s.ledger, "worker", name, s.ledger.URL, s.lease, server.url(s.database))
}

func (s *scene) allDeliver(t *testing.T) {
	t.Helper()
	for _, w := range s.workers {
		crashtest.Until(t, w.Name+" delivers", func() bool { return s.ledger.Requests(w.Name) > 0 })
	}
}

// end waits until all that was accepted has arrived, and is counted so.
func (s *scene) end(t *testing.T) {
	t.Helper()
	s.stopRaising()
	want := callhook.Counts{Accepted: int64(s.ledger.Accepted()), Delivered: int64(s.ledger.Accepted())}
	crashtest.Until(t, "all that was accepted is settled", func() bool {
		got, err := s.queue.Counts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return got == want
	})
	if arrived := s.ledger.Arrived(); int64(arrived) != want.Accepted {
		t.Errorf("%d arrived of %d", arrived, want.Accepted)
	}
	for _, w := range s.workers {
		w.End(t)
	}
}

func init() {
	crashtest.Role("worker", func(args []string) error {
		name, url, database := args[0], args[1], args[3]
		lease, err := time.ParseDuration(args[2])
		if err != nil {
			return err
		}
		pool, err := pgxpool.New(context.Background(), database)
		if err != nil {
			return err
		}
		defer pool.Close()
		q, err := riverqueue.Open(context.Background(), riverqueue.Options{Pool: pool, Lease: lease})
		if err != nil {
			return err
		}
		defer q.Close()
		o, err := crashtest.Options(url, name, q)
		if err != nil {
			return err
		}
		return crashtest.Work(o, name, 0, 0)
	})
}
