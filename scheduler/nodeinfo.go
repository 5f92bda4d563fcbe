package scheduler

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Resource is an amount of what nodes have and pods take.
//
// Upstream: pkg/scheduler/framework/types.go, Resource.
type Resource struct {
	MilliCPU         int64
	Memory           int64 // bytes
	EphemeralStorage int64 // bytes
	Pods             int64
	Other            map[corev1.ResourceName]int64
}

// What a container without requests counts for in scores (not in filters), so
// that pods without requests spread too.
//
// Upstream: pkg/scheduler/util/pod_resources.go.
const (
	defaultMilliCPURequest = 100
	defaultMemoryRequest   = 200 << 20
)

func (r *Resource) add(o Resource, sign int64) {
	r.MilliCPU += sign * o.MilliCPU
	r.Memory += sign * o.Memory
	r.EphemeralStorage += sign * o.EphemeralStorage
	if len(o.Other) > 0 && r.Other == nil {
		r.Other = map[corev1.ResourceName]int64{}
	}
	for name, n := range o.Other {
		r.Other[name] += sign * n
	}
}

func toResource(list corev1.ResourceList) Resource {
	var r Resource
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			r.MilliCPU = q.MilliValue()
		case corev1.ResourceMemory:
			r.Memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			r.EphemeralStorage = q.Value()
		case corev1.ResourcePods:
			r.Pods = q.Value()
		default:
			if r.Other == nil {
				r.Other = map[corev1.ResourceName]int64{}
			}
			r.Other[name] = q.Value()
		}
	}
	return r
}

// podRequest is what a pod asks for, and what it counts for in scores. While it is
// being resized it has what it had, if that is more.
//
// Upstream: pkg/scheduler/framework/types.go, PodInfo.CalculateResource.
func podRequest(pod *corev1.Pod) (exact, nonZero Resource) {
	asks := resourcehelper.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true}
	list := resourcehelper.PodRequests(pod, asks)
	asks.NonMissingContainerRequests = nonMissing
	if resourcehelper.IsPodLevelRequestsSet(pod) { // then the containers need not ask
		asks.NonMissingContainerRequests = maps.Clone(nonMissing)
		maps.DeleteFunc(asks.NonMissingContainerRequests, func(name corev1.ResourceName, _ resource.Quantity) bool {
			_, asked := list[name]
			return asked
		})
	}
	return toResource(list), toResource(resourcehelper.PodRequests(pod, asks))
}

// scoredRequest is what a pod counts for where NodeResourcesFit scores nodes for it.
// What is asked for the pod as a whole is passed over.
//
// Upstream: pkg/scheduler/framework/plugins/noderesources/resource_allocation.go,
// resourceAllocationScorer.calculatePodResourceRequest.
func scoredRequest(pod *corev1.Pod) Resource {
	return toResource(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{SkipPodLevelResources: true, NonMissingContainerRequests: nonMissing}))
}

var nonMissing = corev1.ResourceList{
	corev1.ResourceCPU:    *resource.NewMilliQuantity(defaultMilliCPURequest, resource.DecimalSI),
	corev1.ResourceMemory: *resource.NewQuantity(defaultMemoryRequest, resource.BinarySI),
}

// PodInfo is a pod with what it takes.
//
// Upstream: pkg/scheduler/framework/types.go, PodInfo.
type PodInfo struct {
	Pod     *corev1.Pod
	Request Resource // what it asks for
	NonZero Resource // what it counts for in scores
	terms   affinityTerms
	ports   []hostPort
}

func newPodInfo(pod *corev1.Pod) *PodInfo {
	p := &PodInfo{Pod: pod, terms: parseAffinity(pod), ports: hostPorts(pod)}
	p.Request, p.NonZero = podRequest(pod)
	return p
}

type hostPort struct {
	protocol corev1.Protocol
	ip       string
	port     int32
}

// NodeInfo is a node with the pods on it and the sums over them. It is never
// changed after it was made: withPod, withoutPod and withNode make new ones.
//
// Upstream: pkg/scheduler/framework/types.go, NodeInfo.
type NodeInfo struct {
	// Node is nil while pods name a node that is not known (yet, or any more).
	Node        *corev1.Node
	Pods        []*PodInfo
	Allocatable Resource
	Requested   Resource
	NonZero     Resource
	// withAffinity counts pods with inter-pod affinity of any kind, withAnti those
	// with required anti-affinity, so that most nodes need not be looked through.
	withAffinity, withAnti int
	ports                  map[hostPort]int
	images                 map[string]int64 // bytes by name
}

// Name is the node's name.
func (n *NodeInfo) Name() string { return n.Node.Name }

func (n *NodeInfo) clone() *NodeInfo {
	c := *n
	c.Pods = append(make([]*PodInfo, 0, len(n.Pods)+1), n.Pods...)
	c.Requested.Other = maps.Clone(n.Requested.Other)
	c.NonZero.Other = maps.Clone(n.NonZero.Other)
	c.ports = maps.Clone(n.ports)
	return &c
}

func (n *NodeInfo) withNode(node *corev1.Node) *NodeInfo {
	c := *n
	c.Node = node
	c.Allocatable, c.images = Resource{}, nil
	if node == nil {
		return &c
	}
	c.Allocatable = toResource(node.Status.Allocatable)
	c.images = make(map[string]int64, len(node.Status.Images))
	for _, img := range node.Status.Images {
		for _, name := range img.Names {
			c.images[name] = img.SizeBytes
		}
	}
	return &c
}

// withPod counts pods, each in the place of an older version of it.
func (n *NodeInfo) withPod(pods ...*PodInfo) *NodeInfo {
	c := n.clone()
	for _, p := range pods {
		if i := c.find(p.Pod.UID); i >= 0 {
			c.account(c.Pods[i], -1)
			c.Pods[i] = p
		} else {
			c.Pods = append(c.Pods, p)
		}
		c.account(p, 1)
	}
	return c
}

func (n *NodeInfo) withoutPod(uid types.UID) *NodeInfo {
	i := n.find(uid)
	if i < 0 {
		return n
	}
	c := n.clone()
	c.Pods = slices.Delete(c.Pods, i, i+1)
	c.account(n.Pods[i], -1)
	return c
}

func (n *NodeInfo) find(uid types.UID) int {
	return slices.IndexFunc(n.Pods, func(p *PodInfo) bool { return p.Pod.UID == uid })
}

// account adds a pod to the sums (sign 1) or takes it off (-1).
func (n *NodeInfo) account(p *PodInfo, sign int) {
	n.Requested.add(p.Request, int64(sign))
	n.NonZero.add(p.NonZero, int64(sign))
	if p.terms.any() {
		n.withAffinity += sign
	}
	if len(p.terms.anti) > 0 {
		n.withAnti += sign
	}
	if len(p.ports) > 0 && n.ports == nil {
		n.ports = map[hostPort]int{}
	}
	for _, hp := range p.ports {
		if n.ports[hp] += sign; n.ports[hp] == 0 {
			delete(n.ports, hp)
		}
	}
}

// hostPorts are the ports of the node that a pod wants for itself.
func hostPorts(pod *corev1.Pod) []hostPort {
	var out []hostPort
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				ip, proto := p.HostIP, p.Protocol
				if ip == "" {
					ip = "0.0.0.0"
				}
				if proto == "" {
					proto = corev1.ProtocolTCP
				}
				out = append(out, hostPort{proto, ip, p.HostPort})
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return out
}

// portsFree says whether no pod of the node holds one of the ports; an address
// of 0.0.0.0 holds the port on all addresses.
func (n *NodeInfo) portsFree(want []hostPort) bool {
	for _, w := range want {
		for have := range n.ports {
			if have.protocol == w.protocol && have.port == w.port &&
				(have.ip == w.ip || have.ip == "0.0.0.0" || w.ip == "0.0.0.0") {
				return false
			}
		}
	}
	return true
}
