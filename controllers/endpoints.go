package controllers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"orrery/client"
)

const (
	endpointsManager = "endpoint-controller"
	managedByLabel   = "endpoints.kubernetes.io/managed-by"
)

// The Endpoints controller, which keeps the older form of what EndpointSlices
// say, for clients that still read it.
//
// Watches: Services, Pods, Endpoints.
// Wants: one Endpoints object for each Service with a selector, listing its pods'
// addresses, ready and not ready apart.
// Does: writes it; deletes it with the Service.
// Upstream: pkg/controller/endpoint/endpoints_controller.go, Controller.
// Left out: the cut at 1000 addresses; dual stack (only the first family).
func startEndpoints(e *env) (func(context.Context) error, error) {
	services, pods, endpoints := watching[*corev1.Service](e), watching[*corev1.Pod](e), watching[*corev1.Endpoints](e)
	api := client.For[*corev1.Endpoints](e.client)
	triggers := newTriggers()
	c := client.NewController("endpoints-controller", func(ctx context.Context, key string) (client.Result, error) {
		svc, ok := services.GetKey(key)
		namespace, name := client.SplitKey(key)
		if !ok {
			triggers.forget(key)
			if ep, ok := endpoints.GetKey(key); !ok || ep.Labels[managedByLabel] != endpointsManager {
				return client.Result{}, nil
			}
			err := api.Delete(ctx, namespace, name, metav1.DeleteOptions{})
			return client.Result{}, ignoring(err, apierrors.IsNotFound)
		}
		if len(svc.Spec.Selector) == 0 || svc.Spec.Type == corev1.ServiceTypeExternalName {
			return client.Result{}, nil
		}
		behind := servicePods(svc, pods)
		want := wantedEndpoints(svc, behind)
		trigger := triggers.next(svc, behind)
		have, exists := endpoints.GetKey(key)
		if exists && equality.Semantic.DeepEqual(have.Subsets, want.Subsets) && equality.Semantic.DeepEqual(have.Labels, want.Labels) {
			return client.Result{}, nil
		}
		if !exists {
			noteTrigger(&want.ObjectMeta, trigger)
			_, err := api.Create(ctx, want)
			return client.Result{}, ignoring(err, namespaceEnds)
		}
		have = have.DeepCopy()
		have.Subsets, have.Labels = want.Subsets, want.Labels
		noteTrigger(&have.ObjectMeta, trigger)
		_, err := api.Update(ctx, have)
		return client.Result{}, err
	})
	services.AddHandler(client.On[*corev1.Service](c))
	pods.AddIndex(byNamespace, namespaceIndex[*corev1.Pod])
	pods.AddHandler(servicesOfPods(c, services))
	endpoints.AddHandler(client.Handler[*corev1.Endpoints]{Delete: func(ep *corev1.Endpoints) { c.Enqueue(ep) }})
	return c.Run, nil
}

// wantedEndpoints is the Endpoints object of a Service.
func wantedEndpoints(svc *corev1.Service, pods []*corev1.Pod) *corev1.Endpoints {
	ep := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name, Labels: withLabel(svc.Labels, managedByLabel, endpointsManager)}}
	delete(ep.Labels, corev1.IsHeadlessService)
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		ep.Labels[corev1.IsHeadlessService] = ""
	}
	subsets := map[string]*corev1.EndpointSubset{}
	for _, p := range pods {
		if !podHasEndpoint(p, svc.Spec.PublishNotReadyAddresses) {
			continue
		}
		ports := endpointPorts(svc, p)
		if len(ports) == 0 && len(svc.Spec.Ports) > 0 {
			continue
		}
		key := fmt.Sprint(ports)
		s := subsets[key]
		if s == nil {
			s = &corev1.EndpointSubset{Ports: ports}
			subsets[key] = s
		}
		a := corev1.EndpointAddress{IP: p.Status.PodIP, NodeName: new(p.Spec.NodeName), TargetRef: podReference(p)}
		if p.Spec.Hostname != "" && p.Spec.Subdomain == svc.Name {
			a.Hostname = p.Spec.Hostname
		}
		if podReady(p) || svc.Spec.PublishNotReadyAddresses {
			s.Addresses = append(s.Addresses, a)
		} else if p.Spec.RestartPolicy == corev1.RestartPolicyAlways || p.Status.Phase != corev1.PodSucceeded {
			s.NotReadyAddresses = append(s.NotReadyAddresses, a)
		}
	}
	byIP := func(a, b corev1.EndpointAddress) int { return strings.Compare(a.IP, b.IP) }
	for _, key := range slices.Sorted(maps.Keys(subsets)) {
		s := subsets[key]
		slices.SortFunc(s.Addresses, byIP)
		slices.SortFunc(s.NotReadyAddresses, byIP)
		ep.Subsets = append(ep.Subsets, *s)
	}
	return ep
}

func podReference(p *corev1.Pod) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}
}

// servicePods are the pods that a Service selects, by name.
func servicePods(svc *corev1.Service, pods *client.Informer[*corev1.Pod]) []*corev1.Pod {
	selector := labels.SelectorFromSet(svc.Spec.Selector)
	out := filter(pods.ByIndex(byNamespace, svc.Namespace), func(p *corev1.Pod) bool {
		return selector.Matches(labels.Set(p.Labels))
	})
	slices.SortFunc(out, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// podHasEndpoint says whether a pod belongs among the endpoints, ready or not.
func podHasEndpoint(p *corev1.Pod, terminatingToo bool) bool {
	return !podFinished(p) && p.Status.PodIP != "" && (terminatingToo || p.DeletionTimestamp == nil)
}

// endpointPorts are a Service's ports as one pod has them: a named target port
// may have another number in each pod; a port that the pod has not is left out.
func endpointPorts(svc *corev1.Service, p *corev1.Pod) (ports []corev1.EndpointPort) {
	for _, sp := range svc.Spec.Ports {
		if n, ok := targetPort(sp, p); ok {
			ports = append(ports, corev1.EndpointPort{Name: sp.Name, Port: n, Protocol: sp.Protocol, AppProtocol: sp.AppProtocol})
		}
	}
	slices.SortFunc(ports, func(a, b corev1.EndpointPort) int { return strings.Compare(a.Name, b.Name) })
	return ports
}

// Upstream: pkg/api/v1/pod/util.go, FindPort.
func targetPort(sp corev1.ServicePort, p *corev1.Pod) (int32, bool) {
	if sp.TargetPort.Type == intstr.Int {
		if sp.TargetPort.IntVal == 0 {
			return sp.Port, true
		}
		return sp.TargetPort.IntVal, true
	}
	for _, c := range slices.Concat(p.Spec.Containers, filter(p.Spec.InitContainers, isSidecar)) {
		for _, cp := range c.Ports {
			if cp.Name == sp.TargetPort.StrVal && cp.Protocol == sp.Protocol {
				return cp.ContainerPort, true
			}
		}
	}
	return 0, false
}

// servicesOfPods queues the Services that select a pod, or did before a change.
func servicesOfPods(c *client.Controller, services *client.Informer[*corev1.Service]) client.Handler[*corev1.Pod] {
	queue := func(pods ...*corev1.Pod) {
		for _, svc := range services.List() {
			if len(svc.Spec.Selector) == 0 || svc.Namespace != pods[0].Namespace {
				continue
			}
			selector := labels.SelectorFromSet(svc.Spec.Selector)
			if slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return selector.Matches(labels.Set(p.Labels)) }) {
				c.Enqueue(svc)
			}
		}
	}
	return client.Handler[*corev1.Pod]{
		Add: func(p *corev1.Pod) { queue(p) },
		Update: func(old, p *corev1.Pod) {
			if endpointChanged(old, p) {
				queue(old, p)
			}
		},
		Delete: func(p *corev1.Pod) { queue(p) },
	}
}

// endpointChanged says whether anything of a pod changed that an endpoint shows.
func endpointChanged(a, b *corev1.Pod) bool {
	return (a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil) || podReady(a) != podReady(b) || podFinished(a) != podFinished(b) ||
		a.Spec.NodeName != b.Spec.NodeName || !slices.Equal(a.Status.PodIPs, b.Status.PodIPs) || a.Status.PodIP != b.Status.PodIP ||
		!maps.Equal(a.Labels, b.Labels)
}

// triggers work out since when endpoints are due: the earliest change of a
// Service or its pods that the last pass did not know. It is written into an
// annotation, from which the network programming latency is measured.
//
// Upstream: k8s.io/endpointslice/trigger_time_tracker.go.
type triggers struct {
	mu sync.Mutex
	m  map[string]triggerState
}

type triggerState struct {
	service time.Time
	pods    map[string]time.Time
}

func newTriggers() *triggers { return &triggers{m: map[string]triggerState{}} }

func (t *triggers) next(svc *corev1.Service, pods []*corev1.Pod) (first time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := client.Key(svc)
	old, state := t.m[key], triggerState{service: svc.CreationTimestamp.Time, pods: map[string]time.Time{}}
	earliest := func(at time.Time) {
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	for _, p := range pods {
		c := podCondition(p, corev1.PodReady)
		if c == nil || c.LastTransitionTime.IsZero() {
			continue
		}
		state.pods[p.Name] = c.LastTransitionTime.Time
		if c.LastTransitionTime.After(old.pods[p.Name]) {
			earliest(c.LastTransitionTime.Time)
		}
	}
	if state.service.After(old.service) {
		earliest(state.service)
	}
	t.m[key] = state
	return first
}

func (t *triggers) forget(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.m, key)
}

// noteTrigger writes the annotation, or removes it where nothing is known.
func noteTrigger(m *metav1.ObjectMeta, at time.Time) {
	m.Annotations = maps.Clone(m.Annotations)
	if at.IsZero() {
		delete(m.Annotations, corev1.EndpointsLastChangeTriggerTime)
		return
	}
	setAnnotation(m, corev1.EndpointsLastChangeTriggerTime, at.UTC().Format(time.RFC3339Nano))
}
