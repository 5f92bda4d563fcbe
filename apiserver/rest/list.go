package rest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"orrery/apiserver/kinds"
	"orrery/apiserver/registry"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// listOptions reads and checks the query of a list, watch or deletecollection.
func listOptions(r *http.Request, q *request, watch bool) (*internalversion.ListOptions, error) {
	var o internalversion.ListOptions
	if err := scheme.ParameterCodec.DecodeParameters(r.URL.Query(), metav1.SchemeGroupVersion, &o); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	o.Watch = watch
	if initial := o.ResourceVersion == "" || o.ResourceVersion == "0"; watch && initial && o.Continue != "" {
		// What is there is sent first, as if that had been asked for; a page of it cannot be.
		o.ResourceVersionMatch, o.SendInitialEvents = metav1.ResourceVersionMatchNotOlderThan, new(true)
	}
	if errs := validation.ValidateListOptions(&o, true); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
	}
	if q.Name != "" { // a watch of one object by its path
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", q.Name)
	}
	return &o, nil
}

func parseRevision(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, &field.Error{Type: field.ErrorTypeInvalid, Field: "resourceVersion", BadValue: s, Detail: strings.Replace(err.Error(), "ParseInt", "ParseUint", 1)}
	}
	return int64(n), nil
}

// selector turns label and field selectors into one func over hub objects, and
// finds the one name that a field selector may ask for. match is nil when
// everything is selected.
func selector(k *kinds.Kind, o *internalversion.ListOptions) (match func(runtime.Object) bool, name string, err error) {
	byLabel, byField := o.LabelSelector, o.FieldSelector
	type test struct {
		value func(runtime.Object) string
		want  string
		equal bool
	}
	var tests []test
	if byField != nil && !byField.Empty() {
		for _, req := range byField.Requirements() {
			value, err := fieldLabel(k, req.Field)
			if err != nil {
				return nil, "", err
			}
			equal := req.Operator == "=" || req.Operator == "=="
			if equal && req.Field == "metadata.name" {
				name = req.Value
			}
			tests = append(tests, test{value, req.Value, equal})
		}
	}
	if len(tests) == 0 && (byLabel == nil || byLabel.Empty()) {
		return nil, "", nil
	}
	return func(obj runtime.Object) bool {
		for _, t := range tests {
			if (t.value(obj) == t.want) != t.equal {
				return false
			}
		}
		if byLabel == nil || byLabel.Empty() {
			return true
		}
		m, err := meta.Accessor(obj)
		return err == nil && byLabel.Matches(labels.Set(m.GetLabels()))
	}, name, nil
}

// fieldLabel finds how a field selector's label is read from an object.
func fieldLabel(k *kinds.Kind, label string) (func(runtime.Object) string, error) {
	read := func(f func(metav1.Object) string) func(runtime.Object) string {
		return func(obj runtime.Object) string {
			m, err := meta.Accessor(obj)
			if err != nil {
				return ""
			}
			return f(m)
		}
	}
	switch label {
	case "metadata.name":
		return read(metav1.Object.GetName), nil
	case "metadata.namespace":
		if k.Namespaced || k.FieldLabels == nil {
			return read(metav1.Object.GetNamespace), nil
		}
	}
	if f, ok := k.FieldLabels[label]; ok {
		return f, nil
	}
	if k.FieldLabels == nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf(`%q is not a known field selector: only "metadata.name", "metadata.namespace"`, label))
	}
	return nil, apierrors.NewBadRequest("field label not supported: " + label)
}

// List answers with all objects of a namespace or of the cluster that the selectors let through.
func (h *Handlers) List(w http.ResponseWriter, r *http.Request) {
	q, err := h.begin(r, "list")
	if err != nil {
		WriteError(w, r, err)
		return
	}
	l, err := h.list(r, q)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	h.answerList(w, r, q, l)
}

// page is a Listing with what the client gets as metadata.
type page struct {
	items []*registry.Shared
	meta  metav1.ListMeta
}

func (p page) objects() []runtime.Object { return (&registry.Listing{Items: p.items}).Objects() }

func (h *Handlers) list(r *http.Request, q *request) (page, error) {
	o, err := listOptions(r, q, false)
	if err != nil {
		return page{}, err
	}
	return h.listWith(r, q, o)
}

func (h *Handlers) listWith(r *http.Request, q *request, o *internalversion.ListOptions) (page, error) {
	match, name, err := selector(q.kind, o)
	if err != nil {
		return page{}, err
	}
	if q.res == nil {
		return h.computedPage(r, q, match)
	}
	lo := registry.ListOptions{Namespace: q.Namespace, Name: name, Match: match, Limit: o.Limit}
	if err := readState(o, &lo); err != nil {
		return page{}, err
	}
	l, err := q.res.List(r.Context(), lo)
	if apierrors.IsResourceExpired(err) && o.Continue != "" {
		return page{}, expiredContinue(lo.StartAfter)
	}
	if err != nil {
		return page{}, err
	}
	m := metav1.ListMeta{ResourceVersion: strconv.FormatInt(l.Revision, 10), RemainingItemCount: l.Remaining}
	if l.Next != "" {
		m.Continue = continueToken(l.Revision, l.Next)
	}
	return page{l.Items, m}, nil
}

// readState works out from resourceVersion, resourceVersionMatch and continue
// which state of the store is wanted.
func readState(o *internalversion.ListOptions, lo *registry.ListOptions) error {
	if o.Continue != "" {
		rev, start, err := parseContinue(o.Continue)
		if err != nil {
			return apierrors.NewBadRequest("invalid continue token: " + err.Error())
		}
		if o.ResourceVersion != "" && o.ResourceVersion != "0" {
			return apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
		}
		// A negative revision is a token given out with a 410: go on in the newest state.
		lo.Exact, lo.StartAfter, lo.Revision = true, start, max(rev, 0)
		return nil
	}
	if o.ResourceVersion == "" {
		lo.Revision = -1
		return nil
	}
	rev, err := parseRevision(o.ResourceVersion)
	if err != nil {
		return apierrors.NewBadRequest("invalid resource version: " + err.Error())
	}
	lo.Revision = rev
	// With a limit, an unadorned resourceVersion has always meant exactly that one.
	lo.Exact = rev > 0 && (o.ResourceVersionMatch == metav1.ResourceVersionMatchExact || o.ResourceVersionMatch == "" && o.Limit > 0)
	return nil
}

// continueKey is the JSON inside a continue token; upstream's form.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/storage/continue.go, continueToken.
type continueKey struct {
	APIVersion string `json:"v"`
	Revision   int64  `json:"rv"`
	Start      string `json:"start"`
}

func continueToken(revision int64, last string) string {
	b, err := json.Marshal(continueKey{"meta.k8s.io/v1", revision, "/" + last + "\x00"})
	if err != nil {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseContinue(token string) (int64, string, error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return 0, "", fmt.Errorf("continue key is not valid: %w", err)
	}
	var c continueKey
	if err := json.Unmarshal(b, &c); err != nil {
		return 0, "", fmt.Errorf("continue key is not valid: %w", err)
	}
	start := strings.TrimSuffix(strings.TrimPrefix(c.Start, "/"), "\x00")
	switch {
	case c.APIVersion != "meta.k8s.io/v1":
		return 0, "", fmt.Errorf("continue key is not valid: server does not recognize this encoded version %q", c.APIVersion)
	case c.Revision == 0:
		return 0, "", fmt.Errorf("continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)")
	case start == "" || strings.Contains("/"+start+"/", "/../"):
		return 0, "", fmt.Errorf("continue key is not valid: encoded start key empty (version meta.k8s.io/v1)")
	}
	return c.Revision, start, nil
}

// expiredContinue is the 410 for a continue token whose state is gone. It
// carries a token with which a client can go on, if it can bear a list that is
// put together from two states.
func expiredContinue(last string) error {
	e := apierrors.NewResourceExpired("The provided continue parameter is too old " +
		"to display a consistent list result. You can start a new list without " +
		"the continue parameter, or use the continue token in this response to " +
		"retrieve the remainder of the results. Continuing with the provided " +
		"token results in an inconsistent list - objects that were created, " +
		"modified, or deleted between the time the first chunk was returned " +
		"and now may show up in the list.")
	e.ErrStatus.ListMeta.Continue = continueToken(-1, last)
	return e
}

// answerList sends a list in the form that the client asked for.
func (h *Handlers) answerList(w http.ResponseWriter, r *http.Request, q *request, p page) {
	var out runtime.Object
	var err error
	switch q.form.as {
	case "":
		if q.quick() {
			q.sendList(w, r, p)
			return
		}
		out, err = q.listObject(p)
	case asTable:
		out, err = h.table(r, q, p.objects(), p.meta, true)
	case asPartialList:
		out, err = partialList(p, q.form.version)
	default:
		err = notAcceptable("you requested PartialObjectMetadata, but the requested object is a list (" + internalType(q.kind.NewList()) + ")")
	}
	if err != nil {
		WriteError(w, r, err)
		return
	}
	write(w, r, q.form, http.StatusOK, out)
}

// listObject makes the kind's list type. Items carry no kind and apiVersion.
func (q *request) listObject(p page) (runtime.Object, error) {
	list := q.kind.NewList()
	items := p.objects()
	if q.kind.Hub != nil {
		for i, obj := range items {
			v, err := q.kind.Convert(obj)
			if err != nil {
				return nil, err
			}
			items[i] = v
		}
	}
	if err := meta.SetList(list, items); err != nil {
		return nil, err
	}
	gvk := q.kind.GVK()
	if !isUnstructured(q.kind.New()) {
		if err := meta.EachListItem(list, func(obj runtime.Object) error {
			obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
			return nil
		}); err != nil {
			return nil, err
		}
	}
	gvk.Kind += "List"
	list.GetObjectKind().SetGroupVersionKind(gvk)
	m, err := meta.ListAccessor(list)
	if err != nil {
		return nil, err
	}
	m.SetResourceVersion(p.meta.ResourceVersion)
	m.SetContinue(p.meta.Continue)
	m.SetRemainingItemCount(p.meta.RemainingItemCount)
	return list, nil
}
