package rest

import (
	"compress/gzip"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// gzipAbove is the size in bytes from which an answer is worth compressing.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/writers.go, defaultGzipThresholdBytes.
const gzipAbove = 128 * 1024

var gzippers = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(nil, 1)
	return z
}}

// send writes a complete body, compressed when it is large and the client can read that.
func send(w http.ResponseWriter, r *http.Request, code int, body []byte) {
	if len(body) < gzipAbove || !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(code)
		_, _ = w.Write(body) // a client that has gone is nobody's error
		return
	}
	w.Header().Set("Content-Encoding", "gzip")
	w.Header().Add("Vary", "Accept-Encoding")
	w.WriteHeader(code)
	z := gzippers.Get().(*gzip.Writer)
	defer gzippers.Put(z)
	z.Reset(w)
	_, _ = z.Write(body)
	_ = z.Close()
}
