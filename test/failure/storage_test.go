package failure

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"orrery/client"
	"orrery/controllers"
)

func (w *world) claim(name, class, size string) {
	w.t.Helper()
	_, err := client.For[*corev1.PersistentVolumeClaim](w.client).Create(w.ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
		},
	})
	w.must(err)
}

func (w *world) volume(name, class, size string) {
	w.t.Helper()
	_, err := client.For[*corev1.PersistentVolume](w.client).Create(w.ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/tmp"}},
		},
	})
	w.must(err)
}

func TestAClaimGetsTheSmallestVolumeThatFits(t *testing.T) {
	inCluster(t, func(w *world) {
		w.twoNodes()
		claims, volumes := client.For[*corev1.PersistentVolumeClaim](w.client), client.For[*corev1.PersistentVolume](w.client)
		w.volume("small", "manual", "1Gi")
		w.volume("large", "manual", "9Gi")
		w.volume("medium", "manual", "5Gi")
		w.until(6 * time.Second) // all three are seen before the claim is
		w.claim("data", "manual", "3Gi")
		w.until(10 * time.Second)
		p, err := claims.Get(w.ctx, "default", "data")
		w.must(err)
		if p.Spec.VolumeName != "medium" || p.Status.Phase != corev1.ClaimBound || p.Status.Capacity.Storage().String() != "5Gi" {
			t.Errorf("%s %+v", p.Spec.VolumeName, p.Status)
		}
		pod, err := client.For[*corev1.Pod](w.client).Create(w.ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "user"},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}, Volumes: []corev1.Volume{{Name: "v",
				VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}},
		})
		w.must(err)
		w.until(12 * time.Second)
		w.must(claims.Delete(w.ctx, "default", "data", metav1.DeleteOptions{}))
		w.until(15 * time.Second)
		if p, err := claims.Get(w.ctx, "default", "data"); err != nil || p.DeletionTimestamp == nil {
			t.Errorf("a claim that a pod uses went: %v", err)
		}
		w.must(client.For[*corev1.Pod](w.client).Delete(w.ctx, "default", pod.Name, metav1.DeleteOptions{}))
		w.until(20 * time.Second)
		if _, err := claims.Get(w.ctx, "default", "data"); !apierrors.IsNotFound(err) {
			t.Errorf("the claim is still there: %v", err)
		}
		v, err := volumes.Get(w.ctx, "", "medium")
		w.must(err)
		if v.Status.Phase != corev1.VolumeReleased {
			t.Errorf("%s", v.Status.Phase)
		}
	})
}

func TestAVolumeIsMadeWhereTheClassNamesOurProvisioner(t *testing.T) {
	inCluster(t, func(w *world) {
		w.until(5 * time.Second)
		_, err := client.For[*storagev1.StorageClass](w.client).Create(w.ctx, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "local"}, Provisioner: controllers.HostPathProvisioner})
		w.must(err)
		w.claim("data", "local", "1Gi")
		w.until(10 * time.Second)
		p, err := client.For[*corev1.PersistentVolumeClaim](w.client).Get(w.ctx, "default", "data")
		w.must(err)
		if p.Status.Phase != corev1.ClaimBound || p.Spec.VolumeName != "pvc-"+string(p.UID) {
			t.Errorf("%+v", p)
		}
		w.must(client.For[*corev1.PersistentVolumeClaim](w.client).Delete(w.ctx, "default", "data", metav1.DeleteOptions{}))
		w.until(15 * time.Second)
		list, err := client.For[*corev1.PersistentVolume](w.client).List(w.ctx, "", metav1.ListOptions{})
		w.must(err)
		if len(list.Items) != 0 {
			t.Errorf("the volume outlives its claim: %+v", list.Items[0].Status)
		}
	})
}

func TestLoadBalancersGetAddressesFromThePool(t *testing.T) {
	inCluster(t, func(w *world) {
		w.until(5 * time.Second)
		api := client.For[*corev1.Service](w.client)
		for _, name := range []string{"a", "b"} {
			_, err := api.Create(w.ctx, &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
				Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}},
			})
			w.must(err)
		}
		w.until(6 * time.Second)
		seen := map[string]bool{}
		for _, name := range []string{"a", "b"} {
			s, err := api.Get(w.ctx, "default", name)
			w.must(err)
			for _, in := range s.Status.LoadBalancer.Ingress {
				seen[in.IP] = true
			}
		}
		if !seen["172.30.0.200"] || !seen["172.30.0.201"] {
			t.Errorf("%v", seen)
		}
	})
}

func TestHandWrittenEndpointsAreMirrored(t *testing.T) {
	inCluster(t, func(w *world) {
		w.until(5 * time.Second)
		_, err := client.For[*corev1.Service](w.client).Create(w.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 5432}}}})
		w.must(err)
		_, err = client.For[*corev1.Endpoints](w.client).Create(w.ctx, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"},
			Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "192.168.1.9"}}, Ports: []corev1.EndpointPort{{Port: 5432, Protocol: corev1.ProtocolTCP}}}}})
		w.must(err)
		w.until(6 * time.Second)
		list, err := client.For[*discoveryv1.EndpointSlice](w.client).List(w.ctx, "default", metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=db"})
		w.must(err)
		if len(list.Items) != 1 || list.Items[0].Endpoints[0].Addresses[0] != "192.168.1.9" || list.Items[0].Labels["endpointslice.kubernetes.io/managed-by"] != "endpointslicemirroring-controller.k8s.io" {
			t.Errorf("%+v", list.Items)
		}
	})
}

func TestAQuotaSaysWhatIsUsed(t *testing.T) {
	inCluster(t, func(w *world) {
		w.twoNodes()
		w.deploy("hello-world", 2)
		w.until(10 * time.Second)
		api := client.For[*corev1.ResourceQuota](w.client)
		hard := corev1.ResourceList{"pods": resource.MustParse("5"), "count/deployments.apps": resource.MustParse("9"), "services": resource.MustParse("9")}
		_, err := api.Create(w.ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}})
		w.must(err)
		w.until(11 * time.Second)
		q, err := api.Get(w.ctx, "default", "q")
		w.must(err)
		for name, want := range map[corev1.ResourceName]int64{"pods": 2, "count/deployments.apps": 1, "services": 2} {
			if n := q.Status.Used[name]; n.Value() != want {
				t.Errorf("%s: %s, want %d", name, n.String(), want)
			}
		}
	})
}

func TestAQuotaRefusesWhatIsTooMuch(t *testing.T) {
	inCluster(t, func(w *world) {
		w.twoNodes()
		w.until(5 * time.Second)
		quotas, pods := client.For[*corev1.ResourceQuota](w.client), client.For[*corev1.Pod](w.client)
		create := func(name, cpu string) error {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: template(nil, "app:1").Spec}
			if cpu != "" {
				p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
			}
			_, err := pods.Create(w.ctx, p)
			return err
		}
		refused := func(err error, want string) {
			t.Helper()
			if !apierrors.IsForbidden(err) || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		}
		w.stopController()
		_, err := quotas.Create(w.ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "q"},
			Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"pods": resource.MustParse("2"), "cpu": resource.MustParse("1")}}})
		w.must(err)
		w.must(create("before", "")) // the status counts, and nobody has written it
		w.startManager()
		w.until(w.at() + 30*time.Second)
		container := template(nil, "app:1").Spec.Containers[0].Name
		refused(create("silent", ""), `pods "silent" is forbidden: failed quota: q: must specify cpu for: `+container)
		refused(create("large", "1500m"), `pods "large" is forbidden: exceeded quota: q, requested: cpu=1500m, used: cpu=0, limited: cpu=1`)
		w.must(create("fits", "400m"))
		refused(create("third", "700m"), `pods "third" is forbidden: exceeded quota: q, requested: cpu=700m,pods=1, used: cpu=400m,pods=2, limited: cpu=1,pods=2`)
		if q, err := quotas.Get(w.ctx, "default", "q"); err != nil || q.Status.Used.Cpu().String() != "400m" || q.Status.Used.Pods().Value() != 2 {
			t.Errorf("%v %+v", err, q.Status)
		}
		w.must(pods.Delete(w.ctx, "default", "fits", metav1.DeleteOptions{}))
		w.until(w.at() + 10*time.Second)
		w.must(create("third", "700m"))
	})
}

func TestAQuotaOfAClassCountsItsPodsOnly(t *testing.T) {
	inCluster(t, func(w *world) {
		w.twoNodes()
		w.until(5 * time.Second)
		quotas, pods, claims := client.For[*corev1.ResourceQuota](w.client), client.For[*corev1.Pod](w.client), client.For[*corev1.PersistentVolumeClaim](w.client)
		_, err := client.For[*schedulingv1.PriorityClass](w.client).Create(w.ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 10})
		w.must(err)
		quota := func(name string, hard corev1.ResourceList, scope corev1.ResourceQuotaScope, op corev1.ScopeSelectorOperator, values ...string) {
			spec := corev1.ResourceQuotaSpec{Hard: hard}
			if scope != "" {
				spec.ScopeSelector = &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{{ScopeName: scope, Operator: op, Values: values}}}
			}
			_, err := quotas.Create(w.ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: spec})
			w.must(err)
		}
		two := corev1.ResourceList{"pods": resource.MustParse("2")}
		quota("high", two, corev1.ResourceQuotaScopePriorityClass, corev1.ScopeSelectorOpIn, "high")
		quota("classless", two, corev1.ResourceQuotaScopePriorityClass, corev1.ScopeSelectorOpDoesNotExist)
		quota("nosy", two, corev1.ResourceQuotaScopeCrossNamespacePodAffinity, corev1.ScopeSelectorOpExists)
		nine := corev1.ResourceList{"pods": resource.MustParse("9")}
		quota("modest", nine, corev1.ResourceQuotaScopeBestEffort, corev1.ScopeSelectorOpExists)
		quota("greedy", nine, corev1.ResourceQuotaScopeNotBestEffort, corev1.ScopeSelectorOpExists)
		quota("all", corev1.ResourceList{"count/pods": resource.MustParse("9"), "requests.example.org/gpu": resource.MustParse("9"), "hugepages-2Mi": resource.MustParse("9Mi"),
			"fast.storageclass.storage.k8s.io/requests.storage": resource.MustParse("9Gi"), "fast.storageclass.storage.k8s.io/persistentvolumeclaims": resource.MustParse("1")}, "", "")
		w.until(w.at() + 10*time.Second)
		create := func(name, class string, change func(*corev1.PodSpec)) error {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: template(nil, "app:1").Spec}
			p.Spec.PriorityClassName = class
			if change != nil {
				change(&p.Spec)
			}
			_, err := pods.Create(w.ctx, p)
			return err
		}
		w.must(create("a", "high", func(s *corev1.PodSpec) {
			amounts := corev1.ResourceList{"example.org/gpu": resource.MustParse("2"), "hugepages-2Mi": resource.MustParse("4Mi"), "memory": resource.MustParse("1Mi")}
			s.Containers[0].Resources = corev1.ResourceRequirements{Limits: amounts, Requests: amounts}
		}))
		w.must(create("b", "high", nil))
		w.must(create("c", "", func(s *corev1.PodSpec) {
			s.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{
				Weight: 1, PodAffinityTerm: corev1.PodAffinityTerm{TopologyKey: "kubernetes.io/hostname", NamespaceSelector: &metav1.LabelSelector{}}}}}}
		}))
		if err := create("d", "high", nil); !apierrors.IsForbidden(err) || err.Error() != `pods "d" is forbidden: exceeded quota: high, requested: pods=1, used: pods=2, limited: pods=2` {
			t.Error(err)
		}
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x"}, Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: new("fast"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("3Gi")}}}}
		_, err = claims.Create(w.ctx, claim)
		w.must(err)
		claim.Name = "y"
		if _, err := claims.Create(w.ctx, claim); !apierrors.IsForbidden(err) {
			t.Error(err)
		}
		want := map[string]string{"high": "pods=2", "classless": "pods=1", "nosy": "pods=1", "modest": "pods=2", "greedy": "pods=1",
			"all": "count/pods=3 fast.storageclass.storage.k8s.io/persistentvolumeclaims=1 fast.storageclass.storage.k8s.io/requests.storage=3Gi hugepages-2Mi=4Mi requests.example.org/gpu=2"}
		for _, when := range []string{"as admission booked it", "as the controller counted it"} {
			for name, want := range want {
				q, err := quotas.Get(w.ctx, "default", name)
				w.must(err)
				var used []string
				for _, name := range slices.Sorted(maps.Keys(q.Status.Used)) {
					n := q.Status.Used[name]
					used = append(used, string(name)+"="+n.String())
				}
				if got := strings.Join(used, " "); got != want {
					t.Errorf("quota %s, %s:\ngot  %s\nwant %s", name, when, got, want)
				}
			}
			w.until(w.at() + 6*time.Minute) // it counts every five
		}
	})
}

func TestABudgetSaysHowManyPodsMayGo(t *testing.T) {
	inCluster(t, func(w *world) {
		w.twoNodes()
		w.deploy("hello-world", 3)
		api := client.For[*policyv1.PodDisruptionBudget](w.client)
		_, err := api.Create(w.ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b"},
			Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: new(intstr.FromString("34%")), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "hello-world"}}}})
		w.must(err)
		w.until(10 * time.Second)
		b, err := api.Get(w.ctx, "default", "b")
		w.must(err)
		if s := b.Status; s.ExpectedPods != 3 || s.DesiredHealthy != 1 || s.CurrentHealthy != 3 || s.DisruptionsAllowed != 2 {
			t.Errorf("%+v", s)
		}
	})
}
