package openapi

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"io"
	"net/http"
	"path"
	"strings"

	"github.com/swaggest/swgui/v5/static"
)

// UIPath is where the page lies that shows the documents to people.
const UIPath = "/swagger-ui/"

// mediaTypes are those of the page's files, whatever the machine knows of others.
var mediaTypes = map[string]string{".css": "text/css; charset=utf-8", ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".png": "image/png"}

//go:embed ui.html
var page []byte

// ServeUI answers /swagger-ui/ and the files that its page asks for. Upstream's API
// server had the page too, behind --enable-swagger-ui, and has it no more. Who may
// open it is RBAC's business, as everywhere.
func ServeUI(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, UIPath)
	if name == "" {
		w.Header().Set("Content-Type", mediaTypes[".html"])
		_, _ = w.Write(page) // a client that went away is not our error
		return
	}
	data, err := static.FS.ReadFile(name)
	if err != nil {
		if data, err = static.FS.ReadFile(name + ".gz"); err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Vary", "Accept-Encoding")
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			w.Header().Set("Content-Encoding", "gzip")
		} else if data, err = unzip(data); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	w.Header().Set("Content-Type", mediaTypes[path.Ext(name)])
	_, _ = w.Write(data)
}

func unzip(data []byte) ([]byte, error) {
	zr, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(zr)
}
