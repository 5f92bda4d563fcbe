package kinds

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// Table holds the rows. It may be read and changed concurrently.
type Table struct {
	mu      sync.RWMutex
	rows    []*Kind // in discovery's order
	changed chan struct{}
}

// NewTable returns a table of the built-in kinds, with their strategies. Each
// call makes rows of its own, so that one server's hooks are not another's.
func NewTable() *Table {
	t := &Table{changed: make(chan struct{})}
	for _, g := range groups {
		for _, r := range g.rows {
			t.rows = append(t.rows, r.build(g.group, g.version))
		}
	}
	for _, k := range t.rows {
		if hub, ok := hubs[k.GVK()]; ok {
			k.Hub = t.kind(hub.gvk)
			k.ToHub, k.FromHub, k.ValidateVersion = hub.to, hub.from, hub.validate
		}
	}
	for _, k := range t.rows {
		wire(k)
	}
	return t
}

func (t *Table) kind(gvk schema.GroupVersionKind) *Kind {
	for _, k := range t.rows {
		if k.GVK() == gvk {
			return k
		}
	}
	return nil
}

// Lookup finds the row of a resource in a version, or returns nil.
func (t *Table) Lookup(group, version, resource string) *Kind {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, k := range t.rows {
		if k.Resource == resource && k.Group == group && k.Version == version {
			return k
		}
	}
	return nil
}

// Stored finds the row of the stored version of a resource, or returns nil.
func (t *Table) Stored(gr schema.GroupResource) *Kind {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, k := range t.rows {
		if k.Resource == gr.Resource && k.Group == gr.Group {
			return k.Stored()
		}
	}
	return nil
}

// ByKey finds the row of what is stored under a key, or returns nil.
func (t *Table) ByKey(key string) *Kind {
	t.mu.RLock()
	defer t.mu.RUnlock()
	key = strings.TrimPrefix(key, "/registry/")
	for _, k := range t.rows {
		if rest, ok := strings.CutPrefix(key, k.Prefix); ok && k.Hub == nil && !k.Virtual() && strings.HasPrefix(rest, "/") {
			return k
		}
	}
	return nil
}

// ByKind finds the row of a kind in a version, or returns nil.
func (t *Table) ByKind(gvk schema.GroupVersionKind) *Kind {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.kind(gvk)
}

// All returns the rows in discovery's order: groups by priority, the preferred
// version of a group first.
func (t *Table) All() []*Kind {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Clone(t.rows)
}

// HasVersion reports whether anything is served in a group and version.
func (t *Table) HasVersion(gv schema.GroupVersion) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.ContainsFunc(t.rows, func(k *Kind) bool { return k.GV() == gv })
}

// Add puts a row in, or replaces the one of the same resource and version.
func (t *Table) Add(k *Kind) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(k.GVR())
	t.rows = append(t.rows, k)
	t.announce()
}

// Remove takes a row out; it is no error when it is not there.
func (t *Table) Remove(gvr schema.GroupVersionResource) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(gvr)
	t.announce()
}

// SetCustom replaces all rows of custom resources at once.
func (t *Table) SetCustom(rows []*Kind) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var next, remote []*Kind
	for _, k := range t.rows {
		switch {
		case k.Remote:
			remote = append(remote, k)
		case k.Custom == nil:
			next = append(next, k)
		}
	}
	t.rows = slices.Concat(next, rows, remote)
	t.announce()
}

// SetRemote replaces all rows of other servers, which come last, at once.
func (t *Table) SetRemote(rows []*Kind) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rest := slices.DeleteFunc(slices.Clone(t.rows), func(k *Kind) bool { return k.Remote })
	same := func(a, b *Kind) bool { return a.GVR() == b.GVR() }
	if slices.EqualFunc(rows, t.rows[len(rest):], same) {
		return // nothing for clients to see
	}
	t.rows = append(rest, rows...)
	t.announce()
}

func (t *Table) drop(gvr schema.GroupVersionResource) {
	t.rows = slices.DeleteFunc(slices.Clone(t.rows), func(k *Kind) bool { return k.GVR() == gvr })
}

func (t *Table) announce() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// Changed returns a channel that is closed at the next Add or Remove.
func (t *Table) Changed() <-chan struct{} {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.changed
}

// all8 are the verbs of an ordinary resource, in discovery's order.
var all8 = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// view are the verbs of a subresource that shows the whole object.
var view = []string{"get", "patch", "update"}

var connect = []string{"create", "get"}
var proxy = []string{"create", "delete", "get", "patch", "update"}

// row is how the table is written down; build turns it into a Kind.
type row struct {
	resource, kind, prefix string
	flags                  flag
	short, categories      []string
	verbs                  []string // nil: all8
	subs                   []Subresource
}

type flag uint8

const (
	cluster      flag = 1 << iota // not in a namespace
	generation                    // metadata.generation counts
	returns                       // DELETE answers with the object
	createOnPut                   // PUT may create
	requireRV                     // PUT needs a resourceVersion
	statusOnPost                  // POST may carry a status
	asJSON                        // stored as JSON
	createOnly                    // virtual: only POST, nothing stored
)

// groups is the table, in discovery's order.
//
// Upstream: pkg/controlplane/instance.go and pkg/registry/*/rest/storage_*.go for
// what is served; pkg/kubeapiserver/default_storage_factory_builder.go for the
// keys that do not follow from the resource's name.
var groups = []struct {
	group, version string
	rows           []row
}{
	{apiregistrationv1.GroupName, "v1", []row{
		{resource: "apiservices", kind: "APIService", prefix: "apiregistration.k8s.io/apiservices", flags: cluster | asJSON, categories: s("api-extensions"), subs: []Subresource{status}},
	}},
	{"", "v1", []row{
		{resource: "bindings", kind: "Binding", flags: createOnly},
		{resource: "componentstatuses", kind: "ComponentStatus", flags: cluster, short: s("cs"), verbs: s("get", "list")},
		{resource: "configmaps", kind: "ConfigMap", short: s("cm")},
		{resource: "endpoints", kind: "Endpoints", prefix: "services/endpoints", flags: createOnPut, short: s("ep")},
		{resource: "events", kind: "Event", flags: createOnPut, short: s("ev")},
		{resource: "limitranges", kind: "LimitRange", flags: createOnPut, short: s("limits")},
		{resource: "namespaces", kind: "Namespace", flags: cluster | returns, short: s("ns"),
			verbs: s("create", "delete", "get", "list", "patch", "update", "watch"),
			subs:  []Subresource{{Name: "finalize", Verbs: s("update"), View: true}, status}},
		{resource: "nodes", kind: "Node", prefix: "minions", flags: cluster | statusOnPost, short: s("no"),
			subs: []Subresource{sub("proxy", proxy, "", "v1", "NodeProxyOptions"), status}},
		{resource: "persistentvolumeclaims", kind: "PersistentVolumeClaim", flags: returns, short: s("pvc"), subs: []Subresource{status}},
		{resource: "persistentvolumes", kind: "PersistentVolume", flags: cluster | returns, short: s("pv"), subs: []Subresource{status}},
		{resource: "pods", kind: "Pod", flags: generation | returns, short: s("po"), categories: s("all"), subs: []Subresource{
			sub("attach", connect, "", "v1", "PodAttachOptions"),
			sub("binding", s("create"), "", "v1", "Binding"),
			{Name: "ephemeralcontainers", Verbs: view, View: true},
			sub("eviction", s("create"), "policy", "v1", "Eviction"),
			sub("exec", connect, "", "v1", "PodExecOptions"),
			{Name: "log", Verbs: s("get")},
			sub("portforward", connect, "", "v1", "PodPortForwardOptions"),
			sub("proxy", proxy, "", "v1", "PodProxyOptions"),
			{Name: "resize", Verbs: view, View: true},
			status}},
		{resource: "podtemplates", kind: "PodTemplate", flags: generation | returns},
		{resource: "replicationcontrollers", kind: "ReplicationController", prefix: "controllers", flags: generation, short: s("rc"), categories: s("all"), subs: []Subresource{scale, status}},
		{resource: "resourcequotas", kind: "ResourceQuota", flags: returns, short: s("quota"), subs: []Subresource{status}},
		{resource: "secrets", kind: "Secret"},
		{resource: "serviceaccounts", kind: "ServiceAccount", flags: returns, short: s("sa"),
			subs: []Subresource{sub("token", s("create"), "authentication.k8s.io", "v1", "TokenRequest")}},
		{resource: "services", kind: "Service", prefix: "services/specs", flags: returns | createOnPut, short: s("svc"), categories: s("all"),
			subs: []Subresource{sub("proxy", proxy, "", "v1", "ServiceProxyOptions"), status}},
	}},
	{"apps", "v1", []row{
		{resource: "controllerrevisions", kind: "ControllerRevision"},
		{resource: "daemonsets", kind: "DaemonSet", flags: generation, short: s("ds"), categories: s("all"), subs: []Subresource{status}},
		{resource: "deployments", kind: "Deployment", flags: generation, short: s("deploy"), categories: s("all"), subs: []Subresource{scale, status}},
		{resource: "replicasets", kind: "ReplicaSet", flags: generation, short: s("rs"), categories: s("all"), subs: []Subresource{scale, status}},
		{resource: "statefulsets", kind: "StatefulSet", flags: generation, short: s("sts"), categories: s("all"), subs: []Subresource{scale, status}},
	}},
	{"events.k8s.io", "v1", []row{
		{resource: "events", kind: "Event", short: s("ev")},
	}},
	{"authentication.k8s.io", "v1", []row{
		{resource: "selfsubjectreviews", kind: "SelfSubjectReview", flags: cluster | createOnly},
		{resource: "tokenreviews", kind: "TokenReview", flags: cluster | createOnly},
	}},
	{"authorization.k8s.io", "v1", []row{
		{resource: "localsubjectaccessreviews", kind: "LocalSubjectAccessReview", flags: createOnly},
		{resource: "selfsubjectaccessreviews", kind: "SelfSubjectAccessReview", flags: cluster | createOnly},
		{resource: "selfsubjectrulesreviews", kind: "SelfSubjectRulesReview", flags: cluster | createOnly},
		{resource: "subjectaccessreviews", kind: "SubjectAccessReview", flags: cluster | createOnly},
	}},
	{"autoscaling", "v2", []row{
		{resource: "horizontalpodautoscalers", kind: "HorizontalPodAutoscaler", short: s("hpa"), categories: s("all"), subs: []Subresource{status}},
	}},
	{"autoscaling", "v1", []row{
		{resource: "horizontalpodautoscalers", kind: "HorizontalPodAutoscaler", short: s("hpa"), categories: s("all"), subs: []Subresource{status}},
	}},
	{"batch", "v1", []row{
		{resource: "cronjobs", kind: "CronJob", flags: generation, short: s("cj"), categories: s("all"), subs: []Subresource{status}},
		{resource: "jobs", kind: "Job", flags: generation, categories: s("all"), subs: []Subresource{status}},
	}},
	{"certificates.k8s.io", "v1", []row{
		{resource: "certificatesigningrequests", kind: "CertificateSigningRequest", flags: cluster, short: s("csr"),
			subs: []Subresource{{Name: "approval", Verbs: view, View: true}, status}},
	}},
	{"networking.k8s.io", "v1", []row{
		{resource: "ingressclasses", kind: "IngressClass", flags: cluster | generation},
		{resource: "ingresses", kind: "Ingress", prefix: "ingress", flags: generation, short: s("ing"), subs: []Subresource{status}},
		{resource: "ipaddresses", kind: "IPAddress", flags: cluster, short: s("ip")},
		{resource: "networkpolicies", kind: "NetworkPolicy", flags: generation, short: s("netpol")},
		{resource: "servicecidrs", kind: "ServiceCIDR", flags: cluster, subs: []Subresource{status}},
	}},
	{"policy", "v1", []row{
		{resource: "poddisruptionbudgets", kind: "PodDisruptionBudget", flags: generation | requireRV, short: s("pdb"), subs: []Subresource{status}},
	}},
	{"rbac.authorization.k8s.io", "v1", []row{
		{resource: "clusterrolebindings", kind: "ClusterRoleBinding", flags: cluster | createOnPut},
		{resource: "clusterroles", kind: "ClusterRole", flags: cluster | createOnPut},
		{resource: "rolebindings", kind: "RoleBinding", flags: createOnPut},
		{resource: "roles", kind: "Role", flags: createOnPut},
	}},
	{"storage.k8s.io", "v1", []row{
		{resource: "csidrivers", kind: "CSIDriver", flags: cluster | returns | requireRV},
		{resource: "csinodes", kind: "CSINode", flags: cluster | returns | requireRV},
		{resource: "csistoragecapacities", kind: "CSIStorageCapacity", flags: requireRV},
		{resource: "storageclasses", kind: "StorageClass", flags: cluster | returns, short: s("sc")},
		{resource: "volumeattachments", kind: "VolumeAttachment", flags: cluster | returns | requireRV, subs: []Subresource{status}},
		{resource: "volumeattributesclasses", kind: "VolumeAttributesClass", flags: cluster | returns, short: s("vac")},
	}},
	{"admissionregistration.k8s.io", "v1", []row{
		{resource: "mutatingadmissionpolicies", kind: "MutatingAdmissionPolicy", flags: cluster | generation | requireRV, categories: s("api-extensions")},
		{resource: "mutatingadmissionpolicybindings", kind: "MutatingAdmissionPolicyBinding", flags: cluster | generation | requireRV, categories: s("api-extensions")},
		{resource: "mutatingwebhookconfigurations", kind: "MutatingWebhookConfiguration", flags: cluster | generation | requireRV, categories: s("api-extensions")},
		{resource: "validatingadmissionpolicies", kind: "ValidatingAdmissionPolicy", flags: cluster | generation | requireRV, categories: s("api-extensions"), subs: []Subresource{status}},
		{resource: "validatingadmissionpolicybindings", kind: "ValidatingAdmissionPolicyBinding", flags: cluster | generation | requireRV, categories: s("api-extensions")},
		{resource: "validatingwebhookconfigurations", kind: "ValidatingWebhookConfiguration", flags: cluster | generation | requireRV, categories: s("api-extensions")},
	}},
	{apiextensionsv1.GroupName, "v1", []row{
		{resource: "customresourcedefinitions", kind: "CustomResourceDefinition", prefix: "apiextensions.k8s.io/customresourcedefinitions",
			flags: cluster | generation | requireRV | asJSON, short: s("crd", "crds"), categories: s("api-extensions"), subs: []Subresource{status}},
	}},
	{"scheduling.k8s.io", "v1", []row{
		{resource: "priorityclasses", kind: "PriorityClass", flags: cluster, short: s("pc")},
	}},
	{"coordination.k8s.io", "v1", []row{
		{resource: "leases", kind: "Lease", flags: createOnPut | requireRV},
	}},
	{"node.k8s.io", "v1", []row{
		{resource: "runtimeclasses", kind: "RuntimeClass", flags: cluster | createOnPut | requireRV},
	}},
	{"discovery.k8s.io", "v1", []row{
		{resource: "endpointslices", kind: "EndpointSlice", flags: generation},
	}},
	{"resource.k8s.io", "v1", []row{
		{resource: "deviceclasses", kind: "DeviceClass", flags: cluster | returns | generation},
		{resource: "resourceclaims", kind: "ResourceClaim", flags: returns, subs: []Subresource{status}},
		{resource: "resourceclaimtemplates", kind: "ResourceClaimTemplate", flags: returns},
		{resource: "resourceslices", kind: "ResourceSlice", flags: cluster | returns | generation},
	}},
	{"flowcontrol.apiserver.k8s.io", "v1", []row{
		{resource: "flowschemas", kind: "FlowSchema", flags: cluster | generation, subs: []Subresource{status}},
		{resource: "prioritylevelconfigurations", kind: "PriorityLevelConfiguration", flags: cluster | generation, subs: []Subresource{status}},
	}},
}

var (
	status = Subresource{Name: "status", Verbs: view, View: true}
	scale  = sub("scale", view, "autoscaling", "v1", "Scale")
)

func s(words ...string) []string { return words }

func sub(name string, verbs []string, group, version, kind string) Subresource {
	return Subresource{Name: name, Verbs: verbs, Kind: schema.GroupVersionKind{Group: group, Version: version, Kind: kind}}
}

func (r row) build(group, version string) *Kind {
	has := func(f flag) bool { return r.flags&f != 0 }
	k := &Kind{
		Group: group, Version: version, Kind: r.kind, Resource: r.resource, Singular: singular(r.kind),
		ShortNames: r.short, Categories: r.categories, Namespaced: !has(cluster),
		Verbs: r.verbs, Prefix: r.prefix, JSON: has(asJSON), Subresources: slices.Clone(r.subs),
		Strategy: Strategy{
			Generation: has(generation), KeepStatusOnCreate: has(statusOnPost), ReturnsDeleted: has(returns),
			AllowCreateOnUpdate: has(createOnPut), RequireResourceVersion: has(requireRV),
		},
	}
	if k.Verbs == nil {
		k.Verbs = all8
	}
	if has(createOnly) {
		k.Verbs = s("create")
	} else if k.Prefix == "" && k.HasVerb("create") {
		k.Prefix = r.resource
	}
	k.New = maker(k.GVK())
	listGVK := k.GVK()
	listGVK.Kind += "List"
	k.NewList = maker(listGVK)
	k.Deprecated = deprecation(k)
	return k
}

// deprecation is the warning for a kind whose published type says that its time is over.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/deprecation/deprecation.go, WarningMessage.
// Left out: the version in which it will be gone; no kind that is served here has one.
func deprecation(k *Kind) string {
	obj := k.New()
	d, ok := obj.(interface{ APILifecycleDeprecated() (major, minor int) })
	if !ok {
		return ""
	}
	major, minor := d.APILifecycleDeprecated()
	text := fmt.Sprintf("%s %s is deprecated in v%d.%d+", k.GV(), k.Kind, major, minor)
	if r, ok := obj.(interface {
		APILifecycleReplacement() schema.GroupVersionKind
	}); ok {
		text += fmt.Sprintf("; use %s %s", r.APILifecycleReplacement().GroupVersion(), r.APILifecycleReplacement().Kind)
	}
	return text
}

// published knows the published Go types of all rows. Two groups are not in client-go's scheme.
var published = func() *runtime.Scheme {
	utilruntime.Must(apiextensionsv1.AddToScheme(scheme.Scheme))
	utilruntime.Must(apiregistrationv1.AddToScheme(scheme.Scheme))
	return scheme.Scheme
}()

// maker makes empty objects of the published Go type of a kind.
func maker(gvk schema.GroupVersionKind) func() runtime.Object {
	return func() runtime.Object {
		obj, err := published.New(gvk)
		if err != nil {
			return nil
		}
		return obj
	}
}

func singular(kind string) string {
	b := []byte(kind)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
