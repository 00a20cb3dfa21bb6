package fuse

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// CPUs are the processors that requests can come from.
type CPUs struct {
	Possible int   `json:"possible"` // as many as there can ever be: one more than the highest number
	Online   []int `json:"online"`   // those that there are
}

// FindCPUs asks /sys, which a box has not.
func FindCPUs() (c CPUs, err error) {
	possible, err := cpuList("possible")
	if err != nil {
		return c, err
	}
	c.Possible = possible[len(possible)-1] + 1
	if c.Possible != len(possible) {
		// The kernel has as many queues as there are numbers, and takes the numbers for those of queues.
		return c, fmt.Errorf("the numbers of processors have gaps, of which there can be %d: %w", len(possible), unix.EOPNOTSUPP)
	}
	c.Online, err = cpuList("online")
	return c, err
}

func cpuList(name string) (l []int, err error) {
	text, err := os.ReadFile("/sys/devices/system/cpu/" + name)
	if err != nil {
		return nil, err
	}
	for part := range strings.SplitSeq(strings.TrimSpace(string(text)), ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		a, err := strconv.Atoi(from)
		if err != nil {
			return nil, err
		}
		b, err := strconv.Atoi(to)
		if err != nil || b < a || b >= 1<<16 {
			return nil, fmt.Errorf("%q is no list of processors", text)
		}
		for ; a <= b; a++ {
			l = append(l, a)
		}
	}
	return l, nil
}

const (
	// maxRingCPUs is the number of processors up to which there are rings.
	maxRingCPUs = 64
	// maxQueueThreads is how many requests of one processor are handled at once: the usual depth of a queue of
	// direct I/O.
	maxQueueThreads = 16
	// minQueueThreads is the least, however many processors there are. It is more than may wait for others
	// at once: see [Request.InvalData].
	minQueueThreads = 6
	// ringThreadGoal is the number of threads that there are in between.
	ringThreadGoal = 64
)

// threads is how many threads each processor has that is online.
func (c CPUs) threads() int {
	return min(max(ringThreadGoal/max(len(c.Online), 1), minQueueThreads), maxQueueThreads)
}

// Rings are what it takes to have requests by io_uring: see "Rings" in the package comment. They are made before
// the process goes into its box, attached before that is sealed, and begin to work when INIT settles that.
type Rings struct {
	cpus    CPUs
	queues  []*ringQueue
	threads []*ringThread // that of absent processors first
	allowed unix.CPUSet   // where threads may run

	lastQueue atomic.Uint32 // that a request came from, and one more

	serving atomic.Bool // all threads are at work, and requests come by them
	ended   sync.Once

	mu      sync.Mutex
	tried   int // threads that have registered, or failed to
	err     error
	settled chan struct{} // closed when all are registered, or one has failed
	done    bool          // settled is closed
}

// ringQueue has the requests of one processor.
type ringQueue struct {
	id    uint16
	taken atomic.Uint32 // how many requests were taken from it
	dead  atomic.Int32  // entries that the kernel does not know any more
	n     int32         // entries
}

// NewRings makes rings for all processors. They can do nothing but commands on the file to which Attach binds
// them.
func NewRings(cpus CPUs) (*Rings, error) {
	if len(cpus.Online) == 0 || len(cpus.Online) > maxRingCPUs || cpus.Possible < 1 || cpus.Possible > 1<<16 {
		return nil, fmt.Errorf("%d processors are not between 1 and %d: %w", len(cpus.Online), maxRingCPUs, unix.EINVAL)
	}
	rs := &Rings{cpus: cpus, settled: make(chan struct{})}
	for i := range cpus.Possible {
		rs.queues = append(rs.queues, &ringQueue{id: uint16(i)})
	}
	absent := slices.Clone(rs.queues)
	for _, cpu := range cpus.Online {
		if cpu < 0 || cpu >= cpus.Possible {
			return nil, fmt.Errorf("processor %d is not possible: %w", cpu, unix.EINVAL)
		}
		absent[cpu] = nil
	}
	absent = slices.DeleteFunc(absent, func(q *ringQueue) bool { return q == nil })
	if len(absent) > 0 {
		if err := rs.add(-1, absent...); err != nil {
			return nil, err
		}
	}
	for _, cpu := range cpus.Online {
		for range cpus.threads() {
			if err := rs.add(cpu, rs.queues[cpu]); err != nil {
				rs.Close()
				return nil, err
			}
		}
	}
	return rs, nil
}

// add adds a thread with an entry in each of the queues.
func (rs *Rings) add(cpu int, queues ...*ringQueue) error {
	r, err := newRing(len(queues))
	if err != nil {
		return err
	}
	t := &ringThread{rs: rs, ring: r, cpu: cpu, begin: make(chan *readers), registered: make(chan struct{})}
	for _, q := range queues {
		q.n++
		t.entries = append(t.entries, &ringEntry{q: q})
	}
	rs.threads = append(rs.threads, t)
	return nil
}

// Attach binds the rings to the connection that f is, or is about to be, and gives each to a thread.
func (rs *Rings) Attach(f *os.File) error {
	if err := unix.SchedGetaffinity(0, &rs.allowed); err != nil {
		return fmt.Errorf("sched_getaffinity: %w", err)
	}
	for _, t := range rs.threads {
		if err := t.ring.bind(int(f.Fd())); err != nil {
			return err
		}
	}
	enabled := make(chan error)
	for _, t := range rs.threads {
		t.started = true // from here on it closes its ring itself
		go t.run(enabled)
	}
	var errs []error
	for range rs.threads {
		errs = append(errs, <-enabled)
	}
	return errors.Join(errs...)
}

// Close gives up rings that are not at work.
func (rs *Rings) Close() {
	rs.ended.Do(func() {
		for _, t := range rs.threads {
			close(t.begin)
			if !t.started {
				t.ring.close()
			}
		}
		rs.mu.Lock()
		defer rs.mu.Unlock()
		rs.settle(false, nil)
	})
}

// prepare maps the buffers.
func (rs *Rings) prepare(payload int) error {
	for _, t := range rs.threads {
		for _, e := range t.entries {
			b, err := newBuffer(payload)
			if err != nil {
				return err
			}
			e.init(b)
		}
	}
	return nil
}

// start has the threads register: the kernel has the answer to INIT. Those of absent processors come first. What
// the kernel refuses is most likely one of them, and it goes back to the device for good only as long as there
// is a queue without an entry.
func (rs *Rings) start(p *readers) {
	rs.ended.Do(func() {
		p.mu.Lock()
		p.active += len(rs.threads)
		p.mu.Unlock()
		for i, t := range rs.threads {
			t.begin <- p
			if t.cpu >= 0 {
				continue
			}
			<-t.registered
			if rs.failed() {
				for _, t := range rs.threads[i+1:] {
					close(t.begin)
					p.left(nil)
				}
				return
			}
		}
	})
}

// ready notes that a thread has registered, with the others or not: err is that of the kernel.
func (rs *Rings) ready(t *ringThread, err error) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if !t.tried {
		t.tried = true
		rs.tried++
		close(t.registered)
	}
	if err != nil || rs.tried == len(rs.threads) {
		rs.settle(err == nil, err)
	}
}

func (rs *Rings) failed() bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.err != nil
}

// settle decides, once, whether rings are in use. The caller holds rs.mu.
func (rs *Rings) settle(up bool, err error) {
	if !rs.done {
		rs.err, rs.done = err, true
		rs.serving.Store(up)
		close(rs.settled)
	}
}

// ringed is a Transport that may have rings.
type ringed interface {
	// prepareRings gets ready for rings, and says whether there will be any.
	prepareRings(s *Session) bool
}

func (d *Device) prepareRings(s *Session) bool {
	if d.rings == nil {
		return false
	}
	if err := d.rings.prepare(s.PayloadSize()); err != nil {
		s.log.Warn("requests do not come by io_uring", "error", err)
		return false
	}
	return true
}

// startRings lets the rings begin, once INIT is answered, if that is what the answer says.
func (d *Device) startRings(p *readers) {
	proto := p.s.proto.Load()
	switch {
	case d.rings == nil || proto == nil:
	case proto.Has(InitOverIOUring):
		d.rings.start(p)
	default:
		d.rings.Close()
	}
}

// AwaitRings returns, after INIT, when it is clear how requests come: by io_uring, or with an error, or
// without any rings, through the device.
func (d *Device) AwaitRings() (bool, error) {
	if d.rings == nil {
		return false, nil
	}
	<-d.rings.settled
	d.rings.mu.Lock()
	defer d.rings.mu.Unlock()
	return d.rings.serving.Load(), d.rings.err
}
