package riverqueue

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/callhook-go/callhook"
)

// Queue is a [callhook.Queue] on River, and a [callhook.Inspector].
type Queue struct {
	o          Options
	log        *slog.Logger
	id         int64 // of this queue among all that are open on the database
	partitions int
	sql        statements
	lanes      lanes
	enqueues   enqueues
	closed     atomic.Bool

	mu       sync.Mutex
	consumer *consumer // nil when Consume is not under way
	end      context.CancelFunc
}

var (
	_ callhook.Queue     = (*Queue)(nil)
	_ callhook.Inspector = (*Queue)(nil)
)

// Open opens the queue in the database of o.Pool, whose tables [Migrate] has made. The
// errors that can be told apart are [ErrNotMigrated], [ErrVersion] and
// [ErrPartitions]. Whoever opens it closes it, and then the pool.
func Open(ctx context.Context, o Options) (*Queue, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	q := &Queue{o: o, log: o.Logger, id: rand.Int64()}
	if q.partitions, err = settled(ctx, o); err != nil {
		return nil, fmt.Errorf("riverqueue: opening: %w", err)
	}
	q.sql = newStatements(o.Schema)
	q.lanes = lanes{q: q, all: map[string]*lane{}}
	q.enqueues.q = q
	return q, nil
}

// Limits implements [callhook.Queue].
func (q *Queue) Limits() callhook.Limits {
	return callhook.Limits{
		Ordered: true, Durable: true, Shared: true, MaxBody: maxBody, Remember: remember,
		Redeliver: q.o.Lease + time.Second, Resolution: 2 * poll,
	}
}

// Close implements [callhook.Queue]. The pool stays open. A Consume that is still under
// way ends by itself, as if its ctx had.
func (q *Queue) Close() error {
	if q.closed.Swap(true) {
		return nil
	}
	q.mu.Lock()
	if q.end != nil {
		q.end()
	}
	q.mu.Unlock()
	q.enqueues.pending.rest()
	return nil
}

var errClosed = fmt.Errorf("riverqueue: %w", callhook.ErrQueueClosed)

// statements are the queue's, with the names of its tables.
type statements struct {
	enqueue, addLanes, readLanes                              string
	load, settle, advance, lockLanes, block, keep, back, drop string
	release, releaseAll, unowned, mine, lockParts             string
	recover, promote, heal                                    string
	register, beat, members, dead, disown, owners, take, free string
	leave, purgeIDs, purgeDead                                string
}

func newStatements(schema string) (s statements) {
	channel := strings.ReplaceAll(schema, "'", "''")
	for to, text := range map[*string]string{
		&s.enqueue: enqueueSQL, &s.addLanes: addLanesSQL, &s.readLanes: readLanesSQL,
		&s.load: loadSQL, &s.settle: settleSQL, &s.advance: advanceSQL, &s.lockLanes: lockLanesSQL, &s.block: blockSQL, &s.keep: keepSQL,
		&s.back: backSQL, &s.drop: dropSQL,
		&s.release: releaseSQL, &s.releaseAll: releaseAllSQL, &s.unowned: unownedSQL, &s.mine: mineSQL, &s.lockParts: lockPartsSQL,
		&s.recover: recoverSQL, &s.promote: promoteSQL, &s.heal: healSQL,
		&s.register: registerSQL, &s.beat: beatSQL, &s.members: membersSQL, &s.dead: deadSQL, &s.disown: disownSQL, &s.owners: ownersSQL, &s.take: takeSQL,
		&s.free: freeSQL, &s.leave: leaveSQL, &s.purgeIDs: purgeIDsSQL, &s.purgeDead: purgeDeadSQL,
	} {
		*to = strings.ReplaceAll(in(schema, text), "{channel}", channel)
	}
	return s
}
