package tree

import (
	"context"
	"io/fs"
)

// Result counts what was copied.
type Result struct {
	Files    int64 // of all types
	Bytes    int64 // of data, without holes
	Problems int64 // files that were not copied, or not completely

	// Lost are attributes that the destination would not take, XattrError the
	// first reason.
	Lost       int64
	XattrError error
}

// Copy is what the visitors that copy have in common, whatever they copy to.
type Copy struct {
	Ctx    context.Context
	Result Result

	OnProblem  func(path string, err error)
	OnProgress func(files, bytes int64) // the sums; may be nil
}

// Problem implements [Visitor].
func (c *Copy) Problem(path string, err error) error {
	c.Result.Problems++
	c.OnProblem(path, err)
	return nil
}

// Progress counts files that were begun and data that was copied.
func (c *Copy) Progress(files, bytes int64) {
	c.Result.Files += files
	c.Result.Bytes += bytes
	if c.OnProgress != nil {
		c.OnProgress(c.Result.Files, c.Result.Bytes)
	}
}

// Visit is [Visitor].Enter: it makes the copy of a node with enterDir, which goes
// into a directory, or makeFile. What fails is a problem of that node, unless the
// context has ended.
func (c *Copy) Visit(n *Node, enterDir, makeFile func() error) error {
	if c.Ctx.Err() != nil {
		return context.Cause(c.Ctx)
	}
	c.Progress(1, 0)
	if n.Stat.IsDir() {
		if err := enterDir(); err != nil {
			c.Problem(n.Path, err)
			return fs.SkipDir
		}
		return nil
	}
	if err := makeFile(); err != nil {
		if c.Ctx.Err() != nil {
			return context.Cause(c.Ctx)
		}
		return c.Problem(n.Path, err)
	}
	return nil
}
