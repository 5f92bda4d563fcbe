package rest

import (
	"net/http"

	"orrery/apiserver/registry"

	"k8s.io/apimachinery/pkg/runtime"
)

// computed finds out the objects of a resource that nobody stores; name is empty for all.
func (h *Handlers) computed(r *http.Request, q *request, name string) ([]runtime.Object, error) {
	read := h.Hooks.Read[q.kind.GR().String()]
	if read == nil {
		return nil, notAllowed()
	}
	return read(r.Context(), name)
}

// computedPage is a list of what is computed. There is no state that it could be of: it has no resourceVersion.
func (h *Handlers) computedPage(r *http.Request, q *request, match func(runtime.Object) bool) (page, error) {
	found, err := h.computed(r, q, "")
	if err != nil {
		return page{}, err
	}
	var p page
	for _, obj := range found {
		if match == nil || match(obj) {
			p.items = append(p.items, &registry.Shared{Object: obj})
		}
	}
	return p, nil
}

func (h *Handlers) computedOne(r *http.Request, q *request) (runtime.Object, error) {
	found, err := h.computed(r, q, q.Name)
	if err != nil {
		return nil, err
	}
	return found[0], nil
}
