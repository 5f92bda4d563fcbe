package apiserver

import (
	"crypto/tls"
	"fmt"
	"net"
	"runtime"
	"strconv"
)

// listen opens the secure port, or takes the listener that the config brings;
// without a certificate it speaks plain HTTP.
func (s *Server) listen() (net.Listener, error) {
	listener := s.config.Listener
	if listener == nil {
		var err error
		if listener, err = net.Listen("tcp", net.JoinHostPort(s.config.BindAddress, strconv.Itoa(s.config.SecurePort))); err != nil {
			return nil, err
		}
	}
	if s.config.TLSCertFile == "" {
		return listener, nil
	}
	cert, err := tls.LoadX509KeyPair(s.config.TLSCertFile, s.config.TLSKeyFile)
	if err != nil {
		_ = listener.Close()
		return nil, fmt.Errorf("serving certificate: %w", err)
	}
	// Client certificates are asked for but checked by the authenticator: a request may come with a token instead.
	return tls.NewListener(gatherer{listener}, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"}, ClientAuth: tls.RequestClientCert, ClientCAs: s.clientCAs}), nil
}

// gatherer makes one write of what many streams of an HTTP/2 connection have to
// say at the same time.
//
// An event wakes every watch. net/http sends the first one's frame at once, as a
// TLS record and a system call of its own, and then the next one's: a thousand
// watches, a thousand calls. While a write is under way, though, it collects the
// frames of the other streams and sends them together. So each write steps back
// once, behind whoever is ready to run; with nobody ready that takes no time.
//
// Upstream: nothing; its API server makes a write for each frame.
type gatherer struct{ net.Listener }

// Accept implements net.Listener.
func (g gatherer) Accept() (net.Conn, error) {
	c, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return gathered{c}, nil
}

type gathered struct{ net.Conn }

func (c gathered) Write(b []byte) (int, error) {
	runtime.Gosched()
	return c.Conn.Write(b)
}
