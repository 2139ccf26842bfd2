package riverqueue

import (
	"cmp"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Options say which database, and how it is worked. Only Pool has to be set.
type Options struct {
	// Pool is the database. Whoever opened it closes it, after the queue. While Consume
	// runs there are two more connections than the pool says, on which it listens, made
	// with the pool's configuration. Four in the pool, pgx's least, are enough.
	//
	// Sessions have to be the program's own: a PgBouncer that pools transactions knows
	// neither LISTEN nor advisory locks. Their transactions have to be read committed,
	// which is the default of Postgres; one of [WithTx] may be what it likes.
	Pool *pgxpool.Pool
	// Schema holds the tables, River's and callhook's. Letters, digits and _, at most
	// 40. Empty means callhook, so that a River of the program's own is not touched.
	Schema string
	// Partitions is into how many parts the lanes are divided, each worked by one
	// process at a time: at most so many share the work. The first [Open] on a database
	// settles it, and another number is an error then. Each costs the process that works
	// it eight goroutines of River's and two looks a second. Zero means what the
	// database has, or else 16; at most 256.
	Partitions int
	// MaxWorkers is how many deliveries of one partition this process takes at once.
	// It should be above callhook's own limit of attempts (1,024 unless told), so that
	// lanes that hang do not take all of a partition. Zero means 4,096; at most 10,000.
	MaxWorkers int
	// KeepDead is how long dead letters are kept. Zero means 30 days.
	KeepDead time.Duration
	// Lease is how long a consumer that does not stir keeps its partitions when its
	// machine has stopped or cannot be reached. One whose process has died, so that its
	// connection broke, keeps them for a fifth of that. It is the same on all nodes. Zero means 10s; at
	// least 1s.
	Lease time.Duration
	// Logger is told what goes wrong and comes right by itself; no personal data is in
	// it. Nil means silence.
	Logger *slog.Logger
}

const (
	defaultSchema     = "callhook"
	defaultPartitions = 16
	maxPartitions     = 256
	// remember is how long the ID of a settled delivery is remembered, at least.
	remember = 4 * 24 * time.Hour
	// maxBody is what the memory of both sides holds several times.
	maxBody = 32 << 20
	// poll is how often a partition is looked at without being told to.
	poll = 500 * time.Millisecond
)

var schemaName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,39}$`)

// complete returns o with its defaults.
func (o Options) complete() (Options, error) {
	o.Schema = cmp.Or(o.Schema, defaultSchema)
	o.MaxWorkers = cmp.Or(o.MaxWorkers, 4096)
	o.KeepDead = cmp.Or(o.KeepDead, 30*24*time.Hour)
	o.Lease = cmp.Or(o.Lease, 10*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.Pool == nil:
		return o, fmt.Errorf("riverqueue: Options.Pool is nil: open one with pgxpool.New")
	case !schemaName.MatchString(o.Schema):
		return o, fmt.Errorf("riverqueue: Options.Schema is %q: use letters, digits and _, at most 40", o.Schema)
	case o.Partitions < 0 || o.Partitions > maxPartitions:
		return o, fmt.Errorf("riverqueue: Options.Partitions is %d: use 1 to %d", o.Partitions, maxPartitions)
	case o.MaxWorkers < 0 || o.MaxWorkers > 10_000:
		return o, fmt.Errorf("riverqueue: Options.MaxWorkers is %d: use 1 to 10000", o.MaxWorkers)
	case o.Lease < time.Second:
		return o, fmt.Errorf("riverqueue: Options.Lease is %s: use 1s or more", o.Lease)
	case o.KeepDead < 0:
		return o, fmt.Errorf("riverqueue: Options.KeepDead is %s: use a time above zero", o.KeepDead)
	}
	return o, nil
}
