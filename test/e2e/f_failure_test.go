package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// The course's chapter 7 at true speed: a worker dies, and the cluster takes its
// time. The times are those of kubeadm v1.36: Ready=Unknown after 40 to 55 s,
// eviction 300 s later, to the second.
func TestWorkerDies(t *testing.T) {
	need(t)
	eventually(t, time.Minute, is("2", "{.status.readyReplicas}", "deployment", "hello-world"))
	lost, stays := podOn(t, worker3), podOn(t, worker2)
	_, port := service(t)
	ips := addresses(t)

	stopUntilUnknown(t, worker3)
	eventually(t, 5*time.Second, func() error {
		taints, err := jsonPath("{.spec.taints[*]}", "node", worker3)
		if err != nil {
			return err
		}
		return contains(taints, `"effect":"NoSchedule","key":"node.kubernetes.io/unreachable"`, `"effect":"NoExecute","key":"node.kubernetes.io/unreachable"`)
	})
	tainted := time.Now()
	must(t, contains(kubectl(t, "get", "node", worker3, "--no-headers"), "NotReady"))
	must(t, contains(kubectl(t, "get", "pod", lost, "--no-headers"), "1/1", "Running"))
	eventually(t, 5*time.Second, is("False", `{.status.conditions[?(@.type=="Ready")].status}`, "pod", lost))
	eventually(t, 5*time.Second, func() error {
		out, err := jsonPath(`{range .items[0].endpoints[*]}{.targetRef.name}={.conditions.ready} {end}`, "endpointslices", "-l", "kubernetes.io/service-name=hello")
		if err != nil {
			return err
		}
		return contains(out, lost+"=false", stays+"=true")
	})
	// The application still answers, always from the other pod.
	for range 10 {
		who, err := hostname(head, "http://"+ips[worker2]+":"+port)
		must(t, err)
		if who != stays {
			t.Errorf("%s answered, which is on the dead node", who)
		}
	}

	// Meanwhile the control plane goes and comes back. This restarts the five
	// minutes, as upstream's timers live in the controller manager.
	t.Run("control plane stops", func(t *testing.T) {
		orrery(t, "node", "stop", head)
		if _, err := tryKubectl("get", "nodes", "--request-timeout=3s"); err == nil {
			t.Error("kubectl works without a control plane")
		}
		for range 5 {
			who, err := hostname(worker2, "http://"+ips[worker2]+":"+port)
			must(t, err)
			if who != stays {
				t.Errorf("%s answered", who)
			}
		}
		orrery(t, "node", "start", head)
		eventually(t, 90*time.Second, is("True", `{.status.conditions[?(@.type=="Ready")].status}`, "node", head))
		after := addresses(t)
		for node, ip := range ips {
			if after[node] != ip {
				t.Errorf("%s had the address %s and has %s", node, ip, after[node])
			}
		}
		must(t, is("2", "{.spec.replicas}", "deployment", "hello-world")())
		t.Log("the control plane is back, no data lost")
	})
	restarted := time.Now()

	eventually(t, 345*time.Second, func() error {
		at, err := jsonPath("{.metadata.deletionTimestamp}", "pod", lost)
		if err == nil && at == "" {
			err = errNone
		}
		return err
	})
	evicted := time.Now()
	t.Logf("evicted %v after the taint, %v after the control plane was back", evicted.Sub(tainted).Round(time.Second), evicted.Sub(restarted).Round(time.Second))
	if d := evicted.Sub(tainted); d < 300*time.Second {
		t.Errorf("evicted %v after the taint, before the 300 s were over", d)
	}
	must(t, is("DeletionByTaintManager", `{.status.conditions[?(@.type=="DisruptionTarget")].reason}`, "pod", lost)())
	must(t, contains(kubectl(t, "get", "pod", lost, "--no-headers"), "1/1", "Terminating"))
	eventually(t, 20*time.Second, is("2", "{.status.readyReplicas}", "deployment", "hello-world"))

	orrery(t, "node", "start", worker3)
	eventually(t, time.Minute, is("True", `{.status.conditions[?(@.type=="Ready")].status}`, "node", worker3))
	eventually(t, time.Minute, func() error {
		out, err := tryKubectl("get", "pod", lost)
		if err == nil {
			return fmt.Errorf("the old pod is still there: %s", out)
		}
		return contains(err.Error(), "NotFound")
	})
	eventually(t, 20*time.Second, func() error {
		taints, err := jsonPath("{.spec.taints}", "node", worker3)
		if err == nil && strings.Contains(taints, "unreachable") {
			err = fmt.Errorf("still tainted: %s", taints)
		}
		return err
	})
	// Nobody moves the pods back.
	nodes, err := jsonPath("{.items[*].spec.nodeName}", "pods", "-l", "app=hello")
	must(t, err)
	if nodes != worker2+" "+worker2 {
		t.Errorf("the pods are on %q, want both on %s", nodes, worker2)
	}
}

// stopUntilUnknown stops a node and waits until the control plane no longer believes in it, at the time that upstream takes.
func stopUntilUnknown(t *testing.T, node string) {
	t.Helper()
	must(t, contains(orrery(t, "node", "stop", node), "Stopping node", node))
	stopped := time.Now()
	eventually(t, 70*time.Second, is("Unknown", `{.status.conditions[?(@.type=="Ready")].status}`, "node", node))
	took := time.Since(stopped)
	if took < 30*time.Second || took > 57*time.Second {
		// The lease may have been renewed up to 10 s before the stop was complete.
		t.Errorf("Ready became Unknown %v after the stop, want 40 to 55 s", took)
	}
	t.Logf("Ready=Unknown %v after the stop", took.Round(100*time.Millisecond))
	must(t, is("Kubelet stopped posting node status.", `{.status.conditions[?(@.type=="Ready")].message}`, "node", node)())
}
