package sqlitequeue_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// logged is a log that can be read while it is written.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestDamagedRecord: a record that does not match its checksum is a dead letter, and
// the others go on. Nothing of it is sent, logged or replayed.
func TestDamagedRecord(t *testing.T) {
	for _, sql := range []string{
		"UPDATE bodies SET body = CAST(replace(body, 'x', 'z') AS BLOB) WHERE seq = 2",
		"UPDATE bodies SET body = NULL WHERE seq = 2",
		"DELETE FROM bodies WHERE seq = 2",
		"UPDATE deliveries SET call = 'other' WHERE seq = 2",
		"UPDATE deliveries SET id = 'msg_other' WHERE seq = 2",
		"UPDATE deliveries SET meta = replace(meta, 'post_call', 'pre_call') WHERE seq = 2",
		"UPDATE deliveries SET meta = '{' WHERE seq = 2",
		"UPDATE deliveries SET log = '[' WHERE seq = 2",
		"UPDATE deliveries SET attempts = 77 WHERE seq = 2",
		"UPDATE deliveries SET enqueued_ns = enqueued_ns + 1 WHERE seq = 2",
		"UPDATE deliveries SET ordered = 1 WHERE seq = 2",
		"UPDATE deliveries SET sum = sum + 1 WHERE seq = 2",
	} {
		t.Run(sql, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "queue.db")
			q := reopen(t, path, nil)
			ds := []*callhook.Delivery{large(0, 300), large(0, 300), large(0, 300)}
			enqueue(t, q, ds...)
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
			sqlitequeue.Exec(t, path, sql)
			log := new(logged)
			q = reopen(t, path, &sqlitequeue.Options{Logger: slog.New(slog.NewTextHandler(log, nil))})
			got := deliverAll(t, q, 2)
			if got[ds[0].ID] == "" || got[ds[2].ID] == "" {
				t.Errorf("%d were delivered, but not the first and the last", len(got))
			}
			q.Settle()
			wantCounts(t, q, callhook.Counts{Accepted: 3, Delivered: 2, Dead: 1})
			dead, err := q.List(t.Context(), callhook.Filter{Reason: sqlitequeue.ReasonDamaged})
			if err != nil || len(dead) != 1 || dead[0].State != callhook.StateDead {
				t.Errorf("List of damaged dead letters: %v, %v", dead, err)
			}
			if n, err := q.Replay(t.Context(), callhook.Filter{}); n != 0 || err != nil {
				t.Errorf("Replay of what is damaged: %d, %v, want none", n, err)
			}
			if text := log.String(); !strings.Contains(text, "seq=2") || strings.Contains(text, "xxx") {
				t.Errorf("the log says %s", text)
			}
			if n, err := q.Erase(t.Context(), callhook.Filter{IDs: []string{dead[0].ID}}); n != 1 || err != nil {
				t.Errorf("Erase of what is damaged: %d, %v, want 1", n, err)
			}
		})
	}
}

// TestFlippedBytes: with bytes of the file changed at random, nothing crashes, hangs
// or spins, nothing wrong is handed out, and nothing is missing unless that was
// reported.
func TestFlippedBytes(t *testing.T) {
	const n, rounds = 120, 40
	original := filepath.Join(t.TempDir(), "queue.db")
	q := reopen(t, original, nil)
	bodies := map[string]string{}
	for i := range n {
		d := large(i%5, 200+i*40)
		d.Call = fmt.Sprint("call", i/3)
		bodies[d.ID] = string(d.Body)
		enqueue(t, q, d)
	}
	stop := consume(t, q, func(d *callhook.Delivery) callhook.Verdict {
		d.Attempts++
		switch d.ID[len(d.ID)-1] % 3 {
		case 0:
			return callhook.Park()
		case 1:
			return callhook.RetryAt(time.Now().Add(time.Millisecond))
		}
		d.Attempts = 0
		return callhook.Park()
	})
	stop()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(rounds) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 1))
			broken := bytes.Clone(content)
			for range 1 + seed%8 {
				at := 100 + r.IntN(len(broken)-100)
				if seed%2 == 0 { // somewhere in the pages of indexes and of what is dense
					at = 100 + r.IntN(min(len(broken), 200_000)-100)
				}
				broken[at] ^= byte(1 + r.IntN(255))
			}
			path := filepath.Join(t.TempDir(), "queue.db")
			if err := os.WriteFile(path, broken, 0o600); err != nil {
				t.Fatal(err)
			}
			survive(t, path, bodies)
		})
	}
}

// survive uses a queue that may be damaged.
func survive(t *testing.T, path string, bodies map[string]string) {
	log := new(logged)
	reported := false
	report := func(err error) { reported = reported || err != nil }
	q, err := sqlitequeue.Open(path, &sqlitequeue.Options{Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		return // it says so
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	running, stop := context.WithCancel(ctx)
	var mu sync.Mutex
	seen := map[string]bool{}
	ended := make(chan error, 1)
	go func() {
		ended <- q.Consume(running, func(_ context.Context, d *callhook.Delivery) callhook.Verdict {
			mu.Lock()
			defer mu.Unlock()
			if want, ok := bodies[d.ID]; ok && want != string(d.Body) {
				t.Errorf("%s was handed out with another body", d.ID)
			}
			seen[d.ID] = true
			return callhook.Delivered()
		})
	}()
	for i := range 20 {
		_, err := q.Release(ctx, "", -1)
		report(err)
		report(q.Enqueue(ctx, event(i%5)))
	}
	counts, err := q.Counts(ctx)
	report(err)
	for deadline := time.Now().Add(2 * time.Second); counts.Pending > 0 && time.Now().Before(deadline); {
		_, err := q.Release(ctx, "", -1)
		report(err)
		q.Settle()
		after, err := q.Counts(ctx)
		report(err)
		if after == counts && strings.Contains(log.String(), "level=ERROR") {
			break // it said that it cannot go on
		}
		counts = after
		time.Sleep(time.Millisecond)
	}
	all, err := q.List(ctx, callhook.Filter{Limit: 1000})
	report(err)
	for _, d := range all {
		_, err := q.Get(ctx, d.ID)
		report(err)
	}
	_, err = q.Lanes(ctx, callhook.Filter{})
	report(err)
	_, err = q.Erase(ctx, callhook.Filter{Call: "call7"})
	report(err)
	_, err = q.Replay(ctx, callhook.Filter{})
	report(err)
	stop()
	select {
	case err := <-ended:
		report(err)
	case <-time.After(15 * time.Second):
		t.Error("Consume does not end")
	}
	report(q.Close())
	mu.Lock()
	defer mu.Unlock()
	missing := 0
	for id := range bodies {
		if !seen[id] {
			missing++
		}
	}
	if missing > 0 && !reported && !strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("%d were not handed out, and nothing says so: %+v\n%s", missing, counts, log)
	}
}
