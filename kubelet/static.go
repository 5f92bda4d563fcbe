package kubelet

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"

	"orrery/client"
)

// watchFiles reads the folder of static pods each second: no API server is
// needed for that, which is how a control plane can begin at all.
//
// Upstream: pkg/kubelet/config/file.go, sourceFile, which watches by inotify and
// reads every 20 s beside it; a second is near enough to both.
func (k *Kubelet) watchFiles(ctx context.Context) {
	var seen string
	for {
		pods, stamp, err := k.readFiles(seen)
		switch {
		case err != nil && err.Error() != seen:
			k.log.Warn("Static pods cannot be read", "err", err)
			seen = err.Error()
		case err == nil && stamp != seen:
			seen = stamp
			k.pods.setStatic(pods)
		}
		k.filesRead.Do(func() { close(k.filesSynced) })
		if !client.Sleep(ctx, time.Second) {
			return
		}
	}
}

// readFiles decodes the manifests unless their names, sizes and times are still
// those of the stamp.
func (k *Kubelet) readFiles(before string) (pods []*corev1.Pod, stamp string, err error) {
	entries, err := os.ReadDir(k.cfg.Settings.StaticPodPath)
	if os.IsNotExist(err) {
		return nil, "none", nil
	}
	if err != nil {
		return nil, "", err
	}
	var b strings.Builder
	var files []string
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || info.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue // gone meanwhile, or an editor's
		}
		fmt.Fprintln(&b, e.Name(), info.Size(), info.ModTime().UnixNano())
		files = append(files, filepath.Join(k.cfg.Settings.StaticPodPath, e.Name()))
	}
	if b.String() == before {
		return nil, before, nil
	}
	for _, file := range files {
		pod, err := k.readManifest(file)
		if err != nil {
			k.log.Warn("Static pod is not valid", "file", file, "err", err)
			continue
		}
		pods = append(pods, pod)
	}
	return pods, b.String(), nil
}

// readManifest makes the pod of a manifest file. Its uid is a hash of all that
// makes it what it is: a changed manifest is another pod.
//
// Upstream: pkg/kubelet/config/common.go, applyDefaults.
func (k *Kubelet) readManifest(file string) (*corev1.Pod, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(raw, nil, nil)
	if err != nil {
		return nil, err
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, fmt.Errorf("%T is not a pod", obj)
	}
	if pod.Name == "" || len(pod.Spec.Containers) == 0 {
		return nil, fmt.Errorf("a pod needs a name and a container")
	}
	sum := md5.New()
	fmt.Fprintf(sum, "host:%s,file:%s,", k.cfg.NodeName, file)
	if err := json.NewEncoder(sum).Encode(pod); err != nil {
		return nil, err
	}
	orElse(&pod.UID, asUID(hex.EncodeToString(sum.Sum(nil))))
	pod.Name = strings.ToLower(pod.Name + "-" + k.cfg.NodeName)
	orElse(&pod.Namespace, metav1.NamespaceDefault)
	pod.Spec.NodeName = k.cfg.NodeName
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[annotationHash] = string(pod.UID)
	pod.Annotations[annotationSource] = "file"
	pod.Annotations[annotationSeen] = time.Now().Format(time.RFC3339Nano)
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute})
	pod.Status.Phase = corev1.PodPending
	defaultPod(pod)
	return pod, nil
}

// defaultPod does for a manifest what the API server does for other pods, as
// far as the kubelet reads it.
//
// Upstream: pkg/apis/core/v1/defaults.go.
func defaultPod(pod *corev1.Pod) {
	spec := &pod.Spec
	orElse(&spec.RestartPolicy, corev1.RestartPolicyAlways)
	orElse(&spec.DNSPolicy, corev1.DNSClusterFirst)
	orElse(&spec.SchedulerName, corev1.DefaultSchedulerName)
	orPointer(&spec.TerminationGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds)
	orPointer(&spec.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	orPointer(&spec.SecurityContext, corev1.PodSecurityContext{})
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			defaultContainer(&list[i], spec.HostNetwork)
		}
	}
	for i := range spec.Volumes {
		if p := spec.Volumes[i].HostPath; p != nil {
			orPointer(&p.Type, corev1.HostPathUnset)
		}
	}
}

func defaultContainer(c *corev1.Container, hostNetwork bool) {
	orElse(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	orElse(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	policy := corev1.PullIfNotPresent
	if name := c.Image[strings.LastIndex(c.Image, "/")+1:]; !strings.ContainsAny(name, ":@") || strings.HasSuffix(name, ":latest") {
		policy = corev1.PullAlways
	}
	orElse(&c.ImagePullPolicy, policy)
	for i := range c.Ports {
		orElse(&c.Ports[i].Protocol, corev1.ProtocolTCP)
		if hostNetwork {
			orElse(&c.Ports[i].HostPort, c.Ports[i].ContainerPort)
		}
	}
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p == nil {
			continue
		}
		orElse(&p.TimeoutSeconds, 1)
		orElse(&p.PeriodSeconds, 10)
		orElse(&p.SuccessThreshold, 1)
		orElse(&p.FailureThreshold, 3)
		if p.HTTPGet != nil {
			orElse(&p.HTTPGet.Path, "/")
			orElse(&p.HTTPGet.Scheme, corev1.URISchemeHTTP)
		}
	}
	for name, limit := range c.Resources.Limits {
		if _, ok := c.Resources.Requests[name]; !ok {
			if c.Resources.Requests == nil {
				c.Resources.Requests = corev1.ResourceList{}
			}
			c.Resources.Requests[name] = limit
		}
	}
}

// syncMirror keeps the mirror of a static pod in the API: what shows it to
// kubectl. Without an API server there is none, and nothing is wrong.
//
// Upstream: pkg/kubelet/kubelet.go, tryReconcileMirrorPods; pkg/kubelet/pod/mirror_client.go.
func (k *Kubelet) syncMirror(ctx context.Context, pod *corev1.Pod) error {
	node := k.node.Load()
	if k.api == nil || node == nil || !closed(k.podsSynced()) {
		return nil // not registered: the sync after registration makes it
	}
	if mirror := k.pods.mirror(pod); mirror != nil {
		if mirror.DeletionTimestamp == nil && mirror.Annotations[annotationMirror] == pod.Annotations[annotationHash] {
			return nil
		}
		if err := k.deleteMirror(ctx, mirror); err != nil {
			return err
		}
	}
	mirror := pod.DeepCopy()
	yes := true
	mirror.UID = ""
	mirror.Annotations[annotationMirror] = pod.Annotations[annotationHash]
	mirror.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: &yes}}
	_, err := client.For[*corev1.Pod](k.api).Create(ctx, mirror)
	if err == nil || apierrors.IsAlreadyExists(err) {
		return nil
	}
	return fmt.Errorf("creating mirror pod: %w", err)
}

// deleteMirror removes a mirror at once: nothing runs behind it.
func (k *Kubelet) deleteMirror(ctx context.Context, mirror *corev1.Pod) error {
	now := int64(0)
	err := client.For[*corev1.Pod](k.api).Delete(ctx, mirror.Namespace, mirror.Name,
		metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &mirror.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("deleting mirror pod: %w", err)
	}
	return nil
}
