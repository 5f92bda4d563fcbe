package controllers

import (
	"context"
	"encoding/json"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
)

// The TTL controller.
//
// Watches: Nodes.
// Wants: each node to know, by an annotation, for how many seconds kubelets may
// keep ConfigMaps and Secrets without asking: longer in larger clusters.
// Does: writes node.alpha.kubernetes.io/ttl.
// Upstream: pkg/controller/ttl/ttl_controller.go.
func startTTL(e *env) (func(context.Context) error, error) {
	nodes, api := watching[*corev1.Node](e), client.For[*corev1.Node](e.client)
	c := client.NewController("ttl-controller", func(ctx context.Context, name string) (client.Result, error) {
		node, ok := nodes.GetKey(name)
		want := strconv.Itoa(secretTTL(len(nodes.List())))
		if !ok || node.Annotations[ttlAnnotation] == want {
			return client.Result{}, nil
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{ttlAnnotation: want}}})
		if err != nil {
			return client.Result{}, err
		}
		_, err = api.Patch(ctx, "", name, types.StrategicMergePatchType, patch)
		return client.Result{}, err
	})
	nodes.AddHandler(client.Handler[*corev1.Node]{Add: func(n *corev1.Node) { c.Enqueue(n) }, Update: func(_, n *corev1.Node) { c.Enqueue(n) }})
	return c.Run, nil
}

const ttlAnnotation = "node.alpha.kubernetes.io/ttl"

// secretTTL is the time for a cluster of n nodes, in seconds.
func secretTTL(n int) int {
	for _, step := range []struct{ nodes, ttl int }{{100, 0}, {500, 15}, {1000, 30}, {2000, 60}} {
		if n <= step.nodes {
			return step.ttl
		}
	}
	return 300
}
