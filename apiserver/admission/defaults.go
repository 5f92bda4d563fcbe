package admission

import (
	"context"
	"slices"

	"orrery/apiserver/objects"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// defaultTolerationSeconds lets every pod stay five minutes on a node that is gone: the time until it is evicted.
//
// Upstream: plugin/pkg/admission/defaulttolerationseconds/admission.go, Plugin.
type defaultTolerationSeconds struct {
	Base
	notReady, unreachable int64
}

// tolerationSeconds is upstream's default of the flags --default-not-ready-toleration-seconds
// and --default-unreachable-toleration-seconds.
const tolerationSeconds = 300

func seconds(n *int64) int64 {
	if n == nil {
		return tolerationSeconds
	}
	return *n
}

func (defaultTolerationSeconds) Name() string { return "DefaultTolerationSeconds" }

func (d defaultTolerationSeconds) Admit(_ context.Context, a *Attributes) error {
	pod, ok := a.Object.(*corev1.Pod)
	if !ok || !a.is("", "Pod", Create, Update) {
		return nil
	}
	for _, of := range []struct {
		key     string
		seconds int64
	}{{corev1.TaintNodeNotReady, d.notReady}, {corev1.TaintNodeUnreachable, d.unreachable}} {
		tolerated := slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
			return (t.Key == of.key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "")
		})
		if !tolerated {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
				Key: of.key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(of.seconds)})
		}
	}
	return nil
}

// taintNodesByCondition keeps pods off a new node until the node controller has seen it Ready.
//
// Upstream: plugin/pkg/admission/nodetaint/admission.go, Plugin.
type taintNodesByCondition struct{ Base }

func (taintNodesByCondition) Name() string { return "TaintNodesByCondition" }

func (taintNodesByCondition) Admit(_ context.Context, a *Attributes) error {
	node, ok := a.Object.(*corev1.Node)
	if !ok || !a.is("", "Node", Create) {
		return nil
	}
	taint := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) }) {
		node.Spec.Taints = append(node.Spec.Taints, taint)
	}
	return nil
}

// storageObjectInUseProtection keeps volumes and claims from vanishing while something uses them; controllers take the finalizers away.
//
// Upstream: plugin/pkg/admission/storage/storageobjectinuseprotection/admission.go.
type storageObjectInUseProtection struct{ Base }

func (storageObjectInUseProtection) Name() string { return "StorageObjectInUseProtection" }

func (storageObjectInUseProtection) Admit(_ context.Context, a *Attributes) error {
	var finalizer string
	switch {
	case a.is("", "PersistentVolumeClaim", Create):
		finalizer = "kubernetes.io/pvc-protection"
	case a.is("", "PersistentVolume", Create):
		finalizer = "kubernetes.io/pv-protection"
	case a.is("storage.k8s.io", "VolumeAttributesClass", Create):
		finalizer = "kubernetes.io/vac-protection"
	default:
		return nil
	}
	if m, ok := a.Object.(metav1.Object); ok && !slices.Contains(m.GetFinalizers(), finalizer) {
		m.SetFinalizers(append(m.GetFinalizers(), finalizer))
	}
	return nil
}

// defaultStorageClass gives a claim that names no class the one that is marked as the default, when there is one.
//
// Upstream: plugin/pkg/admission/storage/storageclass/setdefault/admission.go.
type defaultStorageClass struct {
	Base
	objects objects.Reader
}

func (defaultStorageClass) Name() string { return "DefaultStorageClass" }

func (p defaultStorageClass) Admit(ctx context.Context, a *Attributes) error {
	claim, ok := a.Object.(*corev1.PersistentVolumeClaim)
	if !ok || !a.is("", "PersistentVolumeClaim", Create) || claim.Spec.StorageClassName != nil {
		return nil
	}
	if _, ok := claim.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return nil
	}
	classes, err := list[storagev1.StorageClass](ctx, p.objects, "storage.k8s.io", "storageclasses", "")
	if err != nil {
		return forbidden(a, "%w", err)
	}
	if c := defaultOf(classes, "storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"); c != nil {
		claim.Spec.StorageClassName = new((*c).Name)
	}
	return nil
}

// defaultIngressClass does the same for Ingresses.
//
// Upstream: plugin/pkg/admission/network/defaultingressclass/admission.go.
type defaultIngressClass struct {
	Base
	objects objects.Reader
}

func (defaultIngressClass) Name() string { return "DefaultIngressClass" }

func (p defaultIngressClass) Admit(ctx context.Context, a *Attributes) error {
	in, ok := a.Object.(*networkingv1.Ingress)
	if !ok || !a.is("networking.k8s.io", "Ingress", Create) || in.Spec.IngressClassName != nil {
		return nil
	}
	if _, ok := in.Annotations["kubernetes.io/ingress.class"]; ok {
		return nil
	}
	classes, err := list[networkingv1.IngressClass](ctx, p.objects, "networking.k8s.io", "ingressclasses", "")
	if err != nil {
		return forbidden(a, "%w", err)
	}
	if c := defaultOf(classes, networkingv1.AnnotationIsDefaultIngressClass); c != nil {
		in.Spec.IngressClassName = new((*c).Name)
	}
	return nil
}

// defaultOf finds the class marked with one of the annotations; of several the youngest, of those the first by name.
func defaultOf[T metav1.Object](classes []T, annotations ...string) *T {
	var best *T
	for i, c := range classes {
		marked := slices.ContainsFunc(annotations, func(key string) bool { return c.GetAnnotations()[key] == "true" })
		if !marked {
			continue
		}
		if best == nil || (*best).GetCreationTimestamp().Time.Before(c.GetCreationTimestamp().Time) {
			best = &classes[i]
		}
	}
	return best
}
