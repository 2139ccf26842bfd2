package callhooktest

import (
	"fmt"
	"slices"
	"time"

	"github.com/callhook-go/callhook"
)

var inspectRestartPromises = []promise{
	{"counts, dead letters and the order of Seq go on after a restart and a crash", inspectAfterRestart},
	{"what was erased stays away, and what was replayed goes on, after a restart and a crash", mendedAfterRestart},
}

// An operator's sums are over months, and a dead letter of yesterday is one today.
func inspectAfterRestart(tr *trial) {
	_, flying, all := stocked(tr)
	want := callhook.Counts{Accepted: 7, Delivered: 1, Dead: 2, Pending: 4}
	after := tr.crash()
	landed(tr.runs[0], flying)
	check := func(tr *trial) {
		tr.Helper()
		tr.wantCounts("after a restart", want)
		newest := int64(0)
		for id := range all {
			d, err := tr.inspector().Get(tr.Context(), id)
			if err != nil {
				if id != "delivered" {
					tr.Errorf("Get(%q) after a restart: %v", id, err)
				}
				continue
			}
			newest = max(newest, d.Seq)
			if id == "rejected" || id == "expired" {
				checkState(tr, "Get after a restart", d)
			}
		}
		if got := tr.list(callhook.Filter{State: callhook.StateDead}); !slices.Equal(got, []string{"expired", "rejected"}) {
			tr.Errorf("List of dead letters after a restart returned %v, want expired and rejected", got)
		}
		tr.enqueue(delivery("crm", "call", "new"))
		if d, err := tr.inspector().Get(tr.Context(), "new"); err != nil || d.Seq <= newest {
			tr.Errorf("the Seq of one that was enqueued after the restart is %+v (%v), want above %d", d, err, newest)
		}
		tr.note.replayed("rejected")
		if n, err := tr.inspector().Replay(tr.Context(), callhook.Filter{IDs: []string{"rejected"}}); n != 1 || err != nil {
			tr.Errorf("Replay after a restart returned %d, %v, want 1", n, err)
		}
		tr.wantCounts("after a replay", callhook.Counts{Accepted: 8, Delivered: 1, Dead: 1, Pending: 6})
	}
	check(after)
	after.end()
	tr.restart()
	check(tr)
}

// Whoever was promised to be forgotten is, also on the morning after, and a replay
// of thousands outlives the node that it was begun on.
func mendedAfterRestart(tr *trial) {
	r, flying, _ := stocked(tr)
	tr.enqueue(delivery("ops", "call", "gone"))
	gone := r.next("gone")
	erased := []string{"waiting", "expired", "parked", "blocked", "gone"}
	tr.note.erased(erased...)
	tr.erase(callhook.Filter{IDs: erased}, len(erased))
	tr.note.replayed("rejected")
	tr.replay(callhook.Filter{IDs: []string{"rejected"}}, 1)
	rejected := r.next("rejected")
	want := callhook.Counts{Accepted: 8, Delivered: 1, Dead: 1, Pending: 2, Erased: 4}
	tr.wantCounts("at first", want)
	check := func(tr *trial, attempts int) {
		tr.Helper()
		tr.wantCounts("after a restart", want)
		for _, id := range erased {
			if tr.holds(id) {
				tr.Errorf("Get(%q) returns it after a restart, though it was erased", id)
			}
			tr.enqueue(delivery("again", fmt.Sprint("call ", id), id))
		}
		r := tr.resume()
		both := r.take(2)
		v := both["rejected"]
		if v == nil || both["flying"] == nil {
			tr.Fatal("not both of those that are pending came back: one that was replayed, and one that was in flight")
		}
		if v.Attempts != attempts || v.Rejections != 0 || time.Since(v.EnqueuedAt) > 50*time.Minute {
			tr.Errorf("a dead letter that was replayed has Attempts %d, Rejections %d and EnqueuedAt %s after a restart, want %d, 0 and the time of the replay",
				v.Attempts, v.Rejections, v.EnqueuedAt, attempts)
		}
		v.attempt(callhook.Delivered())
		both["flying"].attempt(callhook.Delivered())
		tr.releases("", -1, 0)
		r.quiet("it was erased")
		tr.wantCounts("after a restart, with all settled", callhook.Counts{Accepted: 8, Delivered: 3, Dead: 1, Erased: 4})
	}
	after := tr.crash()
	check(after, 0)
	after.end()
	r.cancel()
	time.Sleep(notice)
	gone.attempt(callhook.RetryAt(time.Now()))
	flying.attempt(callhook.RetryAt(time.Now()))
	rejected.attempt(callhook.RetryAt(time.Now()))
	r.wait()
	tr.restart()
	check(tr, 1)
}
