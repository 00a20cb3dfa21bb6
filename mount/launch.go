package mount

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
	"ext4box/sandbox"
)

// Request is what the keeper asks the server to do. The image and everything
// else the server needs open travel beside it, as descriptors, and what it would have to look
// up in files it is told.
type Request struct {
	Source     string          `json:"source"`     // the image, in words
	Options    Options         `json:"options"`    //
	Config     json.RawMessage `json:"config"`     // for the caller's own use
	Log        LogKind         `json:"log"`        // what standard error is
	Foreground bool            `json:"foreground"` // end with the keeper
	Owner      uint32          `json:"owner"`      // who mounts: what else only root may do, he may
	Group      uint32          `json:"group"`      // and his group

	// What Launch finds out by itself.
	Sandbox  sandbox.Options `json:"sandbox"`  // as Options say
	PID      int             `json:"pid"`      // of the server, as others see it
	MaxPages int             `json:"maxPages"` // limit of the pages of a request to FUSE
	State    bool            `json:"state"`    // there is a state file among the descriptors
	Spare    int             `json:"spare"`    // as many of them are of /dev/fuse
	CPUs     *fuse.CPUs      `json:"cpus"`     // for which to make rings; nil: none are to be made
	NoUring  string          `json:"noUring"`  // why not

	// Rings are those, in the server; nil: there are none.
	Rings *fuse.Rings `json:"-"`
}

// spares is how many of the first message's descriptors are not the image's.
func (r *Request) spares() int {
	if r.State {
		return r.Spare + 1
	}
	return r.Spare
}

// split undoes what sendStart has put together.
func (r *Request) split(files []*os.File) (image, spare, state []*os.File) {
	n := len(files) - r.spares()
	m := n + r.Spare
	return files[:n:n], files[n:m:m], files[m:]
}

// LaunchConfig says what to start and where to put it.
type LaunchConfig struct {
	// Command is the argument list that makes this binary a server; its
	// standard input is the control socket that Serve expects.
	Command []string
	// Env is added to the server's environment, which has nothing else but what the Go
	// runtime is told by it, and the time zone.
	Env []string
	// Front is who waits until the mount is ready; nil: nobody, this is the foreground.
	Front *Front

	Target  *Target
	Request Request
	// Files are handed to the server, in order. Launch closes them.
	Files []*os.File
	// Block, if not nil, is the device to mount, where that is possible; the first
	// of Files is the same. Launch closes its claim.
	Block *BlockDevice
	// Log is where goes, by the keeper's hands, what the server writes to standard error, and in the
	// background standard error of the keeper once the mount is ready. When nil it is nowhere in the
	// background, and in the foreground the keeper's standard error. Launch closes it.
	Log *os.File

	// Iomap says that the kernel can move file data itself, and may: see AskIomap. The mount
	// is then made in the way that this takes, and never with the type fuseblk unless Block
	// insists on it.
	Iomap bool
	// Ready, if not nil, is called when the mount answers, and before the front returns.
	Ready func(Ready)

	// Warn is told what is worth a line and no reason to fail.
	Warn func(error)
}

// Ready is what is known of a mount that answers.
type Ready struct {
	Data DataPath
	Box  string // how the server is contained, in words
}

// stopPatience is how long a server that was told to end may take before it is
// killed. It ends at once unless it is broken.
const stopPatience = 5 * time.Second

// Launch starts a server, mounts it, and is its keeper until it has ended. What happens once the
// mount is ready is in the background no error but for the log.
//
// On error before that nothing is mounted and no server runs. Interrupt signals meanwhile
// have the same effect, and [StatusInterrupted]. Later ones unmount; see [Serve].
func Launch(c LaunchConfig) error {
	o := &c.Request.Options
	c.Request.Sandbox = sandbox.Options{Mode: cmp.Or(o.Sandbox, sandbox.Enforce), Memory: o.MemLimit, OOMScore: o.OOMScore}
	l := &launcher{LaunchConfig: c}
	err := l.run()
	if err != nil && !l.kept {
		l.undo()
	}
	l.state.remove()
	l.state.Close()
	if l.Log != nil {
		l.Log.Close()
	}
	if err == errTakenOff && c.Front == nil {
		return nil // that is what it stayed for
	}
	return err
}

type launcher struct {
	LaunchConfig

	ctl      *control
	server   *exec.Cmd
	incoming chan message  // closed at end of file
	exited   chan struct{} // closed when the server was waited for
	signals  chan os.Signal
	mounted  *Mounted
	state    *State     // nil: none
	log      *logWriter // nil: none

	noUring   string   // why requests will not come by io_uring
	lacks     []string // of the box
	connected bool     // the server has a connection that is not mounted yet
	serving   *message // that the mount answers, if the server has said so
	kept      bool     // the mount was ready
}

func (l *launcher) run() error {
	inherited := closeOnExec()
	l.signals = make(chan os.Signal, 8)
	signal.Notify(l.signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(l.signals)
	taken := -1 // of what was inherited, and closed on the way
	if l.Front != nil {
		l.Front.inherited = inherited
		l.Front.watch(l.signals)
		if l.Target.fuse != nil {
			taken = int(l.Target.fuse.Fd())
		}
	}
	if err := l.checkFileSize(); err != nil {
		return err
	}
	if err := l.offerUring(); err != nil {
		return err
	}
	if err := l.startServer(); err != nil {
		return err
	}
	if err := l.sendStart(); err != nil {
		return err
	}
	opened, err := l.expect(stepOpened)
	if err != nil {
		return err
	}
	for _, text := range opened.Missing {
		l.lacking(errors.New(plain(text)))
	}
	if opened.Text != "" && !l.Request.Options.ReadOnly() {
		l.Request.Options.Flags |= unix.MS_RDONLY
		l.Warn(fmt.Errorf("%s is mounted read-only: %s", l.Request.Source, plain(opened.Text)))
	}
	if l.Iomap && opened.NoIomap != "" {
		l.Iomap = false
		l.Warn(fmt.Errorf("%s: file data goes through the server: %s", l.Request.Source, plain(opened.NoIomap)))
	}
	if opened.NoUring != "" {
		l.noUring = plain(opened.NoUring)
	}
	allowed, err := l.allowUring()
	if err != nil {
		return err
	}
	defer allowed.release()
	if err := l.mount(); err != nil {
		return err
	}
	if err := l.handOver(); err != nil {
		return err
	}
	path, err := l.awaitServing()
	if err != nil {
		return err
	}
	allowed.release()
	if err := l.tryRoot(); err != nil {
		return err
	}
	l.loosen()
	err = l.ctl.send(message{Step: stepConfirmed})
	// Whoever saw the mount may have taken it off again by now.
	gone := errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET)
	if err != nil && !gone {
		return systemf("leave the server alone: %w", err)
	}
	if l.Ready != nil {
		l.Ready(Ready{Data: path, Box: l.box()})
	}
	if gone && l.Front != nil {
		if err := l.ended(nil); err != nil {
			return err
		}
	}
	l.Target.Close() // or what is below the mount would be in use
	if l.Front != nil {
		if err := l.Front.release(l.Log, taken); err != nil {
			return err
		}
	}
	l.kept = true
	return l.keep()
}

// checkFileSize refuses to mount what the server could not write to: all that it would have to
// say of that it would say when it is too late.
func (l *launcher) checkFileSize() error {
	var limit unix.Rlimit
	if l.Request.Options.ReadOnly() || unix.Getrlimit(unix.RLIMIT_FSIZE, &limit) != nil {
		return nil
	}
	most := limit.Max
	if l.Request.Sandbox.Mode == sandbox.Off {
		most = limit.Cur // only in the box it is set
	}
	if size := LongestFile(l.Files); size > most {
		return usagef("%s has %d bytes, and the limit on what may be written of a file is %d here; raise it (ulimit -f), or mount with ro",
			l.Request.Source, size, most)
	}
	return nil
}

// awaitServing returns when the kernel and the server have agreed.
func (l *launcher) awaitServing() (DataPath, error) {
	if l.serving == nil {
		m, err := l.expect(stepServing)
		if err != nil {
			return DataPath{}, err
		}
		l.serving = &m
	}
	path := l.serving.Path
	path.Text, path.Requests = plain(path.Text), plain(path.Requests)
	if !path.Rings && l.Request.Options.Transport == TransportUring {
		return path, failedf("mount option \"transport=uring\": requests would come %s", path.Requests)
	}
	if !path.Iomap && l.Request.Options.Iomap == IomapOn {
		return path, failedf("mount option \"iomap=on\": file data would go %s", path.Text)
	}
	// A server that logs to the same terminal has said so.
	if l.Iomap && !path.Iomap && (l.Front != nil || l.Log != nil) {
		l.Warn(fmt.Errorf("%s: file data goes %s", l.Request.Source, path.Text))
	}
	return path, nil
}

// startServer starts this binary again, in namespaces and a session of its own. Nothing of what
// this process has open goes along but the log.
func (l *launcher) startServer() error {
	ctl, theirs, err := newControl()
	if err != nil {
		return systemf("start the server: %w", err)
	}
	defer theirs.Close()
	l.ctl = ctl
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return systemf("start the server: %w", err)
	}
	defer null.Close()
	// /proc/self/exe is this binary even when its file was replaced meanwhile.
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = l.Command
	cmd.Env = append(serverEnv(), l.Env...)
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, null, null
	logging, err := l.openPipe()
	if err != nil {
		return systemf("start the server: %w", err)
	}
	if logging != nil {
		cmd.Stderr = logging.server
		defer logging.server.Close()
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var lacks []*sandbox.Missing
	start := func() (err error) {
		lacks, err = sandbox.Start(cmd, l.Request.Sandbox)
		return err
	}
	if l.Iomap {
		// The kernel waits for this process while it writes files back to the device.
		err = fuse.WithoutReclaim(start)
	} else {
		err = start()
	}
	if err != nil {
		logging.close()
		return startError(err)
	}
	relayed := logging.start(l, cmd.Process.Pid)
	if l.Request.Sandbox.Mode == sandbox.Off {
		l.Warn(errors.New("the server that reads the image is not contained (--sandbox=off)"))
	}
	for _, m := range lacks {
		l.lacking(m)
	}
	l.server, l.exited, l.incoming = cmd, make(chan struct{}), make(chan message, 4)
	go l.listen()
	go func() {
		l.server.Wait()
		select {
		case <-relayed:
		case <-time.After(stopPatience): // the log takes nothing
		}
		close(l.exited)
	}()
	return nil
}

// logPipe leads from the server's standard error to the log.
type logPipe struct{ keeper, server *os.File }

// openPipe makes it, or none if there is no log.
func (l *launcher) openPipe() (*logPipe, error) {
	file := l.Log
	if file == nil && l.Front == nil {
		file = os.Stderr
	}
	if file == nil {
		return nil, nil
	}
	l.log = &logWriter{file: file, kind: l.Request.Log}
	// Not by os.Pipe, whose ends do not wait: the server would lose lines.
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	return &logPipe{os.NewFile(uintptr(p[0]), "log"), os.NewFile(uintptr(p[1]), "log")}, nil
}

// start relays until the server has ended, which closes the channel that it returns.
func (p *logPipe) start(l *launcher, pid int) <-chan struct{} {
	done := make(chan struct{})
	if p == nil {
		close(done)
		return done
	}
	l.log.pid = pid
	go func() {
		defer close(done)
		defer p.keeper.Close()
		relay(p.keeper, l.log, l.Request.Options.Debug)
	}()
	return done
}

func (p *logPipe) close() {
	if p != nil {
		p.keeper.Close()
	}
}

// serverEnv is what the server inherits of the environment.
func serverEnv() (env []string) {
	for _, v := range os.Environ() {
		switch name, _, _ := strings.Cut(v, "="); name {
		case "GODEBUG", "GOGC", "GOTRACEBACK", "TZ":
			env = append(env, v)
		}
	}
	return env
}

// lacking warns of a part of the box that is not there.
func (l *launcher) lacking(err error) {
	l.lacks = append(l.lacks, err.Error())
	l.Warn(fmt.Errorf("%w; --sandbox=best-effort goes on without it", err))
}

// box says how the server is contained.
func (l *launcher) box() string {
	switch {
	case l.Request.Sandbox.Mode == sandbox.Off:
		return "off"
	case len(l.lacks) > 0:
		return strings.Join(l.lacks, "; ")
	}
	return "complete"
}

// boxError is a refusal to go on without the whole box.
func boxError(err error) error {
	if _, ok := errors.AsType[*sandbox.Missing](err); ok {
		err = fmt.Errorf("%w; --sandbox=best-effort mounts without it", err)
	}
	return failedf("%w", err)
}

func startError(err error) error {
	if _, ok := errors.AsType[*sandbox.Missing](err); ok {
		return boxError(err)
	}
	return systemf("start the server: %w", err)
}

// listen passes on what the server says, and answers its questions. Nothing that it says is
// taken for more than text to print and a wish to end.
func (l *launcher) listen() {
	defer close(l.incoming)
	buf := make([]byte, maxMessage)
	for {
		m, err := l.ctl.hear(buf)
		if err != nil {
			if err != io.EOF {
				l.incoming <- message{Step: stepFailed, Status: StatusInternal, Text: "the server sends something that is no message"}
			}
			return
		}
		if m.Step == stepGroup {
			_ = l.ctl.send(message{Step: stepMember, Seq: m.Seq, Member: inGroup(m.PID, m.GID, l.onlyUser())})
			continue
		}
		l.incoming <- m
	}
}

// onlyUser is the only user who can use the mount, or nil.
func (l *launcher) onlyUser() *uint32 {
	if l.Request.Options.AllowOther || l.Target.dir == nil { // the latter is for whoever mounts to know
		return nil
	}
	return &l.Request.Owner
}

// sendStart hands over the image, and everything else that does not depend on the mount.
func (l *launcher) sendStart() error {
	r := l.Request
	r.Foreground = l.Front == nil
	r.NoUring = l.noUring
	r.PID, r.MaxPages = l.server.Process.Pid, fuse.KernelMaxPages()
	spare := openSpare()
	defer closeAll(spare)
	r.Spare = len(spare)
	files := append(slices.Clip(l.Files), spare...)
	if l.Target.dir != nil {
		state, err := newState()
		if err != nil {
			l.stateless(err)
		} else {
			l.state, r.State = state, true
			files = append(files, state.file)
		}
	}
	err := l.ctl.send(message{Step: stepStart, Request: &r, files: files})
	closeAll(l.Files)
	if err != nil {
		return systemf("hand the image to the server: %w", err)
	}
	return nil
}

func (l *launcher) stateless(err error) {
	l.Warn(fmt.Errorf("'ext4box umount' will not know when the image is closed: %w", err))
}

// openSpare opens what the server needs to have several readers. Where only fusermount3 can
// open /dev/fuse, it has one.
func openSpare() (spare []*os.File) {
	for range fuse.DefaultReaders() - 1 { // the first has the connection's own
		f, err := openFuse()
		if err != nil {
			break
		}
		spare = append(spare, f)
	}
	return spare
}

// errTakenOff is an orderly end before the launcher was done.
var errTakenOff = failedf("the mount was taken off before it was ready")

// expect waits for the server's next message, which is to be want.
func (l *launcher) expect(want step) (message, error) {
	select {
	case m, ok := <-l.incoming:
		switch {
		case !ok:
			return m, l.died()
		case m.Step == stepFailed:
			return m, m.reported()
		case m.Step == stepEnded:
			return m, errTakenOff
		case m.Step != want:
			return m, &Error{StatusInternal, fmt.Errorf("the server says %q instead of %q", m.Step, want)}
		}
		return m, nil
	case s := <-l.signals:
		return message{}, interrupted(s)
	}
}

func interrupted(s os.Signal) error {
	return &Error{StatusInterrupted, fmt.Errorf("%v: nothing was mounted", s)}
}

func (l *launcher) died() error {
	select {
	case <-l.exited:
		return &Error{StatusInternal, fmt.Errorf("the server ended unexpectedly (%s)", howEnded(l.server.ProcessState))}
	case <-time.After(stopPatience):
		return &Error{StatusInternal, errors.New("the server closed its control socket unexpectedly")}
	}
}

// handOver gives the connection to the server, if it does not have it yet, and keeps no
// part of it, or its end would not be the end of the mount. The state file gets its name.
func (l *launcher) handOver() error {
	m := l.mounted
	if l.state != nil {
		r := StateRecord{PID: l.server.Process.Pid, Keeper: os.Getpid(), Image: l.Request.Source, Dir: m.Dir}
		if err := l.state.publish(m.Dev, r); err != nil {
			l.stateless(err)
		}
	}
	if l.connected {
		return nil
	}
	return l.connect(m.Fuse, &connectionRecord{RootNode: defaultRootNode, Iomap: l.Iomap})
}

// connect hands over a connection, with the claim on its device.
func (l *launcher) connect(dev *os.File, c *connectionRecord) error {
	files := []*os.File{dev}
	if claim := l.takeClaim(); claim != nil {
		c.Claimed = true
		files = append(files, claim)
	}
	err := l.ctl.send(message{Step: stepConnected, Connection: c, files: files})
	closeAll(files)
	if err != nil {
		return systemf("hand the connection to the server: %w", err)
	}
	return nil
}

// takeClaim returns what keeps others off the device, if the kernel does not, for the
// caller to close.
func (l *launcher) takeClaim() *os.File {
	if l.Block == nil {
		return nil
	}
	claim := l.Block.Claim
	l.Block.Claim = nil
	return claim
}

// tryRoot asks the mount for its root, as the first user will.
func (l *launcher) tryRoot() error {
	if l.mounted.Dir == "" {
		return nil // whoever mounted it knows where
	}
	done := make(chan error, 1)
	go func() {
		var st unix.Stat_t
		err := unix.Lstat(l.mounted.Dir, &st)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			err = unix.ENOTDIR
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			return nil
		}
		return l.serverKnows(failedf("the new mount on %s does not answer: %w", l.mounted.Dir, err))
	case s := <-l.signals:
		return interrupted(s)
	}
}

// undo takes back whatever run has done when it failed.
func (l *launcher) undo() {
	closeAll(l.Files)
	if l.Block != nil && l.Block.Claim != nil {
		l.Block.Claim.Close()
	}
	detached := make(chan struct{})
	go func() {
		defer close(detached)
		if l.mounted != nil && l.mounted.Dir != "" {
			detachDevice(l.mounted.Dev, l.mounted.Source)
		}
	}()
	patience := time.After(stopPatience)
	select {
	case <-detached:
	case <-patience: // it waits for the server
	}
	if l.mounted != nil && l.mounted.Fuse != nil {
		l.mounted.Fuse.Close()
	}
	if l.ctl != nil {
		l.ctl.shutdown()
	}
	if l.server != nil {
		if l.mounted == nil && !l.connected {
			l.server.Process.Kill() // it only reads, and may be at it for long
		}
		select {
		case <-l.exited:
		case <-patience:
			l.server.Process.Kill()
			<-l.exited
		}
	}
	<-detached
}
