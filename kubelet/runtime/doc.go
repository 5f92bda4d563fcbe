// Package runtime is a CRI service on containerd: what a kubelet asks in terms of pods and containers, it does with
// containerd's tasks and snapshots, runc's specs and CNI's plugins. containerd has such a service built in; this one does
// the same where a reader can watch, and crictl works on it just as well.
//
//	kubelet, crictl --CRI, /run/orrery/cri.sock--> Service --gRPC--> containerd --> shim --> runc --> process
//	                                                  |                              |
//	                                                  +--libcni--> CNI plugins       +--> cri-logger --> /var/log/pods
//
// A sandbox is a container that runs the pause image and so holds the pod's namespaces; containers join them.
//
// Invariants:
//
//   - No hidden truth. All that is known of a sandbox or container is its containerd record (labels, and the CRI config
//     as an extension) and its task. A new process finds everything as the old one left it; a restart of containerd
//     changes nothing either, because shims run on.
//   - Containers outlive us, and so do their logs. The shim starts a logger of our own (containerd's binary:// scheme)
//     and hands it the container's output: while the kubelet is down, no line is lost and no container blocks on a full
//     pipe. With named pipes read by us, as containerd's CRI plugin has them, an application would stop at its next
//     64 KiB of output. Only a container with stdin and no terminal has such pipes, because binary:// has no stdin.
//   - Whoever sees a process end writes exit code and time onto the record first, and deletes the task then.
//   - Labels are ours, never io.cri-containerd.*, so that containerd's CRI plugin lets our containers be.
//   - Errors are containerd's until the interceptor turns them into gRPC's.
//
// Read next: service.go, then sandbox_run.go, container_create.go with spec.go, container_start.go, record.go, logger.
package runtime
