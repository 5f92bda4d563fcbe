package rbac_test

import (
	"context"
	"log/slog"
	"testing"

	"orrery/apiserver/auth"
	"orrery/apiserver/auth/rbac"
	"orrery/apiserver/bootstrap"
	"orrery/apiserver/kinds"
	"orrery/apiserver/registry"
	"orrery/apiserver/store/memory"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// A rule covers a request when verb, group, resource and name all fit.
func TestRules(t *testing.T) {
	pods := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods", "pods/exec"}, Verbs: []string{"get", "list"}}
	named := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"one"}, Verbs: []string{"get"}}
	scales := rbacv1.PolicyRule{APIGroups: []string{"*"}, Resources: []string{"*/scale"}, Verbs: []string{"*"}}
	paths := rbacv1.PolicyRule{NonResourceURLs: []string{"/healthz", "/logs/*"}, Verbs: []string{"get"}}
	resource := func(verb, group, resource, sub, name string) auth.Attributes {
		return auth.Attributes{IsResource: true, Verb: verb, APIGroup: group, Resource: resource, Subresource: sub, Name: name}
	}
	path := func(verb, path string) auth.Attributes { return auth.Attributes{Verb: verb, Path: path} }
	for _, c := range []struct {
		what string
		rule rbacv1.PolicyRule
		a    auth.Attributes
		want bool
	}{
		{"a listed verb", pods, resource("get", "", "pods", "", ""), true},
		{"another verb", pods, resource("delete", "", "pods", "", ""), false},
		{"another group", pods, resource("get", "apps", "pods", "", ""), false},
		{"a listed subresource", pods, resource("get", "", "pods", "exec", ""), true},
		{"pods do not cover pods/log", pods, resource("get", "", "pods", "log", ""), false},
		{"the name", named, resource("get", "", "configmaps", "", "one"), true},
		{"another name", named, resource("get", "", "configmaps", "", "two"), false},
		{"a list has no name", named, resource("get", "", "configmaps", "", ""), false},
		{"a subresource of any resource", scales, resource("update", "apps", "deployments", "scale", "x"), true},
		{"not the resource itself", scales, resource("update", "apps", "deployments", "", "x"), false},
		{"a path", paths, path("get", "/healthz"), true},
		{"below a path", paths, path("get", "/healthz/etcd"), false},
		{"below a starred path", paths, path("get", "/logs/a/b"), true},
		{"rules for paths do not cover resources", paths, resource("get", "", "pods", "", ""), false},
	} {
		if got := rbac.RuleAllows(&c.rule, &c.a); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}

// booted is an authorizer over the roles that every cluster has.
func booted(t testing.TB) (*rbac.Authorizer, *registry.Registry) {
	t.Helper()
	st := memory.New()
	reg := registry.New(kinds.NewTable(), st, slog.New(slog.DiscardHandler))
	t.Cleanup(reg.Close)
	b := bootstrap.New(bootstrap.Config{Objects: reg, Store: st, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- b.Run(ctx) }()
	for !b.Done("rbac/bootstrap-roles") {
		if _, err := reg.List(t.Context(), schema.GroupResource{Group: rbacv1.GroupName, Resource: "clusterroles"}, "", nil); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	return &rbac.Authorizer{Objects: reg}, reg
}

func allowed(t *testing.T, r *rbac.Authorizer, user *auth.UserInfo, verb, group, resource, sub, namespace string) bool {
	t.Helper()
	decision, _, err := r.Authorize(t.Context(), auth.Attributes{User: user, IsResource: true, Verb: verb, APIGroup: group, Resource: resource, Subresource: sub, Namespace: namespace})
	if err != nil {
		t.Fatal(err)
	}
	return decision == auth.Allow
}

func TestComponentsMayDoTheirWorkAndNoMore(t *testing.T) {
	r, _ := booted(t)
	scheduler := &auth.UserInfo{Name: "system:kube-scheduler", Groups: []string{"system:authenticated"}}
	replicaSets := &auth.UserInfo{Name: "system:serviceaccount:kube-system:replicaset-controller"}
	if !allowed(t, r, scheduler, "create", "", "pods", "binding", "default") || allowed(t, r, scheduler, "create", "", "pods", "", "default") {
		t.Error("the scheduler binds pods and creates none")
	}
	config := auth.Attributes{User: scheduler, IsResource: true, Verb: "get", Resource: "configmaps", Namespace: "kube-system", Name: "extension-apiserver-authentication"}
	if decision, _, _ := r.Authorize(t.Context(), config); decision != auth.Allow {
		t.Error("the scheduler reads extension-apiserver-authentication")
	}
	config.Name = "kubeadm-config"
	if decision, _, _ := r.Authorize(t.Context(), config); decision == auth.Allow {
		t.Error("the scheduler reads no other ConfigMap there")
	}
	if !allowed(t, r, replicaSets, "create", "", "pods", "", "default") || allowed(t, r, replicaSets, "delete", "", "nodes", "", "") {
		t.Error("the replica set controller creates pods and deletes no nodes")
	}
}

func TestARoleBindingReachesItsNamespaceOnly(t *testing.T) {
	r, reg := booted(t)
	if _, err := reg.Create(t.Context(), schema.GroupResource{Group: rbacv1.GroupName, Resource: "rolebindings"}, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "edit"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "dev", Name: "ci"}}}); err != nil {
		t.Fatal(err)
	}
	ci := &auth.UserInfo{Name: "system:serviceaccount:dev:ci"}
	if !allowed(t, r, ci, "create", "apps", "deployments", "", "dev") {
		t.Error("not in its namespace")
	}
	if allowed(t, r, ci, "create", "apps", "deployments", "", "prod") || allowed(t, r, ci, "list", "apps", "deployments", "", "") {
		t.Error("beyond its namespace")
	}
	if allowed(t, r, &auth.UserInfo{Name: "system:serviceaccount:prod:ci"}, "create", "apps", "deployments", "", "dev") {
		t.Error("an account of that name in another namespace")
	}
}

func TestABindingWithoutItsRoleIsReportedAndHurtsNobody(t *testing.T) {
	r, reg := booted(t)
	if _, err := reg.Create(t.Context(), schema.GroupResource{Group: rbacv1.GroupName, Resource: "clusterrolebindings"}, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "a"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "gone"},
		Subjects: []rbacv1.Subject{{Kind: "User", Name: "alice", APIGroup: rbacv1.GroupName}}}); err != nil {
		t.Fatal(err)
	}
	alice := &auth.UserInfo{Name: "alice", Groups: []string{"system:authenticated"}}
	decision, reason, _ := r.Authorize(t.Context(), auth.Attributes{User: alice, IsResource: true, Verb: "get", Resource: "secrets", Namespace: "default"})
	if decision == auth.Allow || reason != `RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found` {
		t.Errorf("%v %q", decision, reason)
	}
	if !allowed(t, r, alice, "create", "authorization.k8s.io", "selfsubjectaccessreviews", "", "") {
		t.Error("the right of every user was lost")
	}
}

func BenchmarkAuthorize(b *testing.B) {
	r, _ := booted(b)
	a := auth.Attributes{User: &auth.UserInfo{Name: "system:serviceaccount:kube-system:replicaset-controller", Groups: []string{"system:authenticated"}},
		IsResource: true, Verb: "create", Resource: "pods", Namespace: "default"}
	for b.Loop() {
		if decision, _, _ := r.Authorize(b.Context(), a); decision != auth.Allow {
			b.Fatal("denied")
		}
	}
}
