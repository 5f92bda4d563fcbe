package stream

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"orrery/apiserver/auth"
	"orrery/apiserver/kinds"
	"orrery/apiserver/rest"

	"github.com/gorilla/websocket"
)

// portForwardProtocol is the SPDY subprotocol of port forwarding. tunnelProtocol is
// the same SPDY connection inside the messages of a WebSocket, which passes where SPDY does not.
const (
	portForwardProtocol = "portforward.k8s.io"
	tunnelProtocol      = "SPDY/3.1+" + portForwardProtocol
)

// portForward connects the client with ports of a pod.
//
// Upstream: pkg/registry/core/pod/rest/subresources.go, PortForwardREST.Connect.
func (s *Streams) portForward(w http.ResponseWriter, r *http.Request, _ *kinds.Kind, a *auth.Attributes, _ string) {
	pod, err := s.pod(r, a)
	if err == nil {
		err = placed(pod)
	}
	if err == nil && !isUpgrade(r) {
		err = errUpgradeRequired
	}
	if err != nil {
		rest.WriteError(w, r, err)
		return
	}
	location, err := s.kubeletURL(r.Context(), pod.Spec.NodeName, "/portForward/"+pod.Namespace+"/"+pod.Name)
	if err != nil {
		rest.WriteError(w, r, err)
		return
	}
	if ports := r.URL.Query()["ports"]; len(ports) > 0 {
		q := location.Query()
		for _, list := range ports {
			q["port"] = append(q["port"], strings.Split(list, ",")...)
		}
		location.RawQuery = q.Encode()
	}
	if !slices.Contains(websocket.Subprotocols(r), tunnelProtocol) {
		forward(w, r, location, s.kubelet)
		return
	}
	backend, err := s.dialUpgrade(r, location, []string{portForwardProtocol})
	if err != nil {
		rest.WriteError(w, r, err)
		return
	}
	defer backend.Close()
	ws, err := accept(w, r, []string{tunnelProtocol})
	if err != nil {
		return // answered by accept
	}
	defer ws.close(nil)
	tunnel(ws, backend)
}

// tunnel copies bytes between the messages of a WebSocket and a connection until either ends.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/util/proxy/streamtunnel.go, TunnelingHandler.
func tunnel(ws *client, backend io.ReadWriteCloser) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer backend.Close()
		for {
			_, r, err := ws.conn.NextReader()
			if err != nil {
				return
			}
			if _, err := io.Copy(backend, r); err != nil {
				return
			}
		}
	})
	defer ws.close(nil)
	buffer := make([]byte, 32*1024)
	for {
		n, err := backend.Read(buffer)
		if n > 0 {
			ws.mu.Lock()
			werr := ws.conn.WriteMessage(websocket.BinaryMessage, buffer[:n])
			ws.mu.Unlock()
			if werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
