package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/callhook-go/callhook"
)

// journal keeps the calls that are running in a file, so that a process that dies
// leaves no call without an end. A line is a call as it was then, or says that one is
// over and done with; each is on disk when the function that wrote it returns.
//
// A runtime with a database keeps its calls there instead. What matters is the order:
// written before it is told, forgotten after it is stored.
//
// Secret variables are in no call's JSON. After a restart callhook asks Options.Secrets
// for them, with the call's id.
type journal struct {
	mu      sync.Mutex
	file    *os.File
	running map[string]bool
}

type line struct {
	At   time.Time      `json:"at"`
	Call *callhook.Call `json:"call,omitempty"`
	Done string         `json:"done,omitempty"` // the id of a call
}

// openJournal opens the journal, and creates it if there is none. It returns the calls
// that were running when the last process ended, the earliest first. Those whose end
// nobody has seen ended with it: EndedAt is then when they were last heard of, and not
// now, so that nobody pays for the time that the runtime was down.
func openJournal(path string) (*journal, []*callhook.Call, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600) // what is said in calls is for nobody else
	if err != nil {
		return nil, nil, err
	}
	j := &journal{file: file, running: map[string]bool{}}
	left, err := j.read()
	if err == nil {
		err = syncFolder(filepath.Dir(path)) // so that the file is there after a power failure
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("reading the journal %s: %w", path, err), file.Close())
	}
	return j, left, nil
}

func (j *journal) read() (left []*callhook.Call, err error) {
	data, err := io.ReadAll(j.file)
	if err != nil {
		return nil, err
	}
	whole := bytes.LastIndexByte(data, '\n') + 1 // what follows was being written, and so not yet told
	if err := j.file.Truncate(int64(whole)); err != nil {
		return nil, err
	}
	calls := map[string]line{}
	for n, text := range bytes.Split(data[:whole], []byte("\n")) {
		if len(text) == 0 {
			continue
		}
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
		if l.Call != nil {
			calls[l.Call.ID] = l
		} else {
			delete(calls, l.Done)
		}
	}
	for id, l := range calls {
		j.running[id] = true
		if l.Call.EndedAt.IsZero() {
			l.Call.EndedAt = l.At
		}
		left = append(left, l.Call)
	}
	slices.SortFunc(left, func(a, b *callhook.Call) int {
		return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.ID, b.ID))
	})
	return left, nil
}

// write keeps a call as it is now.
func (j *journal) write(call *callhook.Call) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.running[call.ID] = true
	return j.append(line{At: time.Now(), Call: call})
}

// remove forgets a call. When none is left, the file is emptied.
func (j *journal) remove(id string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.running, id)
	if len(j.running) > 0 {
		return j.append(line{At: time.Now(), Done: id})
	}
	if err := j.file.Truncate(0); err != nil {
		return fmt.Errorf("emptying the journal: %w", err)
	}
	return j.sync()
}

func (j *journal) append(l line) error {
	raw, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	if _, err := j.file.Write(append(raw, '\n')); err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	return j.sync()
}

func (j *journal) sync() error {
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("syncing the journal: %w", err)
	}
	return nil
}

func (j *journal) close() error { return j.file.Close() }

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
