package images

// Repository is the prefix of every component image's name; kubeadm's imageRepository.
const Repository = "docker.io/orrery"

// Tag is the tag of every component image, the Kubernetes version that Orrery models.
const Tag = "v1.36.3"

// Image is one component image.
type Image struct {
	// Name is the image's name below Repository.
	Name string
	// Programs are the binaries it holds in /usr/local/bin. The first is its entrypoint.
	Programs []string
	// Iptables says that it stands on the layer of iptables.
	Iptables bool
	// Tags are its tags beside Tag.
	Tags []string
}

// All is every image that a node carries, what changes least first.
var All = []Image{
	{Name: "pause", Programs: []string{"pause"}},
	{Name: "coredns", Programs: []string{"coredns"}},
	{Name: "podinfo", Programs: []string{"podinfo"}, Tags: []string{"2023.03"}},
	{Name: "cni", Programs: []string{"orrery-cnid", "orrery-cni"}, Iptables: true},
	{Name: "kube-proxy", Programs: []string{"kube-proxy"}, Iptables: true},
	{Name: "kube-scheduler", Programs: []string{"kube-scheduler"}},
	{Name: "kube-controller-manager", Programs: []string{"kube-controller-manager"}},
	{Name: "kube-apiserver", Programs: []string{"kube-apiserver"}},
}

// References are the full names under which the image is known in a node.
func (i Image) References() []string {
	refs := []string{Repository + "/" + i.Name + ":" + Tag}
	for _, tag := range i.Tags {
		refs = append(refs, Repository+"/"+i.Name+":"+tag)
	}
	return refs
}
