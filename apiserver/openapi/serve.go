package openapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"orrery/apiserver/kinds"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Media types of the protobuf forms: as clients ask for them, and as they are answered.
const (
	acceptV2Proto  = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
	contentV2Proto = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	acceptV3Proto  = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"
	contentV3Proto = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
)

// Handler answers /openapi/v2 and /openapi/v3.
//
// Upstream: k8s.io/kube-openapi/pkg/handler3/handler.go, OpenAPIService.
// Left out: documents of paths that are not of a group version (/version, /apis).
type Handler struct {
	table   *kinds.Table
	version string

	mu      sync.Mutex
	changed <-chan struct{}
	rows    map[string][]*kinds.Kind // by "apis/apps/v1"
	docs    map[string]*document
}

// document is one answer in its forms. The index has a document per group version, which are built once each.
type document struct {
	json, gzipped []byte
	proto         []byte // made when first asked for
	etag          string // hash, without quotes
	built         time.Time
}

// New returns the OpenAPI documents of table. version is major.minor, "1.36".
func New(table *kinds.Table, version string) *Handler {
	return &Handler{table: table, version: version}
}

// ServeV2 answers /openapi/v2.
func (h *Handler) ServeV2(w http.ResponseWriter, r *http.Request) {
	doc, err := h.document("v2", h.buildV2)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h.send(w, r, doc, acceptV2Proto, contentV2Proto, func(data []byte) ([]byte, error) {
		parsed, err := openapiv2.ParseDocument(data)
		if err != nil {
			return nil, err
		}
		return proto.Marshal(parsed)
	})
}

// ServeV3 answers /openapi/v3 and /openapi/v3/<group version>.
func (h *Handler) ServeV3(w http.ResponseWriter, r *http.Request) {
	key := strings.TrimPrefix(r.URL.Path, "/openapi/v3")
	if key == "" {
		h.serveIndex(w, r)
		return
	}
	key = strings.TrimPrefix(key, "/")
	doc, err := h.groupVersion(key)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if doc == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	// A hash in the URL lets clients keep the document for ever; a stale hash leads to the new one.
	if hash := r.URL.Query().Get("hash"); hash != "" {
		if hash != doc.etag {
			http.Redirect(w, r, documentURL(key, doc), http.StatusMovedPermanently)
			return
		}
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	}
	h.send(w, r, doc, acceptV3Proto, contentV3Proto, func(data []byte) ([]byte, error) {
		parsed, err := openapiv3.ParseDocument(data)
		if err != nil {
			return nil, err
		}
		return proto.Marshal(parsed)
	})
}

// documentURL is where a group version's document lies, with its hash.
func documentURL(key string, doc *document) string {
	return "/openapi/v3/" + key + "?hash=" + url.QueryEscape(doc.etag)
}

// serveIndex lists the documents with their hashes.
func (h *Handler) serveIndex(w http.ResponseWriter, r *http.Request) {
	doc, err := h.document("index", func() ([]byte, error) {
		paths := map[string]map[string]string{}
		for _, key := range sortedKeys(h.rows) {
			doc, err := h.locked(key, func() ([]byte, error) { return h.buildV3(key) })
			if err != nil {
				return nil, err
			}
			paths[key] = map[string]string{"serverRelativeURL": documentURL(key, doc)}
		}
		return json.Marshal(map[string]any{"paths": paths})
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h.send(w, r, doc, "", "", nil)
}

// send writes a document, or 304 to a client that has it.
func (h *Handler) send(w http.ResponseWriter, r *http.Request, doc *document, acceptProto, contentProto string, toProto func([]byte) ([]byte, error)) {
	w.Header().Set("ETag", `"`+doc.etag+`"`)
	w.Header().Set("Vary", "Accept")
	body, contentType := doc.json, "application/json"
	accept := r.Header.Get("Accept")
	if toProto != nil && strings.Contains(accept, acceptProto) && !strings.HasPrefix(accept, "application/json") {
		converted, err := h.protobuf(doc, toProto)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		body, contentType = converted, contentProto
	} else if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		body = doc.gzipped
	}
	if strings.Contains(r.Header.Get("If-None-Match"), doc.etag) {
		w.Header().Del("Content-Encoding")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Last-Modified", doc.built.UTC().Format(http.TimeFormat))
	_, _ = w.Write(body) // a client that went away is not our error
}

// protobuf converts a document once.
func (h *Handler) protobuf(doc *document, convert func([]byte) ([]byte, error)) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if doc.proto == nil {
		data, err := convert(doc.json)
		if err != nil {
			return nil, fmt.Errorf("converting OpenAPI document: %w", err)
		}
		doc.proto = data
	}
	return doc.proto, nil
}

// groupVersion returns the document of "apis/apps/v1", nil when it is not served.
func (h *Handler) groupVersion(key string) (*document, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refresh()
	if h.rows[key] == nil {
		return nil, nil
	}
	return h.locked(key, func() ([]byte, error) { return h.buildV3(key) })
}

// document returns a kept document, or builds it.
func (h *Handler) document(key string, build func() ([]byte, error)) (*document, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refresh()
	return h.locked(key, build)
}

// locked is document for callers that hold the lock.
func (h *Handler) locked(key string, build func() ([]byte, error)) (*document, error) {
	if doc := h.docs[key]; doc != nil {
		return doc, nil
	}
	data, err := build()
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	doc := &document{json: data, gzipped: packed.Bytes(), etag: fmt.Sprintf("%X", sha512.Sum512(data)), built: time.Now()}
	h.docs[key] = doc
	return doc, nil
}

// refresh forgets everything when the table of kinds has changed.
func (h *Handler) refresh() {
	select {
	case <-h.changed:
	default:
		if h.docs != nil {
			return
		}
	}
	h.changed = h.table.Changed()
	h.docs, h.rows = map[string]*document{}, map[string][]*kinds.Kind{}
	for _, k := range h.table.All() {
		if k.Remote {
			continue
		}
		key := keyOf(k.GV())
		h.rows[key] = append(h.rows[key], k)
	}
}

// keyOf is the name of a group version in the index.
func keyOf(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "api/" + gv.Version
	}
	return "apis/" + gv.Group + "/" + gv.Version
}

// buildV3 makes the document of one group version.
func (h *Handler) buildV3(key string) ([]byte, error) {
	all, err := schemas()
	if err != nil {
		return nil, err
	}
	rows := h.rows[key]
	if all, err = withCustom(all, rows); err != nil {
		return nil, err
	}
	paths, err := json.Marshal(buildPaths(rows[0].GV(), rows, all))
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{
		"openapi": "3.0.0",
		"info":    h.info(),
		"paths":   json.RawMessage(paths),
		"components": map[string]any{
			"schemas":         reachable(paths, all),
			"securitySchemes": map[string]any{"BearerToken": bearerToken},
		},
	})
}

func (h *Handler) info() map[string]string {
	return map[string]string{"title": "Kubernetes", "version": h.version}
}

// bearerToken says how clients prove who they are.
var bearerToken = map[string]string{"type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header"}
