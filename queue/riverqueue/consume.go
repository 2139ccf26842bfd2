package riverqueue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

var errConsuming = errors.New("riverqueue: the queue is consumed already: one Run at a time")

// Consume implements [callhook.Queue]. Any number of processes, and of queues that are
// open on the database, do so at the same time; each works some of the partitions.
// When ctx ends, a partition is handed over as soon as nothing of it is in flight.
// Besides [callhook.ErrQueueClosed], its error says that it runs already, or how many
// verdicts could not be stored: those deliveries come again.
func (q *Queue) Consume(ctx context.Context, handle callhook.Handler) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	c := &consumer{
		q: q, handle: handle, ctx: context.WithoutCancel(ctx), parts: map[int16]*part{}, hands: map[int64]int16{}, backlogs: map[int32]int16{},
		kick: make(chan struct{}, 1),
	}
	q.mu.Lock()
	switch {
	case q.closed.Load():
		q.mu.Unlock()
		return errClosed
	case q.consumer != nil:
		q.mu.Unlock()
		return errConsuming
	case ctx.Err() != nil:
		q.mu.Unlock()
		return nil
	}
	q.consumer, q.end = c, end
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		q.consumer, q.end = nil, nil
		q.mu.Unlock()
	}()
	return c.run(ctx)
}

// consumer is a Consume under way.
type consumer struct {
	q      *Queue
	handle callhook.Handler
	ctx    context.Context // of handlers
	trying context.Context // ends when it gives up
	load   *loader
	write  *writer
	client *river.Client[pgx.Tx] // nil until there is a partition
	kick   chan struct{}         // to look after the partitions at once

	mu       sync.Mutex
	ending   bool
	parts    map[int16]*part
	hands    map[int64]int16 // the partitions of tickets that were taken
	handling int             // deliveries in their handlers
	quiet    time.Time       // when the last of them left
	unstored int             // verdicts
	backlogs map[int32]int16 // lanes that have parked ones, as far as is known, and their partitions
}

// part is a partition that this process has.
type part struct {
	draining bool // nothing more of it is handed out
	worked   bool // River's client knows it
}

func (c *consumer) run(ctx context.Context) error {
	trying, giveUp := context.WithCancel(c.ctx)
	defer giveUp()
	c.trying = trying
	c.load = &loader{q: c.q, ctx: trying}
	c.load.room = sync.NewCond(&c.load.mu)
	c.write = &writer{c: c, ctx: trying}
	session, hangUp := context.WithCancel(c.ctx)
	var watching sync.WaitGroup
	watching.Go(func() { c.connect(session) })
	watching.Go(func() { c.watch(ctx, session, giveUp) })
	c.keep(ctx)
	c.end()
	hangUp()
	watching.Wait()
	c.load.pending.rest()
	c.write.pending.rest()
	if c.unstored > 0 {
		return fmt.Errorf("riverqueue: Consume has ended, and %d verdicts could not be stored: those deliveries come again", c.unstored)
	}
	return nil
}

// watch sees to it that nothing more is handed out once ctx has ended. Then a database
// that is away is waited for, but for some time only after the last handler has
// returned.
func (c *consumer) watch(ctx, session context.Context, giveUp func()) {
	select {
	case <-ctx.Done():
	case <-session.Done():
	}
	c.mu.Lock()
	c.ending, c.quiet = true, time.Now()
	c.mu.Unlock()
	for pause(session, patience/100) {
		c.mu.Lock()
		late := c.handling == 0 && time.Since(c.quiet) > patience
		c.mu.Unlock()
		if late {
			giveUp()
			return
		}
	}
}

// patience is how long a Consume that is to end waits for a database that takes no
// verdicts.
const patience = 10 * time.Second

// pause waits, and reports whether ctx has not ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// pointer is what a River job says: which delivery is ready.
type pointer struct {
	Seq  int64 `json:"seq"`
	Lane int32 `json:"lane,omitempty"`
	Size int64 `json:"size,omitempty"`
}

// Kind is what River knows these jobs by.
func (pointer) Kind() string { return kind }

type worker struct {
	river.WorkerDefaults[pointer]
	c *consumer
}

// Timeout leaves the time to the handler, which returns within its webhook's.
func (worker) Timeout(*river.Job[pointer]) time.Duration { return -1 }

// Work hands a delivery out. It returns when its ticket is gone; so River finds
// nothing to write down.
func (w worker) Work(_ context.Context, job *river.Job[pointer]) error {
	p, err := strconv.ParseInt(strings.TrimPrefix(job.Queue, queuePrefix), 10, 16)
	if err != nil {
		return fmt.Errorf("riverqueue: a job in the queue %q is not callhook's", job.Queue)
	}
	w.c.work(ticket{id: job.ID, seq: job.Args.Seq, lane: job.Args.Lane, partition: int16(p), size: job.Args.Size})
	return nil
}

func (c *consumer) work(t ticket) {
	if !c.take(t) {
		c.putBack(t)
		return
	}
	defer c.putDown(t)
	it := c.load.load(t)
	defer c.load.unload(t)
	switch {
	case it == nil || it.found == leased:
		return // whoever works it now takes it up
	case it.found != here:
		c.write.do(&op{what: drop, item: it})
		if it.found == erased && t.lane != 0 { // somebody counts on it
			c.write.do(&op{what: release, partitions: []int16{t.partition}, lane: t.lane, n: 1})
		}
		return
	case it.blocked && c.write.do(&op{what: block, item: it}).yes:
		return
	}
	if wait := time.Until(it.due); wait > 0 && !it.due.IsZero() { // the clock of Postgres is ahead
		pause(c.trying, wait)
	}
	if t.lane == 0 && c.backlog(it.lane) && c.write.do(&op{what: keep, item: it}).yes {
		return
	}
	if !c.enter(t) {
		c.putBack(t)
		return
	}
	v := func() callhook.Verdict {
		defer c.leave()
		return c.handle(c.ctx, &it.d)
	}()
	if o := c.write.do(&op{what: settle, item: it, to: v}); o.err != nil {
		c.mu.Lock()
		c.unstored++
		c.mu.Unlock()
	}
	v.Done()
}

// take notes that a ticket is in hand, unless nothing more is handed out.
func (c *consumer) take(t ticket) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.parts[t.partition]; c.ending || p == nil || p.draining {
		return false
	}
	c.hands[t.id] = t.partition
	return true
}

func (c *consumer) putDown(t ticket) {
	c.mu.Lock()
	delete(c.hands, t.id)
	c.mu.Unlock()
}

// putBack makes ready what was taken and will not be handed out here.
func (c *consumer) putBack(t ticket) {
	if c.owns(t.partition) {
		c.write.do(&op{what: back, item: &item{ticket: t}})
	}
}

func (c *consumer) enter(t ticket) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.parts[t.partition]; c.ending || p == nil || p.draining {
		return false
	}
	c.handling++
	return true
}

func (c *consumer) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handling--
	c.quiet = time.Now()
}

// owns reports whether a partition is this process's. A consumer that is nil has none.
func (c *consumer) owns(p int16) bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.parts[p] != nil
}

func (c *consumer) owned() (out []int16) {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for p := range c.parts {
		out = append(out, p)
	}
	return out
}

// backlog reports whether a lane may have parked ones: then what comes is parked too,
// without a look, if it has. Only the writer changes it, and decides by it.
func (c *consumer) backlog(lane int32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.backlogs[lane]
	return ok
}

func (c *consumer) setBacklog(it *item) {
	c.mu.Lock()
	c.backlogs[it.lane] = it.partition
	c.mu.Unlock()
}

func (c *consumer) clearBacklog(lane int32) {
	c.mu.Lock()
	delete(c.backlogs, lane)
	c.mu.Unlock()
}

func queueName(p int16) string { return queuePrefix + strconv.Itoa(int(p)) }

func queueNames(ps []int16) []string {
	names := make([]string, len(ps))
	for i, p := range ps {
		names[i] = queueName(p)
	}
	return names
}

// start has River's client work partitions. What River does for jobs that are late,
// stuck or finished is not needed: see [consumer.look], which does it for the
// partitions of this process at once, and without a leader.
func (c *consumer) start(ps []int16) error {
	config := river.QueueConfig{MaxWorkers: c.q.o.MaxWorkers}
	if c.client != nil {
		for _, p := range ps {
			if c.works(p) {
				continue
			}
			err := c.client.Queues().Add(queueName(p), config)
			if errors.Is(err, &river.QueueAlreadyAddedError{}) { // it did not start the last time
				c.stop([]int16{p})
				err = c.client.Queues().Add(queueName(p), config)
			}
			if err != nil {
				return err
			}
			c.worked(p)
		}
		return nil
	}
	queues := map[string]river.QueueConfig{}
	for _, name := range queueNames(ps) {
		queues[name] = config
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, worker{c: c})
	client, err := river.NewClient(riverpgxv5.New(c.q.o.Pool), &river.Config{
		Queues: queues, Workers: workers, Schema: c.q.o.Schema, Logger: slog.New(warnings{c.q.log.Handler()}), ID: fmt.Sprintf("callhook_%x", uint64(c.q.id)),
		FetchCooldown: 5 * time.Millisecond, FetchPollInterval: poll, JobTimeout: -1, LeaderElectionDisabled: true,
	})
	if err == nil {
		err = client.Start(c.ctx)
	}
	if err != nil {
		return err
	}
	c.client = client
	for _, p := range ps {
		c.worked(p)
	}
	return nil
}

// warnings leaves out what River tells each few seconds.
type warnings struct{ slog.Handler }

func (h warnings) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && h.Handler.Enabled(ctx, level)
}

func (h warnings) WithAttrs(attrs []slog.Attr) slog.Handler {
	return warnings{h.Handler.WithAttrs(attrs)}
}
func (h warnings) WithGroup(name string) slog.Handler { return warnings{h.Handler.WithGroup(name)} }

func (c *consumer) works(p int16) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	part := c.parts[p]
	return part != nil && part.worked
}

func (c *consumer) worked(p int16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if part := c.parts[p]; part != nil {
		part.worked = true
	}
}

// stop has River's client leave those of the partitions of which nothing is in
// flight, and returns them. Of the others nothing more is taken.
func (c *consumer) stop(ps []int16) (left []int16) {
	for _, p := range ps {
		if c.client != nil {
			ctx, cancel := context.WithTimeout(c.ctx, 20*time.Millisecond)
			err := c.client.Queues().Remove(ctx, queueName(p))
			cancel()
			if _, unknown := errors.AsType[*river.QueueNotFoundError](err); err != nil && !unknown {
				continue
			}
		}
		left = append(left, p)
	}
	return left
}
