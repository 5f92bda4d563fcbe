package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"

	"orrery/apiserver/kinds"
	"orrery/apiserver/store"
	"orrery/apiserver/warning"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// WriteOptions go with a write.
type WriteOptions struct {
	// DryRun does everything but the write itself.
	DryRun bool
	// Subresource is the view that is written (status and the like); nil for the object itself.
	Subresource *kinds.Subresource
	// Version is the row in whose version the client wrote; nil is the stored one.
	Version *kinds.Kind
	// Validate is called last, with the object as it is about to be stored (old is
	// nil on create, obj is nil on delete): validating admission.
	Validate func(ctx context.Context, obj, old runtime.Object) error
	// CreateMissing lets Update create what is not there.
	CreateMissing bool
	// AnyVersion writes over any resourceVersion, even of a kind that requires one, and
	// does not take the uid for a precondition: a patch is made of what is there.
	AnyVersion bool
}

func (o *WriteOptions) validateVersion(obj, old runtime.Object) field.ErrorList {
	if o.Version == nil || o.Version.ValidateVersion == nil {
		return nil
	}
	return o.Version.ValidateVersion(obj, old)
}

// attempts bounds how often a write is tried again because of other writers.
const attempts = 50

// Create stores a new object and returns it as it is stored. It sets the name
// from generateName, the uid and the creationTimestamp. obj is changed.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/registry/rest/create.go, BeforeCreate.
func (r *Resource) Create(ctx context.Context, namespace string, obj runtime.Object, o WriteOptions) (runtime.Object, error) {
	k := r.Kind
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if m.GetResourceVersion() != "" && o.DryRun {
		m.SetResourceVersion("")
	}
	generated := m.GetName() == "" && m.GetGenerateName() != ""
	for try := 0; ; try++ {
		if generated {
			m.SetName(generateName(m.GetGenerateName()))
		}
		out, err := r.createOnce(ctx, namespace, obj, m, o)
		if generated && apierrors.IsAlreadyExists(err) && try < 7 {
			continue
		}
		if generated && apierrors.IsAlreadyExists(err) {
			return nil, apierrors.NewGenerateNameConflict(k.GR(), m.GetName(), 1)
		}
		return out, err
	}
}

func (r *Resource) createOnce(ctx context.Context, namespace string, obj runtime.Object, m metav1.Object, o WriteOptions) (runtime.Object, error) {
	k := r.Kind
	m.SetNamespace("")
	if k.Namespaced {
		m.SetNamespace(namespace)
	}
	m.SetUID(uuid.NewUUID())
	m.SetCreationTimestamp(metav1.Now().Rfc3339Copy())
	m.SetDeletionTimestamp(nil)
	m.SetDeletionGracePeriodSeconds(nil)
	m.SetSelfLink("")
	prepareForCreate(k, obj, m)
	if k.PrepareForCreate != nil {
		k.PrepareForCreate(ctx, obj)
	}
	r.Default(obj)
	done, err := r.begin(ctx, obj, nil, o.DryRun)
	if err != nil {
		return nil, r.invalid(m.GetName(), err)
	}
	written := false
	defer func() { done(written) }()
	errs := validateMeta(k, m)
	if k.Validate != nil {
		errs = append(errs, k.Validate(obj)...)
	}
	errs = append(errs, o.validateVersion(obj, nil)...)
	if len(errs) > 0 {
		return nil, newInvalid(k, m.GetName(), errs)
	}
	r.warn(ctx, obj, nil)
	if o.Validate != nil {
		if err := o.Validate(ctx, obj, nil); err != nil {
			return nil, err
		}
	}
	value, err := Encode(k, obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	key := k.Key(m.GetNamespace(), m.GetName())
	if o.DryRun {
		if _, err := r.registry.store.Get(ctx, key); err == nil {
			return nil, apierrors.NewAlreadyExists(k.GR(), m.GetName())
		}
		return stored(k, obj, value, "")
	}
	if m.GetResourceVersion() != "" {
		return nil, errors.New("resourceVersion should not be set on objects to be created")
	}
	rev, err := r.registry.store.Create(ctx, key, value, k.TTL)
	if err != nil {
		return nil, r.storeError(err, m.GetName())
	}
	written = true
	r.wrote(rev)
	return stored(k, obj, value, strconv.FormatInt(rev, 10))
}

// stored is the object as a reader would find it: protobuf does not tell an empty list from none.
func stored(k *kinds.Kind, obj runtime.Object, value []byte, resourceVersion string) (runtime.Object, error) {
	if k.Custom == nil && !k.JSON {
		var err error
		if obj, err = Decode(k, value, 0); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
	}
	obj.GetObjectKind().SetGroupVersionKind(k.GVK())
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	m.SetResourceVersion(resourceVersion)
	return obj, nil
}

// begin runs the kind's Begin hook; done is never nil.
func (r *Resource) begin(ctx context.Context, obj, old runtime.Object, dryRun bool) (func(bool), error) {
	nothing := func(bool) {}
	if r.Kind.Begin == nil {
		return nothing, nil
	}
	done, err := r.Kind.Begin(ctx, obj, old, dryRun)
	if err != nil || done == nil {
		return nothing, err
	}
	return done, nil
}

// invalid makes a 422 of a field error, and leaves other errors alone.
func (r *Resource) invalid(name string, err error) error {
	var fe *field.Error
	if errors.As(err, &fe) {
		return apierrors.NewInvalid(r.Kind.GK(), name, field.ErrorList{fe})
	}
	return err
}

func (r *Resource) warn(ctx context.Context, obj, old runtime.Object) {
	if r.Kind.Warnings != nil {
		for _, text := range r.Kind.Warnings(ctx, obj, old) {
			warning.Add(ctx, text)
		}
	}
}

// generateName appends five characters that make no words.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/storage/names/generate.go.
func generateName(base string) string {
	const letters = "bcdfghjklmnpqrstvwxz2456789"
	if len(base) > 58 {
		base = base[:58]
	}
	b := []byte(base)
	for range 5 {
		b = append(b, letters[rand.IntN(len(letters))])
	}
	return string(b)
}

// Update reads the object, lets change make a new one of a copy, and stores
// that if nobody else wrote in between; otherwise it starts again, unless
// change's object carries a resourceVersion, which makes it a 409. change is
// given nil when the object is missing and o.CreateMissing is set. created
// tells that there was none.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/storage/interfaces.go, GuaranteedUpdate.
func (r *Resource) Update(ctx context.Context, namespace, name string, change func(ctx context.Context, obj runtime.Object) (runtime.Object, error), o WriteOptions) (_ runtime.Object, created bool, err error) {
	key := r.Kind.Key(namespace, name)
	cur, err := r.registry.store.Get(ctx, key)
	for range attempts {
		if errors.Is(err, store.ErrNotFound) && o.CreateMissing {
			obj, err := change(ctx, nil)
			if err != nil {
				return nil, false, err
			}
			out, err := r.Create(ctx, namespace, obj, o)
			return out, err == nil, err
		}
		if err != nil {
			return nil, false, r.storeError(err, name)
		}
		var obj runtime.Object
		var retry bool
		obj, retry, cur, err = r.updateOnce(ctx, name, cur, change, o)
		if !retry {
			return obj, false, err
		}
	}
	return nil, false, apierrors.NewConflict(r.Kind.GR(), name, errModified)
}

// updateOnce is one try on top of cur. retry comes with the entry (or the
// store's error) to try again with.
func (r *Resource) updateOnce(ctx context.Context, name string, cur store.Entry, change func(context.Context, runtime.Object) (runtime.Object, error), o WriteOptions) (_ runtime.Object, retry bool, _ store.Entry, err error) {
	k := r.Kind
	old, err := Decode(k, cur.Value, cur.Revision)
	if err != nil {
		return nil, false, cur, apierrors.NewInternalError(err)
	}
	obj, err := change(ctx, old.DeepCopyObject())
	if err != nil {
		return nil, false, cur, err
	}
	m, mErr := meta.Accessor(obj)
	om, omErr := meta.Accessor(old)
	if err := errors.Join(mErr, omErr); err != nil {
		return nil, false, cur, apierrors.NewInternalError(err)
	}
	pinned := m.GetResourceVersion() != "" && m.GetResourceVersion() != "0"
	if err := r.checkVersion(m, om, name, cur.Key, pinned, o); err != nil {
		return nil, false, cur, err
	}
	done, err := r.prepareUpdate(ctx, obj, old, m, om, o)
	if err != nil {
		return nil, false, cur, err
	}
	written := false
	defer func() { done(written) }()
	if o.Validate != nil {
		if err := o.Validate(ctx, obj, old); err != nil {
			return nil, false, cur, err
		}
	}
	if r.ready(obj, m) && m.GetDeletionTimestamp() != nil {
		if o.DryRun {
			return obj, false, cur, nil
		}
		return r.remove(ctx, obj, cur)
	}
	value, err := Encode(k, obj)
	if err != nil {
		return nil, false, cur, apierrors.NewInternalError(err)
	}
	if bytes.Equal(value, cur.Value) || sameButTimes(k, obj, old) {
		return old, false, cur, nil
	}
	if o.DryRun {
		obj, err := stored(k, obj, value, om.GetResourceVersion())
		return obj, false, cur, err
	}
	next, err := r.registry.store.Update(ctx, cur.Key, value, cur.Revision, k.TTL)
	switch {
	case errors.Is(err, store.ErrConflict) && !pinned:
		return nil, true, next, nil
	case errors.Is(err, store.ErrNotFound) && o.CreateMissing && !pinned:
		return nil, true, next, err
	case err != nil:
		return nil, false, cur, r.storeError(err, name)
	}
	written = true
	r.wrote(next.Revision)
	obj, err = stored(k, obj, value, strconv.FormatInt(next.Revision, 10))
	return obj, false, next, err
}

// checkVersion is optimistic concurrency: the object that is written must say
// nothing, or what is stored, about its resourceVersion and uid.
func (r *Resource) checkVersion(m, om metav1.Object, name, key string, pinned bool, o WriteOptions) error {
	k := r.Kind
	if uid := m.GetUID(); uid != "" && uid != om.GetUID() && !o.AnyVersion {
		return apierrors.NewConflict(k.GR(), name, fmt.Errorf("StorageError: invalid object, Code: 4, Key: %s, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: %v, UID in object meta: %v", key, uid, om.GetUID()))
	}
	if pinned && m.GetResourceVersion() != om.GetResourceVersion() {
		if _, err := strconv.ParseInt(m.GetResourceVersion(), 10, 64); err != nil {
			return apierrors.NewInvalid(k.GK(), name, field.ErrorList{field.Invalid(field.NewPath("metadata", "resourceVersion"), m.GetResourceVersion(), err.Error())})
		}
		return apierrors.NewConflict(k.GR(), name, errModified)
	}
	if !pinned && k.RequireResourceVersion && !o.AnyVersion {
		// Upstream names the resource where a kind belongs.
		return apierrors.NewInvalid(schema.GroupKind{Group: k.Group, Kind: k.Resource}, name, field.ErrorList{field.Invalid(field.NewPath("metadata", "resourceVersion"), 0, "must be specified for an update")})
	}
	return nil
}

// prepareUpdate puts back what a client cannot change, runs the strategy and validates.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/registry/rest/update.go, BeforeUpdate.
func (r *Resource) prepareUpdate(ctx context.Context, obj, old runtime.Object, m, om metav1.Object, o WriteOptions) (func(bool), error) {
	k := r.Kind
	if m.GetUID() == "" {
		m.SetUID(om.GetUID())
	}
	m.SetCreationTimestamp(om.GetCreationTimestamp())
	if om.GetDeletionTimestamp() != nil { // else validation refuses what the client says
		m.SetDeletionTimestamp(om.GetDeletionTimestamp())
	}
	if m.GetDeletionGracePeriodSeconds() == nil {
		m.SetDeletionGracePeriodSeconds(om.GetDeletionGracePeriodSeconds())
	}
	m.SetGeneration(om.GetGeneration())
	m.SetSelfLink("")
	if m.GetName() == "" {
		m.SetName(om.GetName())
	}
	if k.Namespaced && m.GetNamespace() == "" {
		m.SetNamespace(om.GetNamespace())
	}
	m.SetResourceVersion(om.GetResourceVersion())
	prepareForUpdate(ctx, k, o.Subresource, obj, old, m)
	r.Default(obj)
	done := func(bool) {}
	if o.Subresource == nil {
		var err error
		if done, err = r.begin(ctx, obj, old, o.DryRun); err != nil {
			return nil, r.invalid(m.GetName(), err)
		}
	}
	errs := validateMetaUpdate(k, m, om)
	switch sub := o.Subresource; {
	case sub == nil:
		if k.Validate != nil && !k.UpdateAlone {
			errs = append(errs, k.Validate(obj)...)
		}
		if k.ValidateUpdate != nil {
			errs = append(errs, k.ValidateUpdate(obj, old)...)
		}
		errs = append(errs, o.validateVersion(obj, old)...)
	case sub.ValidateUpdate != nil:
		errs = append(errs, sub.ValidateUpdate(obj, old)...)
	}
	if len(errs) > 0 {
		done(false)
		return nil, newInvalid(k, m.GetName(), errs)
	}
	if o.Subresource == nil {
		r.warn(ctx, obj, old)
	}
	return done, nil
}

// ready reports that nothing keeps the object in being once it is marked as deleted.
func (r *Resource) ready(obj runtime.Object, m metav1.Object) bool {
	grace := m.GetDeletionGracePeriodSeconds()
	return len(m.GetFinalizers()) == 0 && (grace == nil || *grace == 0) && (r.Kind.Held == nil || !r.Kind.Held(obj))
}

// remove deletes what an update has left without a reason to be.
func (r *Resource) remove(ctx context.Context, obj runtime.Object, cur store.Entry) (runtime.Object, bool, store.Entry, error) {
	e, err := r.registry.store.Delete(ctx, cur.Key, cur.Revision)
	switch {
	case errors.Is(err, store.ErrConflict):
		return nil, true, e, nil
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return nil, false, cur, r.storeError(err, "")
	}
	r.wrote(e.Revision)
	r.afterDelete(ctx, obj)
	return obj, false, e, nil
}

func (r *Resource) afterDelete(ctx context.Context, obj runtime.Object) {
	if r.Kind.AfterDelete != nil {
		r.Kind.AfterDelete(ctx, obj)
	}
}
