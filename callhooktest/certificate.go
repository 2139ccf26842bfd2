package callhooktest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"
)

// RootCAs returns the authority that vouches for the certificates of all fake
// endpoints, for [callhook.Options].RootCAs.
func RootCAs() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(authority().cert)
	return pool
}

// AuthorityPEM returns the same authority as text, as a webhook's "tls" refers to one.
func AuthorityPEM() string { return certPEM(authority().cert.Raw) }

// ClientCertificate returns a certificate and its key for a client of this name, as a
// webhook's "tls" refers to them. See [Endpoint].ClientCerts.
func ClientCertificate(name string) (cert, key string) {
	c := authority().issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: longAgo, NotAfter: farAhead,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		panic(err) // of a key that was just made
	}
	return certPEM(c.Certificate[0]), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// Certificates are valid on every clock that a test may have: a bubble's begins in
// the year 2000.
var (
	longAgo  = time.Date(1990, time.January, 1, 0, 0, 0, 0, time.UTC)
	farAhead = time.Date(2120, time.January, 1, 0, 0, 0, 0, time.UTC)
)

// issuer signs certificates.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// authority is the one of all endpoints of the process.
var authority = sync.OnceValue(newIssuer)

func newIssuer() *issuer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // the system has no randomness
	}
	cert := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "callhooktest"}, NotBefore: longAgo, NotAfter: farAhead,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err == nil {
		cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		panic(fmt.Sprintf("callhooktest: an authority for tests cannot be made: %v", err))
	}
	return &issuer{cert, key}
}

// issue returns a certificate like c with a key of its own.
func (ca *issuer) issue(c *x509.Certificate) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	c.SerialNumber, c.KeyUsage = serial(), x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, c, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		panic(fmt.Sprintf("callhooktest: a certificate cannot be made: %v", err))
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err)
	}
	return n
}

func certPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// tls returns the configuration of one handshake, with a certificate that has the
// given fault or none.
func (e *Endpoint) tls(f Fault) *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if e.HTTP2 || f.speaksHTTP2() {
		cfg.NextProtos = []string{"h2", "http/1.1"}
	}
	if e.ClientCerts {
		cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, RootCAs()
	}
	cfg.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		c := &x509.Certificate{NotBefore: longAgo, NotAfter: farAhead, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
		ca := authority()
		switch f {
		case FaultExpiredCertificate:
			c.NotAfter = longAgo.AddDate(1, 0, 0)
		case FaultUnknownAuthority:
			ca = newIssuer()
		}
		host := hello.ServerName
		if f == FaultWrongHost {
			host = "somebody-else.example"
		}
		if host == "" { // an address
			host, _, _ = net.SplitHostPort(hello.Conn.LocalAddr().String())
		}
		if ip := net.ParseIP(host); ip != nil {
			c.IPAddresses = []net.IP{ip}
		} else {
			c.DNSNames = []string{host}
		}
		cert := ca.issue(c)
		return &cert, nil
	}
	return cfg
}
