package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const etcdctl = `etcdctl --endpoints https://127.0.0.1:2379 --cacert /etc/kubernetes/pki/etcd/ca.crt --cert /etc/kubernetes/pki/etcd/healthcheck-client.crt --key /etc/kubernetes/pki/etcd/healthcheck-client.key `

// The course's chapter 4: etcd answers etcdctl, with upstream's keys and values.
func TestLookIntoEtcd(t *testing.T) {
	need(t)
	must(t, contains(inNode(t, head, etcdctl+"member list -w table"), "started"))
	keys := inNode(t, head, etcdctl+"get --prefix /registry --keys-only")
	must(t, contains(keys,
		"/registry/pods/kube-system/kube-scheduler-"+head, "/registry/minions/"+head, "/registry/deployments/default/hello-world",
		"/registry/services/specs/default/hello", "/registry/leases/kube-node-lease/"+worker2, "/registry/clusterroles/cluster-admin"))
	for _, key := range strings.Fields(keys) {
		if !strings.HasPrefix(key, "/registry/") {
			t.Errorf("a key outside /registry: %q", key)
		}
	}
	value := inNode(t, head, etcdctl+"get /registry/deployments/default/hello-world --print-value-only | head -c 40 | od -c | head -3")
	must(t, contains(value, `k   8   s  \0`, "a   p   p   s   /   v   1"))
}

// A watch in etcd sees what scaling does to pods.
func TestWatchEtcdWhileScaling(t *testing.T) {
	need(t)
	inNode(t, head, "("+etcdctl+"watch --prefix /registry/pods/default/ --write-out=json > /tmp/watch.json 2>&1 & echo $! > /tmp/watch.pid)")
	defer inNode(t, head, "kill $(cat /tmp/watch.pid)")
	must(t, contains(kubectl(t, "scale", "--replicas=3", "deployment/hello-world"), "deployment.apps/hello-world scaled"))
	kubectl(t, "rollout", "status", "deployment/hello-world", "--timeout=60s")
	must(t, contains(kubectl(t, "scale", "--replicas=2", "deployment/hello-world"), "scaled"))
	eventually(t, time.Minute, func() error { // the third is gone for good
		names, err := jsonPath("{.items[*].metadata.name}", "pods", "-l", "app=hello")
		if err == nil && len(strings.Fields(names)) != 2 {
			err = fmt.Errorf("pods %s", names)
		}
		return err
	})
	events := inNode(t, head, "cat /tmp/watch.json")
	must(t, contains(events, `"Events":[`, `"create_revision"`, `"mod_revision"`))
	if n := strings.Count(events, `"Header"`); n < 3 {
		t.Errorf("only %d messages for a pod that was created, scheduled and started", n)
	}
}
