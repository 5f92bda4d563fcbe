package kinds

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// workload checks a selector and a template that it selects. Upstream's texts speak of one kind of workload here and of another one there.
func (c *checks) workload(s *metav1.LabelSelector, t *corev1.PodTemplateSpec, of, kind, wrong string) {
	at := specPath.Child("selector")
	if s == nil {
		c.add(field.Required(at, ""))
	}
	c.notEmpty(s, of)
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		c.add(field.Invalid(at, s, wrong))
		return
	}
	c.selected(t, selector)
	c.runsForEver(t, kind)
}

// notEmpty checks a selector, which must select something when there is one.
func (c *checks) notEmpty(s *metav1.LabelSelector, of string) {
	c.selector(s, specPath.Child("selector"))
	if s != nil && len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		c.add(field.Invalid(specPath.Child("selector"), s, "empty selector is invalid for "+of))
	}
}

// selected checks that a workload makes pods that it sees as its own.
func (c *checks) selected(t *corev1.PodTemplateSpec, s labels.Selector) {
	if !s.Matches(labels.Set(t.Labels)) {
		c.add(field.Invalid(specPath.Child("template", "metadata", "labels"), t.Labels, "`selector` does not match template `labels`"))
	}
}

// runsForEver checks the template of pods that are never done.
func (c *checks) runsForEver(t *corev1.PodTemplateSpec, kind string) {
	at := specPath.Child("template")
	c.addAll(validateTemplate(t, at))
	if p := t.Spec.RestartPolicy; p != corev1.RestartPolicyAlways {
		c.add(field.NotSupported(at.Child("spec", "restartPolicy"), p, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		c.add(field.Forbidden(at.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in "+kind+" is not Supported"))
	}
}

// Upstream: pkg/apis/apps/validation/validation.go, ValidateDeployment.
func validateDeployment(d *appsv1.Deployment) field.ErrorList {
	var c checks
	s := &d.Spec
	c.notNegativePtr(s.Replicas, specPath.Child("replicas"))
	c.workload(s.Selector, &s.Template, "deployment", "ReplicaSet", "invalid label selector")
	at := specPath.Child("strategy")
	switch s.Strategy.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.Strategy.RollingUpdate != nil {
			c.add(field.Forbidden(at.Child("rollingUpdate"), "may not be specified when strategy `type` is '"+string(appsv1.RecreateDeploymentStrategyType)+"'"))
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		if r := s.Strategy.RollingUpdate; r != nil {
			at := at.Child("rollingUpdate")
			c.percentOrCount(r.MaxUnavailable, at.Child("maxUnavailable"))
			c.percentOrCount(r.MaxSurge, at.Child("maxSurge"))
			if amount(r.MaxUnavailable) == 0 && amount(r.MaxSurge) == 0 {
				c.add(field.Invalid(at.Child("maxUnavailable"), r.MaxUnavailable, "may not be 0 when `maxSurge` is 0"))
			}
			c.notAboveAll(r.MaxUnavailable, at.Child("maxUnavailable"))
		}
	default:
		c.add(field.NotSupported(at, s.Strategy, []string{string(appsv1.RecreateDeploymentStrategyType), string(appsv1.RollingUpdateDeploymentStrategyType)}))
	}
	c.notNegative(int64(s.MinReadySeconds), specPath.Child("minReadySeconds"))
	c.notNegativePtr(s.RevisionHistoryLimit, specPath.Child("revisionHistoryLimit"))
	c.notNegativePtr(s.ProgressDeadlineSeconds, specPath.Child("progressDeadlineSeconds"))
	if p := s.ProgressDeadlineSeconds; p != nil && *p <= s.MinReadySeconds {
		c.add(field.Invalid(specPath.Child("progressDeadlineSeconds"), *p, "must be greater than minReadySeconds"))
	}
	return c.errs
}

func validateDeploymentUpdate(d, old *appsv1.Deployment) field.ErrorList {
	return selectorUnchanged(d.Spec.Selector, old.Spec.Selector)
}

func selectorUnchanged(s, old *metav1.LabelSelector) field.ErrorList {
	var c checks
	c.same(s, old, specPath.Child("selector"))
	return c.errs
}

func validateReplicaSet(rs *appsv1.ReplicaSet) field.ErrorList {
	var c checks
	c.notNegativePtr(rs.Spec.Replicas, specPath.Child("replicas"))
	c.notNegative(int64(rs.Spec.MinReadySeconds), specPath.Child("minReadySeconds"))
	c.workload(rs.Spec.Selector, &rs.Spec.Template, "deployment", "ReplicaSet", "invalid label selector")
	return c.errs
}

func validateReplicaSetUpdate(rs, old *appsv1.ReplicaSet) field.ErrorList {
	return selectorUnchanged(rs.Spec.Selector, old.Spec.Selector)
}

// Upstream: pkg/apis/core/validation/validation.go, ValidateReplicationControllerSpec.
func validateReplicationController(rc *corev1.ReplicationController) field.ErrorList {
	var c checks
	c.notNegative(int64(rc.Spec.MinReadySeconds), specPath.Child("minReadySeconds"))
	if len(rc.Spec.Selector) == 0 {
		c.add(field.Required(specPath.Child("selector"), ""))
	}
	c.notNegativePtr(rc.Spec.Replicas, specPath.Child("replicas"))
	if rc.Spec.Template == nil {
		c.add(field.Required(specPath.Child("template"), ""))
		return c.errs
	}
	c.selected(rc.Spec.Template, labels.SelectorFromSet(rc.Spec.Selector))
	c.runsForEver(rc.Spec.Template, "ReplicationController")
	return c.errs
}

// Upstream: pkg/apis/apps/validation/validation.go, ValidateDaemonSet.
func validateDaemonSet(ds *appsv1.DaemonSet) field.ErrorList {
	var c checks
	s := &ds.Spec
	c.notEmpty(s.Selector, "daemonset")
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil {
		c.selected(&s.Template, selector)
	}
	c.runsForEver(&s.Template, "DaemonSet")
	c.notNegative(int64(s.MinReadySeconds), specPath.Child("minReadySeconds"))
	switch at := specPath.Child("updateStrategy"); s.UpdateStrategy.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
	case appsv1.RollingUpdateDaemonSetStrategyType:
		at := at.Child("rollingUpdate")
		r := s.UpdateStrategy.RollingUpdate
		if r == nil {
			c.add(field.Required(at, ""))
			break
		}
		c.percentOrCount(r.MaxUnavailable, at.Child("maxUnavailable"))
		c.percentOrCount(r.MaxSurge, at.Child("maxSurge"))
		c.notAboveAll(r.MaxUnavailable, at.Child("maxUnavailable"))
		c.notAboveAll(r.MaxSurge, at.Child("maxSurge"))
		switch stops, adds := amount(r.MaxUnavailable) != 0, amount(r.MaxSurge) != 0; {
		case stops && adds:
			c.add(field.Invalid(at.Child("maxSurge"), r.MaxSurge, "may not be set when maxUnavailable is non-zero"))
		case !stops && !adds:
			c.add(field.Required(at.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
		}
	default:
		c.add(field.NotSupported(at, s.UpdateStrategy, []string{string(appsv1.RollingUpdateDaemonSetStrategyType), string(appsv1.OnDeleteDaemonSetStrategyType)}))
	}
	c.notNegativePtr(s.RevisionHistoryLimit, specPath.Child("revisionHistoryLimit"))
	return c.errs
}

func validateDaemonSetUpdate(ds, old *appsv1.DaemonSet) field.ErrorList {
	return append(selectorUnchanged(ds.Spec.Selector, old.Spec.Selector), validateDaemonSet(ds)...)
}

// Upstream: pkg/apis/apps/validation/validation.go, ValidateStatefulSet.
func validateStatefulSet(sts *appsv1.StatefulSet) field.ErrorList {
	var c checks
	s := &sts.Spec
	switch p := s.PodManagementPolicy; p {
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	default:
		c.add(field.Invalid(specPath.Child("podManagementPolicy"), p, "must be 'OrderedReady' or 'Parallel'"))
	}
	at := specPath.Child("updateStrategy")
	switch r := s.UpdateStrategy.RollingUpdate; s.UpdateStrategy.Type {
	case appsv1.OnDeleteStatefulSetStrategyType:
		if r != nil {
			c.add(field.Invalid(at.Child("rollingUpdate"), r, "only allowed for updateStrategy 'RollingUpdate'"))
		}
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if r != nil {
			c.notNegativePtr(r.Partition, at.Child("rollingUpdate", "partition"))
		}
	default:
		c.add(field.Invalid(at, s.UpdateStrategy, "must be 'RollingUpdate' or 'OnDelete'"))
	}
	if p := s.PersistentVolumeClaimRetentionPolicy; p != nil {
		at := specPath.Child("persistentVolumeClaimRetentionPolicy")
		listed(&c, p.WhenDeleted, at.Child("whenDeleted"), appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType)
		listed(&c, p.WhenScaled, at.Child("whenScaled"), appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType)
	}
	// The claims are mounted by name; the pods get their volumes from them, and their names from the set.
	t := s.Template.DeepCopy()
	t.Spec.Hostname, t.Spec.Subdomain = "", ""
	for i := range s.VolumeClaimTemplates {
		claim := &s.VolumeClaimTemplates[i]
		for _, err := range validateClaim(claim) {
			err.Field = specPath.Child("volumeClaimTemplates").Index(i).String() + "." + err.Field
			c.add(err)
		}
		t.Spec.Volumes = slices.DeleteFunc(t.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == claim.Name })
		t.Spec.Volumes = append(t.Spec.Volumes, corev1.Volume{Name: claim.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name}}})
	}
	c.notNegativePtr(s.Replicas, specPath.Child("replicas"))
	c.notNegative(int64(s.MinReadySeconds), specPath.Child("minReadySeconds"))
	if s.Ordinals != nil {
		c.notNegative(int64(s.Ordinals.Start), specPath.Child("ordinals.start"))
	}
	c.name(s.ServiceName, specPath.Child("serviceName"), utilvalidation.IsDNS1123Label)
	c.workload(s.Selector, t, "statefulset", "StatefulSet", "")
	return c.errs
}

func validateStatefulSetUpdate(sts, old *appsv1.StatefulSet) field.ErrorList {
	same := sts.DeepCopy()
	s, o := &same.Spec, &old.Spec
	s.Replicas, s.Template, s.UpdateStrategy, s.MinReadySeconds = o.Replicas, o.Template, o.UpdateStrategy, o.MinReadySeconds
	s.Ordinals, s.PersistentVolumeClaimRetentionPolicy, s.RevisionHistoryLimit = o.Ordinals, o.PersistentVolumeClaimRetentionPolicy, o.RevisionHistoryLimit
	if equal(*s, *o) {
		return nil
	}
	return field.ErrorList{field.Forbidden(specPath, "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden")}
}

// Upstream: pkg/apis/apps/validation/validation.go, ValidateControllerRevisionCreate.
func validateRevision(r *appsv1.ControllerRevision) field.ErrorList {
	var c checks
	c.notNegative(r.Revision, field.NewPath("revision"))
	if raw := r.Data.Raw; len(raw) == 0 || string(raw) == "null" {
		c.add(field.Required(field.NewPath("data"), "data is mandatory"))
	} else if raw[0] != '{' {
		c.add(field.Required(field.NewPath("data"), "data must be a valid JSON object"))
	}
	return c.errs
}

func validateRevisionUpdate(r, old *appsv1.ControllerRevision) field.ErrorList {
	var c checks
	c.same(r.Data, old.Data, field.NewPath("data"))
	return c.errs
}
