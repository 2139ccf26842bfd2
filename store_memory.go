package callhook

import (
	"bytes"
	"context"
	"strconv"
	"sync"
)

// NewMemoryStore returns a [ConfigStore] in memory, for tests: what it holds ends
// with it.
func NewMemoryStore() ConfigStore {
	return &memoryStore{docs: map[ConfigRef]memoryDoc{}}
}

type memoryStore struct {
	mu    sync.Mutex
	docs  map[ConfigRef]memoryDoc
	puts  int // so many there were
	bells bells
}

type memoryDoc struct {
	text    []byte
	version string
}

func (s *memoryStore) Get(ctx context.Context, ref ConfigRef) ([]byte, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.docs[ref]
	return bytes.Clone(d.text), d.version, ctx.Err()
}

func (s *memoryStore) Put(ctx context.Context, ref ConfigRef, doc []byte, version string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.docs[ref].version != version {
		return "", ErrConflict
	}
	s.puts++
	now := memoryDoc{text: bytes.Clone(doc), version: strconv.Itoa(s.puts)}
	if doc == nil {
		delete(s.docs, ref)
		now = memoryDoc{}
	} else {
		s.docs[ref] = now
	}
	if ref.Revision == Production {
		s.bells.ring(ref)
	}
	return now.version, nil
}

func (s *memoryStore) List(ctx context.Context) ([]ConfigRef, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var refs []ConfigRef
	for ref := range s.docs {
		_, published := s.docs[ref.production()]
		if ref.Revision == Production || ref.Revision == Draft && !published {
			refs = append(refs, ref.production())
		}
	}
	return refs, ctx.Err()
}

func (s *memoryStore) Revisions(ctx context.Context, ref ConfigRef) ([]int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var numbers []int
	for other := range s.docs {
		if other.Revision > 0 && other.production() == ref.production() {
			numbers = append(numbers, other.Revision)
		}
	}
	return numbers, ctx.Err()
}

func (s *memoryStore) Watch(ctx context.Context, changed func(ConfigRef)) error {
	b := s.bells.listen()
	defer s.bells.leave(b)
	changed(ConfigRef{})
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.rings:
			for _, ref := range b.heard() {
				changed(ref)
			}
		}
	}
}

// bells ring for those who watch a store in this process.
type bells struct {
	mu  sync.Mutex
	all map[*bell]bool
}

// bell holds the agents that have changed since it was heard last.
type bell struct {
	rings chan struct{}
	mu    sync.Mutex
	refs  []ConfigRef
}

func (s *bells) listen() *bell {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[*bell]bool{}
	}
	b := &bell{rings: make(chan struct{}, 1)}
	s.all[b] = true
	return b
}

func (s *bells) leave(b *bell) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, b)
}

// ring says that an agent's production has changed.
func (s *bells) ring(ref ConfigRef) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for b := range s.all {
		b.mu.Lock()
		b.refs = append(b.refs, ref.production())
		b.mu.Unlock()
		select {
		case b.rings <- struct{}{}:
		default: // it rings already
		}
	}
}

func (b *bell) heard() []ConfigRef {
	b.mu.Lock()
	defer b.mu.Unlock()
	refs := b.refs
	b.refs = nil
	return refs
}
