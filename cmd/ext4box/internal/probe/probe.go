package probe

import "ext4box/mount"

// Answer is the outcome of a check.
type Answer string

const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown"
)

// Check is one thing a machine has or lacks.
type Check struct {
	Name   string `json:"name"`             // short and stable: for scripts
	Answer Answer `json:"answer"`           //
	Detail string `json:"detail"`           // what was found, or why not
	Advice string `json:"advice,omitempty"` // what to do, when something is lacking
	// Needed tells that ext4box cannot mount without.
	Needed bool `json:"needed,omitempty"`
}

// Options say where to look.
type Options struct {
	// Dir is where direct I/O is tried, with a file that is removed at once; or
	// File, an existing file that is opened for reading.
	Dir, File string
	// Child is the argument list that makes this binary call [Child], and Boxed the one for
	// [sandbox.Probed]; nil: the checks that need a process of their own are left out.
	Child, Boxed []string
}

// All asks everything, in an order that reads well.
func All(o Options) []Check {
	fuse, kernel := askFUSE(o.Child), mount.AskIomap()
	return []Check{
		procMounted(),
		devFuse(),
		fusermount(),
		allowOther(),
		service(),
		fuse.version(),
		fuse.feature("passthrough", flagPassthrough, "Linux 6.9", ""),
		mountLimits(),
		ioUring(),
		fuse.overUring(),
		iomap(kernel),
		userNamespaces(o.Child),
		landlock(),
		seccomp(),
		box(o.Boxed),
		loopDevices(),
		directIO(o),
		dataPath(kernel, o),
	}
}

func yes(name, detail string) Check { return Check{Name: name, Answer: Yes, Detail: detail} }

func no(name, detail, advice string) Check {
	return Check{Name: name, Answer: No, Detail: detail, Advice: advice}
}
