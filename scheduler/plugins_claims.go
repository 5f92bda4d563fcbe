package scheduler

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"orrery/client"
)

// volumeRestrictions leaves a claim that only one pod may use to that pod.
//
// Upstream: pkg/scheduler/framework/plugins/volumerestrictions.
// Left out: disks of vendors, which two pods of a node may not share.
type volumeRestrictions struct {
	claims *client.Informer[*corev1.PersistentVolumeClaim]
}

func (*volumeRestrictions) Name() string { return "VolumeRestrictions" }

// claimUsers is what PreFilter finds: who uses the claims that the pod must have for
// itself.
type claimUsers struct {
	claims []string
	byNode map[string]int
	total  int
}

// on counts those on a node.
func (u *claimUsers) on(c *Cycle, n *NodeInfo) (count int) {
	for _, p := range n.Pods {
		if p.Pod.Namespace == c.Pod.Namespace && slices.ContainsFunc(claimNames(p.Pod), func(name string) bool { return slices.Contains(u.claims, name) }) {
			count++
		}
	}
	return count
}

func (p *volumeRestrictions) PreFilter(c *Cycle) *Status {
	u := &claimUsers{byNode: map[string]int{}}
	for _, name := range claimNames(c.Pod) {
		if claim, ok := p.claims.Get(c.Pod.Namespace, name); ok && slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
			u.claims = append(u.claims, name)
		}
	}
	if len(u.claims) == 0 {
		return verdict(Skip)
	}
	for _, n := range c.Snapshot.Nodes {
		if count := u.on(c, n); count > 0 {
			u.byNode[n.Name()] = count
			u.total += count
		}
	}
	note(c, p.Name(), u)
	return nil
}

// Filter asks about the whole cluster: a pod elsewhere has the claim, too.
func (p *volumeRestrictions) Filter(c *Cycle, n *NodeInfo) *Status {
	u := noted[*claimUsers](c, p.Name())
	if u.total-u.byNode[n.Name()]+u.on(c, n) > 0 {
		return verdict(Unschedulable, "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod")
	}
	return nil
}

func (*volumeRestrictions) Helps(ev ClusterEvent, _ *corev1.Pod) bool {
	return ev.PodGone != nil || ev.Storage
}

// volumeZone keeps pods in the zones and regions that labels of their volumes name,
// as volumes had them before they had a node affinity.
//
// Upstream: pkg/scheduler/framework/plugins/volumezone.
type volumeZone struct{}

func (volumeZone) Name() string { return "VolumeZone" }

// topologyLabels are those of a volume that count, with those of nodes that say the same.
var topologyLabels = map[string]string{
	corev1.LabelTopologyZone: corev1.LabelTopologyZone, corev1.LabelTopologyRegion: corev1.LabelTopologyRegion,
	corev1.LabelFailureDomainBetaZone: corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
}

// volumePlace is a label of a volume: a node must have one of the values.
type volumePlace struct {
	key    string
	values []string
}

func (p volumeZone) PreFilter(c *Cycle) *Status {
	found := noted[*podVolumes](c, "VolumeBinding") // which comes before
	if found == nil {
		return verdict(Skip)
	}
	var places []volumePlace
	for _, pv := range found.bound {
		for key := range topologyLabels {
			if value, ok := pv.Labels[key]; ok {
				places = append(places, volumePlace{key, strings.Split(value, "__")})
			}
		}
	}
	if len(places) == 0 {
		return verdict(Skip)
	}
	note(c, p.Name(), places)
	return nil
}

func (p volumeZone) Filter(c *Cycle, n *NodeInfo) *Status {
	labels := n.Node.Labels
	anywhere := true
	for key := range topologyLabels {
		if _, ok := labels[key]; ok {
			anywhere = false // else the node is in no zone at all
		}
	}
	if anywhere {
		return nil
	}
	for _, place := range noted[[]volumePlace](c, p.Name()) {
		v, ok := labels[place.key]
		if !ok {
			v, ok = labels[topologyLabels[place.key]]
		}
		if !ok || !slices.Contains(place.values, v) {
			return verdict(Unresolvable, "node(s) had no available volume zone")
		}
	}
	return nil
}

func (volumeZone) Helps(ev ClusterEvent, _ *corev1.Pod) bool { return ev.Node != nil || ev.Storage }
