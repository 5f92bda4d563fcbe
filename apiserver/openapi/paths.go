package openapi

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"orrery/apiserver/kinds"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// actions are the HTTP method, the first word of the operation's id, and the x-kubernetes-action of each verb.
var actions = map[string]struct{ method, id, action, text string }{
	"get":    {"get", "read", "get", "read the specified "},
	"update": {"put", "replace", "put", "replace the specified "},
	"patch":  {"patch", "patch", "patch", "partially update the specified "},
	"delete": {"delete", "delete", "delete", "delete a "},
}

// pathBuilder writes the paths of one group version.
type pathBuilder struct {
	gv    schema.GroupVersion
	all   map[string]json.RawMessage
	paths map[string]any
}

// buildPaths returns the "paths" of a group version's document.
func buildPaths(gv schema.GroupVersion, rows []*kinds.Kind, all map[string]json.RawMessage) map[string]any {
	b := &pathBuilder{gv: gv, all: all, paths: map[string]any{}}
	b.add(b.root()+"/", "get", operation{
		id: "get" + b.camel() + "APIResources", text: "get available resources", schema: metaPrefix + "APIResourceList",
	}, nil)
	for _, k := range rows {
		b.kind(k)
	}
	return b.paths
}

func (b *pathBuilder) root() string {
	if b.gv.Group == "" {
		return "/api/" + b.gv.Version
	}
	return "/apis/" + b.gv.Group + "/" + b.gv.Version
}

// camel is the group version as operation ids have it: RbacAuthorizationV1.
func (b *pathBuilder) camel() string { return groupCamel(b.gv.Group) + title(b.gv.Version) }

// groupCamel writes a group as one word: flowcontrol.apiserver.k8s.io is FlowcontrolApiserver.
func groupCamel(group string) string {
	if group == "" {
		return "Core"
	}
	var name strings.Builder
	for _, word := range strings.Split(strings.TrimSuffix(group, ".k8s.io"), ".") {
		name.WriteString(title(word))
	}
	return name.String()
}

func title(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// operation is one method on one path.
type operation struct {
	id, text, action string
	gvk              *schema.GroupVersionKind
	schema           string // of the answer; "" is a plain string
	body             string // schema of the request body
	params           []any
	codes            []string // of success, besides 200
	watch            bool
	custom           bool // a kind without Go type, which knows no strategic merge patch
}

// add writes an operation down. where are the parameters of the path itself.
func (b *pathBuilder) add(path, method string, op operation, where []any) {
	item, _ := b.paths[path].(map[string]any)
	if item == nil {
		item = map[string]any{}
		if len(where) > 0 {
			item["parameters"] = where
		}
		b.paths[path] = item
	}
	out := map[string]any{
		"tags":        []string{strings.ToLower(groupCamel(b.gv.Group)[:1]) + groupCamel(b.gv.Group)[1:] + "_" + b.gv.Version},
		"description": op.text, "operationId": op.id, "responses": op.responses(),
	}
	if op.action != "" {
		out["x-kubernetes-action"] = op.action
	}
	if op.gvk != nil {
		out["x-kubernetes-group-version-kind"] = map[string]string{"group": op.gvk.Group, "version": op.gvk.Version, "kind": op.gvk.Kind}
	}
	if len(op.params) > 0 {
		out["parameters"] = op.params
	}
	if op.body != "" {
		out["requestBody"] = op.requestBody(method)
	}
	item[method] = out
}

// responses lists what may come back.
func (op operation) responses() map[string]any {
	types := []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"}
	if op.watch {
		types = append(types, "application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch")
	}
	body := map[string]any{"type": "string"}
	if op.schema == "" {
		types = []string{"*/*"}
	} else {
		body = ref(op.schema)
	}
	content := map[string]any{}
	for _, t := range types {
		content[t] = map[string]any{"schema": body}
	}
	out := map[string]any{
		"200": map[string]any{"description": "OK", "content": content},
		"401": map[string]any{"description": "Unauthorized"},
	}
	for _, code := range op.codes {
		text := map[string]string{"201": "Created", "202": "Accepted"}[code]
		out[code] = map[string]any{"description": text, "content": content}
	}
	return out
}

// requestBody says what a write carries; kubectl looks here for strategic merge patch.
func (op operation) requestBody(method string) map[string]any {
	types := []string{"*/*"}
	if method == "patch" {
		types = []string{"application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"}
		if !op.custom {
			types = append(types, "application/strategic-merge-patch+json")
		}
	}
	content := map[string]any{}
	for _, t := range types {
		content[t] = map[string]any{"schema": ref(op.body)}
	}
	body := map[string]any{"content": content}
	if method != "delete" {
		body["required"] = true
	}
	return body
}

// kind writes all paths of one row.
func (b *pathBuilder) kind(k *kinds.Kind) {
	gvk := k.GVK()
	model, list := modelsOf(k)
	collection, name := b.root()+"/"+k.Resource, k.Kind
	var where []any
	if k.Namespaced {
		collection, name = b.root()+"/namespaces/{namespace}/"+k.Resource, "Namespaced"+k.Kind
		where = append(where, parameter("namespace", "path", "namespace that the object is in", "string"))
		if k.HasVerb("list") {
			b.add(b.root()+"/"+k.Resource, "get", operation{id: "list" + b.camel() + k.Kind + "ForAllNamespaces", text: "list or watch objects of kind " + k.Kind,
				action: "list", gvk: &gvk, schema: list, watch: true, params: b.params("ListOptions")}, []any{pretty})
		}
	}
	where = append(where, pretty)
	if k.HasVerb("list") {
		b.add(collection, "get", operation{id: "list" + b.camel() + name, text: "list or watch objects of kind " + k.Kind,
			action: "list", gvk: &gvk, schema: list, watch: true, params: b.params("ListOptions")}, where)
	}
	if k.HasVerb("create") {
		b.add(collection, "post", operation{id: "create" + b.camel() + name, text: "create " + article(k.Kind) + k.Kind,
			action: "post", gvk: &gvk, schema: model, body: model, codes: []string{"201", "202"}, params: b.params("CreateOptions")}, where)
	}
	if k.HasVerb("deletecollection") {
		params := slices.DeleteFunc(b.params("DeleteOptions", "ListOptions"), func(p any) bool {
			name := p.(map[string]any)["name"]
			return name == "watch" || name == "allowWatchBookmarks"
		})
		b.add(collection, "delete", operation{id: "delete" + b.camel() + "Collection" + name, text: "delete collection of " + k.Kind,
			action: "deletecollection", gvk: &gvk, schema: metaPrefix + "Status", body: metaPrefix + "DeleteOptions", params: params}, where)
	}
	where = append([]any{parameter("name", "path", "name of the "+k.Kind, "string")}, where...)
	for _, verb := range []string{"get", "update", "patch", "delete"} {
		if k.HasVerb(verb) {
			b.item(collection+"/{name}", verb, name, "", k, gvk, model, where)
		}
	}
	for i := range k.Subresources {
		b.subresource(collection+"/{name}", name, k, &k.Subresources[i], where)
	}
}

// item writes one verb on a named object or a subresource of it.
func (b *pathBuilder) item(path, verb, name, sub string, k *kinds.Kind, gvk schema.GroupVersionKind, model string, where []any) {
	a := actions[verb]
	text := a.text + k.Kind
	if sub != "" {
		text = strings.Replace(a.text, "the specified", sub+" of the specified", 1) + k.Kind
	}
	op := operation{id: a.id + b.camel() + name + title(sub), text: text, action: a.action, gvk: &gvk, schema: model}
	switch verb {
	case "update":
		op.body, op.codes, op.params = model, []string{"201"}, b.params("UpdateOptions")
	case "patch":
		op.body, op.codes, op.params = metaPrefix+"Patch", []string{"201"}, b.params("PatchOptions")
		op.custom = k.Custom != nil
	case "delete":
		op.body, op.codes, op.params = metaPrefix+"DeleteOptions", []string{"202"}, b.params("DeleteOptions")
		if !k.ReturnsDeleted {
			op.schema = metaPrefix + "Status"
		}
	}
	b.add(path, a.method, op, where)
}

// subresource writes the paths of a subresource: those that are objects, those that are created, those that are streams.
func (b *pathBuilder) subresource(item, name string, k *kinds.Kind, sub *kinds.Subresource, where []any) {
	path := item + "/" + sub.Name
	gvk := sub.Kind
	model := schemaNameFor(gvk.Group, gvk.Version, gvk.Kind)
	if gvk.Kind == "" {
		gvk = k.GVK()
		model, _ = modelsOf(k)
	}
	if strings.HasSuffix(gvk.Kind, "Options") {
		b.connect(path, name, k, sub, gvk, model, where)
		return
	}
	if sub.Name == "log" {
		where = append(b.params("io.k8s.api.core.v1.PodLogOptions"), where...)
		b.add(path, "get", operation{id: "read" + b.camel() + name + "Log", text: "read log of the specified Pod", action: "get", gvk: &gvk}, where)
		return
	}
	for _, verb := range sub.Verbs {
		if verb == "create" {
			b.add(path, "post", operation{id: "create" + b.camel() + name + title(sub.Name), text: "create " + sub.Name + " of " + article(k.Kind) + k.Kind,
				action: "post", gvk: &gvk, schema: model, body: model, codes: []string{"201", "202"}, params: b.params("CreateOptions")}, where)
			continue
		}
		b.item(path, verb, name, sub.Name, k, gvk, model, where)
	}
}

// connect writes exec, attach, portforward and proxy, whose answers are streams.
func (b *pathBuilder) connect(path, name string, k *kinds.Kind, sub *kinds.Subresource, gvk schema.GroupVersionKind, model string, where []any) {
	methods := []string{"get", "post"}
	if sub.Name == "proxy" {
		methods = []string{"get", "put", "post", "delete", "options", "head", "patch"}
	}
	where = append(b.params(model), slices.DeleteFunc(slices.Clone(where), func(p any) bool { return p.(map[string]any)["name"] == "pretty" })...)
	for _, method := range methods {
		op := operation{id: "connect" + b.camel() + title(method) + name + title(sub.Name), action: "connect", gvk: &gvk,
			text: "connect " + strings.ToUpper(method) + " requests to " + sub.Name + " of " + k.Kind}
		b.add(path, method, op, where)
		if sub.Name == "proxy" {
			op.id += "WithPath"
			b.add(path+"/{path}", method, op, append(slices.Clone(where), parameter("path", "path", "path to the resource", "string")))
		}
	}
}

// pretty is a parameter that every resource path takes.
var pretty = any(parameter("pretty", "query", "whether to indent the answer; the default depends on the client", "string"))

// params are the query parameters of metav1 options, or of a type with its full schema name.
func (b *pathBuilder) params(types ...string) []any {
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t
		if !strings.Contains(t, ".") {
			names[i] = metaPrefix + t
		}
	}
	return parametersOf(b.all, names...)
}

// article is the indefinite article before a kind.
func article(kind string) string {
	if strings.ContainsRune("AEIOU", rune(kind[0])) {
		return "an "
	}
	return "a "
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
