package kubelet

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestExpand(t *testing.T) {
	values := map[string]string{"A": "1", "B": "two"}
	for in, want := range map[string]string{
		"$(A) and $(B)": "1 and two", "$$(A)": "$(A)", "$(NOPE)": "$(NOPE)", "$A": "$A", "$(A": "$(A", "$": "$", "$$": "$", "$$$(A)": "$1",
	} {
		if got := expand(in, values); got != want {
			t.Errorf("expand(%q) = %q, want %q", in, got, want)
		}
	}
}

// The number is upstream's own: a kubelet that takes a node over must not
// restart what its namesake has started.
func TestContainerHashIsUpstreams(t *testing.T) {
	c := &corev1.Container{Name: "test_container", Image: "foo/image:v1", Args: []string{"of no account"}}
	if got := containerHash(c); got != "8e45cbd0" {
		t.Errorf("hash %s, want 8e45cbd0", got)
	}
}

func TestServiceVariables(t *testing.T) {
	service := func(namespace, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	all := []*corev1.Service{
		service("default", "kubernetes", "10.96.0.1", corev1.ServicePort{Name: "https", Port: 443, Protocol: "TCP"}),
		service("shop", "my-db", "10.96.7.7", corev1.ServicePort{Port: 5432, Protocol: "TCP"}),
		service("shop", "headless", "None", corev1.ServicePort{Port: 1, Protocol: "TCP"}),
		service("other", "db", "10.96.8.8", corev1.ServicePort{Port: 1, Protocol: "TCP"}),
	}
	got := map[string]string{}
	serviceEnv(got, all, "shop", true)
	want := map[string]string{
		"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443", "KUBERNETES_PORT": "tcp://10.96.0.1:443",
		"KUBERNETES_PORT_443_TCP": "tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP_PROTO": "tcp", "KUBERNETES_PORT_443_TCP_PORT": "443", "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1",
		"MY_DB_SERVICE_HOST": "10.96.7.7", "MY_DB_SERVICE_PORT": "5432", "MY_DB_PORT": "tcp://10.96.7.7:5432",
		"MY_DB_PORT_5432_TCP": "tcp://10.96.7.7:5432", "MY_DB_PORT_5432_TCP_PROTO": "tcp", "MY_DB_PORT_5432_TCP_PORT": "5432", "MY_DB_PORT_5432_TCP_ADDR": "10.96.7.7",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	got = map[string]string{}
	serviceEnv(got, all, "shop", false)
	if len(got) != 8 || got["KUBERNETES_SERVICE_HOST"] == "" {
		t.Errorf("without links: %v", got)
	}
}

func TestHostsFile(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop"}, Spec: corev1.PodSpec{Subdomain: "sub",
		HostAliases: []corev1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"a", "b"}}}}}
	got, err := hostsFile(pod, []string{"10.244.1.2"}, "cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	want := "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n" +
		"fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n" +
		"10.244.1.2\tweb.sub.shop.svc.cluster.local\tweb\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Error(d)
	}
}

func TestDNSPolicies(t *testing.T) {
	none := ""
	k := &Kubelet{}
	k.cfg.Settings.ResolverConfig, k.cfg.Settings.ClusterDNS, k.cfg.Settings.ClusterDomain = &none, []string{"10.96.0.10"}, "cluster.local"
	cluster := "10.96.0.10 | shop.svc.cluster.local svc.cluster.local cluster.local | ndots:5"
	two := "2"
	for _, test := range []struct {
		name string
		spec corev1.PodSpec
		want string
	}{
		{"cluster first", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst}, cluster},
		{"cluster first on the host's network means the host's", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, HostNetwork: true}, " |  | "},
		{"unless it is asked for", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirstWithHostNet, HostNetwork: true}, cluster},
		{"default", corev1.PodSpec{DNSPolicy: corev1.DNSDefault}, " |  | "},
		{"none", corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: &corev1.PodDNSConfig{Nameservers: []string{"9.9.9.9"}, Searches: []string{"x"},
			Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}}}}, "9.9.9.9 | x | ndots:2"},
		{"options replace", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, DNSConfig: &corev1.PodDNSConfig{Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}}}},
			strings.Replace(cluster, "ndots:5", "ndots:2", 1)},
	} {
		c, err := k.dnsConfig(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Spec: test.spec})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join([]string{strings.Join(c.Servers, " "), strings.Join(c.Searches, " "), strings.Join(c.Options, " ")}, " | "); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestOOMScoreAndUnits(t *testing.T) {
	k := &Kubelet{}
	k.cfg.Machine.Memory = 1000 << 20
	pod := func(requests, limits corev1.ResourceList) *corev1.Pod {
		return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}}}}
	}
	all := corev1.ResourceList{"cpu": quantity("500m"), "memory": quantity("100Mi")}
	critical := pod(nil, nil)
	priority := int32(2000001000)
	critical.Spec.Priority = &priority
	for _, test := range []struct {
		pod   *corev1.Pod
		class corev1.PodQOSClass
		score int64
	}{
		{pod(nil, nil), corev1.PodQOSBestEffort, 1000},
		{pod(all, all), corev1.PodQOSGuaranteed, -997},
		{pod(all, nil), corev1.PodQOSBurstable, 900},
		{critical, corev1.PodQOSBestEffort, -997},
	} {
		if got := qosClass(test.pod); got != test.class {
			t.Errorf("class %s, want %s", got, test.class)
		}
		if got := k.oomScore(test.pod, &test.pod.Spec.Containers[0]); got != test.score {
			t.Errorf("%s: score %d, want %d", test.class, got, test.score)
		}
	}
	if cpuShares(0) != 2 || cpuShares(250) != 256 || cpuShares(1<<40) != 262144 || cpuQuota(250) != 25000 || cpuQuota(1) != 1000 {
		t.Error("CPU units are wrong")
	}
}

func TestRunAsNonRoot(t *testing.T) {
	yes, root, other := true, int64(0), int64(1000)
	for _, test := range []struct {
		name  string
		user  *int64
		image *cri.Image
		want  string
	}{
		{"by the pod", &other, &cri.Image{}, ""},
		{"by the image", nil, &cri.Image{Uid: &cri.Int64Value{Value: 7}}, ""},
		{"root by the pod", &root, &cri.Image{}, "container's runAsUser breaks non-root policy"},
		{"root by the image", nil, &cri.Image{}, "container has runAsNonRoot and image will run as root"},
		{"a name", nil, &cri.Image{Username: "app"}, "container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root"},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: test.user}}}
		_, err := containerSecurity(pod, &corev1.Container{}, test.image)
		if got := errText(err); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestPhases(t *testing.T) {
	running := &container{name: "app", state: cri.ContainerState_CONTAINER_RUNNING}
	done := &container{name: "app", state: cri.ContainerState_CONTAINER_EXITED}
	failed := &container{name: "app", state: cri.ContainerState_CONTAINER_EXITED, exitCode: 1}
	for _, test := range []struct {
		name     string
		policy   corev1.RestartPolicy
		run      *container
		terminal bool
		old      corev1.PodPhase
		want     corev1.PodPhase
	}{
		{"nothing yet", "Always", nil, false, "", corev1.PodPending},
		{"runs", "Always", running, false, "", corev1.PodRunning},
		{"crashed, will be restarted", "Always", failed, false, "", corev1.PodRunning},
		{"done", "Never", done, false, "", corev1.PodSucceeded},
		{"done", "OnFailure", done, false, "", corev1.PodSucceeded},
		{"failed", "Never", failed, false, "", corev1.PodFailed},
		{"failed, will be restarted", "OnFailure", failed, false, "", corev1.PodRunning},
		{"stopped in order", "Always", done, true, "", corev1.PodSucceeded},
		{"stopped by force", "Always", failed, true, "", corev1.PodFailed},
		{"stopped before it began", "Always", nil, true, "", corev1.PodFailed},
		{"an end is an end", "Always", running, false, corev1.PodFailed, corev1.PodFailed},
	} {
		in := statusInput{pod: &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: test.policy, Containers: []corev1.Container{{Name: "app"}}}}, state: &podState{},
			old: corev1.PodStatus{Phase: test.old}, terminal: test.terminal, probed: func(*container) probed { return probed{true, true} }}
		if test.run != nil {
			in.state.containers = []*container{test.run}
		}
		if got := podStatus(in).Phase; got != test.want {
			t.Errorf("%s (%s): %s, want %s", test.name, test.policy, got, test.want)
		}
	}
}
