package bootstrap

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/component-helpers/auth/rbac/validation"
	"sigs.k8s.io/yaml"
)

// rbac.yaml lists all roles and bindings that a new cluster has, a rule a line.
//
//go:embed rbac.yaml
var rbacYAML []byte

// entry is one role or binding of rbac.yaml.
type entry struct {
	Kind, Name, Namespace string
	Labels                map[string]string
	// Aggregates are labels: the role's rules are those of all ClusterRoles that carry one of them.
	Aggregates []string
	Rules      []rbacv1.PolicyRule
	// Role is "ClusterRole/name" or "Role/name", for bindings.
	Role     string
	Subjects []rbacv1.Subject
}

// loadRBAC is rbac.yaml as objects, roles before bindings. They are shared and
// must not be changed.
//
// Upstream: plugin/pkg/auth/authorizer/rbac/bootstrappolicy.
var loadRBAC = sync.OnceValues(readRBAC)

func readRBAC() ([]runtime.Object, error) {
	var entries []entry
	if err := yaml.UnmarshalStrict(rbacYAML, &entries); err != nil {
		return nil, fmt.Errorf("reading the built-in roles: %w", err)
	}
	var list []runtime.Object
	clusterRoles := map[string]*rbacv1.ClusterRole{}
	for i := range entries {
		obj, err := entries[i].object()
		if err != nil {
			return nil, err
		}
		if role, ok := obj.(*rbacv1.ClusterRole); ok {
			clusterRoles[role.Name] = role
		}
		list = append(list, obj)
	}
	// view feeds edit, which feeds admin: three rounds settle it.
	for range 3 {
		for _, role := range clusterRoles {
			aggregate(role, clusterRoles)
		}
	}
	return list, nil
}

// aggregate fills in the rules of an aggregated role, in the order of the contributing roles' names.
//
// Upstream: pkg/controller/clusterroleaggregation/clusterroleaggregation_controller.go, syncClusterRole.
func aggregate(role *rbacv1.ClusterRole, all map[string]*rbacv1.ClusterRole) {
	if role.AggregationRule == nil {
		return
	}
	role.Rules = nil
	for _, selector := range role.AggregationRule.ClusterRoleSelectors {
		for _, name := range slices.Sorted(maps.Keys(all)) {
			if name == role.Name || !hasLabels(all[name].Labels, selector.MatchLabels) {
				continue
			}
			for _, rule := range all[name].Rules {
				if !slices.ContainsFunc(role.Rules, func(r rbacv1.PolicyRule) bool { return reflect.DeepEqual(r, rule) }) {
					role.Rules = append(role.Rules, rule)
				}
			}
		}
	}
}

func hasLabels(labels, want map[string]string) bool {
	for key, value := range want {
		if labels[key] != value {
			return false
		}
	}
	return true
}

// object makes the API object of an entry.
func (e *entry) object() (runtime.Object, error) {
	labels := map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"}
	maps.Copy(labels, e.Labels)
	meta := metav1.ObjectMeta{
		Name: e.Name, Namespace: e.Namespace, Labels: labels,
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
	kind, name, _ := strings.Cut(e.Role, "/")
	roleRef := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
	for i := range e.Subjects {
		if e.Subjects[i].Kind != rbacv1.ServiceAccountKind {
			e.Subjects[i].APIGroup = rbacv1.GroupName
		}
	}
	switch e.Kind {
	case "ClusterRole":
		role := &rbacv1.ClusterRole{ObjectMeta: meta, Rules: e.Rules}
		if len(e.Aggregates) > 0 {
			role.AggregationRule = &rbacv1.AggregationRule{}
		}
		for _, label := range e.Aggregates {
			role.AggregationRule.ClusterRoleSelectors = append(role.AggregationRule.ClusterRoleSelectors,
				metav1.LabelSelector{MatchLabels: map[string]string{label: "true"}})
		}
		return role, nil
	case "Role":
		return &rbacv1.Role{ObjectMeta: meta, Rules: e.Rules}, nil
	case "ClusterRoleBinding":
		return &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: roleRef, Subjects: e.Subjects}, nil
	case "RoleBinding":
		return &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: roleRef, Subjects: e.Subjects}, nil
	}
	return nil, fmt.Errorf("built-in role %q has the unknown kind %q", e.Name, e.Kind)
}

// ensureRBAC creates missing roles and bindings and completes those that are there.
//
// Upstream: pkg/registry/rbac/rest/storage_rbac.go, PolicyData.EnsureRBACPolicy;
// staging/src/k8s.io/component-helpers/auth/rbac/reconciliation.
func (b *Bootstrap) ensureRBAC(ctx context.Context) error {
	list, err := loadRBAC()
	if err != nil {
		return err
	}
	for _, want := range list {
		if err := b.ensureRBACObject(ctx, want); err != nil {
			return err
		}
	}
	return nil
}

// errUnchanged ends an update that would change nothing.
var errUnchanged = errors.New("nothing to change")

// ensureRBACObject creates or completes one role or binding.
func (b *Bootstrap) ensureRBACObject(ctx context.Context, want runtime.Object) error {
	m := want.(metav1.Object)
	resource := schema.GroupResource{Group: rbacv1.GroupName, Resource: rbacResource(want)}
	have, err := b.config.Objects.Get(ctx, resource, m.GetNamespace(), m.GetName())
	if apierrors.IsNotFound(err) {
		_, err = b.config.Objects.Create(ctx, resource, want.DeepCopyObject())
		return ignore(err, apierrors.IsAlreadyExists)
	}
	if err != nil {
		return err
	}
	if have.(metav1.Object).GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] == "false" {
		return nil
	}
	// A binding's role cannot be changed, only the binding replaced.
	if !reflect.DeepEqual(roleRefOf(have), roleRefOf(want)) {
		if err := b.config.Objects.Delete(ctx, resource, m.GetNamespace(), m.GetName()); err != nil {
			return err
		}
		_, err = b.config.Objects.Create(ctx, resource, want.DeepCopyObject())
		return err
	}
	if !complete(have.DeepCopyObject(), want) {
		return nil
	}
	_, err = b.config.Objects.Update(ctx, resource, m.GetNamespace(), m.GetName(), "", func(obj runtime.Object) error {
		if !complete(obj, want) {
			return errUnchanged
		}
		return nil
	})
	return ignore(err, func(err error) bool { return errors.Is(err, errUnchanged) })
}

// complete adds to obj what want has and obj lacks; it reports whether that was anything.
func complete(obj, want runtime.Object) (changed bool) {
	have, wanted := obj.(metav1.Object), want.(metav1.Object)
	labels, changedLabels := union(have.GetLabels(), wanted.GetLabels())
	annotations, changedAnnotations := union(have.GetAnnotations(), wanted.GetAnnotations())
	have.SetLabels(labels)
	have.SetAnnotations(annotations)
	changed = changedLabels || changedAnnotations
	switch obj := obj.(type) {
	case *rbacv1.ClusterRole:
		want := want.(*rbacv1.ClusterRole)
		if want.AggregationRule != nil {
			return changed // its rules are the aggregation controller's business
		}
		if covered, missing := validation.Covers(obj.Rules, want.Rules); !covered {
			obj.Rules, changed = append(obj.Rules, missing...), true
		}
	case *rbacv1.Role:
		if covered, missing := validation.Covers(obj.Rules, want.(*rbacv1.Role).Rules); !covered {
			obj.Rules, changed = append(obj.Rules, missing...), true
		}
	case *rbacv1.ClusterRoleBinding:
		return addSubjects(&obj.Subjects, want.(*rbacv1.ClusterRoleBinding).Subjects) || changed
	case *rbacv1.RoleBinding:
		return addSubjects(&obj.Subjects, want.(*rbacv1.RoleBinding).Subjects) || changed
	}
	return changed
}

// addSubjects appends what is missing.
func addSubjects(have *[]rbacv1.Subject, want []rbacv1.Subject) (changed bool) {
	for _, subject := range want {
		if !slices.Contains(*have, subject) {
			*have, changed = append(*have, subject), true
		}
	}
	return changed
}

// union adds the pairs of want to have; a value that is there stays.
func union(have, want map[string]string) (map[string]string, bool) {
	out, changed := maps.Clone(have), false
	if out == nil {
		out = map[string]string{}
	}
	for key, value := range want {
		if _, ok := out[key]; !ok {
			out[key], changed = value, true
		}
	}
	return out, changed
}

func roleRefOf(obj runtime.Object) rbacv1.RoleRef {
	switch binding := obj.(type) {
	case *rbacv1.ClusterRoleBinding:
		return binding.RoleRef
	case *rbacv1.RoleBinding:
		return binding.RoleRef
	}
	return rbacv1.RoleRef{}
}

func rbacResource(obj runtime.Object) string {
	switch obj.(type) {
	case *rbacv1.ClusterRole:
		return "clusterroles"
	case *rbacv1.Role:
		return "roles"
	case *rbacv1.ClusterRoleBinding:
		return "clusterrolebindings"
	}
	return "rolebindings"
}

// ignore drops errors of one kind.
func ignore(err error, kind func(error) bool) error {
	if err != nil && kind(err) {
		return nil
	}
	return err
}
