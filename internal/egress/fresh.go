package egress

// Fresh returns a Client that may reach the same and shares no connection with c, for an exchange whose timing is to show all
// that a first one costs.
func (c *Client) Fresh() *Client {
	fresh := New(Options{Dial: c.custom, Resolver: c.resolver, RootCAs: c.tls.RootCAs})
	fresh.guard = c.guard
	return fresh
}
