package fuse

// ServeAsIomap has the readers of a session go on as with fuse-iomap, on a kernel that does not have it.
func (s *Session) ServeAsIomap() {
	p := *s.proto.Load()
	p.Iomap = true
	s.release()
	s.proto.Store(&p)
}
