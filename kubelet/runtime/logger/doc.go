// Package logger writes one container's output to its log file in the CRI format, and shows it live to whoever attaches.
//
//	container --stdout--> pipe --+--> <time> stdout F <line>      (the file that kubectl logs reads)
//	          --stderr--> pipe --+--> unix socket, in frames      (kubectl attach, kubectl run -it)
//
// It runs in a process of its own, cmd/cri-logger, one per container, a child of the container's shim. So it lives exactly
// as long as the container, and neither a crash of the kubelet nor one of containerd loses a line or blocks the container.
//
// Invariants: output is always read, even when the log cannot be written; the bytes of a line are never reordered;
// a client that does not read is dropped and cannot stop the container.
//
// Read next: kubelet/runtime/container_io.go, which starts it.
package logger
