package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// The kinds of images. All are sparse but the first.
const (
	// mainImage is written through once, so that no job pays for space that the file
	// system below has still to find.
	mainImage   = "main"
	imageClean8 = "clean-8GiB"
	imageHuge   = "sparse-16TiB"
	imageMany   = "many-files"
	imageFrag   = "fragments"
)

// largest is the largest file that ext4 keeps, the host often being that: 16 TiB but for a block.
const largest = 16<<40 - 4096

// makeImage makes an image. Inode tables and the journal are there from the beginning, where
// it is not too much: the kernel would else write them while others are measured.
func makeImage(path, kind string, quick bool) error {
	size := map[string]int64{mainImage: 4 << 30, imageClean8: 8 << 30, imageHuge: largest, imageMany: 8 << 30, imageFrag: 512 << 20}[kind]
	lazy, args := "0", []string(nil)
	switch kind {
	case mainImage:
		if quick {
			size /= 2
		}
	case imageHuge:
		lazy = "1"
	case imageMany:
		args = []string{"-N", "1300000"}
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return fmt.Errorf("an image of %d GiB: %w", size>>30, err)
	}
	args = append(args, "-q", "-F", "-t", "ext4", "-b", "4096", "-O", "64bit", "-E", "lazy_itable_init="+lazy+",lazy_journal_init="+lazy, path)
	if _, err := command("mke2fs", args...); err != nil {
		return err
	}
	if kind == mainImage {
		return rewrite(path, size)
	}
	return nil
}

// rewrite writes a file over with what it holds, past the cache where that is possible.
func rewrite(path string, size int64) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err == unix.EINVAL {
		fd, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	b, err := aligned(4 << 20)
	if err != nil {
		return err
	}
	defer unix.Munmap(b)
	for at := int64(0); at < size; at += int64(len(b)) {
		if _, err := f.ReadAt(b, at); err != nil && err != io.EOF {
			return err
		}
		if _, err := f.WriteAt(b, at); err != nil {
			return err
		}
	}
	return f.Sync()
}

// aligned is memory for direct I/O.
func aligned(n int) ([]byte, error) {
	return unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
}
