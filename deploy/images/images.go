package images

import "cmp"

// Repository is the prefix of every component image's name; kubeadm's imageRepository.
const Repository = "docker.io/orrery"

// Tag is the tag of every component image but etcd's, the Kubernetes version that Orrery models.
const Tag = "v1.36.3"

// The kinds of nodes that an image can be for; also the folder of its archive in the node image.
const (
	EveryNode    = "node"
	ControlPlane = "control-plane"
)

// Image is one component image.
type Image struct {
	// Name is the image's name below Repository.
	Name string
	// Programs are the binaries it holds in /usr/local/bin. The first is its entrypoint; without any it runs a shell.
	Programs []string
	// On is what kind of node needs it: EveryNode or ControlPlane.
	On string
	// Iptables says that it stands on the layer of iptables and busybox.
	Iptables bool
	// Version is its tag in place of Tag, unless it is empty.
	Version string
	// Tags are its tags beside that.
	Tags []string
}

// All is every image that a node carries, what changes least first.
var All = []Image{
	{Name: "pause", On: EveryNode, Programs: []string{"pause"}},
	{Name: "coredns", On: EveryNode, Programs: []string{"coredns"}},
	{Name: "podinfo", On: EveryNode, Programs: []string{"podinfo"}, Tags: []string{"2023.03"}},
	{Name: "busybox", On: EveryNode, Iptables: true},
	{Name: "etcd", On: ControlPlane, Programs: []string{"etcd"}, Version: "3.6.8-0"},
	{Name: "cni", On: EveryNode, Programs: []string{"orrery-cnid", "orrery-cni"}, Iptables: true},
	{Name: "kube-proxy", On: EveryNode, Programs: []string{"kube-proxy"}, Iptables: true},
	{Name: "ingress", On: EveryNode, Programs: []string{"orrery-ingress"}},
	{Name: "kube-scheduler", On: ControlPlane, Programs: []string{"kube-scheduler"}},
	{Name: "kube-controller-manager", On: ControlPlane, Programs: []string{"kube-controller-manager"}},
	{Name: "kube-apiserver", On: ControlPlane, Programs: []string{"kube-apiserver"}},
}

// MetricsServer is the image of the addon of that name, which is in no node until the addon is enabled.
var MetricsServer = Image{Name: "metrics-server", Programs: []string{"metrics-server"}, Tags: []string{"v0.9.0"}}

// References are the full names under which the image is known in a node.
func (i Image) References() []string {
	var refs []string
	for _, tag := range append([]string{cmp.Or(i.Version, Tag)}, i.Tags...) {
		refs = append(refs, Repository+"/"+i.Name+":"+tag)
	}
	return refs
}

// Programs are the programs of all images.
func Programs() []string {
	var names []string
	for _, i := range All {
		names = append(names, i.Programs...)
	}
	return names
}
