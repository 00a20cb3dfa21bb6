package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// fileJobs are those that count by the time they take.
func fileJobs() []job {
	tree := func(e *env, dir string) error {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		return shell("tar xf $1 -C $2", e.tar, dir)
	}
	const src = "/src"
	script := func(s string) func(*env, string) (float64, error) {
		return func(e *env, dir string) (float64, error) { return 0, shell(s, e.tar, dir) }
	}
	all := []job{
		{name: "find-cold", class: coldReads, must: 0.5, aim: 0.9, cold: true, prepare: tree, run: script("find $2 -printf '%s' >/dev/null")},
		{name: "cat-cold", class: coldReads, must: 0.5, aim: 0.9, cold: true, prepare: tree, run: script("find $2 -type f -print0 | xargs -0 cat >/dev/null")},
		{name: "find-warm", class: warm, must: 0.9, aim: 1, prepare: tree, before: warmUp, run: script("for i in 1 2 3 4 5; do find $2 -printf '%s' >/dev/null; done")},
		{name: "grep-warm", class: warm, must: 0.9, aim: 1, prepare: tree, before: warmUp, run: script("grep -r nothing-like-this $2 || :")},
		{name: "cat-warm", class: warm, must: 0.9, aim: 1, prepare: tree, before: warmUp, run: script("find $2 -type f -print0 | xargs -0 cat >/dev/null")},
		{name: "stat-warm", class: warm, must: 0.9, aim: 1, prepare: tree, before: warmUp, run: statAll},
		{name: "untar", class: trees, must: 0.35, aim: 0.6, fresh: true, run: script("tar xf $1 -C $2")},
		{name: "cp-a", class: trees, must: 0.35, aim: 0.6, prepare: func(e *env, dir string) error { return tree(e, dir+src) },
			before: func(_ *env, dir string) error { return os.RemoveAll(dir + "/copy") }, run: script("cp -a $2/src $2/copy")},
		{name: "rm-rf", class: trees, must: 0.35, aim: 0.6, fresh: true,
			before: func(e *env, dir string) error { return errors.Join(tree(e, dir+src), shell("sync -f $2", "", dir)) },
			run:    script("rm -rf $2/src")},
		{name: "git-checkout", class: trees, must: 0.35, aim: 0.6, prepare: repository, run: script(
			"cd $2/src && git checkout -q one && git checkout -q main")},
		{name: "git-status", class: warm, must: 0.9, aim: 1, prepare: repository, before: warmUp, run: script("cd $2/src && git status --porcelain >/dev/null")},
	}
	all = append(all, nameJobs("", 10_000, 1)...)
	all = append(all, nameJobs("-many-dirs", 10_000, 100)...)
	for _, j := range nameJobs("-1M", 1_000_000, 1) {
		j.slow = true
		all = append(all, j)
	}
	return append(all, job{name: "create-16-writers", class: names, must: 0.4, aim: 0.7, fresh: true, run: func(e *env, dir string) (float64, error) {
		return 0, parallel(16, func(w int) error {
			sub := filepath.Join(dir, fmt.Sprint("writer-", w))
			if err := os.Mkdir(sub, 0o755); err != nil {
				return err
			}
			return each(e.scale(1000), func(i int) error {
				return os.WriteFile(filepath.Join(sub, fmt.Sprint("file-", i)), make([]byte, 4096), 0o644)
			})
		})
	}})
}

// nameJobs make, look at, rename and remove n empty files in a number of directories.
func nameJobs(suffix string, n, dirs int) []job {
	make := func(e *env, dir string) error {
		for d := range dirs {
			if err := os.MkdirAll(filepath.Join(dir, fmt.Sprint("d", d)), 0o755); err != nil {
				return err
			}
		}
		return each(e.scale(n), func(i int) error { return create(numbered(dir, i, dirs)) })
	}
	run := func(f func(name string) error) func(*env, string) (float64, error) {
		return func(e *env, dir string) (float64, error) {
			return 0, each(e.scale(n), func(i int) error { return f(numbered(dir, i, dirs)) })
		}
	}
	j := func(what, class string, must, aim float64) job {
		return job{name: what + suffix, class: class, must: must, aim: aim, fresh: true, before: make}
	}
	creating := j("create", names, 0.4, 0.7)
	creating.before = nil
	creating.run = func(e *env, dir string) (float64, error) { return 0, make(e, dir) }
	stating := j("stat", warm, 0.9, 1)
	stating.before = func(e *env, dir string) error { return errors.Join(make(e, dir), warmUp(e, dir)) }
	stating.run = run(func(name string) error { _, err := os.Lstat(name); return err })
	renaming := j("rename", names, 0.4, 0.7)
	renaming.run = run(func(name string) error { return os.Rename(name, name+".new") })
	unlinking := j("unlink", names, 0.4, 0.7)
	unlinking.run = run(os.Remove)
	return []job{creating, stating, renaming, unlinking}
}

func numbered(dir string, i, dirs int) string {
	return filepath.Join(dir, fmt.Sprint("d", i%dirs), fmt.Sprintf("file-%07d", i))
}

func create(name string) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

func each(n int, f func(i int) error) error {
	for i := range n {
		if err := f(i); err != nil {
			return err
		}
	}
	return nil
}

func parallel(n int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// warmUp has everything in the kernel's caches.
func warmUp(_ *env, dir string) error {
	return shell("find $2 -printf '%s' >/dev/null; find $2 -type f -print0 | xargs -0 cat >/dev/null", "", dir)
}

func statAll(_ *env, dir string) (float64, error) {
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
	return shell(`mkdir -p $2/src && tar xf $1 -C $2/src && cd $2/src &&
		git init -q -b main && git config user.name bench && git config user.email bench@localhost && git config gc.auto 0 &&
		git add -A . && git commit -q -m one && git checkout -q -b one &&
		find . -path ./.git -prune -o -type f -name '*[a-h].go' -print0 | xargs -0 sed -i '1i // changed' &&
		git commit -q -a -m two && git checkout -q main`, e.tar, dir)
}

// shell runs a script, of which $1 and $2 are the archive and the directory.
func shell(script, archive, dir string) error {
	_, err := output("sh", "-e", "-c", script, "sh", archive, dir)
	return err
}
