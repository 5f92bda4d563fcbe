package kinds

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (c *checks) tolerations(tolerations []corev1.Toleration, at *field.Path) {
	for i, t := range tolerations {
		at := at.Index(i)
		if t.Key != "" {
			c.addAll(metavalidation.ValidateLabelName(t.Key, at.Child("key")))
		} else if t.Operator != corev1.TolerationOpExists {
			c.add(field.Invalid(at.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			c.add(field.Invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			if messages := utilvalidation.IsValidLabelValue(t.Value); len(messages) > 0 {
				c.add(field.Invalid(at.Child("operator"), t.Value, strings.Join(messages, ";")))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				c.add(field.Invalid(at.Child("operator"), t.Value, "value must be empty when `operator` is 'Exists'"))
			}
		case corev1.TolerationOpLt, corev1.TolerationOpGt: // known, and not enabled
			c.add(field.NotSupported(at.Child("operator"), t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists, corev1.TolerationOpLt, corev1.TolerationOpGt}))
		default:
			c.add(field.NotSupported(at.Child("operator"), t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}))
		}
		optionOf(c, t.Effect, at.Child("effect"), corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
	}
}

func (c *checks) affinity(a *corev1.Affinity, at *field.Path) {
	if a == nil {
		return
	}
	if n := a.NodeAffinity; n != nil {
		at := at.Child("nodeAffinity")
		if r := n.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
			at := at.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
			if len(r.NodeSelectorTerms) == 0 {
				c.add(field.Required(at, "must have at least one node selector term"))
			}
			for i := range r.NodeSelectorTerms {
				c.nodeTerm(&r.NodeSelectorTerms[i], at.Index(i), true)
			}
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			p, at := &n.PreferredDuringSchedulingIgnoredDuringExecution[i], at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
			c.weight(p.Weight, at.Child("weight"))
			c.nodeTerm(&p.Preference, at.Child("preference"), false)
		}
	}
	pods := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, at *field.Path) {
		for i := range required {
			c.podTerm(&required[i], at.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i))
		}
		for i := range preferred {
			at := at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
			c.weight(preferred[i].Weight, at.Child("weight"))
			c.podTerm(&preferred[i].PodAffinityTerm, at.Child("podAffinityTerm"))
		}
	}
	if p := a.PodAffinity; p != nil {
		pods(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAffinity"))
	}
	if p := a.PodAntiAffinity; p != nil {
		pods(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAntiAffinity"))
	}
}

func (c *checks) weight(w int32, at *field.Path) {
	if w <= 0 || w > 100 {
		c.add(field.Invalid(at, w, "must be in the range 1-100"))
	}
}

// nodeTerm checks one of the terms of which a node must match one; what is only preferred may name values that no label can have.
func (c *checks) nodeTerm(t *corev1.NodeSelectorTerm, at *field.Path, values bool) {
	for i, r := range t.MatchExpressions {
		at := at.Child("matchExpressions").Index(i)
		switch r.Operator {
		case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
			if len(r.Values) == 0 {
				c.add(field.Required(at.Child("values"), "must be specified when `operator` is 'In' or 'NotIn'"))
			}
		case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
			if len(r.Values) > 0 {
				c.add(field.Forbidden(at.Child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
			}
		case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
			if len(r.Values) != 1 {
				c.add(field.Required(at.Child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'"))
			}
		default:
			c.add(field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
		}
		c.addAll(metavalidation.ValidateLabelName(r.Key, at.Child("key")))
		for j := range r.Values {
			if values {
				c.texts(r.Values[j], at.Child("values").Index(j), utilvalidation.IsValidLabelValue(r.Values[j]))
			}
		}
	}
	for i, r := range t.MatchFields {
		at := at.Child("matchFields").Index(i)
		switch {
		case r.Operator != corev1.NodeSelectorOpIn && r.Operator != corev1.NodeSelectorOpNotIn:
			c.add(field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
		case len(r.Values) != 1:
			c.add(field.Required(at.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"))
		}
		if r.Key != "metadata.name" {
			c.add(field.Invalid(at.Child("key"), r.Key, "not a valid field selector key"))
			continue
		}
		for j, name := range r.Values {
			c.texts(name, at.Child("values").Index(j), subdomain(name))
		}
	}
}

// labelKeys looks at the keys of a pod's own labels that narrow a selector. By now they
// have: a key that the selector had before is in it twice.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidateMatchLabelKeysAndMismatchLabelKeys.
func (c *checks) labelKeys(match, mismatch []string, sel *metav1.LabelSelector, at *field.Path) {
	for _, list := range []struct {
		name string
		keys []string
	}{{"matchLabelKeys", match}, {"mismatchLabelKeys", mismatch}} {
		if len(list.keys) > 0 && sel == nil {
			c.add(field.Forbidden(at.Child(list.name), "must not be specified when labelSelector is not set"))
			continue
		}
		for i, key := range list.keys {
			c.addAll(metavalidation.ValidateLabelName(key, at.Child(list.name).Index(i)))
		}
	}
	if sel != nil {
		had := map[string]bool{}
		for key := range sel.MatchLabels {
			had[key] = true
		}
		for _, r := range sel.MatchExpressions {
			if i := slices.Index(match, r.Key); i >= 0 && had[r.Key] {
				c.add(field.Invalid(at.Index(i), r.Key, "exists in both matchLabelKeys and labelSelector"))
			}
			had[r.Key] = true
		}
	}
	for i, key := range match {
		if slices.Contains(mismatch, key) {
			c.add(field.Invalid(at.Child("matchLabelKeys").Index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys"))
		}
	}
}

func (c *checks) podTerm(t *corev1.PodAffinityTerm, at *field.Path) {
	c.selector(t.LabelSelector, at.Child("labelSelector"))
	c.selector(t.NamespaceSelector, at.Child("namespaceSelector"))
	for _, ns := range t.Namespaces {
		c.texts(ns, at.Child("namespace"), utilvalidation.IsDNS1123Label(ns))
	}
	c.labelKeys(t.MatchLabelKeys, t.MismatchLabelKeys, t.LabelSelector, at)
	c.required(t.TopologyKey, at.Child("topologyKey"), "can not be empty")
	c.addAll(metavalidation.ValidateLabelName(t.TopologyKey, at.Child("topologyKey")))
}

// spread checks the rules by which a pod keeps its distance from its like.
//
// Upstream: pkg/apis/core/validation/validation.go, validateTopologySpreadConstraints.
func (c *checks) spread(constraints []corev1.TopologySpreadConstraint, at *field.Path) {
	for i, t := range constraints {
		at := at.Index(i)
		if t.MaxSkew <= 0 {
			c.add(field.Invalid(at.Child("maxSkew"), t.MaxSkew, "must be greater than zero"))
		}
		c.required(t.TopologyKey, at.Child("topologyKey"), "can not be empty")
		supported(c, t.WhenUnsatisfiable, at.Child("whenUnsatisfiable"), corev1.DoNotSchedule, corev1.ScheduleAnyway)
		if slices.ContainsFunc(constraints[i+1:], func(n corev1.TopologySpreadConstraint) bool {
			return n.TopologyKey == t.TopologyKey && n.WhenUnsatisfiable == t.WhenUnsatisfiable
		}) {
			c.add(field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), fmt.Sprintf("{%v, %v}", t.TopologyKey, t.WhenUnsatisfiable)))
		}
		if m := t.MinDomains; m != nil {
			if *m <= 0 {
				c.add(field.Invalid(at.Child("minDomains"), *m, "must be greater than zero"))
			}
			if t.WhenUnsatisfiable != corev1.DoNotSchedule {
				c.add(field.Invalid(at.Child("minDomains"), *m, fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, t.WhenUnsatisfiable)))
			}
		}
		given(c, t.NodeAffinityPolicy, at.Child("nodeAffinityPolicy"), corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		given(c, t.NodeTaintsPolicy, at.Child("nodeTaintsPolicy"), corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		c.labelKeys(t.MatchLabelKeys, nil, t.LabelSelector, at)
		c.selector(t.LabelSelector, at.Child("labelSelector"))
	}
}

// narrowed refuses nodes that the terms of before did not allow.
//
// Upstream: pkg/apis/core/validation/validation.go, validateNodeAffinityMutation.
func (c *checks) narrowed(now, was *corev1.Affinity) {
	terms := func(a *corev1.Affinity) []corev1.NodeSelectorTerm {
		if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
			return nil
		}
		return a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	at := specPath.Child("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	before, after := terms(was), terms(now)
	if len(before) > 0 && len(before) != len(after) {
		c.add(field.Invalid(at, after, "no additions/deletions to non-empty NodeSelectorTerms list are allowed"))
		return
	}
	begins := func(now, was []corev1.NodeSelectorRequirement) bool {
		return len(now) >= len(was) && equal(now[:len(was)], was)
	}
	for i, t := range before {
		n := after[i]
		none := len(t.MatchExpressions)+len(t.MatchFields) == 0 // such a term matches no node, and must go on so
		if none && len(n.MatchExpressions)+len(n.MatchFields) > 0 || !begins(n.MatchExpressions, t.MatchExpressions) || !begins(n.MatchFields, t.MatchFields) {
			c.add(field.Invalid(at.Index(i), n, "only additions are allowed (no mutations or deletions)"))
		}
	}
}

// sameNodeAffinity makes the affinity to nodes the same; an affinity that consists of nothing else is none.
func sameNodeAffinity(now, was *corev1.PodSpec) {
	var before *corev1.NodeAffinity
	if was.Affinity != nil {
		before = was.Affinity.NodeAffinity
	}
	if now.Affinity == nil && before != nil {
		now.Affinity = &corev1.Affinity{}
	}
	if now.Affinity != nil {
		now.Affinity.NodeAffinity = before
		if was.Affinity == nil && *now.Affinity == (corev1.Affinity{}) {
			now.Affinity = nil
		}
	}
}
