package ext4_test

import (
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"time"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/internal/testimage"
)

// newImage makes an empty file system, and returns its path.
func newImage() (path string, remove func()) {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	path = filepath.Join(dir, "disk.img")
	if err := testimage.Mke2fs(path, 16<<20, "-t", "ext4"); err != nil {
		log.Fatal(err)
	}
	return path, func() { os.RemoveAll(dir) }
}

// Making and editing files by their paths.
func Example_edit() {
	image, remove := newImage()
	defer remove()

	dev, err := blockdev.Open(image, blockdev.Options{Lock: blockdev.LockExclusive})
	if err != nil {
		log.Fatal(err)
	}
	fsys, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		dev.Close()
		log.Fatal(err)
	}
	if reason := fsys.ReadOnlyReason(); reason != "" {
		log.Fatal("cannot be changed: ", reason)
	}
	root := fsys.FS()
	steps := []error{
		root.MkdirAll("srv/www", 0o755),
		root.WriteFile("srv/www/index.html", []byte("<h1>hello</h1>\n"), 0o644),
		root.Symlink("index.html", "srv/www/default"),
		root.Chown("srv/www/index.html", 33, 33),
		root.Chtimes("srv/www/index.html", time.Time{}, time.Unix(1e9, 0)),
		root.RemoveAll("lost+found"),
	}
	for _, err := range steps {
		if err != nil {
			log.Fatal(err)
		}
	}
	err = fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Println(info.Mode(), info.Sys().(*ext4.Stat).UID, path)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Until Close or Sync returns, a crash may undo what was done last.
	if err := fsys.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// drwxr-xr-x 0 .
	// drwxr-xr-x 0 srv
	// drwxr-xr-x 0 srv/www
	// Lrwxrwxrwx 0 srv/www/default
	// -rw-r--r-- 33 srv/www/index.html
}

// The same by inode numbers, which have what paths do not: devices, attributes,
// flags and holes.
func Example_inodes() {
	image, remove := newImage()
	defer remove()

	dev, err := blockdev.Open(image, blockdev.Options{Lock: blockdev.LockExclusive})
	if err != nil {
		log.Fatal(err)
	}
	fsys, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		dev.Close()
		log.Fatal(err)
	}
	defer fsys.Close()

	// A file that appears under its name only when it is complete.
	ino, err := fsys.Tmpfile(ext4.RootIno, ext4.NewNode{Mode: 0o600, UID: 1000, GID: 1000})
	if err != nil {
		log.Fatal(err)
	}
	defer fsys.Unhold(ino, 1)
	if _, err := fsys.WriteAt(ino, []byte("behind a hole"), 1<<20); err != nil {
		log.Fatal(err)
	}
	if err := fsys.Setxattr(ino, "user.origin", []byte("example"), ext4.XattrCreate); err != nil {
		log.Fatal(err)
	}
	if err := fsys.Link(ino, ext4.RootIno, "sparse"); err != nil {
		log.Fatal(err)
	}
	if err := fsys.Fsync(ino); err != nil {
		log.Fatal(err)
	}

	st, err := fsys.Stat(ino)
	if err != nil {
		log.Fatal(err)
	}
	data, err := fsys.Seek(ino, 0, ext4.SeekData)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(st.Size, "bytes, data from", data)
	// Output: 1048589 bytes, data from 1048576
}
