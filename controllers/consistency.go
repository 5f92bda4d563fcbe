package controllers

import (
	"errors"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// consistency keeps a controller from acting for an owner while a cache is older
// than what the controller itself has written there: it would do the same again,
// or undo it. Expectations count pods; this goes by resource versions, and knows
// of a cache that has lost its watch.
//
// Upstream: pkg/controller/util/consistency, ConsistencyStore, on by default since v1.36.
type consistency struct {
	mu sync.Mutex
	// written is the newest version that was written, by the owner's key and by the
	// cache that will show it.
	written map[string]map[cache]int64
}

// cache is an informer that says how far it has come.
type cache interface{ Version() string }

func newConsistency() *consistency { return &consistency{written: map[string]map[cache]int64{}} }

// errBehind is a conflict: nothing is wrong, and it is tried again.
var errBehind = apierrors.NewConflict(schema.GroupResource{}, "", errors.New("the cache does not show yet what was written"))

// wrote notes that an object has been written for an owner.
func (c *consistency) wrote(owner string, in cache, obj metav1.Object) {
	version, err := strconv.ParseInt(obj.GetResourceVersion(), 10, 64)
	if err != nil {
		return // a server with other versions: nothing can be said
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.written[owner] == nil {
		c.written[owner] = map[cache]int64{}
	}
	c.written[owner][in] = max(c.written[owner][in], version)
}

// ready is errBehind as long as a cache has not shown what was written for an owner.
func (c *consistency) ready(owner string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for in, version := range c.written[owner] {
		if seen, err := strconv.ParseInt(in.Version(), 10, 64); err == nil && seen < version {
			return errBehind
		}
	}
	delete(c.written, owner)
	return nil
}
