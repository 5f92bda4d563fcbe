package controllers

import (
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ownerGraph is who owns whom: a node for each object and for each owner that is
// named, known or not. It is fed by informers of all kinds; every change says
// which objects are now worth a look.
//
// Upstream: pkg/controller/garbagecollector/graph_builder.go, GraphBuilder.
type ownerGraph struct {
	mu    sync.Mutex
	nodes map[types.UID]*graphNode
	// toDelete and toOrphan are told of objects to look at, while mu is held.
	toDelete, toOrphan func(types.UID)
}

// graphNode is one object. Its fields are guarded by the graph's mutex.
type graphNode struct {
	objectRef
	owners     []metav1.OwnerReference
	dependents map[types.UID]bool
	// virtual: named as an owner, but never seen.
	virtual bool
	// ending: it has a deletionTimestamp. foreground: and waits for its dependents.
	ending, foreground bool
}

// objectRef is where an object is to be found.
type objectRef struct {
	apiVersion, kind, namespace, name string
	uid                               types.UID
}

func newOwnerGraph() *ownerGraph { return &ownerGraph{nodes: map[types.UID]*graphNode{}} }

func hasFinalizer(m metav1.Object, name string) bool { return slices.Contains(m.GetFinalizers(), name) }

// put notes an object as it is now.
func (g *ownerGraph) put(ref objectRef, obj metav1.Object) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[ref.uid]
	if n == nil {
		n = &graphNode{dependents: map[types.UID]bool{}}
		g.nodes[ref.uid] = n
	}
	n.objectRef, n.virtual = ref, false
	old := n.owners
	n.owners = obj.GetOwnerReferences()
	for _, o := range old {
		if now := ownerRefTo(n.owners, o.UID); now == nil || blocks(o) && !blocks(*now) {
			g.unlinked(n, o.UID, now == nil)
		}
	}
	for _, o := range n.owners {
		if ownerRefTo(old, o.UID) == nil {
			g.link(n, o)
		}
	}
	if len(old) != len(n.owners) || len(old) > 0 && !slices.EqualFunc(old, n.owners, func(a, b metav1.OwnerReference) bool { return a.UID == b.UID }) {
		g.toDelete(n.uid) // an owner that went may have been the last
	}
	wasForeground := n.foreground
	n.ending = obj.GetDeletionTimestamp() != nil
	n.foreground = n.ending && hasFinalizer(obj, metav1.FinalizerDeleteDependents)
	if n.foreground && !wasForeground {
		for d := range n.dependents {
			g.toDelete(d)
		}
		g.toDelete(n.uid)
	}
	if n.ending && hasFinalizer(obj, metav1.FinalizerOrphanDependents) {
		g.toOrphan(n.uid)
	}
}

// link adds n to an owner's dependents; an owner that is unknown must be looked
// for: it may never have existed.
func (g *ownerGraph) link(n *graphNode, o metav1.OwnerReference) {
	owner := g.nodes[o.UID]
	if owner == nil {
		owner = &graphNode{
			objectRef:  objectRef{apiVersion: o.APIVersion, kind: o.Kind, namespace: n.namespace, name: o.Name, uid: o.UID},
			dependents: map[types.UID]bool{}, virtual: true,
		}
		g.nodes[o.UID] = owner
		g.toDelete(o.UID)
	}
	owner.dependents[n.uid] = true
	if owner.foreground {
		g.toDelete(n.uid)
	}
}

// unlinked takes n from an owner's dependents, or only tells the owner that n no
// longer blocks its deletion.
func (g *ownerGraph) unlinked(n *graphNode, owner types.UID, gone bool) {
	o := g.nodes[owner]
	if o == nil {
		return
	}
	if gone {
		delete(o.dependents, n.uid)
	}
	if o.foreground {
		g.toDelete(owner)
	}
}

// remove forgets an object that is gone: its dependents have lost an owner, and
// owners that wait for it wait no longer.
func (g *ownerGraph) remove(uid types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil {
		return
	}
	delete(g.nodes, uid)
	for _, o := range n.owners {
		g.unlinked(n, o.UID, true)
	}
	for d := range n.dependents {
		g.toDelete(d)
	}
}

// view is a copy of a node and of its dependents.
func (g *ownerGraph) view(uid types.UID) (n graphNode, dependents []graphNode, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	found := g.nodes[uid]
	if found == nil {
		return n, nil, false
	}
	for d := range found.dependents {
		if dep := g.nodes[d]; dep != nil {
			dependents = append(dependents, *dep)
		}
	}
	return *found, dependents, true
}

func ownerRefTo(refs []metav1.OwnerReference, uid types.UID) *metav1.OwnerReference {
	for i := range refs {
		if refs[i].UID == uid {
			return &refs[i]
		}
	}
	return nil
}

func blocks(o metav1.OwnerReference) bool {
	return o.BlockOwnerDeletion != nil && *o.BlockOwnerDeletion
}

// ownerState is what is known of an owner.
type ownerState int

const (
	solid   ownerState = iota // there, and staying
	absent                    // not there
	waiting                   // there, but waiting in the foreground for its dependents to go
)

// verdict is what shall happen to an object.
type verdict int

const (
	stay      verdict = iota
	dropRefs          // it stays, but not all of its owners do
	goNow             // delete it by its own policy
	goInFront         // delete it in the foreground: it has dependents of its own
)

// decideGarbage decides about an object with owners in these states.
//
// Upstream: pkg/controller/garbagecollector/garbagecollector.go, attemptToDeleteItem.
func decideGarbage(owners []ownerState, dependents int) verdict {
	count := map[ownerState]int{}
	for _, s := range owners {
		count[s]++
	}
	switch {
	case len(owners) == 0, count[solid] == len(owners):
		return stay
	case count[solid] > 0:
		return dropRefs
	case count[waiting] > 0 && dependents > 0:
		return goInFront
	}
	return goNow
}
