package registry

import (
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
)

// Shared is an object that many clients are sent, with the forms in which it
// has been sent already. It lives as long as the cache has this state of the
// object, or a watcher's event of it.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/storage/cacher/caching_object.go (for watches only).
type Shared struct {
	// Object is never changed.
	Object runtime.Object

	mu    sync.Mutex
	forms []encoded // one or two
}

type encoded struct {
	form  any
	bytes []byte
}

// Once returns what encode made the first time for this form.
func (s *Shared) Once(form any, encode func(runtime.Object) ([]byte, error)) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.forms {
		if e.form == form {
			return e.bytes, nil
		}
	}
	b, err := encode(s.Object)
	if err == nil {
		s.forms = append(s.forms, encoded{form, b})
	}
	return b, err
}

// Objects are those of the listing by themselves.
func (l *Listing) Objects() []runtime.Object {
	out := make([]runtime.Object, len(l.Items))
	for i, it := range l.Items {
		out[i] = it.Object
	}
	return out
}
