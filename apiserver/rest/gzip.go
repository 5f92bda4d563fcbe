package rest

import (
	"bufio"
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

const writeBuffer = 256 * 1024

var gzippers = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(nil, 1)
	return z
}}

// send writes a complete body, which may come in pieces, compressed when it is
// large and the client can read that.
func send(w http.ResponseWriter, r *http.Request, code int, body ...[]byte) {
	size := 0
	for _, piece := range body {
		size += len(piece)
	}
	if size < gzipAbove || !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Length", strconv.Itoa(size))
		w.WriteHeader(code)
		// Each write to w is an errand to the connection's own goroutine.
		out := bufio.NewWriterSize(w, min(size, writeBuffer))
		for _, piece := range body {
			_, _ = out.Write(piece) // a client that has gone is nobody's error
		}
		_ = out.Flush()
		return
	}
	w.Header().Set("Content-Encoding", "gzip")
	w.Header().Add("Vary", "Accept-Encoding")
	w.WriteHeader(code)
	z := gzippers.Get().(*gzip.Writer)
	defer gzippers.Put(z)
	z.Reset(w)
	for _, piece := range body {
		_, _ = z.Write(piece)
	}
	_ = z.Close()
}
