package sqlitequeue

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"
)

// SQLite writes a transaction to its write-ahead log page by page, each with a
// header of 24 bytes: two system calls for each page, and a transaction of some
// deliveries has a hundred. The file system below gathers them and writes them
// with one call when SQLite asks to have them on disk, which, synchronous being
// FULL, is before a commit counts. Of the database itself it clears what pages do not
// use, see pageFile. All other files are as they always are.

// The names of the file systems of queues: one that is not synced has its log written
// as it comes.
const (
	syncedFS   = "callhook-sqlitequeue"
	unsyncedFS = "callhook-sqlitequeue-unsynced"
)

var registerFS = sync.OnceFunc(func() {
	os := vfs.Find("os").(vfs.VFSFilename)
	vfs.Register(syncedFS, fileSystem{os, true})
	vfs.Register(unsyncedFS, fileSystem{os, false})
})

type fileSystem struct {
	vfs.VFSFilename
	gathers bool
}

func (fs fileSystem) OpenFilename(name *vfs.Filename, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	f, out, err := fs.VFSFilename.OpenFilename(name, flags)
	switch {
	case err != nil:
	case flags&vfs.OPEN_WAL != 0 && fs.gathers:
		f = &walFile{File: f}
	case flags&vfs.OPEN_MAIN_DB != 0:
		f = &pageFile{File: f}
	}
	return f, out, err
}

// faults, if set, is asked before so many bytes are written to a log, or none, before
// it is synced: for tests.
var faults atomic.Pointer[func(n int) error]

func inject(n int) error {
	if f := faults.Load(); f != nil {
		return noRoom((*f)(n))
	}
	return nil
}

// maxGathered bounds what a large transaction gathers.
const maxGathered = 1 << 20

// walFile is the log, of one connection.
type walFile struct {
	vfs.File
	gathered []byte
	off      int64 // of gathered in the file
}

func (w *walFile) WriteAt(p []byte, off int64) (int, error) {
	if len(w.gathered) > 0 && (off != w.off+int64(len(w.gathered)) || len(w.gathered) > maxGathered) {
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	if len(w.gathered) == 0 {
		w.off = off
	}
	w.gathered = append(w.gathered, p...)
	return len(p), nil
}

// flush writes what was gathered. What could not be written is of a transaction
// that fails by it, so it is forgotten.
func (w *walFile) flush() error {
	if len(w.gathered) == 0 {
		return nil
	}
	b := w.gathered
	w.gathered = b[:0]
	if cap(b) > 2*maxGathered {
		w.gathered = nil
	}
	if err := inject(len(b)); err != nil {
		return err
	}
	_, err := w.File.WriteAt(b, w.off)
	return noRoom(err)
}

// noRoom makes all ways in which a file system says that it is full one.
func noRoom(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EFBIG) || errors.Is(err, syscall.EDQUOT) {
		return vfs.SystemError(err, sqlite3.FULL)
	}
	return err
}

func (w *walFile) ReadAt(p []byte, off int64) (int, error) {
	if err := w.flush(); err != nil {
		return 0, err
	}
	return w.File.ReadAt(p, off)
}

func (w *walFile) Truncate(size int64) error {
	if err := w.flush(); err != nil {
		return err
	}
	return w.File.Truncate(size)
}

func (w *walFile) Sync(flags vfs.SyncFlag) error {
	if err := w.flush(); err != nil {
		return err
	}
	if err := inject(0); err != nil {
		return err
	}
	return w.File.Sync(flags)
}

func (w *walFile) Size() (int64, error) {
	if err := w.flush(); err != nil {
		return 0, err
	}
	return w.File.Size()
}

func (w *walFile) Close() error { return errors.Join(w.flush(), w.File.Close()) }
