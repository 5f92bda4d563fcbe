package stream

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"orrery/apiserver/rest"

	"github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// Channels of the WebSocket protocols: the first byte of every message.
const (
	channelStdin  = 0
	channelStdout = 1
	channelStderr = 2
	channelError  = 3
	channelResize = 4
	channelClose  = 255 // v5 only: the channel in the second byte ends
)

// execProtocols are the subprotocols of exec and attach, the best first. Those with
// base64 send text: the channel as a digit, the rest encoded, for browsers.
var execProtocols = []string{"v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "base64.channel.k8s.io", "channel.k8s.io"}

// spdyProtocols are what kubelets are offered; from v4 on, exit codes come as a Status.
var spdyProtocols = []string{"v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"}

// logProtocols are the subprotocols of logs, which have no channels; without one the log comes as bytes, too.
var logProtocols = []string{"binary.k8s.io", "base64.binary.k8s.io"}

// client is a WebSocket connection on which several streams are multiplexed. gorilla
// allows one writer at a time, so writes take the lock.
type client struct {
	mu   sync.Mutex
	conn *websocket.Conn
	text bool
}

// accept upgrades the client's connection to one of protocols.
func accept(w http.ResponseWriter, r *http.Request, protocols []string) (*client, error) {
	upgrader := websocket.Upgrader{
		Subprotocols: protocols,
		// The caller proved who it is by certificate or token, which no foreign page has.
		CheckOrigin: func(*http.Request) bool { return true },
		Error: func(w http.ResponseWriter, r *http.Request, _ int, reason error) {
			rest.WriteError(w, r, apierrors.NewBadRequest("unable to upgrade websocket connection: "+reason.Error()))
		},
	}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return nil, err
	}
	return &client{conn: conn, text: strings.Contains(conn.Subprotocol(), "base64")}, nil
}

// send writes one message to a channel.
func (c *client) send(channel byte, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.text {
		return c.conn.WriteMessage(websocket.TextMessage, []byte(string('0'+rune(channel))+base64.StdEncoding.EncodeToString(data)))
	}
	return c.conn.WriteMessage(websocket.BinaryMessage, append([]byte{channel}, data...))
}

// goodbyeTime is how long a client has to say goodbye in its turn.
const goodbyeTime = 2 * time.Second

// close says goodbye and closes the connection when the client has, too: closing while it
// still sends would make its kernel drop what it has not read yet. gone is closed when
// nothing more comes from the client; nil does not wait.
func (c *client) close(gone <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	if gone != nil {
		select {
		case <-gone:
		case <-time.After(goodbyeTime):
		}
	}
	_ = c.conn.Close() // the client may have gone first
}

// receive reads one message and splits the channel off.
func (c *client) receive() (channel byte, data []byte, err error) {
	_, message, err := c.conn.ReadMessage()
	if err != nil || len(message) == 0 {
		return channelStdin, nil, err
	}
	if !c.text {
		return message[0], message[1:], nil
	}
	data, err = base64.StdEncoding.DecodeString(string(message[1:]))
	return message[0] - '0', data, err
}

// messageWriter writes messages without a channel.
type messageWriter struct{ client *client }

// Write implements io.Writer.
func (w messageWriter) Write(p []byte) (int, error) {
	kind, message := websocket.BinaryMessage, p
	if w.client.text {
		kind, message = websocket.TextMessage, []byte(base64.StdEncoding.EncodeToString(p))
	}
	w.client.mu.Lock()
	defer w.client.mu.Unlock()
	return len(p), w.client.conn.WriteMessage(kind, message)
}

// channelWriter writes to one channel.
type channelWriter struct {
	client  *client
	channel byte
}

// Write implements io.Writer.
func (w channelWriter) Write(p []byte) (int, error) {
	if err := w.client.send(w.channel, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// translate serves exec or attach to a WebSocket client by a SPDY connection to the kubelet.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/util/proxy/streamtranslator.go, StreamTranslatorHandler.
func (s *Streams) translate(w http.ResponseWriter, r *http.Request, location *url.URL, t terminal) {
	kubelet, err := s.dialSPDY(r, location, spdyProtocols)
	if err != nil {
		rest.WriteError(w, r, err)
		return
	}
	defer kubelet.Close()
	ws, err := accept(w, r, execProtocols)
	if err != nil {
		return // answered by accept
	}
	streams, err := openStreams(kubelet, t)
	if err != nil {
		defer ws.close(nil)
		_ = ws.send(channelError, fmt.Appendf(nil, `{"metadata":{},"status":"Failure","message":%q,"reason":"InternalError","code":500}`, err))
		return
	}
	_ = ws.send(channelStdout, nil) // upstream's sign that the connection is there
	stop := ws.keepAlive()
	defer stop()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		ws.readInto(streams, kubelet)
	}()
	defer ws.close(gone)

	var wg sync.WaitGroup
	for name, channel := range map[string]byte{"stdout": channelStdout, "stderr": channelStderr} {
		if stream := streams[name]; stream != nil {
			wg.Go(func() { _, _ = io.Copy(channelWriter{ws, channel}, stream) })
		}
	}
	// The error stream carries the exit status and ends last.
	status, err := io.ReadAll(streams["error"])
	wg.Wait()
	if err == nil && len(status) > 0 {
		_ = ws.send(channelError, status)
	}
}

// openStreams opens what the kubelet waits for, each named by a header.
func openStreams(conn httpstream.Connection, t terminal) (map[string]httpstream.Stream, error) {
	streams := map[string]httpstream.Stream{}
	for _, wanted := range []struct {
		name string
		on   bool
	}{{"error", true}, {"stdin", t.stdin}, {"stdout", t.stdout}, {"stderr", t.stderr && !t.tty}, {"resize", t.tty}} {
		if !wanted.on {
			continue
		}
		stream, err := conn.CreateStream(http.Header{"Streamtype": {wanted.name}})
		if err != nil {
			return nil, fmt.Errorf("opening the %s stream to the kubelet: %w", wanted.name, err)
		}
		streams[wanted.name] = stream
	}
	return streams, nil
}

// readInto passes the client's messages on until the client goes, which ends the
// kubelet's side too. What comes for a stream that has ended is dropped.
func (c *client) readInto(streams map[string]httpstream.Stream, kubelet httpstream.Connection) {
	defer kubelet.Close()
	for {
		channel, data, err := c.receive()
		if err != nil {
			return
		}
		switch channel {
		case channelStdin:
			if stdin := streams["stdin"]; stdin != nil && len(data) > 0 {
				_, _ = stdin.Write(data)
			}
		case channelResize:
			if resize := streams["resize"]; resize != nil {
				_, _ = resize.Write(data)
			}
		case channelClose:
			if stdin := streams["stdin"]; stdin != nil && slices.Equal(data, []byte{channelStdin}) {
				_ = stdin.Close()
			}
		}
	}
}

// How often a client is pinged, and how long it may be silent.
const (
	pingInterval = 5 * time.Second
	pingDeadline = 35 * time.Second
)

// keepAlive pings the client, so that neither middle boxes nor a vanished client keep a dead connection open.
func (c *client) keepAlive() (stop func()) {
	extend := func(string) error { return c.conn.SetReadDeadline(time.Now().Add(pingDeadline)) }
	c.conn.SetPongHandler(extend)
	_ = extend("")
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(pingInterval)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				_ = c.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second))
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// dialSPDY opens a SPDY connection to a kubelet.
func (s *Streams) dialSPDY(r *http.Request, location *url.URL, protocols []string) (httpstream.Connection, error) {
	conn, err := s.dialUpgrade(r, location, protocols)
	if err != nil {
		return nil, err
	}
	return spdy.NewClientConnection(conn)
}

// dialUpgrade asks a kubelet to leave HTTP for SPDY and returns the raw connection.
func (s *Streams) dialUpgrade(r *http.Request, location *url.URL, protocols []string) (net.Conn, error) {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, location.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", spdy.HeaderSpdy31)
	req.Header["X-Stream-Protocol-Version"] = protocols
	resp, err := s.kubelet.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("error dialing backend: %w", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		return nil, kubeletError(resp, location.Path)
	}
	body, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		return nil, apierrors.NewInternalError(errors.New("the kubelet's connection cannot be written to"))
	}
	return upgraded{body}, nil
}

// upgraded makes a net.Conn of the body of a 101 response.
type upgraded struct{ io.ReadWriteCloser }

func (upgraded) LocalAddr() net.Addr              { return address{} }
func (upgraded) RemoteAddr() net.Addr             { return address{} }
func (upgraded) SetDeadline(time.Time) error      { return nil }
func (upgraded) SetReadDeadline(time.Time) error  { return nil }
func (upgraded) SetWriteDeadline(time.Time) error { return nil }

// address is the address of a connection that does not know its own.
type address struct{}

func (address) Network() string { return "tcp" }
func (address) String() string  { return "kubelet" }
