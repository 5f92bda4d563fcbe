package apiserver_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"orrery/apiserver"
	"orrery/apiserver/store/memory"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// secured is a server as kubeadm configures it, asked by certificate holders.
type secured struct {
	t       *testing.T
	handler http.Handler
	ca      *x509.Certificate
	key     *ecdsa.PrivateKey
}

func startSecured(t *testing.T) *secured {
	t.Helper()
	s := &secured{t: t}
	dir := t.TempDir()
	var err error
	if s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, s.key.Public(), s.key)
	if err != nil {
		t.Fatal(err)
	}
	if s.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keyDER, err := x509.MarshalECPrivateKey(s.key)
	if err != nil {
		t.Fatal(err)
	}
	keyFile := write("sa.key", "EC PRIVATE KEY", keyDER)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, err := apiserver.New(apiserver.Config{
		Store: memory.New(), Version: "v1.36.3+test", Log: slog.New(slog.DiscardHandler), Listener: listener,
		AdvertiseAddress: netip.MustParseAddr("172.30.0.2"), SecurePort: 6443, ServiceCIDR: netip.MustParsePrefix("10.96.0.0/12"),
		FirstNodePort: 30000, LastNodePort: 32767, AuthorizationModes: []string{"Node", "RBAC"},
		Authentication: apiserver.Authentication{ClientCAFile: write("ca.crt", "CERTIFICATE", der), Anonymous: true, BootstrapTokens: true,
			ServiceAccountIssuers: []string{"https://kubernetes.default.svc.cluster.local"}, ServiceAccountKeyFiles: []string{keyFile}, ServiceAccountSigningKey: keyFile},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.handler = server.Handler()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	deadline := time.Now().Add(20 * time.Second)
	for s.do("", "GET", "/readyz", nil).Code != http.StatusOK {
		if time.Now().After(deadline) {
			t.Fatalf("not ready: %s", s.do("admin/system:masters", "GET", "/readyz?verbose", nil).Body)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return s
}

// do sends a request as "user/group,group", or without a certificate.
func (s *secured) do(as, method, path string, body any, headers ...string) *httptest.ResponseRecorder {
	s.t.Helper()
	var payload bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&payload).Encode(body); err != nil {
			s.t.Fatal(err)
		}
	}
	req := httptest.NewRequest(method, path, &payload)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	if as != "" {
		user, groups, _ := strings.Cut(as, "/")
		template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: user},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		if groups != "" {
			template.Subject.Organization = strings.Split(groups, ",")
		}
		der, err := x509.CreateCertificate(rand.Reader, template, s.ca, s.key.Public(), s.key)
		if err != nil {
			s.t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			s.t.Fatal(err)
		}
		req.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, req)
	return w
}

// must sends a request as administrator that has to succeed.
func (s *secured) must(method, path string, body any) {
	s.t.Helper()
	if w := s.do("admin/system:masters", method, path, body); w.Code >= 300 {
		s.t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
}

// refused sends a request and compares the Status.
func (s *secured) refused(as, method, path string, body any, code int, message string, headers ...string) {
	s.t.Helper()
	w := s.do(as, method, path, body, headers...)
	var status metav1.Status
	if err := json.Unmarshal(w.Body.Bytes(), &status); err != nil {
		s.t.Fatalf("%s %s: %v in %s", method, path, err, w.Body)
	}
	if w.Code != code || status.Message != message {
		s.t.Errorf("%s %s as %q:\n got %d %s\nwant %d %s", method, path, as, w.Code, status.Message, code, message)
	}
}

func answer[T any](t *testing.T, w *httptest.ResponseRecorder) T {
	t.Helper()
	var v T
	if w.Code >= 300 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// The texts are those of a kube-apiserver v1.36.3.
func TestWhatIsNotAllowedIsForbiddenInUpstreamsWords(t *testing.T) {
	s := startSecured(t)
	for _, c := range []struct{ method, path, message string }{
		{"GET", "/api/v1/namespaces/default/secrets", `secrets is forbidden: User "alice" cannot list resource "secrets" in API group "" in the namespace "default"`},
		{"GET", "/api/v1/nodes", `nodes is forbidden: User "alice" cannot list resource "nodes" in API group "" at the cluster scope`},
		{"GET", "/api/v1/namespaces/default/secrets/foo", `secrets "foo" is forbidden: User "alice" cannot get resource "secrets" in API group "" in the namespace "default"`},
		{"GET", "/api/v1/namespaces/default/pods/x/log", `pods "x" is forbidden: User "alice" cannot get resource "pods/log" in API group "" in the namespace "default"`},
		{"POST", "/apis/apps/v1/namespaces/default/deployments", `deployments.apps is forbidden: User "alice" cannot create resource "deployments" in API group "apps" in the namespace "default"`},
		{"GET", "/metrics", `forbidden: User "alice" cannot get path "/metrics"`},
		{"GET", "/api/v1/namespaces/default/pods/x/exec", `pods "x" is forbidden: User "alice" cannot create resource "pods/exec" in API group "" in the namespace "default"`},
	} {
		s.refused("alice/dev", c.method, c.path, nil, 403, c.message)
	}
	s.refused("alice/dev", "GET", "/api/v1/pods", nil, 403,
		`pods is forbidden: User "alice" cannot impersonate-on:user-info:list resource "pods" in API group "" at the cluster scope`, "Impersonate-User", "bob")
	s.refused("", "GET", "/api/v1/pods", nil, 403, `pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" at the cluster scope`)
	s.refused("", "GET", "/api/v1/pods", nil, 401, "Unauthorized", "Authorization", "Bearer nonsense")
}

func TestARoleIsEffectiveAtOnce(t *testing.T) {
	s := startSecured(t)
	const pods = "/api/v1/namespaces/default/pods"
	s.must("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", &rbacv1.Role{
		TypeMeta: metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "Role"}, ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list"}}}})
	binding := &rbacv1.RoleBinding{TypeMeta: metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "RoleBinding"}, ObjectMeta: metav1.ObjectMeta{Name: "dev-reads"},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"}, Subjects: []rbacv1.Subject{{Kind: "Group", Name: "dev", APIGroup: rbacv1.GroupName}}}
	for range 20 {
		s.must("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding)
		if w := s.do("alice/dev", "GET", pods, nil); w.Code != 200 {
			t.Fatalf("right after the binding: %d %s", w.Code, w.Body)
		}
		if w := s.do("bob/ops", "GET", pods, nil); w.Code != 403 {
			t.Fatalf("another group: %d", w.Code)
		}
		if w := s.do("alice/dev", "GET", "/api/v1/namespaces/kube-system/pods", nil); w.Code != 403 {
			t.Fatalf("another namespace: %d", w.Code)
		}
		s.must("DELETE", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings/dev-reads", nil)
		if w := s.do("alice/dev", "GET", pods, nil); w.Code != 403 {
			t.Fatalf("after the binding went: %d", w.Code)
		}
	}
}

func TestNobodyGivesAwayWhatHeDoesNotHave(t *testing.T) {
	s := startSecured(t)
	rbacAdmin := []rbacv1.PolicyRule{{APIGroups: []string{rbacv1.GroupName}, Resources: []string{"roles", "rolebindings"}, Verbs: []string{"create", "update"}},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}}}
	meta := func(kind, name string) (metav1.TypeMeta, metav1.ObjectMeta) {
		return metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: kind}, metav1.ObjectMeta{Name: name}
	}
	role := func(name string, rules ...rbacv1.PolicyRule) *rbacv1.Role {
		r := &rbacv1.Role{Rules: rules}
		r.TypeMeta, r.ObjectMeta = meta("Role", name)
		return r
	}
	const base = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/"
	s.must("POST", base+"roles", role("rbac-admin", rbacAdmin...))
	own := &rbacv1.RoleBinding{RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "rbac-admin"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "alice", APIGroup: rbacv1.GroupName}}}
	own.TypeMeta, own.ObjectMeta = meta("RoleBinding", "alice")
	s.must("POST", base+"rolebindings", own)

	held := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}}
	if w := s.do("alice", "POST", base+"roles", role("fine", held)); w.Code != 201 {
		t.Errorf("a role with rules that she holds: %d %s", w.Code, w.Body)
	}
	s.refused("alice", "POST", base+"roles", role("greedy", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "list"}}), 403,
		`roles.rbac.authorization.k8s.io "greedy" is forbidden: user "alice" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:`+"\n"+
			`{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}`)
	toAdmin := &rbacv1.RoleBinding{RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}, Subjects: own.Subjects}
	toAdmin.TypeMeta, toAdmin.ObjectMeta = meta("RoleBinding", "takeover")
	s.refused("alice", "POST", base+"rolebindings", toAdmin, 403,
		`rolebindings.rbac.authorization.k8s.io "takeover" is forbidden: user "alice" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:`+"\n"+
			`{APIGroups:["*"], Resources:["*"], Verbs:["*"]}`+"\n"+`{NonResourceURLs:["*"], Verbs:["*"]}`)
}

func TestANodeSeesWhatItsPodsNeed(t *testing.T) {
	s := startSecured(t)
	for _, n := range []string{"n1", "n2"} {
		s.must("POST", "/api/v1/nodes", &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: n}})
	}
	s.must("POST", "/api/v1/namespaces/default/serviceaccounts", &corev1.ServiceAccount{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	for _, name := range []string{"used", "unused"} {
		s.must("POST", "/api/v1/namespaces/default/secrets", &corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	s.must("POST", "/api/v1/namespaces/default/pods", &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i",
			EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "used"}}}}}}}})
	n1, n2 := "system:node:n1/system:nodes", "system:node:n2/system:nodes"
	for path, code := range map[string]int{
		"/api/v1/namespaces/default/secrets/used":                               200,
		"/api/v1/namespaces/default/secrets/unused":                             403,
		"/api/v1/namespaces/default/secrets":                                    403,
		"/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dused": 200,
		"/api/v1/namespaces/default/pods/web":                                   200,
		"/api/v1/pods?fieldSelector=spec.nodeName%3Dn1":                         200,
		"/api/v1/pods":     403,
		"/api/v1/nodes/n1": 200,
		"/api/v1/nodes/n2": 403,
		"/api/v1/services": 200,
		"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n2": 403,
		"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1": 404,
		"/apis/storage.k8s.io/v1/csinodes/n1":                               404,
		"/api/v1/namespaces/default/configmaps/kube-root-ca.crt":            404,
		"/api/v1/namespaces/default/serviceaccounts/default":                200,
		"/apis/certificates.k8s.io/v1/certificatesigningrequests/x":         404,
		"/apis/apps/v1/deployments":                                         403,
		"/api/v1/namespaces/default/persistentvolumeclaims/none":            403,
	} {
		if w := s.do(n1, "GET", path, nil); w.Code != code {
			t.Errorf("n1 GET %s: %d, want %d: %s", path, w.Code, code, w.Body)
		}
	}
	s.refused(n2, "GET", "/api/v1/namespaces/default/secrets/used", nil, 403,
		`secrets "used" is forbidden: User "system:node:n2" cannot get resource "secrets" in API group "" in the namespace "default": no relationship found between node 'n2' and this object`)
}

func TestReviewsAnswerAsTheServerWould(t *testing.T) {
	s := startSecured(t)
	canI := func(as, verb, resource string) authorizationv1.SubjectAccessReviewStatus {
		return answer[authorizationv1.SelfSubjectAccessReview](t, s.do(as, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &authorizationv1.SelfSubjectAccessReview{
			TypeMeta: metav1.TypeMeta{APIVersion: "authorization.k8s.io/v1", Kind: "SelfSubjectAccessReview"},
			Spec:     authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: "default", Verb: verb, Resource: resource}}})).Status
	}
	if status := canI("alice/dev", "get", "secrets"); status.Allowed || status.Reason != "" {
		t.Errorf("alice: %+v", status)
	}
	if status := canI("admin/system:masters", "get", "secrets"); !status.Allowed {
		t.Errorf("admin: %+v", status)
	}
	if status := canI("system:kube-scheduler", "list", "nodes"); !status.Allowed ||
		status.Reason != `RBAC: allowed by ClusterRoleBinding "system:kube-scheduler" of ClusterRole "system:kube-scheduler" to User "system:kube-scheduler"` {
		t.Errorf("scheduler: %+v", status)
	}
	who := answer[authenticationv1.SelfSubjectReview](t, s.do("alice/dev", "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", &authenticationv1.SelfSubjectReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "SelfSubjectReview"}})).Status.UserInfo
	if who.Username != "alice" || fmt.Sprint(who.Groups) != "[dev system:authenticated]" {
		t.Errorf("whoami: %+v", who)
	}
	rules := answer[authorizationv1.SelfSubjectRulesReview](t, s.do("alice/dev", "POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &authorizationv1.SelfSubjectRulesReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "authorization.k8s.io/v1", Kind: "SelfSubjectRulesReview"}, Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}})).Status
	if rules.Incomplete || len(rules.ResourceRules) == 0 || len(rules.NonResourceRules) == 0 {
		t.Errorf("rules of every user: %+v", rules)
	}
	review := func(token string) authenticationv1.TokenReviewStatus {
		return answer[authenticationv1.TokenReview](t, s.do("admin/system:masters", "POST", "/apis/authentication.k8s.io/v1/tokenreviews", &authenticationv1.TokenReview{
			TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview"}, Spec: authenticationv1.TokenReviewSpec{Token: token}})).Status
	}
	if status := review("zzz"); status.Authenticated || status.Error != "invalid bearer token" {
		t.Errorf("a bad token: %+v", status)
	}
	s.must("POST", "/api/v1/namespaces/default/serviceaccounts", &corev1.ServiceAccount{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: metav1.ObjectMeta{Name: "robot"}})
	token := answer[authenticationv1.TokenRequest](t, s.do("admin/system:masters", "POST", "/api/v1/namespaces/default/serviceaccounts/robot/token", &authenticationv1.TokenRequest{
		TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest"}})).Status.Token
	if status := review(token); !status.Authenticated || status.User.Username != "system:serviceaccount:default:robot" || fmt.Sprint(status.Audiences) != "[https://kubernetes.default.svc.cluster.local]" {
		t.Errorf("a good token: %+v", status)
	}
	s.refused("", "GET", "/api/v1/namespaces/default/secrets", nil, 403,
		`secrets is forbidden: User "system:serviceaccount:default:robot" cannot list resource "secrets" in API group "" in the namespace "default"`, "Authorization", "Bearer "+token)
}

func TestAdministratorsActAsOthers(t *testing.T) {
	s := startSecured(t)
	w := s.do("admin/system:masters", "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", &authenticationv1.SelfSubjectReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "SelfSubjectReview"}},
		"Impersonate-User", "system:serviceaccount:default:robot", "Impersonate-Extra-Scopes", "all")
	who := answer[authenticationv1.SelfSubjectReview](t, w).Status.UserInfo
	if fmt.Sprintf("%s %v %v", who.Username, who.Groups, who.Extra) != "system:serviceaccount:default:robot [system:serviceaccounts system:serviceaccounts:default system:authenticated] map[scopes:[all]]" {
		t.Errorf("%+v", who)
	}
	s.refused("admin/system:masters", "GET", "/api/v1/nodes", nil, 403, `nodes is forbidden: User "bob" cannot list resource "nodes" in API group "" at the cluster scope`, "Impersonate-User", "bob")
}

func TestProbesAndOperators(t *testing.T) {
	s := startSecured(t)
	for _, path := range []string{"/healthz", "/livez", "/readyz", "/readyz/etcd", "/livez/poststarthook/rbac/bootstrap-roles"} {
		as := "" // a probe has no credentials, but only the three roots are for everybody
		if strings.Count(path, "/") > 1 {
			as = "admin/system:masters"
		}
		if w := s.do(as, "GET", path, nil); w.Code != 200 || w.Body.String() != "ok" {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	verbose := s.do("", "GET", "/readyz?verbose&exclude=etcd", nil).Body.String()
	for _, line := range []string{"[+]ping ok\n", "[+]etcd excluded: ok\n", "[+]poststarthook/rbac/bootstrap-roles ok\n", "[+]shutdown ok\n", "readyz check passed\n"} {
		if !strings.Contains(verbose, line) {
			t.Errorf("no %q in %s", line, verbose)
		}
	}
	version := answer[map[string]string](t, s.do("", "GET", "/version", nil))
	if version["major"] != "1" || version["minor"] != "36" || version["gitVersion"] != "v1.36.3+test" {
		t.Errorf("version: %v", version)
	}
	metrics := s.do("admin/system:masters", "GET", "/metrics", nil).Body.String()
	for _, name := range []string{`apiserver_request_total{code="200"`, "apiserver_request_duration_seconds_bucket", "etcd_request_duration_seconds_bucket", "go_goroutines"} {
		if !strings.Contains(metrics, name) {
			t.Errorf("no %s in the metrics", name)
		}
	}
	page := s.do("admin/system:masters", "GET", "/swagger-ui/", nil).Body.String()
	files := regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(page, -1)
	if len(files) < 4 {
		t.Errorf("the page asks for %v", files)
	}
	for _, f := range files {
		plain := s.do("admin/system:masters", "GET", "/swagger-ui/"+f[1], nil)
		packed := s.do("admin/system:masters", "GET", "/swagger-ui/"+f[1], nil, "Accept-Encoding", "gzip")
		if plain.Code != 200 || plain.Body.Len() < packed.Body.Len() || plain.Header().Get("Content-Type") == "" {
			t.Errorf("%s: %d, %d bytes, %d in a browser", f[1], plain.Code, plain.Body.Len(), packed.Body.Len())
		}
	}
	s.refused("alice/dev", "GET", "/swagger-ui/", nil, 403, `forbidden: User "alice" cannot get path "/swagger-ui/"`)
	index := answer[map[string][]string](t, s.do("admin/system:masters", "GET", "/", nil))
	if !strings.Contains(strings.Join(index["paths"], " "), "/apis/apps/v1 ") {
		t.Errorf("index: %v", index)
	}
}
