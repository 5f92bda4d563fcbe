// Package lab turns Docker containers into the machines of a cluster, and does to them what the course does to
// real ones: start, stop, look inside, take away. It is what minikube is to the course.
//
//	orrery start --nodes 3
//	      │ docker run, exec, stop, ... (the command line, nothing else)
//	      ▼
//	┌─ network "orrery" 172.30.0.0/24 ──────────────────────────────────────────┐
//	│  orrery .2               orrery-m02 .3            orrery-m03 .4           │
//	│  systemd, containerd,    systemd, containerd,     systemd, containerd,    │
//	│  kubelet, control plane  kubelet                  kubelet                 │
//	└───────┬───────────────────────────────────────────────────────────────────┘
//	        └ 127.0.0.1:26443 on the user's machine, fixed for the cluster's life
//
// Invariants: labels on containers and networks are the only state, so nothing can disagree with Docker; the one
// file kept is a copy of the cluster's kubeconfig. A node keeps its name, address and disk when it is stopped and
// started. Everything that changes Docker goes through Docker.Do, so `--dry-run` shows all of it. What a delete
// removes is found by label, never by guessing names.
//
// Read next: start.go, whose list of steps is the table of contents; node.go for what makes a container a node
// and why; image.go for what is in it; deploy/node for the image's files.
package lab
