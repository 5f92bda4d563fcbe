package discovery

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"orrery/apiserver/kinds"
	"orrery/apiserver/rest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// Handler answers /api, /apis and everything below them that is not a resource.
//
// Left out: protobuf answers (clients accept JSON).
type Handler struct {
	table *kinds.Table
	// serverAddress is what /api tells clients to connect to, HOST:PORT.
	serverAddress string

	mu      sync.Mutex
	changed <-chan struct{}
	docs    map[string]document
}

// aggregate marks the other document of a path.
const aggregate = " aggregated"

// document is one answer, ready to be sent.
type document struct {
	body []byte
	etag string
}

// New returns the discovery of table. serverAddress is the advertised HOST:PORT.
func New(table *kinds.Table, serverAddress string) *Handler {
	return &Handler{table: table, serverAddress: serverAddress}
}

// aggregatedType is the media type that asks for aggregated discovery.
const aggregatedType = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

// ServeHTTP answers r.URL.Path, or with 404 when nothing of that group is served.
// The documents of /apis and of a group are given to every method, as upstream does.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	root := path == "/api" || path == "/apis"
	anyMethod := path == "/apis" || strings.HasPrefix(path, "/apis/") && strings.Count(path, "/") == 2
	doc, ok, err := h.document(path)
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	case !ok && h.knowsGroup(path):
		rest.NotFound(w, r)
		return
	case !ok:
		http.NotFound(w, r)
		return
	case r.Method != http.MethodGet && !anyMethod:
		rest.MethodNotAllowed(w, r)
		return
	}
	contentType, err := negotiate(r, root)
	if err != nil {
		rest.WriteError(w, r, err)
		return
	}
	w.Header().Set("Content-Type", contentType)
	if root {
		w.Header().Set("Vary", "Accept")
	}
	body := doc.body
	switch contentType {
	case aggregatedType:
		if doc, _, err = h.document(path + aggregate); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		body = doc.body
		w.Header().Set("ETag", doc.etag)
		w.Header().Set("Cache-Control", "public")
		if r.Header.Get("If-None-Match") == doc.etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	case "application/yaml":
		if body, err = yaml.JSONToYAML(body); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	_, _ = w.Write(body) // a client that went away is not our error
}

// knowsGroup reports whether the group in a path has other versions than the path's.
func (h *Handler) knowsGroup(path string) bool {
	parts := strings.Split(path, "/")
	if parts[1] == "api" {
		return true
	}
	return len(parts) > 3 && h.Serves("/apis/"+parts[2])
}

// negotiate picks the first form that the client accepts: for the two roots there is one more.
func negotiate(r *http.Request, root bool) (contentType string, err error) {
	err = rest.ErrNotRepresentable
	for _, c := range rest.Accepted(r) {
		switch as := c.Params["as"]; c.MediaType {
		case "application/json", "*/*", "application/*":
			if as == "" {
				return "application/json", nil
			}
			if root && as == "APIGroupDiscoveryList" && c.Params["g"] == "apidiscovery.k8s.io" && c.Params["v"] == "v2" {
				return aggregatedType, nil
			}
			err = rest.ErrNotAcceptable
		case "application/yaml":
			return "application/yaml", nil
		}
	}
	return "", err
}

// Serves reports whether path is a discovery document at present.
func (h *Handler) Serves(path string) bool {
	_, ok, err := h.document(strings.TrimSuffix(path, "/"))
	return ok && err == nil
}

// document returns one answer, building all of them if the table has changed.
func (h *Handler) document(key string) (document, bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	stale := h.docs == nil
	if !stale {
		select {
		case <-h.changed:
			stale = true
		default:
		}
	}
	if stale {
		h.changed = h.table.Changed()
		docs, err := h.build(groupsOf(h.table.All()))
		if err != nil {
			return document{}, false, err
		}
		h.docs = docs
	}
	doc, ok := h.docs[key]
	return doc, ok, nil
}

// build makes every document.
func (h *Handler) build(groups []group) (map[string]document, error) {
	objects := map[string]any{
		"/api": &metav1.APIVersions{
			TypeMeta: metav1.TypeMeta{Kind: "APIVersions"},
			Versions: []string{"v1"},
			ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{
				{ClientCIDR: "0.0.0.0/0", ServerAddress: h.serverAddress},
			},
		},
	}
	list := &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
	for _, g := range groups {
		if g.name != "" {
			one := plainGroup(g)
			list.Groups = append(list.Groups, one)
			one.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
			objects["/apis/"+g.name] = &one
		}
		for _, v := range g.versions {
			objects[pathOf(v.gv)] = plainList(v)
		}
	}
	objects["/apis"] = list
	for path, core := range map[string]bool{"/api": true, "/apis": false} {
		objects[path+aggregate] = aggregated(groups, core)
	}
	docs := map[string]document{}
	for key, obj := range objects {
		var body bytes.Buffer
		if err := json.NewEncoder(&body).Encode(obj); err != nil {
			return nil, fmt.Errorf("encoding discovery document %s: %w", key, err)
		}
		sum := sha512.Sum512(body.Bytes())
		docs[key] = document{body: body.Bytes(), etag: `"` + hex.EncodeToString(sum[:]) + `"`}
	}
	return docs, nil
}

// pathOf is where the resources of a group version live.
func pathOf(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "/api/" + gv.Version
	}
	return "/apis/" + gv.Group + "/" + gv.Version
}
