package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"time"
)

// serve runs a NATS server until its input ends.
func (t *task) serve(k kind, say func(message)) error {
	srv, err := startNATS(t.Setup.Dir, k.synced, true)
	if err != nil {
		return err
	}
	say(message{Server: srv.ClientURL()})
	_, _ = io.Copy(io.Discard, os.Stdin)
	srv.Shutdown()
	srv.WaitForShutdown()
	return nil
}

// deliver opens a peer, delivers after a line of input, and ends with that.
func (t *task) deliver(k kind, say func(message)) error {
	opened := time.Now()
	p, err := k.open(t.Setup)
	if err != nil {
		return err
	}
	say(message{Opened: opened})
	input := bufio.NewReader(os.Stdin)
	if _, err := input.ReadString('\n'); err == nil {
		err := p.Start(context.Background())
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, input)
	}
	return p.Stop()
}
