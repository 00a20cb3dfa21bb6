package test

import (
	"errors"
	"log/slog"
	"testing"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/fuse/fusetest/vfs"
	"ext4box/internal/posixfs"
	"ext4box/internal/testimage"
	"ext4box/server"
)

// modelFD stands for the descriptor of the device that a modelled kernel registers.
const modelFD = 7

// modelSector is the size of its sectors. Where the kernel moves the data, direct I/O is a multiple of that.
const modelSector = 512

// A kernelModel is a kernel that is modelled in the process of the test.
type kernelModel struct {
	name    string
	classic bool // without fuse-iomap: all data goes through the server
	vfs.Config
}

// iomapKernels are those with fuse-iomap.
func iomapKernels() []kernelModel {
	return []kernelModel{
		{name: "v7", Config: vfs.Config{Generation: vfs.V7}},
		{name: "later", Config: vfs.Config{Generation: vfs.Later}},
	}
}

// classicKernel is one without.
func classicKernel() *kernelModel {
	return &kernelModel{name: "classic", classic: true, Config: vfs.Config{Classic: true}}
}

// A modelMount is an image served by ext4box to a modelled kernel, all in this process.
type modelMount struct {
	*vfs.FS
	server *server.Server
	ext4   *ext4.FS
	done   bool
}

// mountModel mounts an image by ext4box on a model of the kernel, for writing, until the test ends.
func mountModel(t testing.TB, k kernelModel, image string) (*modelMount, error) {
	dev, err := blockdev.Open(image, blockdev.Options{Lock: blockdev.LockExclusive})
	if err != nil {
		return nil, err
	}
	return mountModelOn(t, k, dev)
}

// mountModelOn does so with a device.
func mountModelOn(t testing.TB, k kernelModel, dev blockdev.Device) (*modelMount, error) {
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	o := server.Options{Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))}
	if !k.classic {
		o.Iomap = server.Iomap{Mode: server.IomapOn, Device: modelFD, Name: "model"}
	}
	m := &modelMount{ext4: fs, server: server.New(fs, o)}
	k.Config.Devices = map[int]blockdev.Device{modelFD: dev}
	k.Config.Options = fuse.Options{Params: m.server.Params()}
	if m.FS, err = vfs.TryMount(t, m.server, k.Config); err != nil {
		return nil, errors.Join(err, fs.Close())
	}
	t.Cleanup(func() {
		if err := m.unmount(); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	return m, nil
}

// unmount unmounts and closes. It may be called again.
func (m *modelMount) unmount() error {
	if m.done {
		return nil
	}
	m.done = true
	return errors.Join(m.Unmount(), m.ext4.Close())
}

// mountModelled is a mountFunc.
func mountModelled(k kernelModel) mountFunc {
	return func(t *testing.T, image string) (posixfs.FS, func()) {
		m, err := mountModel(t, k, image)
		if err != nil {
			t.Fatal(err)
		}
		return m.Posix(), func() {
			if err := m.unmount(); err != nil {
				t.Errorf("unmounting: %v", err)
			}
		}
	}
}

// TestFsxIomap is TestFsx through kernels that move the data themselves.
func TestFsxIomap(t *testing.T) {
	testimage.RequireRoot(t)
	for _, k := range iomapKernels() {
		t.Run(k.name, func(t *testing.T) { fsx(t, exercisers(), mountModelled(k), modelSector) })
	}
}

// TestDifferentialClassic is TestDifferential through the model of a kernel without fuse-iomap, which says
// whether the model itself is right.
func TestDifferentialClassic(t *testing.T) {
	t.Run("random", func(t *testing.T) { testDifferential(t, classicKernel()) })
	t.Run("regressions", func(t *testing.T) { testDifferentialRegressions(t, classicKernel()) })
}

// TestDifferentialIomap is TestDifferential through kernels that move the data themselves.
func TestDifferentialIomap(t *testing.T) {
	for _, k := range iomapKernels() {
		t.Run(k.name, func(t *testing.T) {
			t.Run("random", func(t *testing.T) { testDifferential(t, &k) })
			t.Run("regressions", func(t *testing.T) { testDifferentialRegressions(t, &k) })
		})
	}
}
