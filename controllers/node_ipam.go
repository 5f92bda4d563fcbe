package controllers

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
)

// The node IPAM controller.
//
// Watches: Nodes.
// Wants: a piece of the cluster CIDR for each node, and no piece for two.
// Does: writes spec.podCIDR of nodes that have none; the next free piece, round
// robin, so that a piece is not used again at once.
// Upstream: pkg/controller/nodeipam/ipam/range_allocator.go.
// Left out: dual stack.
func startNodeIPAM(e *env) (func(context.Context) error, error) {
	if !e.cfg.AllocateNodeCIDRs {
		return nil, nil
	}
	set, err := newCIDRSet(e.cfg.ClusterCIDR, e.cfg.NodeCIDRMaskSize)
	if err != nil {
		return nil, err
	}
	if e.cfg.ServiceCIDR.IsValid() {
		set.exclude(e.cfg.ServiceCIDR)
	}
	nodes, api := watching[*corev1.Node](e), client.For[*corev1.Node](e.client)
	recorder := e.recorder("cidrAllocator")
	// given are the pieces handed out that the cache may not show yet.
	given := map[string]netip.Prefix{}
	c := client.NewController("node-ipam-controller", func(ctx context.Context, name string) (client.Result, error) {
		node, ok := nodes.GetKey(name)
		if !ok {
			if p, ok := given[name]; ok {
				set.release(p)
				delete(given, name)
			}
			return client.Result{}, nil
		}
		if len(node.Spec.PodCIDRs) > 0 {
			for _, s := range node.Spec.PodCIDRs {
				if p, err := netip.ParsePrefix(s); err == nil {
					set.occupy(p)
					given[name] = p
				}
			}
			return client.Result{}, nil
		}
		p, ok := given[name]
		if !ok {
			if p, err = set.next(); err != nil {
				nodeEvent(recorder, node, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable")
				return client.Result{}, fmt.Errorf("failed to allocate cidr from cluster cidr: %w", err)
			}
			given[name] = p
		}
		patch, err := json.Marshal(map[string]any{"spec": map[string]any{"podCIDR": p.String(), "podCIDRs": []string{p.String()}}})
		if err != nil {
			return client.Result{}, err
		}
		_, err = api.Patch(ctx, "", name, types.StrategicMergePatchType, patch)
		return client.Result{}, err
	})
	c.Workers = 1 // the set is not shared
	nodes.AddHandler(client.On[*corev1.Node](c))
	return func(ctx context.Context) error {
		// Pieces in use come first, whatever the order of the queue.
		for _, node := range nodes.List() {
			for _, s := range node.Spec.PodCIDRs {
				if p, err := netip.ParsePrefix(s); err == nil {
					set.occupy(p)
				}
			}
		}
		return c.Run(ctx)
	}, nil
}

// nodeEvent writes an event about a node under the node's UID, as the node
// controllers do.
func nodeEvent(r *client.Recorder, node *corev1.Node, reason, format string) {
	r.Eventf(&corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: node.Name, UID: node.UID}, normal, reason, format, node.Name)
}

// cidrSet cuts a range into pieces of equal size and remembers which are used.
//
// Upstream: pkg/controller/nodeipam/ipam/cidrset.
type cidrSet struct {
	cluster netip.Prefix
	bits    int // of a piece
	used    map[int]bool
	count   int // of pieces
	cursor  int // where the search goes on
}

var errFull = errors.New("CIDR allocation failed; there are no remaining CIDRs left to allocate in the accepted range")

func newCIDRSet(cluster netip.Prefix, bits int) (*cidrSet, error) {
	if !cluster.IsValid() || !cluster.Addr().Is4() {
		return nil, fmt.Errorf("--cluster-cidr: an IPv4 range is needed to allocate node CIDRs, not %q", cluster)
	}
	if bits < cluster.Bits() || bits > 32 || bits-cluster.Bits() > 16 {
		return nil, fmt.Errorf("--node-cidr-mask-size: %d does not cut %s into pieces", bits, cluster)
	}
	return &cidrSet{cluster: cluster.Masked(), bits: bits, used: map[int]bool{}, count: 1 << (bits - cluster.Bits())}, nil
}

func (s *cidrSet) piece(i int) netip.Prefix {
	base := s.cluster.Addr().As4()
	n := binary.BigEndian.Uint32(base[:]) + uint32(i)<<(32-s.bits)
	return netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n))), s.bits)
}

func (s *cidrSet) index(p netip.Prefix) (int, bool) {
	if !s.cluster.Contains(p.Addr()) {
		return 0, false
	}
	base, addr := s.cluster.Addr().As4(), p.Addr().As4()
	return int(binary.BigEndian.Uint32(addr[:])-binary.BigEndian.Uint32(base[:])) >> (32 - s.bits), true
}

func (s *cidrSet) next() (netip.Prefix, error) {
	for range s.count {
		i := s.cursor
		s.cursor = (s.cursor + 1) % s.count
		if !s.used[i] {
			s.used[i] = true
			return s.piece(i), nil
		}
	}
	return netip.Prefix{}, errFull
}

func (s *cidrSet) occupy(p netip.Prefix) {
	if i, ok := s.index(p); ok {
		s.used[i] = true
	}
}

func (s *cidrSet) release(p netip.Prefix) {
	if i, ok := s.index(p); ok {
		delete(s.used, i)
	}
}

// exclude takes pieces that overlap with a range out of use.
func (s *cidrSet) exclude(p netip.Prefix) {
	for i := range s.count {
		if s.piece(i).Overlaps(p) {
			s.used[i] = true
		}
	}
}
