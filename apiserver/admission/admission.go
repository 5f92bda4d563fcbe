package admission

import (
	"context"

	"orrery/apiserver/auth"
	"orrery/apiserver/kinds"

	"k8s.io/apimachinery/pkg/runtime"
)

// Operation is what a request does to an object.
type Operation string

// The operations that admission sees; reads never come here.
const (
	Create  Operation = "CREATE"
	Update  Operation = "UPDATE"
	Delete  Operation = "DELETE"
	Connect Operation = "CONNECT"
)

// Attributes describe one write. Admit may change Object in place.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/interfaces.go, Attributes.
type Attributes struct {
	Operation Operation
	// Kind is the row of the table for the resource that is written; Object is of
	// its hub version (see kinds.Kind), except for subresources that have a body of
	// their own (a Binding for pods/binding, a PodExecOptions for pods/exec).
	Kind        *kinds.Kind
	Subresource string
	Namespace   string
	// Name is empty on a create with generateName.
	Name string
	// Object is the new state; nil on Delete.
	Object runtime.Object
	// Old is the state before; nil on Create and Connect; must not be changed.
	Old runtime.Object
	// Options are *metav1.CreateOptions, UpdateOptions, PatchOptions or DeleteOptions.
	Options runtime.Object
	DryRun  bool
	User    *auth.UserInfo
	// Reinvoke asks for a second round of all plugins: a webhook has changed the
	// object. Round is 1 then. Webhooks remembers what they did in the first.
	Reinvoke bool
	Round    int
	Webhooks any
}

// Plugin looks at writes after authorization and before storage. Admit may
// change the object; Validate sees the final one. An error (usually an
// apierrors Forbidden) refuses the request. Both are called for every
// operation and every resource; a plugin returns nil for what is not its business.
type Plugin interface {
	// Name is upstream's name of the plugin, as in --enable-admission-plugins.
	Name() string
	Admit(ctx context.Context, a *Attributes) error
	Validate(ctx context.Context, a *Attributes) error
}

// Base does nothing; plugins embed it and override Admit or Validate.
type Base struct{}

// Admit changes nothing.
func (Base) Admit(context.Context, *Attributes) error { return nil }

// Validate refuses nothing.
func (Base) Validate(context.Context, *Attributes) error { return nil }

// Chain asks its plugins in order; the first error ends it.
type Chain []Plugin

// Admit lets every plugin change the object; once more, when a webhook was among those who did.
func (c Chain) Admit(ctx context.Context, a *Attributes) error {
	for a.Round = 0; ; a.Round++ {
		for _, p := range c {
			if err := p.Admit(ctx, a); err != nil {
				return err
			}
		}
		if !a.Reinvoke || a.Round == 1 {
			return nil
		}
	}
}

// Validate lets every plugin refuse the object.
func (c Chain) Validate(ctx context.Context, a *Attributes) error {
	for _, p := range c {
		if err := p.Validate(ctx, a); err != nil {
			return err
		}
	}
	return nil
}
