package server

import (
	"errors"
	"fmt"
	"syscall"

	"ext4box/ext4"
	"ext4box/fuse"
)

// Lookup resolves a name. A name that is not there is an answer too, which the
// kernel keeps. "." of any inode and ".." of any directory come from NFS servers
// and open_by_handle_at(2), also for inodes that the kernel has forgotten.
func (s *Server) Lookup(r *fuse.Request, name string, out *fuse.EntryOut) syscall.Errno {
	ino := s.inode(r.NodeID)
	if name != "." {
		var err error
		ino, err = s.fs.Lookup(ino, name)
		if errors.Is(err, syscall.ENOENT) {
			if !s.respells {
				out.SetEntryValid(fuse.Forever)
			}
			return 0
		}
		if err != nil {
			return s.errno(r, err)
		}
	}
	if ino == ext4.RootIno && name != "." && name != ".." {
		return s.errno(r, errRootNamed(s.inode(r.NodeID), name))
	}
	err := s.entry(s.inode(r.NodeID), ino, out)
	if errors.Is(err, syscall.ESTALE) && name != "." {
		// A handle can be stale. A name that leads to no inode is damage, unless
		// it was removed meanwhile.
		if again, e := s.fs.Lookup(s.inode(r.NodeID), name); e == nil && again == ino {
			err = fmt.Errorf("the name %q leads to inode %d, which is not in use: %w", name, ino, syscall.EUCLEAN)
		}
	}
	return s.errno(r, err)
}

// errRootNamed is that a name in a directory leads to the root directory, which has none: to the kernel that
// would be a mistake of the server.
func errRootNamed(dir ext4.Ino, name string) error {
	return fmt.Errorf("the name %q in inode %d leads to the root directory: %w", name, dir, syscall.EUCLEAN)
}

// entry fills in the answer that introduces an inode to the kernel, which from
// then on knows it by a name in dir.
func (s *Server) entry(dir, ino ext4.Ino, out *fuse.EntryOut) error {
	if err := s.describe(ino, out); err != nil {
		return err
	}
	if s.respells {
		// To the kernel each spelling is a name of its own.
		if st, err := s.fs.Stat(dir); err != nil || st.Flags&ext4.FlagCasefold != 0 {
			out.SetEntryValid(0)
		}
	}
	if ino != ext4.RootIno {
		s.fs.Hold(ino)
	}
	return nil
}

// describe is entry without the lookup.
func (s *Server) describe(ino ext4.Ino, out *fuse.EntryOut) error {
	st, err := s.stat(ino)
	if err != nil {
		return err
	}
	if st.Nlink == 0 && !s.fs.Held(ino) {
		return syscall.ESTALE // deleted, waiting to be freed
	}
	out.NodeID = s.node(ino)
	out.Generation = uint64(s.versions.shown(ino, st.Generation))
	out.SetEntryValid(fuse.Forever)
	out.SetAttrValid(fuse.Forever)
	attr(&st, &out.Attr)
	if o := s.outside.Load(); o != nil {
		out.Attr.Flags = o.attrFlags(&st)
	}
	return nil
}

// Forget takes lookups back. The last one of an inode without a name deletes it.
func (s *Server) Forget(nodeid, nlookup uint64) {
	s.protection.forgotten(nodeid)
	if err := s.fs.Unhold(s.inode(nodeid), nlookup); err != nil {
		s.log.Error("delete an inode", "nodeid", nodeid, "error", err)
	}
}

// Readdir lists a directory.
func (s *Server) Readdir(r *fuse.Request, in *fuse.ReadIn, d *fuse.DirBuffer) syscall.Errno {
	return s.list(r, in, d, func(e *ext4.Dirent) bool {
		return d.Append(uint64(e.Ino), uint64(e.Next), uint32(e.Type), e.Name)
	})
}

// Readdirplus lists a directory with attributes. An entry whose inode cannot be
// read is listed without, so that one damaged file does not hide the others.
func (s *Server) Readdirplus(r *fuse.Request, in *fuse.ReadIn, d *fuse.DirBuffer) syscall.Errno {
	return s.list(r, in, d, func(e *ext4.Dirent) bool {
		out := d.AppendPlus(uint64(e.Ino), uint64(e.Next), uint32(e.Type), e.Name)
		if out == nil {
			return false
		}
		if name := string(e.Name); name == "." || name == ".." {
			return true // the kernel takes no lookups from these
		}
		err := errRootNamed(s.inode(r.NodeID), string(e.Name))
		if e.Ino != ext4.RootIno {
			err = s.entry(s.inode(r.NodeID), e.Ino, out)
		}
		if err != nil {
			*out = fuse.EntryOut{}
			s.errno(r, err) // logs it
		}
		return true
	})
}

func (s *Server) list(r *fuse.Request, in *fuse.ReadIn, d *fuse.DirBuffer, add func(*ext4.Dirent) bool) syscall.Errno {
	if in.Offset >= 1<<63 {
		return 0 // behind every entry
	}
	err := s.fs.ReadDir(s.inode(r.NodeID), int64(in.Offset), func(e ext4.Dirent) bool {
		return add(&e) && !r.Interrupted()
	})
	s.accessed(r, in.Flags, err == nil || d.Len() > 0)
	if err != nil && d.Len() > 0 {
		return 0 // what was read counts; the error comes with the next request
	}
	return s.errno(r, err)
}
