package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// KeySet holds the public keys that service account tokens are checked with, by their key id.
type KeySet struct{ byID map[string]crypto.PublicKey }

// ParseKeys reads all keys of some PEM files: public keys, certificates or private
// keys (of which only the public half is kept).
//
// Upstream: staging/src/k8s.io/client-go/util/keyutil/key.go, ParsePublicKeysPEM.
func ParseKeys(files ...[]byte) (*KeySet, error) {
	set := &KeySet{byID: map[string]crypto.PublicKey{}}
	for _, data := range files {
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			key, err := publicKey(block)
			if err != nil {
				return nil, err
			}
			id, err := keyID(key)
			if err != nil {
				return nil, err
			}
			set.byID[id] = key
		}
	}
	if len(set.byID) == 0 {
		return nil, errors.New("no service account key in the given PEM data")
	}
	return set, nil
}

// publicKey reads the public half of whatever a PEM block holds.
func publicKey(block *pem.Block) (crypto.PublicKey, error) {
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return cert.PublicKey, nil
	}
	signer, err := privateKey(block)
	if err != nil {
		return nil, err
	}
	return signer.Public(), nil
}

// privateKey reads a PEM block with a private key.
func privateKey(block *pem.Block) (crypto.Signer, error) {
	switch block.Type {
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
	}
	return nil, fmt.Errorf("a PEM block of type %q is not a key for service accounts", block.Type)
}

// keyID is the hash of a public key that tokens carry as "kid".
//
// Upstream: pkg/serviceaccount/jwt.go, keyIDFromPublicKey.
func keyID(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("encoding public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// algorithm is the JWS name of the signatures that a key makes.
func algorithm(key crypto.PublicKey) (string, error) {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return "RS256", nil
	case *ecdsa.PublicKey:
		switch key.Curve.Params().BitSize {
		case 256:
			return "ES256", nil
		case 384:
			return "ES384", nil
		case 521:
			return "ES512", nil
		}
	}
	return "", fmt.Errorf("no signature algorithm for a key of type %T", key)
}

// jwk is one key of the JSON Web Key Set.
type jwk struct {
	Use string `json:"use"`
	Kty string `json:"kty"`
	Kid string `json:"kid"`
	Crv string `json:"crv,omitempty"`
	Alg string `json:"alg"`
	N   string `json:"n,omitempty"`
	E   string `json:"e,omitempty"`
	X   string `json:"x,omitempty"`
	Y   string `json:"y,omitempty"`
}

// jwks lists the keys for others to verify our tokens with.
func (k *KeySet) jwks() ([]jwk, error) {
	b64 := base64.RawURLEncoding.EncodeToString
	var list []jwk
	for id, key := range k.byID {
		alg, err := algorithm(key)
		if err != nil {
			return nil, err
		}
		entry := jwk{Use: "sig", Kid: id, Alg: alg}
		switch key := key.(type) {
		case *rsa.PublicKey:
			entry.Kty, entry.N, entry.E = "RSA", b64(key.N.Bytes()), b64(big.NewInt(int64(key.E)).Bytes())
		case *ecdsa.PublicKey:
			point, err := key.Bytes()
			if err != nil {
				return nil, err
			}
			half := (len(point) - 1) / 2
			entry.Kty, entry.Crv = "EC", key.Curve.Params().Name
			entry.X, entry.Y = b64(point[1:1+half]), b64(point[1+half:])
		}
		list = append(list, entry)
	}
	slices.SortFunc(list, func(a, b jwk) int {
		if a.Kid < b.Kid {
			return -1
		}
		return 1
	})
	return list, nil
}

// OIDC serves /.well-known/openid-configuration and /openid/v1/jwks, with which
// systems outside of the cluster check service account tokens.
//
// Upstream: pkg/routes/openidmetadata.go, OpenIDMetadataServer; pkg/serviceaccount/openidmetadata.go.
type OIDC struct{ config, keys []byte }

// NewOIDC prepares both documents. externalAddress is the HOST:PORT under which clients reach this server.
func NewOIDC(issuer, externalAddress string, keys *KeySet) (*OIDC, error) {
	list, err := keys.jwks()
	if err != nil {
		return nil, err
	}
	var algorithms []string
	for _, key := range list {
		if !slices.Contains(algorithms, key.Alg) {
			algorithms = append(algorithms, key.Alg)
		}
	}
	config, err := json.Marshal(struct {
		Issuer     string   `json:"issuer"`
		JWKS       string   `json:"jwks_uri"`
		Responses  []string `json:"response_types_supported"`
		Subjects   []string `json:"subject_types_supported"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}{issuer, "https://" + externalAddress + "/openid/v1/jwks", []string{"id_token"}, []string{"public"}, algorithms})
	if err != nil {
		return nil, err
	}
	set, err := json.Marshal(map[string]any{"keys": list})
	if err != nil {
		return nil, err
	}
	return &OIDC{config: config, keys: set}, nil
}

// ServeConfig answers /.well-known/openid-configuration.
func (o *OIDC) ServeConfig(w http.ResponseWriter, _ *http.Request) {
	serveDocument(w, "application/json", o.config)
}

// ServeKeys answers /openid/v1/jwks.
func (o *OIDC) ServeKeys(w http.ResponseWriter, _ *http.Request) {
	serveDocument(w, "application/jwk-set+json", o.keys)
}

func serveDocument(w http.ResponseWriter, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "public, max-age=3600")
	_, _ = w.Write(body) // a client that went away is not our error
}

// metaOf returns the metadata of obj.
func metaOf(obj runtime.Object) (metav1.Object, error) { return meta.Accessor(obj) }
