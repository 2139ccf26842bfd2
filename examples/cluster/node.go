package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/callhook-go/callhook"
)

// What a node is told, as a machine would be: in its environment.
const (
	nodeVar  = "CALLHOOK_NODE" // its name, like worker-2; ${NODE} in the config
	keyVar   = "CALLHOOK_HOOK_KEY"
	queueVar = "CLUSTER_QUEUE"   // where the engine is: nats://… or postgres://…
	dirVar   = "CLUSTER_DIR"     // the engine's storage; for the engine alone
	logVar   = "CLUSTER_VERBOSE" // whether to log
)

// runNode is the main function of the processes that the first one starts.
func runNode(name string) error {
	log := slog.New(slog.DiscardHandler)
	if os.Getenv(logVar) != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", name)
	}
	url := os.Getenv(queueVar)
	gone := make(chan struct{}) // whoever started it ended, or wants it to
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); close(gone) }()
	signal.Ignore(os.Interrupt) // Ctrl+C reaches all processes of a terminal; the first one decides
	if name == "engine" {
		if strings.HasPrefix(url, "nats:") {
			return serveNATS(url, os.Getenv(dirVar), gone)
		}
		return servePostgres(url, os.Getenv(dirVar), gone)
	}

	go func() { <-gone; os.Exit(2) }()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	role, _, _ := strings.Cut(name, "-")
	switch role {
	case "voice":
		return voice(ctx, url, log)
	case "worker":
		return work(ctx, url, log)
	}
	return fmt.Errorf("there is no node like %q", name)
}

// lease is how long a worker may be silent before others go on with what it had. It is
// 10 s unless told: a process that is swapped out, or a network that is cut, for less
// than that stays what it was, and moves nothing. Here nobody wants to wait so long.
const lease = 2 * time.Second

// shared is what all nodes have in common.
type shared struct {
	queue interface {
		callhook.Queue
		callhook.Inspector
	}
	configs *callhook.Configs
	close   func()
}

// connect opens the queue and the configs that a URL says.
func connect(ctx context.Context, url string, log *slog.Logger) (*shared, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	switch scheme, _, _ := strings.Cut(url, ":"); scheme {
	case "nats":
		return connectNATS(ctx, url, log)
	case "postgres":
		return connectPostgres(ctx, url, log)
	}
	return nil, errors.New("$" + queueVar + " is neither nats://… nor postgres://…")
}

// say writes a line for whoever started the process, at once: what a process has said
// is not lost when it is killed.
func say(format string, args ...any) { fmt.Fprintf(os.Stdout, format+"\n", args...) }

func saySettled(id string) { say("settled %s %d", id, time.Now().UnixNano()) }
