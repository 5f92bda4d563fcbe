package placement

import (
	"fmt"
	"math/rand/v2"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// world is a random state of a cluster, and the pods that come next.
type world struct {
	nodes []*corev1.Node
	there []*corev1.Pod
	pods  []*corev1.Pod
}

// dice are what a seed throws. In a crowded world there is little room, and pods
// differ in importance.
type dice struct {
	*rand.Rand
	crowded bool
}

func pick[T any](d dice, of ...T) T     { return of[d.IntN(len(of))] }
func (d dice) chance(percent int) bool  { return d.IntN(100) < percent }
func amount(q string) resource.Quantity { return resource.MustParse(q) }
func (d dice) app() string              { return pick(d, "web", "db", "job") }
func (d dice) topology() string {
	return pick(d, corev1.LabelHostname, corev1.LabelTopologyZone, "rack")
}
func (d dice) taint() (key, value string) { return pick(d, "a", "b"), pick(d, "x", "y") }

// images with their sizes in MiB, as nodes name them.
var images = []struct {
	name string
	size int64
}{{"app:1", 10}, {"big:1", 300}, {"huge:1", 4000}, {"registry.example:5000/plain:latest", 700}}

func randomWorld(seed int) *world {
	d := dice{rand.New(rand.NewPCG(uint64(seed), 2)), seed%2 == 1}
	w := &world{}
	size := 1 + d.IntN(11)
	if d.chance(4) {
		size = 50
	}
	for i := range size {
		w.nodes = append(w.nodes, d.node(fmt.Sprintf("n%d-of-%d", i, seed)))
	}
	there, come := d.IntN(10+size), 8
	if d.crowded {
		there += 5 + size
	}
	for i := range there {
		p := d.pod(fmt.Sprint("there-", i))
		p.Spec.NodeName = pick(d, w.nodes...).Name
		if !d.crowded && d.chance(10) {
			p.Annotations, p.Spec.TerminationGracePeriodSeconds = map[string]string{leaving: "true"}, new(int64(3600))
		}
		if d.chance(6) {
			p.Status.Phase = pick(d, corev1.PodSucceeded, corev1.PodFailed)
		}
		if d.chance(3) {
			p.Spec.NodeName = "unknown"
		}
		if d.chance(8) { // it is being resized
			has := corev1.ResourceList{corev1.ResourceCPU: amount(pick(d, "50m", "700m")), corev1.ResourceMemory: amount(pick(d, "50Mi", "900Mi"))}
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", AllocatedResources: has, Resources: &corev1.ResourceRequirements{Requests: has}}}
		}
		w.there = append(w.there, p)
	}
	for i := range come {
		p := d.pod(fmt.Sprint("pod-", i))
		if d.crowded {
			p.Spec.PriorityClassName = pick(d, "", "high", "higher", "highest", "patient")
		}
		if d.chance(6) { // as a DaemonSet's pod, or almost
			named := func() corev1.NodeSelectorTerm {
				t := corev1.NodeSelectorTerm{}
				for range 1 + d.IntN(2) {
					t.MatchFields = append(t.MatchFields, corev1.NodeSelectorRequirement{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{pick(d, pick(d, w.nodes...).Name, w.nodes[0].Name, "unknown")}})
				}
				return t
			}
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{named(), pick(d, named(), d.nodeTerm())}[:1+d.IntN(2)]}}}
		}
		w.pods = append(w.pods, p)
	}
	return w
}

// leaving is the annotation of pods that are being deleted and take their time.
const leaving = "orrery.dev/leaving"

func (d dice) node(name string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, "size": pick(d, "1", "2", "3")}}}
	has := corev1.ResourceList{corev1.ResourceCPU: amount(pick(d, "1", "2", "4", "7500m")), corev1.ResourceMemory: amount(pick(d, "1Gi", "4Gi", "9Gi")),
		corev1.ResourcePods: amount(pick(d, "3", "8", "110")), corev1.ResourceEphemeralStorage: amount(pick(d, "1Gi", "20Gi"))}
	if d.chance(30) {
		has["example.org/gpu"] = amount(pick(d, "0", "1", "4"))
	}
	n.Status.Capacity, n.Status.Allocatable = has, has
	if d.chance(80) {
		n.Labels[corev1.LabelTopologyZone] = pick(d, "east", "west", "north")
	}
	if d.chance(60) {
		n.Labels["rack"] = pick(d, "r1", "r2")
	}
	for range d.IntN(3) {
		key, value := d.taint()
		t := corev1.Taint{Key: key, Value: value, Effect: pick(d, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectPreferNoSchedule)}
		if d.chance(40) && !slices.ContainsFunc(n.Spec.Taints, func(o corev1.Taint) bool { return o.Key == t.Key && o.Effect == t.Effect }) {
			n.Spec.Taints = append(n.Spec.Taints, t)
		}
	}
	if d.chance(7) {
		n.Spec.Unschedulable = true
		if d.chance(50) {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
		}
	}
	for _, image := range images {
		if d.chance(30) {
			n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{"sha256:" + image.name, image.name}, SizeBytes: image.size << 20})
		}
	}
	return n
}

func (d dice) pod(name string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: pick(d, "default", "default", "other", "team-a", "team-b"), Name: name, Labels: map[string]string{"app": d.app(), "tier": pick(d, "front", "back"), "version": pick(d, "1", "2")}},
		Spec: corev1.PodSpec{AutomountServiceAccountToken: new(false), TerminationGracePeriodSeconds: new(int64(0)),
			Containers: []corev1.Container{d.container("c")}},
	}
	if d.chance(5) {
		p.Labels = nil
	}
	if d.chance(4) {
		p.Spec.RuntimeClassName = new("heavy")
	}
	if d.chance(15) {
		c := d.container("second")
		c.Ports = nil // the API takes no port of a node twice in a pod
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	if d.chance(20) {
		c := d.container("init")
		if c.Ports = nil; d.chance(50) {
			c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
		}
		p.Spec.InitContainers = []corev1.Container{c}
	}
	if d.chance(25) {
		key, value := d.taint()
		p.Spec.Tolerations = append(p.Spec.Tolerations, pick(d, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists}, corev1.Toleration{Key: key, Value: value},
			corev1.Toleration{Key: key, Value: value, Effect: corev1.TaintEffectNoSchedule}, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectPreferNoSchedule},
			corev1.Toleration{Operator: corev1.TolerationOpExists}))
	}
	if d.chance(8) {
		p.Spec.NodeSelector = map[string]string{corev1.LabelTopologyZone: pick(d, "east", "west")}
	}
	if d.chance(45) {
		p.Spec.Affinity = d.affinity()
	}
	if d.chance(30) {
		for range 1 + d.IntN(2) {
			c := d.spread()
			if !slices.ContainsFunc(p.Spec.TopologySpreadConstraints, func(o corev1.TopologySpreadConstraint) bool {
				return o.TopologyKey == c.TopologyKey && o.WhenUnsatisfiable == c.WhenUnsatisfiable
			}) {
				p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
			}
		}
	}
	if d.chance(10) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: pick(d, claims...)}}}}
	}
	if d.chance(30) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "set-of-" + p.Labels["app"], UID: "1", Controller: new(true)}}
	}
	if d.crowded {
		p.Spec.PriorityClassName = pick(d, "", "", "high", "higher", "negative")
	}
	if d.chance(4) {
		p.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: amount("4"), corev1.ResourceMemory: amount("4Gi")}}
	}
	if d.chance(5) {
		p.Spec.HostNetwork = true
		for i := range p.Spec.Containers[0].Ports {
			p.Spec.Containers[0].Ports[i].ContainerPort = p.Spec.Containers[0].Ports[i].HostPort
		}
	}
	return p
}

func (d dice) container(name string) corev1.Container {
	c := corev1.Container{Name: name, Image: pick(d, "app:1", "big:1", "huge:1", "registry.example:5000/plain", "unknown"), Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{}}}
	cpu, memory := []string{"", "", "100m", "300m", "1"}, []string{"", "100Mi", "300Mi", "1Gi"}
	if d.crowded {
		cpu, memory = []string{"300m", "700m", "1", "1500m"}, []string{"", "300Mi", "900Mi"}
	}
	if q := pick(d, cpu...); q != "" {
		c.Resources.Requests[corev1.ResourceCPU] = amount(q)
	}
	if q := pick(d, memory...); q != "" {
		c.Resources.Requests[corev1.ResourceMemory] = amount(q)
	}
	if d.chance(10) {
		c.Resources.Requests[corev1.ResourceEphemeralStorage] = amount(pick(d, "300Mi", "2Gi"))
	}
	if d.chance(5) {
		gpu := amount(pick(d, "1", "2"))
		c.Resources.Requests["example.org/gpu"] = gpu
		c.Resources.Limits = corev1.ResourceList{"example.org/gpu": gpu}
	}
	if d.chance(12) {
		c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: pick(d, int32(80), int32(81)), HostIP: pick(d, "", "10.0.0.1", "10.0.0.2"), Protocol: pick(d, corev1.ProtocolTCP, corev1.ProtocolTCP, corev1.ProtocolUDP)}}
	}
	return c
}

// selector is of pods, by labels or by expressions.
func (d dice) selector() *metav1.LabelSelector {
	if d.chance(70) {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": d.app()}}
	}
	return pick(d, &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: []string{"web", "db"}}}},
		&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"web"}}}},
		&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "tier", Operator: metav1.LabelSelectorOpExists}}, MatchLabels: map[string]string{"tier": "back"}},
		&metav1.LabelSelector{}, nil)
}

func (d dice) affinity() *corev1.Affinity {
	term := func() corev1.PodAffinityTerm {
		t := corev1.PodAffinityTerm{TopologyKey: d.topology(), LabelSelector: d.selector()}
		if d.chance(10) && t.LabelSelector != nil {
			t.MatchLabelKeys = []string{"version"}
		}
		if d.chance(20) {
			t.Namespaces = []string{pick(d, "other", "team-a")}
		}
		if d.chance(20) {
			t.NamespaceSelector = pick(d, &metav1.LabelSelector{}, &metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}, &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: metav1.LabelSelectorOpExists}}})
		}
		return t
	}
	required := func() []corev1.PodAffinityTerm { return []corev1.PodAffinityTerm{term(), term()}[:1+d.IntN(2)] }
	preferred := func() []corev1.WeightedPodAffinityTerm {
		return []corev1.WeightedPodAffinityTerm{{Weight: int32(1 + d.IntN(100)), PodAffinityTerm: term()}, {Weight: int32(1 + d.IntN(100)), PodAffinityTerm: term()}}[:1+d.IntN(2)]
	}
	a := &corev1.Affinity{}
	if d.chance(25) {
		a.PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: required()}
	}
	if d.chance(25) {
		a.PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: required()}
	}
	if d.chance(30) {
		a.PodAffinity = &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: preferred()}
	}
	if d.chance(30) && a.PodAntiAffinity == nil {
		a.PodAntiAffinity = &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: preferred()}
	}
	if d.chance(40) {
		a.NodeAffinity = &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{
			{Weight: int32(1 + d.IntN(100)), Preference: d.nodeTerm()}, {Weight: int32(1 + d.IntN(100)), Preference: d.nodeTerm()}}[:d.IntN(3)]}
		if d.chance(30) {
			a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{d.nodeTerm(), d.nodeTerm()}[:1+d.IntN(2)]}
		}
	}
	return a
}

func (d dice) nodeTerm() corev1.NodeSelectorTerm {
	all := []corev1.NodeSelectorRequirement{
		{Key: "rack", Operator: corev1.NodeSelectorOpIn, Values: []string{"r1"}}, {Key: "rack", Operator: corev1.NodeSelectorOpDoesNotExist},
		{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpNotIn, Values: []string{"west", "north"}}, {Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpExists},
		{Key: "size", Operator: corev1.NodeSelectorOpGt, Values: []string{"1"}}, {Key: "size", Operator: corev1.NodeSelectorOpLt, Values: []string{"3"}},
	}
	t := corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{pick(d, all...)}}
	if d.chance(30) {
		t.MatchExpressions = append(t.MatchExpressions, pick(d, all...))
	}
	return t
}

func (d dice) spread() corev1.TopologySpreadConstraint {
	c := corev1.TopologySpreadConstraint{MaxSkew: int32(1 + d.IntN(2)), TopologyKey: d.topology(), LabelSelector: d.selector(),
		WhenUnsatisfiable: pick(d, corev1.DoNotSchedule, corev1.ScheduleAnyway)}
	if d.chance(20) {
		c.NodeAffinityPolicy = new(pick(d, corev1.NodeInclusionPolicyIgnore, corev1.NodeInclusionPolicyHonor))
	}
	if d.chance(20) {
		c.NodeTaintsPolicy = new(pick(d, corev1.NodeInclusionPolicyIgnore, corev1.NodeInclusionPolicyHonor))
	}
	if d.chance(10) && c.LabelSelector != nil {
		c.MatchLabelKeys = []string{"version"}
	}
	if d.chance(15) && c.WhenUnsatisfiable == corev1.DoNotSchedule {
		c.MinDomains = new(int32(1 + d.IntN(4)))
	}
	return c
}
