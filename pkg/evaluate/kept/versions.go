package kept

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/deputyauth/deputy/pkg/store"
)

// maxVersions is how many versions of the schema something is kept for: the head's, and those that somebody
// reads at.
const maxVersions = 16

// versions keeps what was made of the last few versions of the schema. Looking takes no lock. It is safe for
// concurrent use.
type versions[T any] struct {
	made atomic.Pointer[[]version[T]]
	// making is held by the goroutine that makes one, so that none makes it twice.
	making sync.Mutex
}

type version[T any] struct {
	of  store.Revision
	was T
}

// get returns what is made of a version.
func (v *versions[T]) get(of store.Revision, create func() (T, error)) (T, error) {
	if found, ok := v.find(of); ok {
		return found, nil
	}
	v.making.Lock()
	defer v.making.Unlock()
	if found, ok := v.find(of); ok {
		return found, nil
	}
	made, err := create()
	if err != nil {
		return made, err
	}
	var all []version[T]
	if known := v.made.Load(); known != nil {
		all = slices.Clone((*known)[max(0, len(*known)-maxVersions+1):])
	}
	all = append(all, version[T]{of, made})
	v.made.Store(&all)
	return made, nil
}

func (v *versions[T]) find(of store.Revision) (found T, ok bool) {
	known := v.made.Load()
	if known == nil {
		return found, false
	}
	for _, k := range *known {
		if k.of == of {
			return k.was, true
		}
	}
	return found, false
}
