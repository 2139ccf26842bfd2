package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/callhook-go/callhook/callhooktest"
)

// listening tells where the server listens.
type listening struct{ at chan string }

func (l listening) Write(line []byte) (int, error) {
	if m := regexp.MustCompile(`msg=listening address=(\S+)`).FindSubmatch(line); m != nil {
		l.at <- string(m[1])
	}
	return len(line), nil
}

// TestRun: the program serves, is told to end, and leaves nothing undone that it has
// answered.
func TestRun(t *testing.T) {
	customer := callhooktest.NewEndpoint(t, callhooktest.Reply(200, ada))
	url := customer.Listen()
	dir := t.TempDir()
	file := filepath.Join(dir, "reception.json")
	if err := os.WriteFile(file, fmt.Appendf(nil, config, url, "10s"), 0o600); err != nil {
		t.Fatal(err)
	}
	log := listening{make(chan string, 1)}
	s := &server{
		publicURL: publicURL + "/", relayURL: "wss://agent.example.com/relay", token: token,
		greeting: "Hi {{customer_name}}!", log: slog.New(slog.NewTextHandler(log, nil)),
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	db := filepath.Join(dir, "calls.db")
	go func() { ended <- run(ctx, s, file, db, "127.0.0.1:0", netip.MustParsePrefix("127.0.0.0/8")) }()
	var r *rig
	select {
	case address := <-log.at:
		r = &rig{t: t, url: "http://" + address}
	case err := <-ended:
		t.Fatal(err)
	}
	_, doc := r.twiml("/voice", form(t, "voice"))
	equal(t, "greeting", doc.Connect.Relay.Greeting, "Hi Ada!")
	r.twiml("/connect-ended", form(t, "connect_ended_caller"))
	r.tell("/status", form(t, "completed"))
	customer.Received(t, 3) // the lookup, the status and the call's data
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := http.Get(r.url); err == nil {
		t.Error("it listens still")
	}
}

// TestRunRefuses: what is missing is said.
func TestRunRefuses(t *testing.T) {
	for _, test := range []struct {
		name string
		s    *server
		file string
		want string
	}{
		{"no token", &server{publicURL: publicURL, relayURL: "wss://a"}, "a.json", "TWILIO_AUTH_TOKEN"},
		{"no URL", &server{token: token, relayURL: "wss://a"}, "a.json", "-public-url"},
		{"no agent", &server{token: token, publicURL: publicURL}, "a.json", "-relay-url"},
		{"no config", &server{token: token, publicURL: publicURL, relayURL: "wss://a"}, "", "-config"},
		{"a config that is not there", &server{token: token, publicURL: publicURL, relayURL: "wss://a"}, "a.json", "a.json"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := run(t.Context(), test.s, test.file, "", "", netip.Prefix{})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want it to name %s", err, test.want)
			}
		})
	}
}
