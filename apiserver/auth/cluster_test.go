package auth_test

import (
	"log/slog"
	"testing"
	"testing/synctest"

	"orrery/apiserver/kinds"
	"orrery/apiserver/registry"
	"orrery/apiserver/store/memory"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// cluster is a store of objects without an API in front.
type cluster struct {
	t       *testing.T
	store   *memory.Store
	objects *registry.Registry
}

func newCluster(t *testing.T) *cluster {
	st := memory.New()
	return &cluster{t, st, registry.New(kinds.NewTable(), st, slog.New(slog.DiscardHandler))}
}

func (c *cluster) close() {
	c.objects.Close()
	if err := c.store.Close(); err != nil {
		c.t.Error(err)
	}
}

// create stores an object of a core resource.
func (c *cluster) create(resource string, obj runtime.Object) runtime.Object {
	c.t.Helper()
	created, err := c.objects.Create(c.t.Context(), schema.GroupResource{Resource: resource}, obj)
	if err != nil {
		c.t.Fatal(err)
	}
	return created
}

// remove takes an object out at once, as a kubelet does that has finished with a pod.
func (c *cluster) remove(resource, namespace, name string) {
	c.t.Helper()
	key := kinds.NewTable().Stored(schema.GroupResource{Resource: resource}).Key(namespace, name)
	if _, err := c.store.Delete(c.t.Context(), key, 0); err != nil {
		c.t.Fatal(err)
	}
	synctest.Wait() // until the cache has seen it
}
