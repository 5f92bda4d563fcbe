// Package server is what a kubelet answers on port 10250: logs, exec, attach,
// port-forward, the list of its pods, statistics.
//
//	kubectl logs ──▶ API server ──▶ :10250/containerLogs ──▶ /var/log/pods/...
//	kubectl exec ──▶ API server ──▶ :10250/exec ──▶ CRI's streaming server ──▶ the process
//
// Invariants:
//   - Nobody is served without a name: a client certificate of the cluster's CA
//     or a token that the API server vouches for.
//   - What the name may do is the API server's answer to a SubjectAccessReview;
//     the kubelet has no policy of its own.
//
// Read next: server.go, auth.go, logs.go.
//
// Upstream: pkg/kubelet/server.
package server
