package client

import (
	"bytes"
	"fmt"
	"sync"
	"time"

	"github.com/deputyauth/deputy/pkg/smallfile"
)

// lookEvery is how often files are looked at, at most: reading a small file takes some ten microseconds.
const lookEvery = time.Second

// maxFile is how many bytes a file with a key, a certificate or authorities may have.
const maxFile = 1 << 20

// fromFiles is a value that is made of files, and made again when their contents change, however they are replaced: written in place,
// renamed over, or by a symbolic link that leads elsewhere, as Kubernetes does it. What cannot be read, or makes no value, such as half of a
// file or a certificate that does not fit its key, leaves the value as it was. It is safe for concurrent use.
type fromFiles[T any] struct {
	paths []string
	// parse makes a value of the contents.
	parse func(contents [][]byte) (T, error)

	mu       sync.Mutex
	value    T
	contents [][]byte
	looked   time.Time
	// wrong is why the newest contents could not be used; nil if they are in use.
	wrong error
}

// openFiles makes the first value. The error names the file.
func openFiles[T any](parse func(contents [][]byte) (T, error), paths ...string) (*fromFiles[T], error) {
	f := &fromFiles[T]{paths: paths, parse: parse}
	f.look()
	return f, f.wrong
}

// get returns the value, of files that were looked at a second ago at most, or just now. The error is why it is not that of their newest
// contents; the value is good all the same.
func (f *fromFiles[T]) get(now bool) (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now || time.Since(f.looked) >= lookEvery {
		f.look()
	}
	return f.value, f.wrong
}

// look reads the files. Nobody else may use f meanwhile.
func (f *fromFiles[T]) look() {
	f.looked = time.Now()
	contents := make([][]byte, len(f.paths))
	for i, path := range f.paths {
		if contents[i], f.wrong = smallfile.Read(path, maxFile); f.wrong != nil {
			return
		}
	}
	same := f.contents != nil
	for i := range f.contents {
		same = same && bytes.Equal(f.contents[i], contents[i])
	}
	if same {
		return
	}
	value, err := f.parse(contents)
	if err != nil {
		f.wrong = fmt.Errorf("%s: %w", f.paths[0], err)
		return
	}
	f.value, f.contents = value, contents
}
