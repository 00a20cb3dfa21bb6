package fuse

import "bytes"

// splitExtensions takes the extensions off the end of a request and checks them. They are a sequence
// of blocks, each a multiple of 8 bytes: at most one with security contexts, at most one with groups.
// Blocks of an unknown type are skipped, as the protocol grows by them.
func splitExtensions(body []byte, units uint16) (rest, ext []byte, ok bool) {
	n := int(units) * 8
	if n > len(body) {
		return nil, nil, false
	}
	rest, ext = body[:len(body)-n], body[len(body)-n:]
	var haveSecctx, haveGroups bool
	for b := ext; len(b) > 0; {
		h, data, next, ok := cutExtension(b)
		if !ok {
			return nil, nil, false
		}
		switch {
		case h.Type <= extMaxSecctx:
			if haveSecctx || !validSecctx(data, h.Type) {
				return nil, nil, false
			}
			haveSecctx = true
		case h.Type == extGroups:
			if haveGroups || len(data) < 4 || uint64(load[uint32](data)) > uint64(len(data)-4)/4 {
				return nil, nil, false
			}
			haveGroups = true
		}
		b = next
	}
	return rest, ext, true
}

// cutExtension takes the first block off b. Its size may leave out the padding at the end.
func cutExtension(b []byte) (h extHeader, data, rest []byte, ok bool) {
	if len(b) < extHeaderSize {
		return h, nil, nil, false
	}
	h = load[extHeader](b)
	if h.Size < uint32(extHeaderSize) || uint64(h.Size) > uint64(len(b)) {
		return h, nil, nil, false
	}
	end := min((int(h.Size)+7)&^7, len(b))
	return h, b[extHeaderSize:h.Size], b[end:], true
}

func validSecctx(data []byte, count uint32) bool {
	for range count {
		_, _, rest, ok := cutSecctx(data)
		if !ok {
			return false
		}
		data = rest
	}
	return true
}

// cutSecctx takes one security context off data: head, name, NUL, value, padding to 8 bytes.
func cutSecctx(data []byte) (name string, value, rest []byte, ok bool) {
	if len(data) < secctxSize {
		return "", nil, nil, false
	}
	h := load[secctx](data)
	body := data[secctxSize:]
	end := bytes.IndexByte(body, 0)
	if end <= 0 || uint64(h.Size) > uint64(len(body)-end-1) {
		return "", nil, nil, false
	}
	name, body = alias(body[:end]), body[end+1:]
	size := (secctxSize + end + 1 + int(h.Size) + 7) &^ 7
	return name, body[:h.Size], data[min(size, len(data)):], true
}

func eachSecctx(ext []byte, yield func(string, []byte) bool) {
	for b := ext; len(b) > 0; {
		h, data, next, ok := cutExtension(b)
		if !ok {
			return
		}
		if h.Type <= extMaxSecctx {
			for range h.Type {
				name, value, rest, ok := cutSecctx(data)
				if !ok || !yield(name, value) {
					return
				}
				data = rest
			}
			return
		}
		b = next
	}
}

func eachGroup(ext []byte, yield func(uint32) bool) {
	for b := ext; len(b) > 0; {
		h, data, next, ok := cutExtension(b)
		if !ok {
			return
		}
		if h.Type == extGroups {
			for i := range load[uint32](data) {
				if !yield(load[uint32](data[4+4*i:])) {
					return
				}
			}
			return
		}
		b = next
	}
}
