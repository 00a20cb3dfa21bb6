package ext4

import (
	"strings"
	"syscall"
)

// maxLinks is the number of symbolic links that a path may lead through, as in
// the kernel.
const maxLinks = 40

// maxSteps is the number of names that a path may have with all its links: more
// than a path of the greatest length has.
const maxSteps = 4096

// Resolve walks a slash-separated path from the root directory. Symbolic links
// on the way are followed inside the filesystem, the last one is not, unless a
// slash follows it. A leading slash is optional. Errors: those of Lookup, and
// ELOOP.
func (fs *FS) Resolve(path string) (Ino, error) { return fs.resolve(path, false) }

// ResolveFollow is Resolve, but follows a symbolic link at the end too.
func (fs *FS) ResolveFollow(path string) (Ino, error) { return fs.resolve(path, true) }

// ResolveParent walks to the directory that holds the last name of a path, and
// returns both. Whether there is such a name it does not look. Slashes at the
// end are ignored. EINVAL: the path ends with "." or "..", or names the root.
func (fs *FS) ResolveParent(path string) (dir Ino, name string, err error) {
	path = strings.TrimRight(path, "/")
	at := strings.LastIndexByte(path, '/') + 1
	if name = path[at:]; name == "" || name == "." || name == ".." {
		return 0, "", syscall.EINVAL
	}
	dir, err = fs.ResolveFollow(path[:at])
	return dir, name, err
}

func (fs *FS) resolve(path string, follow bool) (Ino, error) {
	at := RootIno
	links, steps, read := 0, 0, uint64(0)
	for path != "" {
		name, rest, slash := strings.Cut(path, "/")
		path = rest
		if name == "" {
			continue
		}
		if steps++; steps > maxSteps {
			return 0, syscall.ENAMETOOLONG
		}
		ino, n, err := fs.lookupIn(at, name)
		if err != nil {
			return 0, err
		}
		if read += n; read > maxRead && links > 0 {
			return 0, syscall.ENAMETOOLONG
		}
		st, err := fs.Stat(ino)
		if err != nil {
			return 0, err
		}
		if !st.IsSymlink() || !slash && !follow {
			if slash && !st.IsDir() {
				return 0, syscall.ENOTDIR
			}
			at = ino
			continue
		}
		if links++; links > maxLinks {
			return 0, syscall.ELOOP
		}
		target, err := fs.Readlink(ino)
		if err != nil {
			return 0, err
		}
		if strings.HasPrefix(target, "/") {
			at = RootIno
		}
		if path = target; slash {
			path += "/" + rest
		}
		if len(path) > 1<<16 {
			return 0, syscall.ENAMETOOLONG
		}
	}
	return at, nil
}
