package placement

import (
	"context"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// namespaces differ in labels, services, sets and budgets.
var namespaces = []string{"default", "other", "team-a", "team-b"}

// claims are the names of claims that pods use: of a volume of zone east, of one
// for anywhere, of one for a single pod, of one with labels of zones, of none yet, of
// one that waits for its pod; the last is nowhere.
var claims = []string{"east", "anywhere", "single", "single", "labelled", "unbound", "waiting", "missing"}

// furnish makes what is the same for all seeds. No controllers run, so the statuses
// are what it says.
func (a *arena) furnish(t *testing.T) {
	t.Helper()
	for class, value := range map[string]int32{"negative": -5, "high": 1000, "higher": 2000, "highest": 5000} {
		a.class(t, class, value, corev1.PreemptLowerPriority)
	}
	a.class(t, "patient", 5000, corev1.PreemptNever)
	waits := storagev1.VolumeBindingWaitForFirstConsumer
	_, err := a.StorageV1().StorageClasses().Create(a.ctx, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "local"}, Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: &waits}, metav1.CreateOptions{})
	must(t, err)
	_, err = a.NodeV1().RuntimeClasses().Create(a.ctx, &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "heavy"}, Handler: "heavy",
		Overhead: &nodev1.Overhead{PodFixed: corev1.ResourceList{corev1.ResourceCPU: amount("250m"), corev1.ResourceMemory: amount("500Mi")}}}, metav1.CreateOptions{})
	must(t, err)
	for _, ns := range namespaces {
		var labels map[string]string
		if team, ok := map[string]string{"team-a": "a", "team-b": "b"}[ns]; ok {
			labels = map[string]string{"team": team}
		}
		_, err := a.CoreV1().Namespaces().Create(a.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: labels}}, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			must(t, err)
		}
		_, err = a.CoreV1().ServiceAccounts(ns).Create(a.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
		must(t, err)
		a.claims(t, ns)
	}
	a.service(t, "default", map[string]string{"app": "web"})
	a.service(t, "default", map[string]string{"tier": "back"})
	a.service(t, "team-a", map[string]string{"app": "db"})
	a.replicaSet(t, "default", "db")
	a.replicaSet(t, "other", "web")
	a.budget(t, "default", map[string]string{"app": "db"}, 0)
	a.budget(t, "default", map[string]string{"tier": "back"}, 1)
	a.budget(t, "other", map[string]string{"app": "web"}, 1)
	a.budget(t, "team-a", nil, 0)
}

func (a *arena) class(t *testing.T, name string, value int32, policy corev1.PreemptionPolicy) {
	t.Helper()
	_, err := a.SchedulingV1().PriorityClasses().Create(a.ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, PreemptionPolicy: &policy}, metav1.CreateOptions{})
	must(t, err)
}

func (a *arena) service(t *testing.T, ns string, selector map[string]string) {
	t.Helper()
	_, err := a.CoreV1().Services(ns).Create(a.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{GenerateName: "s-"},
		Spec: corev1.ServiceSpec{Selector: selector, Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	must(t, err)
}

func (a *arena) replicaSet(t *testing.T, ns, app string) {
	t.Helper()
	labels := map[string]string{"app": app}
	_, err := a.AppsV1().ReplicaSets(ns).Create(a.ctx, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "set-of-" + app}, Spec: appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "app:1"}}}}}}, metav1.CreateOptions{})
	must(t, err)
}

// budget allows so many disruptions.
func (a *arena) budget(t *testing.T, ns string, selector map[string]string, allowed int32) {
	t.Helper()
	b, err := a.PolicyV1().PodDisruptionBudgets(ns).Create(a.ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{GenerateName: "b-"},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: new(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: selector}}}, metav1.CreateOptions{})
	must(t, err)
	b.Status.DisruptionsAllowed, b.Status.ObservedGeneration = allowed, b.Generation
	_, err = a.PolicyV1().PodDisruptionBudgets(ns).UpdateStatus(a.ctx, b, metav1.UpdateOptions{})
	must(t, err)
}

func (a *arena) claims(t *testing.T, ns string) {
	t.Helper()
	size := corev1.ResourceList{corev1.ResourceStorage: amount("1Gi")}
	for name, class := range map[string]string{"east": "none", "anywhere": "none", "single": "none", "labelled": "none", "unbound": "none", "waiting": "local"} {
		modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
		if name == "single" {
			modes[0] = corev1.ReadWriteOncePod
		}
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, AccessModes: modes, Resources: corev1.VolumeResourceRequirements{Requests: size}}}
		if name != "unbound" && name != "waiting" {
			claim.Spec.VolumeName = name + "-of-" + ns
			claim.Annotations = map[string]string{"pv.kubernetes.io/bind-completed": "yes"}
		}
		claim, err := a.CoreV1().PersistentVolumeClaims(ns).Create(a.ctx, claim, metav1.CreateOptions{})
		must(t, err)
		if claim.Spec.VolumeName != "" {
			must(t, a.bind(a.ctx, claim))
		}
	}
}

// bind makes the volume of a claim, and says that it is bound.
func (a *arena) bind(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: claim.Spec.VolumeName}, Spec: corev1.PersistentVolumeSpec{
		StorageClassName: "none", AccessModes: claim.Spec.AccessModes, Capacity: claim.Spec.Resources.Requests,
		ClaimRef:               &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
		PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/disk"}},
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpExists}}}}}},
	}}
	if claim.Name == "labelled" {
		pv.Labels = map[string]string{corev1.LabelTopologyZone: "east__north"}
	}
	if claim.Name == "east" {
		pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions = []corev1.NodeSelectorRequirement{{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{"east"}}}
	}
	if _, err := a.CoreV1().PersistentVolumes().Create(ctx, pv, metav1.CreateOptions{}); err != nil {
		return err
	}
	claim.Status.Phase, claim.Status.AccessModes, claim.Status.Capacity = corev1.ClaimBound, claim.Spec.AccessModes, claim.Spec.Resources.Requests
	_, err := a.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	return err
}
