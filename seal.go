package callhook

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// SealKey is a key with which deliveries are sealed before a queue has them.
type SealKey struct {
	// ID names the key, and is stored with what it has sealed: up to 64 letters,
	// digits, _, - and dots. Another key has another ID.
	ID string
	// Key is 32 random bytes.
	Key []byte
}

// SealKeyFunc returns the key with this ID for a tenant's deliveries, or with an empty
// ID the one to seal new ones with. It is called for each event and each attempt, by
// many goroutines at once, so it answers from memory and honours ctx. The error for a
// key that is not there wraps [ErrNoSecret].
//
// An old key is needed until nothing is left that it has sealed: deliveries are tried
// for three days and dead letters kept for thirty.
type SealKeyFunc func(ctx context.Context, tenant, id string) (SealKey, error)

// SealKeys returns a function that seals what is new with the first key, and knows the
// others: to rotate keys, put a new one in front. All tenants have the same.
func SealKeys(current SealKey, older ...SealKey) SealKeyFunc {
	all := append([]SealKey{current}, slices.Clone(older)...)
	seen := map[string]bool{}
	for _, k := range all {
		if id := k.ID; seen[id] {
			return func(context.Context, string, string) (SealKey, error) {
				return SealKey{}, fmt.Errorf("two keys have the ID %q", id)
			}
		}
		seen[k.ID] = true
	}
	return func(_ context.Context, _, id string) (SealKey, error) {
		for _, k := range all {
			if id == "" || k.ID == id {
				return k, nil
			}
		}
		return SealKey{}, fmt.Errorf("%w: the key %q is not among Options.SealKey's", ErrNoSecret, id)
	}
}

// Unseal makes a delivery that an [Inspector] returned readable, in place: its Body, Values,
// Record and the replies in its Log. It does nothing to one that is not sealed. The error
// is that of [Options].SealKey, or tells that it was changed since it was sealed.
func (h *Hooks) Unseal(ctx context.Context, d *Delivery) error {
	s, err := h.sealer(ctx, d)
	if err != nil || s == nil {
		return err
	}
	clear := *d
	if err := s.open(&clear); err != nil {
		return err
	}
	clear.Log = slices.Clone(d.Log)
	for i := range clear.Log {
		if clear.Log[i].Reply, err = s.openText(clear.Log[i].Reply); err != nil {
			return err
		}
	}
	clear.Sealed = ""
	*d = clear
	return nil
}

// sealer seals what belongs to one delivery: AES-256-GCM with a key of the delivery's
// own, which is derived from the given one (HKDF, RFC 5869), so that no key ever seals
// so much that its random nonces could repeat.
type sealer struct {
	id   string
	aead cipher.AEAD
}

var errSealBroken = errors.New("callhook: it cannot be unsealed: it was changed in the queue, or sealed with another key of the same name")

// sealer returns the sealer of a delivery that was sealed, nil for one that was not.
func (h *Hooks) sealer(ctx context.Context, d *Delivery) (*sealer, error) {
	switch {
	case d.Sealed == "":
		return nil, nil
	case h.sealKey == nil:
		return nil, fmt.Errorf("%w: it is sealed with the key %q, and Options.SealKey is nil", ErrNoSecret, d.Sealed)
	}
	return h.newSealer(ctx, d.Sealed, d)
}

// newSealer returns the sealer of d with the key id, or with an empty id the one for new
// deliveries.
func (h *Hooks) newSealer(ctx context.Context, id string, d *Delivery) (s *sealer, err error) {
	var k SealKey
	if panicked := h.survive(func() { k, err = h.sealKey(ctx, d.Tenant, id) }); panicked != nil {
		err = errors.New("it panicked")
	}
	switch {
	case err != nil:
	case id != "" && k.ID != id:
		err = fmt.Errorf("it was asked for the key %q and gave %q", id, k.ID)
	case k.ID == "" || len(k.ID) > 64 || strings.ContainsFunc(k.ID, func(r rune) bool { return !isPlain(string(r)) && !strings.ContainsRune("_-.", r) }):
		err = fmt.Errorf("%.80q cannot be the ID of a key: use up to 64 letters, digits, _, - and dots", k.ID)
	case len(k.Key) != 32:
		err = fmt.Errorf("the key %q has %d bytes: it must have 32", k.ID, len(k.Key))
	}
	if err != nil {
		return nil, fmt.Errorf("callhook: Options.SealKey: %w", err)
	}
	// The key opens nothing that was moved to another webhook, or made another event of.
	whose := hashed(d.ID, d.Tenant, d.Agent, d.Webhook, string(d.Type), string(d.Event), d.Call)
	own, err := hkdf.Key(sha256.New, k.Key, nil, "callhook delivery 1 "+string(whose[:]), 32)
	if err != nil {
		return nil, fmt.Errorf("callhook: Options.SealKey: %w", err)
	}
	block, err := aes.NewCipher(own)
	if err != nil {
		return nil, fmt.Errorf("callhook: Options.SealKey: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("callhook: Options.SealKey: %w", err)
	}
	return &sealer{k.ID, aead}, nil
}

// What was sealed says for what, so that nobody can put one in another's place.
var (
	sealedBody  = []byte("body 1")
	sealedReply = []byte("reply 1")
)

// seal seals new deliveries of one tenant. most bounds what each may then have; zero for
// no bound.
func (h *Hooks) seal(ctx context.Context, ds []*Delivery, most int) error {
	if h.sealKey == nil {
		return nil
	}
	for _, d := range ds {
		if d.BuildError != "" && len(d.Record) == 0 {
			continue // there is nothing to hide
		}
		s, err := h.newSealer(ctx, "", d)
		if err != nil {
			return err
		}
		if err := s.seal(d, most); err != nil {
			d.BuildError, d.Body, d.Values, d.Record = err.Error(), nil, nil, nil
		}
	}
	return nil
}

// seal puts the body, the values and the record of d into its body, sealed.
func (s *sealer) seal(d *Delivery, most int) error {
	values := []byte(nil)
	if len(d.Values) > 0 {
		var err error
		if values, err = json.Marshal(d.Values); err != nil {
			return err
		}
	}
	size := func() int {
		return len(values) + len(d.Record) + len(d.Body) + 2*binary.MaxVarintLen64 + s.aead.Overhead()
	}
	if most > 0 && size() > most {
		d.Record = nil
	}
	if most > 0 && size() > most {
		return fmt.Errorf("%w: sealed it has %d bytes, and the queue takes %d", ErrTooLarge, size(), most)
	}
	plain := make([]byte, 0, size())
	for _, part := range [][]byte{values, d.Record} {
		plain = append(binary.AppendUvarint(plain, uint64(len(part))), part...)
	}
	plain = append(plain, d.Body...)
	d.Body = s.aead.Seal(nil, nil, plain, sealedBody)
	d.Values, d.Record, d.Sealed = nil, nil, s.id
	return nil
}

// open undoes seal, but for the log.
func (s *sealer) open(d *Delivery) error {
	plain, err := s.aead.Open(nil, nil, d.Body, sealedBody)
	if err != nil {
		return errSealBroken
	}
	var parts [2][]byte
	for i := range parts {
		n, size := binary.Uvarint(plain)
		if size <= 0 || n > uint64(len(plain)-size) {
			return errSealBroken
		}
		parts[i], plain = plain[size:size+int(n)], plain[size+int(n):]
	}
	d.Values, d.Record, d.Body = nil, nil, plain
	if len(parts[1]) > 0 {
		d.Record = bytes.Clone(parts[1])
	}
	if len(parts[0]) > 0 && json.Unmarshal(parts[0], &d.Values) != nil {
		return errSealBroken
	}
	return nil
}

const sealedPrefix = "sealed:"

func (s *sealer) text(plain string) string {
	if s == nil || plain == "" {
		return plain
	}
	return sealedPrefix + base64.StdEncoding.EncodeToString(s.aead.Seal(nil, nil, []byte(plain), sealedReply))
}

func (s *sealer) openText(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	encoded, ok := strings.CutPrefix(text, sealedPrefix)
	if !ok {
		return "", errSealBroken
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", errSealBroken
	}
	plain, err := s.aead.Open(nil, nil, raw, sealedReply)
	if err != nil {
		return "", errSealBroken
	}
	return string(plain), nil
}

// letter is a delivery as it is sent: opened, if it was sealed.
type letter struct {
	*Delivery
	sealer *sealer // of its replies
}

// letter opens d without changing it: it is the queue's.
func (h *Hooks) letter(ctx context.Context, d *Delivery) (*letter, error) {
	s, err := h.sealer(ctx, d)
	if err != nil || s == nil {
		return &letter{d, nil}, err
	}
	clear := *d
	if err := s.open(&clear); err != nil {
		return &letter{d, s}, err
	}
	return &letter{&clear, s}, nil
}
