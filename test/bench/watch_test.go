package bench

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"orrery/test/peers"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

const (
	// watchesPerConnection is below what both servers allow.
	watchesPerConnection = 50
	// fanOutEvery leaves even 1000 watchers time to get one event before the next.
	fanOutEvery  = 100 * time.Millisecond
	fanOutWithin = 2 * time.Minute
)

// fan is what a fan-out measured.
type fan struct {
	// took is how long each event took to each watcher, in milliseconds from before the write.
	took []float64
	// server and client are what the two used of the processors meanwhile, in microseconds.
	server, client float64
}

// fanOut lets watchers follow n writes.
func (l *load) fanOut(server *peers.Part, watchers, n int) (f fan) {
	w := make([]*wire, 0, watchers/watchesPerConnection+1)
	now := l.now()
	for left := watchers; left > 0; left -= watchesPerConnection {
		w = append(w, l.dial(min(left, watchesPerConnection), now))
	}
	var started, done sync.WaitGroup
	for _, one := range w {
		started.Add(1)
		done.Go(func() {
			defer one.conn.Close()
			if err := one.follow(n, started.Done); err != nil {
				l.t.Errorf("watching: %v", err)
			}
		})
	}
	started.Wait()
	h := l.connection()
	defer h.CloseIdleConnections()
	l.do(h, http.MethodGet, l.c.URL()+"/version", asJSON, nil)
	f.server, f.client = -processor(l.t, server), -ownProcessor(l.t)
	tick := time.NewTicker(fanOutEvery)
	defer tick.Stop()
	for range n {
		<-tick.C
		body := fmt.Sprintf(`{"metadata":{"generateName":"tick-"},"data":{"at":"%d;"}}`, time.Now().UnixNano())
		l.do(h, http.MethodPost, l.url+"/configmaps", asJSON, []byte(body))
	}
	done.Wait()
	f.server, f.client = f.server+processor(l.t, server), f.client+ownProcessor(l.t)
	for _, one := range w {
		f.took = append(f.took, one.took...)
	}
	if want := watchers * n; len(f.took) != want {
		l.t.Errorf("%d watchers got %d events, not %d", watchers, len(f.took), want)
	}
	return f
}

// ownProcessor is what this process has used, in microseconds.
func ownProcessor(t *testing.T) float64 {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / float64(time.Microsecond)
}

// now is the resourceVersion of a list.
func (l *load) now() string {
	h := l.connection()
	defer h.CloseIdleConnections()
	var list metav1.PartialObjectMetadataList
	if err := json.Unmarshal(l.do(h, http.MethodGet, l.url+"/configmaps?limit=1", asJSON, nil), &list); err != nil {
		l.t.Error(err)
	}
	return list.ResourceVersion
}

// wire is one HTTP/2 connection with some watches, read frame by frame in one
// goroutine. A client from a library has a goroutine for each watch, and some
// hand-overs for each event: on the machine of the server that would be measured too.
type wire struct {
	conn    *tls.Conn
	framer  *http2.Framer
	watches int
	took    []float64
}

// dial connects and asks for watches of config maps after a resourceVersion.
func (l *load) dial(watches int, after string) *wire {
	l.t.Helper()
	config, err := rest.TLSConfigFor(l.c.Config("admin", "system:masters"))
	if err != nil {
		l.t.Fatal(err)
	}
	config.NextProtos = []string{http2.NextProtoTLS}
	at, err := url.Parse(l.url)
	if err != nil {
		l.t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", at.Host, config)
	if err != nil {
		l.t.Fatal(err)
	}
	var out bytes.Buffer
	w := &wire{conn: conn, framer: http2.NewFramer(&out, nil), watches: watches}
	out.WriteString(http2.ClientPreface)
	// The window never closes: nobody has to open it.
	const window = 1<<31 - 1
	err = w.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
	if err == nil {
		err = w.framer.WriteWindowUpdate(0, window-65535)
	}
	for i := range watches {
		if err == nil {
			err = w.request(uint32(2*i+1), at.Host, at.Path+"/configmaps?watch=1&resourceVersion="+after)
		}
	}
	if err == nil {
		_, err = conn.Write(out.Bytes())
	}
	if err != nil {
		l.t.Fatal(err)
	}
	w.framer = http2.NewFramer(conn, bufio.NewReaderSize(conn, 1<<16))
	w.framer.SetReuseFrames()
	return w
}

func (w *wire) request(stream uint32, host, path string) error {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	enc.SetMaxDynamicTableSize(0) // each request is whole by itself
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", host}, {":path", path}, {"accept", asJSON}} {
		if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			return err
		}
	}
	return w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
}

// follow reads until each watch has n events. started is called once, when all are answered.
func (w *wire) follow(n int, started func()) error {
	if err := w.conn.SetDeadline(time.Now().Add(fanOutWithin)); err != nil {
		return err
	}
	begin := sync.OnceFunc(started)
	defer begin()
	answered, lines := 0, map[uint32][]byte{}
	for len(w.took) < w.watches*n {
		frame, err := w.framer.ReadFrame()
		if err != nil {
			return fmt.Errorf("after %d events: %w", len(w.took), err)
		}
		stream := frame.Header().StreamID
		switch f := frame.(type) {
		case *http2.DataFrame:
			if f.StreamEnded() {
				return fmt.Errorf("a watch ended after %d events: %s", len(w.took), f.Data())
			}
			if err := w.events(stream, f.Data(), lines); err != nil {
				return err
			}
		case *http2.HeadersFrame:
			if answered++; answered == w.watches {
				begin()
			}
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = w.framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			err = w.framer.WritePing(true, f.Data)
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return fmt.Errorf("the server ended it: %v", f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// events takes the lines of a frame apart; lines has the beginnings of those that are not whole yet.
func (w *wire) events(stream uint32, data []byte, lines map[uint32][]byte) error {
	now := time.Now().UnixNano()
	for {
		line, rest, whole := bytes.Cut(data, []byte("\n"))
		if !whole {
			if len(line) > 0 {
				lines[stream] = append(lines[stream], line...)
			}
			return nil
		}
		if before := lines[stream]; len(before) > 0 {
			line = append(before, line...)
			lines[stream] = nil
		}
		_, value, found := bytes.Cut(line, []byte(`"at":"`))
		value, _, _ = bytes.Cut(value, []byte(";"))
		nanos, err := strconv.ParseInt(string(value), 10, 64)
		if !found || err != nil {
			return fmt.Errorf("not an event of ours: %s", line)
		}
		w.took = append(w.took, milliseconds(time.Duration(now-nanos)))
		data = rest
	}
}
