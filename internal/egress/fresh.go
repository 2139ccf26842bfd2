package egress

import (
	"crypto/tls"
	"crypto/x509"
)

// Fresh returns a Client that may reach the same and shares no connection with c, for an exchange whose timing is to show all
// that a first one costs.
func (c *Client) Fresh() *Client {
	fresh := New(Options{Dial: c.custom, Resolver: c.resolver, RootCAs: c.tls.RootCAs})
	fresh.guard, fresh.tls = c.guard, c.tls
	return fresh
}

// As returns a Client that may reach the same and shares no connection with c. It shows endpoints that ask for one the
// certificate, and trusts none but roots, where they are not nil.
func (c *Client) As(cert *tls.Certificate, roots *x509.CertPool) *Client {
	other := c.Fresh()
	other.tls = c.tls.Clone()
	if cert != nil {
		other.tls.Certificates = []tls.Certificate{*cert}
	}
	if roots != nil {
		other.tls.RootCAs = roots
	}
	return other
}
