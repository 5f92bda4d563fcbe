package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// hub is where the parts find a server: an address inside the process. While no
// listener is open, dialling is refused, as by a machine whose server is down.
type hub struct {
	mu   sync.Mutex
	open *listener
}

// listener is a net.Listener whose connections are pipes, and those of another listener if there is one.
type listener struct {
	hub    *hub
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	tcp    net.Listener // nil for none
	wg     sync.WaitGroup
}

// listen opens the hub for one life of a server; tcp may be nil.
func (h *hub) listen(tcp net.Listener) *listener {
	l := &listener{hub: h, conns: make(chan net.Conn), closed: make(chan struct{}), tcp: tcp}
	h.mu.Lock()
	h.open = l
	h.mu.Unlock()
	if tcp != nil {
		l.wg.Go(l.acceptTCP)
	}
	return l
}

func (l *listener) acceptTCP() {
	for {
		c, err := l.tcp.Accept()
		if err != nil {
			return // closed: there is nothing else that ends a loopback listener
		}
		select {
		case l.conns <- c:
		case <-l.closed:
			_ = c.Close()
		}
	}
}

func (h *hub) dial(ctx context.Context) (net.Conn, error) {
	h.mu.Lock()
	l := h.open
	h.mu.Unlock()
	refused := &net.OpError{Op: "dial", Net: "pipe", Err: syscall.ECONNREFUSED}
	if l == nil {
		return nil, refused
	}
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.closed:
		return nil, refused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() (err error) {
	l.once.Do(func() {
		l.hub.mu.Lock()
		if l.hub.open == l {
			l.hub.open = nil
		}
		l.hub.mu.Unlock()
		close(l.closed)
		if l.tcp != nil {
			err = l.tcp.Close()
		}
		l.wg.Wait()
	})
	return err
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr {
	if l.tcp != nil {
		return l.tcp.Addr()
	}
	return pipeAddr{}
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "in-process" }

// Link is a part's network cable. Cut, it neither loses nor refuses: bytes wait
// at both of its ends, as TCP has them wait while packets are lost, and go on
// when it is healed, unless somebody has lost patience and hung up.
type Link struct {
	to      func(ctx context.Context, network, address string) (net.Conn, error)
	latency time.Duration // of every answer

	mu    sync.Mutex
	gate  chan struct{} // closed while bytes flow
	delay func() time.Duration
	conns map[*linkConn]struct{}
}

func newLink(to func(ctx context.Context, network, address string) (net.Conn, error), latency time.Duration) *Link {
	l := &Link{to: to, latency: latency, gate: make(chan struct{}), conns: map[*linkConn]struct{}{}}
	close(l.gate)
	return l
}

// Cut stops all bytes, in both directions. Connections stay open.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if isClosed(l.gate) {
		l.gate = make(chan struct{})
	}
}

// Heal lets bytes flow again.
func (l *Link) Heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !isClosed(l.gate) {
		close(l.gate)
	}
}

// Drop breaks every connection: requests fail, watches begin anew.
func (l *Link) Drop() {
	l.mu.Lock()
	var all []*linkConn
	for c := range l.conns {
		all = append(all, c)
	}
	l.mu.Unlock()
	for _, c := range all {
		_ = c.Close()
	}
}

// Delay has every answer, and every event of a watch, come later than usual by
// what f says; nil ends that.
func (l *Link) Delay(f func() time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay = f
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (l *Link) state() (gate chan struct{}, delay time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delay = l.latency
	if l.delay != nil {
		delay += l.delay()
	}
	return l.gate, delay
}

// Dial connects through the link; it waits while the link is cut.
func (l *Link) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	gate, _ := l.state()
	select {
	case <-gate:
	case <-ctx.Done():
		return nil, fmt.Errorf("dial %s: %w", address, ctx.Err())
	}
	inner, err := l.to(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &linkConn{Conn: inner, link: l, closed: make(chan struct{})}
	l.mu.Lock()
	l.conns[c] = struct{}{}
	l.mu.Unlock()
	return c, nil
}

// linkConn is one connection through a link.
type linkConn struct {
	net.Conn
	link   *Link
	closed chan struct{}
	once   sync.Once

	mu      sync.Mutex
	writeBy time.Time   // guarded by mu
	read    time.Time   // when the last bytes were handed out; for the one reader
	asked   atomic.Bool // something was written since
}

// pass waits until the link lets bytes through, or until the deadline if there is one.
func (c *linkConn) pass(gate chan struct{}, by time.Time) error {
	var late <-chan time.Time
	if !by.IsZero() && !isClosed(gate) {
		t := time.NewTimer(time.Until(by))
		defer t.Stop()
		late = t.C
	}
	select {
	case <-gate:
		return nil
	case <-c.closed:
		return net.ErrClosed
	case <-late:
		return errors.New("i/o timeout: the link is cut")
	}
}

// Read implements net.Conn.
func (c *linkConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		return n, err
	}
	gate, delay := c.link.state()
	// What follows at once belongs to the same answer, unless there was a question between.
	if asked := c.asked.Swap(false); delay > 0 && (asked || time.Since(c.read) > delay/10) {
		t := time.NewTimer(delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
	if err := c.pass(gate, time.Time{}); err != nil {
		return 0, err
	}
	c.read = time.Now()
	return n, nil
}

// Write implements net.Conn.
func (c *linkConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	by := c.writeBy
	c.mu.Unlock()
	gate, _ := c.link.state()
	if err := c.pass(gate, by); err != nil {
		return 0, err
	}
	c.asked.Store(true)
	return c.Conn.Write(b)
}

// SetWriteDeadline implements net.Conn.
func (c *linkConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	c.writeBy = t
	c.mu.Unlock()
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *linkConn) SetDeadline(t time.Time) error {
	return errors.Join(c.Conn.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Close implements net.Conn.
func (c *linkConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.link.mu.Lock()
		delete(c.link.conns, c)
		c.link.mu.Unlock()
	})
	return c.Conn.Close()
}
