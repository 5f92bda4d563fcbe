package controllers

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"orrery/client"
)

// The ClusterRole aggregation controller.
//
// Watches: ClusterRoles.
// Wants: a ClusterRole with an aggregationRule to have the rules of all
// ClusterRoles that it selects: that is how admin, edit and view grow.
// Does: applies the rules, server-side, so that other fields stay others'.
// Upstream: pkg/controller/clusterroleaggregation/clusterroleaggregation_controller.go.
func startClusterRoleAggregation(e *env) (func(context.Context) error, error) {
	roles, api := watching[*rbacv1.ClusterRole](e), client.For[*rbacv1.ClusterRole](e.client)
	c := client.NewController("clusterrole-aggregation-controller", func(ctx context.Context, name string) (client.Result, error) {
		role, ok := roles.GetKey(name)
		if !ok || role.AggregationRule == nil {
			return client.Result{}, nil
		}
		rules, err := aggregate(role, roles.List())
		if err != nil || equality.Semantic.DeepEqual(rules, role.Rules) {
			return client.Result{}, err
		}
		body, err := json.Marshal(map[string]any{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": map[string]any{"name": name}, "rules": rules,
		})
		if err != nil {
			return client.Result{}, err
		}
		_, err = api.Apply(ctx, "", name, "clusterrole-aggregation-controller", true, body)
		return client.Result{}, err
	})
	roles.AddHandler(client.HandlerFunc(func(*rbacv1.ClusterRole) {
		for _, r := range roles.List() {
			if r.AggregationRule != nil {
				c.Enqueue(r)
			}
		}
	}))
	return c.Run, nil
}

// aggregate collects the rules of the selected roles, by name, each rule once.
func aggregate(role *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	slices.SortFunc(all, func(a, b *rbacv1.ClusterRole) int { return cmp.Compare(a.Name, b.Name) })
	rules := []rbacv1.PolicyRule{}
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, err
		}
		for _, r := range all {
			if r.Name == role.Name || !selector.Matches(labels.Set(r.Labels)) {
				continue
			}
			for _, rule := range r.Rules {
				if !slices.ContainsFunc(rules, func(have rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(have, rule) }) {
					rules = append(rules, rule)
				}
			}
		}
	}
	return rules, nil
}
