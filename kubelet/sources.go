package kubelet

import (
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
)

// Annotations that tell a static pod and its mirror in the API from other pods.
//
// Upstream: pkg/kubelet/types/pod_update.go.
const (
	annotationSource = "kubernetes.io/config.source" // "file" for static pods, "api" for the rest
	annotationHash   = "kubernetes.io/config.hash"   // of the manifest; also the static pod's uid
	annotationMirror = "kubernetes.io/config.mirror" // on the mirror: the hash of the pod it shows
	annotationSeen   = "kubernetes.io/config.seen"   // when the kubelet first saw it
)

func asUID(s string) types.UID { return types.UID(s) }

// podName is how messages name a pod: name_namespace(uid).
func podName(pod *corev1.Pod) string {
	return pod.Name + "_" + pod.Namespace + "(" + string(pod.UID) + ")"
}

func isStatic(pod *corev1.Pod) bool { return pod.Annotations[annotationSource] == "file" }

func isMirror(pod metav1.Object) bool {
	_, ok := pod.GetAnnotations()[annotationMirror]
	return ok
}

// podStore holds the pods that shall run here, from both sources: the API server
// and the folder of static pods. Mirror pods, which only show static pods to the
// API, are kept apart and never run.
//
// Upstream: pkg/kubelet/pod/pod_manager.go, basicManager; pkg/kubelet/config.
type podStore struct {
	mu      sync.Mutex
	api     map[types.UID]*corev1.Pod
	static  map[types.UID]*corev1.Pod
	mirrors map[string]*corev1.Pod // by namespace/name
	// changed is called without mu held; of news is only the status when work is false.
	changed func(uid types.UID, work bool)
}

func newPodStore(changed func(uid types.UID, work bool)) *podStore {
	return &podStore{api: map[types.UID]*corev1.Pod{}, static: map[types.UID]*corev1.Pod{}, mirrors: map[string]*corev1.Pod{}, changed: changed}
}

// handler feeds the store from the informer of this node's pods.
func (s *podStore) handler() client.Handler[*corev1.Pod] {
	return client.Handler[*corev1.Pod]{
		Add: s.set,
		Update: func(old, pod *corev1.Pod) {
			if old.UID != pod.UID { // deleted and made again between two lists
				s.remove(old)
			}
			s.set(pod)
		},
		Delete: s.remove,
	}
}

func (s *podStore) set(pod *corev1.Pod) {
	s.mu.Lock()
	uid := pod.UID
	var before *corev1.Pod
	if isMirror(pod) {
		before = s.mirrors[client.Key(pod)]
		s.mirrors[client.Key(pod)] = pod
		uid = s.staticNamed(client.Key(pod))
	} else {
		before = s.api[uid]
		s.api[uid] = pod
	}
	s.mu.Unlock()
	s.changed(uid, before == nil || differ(before, pod))
}

// differ says whether there is work in a change of a pod. Its status is our own
// doing and is none, unless it holds a readiness gate.
//
// Upstream: pkg/kubelet/config/config.go, podsDifferSemantically.
func differ(a, b *corev1.Pod) bool {
	for _, gate := range b.Spec.ReadinessGates {
		was, is := condition(a, gate.ConditionType), condition(b, gate.ConditionType)
		if was != is {
			return true
		}
	}
	return a.UID != b.UID || !equality.Semantic.DeepEqual(a.Spec, b.Spec) || !maps.Equal(a.Labels, b.Labels) || !maps.Equal(a.Annotations, b.Annotations) ||
		!a.DeletionTimestamp.Equal(b.DeletionTimestamp) || !equality.Semantic.DeepEqual(a.DeletionGracePeriodSeconds, b.DeletionGracePeriodSeconds)
}

func condition(pod *corev1.Pod, t corev1.PodConditionType) corev1.ConditionStatus {
	for _, c := range pod.Status.Conditions {
		if c.Type == t {
			return c.Status
		}
	}
	return ""
}

func (s *podStore) remove(pod *corev1.Pod) {
	s.mu.Lock()
	uid := pod.UID
	if isMirror(pod) {
		delete(s.mirrors, client.Key(pod))
		uid = s.staticNamed(client.Key(pod))
	} else {
		delete(s.api, uid)
	}
	s.mu.Unlock()
	s.changed(uid, true)
}

// staticNamed is the uid of the static pod of a key; the caller holds mu.
func (s *podStore) staticNamed(key string) types.UID {
	for uid, pod := range s.static {
		if client.Key(pod) == key {
			return uid
		}
	}
	return ""
}

// setStatic makes the static pods equal to a reading of their folder.
func (s *podStore) setStatic(pods []*corev1.Pod) {
	now := map[types.UID]*corev1.Pod{}
	var changed []types.UID
	s.mu.Lock()
	for _, pod := range pods {
		if before, ok := s.static[pod.UID]; ok {
			pod = before // the uid is a hash of the manifest: nothing changed
		} else {
			changed = append(changed, pod.UID)
		}
		now[pod.UID] = pod
	}
	for uid := range s.static {
		if now[uid] == nil {
			changed = append(changed, uid)
		}
	}
	s.static = now
	s.mu.Unlock()
	for _, uid := range changed {
		s.changed(uid, true)
	}
}

// get is the pod of a uid as its source wants it now, or nil.
func (s *podStore) get(uid types.UID) *corev1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pod := s.static[uid]; pod != nil {
		return pod
	}
	return s.api[uid]
}

// mirror is the API's mirror of a static pod, or nil.
func (s *podStore) mirror(pod *corev1.Pod) *corev1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mirrors[client.Key(pod)]
}

// all is every pod of both sources.
func (s *podStore) all() []*corev1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*corev1.Pod, 0, len(s.static)+len(s.api))
	for _, pod := range s.static {
		out = append(out, pod)
	}
	for _, pod := range s.api {
		out = append(out, pod)
	}
	return out
}

// orphanMirrors is the mirrors whose static pod is gone.
func (s *podStore) orphanMirrors() []*corev1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*corev1.Pod
	for key, mirror := range s.mirrors {
		if s.staticNamed(key) == "" {
			out = append(out, mirror)
		}
	}
	return out
}

// named finds a pod by its name; the server asks so.
func (s *podStore) named(namespace, name string) *corev1.Pod {
	for _, pod := range s.all() {
		if pod.Namespace == namespace && pod.Name == name {
			return pod
		}
	}
	return nil
}
