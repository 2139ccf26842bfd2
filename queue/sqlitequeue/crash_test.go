package sqlitequeue_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/callhook-go/callhook/queue/internal/crashtest"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// crashes is how often TestCrash kills its process, unless this says otherwise.
const crashes = "CALLHOOK_CRASHES"

// TestCrash: a process that raises and delivers events is killed at random moments
// and started again on the same file. Whatever it had accepted arrives in the order of
// its call, and what arrives twice is what was being answered when it was killed.
func TestCrash(t *testing.T) {
	rounds := 4
	if text := os.Getenv(crashes); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("%s: %v", crashes, err)
		}
		rounds = n
	}
	ledger := crashtest.NewLedger(t)
	db := filepath.Join(t.TempDir(), "queue.db")
	var kills []crashtest.Kill
	var slowest time.Duration
	for round := range rounds {
		waiting := ledger.Arrived() < ledger.Accepted()
		p := crashtest.Start(t, ledger, "crasher", fmt.Sprint("round", round), ledger.URL, db)
		p.Line(t) // it has opened the file
		if opened := time.Now(); waiting {
			crashtest.Until(t, "it goes on with what was left", func() bool { return ledger.Requests(p.Name) > 0 })
			slowest = max(slowest, time.Since(opened))
		}
		time.Sleep(time.Duration(20+rand.IntN(600)) * time.Millisecond)
		kills = append(kills, p.Kill(t))
	}
	crashtest.Start(t, ledger, "crasher", "last", ledger.URL, db).End(t)
	ledger.Check(t, kills)
	t.Logf("first request after a restart within %s", slowest.Round(time.Millisecond))
}

func init() {
	crashtest.Role("crasher", func(args []string) error {
		name, url, db := args[0], args[1], args[2]
		q, err := sqlitequeue.Open(db, nil)
		if err != nil {
			return err
		}
		defer q.Close()
		o, err := crashtest.Options(url, name, q)
		if err != nil {
			return err
		}
		if err := crashtest.Work(o, name, 4, 0); err != nil {
			return err
		}
		counts, err := q.Counts(context.Background())
		if err == nil && counts.Accepted != counts.Delivered {
			err = fmt.Errorf("the accounts do not balance: %+v", counts)
		}
		return err
	})
}
