package natsqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Options are the options of [Open]. All but Conn may be zero, which is the default.
type Options struct {
	// Conn is the connection to the server or cluster. Whoever opened it closes it,
	// after Close. It should never give up: pass nats.MaxReconnects(-1) to Connect. A queue
	// that delivers makes a second one with the same options, for itself.
	Conn *nats.Conn
	// Name is that of the stream, and the first word of its subjects: letters, digits,
	// - and _. Empty means CALLHOOK.
	Name string
	// Replicas is how many servers keep the stream: 1, 3 or 5. Zero means 1 for a
	// stream that is made, and whatever it has for one that exists.
	Replicas int
	// Storage is where they keep it: the zero value is files. In memory nothing
	// survives the end of the servers, and [callhook.Limits].Durable is false.
	Storage jetstream.StorageType
	// MaxBytes bounds the stream: over it Enqueue returns an error that is
	// [callhook.ErrQueueFull], while what is pending goes on. It is looked at a few
	// times a second, so that a little more may be stored. Zero means seven eighths of the
	// stream's own max-bytes, if somebody has set that, and else no bound but the
	// server's and the account's. Set one: verdicts are writes too, so that a server
	// whose disk is full settles nothing until it has room.
	MaxBytes int64
	// Partitions is into how many parts the lanes are divided, each of which has one
	// consumer at a time: no more consumers than that have work. It is fixed when the
	// stream is made. Zero means 32 for a stream that is made, and whatever it has for
	// one that exists.
	Partitions int
	// KeepDead is how long dead letters are kept. Zero means 30 days.
	KeepDead time.Duration
	// Lease is how long a process that consumes may be silent before others take over
	// what it has: how long after it was killed or cut off its deliveries rest. Zero
	// means 10 s; below a second a busy machine looks dead. All processes say the same.
	Lease time.Duration
	// Logger is told what goes wrong and who has which partitions; no personal data is in
	// it. Nil means silence.
	Logger *slog.Logger
}

const (
	// remember is how long the ID of a settled delivery is remembered.
	remember       = 4 * 24 * time.Hour
	defaultParts   = 32
	metadataParts  = "callhook-partitions"
	metadataFormat = "callhook-format"
	format         = "1"
	ioTimeout      = 5 * time.Second
)

// The errors of [Open] that can be told apart.
var (
	// ErrNoJetStream says that the server or the account has no JetStream.
	ErrNoJetStream = errors.New("natsqueue: there is no JetStream")
	// ErrForeign says that there is a stream of this name which is none of callhook's,
	// or was changed into something that does not serve.
	ErrForeign = errors.New("natsqueue: the stream is not callhook's")
	// ErrOptions says that an option cannot be, or is not what the stream was made with.
	ErrOptions = errors.New("natsqueue: the options")
)

var validName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Open opens the queue, and makes its stream if there is none. It does not wait for a
// server that is away. The errors that can be told apart are [ErrNoJetStream],
// [ErrForeign] and [ErrOptions]. Whoever opens it closes it.
func Open(ctx context.Context, o Options) (*Queue, error) {
	o.Name = cmp.Or(o.Name, "CALLHOOK")
	o.KeepDead = cmp.Or(o.KeepDead, 30*24*time.Hour)
	o.Lease = cmp.Or(o.Lease, 10*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.Conn == nil:
		return nil, fmt.Errorf("%w: Conn is nil: pass a *nats.Conn", ErrOptions)
	case !validName.MatchString(o.Name):
		return nil, fmt.Errorf("%w: %q cannot be the Name of a stream: use up to 64 letters, digits, - and _", ErrOptions, o.Name)
	case o.Partitions < 0 || o.Partitions > 4096:
		return nil, fmt.Errorf("%w: Partitions is %d, and has to be from 1 to 4096", ErrOptions, o.Partitions)
	case o.Lease < 200*time.Millisecond || o.KeepDead < time.Second || o.MaxBytes < 0:
		return nil, fmt.Errorf("%w: Lease is %s and KeepDead %s, MaxBytes %d: at least 200ms, 1s and 0 have to be", ErrOptions, o.Lease, o.KeepDead, o.MaxBytes)
	}
	js, err := jetstream.New(o.Conn)
	if err != nil {
		return nil, fmt.Errorf("natsqueue: %w", err)
	}
	if o.Conn.Opts.MaxReconnect >= 0 {
		o.Logger.Warn("natsqueue: the connection gives up when its server is away for long: connect with nats.MaxReconnects(-1)")
	}
	stream, err := openStream(ctx, js, &o)
	if err != nil {
		return nil, err
	}
	return newQueue(o, js, stream), nil
}

func openStream(ctx context.Context, js jetstream.JetStream, o *Options) (jetstream.Stream, error) {
	stream, err := js.Stream(ctx, o.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = js.CreateStream(ctx, o.stream())
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another was quicker
			stream, err = js.Stream(ctx, o.Name)
		}
	}
	if err != nil {
		return nil, unavailable(o.Conn, fmt.Sprintf("the stream %s (%d replicas)", o.Name, max(1, o.Replicas)), err)
	}
	info := stream.CachedInfo()
	return stream, o.check(info.Config)
}

// stream is how a stream is made.
func (o *Options) stream() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: o.Name, Description: "callhook's deliveries", Subjects: []string{o.Name + ".>"},
		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, Storage: o.Storage, Replicas: max(1, o.Replicas),
		AllowDirect: true, AllowMsgTTL: true, AllowAtomicPublish: true,
		Metadata: map[string]string{metadataFormat: format, metadataParts: strconv.Itoa(cmp.Or(o.Partitions, defaultParts))},
	}
}

// check holds the stream that there is to the options, and takes from it what they
// leave open.
func (o *Options) check(have jetstream.StreamConfig) error {
	want := o.stream()
	if have.Metadata[metadataFormat] != format || have.Metadata[metadataParts] == "" {
		return fmt.Errorf("%w: %s has no metadata of format %s: choose another Name", ErrForeign, o.Name, format)
	}
	if !have.AllowAtomicPublish || !have.AllowMsgTTL {
		return fmt.Errorf("%w: %s allows no atomic batches or no TTLs: the server is version %s, and 2.12 is needed", ErrForeign, o.Name, o.Conn.ConnectedServerVersion())
	}
	if have.MaxMsgsPerSubject != 1 || have.MaxAge != 0 || have.MaxMsgs > 0 || have.Discard != want.Discard || have.Retention != want.Retention ||
		len(have.Subjects) != 1 || have.Subjects[0] != want.Subjects[0] || have.Sealed || have.DenyDelete {
		return fmt.Errorf("%w any more: %s was edited so that it would lose deliveries: it needs subjects %s, max-msgs-per-subject 1, no max-age, no max-msgs, discard new, retention limits, and that messages may be deleted",
			ErrForeign, o.Name, want.Subjects[0])
	}
	parts, err := strconv.Atoi(have.Metadata[metadataParts])
	if err != nil || parts < 1 {
		return fmt.Errorf("%w: %s has %q partitions", ErrForeign, o.Name, have.Metadata[metadataParts])
	}
	switch {
	case o.Partitions != 0 && o.Partitions != parts:
		return fmt.Errorf("%w: the stream %s has %d partitions and Partitions is %d: leave it zero, since the number cannot change", ErrOptions, o.Name, parts, o.Partitions)
	case o.Replicas != 0 && o.Replicas != have.Replicas:
		return fmt.Errorf("%w: the stream %s has %d replicas and Replicas is %d: leave it zero, or run `nats stream edit %s --replicas %d`", ErrOptions, o.Name, have.Replicas, o.Replicas, o.Name, o.Replicas)
	case o.Storage != have.Storage:
		return fmt.Errorf("%w: the stream %s is kept in %s and Storage says %s, which cannot change", ErrOptions, o.Name, have.Storage, o.Storage)
	case o.Conn.MaxPayload() < 32<<10:
		return fmt.Errorf("%w: the server's max_payload is %d bytes, and 32 KiB are needed", ErrOptions, o.Conn.MaxPayload())
	}
	o.Partitions, o.Replicas = parts, have.Replicas
	return nil
}
