package natsqueue_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/callhook-go/callhook/queue/internal/crashtest"
	"github.com/callhook-go/callhook/queue/natsqueue"
)

const (
	// crashes is how often TestCrash kills a process, unless this says otherwise.
	crashes    = "CALLHOOK_CRASHES"
	crashLease = 2 * time.Second
)

// TestCrash: of three processes that raise and deliver events on one server, one is
// killed at a random moment and another started, again and again. Whatever any of
// them had accepted arrives, in the order of its call, and what arrives twice is what
// was being answered when its process was killed.
func TestCrash(t *testing.T) {
	rounds := 3
	if text := os.Getenv(crashes); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("%s: %v", crashes, err)
		}
		rounds = n
	}
	// It is the clients that die here: syncing each write would only slow the server down.
	srv, err := startServer(t.TempDir(), func(o *server.Options) { o.SyncAlways = false })
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Shutdown()
	ledger := crashtest.NewLedger(t)
	start := func(name string) *crashtest.Process {
		return crashtest.Start(t, ledger, "crasher", name, ledger.URL, srv.ClientURL())
	}
	nodes := []*crashtest.Process{start("first"), start("second"), start("third")}
	for _, p := range nodes {
		p.Line(t) // it is open
	}
	var kills []crashtest.Kill
	for round := range rounds {
		ledger.GoOn(t, "all lanes have something delivered", time.Now(), "")
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		victim := nodes[0]
		kills = append(kills, victim.Kill(t))
		took := ledger.GoOn(t, "all lanes go on after a kill", time.Now(), victim.Name)
		t.Logf("kill %d: with a lease of %s all lanes go on after %s", round+1, crashLease, took.Round(10*time.Millisecond))
		next := start(fmt.Sprint("round", round))
		nodes = append(nodes[1:], next)
		next.Line(t)
	}
	for _, p := range nodes { // so that none raises while another waits for what is pending
		p.Ask()
	}
	for _, p := range nodes {
		p.End(t)
	}
	ledger.Check(t, kills)
}

func init() {
	crashtest.Role("crasher", func(args []string) error {
		name, url, server := args[0], args[1], args[2]
		nc, err := nats.Connect(server, nats.MaxReconnects(-1))
		if err != nil {
			return err
		}
		defer nc.Close()
		q, err := natsqueue.Open(context.Background(), natsqueue.Options{Conn: nc, Lease: crashLease, Logger: logger()})
		if err != nil {
			return err
		}
		defer q.Close()
		o, err := crashtest.Options(url, name, q)
		if err != nil {
			return err
		}
		return crashtest.Work(o, name, 4, 40*time.Millisecond)
	})
}
