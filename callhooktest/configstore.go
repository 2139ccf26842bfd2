package callhooktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/callhook-go/callhook"
)

// TestConfigStore checks that a store does what [callhook.ConfigStore] says, and
// that configs go through it from draft to production.
//
// open opens the store that is kept in the folder dir, and creates it if there is
// none; it ends the test if it cannot. It is called more than once for the same
// folder, and what it returns then has the same documents, as two processes have
// them. A store in memory keeps one for each folder; one in a database makes a
// schema, or a prefix, of its name. What has to be closed is closed by t.Cleanup.
func TestConfigStore(t *testing.T, open func(t *testing.T, dir string) callhook.ConfigStore) {
	for _, group := range []struct {
		name     string
		promises []storePromise
	}{
		{"Get and Put", documentPromises},
		{"List and Revisions", listPromises},
		{"Watch", watchPromises},
		{"Configs", lifeCyclePromises},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, p := range group.promises {
				t.Run(p.says, func(t *testing.T) {
					t.Parallel()
					dir := t.TempDir()
					p.check(&storeTrial{T: t, dir: dir, open: open, store: open(t, dir)})
				})
			}
		})
	}
}

// storePromise is one sentence of the contract, and what finds out whether it is
// kept.
type storePromise struct {
	says  string
	check func(tr *storeTrial)
}

var documentPromises = []storePromise{
	{"what is not there has no document, no version and no error", storeNothing},
	{"a document is returned as it was put, byte for byte", storeBytes},
	{"draft, production and each revision are documents of their own", storeApart},
	{"agents and tenants are told apart, whatever their names", storeNames},
	{"a document of a mebibyte is kept", storeLarge},
	{"what was put is there for whoever opens the store", storeShared},
	{"Put on another version is ErrConflict and changes nothing", storeConflict},
	{"a nil document removes, and what was removed can be put again", storeRemove},
	{"of many that put at once on one version one gets it", storeRace},
	{"no Put is lost among many", storeCount},
	{"a reader sees a whole document while it is replaced", storeWhole},
	{"what Get returned and what Put was given may be changed", storeCopies},
	{"a ctx that has ended is an error", storeEnded},
}

var listPromises = []storePromise{
	{"List returns each agent with a draft or production once", storeList},
	{"Revisions returns the numbers of one agent", storeRevisions},
}

var watchPromises = []storePromise{
	{"Watch says that it has begun, and returns nil once ctx has ended", watchBegins},
	{"Watch tells of what was put and removed, within a second", watchTells},
	{"Watch tells of what another has put", watchOther},
	{"each of two that watch is told", watchTwo},
	{"what was put while Watch began is not missed", watchGap},
}

var lifeCyclePromises = []storePromise{
	{"a config goes from draft to production, and back", storeLifeCycle},
	{"of many that publish at once all are told what came of it", storePublishers},
}

// storeTrial is one store on trial.
type storeTrial struct {
	*testing.T
	dir   string
	open  func(t *testing.T, dir string) callhook.ConfigStore
	store callhook.ConfigStore
}

var anAgent = callhook.ConfigRef{Tenant: "acme", Agent: "reception"}

func at(ref callhook.ConfigRef, revision int) callhook.ConfigRef {
	ref.Revision = revision
	return ref
}

// put puts a document that is expected to be stored.
func (tr *storeTrial) put(ref callhook.ConfigRef, doc, version string) string {
	tr.Helper()
	text := []byte(doc)
	if doc == "" {
		text = nil
	}
	now, err := tr.store.Put(tr.Context(), ref, text, version)
	if err != nil {
		tr.Fatalf("Put of %+v on version %q: %v", ref, version, err)
	}
	return now
}

// is checks what stands at ref; "" is nothing.
func (tr *storeTrial) is(ref callhook.ConfigRef, doc string) (version string) {
	tr.Helper()
	got, version, err := tr.store.Get(tr.Context(), ref)
	switch {
	case err != nil:
		tr.Fatalf("Get of %+v: %v", ref, err)
	case string(got) != doc:
		tr.Fatalf("Get of %+v returned %d bytes, want the %d that were put:\n%.200s\n%.200s", ref, len(got), len(doc), got, doc)
	case (version == "") != (doc == ""):
		tr.Fatalf("Get of %+v returned version %q with %d bytes", ref, version, len(doc))
	case doc == "" && got != nil:
		tr.Fatalf("Get of %+v returned a document that is empty, want nil", ref)
	}
	return version
}

func storeNothing(tr *storeTrial) {
	for _, revision := range []int{callhook.Production, callhook.Draft, 1, 7} {
		tr.is(at(anAgent, revision), "")
	}
}

func storeBytes(tr *storeTrial) {
	for i, doc := range []string{"{}", "{\n  \"a\": 1.10,\n\t\"b\": \"<é\u2028\U0001f600>\"\r\n}\n\n", "not JSON", " ", `{"a":12345678901234567890}`} {
		ref := at(anAgent, i+1)
		version := tr.put(ref, doc, "")
		if got := tr.is(ref, doc); got != version {
			tr.Errorf("Put returned version %q, and Get %q", version, got)
		}
	}
}

func storeApart(tr *storeTrial) {
	all := []int{callhook.Draft, callhook.Production, 1, 2, 3, 10, 12345}
	for _, revision := range all {
		tr.put(at(anAgent, revision), fmt.Sprint("document ", revision), "")
	}
	for _, revision := range all {
		tr.is(at(anAgent, revision), fmt.Sprint("document ", revision))
	}
}

// storeNamed are names that a file system, a key or a collation may take for
// others.
func storeNamed() []callhook.ConfigRef {
	var refs []callhook.ConfigRef
	for _, name := range []string{"a", "A", "é", "e\u0301", "ß", "ss", "a b", "a/b", "a\\b", "..", ".", ".a", "a.", "a.b", "@a", "%41", "a%", "con", "nul.txt", "history",
		"draft.json", "production", "0001", "01", "a:b", "a\x00b", "a\nb", "'; --", "*", "a_b", "aXb", "\U0001f600", strings.Repeat("x", 150)} {
		refs = append(refs, callhook.ConfigRef{Agent: name}, callhook.ConfigRef{Tenant: name, Agent: "x"})
	}
	return append(refs, callhook.ConfigRef{Tenant: "a", Agent: "b/c"}, callhook.ConfigRef{Tenant: "a/b", Agent: "c"}, callhook.ConfigRef{Tenant: "a", Agent: "a"})
}

func storeNames(tr *storeTrial) {
	refs := storeNamed()
	for _, ref := range refs {
		tr.put(ref, fmt.Sprintf("%+q", ref), "")
	}
	for _, ref := range refs {
		tr.is(ref, fmt.Sprintf("%+q", ref))
	}
	got, err := tr.store.List(tr.Context())
	if err != nil {
		tr.Fatal(err)
	}
	for _, ref := range refs {
		if !slices.Contains(got, ref) {
			tr.Errorf("List does not return %+q", ref)
		}
	}
	if len(got) != len(refs) {
		tr.Errorf("List returns %d agents, want %d", len(got), len(refs))
	}
}

func storeLarge(tr *storeTrial) {
	doc := strings.Repeat("0123456789abcdef", 1<<16)
	tr.put(anAgent, doc, "")
	tr.is(anAgent, doc)
}

func storeShared(tr *storeTrial) {
	version := tr.put(anAgent, "one", "")
	tr.store = tr.open(tr.T, tr.dir)
	if got := tr.is(anAgent, "one"); got != version {
		tr.Errorf("for another the version is %q, want %q", got, version)
	}
	tr.put(anAgent, "two", version)
	tr.is(anAgent, "two")
}

func storeConflict(tr *storeTrial) {
	tr.refused(anAgent, "no version of this store's")
	first := tr.put(anAgent, "one", "")
	tr.refused(anAgent, "")
	second := tr.put(anAgent, "two", first)
	if first == second {
		tr.Errorf("another document has the same version %q", first)
	}
	tr.refused(anAgent, first)
	tr.refused(anAgent, "")
	if _, err := tr.store.Put(tr.Context(), anAgent, nil, first); !errors.Is(err, callhook.ErrConflict) {
		tr.Errorf("removing another version: %v, want ErrConflict", err)
	}
	tr.is(anAgent, "two")
	tr.refused(at(anAgent, 1), second)
	tr.is(at(anAgent, 1), "")
}

// refused checks that a Put on a version is in conflict, and changes nothing.
func (tr *storeTrial) refused(ref callhook.ConfigRef, version string) {
	tr.Helper()
	before, _, _ := tr.store.Get(tr.Context(), ref)
	if _, err := tr.store.Put(tr.Context(), ref, []byte("refused"), version); !errors.Is(err, callhook.ErrConflict) {
		tr.Errorf("Put on version %q: %v, want ErrConflict", version, err)
	}
	tr.is(ref, string(before))
}

func storeRemove(tr *storeTrial) {
	version := tr.put(anAgent, "one", "")
	tr.put(at(anAgent, 1), "revision", "")
	if got := tr.put(anAgent, "", version); got != "" {
		tr.Errorf("what was removed has version %q", got)
	}
	tr.is(anAgent, "")
	tr.is(at(anAgent, 1), "revision")
	tr.refused(anAgent, version)
	tr.put(anAgent, "", "")
	tr.put(anAgent, "two", "")
	tr.is(anAgent, "two")
}

func storeRace(tr *storeTrial) {
	stores := []callhook.ConfigStore{tr.store, tr.open(tr.T, tr.dir)}
	version := ""
	for round := range 5 {
		var mu sync.Mutex
		var won []string
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				doc := fmt.Sprintf("round %d, writer %d", round, i)
				_, err := stores[i%2].Put(tr.Context(), anAgent, []byte(doc), version)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, doc)
				} else if !errors.Is(err, callhook.ErrConflict) {
					tr.Errorf("Put: %v", err)
				}
			})
		}
		wg.Wait()
		if len(won) != 1 {
			tr.Fatalf("%d of 8 Puts on the same version were stored, want 1", len(won))
		}
		version = tr.is(anAgent, won[0])
	}
}

func storeCount(tr *storeTrial) {
	const writers, each = 4, 5
	stores := []callhook.ConfigStore{tr.store, tr.open(tr.T, tr.dir)}
	tr.put(anAgent, "count ", "")
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for range each {
				for {
					doc, version, err := stores[i%2].Get(tr.Context(), anAgent)
					if err == nil {
						_, err = stores[i%2].Put(tr.Context(), anAgent, append(doc, 'x'), version)
					}
					if err == nil {
						break
					}
					if !errors.Is(err, callhook.ErrConflict) {
						tr.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	tr.is(anAgent, "count "+strings.Repeat("x", writers*each))
}

func storeWhole(tr *storeTrial) {
	version := tr.put(anAgent, strings.Repeat("0", 20_000), "")
	other := tr.open(tr.T, tr.dir)
	ctx, cancel := context.WithCancel(tr.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			doc, version, err := other.Get(tr.Context(), anAgent)
			if err != nil || version == "" || len(doc) < 10_000 || len(bytes.Trim(doc, string(doc[:1]))) > 0 {
				tr.Errorf("a reader saw %d bytes, version %q, %v", len(doc), version, err)
				return
			}
		}
	})
	for i := range 20 {
		version = tr.put(anAgent, strings.Repeat(string(rune('a'+i)), 10_000*(1+i%2)), version)
	}
	cancel()
	wg.Wait()
}

func storeCopies(tr *storeTrial) {
	doc := []byte("one")
	if _, err := tr.store.Put(tr.Context(), anAgent, doc, ""); err != nil {
		tr.Fatal(err)
	}
	copy(doc, "not this")
	tr.is(anAgent, "one")
	got, _, _ := tr.store.Get(tr.Context(), anAgent)
	copy(got, "YYY")
	tr.is(anAgent, "one")
}

func storeEnded(tr *storeTrial) {
	ctx, cancel := context.WithCancel(tr.Context())
	cancel()
	if _, err := tr.store.Put(ctx, anAgent, []byte("one"), ""); err == nil {
		tr.Error("Put with a ctx that has ended: no error")
	}
	if _, _, err := tr.store.Get(ctx, anAgent); err == nil {
		tr.Error("Get with a ctx that has ended: no error")
	}
}

func storeList(tr *storeTrial) {
	check := func(want ...callhook.ConfigRef) {
		tr.Helper()
		got, err := tr.store.List(tr.Context())
		if err != nil {
			tr.Fatal(err)
		}
		seen := map[callhook.ConfigRef]int{}
		for _, ref := range got {
			seen[at(ref, 0)]++
		}
		for _, ref := range want {
			if seen[ref] != 1 {
				tr.Errorf("List returns %s %d times, want once", ref, seen[ref])
			}
		}
		if len(seen) != len(want) {
			tr.Errorf("List returns %d agents, want %d: %v", len(seen), len(want), got)
		}
	}
	check()
	draft, both, production := callhook.ConfigRef{Agent: "draft"}, callhook.ConfigRef{Tenant: "t", Agent: "both"}, callhook.ConfigRef{Tenant: "t", Agent: "production"}
	tr.put(at(draft, callhook.Draft), "draft", "")
	tr.put(at(both, callhook.Draft), "draft", "")
	version := tr.put(both, "production", "")
	tr.put(at(both, 1), "revision", "")
	tr.put(production, "production", "")
	check(draft, both, production)
	tr.put(both, "", version)
	check(draft, both, production)
	tr.put(at(draft, callhook.Draft), "", tr.is(at(draft, callhook.Draft), "draft"))
	check(both, production)
}

func storeRevisions(tr *storeTrial) {
	check := func(ref callhook.ConfigRef, want ...int) {
		tr.Helper()
		got, err := tr.store.Revisions(tr.Context(), ref)
		if err != nil {
			tr.Fatal(err)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			tr.Errorf("Revisions of %s: %v, want %v", ref, got, want)
		}
	}
	check(anAgent)
	tr.put(anAgent, "production", "")
	tr.put(at(anAgent, callhook.Draft), "draft", "")
	check(anAgent)
	for _, n := range []int{1, 3, 9, 10, 10001} {
		tr.put(at(anAgent, n), "revision", "")
	}
	other := callhook.ConfigRef{Agent: anAgent.Agent}
	tr.put(at(other, 2), "revision", "")
	check(at(anAgent, 3), 1, 3, 9, 10, 10001)
	check(other, 2)
	tr.put(at(anAgent, 3), "", tr.is(at(anAgent, 3), "revision"))
	check(anAgent, 1, 9, 10, 10001)
}

func storeLifeCycle(tr *storeTrial) {
	ctx, c := tr.Context(), &callhook.Configs{Store: tr.store}
	draft := &callhook.Config{TenantID: anAgent.Tenant, AgentID: anAgent.Agent, Timezone: "Europe/London"}
	publish := func(zone string, want int) {
		tr.Helper()
		draft.Timezone = zone
		_, version, _ := c.Draft(ctx, anAgent)
		if _, err := c.SaveDraft(ctx, draft, version); err != nil {
			tr.Fatalf("SaveDraft: %v", err)
		}
		r, err := c.Publish(ctx, anAgent, callhook.PublishOptions{Author: "ada", Note: zone})
		if err != nil {
			tr.Fatalf("Publish: %v", err)
		}
		if r.Number != want {
			tr.Errorf("revision %d, want %d", r.Number, want)
		}
		draft = r.Config
	}
	production := func(number int, zone string) {
		tr.Helper()
		got, err := c.Config(ctx, anAgent)
		if err != nil || got.Revision != number || got.Timezone != zone {
			tr.Fatalf("production is %+v, %v, want revision %d with %s", got, err, number, zone)
		}
	}
	publish("Europe/London", 1)
	publish("Europe/Paris", 2)
	production(2, "Europe/Paris")
	if _, err := c.Rollback(ctx, at(anAgent, 1), callhook.PublishOptions{Author: "bob"}); err != nil {
		tr.Fatalf("Rollback: %v", err)
	}
	production(3, "Europe/London")
	c.Store = tr.open(tr.T, tr.dir)
	production(3, "Europe/London")
	var got []string
	history, err := c.History(ctx, anAgent, 0)
	if err != nil {
		tr.Fatalf("History: %v", err)
	}
	for _, r := range history {
		got = append(got, fmt.Sprint(r.Number, r.Author, r.Restores, r.Config.Timezone))
	}
	if want := []string{"3bob1Europe/London", "2ada0Europe/Paris", "1ada0Europe/London"}; !slices.Equal(got, want) {
		tr.Errorf("history is %q, want %q", got, want)
	}
	if err := c.Delete(ctx, anAgent); err != nil {
		tr.Fatalf("Delete: %v", err)
	}
	if agents, err := c.Agents(ctx); err != nil || len(agents) > 0 {
		tr.Errorf("after Delete there are %v, %v", agents, err)
	}
	if _, err := c.Config(ctx, anAgent); !errors.Is(err, callhook.ErrNoConfig) {
		tr.Errorf("after Delete production is %v, want ErrNoConfig", err)
	}
}

func storePublishers(tr *storeTrial) {
	ctx, stores := tr.Context(), []callhook.ConfigStore{tr.store, tr.open(tr.T, tr.dir)}
	var mu sync.Mutex
	var published []int
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			c := &callhook.Configs{Store: stores[i%2]}
			for j := range 3 {
				draft := &callhook.Config{TenantID: anAgent.Tenant, AgentID: anAgent.Agent, Variables: []callhook.Variable{{Name: fmt.Sprintf("v%d_%d", i, j)}}}
				_, version, _ := c.Draft(ctx, anAgent)
				_, err := c.SaveDraft(ctx, draft, version)
				var r *callhook.Revision
				if err == nil {
					r, err = c.Publish(ctx, anAgent, callhook.PublishOptions{})
				}
				if err == nil {
					mu.Lock()
					published = append(published, r.Number)
					mu.Unlock()
				} else if !errors.Is(err, callhook.ErrConflict) && !errors.Is(err, callhook.ErrNoDraft) {
					tr.Errorf("%v, want ErrConflict or ErrNoDraft", err)
				}
			}
		})
	}
	wg.Wait()
	c := &callhook.Configs{Store: tr.store}
	now, err := c.Config(ctx, anAgent)
	if err != nil {
		tr.Fatal(err)
	}
	slices.Sort(published)
	if n := len(published); n == 0 || published[n-1] != now.Revision {
		tr.Errorf("production is revision %d, and these were published: %v", now.Revision, published)
	}
	for _, n := range published {
		if _, err := c.Config(ctx, at(anAgent, n)); err != nil {
			tr.Errorf("revision %d: %v", n, err)
		}
	}
}
