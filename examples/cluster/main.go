// Cluster is callhook on more than one machine, and what happens to it there: voice
// nodes that take calls, workers that deliver, and between them a queue that all share,
// NATS JetStream or Postgres. Each is a process of its own. They are killed, the engine
// is too, and then all are replaced as a deployment does, while calls go on. At the end
// stands a ledger of what was promised and what came.
//
//	go run ./examples/cluster
//	go run ./examples/cluster -engine postgres
//
// voice.go and worker.go are what a runtime takes over. This process is the customer
// and the carrier, the one that causes the trouble, and the one that keeps the ledger.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/callhook-go/callhook"
)

func main() {
	if name := os.Getenv(nodeVar); name != "" { // started by this program
		if err := runNode(name); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			os.Exit(1)
		}
		return
	}
	var o settings
	flag.StringVar(&o.engine, "engine", "nats", "what the nodes share: nats or postgres")
	flag.IntVar(&o.calls, "calls", 1000, "how many calls are made")
	flag.BoolVar(&o.verbose, "v", false, "list what came twice, and show what the nodes log")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if _, err := run(ctx, os.Stdout, o); err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		os.Exit(1)
	}
}

type settings struct {
	engine  string
	calls   int
	verbose bool
}

// nodes is how many there are of each kind, and agents how many have calls: the
// webhooks of an agent are worked by one worker at a time, so that it takes several for
// all to have something to do.
const (
	nodes  = 3
	agents = 8
)

func run(ctx context.Context, out io.Writer, o settings) (b balance, err error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	s := &story{settings: o, out: out, began: time.Now(), ledger: newLedger(), fail: fail}
	defer func() { // in this order: who calls, who works, and then the engine with its storage
		fail(nil)
		s.calling.Wait()
		err = errors.Join(err, s.end())
	}()
	if err := s.begin(ctx); err != nil {
		return b, err
	}
	if err := s.tell(ctx); err != nil {
		return b, err
	}
	if b, err = s.settle(ctx); err != nil {
		return b, err
	}
	b.print(out)
	if o.verbose {
		for _, r := range b.remarks {
			fmt.Fprintln(out, "   ", r)
		}
	}
	if err := b.err(); err != nil {
		return b, err
	}
	fmt.Fprintf(out, "\nok: nothing lost, nothing out of order, in %s\n", time.Since(s.began).Round(100*time.Millisecond))
	return b, nil
}

// story is a run of the program.
type story struct {
	settings
	out      io.Writer
	began    time.Time
	ledger   *ledger
	fail     context.CancelCauseFunc
	customer *customer
	carrier  *carrier
	calling  sync.WaitGroup

	dir, url   string // of the engine
	processes  *processes
	engineNode *process
	server     string // what the engine said of its server
	shared     *shared
	nodes      map[string]map[string]*process // by kind and name
	last       map[string]int                 // number of the last one, by kind
}

// begin starts the customer's systems, the engine and the nodes.
func (s *story) begin(ctx context.Context) (err error) {
	if s.calls < 1 {
		return fmt.Errorf("-calls %d: at least one", s.calls)
	}
	scheme := map[string]string{"nats": "nats://127.0.0.1:%d", "postgres": "postgres://callhook@127.0.0.1:%d/postgres?sslmode=disable"}[s.engine]
	if scheme == "" {
		return fmt.Errorf("-engine %s: it is nats or postgres", s.engine)
	}
	if s.engine == "postgres" {
		if _, err := postgresBinaries(); err != nil {
			return err
		}
	}
	if s.customer, err = newCustomer(s.ledger); err != nil {
		return err
	}
	root, err := os.MkdirTemp("", "callhook-cluster-")
	if err != nil {
		return err
	}
	s.dir = root
	port, err := freePort() // the same after a restart
	if err != nil {
		return err
	}
	s.url = fmt.Sprintf(scheme, port)
	s.carrier = &carrier{calls: s.calls, nodes: map[string]string{}, under: map[string]int{}}
	s.nodes, s.last = map[string]map[string]*process{"voice": {}, "worker": {}}, map[string]int{}
	s.processes = &processes{heard: s.ledger.heard, failed: s.fail, all: map[*process]bool{},
		env: []string{queueVar + "=" + s.url, dirVar + "=" + s.dir, keyVar + "=" + key}}
	if s.verbose {
		s.processes.env = append(s.processes.env, logVar+"=1")
	}
	if s.engineNode, s.server, err = s.processes.start(ctx, "engine"); err != nil {
		return err
	}
	s.say("engine", "%s is up, with its storage in %s", s.engine, filepath.Base(s.dir))

	if s.shared, err = connect(ctx, s.url, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	if err := s.publish(ctx, "billing-as-it-was"); err != nil {
		return err
	}
	s.say("configs", "of %d agents are published; all nodes get them from the engine", agents)
	for range nodes {
		for _, kind := range []string{"voice", "worker"} {
			if _, err := s.add(ctx, kind); err != nil {
				return err
			}
		}
	}
	s.say("nodes", "%d voice nodes and %d workers are ready", nodes, nodes)
	s.say("billing", "answers 503: the config has its old URL")
	s.calling.Go(func() { s.carrier.run(ctx) })
	return nil
}

// tell has the calls made, and at points of their progress the trouble.
func (s *story) tell(ctx context.Context) error {
	trouble := []func(context.Context) error{s.killWorker, s.mendBilling, s.killVoice, s.killEngine}
	for _, kind := range []string{"voice", "worker"} {
		for range nodes {
			trouble = append(trouble, func(ctx context.Context) error { return s.restart(ctx, kind) })
		}
	}
	for i, f := range trouble {
		point := s.calls * (i + 1) / (len(trouble) + 1)
		s.carrier.allow(point + 2*lines) // callers go on meanwhile, but the last of them call after the last trouble
		if err := s.until(ctx, "the calls go on", func() bool { return s.carrier.over() >= point }); err != nil {
			return err
		}
		if err := f(ctx); err != nil {
			return err
		}
	}
	s.carrier.allow(s.calls)
	return s.until(ctx, "all calls are over", func() bool { return s.carrier.over() == s.calls })
}

// killWorker kills the worker that has the most requests under way. Its webhooks rest
// until the others notice, which is a lease at most, and go on with them.
func (s *story) killWorker(ctx context.Context) error {
	name, n := "", 0
	if err := s.until(ctx, "a worker sends something", func() bool {
		name, n = s.ledger.busiest(s.nodes["worker"])
		return n > 0
	}); err != nil {
		return err
	}
	from := time.Now()
	s.nodes["worker"][name].kill()
	s.ledger.killed(kill{name, from, time.Now()})
	delete(s.nodes["worker"], name)
	heir, err := s.add(ctx, "worker")
	s.say("kill -9", "%s, which had %d requests under way; %s takes its place", name, n, heir)
	return err
}

// mendBilling publishes the config with the right URL: what waits goes there at once,
// whichever worker has it.
func (s *story) mendBilling(ctx context.Context) error {
	waiting, err := s.shared.queue.List(ctx, callhook.Filter{Webhook: "billing", Limit: 10000})
	if err != nil {
		return err
	}
	if err := s.publish(ctx, "billing"); err != nil {
		return err
	}
	s.say("configs", "with billing's new URL are published; %d deliveries waited for it", pending(waiting))
	return nil
}

func pending(ds []*callhook.Delivery) (n int) {
	for _, d := range ds {
		if d.State != callhook.StateDelivered && d.State != callhook.StateDead {
			n++
		}
	}
	return n
}

// killVoice kills the voice node that has the most calls. They end, and what was stored
// of them is delivered.
func (s *story) killVoice(ctx context.Context) error {
	name, n := "", 0
	if err := s.until(ctx, "a voice node has a call", func() bool {
		name, n = s.carrier.busiest()
		return n > 0
	}); err != nil {
		return err
	}
	s.nodes["voice"][name].kill()
	s.carrier.out(name)
	delete(s.nodes["voice"], name)
	heir, err := s.add(ctx, "voice")
	s.say("kill -9", "%s, which had %d calls; %s takes its place", name, n, heir)
	return err
}

// killEngine kills the engine, and starts it again on its storage. Callers do not
// notice; events are stored once it is back, and so are verdicts.
func (s *story) killEngine(ctx context.Context) error {
	if err := s.until(ctx, "a worker sends something", func() bool { return s.ledger.underWay() > 0 }); err != nil {
		return err
	}
	calls := s.carrier.over()
	from := time.Now()
	if err := s.engineNode.killServer(s.server); err != nil {
		return err
	}
	s.say("kill -9", "the engine, with %d requests of workers under way", s.ledger.underWay())
	if err := s.until(ctx, "calls go on without the engine", func() bool { return s.carrier.over() >= calls+lines }); err != nil {
		return err
	}
	var err error
	if s.engineNode, s.server, err = s.processes.start(ctx, "engine"); err != nil {
		return err
	}
	back := time.Now()
	// Workers that cannot reach it hand out nothing once their lease is over.
	s.ledger.killed(kill{"", from, later(back, from.Add(lease))})
	s.say("engine", "is back on its storage after %s; %d calls ended meanwhile", back.Sub(from).Round(100*time.Millisecond), s.carrier.over()-calls)
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// restart replaces the oldest node of a kind as a deployment does: no new calls go to
// it, SIGTERM, it finishes what it has, and the new one starts when it has ended.
func (s *story) restart(ctx context.Context, kind string) error {
	name := ""
	for n := 1; name == ""; n++ {
		if id := fmt.Sprint(kind, "-", n); s.nodes[kind][id] != nil {
			name = id
		}
	}
	s.carrier.out(name)
	from := time.Now()
	if err := s.nodes[kind][name].terminate(ctx); err != nil {
		return err
	}
	took := time.Since(from)
	delete(s.nodes[kind], name)
	heir, err := s.add(ctx, kind)
	s.say("SIGTERM", "%s, which ended in order after %s; %s takes its place", name, took.Round(10*time.Millisecond), heir)
	return err
}

// settle has the voice nodes store what they have, waits until all is delivered, ends
// the workers, and adds up.
func (s *story) settle(ctx context.Context) (b balance, err error) {
	s.calling.Wait()
	for _, p := range s.nodes["voice"] {
		if err := p.terminate(ctx); err != nil {
			return b, err
		}
	}
	s.say("calls", "are over; what is pending is delivered")
	var counts callhook.Counts
	quiet := time.Now()
	for { // no end as long as something comes
		if counts, err = s.shared.queue.Counts(ctx); err != nil && ctx.Err() != nil {
			return b, context.Cause(ctx)
		}
		if err == nil && counts.Pending == 0 {
			break
		}
		if time.Since(later(quiet, s.ledger.lastArrival())) > 45*time.Second {
			s.say("failed", "nothing came for 45 s, and %d deliveries are pending (%v)", counts.Pending, err)
			break
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return b, context.Cause(ctx)
		}
	}
	for _, p := range s.nodes["worker"] {
		if err := p.terminate(ctx); err != nil {
			return b, err
		}
	}
	return s.ledger.balance(s.carrier, counts), nil
}

// end ends whatever runs, and leaves nothing behind.
func (s *story) end() error {
	if s.shared != nil {
		s.shared.close()
	}
	if s.processes != nil {
		s.processes.end()
	}
	if s.customer != nil {
		_ = s.customer.Close()
	}
	if s.dir == "" {
		return nil
	}
	return os.RemoveAll(s.dir)
}

// add starts a node.
func (s *story) add(ctx context.Context, kind string) (name string, err error) {
	s.last[kind]++
	name = fmt.Sprint(kind, "-", s.last[kind])
	p, at, err := s.processes.start(ctx, name)
	if err != nil {
		return name, err
	}
	s.nodes[kind][name] = p
	if kind == "voice" {
		s.carrier.in(name, at)
	}
	return name, nil
}

//go:embed config.json
var config string

func agentName(n int) string { return fmt.Sprint("reception-", n+1) }

// publish puts the agents' configs in production, from where all nodes have them.
func (s *story) publish(ctx context.Context, billing string) error {
	for n := range agents {
		text := strings.NewReplacer("AGENT", agentName(n), "CUSTOMER", s.customer.url, "BILLING", billing).Replace(config)
		c, err := callhook.ParseConfig([]byte(text))
		if err != nil {
			return err
		}
		ref := callhook.ConfigRef{Agent: c.AgentID}
		if _, err := s.shared.configs.SaveDraft(ctx, c, ""); err != nil {
			return err
		}
		if _, err := s.shared.configs.Publish(ctx, ref, callhook.PublishOptions{Author: "ops", Note: "billing is at /" + billing}); err != nil {
			return err
		}
	}
	return nil
}

// until waits for what should come soon.
func (s *story) until(ctx context.Context, what string, done func() bool) error {
	for deadline := time.Now().Add(3 * time.Minute); !done(); {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("it took more than three minutes until %s", what)
		}
	}
	return nil
}

func (s *story) say(who, format string, args ...any) {
	fmt.Fprintf(s.out, "%5.1fs  %-9s %s\n", time.Since(s.began).Seconds(), who, fmt.Sprintf(format, args...))
}

// freePort is one that nobody listens on.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}
