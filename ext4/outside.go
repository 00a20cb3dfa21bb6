package ext4

import "ext4box/iomap"

// Where the kernel moves file data itself, mappings leave the engine: they are used while no request is
// being handled, and until they are taken back.

// MoveOutside says that from now on data is moved by whoever keeps mappings in c. It must be called before
// anything is mapped. From then on
//
//   - the end of a file, and of ranges that are punched out, is zeroed by the one who moves data, never
//     here;
//   - what Begin reserved for a write stays reserved until IOEndOutside, or until whoever moves data
//     cannot need it any longer.
func (fs *FS) MoveOutside(c iomap.Cache) { fs.outside = c }
