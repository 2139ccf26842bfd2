// Receiver receives callhook's webhooks (Standard Webhooks 1.0.0): it verifies each
// request over the bytes of its body, does the work once per webhook-id, and
// answers 204. It needs callhook for Verify alone, and is one file to copy.
//
//	WEBHOOK_KEYS="whsec_…" go run ./examples/receiver
//
// The environment:
//
//	WEBHOOK_KEYS  the keys, with spaces between: whsec_… (v1), whpk_… (v1a). Give the
//	              old and the new one while a key is being replaced.
//	HOST, PORT    where it listens: 127.0.0.1 and 8080 unless told. PORT=0 picks a port.
//	SEEN_FILE     where it remembers what it has done: seen.jsonl unless told. One
//	              file for one process.
//
// To change: [work]. TLS is for the proxy in front of it.
//
// It answers 401 to what is not signed with its keys, and callhook tries that again
// for three days: time to mend a key. It answers 400 to what is signed and is not a
// JSON object, and 500 when the work failed. It may be killed at any time: what it
// has not answered is sent again.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/callhook-go/callhook"
)

// event is as much of the body as the work needs: here the envelope that callhook
// sends unless a webhook's payload says otherwise.
type event struct {
	Type string `json:"type"`
	Test bool   `json:"test"` // sent by somebody who tries a webhook out
	Data struct {
		Call struct {
			ID string `json:"id"`
		} `json:"call"`
	} `json:"data"`
}

// work is what an event is for: yours to write. An error means that the event is
// sent again later. callhook waits 15 seconds for an answer unless its config says
// otherwise: what takes longer belongs into a queue, and the work is to put it there.
//
// It is done once for each id. Only a crash between the end of the work and the
// line in SEEN_FILE makes it happen again: where that matters, store the id in the
// same transaction as the work.
func work(id string, e *event) error {
	return json.NewEncoder(os.Stdout).Encode(struct {
		ID   string `json:"id"`
		Type string `json:"type"`
		Call string `json:"call"`
		Test bool   `json:"test"`
	}{id, e.Type, e.Data.Call.ID, e.Test})
}

const (
	// limit bounds a body, in bytes. callhook sends at most 4 MiB unless told.
	limit = 5 << 20
	// remember is how long an id is known: callhook tries for 3 days, keeps what
	// could not be delivered for 30 more, and somebody may replay it then.
	remember = 40 * 24 * time.Hour
)

func main() {
	if err := run(work); err != nil {
		log.Fatal(err)
	}
}

func run(work func(id string, e *event) error) error {
	keys := strings.Fields(os.Getenv("WEBHOOK_KEYS"))
	if err := check(keys); err != nil {
		return err
	}
	seen, err := openSeen(env("SEEN_FILE", "seen.jsonl"))
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", net.JoinHostPort(env("HOST", "127.0.0.1"), env("PORT", "8080")))
	if err != nil {
		return err
	}
	fmt.Printf("listening on http://%s\n", l.Addr())
	server := &http.Server{Handler: &receiver{keys, seen, work}, ReadTimeout: 15 * time.Second, IdleTimeout: 2 * time.Minute}
	return server.Serve(l)
}

// receiver answers webhooks.
type receiver struct {
	keys []string
	seen *seen
	work func(id string, e *event) error
}

func (rc *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get(callhook.HeaderID)
	refuse := func(status int, why string) {
		log.Printf("%d %.64q: %s", status, id, why)
		http.Error(w, why, status)
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		refuse(http.StatusMethodNotAllowed, "webhooks are sent with POST")
		return
	}
	body, err := read(w, r)
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		refuse(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", limit))
		return
	}
	if err != nil {
		refuse(http.StatusBadRequest, "the body did not arrive whole")
		return
	}
	if err := callhook.Verify(r.Header, body, rc.keys...); err != nil { // nothing is read of the body before
		refuse(http.StatusUnauthorized, err.Error())
		return
	}
	var e event
	if err := json.Unmarshal(body, &e); err != nil || bytes.TrimSpace(body)[0] != '{' || !utf8.Valid(body) {
		refuse(http.StatusBadRequest, "the body is signed, but is not the JSON object that is expected here")
		return
	}
	if err := rc.seen.once(r.Context(), id, func() error { return rc.work(id, &e) }); err != nil {
		log.Printf("500 %.64q: %v", id, err)
		http.Error(w, "it failed here: send it again", http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// read reads the body as it arrived: the signature is over its bytes.
func read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, &http.MaxBytesError{Limit: limit}
	}
	return io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
}

// seen remembers the ids of the events that were worked on, in a file with a line
// for each: {"id":"msg_…","at":"2026-03-03T10:00:00Z"}.
type seen struct {
	path string

	mu      sync.Mutex
	at      map[string]time.Time
	busy    map[string]chan struct{} // closed when the work has ended
	file    *os.File
	written time.Time // when the file was written as a whole; zero when it must be again
}

type line struct {
	ID string    `json:"id"`
	At time.Time `json:"at"`
}

func openSeen(path string) (*seen, error) {
	s := &seen{path: path, at: map[string]time.Time{}, busy: map[string]chan struct{}{}}
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for text := range strings.Lines(string(data)) {
		var l line
		if json.Unmarshal([]byte(text), &l) == nil { // the last line may be half a line, after a crash
			s.at[l.ID] = l.At
		}
	}
	return s, s.write()
}

// once does the work for an id that is not remembered, and remembers it when the
// work succeeds. A second request with the same id waits for the first.
func (s *seen) once(ctx context.Context, id string, work func() error) (err error) {
	for {
		s.mu.Lock()
		if _, done := s.at[id]; done {
			s.mu.Unlock()
			return nil
		}
		other := s.busy[id]
		if other == nil {
			break
		}
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ended := make(chan struct{})
	s.busy[id] = ended
	s.mu.Unlock()
	worked := false
	defer func() { // even if the work panics
		s.mu.Lock()
		defer s.mu.Unlock()
		if worked {
			err = s.add(line{id, time.Now()})
		}
		delete(s.busy, id)
		close(ended)
	}()
	err = work()
	worked = err == nil
	return err
}

// add is called with mu held.
func (s *seen) add(l line) error {
	if time.Since(s.written) > 24*time.Hour {
		if err := s.write(); err != nil {
			return err
		}
	}
	err := json.NewEncoder(s.file).Encode(l)
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		s.written = time.Time{}
		return err
	}
	s.at[l.ID] = l.At
	return nil
}

// write replaces the file by one without what is too old.
func (s *seen) write() error {
	s.written = time.Time{}
	if s.file != nil {
		s.file.Close()
	}
	var text bytes.Buffer
	for id, at := range s.at {
		if time.Since(at) > remember {
			delete(s.at, id)
			continue
		}
		if err := json.NewEncoder(&text).Encode(line{id, at}); err != nil {
			return err
		}
	}
	next := s.path + ".new"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text.Bytes())
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(next, s.path); err != nil {
		return err
	}
	if dir, err := os.Open(filepath.Dir(s.path)); err == nil {
		_ = dir.Sync() // so that the new name outlives a power failure; Windows does without
		dir.Close()
	}
	if s.file, err = os.OpenFile(s.path, os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return err
	}
	s.written = time.Now()
	return nil
}

// check refuses keys that Verify would refuse at each request.
func check(keys []string) error {
	if len(keys) == 0 {
		return errors.New("WEBHOOK_KEYS is empty: give it the keys of the webhook, whsec_… or whpk_…")
	}
	probe := http.Header{}
	probe.Set(callhook.HeaderID, "probe")
	probe.Set(callhook.HeaderTimestamp, "0")
	probe.Set(callhook.HeaderSignature, "v1,")
	if err := callhook.Verify(probe, nil, keys...); errors.Is(err, callhook.ErrBadKey) {
		return fmt.Errorf("WEBHOOK_KEYS: %w", err)
	}
	return nil
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}
