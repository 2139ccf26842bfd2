package egress

import (
	"context"
	"net"
)

// DialUnprepared dials as a Client with o does, without what it judges before DNS.
func DialUnprepared(ctx context.Context, o Options, addr string) (net.Conn, error) {
	return newGuard(o).dial(ctx, o.Resolver, "tcp", addr)
}

// Take returns how many bytes of a stream belong to its first answer, when it comes in
// pieces of this size.
func Take(stream []byte, size int) (n int) {
	var f framing
	for len(stream) > 0 {
		piece := stream[:min(size, len(stream))]
		took := f.take(piece)
		if n += took; took < len(piece) {
			return n
		}
		stream = stream[len(piece):]
	}
	return n
}
