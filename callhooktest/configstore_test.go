package callhooktest_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
)

func TestMemoryStore(t *testing.T) {
	var stores sync.Map
	callhooktest.TestConfigStore(t, func(_ *testing.T, dir string) callhook.ConfigStore {
		s, _ := stores.LoadOrStore(dir, callhook.NewMemoryStore())
		return s.(callhook.ConfigStore)
	})
}

func TestDirStore(t *testing.T) {
	callhooktest.TestConfigStore(t, func(t *testing.T, dir string) callhook.ConfigStore {
		configs, err := callhook.OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return configs.Store
	})
}

// tableStore is a store as somebody writes it on a table, which can have a fault.
type tableStore struct {
	fault string
	mu    sync.Mutex
	rows  map[callhook.ConfigRef]row
	log   []callhook.ConfigRef // of changes in production
	puts  int
}

type row struct {
	doc     []byte
	version string
}

func (s *tableStore) key(ref callhook.ConfigRef) callhook.ConfigRef {
	switch s.fault {
	case "no tenants":
		ref.Tenant = ""
	case "one case":
		ref.Agent = strings.ToLower(ref.Agent)
	case "no drafts":
		ref.Revision = max(ref.Revision, 0)
	}
	return ref
}

func (s *tableStore) Get(ctx context.Context, ref callhook.ConfigRef) ([]byte, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.rows[s.key(ref)]
	switch {
	case !ok && s.fault == "no rows":
		return nil, "", errors.New("no rows in the result")
	case s.fault == "shares":
		return r.doc, r.version, ctx.Err()
	case s.fault == "reformats":
		return bytes.TrimSpace(r.doc), r.version, ctx.Err()
	}
	return bytes.Clone(r.doc), r.version, ctx.Err()
}

func (s *tableStore) Put(ctx context.Context, ref callhook.ConfigRef, doc []byte, version string) (string, error) {
	if err := ctx.Err(); err != nil && s.fault != "no ctx" {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ref = s.key(ref)
	if s.rows[ref].version != version && s.fault != "overwrites" {
		if s.fault == "own errors" {
			return "", errors.New("the version is another")
		}
		return "", callhook.ErrConflict
	}
	if s.fault == "races" {
		s.mu.Unlock()
		time.Sleep(time.Millisecond)
		s.mu.Lock()
	}
	if ref.Revision == callhook.Production && !(doc == nil && s.fault == "no removals") {
		s.log = append(s.log, ref)
	}
	if doc == nil && s.fault != "keeps" {
		delete(s.rows, ref)
		return "", nil
	}
	s.puts++
	if s.fault == "one version" {
		s.puts = 1
	}
	r := row{bytes.Clone(doc), strconv.Itoa(s.puts)}
	s.rows[ref] = r
	return r.version, nil
}

func (s *tableStore) List(ctx context.Context) ([]callhook.ConfigRef, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var refs []callhook.ConfigRef
	seen := map[callhook.ConfigRef]bool{}
	for ref := range s.rows {
		skip := ref.Revision > 0 || ref.Revision == callhook.Draft && s.fault == "no drafts listed"
		if ref.Revision = 0; skip || seen[ref] && s.fault != "lists twice" {
			continue
		}
		seen[ref] = true
		refs = append(refs, ref)
	}
	return refs, ctx.Err()
}

func (s *tableStore) Revisions(ctx context.Context, ref callhook.ConfigRef) ([]int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var numbers []int
	for other := range s.rows {
		if other.Revision > 0 && other.Agent == ref.Agent && (other.Tenant == ref.Tenant || s.fault == "others' revisions") {
			numbers = append(numbers, other.Revision)
		}
	}
	return numbers, ctx.Err()
}

func (s *tableStore) Watch(ctx context.Context, changed func(callhook.ConfigRef)) error {
	s.mu.Lock()
	next := len(s.log)
	s.mu.Unlock()
	if s.fault != "does not begin" {
		changed(callhook.ConfigRef{})
	}
	if s.fault == "misses" {
		time.Sleep(5 * time.Millisecond)
		s.mu.Lock()
		next = len(s.log)
		s.mu.Unlock()
	}
	for {
		select {
		case <-ctx.Done():
			if s.fault == "says that it ended" {
				return ctx.Err()
			}
			return nil
		case <-time.After(10 * time.Millisecond):
		}
		s.mu.Lock()
		news := s.log[next:]
		next = len(s.log)
		if s.fault == "one watch" {
			s.log, next = nil, 0
		}
		s.mu.Unlock()
		for _, ref := range news {
			changed(ref)
		}
	}
}

func openTable(fault string) func(*testing.T, string) callhook.ConfigStore {
	var stores sync.Map
	return func(_ *testing.T, dir string) callhook.ConfigStore {
		s := &tableStore{fault: fault, rows: map[callhook.ConfigRef]row{}}
		if fault == "not shared" {
			return s
		}
		first, _ := stores.LoadOrStore(dir, s)
		return first.(callhook.ConfigStore)
	}
}

func TestTableStore(t *testing.T) { callhooktest.TestConfigStore(t, openTable("")) }

// TestStoreFaults: the suite finds what a store does wrong.
func TestStoreFaults(t *testing.T) {
	for fault, promise := range map[string]string{
		"no tenants":         "Get and Put/agents and tenants are told apart, whatever their names",
		"one case":           "Get and Put/agents and tenants are told apart, whatever their names",
		"no drafts":          "Get and Put/draft, production and each revision are documents of their own",
		"no rows":            "Get and Put/what is not there has no document, no version and no error",
		"shares":             "Get and Put/what Get returned and what Put was given may be changed",
		"reformats":          "Get and Put/a document is returned as it was put, byte for byte",
		"no ctx":             "Get and Put/a ctx that has ended is an error",
		"overwrites":         "Get and Put/Put on another version is ErrConflict and changes nothing",
		"own errors":         "Get and Put/Put on another version is ErrConflict and changes nothing",
		"one version":        "Get and Put/Put on another version is ErrConflict and changes nothing",
		"races":              "Get and Put/of many that put at once on one version one gets it",
		"keeps":              "Get and Put/a nil document removes, and what was removed can be put again",
		"not shared":         "Get and Put/what was put is there for whoever opens the store",
		"no drafts listed":   "List and Revisions/List returns each agent with a draft or production once",
		"lists twice":        "List and Revisions/List returns each agent with a draft or production once",
		"others' revisions":  "List and Revisions/Revisions returns the numbers of one agent",
		"does not begin":     "Watch/Watch says that it has begun, and returns nil once ctx has ended",
		"says that it ended": "Watch/Watch says that it has begun, and returns nil once ctx has ended",
		"no removals":        "Watch/Watch tells of what was put and removed, within a second",
		"one watch":          "Watch/each of two that watch is told",
		"misses":             "Watch/what was put while Watch began is not missed",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			group, name, _ := strings.Cut(strings.ReplaceAll(promise, " ", "_"), "/")
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestFaultyStore$/^"+group+"$/^"+regexp.QuoteMeta(name)+"$")
			cmd.Env = append(os.Environ(), faultVariable+"="+fault)
			out, err := cmd.CombinedOutput()
			if err == nil || !bytes.Contains(out, []byte("--- FAIL: TestFaultyStore/"+group+"/"+name)) {
				t.Errorf("a store with this fault: %v, want a failure of %q\n%s", err, promise, out)
			}
		})
	}
}

// TestFaultyStore is the suite with a store that has a fault, when TestStoreFaults
// runs it.
func TestFaultyStore(t *testing.T) {
	fault := os.Getenv(faultVariable)
	if fault == "" {
		return
	}
	callhooktest.SetPatience(time.Second)
	callhooktest.TestConfigStore(t, openTable(fault))
}
