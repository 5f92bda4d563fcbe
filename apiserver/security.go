package apiserver

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"orrery/apiserver/auth"
	"orrery/apiserver/auth/node"
	"orrery/apiserver/auth/rbac"
	"orrery/apiserver/auth/review"
)

// secure sets up who is let in, and what for, from the config.
func (s *Server) secure() error {
	rules := &rbac.Authorizer{Objects: s.registry}
	s.authorizer = auth.Union{auth.MastersOnly{}}
	if s.config.AllowAll {
		s.authorizer = auth.Masters{}
	} else if err := s.authorizers(rules); err != nil {
		return err
	}
	tokens, keys, err := s.tokens()
	if err != nil {
		return err
	}
	if s.config.AllowAll {
		s.authenticator = auth.Masters{}
	} else if s.authenticator, err = s.authenticators(tokens); err != nil {
		return err
	}
	c := &s.config.Authentication
	var issuer *auth.TokenIssuer
	if c.ServiceAccountSigningKey != "" {
		pem, err := os.ReadFile(c.ServiceAccountSigningKey)
		if err != nil {
			return err
		}
		if len(c.ServiceAccountIssuers) == 0 {
			return errors.New("a service account signing key needs an issuer")
		}
		if issuer, err = auth.NewTokenIssuer(c.ServiceAccountIssuers[0], s.audiences(), pem, c.ServiceAccountExtendedToken, s.registry); err != nil {
			return err
		}
	}
	if keys != nil && len(c.ServiceAccountIssuers) > 0 {
		if s.oidc, err = auth.NewOIDC(c.ServiceAccountIssuers[0], s.address(), keys); err != nil {
			return err
		}
	}
	reviews := &review.Reviews{Authorizer: s.authorizer, Rules: rules, Tokens: tokens, Audiences: s.audiences(), Issuer: issuer}
	for key, create := range reviews.Handlers() {
		s.hooks.Create[key] = create
	}
	s.escalation = &rbac.Escalation{Rules: rules, Authorizer: s.authorizer}
	return nil
}

// authorizers makes the union of --authorization-mode.
func (s *Server) authorizers(rules *rbac.Authorizer) error {
	union := auth.Union{auth.MastersOnly{}}
	for _, mode := range s.config.AuthorizationModes {
		switch mode {
		case "Node":
			union = append(union, &node.Authorizer{Objects: s.registry})
		case "RBAC":
			union = append(union, rules)
		case "AlwaysAllow":
			union = append(union, auth.AlwaysAllow{})
		case "AlwaysDeny":
			union = append(union, auth.AlwaysDeny{})
		default:
			return fmt.Errorf("unknown authorization mode %q", mode)
		}
	}
	s.authorizer = union
	return nil
}

// authenticators makes the chain: front proxy, client certificate, token, anonymous.
func (s *Server) authenticators(tokens auth.TokenAuthenticator) (auth.Authenticator, error) {
	c := &s.config.Authentication
	chain := auth.Chain{AllowAnonymous: c.Anonymous}
	if c.RequestHeaderCAFile != "" {
		roots, err := s.pool(c.RequestHeaderCAFile)
		if err != nil {
			return nil, err
		}
		chain.Authenticators = append(chain.Authenticators, auth.RequestHeader{Roots: roots, AllowedNames: c.RequestHeaderAllowedNames,
			UsernameHeaders: c.RequestHeaderUsername, GroupHeaders: c.RequestHeaderGroup, ExtraHeaderPrefixes: c.RequestHeaderExtraPrefix})
	}
	if c.ClientCAFile != "" {
		roots, err := s.pool(c.ClientCAFile)
		if err != nil {
			return nil, err
		}
		chain.Authenticators = append(chain.Authenticators, &auth.X509{Roots: roots})
	}
	chain.Authenticators = append(chain.Authenticators, auth.Bearer{Tokens: tokens})
	return chain, nil
}

// pool reads a bundle of authorities; they also become those that the TLS
// handshake names to clients.
func (s *Server) pool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	s.clientCAs.AppendCertsFromPEM(pem)
	return roots, nil
}

func (s *Server) tokens() (auth.TokenAuthenticator, *auth.KeySet, error) {
	c := &s.config.Authentication
	var tokens auth.Tokens
	var keys *auth.KeySet
	if len(c.ServiceAccountKeyFiles) > 0 {
		var files [][]byte
		for _, name := range c.ServiceAccountKeyFiles {
			pem, err := os.ReadFile(name)
			if err != nil {
				return nil, nil, err
			}
			files = append(files, pem)
		}
		var err error
		if keys, err = auth.ParseKeys(files...); err != nil {
			return nil, nil, err
		}
		tokens = append(tokens, &auth.ServiceAccountTokens{Issuers: c.ServiceAccountIssuers, Audiences: s.audiences(), Keys: keys, Objects: s.registry})
	}
	if c.BootstrapTokens {
		tokens = append(tokens, auth.BootstrapTokens{Objects: s.registry})
	}
	return tokens, keys, nil
}

// audiences are --api-audiences, or the issuers.
func (s *Server) audiences() []string {
	if c := &s.config.Authentication; len(c.APIAudiences) == 0 {
		return c.ServiceAccountIssuers
	}
	return s.config.Authentication.APIAudiences
}

// address is where clients reach this server, HOST:PORT.
func (s *Server) address() string {
	host := s.config.BindAddress
	if s.config.AdvertiseAddress.IsValid() {
		host = s.config.AdvertiseAddress.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(s.config.SecurePort))
}
