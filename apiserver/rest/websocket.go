package rest

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// Browsers cannot read a chunked response as it grows, so a watch may also run
// over a WebSocket: one text message an event, as plain JSON.

func isWebSocket(r *http.Request) bool { return websocket.IsWebSocketUpgrade(r) }

// socket writes frames as messages.
type socket struct {
	conn *websocket.Conn
}

// upgrade answers with 101 and then reads, only to learn when the client goes.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/watch.go, HandleWS.
func upgrade(w http.ResponseWriter, r *http.Request) (frames, error) {
	u := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	// Any subprotocol will do, but not the one that carries a token.
	offered := websocket.Subprotocols(r)
	offered = slices.DeleteFunc(offered, func(p string) bool { return strings.HasPrefix(p, "base64url.bearer.") })
	if len(offered) > 0 {
		u.Subprotocols = offered[:1]
	}
	conn, err := u.Upgrade(w, r, nil)
	if err != nil {
		return nil, err
	}
	go func() { // ends with the connection, which close ends
		for {
			if _, _, err := conn.NextReader(); err != nil {
				_ = conn.Close() // so that the next frame fails
				return
			}
		}
	}()
	return &socket{conn}, nil
}

const socketWriteTimeout = 10 * time.Second

func (s *socket) frame(b []byte) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(socketWriteTimeout)); err != nil {
		return err
	}
	return s.conn.WriteMessage(websocket.TextMessage, b)
}

func (s *socket) flush() error { return nil }

func (s *socket) close() {
	end := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	_ = s.conn.WriteControl(websocket.CloseMessage, end, time.Now().Add(time.Second)) // the client may be gone
	_ = s.conn.Close()
}
