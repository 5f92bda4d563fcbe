package kinds

import (
	"context"
	"reflect"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Kind is one row of the table: one resource in one group and version.
//
// What the core does for every kind by itself, so that no hook has to:
// uid, creationTimestamp, generateName, resourceVersion, managedFields,
// deletionTimestamp, finalizers; validation of metadata (with ValidateName);
// for kinds with a status subresource: an empty status on create (unless
// KeepStatusOnCreate), the old status kept on writes to the main resource, and
// everything but status and metadata kept on writes to /status; for kinds with
// Generation: 1 on create and +1 when anything but metadata and status changed.
// The hooks of Strategy run after that.
type Kind struct {
	Group, Version, Kind string
	// Resource is the plural in paths, Singular its singular.
	Resource, Singular string
	ShortNames         []string
	Categories         []string
	Namespaced         bool
	// Verbs that the main resource has, as discovery shows them.
	Verbs []string
	// Prefix is the folder of its keys in the store: /registry/<Prefix>/<namespace>/<name>.
	// Empty for virtual resources, which are computed and never stored: a handler
	// serves the create of TokenReview and the like, the get and list of ComponentStatus.
	Prefix string
	// JSON: values in the store are JSON, not protobuf.
	JSON bool
	// Subresources in order of name.
	Subresources []Subresource
	// New and NewList make empty objects of this version.
	New     func() runtime.Object
	NewList func() runtime.Object

	// Hub is the row of the version that is stored when that is another one
	// (events.k8s.io/v1 Events are stored as core/v1); nil when it is this one.
	Hub *Kind
	// ToHub and FromHub convert between the two; nil without Hub. They may share
	// memory with what they are given.
	ToHub   func(runtime.Object) (runtime.Object, error)
	FromHub func(runtime.Object) (runtime.Object, error)
	// ValidateVersion is asked beside the Strategy's validation about what is written
	// in this version; old is nil on create, both are of the hub version. It may be nil.
	ValidateVersion func(obj, old runtime.Object) field.ErrorList

	// FieldLabels are the field selectors beyond metadata.name and
	// metadata.namespace. The funcs are given the hub version.
	FieldLabels map[string]func(obj runtime.Object) string
	// WatchedBy is the field label that tells many watches of the kind apart, each
	// of which is to hear of its own objects only; empty for none.
	WatchedBy string

	// Deprecated is a warning for everybody who uses this version; empty for none.
	Deprecated string

	// Remote: another server serves it; the row is for discovery alone.
	Remote bool

	// Custom is what is particular to a kind that a CustomResourceDefinition
	// defines; nil for built-in kinds.
	Custom *Custom

	Strategy
}

// Custom says what a built-in kind's Go type says: which fields there are. Its
// objects are *unstructured.Unstructured.
type Custom struct {
	// ListKind is the kind of its lists.
	ListKind string
	// Schema is the kind's OpenAPI schema; it refers to metav1's by name.
	Schema *spec.Schema
	// Prune takes away the fields that the schema does not know, and tells their paths.
	Prune func(obj *unstructured.Unstructured) (unknown []string, err error)
	// FromStored brings an object to this version that was stored in another one,
	// before the definition changed; nil when there is no other.
	FromStored func(runtime.Object) (runtime.Object, error)
	// Scale says where the numbers of a Scale are; nil without that subresource.
	Scale *ScalePaths
}

// ScalePaths lead to the fields that a Scale shows. Selector may be nil.
type ScalePaths struct {
	Replicas, StatusReplicas, Selector []string
}

// Strategy is what a kind does its own way. Every field may be left empty. All
// objects are of the hub version; only the hub's row needs a Strategy.
//
// Upstream: pkg/registry/<group>/<resource>/strategy.go.
type Strategy struct {
	// Default fills in what the client left out; it runs on writes and on reads.
	Default func(obj runtime.Object)
	// PrepareForCreate and PrepareForUpdate set and reset what is not the client's
	// business. The user is auth.UserFrom(ctx).
	PrepareForCreate func(ctx context.Context, obj runtime.Object)
	PrepareForUpdate func(ctx context.Context, obj, old runtime.Object)
	// Validate and ValidateUpdate refuse with 422. On an update both run.
	Validate       func(obj runtime.Object) field.ErrorList
	ValidateUpdate func(obj, old runtime.Object) field.ErrorList
	// UpdateAlone: on an update ValidateUpdate runs alone.
	UpdateAlone bool
	// ValidateName checks metadata.name; nil means a DNS-1123 subdomain. prefix is
	// true when the name is a generateName, which may end in '-'.
	ValidateName func(name string, prefix bool) []string
	// Warnings are texts for the client about an accepted object; old is nil on create.
	Warnings func(ctx context.Context, obj, old runtime.Object) []string

	// Begin takes what must be unique across objects (cluster IPs, node ports)
	// before a write and writes it into obj. old is nil on create. done is called
	// once with the fate of the write; it may be nil. Nothing is to be kept when dryRun.
	Begin func(ctx context.Context, obj, old runtime.Object, dryRun bool) (done func(written bool), err error)
	// AfterDelete gives back what Begin took.
	AfterDelete func(ctx context.Context, obj runtime.Object)

	// GracePeriod makes deletion graceful: it returns how long the object is to
	// stay with a deletionTimestamp. options.GracePeriodSeconds is what the client
	// asked for, nil when nothing. 0 deletes at once.
	GracePeriod func(obj runtime.Object, options *metav1.DeleteOptions) int64
	// MarkDeleted changes the object when deletion begins and does not end at once
	// (a Namespace becomes Terminating).
	MarkDeleted func(obj runtime.Object)
	// Held reports finalizers of the kind's own (a Namespace's spec.finalizers)
	// that keep a deleted object in being.
	Held func(obj runtime.Object) bool

	// Generation: metadata.generation counts changes of the desired state.
	Generation bool
	// KeepStatusOnCreate: a POST may carry a status (Node, custom cases).
	KeepStatusOnCreate bool
	// ReturnsDeleted: DELETE answers with the object instead of a Status.
	ReturnsDeleted bool
	// AllowCreateOnUpdate: PUT creates what is not there.
	AllowCreateOnUpdate bool
	// RequireResourceVersion: PUT without metadata.resourceVersion is refused.
	RequireResourceVersion bool
	// OrphanByDefault: a DELETE without policy leaves dependents alone. OrphanWarning tells such a client so.
	OrphanByDefault bool
	OrphanWarning   string
	// TTL is how long an object lives before the store forgets it; 0 means for ever.
	TTL time.Duration

	// Reset are field paths ("spec", "metadata.labels") that writes to the main
	// resource cannot own; nil means "status" when there is a status subresource.
	Reset [][]string

	// Columns and Cells make the Table that kubectl prints; without them it is
	// Name and Created At. Cells has one cell a column.
	Columns []metav1.TableColumnDefinition
	Cells   func(obj runtime.Object) ([]any, []metav1.TableRowCondition)
}

// Subresource is one path below an object.
type Subresource struct {
	// Name as in the path: status, scale, log.
	Name  string
	Verbs []string
	// Kind of the body when it is not that of the main resource, as discovery
	// shows it: autoscaling/v1 Scale. Group and Version empty: those of the parent.
	Kind schema.GroupVersionKind
	// View: the body is the whole object, of which a part may be written (status,
	// approval, finalize, ephemeralcontainers, resize). The generic handlers
	// serve it; all others are served by a handler of their own.
	View bool
	// PrepareForUpdate puts back what may not be written here. nil: all but status and metadata is kept.
	PrepareForUpdate func(ctx context.Context, obj, old runtime.Object)
	// ValidateUpdate replaces the main resource's; nil skips validation of the spec.
	ValidateUpdate func(obj, old runtime.Object) field.ErrorList
	// Reset as in Strategy; nil means "spec".
	Reset [][]string
}

// GVK of the row.
func (k *Kind) GVK() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: k.Group, Version: k.Version, Kind: k.Kind}
}

// GV of the row.
func (k *Kind) GV() schema.GroupVersion {
	return schema.GroupVersion{Group: k.Group, Version: k.Version}
}

// GVR of the row.
func (k *Kind) GVR() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: k.Group, Version: k.Version, Resource: k.Resource}
}

// GR is the group and resource, as error texts want it.
func (k *Kind) GR() schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.Resource}
}

// GK is the group and kind.
func (k *Kind) GK() schema.GroupKind {
	return schema.GroupKind{Group: k.Group, Kind: k.Kind}
}

// Stored is the row whose version is stored: Hub, or the row itself.
func (k *Kind) Stored() *Kind {
	if k.Hub != nil {
		return k.Hub
	}
	return k
}

// Virtual reports that nothing of this kind is stored.
func (k *Kind) Virtual() bool { return k.Prefix == "" }

// IsOne reports that an object is of the row's Go type. Custom resources share one.
func (k *Kind) IsOne(obj runtime.Object) bool {
	return obj != nil && reflect.TypeOf(obj) == reflect.TypeOf(k.New())
}

// Sub finds a subresource by name, or returns nil.
func (k *Kind) Sub(name string) *Subresource {
	for i := range k.Subresources {
		if k.Subresources[i].Name == name {
			return &k.Subresources[i]
		}
	}
	return nil
}

// HasVerb reports whether the main resource answers to verb.
func (k *Kind) HasVerb(verb string) bool {
	for _, v := range k.Verbs {
		if v == verb {
			return true
		}
	}
	return false
}

// Key is where the object lies in the store; with an empty name, the folder
// (ending in a slash) of a namespace or of the whole kind.
func (k *Kind) Key(namespace, name string) string {
	key := "/registry/" + k.Stored().Prefix + "/"
	if k.Namespaced && namespace != "" {
		key += namespace + "/"
	}
	return key + name
}

// Convert brings an object of the hub version to this row's version.
func (k *Kind) Convert(hub runtime.Object) (runtime.Object, error) {
	if k.FromHub == nil {
		return hub, nil
	}
	return k.FromHub(hub)
}

// Unconvert brings an object of this row's version to the hub version.
func (k *Kind) Unconvert(obj runtime.Object) (runtime.Object, error) {
	if k.ToHub == nil {
		return obj, nil
	}
	return k.ToHub(obj)
}
