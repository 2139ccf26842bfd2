package callhooktest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/callhook-go/callhook"
)

// storeWatch is a Watch under way.
type storeWatch struct {
	tr    *storeTrial
	news  chan callhook.ConfigRef
	end   context.CancelFunc
	ended chan error
}

func (tr *storeTrial) watch(store callhook.ConfigStore) *storeWatch {
	ctx, cancel := context.WithCancel(tr.Context())
	w := &storeWatch{tr: tr, news: make(chan callhook.ConfigRef, 1000), end: cancel, ended: make(chan error, 1)}
	go func() {
		w.ended <- store.Watch(ctx, func(ref callhook.ConfigRef) {
			select {
			case w.news <- at(ref, 0):
			case <-ctx.Done():
			}
		})
	}()
	tr.Cleanup(cancel)
	return w
}

// hears waits until Watch has told of ref, and says how long that took.
func (w *storeWatch) hears(ref callhook.ConfigRef) time.Duration {
	w.tr.Helper()
	start, timer := time.Now(), time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case got := <-w.news:
			if got == ref {
				return time.Since(start)
			}
		case err := <-w.ended:
			w.tr.Fatalf("Watch returned: %v", err)
		case <-timer.C:
			w.tr.Fatalf("Watch does not tell of %+v", ref)
		}
	}
}

func (w *storeWatch) stop() {
	w.tr.Helper()
	w.end()
	select {
	case err := <-w.ended:
		if err != nil {
			w.tr.Errorf("Watch returned %v, want nil once ctx has ended", err)
		}
	case <-time.After(patience):
		w.tr.Fatal("Watch does not return though ctx has ended")
	}
}

func watchBegins(tr *storeTrial) {
	tr.put(anAgent, "one", "")
	w := tr.watch(tr.store)
	w.hears(callhook.ConfigRef{})
	w.stop()
}

func watchTells(tr *storeTrial) {
	w := tr.watch(tr.store)
	w.hears(callhook.ConfigRef{})
	tell := func(what, doc, version string) string {
		tr.Helper()
		version = tr.put(anAgent, doc, version)
		if took := w.hears(anAgent); took > 2*time.Second { // a busy machine
			tr.Errorf("Watch told of %s after %s, want a second at most", what, took)
		}
		return version
	}
	version := tell("the first", "one", "")
	version = tell("the second", "two", version)
	tell("the removal", "", version)
	w.stop()
}

func watchOther(tr *storeTrial) {
	w := tr.watch(tr.store)
	w.hears(callhook.ConfigRef{})
	tr.store = tr.open(tr.T, tr.dir)
	version := tr.put(anAgent, "one", "")
	w.hears(anAgent)
	tr.put(anAgent, "", version)
	w.hears(anAgent)
	w.stop()
}

func watchTwo(tr *storeTrial) {
	a, b := tr.watch(tr.store), tr.watch(tr.store)
	a.hears(callhook.ConfigRef{})
	b.hears(callhook.ConfigRef{})
	tr.put(anAgent, "one", "")
	a.hears(anAgent)
	b.hears(anAgent)
	a.stop()
	other := callhook.ConfigRef{Agent: "other"}
	tr.put(other, "one", "")
	b.hears(other)
	b.stop()
}

// What is read when the zero ref comes, or told of later, is everything.
func watchGap(tr *storeTrial) {
	ctx, cancel := context.WithCancel(tr.Context())
	defer cancel()
	var wg sync.WaitGroup
	var between sync.Once
	const agents = 20
	put := func(from, to int) {
		for i := range to - from {
			_, err := tr.store.Put(tr.Context(), callhook.ConfigRef{Agent: fmt.Sprint(from + i)}, []byte("one"), "")
			if err != nil {
				tr.Error(err)
			}
		}
	}
	wg.Go(func() { put(0, agents/2) })
	known := make(chan string, 10_000)
	wg.Go(func() {
		_ = tr.store.Watch(ctx, func(ref callhook.ConfigRef) {
			if ref.Agent != "" {
				known <- ref.Agent
				return
			}
			refs, err := tr.store.List(tr.Context())
			if err != nil {
				tr.Error(err)
			}
			for _, ref := range refs {
				known <- ref.Agent
			}
			between.Do(func() { put(agents/2, agents) }) // after they were read, and before Watch goes on
		})
	})
	left, timer := map[string]bool{}, time.NewTimer(patience)
	defer timer.Stop()
	for i := range agents {
		left[fmt.Sprint(i)] = true
	}
	for len(left) > 0 {
		select {
		case agent := <-known:
			delete(left, agent)
		case <-timer.C:
			tr.Errorf("of %d agents that were put while Watch began %d were missed", agents, len(left))
			clear(left)
		}
	}
	cancel()
	wg.Wait()
}
