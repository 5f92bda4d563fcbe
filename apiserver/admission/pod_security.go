package admission

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"orrery/apiserver/objects"
	"orrery/apiserver/warning"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	psa "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// podSecurity refuses pods that want more than the labels of their namespace allow (pod-security.kubernetes.io/enforce: baseline), and
// warns of workloads whose pods would be refused or are frowned upon.
//
// Upstream: plugin/pkg/admission/security/podsecurity/admission.go; staging/src/k8s.io/pod-security-admission/admission/admission.go.
// Left out: exemptions, audit annotations, warnings about pods that exist already when a namespace's labels change.
type podSecurity struct {
	Base
	objects   objects.Reader
	evaluator policy.Evaluator
	broken    error
}

func newPodSecurity(r objects.Reader) podSecurity {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	return podSecurity{objects: r, evaluator: evaluator, broken: err}
}

func (podSecurity) Name() string { return "PodSecurity" }

func (p podSecurity) Validate(ctx context.Context, a *Attributes) error {
	if p.broken != nil {
		return p.broken
	}
	isPod := a.Kind.Group == "" && a.Kind.Kind == "Pod" && (a.Subresource == "" || a.Subresource == "ephemeralcontainers")
	if a.Operation != Create && a.Operation != Update || a.Subresource != "" && !isPod {
		return nil
	}
	meta, spec := podOf(a.Object)
	if spec == nil {
		return nil
	}
	if old, ok := a.Old.(*corev1.Pod); ok && a.Subresource == "" && reflect.DeepEqual(old.Spec, *spec) && reflect.DeepEqual(old.Annotations, meta.Annotations) {
		return nil
	}
	ns, err := get[corev1.Namespace](ctx, p.objects, "", "namespaces", "", a.Namespace)
	if err != nil {
		return forbidden(a, "failed to get namespace: %w", err)
	}
	privileged := psa.LevelVersion{Level: psa.LevelPrivileged, Version: psa.LatestVersion()}
	rules, errs := psa.PolicyToEvaluate(ns.Labels, psa.Policy{Enforce: privileged, Audit: privileged, Warn: privileged})
	if isPod {
		if len(errs) > 0 && rules.Enforce.Level != psa.LevelPrivileged {
			return forbidden(a, "%w", errs.ToAggregate())
		}
		if result := p.evaluate(rules.Enforce, meta, spec); !result.Allowed {
			return forbidden(a, "violates PodSecurity %q: %w", rules.Enforce.String(), errors.New(result.ForbiddenDetail()))
		}
		if rules.Warn.Equivalent(&rules.Enforce) {
			return nil // it would have been refused
		}
	}
	if result := p.evaluate(rules.Warn, meta, spec); !result.Allowed {
		warning.Add(ctx, fmt.Sprintf("would violate PodSecurity %q: %s", rules.Warn.String(), result.ForbiddenDetail()))
	}
	return nil
}

func (p podSecurity) evaluate(lv psa.LevelVersion, meta *metav1.ObjectMeta, spec *corev1.PodSpec) policy.AggregateCheckResult {
	if lv.Level == psa.LevelPrivileged {
		return policy.AggregateCheckResult{Allowed: true}
	}
	return policy.AggregateCheckResults(p.evaluator.EvaluatePod(lv, meta, spec))
}

// podOf finds the pod, or the template of pods, in an object.
func podOf(o runtime.Object) (*metav1.ObjectMeta, *corev1.PodSpec) {
	var t *corev1.PodTemplateSpec
	switch o := o.(type) {
	case *corev1.Pod:
		return &o.ObjectMeta, &o.Spec
	case *corev1.PodTemplate:
		t = &o.Template
	case *corev1.ReplicationController:
		t = o.Spec.Template
	case *appsv1.ReplicaSet:
		t = &o.Spec.Template
	case *appsv1.Deployment:
		t = &o.Spec.Template
	case *appsv1.DaemonSet:
		t = &o.Spec.Template
	case *appsv1.StatefulSet:
		t = &o.Spec.Template
	case *batchv1.Job:
		t = &o.Spec.Template
	case *batchv1.CronJob:
		t = &o.Spec.JobTemplate.Spec.Template
	}
	if t == nil {
		return nil, nil
	}
	return &t.ObjectMeta, &t.Spec
}
