//go:build unix

package riverqueue_test

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/callhook-go/callhook/queue/riverqueue"
)

// TestMigrate: many nodes do it at once, and again, and what is not done is said.
func TestMigrate(t *testing.T) {
	t.Parallel()
	needs(t)
	name, err := server.empty()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.exec("DROP DATABASE IF EXISTS " + name + " WITH (FORCE)") })
	ctx, o := t.Context(), riverqueue.Options{Pool: connect(t, name), Schema: "Own_schema"}
	for what, open := range map[string]func() error{
		"Open":        func() error { _, err := riverqueue.Open(ctx, o); return err },
		"OpenConfigs": func() error { _, err := riverqueue.OpenConfigs(ctx, o); return err },
	} {
		if err := open(); !errors.Is(err, riverqueue.ErrNotMigrated) || !strings.Contains(err.Error(), "Own_schema") {
			t.Errorf("%s without tables: %v, want ErrNotMigrated, and in which schema", what, err)
		}
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			own := o
			own.Pool = connect(t, name)
			if err := riverqueue.Migrate(ctx, own); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := riverqueue.Migrate(ctx, o); err != nil {
		t.Errorf("a second time: %v", err)
	}
	o.Partitions = 3
	for range 2 {
		q, err := riverqueue.Open(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		enqueue(t, q, event(1))
		if counts, err := q.Counts(ctx); err != nil || counts.Pending == 0 {
			t.Errorf("Counts are %+v, %v", counts, err)
		}
		_ = q.Close()
		o.Partitions = 0
	}
	o.Partitions = 4
	if _, err := riverqueue.Open(ctx, o); !errors.Is(err, riverqueue.ErrPartitions) {
		t.Errorf("Open with another number of partitions: %v, want ErrPartitions", err)
	}
	o.Partitions = 0
	if _, err := o.Pool.Exec(ctx, `UPDATE "Own_schema".callhook_settings SET version = 99`); err != nil {
		t.Fatal(err)
	}
	if _, err := riverqueue.Open(ctx, o); !errors.Is(err, riverqueue.ErrVersion) {
		t.Errorf("Open of newer tables: %v, want ErrVersion", err)
	}
}

func TestOptions(t *testing.T) {
	pool, _ := database(t)
	for what, o := range map[string]riverqueue.Options{
		"Pool":       {},
		"Schema":     {Pool: pool, Schema: `a"b`},
		"Partitions": {Pool: pool, Partitions: 300},
		"MaxWorkers": {Pool: pool, MaxWorkers: 10_001},
		"Lease":      {Pool: pool, Lease: 1},
		"KeepDead":   {Pool: pool, KeepDead: -1},
	} {
		if _, err := riverqueue.Open(context.Background(), o); err == nil || !strings.Contains(err.Error(), "Options."+what) {
			t.Errorf("Open with a wrong Options.%s: %v, want an error that says so", what, err)
		}
	}
}

// TestIsolation: what the queue decides by looking again would be decided by what was.
func TestIsolation(t *testing.T) {
	t.Parallel()
	_, name := database(t)
	pool := connect(t, name+" default_transaction_isolation=serializable")
	if _, err := riverqueue.Open(t.Context(), riverqueue.Options{Pool: pool}); err == nil || !strings.Contains(err.Error(), "serializable") {
		t.Errorf("Open with a pool that is serializable: %v, want an error that says so", err)
	}
}

// TestDocumentedQueries: what the package's comment shows for people works.
func TestDocumentedQueries(t *testing.T) {
	t.Parallel()
	pool, _ := database(t)
	enqueue(t, open(t, riverqueue.Options{Pool: pool}), event(1))
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^//\t(SELECT .*(?:\n//\t\t.*)*);$`).FindAllStringSubmatch(string(doc), -1)
	if len(found) != 4 {
		t.Fatalf("%d queries were found, want 4", len(found))
	}
	for _, m := range found {
		if _, err := pool.Exec(t.Context(), strings.ReplaceAll(m[1], "//", "")); err != nil {
			t.Errorf("%s: %v", m[1], err)
		}
	}
	var state string
	if err := pool.QueryRow(t.Context(), "SELECT state FROM callhook.callhook_queue").Scan(&state); err != nil || state != "ready" {
		t.Errorf("the view shows it as %q, %v, want ready", state, err)
	}
}
