package swap

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"orrery/test/peers"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a service gets is kept in etcd, where all servers look, ours and upstream's.
func TestServersOfBothSidesGiveNoAddressOrPortTwice(t *testing.T) {
	peers.Need(t)
	servers := peers.New(t).StartAPIServers(peers.Ours, peers.Upstream, peers.Ours)
	service := func(name string, spec corev1.ServiceSpec) *corev1.Service {
		spec.Type = corev1.ServiceTypeNodePort
		if spec.Ports == nil {
			spec.Ports = []corev1.ServicePort{{Port: 80}}
		}
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
	}
	const each = 40
	var mu sync.Mutex
	var wg sync.WaitGroup
	ips, ports, made := map[string]int{}, map[int32]int{}, make([]*corev1.Service, len(servers))
	for i, c := range servers {
		services := c.Admin().CoreV1().Services(metav1.NamespaceDefault)
		for j := range each {
			wg.Go(func() {
				svc, err := services.Create(t.Context(), service(fmt.Sprintf("s-%d-%d", i, j), corev1.ServiceSpec{}), metav1.CreateOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				ips[svc.Spec.ClusterIP]++
				ports[svc.Spec.Ports[0].NodePort]++
				made[i] = svc
			})
		}
	}
	wg.Wait()
	if want := each * len(servers); len(ips) != want || len(ports) != want {
		t.Fatalf("%d services have %d addresses and %d ports", want, len(ips), len(ports))
	}
	// What one has given another refuses, deletes, and a third can give again.
	for i := range servers {
		theirs, mine, third := made[(i+1)%3], servers[i].Admin().CoreV1().Services(metav1.NamespaceDefault), servers[(i+2)%3].Admin().CoreV1().Services(metav1.NamespaceDefault)
		both := corev1.ServiceSpec{ClusterIP: theirs.Spec.ClusterIP, Ports: []corev1.ServicePort{{Port: 80, NodePort: theirs.Spec.Ports[0].NodePort}}}
		for _, one := range []corev1.ServiceSpec{{ClusterIP: both.ClusterIP}, {Ports: both.Ports}} {
			if _, err := mine.Create(t.Context(), service("clash", one), metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "already allocated") {
				t.Errorf("server %d: %v", i, err)
			}
		}
		if err := mine.Delete(t.Context(), theirs.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := third.Create(t.Context(), service(fmt.Sprint("heir-", i), both), metav1.CreateOptions{}); err != nil {
			t.Errorf("what server %d took back cannot be had again: %v", i, err)
		}
	}
}
