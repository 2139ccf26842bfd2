package egress

import (
	"context"
	"net"
)

// DialUnprepared dials as a Client with o does, without what it judges before DNS.
func DialUnprepared(ctx context.Context, o Options, addr string) (net.Conn, error) {
	return newGuard(o).dial(ctx, o.Resolver, "tcp", addr)
}
