package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
)

// Object is anything with a kind and metadata.
type Object interface {
	metav1.Object
	runtime.Object
}

var unstructuredCodec = unstructured.UnstructuredJSONScheme

// clusterScoped are the kinds of the API that live in no namespace.
var clusterScoped = map[string]bool{
	"Node": true, "Namespace": true, "PersistentVolume": true, "ComponentStatus": true,
	"ClusterRole": true, "ClusterRoleBinding": true, "CertificateSigningRequest": true,
	"StorageClass": true, "CSIDriver": true, "CSINode": true, "VolumeAttachment": true, "VolumeAttributesClass": true,
	"PriorityClass": true, "RuntimeClass": true, "IngressClass": true, "IPAddress": true, "ServiceCIDR": true,
	"DeviceClass": true, "ResourceSlice": true, "FlowSchema": true, "PriorityLevelConfiguration": true,
	"MutatingWebhookConfiguration": true, "ValidatingWebhookConfiguration": true,
	"ValidatingAdmissionPolicy": true, "ValidatingAdmissionPolicyBinding": true,
	"MutatingAdmissionPolicy": true, "MutatingAdmissionPolicyBinding": true,
	"SubjectAccessReview": true, "SelfSubjectAccessReview": true, "TokenReview": true,
}

// Resource is the typed endpoint of one kind: the verbs of the REST API.
// A namespace of "" means all namespaces in List, Watch and DeleteCollection,
// and is what cluster-scoped kinds take everywhere. Errors of the server are
// *apierrors.StatusError: ask them with apierrors.IsNotFound and its kin.
//
// Upstream: k8s.io/client-go/gentype, Client.
type Resource[T Object] struct {
	c          *Client
	gvr        schema.GroupVersionResource
	namespaced bool
	accept     string // of one object, and of watches
	acceptList string // of lists; "" is the same
	newT       func() T
	newList    func() runtime.Object
}

// For is the endpoint of a built-in kind: For[*corev1.Pod](c). It panics for a
// type that is no API kind, which is a mistake of the programmer.
func For[T Object](c *Client) *Resource[T] {
	// The scheme knows types by a value of theirs, and takes no nil.
	empty := reflect.New(reflect.TypeFor[T]().Elem()).Interface().(T)
	gvks, _, err := scheme.Scheme.ObjectKinds(empty)
	if err != nil {
		panic(fmt.Sprintf("client.For[%T]: %v", empty, err))
	}
	gvk := gvks[0]
	gvr, _ := meta.UnsafeGuessKindToResource(gvk)
	return &Resource[T]{
		c: c, gvr: gvr, namespaced: !clusterScoped[gvk.Kind],
		accept: mediaProtobuf + "," + mediaJSON,
		newT: func() T {
			obj, _ := scheme.Scheme.New(gvk)
			return obj.(T)
		},
		newList: func() runtime.Object {
			obj, _ := scheme.Scheme.New(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
			return obj
		},
	}
}

// Dynamic is the endpoint of any resource, custom ones included, with objects
// as maps.
//
// Upstream: k8s.io/client-go/dynamic.
func Dynamic(c *Client, gvr schema.GroupVersionResource, namespaced bool) *Resource[*unstructured.Unstructured] {
	return &Resource[*unstructured.Unstructured]{
		c: c, gvr: gvr, namespaced: namespaced, accept: mediaJSON,
		newT:    func() *unstructured.Unstructured { return &unstructured.Unstructured{} },
		newList: func() runtime.Object { return &unstructured.UnstructuredList{} },
	}
}

// Metadata is the endpoint of any resource of whose objects only the metadata
// is wanted, as the garbage collector wants it.
//
// Upstream: k8s.io/client-go/metadata.
func Metadata(c *Client, gvr schema.GroupVersionResource, namespaced bool) *Resource[*metav1.PartialObjectMetadata] {
	as := func(kind string) string {
		form := ";as=" + kind + ";g=meta.k8s.io;v=v1,"
		return mediaProtobuf + form + mediaJSON + form + mediaJSON
	}
	return &Resource[*metav1.PartialObjectMetadata]{
		c: c, gvr: gvr, namespaced: namespaced,
		accept: as("PartialObjectMetadata"), acceptList: as("PartialObjectMetadataList"),
		newT:    func() *metav1.PartialObjectMetadata { return &metav1.PartialObjectMetadata{} },
		newList: func() runtime.Object { return &metav1.PartialObjectMetadataList{} },
	}
}

// GroupVersionResource says which resource this is the endpoint of.
func (r *Resource[T]) GroupVersionResource() schema.GroupVersionResource { return r.gvr }

func (r *Resource[T]) path(namespace, name string, subresource ...string) string {
	p := "/apis/" + r.gvr.Group
	if r.gvr.Group == "" {
		p = "/api"
	}
	p += "/" + r.gvr.Version
	if r.namespaced && namespace != "" {
		p += "/namespaces/" + namespace
	}
	p += "/" + r.gvr.Resource
	if name != "" {
		p += "/" + name
	}
	for _, s := range subresource {
		p += "/" + s
	}
	return p
}

// Get reads one object.
func (r *Resource[T]) Get(ctx context.Context, namespace, name string) (T, error) {
	return r.one(ctx, request{method: http.MethodGet, path: r.path(namespace, name)})
}

// List is what a list answers.
type List[T Object] struct {
	Items []T
	// ResourceVersion is the version of the collection: watch from here.
	ResourceVersion string
	// Continue is the token of the next page, if there is one.
	Continue string
}

// List reads a collection.
func (r *Resource[T]) List(ctx context.Context, namespace string, opts metav1.ListOptions) (List[T], error) {
	var l List[T]
	accept := r.acceptList
	if accept == "" {
		accept = r.accept
	}
	resp, err := r.c.do(ctx, request{method: http.MethodGet, path: r.path(namespace, ""), query: listQuery(opts), accept: accept})
	if err != nil {
		return l, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return l, err
	}
	obj := r.newList()
	if err := decodeInto(raw, obj); err != nil {
		return l, fmt.Errorf("list of %s: %w", r.gvr.Resource, err)
	}
	m, err := meta.ListAccessor(obj)
	if err != nil {
		return l, err
	}
	l.ResourceVersion, l.Continue = m.GetResourceVersion(), m.GetContinue()
	err = meta.EachListItem(obj, func(o runtime.Object) error {
		l.Items = append(l.Items, o.(T))
		return nil
	})
	return l, err
}

// Create stores a new object and returns it as the server completed it.
func (r *Resource[T]) Create(ctx context.Context, obj T) (T, error) {
	return r.write(ctx, http.MethodPost, r.path(obj.GetNamespace(), ""), obj)
}

// Update replaces an object. If its resourceVersion is set and not the stored
// one, the answer is a Conflict: read again, decide again.
func (r *Resource[T]) Update(ctx context.Context, obj T) (T, error) {
	return r.write(ctx, http.MethodPut, r.path(obj.GetNamespace(), obj.GetName()), obj)
}

// UpdateStatus is Update for the status only.
func (r *Resource[T]) UpdateStatus(ctx context.Context, obj T) (T, error) {
	return r.UpdateSubresource(ctx, obj, "status")
}

// UpdateSubresource is Update through a subresource that takes the object
// itself: status, approval, finalize.
func (r *Resource[T]) UpdateSubresource(ctx context.Context, obj T, subresource string) (T, error) {
	return r.write(ctx, http.MethodPut, r.path(obj.GetNamespace(), obj.GetName(), subresource), obj)
}

// Patch changes an object by a patch of the given type.
func (r *Resource[T]) Patch(ctx context.Context, namespace, name string, pt types.PatchType, patch []byte, subresource ...string) (T, error) {
	return r.one(ctx, request{method: http.MethodPatch, path: r.path(namespace, name, subresource...), contentType: string(pt), body: patch})
}

// Apply is a server-side apply of body (JSON) by a field manager; force takes
// fields from other managers.
func (r *Resource[T]) Apply(ctx context.Context, namespace, name, manager string, force bool, body []byte, subresource ...string) (T, error) {
	q := url.Values{"fieldManager": {manager}, "force": {fmt.Sprint(force)}}
	return r.one(ctx, request{method: http.MethodPatch, path: r.path(namespace, name, subresource...), query: q, contentType: string(types.ApplyPatchType), body: body})
}

// Delete asks for the end of an object. The zero DeleteOptions mean the kind's
// default grace and propagation.
func (r *Resource[T]) Delete(ctx context.Context, namespace, name string, opts metav1.DeleteOptions) error {
	return r.delete(ctx, r.path(namespace, name), nil, opts)
}

// DeleteCollection asks for the end of all objects that the list options select.
func (r *Resource[T]) DeleteCollection(ctx context.Context, namespace string, opts metav1.DeleteOptions, list metav1.ListOptions) error {
	return r.delete(ctx, r.path(namespace, ""), listQuery(list), opts)
}

// Post sends an object to a subresource that takes a kind of its own (binding,
// eviction, token). The answer is decoded into out unless that is nil.
func (r *Resource[T]) Post(ctx context.Context, namespace, name, subresource string, in, out runtime.Object) error {
	ct, body, err := encode(in)
	if err != nil {
		return err
	}
	resp, err := r.c.do(ctx, request{method: http.MethodPost, path: r.path(namespace, name, subresource), accept: mediaProtobuf + "," + mediaJSON, contentType: ct, body: body})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || out == nil {
		return err
	}
	return decodeInto(raw, out)
}

func (r *Resource[T]) write(ctx context.Context, method, path string, obj T) (T, error) {
	ct, body, err := encode(obj)
	if err != nil {
		var zero T
		return zero, err
	}
	return r.one(ctx, request{method: method, path: path, contentType: ct, body: body})
}

// one sends a request whose answer is one object of the kind.
func (r *Resource[T]) one(ctx context.Context, req request) (T, error) {
	var zero T
	req.accept = r.accept
	resp, err := r.c.do(ctx, req)
	if err != nil {
		return zero, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return zero, err
	}
	obj := r.newT()
	if err := decodeInto(raw, obj); err != nil {
		return zero, fmt.Errorf("%s: %w", r.gvr.Resource, err)
	}
	return obj, nil
}

func (r *Resource[T]) delete(ctx context.Context, path string, q url.Values, opts metav1.DeleteOptions) error {
	opts.TypeMeta = metav1.TypeMeta{Kind: "DeleteOptions", APIVersion: "v1"}
	body, err := json.Marshal(opts)
	if err != nil {
		return err
	}
	resp, err := r.c.do(ctx, request{method: http.MethodDelete, path: path, query: q, accept: mediaProtobuf + "," + mediaJSON, contentType: mediaJSON, body: body})
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return err
}

// listQuery is the query of list options. Encoding a registered type of ours
// cannot fail.
func listQuery(opts metav1.ListOptions) url.Values {
	q, _ := scheme.ParameterCodec.EncodeParameters(&opts, corev1.SchemeGroupVersion)
	return q
}

// decodeInto decodes JSON or protobuf by what the bytes look like.
func decodeInto(raw []byte, into runtime.Object) error {
	switch into.(type) {
	case runtime.Unstructured:
		_, _, err := unstructuredCodec.Decode(raw, nil, into)
		return err
	case *metav1.PartialObjectMetadata, *metav1.PartialObjectMetadataList:
		return decodeMetadata(raw, into)
	}
	gvk := into.GetObjectKind().GroupVersionKind()
	_, _, err := scheme.Codecs.UniversalDeserializer().Decode(raw, &gvk, into)
	return err
}

// decodeMetadata is decodeInto for what the scheme of the built-in kinds has not.
func decodeMetadata(raw []byte, into runtime.Object) error {
	message, isProto := bytes.CutPrefix(raw, []byte("k8s\x00"))
	if !isProto {
		return json.Unmarshal(raw, into)
	}
	var envelope runtime.Unknown
	if err := envelope.Unmarshal(message); err != nil {
		return err
	}
	into.GetObjectKind().SetGroupVersionKind(schema.FromAPIVersionAndKind(envelope.APIVersion, envelope.Kind))
	return into.(interface{ Unmarshal([]byte) error }).Unmarshal(envelope.Raw)
}
