package crd

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"orrery/apiserver/backend"
	"orrery/apiserver/kinds"
	"orrery/apiserver/registry"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// cleanupPeriod is how often the objects of a definition that is going are
// looked after: finalizers may keep them.
const cleanupPeriod = time.Second

var resource = schema.GroupResource{Group: apiextensionsv1.GroupName, Resource: "customresourcedefinitions"}

// Controller keeps the table of kinds and the status of definitions in step
// with the definitions. It is level-triggered: whatever has changed, all
// definitions are looked at again; there are few of them.
//
// Upstream: staging/src/k8s.io/apiextensions-apiserver/pkg/apiserver/customresource_handler.go and
// pkg/controller/{status,establish,finalizer}, which are five controllers.
type Controller struct {
	table    *kinds.Table
	registry *registry.Registry
	webhooks *backend.Pool
	log      *slog.Logger
	synced   atomic.Bool

	served map[string]*served // by name of the definition
}

// served is what a definition has put into the table.
type served struct {
	spec  apiextensionsv1.CustomResourceDefinitionSpec
	names apiextensionsv1.CustomResourceDefinitionNames
	rows  []*kinds.Kind
	hub   *kinds.Kind
	// ending: the definition is being deleted, and no object is created any more.
	ending *atomic.Bool
}

// New wires the row of CustomResourceDefinition and returns the controller, which does nothing before Run.
// webhooks reaches those that convert objects.
func New(table *kinds.Table, r *registry.Registry, webhooks *backend.Pool, log *slog.Logger) *Controller {
	if k := table.Stored(resource); k != nil {
		wire(k)
	}
	return &Controller{table: table, registry: r, webhooks: webhooks, log: log, served: map[string]*served{}}
}

// Synced reports that all definitions that there were at the start are served.
func (c *Controller) Synced() bool { return c.synced.Load() }

// Run follows the definitions until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	res := c.registry.For(c.table.Stored(resource))
	for ctx.Err() == nil {
		w, _, err := res.Watch(ctx, registry.WatchOptions{Initial: true, After: -1})
		if err == nil {
			err = c.follow(ctx, w)
		}
		if ctx.Err() == nil {
			c.log.Debug("following CustomResourceDefinitions anew", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(cleanupPeriod):
		}
	}
	return nil
}

func (c *Controller) follow(ctx context.Context, w *registry.Watcher) error {
	for {
		again, err := c.sync(ctx)
		if err != nil && ctx.Err() == nil {
			c.log.Warn("serving custom resources", "err", err)
			again = true
		}
		c.synced.Store(true)
		var timer <-chan time.Time
		if again {
			timer = time.After(cleanupPeriod)
		}
		for changed := false; !changed; {
			events, wake, err := w.Take()
			if err != nil {
				return err
			}
			if len(events) > 0 {
				break
			}
			select {
			case <-wake:
			case <-timer:
				changed = true
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// sync looks at all definitions once. again asks to be called soon.
func (c *Controller) sync(ctx context.Context) (again bool, err error) {
	objects, err := c.registry.List(ctx, resource, "", nil)
	if err != nil {
		return false, err
	}
	all := make([]*definition, 0, len(objects))
	for _, obj := range objects {
		all = append(all, obj.(*definition).DeepCopy())
	}
	// Who came first keeps a name.
	slices.SortStableFunc(all, func(a, b *definition) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	var errs []error
	var unsettled []string
	for _, crd := range all {
		before := crd.Status.DeepCopy()
		settle(crd, all)
		if !apiequality.Semantic.DeepEqual(*before, crd.Status) {
			unsettled = append(unsettled, crd.Name)
		}
	}
	errs = append(errs, c.serve(ctx, all)...)
	for _, name := range unsettled { // not before it is true
		errs = append(errs, c.writeStatus(ctx, name, func(now *definition) { settle(now, all) }))
	}
	for _, crd := range all {
		if crd.DeletionTimestamp != nil && cleansUp(crd) {
			gone, err := c.finish(ctx, crd)
			errs = append(errs, err)
			again = again || !gone
		}
	}
	return again, errors.Join(errs...)
}

// serve brings the table up to date. Rows of unchanged definitions stay the same ones.
func (c *Controller) serve(ctx context.Context, all []*definition) []error {
	var errs []error
	next := map[string]*served{}
	for _, crd := range all {
		if !apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) {
			continue
		}
		if old := c.served[crd.Name]; old != nil && apiequality.Semantic.DeepEqual(old.spec, crd.Spec) && apiequality.Semantic.DeepEqual(old.names, crd.Status.AcceptedNames) {
			next[crd.Name] = old
			continue
		}
		rows, hub, err := rowsOf(context.WithoutCancel(ctx), crd, converterOf(ctx, c.webhooks, crd.Spec.Conversion))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s := &served{crd.Spec, crd.Status.AcceptedNames, rows, hub, &atomic.Bool{}}
		hub.Begin = func(_ context.Context, _, old runtime.Object, _ bool) (func(bool), error) {
			if old == nil && s.ending.Load() {
				return nil, errEnding
			}
			return nil, nil
		}
		next[crd.Name] = s
	}
	for _, crd := range all {
		if s := next[crd.Name]; s != nil {
			s.ending.Store(crd.DeletionTimestamp != nil)
		}
	}
	changed := len(next) != len(c.served)
	for name, s := range next {
		changed = changed || c.served[name] != s
	}
	before := c.served
	c.served = next
	if !changed {
		return errs
	}
	c.table.SetCustom(inOrder(next))
	for name, s := range before {
		if next[name] != s {
			c.registry.Forget(s.hub) // its watches end, and clients come back for the new kind
		}
	}
	return errs
}

var errEnding = &apierrors.StatusError{ErrStatus: metav1.Status{
	Status: metav1.StatusFailure, Code: http.StatusMethodNotAllowed, Reason: metav1.StatusReasonMethodNotAllowed,
	Message: "create not allowed while custom resource definition is terminating", Details: &metav1.StatusDetails{},
}}

// inOrder lists all rows as discovery shows them: by group, the best version first.
func inOrder(all map[string]*served) []*kinds.Kind {
	var rows []*kinds.Kind
	for _, s := range all {
		rows = append(rows, s.rows...)
	}
	slices.SortFunc(rows, compareRows)
	return rows
}

// finish deletes the objects of a definition that is going, and when none is left, lets it go.
//
// Upstream: pkg/controller/finalizer/crd_finalizer.go, CRDFinalizer.sync.
func (c *Controller) finish(ctx context.Context, crd *definition) (gone bool, err error) {
	done := condition(apiextensionsv1.Terminating, apiextensionsv1.ConditionFalse, "NeverEstablished", "resource was never established")
	if s := c.served[crd.Name]; s != nil {
		left, err := c.deleteAll(ctx, s.hub)
		if err != nil || left > 0 {
			progress := condition(apiextensionsv1.Terminating, apiextensionsv1.ConditionTrue, "InstanceDeletionInProgress", "CustomResource deletion is in progress")
			return false, errors.Join(err, c.writeStatus(ctx, crd.Name, func(now *definition) { apihelpers.SetCRDCondition(now, progress) }))
		}
		done = condition(apiextensionsv1.Terminating, apiextensionsv1.ConditionFalse, "InstanceDeletionCompleted", "removed all instances")
	}
	if err := c.writeStatus(ctx, crd.Name, func(now *definition) { apihelpers.SetCRDCondition(now, done) }); err != nil {
		return false, err
	}
	_, err = c.registry.Update(ctx, resource, "", crd.Name, "", func(obj runtime.Object) error {
		apihelpers.CRDRemoveFinalizer(obj.(*definition), apiextensionsv1.CustomResourceCleanupFinalizer)
		return nil
	})
	return err == nil, ignoreMissing(err)
}

// deleteAll deletes all objects of a kind, and counts those that finalizers keep.
func (c *Controller) deleteAll(ctx context.Context, k *kinds.Kind) (left int, err error) {
	res := c.registry.For(k)
	l, err := res.List(ctx, registry.ListOptions{Revision: -1})
	if err != nil {
		return 0, err
	}
	for _, obj := range l.Objects() {
		m, err := meta.Accessor(obj)
		if err != nil {
			return 0, err
		}
		_, deleted, err := res.Delete(ctx, m.GetNamespace(), m.GetName(), nil, registry.WriteOptions{})
		if ignoreMissing(err) != nil {
			return 0, err
		}
		if err == nil && !deleted {
			left++
		}
	}
	return left, nil
}

func (c *Controller) writeStatus(ctx context.Context, name string, change func(*definition)) error {
	_, err := c.registry.Update(ctx, resource, "", name, "status", func(obj runtime.Object) error {
		change(obj.(*definition))
		return nil
	})
	return ignoreMissing(err)
}

func ignoreMissing(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
