package kubelet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
)

// objects reads what pods refer to: ConfigMaps, Secrets, tokens, volumes. When the API
// server cannot be reached, the last answer stands, so that a container can be
// restarted without it.
//
// Upstream: pkg/kubelet/configmap, pkg/kubelet/secret, pkg/kubelet/token.
// Left out: a watch for each object; the pods' regular sync reads them again.
type objects struct {
	api *client.Client

	mu     sync.Mutex
	known  map[string]client.Object
	tokens map[string]*authv1.TokenRequest
}

func newObjects(api *client.Client) *objects {
	return &objects{api: api, known: map[string]client.Object{}, tokens: map[string]*authv1.TokenRequest{}}
}

var errNoAPI = errors.New("there is no API server to read from")

func read[T client.Object](ctx context.Context, o *objects, kind, namespace, name string) (T, error) {
	var zero T
	if o.api == nil {
		return zero, errNoAPI
	}
	key := kind + "/" + namespace + "/" + name
	obj, err := client.For[T](o.api).Get(ctx, namespace, name)
	o.mu.Lock()
	defer o.mu.Unlock()
	if err == nil {
		o.known[key] = obj
		return obj, nil
	}
	if _, answered := errors.AsType[*apierrors.StatusError](err); answered {
		delete(o.known, key)
		if apierrors.IsNotFound(err) { // in the words of upstream's own cache
			err = apierrors.NewNotFound(corev1.Resource(kind), name)
		}
		return zero, err
	}
	if before, ok := o.known[key].(T); ok {
		return before, nil
	}
	return zero, err
}

// ConfigMap reads one.
func (o *objects) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	return read[*corev1.ConfigMap](ctx, o, "configmap", namespace, name)
}

// Secret reads one.
func (o *objects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return read[*corev1.Secret](ctx, o, "secret", namespace, name)
}

// Claim reads a PersistentVolumeClaim.
func (o *objects) Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	return read[*corev1.PersistentVolumeClaim](ctx, o, "persistentvolumeclaim", namespace, name)
}

// Volume reads a PersistentVolume.
func (o *objects) Volume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	return read[*corev1.PersistentVolume](ctx, o, "persistentvolume", "", name)
}

// Token is a token of the pod's service account that dies with the pod. It is
// renewed when four fifths of its life, or a day, have passed.
//
// Upstream: pkg/kubelet/token/token_manager.go, Manager.
func (o *objects) Token(ctx context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, error) {
	if o.api == nil {
		return "", errNoAPI
	}
	key := fmt.Sprintln(pod.UID, pod.Spec.ServiceAccountName, p.Audience, p.ExpirationSeconds)
	o.mu.Lock()
	have := o.tokens[key]
	o.mu.Unlock()
	if have != nil && !stale(have) {
		return have.Status.Token, nil
	}
	req := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{ExpirationSeconds: p.ExpirationSeconds,
		BoundObjectRef: &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}}}
	if p.Audience != "" {
		req.Spec.Audiences = []string{p.Audience}
	}
	answer := &authv1.TokenRequest{}
	if err := client.For[*corev1.ServiceAccount](o.api).Post(ctx, pod.Namespace, pod.Spec.ServiceAccountName, "token", req, answer); err != nil {
		if have != nil && time.Now().Before(have.Status.ExpirationTimestamp.Time) {
			return have.Status.Token, nil
		}
		return "", fmt.Errorf("failed to fetch token: %w", err)
	}
	answer.CreationTimestamp = metav1.Now()
	o.mu.Lock()
	o.tokens[key] = answer
	o.mu.Unlock()
	return answer.Status.Token, nil
}

func stale(t *authv1.TokenRequest) bool {
	life := t.Status.ExpirationTimestamp.Sub(t.CreationTimestamp.Time)
	age := time.Since(t.CreationTimestamp.Time)
	return age > life*4/5 || age > 24*time.Hour
}

// sweep forgets tokens that have expired.
func (o *objects) sweep() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, t := range o.tokens {
		if time.Now().After(t.Status.ExpirationTimestamp.Time) {
			delete(o.tokens, key)
		}
	}
}

// object is what events are about: a static pod's events are about the pod that
// its mirror shows.
func reference(pod *corev1.Pod, fieldPath string) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name,
		UID: types.UID(pod.UID), ResourceVersion: pod.ResourceVersion, FieldPath: fieldPath}
}

// eventf notes something about a pod.
func (k *Kubelet) eventf(pod *corev1.Pod, kind, reason, format string, args ...any) {
	if k.recorder != nil {
		k.recorder.Eventf(reference(pod, ""), kind, reason, format, args...)
	}
}

// containerEvent notes something about one container of a pod.
func (k *Kubelet) containerEvent(pod *corev1.Pod, name, kind, reason, message string) {
	if k.recorder == nil {
		return
	}
	list := "containers"
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			list = "initContainers"
		}
	}
	k.recorder.Event(reference(pod, "spec."+list+"{"+name+"}"), kind, reason, message)
}

// nodeEvent notes something about this node.
func (k *Kubelet) nodeEvent(kind, reason, format string, args ...any) {
	if k.recorder != nil {
		k.recorder.Eventf(k.cfg.nodeReference(), kind, reason, format, args...)
	}
}
