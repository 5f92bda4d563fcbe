package discovery

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"sync"

	"orrery/apiserver/kinds"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
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

// document is one answer, ready to be sent.
type document struct {
	body []byte
	etag string
}

// New returns the discovery of table. serverAddress is the advertised HOST:PORT.
func New(table *kinds.Table, serverAddress string) *Handler {
	return &Handler{table: table, serverAddress: serverAddress}
}

// aggregatedType is the media type that asks for aggregated discovery, with the version to be filled in.
const aggregatedType = "application/json;g=apidiscovery.k8s.io;v=%s;as=APIGroupDiscoveryList"

// ServeHTTP answers r.URL.Path, or with 404 when nothing of that group is served.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimSuffix(r.URL.Path, "/")
	contentType := "application/json"
	key := path
	if path == "/api" || path == "/apis" {
		w.Header().Set("Vary", "Accept")
		if v := aggregatedVersion(r.Header.Values("Accept")); v != "" {
			key += " " + v
			contentType = fmt.Sprintf(aggregatedType, v)
		}
	}
	doc, ok, err := h.document(key)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	if key != path {
		w.Header().Set("ETag", doc.etag)
		w.Header().Set("Cache-Control", "public")
		if r.Header.Get("If-None-Match") == doc.etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(doc.body) // a client that went away is not our error
}

// Serves reports whether path is a discovery document at present.
func (h *Handler) Serves(path string) bool {
	_, ok, err := h.document(strings.TrimSuffix(path, "/"))
	return ok && err == nil
}

// aggregatedVersion returns v2 or v2beta1 when the client accepts aggregated
// discovery before plain JSON, else "". Parameters may come in any order.
func aggregatedVersion(accept []string) string {
	for _, clause := range strings.Split(strings.Join(accept, ","), ",") {
		mediaType, params, err := mime.ParseMediaType(strings.TrimSpace(clause))
		if err != nil {
			continue
		}
		if params["g"] == "apidiscovery.k8s.io" && params["as"] == "APIGroupDiscoveryList" {
			if v := params["v"]; mediaType == "application/json" && (v == "v2" || v == "v2beta1") {
				return v
			}
			continue
		}
		if mediaType == "application/json" || mediaType == "*/*" || mediaType == "application/*" {
			return ""
		}
	}
	return ""
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
	for _, v := range []string{"v2", "v2beta1"} {
		for path, core := range map[string]bool{"/api": true, "/apis": false} {
			doc := aggregated(groups, core)
			doc.APIVersion = "apidiscovery.k8s.io/" + v
			objects[path+" "+v] = doc
		}
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
