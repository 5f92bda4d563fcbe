package node

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"orrery/apiserver/auth"
	"orrery/apiserver/auth/rbac"
	"orrery/apiserver/objects"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const userPrefix = "system:node:"

// Name returns the node that a user is, if it is one: a member of system:nodes called system:node:<name>.
//
// Upstream: pkg/auth/nodeidentifier/default.go, defaultNodeIdentifier.NodeIdentity.
func Name(user *auth.UserInfo) (name string, isNode bool) {
	if user == nil {
		return "", false
	}
	name, ok := strings.CutPrefix(user.Name, userPrefix)
	return name, ok && slices.Contains(user.Groups, auth.GroupNodes)
}

// Authorizer is --authorization-mode=Node.
//
// Upstream: plugin/pkg/auth/authorizer/node/node_authorizer.go, NodeAuthorizer.
type Authorizer struct{ Objects objects.Reader }

// rules are what every node may do; the resources that depend on its pods are in the switch of Authorize.
//
// Upstream: plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go, NodeRules.
var rules = []rbacv1.PolicyRule{
	rule("authentication.k8s.io", "tokenreviews", "create"),
	rule("authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews", "create"),
	rule("", "services", "get list watch"),
	rule("", "nodes", "create get list watch"),
	rule("", "nodes nodes/status", "patch update"),
	rule("", "events", "create patch update"),
	rule("events.k8s.io", "events", "create patch update"),
	rule("", "pods", "create get list watch delete"),
	rule("", "pods/status", "update patch"),
	rule("", "pods/eviction", "create"),
	rule("certificates.k8s.io", "certificatesigningrequests", "create get list watch"),
	rule("node.k8s.io", "runtimeclasses", "get list watch"),
	rule("storage.k8s.io", "csidrivers", "get list watch"),
	rule("certificates.k8s.io", "clustertrustbundles", "get list watch"),
}

// rule is a rule from words separated by spaces.
func rule(group, resources, verbs string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: strings.Fields(resources), Verbs: strings.Fields(verbs)}
}

// Authorize implements auth.Authorizer. It has no opinion on users that are not nodes, and never denies.
func (n *Authorizer) Authorize(ctx context.Context, a auth.Attributes) (auth.Decision, string, error) {
	node, isNode := Name(a.User)
	if !isNode {
		return auth.NoOpinion, "", nil
	}
	if node == "" {
		return auth.NoOpinion, fmt.Sprintf("unknown node for user %q", a.User.Name), nil
	}
	if a.IsResource {
		switch (schema.GroupResource{Group: a.APIGroup, Resource: a.Resource}) {
		case secrets, configMaps:
			return n.readReferenced(ctx, node, &a)
		case claims:
			if a.Subresource == "status" {
				return n.related(ctx, node, &a, "update", "patch")
			}
			return n.related(ctx, node, &a, "get")
		case volumes, resourceClaims:
			return n.related(ctx, node, &a, "get")
		case attachments:
			return n.related(ctx, node, &a, "get")
		case serviceAccounts:
			if a.Subresource == "token" {
				return n.related(ctx, node, &a, "create")
			}
			return n.related(ctx, node, &a, "get")
		case leases:
			return own(node, &a, "kube-node-lease")
		case csiNodes:
			return own(node, &a, "")
		case resourceSlices:
			return resourceSlicesOf(node, &a)
		case nodes:
			return ownNode(node, &a)
		case pods:
			return n.ownPods(ctx, node, &a)
		}
	}
	return byRules(&a)
}

// byRules asks the rules that hold for every node.
func byRules(a *auth.Attributes) (auth.Decision, string, error) {
	for i := range rules {
		if rbac.RuleAllows(&rules[i], a) {
			return auth.Allow, "", nil
		}
	}
	return auth.NoOpinion, "", nil
}

// noRelation is what a kubelet is told that asks for another node's things.
func noRelation(node string) (auth.Decision, string, error) {
	return auth.NoOpinion, fmt.Sprintf("no relationship found between node '%s' and this object", node), nil
}

// readReferenced allows get, and list and watch of one name, of Secrets and ConfigMaps that pods of the node use.
func (n *Authorizer) readReferenced(ctx context.Context, node string, a *auth.Attributes) (auth.Decision, string, error) {
	switch a.Verb {
	case "get", "list", "watch":
		if a.Name == "" && a.Fields != nil {
			a.Name, _ = a.Fields.RequiresExactMatch("metadata.name")
		}
	default:
		return auth.NoOpinion, "can only read resources of this type", nil
	}
	if a.Name == "" {
		return auth.NoOpinion, "No Object name found", nil
	}
	return n.related(ctx, node, a, a.Verb)
}

// related allows some verbs on an object that a pod of the node refers to.
func (n *Authorizer) related(ctx context.Context, node string, a *auth.Attributes, verbs ...string) (auth.Decision, string, error) {
	if !slices.Contains(verbs, a.Verb) {
		if len(verbs) == 1 {
			return auth.NoOpinion, fmt.Sprintf("can only %s resources of this type", verbs[0]), nil
		}
		return auth.NoOpinion, fmt.Sprintf("cannot %s resources of this type", a.Verb), nil
	}
	if a.Name == "" {
		return auth.NoOpinion, "No Object name found", nil
	}
	ok, err := n.refers(ctx, node, schema.GroupResource{Group: a.APIGroup, Resource: a.Resource}, a.Namespace, a.Name)
	if err != nil {
		return auth.NoOpinion, "", err
	}
	if !ok {
		return noRelation(node)
	}
	return auth.Allow, "", nil
}

// own allows everything but lists on the object that has the node's own name.
func own(node string, a *auth.Attributes, namespace string) (auth.Decision, string, error) {
	if a.Subresource != "" {
		return auth.NoOpinion, fmt.Sprintf("cannot get %s subresources", a.Resource), nil
	}
	if !slices.Contains([]string{"get", "create", "update", "patch", "delete"}, a.Verb) {
		return auth.NoOpinion, "can only get, create, update, patch, or delete a node lease", nil
	}
	if a.Namespace != namespace {
		return auth.NoOpinion, fmt.Sprintf("can only access leases in the %q system namespace", namespace), nil
	}
	if a.Verb != "create" && a.Name != node {
		return auth.NoOpinion, "can only access node lease with the same name as the requesting node", nil
	}
	return auth.Allow, "", nil
}

// ownNode allows a node to read and write itself, and to create itself.
// NodeRestriction admission checks the name on create, which is not in the path.
func ownNode(node string, a *auth.Attributes) (auth.Decision, string, error) {
	if a.Verb == "list" || a.Verb == "watch" || a.Verb == "get" {
		name := a.Name
		if name == "" && a.Fields != nil {
			name, _ = a.Fields.RequiresExactMatch("metadata.name")
		}
		if a.Subresource == "" && name != node {
			if name == "" {
				return auth.NoOpinion, fmt.Sprintf("node '%s' cannot read all nodes, only its own Node object", node), nil
			}
			return auth.NoOpinion, fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", node, name), nil
		}
	}
	return byRules(a)
}

// ownPods allows a node to read its own pods; the writes are NodeRestriction's to check.
func (n *Authorizer) ownPods(ctx context.Context, node string, a *auth.Attributes) (auth.Decision, string, error) {
	if a.Subresource != "" {
		return byRules(a)
	}
	switch a.Verb {
	case "get":
		pod, err := n.pod(ctx, a.Namespace, a.Name)
		if err != nil || pod == nil || pod.Spec.NodeName != node {
			decision, reason, _ := noRelation(node)
			return decision, reason, err
		}
	case "list", "watch":
		of := ""
		if a.Fields != nil {
			of, _ = a.Fields.RequiresExactMatch("spec.nodeName")
		}
		if of != node {
			return auth.NoOpinion, "can only list/watch pods with spec.nodeName field selector", nil
		}
	}
	return byRules(a)
}

// resourceSlicesOf lets a node keep the resource slices of its own devices.
func resourceSlicesOf(node string, a *auth.Attributes) (auth.Decision, string, error) {
	switch a.Verb {
	case "create", "get", "update", "patch", "delete":
		return auth.Allow, "", nil
	case "watch", "list", "deletecollection":
		if a.Fields != nil {
			if of, _ := a.Fields.RequiresExactMatch("spec.nodeName"); of == node {
				return auth.Allow, "", nil
			}
		}
		return auth.NoOpinion, "can only list/watch/deletecollection resourceslices with nodeName field selector", nil
	}
	return auth.NoOpinion, "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection", nil
}
