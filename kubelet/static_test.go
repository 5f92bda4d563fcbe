package kubelet

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client"
)

func quantity(s string) resource.Quantity { return resource.MustParse(s) }

const manifest = `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default}
spec:
  hostNetwork: true
  containers:
  - name: app
    image: docker.io/demo/app:1
    ports: [{containerPort: 80}]
    readinessProbe: {httpGet: {port: 80}}
`

func withManifests(dir string) func(*Config) {
	return func(c *Config) { c.Settings.StaticPodPath = dir }
}

func TestStaticPodHasAMirror(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "web.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	onNode(t, withManifests(dir), func(n *node) {
		n.settle(3 * time.Second)
		mirror := n.pod("web-w1")
		hash := mirror.Annotations[annotationHash]
		if hash == "" || mirror.Annotations[annotationMirror] != hash || mirror.Annotations[annotationSource] != "file" || mirror.Annotations[annotationSeen] == "" {
			t.Errorf("annotations are %v", mirror.Annotations)
		}
		if len(mirror.OwnerReferences) != 1 || mirror.OwnerReferences[0].Kind != "Node" || mirror.OwnerReferences[0].Name != "w1" {
			t.Errorf("owner is %v", mirror.OwnerReferences)
		}
		if mirror.Status.Phase != corev1.PodRunning || mirror.Status.PodIP != "172.30.0.3" {
			t.Errorf("status is %+v", mirror.Status)
		}

		// Deleting the mirror does not touch the pod, and it comes back.
		zero := int64(0)
		if err := client.For[*corev1.Pod](n.api).Delete(n.ctx, "default", "web-w1", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
			t.Fatal(err)
		}
		n.settle(3 * time.Second)
		if again := n.pod("web-w1"); again.UID == mirror.UID || again.Status.Phase != corev1.PodRunning {
			t.Errorf("the mirror is %s, %s", again.UID, again.Status.Phase)
		}
		if starts := n.runtime.startsOf("app", n.began); len(starts) != 1 {
			t.Errorf("started at %v", starts)
		}

		// Another manifest is another pod; it begins when the first has ended.
		if err := os.WriteFile(file, []byte(manifest+"  terminationGracePeriodSeconds: 7\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		n.settle(8 * time.Second)
		changed := n.pod("web-w1")
		if changed.Annotations[annotationHash] == hash || *changed.Spec.TerminationGracePeriodSeconds != 7 {
			t.Errorf("the mirror is still %+v", changed.Annotations)
		}
		if starts := n.runtime.startsOf("app", n.began); len(starts) != 2 {
			t.Errorf("started at %v", starts)
		}

		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		n.settle(8 * time.Second)
		list, err := client.For[*corev1.Pod](n.api).List(n.ctx, "default", metav1.ListOptions{})
		if err != nil || len(list.Items) != 0 {
			t.Errorf("left: %v %v", list.Items, err)
		}
	})
}

// A manifest that is taken away and put back, as people do to restart a part of the
// control plane, is the same pod: it runs again, at whatever moment it comes back.
func TestManifestThatIsPutBackRunsAgain(t *testing.T) {
	for away := 500 * time.Millisecond; away < 8*time.Second; away += 500 * time.Millisecond {
		t.Run(away.String(), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "web.yaml")
			put := func() {
				if err := os.WriteFile(file, []byte(manifest), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			put()
			onNode(t, withManifests(filepath.Dir(file)), func(n *node) {
				n.settle(3 * time.Second)
				n.runtime.mu.Lock()
				n.runtime.stubborn["app"] = away > 4*time.Second // it takes the whole grace to stop
				n.runtime.mu.Unlock()
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
				n.settle(away)
				put()
				n.settle(40 * time.Second)
				if starts := n.runtime.startsOf("app", n.began); away > time.Second && len(starts) != 2 {
					t.Errorf("started at %v", starts)
				}
				if pod := n.pod("web-w1"); pod.Status.Phase != corev1.PodRunning || pod.Status.ContainerStatuses[0].State.Running == nil {
					t.Errorf("%s, %+v", pod.Status.Phase, pod.Status.ContainerStatuses[0].State)
				}
			})
		})
	}
}

func TestManifestGetsDefaults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "web.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	k := &Kubelet{cfg: Config{NodeName: "w1"}}
	pod, err := k.readManifest(file)
	if err != nil {
		t.Fatal(err)
	}
	c := pod.Spec.Containers[0]
	if pod.Spec.RestartPolicy != "Always" || c.ImagePullPolicy != "IfNotPresent" || c.Ports[0].HostPort != 80 || c.Ports[0].Protocol != "TCP" ||
		c.ReadinessProbe.PeriodSeconds != 10 || c.ReadinessProbe.HTTPGet.Path != "/" || c.TerminationMessagePath != "/dev/termination-log" {
		t.Errorf("the pod is %+v", pod.Spec)
	}
	again, err := k.readManifest(file)
	if err != nil || again.UID != pod.UID {
		t.Errorf("read again it has another uid: %s, %s, %v", again.UID, pod.UID, err)
	}
}
