package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// fileJobs are those that make, find and read files.
func fileJobs() []series {
	script := func(s string) func(*env, string) (float64, error) {
		return func(e *env, dir string) (float64, error) { return 0, e.shell(s, dir) }
	}
	const (
		find = "find $2 -printf '%s' >/dev/null"
		cat  = "find $2 -type f -print0 | xargs -0 cat >/dev/null"
	)
	timed := func(name, class string, must, aim float64, s string) job {
		return job{name: name, class: class, must: must, aim: aim, unit: "s", run: script(s)}
	}
	cold := func(name, s string) job {
		j := timed(name, coldReads, 0.5, 0.9, s)
		j.cold = true
		return j
	}
	warmed := func(name, s string) job {
		j := timed(name, warm, 0.9, 1, s)
		j.before = warmUp
		return j
	}
	stat := warmed("stat-warm", "")
	stat.run = statAll
	return []series{
		{name: "tree", cost: 14,
			prepare: func(e *env, dir string) error { return e.shell("tar xf $1 -C $2", dir) },
			jobs: []job{
				cold("find-cold", find), cold("cat-cold", cat),
				warmed("find-warm", "for i in 1 2 3 4 5; do "+find+"; done"),
				warmed("grep-warm", "grep -r nothing-like-this $2 || :"),
				warmed("cat-warm", cat),
				stat,
			}},
		{name: "copies", fresh: true, chained: true, cost: 14, jobs: []job{
			timed("untar", trees, 0.35, 0.6, "mkdir $2/src && tar xf $1 -C $2/src"),
			timed("cp-a", trees, 0.35, 0.6, "cp -a $2/src $2/copy"),
			timed("rm-rf", trees, 0.35, 0.6, "rm -rf $2/src $2/copy"),
		}},
		{name: "git", prepare: repository, cost: 14, jobs: []job{
			timed("git-checkout", trees, 0.35, 0.6, "cd $2/src && git checkout -q one && git checkout -q main"),
			warmed("git-status", "cd $2/src && git status --porcelain >/dev/null"),
		}},
		nameJobs("", 10_000, 1, 11),
		nameJobs("-many-dirs", 10_000, 100, 6),
		{name: "writers", fresh: true, cost: 5, jobs: []job{{name: "create-16-writers", class: names, must: 0.4, aim: 0.7, unit: "s", run: writers}}},
	}
}

// nameJobs make, look at, rename and remove n empty files in a number of directories.
func nameJobs(suffix string, n, dirs int, cost float64) series {
	s := series{name: "names" + suffix, fresh: true, chained: true, cost: cost}
	for _, op := range nameOps {
		j := job{name: op.name + suffix, class: names, must: 0.4, aim: 0.7, unit: "s",
			run: func(e *env, dir string) (float64, error) { return 0, op.run(e, dir, e.scale(n), dirs) }}
		if op.warm {
			j.class, j.must, j.aim = warm, 0.9, 1
			j.before = warmUp
		}
		if op.name == "create" {
			j.before = func(e *env, dir string) error { return makeDirs(dir, dirs) }
		}
		s.jobs = append(s.jobs, j)
	}
	return s
}

// nameOp is done to n files in a number of directories.
type nameOp struct {
	name   string
	passes int // how often it is done to each file
	warm   bool
	file   func(name string) error
}

func (o *nameOp) run(e *env, dir string, n, dirs int) error {
	for range o.passes {
		if err := e.each(n, func(i int) error { return o.file(numbered(dir, i, dirs)) }); err != nil {
			return err
		}
	}
	return nil
}

// nameOps are in an order in which each finds the files that it needs.
var nameOps = []*nameOp{
	{name: "create", passes: 1, file: create},
	{name: "stat", passes: 4, warm: true, file: func(name string) error { _, err := os.Lstat(name); return err }},
	{name: "rename", passes: 1, file: func(name string) error { return os.Rename(name, name+renamed) }},
	{name: "unlink", passes: 1, file: func(name string) error { return os.Remove(name + renamed) }},
}

const renamed = ".new"

func makeDirs(dir string, n int) error {
	for d := range n {
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprint("d", d)), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func numbered(dir string, i, dirs int) string {
	return fmt.Sprintf("%s/d%d/file-%07d", dir, i%dirs, i)
}

func create(name string) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// writers makes small files in 16 directories at once.
func writers(e *env, dir string) (float64, error) {
	errs := make([]error, 16)
	var wg sync.WaitGroup
	for w := range errs {
		sub := filepath.Join(dir, fmt.Sprint("writer-", w))
		wg.Go(func() {
			if errs[w] = os.Mkdir(sub, 0o755); errs[w] == nil {
				errs[w] = e.each(e.scale(1000), func(i int) error {
					return os.WriteFile(filepath.Join(sub, fmt.Sprint("file-", i)), make([]byte, 4096), 0o644)
				})
			}
		})
	}
	wg.Wait()
	return 0, errors.Join(errs...)
}

// warmUp has everything in the kernel's caches.
func warmUp(e *env, dir string) error {
	return e.shell("find $2 -printf '%s' >/dev/null; find $2 -type f -print0 | xargs -0 cat >/dev/null", dir)
}

func statAll(e *env, dir string) (float64, error) {
	return 0, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			for range 4 {
				_, err = os.Lstat(path)
			}
		}
		return err
	})
}

// repository is a work tree of git with a second branch, in which a third of the files differs.
func repository(e *env, dir string) error {
	return e.shell(`mkdir -p $2/src && tar xf $1 -C $2/src && cd $2/src &&
		git init -q -b main && git config user.name bench && git config user.email bench@localhost && git config gc.auto 0 &&
		git add -A . && git commit -q -m one && git checkout -q -b one &&
		find . -path ./.git -prune -o -type f -name '*[a-h].go' -print0 | xargs -0 sed -i '1i // changed' &&
		git commit -q -a -m two && git checkout -q main`, dir)
}
