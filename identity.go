package callhook

import (
	"container/list"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"

	"github.com/callhook-go/callhook/internal/egress"
	"github.com/callhook-go/callhook/internal/template"
)

// ErrBadCertificate says that what a webhook's "tls" refers to is not a certificate, or
// not the key that belongs to it.
var ErrBadCertificate = errors.New("callhook: not a certificate and its key")

// identity is a compiled [TLS].
type identity struct {
	certificate, key, ca []template.Part
}

// identities keeps a client for each identity of each tenant, so that no connection is
// ever used under another name than the one it was made with.
type identities struct {
	mu      sync.Mutex
	clients map[identityKey]*list.Element
	used    list.List // the last first
}

type identityKey [sha256.Size]byte

type identityClient struct {
	key    identityKey
	client *egress.Client
}

// maxIdentities bounds the clients that are kept: each may keep connections.
const maxIdentities = 256

// client returns the client that sends as e's identity, and plain where it has none.
func (ids *identities) client(plain *egress.Client, e *endpoint, secrets map[string]string) (*egress.Client, error) {
	if e.identity == nil {
		return plain, nil
	}
	var pems [3]string
	for i, parts := range [...][]template.Part{e.identity.certificate, e.identity.key, e.identity.ca} {
		pems[i], _ = render(parts, nil, secrets)
	}
	key := identityKey(hashed(e.ref.Tenant, pems[0], pems[1], pems[2]))
	ids.mu.Lock()
	defer ids.mu.Unlock()
	if el := ids.clients[key]; el != nil {
		ids.used.MoveToFront(el)
		return el.Value.(*identityClient).client, nil
	}
	cert, roots, err := parseIdentity(pems[0], pems[1], pems[2])
	if err != nil {
		return nil, err
	}
	if ids.clients == nil {
		ids.clients = map[identityKey]*list.Element{}
	}
	c := &identityClient{key, plain.As(cert, roots)}
	ids.clients[key] = ids.used.PushFront(c)
	if ids.used.Len() > maxIdentities {
		last := ids.used.Remove(ids.used.Back()).(*identityClient)
		delete(ids.clients, last.key)
		last.client.CloseIdle()
	}
	return c.client, nil
}

// parseIdentity reads PEM. Neither result is there where its text is empty.
func parseIdentity(certificate, key, ca string) (*tls.Certificate, *x509.CertPool, error) {
	var cert *tls.Certificate
	var roots *x509.CertPool
	if certificate != "" || key != "" {
		pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
		if err != nil {
			return nil, nil, fmt.Errorf("%w: tls.certificate and tls.key: %w", ErrBadCertificate, err)
		}
		cert = &pair
	}
	if ca != "" {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(ca)) {
			return nil, nil, fmt.Errorf("%w: tls.ca has no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----", ErrBadCertificate)
		}
	}
	return cert, roots, nil
}

// closeIdle closes all connections that are not in use.
func (ids *identities) closeIdle() {
	ids.mu.Lock()
	defer ids.mu.Unlock()
	for el := ids.used.Front(); el != nil; el = el.Next() {
		el.Value.(*identityClient).client.CloseIdle()
	}
}
