package callhook

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/callhook-go/callhook/internal/filelock"
)

// OpenDir returns configs that are plain JSON files in a folder, which people may
// read, keep in git and edit by hand. The folder is created if there is none; one
// that can only be read serves too.
//
//	configs/reception/draft.json         the draft, like the files that LoadConfig reads
//	configs/reception/production.json    what calls use, written like the draft
//	configs/reception/history/0007.json  revision 7: when, by whom, why, and the config
//	configs/@acme/reception/…            the same of tenant acme's agent
//
// In names everything but A-Z, a-z, 0-9, _, - and a dot within is written as its
// bytes in UTF-8, each as % and two hexadecimal digits: agent "Front desk" is
// Front%20desk. So is the first letter of names that Windows keeps for itself, like
// con.
//
// A file is written beside its place, synced and renamed, so that a reader sees
// the old or the new one, whatever happens; then its folder is synced. Processes
// take turns at writing with a lock (flock, or LockFileEx) on the file .lock, which
// ends with its process. Where a system has neither, configs can only be read.
//
// Changes by hand are noticed within a second while [Hooks.Run] is under way, which
// looks at the times and sizes of the production.json files, twice a second; 1,000
// agents cost some 3 ms of one processor each time. One that cannot be used takes
// nothing down: the last good config goes on, or after a restart the newest
// revision that can be used, and [Options.Logger] and [Configs.Check] tell the
// fault.
func OpenDir(dir string) (*Configs, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o777)
	}
	if err == nil {
		_, err = os.ReadDir(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("callhook: configs: %w", err)
	}
	return &Configs{Store: &dirStore{dir: dir}}, nil
}

// dirStore keeps documents in files.
type dirStore struct {
	dir   string
	bells bells
	// step is called before each change of the disk; an error is as if that had
	// failed. Nil but in tests.
	step func(what string) error
}

const (
	lockFile = ".lock"
	// lockTimeout bounds how long a write waits for others.
	lockTimeout = 10 * time.Second
	// maxDocument bounds what is read of a file.
	maxDocument = 8 * maxConfigBytes
	// dirPause is the time between two looks at the files.
	dirPause = 500 * time.Millisecond
	// dirUnsure is how long after a change a file is read each time, since its time
	// may not tell the next change from this one.
	dirUnsure = 2 * time.Second
	// dirBlink is how long a file may be gone while an editor replaces it.
	dirBlink = 50 * time.Millisecond
)

// file returns where a document is.
func (s *dirStore) file(ref ConfigRef) string {
	name := fmt.Sprintf("history/%04d.json", ref.Revision)
	switch ref.Revision {
	case Draft:
		name = "draft.json"
	case Production:
		name = "production.json"
	}
	return filepath.Join(s.agentDir(ref), filepath.FromSlash(name))
}

func (s *dirStore) agentDir(ref ConfigRef) string {
	if ref.Tenant == "" {
		return filepath.Join(s.dir, escapeName(ref.Agent))
	}
	return filepath.Join(s.dir, "@"+escapeName(ref.Tenant), escapeName(ref.Agent))
}

// Get reads a file. No lock is needed: it is replaced whole.
func (s *dirStore) Get(ctx context.Context, ref ConfigRef) ([]byte, string, error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	file := s.file(ref)
	doc, version, err := s.read(file)
	if err == nil && version == "" && ref.Revision == Production {
		if dir, err := os.Stat(filepath.Dir(file)); err == nil && time.Since(dir.ModTime()) < dirUnsure {
			// Some editors, and git, remove a file before they write it anew.
			pause := time.NewTimer(dirBlink)
			defer pause.Stop()
			select {
			case <-pause.C:
			case <-ctx.Done():
				return nil, "", ctx.Err()
			}
			return s.read(file)
		}
	}
	return doc, version, err
}

func (s *dirStore) read(file string) (doc []byte, version string, err error) {
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
		return nil, "", fmt.Errorf("%s is not a file: %s", file, info.Mode().Type()) // opening a pipe may never end
	}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(s.dir); err != nil {
			return nil, "", err // the folder is gone, not the agent
		}
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	doc, err = io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err != nil {
		return nil, "", err
	}
	if len(doc) > maxDocument {
		return nil, "", fmt.Errorf("%s has more than %d bytes", file, maxDocument)
	}
	sum := sha256.Sum256(doc)
	return doc, hex.EncodeToString(sum[:12]), nil
}

func (s *dirStore) Put(ctx context.Context, ref ConfigRef, doc []byte, version string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return "", err
	}
	unlock, err := filelock.Lock(ctx, filepath.Join(s.dir, lockFile))
	if err != nil {
		return "", err
	}
	defer unlock()
	file := s.file(ref)
	_, now, err := s.read(file)
	switch {
	case err != nil:
		return "", err
	case now != version:
		return "", ErrConflict
	}
	if ref.Revision == Production {
		defer s.bells.ring(ref) // also after an error: it may be there
	}
	if doc == nil {
		return "", s.remove(file)
	}
	if now == "" {
		if err := s.makeDir(filepath.Dir(file)); err != nil {
			return "", err
		}
	}
	if err := s.write(file, doc); err != nil {
		return "", err
	}
	sum := sha256.Sum256(doc)
	return hex.EncodeToString(sum[:12]), nil
}

// about says what is about to happen to the disk.
func (s *dirStore) about(what string) error {
	if s.step == nil {
		return nil
	}
	return s.step(what)
}

// write replaces a file. Whoever calls it holds the lock.
func (s *dirStore) write(file string, doc []byte) (err error) {
	dir, mode := filepath.Dir(file), fs.FileMode(0o666)
	old, err := os.Stat(file)
	if err == nil {
		mode = old.Mode().Perm()
	}
	// Whoever died before the rename has left one behind, of this name.
	temp := filepath.Join(dir, "."+filepath.Base(file)+".new")
	if err := s.about("create"); err != nil {
		return err
	}
	os.Remove(temp)
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	renamed := false
	defer func() {
		f.Close()
		if !renamed {
			os.Remove(temp)
		}
	}()
	if err := s.about("write"); err != nil {
		return err
	}
	if _, err := f.Write(doc); err != nil {
		return err
	}
	if old != nil {
		_ = f.Chmod(mode) // whatever the umask: the owner has chosen
	}
	if err := s.about("sync"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := s.about("rename"); err != nil {
		return err
	}
	if err := rename(temp, file); err != nil {
		return err
	}
	renamed = true
	return s.syncDir(dir)
}

// rename replaces a file. On Windows it fails while somebody reads it.
func rename(from, to string) error {
	err := os.Rename(from, to)
	for i := 0; err != nil && runtime.GOOS == "windows" && i < 50; i++ {
		time.Sleep(10 * time.Millisecond)
		err = os.Rename(from, to)
	}
	return err
}

// syncDir makes what was renamed in a folder, or removed, durable.
func (s *dirStore) syncDir(dir string) error {
	if err := s.about("sync folder"); err != nil {
		return err
	}
	if runtime.GOOS == "windows" { // which cannot
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// makeDir creates a folder inside of s.dir, durably. It refuses one that this file
// system takes for another, of another case.
func (s *dirStore) makeDir(dir string) error {
	if dir == s.dir {
		return nil
	}
	parent := filepath.Dir(dir)
	if err := s.makeDir(parent); err != nil {
		return err
	}
	if err := s.about("make folder"); err != nil {
		return err
	}
	err := os.Mkdir(dir, 0o777)
	switch {
	case err == nil:
		return s.syncDir(parent)
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	all, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, e := range all {
		if e.Name() == filepath.Base(dir) {
			return nil
		}
	}
	return fmt.Errorf("%s: this file system does not tell it from another folder there, whose name differs in its case", dir)
}

// remove removes a file, and folders that are empty then.
func (s *dirStore) remove(file string) error {
	if err := s.about("remove"); err != nil {
		return err
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir := filepath.Dir(file)
	for dir != s.dir && os.Remove(dir) == nil {
		dir = filepath.Dir(dir)
	}
	return s.syncDir(dir)
}

func (s *dirStore) List(ctx context.Context) ([]ConfigRef, error) {
	var refs []ConfigRef
	err := s.walk(ctx, func(ref ConfigRef, dir string) {
		for _, name := range []string{"production.json", "draft.json"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				refs = append(refs, ref)
				return
			}
		}
	})
	return refs, err
}

// walk calls f for each folder that may be an agent's.
func (s *dirStore) walk(ctx context.Context, f func(ref ConfigRef, dir string)) error {
	all, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		dir := filepath.Join(s.dir, e.Name())
		escaped, tenants := strings.CutPrefix(e.Name(), "@")
		name, ok := unescapeName(escaped)
		switch {
		case !ok || e.Type().IsRegular():
		case !tenants:
			f(ConfigRef{Agent: name}, dir)
		default:
			agents, err := os.ReadDir(dir)
			if err != nil {
				return err
			}
			for _, a := range agents {
				if agent, ok := unescapeName(a.Name()); ok && !a.Type().IsRegular() {
					f(ConfigRef{Tenant: name, Agent: agent}, filepath.Join(dir, a.Name()))
				}
			}
		}
	}
	return nil
}

func (s *dirStore) Revisions(ctx context.Context, ref ConfigRef) ([]int, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	all, err := os.ReadDir(filepath.Join(s.agentDir(ref), "history"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var numbers []int
	for _, e := range all {
		n, err := strconv.Atoi(strings.TrimSuffix(e.Name(), ".json"))
		if err == nil && n > 0 && e.Name() == fmt.Sprintf("%04d.json", n) {
			numbers = append(numbers, n)
		}
	}
	return numbers, nil
}

// seen is a file as it was seen last.
type seen struct {
	fs.FileInfo
	unsure time.Time // until when its time tells nothing
}

func (s *dirStore) Watch(ctx context.Context, changed func(ConfigRef)) error {
	b := s.bells.listen()
	defer s.bells.leave(b)
	files := map[ConfigRef]seen{}
	if err := s.look(ctx, files, func(ConfigRef) {}); err != nil {
		return unlessEnded(ctx, err)
	}
	changed(ConfigRef{})
	for {
		pause := time.NewTimer(dirPause)
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil
		case <-b.rings:
			for _, ref := range b.heard() {
				changed(ref)
			}
		case <-pause.C:
			if err := s.look(ctx, files, changed); err != nil {
				return unlessEnded(ctx, err)
			}
		}
		pause.Stop()
	}
}

func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// look looks at what is in production, and compares it with what files says, which
// it brings up to date.
func (s *dirStore) look(ctx context.Context, files map[ConfigRef]seen, changed func(ConfigRef)) error {
	now, found := time.Now(), map[ConfigRef]bool{}
	var news []ConfigRef
	err := s.walk(ctx, func(ref ConfigRef, dir string) {
		info, err := os.Stat(filepath.Join(dir, "production.json"))
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		found[ref] = true
		was, known := files[ref]
		if err != nil {
			return // it cannot be seen: nothing is known to have changed
		}
		fresh := !known || !info.ModTime().Equal(was.ModTime()) || info.Size() != was.Size() || !os.SameFile(info, was.FileInfo)
		switch {
		case fresh && (known || now.Sub(info.ModTime()).Abs() < dirUnsure):
			was.unsure = now.Add(dirUnsure)
		case !fresh && now.After(was.unsure):
			return
		}
		files[ref] = seen{info, was.unsure}
		news = append(news, ref)
	})
	if err != nil {
		return err
	}
	for ref := range files {
		if !found[ref] {
			delete(files, ref)
			news = append(news, ref)
		}
	}
	for _, ref := range news {
		if ctx.Err() != nil {
			return nil
		}
		changed(ref)
	}
	return nil
}

// escapeName writes a name so that every file system takes it: see OpenDir.
func escapeName(name string) string {
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-':
		case c == '.' && 0 < i && i < len(name)-1:
		default:
			fmt.Fprintf(&b, "%%%02X", c)
			continue
		}
		b.WriteByte(c)
	}
	s := b.String()
	if first, _, _ := strings.Cut(strings.ToLower(s), "."); reservedName(first) {
		return fmt.Sprintf("%%%02X", s[0]) + s[1:]
	}
	return s
}

// reservedName reports whether Windows does not take it, or it and an extension,
// as the name of a file.
func reservedName(lower string) bool {
	switch lower {
	case "con", "prn", "aux", "nul":
		return true
	}
	device, number := "", ""
	if len(lower) == 4 {
		device, number = lower[:3], lower[3:]
	}
	return (device == "com" || device == "lpt") && number >= "0" && number <= "9"
}

// unescapeName is the reverse of escapeName. It reports whether that has written
// the name.
func unescapeName(escaped string) (name string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(escaped); i++ {
		c := escaped[i]
		if c == '%' {
			if i+3 > len(escaped) {
				return "", false
			}
			n, err := strconv.ParseUint(escaped[i+1:i+3], 16, 8)
			if err != nil {
				return "", false
			}
			c = byte(n)
			i += 2
		}
		b.WriteByte(c)
	}
	name = b.String()
	return name, name != "" && escapeName(name) == escaped
}
