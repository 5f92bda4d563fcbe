package apiserver_test

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// TestAWatchOverAWebSocket: what browsers do, one text message an event.
func TestAWatchOverAWebSocket(t *testing.T) {
	server := httptest.NewServer(newServer(t).Handler())
	defer server.Close()
	url := "ws" + strings.TrimPrefix(server.URL, "http") + "/api/v1/namespaces?watch=1&timeoutSeconds=1"
	dialer := websocket.Dialer{Subprotocols: []string{"base64.binary.k8s.io"}}
	conn, resp, err := dialer.DialContext(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := resp.Header.Get("Sec-WebSocket-Protocol"); got != "base64.binary.k8s.io" {
		t.Errorf("subprotocol %q", got)
	}
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"default", "kube-system"} {
		kind, b, err := conn.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		if kind != websocket.TextMessage || !strings.Contains(string(b), `{"type":"ADDED"`) || !strings.Contains(string(b), `"name":"`+name+`"`) {
			t.Errorf("message of type %d: %s", kind, b)
		}
	}
	if _, _, err := conn.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("at the end of its time: %v, want a normal close", err)
	}
}
