//go:build unix

package riverqueue_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/queue/riverqueue"
)

// TestConformance: a folder holds the name of a database, and the path that it was
// made for. A copy of the folder stands for the database as it is at that moment.
func TestConformance(t *testing.T) {
	needs(t)
	callhooktest.TestQueue(t, func(t *testing.T, dir string) callhook.Queue {
		return open(t, riverqueue.Options{Pool: connect(t, databaseOf(t, dir)), Logger: logger(t)})
	})
}

func TestConfigStore(t *testing.T) {
	needs(t)
	callhooktest.TestConfigStore(t, func(t *testing.T, dir string) callhook.ConfigStore {
		configs, err := riverqueue.OpenConfigs(context.Background(), riverqueue.Options{Pool: connect(t, databaseOf(t, dir))})
		if err != nil {
			t.Fatal(err)
		}
		return configs.Store
	})
}

func databaseOf(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "database")
	content, err := os.ReadFile(path)
	name, of, _ := strings.Cut(string(content), "\n")
	switch {
	case os.IsNotExist(err):
		name, err = server.migrated()
	case err == nil && of != dir:
		name, err = server.copied(name)
	case err == nil:
		return name
	}
	if err == nil {
		err = os.WriteFile(path, []byte(name+"\n"+dir), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.exec("DROP DATABASE IF EXISTS " + name + " WITH (FORCE)") })
	return name
}

// logger writes what is wrong to the test's log.
func logger(t testing.TB) *slog.Logger {
	if os.Getenv("RIVERQUEUE_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}
