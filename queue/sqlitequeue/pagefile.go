package sqlitequeue

import (
	"encoding/binary"

	"github.com/ncruces/go-sqlite3/util/vfsutil"
	"github.com/ncruces/go-sqlite3/vfs"
)

// SQLite overwrites what it deletes (secure_delete) where it lies then. But a row
// moves when pages of a table or an index are split or joined, and where it lay
// before its bytes stay, in the unused middle of a page, until something else is
// written over them. Nobody reads them, so whoever searches the file for somebody who
// was erased finds them long after. They are cleared on their way from the log into
// the database.

// pageFile is the database.
type pageFile struct {
	vfs.File
	page [pageSize]byte
}

func (f *pageFile) WriteAt(p []byte, off int64) (int, error) {
	if len(p) != pageSize || off%pageSize != 0 {
		return f.File.WriteAt(p, off)
	}
	copy(f.page[:], p)
	clearUnused(&f.page, off/pageSize+1)
	return f.File.WriteAt(f.page[:], off)
}

// The kinds of pages that tables and indexes are made of, by their first byte:
// https://www.sqlite.org/fileformat2.html#b_tree_pages.
const (
	interiorIndex = 2
	interiorTable = 5
	leafIndex     = 10
	leafTable     = 13
)

// clearUnused clears what a page of a table or an index does not use: what lies
// between its list of cells and the first of them, and the free blocks among them. A
// page that makes no sense stays as it is.
func clearUnused(p *[pageSize]byte, number int64) {
	const perMap = pageSize/5 + 1 // a pointer map, and the pages that it is about
	if number > 1 && (number-2)%perMap == 0 {
		return
	}
	header, head := 0, 8
	if number == 1 {
		header = 100 // of the database
	}
	switch p[header] {
	case interiorIndex, interiorTable:
		head = 12
	case leafIndex, leafTable:
	default: // free, or a part of what is too long for a page
		return
	}
	at := func(i int) int { return int(binary.BigEndian.Uint16(p[i:])) }
	from, to := header+head+2*at(header+3), at(header+5)
	if to == 0 || to > pageSize || from > to {
		return
	}
	clear(p[from:to])
	for block := at(header + 1); block != 0; {
		if block < to || block+4 > pageSize {
			return
		}
		next, size := at(block), at(block+2)
		if size < 4 || block+size > pageSize || next != 0 && next < block+size {
			return
		}
		clear(p[block+4 : block+size])
		block = next
	}
}

func (f *pageFile) SharedMemory() vfs.SharedMemory { return vfsutil.WrapSharedMemory(f.File) }
func (f *pageFile) LockState() vfs.LockLevel       { return vfsutil.WrapLockState(f.File) }
func (f *pageFile) PersistWAL() bool               { return vfsutil.WrapPersistWAL(f.File) }
func (f *pageFile) SetPersistWAL(keep bool)        { vfsutil.WrapSetPersistWAL(f.File, keep) }
func (f *pageFile) PowersafeOverwrite() bool       { return vfsutil.WrapPowersafeOverwrite(f.File) }
func (f *pageFile) SetPowersafeOverwrite(on bool)  { vfsutil.WrapSetPowersafeOverwrite(f.File, on) }
func (f *pageFile) SizeHint(size int64) error      { return vfsutil.WrapSizeHint(f.File, size) }
func (f *pageFile) HasMoved() (bool, error)        { return vfsutil.WrapHasMoved(f.File) }
func (f *pageFile) Unwrap() vfs.File               { return f.File }

var (
	_ vfs.FileSharedMemory       = (*pageFile)(nil)
	_ vfs.FileLockState          = (*pageFile)(nil)
	_ vfs.FilePersistWAL         = (*pageFile)(nil)
	_ vfs.FilePowersafeOverwrite = (*pageFile)(nil)
	_ vfs.FileSizeHint           = (*pageFile)(nil)
	_ vfs.FileHasMoved           = (*pageFile)(nil)
	_ vfs.FileUnwrap             = (*pageFile)(nil)
)
