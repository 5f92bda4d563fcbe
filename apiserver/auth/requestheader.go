package auth

import (
	"crypto/x509"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// RequestHeader believes the user names that a front proxy (an aggregating API
// server) puts into headers, but only from a proxy whose certificate RequestHeader.Roots signed.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/authentication/request/headerrequest/requestheader.go, requestHeaderAuthRequestHandler.
type RequestHeader struct {
	// Roots are the authorities of --requestheader-client-ca-file; nil switches the authenticator off.
	Roots *x509.CertPool
	// AllowedNames are the proxies' common names (--requestheader-allowed-names); empty allows any.
	AllowedNames []string
	// UsernameHeaders, GroupHeaders and ExtraHeaderPrefixes name the headers to read.
	UsernameHeaders, GroupHeaders, ExtraHeaderPrefixes []string
}

// Authenticate implements Authenticator. The headers are removed, whether or not they were believed.
func (a RequestHeader) Authenticate(req *http.Request) (*UserInfo, bool, error) {
	if a.Roots == nil || req.TLS == nil || len(req.TLS.PeerCertificates) == 0 {
		return nil, false, nil
	}
	name := firstHeader(req.Header, a.UsernameHeaders)
	if name == "" {
		return nil, false, nil
	}
	proxy := req.TLS.PeerCertificates[0]
	if err := verifyChain(req.TLS.PeerCertificates, a.Roots); err != nil {
		return nil, false, err
	}
	if len(a.AllowedNames) > 0 && !slices.Contains(a.AllowedNames, proxy.Subject.CommonName) {
		return nil, false, nil
	}
	user := &UserInfo{Name: name, Extra: takeExtra(req.Header, a.ExtraHeaderPrefixes)}
	for _, header := range a.GroupHeaders {
		user.Groups = append(user.Groups, req.Header.Values(header)...)
		req.Header.Del(header)
	}
	for _, header := range a.UsernameHeaders {
		req.Header.Del(header)
	}
	return user, true, nil
}

// firstHeader returns the first value among headers that is not empty.
func firstHeader(h http.Header, headers []string) string {
	for _, name := range headers {
		if v := strings.TrimSpace(h.Get(name)); v != "" {
			return v
		}
	}
	return ""
}

// takeExtra collects and removes the headers that start with one of prefixes; keys are percent-decoded and lower case.
func takeExtra(h http.Header, prefixes []string) map[string][]string {
	extra := map[string][]string{}
	for _, prefix := range prefixes {
		for name, values := range h {
			if len(name) <= len(prefix) || !strings.EqualFold(name[:len(prefix)], prefix) {
				continue
			}
			key := strings.ToLower(name[len(prefix):])
			if decoded, err := url.PathUnescape(key); err == nil {
				key = decoded
			}
			extra[key] = append(extra[key], values...)
			h.Del(name)
		}
	}
	return extra
}
