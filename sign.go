package callhook

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The headers of the Standard Webhooks specification 1.0.0. Every request
// carries the first two, and the third where the webhook has secrets.
const (
	HeaderID        = "webhook-id"
	HeaderTimestamp = "webhook-timestamp"
	HeaderSignature = "webhook-signature"
)

// Tolerance is how far a request's timestamp may be from the receiver's clock,
// in the past or the future, before [Verify] refuses it.
const Tolerance = 5 * time.Minute

// The errors of [Verify].
var (
	// ErrSignatureMissing: a header of the three is missing or malformed.
	ErrSignatureMissing = errors.New("callhook: the request is not signed: webhook-id, webhook-timestamp or webhook-signature is missing or malformed")
	// ErrSignatureMismatch: no signature fits the body and the keys.
	ErrSignatureMismatch = errors.New("callhook: no signature matches: the body was changed, or it was signed with another key")
	// ErrTimestampTooOld: the request was signed more than Tolerance ago.
	ErrTimestampTooOld = errors.New("callhook: the signature is too old: an old request was sent again, or the clock is wrong")
	// ErrTimestampTooNew: the request was signed more than Tolerance in the future.
	ErrTimestampTooNew = errors.New("callhook: the signature is from the future: a clock is wrong")
	// ErrBadKey: a key is not whsec_, whsk_ or whpk_ with base64 of the right length.
	ErrBadKey = errors.New("callhook: not a signing key")
)

// Verify returns nil when the request with these headers and exactly this body
// was signed with one of the keys, at most [Tolerance] ago. Use it in a receiver
// before the body is parsed.
//
// Keys are texts: "whsec_…" (HMAC-SHA256, as the sender has it), "whpk_…" (the
// public half of an Ed25519 key) or "whsk_…". Give two while a key is being
// replaced. Signatures are compared in constant time; signatures of versions
// that Verify does not know are passed over.
//
// Errors: [ErrSignatureMissing], [ErrSignatureMismatch], [ErrTimestampTooOld],
// [ErrTimestampTooNew], [ErrBadKey].
func Verify(header http.Header, body []byte, keys ...string) error {
	return verify(header, body, time.Now(), keys)
}

// strictBase64 reads a signature in one spelling only.
var strictBase64 = base64.StdEncoding.Strict()

// maxSignatures bounds the signatures of one request that are looked at.
const maxSignatures = 32

func verify(header http.Header, body []byte, now time.Time, keys []string) error {
	id, stamp := header.Get(HeaderID), header.Get(HeaderTimestamp)
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if id == "" || strings.Contains(id, ".") || err != nil || header.Get(HeaderSignature) == "" || seconds < 0 || seconds > 1<<40 {
		return ErrSignatureMissing
	}
	parsed := make([]*key, len(keys))
	for i, k := range keys {
		if parsed[i], err = parseKey(k); err != nil {
			return err
		}
	}
	matched := false
	signatures := strings.Fields(strings.Join(header.Values(HeaderSignature), " "))
	for _, s := range signatures[:min(len(signatures), maxSignatures)] {
		version, text, _ := strings.Cut(s, ",")
		given, err := strictBase64.DecodeString(text)
		if err != nil {
			continue
		}
		for _, k := range parsed {
			matched = k.matches(version, given, id, stamp, body) || matched
		}
	}
	switch age := now.Sub(time.Unix(seconds, 0)); {
	case !matched:
		return ErrSignatureMismatch
	case age > Tolerance:
		return ErrTimestampTooOld
	case age < -Tolerance:
		return ErrTimestampTooNew
	}
	return nil
}

// Sign sets the three headers for a body, as a sender does: for tests of
// receivers, and for programs that send webhooks by other means. An id must not
// be empty or have a dot in it; keys are "whsec_…" or "whsk_…".
func Sign(header http.Header, id string, at time.Time, body []byte, keys ...string) error {
	if id == "" || strings.Contains(id, ".") {
		return fmt.Errorf("callhook: %q cannot be a webhook-id: it must not be empty or have a dot in it", id)
	}
	parsed := make([]*key, len(keys))
	for i, text := range keys {
		k, err := parseKey(text)
		if err == nil && !k.canSign() {
			err = fmt.Errorf("%w: a public key (whpk_) cannot sign", ErrBadKey)
		}
		if err != nil {
			return err
		}
		parsed[i] = k
	}
	setSignature(header, id, at, body, parsed)
	return nil
}

// The canonical forms of the header names, as http.Header has them.
const (
	canonicalID        = "Webhook-Id"
	canonicalTimestamp = "Webhook-Timestamp"
	canonicalSignature = "Webhook-Signature"
	canonicalTest      = "Callhook-Test"
)

func setSignature(header http.Header, id string, at time.Time, body []byte, keys []*key) {
	stamp := strconv.FormatInt(at.Unix(), 10)
	values := []string{id, stamp, ""} // one allocation for the three
	header[canonicalID] = values[0:1:1]
	header[canonicalTimestamp] = values[1:2:2]
	if len(keys) == 0 {
		delete(header, canonicalSignature)
		return
	}
	var buf [256]byte
	b := buf[:0]
	for i, k := range keys {
		if i > 0 {
			b = append(b, ' ')
		}
		b = k.appendSignature(b, id, stamp, body)
	}
	values[2] = string(b)
	header[canonicalSignature] = values[2:3:3]
}

// key is a parsed signing key. It is safe for concurrent use.
type key struct {
	secret  []byte // HMAC-SHA256
	private ed25519.PrivateKey
	public  ed25519.PublicKey
	macs    sync.Pool // of *mac, keyed with secret: keying costs as much as signing a kilobyte
}

type mac struct {
	hash.Hash
	sum []byte
}

// parseKey reads whsec_, whsk_, whpk_ and base64; a text without a prefix is a
// symmetric key, as in the libraries of Standard Webhooks.
func parseKey(text string) (*key, error) {
	kind, encoded := "whsec_", text
	if i := strings.IndexByte(text, '_'); i >= 0 {
		kind, encoded = text[:i+1], text[i+1:]
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		raw, err = base64.RawStdEncoding.DecodeString(encoded)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: it must be whsec_, whsk_ or whpk_ followed by base64", ErrBadKey)
	}
	switch kind {
	case "whsec_":
		if len(raw) < 24 || len(raw) > 64 {
			return nil, fmt.Errorf("%w: whsec_ must be followed by 24 to 64 bytes in base64, not %d", ErrBadKey, len(raw))
		}
		return &key{secret: raw}, nil
	case "whsk_":
		switch len(raw) {
		case ed25519.SeedSize:
			raw = ed25519.NewKeyFromSeed(raw)
		case ed25519.PrivateKeySize:
			if !bytes.Equal(ed25519.NewKeyFromSeed(raw[:ed25519.SeedSize]), raw) {
				return nil, fmt.Errorf("%w: the two halves of whsk_ do not belong together", ErrBadKey)
			}
		default:
			return nil, fmt.Errorf("%w: whsk_ must be followed by 32 or 64 bytes in base64, not %d", ErrBadKey, len(raw))
		}
		private := ed25519.PrivateKey(raw)
		return &key{private: private, public: private.Public().(ed25519.PublicKey)}, nil
	case "whpk_":
		if len(raw) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("%w: whpk_ must be followed by 32 bytes in base64, not %d", ErrBadKey, len(raw))
		}
		return &key{public: raw}, nil
	}
	return nil, fmt.Errorf("%w: it must begin with whsec_, whsk_ or whpk_", ErrBadKey)
}

func (k *key) canSign() bool { return k.public == nil || k.private != nil }

// digest computes the HMAC over id.timestamp.body. The caller puts m back.
func (k *key) digest(id, stamp string, body []byte) *mac {
	m, ok := k.macs.Get().(*mac)
	if !ok {
		m = &mac{Hash: hmac.New(sha256.New, k.secret), sum: make([]byte, 0, 256)}
	}
	m.Reset()
	m.sum = append(append(append(append(m.sum[:0], id...), '.'), stamp...), '.')
	m.Write(m.sum)
	m.Write(body)
	m.sum = m.Sum(m.sum[:0])
	return m
}

func (k *key) appendSignature(dst []byte, id, stamp string, body []byte) []byte {
	if k.private != nil {
		return base64.StdEncoding.AppendEncode(append(dst, "v1a,"...), ed25519.Sign(k.private, signedContent(id, stamp, body)))
	}
	m := k.digest(id, stamp, body)
	dst = base64.StdEncoding.AppendEncode(append(dst, "v1,"...), m.sum)
	k.macs.Put(m)
	return dst
}

func (k *key) matches(version string, given []byte, id, stamp string, body []byte) bool {
	switch {
	case version == "v1" && k.secret != nil:
		m := k.digest(id, stamp, body)
		defer k.macs.Put(m)
		return hmac.Equal(given, m.sum)
	case version == "v1a" && k.public != nil:
		return len(given) == ed25519.SignatureSize && ed25519.Verify(k.public, signedContent(id, stamp, body), given)
	}
	return false
}

func signedContent(id, stamp string, body []byte) []byte {
	b := make([]byte, 0, len(id)+len(stamp)+len(body)+2)
	b = append(append(append(append(b, id...), '.'), stamp...), '.')
	return append(b, body...)
}
