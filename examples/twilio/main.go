// Twilio is a voice-agent runtime's telephony side on Twilio: an HTTP server that asks
// who is calling before the agent speaks, joins caller and agent, transfers calls, and
// tells the customer's systems what became of each. The agent itself is a WebSocket
// of Conversation Relay, given by -relay-url.
//
//	TWILIO_AUTH_TOKEN=… go run ./examples/twilio -config reception.json \
//	    -public-url https://voice.example.com -relay-url wss://agent.example.com/relay
//
// README.md says what to set up at Twilio.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

func main() {
	s := &server{
		token: os.Getenv("TWILIO_AUTH_TOKEN"), transfers: map[string]string{}, patience: 3 * time.Second,
		log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	var allow netip.Prefix
	config := flag.String("config", "", "the agent's config file")
	db := flag.String("db", "calls.db", "the queue's file")
	listen := flag.String("listen", "127.0.0.1:8080", "the address to listen on")
	flag.StringVar(&s.publicURL, "public-url", "", "the URL under which Twilio reaches this server, without a slash at its end")
	flag.StringVar(&s.relayURL, "relay-url", "", "the agent's WebSocket, wss://")
	flag.StringVar(&s.greeting, "greeting", `Hi {{customer_name | default: "there"}}! How can I help you?`, "what the agent says first")
	flag.StringVar(&s.unreachable, "unreachable", "I could not reach anybody. What else can I do for you?", "what the agent says when a transfer failed")
	flag.TextVar(&allow, "allow-net", netip.Prefix{}, "a private network that webhooks may be sent to, like 127.0.0.0/8")
	flag.Func("transfer", "name=number: somebody to whom the agent may transfer; may be repeated", func(v string) error {
		name, number, ok := strings.Cut(v, "=")
		if !ok || name == "" || number == "" {
			return errors.New("write it like sales=+442079460100")
		}
		s.transfers[name] = number
		return nil
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, s, *config, *db, *listen, allow); err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, and then finishes what is under way.
func run(ctx context.Context, s *server, config, db, listen string, allow netip.Prefix) (err error) {
	switch {
	case s.token == "":
		return errors.New("TWILIO_AUTH_TOKEN is empty: set it to the account's auth token, which signs Twilio's requests")
	case config == "", s.publicURL == "", s.relayURL == "":
		return errors.New("-config, -public-url and -relay-url are needed")
	}
	s.publicURL = strings.TrimRight(s.publicURL, "/")
	c, err := callhook.LoadConfig(config)
	if err != nil {
		return err
	}
	s.calls.agent = callhook.ConfigRef{Tenant: c.TenantID, Agent: c.AgentID} // a real runtime finds it by the number that was called
	queue, err := sqlitequeue.Open(db, &sqlitequeue.Options{Logger: s.log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, queue.Close()) }()
	o := callhook.Options{Configs: callhook.Static(c), Queue: queue, Secrets: callhook.EnvSecrets("CALLHOOK_"), Logger: s.log}
	if allow.IsValid() {
		o.AllowNets = []netip.Prefix{allow}
	}
	if s.hooks, err = callhook.New(o); err != nil {
		return err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return errors.Join(err, s.hooks.Close())
	}
	s.log.Info("listening", "address", l.Addr().String(), "url", s.publicURL+"/voice")

	web := &http.Server{
		Handler: s.handler(), ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second, IdleTimeout: time.Minute,
	}
	running, stop := context.WithCancel(context.Background()) // longer than ctx: what the last requests tell is delivered too
	defer stop()
	delivering, serving := make(chan error, 1), make(chan error, 1)
	go func() { delivering <- s.hooks.Run(running) }()
	go func() { serving <- web.Serve(l) }()
	select {
	case <-ctx.Done():
	case err = <-serving:
	case err = <-delivering:
		delivering <- nil
	}
	ending, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err = errors.Join(err, web.Shutdown(ending))
	stop()
	err = errors.Join(err, <-delivering, s.hooks.Close())
	s.late.Wait() // Close has ended what they wait for
	return err
}
