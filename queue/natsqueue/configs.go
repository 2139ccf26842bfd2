package natsqueue

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/callhook-go/callhook"
)

// ConfigOptions are the options of [OpenConfigs]. All but Conn may be zero, which is
// the default.
type ConfigOptions struct {
	// Conn is the connection to the server or cluster. Whoever opened it closes it.
	Conn *nats.Conn
	// Bucket is the name of the key-value bucket: letters, digits, - and _. Empty
	// means CALLHOOK_CONFIGS.
	Bucket string
	// Replicas is how many servers keep a bucket that is made: 1, 3 or 5. Zero means 1.
	Replicas int
	// Storage is where they keep one that is made: the zero value is files.
	Storage jetstream.StorageType
}

// OpenConfigs opens a store of configs in a JetStream key-value bucket, and makes that
// if there is none. What is published reaches every process that has a connection
// within milliseconds. A key is production.TENANT.AGENT, draft.TENANT.AGENT or
// revision.TENANT.AGENT.NUMBER, where what cannot stand in a key is = and two
// hexadecimal digits, and no tenant is a = alone. A document over 32 KiB is kept as
// gzip, and the result has to fit into the server's max_payload.
//
// The error that can be told apart is [ErrNoJetStream]. Nothing has to be closed.
func OpenConfigs(ctx context.Context, o ConfigOptions) (*callhook.Configs, error) {
	o.Bucket = cmp.Or(o.Bucket, "CALLHOOK_CONFIGS")
	switch {
	case o.Conn == nil:
		return nil, fmt.Errorf("%w: Conn is nil: pass a *nats.Conn", ErrOptions)
	case !validName.MatchString(o.Bucket):
		return nil, fmt.Errorf("%w: %q cannot be the name of a Bucket: use up to 64 letters, digits, - and _", ErrOptions, o.Bucket)
	}
	js, err := jetstream.New(o.Conn)
	if err != nil {
		return nil, fmt.Errorf("natsqueue: %w", err)
	}
	kv, err := js.KeyValue(ctx, o.Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: o.Bucket, Description: "callhook's configs", History: 1, Replicas: max(1, o.Replicas), Storage: o.Storage,
		})
		if errors.Is(err, jetstream.ErrBucketExists) { // another was quicker
			kv, err = js.KeyValue(ctx, o.Bucket)
		}
	}
	if err != nil {
		return nil, unavailable(o.Conn, "the bucket "+o.Bucket, err)
	}
	return &callhook.Configs{Store: &store{conn: o.Conn, kv: kv, bucket: o.Bucket, newest: map[string]uint64{}}}, nil
}

// unavailable says why a stream or a bucket cannot be opened.
func unavailable(conn *nats.Conn, what string, err error) error {
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("%w for this account on %s: %w", ErrNoJetStream, conn.ConnectedUrlRedacted(), err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w on %s: start the server with -js, or give it a jetstream block: %w", ErrNoJetStream, conn.ConnectedUrlRedacted(), err)
	}
	return fmt.Errorf("natsqueue: opening %s: %w", what, err)
}

// store is a callhook.ConfigStore.
type store struct {
	conn   *nats.Conn
	kv     jetstream.KeyValue
	bucket string

	mu     sync.Mutex
	newest map[string]uint64 // versions that are known: a server that is behind shows older ones
}

const (
	keyProduction = "production"
	keyDraft      = "draft"
	keyRevision   = "revision"
)

func key(ref callhook.ConfigRef) string {
	agent := escape(ref.Tenant) + "." + escape(ref.Agent)
	switch {
	case ref.Revision == callhook.Production:
		return keyProduction + "." + agent
	case ref.Revision < 0:
		return keyDraft + "." + agent
	}
	return keyRevision + "." + agent + "." + strconv.Itoa(ref.Revision)
}

// refOf undoes key.
func refOf(key string) (ref callhook.ConfigRef, ok bool) {
	parts := strings.Split(key, ".")
	if len(parts) < 3 {
		return ref, false
	}
	var ok1, ok2 bool
	ref.Tenant, ok1 = unescape(parts[1])
	ref.Agent, ok2 = unescape(parts[2])
	switch parts[0] {
	case keyProduction:
		ref.Revision = callhook.Production
	case keyDraft:
		ref.Revision = callhook.Draft
	default:
		if len(parts) < 4 {
			return ref, false
		}
		n, err := strconv.Atoi(parts[3])
		if ref.Revision = n; err != nil {
			return ref, false
		}
	}
	return ref, ok1 && ok2
}

func escape(s string) string {
	if s == "" {
		return "="
	}
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}

func unescape(s string) (string, bool) {
	if s == "=" {
		return "", true
	}
	var b strings.Builder
	for {
		plain, rest, more := strings.Cut(s, "=")
		b.WriteString(plain)
		if !more {
			return b.String(), true
		}
		if len(rest) < 2 {
			return "", false
		}
		c, err := hex.DecodeString(rest[:2])
		if err != nil {
			return "", false
		}
		b.Write(c)
		s = rest[2:]
	}
}

// know notes a version.
func (s *store) know(key string, version uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest[key] = max(s.newest[key], version)
}

func (s *store) known(key string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newest[key]
}

// Get implements callhook.ConfigStore.
func (s *store) Get(ctx context.Context, ref callhook.ConfigRef) ([]byte, string, error) {
	k := key(ref)
	for wait := time.Millisecond; ; wait *= 2 {
		newest := s.known(k)
		entry, err := s.kv.Get(ctx, k)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound): // ErrKeyDeleted is one
			// A deleted one has a version too, and whoever asks for a key that is not there is
			// asked again only if it is known to have been.
			if newest == 0 || s.deleted(ctx, k, newest) || wait > time.Second {
				return nil, "", ctx.Err()
			}
		case err != nil:
			return nil, "", s.failed("reading", k, err)
		case entry.Revision() >= newest || wait > time.Second:
			doc, err := unpack(entry.Value())
			if err != nil {
				return nil, "", s.failed("reading", k, err)
			}
			return doc, strconv.FormatUint(entry.Revision(), 10), nil
		}
		select {
		case <-ctx.Done():
			return nil, "", ctx.Err()
		case <-time.After(wait):
		}
	}
}

// deleted reports whether a key has no document since a version.
func (s *store) deleted(ctx context.Context, k string, since uint64) bool {
	history, err := s.kv.History(ctx, k, jetstream.MetaOnly())
	if err != nil {
		return errors.Is(err, jetstream.ErrKeyNotFound)
	}
	last := history[len(history)-1]
	return last.Revision() >= since && last.Operation() != jetstream.KeyValuePut
}

// Put implements callhook.ConfigStore.
func (s *store) Put(ctx context.Context, ref callhook.ConfigRef, doc []byte, version string) (string, error) {
	k := key(ref)
	if err := ctx.Err(); err != nil {
		return "", err
	}
	var on uint64
	if version != "" {
		var err error
		if on, err = strconv.ParseUint(version, 10, 64); err != nil || on == 0 {
			return "", fmt.Errorf("natsqueue: %w: %q is no version of %s", callhook.ErrConflict, version, k)
		}
	}
	if doc == nil {
		return "", s.remove(ctx, k, on)
	}
	value, err := pack(doc)
	if err != nil {
		return "", s.failed("writing", k, err)
	}
	var now uint64
	if on == 0 {
		now, err = s.kv.Create(ctx, k, value)
	} else {
		now, err = s.kv.Update(ctx, k, value, on)
	}
	if err != nil {
		return "", s.refused(ctx, k, err)
	}
	s.know(k, now)
	return strconv.FormatUint(now, 10), nil
}

func (s *store) remove(ctx context.Context, k string, on uint64) error {
	if on == 0 { // there is nothing, if the caller is right
		_, err := s.kv.Get(ctx, k)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
			return nil
		case err != nil:
			return s.failed("removing", k, err)
		}
		return fmt.Errorf("natsqueue: %w: there is a document in %s", callhook.ErrConflict, k)
	}
	if err := s.kv.Delete(ctx, k, jetstream.LastRevision(on)); err != nil {
		return s.refused(ctx, k, err)
	}
	s.know(k, on+1) // at least
	return nil
}

// refused says why a write was, which is a conflict, or another error.
func (s *store) refused(ctx context.Context, k string, err error) error {
	if isConflict(err) || isBusy(err) || errors.Is(err, jetstream.ErrKeyExists) {
		return fmt.Errorf("natsqueue: %w: %s", callhook.ErrConflict, k)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return s.failed("writing", k, err)
}

func (s *store) failed(what, k string, err error) error {
	if errors.Is(err, nats.ErrMaxPayload) {
		err = fmt.Errorf("it is larger than the server's max_payload of %d bytes: %w", s.conn.MaxPayload(), err)
	}
	return fmt.Errorf("natsqueue: %s %s in the bucket %s: %w", what, k, s.bucket, err)
}

// List implements callhook.ConfigStore.
func (s *store) List(ctx context.Context) ([]callhook.ConfigRef, error) {
	var refs []callhook.ConfigRef
	seen := map[callhook.ConfigRef]bool{}
	err := s.keys(ctx, func(ref callhook.ConfigRef) {
		if ref.Revision = callhook.Production; !seen[ref] {
			seen[ref] = true
			refs = append(refs, ref)
		}
	}, keyProduction+".>", keyDraft+".>")
	return refs, err
}

// Revisions implements callhook.ConfigStore.
func (s *store) Revisions(ctx context.Context, ref callhook.ConfigRef) ([]int, error) {
	var numbers []int
	err := s.keys(ctx, func(ref callhook.ConfigRef) { numbers = append(numbers, ref.Revision) },
		keyRevision+"."+escape(ref.Tenant)+"."+escape(ref.Agent)+".*")
	slices.Sort(numbers)
	return numbers, err
}

func (s *store) keys(ctx context.Context, see func(callhook.ConfigRef), filters ...string) error {
	watcher, err := s.kv.WatchFiltered(ctx, filters, jetstream.IgnoreDeletes(), jetstream.MetaOnly())
	if err != nil {
		return s.failed("listing", strings.Join(filters, ", "), err)
	}
	defer watcher.Stop()
	timeout := time.NewTimer(ioTimeout)
	defer timeout.Stop()
	for {
		select {
		case entry, ok := <-watcher.Updates():
			if !ok {
				return s.failed("listing", strings.Join(filters, ", "), errEnded)
			}
			if entry == nil { // these were all
				return nil
			}
			if ref, ok := refOf(entry.Key()); ok {
				see(ref)
			}
			timeout.Reset(ioTimeout)
		case <-timeout.C:
			return s.failed("listing", strings.Join(filters, ", "), nats.ErrTimeout)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var errEnded = errors.New("the server does not go on")

// Watch implements callhook.ConfigStore. It begins anew when the connection comes back.
func (s *store) Watch(ctx context.Context, changed func(callhook.ConfigRef)) error {
	back := s.conn.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer s.conn.RemoveStatusListener(back)
	for {
		watcher, err := s.kv.Watch(ctx, keyProduction+".>", jetstream.UpdatesOnly(), jetstream.MetaOnly())
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return s.failed("watching", keyProduction, err)
		}
		changed(callhook.ConfigRef{})
		again, err := s.watch(ctx, watcher, back, changed)
		_ = watcher.Stop()
		if !again || ctx.Err() != nil {
			return err
		}
	}
}

func (s *store) watch(ctx context.Context, watcher jetstream.KeyWatcher, back <-chan nats.Status, changed func(callhook.ConfigRef)) (again bool, err error) {
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case status := <-back:
			if status == nats.CLOSED {
				return false, s.failed("watching", keyProduction, nats.ErrConnectionClosed)
			}
			return true, nil
		case entry, ok := <-watcher.Updates():
			if !ok {
				if ctx.Err() != nil {
					return false, nil
				}
				return false, s.failed("watching", keyProduction, errEnded)
			}
			if entry == nil {
				continue
			}
			s.know(entry.Key(), entry.Revision())
			if ref, ok := refOf(entry.Key()); ok {
				changed(ref)
			}
		}
	}
}

const packFrom = 32 << 10

var gzipMagic = []byte{0x1f, 0x8b}

// pack returns a document as it is stored.
func pack(doc []byte) ([]byte, error) {
	if len(doc) <= packFrom && !bytes.HasPrefix(doc, gzipMagic) {
		return doc, nil
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(doc); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func unpack(value []byte) ([]byte, error) {
	if !bytes.HasPrefix(value, gzipMagic) {
		return append([]byte{}, value...), nil
	}
	r, err := gzip.NewReader(bytes.NewReader(value))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
