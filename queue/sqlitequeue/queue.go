package sqlitequeue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/ncruces/go-sqlite3"
)

// Options are the options of [Open]. The zero value, or nil, is the default.
type Options struct {
	// Unsynced commits without waiting for the disk: what Enqueue stored survives
	// the end of the process, but the last of it not that of the machine. The
	// file stays whole. The default is to wait.
	Unsynced bool
	// MaxBytes bounds the database: over it Enqueue returns an error that is
	// [callhook.ErrQueueFull], while what is pending goes on. Beside it the log
	// takes some 16 MiB, and more while another program reads. Zero means 16 GiB.
	MaxBytes int64
	// MaxTenantBytes bounds what one tenant's pending deliveries take together: their
	// bodies, records, values and logs of attempts as they are stored, and 512 bytes
	// each. Over it Enqueue of that tenant's events returns an error that is
	// [callhook.ErrQuota] and stores nothing, while other tenants and what is pending go
	// on, and what is delivered, given up or erased makes room. What was stored already
	// is no error when it is raised again; what is replayed is not refused. It is exact,
	// also after a restart. Zero means no bound.
	MaxTenantBytes int64
	// KeepDelivered is how long a delivery that has arrived is kept whole, to be
	// looked at and replayed. Zero means not at all: only its ID stays, for four days.
	KeepDelivered time.Duration
	// KeepDead is how long dead letters are kept. Zero means 30 days.
	KeepDead time.Duration
	// Logger is told what was set aside, and what the disk refuses; no personal data
	// is in it. Nil means silence.
	Logger *slog.Logger

	lag lag // zero for the usual one
}

const (
	// remember is how long the ID of a settled delivery is remembered.
	remember = 4 * 24 * time.Hour
	// maxBody is what fits into the memory of the database engine several times.
	maxBody = 32 << 20
	// maxOut bounds what is handed out at once, in bytes, and maxWindow what is
	// loaded before it is wanted.
	maxOut    = 48 << 20
	maxWindow = 12 << 20
)

// Queue is a [callhook.Queue] in a SQLite database, and a [callhook.Inspector].
type Queue struct {
	path  string
	o     Options
	log   *slog.Logger
	now   func() time.Time
	guard *sqlite3.Conn // of the lock file

	mu         sync.Mutex
	closed     bool
	lanes      map[string]*lane
	byID       map[int64]*lane
	tenants    map[string]*tenant
	total      counts
	active     map[int64]*item // handed out or about to be, by seq
	out        int64           // bytes of those
	busy       int             // lanes that have some
	window     int64           // bytes of all windows
	ready      fifo[*item]     // for the next free goroutine
	loads      fifo[*lane]     // lanes of which something is to be loaded
	starved    fifo[*lane]
	dues       dues
	timer      *time.Timer
	timerAt    int64 // Unix microseconds
	houseTimer *time.Timer
	houseRang  bool // the timer has fired
	enqueues   fifo[*enqueue]
	settles    []*item
	ops        fifo[*op]
	writing    bool          // the writer runs
	gather     chan struct{} // wakes it while it waits for more
	written    *sync.Cond    // it has ended, or a group is done
	closing    bool

	consuming bool
	handle    callhook.Handler // nil once Consume is to end
	ctx       context.Context
	end       context.CancelFunc
	running   int
	starting  int
	workers   sync.WaitGroup
	dones     sync.WaitGroup // of verdicts

	w writer

	readMu sync.Mutex
	reader *db
}

var (
	_ callhook.Queue     = (*Queue)(nil)
	_ callhook.Inspector = (*Queue)(nil)
)

// Open opens the queue in the file path, and creates it if there is none. Beside
// it SQLite keeps path-wal and path-shm, and the queue path-lock. The errors that
// can be told apart are [ErrLocked], [ErrForeign] and [ErrVersion]. Whoever opens
// it closes it.
func Open(path string, o *Options) (*Queue, error) {
	q := &Queue{
		lanes: map[string]*lane{}, byID: map[int64]*lane{}, tenants: map[string]*tenant{}, active: map[int64]*item{},
		now: time.Now, gather: make(chan struct{}, 1),
	}
	q.written = sync.NewCond(&q.mu)
	if o != nil {
		q.o = *o
	}
	q.o.MaxBytes = cmp.Or(q.o.MaxBytes, 16<<30)
	q.w.chains.lag = cmp.Or(q.o.lag, usualLag)
	q.o.KeepDead = cmp.Or(q.o.KeepDead, 30*24*time.Hour)
	if q.log = q.o.Logger; q.log == nil {
		q.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if q.path, err = resolve(path); err != nil {
		return nil, fmt.Errorf("sqlitequeue: opening %s: %w", path, err)
	}
	if q.guard, err = lock(q.path); err != nil {
		return nil, err
	}
	// Close leaves no log: what a crash left may hold what had been erased.
	log, err := os.Stat(q.path + "-wal")
	crashed := err == nil && log.Size() > 0
	if err = q.open(); err != nil {
		err = fmt.Errorf("sqlitequeue: opening %s: %w", q.path, err)
		return nil, errors.Join(err, q.w.db.close(), q.guard.Close())
	}
	q.w.house.purgeAt = q.now().Add(time.Minute)
	if crashed {
		q.w.house.wipe, q.w.house.wipeAt = true, q.now().Add(wipeEvery)
	}
	q.wakeHouse()
	return q, nil
}

func (q *Queue) open() error {
	var err error
	if q.w.db, err = connect(q.path, !q.o.Unsynced, false); err != nil {
		return err
	}
	return safely(func() error {
		if err := migrate(q.w.db.c, q.log); err != nil {
			return err
		}
		if err := q.w.db.prepareAll(); err != nil {
			return err
		}
		if err := q.w.chains.load(q.w.db); err != nil {
			return err
		}
		return q.loadLanes()
	})
}

// loadLanes reads what is kept in memory of every lane. All that does not wait for
// a time counts as parked.
func (q *Queue) loadLanes() error {
	st, err := q.w.db.stmt(`SELECT l.id, l.lane, l.tenant, l.agent, l.webhook, c.accepted, c.delivered, c.dead, c.erased, c.ready, c.parked, c.waiting,
		c.blocked, c.last_seq, c.bytes FROM lanes l LEFT JOIN counts c ON c.lane_id = l.id`)
	if err != nil {
		return err
	}
	for st.Step() {
		l := &lane{id: st.ColumnInt64(0), name: st.ColumnText(1), stored: true}
		l.LaneRef = callhook.LaneRef{Tenant: st.ColumnText(2), Agent: st.ColumnText(3), Webhook: st.ColumnText(4)}
		for i, n := range l.c.columns() {
			*n = st.ColumnInt64(5 + i)
		}
		q.know(l)
		q.total.add(&counts{}, &l.c)
		l.tenant.bytes += l.c.bytes
		l.tenant.next = l.tenant.bytes
		q.w.seq = max(q.w.seq, l.c.lastSeq)
		q.w.laneID = max(q.w.laneID, l.id)
		l.fresh.count, l.tried.count = int(l.c.ready), int(l.c.parked)
	}
	if err := errors.Join(st.Err(), st.Reset()); err != nil {
		return err
	}
	last, err := number(q.w.db.c, "SELECT max(seq) FROM deliveries")
	if err != nil && faultOf(err) != faultCorrupt {
		return err
	}
	q.w.seq = max(q.w.seq, last)
	for _, l := range q.lanes {
		if l.c.parked > 0 {
			if err := q.w.lastParked(l); err != nil && faultOf(err) != faultCorrupt {
				return err
			}
		}
		if l.c.waiting > 0 {
			at, err := q.w.nextDue(l)
			if err != nil && faultOf(err) != faultCorrupt {
				return err
			}
			q.dues.set(l, at)
		}
	}
	return nil
}

// know adds a lane to those in memory.
func (q *Queue) know(l *lane) {
	q.lanes[l.name], q.byID[l.id] = l, l
	if l.tenant = q.tenants[l.Tenant]; l.tenant == nil {
		l.tenant = new(tenant)
		q.tenants[l.Tenant] = l.tenant
	}
}

// columns are the counts in the order of the table.
func (c *counts) columns() []*int64 {
	return []*int64{&c.accepted, &c.delivered, &c.dead, &c.erased, &c.ready, &c.parked, &c.waiting, &c.blocked, &c.lastSeq, &c.bytes}
}

// Limits implements [callhook.Queue].
func (q *Queue) Limits() callhook.Limits {
	return callhook.Limits{Ordered: true, Durable: true, MaxBody: maxBody, Remember: remember, Redeliver: time.Second, Resolution: time.Millisecond}
}

// Release implements [callhook.Queue].
func (q *Queue) Release(ctx context.Context, name string, n int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return 0, errClosed
	}
	freed := 0
	var waits []*lane
	release := func(l *lane) {
		freed += l.release(n)
		if n < 0 && l.c.waiting > 0 {
			waits = append(waits, l)
		}
		q.feed(l)
	}
	if name != "" {
		if l := q.lanes[name]; l != nil {
			release(l)
		}
	} else {
		for _, l := range q.lanes {
			release(l)
		}
	}
	q.spawn()
	if len(waits) == 0 {
		return freed, nil
	}
	more, err := q.releaseWaiting(ctx, waits)
	return freed + more, err
}

var errClosed = fmt.Errorf("sqlitequeue: %w", callhook.ErrQueueClosed)

// Close implements [callhook.Queue]. What was enqueued is on disk; Consume ends, and
// verdicts that come after it are dropped: those deliveries come again.
func (q *Queue) Close() error {
	q.mu.Lock()
	if q.closed {
		for q.closing {
			q.written.Wait()
		}
		q.mu.Unlock()
		return nil
	}
	q.closed, q.closing = true, true
	if q.end != nil {
		q.end()
	}
	q.handle = nil
	q.stopTimer()
	if q.houseTimer != nil {
		q.houseTimer.Stop()
	}
	q.kick()
	for q.writing {
		q.written.Wait()
	}
	q.mu.Unlock()
	q.readMu.Lock()
	err := q.reader.close()
	q.reader = nil
	q.readMu.Unlock()
	q.w.checkpointing.wait()
	err = errors.Join(err, q.w.checkpointing.db.close(), q.w.db.close(), q.guard.Close())
	q.mu.Lock()
	q.closing = false
	q.written.Broadcast()
	q.mu.Unlock()
	if err != nil {
		return fmt.Errorf("sqlitequeue: closing %s: %w", q.path, err)
	}
	return nil
}
