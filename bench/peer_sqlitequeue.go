package main

import (
	"path/filepath"

	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

func sqliteQueueKinds() []kind {
	open := func(unsynced bool) func(setup) (peer, error) {
		return func(s setup) (peer, error) {
			queue, err := sqlitequeue.Open(filepath.Join(s.Dir, "callhook.db"), &sqlitequeue.Options{Unsynced: unsynced})
			if err != nil {
				return nil, err
			}
			return openCallhook(s, queue)
		}
	}
	return []kind{{
		key: sqliteQueue, name: "callhook, sqlitequeue", fsync: "each commit, shared by events that come together", durable: true, embedded: true, synced: true, ours: true,
		verify: verifyStandard, open: open(false),
	}, {
		key: "sqlite-unsynced", name: "callhook, sqlitequeue, unsynced", fsync: "at checkpoints", durable: true, embedded: true, ours: true,
		verify: verifyStandard, open: open(true),
	}}
}
