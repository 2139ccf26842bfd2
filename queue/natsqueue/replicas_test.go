package natsqueue_test

import (
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/natsqueue"
)

// cluster is three servers that know each other, as one would run them.
type cluster struct {
	t     *testing.T
	dirs  [3]string
	ports [3]int // for clients
	links [3]int // for each other
	srvs  [3]*server.Server
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t}
	for i := range c.srvs { // a server has to be told where the others are before they are there
		c.dirs[i], c.ports[i], c.links[i] = t.TempDir(), server.RANDOM_PORT, freePort(t)
	}
	for i := range c.srvs {
		c.start(i)
	}
	t.Cleanup(func() {
		for i := range c.srvs {
			c.stop(i)
		}
	})
	until(t, "the servers have a leader", func() bool {
		for _, srv := range c.srvs {
			if srv.JetStreamIsLeader() {
				return true
			}
		}
		return false
	})
	return c
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (c *cluster) start(i int) {
	c.t.Helper()
	until(c.t, "a server starts", func() bool { // its port may be taken for a moment
		srv, err := startServer(c.dirs[i], func(o *server.Options) {
			o.ServerName, o.Port = fmt.Sprint("n", i), c.ports[i]
			o.Cluster = server.ClusterOpts{Name: "callhook", Host: "127.0.0.1", Port: c.links[i]}
			for j, port := range c.links {
				if j != i {
					o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: fmt.Sprint("127.0.0.1:", port)})
				}
			}
		})
		if err != nil {
			return false
		}
		c.srvs[i], c.ports[i] = srv, srv.Addr().(*net.TCPAddr).Port
		return true
	})
}

func (c *cluster) stop(i int) {
	c.srvs[i].Shutdown()
	c.srvs[i].WaitForShutdown()
}

func (c *cluster) urls() string {
	var all []string
	for _, srv := range c.srvs {
		all = append(all, srv.ClientURL())
	}
	return strings.Join(all, ",")
}

// TestReplicas: of three servers that keep the stream each goes away once, one after
// the other, while events are raised and delivered. Nothing that was accepted is lost.
func TestReplicas(t *testing.T) {
	t.Parallel()
	servers := newCluster(t)
	o := natsqueue.Options{Replicas: 3, Lease: 2 * time.Second, Logger: logger()}
	join := func() *natsqueue.Queue {
		o.Conn = connect(t, servers.urls())
		t.Cleanup(o.Conn.Close)
		var q *natsqueue.Queue
		until(t, "the queue opens", func() bool {
			var err error
			q, err = natsqueue.Open(t.Context(), o)
			return err == nil
		})
		t.Cleanup(func() { q.Close() })
		return q
	}
	raiser, worker := join(), join()
	var delivered atomic.Int64
	c := consume(t, worker, func(*callhook.Delivery) callhook.Verdict {
		return callhook.Delivered().Then(func() { delivered.Add(1) })
	})
	raised := 0
	raise := func(n int) {
		for range n {
			d := delivery(fmt.Sprint("hook", raised%5), fmt.Sprint("d", raised))
			until(t, "an event is accepted", func() bool { return raiser.Enqueue(t.Context(), d) == nil }) // the same again, as callers are to
			raised++
		}
	}
	for i := range servers.srvs {
		raise(50)
		servers.stop(i)
		raise(50)
		servers.start(i)
		until(t, "the server has caught up", func() bool {
			return servers.srvs[i].JetStreamIsStreamCurrent(server.DEFAULT_GLOBAL_ACCOUNT, "CALLHOOK")
		})
	}
	until(t, "all are delivered", func() bool { return delivered.Load() == int64(raised) })
	c.stop()
	want := callhook.Counts{Accepted: int64(raised), Delivered: int64(raised)}
	if got, err := worker.Counts(t.Context()); got != want || err != nil {
		t.Errorf("Counts returned %+v, %v, want %+v", got, err, want)
	}
	for i := range raised {
		if n := c.times(fmt.Sprint("d", i)); n != 1 {
			t.Errorf("d%d was handed out %d times: a server that restarts repeats nothing", i, n)
		}
	}
}
