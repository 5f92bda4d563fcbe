// Package warning carries texts for the client from deep inside a request to
// the Warning headers of its response. kubectl prints them as "Warning: text".
//
//	WithRecorder(ctx) → Add(ctx, text) ... → Texts(ctx) → Warning: 299 - "text"
//
// Invariant: Add without a recorder in the context does nothing. Read next: ../rest.
package warning

import (
	"context"
	"slices"
	"sync"
)

type key struct{}

type recorder struct {
	mu    sync.Mutex
	texts []string
}

// WithRecorder returns a context that collects warnings.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/warning/context.go, WithWarningRecorder.
func WithRecorder(ctx context.Context) context.Context {
	return context.WithValue(ctx, key{}, &recorder{})
}

// Add notes a warning for the client of this request; one said twice is sent once.
func Add(ctx context.Context, text string) {
	r, ok := ctx.Value(key{}).(*recorder)
	if !ok || text == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.texts, text) {
		r.texts = append(r.texts, text)
	}
}

// Texts returns what has been collected so far.
func Texts(ctx context.Context) []string {
	r, ok := ctx.Value(key{}).(*recorder)
	if !ok {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.texts)
}
