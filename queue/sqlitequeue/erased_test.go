package sqlitequeue_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// search says where in the files of a folder one of the texts stands.
func search(t testing.TB, dir string, texts ...string) (where []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in %s: %v", dir, err)
	}
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range texts {
			if n := bytes.Count(content, []byte(s)); n > 0 {
				where = append(where, fmt.Sprintf("%q %d times in %s", s, n, filepath.Base(f)))
			}
		}
	}
	return where
}

// What is planted with everything of a caller's, and found wherever it is left.
const (
	adasName   = "Ada-Lovelace-was-here"
	adasNumber = "+44-7700-900123"
	adasHash   = "hash-of-Adas-number"
	adasCall   = "her-whole-call"
	adasReply  = "reply-that-greets-her"
)

var adas = []string{adasName, adasNumber, adasHash, adasCall, adasReply}

// plant enqueues n deliveries, two of three of them Ada's, of all sizes, and has all
// that can become of them become of hers: she is in bodies, values, numbers, records
// and logs, of what is pending, was tried, was given up, arrived and was replayed.
func plant(t testing.TB, q *sqlitequeue.Queue, n int, adaCalled func(i int) string) (hers []string) {
	t.Helper()
	r := rand.New(rand.NewPCG(3, uint64(n)))
	ada := map[string]bool{}
	var ds []*callhook.Delivery
	for i := range n {
		d := event(i % 7)
		d.Body = bytes.Repeat([]byte("x"), r.IntN(1500))
		d.Numbers = []string{fmt.Sprintf("%08x-somebody", r.Uint32()), "everybody"}
		if i%3 != 0 {
			d.Body = append([]byte(adasName), d.Body...)
			if i%10 == 0 { // more than a page
				d.Body = bytes.Repeat([]byte(adasName), 600)
			}
			d.Values = map[string]string{"call.from": adasNumber}
			d.Numbers = append(d.Numbers, fmt.Sprintf("%08x-%s", r.Uint32(), adasHash), adasHash)
			d.Record = []byte(`"` + adasCall + strings.Repeat(".", r.IntN(500)) + `"`)
			d.Call = adaCalled(i)
			ada[d.ID] = true
			hers = append(hers, d.ID)
		}
		ds = append(ds, d)
	}
	for part := range slices.Chunk(ds, 50) {
		enqueue(t, q, part...)
	}
	done := make(chan bool, n)
	var mu sync.Mutex
	next := 0
	stop := consume(t, q, func(d *callhook.Delivery) callhook.Verdict {
		mu.Lock()
		i := next
		next++
		mu.Unlock()
		d.Attempts++
		if ada[d.ID] {
			d.Log = append(d.Log, callhook.Attempt{Status: 500, Reply: strings.Repeat(adasReply, 1+i%20)})
		}
		v := []callhook.Verdict{
			callhook.Delivered(), callhook.Dead(callhook.ReasonRejected), callhook.Park(), callhook.RetryAt(time.Now().Add(time.Hour)), callhook.Delivered(),
		}[i%5]
		return v.Then(func() { done <- true })
	})
	for taken := 0; taken < n*3/4; { // the others stay as they are
		select {
		case <-done:
			taken++
		case <-time.After(20 * time.Millisecond):
			if _, err := q.Release(t.Context(), "", 20); err != nil {
				t.Fatal(err)
			}
		}
	}
	stop()
	if _, err := q.Replay(t.Context(), callhook.Filter{Limit: n / 20}); err != nil {
		t.Fatal(err)
	}
	return hers
}

// TestErasedIsGone: when Erase has returned, nothing of what it erased is left in any
// file, nor of what had arrived before, wherever it lay meanwhile.
func TestErasedIsGone(t *testing.T) {
	for _, tt := range []struct {
		name  string
		o     *sqlitequeue.Options
		erase func(hers []string) callhook.Filter
	}{
		{"by number", nil, func([]string) callhook.Filter { return callhook.Filter{Number: adasHash} }},
		{"by call", nil, func([]string) callhook.Filter { return callhook.Filter{Call: "hers"} }},
		{"by ID", &sqlitequeue.Options{KeepDelivered: time.Hour}, func(hers []string) callhook.Filter { return callhook.Filter{IDs: hers} }},
		{"unsynced", &sqlitequeue.Options{Unsynced: true}, func([]string) callhook.Filter { return callhook.Filter{Number: adasHash} }},
		{"through the index", sqlitequeue.SmallIndex(&sqlitequeue.Options{}), func([]string) callhook.Filter { return callhook.Filter{Call: "hers"} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "queue.db")
			q := reopen(t, path, tt.o)
			f := tt.erase(nil)
			hers := plant(t, q, 1500, func(i int) string {
				if f.Call != "" {
					return f.Call
				}
				return fmt.Sprint("call", i)
			})
			if where := search(t, dir, adas...); len(where) < len(adas) {
				t.Fatalf("before Erase there is only %q", where)
			}
			n, err := q.Erase(t.Context(), tt.erase(hers))
			if err != nil || n < 300 {
				t.Fatalf("Erase: %d, %v", n, err)
			}
			if where := search(t, dir, adas...); len(where) > 0 {
				t.Errorf("after Erase there is %q", where)
			}
			// Nor does it come back with the pages that are written again.
			for i := range 300 {
				enqueue(t, q, large(i%7, i*5))
			}
			if _, err := q.Replay(t.Context(), callhook.Filter{}); err != nil {
				t.Fatal(err)
			}
			c, err := q.Counts(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if c.Accepted != c.Delivered+c.Dead+c.Pending+c.Erased {
				t.Errorf("counts do not balance: %+v", c)
			}
			deliverAll(t, q, int(c.Pending))
			if where := search(t, dir, adas...); len(where) > 0 {
				t.Errorf("after it was written again there is %q", where)
			}
			if n := sqlitequeue.Query(t, path, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'"); n != 0 {
				t.Errorf("PRAGMA integrity_check finds %d faults", n)
			}
		})
	}
}

// TestArrivedIsGone: what a caller's events said, who had none pending, is gone with
// an Erase that finds nothing, and with the end of the process.
func TestArrivedIsGone(t *testing.T) {
	dir := t.TempDir()
	q := reopen(t, filepath.Join(dir, "queue.db"), nil)
	arrive := func() {
		for i := range 30 {
			d := large(i%3, 100)
			d.Body = bytes.Repeat([]byte(adasName), 1+i*10)
			d.Values, d.Numbers = map[string]string{"call.from": adasNumber}, []string{adasHash}
			settleOne(t, q, d, callhook.Delivered())
		}
	}
	arrive()
	if len(search(t, dir, adas...)) == 0 {
		t.Fatal("nothing is left before Erase: the test shows nothing")
	}
	if n, err := q.Erase(t.Context(), callhook.Filter{Number: adasHash}); n != 0 || err != nil {
		t.Fatalf("Erase: %d, %v, want none", n, err)
	}
	if where := search(t, dir, adas...); len(where) > 0 {
		t.Errorf("after Erase there is %q", where)
	}
	arrive()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if where := search(t, dir, adas...); len(where) > 0 {
		t.Errorf("after Close there is %q", where)
	}
}

// TestErasedInACrash: of what was erased when the process died, nothing is left soon
// after the next start.
func TestErasedInACrash(t *testing.T) {
	dir := t.TempDir()
	q := reopen(t, filepath.Join(dir, "queue.db"), nil)
	plant(t, q, 900, func(i int) string { return fmt.Sprint("call", i) })
	// The disk as it is at each moment of Erase: before each write to the log.
	var mu sync.Mutex
	var copies []string
	sqlitequeue.SetFaults(t, func(int) error {
		mu.Lock()
		defer mu.Unlock()
		copies = append(copies, copyFiles(t, dir))
		return nil
	})
	n, err := q.Erase(t.Context(), callhook.Filter{Number: adasHash})
	if err != nil || n < 100 {
		t.Fatalf("Erase: %d, %v", n, err)
	}
	mu.Lock()
	copies = append(copies, copyFiles(t, dir))
	mu.Unlock()
	if where := search(t, copies[len(copies)-1], adas...); len(where) > 0 {
		t.Errorf("after Erase there is %q", where)
	}
	done := 0
	for _, dir := range copies {
		q := reopen(t, filepath.Join(dir, "queue.db"), nil)
		left, err := q.List(t.Context(), callhook.Filter{Number: adasHash})
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			done++
			var now clock
			q.SetNow(now.Now)
			now.set(10 * time.Second)
			q.Wake()
			q.Settle()
			if where := search(t, dir, adas...); len(where) > 0 {
				t.Errorf("after the next start there is %q", where)
			}
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if done == 0 || done == len(copies) {
		t.Errorf("in %d of %d copies all was erased, want some and not all", done, len(copies))
	}
}

func copyFiles(t testing.TB, dir string) string {
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Error(err)
	}
	return to
}

// TestErasedWhileRead: another program that reads keeps the log as it is, and when it
// ends that is emptied too.
func TestErasedWhileRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "queue.db")
	q := reopen(t, path, nil)
	var now clock
	q.SetNow(now.Now)
	plant(t, q, 60, func(i int) string { return fmt.Sprint("call", i) })
	release := sqlitequeue.Read(t, path)
	if n, err := q.Erase(t.Context(), callhook.Filter{Number: adasHash}); n < 10 || err != nil {
		t.Fatalf("Erase: %d, %v", n, err)
	}
	if len(search(t, dir, adas...)) == 0 {
		t.Fatal("nothing is left while another program reads: the test shows nothing")
	}
	enqueue(t, q, event(0)) // goes on
	release()
	now.set(2 * time.Second)
	q.Wake()
	q.Settle()
	if where := search(t, dir, adas...); len(where) > 0 {
		t.Errorf("after the other program has ended there is %q", where)
	}
}

// TestForgotten: Hooks.Forget leaves nothing of a caller, whatever became of the
// events of the calls.
func TestForgotten(t *testing.T) {
	dir := t.TempDir()
	q := reopen(t, filepath.Join(dir, "queue.db"), nil)
	config, err := callhook.ParseConfig([]byte(`{"agent_id": "reception", "post_call": [
		{"name": "arrives", "url": "https://arrives.example.com/{{ call.from }}"},
		{"name": "refuses", "url": "https://refuses.example.com/", "headers": {"X-From": "{{ call.from }}"}, "retry": {"max_attempts": 1}},
		{"name": "waits", "url": "https://waits.example.com/", "headers": {"X-From": "{{ call.from }}"}}
	]}`))
	if err != nil {
		t.Fatal(err)
	}
	hooks := callhooktest.NewHooks(t, callhook.Options{
		Configs: callhook.Static(config), Queue: q, KeepCalls: true, NumberKey: []byte("0123456789abcdef"),
	}, callhooktest.Network{
		"arrives.example.com": callhooktest.NewEndpoint(t, callhooktest.Reply(200, adasReply)),
		"refuses.example.com": callhooktest.NewEndpoint(t, callhooktest.Reply(422, adasReply)),
		"waits.example.com":   callhooktest.NewEndpoint(t, callhooktest.Reply(503, adasReply)),
	})
	const calls, number, others = 5, "+447700900123", "+447700900999"
	for i := range calls {
		for _, from := range []string{number, others} {
			call := callhook.Call{
				ID: fmt.Sprint("call", i, from[10:]), AgentID: "reception", Direction: callhook.Inbound, From: from, To: "+442079460018",
				Status: callhook.StatusCompleted, EndedAt: time.Now(), Summary: "somebody else",
			}
			if from == number {
				call.Summary = strings.Repeat(adasName, 1+i*50)
			}
			if err := hooks.PostCall(t.Context(), &call); err != nil {
				t.Fatal(err)
			}
		}
	}
	hooks.Delivered(t, 2*calls)
	hooks.Dead(t, 2*calls)
	for _, text := range []string{number, adasName, adasReply} {
		if len(search(t, dir, text)) == 0 {
			t.Fatalf("%q is nowhere before it is forgotten: the test shows nothing", text)
		}
	}
	n, err := hooks.Forget(t.Context(), "", number)
	if n < 2*calls || err != nil {
		t.Fatalf("Forget: %d, %v, want at least %d", n, err, 2*calls)
	}
	if where := search(t, dir, number, number[1:], adasName, hooks.NumberHash("", number)); len(where) > 0 {
		t.Errorf("after Forget there is %q", where)
	}
	if len(search(t, dir, others)) == 0 {
		t.Error("another caller was forgotten too")
	}
}
