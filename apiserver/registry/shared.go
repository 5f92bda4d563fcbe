package registry

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
)

// Shared is an object that many clients are sent, with the forms in which it
// has been sent lately. It lives as long as the cache has this state of the
// object, or a watcher's event of it.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/storage/cacher/caching_object.go (for watches only).
type Shared struct {
	// Object is never changed.
	Object runtime.Object

	mu    sync.Mutex
	forms []encoded // one or two
	asked time.Time // when it was, last
}

type encoded struct {
	form  any
	bytes []byte
}

// Once returns what encode made the first time for this form.
func (s *Shared) Once(form any, encode func(runtime.Object) ([]byte, error)) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = time.Now()
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

// forget drops the encodings if none was asked for since a time, and tells how many bytes they had.
func (s *Shared) forget(since time.Time) (bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked.Before(since) {
		for _, e := range s.forms {
			bytes += len(e.bytes)
		}
		s.forms = nil
	}
	return bytes
}

// Objects are those of the listing by themselves.
func (l *Listing) Objects() []runtime.Object {
	out := make([]runtime.Object, len(l.Items))
	for i, it := range l.Items {
		out[i] = it.Object
	}
	return out
}
