package cluster

import (
	"context"
	"log/slog"
	"strings"
)

// Strict is a log for tests: it keeps nothing, but does not let pass what a
// component survives and nobody would see, a reconcile that panicked.
type Strict struct{}

// Enabled implements slog.Handler.
func (Strict) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

// Handle implements slog.Handler.
func (Strict) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok && strings.HasPrefix(err.Error(), "panic:") {
			panic(r.Message + ": " + err.Error())
		}
		return true
	})
	return nil
}

// WithAttrs implements slog.Handler.
func (s Strict) WithAttrs([]slog.Attr) slog.Handler { return s }

// WithGroup implements slog.Handler.
func (s Strict) WithGroup(string) slog.Handler { return s }
