package discovery

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"

	"orrery/apiserver/kinds"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// version is one group version with its rows, in order of resource.
type version struct {
	gv   schema.GroupVersion
	rows []*kinds.Kind
}

// group is an API group with its versions, the preferred one first.
type group struct {
	name     string
	versions []version
}

// groupsOf sorts the table: groups and versions in the table's order, resources by name.
func groupsOf(rows []*kinds.Kind) []group {
	var groups []group
	for _, k := range rows {
		i := slices.IndexFunc(groups, func(g group) bool { return g.name == k.Group })
		if i < 0 {
			i = len(groups)
			groups = append(groups, group{name: k.Group})
		}
		g := &groups[i]
		j := slices.IndexFunc(g.versions, func(v version) bool { return v.gv == k.GV() })
		if j < 0 {
			j = len(g.versions)
			g.versions = append(g.versions, version{gv: k.GV()})
		}
		g.versions[j].rows = append(g.versions[j].rows, k)
	}
	for _, g := range groups {
		for _, v := range g.versions {
			slices.SortFunc(v.rows, func(a, b *kinds.Kind) int {
				if a.Resource < b.Resource {
					return -1
				}
				return 1
			})
		}
	}
	return groups
}

// aggregated is the one document of the new kind of discovery. core chooses between /api and /apis.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/discovery/aggregated/handler.go.
func aggregated(groups []group, core bool) *apidiscoveryv2.APIGroupDiscoveryList {
	list := &apidiscoveryv2.APIGroupDiscoveryList{
		TypeMeta: metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: "apidiscovery.k8s.io/v2"},
		Items:    []apidiscoveryv2.APIGroupDiscovery{},
	}
	for _, g := range groups {
		if (g.name == "") != core {
			continue
		}
		item := apidiscoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: g.name}}
		for _, v := range g.versions {
			entry := apidiscoveryv2.APIVersionDiscovery{Version: v.gv.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
			for _, k := range v.rows {
				entry.Resources = append(entry.Resources, aggregatedResource(k))
			}
			item.Versions = append(item.Versions, entry)
		}
		list.Items = append(list.Items, item)
	}
	return list
}

// aggregatedResource is one row in the aggregated form. The kind's group and
// version are left empty where they are those of the document.
func aggregatedResource(k *kinds.Kind) apidiscoveryv2.APIResourceDiscovery {
	r := apidiscoveryv2.APIResourceDiscovery{
		Resource:         k.Resource,
		ResponseKind:     &metav1.GroupVersionKind{Kind: k.Kind},
		Scope:            apidiscoveryv2.ScopeCluster,
		SingularResource: k.Singular,
		Verbs:            k.Verbs,
		ShortNames:       k.ShortNames,
		Categories:       k.Categories,
	}
	if k.Namespaced {
		r.Scope = apidiscoveryv2.ScopeNamespace
	}
	for _, sub := range k.Subresources {
		kind := metav1.GroupVersionKind{Group: sub.Kind.Group, Version: sub.Kind.Version, Kind: sub.Kind.Kind}
		if kind.Kind == "" {
			kind.Kind = k.Kind
		}
		switch own := kind.Group == k.Group && kind.Version == k.Version || kind.Group+kind.Version == ""; {
		case own && k.Custom != nil:
			kind.Group, kind.Version = k.Group, k.Version // as upstream's server of custom resources does
		case own:
			kind.Group, kind.Version = "", ""
		}
		r.Subresources = append(r.Subresources, apidiscoveryv2.APISubresourceDiscovery{Subresource: sub.Name, ResponseKind: &kind, Verbs: sub.Verbs})
	}
	return r
}

// plainList is the APIResourceList of one group version.
func plainList(v version) *metav1.APIResourceList {
	list := &metav1.APIResourceList{
		TypeMeta:     metav1.TypeMeta{Kind: "APIResourceList"},
		GroupVersion: v.gv.String(),
		APIResources: []metav1.APIResource{},
	}
	if v.gv.Group != "" {
		list.APIVersion = "v1"
	}
	for _, k := range v.rows {
		entry := metav1.APIResource{
			Name: k.Resource, SingularName: k.Singular, Namespaced: k.Namespaced, Kind: k.Kind,
			Verbs: k.Verbs, ShortNames: k.ShortNames, Categories: k.Categories,
		}
		if slices.Contains(k.Verbs, "watch") {
			entry.StorageVersionHash = storageVersionHash(k.Stored().GVK())
		}
		list.APIResources = append(list.APIResources, entry)
		for _, sub := range k.Subresources {
			kind := sub.Kind
			if kind.Kind == "" {
				kind.Kind = k.Kind
			}
			if kind.GroupVersion() == k.GV() {
				kind.Group, kind.Version = "", ""
			}
			list.APIResources = append(list.APIResources, metav1.APIResource{
				Name: k.Resource + "/" + sub.Name, Namespaced: k.Namespaced,
				Group: kind.Group, Version: kind.Version, Kind: kind.Kind, Verbs: sub.Verbs,
			})
		}
	}
	return list
}

// storageVersionHash lets clients see when a resource begins to be stored in another version.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/discovery/storageversionhash.go, StorageVersionHash.
func storageVersionHash(gvk schema.GroupVersionKind) string {
	sum := sha256.Sum256([]byte(gvk.Group + "/" + gvk.Version + "/" + gvk.Kind))
	return base64.StdEncoding.EncodeToString(sum[:8])
}

// plainGroup is the APIGroup of /apis/<group>, without its TypeMeta.
func plainGroup(g group) metav1.APIGroup {
	out := metav1.APIGroup{Name: g.name}
	for _, v := range g.versions {
		out.Versions = append(out.Versions, metav1.GroupVersionForDiscovery{GroupVersion: v.gv.String(), Version: v.gv.Version})
	}
	out.PreferredVersion = out.Versions[0]
	return out
}
