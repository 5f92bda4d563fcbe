package proxy

import (
	"encoding/json"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"orrery/client"
	"orrery/test/pipes"
)

// apiServer answers lists and one watch for each collection, over pipes, so
// that it can run inside a synctest bubble.
type apiServer struct {
	server   http.Server
	listener *pipes.Listener
	lists    map[string]runtime.Object // by the last part of the path
	events   map[string]chan metav1.WatchEvent
}

func newAPIServer(lists map[string]runtime.Object) *apiServer {
	s := &apiServer{listener: pipes.Listen(), lists: lists, events: map[string]chan metav1.WatchEvent{}}
	for name := range lists {
		s.events[name] = make(chan metav1.WatchEvent)
	}
	s.server.Handler = s
	return s
}

// client makes a client of the server.
func (s *apiServer) client() (*client.Client, error) {
	return client.New(client.Config{Host: "http://server", Dial: s.listener.Dial})
}

// send gives a watcher an event, once it listens.
func (s *apiServer) send(kind, event string, obj runtime.Object) {
	raw, err := json.Marshal(obj)
	if err != nil {
		panic(err)
	}
	s.events[kind] <- metav1.WatchEvent{Type: event, Object: runtime.RawExtension{Raw: raw}}
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	w.Header().Set("Content-Type", "application/json")
	if r.Method != http.MethodGet {
		w.WriteHeader(http.StatusCreated)
		json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Success"})
		return
	}
	if r.URL.Query().Get("watch") == "" {
		json.NewEncoder(w).Encode(s.lists[kind])
		return
	}
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	for {
		select {
		case ev := <-s.events[kind]:
			json.NewEncoder(w).Encode(ev)
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			return
		}
	}
}
