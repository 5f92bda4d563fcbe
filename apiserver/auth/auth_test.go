package auth_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"orrery/apiserver/auth"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// authority signs client certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// request is a request with a client certificate.
func (a *authority) request(t *testing.T, user string, groups ...string) *http.Request {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: user, Organization: groups},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	req := httptest.NewRequest("GET", "/", nil)
	req.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
	return req
}

func TestACertificateNamesUserAndGroups(t *testing.T) {
	ca := newAuthority(t)
	chain := auth.Chain{Authenticators: []auth.Authenticator{&auth.X509{Roots: ca.pool()}}, AllowAnonymous: true}
	user, ok, err := chain.Authenticate(ca.request(t, "alice", "dev"))
	if !ok || err != nil || user.Name != "alice" || !slices.Equal(user.Groups, []string{"dev", "system:authenticated"}) {
		t.Errorf("%v %v %v", user, ok, err)
	}
	if _, ok, err := chain.Authenticate(newAuthority(t).request(t, "alice", "system:masters")); ok || err == nil {
		t.Error("a certificate of another authority was believed")
	}
	anonymous, ok, err := chain.Authenticate(httptest.NewRequest("GET", "/", nil))
	if !ok || err != nil || anonymous.Name != "system:anonymous" || !slices.Equal(anonymous.Groups, []string{"system:unauthenticated"}) {
		t.Errorf("without a certificate: %v %v %v", anonymous, ok, err)
	}
}

// That a chain was good a moment ago is no reason to believe it after its end.
func TestACertificateIsGoodUntilItExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t)
		x, req := &auth.X509{Roots: ca.pool()}, ca.request(t, "alice")
		for _, step := range []struct {
			wait time.Duration
			good bool
		}{{0, true}, {30 * time.Second, true}, {59*time.Minute + 15*time.Second, true}, {30 * time.Second, false}} {
			time.Sleep(step.wait)
			if _, ok, err := x.Authenticate(req); ok != step.good || (err == nil) != step.good {
				t.Errorf("after another %v: %v %v", step.wait, ok, err)
			}
		}
	})
}

func TestAFrontProxySpeaksForOthers(t *testing.T) {
	ca := newAuthority(t)
	proxy := auth.RequestHeader{Roots: ca.pool(), AllowedNames: []string{"front-proxy-client"},
		UsernameHeaders: []string{"X-Remote-User"}, GroupHeaders: []string{"X-Remote-Group"}, ExtraHeaderPrefixes: []string{"X-Remote-Extra-"}}
	with := func(name string) *http.Request {
		req := ca.request(t, name)
		req.Header.Set("X-Remote-User", "bob")
		req.Header.Set("X-Remote-Group", "ops")
		req.Header.Set("X-Remote-Extra-Scopes", "all")
		return req
	}
	req := with("front-proxy-client")
	user, ok, err := proxy.Authenticate(req)
	if !ok || err != nil || user.Name != "bob" || user.Groups[0] != "ops" || user.Extra["scopes"][0] != "all" {
		t.Errorf("%v %v %v", user, ok, err)
	}
	if req.Header.Get("X-Remote-User") != "" {
		t.Error("the header was left in the request")
	}
	if _, ok, _ := proxy.Authenticate(with("mallory")); ok {
		t.Error("a client that is no front proxy was believed")
	}
}

// inCluster runs test in a bubble, with a store of objects.
func inCluster(t *testing.T, test func(t *testing.T, c *cluster)) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		test(t, c)
		c.close()
	})
}

func bootstrapToken(change func(data map[string][]byte)) *corev1.Secret {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-abcdef"}, Type: "bootstrap.kubernetes.io/token",
		Data: map[string][]byte{"token-id": []byte("abcdef"), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-authentication": []byte("true"),
			"auth-extra-groups": []byte("system:bootstrappers:kubeadm:default-node-token")}}
	if change != nil {
		change(secret.Data)
	}
	return secret
}

func TestABootstrapTokenLetsANodeIn(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		c.create("secrets", bootstrapToken(func(data map[string][]byte) {
			data["expiration"] = []byte(time.Now().Add(time.Hour).Format(time.RFC3339))
		}))
		tokens := auth.BootstrapTokens{Objects: c.objects}
		user, ok, err := tokens.AuthenticateToken(t.Context(), "abcdef.0123456789abcdef", nil)
		if !ok || err != nil || user.Name != "system:bootstrap:abcdef" ||
			!slices.Equal(user.Groups, []string{"system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token"}) {
			t.Errorf("%v %v %v", user, ok, err)
		}
		for _, wrong := range []string{"abcdef.0123456789abcdee", "bbcdef.0123456789abcdef", "abcdef", "abcdef.0123456789ABCDEF"} {
			if _, ok, _ := tokens.AuthenticateToken(t.Context(), wrong, nil); ok {
				t.Errorf("%s was believed", wrong)
			}
		}
		time.Sleep(time.Hour)
		if _, ok, _ := tokens.AuthenticateToken(t.Context(), "abcdef.0123456789abcdef", nil); ok {
			t.Error("an expired token was believed")
		}
	})
}

func TestABootstrapTokenForSigningOnlyIsNoCredential(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		c.create("secrets", bootstrapToken(func(data map[string][]byte) { delete(data, "usage-bootstrap-authentication") }))
		if _, ok, _ := (auth.BootstrapTokens{Objects: c.objects}).AuthenticateToken(t.Context(), "abcdef.0123456789abcdef", nil); ok {
			t.Error("it was believed")
		}
	})
}

// issuer signs and checks the tokens of a cluster.
type issuer struct {
	*auth.TokenIssuer
	*auth.ServiceAccountTokens
}

const issuerURL = "https://kubernetes.default.svc.cluster.local"

func newIssuer(t *testing.T, c *cluster) issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	signer, err := auth.NewTokenIssuer(issuerURL, []string{issuerURL}, data, true, c.objects)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := auth.ParseKeys(data)
	if err != nil {
		t.Fatal(err)
	}
	return issuer{signer, &auth.ServiceAccountTokens{Issuers: []string{issuerURL}, Audiences: []string{issuerURL}, Keys: keys, Objects: c.objects}}
}

func (i issuer) token(t *testing.T, spec authv1.TokenRequestSpec) string {
	t.Helper()
	answer, err := i.Create(t.Context(), "default", "robot", &authv1.TokenRequest{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status.Token
}

func robot() *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "robot"}}
}

func runningPod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PodSpec{ServiceAccountName: "robot", NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
}

func TestAServiceAccountTokenLivesAnHour(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		account := c.create("serviceaccounts", robot()).(*corev1.ServiceAccount)
		issuer := newIssuer(t, c)
		token := issuer.token(t, authv1.TokenRequestSpec{})
		user, ok, err := issuer.AuthenticateToken(t.Context(), token, nil)
		if !ok || err != nil || user.Name != "system:serviceaccount:default:robot" || user.UID != string(account.UID) ||
			!slices.Equal(user.Groups, []string{"system:serviceaccounts", "system:serviceaccounts:default"}) {
			t.Errorf("%v %v %v", user, ok, err)
		}
		if id := user.Extra["authentication.kubernetes.io/credential-id"]; len(id) != 1 || !strings.HasPrefix(id[0], "JTI=") {
			t.Errorf("credential id %v", id)
		}
		time.Sleep(time.Hour - time.Second)
		if _, ok, _ := issuer.AuthenticateToken(t.Context(), token, nil); !ok {
			t.Error("refused before its time")
		}
		time.Sleep(time.Second)
		if _, ok, err := issuer.AuthenticateToken(t.Context(), token, nil); ok || err == nil {
			t.Error("believed after its time")
		}
	})
}

func TestATokenDiesWithItsPodAndNotWithAnotherOfItsName(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		c.create("serviceaccounts", robot())
		c.create("nodes", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
		c.create("pods", runningPod("web"))
		issuer := newIssuer(t, c)
		token := issuer.token(t, authv1.TokenRequestSpec{BoundObjectRef: &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "web"}})
		user, ok, err := issuer.AuthenticateToken(t.Context(), token, nil)
		if !ok || err != nil || user.Extra["authentication.kubernetes.io/pod-name"][0] != "web" || user.Extra["authentication.kubernetes.io/node-name"][0] != "n1" {
			t.Errorf("%v %v %v", user, ok, err)
		}
		c.remove("pods", "default", "web")
		if _, ok, _ := issuer.AuthenticateToken(t.Context(), token, nil); ok {
			t.Error("believed although the pod is gone")
		}
		c.create("pods", runningPod("web"))
		if _, ok, _ := issuer.AuthenticateToken(t.Context(), token, nil); ok {
			t.Error("believed because of another pod of that name")
		}
	})
}

func TestATokenForOthersIsNoneForTheAPIServer(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		c.create("serviceaccounts", robot())
		issuer := newIssuer(t, c)
		token := issuer.token(t, authv1.TokenRequestSpec{Audiences: []string{"vault"}})
		if _, ok, err := issuer.AuthenticateToken(t.Context(), token, nil); ok || err == nil {
			t.Error("believed")
		}
		if _, ok, err := issuer.AuthenticateToken(t.Context(), token, []string{"vault"}); !ok || err != nil {
			t.Errorf("vault's own question: %v", err)
		}
		body, signature, _ := cutLast(token, ".")
		forged := body + "." + base64.RawURLEncoding.EncodeToString(make([]byte, len(signature)*3/4))
		if _, ok, err := issuer.AuthenticateToken(t.Context(), forged, []string{"vault"}); ok || err == nil {
			t.Error("a forged signature was believed")
		}
	})
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	return s[:i], s[i+len(sep):], i >= 0
}

// Pods made before tokens expired read theirs once; they get a year, and a note when it should have been renewed.
func TestThePodVolumesTokenIsExtendedToAYear(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		c.create("serviceaccounts", robot())
		c.create("pods", runningPod("web"))
		issuer := newIssuer(t, c)
		seconds := int64(3607)
		token := issuer.token(t, authv1.TokenRequestSpec{ExpirationSeconds: &seconds, BoundObjectRef: &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "web"}})
		payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
		if err != nil {
			t.Fatal(err)
		}
		var claims struct {
			Exp, Iat   int64
			Sub        string
			Kubernetes struct{ WarnAfter int64 } `json:"kubernetes.io"`
		}
		if err := json.Unmarshal(payload, &claims); err != nil {
			t.Fatal(err)
		}
		if claims.Exp-claims.Iat != 365*24*3600 || claims.Kubernetes.WarnAfter-claims.Iat != 3607 || claims.Sub != "system:serviceaccount:default:robot" {
			t.Errorf("claims: %+v", claims)
		}
	})
}

func TestTokenRequestsAreRefusedWithReasons(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		c.create("serviceaccounts", robot())
		other := runningPod("other")
		other.Spec.ServiceAccountName = "default"
		c.create("pods", other)
		issuer := newIssuer(t, c)
		five := int64(5)
		for want, spec := range map[string]authv1.TokenRequestSpec{
			"spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes": {ExpirationSeconds: &five},
			`pods "nope" not found`: {BoundObjectRef: &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "nope"}},
			`cannot bind token for serviceaccount "robot" to pod running with different serviceaccount name.`: {BoundObjectRef: &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "other"}},
			"cannot bind token to object of type apps/v1, Kind=Deployment":                                    {BoundObjectRef: &authv1.BoundObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "x"}},
		} {
			if _, err := issuer.Create(t.Context(), "default", "robot", &authv1.TokenRequest{Spec: spec}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
		}
		if _, err := issuer.Create(t.Context(), "default", "nobody", &authv1.TokenRequest{}); err == nil || err.Error() != `serviceaccounts "nobody" not found` {
			t.Errorf("unknown account: %v", err)
		}
	})
}

func TestOthersCanCheckOurTokens(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		issuer := newIssuer(t, c)
		oidc, err := auth.NewOIDC(issuerURL, "172.30.0.2:6443", issuer.Keys)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		oidc.ServeConfig(w, nil)
		var config map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &config); err != nil {
			t.Fatal(err)
		}
		if config["issuer"] != issuerURL || config["jwks_uri"] != "https://172.30.0.2:6443/openid/v1/jwks" {
			t.Errorf("%v", config)
		}
		w = httptest.NewRecorder()
		oidc.ServeKeys(w, nil)
		if w.Header().Get("Content-Type") != "application/jwk-set+json" || !strings.Contains(w.Body.String(), `"crv":"P-256"`) {
			t.Errorf("%s", w.Body)
		}
	})
}

// tokenOf is a token authenticator that knows one token.
type tokenOf map[string]string

func (k tokenOf) AuthenticateToken(_ context.Context, token string, _ []string) (*auth.UserInfo, bool, error) {
	if name, ok := k[token]; ok {
		return &auth.UserInfo{Name: name}, true, nil
	}
	if token == "broken" {
		return nil, false, errors.New("cannot look")
	}
	return nil, false, nil
}

func TestATokenComesInTheHeaderOrAsWebSocketProtocol(t *testing.T) {
	chain := auth.Chain{Authenticators: []auth.Authenticator{auth.Bearer{Tokens: auth.Tokens{tokenOf{"good": "alice"}}}}, AllowAnonymous: true}
	req := httptest.NewRequest("GET", "/", nil)
	req.Header.Set("Authorization", "Bearer good")
	if user, ok, err := chain.Authenticate(req); !ok || err != nil || user.Name != "alice" {
		t.Errorf("%v %v %v", user, ok, err)
	}
	if req.Header.Get("Authorization") != "" {
		t.Error("the token was left in the request")
	}
	for _, wrong := range []string{"bad", "broken"} {
		req.Header.Set("Authorization", "Bearer "+wrong)
		if _, ok, err := chain.Authenticate(req); ok || err == nil {
			t.Errorf("the token %q was treated as no token", wrong)
		}
	}
	req = httptest.NewRequest("GET", "/", nil)
	req.Header.Set("Upgrade", "websocket")
	req.Header.Set("Sec-WebSocket-Protocol", "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io."+base64.RawURLEncoding.EncodeToString([]byte("good")))
	if user, ok, err := chain.Authenticate(req); !ok || err != nil || user.Name != "alice" {
		t.Errorf("%v %v %v", user, ok, err)
	}
	if got := req.Header.Get("Sec-WebSocket-Protocol"); got != "v4.channel.k8s.io" {
		t.Errorf("protocols left: %q", got)
	}
}
