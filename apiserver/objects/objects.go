// Package objects says how parts of the API server read and write API objects
// without going through HTTP: admission looks up namespaces, RBAC its roles,
// the bootstrap code creates what every cluster has.
//
//	auth, admission, bootstrap ── Reader / Client ── registry ── store
//
// Invariant: a read sees every write that this server has answered before the
// read began (the watch cache is waited for).
//
// Read next: ../registry, which implements it.
package objects

import (
	"context"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Reader reads objects in their stored version (core/v1 for Events, v2 for
// HorizontalPodAutoscalers, v1 for nearly everything). What it returns is
// shared with the cache and must not be changed: DeepCopyObject first.
type Reader interface {
	// Get returns one object, or an apierrors NotFound error.
	Get(ctx context.Context, resource schema.GroupResource, namespace, name string) (runtime.Object, error)
	// List returns the objects of one namespace, or of all when namespace is
	// empty, in order of namespace and name. A nil selector selects everything.
	List(ctx context.Context, resource schema.GroupResource, namespace string, selector labels.Selector) ([]runtime.Object, error)
}

// Client also writes. Writes run defaulting, preparation and validation of the
// kind, but neither authorization nor admission.
type Client interface {
	Reader
	// Create stores a new object; apierrors AlreadyExists when it is there.
	Create(ctx context.Context, resource schema.GroupResource, obj runtime.Object) (runtime.Object, error)
	// Update reads, lets change alter the copy that it is given, and writes;
	// again when somebody else wrote in between. change returning an error ends it.
	// subresource is "" or "status" and the like.
	Update(ctx context.Context, resource schema.GroupResource, namespace, name, subresource string, change func(obj runtime.Object) error) (runtime.Object, error)
	// Delete removes an object at once, or marks it when finalizers hold it.
	Delete(ctx context.Context, resource schema.GroupResource, namespace, name string) error
}
