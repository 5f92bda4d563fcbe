package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"

	"orrery/apiserver/admission"
	"orrery/apiserver/auth"
	"orrery/apiserver/backend"
	"orrery/apiserver/kinds"
	"orrery/apiserver/objects"
	"orrery/apiserver/policy"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	reviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Config is what the plugins work with.
type Config struct {
	// Objects reads the configurations, and the namespaces that selectors look at.
	Objects objects.Reader
	Table   *kinds.Table
	// Authorizer is what matchConditions know as authorizer.
	Authorizer auth.Authorizer
	// Pool reaches the webhooks.
	Pool *backend.Pool
	Log  *slog.Logger
}

type plugin struct {
	admission.Base
	Config
	conditions policy.Cache[[]*policy.Conditions]
}

// New returns the plugins MutatingAdmissionWebhook and ValidatingAdmissionWebhook.
func New(c Config) []admission.Plugin {
	return []admission.Plugin{&mutating{plugin{Config: c}}, &validating{plugin{Config: c}}}
}

// mutating lets webhooks change objects.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/webhook/mutating/dispatcher.go, mutatingDispatcher.Dispatch.
type mutating struct{ plugin }

func (*mutating) Name() string { return "MutatingAdmissionWebhook" }

// round is what one write's first round leaves for the second.
type round struct {
	invoked []string       // webhooks that want to be asked again when others change something
	again   []string       // those of them that are to be
	last    runtime.Object // the object as the webhooks left it
}

// Admit implements admission.Plugin.
func (p *mutating) Admit(ctx context.Context, a *admission.Attributes) error {
	hooks, err := p.hooks(ctx, a)
	if err != nil || len(hooks) == 0 {
		return err
	}
	if a.Operation == admission.Delete && a.Old == nil {
		if old, err := p.Objects.Get(ctx, a.Kind.GR(), a.Namespace, a.Name); err == nil {
			with := *a
			with.Old = old
			a = &with
		}
	}
	state, ok := a.Webhooks.(*round)
	if !ok {
		state = &round{}
		a.Webhooks = state
	}
	if a.Round > 0 && !apiequality.Semantic.DeepEqual(state.last, a.Object) {
		state.again = state.invoked // other plugins have changed the object since
	}
	for _, h := range hooks {
		if a.Round > 0 && !slices.Contains(state.again, h.id) {
			continue
		}
		row, err := p.match(ctx, h, a)
		if err != nil {
			return err
		}
		if row == nil {
			continue
		}
		changed, err := p.mutate(ctx, h, a, row)
		if err != nil {
			if err = p.failed(ctx, h, err); err != nil {
				return err
			}
			continue
		}
		if changed {
			state.again, a.Reinvoke = slices.Clone(state.invoked), true
		}
		if h.again {
			state.invoked = append(state.invoked, h.id)
		}
	}
	if a.Object != nil {
		state.last = a.Object.DeepCopyObject()
	}
	return nil
}

// hooks lists the mutating webhooks in order of their configurations' names.
func (p *mutating) hooks(ctx context.Context, a *admission.Attributes) ([]*hook, error) {
	if a.Exempt() {
		return nil, nil
	}
	all, err := p.Objects.List(ctx, schema.GroupResource{Group: admissionv1.GroupName, Resource: "mutatingwebhookconfigurations"}, "", nil)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	var hooks []*hook
	for _, obj := range all {
		c, ok := obj.(*admissionv1.MutatingWebhookConfiguration)
		if !ok {
			continue
		}
		var own []*hook
		for _, w := range c.Webhooks {
			own = append(own, &hook{id: c.Name + "/" + w.Name, again: w.ReinvocationPolicy != nil && *w.ReinvocationPolicy == admissionv1.IfNeededReinvocationPolicy,
				ValidatingWebhook: admissionv1.ValidatingWebhook{Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, FailurePolicy: w.FailurePolicy,
					MatchPolicy: w.MatchPolicy, NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects,
					TimeoutSeconds: w.TimeoutSeconds, AdmissionReviewVersions: w.AdmissionReviewVersions, MatchConditions: w.MatchConditions}})
		}
		hooks = append(hooks, p.compiled(c, own)...)
	}
	return hooks, nil
}

// mutate asks one webhook and applies its patch.
func (p *mutating) mutate(ctx context.Context, h *hook, a *admission.Attributes, row *kinds.Kind) (changed bool, err error) {
	r, err := p.ask(ctx, h, a, row, true)
	if err != nil || len(r.Patch) == 0 {
		return false, err
	}
	patch, err := jsonpatch.DecodePatch(r.Patch)
	switch {
	case err != nil:
		return false, &callError{h.Name, fmt.Errorf("received undecodable patch in webhook response: %w", err)}
	case len(patch) == 0:
		return false, nil
	case a.Object == nil:
		return false, apierrors.NewInternalError(fmt.Errorf("admission webhook %q attempted to modify the object, which is not supported for this operation", h.Name))
	case *r.PatchType != reviewv1.PatchTypeJSONPatch:
		return false, &callError{h.Name, fmt.Errorf("unsupported patch type %q", *r.PatchType)}
	}
	before, err := encode(a.Object, a, row)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	after, err := patch.Apply(before)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	obj, err := decode(after, a, row)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	changed = !apiequality.Semantic.DeepEqual(a.Object, obj)
	a.Object = obj
	return changed, nil
}

// decode reads a patched object back into the hub version.
func decode(data []byte, a *admission.Attributes, row *kinds.Kind) (runtime.Object, error) {
	if !a.Kind.IsOne(a.Object) { // the body of a subresource
		obj, ok := reflect.New(reflect.TypeOf(a.Object).Elem()).Interface().(runtime.Object)
		if !ok {
			return nil, fmt.Errorf("%T is no object", a.Object)
		}
		return obj, json.Unmarshal(data, obj)
	}
	obj := row.New()
	if err := json.Unmarshal(data, obj); err != nil {
		return nil, err
	}
	hub, err := row.Unconvert(obj)
	if err == nil && a.Kind.Default != nil {
		a.Kind.Default(hub)
	}
	return hub, err
}

// validating lets webhooks refuse objects.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/webhook/validating/dispatcher.go, validatingDispatcher.Dispatch.
type validating struct{ plugin }

func (*validating) Name() string { return "ValidatingAdmissionWebhook" }

// Validate implements admission.Plugin. All webhooks are asked at the same time.
func (p *validating) Validate(ctx context.Context, a *admission.Attributes) error {
	if a.Exempt() {
		return nil
	}
	all, err := p.Objects.List(ctx, schema.GroupResource{Group: admissionv1.GroupName, Resource: "validatingwebhookconfigurations"}, "", nil)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	type call struct {
		hook *hook
		row  *kinds.Kind
	}
	var calls []call
	for _, obj := range all {
		c, ok := obj.(*admissionv1.ValidatingWebhookConfiguration)
		if !ok {
			continue
		}
		var own []*hook
		for _, w := range c.Webhooks {
			own = append(own, &hook{ValidatingWebhook: w})
		}
		for _, h := range p.compiled(c, own) {
			row, err := p.match(ctx, h, a)
			if err != nil {
				return err
			}
			if row != nil {
				calls = append(calls, call{h, row})
			}
		}
	}
	errs := make([]error, len(calls))
	var asked sync.WaitGroup
	for i, c := range calls {
		asked.Go(func() {
			if _, err := p.ask(ctx, c.hook, a, c.row, false); err != nil {
				errs[i] = p.failed(ctx, c.hook, err)
			}
		})
	}
	asked.Wait()
	for _, err := range errs {
		if err != nil {
			return err // the first one's words are the client's
		}
	}
	return nil
}
