package stream

import (
	"net/http"
	"net/url"
	"strings"

	"orrery/apiserver/auth"
	"orrery/apiserver/kinds"
	"orrery/apiserver/rest"
)

// terminal is what exec and attach have in common.
type terminal struct {
	stdin, stdout, stderr, tty bool
	command                    []string
	container                  string
}

// exec runs a command in a container.
//
// Upstream: pkg/registry/core/pod/rest/subresources.go, ExecREST.Connect.
func (s *Streams) exec(w http.ResponseWriter, r *http.Request, _ *kinds.Kind, a *auth.Attributes, _ string) {
	s.terminal(w, r, a, "exec", terminalOptions(r.URL.Query()))
}

// attach joins the main process of a container.
//
// Upstream: pkg/registry/core/pod/rest/subresources.go, AttachREST.Connect.
func (s *Streams) attach(w http.ResponseWriter, r *http.Request, _ *kinds.Kind, a *auth.Attributes, _ string) {
	s.terminal(w, r, a, "attach", terminalOptions(r.URL.Query()))
}

// terminal connects the client with the kubelet: SPDY as it is, WebSocket by translation.
func (s *Streams) terminal(w http.ResponseWriter, r *http.Request, a *auth.Attributes, what string, t terminal) {
	location, err := s.terminalURL(r, a, what, &t)
	if err == nil && !isUpgrade(r) {
		err = errUpgradeRequired
	}
	if err != nil {
		rest.WriteError(w, r, err)
		return
	}
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		s.translate(w, r, location, t)
		return
	}
	forward(w, r, location, s.kubelet)
}

// terminalURL is where on the kubelet the request goes.
func (s *Streams) terminalURL(r *http.Request, a *auth.Attributes, what string, t *terminal) (*url.URL, error) {
	pod, err := s.pod(r, a)
	if err != nil {
		return nil, err
	}
	name, err := container(pod, t.container)
	if err != nil {
		return nil, err
	}
	if err := placed(pod); err != nil {
		return nil, err
	}
	location, err := s.kubeletURL(r.Context(), pod.Spec.NodeName, "/"+what+"/"+pod.Namespace+"/"+pod.Name+"/"+name)
	if err != nil {
		return nil, err
	}
	q := url.Values{}
	for param, on := range map[string]bool{"input": t.stdin, "output": t.stdout, "error": t.stderr, "tty": t.tty} {
		if on {
			q.Set(param, "1")
		}
	}
	for _, word := range t.command {
		q.Add("command", word)
	}
	location.RawQuery = q.Encode()
	return location, nil
}
