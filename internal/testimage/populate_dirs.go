package testimage

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// directories makes small and middle ones, with the gaps deletions leave.
func (p *populator) directories() {
	p.mkdir("dirs", "empty")
	for i := range 3 {
		p.write(p.path("dirs", "empty", "..", fmt.Sprintf("three-%d", i)), nil)
	}
	many := [...]int{Rich: 60, Small: 8, Tiny: 2}[p.opt.Level]
	for i := range many {
		p.mkdir("dirs", "many", fmt.Sprintf("d%d", i))
	}
	p.sharedNames(p.mkdir("dirs", "linear"), [...]int{Rich: 30, Small: 12, Tiny: 4}[p.opt.Level])
	p.sharedNames(p.mkdir("dirs", "index"), [...]int{Rich: 300, Small: 80, Tiny: 6}[p.opt.Level])
	// Directories that fit inside an inode, and that did once.
	if p.opt.Level == Tiny {
		return
	}
	for n := range 9 {
		d := p.mkdir("dirs", fmt.Sprintf("inline-%d", n))
		for i := range n {
			p.must(os.Link(p.path("files", "linked"), filepath.Join(d, fmt.Sprintf("entry-%d", i))))
		}
	}
	d := p.mkdir("dirs", "holes")
	for i := range 60 {
		p.must(os.Link(p.path("files", "linked"), filepath.Join(d, fmt.Sprintf("gone-%d-%s", i, strings.Repeat("x", i%30)))))
	}
	for i := range 60 {
		if i%3 != 0 || i > 40 {
			p.must(os.Remove(filepath.Join(d, fmt.Sprintf("gone-%d-%s", i, strings.Repeat("x", i%30)))))
		}
	}
}

// sharedNames fills a directory with files of few inodes.
func (p *populator) sharedNames(d string, n int) {
	target := filepath.Join(d, "target")
	p.write(target, []byte("target"))
	for i := range n - 1 {
		p.must(os.Link(target, filepath.Join(d, fmt.Sprintf("Name-%d-%s", i, strings.Repeat("ä", i%20)))))
	}
	for i := 0; i < n-1; i += 7 {
		p.must(os.Remove(filepath.Join(d, fmt.Sprintf("Name-%d-%s", i, strings.Repeat("ä", i%20)))))
	}
}

// nesting goes deeper than a path name can say.
func (p *populator) nesting() {
	levels, name := 25, strings.Repeat("deep", 60)
	if p.opt.Level != Rich {
		levels, name = 6, "deep"
	}
	if p.opt.Staging && levels > 10 {
		levels = 10 // mke2fs goes by path names
	}
	fd, err := unix.Open(p.mkdir("nesting"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	p.must(err)
	for i := 0; i < levels && p.err == nil; i++ {
		p.must(unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		p.must(err)
		_ = unix.Close(fd)
		fd = next
	}
	if p.err == nil {
		f, err := unix.Openat(fd, "bottom", unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
		p.must(err)
		if err == nil {
			_ = unix.Close(f)
		}
	}
	_ = unix.Close(fd)
}

func (p *populator) bigDirectory() {
	p.must(FillDirectory(p.mkdir("big"), p.opt.BigDir))
}

// FillDirectory adds the names BigName(0) to BigName(n-1) to a directory
// quickly: most are further links to a few empty files.
func FillDirectory(dir string, n int) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	const perInode = 30_000 // below the 32,000 links of an ext2 inode
	var first string
	for i := range n {
		name := BigName(i)
		if i%perInode == 0 {
			first = name
			err = unix.Mknodat(fd, name, unix.S_IFREG|0o644, 0)
		} else {
			err = unix.Linkat(fd, first, fd, name, 0)
		}
		if err != nil {
			return &os.PathError{Op: "link", Path: filepath.Join(dir, name), Err: err}
		}
	}
	return nil
}

// BigName is the i-th name that FillDirectory makes.
func BigName(i int) string { return fmt.Sprintf("entry %07d", i) }
