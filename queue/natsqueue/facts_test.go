package natsqueue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What of JetStream the queue does without, and why.

// jetStream is a server on a folder, and a stream in it whose messages go when they are
// acknowledged.
type jetStream struct {
	t     *testing.T
	dir   string
	js    jetstream.JetStream
	work  jetstream.Stream
	close func()
}

func newJetStream(t *testing.T) *jetStream {
	n := &jetStream{t: t, dir: t.TempDir()}
	n.start()
	t.Cleanup(func() { n.close() })
	return n
}

func (n *jetStream) start() {
	n.t.Helper()
	srv, err := startServer(n.dir)
	if err != nil {
		n.t.Fatal(err)
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	if err != nil {
		n.t.Fatal(err)
	}
	n.close = func() { nc.Close(); srv.Shutdown(); srv.WaitForShutdown() }
	if n.js, err = jetstream.New(nc); err != nil {
		n.t.Fatal(err)
	}
	n.work, err = n.js.CreateOrUpdateStream(n.t.Context(), jetstream.StreamConfig{
		Name: "WORK", Subjects: []string{"w.>"}, Retention: jetstream.WorkQueuePolicy, Duplicates: time.Hour,
	})
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *jetStream) restart() {
	n.t.Helper()
	n.close()
	n.start()
}

func (n *jetStream) publish(subject, id string) *jetstream.PubAck {
	n.t.Helper()
	ack, err := n.js.Publish(n.t.Context(), subject, nil, jetstream.WithMsgID(id))
	if err != nil {
		n.t.Fatal(err)
	}
	return ack
}

func (n *jetStream) consumer(c jetstream.ConsumerConfig) jetstream.Consumer {
	n.t.Helper()
	c.Durable, c.AckPolicy = "all", jetstream.AckExplicitPolicy
	consumer, err := n.work.CreateOrUpdateConsumer(n.t.Context(), c)
	if err != nil {
		n.t.Fatal(err)
	}
	return consumer
}

// next returns nil when nothing comes for so long.
func next(t *testing.T, c jetstream.Consumer, wait time.Duration) jetstream.Msg {
	t.Helper()
	msg, err := c.Next(jetstream.FetchMaxWait(wait))
	if errors.Is(err, nats.ErrTimeout) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func do(t *testing.T, f func() error) {
	t.Helper()
	if err := f(); err != nil {
		t.Fatal(err)
	}
}

// The IDs that a stream remembers are those of messages that it still has, once its
// server was restarted: a work queue forgets all that are settled, whatever its
// duplicate window.
func TestMsgIdForgotten(t *testing.T) {
	t.Parallel()
	n := newJetStream(t)
	n.publish("w.a", "settled")
	msg := next(t, n.consumer(jetstream.ConsumerConfig{}), time.Second)
	do(t, func() error { return msg.DoubleAck(context.Background()) })
	if !n.publish("w.a", "settled").Duplicate {
		t.Error("before the restart the ID is not remembered")
	}
	n.restart()
	if n.publish("w.a", "settled").Duplicate {
		t.Error("the ID is remembered after the restart: it can be used, then")
	}
}

// A message that waits for its retry holds one of MaxAckPending, so that a lane
// that is down stops those that are not.
func TestNakHoldsUpOthers(t *testing.T) {
	t.Parallel()
	n := newJetStream(t)
	c := n.consumer(jetstream.ConsumerConfig{MaxAckPending: 10})
	for i := range 10 {
		n.publish("w.down", fmt.Sprint("down", i))
	}
	n.publish("w.healthy", "healthy")
	for range 10 {
		msg := next(t, c, time.Second)
		do(t, func() error { return msg.NakWithDelay(time.Hour) })
	}
	if msg := next(t, c, 200*time.Millisecond); msg != nil {
		t.Errorf("%s was handed out while as many as MaxAckPending wait", msg.Subject())
	}
}

// A message that is handed back comes after those that were enqueued later: a call's
// order is lost with its first retry.
func TestNakLosesOrder(t *testing.T) {
	t.Parallel()
	n := newJetStream(t)
	c := n.consumer(jetstream.ConsumerConfig{})
	n.publish("w.first", "a")
	n.publish("w.second", "b")
	first := next(t, c, time.Second)
	do(t, func() error { return first.NakWithDelay(50 * time.Millisecond) })
	if msg := next(t, c, time.Second); msg == nil || msg.Subject() != "w.second" {
		t.Errorf("%v came after the first was handed back, want the second", msg)
	}
}

// After a restart of the server what was in flight comes up to two seconds before its
// AckWait has passed, also when its handler lives, and so does what was handed back
// for later: a consumer's state keeps whole seconds. A RetryAt comes too early, then.
func TestNakComesEarly(t *testing.T) {
	t.Parallel()
	const ackWait, delay = 2 * time.Second, 3 * time.Second
	n := newJetStream(t)
	c := n.consumer(jetstream.ConsumerConfig{AckWait: ackWait})
	n.publish("w.delayed", "a")
	n.publish("w.inflight", "b")
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(1700 * time.Millisecond)))
	msg := next(t, c, time.Second)
	handed := time.Now()
	do(t, func() error { return msg.NakWithDelay(delay) })
	next(t, c, time.Second)
	time.Sleep(50 * time.Millisecond)
	n.restart()
	c = n.consumer(jetstream.ConsumerConfig{AckWait: ackWait})
	for _, want := range []struct {
		subject string
		due     time.Duration
	}{{"w.inflight", ackWait}, {"w.delayed", delay}} {
		msg := next(t, c, 2*delay)
		if msg == nil || msg.Subject() != want.subject {
			t.Fatalf("%v came, want %s", msg, want.subject)
		}
		came := time.Since(handed)
		t.Logf("%s came after %s, was due after %s", want.subject, came.Round(time.Millisecond), want.due)
		if came > want.due-300*time.Millisecond {
			t.Errorf("%s was not early: NakWithDelay can be used, then", want.subject)
		}
		do(t, msg.Ack)
	}
}

// A message can wait in the stream itself, for which no consumer holds anything, and
// survives a restart; but its time is one of whole seconds, so that it has to be
// rounded up.
func TestScheduled(t *testing.T) {
	t.Parallel()
	n := newJetStream(t)
	_, err := n.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "TIMES", Subjects: []string{"at.*", "due.*"}, AllowMsgSchedules: true, AllowMsgTTL: true, MaxMsgsPerSubject: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(1600 * time.Millisecond)))
	at := time.Now().Add(2 * time.Second)
	if _, err := n.js.Publish(t.Context(), "at.a", nil, jetstream.WithScheduleAt(at), jetstream.WithScheduleTarget("due.a")); err != nil {
		t.Fatal(err)
	}
	n.restart()
	c, err := n.js.OrderedConsumer(t.Context(), "TIMES", jetstream.OrderedConsumerConfig{FilterSubjects: []string{"due.*"}})
	if err != nil {
		t.Fatal(err)
	}
	if msg := next(t, c, 6*time.Second); msg == nil {
		t.Fatal("it did not come")
	}
	if late := time.Since(at); late > -300*time.Millisecond {
		t.Errorf("it came %s after its time, and not before: WithScheduleAt keeps fractions of a second, then", late)
	}
}
