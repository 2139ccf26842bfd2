package sqlitequeue_test

import (
	"path/filepath"
	"testing"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	conform(t, nil)
}

// TestConformanceBehind: the same when everything goes through the index by call,
// and with the options that change most.
func TestConformanceBehind(t *testing.T) {
	t.Parallel()
	conform(t, sqlitequeue.SmallIndex(&sqlitequeue.Options{Unsynced: true, KeepDelivered: 1 << 40}))
}

func conform(t *testing.T, o *sqlitequeue.Options) {
	callhooktest.TestQueue(t, func(t *testing.T, dir string) callhook.Queue {
		q, err := sqlitequeue.Open(filepath.Join(dir, "queue.db"), o)
		if err != nil {
			t.Fatal(err)
		}
		return q
	})
}
