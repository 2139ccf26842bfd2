package callhook_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callhook-go/callhook"
)

func openDir(t testing.TB, dir string) *callhook.Configs {
	t.Helper()
	c, err := callhook.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// tree returns the files below a folder, by their slashed names.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		text, err := os.ReadFile(path)
		files[filepath.ToSlash(rel)] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestDirFiles: the files are those that the documentation shows, for people to
// read.
func TestDirFiles(t *testing.T) {
	dir := t.TempDir()
	c := openDir(t, dir)
	cfg := zone("Europe/London")
	cfg.PostCall = []callhook.PostCallWebhook{{Endpoint: callhook.Endpoint{Name: "n8n", URL: "https://n8n.example.com/?a=1&b=<2>"}}}
	r := publish(t, c, cfg)
	cfg.Timezone, cfg.Revision = "Europe/Paris", 1
	save(t, c, cfg)
	save(t, c, &callhook.Config{TenantID: "acme", AgentID: "Front desk"})
	const production = `{
  "agent_id": "reception",
  "revision": 1,
  "timezone": "Europe/London",
  "post_call": [
    {
      "name": "n8n",
      "url": "https://n8n.example.com/?a=1&b=<2>"
    }
  ]
}
`
	revision := fmt.Sprintf(`{
  "revision": 1,
  "published_at": %q,
  "author": "ada",
  "note": "Europe/London",
  "config": %s
}
`, r.PublishedAt.Format(time.RFC3339Nano), strings.ReplaceAll(strings.TrimSpace(production), "\n", "\n  "))
	want := map[string]string{
		".lock":                         "",
		"reception/production.json":     production,
		"reception/draft.json":          strings.Replace(production, "London", "Paris", 1),
		"reception/history/0001.json":   revision,
		"@acme/Front%20desk/draft.json": "{\n  \"tenant_id\": \"acme\",\n  \"agent_id\": \"Front desk\"\n}\n",
	}
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if _, err := callhook.LoadConfig(filepath.Join(dir, "reception", "production.json")); err != nil {
		t.Error(err)
	}
}

// TestDirNames: each name is a folder's that every file system takes.
func TestDirNames(t *testing.T) {
	c := openDir(t, t.TempDir())
	for name, want := range map[string]string{
		"reception": "reception", "a.b-c_D9": "a.b-c_D9", "Front desk": "Front%20desk", "..": "%2E%2E", ".git": "%2Egit", "a.": "a%2E",
		"a/b": "a%2Fb", `a\b`: "a%5Cb", "é": "%C3%A9", "100%": "100%25", "@acme": "%40acme", "con": "%63on", "NUL.txt": "%4EUL.txt", "com1": "%63om1", "com": "com", "\xff": "%FF",
	} {
		if got := filepath.Base(filepath.Dir(callhook.FileOf(c, callhook.ConfigRef{Agent: name}))); got != want {
			t.Errorf("%q is %s, want %s", name, got, want)
		}
	}
}

// TestDirStrangers: what else stands in the folder is nobody's.
func TestDirStrangers(t *testing.T) {
	dir := t.TempDir()
	c := openDir(t, dir)
	publish(t, c, zone(""))
	for _, name := range []string{"README.md", ".git/production.json", "docs/guide.md", "Front desk/production.json", "%zz/production.json", "@/x/production.json", "@acme/.x/draft.json",
		"reception/history/7.json", "reception/history/notes.json", "reception/history/0000.json", "reception/notes.txt"} {
		write(t, filepath.Join(dir, name), "{}")
	}
	agents, err := c.Agents(t.Context())
	if diff := cmp.Diff([]callhook.ConfigRef{reception}, agents); err != nil || diff != "" {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	if history, err := c.History(t.Context(), reception, 0); err != nil || len(history) != 1 {
		t.Errorf("history is %v, %v", history, err)
	}
	if err := c.Delete(t.Context(), reception); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, dir)["reception/notes.txt"]; got != "{}" {
		t.Error("Delete has removed what is not its own")
	}
}

func write(t testing.TB, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

// TestEditByHand: what people write, with whatever editor, is noticed within a
// second, and takes nothing down when it is wrong.
func TestEditByHand(t *testing.T) {
	text := func(zone string) string { return fmt.Sprintf(`{"timezone": %q}`, zone) }
	for name, edit := range map[string]func(t *testing.T, file, text string){
		"in place": func(t *testing.T, file, text string) { write(t, file, text) },
		"renamed over": func(t *testing.T, file, text string) {
			write(t, file+"~", text)
			if err := os.Rename(file+"~", file); err != nil {
				t.Fatal(err)
			}
		},
		"removed and written": func(t *testing.T, file, text string) {
			_ = os.Remove(file)
			time.Sleep(20 * time.Millisecond)
			write(t, file, text)
		},
		"in pieces": func(t *testing.T, file, text string) {
			for i := range text {
				write(t, file, text[:i])
				time.Sleep(100 * time.Millisecond)
			}
			write(t, file, text)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir, log := t.TempDir(), new(logged)
				file := filepath.Join(dir, "reception", "production.json")
				c := openDir(t, dir)
				write(t, file, text("Europe/Paris"))
				run(t, callhook.Options{Configs: c, Logger: log.logger()}, func(h *callhook.Hooks) {
					synctest.Wait()
					find := func(want string) {
						t.Helper()
						cfg, err := callhook.Find(t.Context(), h, reception)
						if err != nil || cfg.Timezone != want {
							t.Errorf("%+v, %v, want %s", cfg, err, want)
						}
					}
					for _, zone := range []string{"Europe/Paris", "Europe/Malta", "Europe/Sofia", "Europe/Minsk"} {
						edit(t, file, text(zone))
						time.Sleep(time.Second)
						synctest.Wait()
						find(zone)
					}
					edit(t, file, `{"timezone": "Europe/Rome"`) // it is not whole
					time.Sleep(time.Second)
					synctest.Wait()
					find("Europe/Minsk")
					if log.count("the last good one serves") == 0 {
						t.Error("nothing was told")
					}
					err := c.Check(t.Context())
					if ce, ok := errors.AsType[*callhook.ConfigError](err); !ok || ce.Source != file {
						t.Errorf("Check says %v, want what is wrong in %s", err, file)
					}
					time.Sleep(time.Hour)
					find("Europe/Minsk")
					edit(t, file, text("Europe/Rome"))
					time.Sleep(time.Second)
					synctest.Wait()
					find("Europe/Rome")
					if err := os.Remove(file); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Second)
					synctest.Wait()
					if _, err := callhook.Find(t.Context(), h, reception); !errors.Is(err, callhook.ErrNoConfig) {
						t.Errorf("after it was removed: %v", err)
					}
				})
			})
		})
	}
}

// TestDirGone: when the whole folder is gone, as when it is not mounted, the last
// good configs go on.
func TestDirGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, log := filepath.Join(t.TempDir(), "configs"), new(logged)
		c := openDir(t, dir)
		publish(t, c, zone("Europe/London"))
		run(t, callhook.Options{Configs: c, Logger: log.logger()}, func(h *callhook.Hooks) {
			synctest.Wait()
			if err := os.Rename(dir, dir+"2"); err != nil {
				t.Fatal(err)
			}
			for range 100 {
				time.Sleep(time.Second)
				if cfg, err := callhook.Find(t.Context(), h, reception); err != nil || cfg.Timezone != "Europe/London" {
					t.Fatalf("%+v, %v", cfg, err)
				}
			}
			if log.count("cannot be watched") != 1 {
				t.Error("it was not told, or more than once")
			}
			if err := os.Rename(dir+"2", dir); err != nil {
				t.Fatal(err)
			}
			publish(t, c, zone("Europe/Paris"))
			time.Sleep(6 * time.Second)
			if cfg, err := callhook.Find(t.Context(), h, reception); err != nil || cfg.Timezone != "Europe/Paris" {
				t.Errorf("%+v, %v", cfg, err)
			}
		})
	})
}

// TestDirSteps: whatever fails on the disk, at whatever step of publishing, it is
// told, production is one whole revision, nothing is left behind, and publishing
// again succeeds.
func TestDirSteps(t *testing.T) {
	for _, failure := range []error{syscall.ENOSPC, syscall.EROFS} {
		for n := 0; ; n++ {
			dir := t.TempDir()
			c := openDir(t, dir)
			publish(t, c, zone("Europe/London"))
			save(t, c, zone("Europe/Paris"))
			steps, failed := 0, ""
			callhook.OnStep(c, func(what string) error {
				if steps++; steps > n {
					failed = what
					return failure
				}
				return nil
			})
			_, err := c.Publish(t.Context(), reception, callhook.PublishOptions{})
			callhook.OnStep(c, nil)
			if failed == "" {
				if n < 8 {
					t.Fatalf("publishing takes %d steps only", n)
				}
				break
			}
			cfg, perr := c.Config(t.Context(), reception)
			if perr != nil {
				t.Fatalf("step %d, %s: production: %v", n, failed, perr)
			}
			if want := map[int]string{1: "Europe/London", 2: "Europe/Paris"}[cfg.Revision]; cfg.Timezone != want {
				t.Fatalf("step %d, %s: production is %+v", n, failed, cfg)
			}
			if err == nil && cfg.Revision != 2 || err != nil && !errors.Is(err, failure) {
				t.Fatalf("step %d, %s: production is %d, and the error %v", n, failed, cfg.Revision, err)
			}
			for name := range tree(t, dir) {
				if strings.HasSuffix(name, ".new") {
					t.Errorf("step %d, %s: %s is left", n, failed, name)
				}
			}
			r, err := c.Publish(t.Context(), reception, callhook.PublishOptions{})
			if errors.Is(err, callhook.ErrNoDraft) {
				continue // all but the sync of its removal
			}
			if err != nil || r.Config.Timezone != "Europe/Paris" {
				t.Fatalf("step %d, %s: publishing again: %+v, %v", n, failed, r, err)
			}
		}
	}
}

// TestDirReadOnly: a folder that can only be read serves, and says so when written.
func TestDirReadOnly(t *testing.T) {
	if os.Geteuid() <= 0 || runtime.GOOS == "windows" {
		t.Skip("this user may write everywhere")
	}
	dir := t.TempDir()
	publish(t, openDir(t, dir), zone("Europe/London"))
	if err := os.Remove(filepath.Join(dir, ".lock")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o777)
	c := openDir(t, dir)
	if cfg, err := c.Config(t.Context(), reception); err != nil || cfg.Timezone != "Europe/London" {
		t.Errorf("%+v, %v", cfg, err)
	}
	if _, err := c.SaveDraft(t.Context(), zone(""), ""); !errors.Is(err, os.ErrPermission) {
		t.Errorf("SaveDraft: %v", err)
	}
}

// TestOpenDirErrors: what cannot be opened.
func TestOpenDirErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	for _, dir := range []string{file, filepath.Join(file, "below"), "a\x00b"} {
		if _, err := callhook.OpenDir(dir); err == nil || !strings.HasPrefix(err.Error(), "callhook: ") {
			t.Errorf("%q: the error is %v", dir, err)
		}
	}
}

// TestDirMode: a file keeps the permissions that somebody gave it.
func TestDirMode(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files have no permissions")
	}
	c := openDir(t, t.TempDir())
	publish(t, c, zone("Europe/London"))
	file := callhook.FileOf(c, reception)
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	publish(t, c, zone("Europe/Paris"))
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v, want 0600", info.Mode(), err)
	}
}

const (
	crashDir  = "CALLHOOK_CRASH_DIR"
	crashStep = "CALLHOOK_CRASH_STEP"
)

// TestPublisher is the process that TestPublishCrash kills: it saves and publishes
// until it dies, by itself before a step that it is given.
func TestPublisher(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("it runs in another process")
	}
	c := openDir(t, dir)
	if at, err := strconv.Atoi(os.Getenv(crashStep)); err == nil {
		step := 0
		callhook.OnStep(c, func(string) error {
			if step++; step == at {
				p, _ := os.FindProcess(os.Getpid())
				_ = p.Kill()
				select {}
			}
			return nil
		})
	}
	fmt.Println("began")
	deadline := time.Now().Add(time.Minute)
	for i := 0; time.Now().Before(deadline); i++ {
		if err := publishNext(t.Context(), c); err != nil && !errors.Is(err, callhook.ErrConflict) && !errors.Is(err, callhook.ErrNoDraft) {
			t.Fatal(err)
		}
	}
}

// publishNext publishes a config that can be told to be whole: as many variables
// as the last one says.
func publishNext(ctx context.Context, c *callhook.Configs) error {
	_, version, err := c.Draft(ctx, reception)
	if err != nil && !errors.Is(err, callhook.ErrNoConfig) {
		return err
	}
	draft := zone("Europe/London")
	n := 1 + rand.IntN(40)
	note := fmt.Sprintf("%d variables, %x", n, rand.Int64())
	for i := range n {
		draft.Variables = append(draft.Variables, callhook.Variable{Name: fmt.Sprintf("v%d", i), Description: note})
	}
	if version, err = c.SaveDraft(ctx, draft, version); err != nil {
		return err
	}
	_, err = c.Publish(ctx, reception, callhook.PublishOptions{Author: fmt.Sprint(os.Getpid()), Note: note, Version: version})
	return err
}

// whole checks that production is one whole revision of history, and history whole.
func whole(t *testing.T, c *callhook.Configs) (production int) {
	t.Helper()
	history, err := c.History(t.Context(), reception, 0)
	if err != nil {
		t.Fatalf("history: %v", err)
	}
	said := map[int]*callhook.Revision{}
	for _, r := range history {
		said[r.Number] = r
		if n := len(r.Config.Variables); !strings.HasPrefix(r.Note, fmt.Sprintf("%d variables", n)) || r.Config.Variables[n-1].Description != r.Note {
			t.Errorf("revision %d has %d variables, and should have %s", r.Number, n, r.Note)
		}
	}
	cfg, err := c.Config(t.Context(), reception)
	switch {
	case errors.Is(err, callhook.ErrNoConfig):
		return 0
	case err != nil:
		t.Fatalf("production: %v", err)
	case said[cfg.Revision] == nil:
		t.Fatalf("production is revision %d, which history does not have", cfg.Revision)
	}
	if diff := cmp.Diff(said[cfg.Revision].Config, cfg); diff != "" {
		t.Errorf("production is not revision %d (-want +got)\n%s", cfg.Revision, diff)
	}
	if _, _, err := c.Draft(t.Context(), reception); err != nil {
		t.Errorf("draft: %v", err)
	}
	return cfg.Revision
}

// publisher starts the process that TestPublisher is.
func publisher(t *testing.T, dir string, step int) (wait, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestPublisher$")
	cmd.Env = append(os.Environ(), crashDir+"="+dir, fmt.Sprintf("%s=%d", crashStep, step))
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatalf("it did not begin: %v", err)
	}
	return func() { _ = cmd.Wait() }, func() { _ = cmd.Process.Kill() }
}

// TestPublishCrash: a publisher that dies between any two steps, and at any moment,
// leaves one whole revision in production, a whole history, and nothing that
// keeps the next one from publishing. CALLHOOK_CRASHES_CONFIG says how many rounds;
// 4 unless it is set.
func TestPublishCrash(t *testing.T) {
	rounds := 4
	if n, err := strconv.Atoi(os.Getenv("CALLHOOK_CRASHES_CONFIG")); err == nil {
		rounds = n
	}
	var c *callhook.Configs
	var dir string
	last, all := 0, 0
	for i := range rounds {
		if i%20 == 0 { // history is read whole each time
			dir, last, all = t.TempDir(), 0, all+last
			c = openDir(t, dir)
		}
		step := 0
		if i%2 == 1 {
			step = 1 + rand.IntN(60) // some 18 to a publish
		}
		wait, kill := publisher(t, dir, step)
		if step == 0 {
			time.AfterFunc(time.Duration(rand.IntN(60))*time.Millisecond, kill)
		}
		wait()
		now := whole(t, c)
		if now < last {
			t.Fatalf("round %d: production went from revision %d back to %d", i, last, now)
		}
		last = now
		if err := publishNext(t.Context(), c); err != nil {
			t.Fatalf("round %d: the next one cannot publish: %v", i, err)
		}
		if now := whole(t, c); now <= last {
			t.Fatalf("round %d: production is revision %d still", i, now)
		}
	}
	t.Logf("%d rounds, %d revisions", rounds, all+last)
}

// TestPublishTwoProcesses: two processes that publish at once, and this one, lose
// nothing: all that was published is in history, and the last is in production.
func TestPublishTwoProcesses(t *testing.T) {
	dir := t.TempDir()
	c := openDir(t, dir)
	waitA, killA := publisher(t, dir, 0)
	waitB, killB := publisher(t, dir, 0)
	won := 0
	for deadline := time.Now().Add(500 * time.Millisecond); time.Now().Before(deadline); {
		switch err := publishNext(t.Context(), c); {
		case err == nil:
			won++
		case !errors.Is(err, callhook.ErrConflict) && !errors.Is(err, callhook.ErrNoDraft):
			t.Fatal(err)
		}
		if cfg, err := c.Config(t.Context(), reception); err != nil && !errors.Is(err, callhook.ErrNoConfig) {
			t.Fatalf("production is %+v, %v", cfg, err)
		}
	}
	killA()
	killB()
	waitA()
	waitB()
	whole(t, c)
	history, err := c.History(t.Context(), reception, 0)
	if err != nil {
		t.Fatal(err)
	}
	mine := slices.DeleteFunc(history, func(r *callhook.Revision) bool { return r.Author != fmt.Sprint(os.Getpid()) })
	if len(mine) != won {
		t.Errorf("this process published %d, and %d are in history", won, len(mine))
	}
}

// manyAgents writes a folder with configs of n agents.
func manyAgents(t testing.TB, n int) string {
	t.Helper()
	dir := t.TempDir()
	sample, err := os.ReadFile(filepath.Join("examples", "config", "hubspot_call_log.json"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		cfg := parse(t, string(sample))
		cfg.TenantID, cfg.AgentID, cfg.Revision = "", fmt.Sprint("agent-", i), 1
		text, err := json.MarshalIndent(cfg, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, cfg.AgentID, "production.json"), string(text))
		write(t, filepath.Join(dir, cfg.AgentID, "history", "0001.json"), fmt.Sprintf(`{"revision": 1, "published_at": "2026-03-05T09:00:00Z", "config": %s}`, text))
	}
	return dir
}

// TestDirMany: Hooks knows a thousand agents within a second of Run.
func TestDirMany(t *testing.T) {
	const agents = 1000
	c := openDir(t, manyAgents(t, agents))
	h, err := callhook.New(callhook.Options{Configs: c})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	start := time.Now()
	go func() { ended <- h.Run(ctx) }()
	for callhook.AgentCount(h) < agents {
		time.Sleep(5 * time.Millisecond)
		if time.Since(start) > 30*time.Second {
			t.Fatalf("%d of %d agents are known", callhook.AgentCount(h), agents)
		}
	}
	took := time.Since(start)
	for i := range agents {
		cfg, err := callhook.Find(ctx, h, callhook.ConfigRef{Agent: fmt.Sprint("agent-", i)})
		if err != nil || cfg.Revision != 1 || len(cfg.PostCall) == 0 {
			t.Fatalf("agent %d: %+v, %v", i, cfg, err)
		}
	}
	t.Logf("%d agents in %s", agents, took)
	if took > 5*time.Second { // the budget is a second; this machine may be busy
		t.Errorf("%d agents took %s", agents, took)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// BenchmarkOpenDir1000: from OpenDir until Hooks knows a thousand agents, and what
// watching them costs. Budget: 1 s, and a publish is seen within one.
func BenchmarkOpenDir1000(b *testing.B) {
	const agents = 1000
	dir := manyAgents(b, agents)
	start := func(b *testing.B) (*callhook.Configs, *callhook.Hooks, func()) {
		c := openDir(b, dir)
		h, err := callhook.New(callhook.Options{Configs: c})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		ended := make(chan error, 1)
		go func() { ended <- h.Run(ctx) }()
		for callhook.AgentCount(h) < agents {
			time.Sleep(time.Millisecond)
		}
		return c, h, func() {
			cancel()
			<-ended
			_ = h.Close()
		}
	}
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			_, _, end := start(b)
			end()
		}
	})
	b.Run("look", func(b *testing.B) { // twice a second
		look := callhook.Looker(openDir(b, dir))
		for b.Loop() {
			if err := look(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("publish until seen", func(b *testing.B) {
		c, h, end := start(b)
		defer end()
		other := openDir(b, dir) // another process
		ref := callhook.ConfigRef{Agent: "agent-500"}
		for i := 0; b.Loop(); i++ {
			cfg, err := c.Config(b.Context(), ref)
			if err != nil {
				b.Fatal(err)
			}
			cfg.Variables = []callhook.Variable{{Name: fmt.Sprintf("v%d", i)}}
			revision := publish(b, other, cfg).Number
			for {
				cfg, err := callhook.Find(b.Context(), h, ref)
				if err != nil {
					b.Fatal(err)
				}
				if cfg.Revision == revision {
					break
				}
				time.Sleep(time.Millisecond)
			}
		}
	})
}
