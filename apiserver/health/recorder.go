package health

import "net/http"

// StatusRecorder remembers the status code of an answer. Flush and Hijack reach the real writer by Unwrap.
type StatusRecorder struct {
	http.ResponseWriter
	status int
}

// Unwrap lets http.ResponseController find the real writer.
func (s *StatusRecorder) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// Flush implements http.Flusher for code that asks for it directly.
func (s *StatusRecorder) Flush() { _ = http.NewResponseController(s.ResponseWriter).Flush() }

// WriteHeader implements http.ResponseWriter.
func (s *StatusRecorder) WriteHeader(code int) {
	if s.status == 0 {
		s.status = code
	}
	s.ResponseWriter.WriteHeader(code)
}

// Code is the status that was sent; 200 when nothing was said.
func (s *StatusRecorder) Code() int {
	if s.status == 0 {
		return http.StatusOK
	}
	return s.status
}
